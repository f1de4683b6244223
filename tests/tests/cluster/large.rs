//! Long queues, many subscriptions and many retained messages, when nodes die and come.
//!
//! With `QUORATE_LONG_CLUSTER` set there are 100,000 of each, and 1,000 large messages; `QUORATE_BINARY` names an
//! optimized broker for that. Large messages need such a broker in any case.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use quorate_tests::Version;
use quorate_tests::broker::{Broker, Config};
use quorate_tests::client::{Event, RawClient};
use quorate_tests::cluster::Cluster;
use quorate_tests::wire::{Packet, Property, connect, filter, publish, subscribe};

use super::BINARY;

/// Publishes on the way at once.
const WINDOW: usize = 500;

/// How many of each there are.
fn count() -> usize {
    match std::env::var_os("QUORATE_LONG_CLUSTER") {
        Some(_) => 100_000,
        None => 4_000,
    }
}

fn roomy(config: Config) -> Config {
    config.toml("[session]\nqueue_messages_max = 200000\n[limits]\nreceive_maximum = 1000\n")
}

/// Publishes at QoS 1, many at a time; all are acknowledged when it returns.
async fn publish_all(node: &Broker, retain: bool, messages: impl Iterator<Item = (String, String)>) {
    let mut publisher = node
        .raw_client(Version::V5, &connect("bulk").resume().expiry(600))
        .await;
    let mut on_the_way = 0;
    for (number, (topic, text)) in messages.enumerate() {
        if on_the_way == WINDOW {
            publisher.expect_puback().await;
            on_the_way -= 1;
        }
        let id = u16::try_from(number % 60_000).expect("small") + 1;
        let packet = publish(&topic, &text).qos(1).id(id);
        publisher
            .send(&if retain { packet.retain() } else { packet })
            .await;
        on_the_way += 1;
    }
    for _ in 0..on_the_way {
        assert!(publisher.expect_puback().await.code < 0x80);
    }
}

/// A durable session whose queue is as long as that, on a node that is killed, is whole on another node.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_queue_of_a_node_that_dies_is_whole_on_another() {
    let mut cluster = Cluster::start_with(BINARY, 3, roomy);
    let mut subscriber = cluster.nodes[0].durable(Version::V5, "s").await;
    subscriber.subscribe("q", 1).await;
    // It stays, and reads nothing.
    let began = Instant::now();
    let texts = || (0..count()).map(|number| number.to_string());
    publish_all(
        &cluster.nodes[1],
        false,
        texts().map(|text| ("q".to_owned(), text)),
    )
    .await;
    println!("{} messages queued: {:?}", count(), began.elapsed());
    cluster.nodes[0].kill();
    let began = Instant::now();
    let mut subscriber = cluster.nodes[2].durable(Version::V5, "s").await;
    println!("taken over: {:?}", began.elapsed());
    // Of those that the first connection was sent some may come with DUP; none is missing and their order is kept.
    for text in texts() {
        assert_eq!(subscriber.receive().await.text(), text);
    }
    println!("received: {:?}", began.elapsed());
    subscriber.ping().await;
    assert_eq!(subscriber.waiting(), None);
}

/// Subscribes durable sessions to 100 filters each; all are acknowledged when it returns.
async fn subscribe_all(node: &Broker) {
    for session in 0..count() / 100 {
        let id = format!("many {session}");
        let mut client = node
            .raw_client(Version::V5, &connect(&id).resume().expiry(600))
            .await;
        let filters = (0..100).map(|number| filter(&format!("s/{session}/{number}")));
        client.send(&subscribe(1, filters)).await;
        assert!(client.expect_suback().await.codes.iter().all(|code| *code < 0x80));
    }
}

/// The retained messages that a new subscription gets, up to a message that is not.
async fn count_retained(node: &Broker, end: &str) -> usize {
    let mut client: RawClient = node.raw_client(Version::V5, &connect("counts")).await;
    client.send(&subscribe(1, [filter("r/#").qos(0)])).await;
    let mut count = 0;
    loop {
        let event = client
            .next_by((Instant::now() + Duration::from_secs(20)).into())
            .await;
        match event.unwrap_or_else(|| panic!("nothing came behind {count} retained messages")) {
            Event::Packet(Packet::Publish(message)) if message.text() == end => return count,
            Event::Packet(Packet::Publish(_)) => count += 1,
            Event::Packet(Packet::Suback(_)) => {}
            other => panic!("{other:?}"),
        }
        if count == self::count() {
            // The marker comes behind them: on the way from a publisher of its own.
            let mut publisher = node.clean(Version::V5, "marker").await;
            publisher.publish(publish("r/end", end)).await;
        }
    }
}

/// With as many subscriptions and retained messages a fourth node comes, catches up, and takes its share of the groups while
/// messages go on; then it routes and retains like the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_gets_many_subscriptions_and_retained_messages() {
    let mut cluster = Cluster::start_with(BINARY, 3, roomy);
    let began = Instant::now();
    subscribe_all(&cluster.nodes[0]).await;
    println!("{} subscriptions: {:?}", count(), began.elapsed());
    let began = Instant::now();
    let retained = (0..count()).map(|number| (format!("r/{number}"), number.to_string()));
    publish_all(&cluster.nodes[1], true, retained).await;
    println!("{} retained messages: {:?}", count(), began.elapsed());
    let mut traffic = cluster.nodes[1].durable(Version::V5, "traffic").await;
    let sent = tokio::spawn(async move {
        let mut sent: Vec<String> = Vec::new();
        let began = Instant::now();
        let mut longest = Duration::ZERO;
        while sent.len() < 200 || began.elapsed() < Duration::from_secs(10) {
            let before = Instant::now();
            let text = sent.len().to_string();
            traffic.publish(publish("s/7/7", &text).qos(1)).await;
            longest = longest.max(before.elapsed());
            sent.push(text);
        }
        (sent, longest)
    });
    let began = Instant::now();
    cluster.add_node_with(BINARY, roomy);
    cluster.nodes[3].wait_until_ready();
    println!("the fourth node serves: {:?}", began.elapsed());
    while cluster.node_view(0, "node-4")["votes"].as_u64() < Some(10) {
        assert!(began.elapsed() < Duration::from_secs(120), "it gets no share");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("it has its share: {:?}", began.elapsed());
    let (sent, longest) = sent.await.expect("it ends");
    println!("{} messages meanwhile, the longest wait {longest:?}", sent.len());
    assert!(longest < Duration::from_secs(5), "a publisher waited {longest:?}");
    let began = Instant::now();
    assert_eq!(count_retained(&cluster.nodes[0], "of the first").await, count());
    println!("all retained messages at the first node: {:?}", began.elapsed());
    let began = Instant::now();
    assert_eq!(count_retained(&cluster.nodes[3], "the end").await, count());
    println!("all retained messages at the fourth node: {:?}", began.elapsed());
    let mut publisher = cluster.nodes[3].clean(Version::V5, "p").await;
    publisher
        .publish(publish("s/7/7", "from the fourth").qos(1))
        .await;
    let mut subscriber = cluster.nodes[3].durable(Version::V5, "many 7").await;
    let mut received = subscriber.receive_texts(sent.len() + 1).await;
    // Messages of different publishers come in any order.
    let last = received.iter().position(|text| text == "from the fourth");
    received.remove(last.expect("it comes"));
    assert_eq!(received, sent);
}

/// Bytes of a large message.
const LARGE_BYTES: usize = 8 << 20;
/// Bytes of memory that a node may have while such messages are on their way and wait.
const RESIDENT_MAX: usize = 512 << 20;
/// Above what it had before they came, when they are gone.
const RESIDENT_MORE_MAX: usize = 150 << 20;

fn for_large(config: Config) -> Config {
    config.toml("[limits]\nmaximum_packet_size = 9437184\n[session]\nqueue_bytes_max = 17179869184\n")
}

fn large_count() -> usize {
    match std::env::var_os("QUORATE_LONG_CLUSTER") {
        Some(_) => 1_000,
        None => 100,
    }
}

/// A large message that says which one it is at both ends.
fn large(number: usize) -> Vec<u8> {
    let mut payload = vec![b'.'; LARGE_BYTES];
    let number = (number as u64).to_be_bytes();
    payload[..8].copy_from_slice(&number);
    payload[LARGE_BYTES - 8..].copy_from_slice(&number);
    payload
}

/// Resident memory of a process; none where it has ended.
fn resident(pid: usize) -> Option<usize> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: usize = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib * 1024)
}

/// Looks at the nodes' memory all the time.
struct MemoryWatch {
    nodes: Arc<Vec<(AtomicUsize, AtomicUsize)>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MemoryWatch {
    fn start(cluster: &Cluster) -> Self {
        let pids = cluster
            .nodes
            .iter()
            .map(|node| (AtomicUsize::new(node.pid() as usize), AtomicUsize::new(0)));
        let nodes: Arc<Vec<_>> = Arc::new(pids.collect());
        let ends = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (nodes, ends) = (nodes.clone(), ends.clone());
            move || {
                while !ends.load(Ordering::Relaxed) {
                    for (pid, peak) in &*nodes {
                        let now = resident(pid.load(Ordering::Relaxed));
                        peak.fetch_max(now.unwrap_or(0), Ordering::Relaxed);
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        });
        Self {
            nodes,
            ends,
            thread: Some(thread),
        }
    }

    fn follow(&self, node: usize, pid: u32) {
        self.nodes[node].0.store(pid as usize, Ordering::Relaxed);
    }

    fn peaks(&self) -> Vec<usize> {
        self.nodes
            .iter()
            .map(|(_, peak)| peak.load(Ordering::Relaxed))
            .collect()
    }

    fn check(&self, when: &str) {
        let peaks = self.peaks();
        println!("{when}: most memory of each node {:?} MiB", in_mib(&peaks));
        assert!(
            peaks.iter().all(|peak| *peak <= RESIDENT_MAX),
            "{when}: {:?} MiB",
            in_mib(&peaks)
        );
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn in_mib(bytes: &[usize]) -> Vec<usize> {
    bytes.iter().map(|bytes| bytes >> 20).collect()
}

/// Each group's term and leader.
type Leaders = BTreeMap<String, (u64, String)>;

/// Each group's term and leader, as a node knows them.
fn leaders(cluster: &Cluster, asked: usize) -> Leaders {
    let groups = cluster.ctl(asked, &["raft-groups", "--output", "json"]).stdout;
    let groups: serde_json::Value = serde_json::from_str(&groups).expect("JSON");
    let groups = groups["items"].as_array().expect("a list").iter();
    let leader = |group: &serde_json::Value| {
        let name = group["group"].as_str().expect("a name").to_owned();
        let leader = group["leader"].as_str().unwrap_or_default().to_owned();
        (name, (group["term"].as_u64().expect("a number"), leader))
    };
    groups.map(leader).collect()
}

/// Nobody but the node that dies loses a leadership, and nobody but it, when it is back, is given one.
fn check_leaders(before: &Leaders, after: &Leaders, dies: &str) {
    let is_undisturbed = |group: &String, term: u64, leader: &str| {
        let (term_now, leader_now) = &after[group];
        *term_now == term || leader == dies || leader_now == dies
    };
    let changed: Vec<_> = before
        .iter()
        .filter(|(group, (term, leader))| !is_undisturbed(group, *term, leader))
        .collect();
    assert!(changed.is_empty(), "{changed:?}, now {after:?}");
}

/// Whether no node leads two groups more than another.
fn are_spread(leaders: &Leaders, nodes: usize) -> bool {
    let mut led: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, leader) in leaders.values().filter(|(_, leader)| !leader.is_empty()) {
        *led.entry(leader).or_default() += 1;
    }
    let (least, most) = (led.values().min(), led.values().max());
    led.len() == nodes && least.zip(most).is_some_and(|(least, most)| most - least <= 1)
}

/// They are spread over the nodes after a start: until then, groups are handed over.
async fn settled_leaders(cluster: &Cluster) -> Leaders {
    let began = Instant::now();
    let mut before = leaders(cluster, 0);
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = leaders(cluster, 0);
        if now == before && are_spread(&now, cluster.nodes.len()) {
            return now;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "not spread: {now:?}");
        before = now;
    }
}

/// 8 MiB messages wait for a durable subscriber that is absent, and a node is killed and comes back meanwhile: no node
/// ever takes more than its bound of memory, no group loses its leader for it, and the subscriber gets all of them, once
/// and in order, from another node.
#[tokio::test(flavor = "multi_thread")]
async fn large_messages_for_an_absent_subscriber_stay_within_bounds_of_memory() {
    const DIES: usize = 2;
    if std::env::var_os("QUORATE_BINARY").is_none() {
        // One that is not optimized misses its heartbeats meanwhile where it has no core for itself. What bounds the
        // memory has tests of its own in the other crates.
        println!("not run: QUORATE_BINARY names no optimized broker");
        return;
    }
    let mut cluster = Cluster::start_with(BINARY, 3, for_large);
    let mut subscriber = cluster.nodes[0].durable(Version::V5, "s").await;
    subscriber.subscribe("large", 1).await;
    subscriber.disconnect().await;
    let idle: Vec<_> = (cluster.nodes.iter())
        .map(|node| resident(node.pid() as usize).expect("it runs"))
        .collect();
    let watch = MemoryWatch::start(&cluster);
    let mut publisher = cluster.nodes[1].durable(Version::V5, "p").await;
    let before = settled_leaders(&cluster).await;
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    let dies_at = large_count() / 3;
    for number in 0..large_count() {
        if number == dies_at {
            check_leaders(&before, &leaders(&cluster, 0), "nobody");
            cluster.nodes[DIES].kill();
        }
        if number == dies_at + 10 {
            check_leaders(&before, &leaders(&cluster, 0), "node-3");
            cluster.nodes[DIES].begin_restart();
            watch.follow(DIES, cluster.nodes[DIES].pid());
        }
        let sent = Instant::now();
        let code = publisher.publish(publish("large", large(number)).qos(1)).await;
        assert_eq!(code, 0, "message {number}");
        longest = longest.max(sent.elapsed());
    }
    println!(
        "{} messages queued in {:?}, the longest wait {longest:?}",
        large_count(),
        began.elapsed()
    );
    watch.check("queued");
    cluster.nodes[DIES].wait_until_listening();
    cluster.nodes[DIES].wait_until_ready();
    let began = Instant::now();
    let packet = connect("s")
        .resume()
        .expiry(600)
        .property(Property::ReceiveMaximum(4));
    let mut subscriber = cluster.nodes[DIES].client(Version::V5, &packet).await;
    for number in 0..large_count() {
        let message = subscriber.receive().await;
        assert!(!message.dup, "message {number} came before");
        assert!(
            message.payload == large(number),
            "message {number} is another one"
        );
    }
    subscriber.ping().await;
    assert_eq!(subscriber.waiting().map(|message| message.payload.len()), None);
    println!("received in {:?}", began.elapsed());
    watch.check("received");
    check_leaders(&before, &leaders(&cluster, 0), "node-3");
    let began = Instant::now();
    loop {
        let now: Vec<_> = (cluster.nodes.iter())
            .map(|node| resident(node.pid() as usize).expect("it runs"))
            .collect();
        let is_back = |(now, idle): (&usize, &usize)| *now <= idle + RESIDENT_MORE_MAX;
        if now.iter().zip(&idle).all(is_back) {
            println!("back at {:?} MiB after {:?}", in_mib(&now), began.elapsed());
            break;
        }
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "{:?} MiB are kept",
            in_mib(&now)
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    watch.check("afterwards");
}
