//! Load beside what a test does to a cluster, judged by `quorate verify`.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quorate_tests::broker::Config;
use quorate_tests::cluster::{Cluster, cluster_port};

use super::BINARY;

/// A run of `quorate verify` beside what the test does.
pub(crate) struct Verify {
    child: Child,
    result: tempfile::TempDir,
    began: Instant,
    secs: u64,
}

/// The shortest load that is judged.
const LOAD_MIN: Duration = Duration::from_secs(10);

impl Verify {
    pub(crate) fn start(targets: &[SocketAddr], secs: u64) -> Self {
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
    pub(crate) fn assert_runs(&self, done: &str) {
        let elapsed = self.began.elapsed();
        assert!(
            elapsed.as_secs() < self.secs,
            "{done} after {elapsed:?}: the load has ended before"
        );
    }

    /// Ends the load, and judges it.
    pub(crate) fn assert_held(mut self) {
        if std::env::var_os("QUORATE_LONG_CLUSTER").is_none() {
            std::thread::sleep(LOAD_MIN.saturating_sub(self.began.elapsed()));
            let ended = Command::new("kill")
                .args(["-INT", &self.child.id().to_string()])
                .status();
            assert!(ended.expect("kill runs").success());
        }
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
pub(crate) fn at(config: Config, address: SocketAddr) -> Config {
    config.listener_at("known", "mqtt", &address.to_string(), "")
}

/// Three nodes, and where clients reach them.
pub(crate) fn three_at_known_addresses(binary: &str) -> (Cluster, Vec<SocketAddr>) {
    let addresses: Vec<SocketAddr> = (0..3)
        .map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, cluster_port())))
        .collect();
    let next = AtomicUsize::new(0);
    let cluster = Cluster::start_with(binary, 3, |config| {
        at(config, addresses[next.fetch_add(1, Ordering::Relaxed)])
    });
    (cluster, addresses)
}
