//! `quorate verify` against brokers that keep the promise, and against a test double that breaks it in one way.
//!
//! The double stands between the checker and a broker, and misbehaves on purpose (`double`); each way has to be caught
//! under its own name. What a broker may do, such as closing connections or ending and starting again, must not be
//! called a violation.

mod broken;
mod check;
mod double;
mod honest;
mod judged;

use quorate_tests::broker::{Broker, Config};

/// Starts a broker that logs little, so that it spends its time on messages.
fn start() -> Broker {
    let config = Config::new().argument("--log-level").argument("info");
    Broker::start(env!("CARGO_BIN_EXE_quorate-under-test"), config)
}
