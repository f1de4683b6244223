//! A node that is gone for good is replaced in its groups by itself, after the time that the configuration gives it.

use std::time::{Duration, Instant};

use quorate_tests::Version;
use quorate_tests::broker::Broker;
use quorate_tests::cluster::Cluster;
use quorate_tests::wire::publish;

use super::BINARY;

/// The shortest that the configuration takes, in seconds.
const GRACE: u64 = 10;
/// Groups beside `meta`.
const GROUPS: u64 = 18;
const SESSIONS: usize = 12;
/// How long the cluster may take to bring the replicas elsewhere.
const REPLACED_MAX: Duration = Duration::from_secs(60);

async fn publish_all(node: &Broker, texts: &[String]) {
    let mut publisher = node.durable(Version::V5, "publisher").await;
    for text in texts {
        publisher.publish(publish("a", text).qos(1)).await;
    }
    publisher.disconnect().await;
}

/// The votes of nodes, by their places in the cluster, in all groups but `meta`.
fn votes(cluster: &Cluster, asked: usize, nodes: &[usize]) -> u64 {
    let votes = nodes.iter().map(|node| {
        let name = format!("node-{}", node + 1);
        // All five vote in `meta`.
        cluster.node_view(asked, &name)["votes"]
            .as_u64()
            .unwrap_or(0)
            .saturating_sub(1)
    });
    votes.sum()
}

fn wait_for_votes(cluster: &Cluster, asked: usize, nodes: &[usize], wanted: u64) {
    let began = Instant::now();
    loop {
        let votes = votes(cluster, asked, nodes);
        if votes == wanted {
            return;
        }
        assert!(
            began.elapsed() < REPLACED_MAX,
            "{votes} of {wanted} votes are at {nodes:?}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Of five nodes with three replicas each of the groups one dies. Its replicas come to others when it has been gone for the
/// time of grace, not before, so that a second one may die and nothing is lost; and when both come back all is as before.
#[tokio::test(flavor = "multi_thread")]
async fn r47_a_dead_node_is_replaced_after_its_time_and_may_come_back() {
    const FIRST: usize = 4;
    const SECOND: usize = 3;
    let mut cluster = Cluster::start_with(BINARY, 5, |config| {
        config.toml(&format!(
            "[cluster]\nreplication_factor = 3\nreplace_after_secs = {GRACE}\n"
        ))
    });
    wait_for_votes(&cluster, 0, &[0, 1, 2, 3, 4], 3 * GROUPS);
    let held = votes(&cluster, 0, &[FIRST]);
    assert!(held > 0, "it has a part of the groups");
    for number in 0..SESSIONS {
        let mut subscriber = cluster.nodes[number % 5]
            .durable(Version::V5, &format!("s{number}"))
            .await;
        subscriber.subscribe("a", 1).await;
        subscriber.disconnect().await;
    }
    let texts: Vec<String> = (0..80).map(|number| format!("m{number}")).collect();
    publish_all(&cluster.nodes[FIRST], &texts[..20]).await;

    cluster.nodes[FIRST].kill();
    let died = Instant::now();
    publish_all(&cluster.nodes[0], &texts[20..40]).await;
    // Groups that it led say nothing until they have another leader.
    while died.elapsed() < Duration::from_secs(GRACE - 3) {
        let elsewhere = votes(&cluster, 0, &[0, 1, 2, SECOND]);
        assert!(
            elsewhere <= 3 * GROUPS - held,
            "{elsewhere}: it may still come back"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    wait_for_votes(&cluster, 0, &[0, 1, 2, SECOND], 3 * GROUPS);
    let told = |cluster: &Cluster| {
        let lines = cluster.nodes.iter().map(|node| {
            let log = node.log();
            let told = log.lines().filter(|line| {
                line.contains("has not served for cluster.replace_after_secs")
                    && line.contains(&format!("node-{}", FIRST + 1))
            });
            told.count()
        });
        lines.sum::<usize>()
    };
    assert_eq!(told(&cluster), 1, "it is told once");
    publish_all(&cluster.nodes[1], &texts[40..60]).await;

    // Where both have been voters of a group the third alone would be left.
    cluster.nodes[SECOND].kill();
    publish_all(&cluster.nodes[2], &texts[60..]).await;
    let mut back = [FIRST, SECOND];
    for node in &mut back {
        cluster.nodes[*node].begin_restart();
    }
    for node in back {
        cluster.nodes[node].wait_until_listening();
        cluster.nodes[node].wait_until_ready_wherever();
    }
    for number in 0..SESSIONS {
        let node = &cluster.nodes[[FIRST, SECOND, 0][number % 3]];
        let mut subscriber = node.durable(Version::V5, &format!("s{number}")).await;
        assert_eq!(subscriber.receive_texts(texts.len()).await, texts, "s{number}");
        subscriber.ping().await;
        assert_eq!(subscriber.waiting(), None, "s{number}: nothing comes twice");
        subscriber.disconnect().await;
    }
    wait_for_votes(&cluster, 0, &[0, 1, 2, 3, 4], 3 * GROUPS);
    assert_eq!(told(&cluster), 1);
}
