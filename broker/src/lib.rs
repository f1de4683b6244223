//! The quorate process.

pub mod auth;
pub mod config;
pub mod metrics;

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Commit this program was built from, or "unknown".
pub const COMMIT: &str = env!("QUORATE_COMMIT");
