//! The flusher: writes the buffer, syncs, runs completions. One flush at a time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::batch::{Batch, Failure, Waiting};
use super::{Shared, segment};
use crate::disk::DiskFile;
use crate::volume::LogMark;

/// How long records that nobody waits for (commit positions) may stay in memory.
const LAZY_WRITE_AFTER: Duration = Duration::from_millis(100);

/// Fails the log when the flusher dies, so that nobody waits for it.
struct FailOnPanic<'a>(&'a Shared);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0
                .fail(&io::Error::other("a completion panicked"), Vec::new());
        }
    }
}

fn run_completions(waiting: impl IntoIterator<Item = Waiting>) {
    for it in waiting {
        (it.done)(it.rejected.map_or(Ok(()), Err));
    }
}

fn fail_completions(waiting: Vec<Waiting>, failure: &Failure) {
    for it in waiting {
        (it.done)(Err(failure.error()));
    }
}

impl Shared {
    /// The flusher's thread.
    pub(super) fn run(&self) {
        let guard = FailOnPanic(self);
        let mut synced_at = Instant::now();
        let mut unsynced = false;
        while self.wait_for_work(unsynced) {
            if unsynced && synced_at.elapsed() >= self.options.sync_written_after {
                self.state.lock().wants_sync = true;
            }
            if self.flush().is_err() {
                break;
            }
            let state = self.state.lock();
            let was_unsynced = unsynced;
            unsynced = state.synced < state.written;
            // The clock of unsynced data starts with the first of it.
            if !unsynced || !was_unsynced {
                synced_at = Instant::now();
            }
        }
        if self.state.lock().closing
            && let Err(error) = self.close()
        {
            tracing::error!(%error, "the log was not closed cleanly");
        }
        drop(guard);
    }

    /// Waits until a flush has something to do; false when the log closes or has failed.
    fn wait_for_work(&self, unsynced: bool) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.closing || state.failed.is_some() {
                return false;
            }
            if state.urgent {
                return true;
            }
            let lazy = state.has_pending();
            if !lazy && !unsynced {
                self.wake.wait(&mut state);
            } else {
                let wait = if lazy {
                    LAZY_WRITE_AFTER
                } else {
                    self.options.sync_written_after
                };
                if self
                    .wake
                    .wait_for(&mut state, wait.min(self.options.sync_written_after))
                    .timed_out()
                {
                    return true;
                }
            }
        }
    }

    /// One flush. False where there was nothing to do.
    pub(super) fn flush(&self) -> io::Result<bool> {
        let _one_at_a_time = self.flushing.lock();
        let batch = {
            let mut state = self.state.lock();
            if let Some(failure) = &state.failed {
                return Err(failure.error());
            }
            state.take_batch()
        };
        let flushed = batch.is_some();
        if let Some(batch) = batch {
            self.write(batch)?;
        }
        let after = self.collect().and_then(|()| self.write_idle_mark());
        self.state.lock().flush_began = None;
        after.inspect_err(|error| self.fail(error, Vec::new()))?;
        Ok(flushed)
    }

    fn write(&self, mut batch: Batch) -> io::Result<()> {
        let waiting = std::mem::take(&mut batch.waiting);
        let end = batch.end();
        let file = match self.write_bytes(&batch) {
            Ok(file) => file,
            Err(error) => {
                self.fail(&error, waiting);
                return Err(error);
            }
        };
        let spare = batch.bytes.into_spare();
        self.state.lock().handle_written(end, batch.moves, spare);
        self.room.notify_all();
        let (synced, written): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|it| it.needs_sync);
        run_completions(written);
        if !batch.sync {
            return Ok(());
        }
        if let Err(error) = self.sync(&*file) {
            self.fail(&error, synced);
            return Err(error);
        }
        self.state.lock().handle_synced(end);
        run_completions(synced);
        if let Some(sequence) = batch.next_segment {
            let created = segment::create(&*self.disk, &self.dir, self.volume, sequence)
                .and_then(|file| self.mark(sequence, None).map(|()| file));
            match created {
                Ok(file) => self.state.lock().handle_segment(sequence, file),
                Err(error) => {
                    self.fail(&error, Vec::new());
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn write_bytes(&self, batch: &Batch) -> io::Result<Arc<dyn DiskFile>> {
        let file = batch
            .file
            .clone()
            .ok_or_else(|| io::Error::other("the active segment has no file"))?;
        if !batch.bytes.is_empty() {
            for (offset, piece) in batch.bytes.in_order() {
                file.write_at(batch.start.offset + offset, piece)?;
            }
            self.counters.flushes.fetch_add(1, Ordering::Relaxed);
            self.counters
                .bytes_written
                .fetch_add(batch.bytes.len() as u64, Ordering::Relaxed);
        }
        Ok(file)
    }

    fn sync(&self, file: &dyn DiskFile) -> io::Result<()> {
        let began = Instant::now();
        file.sync_data()?;
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        if let Some(observer) = &self.options.sync_observer {
            observer(began.elapsed());
        }
        Ok(())
    }

    /// Notes the newest segment, and at an orderly end its length.
    fn mark(&self, segment: u64, bytes: Option<u64>) -> io::Result<()> {
        match &self.options.mark {
            Some(mark) => mark.write(LogMark { segment, bytes }).map_err(io::Error::other),
            None => Ok(()),
        }
    }

    fn write_idle_mark(&self) -> io::Result<()> {
        let mark = self.state.lock().take_idle_mark();
        match mark {
            Some((file, place, bytes)) => file.write_at(place.offset, &bytes),
            None => Ok(()),
        }
    }

    /// Fails the log for ever: `waiting`, then all that is queued, gets the error.
    pub(super) fn fail(&self, error: &io::Error, waiting: Vec<Waiting>) {
        let (failure, queued) = {
            let mut state = self.state.lock();
            state.flush_began = None;
            state.fail(error)
        };
        self.room.notify_all();
        tracing::error!(%error, dir = %self.dir.display(), "the log has failed");
        fail_completions(waiting, &failure);
        fail_completions(queued, &failure);
    }

    /// Flushes and syncs all; nothing is accepted any more.
    pub(super) fn close(&self) -> io::Result<()> {
        self.state.lock().closing = true;
        if self.state.lock().closed {
            return Ok(());
        }
        while self.flush()? {}
        let _one_at_a_time = self.flushing.lock();
        let (file, active) = {
            let state = self.state.lock();
            let active = state.segments.get(&state.active);
            (active.and_then(|segment| segment.file.clone()), state.active)
        };
        // Once more, for the mark that the last flush left: it lets the next start tell damage from a torn end.
        if let Some(file) = file {
            self.sync(&*file)
                .and_then(|()| self.mark(active, Some(file.size()?)))
                .inspect_err(|error| self.fail(error, Vec::new()))?;
        }
        self.state.lock().closed = true;
        Ok(())
    }
}
