//! Clusters that talk over TLS.

use quorate_tests::Version;
use quorate_tests::broker::{Broker, Config};
use quorate_tests::certificates::Authority;
use quorate_tests::cluster::{Cluster, cluster_port};
use quorate_tests::wire::publish;

const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");
const HERE: &[&str] = &["127.0.0.1"];

/// A node that asks another to be taken in.
fn newcomer(name: &str, seed: &str, tables: &str) -> Broker {
    let config = Config::default()
        .named(name)
        .listener("mqtt", "mqtt", "")
        .toml(tables)
        .argument("--allow-anonymous")
        .argument(&format!("--cluster-listen=127.0.0.1:{}", cluster_port()))
        .argument(&format!("--join={seed}"));
    Broker::spawn(BINARY, config)
}

/// Nodes find each other and replicate over TLS; whoever has no certificate of their authority is refused, at both ends
/// with a line in the log that says why.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_certificates_lets_in_nobody_else() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (ours, theirs) = (Authority::new(), Authority::new());
    let tables = ours.issue(directory.path(), HERE);
    let cluster = Cluster::start_with(BINARY, 3, |config| config.toml(&tables));
    let mut subscriber = cluster.nodes[0].durable(Version::V5, "s").await;
    subscriber.subscribe("a", 2).await;
    let mut publisher = cluster.nodes[1].clean(Version::V5, "p").await;
    publisher.publish(publish("a", "x").qos(2)).await;
    subscriber.expect("x").await;

    let plain = newcomer("plain", &cluster.seed(0), "");
    cluster.nodes[0].wait_for_log("it does not speak TLS");
    // Its own line does not always name TLS: which end notices first is a race.
    plain.wait_for_log("still looking for the cluster");
    drop(plain);

    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    let tables = theirs.issue(elsewhere.path(), HERE);
    let stranger = newcomer("stranger", &cluster.seed(1), &tables);
    stranger.wait_for_log("invalid peer certificate");
    cluster.nodes[1].wait_for_log("is refused");
}

/// A node with certificates does not join a cluster without; both say so.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_certificates_does_not_join_a_cluster_without() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tables = Authority::new().issue(directory.path(), HERE);
    let cluster = Cluster::start(BINARY, 1);
    let newcomer = newcomer("careful", &cluster.seed(0), &tables);
    cluster.nodes[0].wait_for_log("it speaks TLS, and this node has no cluster.tls");
    newcomer.wait_for_log("in the TLS handshake");
}
