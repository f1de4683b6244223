//! The flusher: one write and one sync for all that waits, and their completions; purged keys a few at a time.

use std::io;
use std::time::{Duration, Instant};

use super::encoding;
use super::{REMOVE_KEYS_MAX, Shared, State, Waiting};
use crate::log::GroupId;
use crate::state::sled_syncs;

/// How long a change that nobody waits for may stay unsynced.
const SYNC_LAZY_AFTER: Duration = Duration::from_millis(100);

struct FailOnPanic<'a>(&'a Shared);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0
                .fail(&io::Error::other("a completion panicked"), Vec::new());
        }
    }
}

fn run_completions(waiting: Vec<Waiting>) {
    for it in waiting {
        (it.done)(it.rejected.map_or(Ok(()), Err));
    }
}

impl State {
    /// What waits for the next flush.
    fn take_waiting(&mut self) -> Vec<Waiting> {
        self.flush += 1;
        std::mem::take(&mut self.waiting)
    }

    fn has_leftovers(&self) -> bool {
        self.groups.values().any(|group| group.leftover_to.is_some())
    }
}

impl Shared {
    /// The flusher's thread.
    pub(super) fn run(&self) {
        sled_syncs::ensure();
        let _guard = FailOnPanic(self);
        while let Some(waiting) = self.wait_for_work() {
            let done = self.flush(waiting).and_then(|()| self.remove_leftovers());
            if let Err(error) = done {
                return self.fail(&error, Vec::new());
            }
        }
    }

    /// What waits for a sync, perhaps nothing; `None` when the log has failed, or is closed and all is done.
    fn wait_for_work(&self) -> Option<Vec<Waiting>> {
        let mut state = self.state.lock();
        loop {
            if state.failed.is_some() {
                return None;
            }
            if !state.waiting.is_empty() || state.has_leftovers() {
                return Some(state.take_waiting());
            }
            if state.closing {
                return state.unsynced_since.map(|_| Vec::new());
            }
            match state.unsynced_since {
                None => self.wake.wait(&mut state),
                Some(since) => {
                    let rest = SYNC_LAZY_AFTER.saturating_sub(since.elapsed());
                    if rest.is_zero() || self.wake.wait_for(&mut state, rest).timed_out() {
                        return Some(state.take_waiting());
                    }
                }
            }
        }
    }

    fn flush(&self, waiting: Vec<Waiting>) -> io::Result<()> {
        let (synced, written): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|it| it.needs_sync);
        if !written.is_empty() {
            if let Err(error) = self.database.write() {
                self.fail(&error, written.into_iter().chain(synced).collect());
                return Err(error);
            }
            self.state.lock().unsynced_since.get_or_insert_with(Instant::now);
            run_completions(written);
        }
        if synced.is_empty() && !self.begin_lazy_sync() {
            return Ok(());
        }
        self.sync(synced)
    }

    /// Whether it is time to sync what nobody waits for.
    fn begin_lazy_sync(&self) -> bool {
        let state = self.state.lock();
        (state.unsynced_since).is_some_and(|since| state.closing || since.elapsed() >= SYNC_LAZY_AFTER)
    }

    /// Syncs everything, and completes `waiting`.
    fn sync(&self, waiting: Vec<Waiting>) -> io::Result<()> {
        {
            let mut state = self.state.lock();
            state.unsynced_since = None;
            for group in state.groups.values_mut() {
                group.syncing = group.last_index();
            }
        }
        if let Err(error) = self.database.sync() {
            self.fail(&error, waiting);
            return Err(error);
        }
        for group in self.state.lock().groups.values_mut() {
            group.synced = group.synced.max(group.syncing);
        }
        run_completions(waiting);
        Ok(())
    }

    /// Removes some keys of one purge.
    fn remove_leftovers(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let leftover = (state.groups.iter()).find_map(|(number, group)| Some((*number, group.leftover_to?)));
        let Some((number, to)) = leftover else {
            return Ok(());
        };
        state.unsynced_since.get_or_insert_with(Instant::now);
        // Under the lock: a reset and new entries at these indexes must not come between.
        if !self.remove_some(number, to)?
            && let Some(group) = state.groups.get_mut(&number)
        {
            group.leftover_to = None;
        }
        Ok(())
    }

    /// Removes some keys of `number` up to index `to`; false when none was left.
    pub(super) fn remove_some(&self, number: GroupId, to: u64) -> io::Result<bool> {
        let mut batch = sled::Batch::default();
        let mut keys = 0;
        for item in self
            .log
            .range(encoding::group_range(number, to))
            .take(REMOVE_KEYS_MAX)
        {
            batch.remove(item.map_err(encoding::io_error)?.0);
            keys += 1;
        }
        if keys > 0 {
            self.log.apply_batch(batch).map_err(encoding::io_error)?;
        }
        Ok(keys > 0)
    }

    /// Fails the log for ever.
    pub(super) fn fail(&self, error: &io::Error, waiting: Vec<Waiting>) {
        let (kind, text, queued) = {
            let mut state = self.state.lock();
            let (kind, text) = state
                .failed
                .get_or_insert_with(|| (error.kind(), error.to_string()))
                .clone();
            (kind, text, std::mem::take(&mut state.waiting))
        };
        tracing::error!(%error, "the log has failed");
        for it in waiting.into_iter().chain(queued) {
            (it.done)(Err(io::Error::new(kind, format!("the log has failed: {text}"))));
        }
        self.wake.notify_one();
    }
}
