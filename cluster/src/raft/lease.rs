//! Keeps a group's checkpoints and the streaming of its stored state apart (R45).
//!
//! A snapshot streams what the store holds as of one position. While it does, the group's next checkpoint waits, for a
//! bounded time and a bounded number of bytes of log; then the stream is told that it has lost, and starts again from
//! the next checkpoint. A reader asks after each read whether it still holds its lease: a write starts only after the
//! lease was revoked, so what was read before that answer is untouched by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::checkpoint::CheckpointSettings;

/// Readers and writer of one group's stored state.
#[derive(Default)]
pub(super) struct GroupLeases {
    applied_bytes: AtomicU64,
    gate: Mutex<Gate>,
    write_ended: Condvar,
}

#[derive(Default)]
struct Gate {
    writing: bool,
    readers: Vec<Arc<Reader>>,
}

struct Reader {
    revoked: AtomicBool,
    since: Instant,
    applied_bytes: u64,
}

/// The right to read a group's stored state while it does not change.
pub(super) struct ReadLease {
    leases: Arc<GroupLeases>,
    reader: Arc<Reader>,
}

impl GroupLeases {
    /// Counts bytes of entries that the group applied.
    pub(super) fn count_applied(&self, bytes: u64) {
        self.applied_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Waits until nobody writes, then keeps writers away. Blocks.
    pub(super) fn read(self: &Arc<Self>) -> ReadLease {
        let reader = Arc::new(Reader {
            revoked: AtomicBool::new(false),
            since: Instant::now(),
            applied_bytes: self.applied_bytes.load(Ordering::Relaxed),
        });
        let mut gate = self.gate.lock();
        self.write_ended.wait_while(&mut gate, |gate| gate.writing);
        gate.readers.push(Arc::clone(&reader));
        drop(gate);
        ReadLease {
            leases: Arc::clone(self),
            reader,
        }
    }

    /// Begins a write where no reader is in the way, or none that is still within its bounds.
    pub(super) fn try_begin_write(&self, settings: &CheckpointSettings) -> bool {
        let applied = self.applied_bytes.load(Ordering::Relaxed);
        let mut gate = self.gate.lock();
        let within_bounds = |reader: &Arc<Reader>| {
            reader.since.elapsed() < settings.snapshot_pause_max
                && applied.saturating_sub(reader.applied_bytes) < settings.snapshot_pause_bytes_max
        };
        if gate.readers.iter().any(within_bounds) {
            return false;
        }
        gate.begin_write();
        true
    }

    /// Begins a write; readers lose their leases.
    pub(super) fn begin_write_now(&self) {
        self.gate.lock().begin_write();
    }

    /// Ends a write.
    pub(super) fn end_write(&self) {
        self.gate.lock().writing = false;
        self.write_ended.notify_all();
    }
}

impl Gate {
    fn begin_write(&mut self) {
        for reader in self.readers.drain(..) {
            reader.revoked.store(true, Ordering::SeqCst);
        }
        self.writing = true;
    }
}

impl ReadLease {
    /// Whether everything read so far was untouched by a write.
    pub(super) fn is_held(&self) -> bool {
        !self.reader.revoked.load(Ordering::SeqCst)
    }
}

impl Drop for ReadLease {
    fn drop(&mut self) {
        self.leases
            .gate
            .lock()
            .readers
            .retain(|reader| !Arc::ptr_eq(reader, &self.reader));
    }
}
