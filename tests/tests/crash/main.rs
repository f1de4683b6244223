//! What clients were promised, held against a broker that is killed again and again while they work, and against the
//! system calls by which it keeps the promise.
//!
//! The durability tests of `conformance` kill the broker at chosen points; here the points are random, and the clients
//! do what the standards ask of them after a lost connection.

mod kill_under_load;
mod ledger;
mod link;
mod publisher;
mod random;
mod subscriber;
mod sync_before_ack;
mod trace;

use quorate_tests::broker::{Broker, Config};

/// Starts a broker that logs little, so that it spends its time on messages.
fn start() -> Broker {
    start_program(env!("CARGO_BIN_EXE_quorate-under-test"))
}

/// Starts a program in place of the broker's.
fn start_program(program: &str) -> Broker {
    let queues = "[session]\nqueue_messages_max = 100000000\nqueue_bytes_max = 1099511627776";
    let config = Config::new()
        .toml(queues)
        .argument("--log-level")
        .argument("info");
    Broker::start(program, config)
}
