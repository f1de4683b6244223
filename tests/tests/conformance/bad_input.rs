//! Clients that mean no good: everything is bounded, and the broker serves the others meanwhile.

use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

use quorate_tests::broker::{Broker, Config, Shared};
use quorate_tests::client::{Event, RawClient};
use quorate_tests::scope::Scope;
use quorate_tests::wire::{Encode, Packet, connect, filter, fixed, publish, pubrel, subscribe};
use quorate_tests::{Version, each_version};
use tokio::time::{Instant, sleep_until};

use super::start;

/// A broker with small limits.
fn small() -> Shared {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    const LIMITS: &str = "[limits]\nconnect_timeout_secs = 1\nsubscriptions_per_session_max = 3\n\
                          retained_messages_max = 2\n";
    Shared(BROKER.get_or_init(|| start(Config::new().toml(LIMITS))))
}

/// A broker that takes topics as long as the protocol has them.
fn large() -> Shared {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    const LIMITS: &str = "[limits]\ntopic_levels_max = 32_768\ntopic_bytes_max = 65_535\n";
    Shared(BROKER.get_or_init(|| start(Config::new().toml(LIMITS))))
}

/// Resident memory of the broker, in bytes.
fn resident(broker: &Broker) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", broker.pid())).expect("the broker runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("a line of the memory");
    line.trim()
        .trim_end_matches(" kB")
        .parse::<usize>()
        .expect("a number")
        * 1_024
}

/// A connection that never sends CONNECT is closed when the time for it has passed.
#[tokio::test]
async fn connection_without_connect_is_closed() {
    for bytes in [&[][..], &[0x10], &[0x10, 0x10, 0x00, 0x04, b'M']] {
        let mut raw = small().raw(Version::V5).await;
        let begun = Instant::now();
        raw.send(bytes).await;
        raw.expect_closed().await;
        assert!(
            (1_000..2_000).contains(&begun.elapsed().as_millis()),
            "{:?}",
            begun.elapsed()
        );
    }
}

/// Bytes that come one by one do not put that time off.
#[tokio::test]
async fn slow_connect_is_closed() {
    let bytes = connect("a slow client with a long name").encode(Version::V5);
    let mut raw = small().raw(Version::V5).await;
    let begun = Instant::now();
    for (index, byte) in bytes.into_iter().enumerate() {
        raw.send_if_open(&[byte]).await;
        let next = begun + Duration::from_millis(150) * u32::try_from(index + 1).expect("few bytes");
        if raw.next_by(next).await == Some(Event::Closed) {
            assert!(
                (1_000..2_000).contains(&begun.elapsed().as_millis()),
                "{:?}",
                begun.elapsed()
            );
            return;
        }
    }
    panic!("a CONNECT of {:?} was taken", begun.elapsed());
}

/// Section 3.1.2.10: only whole packets count for keep alive, so a packet cannot be sent for ever.
#[tokio::test]
async fn slow_packet_does_not_keep_a_connection_alive() {
    let scope = Scope::new();
    let mut raw = small()
        .raw_client(Version::V5, &connect(&scope.id("a")).keep_alive(1))
        .await;
    let begun = Instant::now();
    let bytes = publish(&scope.topic("x"), [0; 100]).encode(Version::V5);
    for (index, byte) in bytes.into_iter().enumerate() {
        raw.send_if_open(&[byte]).await;
        let next = begun + Duration::from_millis(200) * u32::try_from(index + 1).expect("few bytes");
        if raw.next_by(next).await.is_some() {
            assert!(
                (1_500..2_500).contains(&begun.elapsed().as_millis()),
                "{:?}",
                begun.elapsed()
            );
            return;
        }
    }
    panic!("kept alive for {:?}", begun.elapsed());
}

/// A packet announced at 256 MB is refused with its header, and costs nothing, over and over.
#[tokio::test]
async fn huge_announcements_cost_nothing() {
    let before = resident(&small());
    for first_byte in [0x30, 0x82, 0x10].repeat(30) {
        let mut raw = small().raw(Version::V5).await;
        if first_byte != 0x10 {
            raw.connect(&connect(&Scope::new().id("a"))).await;
        }
        raw.send(&[first_byte, 0xFF, 0xFF, 0xFF, 0x7F]).await;
        if first_byte == 0x10 {
            raw.drain_until_closed().await;
        } else {
            raw.expect_disconnect(0x95).await;
        }
    }
    let grown = resident(&small()).saturating_sub(before);
    assert!(grown < 16 << 20, "the broker grew by {grown} bytes");
}

/// Packets that are begun and left, at the largest size that is allowed: what has arrived is held, not what was
/// announced.
#[tokio::test]
async fn unfinished_packets_hold_only_what_arrived() {
    let scope = Scope::new();
    let before = resident(&small());
    let mut clients = Vec::new();
    for index in 0..100 {
        let mut raw = small()
            .raw_client(Version::V5, &connect(&scope.id(&index.to_string())))
            .await;
        raw.send(&[0x30, 0xFC, 0xFF, 0x3F, 0x00, 0x01, b'a']).await;
        clients.push(raw);
    }
    let mut other = small()
        .raw_client(Version::V5, &connect(&scope.id("other")))
        .await;
    other.expect_alive().await;
    let grown = resident(&small()).saturating_sub(before);
    assert!(
        grown < 32 << 20,
        "the broker grew by {grown} bytes for 100 times 1 MiB announced"
    );
}

/// 65,535 slashes, in names, filters and shares: refused by default, and no trouble where such are allowed.
#[tokio::test]
async fn longest_topics_are_handled() {
    let slashes = "/".repeat(65_535);
    let mut client = small().clean(Version::V5, &Scope::new().id("a")).await;
    assert_eq!(client.subscribe_with([filter(&slashes)], []).await.codes, [0x8F]);
    assert_eq!(client.publish(publish(&slashes, "m").qos(1)).await, 0x90);
    let deep = "/".repeat(32_767);
    let long = "x".repeat(65_535);
    let wild = format!("{}#", "+/".repeat(32_767));
    let mut client = large().clean(Version::V5, &Scope::new().id("a")).await;
    assert_eq!(
        client.subscribe_with([filter(&slashes)], []).await.codes,
        [0x8F],
        "more than 32,768 levels"
    );
    let suback = client
        .subscribe_with([&deep, &long, &wild].map(|name| filter(name).qos(1)), [])
        .await;
    assert_eq!(suback.codes, [1; 3]);
    for topic in [&deep, &long] {
        client.publish(publish(topic, "m").qos(1).retain()).await;
        let message = client.expect("m").await;
        assert!(message.topic == *topic);
    }
    assert_eq!(client.unsubscribe(&deep).await.codes, [0]);
    client.raw.send(&publish(&slashes, "m")).await;
    client.raw.expect_disconnect(0x90).await;
}

/// Bytes without sense, before and after CONNECT: every connection ends, and the broker goes on.
async fn noise_ends_its_connection_alone(version: Version) {
    let scope = Scope::new();
    let mut bystander = large()
        .raw_client(version, &connect(&scope.id("bystander")))
        .await;
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    for round in 0..150 {
        let mut noise = vec![0; 400];
        for byte in &mut noise {
            // xorshift, so that a failure can be repeated.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = (state >> 32) as u8;
        }
        let mut raw = large().raw(version).await;
        if round % 2 == 0 {
            raw.connect(&connect(&scope.id(&format!("noise-{round}")))).await;
        }
        raw.send_if_open(&noise).await;
        // A packet whose end would never come: what the noise began is not waited for.
        raw.send_if_open(&fixed(0x00, &[])).await;
        drop(raw);
        bystander.expect_alive().await;
    }
}
each_version!(noise_ends_its_connection_alone);

/// Subscriptions of a session are limited; the limit counts filters, not packets, and replacing one is none more.
#[tokio::test]
async fn subscriptions_of_a_session_are_limited() {
    let scope = Scope::new();
    let mut client = small().clean(Version::V5, &scope.id("a")).await;
    let names: Vec<String> = (0..4).map(|index| scope.topic(&index.to_string())).collect();
    let suback = client
        .subscribe_with(names.iter().map(|name| filter(name).qos(1)), [])
        .await;
    assert_eq!(suback.codes, [1, 1, 1, 0x97]);
    client.subscribe(&names[0], 2).await;
    client.unsubscribe(&names[0]).await;
    client.subscribe(&names[3], 1).await;
}

/// [MQTT-4.8.0-2 of 3.1.1] and section 3.4.2.1: a publish that cannot be kept is refused with 0x97, and where the
/// version has no word for it, the connection ends instead of an acknowledgement.
#[tokio::test]
async fn full_store_ends_the_connection_before_mqtt_5() {
    // A broker of its own: what is retained counts for all of its clients.
    let broker = start(Config::new().toml("[limits]\nretained_messages_max = 2\n"));
    let mut client = broker.clean(Version::V5, "a").await;
    let retain = |topic: &str| publish(topic, "m").qos(1).retain();
    for topic in ["1", "2", "1"] {
        assert!(client.publish(retain(topic)).await < 0x80);
    }
    assert_eq!(client.publish(retain("3")).await, 0x97);
    assert!(client.publish(publish("2", "").qos(1).retain()).await < 0x80);
    assert!(client.publish(retain("3")).await < 0x80);
    let mut old = broker.raw_client(Version::V3_1_1, &connect("b")).await;
    old.send(&retain("4").id(1)).await;
    old.expect_closed().await;
}

/// A full queue refuses (0x97) where nobody else gets the message, and the publisher goes on with the same packet
/// identifier; where somebody does, the exchange goes its way and a repeat is not delivered again.
#[tokio::test]
async fn full_queue_refuses_unless_somebody_else_gets_the_message() {
    let broker = start(Config::new().toml("[session]\nqueue_messages_max = 1\n"));
    let mut absent = broker.durable(Version::V5, "absent").await;
    absent.subscribe("x", 2).await;
    absent.disconnect().await;
    for qos in [1, 2] {
        let publisher = connect("publisher").resume().expiry(600);
        let mut publisher = broker.raw_client(Version::V5, &publisher).await;
        let message = |text: &str| publish("x", text).qos(qos).id(9);
        if qos == 1 {
            publisher.send(&message("fills the queue")).await;
            assert_eq!(publisher.expect_puback().await.code, 0);
            publisher.send(&message("refused")).await;
            assert_eq!(publisher.expect_puback().await.code, 0x97);
        } else {
            for _ in 0..2 {
                publisher.send(&message("refused")).await;
                assert_eq!(publisher.expect_pubrec().await.code, 0x97);
            }
        }
    }
    let mut live = broker.clean(Version::V5, "live").await;
    live.subscribe("x", 2).await;
    let packet = publish("x", "for the live one").qos(2).id(9);
    let resume = connect("publisher").resume().expiry(600);
    for again in [false, true] {
        let mut publisher = broker.raw_client(Version::V5, &resume).await;
        publisher
            .send(&if again {
                packet.clone().dup()
            } else {
                packet.clone()
            })
            .await;
        assert_eq!(publisher.expect_pubrec().await.code, 0);
    }
    live.publish(publish("x", "last").qos(0)).await;
    assert_eq!(live.receive_texts(2).await, ["for the live one", "last"]);
}

/// Connections are limited: one more is closed, and a place that is left is taken again.
#[tokio::test]
async fn connections_are_limited() {
    let broker = start(Config::new().toml("[limits]\nconnections_max = 2\n"));
    let first = broker.clean(Version::V5, "a").await;
    let _second = broker.clean(Version::V5, "b").await;
    let mut third = broker.raw(Version::V5).await;
    third.send_if_open(&connect("c")).await;
    let packets = third.drain_until_closed().await;
    assert!(
        packets
            .iter()
            .all(|packet| matches!(packet, quorate_tests::wire::Packet::Connack(it) if it.code >= 0x80))
    );
    first.disconnect().await;
    let deadline = Instant::now() + quorate_tests::client::DEADLINE;
    // The place is free a moment after the end was seen here.
    loop {
        let mut raw = RawClient::tcp(broker.mqtt(), Version::V5).await;
        raw.send_if_open(&connect("c")).await;
        if let Event::Packet(quorate_tests::wire::Packet::Connack(connack)) = raw.next().await
            && connack.code == 0
        {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "the place of the first client is never free"
        );
        sleep_until(Instant::now() + Duration::from_millis(20)).await;
    }
}

/// Sessions are limited, connected or not: one more is refused with 0x97, and 3.1.1 is told "unavailable".
#[tokio::test]
async fn sessions_are_limited() {
    let broker = start(Config::new().toml("[limits]\nsessions_max = 2\n"));
    for id in ["a", "b"] {
        broker.durable(Version::V5, id).await.disconnect().await;
    }
    let mut raw = broker.raw(Version::V5).await;
    raw.send(&connect("c")).await;
    raw.expect_refused(Some(0x97)).await;
    let mut raw = broker.raw(Version::V3_1_1).await;
    raw.send(&connect("c")).await;
    raw.expect_refused(Some(3)).await;
    let again = broker.durable(Version::V5, "a").await;
    assert!(again.connack.session_present);
}

/// Many filters in one packet, each of them answered or the packet refused; never a crash.
#[tokio::test]
async fn packet_full_of_filters_is_handled() {
    let mut raw = large()
        .raw_client(Version::V5, &connect(&Scope::new().id("a")))
        .await;
    let packet = subscribe(1, vec![filter("a").qos(0); 150_000]);
    raw.send(&packet).await;
    raw.expect_disconnect(0x97).await;
}

/// A QoS 2 publish that is refused because no more retained messages fit leaves its identifier free, also where that
/// is found out after it was recorded (two topics of one group, sent at once).
#[tokio::test]
async fn refused_retained_message_at_qos_2_frees_its_identifier() {
    let broker = start(Config::new().toml("[limits]\nretained_messages_max = 1\n"));
    let mut watcher = broker.clean(Version::V5, "w").await;
    watcher.subscribe("live/#", 2).await;
    let mut cleaner = broker.clean(Version::V5, "c").await;
    let mut raw = broker
        .raw_client(Version::V5, &connect("a").resume().expiry(600))
        .await;
    let mut refused = 0;
    for number in 0..100 {
        let topics = ["r/0".to_owned(), format!("r/{}", number + 1)];
        let mut bytes = Vec::new();
        for (id, topic) in (1..).zip(&topics) {
            bytes.extend(publish(topic, "v").qos(2).retain().id(id).encode(Version::V5));
        }
        raw.send(bytes.as_slice()).await;
        for _ in &topics {
            let pubrec = raw.expect_pubrec().await;
            if pubrec.code >= 0x80 {
                refused += 1;
                let text = format!("{number}");
                raw.send(&publish(&format!("live/{number}"), &text).qos(2).id(pubrec.id))
                    .await;
                watcher.expect(text).await;
            }
        }
        // The answers to what was sent in their place come behind.
        raw.send(&pubrel(1)).await;
        raw.send(&pubrel(2)).await;
        let mut pubcomps = 0;
        while pubcomps < 2 {
            match raw.receive().await {
                Packet::Pubcomp(_) => pubcomps += 1,
                Packet::Pubrec(pubrec) => assert!(pubrec.code < 0x80, "{pubrec:?}"),
                other => panic!("{other:?}"),
            }
        }
        for topic in &topics {
            cleaner.publish(publish(topic, "").qos(1).retain()).await;
        }
    }
    assert!(refused > 0, "no two topics share a group");
}
