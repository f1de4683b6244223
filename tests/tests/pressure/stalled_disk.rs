//! A disk on which a sync does not return.

use std::fs;
use std::path::PathBuf;

use quorate_tests::Version;
use quorate_tests::broker::{Broker, Config};
use quorate_tests::client::RawClient;
use quorate_tests::shim::start_script;
use quorate_tests::wire::{connect, filter, puback, publish, subscribe};

use super::{HELD_BACK, in_time, wait_until};

const MIB: usize = 1024 * 1024;
/// Bytes of commands from which on clients are not read.
const BACKLOG_MAX: usize = 64 * MIB;

/// A broker whose disk can be stopped.
struct Stallable {
    broker: Broker,
    stall: PathBuf,
    _directory: tempfile::TempDir,
}

impl Stallable {
    fn start(config: Config) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let stall = directory.path().join("stall");
        let program = env!("CARGO_BIN_EXE_quorate-under-test");
        let script = start_script(directory.path(), program, "stall", &[("STALL_FILE", &stall)]);
        let broker = Broker::start(script.to_str().expect("the path is UTF-8"), config);
        Self {
            broker,
            stall,
            _directory: directory,
        }
    }

    fn stop_disk(&self) {
        fs::write(&self.stall, "").expect("the temporary directory is writable");
    }

    fn let_disk_go(&self) {
        fs::remove_file(&self.stall).expect("the disk was stopped");
    }
}

/// A publish that cannot be stored is neither acknowledged nor refused: after `publish_wait_secs_max` the connection
/// is closed, and when the disk goes on the message is there.
#[tokio::test]
async fn publishers_are_closed_when_their_publish_is_not_stored_in_time() {
    let stallable = Stallable::start(Config::new().toml("[limits]\npublish_wait_secs_max = 1"));
    let broker = &stallable.broker;
    let mut subscriber = broker.durable(Version::V5, "subscriber").await;
    subscriber.subscribe("stored/#", 2).await;
    subscriber.disconnect().await;
    let mut publishers = Vec::new();
    for (version, qos) in [(Version::V5, 1), (Version::V5, 2), (Version::V3_1_1, 1)] {
        let id = format!("publisher-{version:?}-{qos}");
        publishers.push((qos, broker.raw_client(version, &connect(&id)).await));
    }
    let mut idle = broker.clean(Version::V5, "idle").await;

    stallable.stop_disk();
    for (number, (qos, publisher)) in publishers.iter_mut().enumerate() {
        let topic = format!("stored/{number}");
        publisher.send(&publish(&topic, "kept").qos(*qos).id(7)).await;
    }
    for (_, publisher) in &mut publishers {
        publisher.expect_disconnect(0x89).await;
    }
    let closed = "quorate_connections_closed_total{reason=\"publish_wait\"}";
    assert_eq!(broker.metric(closed), 3.0);
    idle.raw.expect_alive().await;

    stallable.let_disk_go();
    let mut subscriber = broker.durable(Version::V5, "subscriber").await;
    let mut texts = subscriber.receive_texts(3).await;
    texts.sort();
    assert_eq!(texts, ["kept"; 3]);
}

/// Publishes that nobody waits for (QoS 0, retained) stop being read when too many bytes wait for the disk.
#[tokio::test]
async fn clients_are_not_read_while_too_much_waits_for_the_disk() {
    const MESSAGES: usize = 300;
    const PAYLOAD: usize = MIB / 2;
    let config = Config::new().toml("[limits]\nretained_bytes_max = 1073741824");
    let stallable = Stallable::start(config);
    let broker = &stallable.broker;
    let mut publisher = broker
        .raw_client(Version::V5, &connect("publisher").keep_alive(1))
        .await;
    let mut other = broker.clean(Version::V5, "other").await;

    stallable.stop_disk();
    let flood = tokio::spawn(async move {
        let payload = vec![b'x'; PAYLOAD];
        for number in 0..MESSAGES {
            let topic = format!("flood/{}", number % 16);
            publisher.send(&publish(&topic, &payload).retain()).await;
        }
        publisher
    });
    wait_until("clients are held back", || broker.metric(HELD_BACK) > 0.0).await;
    let waiting = broker.metric("quorate_commit_backlog_bytes");
    assert!(waiting > BACKLOG_MAX as f64, "held back at {waiting} bytes");
    // Longer than one and a half keep alive intervals, during which the client cannot be heard.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let waiting = broker.metric("quorate_commit_backlog_bytes");
    assert!(
        waiting < (BACKLOG_MAX + 4 * MIB) as f64,
        "{waiting} bytes wait for the disk"
    );
    assert!(!flood.is_finished(), "the client's output waits as well");

    stallable.let_disk_go();
    let mut publisher: RawClient = in_time("the flood", flood).await.expect("the connection held");
    publisher.expect_alive().await;
    wait_until("all is stored", || {
        broker.metric("quorate_commit_backlog_bytes") == 0.0
    })
    .await;
    let retained = other.subscribe_until_retained("flood/5").await;
    assert_eq!(retained.payload.len(), PAYLOAD);
}

/// Retained messages for many new subscriptions of durable sessions, which nobody publishes, wait before they are read
/// while too much waits for the disk (R24); then all come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r24_retained_messages_wait_before_they_are_read() {
    const SUBSCRIBERS: usize = 200;
    const PAYLOAD: usize = MIB / 4 * 3;
    let stallable = Stallable::start(Config::new());
    let broker = &stallable.broker;
    let mut publisher = broker.clean(Version::V5, "publisher").await;
    publisher
        .publish(publish("large", vec![b'x'; PAYLOAD]).qos(1).retain())
        .await;
    let mut subscribers = Vec::new();
    for number in 0..SUBSCRIBERS {
        let packet = connect(&format!("subscriber-{number}")).expiry(600);
        subscribers.push(broker.raw_client(Version::V5, &packet).await);
    }
    // All are committed when the disk goes on.
    stallable.stop_disk();
    for subscriber in &mut subscribers {
        subscriber.send(&subscribe(1, [filter("large").qos(1)])).await;
    }
    for subscriber in &mut subscribers {
        subscriber.expect_alive().await;
    }
    stallable.let_disk_go();
    let receiving: Vec<_> = subscribers
        .into_iter()
        .map(|mut subscriber| {
            tokio::spawn(async move {
                subscriber.expect_suback().await;
                let message = subscriber.expect_publish().await;
                assert_eq!((message.payload.len(), message.retain), (PAYLOAD, true));
                subscriber.send(&puback(message.id.expect("at QoS 1"))).await;
            })
        })
        .collect();
    let mut highest = 0.0f64;
    while receiving.iter().any(|subscriber| !subscriber.is_finished()) {
        highest = highest.max(broker.metric("quorate_commit_backlog_bytes"));
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    for subscriber in receiving {
        in_time("a subscriber", subscriber)
            .await
            .expect("it gets the message");
    }
    // The bound, and one piece of each worker that was read before it was reached.
    assert!(
        highest < (BACKLOG_MAX + 8 * MIB) as f64,
        "{highest} bytes waited for the disk"
    );
}
