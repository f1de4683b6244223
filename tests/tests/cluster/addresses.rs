//! Nodes that move, seeds that are wrong, volumes that are lost.

use quorate_tests::Version;
use quorate_tests::broker::{Broker, Config};
use quorate_tests::cluster::cluster_port;
use quorate_tests::wire::publish;

use super::three;

const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");

fn config(name: &str, port: u16, seeds: &[u16], expect: u32) -> Config {
    let seeds: Vec<String> = seeds.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    Config::default()
        .named(name)
        .listener("mqtt", "mqtt", "")
        .argument("--allow-anonymous")
        .argument(&format!("--cluster-listen=127.0.0.1:{port}"))
        .argument(&format!("--join={}", seeds.join(",")))
        .argument(&format!("--bootstrap-expect={expect}"))
}

/// All nodes come back at once, each at an address that nobody knows, and find each other by their seeds.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_has_moved_as_a_whole_finds_itself_by_its_seeds() {
    let mut cluster = three();
    let mut subscriber = cluster.nodes[0].durable(Version::V5, "s").await;
    subscriber.subscribe("a", 1).await;
    subscriber.disconnect().await;
    let mut publisher = cluster.nodes[1].clean(Version::V5, "p").await;
    publisher.publish(publish("a", "before").qos(1)).await;
    for node in &mut cluster.nodes {
        node.kill();
    }
    let ports: Vec<u16> = (0..3).map(|_| cluster_port()).collect();
    for (index, node) in cluster.nodes.iter_mut().enumerate() {
        // The first is everybody's seed; it hears of the others when they ask.
        let config = config(&format!("node-{}", index + 1), ports[index], &ports[..1], 3);
        node.set_config(config);
        node.begin_restart();
    }
    for node in &mut cluster.nodes {
        node.wait_until_listening();
        node.wait_until_ready();
    }
    let mut subscriber = cluster.nodes[2].durable(Version::V5, "s").await;
    subscriber.expect("before").await;
    let mut publisher = cluster.nodes[1].clean(Version::V5, "p").await;
    publisher.publish(publish("a", "after").qos(1)).await;
    subscriber.expect("after").await;
}

/// Two clusters of one name do not merge: a node that belongs to one says that its seed belongs to the other.
#[tokio::test(flavor = "multi_thread")]
async fn clusters_of_one_name_do_not_merge() {
    let ports = [cluster_port(), cluster_port()];
    let mut one = Broker::start(BINARY, config("one", ports[0], &ports[..1], 1));
    let other = Broker::start(BINARY, config("other", ports[1], &ports[1..], 1));
    one.wait_until_ready();
    other.wait_until_ready();
    one.kill();
    one.set_config(config("one", ports[0], &ports[1..], 1));
    one.restart();
    one.wait_until_ready();
    one.wait_for_log("it belongs to another cluster of the same name");
    for (broker, name) in [(&one, "one"), (&other, "other")] {
        let mut client = broker.clean(Version::V5, name).await;
        client.subscribe("a", 1).await;
        client.publish(publish("a", name).qos(1)).await;
        client.expect(name).await;
        client.ping().await;
        assert!(client.waiting().is_none(), "{name} hears of itself alone");
    }
}

/// A node that comes with an empty volume while the others are down waits for them, and founds nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_volume_waits_for_the_others_and_founds_nothing() {
    let mut cluster = three();
    let mut subscriber = cluster.nodes[1].durable(Version::V5, "s").await;
    subscriber.subscribe("a", 1).await;
    subscriber.disconnect().await;
    let mut publisher = cluster.nodes[1].clean(Version::V5, "p").await;
    publisher.publish(publish("a", "kept").qos(1)).await;
    for node in &mut cluster.nodes {
        node.kill();
    }
    let data = cluster.nodes[0].directory().join("data");
    std::fs::remove_dir_all(&data).expect("it is there");
    cluster.nodes[0].begin_restart();
    cluster.nodes[0].wait_for_log("still looking for the cluster");
    assert!(!cluster.nodes[0].log().contains("belongs to a cluster"));
    for node in &mut cluster.nodes[1..] {
        node.begin_restart();
    }
    for node in &mut cluster.nodes {
        node.wait_until_listening();
        node.wait_until_ready();
    }
    let mut subscriber = cluster.nodes[0].durable(Version::V5, "s").await;
    subscriber.expect("kept").await;
}

/// A node that comes with an empty volume while the others are up is taken in again, as a new node.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_volume_is_taken_in_while_the_others_are_up() {
    let mut cluster = three();
    let mut subscriber = cluster.nodes[1].durable(Version::V5, "s").await;
    subscriber.subscribe("a", 1).await;
    subscriber.disconnect().await;
    cluster.nodes[0].kill();
    let mut publisher = cluster.nodes[1].clean(Version::V5, "p").await;
    publisher.publish(publish("a", "kept").qos(1)).await;
    std::fs::remove_dir_all(cluster.nodes[0].directory().join("data")).expect("it is there");
    cluster.restart(0);
    cluster.nodes[0].wait_for_log("the data directory is new");
    let names_it = |line: &str| {
        line.contains("\"WARN\"")
            && line.contains("with an empty data directory under the name of one that does not serve")
            && line.contains("\"name\":\"node-1\"")
    };
    let told = cluster.nodes[1..].iter().map(|node| {
        let log = node.log();
        log.lines().filter(|line| names_it(line)).count()
    });
    assert_eq!(told.sum::<usize>(), 1, "who has taken it in names it");
    let mut subscriber = cluster.nodes[0].durable(Version::V5, "s").await;
    subscriber.expect("kept").await;
}
