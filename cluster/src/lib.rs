//! Raft groups, the replicated state machines, and the node that runs them.
