//! Retained messages and wills where publishers, subscribers and the leaders of the groups between them are at different
//! nodes, and where these end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_cluster::node::Placement;
use quorate_tests::Version;
use quorate_tests::client::Event;
use quorate_tests::cluster::Cluster;
use quorate_tests::wire::{Packet, Publish, Will, connect, filter, publish, pubrel};
use tokio::time::Instant;

use super::{BINARY, REPLICAS, nodes};

/// How long an answer that must not come is waited for.
const SILENCE: Duration = Duration::from_millis(1_500);

/// How long a value may take that is there.
const VALUE_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long groups may take to be led by all nodes, and how often that is looked at.
const LEADERS_WAIT_MAX: Duration = Duration::from_secs(60);
const LEADERS_PAUSE: Duration = Duration::from_millis(200);

/// Where the groups are led.
fn leaders(cluster: &Cluster, asked: usize) -> BTreeMap<String, usize> {
    let groups = cluster.ctl(asked, &["raft-groups", "--output", "json"]).stdout;
    let groups: serde_json::Value = serde_json::from_str(&groups).expect("JSON");
    let groups = groups["items"].as_array().expect("a list").iter();
    let leader = |group: &serde_json::Value| {
        let name = group["leader"].as_str()?;
        name.strip_prefix("node-")?.parse::<usize>().ok()
    };
    groups
        .filter_map(|group| Some((group["group"].as_str()?.to_owned(), leader(group)? - 1)))
        .collect()
}

/// Where the groups are led once each node leads some of the data groups: right after the start one may lead all of them.
pub(super) async fn spread_leaders(cluster: &Cluster) -> BTreeMap<String, usize> {
    let deadline = Instant::now() + LEADERS_WAIT_MAX;
    loop {
        let led = leaders(cluster, 0);
        let of_data: Option<BTreeSet<usize>> = Placement::data_groups()
            .map(|group| led.get(&Placement::name(group)).copied())
            .collect();
        if of_data.is_some_and(|nodes| nodes.len() == cluster.nodes.len()) {
            return led;
        }
        assert!(Instant::now() < deadline, "the leaders are not spread: {led:?}");
        tokio::time::sleep(LEADERS_PAUSE).await;
    }
}

/// The first name whose group is led by such a node.
pub(super) fn name_with(
    leaders: &BTreeMap<String, usize>,
    kind: &str,
    is_right: impl Fn(&str, usize) -> bool,
) -> String {
    // Far more than it takes to come to each group.
    let names = (0..10_000).map(|number| format!("{kind}/{number}"));
    let group = |name: &str| match kind {
        "topic" => Placement::data_of_topic(name),
        _ => Placement::data_of_client(name),
    };
    let right = |name: &String| {
        let group = Placement::name(group(name));
        leaders
            .get(&group)
            .is_some_and(|leader| is_right(&group, *leader))
    };
    let found = names.into_iter().find(right);
    found.unwrap_or_else(|| panic!("no group is led as it should be: {leaders:?}"))
}

/// R33: a client lost its connection before PUBREC and sends its retained message again, at another node. It is answered
/// when the topic's group has the message, which has no leader for a while, and not before; who subscribes then finds it.
#[tokio::test(flavor = "multi_thread")]
async fn r33_a_retained_message_that_is_sent_again_is_answered_when_its_topic_has_it() {
    let mut cluster = Cluster::start_with(BINARY, 3, |config| {
        config.toml("[cluster]\nreplication_factor = 1\n\n[limits]\npublish_wait_secs_max = 60\n")
    });
    let led = spread_leaders(&cluster).await;
    // Its node leads groups of topics alone, as far as this publisher is concerned.
    let stopped = (0..3)
        .find(|node| led["live-0"] != *node && led["memory-0"] != *node)
        .expect("two groups are at two nodes");
    let [first, second] = [(stopped + 1) % 3, (stopped + 2) % 3];
    let client_id = name_with(&led, "client", |_, leader| leader != stopped);
    let topic = name_with(&led, "topic", |_, leader| leader == stopped);
    let packet = || connect(&client_id).resume().expiry(600);
    let mut publisher = cluster.nodes[first].raw(Version::V5).await;
    publisher.connect(&packet()).await;
    publisher.subscribe([filter("own").qos(1)]).await;

    cluster.nodes[stopped].signal("STOP");
    let message = || publish(&topic, "value").qos(2).id(1).retain();
    publisher.send(&message()).await;
    // What comes behind it in its group is there.
    publisher.send(&publish("own", "x").qos(1).id(2)).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match publisher.next_by(deadline).await {
            Some(Event::Packet(Packet::Puback(_))) => break,
            Some(Event::Packet(Packet::Publish(_))) => {}
            other => panic!("{other:?} instead of PUBACK"),
        }
    }
    drop(publisher);
    let mut publisher = cluster.nodes[second].raw(Version::V5).await;
    assert!(publisher.connect(&packet()).await.session_present);
    publisher.send(&message().dup()).await;
    let deadline = Instant::now() + SILENCE;
    while let Some(event) = publisher.next_by(deadline).await {
        let is_pubrec = matches!(event, Event::Packet(Packet::Pubrec(_)));
        assert!(!is_pubrec, "its topic's group has no leader");
    }
    cluster.nodes[stopped].signal("CONT");
    loop {
        match publisher.receive().await {
            Packet::Pubrec(pubrec) => {
                assert_eq!((pubrec.id, pubrec.code), (1, 0));
                break;
            }
            Packet::Publish(_) => {}
            other => panic!("{other:?} instead of PUBREC"),
        }
    }
    let mut reader = cluster.nodes[first].clean(Version::V5, "reader").await;
    reader.subscribe(&topic, 1).await;
    let kept = reader.receive().await;
    assert_eq!((kept.text(), kept.retain), ("value", true));
    publisher.send(&pubrel(1)).await;
    loop {
        match publisher.receive().await {
            Packet::Pubcomp(_) => break,
            Packet::Publish(_) => {}
            other => panic!("{other:?} instead of PUBCOMP"),
        }
    }
    cluster.nodes[stopped].wait_until_ready_wherever();
}

/// R11, R33: the node that took retained messages of QoS 2 is killed before it could answer them all. Sent again at another
/// node, each is answered when its topic has it, and whoever had subscribed before has each once: live, in a queue, or away.
#[tokio::test(flavor = "multi_thread")]
async fn r33_retained_messages_that_are_sent_again_reach_nobody_twice() {
    const MESSAGES: u16 = 60;
    let mut cluster = Cluster::start(BINARY, 3);
    for victim in 0..3 {
        let [here, there] = [(victim + 1) % 3, (victim + 2) % 3];
        let all = format!("{victim}/#");
        let topic = |id: u16| format!("{victim}/{id}");
        // Whoever has been sent this one has looked for retained messages everywhere.
        let is_last =
            |topic: &String| Some(Placement::data_of_topic(topic)) == Placement::data_groups().last();
        let looked = (0..).map(|number| format!("{victim}/looked/{number}"));
        let looked = looked.into_iter().find(is_last).expect("all groups have topics");
        let mut other = cluster.nodes[there].clean(Version::V5, "other").await;
        other.publish(publish(&looked, "looked").qos(1).retain()).await;
        let away = format!("away{victim}");
        let mut live = cluster.nodes[there]
            .clean(Version::V5, &format!("live{victim}"))
            .await;
        live.subscribe(&all, 2).await;
        live.expect("looked").await;
        let mut durable = cluster.nodes[here]
            .durable(Version::V5, &format!("durable{victim}"))
            .await;
        durable.subscribe(&all, 2).await;
        durable.expect("looked").await;
        let mut leaving = cluster.nodes[victim].durable(Version::V5, &away).await;
        leaving.subscribe(&all, 2).await;
        leaving.expect("looked").await;
        leaving.disconnect().await;

        let packet = connect(&format!("publisher{victim}")).resume().expiry(600);
        let mut publisher = cluster.nodes[victim].raw_client(Version::V5, &packet).await;
        for id in 1..=MESSAGES {
            publisher
                .send(&publish(&topic(id), "value").qos(2).id(id).retain())
                .await;
        }
        // Some are committed, and hardly any is answered.
        let mut received = BTreeSet::from([publisher.expect_pubrec().await.id]);
        cluster.nodes[victim].kill();
        for packet in publisher.drain_until_closed().await {
            if let Packet::Pubrec(pubrec) = packet {
                received.insert(pubrec.id);
            }
        }
        let mut publisher = cluster.nodes[here].raw_client(Version::V5, &packet).await;
        for id in (1..=MESSAGES).filter(|id| !received.contains(id)) {
            publisher
                .send(&publish(&topic(id), "value").qos(2).id(id).retain().dup())
                .await;
        }
        while received.len() < usize::from(MESSAGES) {
            let pubrec = publisher.expect_pubrec().await;
            assert_eq!(pubrec.code, 0);
            received.insert(pubrec.id);
        }
        let mut reader = cluster.nodes[there]
            .clean(Version::V5, &format!("reader{victim}"))
            .await;
        reader.subscribe(&all, 1).await;
        let kept: BTreeSet<String> = {
            let mut kept = BTreeSet::new();
            for _ in 0..=MESSAGES {
                kept.insert(reader.receive().await.topic);
            }
            kept
        };
        assert_eq!(
            kept.len(),
            usize::from(MESSAGES) + 1,
            "what is answered is retained"
        );
        for id in 1..=MESSAGES {
            publisher.send(&pubrel(id)).await;
            publisher.expect_pubcomp().await;
        }
        // What is in order behind them says that no more of them come.
        for id in 1..=MESSAGES {
            publisher.send(&publish(&topic(id), "last").qos(2).id(id)).await;
            publisher.expect_pubrec().await;
            publisher.send(&pubrel(id)).await;
            publisher.expect_pubcomp().await;
        }
        let away = cluster.nodes[here].durable(Version::V5, &away).await;
        for (name, mut subscriber) in [("live", live), ("durable", durable), ("away", away)] {
            let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for _ in 0..2 * MESSAGES {
                let message = subscriber.receive().await;
                let text = message.text().to_owned();
                seen.entry(message.topic).or_default().push(text);
            }
            for (topic, texts) in seen {
                assert_eq!(texts, ["value", "last"], "{name}, {topic}");
            }
            subscriber.disconnect().await;
        }
        cluster.restart(victim);
    }
}

/// How a message came.
fn seen(message: &Publish) -> String {
    let kind = if message.retain { "retained" } else { "live" };
    let again = if message.dup { ", again" } else { "" };
    format!("{kind} at QoS {}{again}", message.qos)
}

/// R33: whoever subscribes while a retained message is published gets it, live or retained, at whichever node: the
/// publisher, those who subscribe, and the leader of the topic's group are at different ones. It comes once.
#[tokio::test(flavor = "multi_thread")]
async fn r33_a_subscriber_that_crosses_a_retained_message_gets_it() {
    const ROUNDS: u64 = 90;
    for replicas in REPLICAS {
        let cluster = nodes(3, replicas);
        let led = spread_leaders(&cluster).await;
        let (mut subscribers, mut publishers) = (Vec::new(), Vec::new());
        for (place, node) in cluster.nodes.iter().enumerate() {
            subscribers.push(node.clean(Version::V5, &format!("live{place}")).await);
            subscribers.push(node.durable(Version::V5, &format!("durable{place}")).await);
            publishers.push(node.clean(Version::V5, &format!("p{place}")).await);
            publishers.push(node.durable(Version::V5, &format!("q{place}")).await);
        }
        let mut copies = vec![BTreeMap::<String, Vec<String>>::new(); subscribers.len()];
        for round in 0..ROUNDS {
            let kind = format!("crossed{replicas}{round}");
            let topic = name_with(&led, &kind, |_, leader| leader == round as usize % 3);
            let count = publishers.len();
            let publisher = &mut publishers[round as usize % count];
            let message = publish(&topic, "value").qos(1 + (round % 2) as u8).retain();
            let publishing = async {
                tokio::time::sleep(Duration::from_millis(3)).await;
                // Also where nobody is subscribed yet (0x10).
                assert!(publisher.publish(message).await < 0x80);
            };
            let subscribing = subscribers.iter_mut().zip(0..).map(|(subscriber, place)| {
                let topic = &topic;
                async move {
                    // All over the time that the message takes.
                    let delay = (round * 350 + place * 1_700) % 14_000;
                    tokio::time::sleep(Duration::from_micros(delay)).await;
                    subscriber.subscribe(topic, 2).await;
                }
            });
            tokio::join!(publishing, futures_util::future::join_all(subscribing));
            for (place, subscriber) in subscribers.iter_mut().enumerate() {
                let receiving = async {
                    loop {
                        let message = subscriber.receive().await;
                        copies[place]
                            .entry(message.topic.clone())
                            .or_default()
                            .push(seen(&message));
                        if message.topic == topic {
                            break;
                        }
                    }
                };
                let received = tokio::time::timeout(VALUE_WAIT_MAX, receiving).await;
                assert!(
                    received.is_ok(),
                    "{replicas} replicas, round {round}, subscriber {place}"
                );
            }
        }
        let mut twice = Vec::new();
        for (place, subscriber) in subscribers.iter_mut().enumerate() {
            // A second copy would have come with what follows it, or right behind.
            while let Ok(message) = tokio::time::timeout(SILENCE, subscriber.receive()).await {
                let seen = seen(&message);
                copies[place].entry(message.topic).or_default().push(seen);
            }
            copies[place].retain(|_, copies| copies.len() > 1);
            twice.extend(
                copies[place]
                    .iter()
                    .map(|(topic, copies)| format!("{place} {topic} {copies:?}")),
            );
        }
        assert!(twice.is_empty(), "{replicas} replicas, more than once: {twice:?}");
    }
}

/// R33: whoever subscribes while a retained will is published gets it, live or retained, at whichever node.
#[tokio::test(flavor = "multi_thread")]
async fn r33_a_subscriber_that_crosses_a_retained_will_gets_it() {
    for replicas in REPLICAS {
        let cluster = nodes(3, replicas);
        for round in 0..60_u64 {
            let topic = format!("gone/{replicas}/{round}");
            let packet = connect(&format!("dying{round}")).will(Will::new(&topic, "gone").qos(1).retain());
            let packet = match round % 2 {
                0 => packet,
                _ => packet.resume().expiry(600),
            };
            let dying = cluster.nodes[round as usize % 3]
                .client(Version::V5, &packet)
                .await;
            let node = &cluster.nodes[(round as usize + 1) % 3];
            let mut subscriber = match round % 4 {
                0 | 1 => node.clean(Version::V5, &format!("s{round}")).await,
                _ => node.durable(Version::V5, &format!("s{round}")).await,
            };
            drop(dying);
            // All over the time that the will takes.
            tokio::time::sleep(Duration::from_micros(round * 300)).await;
            subscriber.subscribe(&topic, 1).await;
            assert_eq!(subscriber.receive().await.text(), "gone", "round {round}");
            subscriber.disconnect().await;
        }
    }
}

/// R34: while the publisher, the leader of the topic's group and those who subscribe are at different nodes, no value comes
/// after a newer live one, and live ones stay in order.
#[tokio::test(flavor = "multi_thread")]
async fn r34_values_never_go_back_across_nodes() {
    for replicas in REPLICAS {
        let cluster = nodes(3, replicas);
        let led = spread_leaders(&cluster).await;
        let topic = name_with(&led, "topic", |_, leader| leader == 1);
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut publisher = cluster.nodes[0].clean(Version::V5, "publisher").await;
        let publishing = tokio::spawn({
            let topic = topic.clone();
            async move {
                let mut number: u32 = 0;
                while !*stopped.borrow() {
                    number += 1;
                    let qos = 1 + (number % 2) as u8;
                    publisher
                        .publish(publish(&topic, number.to_string()).qos(qos).retain())
                        .await;
                }
            }
        });
        for round in 0..24 {
            let name = format!("s{round}");
            // At the node of neither, of the leader, of the publisher.
            let node = &cluster.nodes[[2, 1, 0][round % 3]];
            let mut client = match round % 2 {
                0 => node.clean(Version::V5, &name).await,
                _ => node.durable(Version::V5, &name).await,
            };
            client.subscribe("topic/+", 2).await;
            let mut last = 0;
            for _ in 0..10 {
                let message = client.receive().await;
                let value: u32 = message.text().parse().expect("a number");
                assert!(value >= last, "round {round}: {value} after live {last}");
                if !message.retain {
                    last = value;
                }
            }
            client.disconnect().await;
        }
        stop.send_replace(true);
        publishing.await.expect("the publisher runs");
    }
}
