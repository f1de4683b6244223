//! Volumes that were restored from a backup, or copied: none of them comes back as the node that it was copied from (R46).

use std::fs;
use std::path::Path;

use quorate_tests::Version;
use quorate_tests::broker::{Broker, Config};
use quorate_tests::cluster::{Cluster, cluster_port};
use quorate_tests::wire::publish;

use super::disks::DATA_LOST;
use super::recovery::{recover, wait_until_level};
use super::{BINARY, three};

const REASON: &str =
    "its volume is a copy of another, or was restored from one: start with an empty directory";

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the temporary directory is writable");
    for entry in fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("readable");
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => _ = fs::copy(entry.path(), to).expect("the temporary directory is writable"),
        }
    }
}

/// Stops the node, and keeps its data as a backup does.
fn stop_and_back_up(node: &mut Broker) -> tempfile::TempDir {
    assert!(node.stop().success());
    let backup = tempfile::tempdir().expect("a temporary directory");
    copy(&node.directory().join("data"), backup.path());
    backup
}

fn restore(node: &Broker, backup: &Path) {
    let data = node.directory().join("data");
    fs::remove_dir_all(&data).expect("it is there");
    copy(backup, &data);
}

fn assert_refused(cluster: &mut Cluster, node: usize, starts: usize) {
    for start in 0..starts {
        let status = cluster.nodes[node].restart_in_vain();
        let log = cluster.nodes[node].log();
        assert_eq!(status.code(), Some(DATA_LOST), "start {start}: {log}");
        assert!(log.contains(REASON), "start {start}: {log}");
        assert!(!log.contains("backup"), "it would be refused as well: {log}");
    }
}

/// A volume is put back as it was before the node's last starts, each of which ended in order, or by a kill: it knows
/// nothing of what the node has acknowledged and voted since. It is refused however often it is started.
#[tokio::test(flavor = "multi_thread")]
async fn r46_a_restored_volume_is_refused_at_every_start() {
    const VICTIM: usize = 2;
    let mut cluster = three();
    let mut subscriber = cluster.nodes[0].durable(Version::V5, "s").await;
    subscriber.subscribe("a", 1).await;
    subscriber.disconnect().await;
    for starts_since in [1, 3] {
        let backup = stop_and_back_up(&mut cluster.nodes[VICTIM]);
        for _ in 0..starts_since {
            cluster.restart(VICTIM);
            assert!(cluster.nodes[VICTIM].stop().success());
        }
        restore(&cluster.nodes[VICTIM], backup.path());
        assert_refused(&mut cluster, VICTIM, starts_since + 3);
        cluster.nodes[0].wait_for_log("knows nothing of the last one: its volume is a copy");
        // What it says to do helps.
        fs::remove_dir_all(cluster.nodes[VICTIM].directory().join("data")).expect("it is there");
        cluster.restart(VICTIM);
    }
    let backup = stop_and_back_up(&mut cluster.nodes[VICTIM]);
    cluster.restart(VICTIM);
    cluster.nodes[VICTIM].kill();
    restore(&cluster.nodes[VICTIM], backup.path());
    assert_refused(&mut cluster, VICTIM, 2);
    let mut publisher = cluster.nodes[1].clean(Version::V5, "p").await;
    publisher.publish(publish("a", "kept").qos(1)).await;
    let mut subscriber = cluster.nodes[0].durable(Version::V5, "s").await;
    subscriber.expect("kept").await;
}

/// The same where nobody has a leader: all nodes were stopped, and the others come up with what they remember.
#[tokio::test(flavor = "multi_thread")]
async fn r46_a_restored_volume_is_refused_by_who_comes_up_with_it() {
    let mut cluster = three();
    let backup = stop_and_back_up(&mut cluster.nodes[0]);
    cluster.restart(0);
    for node in &mut cluster.nodes {
        assert!(node.stop().success());
    }
    restore(&cluster.nodes[0], backup.path());
    for node in [1, 2] {
        cluster.nodes[node].begin_restart();
    }
    assert_refused(&mut cluster, 0, 3);
    for node in &mut cluster.nodes[1..] {
        node.wait_until_listening();
        node.wait_until_ready();
    }
}

/// A copy that is started elsewhere beside the node: its number is the one that the node has now.
#[tokio::test(flavor = "multi_thread")]
async fn r46_a_copy_beside_its_running_original_is_refused() {
    const ORIGINAL: usize = 1;
    let mut cluster = three();
    let backup = stop_and_back_up(&mut cluster.nodes[ORIGINAL]);
    cluster.restart(ORIGINAL);
    let config = Config::default()
        .named("node-2")
        .listener("mqtt", "mqtt", "")
        .argument("--allow-anonymous")
        .argument(&format!("--cluster-listen=127.0.0.1:{}", cluster_port()))
        .argument(&format!("--join={}", cluster.seed(0)));
    let mut clone = Broker::spawn_on(BINARY, config, |directory| {
        copy(backup.path(), &directory.join("data"))
    });
    for _ in 0..2 {
        let status = clone.wait_for_exit();
        assert_eq!(status.code(), Some(DATA_LOST), "{}", clone.log());
        clone.wait_for_log(REASON);
        clone.begin_restart();
    }
    clone.kill();
    let original = &cluster.nodes[ORIGINAL];
    assert_eq!(original.admin("/readyz").0, 200);
    assert_eq!(
        original.log().matches("quorate starts").count(),
        1,
        "it served on"
    );
}

/// A start that dies while the cluster takes it, so that it may have been taken without knowing it, is no copy.
#[tokio::test(flavor = "multi_thread")]
async fn r46_starts_that_are_cut_off_are_no_copies() {
    let mut cluster = three();
    for last_words in [
        "data directory opened",
        "this node belongs to a cluster",
        "\"listening\"",
        "data directory opened",
    ] {
        cluster.nodes[2].kill();
        for _ in 0..3 {
            cluster.nodes[2].begin_restart();
            cluster.nodes[2].wait_for_log(last_words);
            cluster.nodes[2].kill();
        }
        cluster.restart(2);
    }
}

/// Where all volumes are lost a backup of one of them is what there is: `quorate recover` makes a new cluster of it, which knows
/// nothing of the starts since.
#[tokio::test(flavor = "multi_thread")]
async fn r46_a_backup_is_recovered_where_nobody_is_left() {
    let mut cluster = three();
    let mut subscriber = cluster.nodes[1].durable(Version::V5, "s").await;
    subscriber.subscribe("a", 1).await;
    subscriber.disconnect().await;
    let mut publisher = cluster.nodes[1].clean(Version::V5, "p").await;
    publisher.publish(publish("a", "kept").qos(1)).await;
    wait_until_level(&cluster, "node-1");
    let backup = stop_and_back_up(&mut cluster.nodes[0]);
    cluster.restart(0);
    for node in &mut cluster.nodes {
        node.kill();
    }
    restore(&cluster.nodes[0], backup.path());
    let recovered = recover(&cluster.nodes[0], &["--yes"], "");
    assert!(recovered.status.success(), "{recovered:?}");
    cluster.restart(0);
    for node in [1, 2] {
        fs::remove_dir_all(cluster.nodes[node].directory().join("data")).expect("it is there");
        cluster.restart(node);
    }
    let mut subscriber = cluster.nodes[2].durable(Version::V5, "s").await;
    subscriber.expect("kept").await;
}
