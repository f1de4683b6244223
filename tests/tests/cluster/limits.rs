//! Limits that hold for a session as a whole, though its queue is spread over groups.

use quorate_tests::Version;
use quorate_tests::cluster::Cluster;
use quorate_tests::wire::publish;

use super::{BINARY, REPLICAS};

/// Messages that may wait in one session.
const LIMIT: usize = 100;
/// What a node may take beyond: it knows a little later what came to groups that are elsewhere.
const SLACK: usize = 20;

/// Publishes a message of each of `count` clients, whose homes are in all groups, in turns at all nodes; answers the
/// payloads that were not refused.
async fn publish_each(cluster: &Cluster, round: usize, count: usize) -> Vec<String> {
    let mut taken = Vec::new();
    for number in 0..count {
        let name = format!("p{round}-{number:03}");
        let node = &cluster.nodes[number % cluster.nodes.len()];
        let mut publisher = node.clean(Version::V5, &name).await;
        match publisher.publish(publish("a", &name).qos(1)).await {
            0 => taken.push(name),
            0x97 => {}
            code => panic!("{name}: {code:#x}"),
        }
        publisher.disconnect().await;
    }
    taken
}

/// R27: what waits for a session in all groups together is limited, before and after a start of all nodes, and whether
/// or not a node has replicas of the groups.
#[tokio::test(flavor = "multi_thread")]
async fn r27_a_session_s_limit_holds_over_all_groups() {
    for replicas in REPLICAS {
        let mut cluster = Cluster::start_with(BINARY, 3, |config| {
            config.toml(&format!(
                "[cluster]\nreplication_factor = {replicas}\n[session]\nqueue_messages_max = {LIMIT}\n"
            ))
        });
        let mut subscriber = cluster.nodes[0].durable(Version::V5, "s").await;
        subscriber.subscribe("a", 1).await;
        subscriber.disconnect().await;
        let mut expected = publish_each(&cluster, 0, 2 * LIMIT).await;
        assert!(
            expected.len() >= LIMIT,
            "{replicas} replicas: {} taken",
            expected.len()
        );
        assert!(
            expected.len() <= LIMIT + SLACK,
            "{replicas} replicas: {} taken",
            expected.len()
        );
        for node in &mut cluster.nodes {
            node.kill();
        }
        for node in &mut cluster.nodes {
            node.begin_restart();
        }
        for node in &mut cluster.nodes {
            node.wait_until_listening();
        }
        for node in &cluster.nodes {
            node.wait_until_ready();
        }
        let late = publish_each(&cluster, 1, 40).await;
        assert!(
            late.is_empty(),
            "{replicas} replicas: {late:?} taken by a full queue"
        );
        let mut subscriber = cluster.nodes[1].durable(Version::V5, "s").await;
        let mut texts = subscriber.receive_texts(expected.len()).await;
        texts.sort();
        expected.sort();
        assert_eq!(texts, expected);
        let again = publish_each(&cluster, 2, 40).await;
        assert_eq!(
            again.len(),
            40,
            "{replicas} replicas: an emptied queue takes messages"
        );
        let mut texts = subscriber.receive_texts(40).await;
        texts.sort();
        assert_eq!(texts, again);
    }
}
