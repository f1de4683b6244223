//! Data directories that released versions have written: every later version opens them and finds everything.
//!
//! `tests/golden` has one for each release, as `kill -9` has left it: a checkpoint, and a log behind it. With `QUORATE_GOLDEN`
//! set to a directory the test keeps there what this version has written.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use quorate_tests::Version;
use quorate_tests::broker::{Broker, Config};
use quorate_tests::client::{Client, RawClient};
use quorate_tests::wire::{ConnectBuilder, connect, publish, pubrel};

/// Sessions that never expire: golden data grows old.
const NEVER: u32 = u32::MAX;
const SHARE: &str = "$share/group/shared";
/// Of the exchange at QoS 2 that the publisher has not ended.
const OPEN_ID: u16 = 9;
/// The file of what a subscriber was sent and has not acknowledged, with the packet identifiers.
const SENT: &str = "sent.json";

fn config() -> Config {
    Config::new()
        .named("golden")
        .toml(&format!("[session]\nexpiry_secs_max = {NEVER}\n"))
}

fn durable(id: &str) -> ConnectBuilder {
    connect(id).resume().expiry(NEVER)
}

async fn client(broker: &Broker, id: &str) -> Client {
    broker.client(Version::V5, &durable(id)).await
}

/// Half of it is in a checkpoint, the other half in the log alone.
async fn fill(broker: &mut Broker) -> BTreeMap<String, u16> {
    for (version, id) in [(Version::V5, "s-5"), (Version::V3_1_1, "s-4")] {
        let mut subscriber = broker.client(version, &durable(id)).await;
        subscriber.subscribe("a/#", 2).await;
        subscriber.disconnect().await;
    }
    let mut member = client(broker, "member").await;
    member.subscribe(SHARE, 2).await;
    member.disconnect().await;
    for half in ["stored", "logged"] {
        let mut publisher = client(broker, "p").await;
        for qos in [1, 2] {
            publisher
                .publish(publish("a/1", format!("{half} {qos}")).qos(qos))
                .await;
        }
        publisher.publish(publish("shared", half).qos(1)).await;
        publisher
            .publish(publish(&format!("retained/{half}"), half).qos(1).retain())
            .await;
        publisher.disconnect().await;
        if half == "stored" {
            // An orderly stop writes a checkpoint.
            assert!(broker.stop().success());
            broker.restart();
        }
    }
    let mut publisher = broker.raw_client(Version::V5, &durable("p")).await;
    publisher.send(&publish("a/1", "open").qos(2).id(OPEN_ID)).await;
    publisher.expect_pubrec().await;
    let mut subscriber = broker.raw_client(Version::V5, &durable("s-5")).await;
    received(&mut subscriber, 5).await
}

/// The next messages, which are not acknowledged.
async fn received(subscriber: &mut RawClient, count: usize) -> BTreeMap<String, u16> {
    let mut messages = BTreeMap::new();
    while messages.len() < count {
        let message = subscriber.expect_publish().await;
        messages.insert(message.text().to_owned(), message.id.expect("QoS 1 or 2"));
    }
    messages
}

async fn check(broker: &Broker, sent: &BTreeMap<String, u16>) {
    let mut publisher = broker.raw(Version::V5).await;
    assert!(publisher.connect(&durable("p")).await.session_present);
    let open = publish("a/1", "open").qos(2).id(OPEN_ID).dup();
    publisher.send(&open).await;
    publisher.expect_pubrec().await;
    publisher.send(&pubrel(OPEN_ID)).await;
    publisher.expect_pubcomp().await;
    let mut subscriber = broker.raw(Version::V5).await;
    assert!(subscriber.connect(&durable("s-5")).await.session_present);
    assert_eq!(&received(&mut subscriber, sent.len()).await, sent);
    let mut old = broker.client(Version::V3_1_1, &durable("s-4")).await;
    let mut texts = old.receive_texts(sent.len()).await;
    texts.sort();
    assert_eq!(texts, sent.keys().cloned().collect::<Vec<_>>());
    let mut member = client(broker, "member").await;
    assert!(member.connack.session_present);
    assert_eq!(member.receive_texts(2).await, ["stored", "logged"]);
    let mut reader = broker.clean(Version::V5, "reader").await;
    reader.subscribe("retained/#", 1).await;
    let mut texts = reader.receive_texts(2).await;
    texts.sort();
    assert_eq!(texts, ["logged", "stored"]);
    let mut publisher = client(broker, "p").await;
    publisher.publish(publish("a/2", "new").qos(2)).await;
    old.expect("new").await;
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("ours");
    for entry in fs::read_dir(from).expect("the directory is there") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("readable").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("ours")),
        }
    }
}

/// Opens a copy of golden data and checks what is in it.
async fn open(golden: &Path) {
    println!("{}", golden.display());
    let mut broker = Broker::start(env!("CARGO_BIN_EXE_quorate-under-test"), config());
    broker.kill();
    let data = broker.directory().join("data");
    fs::remove_dir_all(&data).expect("ours");
    copy(&golden.join("data"), &data);
    broker.restart();
    let sent = fs::read(golden.join(SENT)).expect("it was written with the data");
    let sent = serde_json::from_slice(&sent).expect("messages with their packet identifiers");
    check(&broker, &sent).await;
}

/// Writes golden data as this version does.
async fn write(golden: &Path) {
    let mut broker = Broker::start(env!("CARGO_BIN_EXE_quorate-under-test"), config());
    let sent = fill(&mut broker).await;
    broker.kill();
    copy(&broker.directory().join("data"), &golden.join("data"));
    let sent = serde_json::to_vec_pretty(&sent).expect("JSON");
    fs::write(golden.join(SENT), sent).expect("ours");
}

/// Sessions, subscriptions, queues with their packet identifiers, exchanges at QoS 2, retained messages and shares of every
/// version that was released, and of this one.
#[tokio::test]
async fn data_of_earlier_versions_is_opened() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let kept = std::env::var_os("QUORATE_GOLDEN").map(PathBuf::from);
    let own = kept.unwrap_or_else(|| directory.path().join("own"));
    write(&own).await;
    open(&own).await;
    let released = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    for version in fs::read_dir(released).into_iter().flatten() {
        open(&version.expect("readable").path()).await;
    }
}
