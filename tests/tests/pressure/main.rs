//! What the broker does when something in it cannot keep up: it takes less from clients, and says so, instead of
//! growing or promising.

mod slow_worker;
mod stalled_disk;

use std::future::Future;
use std::time::Duration;

use quorate_tests::client::DEADLINE;
use tokio::time::{Instant, sleep};

/// Times a connection was held back for what it would add.
const HELD_BACK: &str = "quorate_reads_paused_total{reason=\"backlog\"}";

/// Asks until `condition` holds.
async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Runs a future to its end, which has to come in time.
async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(done) => done,
        Err(_) => panic!("never ended: {what}"),
    }
}
