//! Wills: once to everybody, from any node to any node, also where the node of their clients dies.

use std::collections::BTreeMap;

use quorate_tests::Version;
use quorate_tests::client::Client;
use quorate_tests::wire::{ConnectBuilder, Will, connect};

use super::{REPLICAS, nodes};

/// A client that has a session that stays, or not.
fn with_session(client_id: &str, stays: bool) -> ConnectBuilder {
    match stays {
        true => connect(client_id).resume().expiry(600),
        false => connect(client_id),
    }
}

/// The messages of a subscriber by topic, up to the last of so many with this text.
async fn up_to_the_last(subscriber: &mut Client, text: &str, count: usize) -> BTreeMap<String, Vec<String>> {
    let mut received: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut seen = 0;
    while seen < count {
        let message = subscriber.receive().await;
        seen += usize::from(message.text() == text);
        let of_topic = received.entry(message.topic.clone()).or_default();
        of_topic.push(message.text().to_owned());
    }
    received
}

/// R31: a will comes once to everybody, wherever its client was and whoever gets it.
#[tokio::test(flavor = "multi_thread")]
async fn r31_wills_reach_subscribers_of_all_nodes_once() {
    for replicas in REPLICAS {
        let cluster = nodes(3, replicas);
        let mut live = cluster.nodes[0].clean(Version::V5, "live").await;
        live.subscribe("will/#", 1).await;
        let mut durable = cluster.nodes[1].durable(Version::V5, "durable").await;
        durable.subscribe("will/#", 1).await;
        // The second one of a client comes behind whatever else there is of its first.
        for text in ["gone", "gone again"] {
            for number in 0..6 {
                let node = &cluster.nodes[number % 3];
                let topic = format!("will/{number}");
                let will = Will::new(&topic, text).qos(1);
                let packet = with_session(&format!("dying{number}"), number % 2 == 1).will(will);
                let dying = node.client(Version::V5, &packet).await;
                drop(dying);
                for subscriber in [&mut live, &mut durable] {
                    let message = subscriber.receive().await;
                    assert_eq!((&message.topic[..], message.text()), (&topic[..], text));
                }
            }
        }
    }
}

/// R31: the node of clients with wills dies: whoever subscribed at the others gets each will once, with or without a delay,
/// whether the client's session ends with its connection or not.
#[tokio::test(flavor = "multi_thread")]
async fn r31_wills_come_once_where_the_node_of_their_clients_dies() {
    const CLIENTS: usize = 8;
    let mut cluster = nodes(3, 3);
    for victim in 0..3 {
        let [here, there] = [(victim + 1) % 3, (victim + 2) % 3];
        let filter = format!("will/{victim}/#");
        let topic = |number: usize| format!("will/{victim}/{number}");
        let mut subscribers = Vec::new();
        for (node, name) in [(here, "live"), (there, "live"), (there, "durable")] {
            let packet = with_session(&format!("{name}{victim}{node}"), name == "durable");
            let mut subscriber = cluster.nodes[node].client(Version::V5, &packet).await;
            subscriber.subscribe(&filter, 2).await;
            subscribers.push(subscriber);
        }
        let packet = |number: usize| with_session(&format!("dying{victim}{number}"), number % 2 == 1);
        let mut dying = Vec::new();
        for number in 0..CLIENTS {
            let delay_secs = u32::from(number % 4 >= 2);
            let will = Will::new(&topic(number), "gone").qos(1 + (number / 4) as u8);
            let packet = packet(number).will(will.delay(delay_secs));
            dying.push(cluster.nodes[victim].client(Version::V5, &packet).await);
        }
        cluster.nodes[victim].kill();
        drop(dying);
        for subscriber in &mut subscribers {
            let received = up_to_the_last(subscriber, "gone", CLIENTS).await;
            assert_eq!(received.len(), CLIENTS, "{received:?}");
        }
        // What comes of the same clients behind it says that nothing of it comes twice.
        for number in 0..CLIENTS {
            let will = Will::new(&topic(number), "gone again").qos(1 + (number / 4) as u8);
            drop(
                cluster.nodes[here]
                    .client(Version::V5, &packet(number).will(will))
                    .await,
            );
        }
        for subscriber in &mut subscribers {
            let received = up_to_the_last(subscriber, "gone again", CLIENTS).await;
            assert!(
                received.values().all(|texts| texts[..] == ["gone again"]),
                "{received:?}"
            );
        }
        for subscriber in subscribers {
            subscriber.disconnect().await;
        }
        cluster.restart(victim);
    }
}

/// R31: all nodes stop at once. The will of a session that stays comes when they are back, once; that of one that ends with
/// its connection may come, and not twice.
#[tokio::test(flavor = "multi_thread")]
async fn r31_wills_come_once_after_a_stop_of_all_nodes() {
    let mut cluster = nodes(3, 3);
    let mut subscriber = cluster.nodes[0].durable(Version::V5, "subscriber").await;
    subscriber.subscribe("will/#", 1).await;
    let packet = |stays: bool, text: &str| {
        let (client_id, topic) = (format!("dying-{stays}"), format!("will/{stays}"));
        with_session(&client_id, stays).will(Will::new(&topic, text).qos(1))
    };
    let mut dying = Vec::new();
    for stays in [false, true] {
        dying.push(cluster.nodes[1].client(Version::V5, &packet(stays, "gone")).await);
    }
    for node in &mut cluster.nodes {
        node.kill();
    }
    drop((dying, subscriber));
    for node in &mut cluster.nodes {
        node.begin_restart();
    }
    for node in &mut cluster.nodes {
        node.wait_until_listening();
        node.wait_until_ready();
    }
    let mut subscriber = cluster.nodes[2].durable(Version::V5, "subscriber").await;
    let mut received: BTreeMap<String, Vec<String>> = BTreeMap::new();
    while !received.contains_key("will/true") {
        let message = subscriber.receive().await;
        let of_topic = received.entry(message.topic.clone()).or_default();
        of_topic.push(message.text().to_owned());
    }
    // What comes of the same clients behind it says that nothing of it comes twice.
    for stays in [false, true] {
        drop(
            cluster.nodes[0]
                .client(Version::V5, &packet(stays, "gone again"))
                .await,
        );
    }
    for (topic, texts) in up_to_the_last(&mut subscriber, "gone again", 2).await {
        received.entry(topic).or_default().extend(texts);
    }
    assert_eq!(received["will/true"], ["gone", "gone again"]);
    let of_other = &received["will/false"];
    assert!(
        *of_other == ["gone again"] || *of_other == ["gone", "gone again"],
        "{of_other:?}"
    );
}
