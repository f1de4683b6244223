//! The quorate process.

pub mod admin;
pub mod auth;
pub mod cli;
mod clustering;
pub mod config;
mod drain;
mod gate;
mod listener;
pub mod logging;
pub mod metrics;
mod node;
mod peers;
mod recovery;
pub mod router;
pub mod serve;
mod store;
mod sys_topics;
pub mod transport;
mod verify;
mod worker;

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Commit this program was built from, or "unknown".
pub const COMMIT: &str = env!("QUORATE_COMMIT");
