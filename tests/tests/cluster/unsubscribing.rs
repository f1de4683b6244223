//! What UNSUBACK means at the other nodes.

use quorate_tests::Version;
use quorate_tests::client::Client;
use quorate_tests::wire::{connect, publish};

use super::retained::{name_with, spread_leaders};
use super::{REPLICAS, nodes};

/// Times that each subscriber comes and goes.
const ROUNDS: usize = 8;

/// Subscribes, gets what is published, unsubscribes, and gets nothing of what is published behind UNSUBACK.
async fn comes_and_goes(subscriber: &mut Client, publisher: &mut Client, name: &str) {
    let marked = format!("marked/{name}");
    let topic = format!("left/{name}");
    subscriber.subscribe(&marked, 2).await;
    for round in 0..ROUNDS {
        subscriber.subscribe(&topic, 2).await;
        publisher.publish(publish(&topic, "before").qos(1)).await;
        subscriber.expect("before").await;
        subscriber.unsubscribe(&topic).await;
        for qos in 0..3 {
            publisher.publish(publish(&topic, "behind").qos(qos)).await;
        }
        // In order behind them, on each of their ways.
        for qos in 0..3 {
            publisher.publish(publish(&marked, "marked").qos(qos)).await;
        }
        let mut got = Vec::new();
        for _ in 0..3 {
            let message = subscriber.receive().await;
            assert_eq!(message.topic, marked, "{name}, round {round}: behind UNSUBACK");
            got.push((message.qos, message.dup, message.id));
        }
        got.sort_unstable();
        let qos: Vec<u8> = got.iter().map(|(qos, ..)| *qos).collect();
        assert_eq!(qos, [0, 1, 2], "{name}, round {round}: {got:?}");
    }
}

/// R1: nothing that is published at another node behind UNSUBACK arrives. Publisher, subscriber and the leader of the
/// subscriber's group are at three nodes; the session stays or ends with its connection, and so does the publisher's.
#[tokio::test(flavor = "multi_thread")]
async fn r1_nothing_published_at_another_node_after_unsuback_arrives() {
    for replicas in REPLICAS {
        let cluster = nodes(3, replicas);
        let led = spread_leaders(&cluster).await;
        for leader in 0..3 {
            for [here, there] in [[1, 2], [2, 1]].map(|ways| ways.map(|way| (leader + way) % 3)) {
                // Each its own: what the last one had not acknowledged at its end would come again.
                let subscriber = name_with(&led, &format!("client{leader}{here}"), |_, at| at == leader);
                let publisher = name_with(&led, &format!("publisher{leader}{here}"), |_, at| at == there);
                let durable = |id: &str| connect(id).resume().expiry(600);
                let name = format!("durable/{leader}{here}");
                let mut subscriber = cluster.nodes[here]
                    .client(Version::V5, &durable(&subscriber))
                    .await;
                let mut publisher = cluster.nodes[there]
                    .client(Version::V5, &durable(&publisher))
                    .await;
                comes_and_goes(&mut subscriber, &mut publisher, &name).await;
                subscriber.disconnect().await;
                publisher.disconnect().await;
            }
        }
        // There is one group of sessions that end with their connections.
        let leader = led["live-0"];
        for [here, there] in [[1, 2], [2, 1]].map(|ways| ways.map(|way| (leader + way) % 3)) {
            let name = format!("live/{here}");
            let mut subscriber = cluster.nodes[here].clean(Version::V5, &name).await;
            let mut publisher = cluster.nodes[there].clean(Version::V5, "publisher").await;
            comes_and_goes(&mut subscriber, &mut publisher, &name).await;
            subscriber.disconnect().await;
            publisher.disconnect().await;
        }
    }
}
