//! Replays of retained messages to new subscriptions [3.3.1.3, 3.8.4]: of many, to slow clients, and where their session or
//! their subscription ends in the middle.

use std::collections::BTreeSet;

use quorate_tests::Version;
use quorate_tests::broker::Config;
use quorate_tests::client::Client;
use quorate_tests::scope::Scope;
use quorate_tests::wire::{
    Encode, Packet, Property, connect, filter, puback, publish, subscribe, unsubscribe,
};

use super::{broker, start};

/// Sends retained messages without waiting for each.
async fn retain_many(client: &mut Client, topics: impl IntoIterator<Item = String>) {
    let mut bytes = Vec::new();
    for topic in topics {
        bytes.extend(publish(&topic, "v").retain().encode(client.raw.version()));
    }
    client.raw.send(bytes.as_slice()).await;
}

/// [MQTT-3.3.1-9]: also where the first match stands behind thousands of topics that do not match.
#[tokio::test]
async fn matches_far_behind_others_are_found() {
    let broker = start(Config::new());
    let mut publisher = broker.clean(Version::V5, "p").await;
    retain_many(
        &mut publisher,
        (0..8_000).map(|number| format!("s/a{number:05}/x")),
    )
    .await;
    publisher.publish(publish("s/z/y", "found").qos(1).retain()).await;
    let mut client = broker.clean(Version::V5, "a").await;
    client.subscribe("s/+/y", 1).await;
    client.expect("found").await;
    client.subscribe("s/+/nothing", 1).await;
    client.ping().await;
}

/// A durable session takes its retained messages piece by piece: more than its queue holds, and more than fits its
/// window.
#[tokio::test]
async fn retained_messages_beyond_the_queue_arrive() {
    const COUNT: usize = 1_000;
    let broker = start(Config::new().toml("[session]\nqueue_messages_max = 200\n"));
    let mut publisher = broker.clean(Version::V5, "p").await;
    retain_many(&mut publisher, (0..COUNT).map(|number| format!("r/{number}"))).await;
    publisher.publish(publish("r/last", "v").qos(1).retain()).await;
    let slow = connect("a")
        .resume()
        .expiry(600)
        .property(Property::ReceiveMaximum(8));
    let mut client = broker.client(Version::V5, &slow).await;
    // QoS 0 messages would not be queued.
    let mut at_qos_1 = broker.clean(Version::V5, "q").await;
    for number in 0..COUNT {
        at_qos_1
            .publish(publish(&format!("r/{number}"), "v1").qos(1).retain())
            .await;
    }
    client.subscribe("r/#", 1).await;
    let mut topics = BTreeSet::new();
    for _ in 0..=COUNT {
        topics.insert(client.receive().await.topic);
    }
    assert_eq!(topics.len(), COUNT + 1);
    assert_eq!(
        broker.metric("quorate_messages_dropped_total{reason=\"queue_full\"}"),
        0.0
    );
}

/// What a durable session was not sent yet of its retained messages when its client left, it is sent later.
#[tokio::test]
async fn retained_messages_are_kept_for_a_client_that_leaves() {
    const COUNT: usize = 500;
    let scope = Scope::new();
    let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
    let topics: Vec<String> = (0..COUNT)
        .map(|number| scope.topic(&format!("r/{number}")))
        .collect();
    for topic in &topics {
        publisher.publish(publish(topic, "v").qos(1).retain()).await;
    }
    let slow = connect(&scope.id("a"))
        .resume()
        .expiry(600)
        .property(Property::ReceiveMaximum(4));
    let mut client = broker().client(Version::V5, &slow).await;
    client.subscribe(&scope.topic("r/#"), 1).await;
    let mut seen = BTreeSet::new();
    for _ in 0..10 {
        seen.insert(client.receive().await.topic);
    }
    seen.extend(std::iter::from_fn(|| client.waiting()).map(|message| message.topic));
    client.disconnect().await;
    let mut client = broker().durable(Version::V5, &scope.id("a")).await;
    while seen.len() < COUNT {
        seen.insert(client.receive().await.topic);
    }
    for topic in &topics {
        publisher.publish(publish(topic, "").qos(1).retain()).await;
    }
}

/// [MQTT-3.10.4-2]: also of what is not queued nothing follows UNSUBACK.
#[tokio::test]
async fn r24_nothing_retained_is_sent_behind_unsuback() {
    // More than the sockets between the broker and a client that does not read take.
    const COUNT: usize = 400;
    const PAYLOAD: usize = 64 * 1024;
    let broker = start(Config::new());
    let mut publisher = broker.clean(Version::V5, "p").await;
    let payload = vec![b'v'; PAYLOAD];
    for number in 0..COUNT {
        publisher
            .publish(publish(&format!("r/{number}"), &payload).qos(1).retain())
            .await;
    }
    let mut raw = broker.raw_client(Version::V5, &connect("a")).await;
    raw.send(&subscribe(1, [filter("r/#")])).await;
    raw.send(&unsubscribe(2, ["r/#"])).await;
    let mut sent = 0;
    loop {
        match raw.receive().await {
            Packet::Publish(_) => sent += 1,
            Packet::Unsuback(_) => break,
            _ => {}
        }
    }
    assert!(sent < COUNT, "everything had been sent before");
    raw.expect_alive().await;
}

/// [MQTT-3.8.4-5]: of one SUBSCRIBE with a filter twice the last one counts, and what the first one asked for still comes.
#[tokio::test]
async fn r24_a_filter_that_is_renewed_within_one_subscribe_gets_what_is_retained() {
    let broker = start(Config::new());
    let mut publisher = broker.clean(Version::V5, "p").await;
    publisher.publish(publish("a", "value").qos(1).retain()).await;
    let mut raw = broker
        .raw_client(Version::V5, &connect("s").resume().expiry(600))
        .await;
    let twice = [filter("a").qos(1), filter("a").qos(0).retain_handling(2)];
    raw.send(&subscribe(1, twice)).await;
    assert_eq!(raw.expect_suback().await.codes, [1, 0]);
    let message = raw.expect_publish().await;
    assert_eq!(message.payload, b"value"[..]);
    assert_eq!((message.qos, message.retain), (0, true));
    raw.expect_alive().await;
}

/// [MQTT-3.8.4-3]: what is retained for many subscriptions is looked for without a commit of its own for each.
#[tokio::test]
async fn r24_subscriptions_that_find_nothing_wait_for_no_disk() {
    const COUNT: usize = 500;
    let broker = start(Config::new());
    let mut publisher = broker.clean(Version::V5, "p").await;
    publisher.publish(publish("last", "found").qos(1).retain()).await;
    let mut client = broker.durable(Version::V5, "a").await;
    let syncs = || broker.metric("quorate_log_sync_seconds_count");
    let before = syncs();
    let filters = (0..COUNT).map(|number| filter(&format!("nothing/{number}")).qos(1));
    client.subscribe_with(filters, []).await;
    client.subscribe("last", 1).await;
    client.expect("found").await;
    let needed = syncs() - before;
    assert!(needed < COUNT as f64 / 5.0, "{needed} syncs");
}

/// Of a replay that goes on nothing more is sent than what was on its way when its subscription was removed (R24).
#[tokio::test]
async fn r24_retained_messages_end_with_their_subscription() {
    const COUNT: usize = 250;
    let scope = Scope::new();
    let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
    let topics = || (0..COUNT).map(|number| scope.topic(&format!("r/{number}")));
    for topic in topics().chain([scope.topic("last")]) {
        publisher.publish(publish(&topic, "v").qos(1).retain()).await;
    }
    let slow = connect(&scope.id("a"))
        .expiry(600)
        .property(Property::ReceiveMaximum(4));
    let mut raw = broker().raw_client(Version::V5, &slow).await;
    raw.subscribe([filter(&scope.topic("r/#")).qos(1)]).await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.extend(raw.expect_publish().await.id);
    }
    raw.send(&unsubscribe(2, [scope.topic("r/#").as_str()])).await;
    raw.expect_unsuback().await;
    // In order behind what was to come.
    raw.send(&subscribe(3, [filter(&scope.topic("last")).qos(1)]))
        .await;
    raw.expect_suback().await;
    let mut sent = 0;
    for id in waiting {
        raw.send(&puback(id)).await;
    }
    loop {
        let message = raw.expect_publish().await;
        if message.topic == scope.topic("last") {
            break;
        }
        raw.send(&puback(message.id.expect("at QoS 1"))).await;
        sent += 1;
    }
    assert!(sent < COUNT / 2, "{sent} came behind UNSUBACK");
    for topic in topics().chain([scope.topic("last")]) {
        publisher.publish(publish(&topic, "").qos(1).retain()).await;
    }
}
