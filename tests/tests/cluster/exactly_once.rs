//! QoS 2 through the death of the node that took the messages.

use std::collections::BTreeSet;

use quorate_tests::Version;
use quorate_tests::client::RawClient;
use quorate_tests::wire::{Packet, connect, publish, pubrel};

use super::retained::{name_with, spread_leaders};
use super::{REPLICAS, nodes};

const MESSAGES: u16 = 60;

/// A publisher of QoS 2 that does with its messages what a client has to do.
struct Publisher {
    client_id: String,
    topic: String,
    raw: RawClient,
    received: BTreeSet<u16>,
}

impl Publisher {
    fn message(&self, id: u16) -> quorate_tests::wire::PublishBuilder {
        publish(&self.topic, id.to_string()).qos(2).id(id)
    }

    async fn send_all(&mut self) {
        for id in 1..=MESSAGES {
            self.raw.send(&self.message(id)).await;
        }
    }

    /// The node that it was connected to is gone: notes what came before, and sends the others again.
    async fn go_on(&mut self, raw: RawClient) {
        let mut gone = std::mem::replace(&mut self.raw, raw);
        for packet in gone.drain_until_closed().await {
            if let Packet::Pubrec(pubrec) = packet {
                self.received.insert(pubrec.id);
            }
        }
        for id in (1..=MESSAGES).filter(|id| !self.received.contains(id)) {
            self.raw.send(&self.message(id).dup()).await;
        }
        while self.received.len() < usize::from(MESSAGES) {
            let pubrec = self.raw.expect_pubrec().await;
            assert_eq!(pubrec.code, 0);
            self.received.insert(pubrec.id);
        }
        for id in 1..=MESSAGES {
            self.raw.send(&pubrel(id)).await;
            self.raw.expect_pubcomp().await;
        }
        // What is in order behind them says that no more of them come.
        self.raw.send(&publish(&self.topic, "last").qos(2).id(1)).await;
        self.raw.expect_pubrec().await;
        self.raw.send(&pubrel(1)).await;
        self.raw.expect_pubcomp().await;
    }
}

/// R11: the node that took messages of QoS 2 is killed before it could answer them all. Sent again at another node, each
/// comes once, in order, to whoever has subscribed: live, in a queue, or away; whether the node led the publisher's group or
/// not.
#[tokio::test(flavor = "multi_thread")]
async fn r11_exactly_once_survives_the_death_of_the_node_that_took_the_messages() {
    let mut cluster = nodes(3, REPLICAS[0]);
    for victim in 0..3 {
        let led = spread_leaders(&cluster).await;
        let [here, there] = [(victim + 1) % 3, (victim + 2) % 3];
        let mut subscribers = Vec::new();
        for (name, node) in [
            ("live", here),
            ("live", there),
            ("durable", here),
            ("durable", there),
        ] {
            let id = format!("{name}{node}{victim}");
            let mut subscriber = match name {
                "live" => cluster.nodes[node].clean(Version::V5, &id).await,
                _ => cluster.nodes[node].durable(Version::V5, &id).await,
            };
            subscriber.subscribe(&format!("once/{victim}/+"), 2).await;
            subscribers.push((id, subscriber));
        }
        let away = format!("away{victim}");
        let mut leaving = cluster.nodes[victim].durable(Version::V5, &away).await;
        leaving.subscribe(&format!("once/{victim}/+"), 2).await;
        leaving.disconnect().await;

        let packet = |id: &str| connect(id).resume().expiry(600);
        let mut publishers = Vec::new();
        for leader in 0..3 {
            let client_id = name_with(&led, "client", |_, at| at == leader);
            publishers.push(Publisher {
                raw: cluster.nodes[victim]
                    .raw_client(Version::V5, &packet(&client_id))
                    .await,
                topic: format!("once/{victim}/{leader}"),
                client_id,
                received: BTreeSet::new(),
            });
        }
        for publisher in &mut publishers {
            publisher.send_all().await;
        }
        // Some are committed, and hardly any is answered.
        let first = publishers[0].raw.expect_pubrec().await.id;
        cluster.nodes[victim].kill();
        publishers[0].received.insert(first);
        for publisher in &mut publishers {
            let raw = cluster.nodes[here]
                .raw_client(Version::V5, &packet(&publisher.client_id))
                .await;
            publisher.go_on(raw).await;
        }
        let back = cluster.nodes[here].durable(Version::V5, &away).await;
        subscribers.push((away, back));
        let mut expected: Vec<String> = (1..=MESSAGES).map(|id| id.to_string()).collect();
        expected.push("last".to_owned());
        for (name, mut subscriber) in subscribers {
            let mut seen = vec![Vec::new(); publishers.len()];
            for _ in 0..publishers.len() * expected.len() {
                let message = subscriber.receive().await;
                let of = publishers
                    .iter()
                    .position(|publisher| publisher.topic == message.topic);
                seen[of.expect("a topic of a publisher")].push(message.text().to_owned());
            }
            for (publisher, texts) in publishers.iter().zip(seen) {
                assert_eq!(texts, expected, "{name}, {}", publisher.topic);
            }
            subscriber.disconnect().await;
        }
        drop(publishers);
        cluster.restart(victim);
    }
}
