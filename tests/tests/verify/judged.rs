//! When there is nothing to judge, and how a run is asked for and ended.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use quorate_tests::broker::{Broker, Config};
use quorate_tests::scram::verifier;
use tokio::time::sleep;

use crate::check::Check;
use crate::double::{Deny, Proxy, Stall};
use crate::start;

const STREAM_ONLY: [&str; 6] = ["--retained", "0", "--wills", "0", "--shared", "0"];

/// An address where nobody listens.
fn nowhere() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("it is bound")
}

#[tokio::test]
async fn a_broker_that_is_not_there() {
    let outcome = Check::start(&[nowhere()], &["--setup-wait", "1s"])
        .outcome()
        .await;
    outcome.assert_not_judged("nothing was acknowledged: 0 of");
    assert_eq!(outcome.count("acknowledged"), 0);
}

#[tokio::test]
async fn a_broker_that_acknowledges_nothing() {
    let broker = start();
    let proxy = Proxy::start(broker.mqtt(), Deny::Acknowledgements).await;
    let arguments = [&STREAM_ONLY[..], &["--drain-wait", "1s"]].concat();
    let outcome = Check::start(&[proxy.address()], &arguments).outcome().await;
    outcome.assert_not_judged("nothing was acknowledged");
    assert!(outcome.count("unacknowledged") > 0);
    assert!(outcome.count("longest_wait_ms") >= 2_000, "they still wait");
}

#[tokio::test]
async fn a_broker_that_delivers_nothing() {
    let broker = start();
    let proxy = Proxy::start(broker.mqtt(), Deny::Messages).await;
    let arguments = [&STREAM_ONLY[..], &["--drain-wait", "1s"]].concat();
    let outcome = Check::start(&[proxy.address()], &arguments).outcome().await;
    outcome.assert_not_judged("nothing was delivered");
    assert!(outcome.count("acknowledged") > 0);
}

#[tokio::test]
async fn a_command_that_fails() {
    let broker = start();
    let arguments = [&STREAM_ONLY[..], &["--at", "500ms:exit 3", "--at", "1s:true"]].concat();
    let outcome = Check::start(&[broker.mqtt()], &arguments).outcome().await;
    outcome.assert_not_judged("ended with 3");
    assert!(outcome.count("delivered") > 0);
    let faults = &outcome.json["faults"];
    assert_eq!(
        (&faults[0]["at_ms"], &faults[0]["exit_code"]),
        (&500.into(), &3.into())
    );
    assert_eq!(
        (&faults[1]["at_ms"], &faults[1]["exit_code"]),
        (&1_000.into(), &0.into())
    );
    assert_eq!(faults[1]["command"], "true");
}

#[tokio::test]
async fn a_command_that_succeeds() {
    let broker = start();
    let arguments = [&STREAM_ONLY[..], &["--at", "500ms:echo done"]].concat();
    let outcome = Check::start(&[broker.mqtt()], &arguments).outcome().await;
    outcome.assert_held();
    let began = outcome.json["faults"][0]["began_at_ms"].as_u64();
    assert!(
        began.is_some_and(|began| (500..1_500).contains(&began)),
        "{:#}",
        outcome.json
    );
    assert!(!outcome.table.starts_with("done"), "{}", outcome.table);
}

#[tokio::test]
async fn sigint_ends_the_load_and_what_was_acknowledged_is_judged() {
    let broker = start();
    let check = Check::start(&[broker.mqtt()], &["--duration", "10m"]);
    sleep(Duration::from_secs(2)).await;
    interrupt(&check);
    let outcome = check.outcome().await;
    outcome.assert_held();
    assert!(outcome.count("duration_ms") < 60_000);
}

#[tokio::test]
async fn a_command_that_did_not_happen() {
    let broker = start();
    let arguments = [&STREAM_ONLY[..], &["--duration", "10m", "--at", "5m:true"]].concat();
    let check = Check::start(&[broker.mqtt()], &arguments);
    sleep(Duration::from_secs(2)).await;
    interrupt(&check);
    check.outcome().await.assert_not_judged("did not happen");
}

fn interrupt(check: &Check) {
    let kill = Command::new("kill")
        .args(["-INT", &check.pid().to_string()])
        .status();
    assert!(kill.is_ok_and(|status| status.success()));
}

#[tokio::test]
async fn wrong_usage() {
    for arguments in [
        &["--qos", "0"][..],
        &["--at", "10s"],
        &["--at", "1h:true"],
        &["--publishers", "0"],
        &["--payload", "1"],
        &["--password-file", "/nowhere/password"],
    ] {
        let outcome = Check::start(&[nowhere()], arguments).outcome().await;
        assert_eq!(
            (outcome.exit_code, outcome.table.as_str()),
            (Some(2), ""),
            "{arguments:?}"
        );
    }
}

/// A subscriber that acknowledges nothing for a while gets a full queue, and the broker turns away what another
/// subscriber takes. By its metrics that is its policy; without them it cannot be told from a loss.
#[tokio::test]
async fn what_a_full_queue_turns_away_is_dropped_by_policy() {
    let config = Config::new()
        .toml("[session]\nqueue_messages_max = 20")
        .argument("--log-level")
        .argument("info");
    for has_metrics in [true, false] {
        let broker = Broker::start(env!("CARGO_BIN_EXE_quorate-under-test"), config.clone());
        let proxy = Proxy::start(broker.mqtt(), Stall::default()).await;
        let admin = broker.address("admin").to_string();
        let mut arguments = [&STREAM_ONLY[..], &["--fan-out", "--duration", "4s"]].concat();
        if has_metrics {
            arguments.extend(["--admin-urls", &admin]);
        }
        let outcome = Check::start(&[proxy.address()], &arguments).outcome().await;
        if has_metrics {
            assert_eq!(outcome.json["verdict"], "held", "{:#}", outcome.json);
            assert!(outcome.count("dropped_by_policy") > 0, "{:#}", outcome.json);
        } else {
            outcome.assert_violated_only("lost");
        }
    }
}

#[tokio::test]
async fn user_and_password() {
    let verifier = verifier("pencil");
    let users = format!("[[auth.user]]\nname = \"ann\"\npassword = {verifier:?}");
    let broker = Broker::start(
        env!("CARGO_BIN_EXE_quorate-under-test"),
        Config::new().toml(&users),
    );
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("password");
    for (password, verdict) in [("pencil\n", "held"), ("pen\n", "not judged")] {
        std::fs::write(&file, password).expect("the temporary directory is writable");
        let file = file.to_str().expect("the path is UTF-8");
        let credentials = ["--user", "ann", "--password-file", file, "--setup-wait", "5s"];
        let arguments = [&STREAM_ONLY[..], &credentials].concat();
        let outcome = Check::start(&[broker.mqtt()], &arguments).outcome().await;
        assert_eq!(outcome.json["verdict"], verdict, "{:#}", outcome.json);
    }
}
