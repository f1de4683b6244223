//! `quorate verify`: the promise as a check that anyone can run against a running broker.
//!
//! Clients publish numbered messages, keep their sessions, come back after every loss of a connection, and do what the
//! standard asks of them; an oracle holds what they saw against what they were promised. Meanwhile commands of the
//! user's do something to the broker.
//!
//! ```text
//! runner -> cast -> publisher, subscriber ┐
//!        -> retained, wills               ├-> oracle -> report
//!        -> faults, dropped               ┘
//!           |
//!           durable (comes back) -> client (one connection) + session (what outlives it)
//! ```
//!
//! Everything runs in one thread: the oracle sees each event before the next is read.

mod cast;
mod client;
mod dropped;
mod durable;
mod faults;
mod message;
mod options;
mod oracle;
mod publisher;
mod random;
mod report;
mod retained;
mod runner;
mod session;
mod subscriber;
#[cfg(test)]
mod tests;
mod trial;
mod wills;

pub(crate) use message::PAYLOAD_BYTES_MIN;
pub(crate) use options::{
    Fault, Options, parse_address, parse_duration, parse_fault, parse_qos, parse_version,
};
pub(crate) use report::Report;
pub(crate) use runner::run;
