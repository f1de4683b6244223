//! The majority is lost for good: `quorate recover`.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use quorate_tests::Version;
use quorate_tests::broker::Broker;
use quorate_tests::cluster::Cluster;
use quorate_tests::wire::publish;

use super::three;

const SETTLE_MAX: Duration = Duration::from_secs(60);

pub(super) fn recover(node: &Broker, arguments: &[&str], crash_at: &str) -> Output {
    let data = node.directory().join("data");
    Command::new(node.binary())
        .args(["recover", "--data-dir"])
        .arg(data)
        .args(arguments)
        .env("QUORATE_TEST_CRASH_AT", crash_at)
        .stdin(std::process::Stdio::null())
        .output()
        .expect("the program starts")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// Waits until a node has applied what the leaders have.
pub(super) fn wait_until_level(cluster: &Cluster, name: &str) {
    let began = Instant::now();
    loop {
        let groups = cluster.ctl(0, &["raft-groups", "--output", "json"]).stdout;
        let groups: serde_json::Value = serde_json::from_str(&groups).expect("JSON");
        let replicas = groups["items"].as_array().expect("a list").iter();
        let mut of_node = replicas
            .flat_map(|group| group["replicas"].as_array().expect("a list"))
            .filter(|replica| replica["node"] == name);
        if of_node.all(|replica| replica["lag"] == 0) {
            return;
        }
        assert!(began.elapsed() < SETTLE_MAX, "{groups}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Two of three nodes are gone with their volumes: the third goes on alone with everything it has, as another cluster, and
/// becomes one of three again.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_node_goes_on_alone_and_others_join_it() {
    let mut cluster = three();
    let mut subscriber = cluster.nodes[1].durable(Version::V5, "s").await;
    subscriber.subscribe("a", 2).await;
    subscriber.disconnect().await;
    let mut publisher = cluster.nodes[0].clean(Version::V5, "p").await;
    let mut expected = Vec::new();
    for number in 0..20 {
        let payload = format!("{number:02}");
        publisher
            .publish(publish("a", &payload).qos(1 + number % 2))
            .await;
        expected.push(payload);
    }
    publisher.publish(publish("kept", "value").qos(1).retain()).await;
    wait_until_level(&cluster, "node-3");
    let running = recover(&cluster.nodes[2], &["--yes"], "");
    assert_eq!(running.status.code(), Some(1));
    assert!(
        text(&running).contains("in use by another process"),
        "{}",
        text(&running)
    );
    for node in &mut cluster.nodes {
        node.kill();
    }
    let data = |node: &Broker, name: &str| node.directory().join(name);
    std::fs::rename(
        data(&cluster.nodes[0], "data"),
        data(&cluster.nodes[0], "found-later"),
    )
    .expect("it is there");
    std::fs::remove_dir_all(data(&cluster.nodes[1], "data")).expect("the volume goes");
    let empty = recover(&cluster.nodes[0], &["--yes"], "");
    assert!(text(&empty).contains("no node's data"), "{}", text(&empty));
    let last = &cluster.nodes[2];
    let asked = recover(last, &[], "");
    assert_eq!(asked.status.code(), Some(2), "nobody has said yes");
    for said in ["node-1", "is given up", "data-15", "What may be missing"] {
        assert!(text(&asked).contains(said), "{}", text(&asked));
    }
    // Killed at any step it is not recovered, does not start, and is recovered when it is done again.
    for step in ["begun", "rewritten"] {
        assert!(!recover(&cluster.nodes[2], &["--yes"], step).status.success());
        let status = cluster.nodes[2].restart_in_vain();
        assert_eq!(status.code(), Some(3));
        cluster.nodes[2].wait_for_log("begun and not finished");
    }
    let done = recover(&cluster.nodes[2], &["--yes"], "");
    assert!(done.status.success(), "{}", text(&done));
    let again = recover(&cluster.nodes[2], &["--yes"], "");
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again).contains("needs no recovery"), "{}", text(&again));

    cluster.restart(2);
    let mut subscriber = cluster.nodes[2].durable(Version::V5, "s").await;
    let mut texts = subscriber.receive_texts(20).await;
    texts.sort();
    assert_eq!(texts, expected);
    let mut reader = cluster.nodes[2].clean(Version::V5, "r").await;
    reader.subscribe("kept", 1).await;
    reader.expect("value").await;
    for fresh in [0, 1] {
        cluster.restart(fresh);
    }
    let began = Instant::now();
    for name in ["node-1", "node-2", "node-3"] {
        while cluster.node_view(2, name)["votes"] != 19 {
            assert!(began.elapsed() < SETTLE_MAX, "{}", cluster.node_view(2, name));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    // Fault tolerance is back.
    drop(subscriber);
    cluster.nodes[2].kill();
    let mut publisher = cluster.nodes[0].clean(Version::V5, "p").await;
    publisher.publish(publish("a", "later").qos(1)).await;
    let mut subscriber = cluster.nodes[1].durable(Version::V5, "s").await;
    subscriber.expect("later").await;
    // A node of the old cluster that turns up again is refused.
    cluster.nodes[0].kill();
    std::fs::rename(data(&cluster.nodes[0], "data"), data(&cluster.nodes[0], "new")).expect("it is there");
    std::fs::rename(
        data(&cluster.nodes[0], "found-later"),
        data(&cluster.nodes[0], "data"),
    )
    .expect("it is there");
    cluster.nodes[0].begin_restart();
    cluster.nodes[0].wait_for_log("this is another cluster");
}
