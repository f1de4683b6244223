//! Nodes whose disks fail, fill up, slow down or damage what they hold, among others that are well.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quorate_tests::Version;
use quorate_tests::broker::Broker;
use quorate_tests::client::Client;
use quorate_tests::cluster::Cluster;
use quorate_tests::shim::start_script;
use quorate_tests::wire::{connect, publish};

use super::{BINARY, three};

/// Exit code of a node that cannot go on.
const FAILED: i32 = 1;
/// Exit code of a node that has lost something of its data directory.
pub(super) const DATA_LOST: i32 = 3;

/// Three nodes whose disks can be broken, and whose clocks can be set.
pub(super) struct Breakable {
    pub(super) cluster: Cluster,
    _directory: tempfile::TempDir,
}

impl Breakable {
    pub(super) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let script = start_script(directory.path(), BINARY, "fault", &[]);
        Self {
            cluster: Cluster::start(script.to_str().expect("the path is UTF-8"), 3),
            _directory: directory,
        }
    }

    fn break_disk(&self, node: usize, fault: &str) {
        let file = self.cluster.nodes[node].directory().join("fault");
        fs::write(file, fault).expect("the temporary directory is writable");
    }

    /// Puts a node's wall clock off by so many seconds.
    pub(super) fn set_clock(&self, node: usize, secs: i64) {
        let file = self.cluster.nodes[node].directory().join("clock");
        fs::write(file, secs.to_string()).expect("the temporary directory is writable");
    }

    fn mend_disk(&self, node: usize) {
        fs::remove_file(self.cluster.nodes[node].directory().join("fault")).expect("the disk was broken");
    }
}

/// Publishes, with all connections new: the node that fails ends those it has.
async fn publish_all(node: &Broker, texts: &[String]) -> Duration {
    let mut publisher = node.durable(Version::V5, "publisher").await;
    let mut longest = Duration::ZERO;
    for text in texts {
        let began = Instant::now();
        publisher.publish(publish("a", text).qos(1)).await;
        longest = longest.max(began.elapsed());
    }
    publisher.disconnect().await;
    longest
}

fn texts(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name} {number}")).collect()
}

/// A disk that fails, or is full: the node stops and says why, before it acknowledges anything that it does not have; the
/// others go on, and it comes back when the disk does.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_fails_stops_and_the_others_go_on() {
    for (fault, reason) in [
        ("sync", "Input/output error"),
        ("full", "No space left on device"),
    ] {
        let mut breakable = Breakable::start();
        let mut subscriber = breakable.cluster.nodes[0].durable(Version::V5, "s").await;
        subscriber.subscribe("a", 1).await;
        subscriber.disconnect().await;
        let mut expected = texts("before", 20);
        publish_all(&breakable.cluster.nodes[1], &expected).await;
        breakable.break_disk(2, fault);
        expected.extend(texts("while", 200));
        publish_all(&breakable.cluster.nodes[1], &expected[20..]).await;
        let status = breakable.cluster.nodes[2].wait_for_exit();
        assert_eq!(
            status.code(),
            Some(FAILED),
            "{}",
            breakable.cluster.nodes[2].log()
        );
        breakable.cluster.nodes[2].wait_for_log(reason);
        breakable.mend_disk(2);
        breakable.cluster.restart(2);
        expected.extend(texts("after", 20));
        publish_all(&breakable.cluster.nodes[2], &expected[220..]).await;
        let mut subscriber = breakable.cluster.nodes[2].durable(Version::V5, "s").await;
        assert_eq!(subscriber.receive_texts(240).await, expected);
    }
}

/// A disk that takes long for each sync: everything is slower where its node leads, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_is_waited_for_and_nobody_is_taken_for_dead() {
    let breakable = Breakable::start();
    let nodes = &breakable.cluster.nodes;
    let mut subscriber = nodes[0].durable(Version::V5, "s").await;
    subscriber.subscribe("a", 1).await;
    breakable.break_disk(1, "slow");
    let starts: Vec<u32> = nodes.iter().map(Broker::pid).collect();
    let mut expected = Vec::new();
    for node in nodes {
        let begin = expected.len();
        expected.extend(texts(&node.pid().to_string(), 20));
        let longest = publish_all(node, &expected[begin..]).await;
        assert!(longest < Duration::from_secs(2), "a publisher waited {longest:?}");
    }
    assert_eq!(subscriber.receive_texts(60).await, expected);
    for (node, pid) in nodes.iter().zip(starts) {
        assert_eq!(node.pid(), pid);
        assert!(!node.log().contains("fell silent"), "{}", node.log());
        assert_eq!(node.admin("/readyz").0, 200);
    }
}

/// R1: a node whose disk takes two seconds for each sync comes back into the view and stays there: its lease does not wait
/// for the disk.
#[tokio::test(flavor = "multi_thread")]
async fn r1_a_node_with_a_slow_disk_starts_once() {
    let mut breakable = Breakable::start();
    publish_all(&breakable.cluster.nodes[0], &texts("before", 20)).await;
    breakable.cluster.nodes[1].kill();
    breakable.cluster.nodes[1].begin_restart();
    breakable.cluster.nodes[1].wait_for_log("data directory opened");
    breakable.break_disk(1, "slow 2000");
    breakable.cluster.nodes[1].wait_until_listening();
    breakable.cluster.nodes[1].wait_until_ready();
    publish_all(&breakable.cluster.nodes[1], &texts("after", 5)).await;
    let starts = breakable.cluster.nodes[1].log().matches("quorate starts").count();
    assert_eq!(starts, 1, "{}", breakable.cluster.nodes[1].log());
    for other in [0, 2] {
        let log = breakable.cluster.nodes[other].log();
        let is_of_the_restarted =
            |line: &&str| line.contains("fell silent") && line.contains("\"incarnation\":2");
        assert_eq!(log.lines().find(is_of_the_restarted), None);
    }
}

/// R12: who is connected and keeps no session gets a message when it is matched, before the disks have it; the publisher's
/// acknowledgement waits for both.
#[tokio::test(flavor = "multi_thread")]
async fn r12_live_subscribers_do_not_wait_for_the_disks() {
    // What the slowed disks take for one sync, at the least.
    const SYNC: Duration = Duration::from_millis(50);
    let breakable = Breakable::start();
    let nodes = &breakable.cluster.nodes;
    let mut absent = nodes[0].durable(Version::V5, "absent").await;
    absent.subscribe("a", 1).await;
    absent.disconnect().await;
    let mut live = Vec::new();
    for (place, node) in nodes.iter().enumerate() {
        let mut subscriber = node.clean(Version::V5, &format!("live-{place}")).await;
        subscriber.subscribe("a", 1).await;
        live.push(subscriber);
    }
    for node in 0..3 {
        breakable.break_disk(node, "slow");
    }
    let mut publisher = nodes[1].raw_client(Version::V5, &connect("p")).await;
    let texts = texts("m", 10);
    let began = Instant::now();
    for (id, text) in (1..).zip(&texts) {
        publisher.send(&publish("a", text).qos(1).id(id)).await;
    }
    for subscriber in &mut live {
        assert_eq!(subscriber.receive_texts(texts.len()).await, texts, "in order");
    }
    let delivered = began.elapsed();
    for _ in &texts {
        assert_eq!(publisher.expect_puback().await.code, 0);
    }
    let acknowledged = began.elapsed();
    assert!(acknowledged >= SYNC, "acknowledged after {acknowledged:?}");
    assert!(delivered < acknowledged, "{delivered:?}, {acknowledged:?}");
    let mut absent = nodes[2].durable(Version::V5, "absent").await;
    assert_eq!(absent.receive_texts(texts.len()).await, texts);
}

/// R15: the disk of a node that leads groups becomes so slow that each sync takes seconds. Nobody waits for it: its groups go
/// on with the disks of the others, and nothing is moved, because who has led would have to wait for its own disk then.
#[tokio::test(flavor = "multi_thread")]
async fn r15_a_leader_whose_disk_stalls_holds_nobody_up() {
    const PUBLISHERS: usize = 16;
    let breakable = Breakable::start();
    let nodes = &breakable.cluster.nodes;
    let mut subscriber = nodes[0].durable(Version::V5, "s").await;
    subscriber.subscribe("a", 1).await;
    let slow = 1;
    let led = |node: usize| breakable.cluster.metric(node, "quorate_raft_is_leader");
    let deadline = Instant::now() + Duration::from_secs(60);
    while (0..3).any(|node| led(node) < 6.0) {
        assert!(Instant::now() < deadline, "leaders are not spread");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let led_before = led(slow);
    breakable.break_disk(slow, "slow 2000");
    let until = Instant::now() + Duration::from_secs(12);
    let publish_for_long = |number: usize| {
        let mqtt = nodes[number % 3].mqtt();
        async move {
            let packet = connect(&format!("p{number}")).resume().expiry(600);
            let mut publisher = Client::connect(mqtt, Version::V5, &packet).await;
            let mut waits = Vec::new();
            while Instant::now() < until {
                let began = Instant::now();
                publisher.publish(publish("a", "x").qos(1)).await;
                waits.push((began, began.elapsed()));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            waits
        }
    };
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|number| tokio::spawn(publish_for_long(number)))
        .collect();
    let mut all = Duration::ZERO;
    for publisher in publishers {
        let waits = publisher.await.expect("everything was acknowledged");
        let longest = waits.iter().map(|(_, wait)| *wait).max();
        let long = waits
            .iter()
            .filter(|(_, wait)| *wait > Duration::from_millis(500));
        println!(
            "{} publishes, longest {longest:?}, {} long",
            waits.len(),
            long.count()
        );
        all = all.max(longest.unwrap_or_default());
    }
    assert!(all < Duration::from_secs(2), "a publisher waited {all:?}");
    println!("groups led: {} {} {}", led(0), led(1), led(2));
    assert!(
        (led(slow) - led_before).abs() < 0.5,
        "its groups were moved, or it was given some"
    );
    for node in 0..3 {
        let handed_over = breakable
            .cluster
            .metric(node, "quorate_leaderships_handed_over_total");
        assert!(handed_over < 0.5);
    }
    let log = breakable.cluster.nodes[slow].log();
    assert!(log.contains("the disk of this node's log stalls"));
}

/// Whether a line names a file.
fn names(line: &str, file: &Path) -> bool {
    let directory = file.parent().expect("a file is in a directory");
    let name = file.file_name().expect("it has a name");
    line.contains(&file.display().to_string())
        || (line.contains(&directory.display().to_string())
            && line.contains(&format!("file {}", name.display())))
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("it is there");
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

fn flip_bit(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("readable");
    bytes[at] ^= 0x10;
    fs::write(path, bytes).expect("ours");
}

/// In the first records of the log, which were synced long ago.
fn flip_in_log(data: &Path) -> PathBuf {
    let mut segments = files(&data.join("wal"));
    segments.sort();
    flip_bit(&segments[0], 4_200);
    segments.swap_remove(0)
}

fn cut(path: &Path, bytes: u64) {
    let file = fs::OpenOptions::new().write(true).open(path);
    file.expect("ours").set_len(bytes).expect("ours");
}

/// The log ends before what the stored state has.
fn cut_log(data: &Path) -> PathBuf {
    let newest = files(&data.join("wal"))
        .into_iter()
        .max()
        .expect("a log has files");
    cut(&newest, 100);
    newest
}

fn largest_of_state(data: &Path) -> PathBuf {
    let largest = files(&data.join("state")).into_iter().max_by_key(|path| {
        let metadata = fs::metadata(path).expect("readable");
        metadata.len()
    });
    largest.expect("a state has files")
}

fn flip_in_state(data: &Path) -> PathBuf {
    let path = largest_of_state(data);
    let mut bytes = fs::read(&path).expect("readable");
    bytes.iter_mut().step_by(512).for_each(|byte| *byte ^= 0x10);
    fs::write(&path, bytes).expect("ours");
    path
}

fn cut_state(data: &Path) -> PathBuf {
    let path = largest_of_state(data);
    let length = fs::metadata(&path).expect("readable").len();
    cut(&path, length / 3);
    path
}

fn flip_in_identity(data: &Path) -> PathBuf {
    let path = data.join("identity");
    flip_bit(&path, 10);
    path
}

fn flip_in_starts(data: &Path) -> PathBuf {
    let path = data.join("starts");
    flip_bit(&path, 10);
    path
}

/// A node that finds its files damaged refuses to start, touches nothing, and names the file and what to do: with an empty
/// directory it gets everything from the others again (R44, R49). A backup, which they would refuse (R46), is not named.
#[tokio::test(flavor = "multi_thread")]
async fn r44_a_node_with_damaged_files_refuses_and_is_rebuilt_from_the_others() {
    let mut cluster = three();
    let mut expected = Vec::new();
    let damages: [fn(&Path) -> PathBuf; 6] = [
        flip_in_log,
        cut_log,
        flip_in_state,
        cut_state,
        flip_in_identity,
        flip_in_starts,
    ];
    for (round, damage) in damages.into_iter().enumerate() {
        let victim = round % 3;
        let other = (victim + 1) % 3;
        let mut subscriber = cluster.nodes[other].durable(Version::V5, "s").await;
        subscriber.subscribe("a", 1).await;
        subscriber.disconnect().await;
        let begin = expected.len();
        expected.extend(texts(&format!("for {round}"), 50));
        publish_all(&cluster.nodes[other], &expected[begin..]).await;
        assert!(cluster.nodes[victim].stop().success());
        let data = cluster.nodes[victim].directory().join("data");
        let damaged = damage(&data);
        for _ in 0..2 {
            let status = cluster.nodes[victim].restart_in_vain();
            assert_eq!(
                status.code(),
                Some(DATA_LOST),
                "{round}: {}",
                cluster.nodes[victim].log()
            );
            cluster.nodes[victim].wait_for_log("start with an empty data directory");
            let log = cluster.nodes[victim].log();
            let last = log
                .lines()
                .find(|line| line.contains("start with an empty data directory"))
                .expect("it was waited for");
            println!("{last}");
            assert!(names(last, &damaged), "{}: {last}", damaged.display());
            assert!(!last.contains("backup"), "{last}");
        }
        fs::remove_dir_all(&data).expect("ours");
        cluster.restart(victim);
        let mut subscriber = cluster.nodes[victim].durable(Version::V5, "s").await;
        assert_eq!(subscriber.receive_texts(50).await, expected[begin..]);
        subscriber.disconnect().await;
    }
}
