//! Keep alive [3.1.2.10, 3.12, 3.13].

use std::time::Duration;

use quorate_tests::client::{Event, RawClient};
use quorate_tests::scope::Scope;
use quorate_tests::wire::{Packet, connect, publish};
use quorate_tests::{Version, each_version};
use tokio::time::{Instant, sleep_until};

use super::broker;

/// Waits for the end of a silent connection, which must come one and a half times the keep alive after its last
/// packet, and not much later.
async fn expect_end_of_silence(raw: &mut RawClient, last_packet: Instant, keep_alive_secs: u16) {
    let due = Duration::from_millis(u64::from(keep_alive_secs) * 1_500);
    raw.expect_disconnect(0x8D).await;
    let silent = last_packet.elapsed();
    assert!(
        silent >= due && silent < due + Duration::from_millis(1_000),
        "closed after {silent:?}, due {due:?}"
    );
}

/// [MQTT-3.1.2-22]; 3.1.1 [MQTT-3.1.2-24]: at one and a half times, also for small values.
async fn silent_connection_is_closed(version: Version) {
    let ends = [1, 2].map(|keep_alive_secs| async move {
        let packet = connect(&Scope::new().id("a")).keep_alive(keep_alive_secs);
        let mut raw = broker().raw_client(version, &packet).await;
        expect_end_of_silence(&mut raw, Instant::now(), keep_alive_secs).await;
    });
    futures_util::future::join_all(ends).await;
}
each_version!(silent_connection_is_closed);

/// [MQTT-3.1.2-22]: any packet counts, and what the server sends does not.
async fn every_packet_of_the_client_starts_the_time_anew(version: Version) {
    let scope = Scope::new();
    let mut raw = broker()
        .raw_client(version, &connect(&scope.id("a")).keep_alive(1))
        .await;
    let mut last_packet = Instant::now();
    for _ in 0..3 {
        sleep_until(last_packet + Duration::from_millis(1_000)).await;
        last_packet = Instant::now();
        raw.send(&publish(&scope.topic("x"), "here")).await;
    }
    expect_end_of_silence(&mut raw, last_packet, 1).await;
}
each_version!(every_packet_of_the_client_starts_the_time_anew);

/// [MQTT-3.1.2-22]: a client that only receives is silent.
async fn receiving_does_not_keep_a_connection_alive(version: Version) {
    let scope = Scope::new();
    let mut raw = broker()
        .raw_client(version, &connect(&scope.id("a")).keep_alive(1))
        .await;
    let filters = [quorate_tests::wire::filter(&scope.topic("x")).qos(0)];
    raw.subscribe(filters).await;
    let last_packet = Instant::now();
    let mut publisher = broker().clean(version, &scope.id("p")).await;
    let mut next = last_packet;
    let closed = loop {
        publisher.publish(publish(&scope.topic("x"), "hello")).await;
        next += Duration::from_millis(200);
        match raw.next_by(next).await {
            Some(Event::Closed) => break last_packet.elapsed(),
            _ if last_packet.elapsed() > Duration::from_secs(10) => panic!("kept alive by what it received"),
            _ => {}
        }
    };
    assert!(
        closed >= Duration::from_millis(1_500) && closed < Duration::from_millis(2_500),
        "closed after {closed:?}"
    );
}
each_version!(receiving_does_not_keep_a_connection_alive);

/// Section 3.1.2.10: 0 turns it off.
async fn keep_alive_0_never_ends(version: Version) {
    let mut raw = broker()
        .raw_client(version, &connect(&Scope::new().id("a")))
        .await;
    // No event ends this wait; it is longer than the end of the smallest keep alive.
    assert_eq!(
        raw.next_by(Instant::now() + Duration::from_millis(2_500)).await,
        None
    );
    raw.expect_alive().await;
}
each_version!(keep_alive_0_never_ends);

/// [MQTT-3.12.4-1]
async fn pingreq_is_answered(version: Version) {
    let mut raw = broker()
        .raw_client(version, &connect(&Scope::new().id("a")))
        .await;
    for _ in 0..3 {
        raw.expect_alive().await;
    }
    raw.send(&[0xC0, 0x00].repeat(10)).await;
    for _ in 0..10 {
        assert_eq!(raw.receive().await, quorate_tests::wire::Packet::Pingresp);
    }
}
each_version!(pingreq_is_answered);

/// A client that reads slower than its topics fill is not read from meanwhile; that is not its silence.
#[tokio::test]
async fn slow_reader_is_not_silent() {
    let scope = Scope::new();
    let mut raw = broker()
        .raw_client(Version::V5, &connect(&scope.id("a")).keep_alive(1))
        .await;
    raw.subscribe([quorate_tests::wire::filter(&scope.topic("x")).qos(0)])
        .await;
    let flood = tokio::spawn(async move {
        let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
        loop {
            let message = publish(&scope.topic("x"), "x".repeat(32 * 1024));
            publisher.raw.send(&message).await;
            publisher.ping().await;
        }
    });
    for step in 0..80 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if step % 10 == 0 {
            raw.send(&[0xC0, 0x00]).await;
        }
        assert!(matches!(
            raw.receive().await,
            Packet::Publish(_) | Packet::Pingresp
        ));
    }
    flood.abort();
    while raw.receive().await != Packet::Pingresp {}
}
