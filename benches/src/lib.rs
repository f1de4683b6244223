//! What the benchmarks share: a client that only makes load, and the accounts that the operating system keeps of a
//! broker's process.
//!
//! - `load`: pairs of publishers and subscribers, or idle connections, against any broker.
//! - `micro` (`cargo bench`): codec, topic trie, session, router, each alone.

pub mod client;
pub mod disk;
pub mod process;
