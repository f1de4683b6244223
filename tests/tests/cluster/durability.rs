//! Classes of durability: what queued messages of the weaker ones survive, and what they do not (R41).

use std::sync::Arc;

use quorate_storage::disk::RealDisk;
use quorate_storage::volume::Volume;
use quorate_tests::Version;
use quorate_tests::broker::{Broker, Config};
use quorate_tests::cluster::Cluster;
use quorate_tests::wire::publish;

use super::BINARY;
use super::recovery::wait_until_level;

const RULES: &str = r#"
[[durability]]
filter = "mem/safe"
class = "quorum"

[[durability]]
filter = "mem/#"
class = "quorum-memory"
"#;

/// What the machine has forgotten when it starts again: nothing of a process that was killed is synced any more.
pub(crate) fn restart_machine(node: &Broker) {
    let volume = Volume::open_on_boot(Arc::new(RealDisk), &node.directory().join("data"), "another boot");
    assert!(volume.expect("the directory is free").machine_restarted());
}

async fn publish_numbers(node: &Broker, topic: &str, qos: u8, count: usize) -> Vec<String> {
    let mut publisher = node.durable(Version::V5, "publisher").await;
    let texts: Vec<String> = (0..count).map(|number| format!("{topic} {number}")).collect();
    for text in &texts {
        publisher.publish(publish(topic, text).qos(qos)).await;
    }
    publisher.disconnect().await;
    texts
}

/// R41: the weaker class is on a majority of the nodes, so it survives any one of them, also a machine that starts again
/// with nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn r41_queued_messages_of_class_quorum_memory_survive_a_minority() {
    let mut cluster = Cluster::start_with(BINARY, 3, |config| config.toml(RULES));
    for victim in 0..3 {
        let (next, after) = ((victim + 1) % 3, (victim + 2) % 3);
        let id = format!("s{victim}");
        let mut subscriber = cluster.nodes[victim].durable(Version::V5, &id).await;
        subscriber.subscribe("mem/#", 2).await;
        subscriber.disconnect().await;
        let mut expected = publish_numbers(&cluster.nodes[victim], "mem/a", 1, 30).await;
        expected.extend(publish_numbers(&cluster.nodes[after], "mem/a", 1, 30).await);
        cluster.nodes[victim].kill();
        restart_machine(&cluster.nodes[victim]);
        let mut subscriber = cluster.nodes[next].durable(Version::V5, &id).await;
        assert_eq!(subscriber.receive_texts(60).await, expected);
        let later = publish_numbers(&cluster.nodes[after], "mem/a", 1, 10).await;
        assert_eq!(subscriber.receive_texts(10).await, later);
        subscriber.disconnect().await;
        let waiting = publish_numbers(&cluster.nodes[next], "mem/a", 1, 10).await;
        cluster.restart(victim);
        let mut subscriber = cluster.nodes[victim].durable(Version::V5, &id).await;
        assert_eq!(subscriber.receive_texts(10).await, waiting);
        subscriber.unsubscribe("mem/#").await;
        subscriber.disconnect().await;
    }
}

/// R41: a power cut of all nodes is what the weaker class does not survive; all else does, and nothing stands in its way.
#[tokio::test(flavor = "multi_thread")]
async fn r41_a_power_cut_of_all_nodes_takes_the_weaker_class_and_nothing_else() {
    let config = Config::default()
        .listener("mqtt", "mqtt", "")
        .listener("weak", "mqtt", "durability = \"local\"")
        .toml(RULES);
    let mut node = Broker::start(BINARY, config);
    let mut subscriber = node.durable(Version::V5, "s").await;
    subscriber.subscribe("#", 2).await;
    subscriber.disconnect().await;
    let mut kept = publish_numbers(&node, "quorum", 1, 3).await;
    kept.extend(publish_numbers(&node, "mem/safe", 1, 3).await);
    kept.extend(publish_numbers(&node, "mem/a", 2, 3).await);
    let _lost = publish_numbers(&node, "mem/a", 1, 3).await;
    let weak = node.address("weak");
    let packet = quorate_tests::wire::connect("weak");
    let mut publisher = quorate_tests::client::Client::connect(weak, Version::V5, &packet).await;
    publisher.publish(publish("any", "lost as well").qos(1)).await;
    publisher.publish(publish("value", "kept").qos(1).retain()).await;
    kept.push("kept".to_owned());
    node.kill();
    restart_machine(&node);
    node.restart();
    let mut subscriber = node.durable(Version::V5, "s").await;
    kept.push("new".to_owned());
    let mut publisher = node.clean(Version::V5, "p").await;
    publisher.publish(publish("mem/a", "new").qos(1)).await;
    let mut texts = subscriber.receive_texts(kept.len()).await;
    texts.sort();
    kept.sort();
    assert_eq!(texts, kept);
    subscriber.ping().await;
    assert!(subscriber.waiting().is_none());
}

/// Starts nodes whose processes were killed, all at once.
fn start_again(cluster: &mut Cluster, nodes: &[usize]) {
    for node in nodes {
        cluster.nodes[*node].begin_restart();
    }
    for node in nodes {
        cluster.nodes[*node].wait_until_listening();
        cluster.nodes[*node].wait_until_ready_wherever();
    }
}

/// Sessions of either kind, subscriptions and messages of all classes work at each node.
async fn check_serves(cluster: &Cluster) {
    for (at, node) in cluster.nodes.iter().enumerate() {
        let other = &cluster.nodes[(at + 1) % cluster.nodes.len()];
        let mut live = node.clean(Version::V5, &format!("live {at}")).await;
        live.subscribe("mem/#", 2).await;
        let mut durable = node.durable(Version::V5, &format!("durable {at}")).await;
        durable.subscribe("mem/#", 2).await;
        let expected = publish_numbers(other, "mem/new", 2, 5).await;
        assert_eq!(live.receive_texts(5).await, expected);
        assert_eq!(durable.receive_texts(5).await, expected);
        durable.unsubscribe("mem/#").await;
        live.disconnect().await;
        durable.disconnect().await;
    }
}

/// R41: where every machine loses its power nobody has an unsynced log that can be trusted. The cluster comes back by
/// itself, with everything but that.
#[tokio::test(flavor = "multi_thread")]
async fn r41_a_cluster_comes_back_after_the_power_of_all_machines_failed() {
    let mut cluster = Cluster::start_with(BINARY, 3, |config| config.toml(RULES));
    let mut subscriber = cluster.nodes[0].durable(Version::V5, "s").await;
    subscriber.subscribe("#", 2).await;
    subscriber.disconnect().await;
    for _ in 0..2 {
        let mut kept = publish_numbers(&cluster.nodes[1], "quorum", 1, 5).await;
        kept.extend(publish_numbers(&cluster.nodes[2], "mem/safe", 2, 5).await);
        let _lost = publish_numbers(&cluster.nodes[0], "mem/a", 1, 5).await;
        let _live = cluster.nodes[1].clean(Version::V5, "live").await;
        for node in &mut cluster.nodes {
            node.kill();
        }
        cluster.nodes.iter().for_each(restart_machine);
        start_again(&mut cluster, &[0, 1, 2]);
        let mut subscriber = cluster.nodes[2].durable(Version::V5, "s").await;
        let mut texts = subscriber.receive_texts(kept.len()).await;
        texts.sort();
        kept.sort();
        assert_eq!(texts, kept);
        subscriber.ping().await;
        subscriber.disconnect().await;
        check_serves(&cluster).await;
        let mut subscriber = cluster.nodes[0].durable(Version::V5, "s").await;
        let texts = subscriber.receive_texts(15).await;
        subscriber.ping().await;
        assert_eq!(subscriber.waiting(), None, "behind {texts:?}");
        subscriber.disconnect().await;
    }
}

/// R41: a majority of the machines loses its power, and the one that runs on goes on with what it has.
#[tokio::test(flavor = "multi_thread")]
async fn r41_what_one_node_kept_is_gone_on_with() {
    let mut cluster = Cluster::start_with(BINARY, 3, |config| config.toml(RULES));
    // Its leader would bring the others up to date.
    let kept_by = (cluster.leader("memory-0") + 1) % 3;
    let others = [(kept_by + 1) % 3, (kept_by + 2) % 3];
    let mut subscriber = cluster.nodes[others[0]].durable(Version::V5, "s").await;
    subscriber.subscribe("#", 2).await;
    subscriber.disconnect().await;
    let expected = publish_numbers(&cluster.nodes[others[1]], "mem/a", 1, 30).await;
    let mut live = cluster.nodes[kept_by].clean(Version::V5, "live").await;
    wait_until_level(&cluster, &format!("node-{}", kept_by + 1));
    for other in others {
        cluster.nodes[other].kill();
    }
    for other in others {
        restart_machine(&cluster.nodes[other]);
    }
    start_again(&mut cluster, &others);
    // Its session is known to nobody any more.
    live.raw.drain_until_closed().await;
    cluster.nodes[kept_by].wait_until_ready_wherever();
    let mut subscriber = cluster.nodes[others[0]].durable(Version::V5, "s").await;
    assert_eq!(subscriber.receive_texts(30).await, expected);
    subscriber.unsubscribe("#").await;
    subscriber.disconnect().await;
    check_serves(&cluster).await;
}
