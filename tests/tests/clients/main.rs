//! Clients that people use, unmodified, against the broker: messages at every QoS, large ones, retained ones, and such
//! that wait for an absent session, over TCP and WebSocket, at every version the client speaks.
//!
//! `tests/clients/setup` installs the Python and JavaScript libraries at pinned versions; the Mosquitto tools come from
//! the system.

mod mosquitto;
mod rumqttc_client;

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use quorate_tests::broker::{Broker, Config, Shared};

/// How long a client may take for all it does.
const DEADLINE: Duration = Duration::from_secs(60);

/// The broker all tests share.
fn broker() -> Shared {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    Shared(BROKER.get_or_init(|| Broker::start(env!("CARGO_BIN_EXE_quorate-under-test"), Config::new())))
}

/// A path below `tests/clients`.
fn client_file(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("clients")
        .join(name);
    assert!(
        path.exists(),
        "{} is not there: run tests/clients/setup first",
        path.display()
    );
    path
}

/// Runs the command, which must succeed in time, and returns what it wrote.
fn run(mut command: Command) -> Output {
    let description = format!("{command:?}");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{description}: {error}"));
    let deadline = Instant::now() + DEADLINE;
    while child.try_wait().expect("the child is ours").is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let in_time = child.try_wait().expect("the child is ours").is_some();
    if !in_time {
        child.kill().expect("the child is ours");
    }
    let output = child.wait_with_output().expect("the child is ours");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(in_time, "{description} is not done after {DEADLINE:?}:\n{text}");
    assert!(
        output.status.success(),
        "{description}: {}\n{text}",
        output.status
    );
    output
}

fn python(script: &str, arguments: &[&str]) {
    let mut command = Command::new(client_file("installed/python/bin/python"));
    command.arg(client_file(script)).args(arguments);
    run(command);
}

fn paho(listener: &str, transport: &str) {
    let broker = broker();
    let port = broker.address(listener).port().to_string();
    for version in ["3.1", "3.1.1", "5"] {
        python("with_paho.py", &["127.0.0.1", &port, transport, version]);
    }
}

#[test]
fn paho_over_tcp() {
    paho("mqtt", "tcp");
}

#[test]
fn paho_over_websocket() {
    paho("ws", "websockets");
}

#[test]
fn gmqtt_over_tcp() {
    let broker = broker();
    for version in ["3.1.1", "5"] {
        python(
            "with_gmqtt.py",
            &["127.0.0.1", &broker.mqtt().port().to_string(), version],
        );
    }
}

fn mqttjs(url: &str) {
    client_file("installed/node_modules/mqtt");
    for version in ["3.1", "3.1.1", "5"] {
        let mut command = Command::new("node");
        command.arg(client_file("with_mqttjs.js")).args([url, version]);
        run(command);
    }
}

#[test]
fn mqttjs_over_tcp() {
    let broker = broker();
    mqttjs(&format!("mqtt://{}", broker.mqtt()));
}

#[test]
fn mqttjs_over_websocket() {
    let broker = broker();
    mqttjs(&format!("ws://{}/mqtt", broker.address("ws")));
}
