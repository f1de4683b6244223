//! Nodes that come and go under load, judged by `quorate verify`.
//!
//! With `QUORATE_LONG_CLUSTER` set the cluster grows to five nodes and shrinks to three.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use quorate_tests::cluster::{Cluster, cluster_port};

use super::BINARY;
use super::load::{Verify, at, three_at_known_addresses};

/// One node grows under load and shrinks again by `ctl node drain --remove`: nothing is lost, and each process ends in
/// order.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_and_shrinks_under_load() {
    let long = std::env::var_os("QUORATE_LONG_CLUSTER").is_some();
    let (most, least, secs) = if long { (5, 3, 150) } else { (3, 2, 60) };
    let addresses: Vec<SocketAddr> = (0..most)
        .map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, cluster_port())))
        .collect();
    let mut cluster = Cluster::start_with(BINARY, 1, |config| at(config, addresses[0]));
    let verify = Verify::start(&addresses, secs);
    for address in &addresses[1..] {
        cluster.add_node_with(BINARY, |config| at(config, *address));
    }
    verify.assert_runs("all nodes have come");
    // The first ones go: the founder, and whoever came after it.
    for gone in 0..most - least {
        let name = format!("node-{}", gone + 1);
        let removed = cluster.ctl(most - 1, &["node", "drain", &name, "--remove"]);
        assert_eq!(removed.code, 0, "{removed:?}");
        assert!(cluster.nodes[gone].wait_for_exit().success());
    }
    verify.assert_runs("the first nodes have gone");
    let nodes = cluster.ctl(most - 1, &["nodes", "--output", "json"]);
    let nodes: serde_json::Value = serde_json::from_str(&nodes.stdout).expect("JSON");
    assert_eq!(nodes["items"].as_array().map(Vec::len), Some(least), "{nodes}");
    verify.assert_held();
}

/// Each node is stopped in order and started again, one after the other, under load.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_nothing() {
    let (mut cluster, addresses) = three_at_known_addresses(BINARY);
    let verify = Verify::start(&addresses, 45);
    for node in 0..3 {
        assert!(cluster.nodes[node].stop().success());
        cluster.restart(node);
    }
    verify.assert_runs("all nodes have restarted");
    verify.assert_held();
}

/// A node loses its volume under load and comes back with an empty one, under its old name: nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_volume_under_load_loses_nothing() {
    let (mut cluster, addresses) = three_at_known_addresses(BINARY);
    let verify = Verify::start(&addresses, 40);
    for victim in [1, 2] {
        let name = format!("node-{}", victim + 1);
        let lost = cluster.node_view(0, &name)["id"].clone();
        cluster.nodes[victim].kill();
        std::fs::remove_dir_all(cluster.nodes[victim].directory().join("data")).expect("the volume goes");
        cluster.restart(victim);
        // It has to be a voter of everything before another may be lost.
        while cluster.node_view(0, &name)["votes"] != 19 || cluster.node_view(0, &name)["id"] == lost {
            verify.assert_runs("a lost volume was replaced");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    verify.assert_held();
}
