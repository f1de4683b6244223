//! What an operator does with `quorate ctl`: nodes are drained and removed, and what is unsafe is refused.

use std::time::{Duration, Instant};

use quorate_tests::Version;
use quorate_tests::cluster::Cluster;
use quorate_tests::wire::{Will, connect, publish};

use super::three;

const USE_ANOTHER_SERVER: u8 = 0x9c;
/// Groups of a cluster, `meta` among them.
const GROUPS: u64 = 19;
/// How long the cluster may take to settle.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// Waits until a node, by its place in the cluster, shows what is asked for.
fn wait_for_node(cluster: &Cluster, asked: usize, name: &str, is_met: impl Fn(&serde_json::Value) -> bool) {
    let began = Instant::now();
    loop {
        let node = cluster.node_view(asked, name);
        if is_met(&node) {
            return;
        }
        assert!(began.elapsed() < SETTLE_MAX, "{name} stays: {node}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A drained node takes no clients, tells those it has where they are not wanted, leads nothing, and is as before when
/// the drain is taken back.
#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_sheds_its_clients_and_its_leaderships() {
    let cluster = three();
    let mut newer = cluster.nodes[0].raw(Version::V5).await;
    newer.connect(&connect("newer").resume().expiry(600)).await;
    let mut older = cluster.nodes[0].raw(Version::V3_1_1).await;
    older.connect(&connect("older")).await;
    let mut watcher = cluster.nodes[1].clean(Version::V5, "watcher").await;
    watcher.subscribe("will/#", 1).await;
    let with_will = || connect("willing").will(Will::new("will/x", "gone").qos(1));
    let mut willing = cluster.nodes[0].raw(Version::V5).await;
    willing.connect(&with_will()).await;
    let drained = cluster.ctl(1, &["node", "drain", "node-1"]);
    assert_eq!(drained.code, 0, "{drained:?}");
    newer.expect_disconnect(USE_ANOTHER_SERVER).await;
    assert_eq!(
        older.drain_until_closed().await,
        [],
        "3.1.1 has no DISCONNECT of a server"
    );
    // It keeps its copies.
    wait_for_node(&cluster, 2, "node-1", |node| {
        node["clients"] == 0 && node["leads"] == 0 && node["votes"] == GROUPS
    });
    // A client that has gone elsewhere has not died.
    let mut elsewhere = cluster.nodes[2].raw(Version::V5).await;
    elsewhere.connect(&with_will()).await;
    assert!(
        cluster.nodes[0]
            .admin("/readyz")
            .1
            .contains("draining: the node is drained")
    );
    let mut refused = cluster.nodes[0].raw(Version::V5).await;
    refused.send(&connect("late")).await;
    refused.expect_refused(Some(USE_ANOTHER_SERVER)).await;
    let mut refused = cluster.nodes[0].raw(Version::V3_1_1).await;
    refused.send(&connect("late")).await;
    refused.expect_refused(Some(3)).await;
    let mut publisher = cluster.nodes[1].clean(Version::V5, "p").await;
    publisher.publish(publish("will/marker", "x").qos(1)).await;
    assert_eq!(watcher.receive().await.topic, "will/marker");

    let cancelled = cluster.ctl(2, &["node", "drain", "node-1", "--cancel"]);
    assert_eq!(cancelled.code, 0, "{cancelled:?}");
    cluster.nodes[0].wait_until_ready();
    cluster.nodes[0].clean(Version::V5, "late").await;
    wait_for_node(&cluster, 1, "node-1", |node| node["leads"].as_u64() >= Some(4));
}

/// A node is drained and removed under way: nothing is lost, its process ends in order, and it is refused when it comes
/// again. Of two that are left one can be removed as well, and the last goes on alone.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_removed_until_one_is_left() {
    let mut cluster = three();
    let mut subscriber = cluster.nodes[2].durable(Version::V5, "s").await;
    subscriber.subscribe("a", 2).await;
    let mut publisher = cluster.nodes[0].clean(Version::V5, "p").await;
    publisher.publish(publish("a", "one").qos(1)).await;
    publisher.publish(publish("kept", "value").qos(1).retain()).await;
    // Asked of the node itself, which ends meanwhile.
    let removed = cluster.ctl(2, &["node", "drain", "node-3", "--remove"]);
    assert!(
        removed.code == 0 || removed.stderr.contains("cannot be reached"),
        "{removed:?}"
    );
    assert!(cluster.nodes[2].wait_for_exit().success());
    cluster.nodes[2].wait_for_log("has left the cluster for good");
    publisher.publish(publish("a", "two").qos(2)).await;
    let mut subscriber = cluster.nodes[1].durable(Version::V5, "s").await;
    let mut texts = subscriber.receive_texts(2).await;
    texts.sort();
    assert_eq!(texts, ["one", "two"]);
    assert!(!cluster.nodes[2].restart_in_vain().success());
    cluster.nodes[2].wait_for_log("was removed from the cluster for good");

    let removed = cluster.ctl(0, &["node", "drain", "node-2", "--remove"]);
    assert_eq!(removed.code, 0, "{removed:?}");
    assert!(cluster.nodes[1].wait_for_exit().success());
    publisher.publish(publish("a", "three").qos(2)).await;
    let mut subscriber = cluster.nodes[0].durable(Version::V5, "s").await;
    subscriber.expect("three").await;
    let mut reader = cluster.nodes[0].clean(Version::V5, "r").await;
    reader.subscribe("kept", 1).await;
    reader.expect("value").await;
    let last = cluster.ctl(0, &["node", "drain", "node-1", "--remove"]);
    assert_eq!(last.code, 1, "{last:?}");
    assert!(last.stderr.contains("last node"), "{last:?}");
    // It is a cluster still, and starts as one.
    assert!(cluster.nodes[0].stop().success());
    cluster.restart(0);
    let mut reader = cluster.nodes[0].clean(Version::V5, "r").await;
    reader.subscribe("kept", 1).await;
    reader.expect("value").await;
}

/// What could lose acknowledged messages is refused with the reason, and what is asked wrongly with another exit code.
#[tokio::test(flavor = "multi_thread")]
async fn unsafe_operations_are_refused_with_the_reason() {
    let mut cluster = three();
    let refuse = |cluster: &Cluster, arguments: &[&str], reason: &str| {
        let refused = cluster.ctl(0, arguments);
        assert_eq!(refused.code, 1, "{arguments:?}: {refused:?}");
        assert!(refused.stderr.contains(reason), "{arguments:?}: {refused:?}");
    };
    refuse(&cluster, &["node", "remove", "node-2"], "drain it first");
    refuse(
        &cluster,
        &["node", "remove", "node-2", "--force"],
        "drain it first",
    );
    refuse(&cluster, &["node", "remove", "node-9"], "there is no node");
    assert_eq!(cluster.ctl(0, &["node", "drain"]).code, 2);
    assert_eq!(cluster.ctl(0, &["--admin-url", "https://x", "nodes"]).code, 2);
    assert_eq!(
        cluster
            .ctl(0, &["--admin-url", "http://127.0.0.1:1", "nodes"])
            .code,
        3
    );
    cluster.nodes[2].kill();
    wait_for_node(&cluster, 0, "node-3", |node| node["state"] == "down");
    let began = Instant::now();
    loop {
        // Groups that the dead node led have to find another leader before they can tell.
        let refused = cluster.ctl(0, &["node", "drain", "node-2", "--remove"]);
        assert_eq!(refused.code, 1, "{refused:?}");
        if refused.stderr.contains("would have no majority that is alive") {
            break;
        }
        assert!(began.elapsed() < SETTLE_MAX, "{refused:?}");
    }
    let nodes = cluster.ctl(0, &["nodes", "--output", "json"]);
    let nodes: serde_json::Value = serde_json::from_str(&nodes.stdout).expect("JSON");
    assert!(
        nodes["items"]
            .as_array()
            .expect("a list")
            .iter()
            .all(|node| node["leaving"] == false)
    );
    // Removing the dead one is safe, and then the group has two of two.
    let mut removed = cluster.ctl(0, &["node", "remove", "node-3"]);
    while removed.stderr.contains("drain it first") && began.elapsed() < SETTLE_MAX {
        removed = cluster.ctl(0, &["node", "remove", "node-3"]);
    }
    assert_eq!(removed.code, 0, "{removed:?}");
    refuse(
        &cluster,
        &["node", "remove", "node-3"],
        "removed from the cluster already",
    );
    let groups = || cluster.ctl(1, &["raft-groups", "--output", "json"]);
    while groups().stdout.contains("node-3") {
        assert!(began.elapsed() < SETTLE_MAX, "{}", groups().stdout);
    }
    cluster.nodes[1].kill();
    let refused = cluster.ctl(0, &["node", "remove", "node-2"]);
    assert_eq!(refused.code, 1, "{refused:?}");
}

/// A node whose volume is lost comes under its old name as a new node; the groups, `meta` among them, take it for the one
/// that is gone by themselves, and tolerate the loss of another then.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_volume_is_replaced_without_anybody_asking() {
    let mut cluster = three();
    for victim in [2, 0] {
        let name = format!("node-{}", victim + 1);
        let other = (victim + 1) % 3;
        let before = cluster.node_view(other, &name)["id"].clone();
        let mut subscriber = cluster.nodes[other].durable(Version::V5, "s").await;
        subscriber.subscribe("a", 1).await;
        subscriber.disconnect().await;
        let mut publisher = cluster.nodes[other].clean(Version::V5, "p").await;
        publisher
            .publish(publish("a", format!("before {victim}")).qos(1))
            .await;
        cluster.nodes[victim].kill();
        std::fs::remove_dir_all(cluster.nodes[victim].directory().join("data")).expect("the volume goes");
        publisher
            .publish(publish("a", format!("between {victim}")).qos(1))
            .await;
        cluster.restart(victim);
        wait_for_node(&cluster, other, &name, |node| node["votes"] == GROUPS);
        let node = cluster.node_view(other, &name);
        assert!(node["id"] != before, "{node}");
        // Without those of the dead one: no group has four members.
        let groups = cluster.ctl(other, &["raft-groups", "--output", "json"]).stdout;
        let groups: serde_json::Value = serde_json::from_str(&groups).expect("JSON");
        for group in groups["items"].as_array().expect("a list") {
            let voters = group["replicas"]
                .as_array()
                .expect("a list")
                .iter()
                .filter(|one| one["voter"] == true);
            assert_eq!(voters.count(), 3, "{group}");
        }
        let mut subscriber = cluster.nodes[victim].durable(Version::V5, "s").await;
        let mut texts = subscriber.receive_texts(2).await;
        texts.sort();
        assert_eq!(texts, [format!("before {victim}"), format!("between {victim}")]);
        subscriber.disconnect().await;
    }
    // Two of the three nodes are not those of the beginning, and any one may go.
    let mut publisher = cluster.nodes[2].clean(Version::V5, "p").await;
    cluster.nodes[1].kill();
    publisher.publish(publish("a", "after").qos(1)).await;
    let mut subscriber = cluster.nodes[0].durable(Version::V5, "s").await;
    subscriber.expect("after").await;
}
