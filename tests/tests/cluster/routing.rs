//! Messages from any node to any node.

use quorate_tests::Version;
use quorate_tests::wire::publish;

use super::{REPLICAS, nodes};

/// R1, R12: whoever subscribed anywhere gets what is published anywhere after SUBACK, at every QoS.
#[tokio::test(flavor = "multi_thread")]
async fn r1_live_subscribers_get_what_is_published_after_suback_at_any_node() {
    for replicas in REPLICAS {
        let cluster = nodes(3, replicas);
        for round in 0..5 {
            let topic = format!("live/{round}");
            let mut subscribers = Vec::new();
            for (place, node) in cluster.nodes.iter().enumerate() {
                let mut subscriber = node.clean(Version::V5, &format!("s{round}-{place}")).await;
                subscriber.subscribe(&topic, 2).await;
                subscribers.push(subscriber);
            }
            let mut expected = Vec::new();
            for (place, node) in cluster.nodes.iter().enumerate() {
                let mut publisher = node.clean(Version::V5, &format!("p{round}-{place}")).await;
                for qos in 0..3 {
                    let payload = format!("{place}-{qos}");
                    publisher.publish(publish(&topic, &payload).qos(qos)).await;
                    expected.push(payload);
                }
                // What follows comes from another node, and in no order to this.
                for subscriber in &mut subscribers {
                    let mut texts = subscriber.receive_texts(3).await;
                    texts.sort();
                    assert_eq!(texts, expected[expected.len() - 3..]);
                }
            }
        }
    }
}

/// R11: a QoS 2 publish of a durable session reaches live subscribers of all nodes once.
#[tokio::test(flavor = "multi_thread")]
async fn r11_exactly_once_publishes_reach_live_subscribers_of_all_nodes() {
    for replicas in REPLICAS {
        let cluster = nodes(3, replicas);
        let mut subscribers = Vec::new();
        for (place, node) in cluster.nodes.iter().enumerate() {
            let mut subscriber = node.clean(Version::V5, &format!("s{place}")).await;
            subscriber.subscribe("once", 2).await;
            subscribers.push(subscriber);
        }
        let mut publisher = cluster.nodes[0].durable(Version::V5, "p").await;
        for number in 0..10 {
            publisher
                .publish(publish("once", number.to_string()).qos(2))
                .await;
        }
        let expected: Vec<String> = (0..10).map(|number| number.to_string()).collect();
        for mut subscriber in subscribers {
            assert_eq!(subscriber.receive_texts(10).await, expected);
            subscriber.ping().await;
            assert!(subscriber.waiting().is_none(), "nothing comes twice");
        }
    }
}

/// Messages for a durable session wait for it, whichever node they come from and it comes to.
#[tokio::test(flavor = "multi_thread")]
async fn messages_for_durable_sessions_wait_at_every_node() {
    for replicas in REPLICAS {
        let cluster = nodes(3, replicas);
        let mut subscriber = cluster.nodes[0].durable(Version::V5, "s").await;
        subscriber.subscribe("wait/#", 2).await;
        subscriber.disconnect().await;
        let mut expected = Vec::new();
        for (place, node) in cluster.nodes.iter().enumerate() {
            let mut publisher = node.clean(Version::V5, &format!("p{place}")).await;
            for number in 0..10 {
                let payload = format!("{place}-{number}");
                publisher
                    .publish(publish("wait/x", &payload).qos(1 + number % 2))
                    .await;
                expected.push(payload);
            }
        }
        let mut subscriber = cluster.nodes[2].durable(Version::V5, "s").await;
        let mut texts = subscriber.receive_texts(30).await;
        texts.sort();
        assert_eq!(texts, expected);
    }
}

/// R33, R36: a retained message is there for who subscribes anywhere after its acknowledgement.
#[tokio::test(flavor = "multi_thread")]
async fn r36_retained_messages_are_seen_at_every_node_after_their_acknowledgement() {
    for replicas in REPLICAS {
        let cluster = nodes(3, replicas);
        let mut publishers = Vec::new();
        for (place, node) in cluster.nodes.iter().enumerate() {
            publishers.push(node.clean(Version::V5, &format!("p{place}")).await);
        }
        for number in 0..30 {
            let topic = format!("kept/{}", number % 7);
            let value = number.to_string();
            publishers[number % 3]
                .publish(publish(&topic, &value).qos(1).retain())
                .await;
            let reader = &cluster.nodes[(number + 1) % 3];
            let mut reader = reader.clean(Version::V5, &format!("r{number}")).await;
            reader.subscribe(&topic, 1).await;
            let message = reader.receive().await;
            assert_eq!(
                message.payload,
                value.as_bytes(),
                "the last acknowledged value of {topic}"
            );
            assert!(message.retain);
        }
    }
}

/// Each message of a shared subscription goes to one member, on whichever nodes they are.
#[tokio::test(flavor = "multi_thread")]
async fn members_of_shared_subscriptions_are_on_all_nodes() {
    for replicas in REPLICAS {
        let cluster = nodes(3, replicas);
        for durable in [true, false] {
            let name = if durable { "d" } else { "l" };
            let mut members = Vec::new();
            for (place, node) in cluster.nodes.iter().enumerate() {
                let id = format!("{name}{place}");
                let mut member = match durable {
                    true => node.durable(Version::V5, &id).await,
                    false => node.clean(Version::V5, &id).await,
                };
                member.subscribe(&format!("$share/{name}/{name}/#"), 1).await;
                members.push(member);
            }
            let mut publisher = cluster.nodes[1].clean(Version::V5, "p").await;
            for number in 0..30 {
                publisher
                    .publish(publish(&format!("{name}/x"), number.to_string()).qos(1))
                    .await;
            }
            let mut seen = Vec::new();
            while seen.len() < 30 {
                for member in &mut members {
                    member.ping().await;
                    while let Some(message) = member.waiting() {
                        seen.push(String::from_utf8(message.payload.to_vec()).expect("a number"));
                    }
                }
            }
            seen.sort_by_key(|text| text.parse::<u32>().expect("a number"));
            let expected: Vec<String> = (0..30).map(|number| number.to_string()).collect();
            assert_eq!(seen, expected, "durable: {durable}");
        }
    }
}
