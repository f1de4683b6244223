//! Nodes that come and go under load, judged by `quorate verify`.
//!
//! With `QUORATE_LONG_CLUSTER` set the cluster grows to five nodes and shrinks to three.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quorate_tests::broker::Config;
use quorate_tests::cluster::{Cluster, cluster_port};

const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");

/// A run of `quorate verify` beside what the test does.
struct Verify {
    child: Child,
    result: tempfile::TempDir,
    began: Instant,
    secs: u64,
}

impl Verify {
    fn start(targets: &[SocketAddr], secs: u64) -> Self {
        let result = tempfile::tempdir().expect("a temporary directory");
        let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
        let child = Command::new(BINARY)
            .args(["verify", "--targets", &targets.join(",")])
            .args([
                "--duration",
                &format!("{secs}s"),
                "--rate",
                "300",
                "--in-flight",
                "5",
            ])
            .args([
                "--publishers",
                "6",
                "--subscribers",
                "6",
                "--silence",
                "3s",
                "--drain-wait",
                "45s",
            ])
            .arg("--json")
            .arg(result.path().join("result.json"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        Self {
            child,
            result,
            began: Instant::now(),
            secs,
        }
    }

    /// What is done has to have been done under load.
    fn assert_runs(&self, done: &str) {
        let elapsed = self.began.elapsed();
        assert!(
            elapsed.as_secs() < self.secs,
            "{done} after {elapsed:?}: the load has ended before"
        );
    }

    fn assert_held(mut self) {
        self.child.wait().expect("it is our child");
        let json = std::fs::read(self.result.path().join("result.json")).expect("a result");
        let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        println!("{json:#}");
        assert!(json["acknowledged"].as_u64() > Some(500), "{json:#}");
        assert_eq!(json["acknowledged"], json["delivered"], "{json:#}");
        for violation in [
            "lost",
            "duplicates_qos2",
            "order_violations",
            "sessions_lost",
            "wills_missing",
            "wills_doubled",
            "wills_unwanted",
            "shared_lost",
            "shared_duplicates_qos2",
            "corrupted",
            "protocol_errors",
            "dropped_by_policy",
            "stale_retained",
        ] {
            assert_eq!(json[violation], 0, "{violation}: {json:#}");
        }
    }
}

impl Drop for Verify {
    fn drop(&mut self) {
        // Where the test has failed before its end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A configuration with a listener for clients at an address that is known before the node starts.
fn at(config: Config, address: SocketAddr) -> Config {
    config.listener_at("known", "mqtt", &address.to_string(), "")
}

/// Three nodes, and where clients reach them.
fn three_at_known_addresses() -> (Cluster, Vec<SocketAddr>) {
    let addresses: Vec<SocketAddr> = (0..3)
        .map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, cluster_port())))
        .collect();
    let next = AtomicUsize::new(0);
    let cluster = Cluster::start_with(BINARY, 3, |config| {
        at(config, addresses[next.fetch_add(1, Ordering::Relaxed)])
    });
    (cluster, addresses)
}

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
    let (mut cluster, addresses) = three_at_known_addresses();
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
    let (mut cluster, addresses) = three_at_known_addresses();
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
