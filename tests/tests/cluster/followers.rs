//! More nodes than replicas: each has a part of the groups, and follows the others.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use quorate_tests::Version;
use quorate_tests::broker::Broker;
use quorate_tests::client::Event;
use quorate_tests::cluster::Cluster;
use quorate_tests::wire::{Packet, connect, disconnect, filter, publish};

use super::nodes;

/// How long groups may take to come to where they are placed.
const MOVE_MAX: Duration = Duration::from_secs(60);
/// Groups beside `meta`, which every node has.
const GROUPS: usize = 18;

/// Replicas of groups at a node, `meta` not counted.
fn replicas(cluster: &Cluster, node: usize) -> usize {
    let (_, text) = cluster.nodes[node].admin("/metrics");
    let series = |line: &&str| line.starts_with("quorate_raft_is_leader{") && !line.contains("\"meta\"");
    text.lines().filter(series).count()
}

async fn wait_for_replicas(cluster: &Cluster, wanted: usize) {
    let began = Instant::now();
    loop {
        let held: Vec<usize> = (0..cluster.nodes.len())
            .map(|node| replicas(cluster, node))
            .collect();
        if held.iter().sum::<usize>() == wanted {
            let most = held.iter().max().expect("there are nodes");
            let least = held.iter().min().expect("there are nodes");
            assert!(most - least <= 2, "the groups are spread: {held:?}");
            return;
        }
        assert!(began.elapsed() < MOVE_MAX, "{held:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// R47: each group has as many replicas as were asked for, spread over the nodes, and every node serves for all.
#[tokio::test(flavor = "multi_thread")]
async fn r47_five_nodes_share_the_groups() {
    let cluster = nodes(5, 3);
    wait_for_replicas(&cluster, 3 * GROUPS).await;
    let mut subscribers = Vec::new();
    for (place, node) in cluster.nodes.iter().enumerate() {
        let mut durable = node.durable(Version::V5, &format!("d{place}")).await;
        durable.subscribe("all", 2).await;
        subscribers.push(durable);
        let mut live = node.clean(Version::V5, &format!("l{place}")).await;
        live.subscribe("all", 1).await;
        subscribers.push(live);
    }
    let mut expected = Vec::new();
    for (place, node) in cluster.nodes.iter().enumerate() {
        let mut publisher = node.clean(Version::V5, &format!("p{place}")).await;
        for number in 0..10 {
            let payload = format!("{place}-{number}");
            publisher
                .publish(publish("all", &payload).qos(1 + number % 2))
                .await;
            expected.push(payload);
        }
    }
    for subscriber in &mut subscribers {
        let mut texts = subscriber.receive_texts(50).await;
        texts.sort();
        assert_eq!(texts, expected);
    }
}

/// Groups move to nodes that come, and what they hold moves with them.
#[tokio::test(flavor = "multi_thread")]
async fn groups_move_to_nodes_that_join() {
    let mut cluster = nodes(3, 2);
    let mut subscriber = cluster.nodes[0].durable(Version::V5, "s").await;
    subscriber.subscribe("a", 2).await;
    subscriber.disconnect().await;
    let mut publisher = cluster.nodes[1].durable(Version::V5, "p").await;
    let (mut queued, mut kept) = (Vec::new(), Vec::new());
    for number in 0..80 {
        if number == 40 {
            cluster.add_node(env!("CARGO_BIN_EXE_quorate-under-test"));
            cluster.add_node(env!("CARGO_BIN_EXE_quorate-under-test"));
            wait_for_replicas(&cluster, 2 * GROUPS).await;
        }
        let payload = format!("{number:02}");
        publisher.publish(publish("a", &payload).qos(1)).await;
        let topic = format!("kept/{number}");
        publisher.publish(publish(&topic, &payload).qos(2).retain()).await;
        queued.push(payload.clone());
        kept.push(payload);
    }
    let mut subscriber = cluster.nodes[4].durable(Version::V5, "s").await;
    assert_eq!(
        subscriber.receive_texts(80).await,
        queued,
        "in the publisher's order"
    );
    let mut reader = cluster.nodes[3].clean(Version::V5, "r").await;
    reader.subscribe("kept/#", 1).await;
    let mut texts = reader.receive_texts(80).await;
    texts.sort();
    assert_eq!(texts, kept);
}

/// The death of one node of five: what it had replicas of goes on, and who followed it follows another.
#[tokio::test(flavor = "multi_thread")]
async fn who_followed_a_dead_node_follows_another() {
    let mut cluster = nodes(5, 3);
    wait_for_replicas(&cluster, 3 * GROUPS).await;
    for victim in [0, 3] {
        let mut subscribers = Vec::new();
        for place in (0..5).filter(|place| *place != victim) {
            let mut subscriber = cluster.nodes[place]
                .durable(Version::V5, &format!("d{victim}{place}"))
                .await;
            subscriber.subscribe("all", 1).await;
            subscribers.push(subscriber);
        }
        cluster.nodes[victim].kill();
        let mut expected = Vec::new();
        for place in (0..5).filter(|place| *place != victim) {
            let mut publisher = cluster.nodes[place]
                .clean(Version::V5, &format!("p{place}"))
                .await;
            for number in 0..5 {
                let payload = format!("{victim}-{place}-{number}");
                publisher.publish(publish("all", &payload).qos(1)).await;
                expected.push(payload);
            }
        }
        for subscriber in &mut subscribers {
            let mut texts = subscriber.receive_texts(20).await;
            texts.sort();
            assert_eq!(texts, expected);
        }
        for mut subscriber in subscribers {
            subscriber.unsubscribe("all").await;
        }
        cluster.restart(victim);
    }
}

/// What one node has done and keeps.
#[derive(Clone, Copy, Debug)]
struct Share {
    /// Bytes that it had written to its disk since the load began.
    written: u64,
    /// Bytes of its data directory without the log, whose segments go when checkpoints come to it.
    stored: u64,
}

/// The largest of each node's shares when publishers all over the cluster have sent so much to an absent subscriber.
async fn largest_share(count: usize) -> Share {
    const PUBLISHERS: usize = 64;
    const MESSAGES: usize = 4;
    const BYTES: usize = 64 * 1024;
    let cluster = nodes(count, 3);
    wait_for_replicas(&cluster, 3 * GROUPS).await;
    let mut subscriber = cluster.nodes[0].durable(Version::V5, "absent").await;
    subscriber.subscribe("all", 1).await;
    subscriber.disconnect().await;
    let written = |node: &Broker| {
        let counters = std::fs::read_to_string(format!("/proc/{}/io", node.pid())).expect("it runs");
        let mut lines = counters.lines();
        let line = lines.find_map(|line| line.strip_prefix("write_bytes: "));
        line.and_then(|bytes| bytes.parse::<u64>().ok())
            .expect("a number")
    };
    let before: Vec<_> = cluster.nodes.iter().map(written).collect();
    for number in 0..PUBLISHERS {
        let mut publisher = cluster.nodes[number % count]
            .clean(Version::V5, &format!("p{number}"))
            .await;
        for _ in 0..MESSAGES {
            let code = publisher.publish(publish("all", vec![0; BYTES]).qos(1)).await;
            assert_eq!(code, 0);
        }
        publisher.disconnect().await;
    }
    // In the log and in the state store.
    for node in 0..count {
        while cluster.metric(node, "quorate_unstored_payload_bytes") > 0.0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let nodes = cluster.nodes.iter().zip(before);
    let shares: Vec<_> = nodes
        .map(|(node, before)| Share {
            written: written(node) - before,
            stored: stored(node.directory()),
        })
        .collect();
    println!("{count} nodes: {shares:?}");
    Share {
        written: shares.iter().map(|share| share.written).max().expect("nodes"),
        stored: shares.iter().map(|share| share.stored).max().expect("nodes"),
    }
}

/// Bytes that a directory takes on its disk, the log in it left out.
fn stored(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).expect("it is there");
    let sizes = entries.map(|entry| {
        let entry = entry.expect("it is there");
        let metadata = entry.metadata().expect("it is there");
        match metadata.is_dir() {
            true if entry.file_name() == "wal" => 0,
            true => stored(&entry.path()),
            false => metadata.blocks() * 512,
        }
    });
    sizes.sum()
}

/// With more nodes than replicas each has less to write and to keep: five of them at most four fifths of what each of
/// three has. Their fair share is three fifths.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_writes_and_stores_falls_as_nodes_are_added() {
    let (three, five) = (largest_share(3).await, largest_share(5).await);
    assert!(five.written * 5 < three.written * 4, "{five:?} {three:?}");
    assert!(five.stored * 5 < three.stored * 4, "{five:?} {three:?}");
}

/// The node that a group with one replica is at.
fn node_of(cluster: &Cluster, group: &str) -> String {
    let groups = cluster.ctl(0, &["raft-groups", "--output", "json"]);
    let groups: serde_json::Value = serde_json::from_str(&groups.stdout).expect("JSON");
    let mut groups = groups["items"].as_array().expect("a list").iter();
    let found = groups.find(|view| view["group"] == group).expect("it is there");
    found["placed"][0].as_str().expect("a name").to_owned()
}

/// R19: a session opens when its home has a leader. What waits for it in a group without one follows when that has one
/// again.
#[tokio::test(flavor = "multi_thread")]
async fn r19_a_session_does_not_wait_for_groups_without_leader() {
    const CLIENTS: usize = 12;
    let mut cluster = nodes(3, 1);
    wait_for_replicas(&cluster, GROUPS).await;
    let durable = |number: usize| connect(&format!("s{number}")).resume().expiry(600);
    for number in 0..CLIENTS {
        let mut subscriber = cluster.nodes[0].raw_client(Version::V5, &durable(number)).await;
        subscriber.subscribe([filter("a").qos(1)]).await;
        subscriber.send(&disconnect()).await;
    }
    // Their homes are in groups at all three nodes.
    let mut expected = Vec::new();
    for number in 0..CLIENTS {
        let name = format!("p{number:02}");
        let mut publisher = cluster.nodes[1].clean(Version::V5, &name).await;
        publisher.publish(publish("a", &name).qos(1)).await;
        expected.push(name);
    }
    // A client's home is in a group of either kind, and there is one of live sessions.
    let victim = match node_of(&cluster, "live-0").as_str() {
        "node-3" => 1,
        _ => 2,
    };
    cluster.nodes[victim].kill();
    let mut connecting = Vec::new();
    for number in 0..CLIENTS {
        let mut raw = cluster.nodes[0].raw(Version::V5).await;
        raw.send(&durable(number)).await;
        connecting.push(raw);
    }
    let mut opened = Vec::new();
    for mut raw in connecting {
        // The homes of some were at the node that is dead.
        if let Packet::Connack(connack) = raw.receive().await
            && connack.code == 0
        {
            assert!(connack.session_present);
            let texts = vec![raw.expect_publish().await.text().to_owned()];
            opened.push((raw, texts));
        }
    }
    let quiet = tokio::time::Instant::now() + Duration::from_secs(1);
    for (raw, texts) in &mut opened {
        while let Some(Event::Packet(Packet::Publish(message))) = raw.next_by(quiet).await {
            texts.push(message.text().to_owned());
        }
        assert!(
            texts.len() < CLIENTS,
            "a dead node's groups have told what they hold"
        );
    }
    assert!(!opened.is_empty(), "no session has its home at a node that lives");
    cluster.restart(victim);
    for (mut raw, mut texts) in opened {
        while texts.len() < CLIENTS {
            texts.push(raw.expect_publish().await.text().to_owned());
        }
        texts.sort();
        assert_eq!(texts, expected);
    }
}
