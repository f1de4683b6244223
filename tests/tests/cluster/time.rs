//! Group time where wall clocks jump, and where all nodes were stopped (R32).

use std::time::{Duration, Instant};

use quorate_tests::Version;
use quorate_tests::broker::Broker;
use quorate_tests::wire::{Property, Will, connect, disconnect, publish};

use super::disks::Breakable;

/// Reason code of a DISCONNECT that wants the will published.
const WITH_WILL: u8 = 0x04;
const HOUR: u32 = 3_600;
const DAYS: i64 = 3 * 86_400;

/// Wall clocks that jump by days end no message's life and no session, on whichever node; and lifetimes go on.
#[tokio::test(flavor = "multi_thread")]
async fn r32_wall_clocks_that_jump_are_not_believed() {
    let breakable = Breakable::start();
    let nodes = &breakable.cluster.nodes;
    let mut set = [0; 3];
    for (round, (node, secs)) in [(0, DAYS), (1, -DAYS), (2, DAYS), (0, 0)].into_iter().enumerate() {
        let id = format!("s {round}");
        let mut subscriber = nodes[node].durable(Version::V5, &id).await;
        subscriber.subscribe("a", 1).await;
        subscriber.disconnect().await;
        // What is published shortly after its end may have been sent on a connection, as far as clocks can tell.
        let_time_pass(&nodes[node]).await;
        let mut publisher = nodes[(node + 1) % 3].clean(Version::V5, "p").await;
        let text = round.to_string();
        let lives = Property::MessageExpiry(3_600);
        publisher
            .publish(publish("a", &text).qos(1).property(lives))
            .await;
        breakable.set_clock(node, secs);
        let soon = Property::MessageExpiry(1);
        publisher
            .publish(publish("a", "gone").qos(1).property(soon))
            .await;
        // The process has seen the jump, and that life has ended.
        set[node] += 1;
        let is_told = |log: &str| log.matches("the machine's clock was set").count() == set[node];
        wait_until(|| is_told(&nodes[node].log()), "the jump is told once");
        let_time_pass(&nodes[(node + 1) % 3]).await;
        let mut subscriber = nodes[(node + 2) % 3].durable(Version::V5, &id).await;
        let message = subscriber.receive().await;
        assert_eq!(message.text(), text);
        let rest = message.properties.message_expiry();
        assert!(
            rest.is_some_and(|rest| (3_500..=3_600).contains(&rest)),
            "{message:?}"
        );
        subscriber.ping().await;
        assert_eq!(subscriber.waiting(), None);
        subscriber.disconnect().await;
    }
    for (node, set) in nodes.iter().zip(set) {
        assert_eq!(node.admin("/readyz").0, 200);
        assert_eq!(node.log().matches("the machine's clock was set").count(), set);
        assert_eq!(
            node.log().matches("quorate starts").count(),
            1,
            "nobody fell silent"
        );
    }
}

/// Lets two seconds of group time pass: as long as a will waits.
async fn let_time_pass(node: &Broker) {
    let mut watcher = node.clean(Version::V5, "watcher").await;
    watcher.subscribe("passed", 1).await;
    let will = Will::new("passed", "two seconds").qos(1).delay(2);
    let willing = node
        .client(Version::V5, &connect("willing").expiry(600).will(will))
        .await;
    willing.disconnect_with(&disconnect().code(WITH_WILL)).await;
    watcher.expect("two seconds").await;
    watcher.disconnect().await;
}

fn wait_until(is_met: impl Fn() -> bool, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_met() {
        assert!(Instant::now() < deadline, "it never came about: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How long all nodes were stopped counts, by the clocks of a majority: one whose clock is days ahead ends nothing, and so
/// many hours end what lives shorter, sessions and messages.
#[tokio::test(flavor = "multi_thread")]
async fn r32_a_stop_of_all_nodes_counts_as_a_majority_of_clocks_has_it() {
    let mut breakable = Breakable::start();
    let nodes = &breakable.cluster.nodes;
    for (id, hours) in [("short", 1), ("long", 24)] {
        let session = connect(id).resume().expiry(hours * HOUR);
        let mut subscriber = nodes[0].client(Version::V5, &session).await;
        subscriber.subscribe("a", 1).await;
        subscriber.disconnect().await;
    }
    // What is published shortly after their end may have been sent on a connection, as far as clocks can tell.
    let_time_pass(&nodes[0]).await;
    let mut publisher = nodes[1].clean(Version::V5, "p").await;
    for (text, hours) in [("soon", 1), ("later", 24)] {
        let lives = Property::MessageExpiry(hours * HOUR);
        publisher.publish(publish("a", text).qos(1).property(lives)).await;
    }
    let off = i64::from(2 * HOUR);
    for (clocks, is_past) in [([DAYS, 0, 0], false), ([DAYS, off, off], true)] {
        for node in &mut breakable.cluster.nodes {
            node.kill();
        }
        for (node, secs) in clocks.into_iter().enumerate() {
            breakable.set_clock(node, secs);
        }
        for node in &mut breakable.cluster.nodes {
            node.begin_restart();
        }
        for node in &mut breakable.cluster.nodes {
            node.wait_until_listening();
            node.wait_until_ready();
        }
        let session = connect("short").resume().expiry(HOUR);
        let mut client = breakable.cluster.nodes[2].raw(Version::V5).await;
        let present = client.connect(&session).await.session_present;
        assert_eq!(present, !is_past, "{clocks:?}");
        let nodes = &breakable.cluster.nodes;
        let is_told = |node: &Broker| {
            node.log()
                .contains("by the clocks of a majority all nodes were stopped")
        };
        assert_eq!(nodes.iter().any(is_told), is_past, "{clocks:?}");
        client.send(&disconnect()).await;
        client.expect_closed().await;
    }
    let session = connect("long").resume().expiry(24 * HOUR);
    let mut subscriber = breakable.cluster.nodes[2].client(Version::V5, &session).await;
    let message = subscriber.receive().await;
    assert_eq!(message.text(), "later");
    let rest = message.properties.message_expiry();
    let expected = 22 * HOUR - 300..=22 * HOUR;
    assert!(rest.is_some_and(|rest| expected.contains(&rest)), "{message:?}");
    subscriber.ping().await;
    assert_eq!(subscriber.waiting(), None);
}
