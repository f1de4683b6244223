//! Nodes that take no deliveries for a while (R4): publishers do not wait for them, and who has lost something by that is
//! told so.

use std::time::{Duration, Instant};

use quorate_tests::Version;
use quorate_tests::client::RawClient;
use quorate_tests::cluster::Cluster;
use quorate_tests::wire::{Packet, connect, filter, publish};

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
async fn live_subscriber(cluster: &Cluster, node: usize, id: &str, topic_filter: &str) -> RawClient {
    let mut client = cluster.nodes[node].raw_client(Version::V5, &connect(id)).await;
    client.subscribe([filter(topic_filter).qos(1)]).await;
    client
}

/// R4: more is published for a node that takes nothing than is kept for it. Its publishers go on, and of its live subscribers
/// those that would have got something of it are closed, without another publish; all others stay.
#[tokio::test(flavor = "multi_thread")]
async fn r4_only_who_would_have_got_what_was_dropped_is_closed() {
    let cluster = three();
    let (_, sender, slow) = roles(&cluster);
    let mut victim = live_subscriber(&cluster, slow, "victim", "lost/+").await;
    let mut bystander = live_subscriber(&cluster, slow, "bystander", "kept").await;
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
    let packets = victim.drain_until_closed().await;
    assert!(packets.last().is_some_and(is_disconnect), "it is told why");
    let received = packets.len() - 1;
    assert!(received < 12, "nothing was lost");
    publisher.send(&publish("kept", "after").qos(1).id(13)).await;
    assert!(publisher.expect_puback().await.code < 0x80);
    assert_eq!(bystander.expect_publish().await.payload, b"after"[..]);
    assert!(!cluster.nodes[slow].log().contains("starts anew"));
}
