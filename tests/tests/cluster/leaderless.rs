//! Groups without leader: what they hold up, and what they do not. Each group has one replica, and a node is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use quorate_cluster::node::Placement;
use quorate_tests::Version;
use quorate_tests::broker::Broker;
use quorate_tests::client::Client;
use quorate_tests::wire::{connect, filter, publish};

use super::nodes;
use super::retained::{name_with, spread_leaders};

/// Longer than a node that is gone is waited for (R1).
const SUBACK_MAX: Duration = Duration::from_secs(6);

/// A topic of each data group.
fn topics() -> BTreeMap<String, String> {
    let of_group = |group| {
        let mut topics = (0..).map(|number| format!("kept/{number}"));
        let topic = topics.find(|topic| Placement::data_of_topic(topic) == group);
        (Placement::name(group), topic.expect("all groups have topics"))
    };
    Placement::data_groups().map(of_group).collect()
}

async fn receive_topics(subscriber: &mut Client, count: usize) -> BTreeSet<String> {
    let mut topics = BTreeSet::new();
    for _ in 0..count {
        let message = subscriber.receive().await;
        assert!(message.retain && message.text() == "value", "{message:?}");
        topics.insert(message.topic);
    }
    topics
}

/// R36: retained messages whose group has no leader hold up neither SUBACK nor those of the other groups, nor what is
/// subscribed to behind them; they follow when it has one again. At QoS 2 each comes once.
#[tokio::test(flavor = "multi_thread")]
async fn r36_a_group_without_leader_holds_up_its_own_retained_messages_alone() {
    let mut cluster = nodes(3, 1);
    let led = spread_leaders(&cluster).await;
    let topics = topics();
    let mut publisher = cluster.nodes[0].clean(Version::V5, "publisher").await;
    for topic in topics.values() {
        publisher.publish(publish(topic, "value").qos(2).retain()).await;
    }
    drop(publisher);
    // Sessions that end with their connections go on.
    let stopped = (0..3)
        .find(|node| led["live-0"] != *node)
        .expect("there are three");
    let here = (stopped + 1) % 3;
    let (away, there): (BTreeSet<String>, BTreeSet<String>) = {
        let (away, there): (Vec<_>, Vec<_>) = topics.iter().partition(|(group, _)| led[*group] == stopped);
        let of = |some: Vec<(&String, &String)>| some.into_iter().map(|(_, topic)| topic.clone()).collect();
        (of(away), of(there))
    };
    let home = name_with(&led, "client", |_, leader| leader != stopped);
    let packets = [connect("live"), connect(&home).resume().expiry(600)];
    let mut subscribers = Vec::new();
    for packet in &packets {
        subscribers.push(cluster.nodes[here].client(Version::V5, packet).await);
    }
    cluster.nodes[stopped].kill();
    for subscriber in &mut subscribers {
        let began = Instant::now();
        // First one that nobody can read at all.
        let first = away.first().expect("it led groups");
        let suback = subscriber
            .subscribe_with([filter(first).qos(2), filter("kept/+").qos(2)], [])
            .await;
        assert_eq!(suback.codes, [2, 2]);
        assert!(began.elapsed() < SUBACK_MAX, "{:?}", began.elapsed());
        assert_eq!(receive_topics(subscriber, there.len()).await, there);
        // What comes later does not wait either.
        let later = there.last().expect("the others lead groups");
        subscriber.subscribe(later, 2).await;
        assert_eq!(subscriber.receive().await.topic, *later);
    }
    // The next connection goes on with what is still to come.
    let durable = subscribers.pop().expect("there are two");
    durable.disconnect().await;
    let there = (stopped + 2) % 3;
    subscribers.push(cluster.nodes[there].client(Version::V5, &packets[1]).await);
    cluster.restart(stopped);
    for subscriber in &mut subscribers {
        // One of them was asked for twice.
        assert_eq!(receive_topics(subscriber, away.len() + 1).await, away);
        subscriber.ping().await;
        assert!(subscriber.waiting().is_none(), "at QoS 2 each comes once");
    }
}

/// The node of a client's CONNECT says why it cannot be served.
async fn is_refused(node: &Broker, client_id: &str) {
    let mut refused = node.raw(Version::V5).await;
    refused.send(&connect(client_id).resume().expiry(600)).await;
    refused.expect_refused(Some(0x88)).await;
    for version in [Version::V3_1, Version::V3_1_1] {
        let mut refused = node.raw(version).await;
        refused.send(&connect(client_id).resume()).await;
        refused.expect_refused(Some(3)).await;
    }
}

/// R13, R47: a node says at `/readyz` which groups have no leader. A client at home there is refused with "server
/// unavailable", and the next one is served.
#[tokio::test(flavor = "multi_thread")]
async fn r13_a_client_whose_group_has_no_leader_is_refused() {
    let mut cluster = nodes(3, 1);
    let led = spread_leaders(&cluster).await;
    let stopped = (0..3)
        .find(|node| led["live-0"] != *node)
        .expect("there are three");
    let (mut group_away, here) = (String::new(), (stopped + 1) % 3);
    let away = name_with(&led, "away", |_, leader| leader == stopped);
    for (group, leader) in &led {
        if *leader == stopped && group.starts_with("data-") {
            group_away.clone_from(group);
        }
    }
    let home = name_with(&led, "home", |_, leader| leader != stopped);
    cluster.nodes[stopped].kill();
    is_refused(&cluster.nodes[here], &away).await;
    cluster.nodes[here].wait_for_readiness(|code, body| code == 503 && body.contains(&group_away));
    let mut client = cluster.nodes[here].durable(Version::V5, &home).await;
    client.subscribe("a", 1).await;
    cluster.restart(stopped);
    cluster.nodes[here].wait_until_ready();
    drop(cluster.nodes[here].durable(Version::V5, &away).await);
}
