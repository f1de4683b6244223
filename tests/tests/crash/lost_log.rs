//! A log whose files are gone is not taken for a new one: the broker refuses to start, and says what to do (R44).

use std::fs;
use std::path::Path;

use quorate_tests::Version;
use quorate_tests::broker::Broker;
use quorate_tests::wire::publish;

/// Exit code of a start from a data directory that has lost something.
const DATA_LOST: i32 = 3;

fn newest_segment(data: &Path) -> std::path::PathBuf {
    let segments = fs::read_dir(data.join("wal")).expect("the broker has a log");
    let paths = segments.map(|segment| segment.expect("readable").path());
    paths.max().expect("a log has a segment")
}

fn without_directory(data: &Path) {
    fs::remove_dir_all(data.join("wal")).expect("ours");
}

fn without_newest_segment(data: &Path) {
    fs::remove_file(newest_segment(data)).expect("ours");
}

/// Without the mark, the checkpointed state still tells.
fn without_log_and_mark(data: &Path) {
    fs::remove_dir_all(data.join("wal")).expect("ours");
    fs::remove_file(data.join("log_mark")).expect("ours");
}

/// A broker that has acknowledged a message to a durable session.
async fn broker_with_message() -> (tempfile::TempDir, Broker) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let broker = super::start(directory.path(), "");
    let mut subscriber = broker.durable(Version::V5, "s").await;
    subscriber.subscribe("x", 1).await;
    subscriber.disconnect().await;
    let mut publisher = broker.clean(Version::V5, "p").await;
    publisher.publish(publish("x", "acknowledged").qos(1)).await;
    (directory, broker)
}

fn expect_refusal(broker: &mut Broker) {
    let data = broker.directory().join("data");
    let status = broker.restart_in_vain();
    assert_eq!(status.code(), Some(DATA_LOST), "{}", broker.log());
    broker.wait_for_log("or start with an empty one");
    broker.wait_for_log(&data.display().to_string());
}

#[tokio::test]
async fn r44_a_lost_log_is_refused() {
    for lose in [without_directory, without_newest_segment] {
        let (_directory, mut broker) = broker_with_message().await;
        broker.kill();
        lose(&broker.directory().join("data"));
        expect_refusal(&mut broker);
    }
    for lose in [without_directory, without_newest_segment, without_log_and_mark] {
        let (_directory, mut broker) = broker_with_message().await;
        assert!(broker.stop().success());
        lose(&broker.directory().join("data"));
        expect_refusal(&mut broker);
        // It has touched nothing: a second try says the same.
        expect_refusal(&mut broker);
    }
}
