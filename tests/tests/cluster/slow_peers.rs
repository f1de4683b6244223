//! Nodes that take no deliveries for a while (R4): publishers do not wait for them, and who has lost something by that is
//! told so.

use std::time::{Duration, Instant};

use quorate_tests::Version;
use quorate_tests::broker::Broker;
use quorate_tests::client::{Event, RawClient};
use quorate_tests::cluster::Cluster;
use quorate_tests::wire::{Packet, connect, filter, publish};

use super::partitions::{Partitioned, block_on};
use super::three;

/// Longer than a node that is paused stays in the view.
const PAUSE_MAX: Duration = Duration::from_millis(1_300);

/// The node that leads `meta`, and the two others.
fn roles(cluster: &Cluster) -> (usize, usize, usize) {
    let leader = cluster.leader("meta");
    (leader, (leader + 1) % 3, (leader + 2) % 3)
}

fn is_disconnect(packet: &Packet) -> bool {
    matches!(packet, Packet::Disconnect(_))
}

/// A client of expiry 0 that has subscribed.
async fn live_subscriber(node: &Broker, id: &str, topic_filter: &str) -> RawClient {
    let mut client = node.raw_client(Version::V5, &connect(id)).await;
    client.subscribe([filter(topic_filter).qos(1)]).await;
    client
}

/// R4: more is published for a node that takes nothing than is kept for it. Its publishers go on, and of its live subscribers
/// those that would have got something of it are closed, without another publish; all others stay.
#[tokio::test(flavor = "multi_thread")]
async fn r4_only_who_would_have_got_what_was_dropped_is_closed() {
    let cluster = three();
    let (_, sender, slow) = roles(&cluster);
    let mut victim = live_subscriber(&cluster.nodes[slow], "victim", "lost/+").await;
    let mut bystander = live_subscriber(&cluster.nodes[slow], "bystander", "kept").await;
    let mut publisher = cluster.nodes[sender].raw_client(Version::V5, &connect("p")).await;
    let payload = "x".repeat(900 * 1024);
    cluster.nodes[slow].signal("STOP");
    let paused = Instant::now();
    for id in 1..=12 {
        publisher
            .send(&publish("lost/topic", &payload).qos(1).id(id))
            .await;
    }
    cluster.nodes[sender].wait_for_log("takes none are dropped");
    cluster.nodes[slow].signal("CONT");
    assert!(paused.elapsed() < PAUSE_MAX, "this machine is too slow");
    for _ in 1..=12 {
        assert!(publisher.expect_puback().await.code < 0x80);
    }
    // What was sent already may still have come.
    let packets = victim.drain_until_closed().await;
    assert!(packets.last().is_some_and(is_disconnect), "it is told why");
    publisher.send(&publish("kept", "after").qos(1).id(13)).await;
    assert!(publisher.expect_puback().await.code < 0x80);
    assert_eq!(bystander.expect_publish().await.payload, b"after"[..]);
    assert!(!cluster.nodes[slow].log().contains("starts anew"));
}

/// R4: what was acknowledged although a node had not accepted it is not missed in silence when the one that acknowledged it
/// ends: the live subscribers of the slow node are closed, although nobody else knows of the message.
#[test]
fn r4_who_missed_what_a_node_acknowledged_before_it_died_is_closed() {
    let Some(mut cluster) = Partitioned::start() else {
        return;
    };
    let leads = |node: &Broker| {
        let (_, metrics) = node.admin("/metrics");
        let mut lines = metrics.lines();
        lines.any(|line| {
            line.starts_with("quorate_raft_is_leader{") && line.contains("\"meta\"") && line.ends_with(" 1")
        })
    };
    let leader = cluster.nodes.iter().position(leads).expect("meta has a leader");
    let (sender, slow) = ((leader + 1) % 3, (leader + 2) % 3);
    block_on(async {
        let mut subscriber = live_subscriber(&cluster.nodes[slow], "s", "a").await;
        let mut quiet = live_subscriber(&cluster.nodes[leader], "quiet", "a").await;
        let mut publisher = cluster.nodes[sender].clean(Version::V5, "p").await;
        publisher.publish(publish("a", "before").qos(1)).await;
        assert_eq!(subscriber.expect_publish().await.payload, b"before"[..]);
        // The third node still reaches it, and nothing is relayed before the connection is given up.
        cluster.network.run(&cluster.network.cut_command(sender, slow));
        publisher.publish(publish("a", "missed").qos(1)).await;
        cluster.nodes[sender].kill();
        let packets = subscriber.drain_until_closed().await;
        assert!(packets.last().is_some_and(is_disconnect), "{packets:?}");
        cluster.nodes[slow].wait_for_log("may have acknowledged what has not come here");
        for payload in ["before", "missed"] {
            assert_eq!(quiet.expect_publish().await.payload, payload.as_bytes());
        }
        quiet.expect_alive().await;
        assert!(!cluster.nodes[slow].log().contains("starts anew"));
    });
}

/// R4: a node that takes its deliveries again has missed nothing: when who sent them ends, its subscribers stay.
#[tokio::test(flavor = "multi_thread")]
async fn r4_who_got_everything_late_stays_when_the_sender_dies() {
    let mut cluster = three();
    let (leader, sender, slow) = roles(&cluster);
    let mut subscriber = live_subscriber(&cluster.nodes[slow], "s", "a").await;
    let mut publisher = cluster.nodes[sender].clean(Version::V5, "p").await;
    cluster.nodes[slow].signal("STOP");
    let paused = Instant::now();
    publisher.publish(publish("a", "late").qos(1)).await;
    cluster.nodes[sender].wait_for_log("publishers do not wait for it");
    cluster.nodes[slow].signal("CONT");
    assert!(paused.elapsed() < PAUSE_MAX, "this machine is too slow");
    assert_eq!(subscriber.expect_publish().await.payload, b"late"[..]);
    cluster.nodes[sender].wait_for_log("\"stalled\":false");
    cluster.nodes[sender].kill();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (_, body) = cluster.nodes[slow].admin("/api/v1/status");
        let status: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        if status["cluster"]["serving"] == 2 {
            break;
        }
        assert!(Instant::now() < deadline, "{status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut publisher = cluster.nodes[leader].clean(Version::V5, "p2").await;
    publisher.publish(publish("a", "after").qos(1)).await;
    assert_eq!(subscriber.expect_publish().await.payload, b"after"[..]);
}

/// R4, R40: members of shared subscriptions at a node that takes nothing are lent nothing more; others get it at once. When
/// the node takes its deliveries again, they get their share.
#[tokio::test(flavor = "multi_thread")]
async fn r40_members_at_a_node_that_takes_nothing_are_lent_nothing() {
    const COUNT: usize = 10;
    let cluster = three();
    let (leader, sender, slow) = roles(&cluster);
    let mut away = live_subscriber(&cluster.nodes[slow], "away", "$share/g/jobs").await;
    let mut other = cluster.nodes[leader].clean(Version::V5, "other").await;
    other.subscribe("$share/g/jobs", 1).await;
    let mut witness = live_subscriber(&cluster.nodes[slow], "witness", "begun").await;
    let mut publisher = cluster.nodes[sender].clean(Version::V5, "p").await;
    cluster.nodes[slow].signal("STOP");
    let paused = Instant::now();
    publisher.publish(publish("begun", "").qos(1)).await;
    cluster.nodes[sender].wait_for_log("publishers do not wait for it");
    for number in 0..COUNT {
        publisher
            .publish(publish("jobs", number.to_string()).qos(1))
            .await;
    }
    for number in 0..COUNT {
        other.expect(number.to_string()).await;
    }
    cluster.nodes[slow].signal("CONT");
    assert!(paused.elapsed() < PAUSE_MAX, "this machine is too slow");
    assert_eq!(witness.expect_publish().await.payload, b""[..]);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        assert!(Instant::now() < deadline, "it is never lent anything again");
        publisher.publish(publish("jobs", "later").qos(1)).await;
        let soon = tokio::time::Instant::now() + Duration::from_millis(50);
        match away.next_by(soon).await {
            Some(Event::Packet(Packet::Publish(message))) => {
                assert_eq!(message.payload, b"later"[..]);
                break;
            }
            Some(unexpected) => panic!("{unexpected:?}"),
            None => {}
        }
    }
}
