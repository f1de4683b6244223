//! What clients were promised, held against a broker that is killed again and again while they work, and against the
//! system calls by which it keeps the promise.
//!
//! The durability tests of `conformance` kill the broker at chosen points; here the points are random, and the clients
//! do what the standards ask of them after a lost connection.

mod golden;
mod kill_under_load;
mod ledger;
mod link;
mod lost_log;
mod publisher;
mod sled_log;
mod subscriber;
mod sync_before_ack;
mod trace;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use quorate_tests::broker::{Broker, Config};

/// Starts a broker that logs little, so that it spends its time on messages, behind the words of another command.
///
/// It is started by a script in `directory`, which becomes the process: the broker refuses to start with variables of
/// its prefix that it does not know, as are those of these tests.
fn start(directory: &Path, command: &str) -> Broker {
    let script = directory.join("start");
    let program = env!("CARGO_BIN_EXE_quorate-under-test");
    let text = format!(
        "#!/bin/sh\nunset QUORATE_CRASH_ROUNDS QUORATE_CRASH_SEED\nexec {command} '{program}' \"$@\"\n"
    );
    fs::write(&script, text).expect("the temporary directory is writable");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("the script is ours");

    let queues = "[session]\nqueue_messages_max = 100000000\nqueue_bytes_max = 1099511627776";
    let config = Config::new()
        .toml(queues)
        .argument("--log-level")
        .argument("info");
    Broker::start(script.to_str().expect("the path is UTF-8"), config)
}
