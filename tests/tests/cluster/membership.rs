//! How nodes come into a cluster, and who does not.

use quorate_tests::Version;
use quorate_tests::broker::{Broker, Config};
use quorate_tests::cluster::{Cluster, cluster_port};
use quorate_tests::wire::publish;

const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");

/// A node that comes later is taken in, and what was there before is there too.
#[tokio::test(flavor = "multi_thread")]
async fn one_node_grows_to_three() {
    let mut cluster = Cluster::start(BINARY, 1);
    let mut subscriber = cluster.nodes[0].durable(Version::V5, "s").await;
    subscriber.subscribe("a", 1).await;
    subscriber.disconnect().await;
    let mut publisher = cluster.nodes[0].clean(Version::V5, "p").await;
    publisher.publish(publish("a", "before").qos(1)).await;
    cluster.add_node(BINARY);
    cluster.add_node(BINARY);
    publisher.publish(publish("a", "after").qos(1)).await;
    let mut late = cluster.nodes[2].clean(Version::V5, "late").await;
    late.publish(publish("a", "from the third").qos(1)).await;
    let mut subscriber = cluster.nodes[1].durable(Version::V5, "s").await;
    let mut texts = subscriber.receive_texts(3).await;
    texts.sort();
    assert_eq!(texts, ["after", "before", "from the third"]);
    // Now any one of them may go.
    cluster.nodes[0].kill();
    let mut publisher = cluster.nodes[1].clean(Version::V5, "p").await;
    publisher.publish(publish("a", "without the first").qos(1)).await;
    subscriber.expect("without the first").await;
}

/// A node whose configuration names another cluster is told, and ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_cluster_is_refused() {
    let cluster = Cluster::start(BINARY, 1);
    let port = cluster_port();
    let config = Config::default()
        .named("stranger")
        .listener("mqtt", "mqtt", "")
        .argument("--allow-anonymous")
        .argument("--cluster-name=other")
        .argument(&format!("--cluster-listen=127.0.0.1:{port}"))
        .argument(&format!("--join={}", cluster.seed(0)));
    let mut stranger = Broker::spawn(BINARY, config);
    assert!(!stranger.wait_for_exit().success());
    stranger.wait_for_log("check cluster.name");
}

/// A node that no seed answers waits, and says for whom; one that comes later is found.
#[tokio::test(flavor = "multi_thread")]
async fn a_seed_that_is_not_there_yet_is_waited_for() {
    let (seed, port) = (cluster_port(), cluster_port());
    let config = |name: &str, port: u16, more: &str| {
        Config::default()
            .named(name)
            .listener("mqtt", "mqtt", "")
            .argument("--allow-anonymous")
            .argument(&format!("--cluster-listen=127.0.0.1:{port}"))
            .argument(more)
    };
    let join = format!("--join=not-there.invalid:1,127.0.0.1:{seed}");
    let mut waiting = Broker::spawn(BINARY, config("waiting", port, &join));
    waiting.wait_for_log("still looking for the cluster");
    let line = |line: &&str| line.contains("still looking for the cluster");
    let log = waiting.log();
    let line = log.lines().find(line).expect("it was waited for");
    assert!(
        line.contains("not-there.invalid:1") && line.contains(&format!("127.0.0.1:{seed}")),
        "it names both seeds: {line}"
    );
    let first = Broker::start(BINARY, config("first", seed, "--bootstrap-expect=1"));
    waiting.wait_until_listening();
    waiting.wait_until_ready();
    drop(first);
}

/// R6, R42: a node alone stores nothing of its clean sessions until somebody joins; who joins gets all of them.
#[tokio::test(flavor = "multi_thread")]
async fn r42_clean_sessions_of_a_node_alone_are_known_to_who_joins() {
    let mut cluster = Cluster::start(BINARY, 1);
    let mut subscriber = cluster.nodes[0].clean(Version::V5, "live").await;
    subscriber.subscribe("a", 1).await;
    // More entries than the log keeps.
    for number in 0..400 {
        let client = cluster.nodes[0]
            .clean(Version::V5, &format!("c{}", number % 7))
            .await;
        client.disconnect().await;
    }
    cluster.add_node(BINARY);
    cluster.add_node(BINARY);
    let mut publisher = cluster.nodes[2].clean(Version::V5, "p").await;
    publisher.publish(publish("a", "from the third").qos(1)).await;
    subscriber.expect("from the third").await;
}
