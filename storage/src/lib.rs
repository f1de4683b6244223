//! The Raft log, the sled-backed state store, checkpoints and the fault-injecting test store.
