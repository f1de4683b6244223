//! Threads whose work is less urgent than heartbeats.

/// How far they stand back, as nice(1) counts.
const NICENESS: i32 = 5;

/// This thread, and those that it starts, give way to the others where processors are short. Writing checkpoints is such
/// work, though memory may wait for it.
pub fn give_way() {
    // On Linux a priority is that of the thread, and threads have that of the one that starts them.
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "checkpoints are written at the usual priority");
    }
}
