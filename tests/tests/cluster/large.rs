//! Long queues, many subscriptions and many retained messages, when nodes die and come.
//!
//! With `QUORATE_LONG_CLUSTER` set there are 100,000 of each; `QUORATE_BINARY` names an optimized broker for that.

use std::time::{Duration, Instant};

use quorate_tests::Version;
use quorate_tests::broker::{Broker, Config};
use quorate_tests::client::{Event, RawClient};
use quorate_tests::cluster::Cluster;
use quorate_tests::wire::{Packet, connect, filter, publish, subscribe};

use super::BINARY;

/// Publishes on the way at once.
const WINDOW: usize = 500;

/// How many of each there are.
fn count() -> usize {
    match std::env::var_os("QUORATE_LONG_CLUSTER") {
        Some(_) => 100_000,
        None => 4_000,
    }
}

fn roomy(config: Config) -> Config {
    config.toml("[session]\nqueue_messages_max = 200000\n[limits]\nreceive_maximum = 1000\n")
}

/// Publishes at QoS 1, many at a time; all are acknowledged when it returns.
async fn publish_all(node: &Broker, retain: bool, messages: impl Iterator<Item = (String, String)>) {
    let mut publisher = node
        .raw_client(Version::V5, &connect("bulk").resume().expiry(600))
        .await;
    let mut on_the_way = 0;
    for (number, (topic, text)) in messages.enumerate() {
        if on_the_way == WINDOW {
            publisher.expect_puback().await;
            on_the_way -= 1;
        }
        let id = u16::try_from(number % 60_000).expect("small") + 1;
        let packet = publish(&topic, &text).qos(1).id(id);
        publisher
            .send(&if retain { packet.retain() } else { packet })
            .await;
        on_the_way += 1;
    }
    for _ in 0..on_the_way {
        assert!(publisher.expect_puback().await.code < 0x80);
    }
}

/// A durable session whose queue is as long as that, on a node that is killed, is whole on another node.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_queue_of_a_node_that_dies_is_whole_on_another() {
    let mut cluster = Cluster::start_with(BINARY, 3, roomy);
    let mut subscriber = cluster.nodes[0].durable(Version::V5, "s").await;
    subscriber.subscribe("q", 1).await;
    // It stays, and reads nothing.
    let began = Instant::now();
    let texts = || (0..count()).map(|number| number.to_string());
    publish_all(
        &cluster.nodes[1],
        false,
        texts().map(|text| ("q".to_owned(), text)),
    )
    .await;
    println!("{} messages queued: {:?}", count(), began.elapsed());
    cluster.nodes[0].kill();
    let began = Instant::now();
    let mut subscriber = cluster.nodes[2].durable(Version::V5, "s").await;
    println!("taken over: {:?}", began.elapsed());
    // Of those that the first connection was sent some may come with DUP; none is missing and their order is kept.
    for text in texts() {
        assert_eq!(subscriber.receive().await.text(), text);
    }
    println!("received: {:?}", began.elapsed());
    subscriber.ping().await;
    assert_eq!(subscriber.waiting(), None);
}

/// Subscribes durable sessions to 100 filters each; all are acknowledged when it returns.
async fn subscribe_all(node: &Broker) {
    for session in 0..count() / 100 {
        let id = format!("many {session}");
        let mut client = node
            .raw_client(Version::V5, &connect(&id).resume().expiry(600))
            .await;
        let filters = (0..100).map(|number| filter(&format!("s/{session}/{number}")));
        client.send(&subscribe(1, filters)).await;
        assert!(client.expect_suback().await.codes.iter().all(|code| *code < 0x80));
    }
}

/// The retained messages that a new subscription gets, up to a message that is not.
async fn count_retained(node: &Broker, end: &str) -> usize {
    let mut client: RawClient = node.raw_client(Version::V5, &connect("counts")).await;
    client.send(&subscribe(1, [filter("r/#").qos(0)])).await;
    let mut count = 0;
    loop {
        let event = client
            .next_by((Instant::now() + Duration::from_secs(20)).into())
            .await;
        match event.unwrap_or_else(|| panic!("nothing came behind {count} retained messages")) {
            Event::Packet(Packet::Publish(message)) if message.text() == end => return count,
            Event::Packet(Packet::Publish(_)) => count += 1,
            Event::Packet(Packet::Suback(_)) => {}
            other => panic!("{other:?}"),
        }
        if count == self::count() {
            // The marker comes behind them: on the way from a publisher of its own.
            let mut publisher = node.clean(Version::V5, "marker").await;
            publisher.publish(publish("r/end", end)).await;
        }
    }
}

/// With as many subscriptions and retained messages a fourth node comes, catches up, and takes its share of the groups while
/// messages go on; then it routes and retains like the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_gets_many_subscriptions_and_retained_messages() {
    let mut cluster = Cluster::start_with(BINARY, 3, roomy);
    let began = Instant::now();
    subscribe_all(&cluster.nodes[0]).await;
    println!("{} subscriptions: {:?}", count(), began.elapsed());
    let began = Instant::now();
    let retained = (0..count()).map(|number| (format!("r/{number}"), number.to_string()));
    publish_all(&cluster.nodes[1], true, retained).await;
    println!("{} retained messages: {:?}", count(), began.elapsed());
    let mut traffic = cluster.nodes[1].durable(Version::V5, "traffic").await;
    let sent = tokio::spawn(async move {
        let mut sent: Vec<String> = Vec::new();
        let began = Instant::now();
        let mut longest = Duration::ZERO;
        while sent.len() < 200 || began.elapsed() < Duration::from_secs(10) {
            let before = Instant::now();
            let text = sent.len().to_string();
            traffic.publish(publish("s/7/7", &text).qos(1)).await;
            longest = longest.max(before.elapsed());
            sent.push(text);
        }
        (sent, longest)
    });
    let began = Instant::now();
    cluster.add_node_with(BINARY, roomy);
    cluster.nodes[3].wait_until_ready();
    println!("the fourth node serves: {:?}", began.elapsed());
    while cluster.node_view(0, "node-4")["votes"].as_u64() < Some(10) {
        assert!(began.elapsed() < Duration::from_secs(120), "it gets no share");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("it has its share: {:?}", began.elapsed());
    let (sent, longest) = sent.await.expect("it ends");
    println!("{} messages meanwhile, the longest wait {longest:?}", sent.len());
    assert!(longest < Duration::from_secs(5), "a publisher waited {longest:?}");
    let began = Instant::now();
    assert_eq!(count_retained(&cluster.nodes[0], "of the first").await, count());
    println!("all retained messages at the first node: {:?}", began.elapsed());
    let began = Instant::now();
    assert_eq!(count_retained(&cluster.nodes[3], "the end").await, count());
    println!("all retained messages at the fourth node: {:?}", began.elapsed());
    let mut publisher = cluster.nodes[3].clean(Version::V5, "p").await;
    publisher
        .publish(publish("s/7/7", "from the fourth").qos(1))
        .await;
    let mut subscriber = cluster.nodes[3].durable(Version::V5, "many 7").await;
    let mut received = subscriber.receive_texts(sent.len() + 1).await;
    // Messages of different publishers come in any order.
    let last = received.iter().position(|text| text == "from the fourth");
    received.remove(last.expect("it comes"));
    assert_eq!(received, sent);
}
