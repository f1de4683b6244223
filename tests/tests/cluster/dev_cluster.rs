//! `quorate dev-cluster`.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use quorate_tests::Version;
use quorate_tests::client::Client;
use quorate_tests::wire::{connect, publish};

/// It tells of each node once it is ready, says when one ends, and ends in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_dev_cluster_runs_until_it_is_told_to_stop() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut cluster = Command::new(env!("CARGO_BIN_EXE_quorate-under-test"))
        .args(["dev-cluster", "--nodes", "3", "--json"])
        .args([
            "--base-port",
            "0",
            "--base-admin-port",
            "0",
            "--base-cluster-port",
            "0",
        ])
        .arg("--data-dir")
        .arg(directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let lines = BufReader::new(cluster.stdout.take().expect("piped")).lines();
    let nodes: Vec<serde_json::Value> = lines
        .take(3)
        .map(|line| serde_json::from_str(&line.expect("a line")).expect("JSON"))
        .collect();
    let names: Vec<&str> = nodes.iter().filter_map(|node| node["node"].as_str()).collect();
    assert_eq!(
        {
            let mut names = names;
            names.sort_unstable();
            names
        },
        ["node1", "node2", "node3"]
    );
    let mqtt = |node: usize| -> SocketAddr {
        let text = nodes[node]["mqtt"].as_str().expect("an address");
        text.parse().expect("an address")
    };
    let mut subscriber = Client::connect(mqtt(0), Version::V5, &connect("s")).await;
    subscriber.subscribe("a", 1).await;
    let mut publisher = Client::connect(mqtt(1), Version::V5, &connect("p")).await;
    publisher.publish(publish("a", "x").qos(1)).await;
    subscriber.expect("x").await;

    let signal = |name: &str, pid: String| {
        let sent = Command::new("kill").args([format!("-{name}"), pid]).status();
        assert!(sent.expect("kill runs").success());
    };
    signal("KILL", nodes[2]["pid"].to_string());
    let mut told = BufReader::new(cluster.stderr.take().expect("piped")).lines();
    let line = told.next().expect("it says so").expect("text");
    let name = nodes[2]["node"].as_str().expect("a name");
    assert!(
        line.starts_with(&format!("{name} ended")) && line.contains("start it again"),
        "{line}"
    );
    signal("TERM", cluster.id().to_string());
    assert!(cluster.wait().expect("it ends").success());
    for node in &nodes {
        let pid = node["pid"].to_string();
        assert!(
            !std::path::Path::new("/proc").join(&pid).exists(),
            "{pid} still runs"
        );
    }
}
