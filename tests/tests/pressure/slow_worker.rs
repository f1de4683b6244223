//! A worker that gets more from the others than it can deliver.

use quorate_tests::Version;
use quorate_tests::broker::{Broker, Config};
use quorate_tests::client::{Event, RawClient};
use quorate_tests::wire::{Packet, connect, filter, publish};
use tokio::time::{Duration, Instant};

use super::{HELD_BACK, in_time};

const MIB: f64 = 1024.0 * 1024.0;

/// Few publishers with large messages to many subscribers: what is under way between the workers stays bounded, the
/// publishers are slowed down, and everybody gets what comes last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_are_slowed_down_to_what_other_workers_deliver() {
    const SUBSCRIBERS: usize = 60;
    const PUBLISHERS: usize = 4;
    const MESSAGES: usize = 300;
    let config = Config::new()
        .node("workers = 2")
        .argument("--log-level")
        .argument("info");
    let broker = Broker::start(env!("CARGO_BIN_EXE_quorate-under-test"), config);
    // Workers get connections in turn: all subscribers are at the first, all publishers at the second.
    let mut others = Vec::new();
    let mut subscribers = Vec::new();
    for number in 0..SUBSCRIBERS {
        let id = format!("subscriber-{number}");
        let mut subscriber = broker.raw_client(Version::V5, &connect(&id)).await;
        others.push(broker.raw(Version::V5).await);
        subscriber.subscribe([filter("data"), filter("end").qos(1)]).await;
        subscribers.push(tokio::spawn(receive_until_end(subscriber)));
    }
    let mut publishers = Vec::new();
    for number in 0..PUBLISHERS {
        others.push(broker.raw(Version::V5).await);
        let id = format!("publisher-{number}");
        let publisher = broker.raw_client(Version::V5, &connect(&id)).await;
        publishers.push(tokio::spawn(publish_all(publisher, MESSAGES)));
    }
    let mut highest = 0.0f64;
    while publishers.iter().any(|publisher| !publisher.is_finished()) {
        highest = highest.max(broker.metric("quorate_delivery_backlog_bytes"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for publisher in publishers {
        publisher.await.expect("publishers are not closed");
    }
    let held_back = broker.metric(HELD_BACK);
    assert!(
        held_back > 0.0,
        "the load was too small: at most {highest} bytes waited"
    );
    // The bound and what was under way when it was reached.
    assert!(highest < 20.0 * MIB, "{highest} bytes waited between workers");
    let mut end = broker.clean(Version::V5, "end").await;
    end.publish(publish("end", "").qos(1)).await;
    for subscriber in subscribers {
        in_time("the last message", subscriber)
            .await
            .expect("every subscriber gets the last message");
    }
}

async fn publish_all(mut publisher: RawClient, messages: usize) {
    let payload = vec![b'x'; 128 * 1024];
    for _ in 0..messages {
        publisher.send(&publish("data", &payload)).await;
    }
    publisher.expect_alive().await;
}

async fn receive_until_end(mut subscriber: RawClient) {
    loop {
        match subscriber.next_by(Instant::now() + Duration::from_secs(60)).await {
            Some(Event::Packet(Packet::Publish(message))) if message.topic == "end" => return,
            Some(Event::Packet(_)) => {}
            other => panic!("{other:?} before the last message"),
        }
    }
}
