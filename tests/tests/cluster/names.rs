//! Seeds and nodes that are known by name: names that do not resolve yet, that stand for several nodes, and whose
//! addresses change, as with a headless service.
//!
//! Each test makes a network of its own (`quorate_tests::network`), which needs root.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use quorate_tests::Version;
use quorate_tests::broker::{Broker, Config};
use quorate_tests::network::Network;
use quorate_tests::wire::publish;

use super::BINARY;

/// What all nodes are found by.
const SERVICE: &str = "quorate.test";
const NAMES: [&str; 3] = [
    "quorate-0.quorate.test",
    "quorate-1.quorate.test",
    "quorate-2.quorate.test",
];

/// A node that is reached by its name, and finds the others by that of all.
fn config(network: &Network, node: usize) -> Config {
    let address = network.address(node);
    Config::default()
        .named(&format!("quorate-{node}"))
        .in_namespace(&network.namespace(node), IpAddr::V4(address))
        .listener_at("mqtt", "mqtt", &format!("{address}:0"), "")
        .argument("--allow-anonymous")
        .argument("--cluster-listen=0.0.0.0:7946")
        .argument(&format!("--cluster-advertise={}:7946", NAMES[node]))
        .argument(&format!("--join={SERVICE}:7946"))
        .argument("--bootstrap-expect=3")
}

/// Each node under its name, and all under one.
fn publish_names(network: &Network) {
    let own = NAMES
        .iter()
        .enumerate()
        .map(|(node, name)| (*name, network.address(node)));
    let of_all = (0..NAMES.len()).map(|node| (SERVICE, network.address(node)));
    let names: Vec<(&str, Ipv4Addr)> = own.chain(of_all).collect();
    network.set_names(&names);
}

/// Number of the cluster that a node belongs to.
fn cluster_of(node: &Broker) -> String {
    let log = node.log();
    let line = log
        .lines()
        .find(|line| line.contains("this node belongs to a cluster"));
    let line: serde_json::Value = serde_json::from_str(line.expect("it is ready")).expect("JSON");
    line["cluster"].as_str().expect("it is named").to_owned()
}

fn wait_until_ready(nodes: &mut [Broker]) {
    for node in nodes {
        node.wait_until_listening();
        node.wait_until_ready();
    }
}

/// A message goes from one node to a session at another, each through a new connection.
async fn assert_passes(from: &Broker, to: &Broker, text: &str) {
    let mut subscriber = to.durable(Version::V5, text).await;
    subscriber.subscribe("a", 1).await;
    let mut publisher = from.clean(Version::V5, "p").await;
    publisher.publish(publish("a", text).qos(1)).await;
    subscriber.expect(text).await;
    subscriber.disconnect().await;
}

/// Nodes come up before their seeds' name resolves, and say which one; when it does, to the addresses of all of them, they
/// form one cluster. Then nodes come back at other addresses, one while the others run, then all at once.
#[tokio::test(flavor = "multi_thread")]
async fn seeds_that_resolve_later_and_nodes_whose_addresses_change() {
    let Some(network) = Network::new(3) else {
        return;
    };
    let mut nodes: Vec<Broker> = (0..3)
        .map(|node| Broker::spawn(BINARY, config(&network, node)))
        .collect();
    for node in &nodes {
        node.wait_for_log("still looking for the cluster");
        let log = node.log();
        let line = log
            .lines()
            .find(|line| line.contains("still looking for the cluster"));
        let line = line.expect("it was waited for");
        assert!(line.contains(&format!("{SERVICE}:7946")), "{line}");
        assert!(!log.contains("belongs to a cluster"), "{log}");
    }
    publish_names(&network);
    wait_until_ready(&mut nodes);
    let clusters: BTreeSet<String> = nodes.iter().map(cluster_of).collect();
    assert_eq!(clusters.len(), 1, "{clusters:?}");
    assert_passes(&nodes[0], &nodes[2], "at first").await;

    let move_to = |nodes: &mut [Broker], node: usize, last: u8| {
        nodes[node].kill();
        network.readdress(node, last);
        nodes[node].set_config(config(&network, node));
    };
    move_to(&mut nodes, 2, 102);
    publish_names(&network);
    nodes[2].begin_restart();
    wait_until_ready(&mut nodes[2..]);
    assert_passes(&nodes[0], &nodes[2], "one has moved").await;
    assert_passes(&nodes[2], &nodes[1], "and back").await;

    for node in 0..3 {
        move_to(&mut nodes, node, 110 + u8::try_from(node).expect("few nodes"));
    }
    for node in &mut nodes {
        node.begin_restart();
    }
    // Pods are there before their names have changed.
    nodes[0].wait_for_log("a node cannot be reached");
    publish_names(&network);
    wait_until_ready(&mut nodes);
    assert_passes(&nodes[1], &nodes[0], "all have moved").await;
}
