//! Behaviour of the broker, over sockets, one function per behaviour: what MQTT 3.1, 3.1.1 and 5 ask of a server, and
//! what Quorate adds to it. Files follow the chapters of the standards; each test names its clauses, those of MQTT 5
//! unless it says otherwise.
//!
//! One broker serves all tests whose behaviour does not depend on its configuration; names come from a
//! [`Scope`](quorate_tests::scope::Scope), so that tests run side by side.

mod auth;
mod bad_input;
mod catalogue;
mod connect;
mod delivery;
mod durability;
mod errors;
mod expiry;
mod keep_alive;
mod limits_of_clients;
mod limits_of_servers;
mod offers;
mod publish;
mod reasons;
mod replays;
mod retained;
mod session;
mod shared;
mod subscribe;
mod sys_topics;
mod text;
mod topics;
mod transport;
mod websocket;
mod will;

use std::sync::OnceLock;

use quorate_tests::broker::{Broker, Config, Shared};

/// Starts a broker of the test's own.
fn start(config: Config) -> Broker {
    Broker::start(env!("CARGO_BIN_EXE_quorate-under-test"), config)
}

/// The broker all tests share: defaults, with a listener for each transport.
fn broker() -> Shared {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    Shared(BROKER.get_or_init(|| {
        let config = Config::new()
            .listener("proxied", "mqtt", "proxy_protocol = true")
            .listener("proxied-ws", "ws", "proxy_protocol = true")
            .listener_at("ipv6", "mqtt", "[::1]:0", "");
        start(config)
    }))
}
