//! `quorate verify` as a process.

use std::net::SocketAddr;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::{Child, Command};

/// A run in which every kind of client takes part, as short as it can be.
const SHORT: [(&str, &str); 10] = [
    ("--duration", "2s"),
    ("--publishers", "4"),
    ("--subscribers", "2"),
    ("--in-flight", "10"),
    ("--rate", "1000"),
    ("--quiet-time", "300ms"),
    ("--setup-wait", "20s"),
    ("--drain-wait", "3s"),
    ("--silence", "3s"),
    ("--seed", "7"),
];

/// A run, and what it found.
pub(crate) struct Check {
    child: Child,
    directory: tempfile::TempDir,
}

/// What a run found.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) exit_code: Option<i32>,
    /// The JSON file; null where there is none.
    pub(crate) json: Value,
    pub(crate) table: String,
}

impl Check {
    /// Starts a short run; `arguments` add to it or change it.
    pub(crate) fn start(targets: &[SocketAddr], arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let targets: Vec<_> = targets.iter().map(ToString::to_string).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate-under-test"));
        command
            .args(["verify", "--targets", &targets.join(",")])
            .args(arguments)
            .arg("--json")
            .arg(directory.path().join("result.json"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        for (option, value) in SHORT {
            if !arguments.contains(&option) {
                command.args([option, value]);
            }
        }
        let child = command.spawn().expect("the program under test starts");
        Self { child, directory }
    }

    /// Process identifier.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it has not been waited for")
    }

    /// Waits for the end.
    pub(crate) async fn outcome(self) -> Outcome {
        let output = self.child.wait_with_output().await.expect("it is our child");
        let json = std::fs::read(self.directory.path().join("result.json")).unwrap_or_default();
        let outcome = Outcome {
            exit_code: output.status.code(),
            json: serde_json::from_slice(&json).unwrap_or_default(),
            table: String::from_utf8(output.stdout).expect("the table is text"),
        };
        println!("{}", outcome.table);
        outcome
    }
}

impl Outcome {
    /// A figure.
    pub(crate) fn count(&self, key: &str) -> u64 {
        let count = self.json[key].as_u64();
        count.unwrap_or_else(|| panic!("no count {key} in {:#}", self.json))
    }

    /// The promise held, and something was seen.
    pub(crate) fn assert_held(&self) {
        assert_eq!(self.json["verdict"], "held", "{:#}", self.json);
        assert_eq!(self.exit_code, Some(0));
        assert!(self.count("acknowledged") > 100, "{:#}", self.json);
        assert_eq!(self.count("acknowledged"), self.count("delivered"));
    }

    /// It was violated, in this way.
    pub(crate) fn assert_violated(&self, key: &str) {
        assert_eq!(self.json["verdict"], "violated", "{:#}", self.json);
        assert_eq!(self.exit_code, Some(1));
        assert!(self.count(key) > 0, "{key} is 0 in {:#}", self.json);
        assert!(self.reasons().contains(&format!("{key} is")), "{:#}", self.json);
        assert!(self.table.contains("violated"), "{}", self.table);
    }

    /// It was violated in this way alone.
    pub(crate) fn assert_violated_only(&self, key: &str) {
        self.assert_violated(key);
        assert_eq!(
            self.json["reasons"].as_array().map(Vec::len),
            Some(1),
            "{:#}",
            self.json
        );
    }

    /// There was nothing to judge, for this reason.
    pub(crate) fn assert_not_judged(&self, reason: &str) {
        assert_eq!(self.json["verdict"], "not judged", "{:#}", self.json);
        assert_eq!(self.exit_code, Some(2));
        assert!(self.reasons().contains(reason), "{:#}", self.json);
    }

    fn reasons(&self) -> String {
        self.json["reasons"].to_string()
    }
}
