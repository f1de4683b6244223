//! Retained messages for new subscriptions of durable sessions, where the node that sends them ends in the middle (R24).

use std::collections::BTreeSet;

use quorate_tests::Version;
use quorate_tests::broker::Broker;
use quorate_tests::client::RawClient;
use quorate_tests::cluster::Cluster;
use quorate_tests::wire::{
    ConnectBuilder, Packet, Property, Publish, connect, disconnect, filter, puback, pubcomp, publish, pubrec,
    pubrel, subscribe,
};

use super::retained::{name_with, spread_leaders};
use super::{REPLICAS, nodes, three};

/// How many retained messages there are.
const KEPT: u16 = 2_000;
/// How many of them a subscriber takes before its node ends.
const TAKEN: usize = 300;
/// Messages that may come twice at QoS 1: those whose acknowledgements were lost.
const REPEATED_MAX: usize = 100;

/// CONNECT of a subscriber.
fn packet(name: &str) -> ConnectBuilder {
    connect(name).resume().expiry(600)
}

/// One that takes few at a time, so that its node is in the middle of its replay.
fn slow(name: &str) -> ConnectBuilder {
    packet(name).property(Property::ReceiveMaximum(8))
}

/// Retains the messages, and one more under `last`.
async fn retain_all(node: &Broker) {
    const AT_ONCE: u16 = 50;
    let mut client = node.raw_client(Version::V5, &connect("publisher")).await;
    for first in (0..KEPT).step_by(usize::from(AT_ONCE)) {
        for id in 1..=AT_ONCE {
            let topic = format!("kept/{}", first + id);
            client
                .send(&publish(&topic, "value").qos(2).id(id).retain())
                .await;
        }
        for _ in 0..AT_ONCE {
            client.expect_pubrec().await;
        }
        for id in 1..=AT_ONCE {
            client.send(&pubrel(id)).await;
            client.expect_pubcomp().await;
        }
    }
    client.send(&publish("last", "value").qos(2).id(1).retain()).await;
    client.expect_pubrec().await;
    client.send(&pubrel(1)).await;
    client.expect_pubcomp().await;
}

/// A subscriber, what it has, and at QoS 2 the packet identifiers that were not released.
struct Subscriber {
    name: String,
    qos: u8,
    topics: BTreeSet<String>,
    repeated: usize,
    held: BTreeSet<u16>,
}

impl Subscriber {
    fn new(name: String, qos: u8) -> Self {
        Self {
            name,
            qos,
            topics: BTreeSet::new(),
            repeated: 0,
            held: BTreeSet::new(),
        }
    }

    fn take(&mut self, message: Publish) {
        assert!(message.retain, "{}: {message:?}", self.name);
        assert_eq!(message.qos, self.qos, "{}: {message:?}", self.name);
        let is_new = self.topics.insert(message.topic.clone());
        assert!(is_new || self.qos == 1, "{}: twice: {message:?}", self.name);
        self.repeated += usize::from(!is_new);
        assert!(self.repeated <= REPEATED_MAX, "{}: begun again", self.name);
    }

    /// Takes the next packet and answers it.
    async fn step(&mut self, raw: &mut RawClient) {
        match raw.receive().await {
            Packet::Publish(message) => match (message.qos, message.id.expect("above QoS 0")) {
                (1, id) => {
                    self.take(message);
                    raw.send(&puback(id)).await;
                }
                (_, id) => {
                    // What it holds already is the same message.
                    if self.held.insert(id) {
                        self.take(message);
                    }
                    raw.send(&pubrec(id)).await;
                }
            },
            Packet::Pubrel(ack) => {
                self.held.remove(&ack.id);
                raw.send(&pubcomp(ack.id)).await;
            }
            Packet::Suback(suback) => assert_eq!(suback.codes, [self.qos]),
            other => panic!("{}: {other:?}", self.name),
        }
    }

    /// Subscribes and takes some.
    async fn begin(&mut self, node: &Broker) -> RawClient {
        let mut raw = node.raw_client(Version::V5, &slow(&self.name)).await;
        let suback = raw.subscribe([filter("kept/#").qos(self.qos)]).await;
        assert_eq!(suback.codes, [self.qos]);
        while self.topics.len() < TAKEN {
            self.step(&mut raw).await;
        }
        raw
    }

    /// Takes all the others, and no more: what is retained elsewhere comes behind them.
    async fn go_on(&mut self, node: &Broker) {
        let mut raw = node.raw(Version::V5).await;
        let connack = raw.connect(&packet(&self.name)).await;
        assert!(connack.session_present, "{}", self.name);
        while self.topics.len() < usize::from(KEPT) {
            self.step(&mut raw).await;
        }
        raw.send(&subscribe(1, [filter("last").qos(self.qos)])).await;
        while !self.topics.contains("last") {
            self.step(&mut raw).await;
        }
        assert_eq!(self.topics.len(), usize::from(KEPT) + 1, "{}", self.name);
        raw.send(&disconnect()).await;
        raw.drain_until_closed().await;
    }
}

/// Subscribers at each QoS, whose home groups are led by the first node, and by another one.
async fn subscribers(cluster: &Cluster) -> Vec<Subscriber> {
    let led = spread_leaders(cluster).await;
    let mut subscribers = Vec::new();
    for (kind, qos) in [("one", 1), ("two", 2)] {
        for is_first in [true, false] {
            let name = name_with(&led, kind, |_, leader| (leader == 0) == is_first);
            subscribers.push(Subscriber::new(name, qos));
        }
    }
    subscribers
}

/// The first node ends while they are in the middle.
async fn begin_and_kill(cluster: &mut Cluster, subscribers: &mut [Subscriber]) {
    retain_all(&cluster.nodes[1]).await;
    let mut connections = Vec::new();
    for subscriber in subscribers {
        connections.push(subscriber.begin(&cluster.nodes[0]).await);
    }
    cluster.nodes[0].kill();
}

/// R24: what a durable session is still to be sent for its new subscription comes at whichever node its client is next, at
/// QoS 2 once.
#[tokio::test(flavor = "multi_thread")]
async fn r24_retained_messages_for_a_new_subscription_go_on_at_another_node() {
    let mut cluster = three();
    let mut subscribers = subscribers(&cluster).await;
    begin_and_kill(&mut cluster, &mut subscribers).await;
    for (place, subscriber) in subscribers.iter_mut().enumerate() {
        subscriber.go_on(&cluster.nodes[1 + place % 2]).await;
    }
}

/// R24: as above where the node starts again, with the session's home group there or elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn r24_retained_messages_for_a_new_subscription_go_on_when_the_node_is_back() {
    for replicas in REPLICAS {
        let mut cluster = nodes(3, replicas);
        let mut subscribers = subscribers(&cluster).await;
        begin_and_kill(&mut cluster, &mut subscribers).await;
        cluster.restart(0);
        for subscriber in &mut subscribers {
            subscriber.go_on(&cluster.nodes[0]).await;
        }
    }
}
