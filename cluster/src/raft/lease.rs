//! Keeps a group's checkpoints and the streaming of its stored state apart (R45).
//!
//! A snapshot streams what the store holds as of one position. While it does, the group's next checkpoint waits, for a
//! bounded time and a bounded number of bytes of log; then the stream is told that it has lost, and starts again from
//! the next checkpoint. Where memory waits for the checkpoint, that waits for two seconds, twice as long after a stream that
//! lost, and at most five seconds: clients wait with it, and are refused after ten. A replica whose state takes longer to
//! stream comes up to date when memory suffices again. A reader asks after each read whether it still holds its lease: a write starts only after the lease was revoked,
//! so what was read before that answer is untouched by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

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
    /// Streams in a row that lost to a checkpoint.
    lost: u32,
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

    /// Bytes of entries that the group has applied.
    pub(super) fn applied_bytes(&self) -> u64 {
        self.applied_bytes.load(Ordering::Relaxed)
    }

    /// Waits until nobody writes, then keeps writers away. Blocks.
    pub(super) fn read(self: &Arc<Self>) -> ReadLease {
        let reader = Arc::new(Reader {
            revoked: AtomicBool::new(false),
            since: Instant::now(),
            applied_bytes: self.applied_bytes(),
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
    pub(super) fn try_begin_write(&self, settings: &CheckpointSettings, is_urgent: bool) -> bool {
        let applied = self.applied_bytes();
        let mut gate = self.gate.lock();
        let pause_max = match is_urgent {
            true => gate.urgent_pause(settings),
            false => settings.snapshot_pause_max,
        };
        let within_bounds = |reader: &Arc<Reader>| {
            reader.since.elapsed() < pause_max
                && applied.saturating_sub(reader.applied_bytes) < settings.snapshot_pause_bytes_max
        };
        if gate.readers.iter().any(within_bounds) {
            return false;
        }
        gate.begin_write();
        true
    }

    /// Whether somebody reads the stored state.
    pub(super) fn is_read(&self) -> bool {
        !self.gate.lock().readers.is_empty()
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
    fn urgent_pause(&self, settings: &CheckpointSettings) -> Duration {
        let pause = settings
            .snapshot_pause_urgent
            .saturating_mul(1 << self.lost.min(16));
        pause.min(settings.snapshot_pause_urgent_max)
    }

    fn begin_write(&mut self) {
        if !self.readers.is_empty() {
            self.lost += 1;
        }
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

    /// Everything was read; whether it was untouched by a write.
    pub(super) fn end(self) -> bool {
        let mut gate = self.leases.gate.lock();
        let is_held = self.is_held();
        if is_held {
            gate.lost = 0;
        }
        is_held
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r45_a_checkpoint_that_memory_waits_for_waits_longer_after_each_stream_that_lost() {
        let settings = CheckpointSettings {
            snapshot_pause_urgent: Duration::from_millis(10),
            snapshot_pause_urgent_max: Duration::from_millis(35),
            ..CheckpointSettings::new(std::path::PathBuf::new())
        };
        let leases = Arc::<GroupLeases>::default();
        for pause_ms in [10, 20, 35, 35] {
            let (began, lease) = (Instant::now(), leases.read());
            assert!(leases.is_read());
            while !leases.try_begin_write(&settings, true) {
                assert!(lease.is_held());
                std::thread::yield_now();
            }
            assert!(began.elapsed() >= Duration::from_millis(pause_ms));
            assert!(!lease.end());
            leases.end_write();
        }
        let lease = leases.read();
        assert!(lease.end());
        assert!(!leases.is_read());
        assert_eq!(
            leases.gate.lock().urgent_pause(&settings),
            Duration::from_millis(10)
        );
    }

    #[test]
    fn r45_a_checkpoint_that_nothing_waits_for_is_patient() {
        let settings = CheckpointSettings {
            snapshot_pause_urgent: Duration::ZERO,
            ..CheckpointSettings::new(std::path::PathBuf::new())
        };
        let leases = Arc::<GroupLeases>::default();
        let lease = leases.read();
        assert!(!leases.try_begin_write(&settings, false));
        assert!(leases.try_begin_write(&settings, true));
        assert!(!lease.is_held());
    }

    /// Neither what is urgent nor what is not waits for a stream while the log behind the checkpoint grows without end.
    #[test]
    fn r45_a_checkpoint_waits_while_so_many_bytes_are_applied_and_no_longer() {
        let settings = CheckpointSettings {
            snapshot_pause_urgent: Duration::from_secs(3_600),
            snapshot_pause_urgent_max: Duration::from_secs(3_600),
            snapshot_pause_max: Duration::from_secs(3_600),
            snapshot_pause_bytes_max: 1_000,
            ..CheckpointSettings::new(std::path::PathBuf::new())
        };
        for is_urgent in [true, false] {
            let leases = Arc::<GroupLeases>::default();
            // What was applied before it began does not count.
            leases.count_applied(5_000);
            let early = leases.read();
            leases.count_applied(999);
            assert!(!leases.try_begin_write(&settings, is_urgent));
            let late = leases.read();
            leases.count_applied(1);
            assert!(
                !leases.try_begin_write(&settings, is_urgent),
                "the second stream has its own bytes"
            );
            leases.count_applied(999);
            assert!(leases.try_begin_write(&settings, is_urgent));
            assert!(!early.end() && !late.end(), "they begin again");
            leases.end_write();
        }
    }
}
