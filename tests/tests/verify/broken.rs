//! Brokers that break the promise are caught, each under its own name.

use quorate_proto::codec::QoS;

use crate::check::{Check, Outcome};
use crate::double::{
    Corrupt, Double, DropSession, ForgetDisconnect, Hide, Lose, OldValue, Proxy, Swap, Trick,
};
use crate::start;

/// Leaves the main stream alone.
const STREAM_ONLY: [&str; 6] = ["--retained", "0", "--wills", "0", "--shared", "0"];

/// Checks a broker behind a double.
async fn check(trick: impl Trick, arguments: &[&str]) -> Outcome {
    let broker = start();
    let proxy = Proxy::start(broker.mqtt(), trick).await;
    Check::start(&[proxy.address()], arguments).outcome().await
}

async fn check_stream(trick: impl Trick, arguments: &[&str]) -> Outcome {
    check(trick, &[&STREAM_ONLY, arguments].concat()).await
}

#[tokio::test]
async fn a_message_lost_after_its_acknowledgement() {
    for qos in ["1", "2"] {
        let outcome = check_stream(Lose::new("stream", 100), &["--qos", qos]).await;
        outcome.assert_violated_only("lost");
        let missing = outcome.count("acknowledged") - outcome.count("delivered");
        assert_eq!(outcome.count("lost"), missing);
    }
}

#[tokio::test]
async fn a_message_of_qos_2_delivered_twice() {
    let outcome = check_stream(Double::new("stream", QoS::ExactlyOnce, 100), &[]).await;
    outcome.assert_violated_only("duplicates_qos2");
}

/// What QoS 2 forbids, QoS 1 allows.
#[tokio::test]
async fn a_message_of_qos_1_delivered_twice_is_no_violation() {
    let outcome = check_stream(Double::new("stream", QoS::AtLeastOnce, 100), &[]).await;
    outcome.assert_held();
    assert!(outcome.count("duplicates_qos1") > 0);
}

#[tokio::test]
async fn messages_out_of_order() {
    for version in ["3.1.1", "5"] {
        let outcome = check_stream(Swap::default(), &["--version", version]).await;
        outcome.assert_violated_only("order_violations");
    }
}

#[tokio::test]
async fn a_message_that_was_changed() {
    // Nobody gets the message itself.
    let outcome = check_stream(Corrupt::default(), &[]).await;
    outcome.assert_violated("corrupted");
    outcome.assert_violated("lost");
}

#[tokio::test]
async fn a_publisher_whose_session_was_dropped() {
    for qos in ["1", "2"] {
        let outcome = check_stream(DropSession::new("p0"), &["--qos", qos]).await;
        outcome.assert_violated_only("sessions_lost");
        assert_eq!(outcome.count("sessions_lost"), 1);
    }
}

#[tokio::test]
async fn a_subscriber_whose_session_was_dropped() {
    let outcome = check_stream(DropSession::new("s1"), &["--version", "3.1.1"]).await;
    outcome.assert_violated("sessions_lost");
    assert_eq!(outcome.count("sessions_lost"), 1);
}

#[tokio::test]
async fn an_old_retained_value() {
    let outcome = check(OldValue::default(), &["--wills", "0", "--shared", "0"]).await;
    outcome.assert_violated_only("stale_retained");
}

#[tokio::test]
async fn no_retained_value() {
    let outcome = check(Hide::Retained, &["--wills", "0", "--shared", "0"]).await;
    outcome.assert_violated_only("stale_retained");
}

#[tokio::test]
async fn a_will_that_does_not_come() {
    let outcome = check(Hide::Wills, &["--retained", "0", "--shared", "0"]).await;
    outcome.assert_violated_only("wills_missing");
    assert_eq!(outcome.count("wills_delivered"), 0);
}

#[tokio::test]
async fn a_will_that_comes_twice() {
    for (qos, version) in [
        (QoS::AtLeastOnce, "5"),
        (QoS::ExactlyOnce, "5"),
        (QoS::AtLeastOnce, "3.1.1"),
    ] {
        let arguments = ["--retained", "0", "--shared", "0", "--version", version];
        let outcome = check(Double::new("will", qos, 1), &arguments).await;
        outcome.assert_violated_only("wills_doubled");
    }
}

#[tokio::test]
async fn a_will_although_its_client_left_in_order() {
    let outcome = check(ForgetDisconnect, &["--retained", "0", "--shared", "0"]).await;
    outcome.assert_violated_only("wills_unwanted");
}

#[tokio::test]
async fn a_shared_message_that_reaches_no_member() {
    let outcome = check(Lose::new("shared", 50), &["--retained", "0", "--wills", "0"]).await;
    outcome.assert_violated_only("shared_lost");
}

#[tokio::test]
async fn a_shared_message_of_qos_2_delivered_twice() {
    let trick = Double::new("shared", QoS::ExactlyOnce, 50);
    let outcome = check(trick, &["--retained", "0", "--wills", "0"]).await;
    outcome.assert_violated_only("shared_duplicates_qos2");
}
