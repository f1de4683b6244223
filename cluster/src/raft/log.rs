//! openraft's log store over the node's log.
//!
//! Stands between a group's RaftCore and [`Log`]: every call is a submission, and the log keeps submissions in order,
//! so that a vote never becomes durable before entries that were submitted earlier, nor the other way round. `append`
//! returns once the entries are readable, and openraft hears of their durability through the completion. Only
//! `save_vote` waits for the disk here, because openraft answers a candidate when it returns.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use futures_util::stream::{self, Stream, TryStreamExt};
use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use quorate_storage::log::{GroupId, Log, LogEntry};
use tokio::sync::{mpsc, oneshot};

use super::beside::{self, LONG_BYTES};
use super::codec;
use super::types::{Entry, LogId, TypeConfig, Vote, entry_of, log_id_of, position_of, stored_entry};

/// Payload bytes read at once, for a follower or for apply. The transport's frame limit is far above the sum of this
/// and the largest entry.
pub(super) const READ_BYTES_MAX: usize = 1 << 20;

/// The log of one group; clones read and write the same log.
#[derive(Clone)]
pub(super) struct GroupLog {
    log: Arc<dyn Log>,
    group: GroupId,
    /// Tells whoever stops the replica that this still exists.
    _in_use: mpsc::Sender<()>,
}

impl GroupLog {
    /// The log of `group` in the node's log; `in_use` is held while it or a clone lives.
    pub(super) fn new(log: Arc<dyn Log>, group: GroupId, in_use: mpsc::Sender<()>) -> Self {
        Self {
            log,
            group,
            _in_use: in_use,
        }
    }

    /// Entries of `[start, end)` that the log holds, from the first held one on, no more than about `bytes_max`.
    fn read_held(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let state = self.log.state(self.group);
        let start = start.max(state.purged.map_or(0, |purged| purged.index.saturating_add(1)));
        let end = end.min(state.last.map_or(0, |last| last.index.saturating_add(1)));
        if start >= end {
            return Ok(Vec::new());
        }
        let stored = self.read_stored(start, end, bytes_max)?;
        let mut entries = Vec::with_capacity(stored.len());
        let first = stored.first().map_or(start, |entry| entry.position.index);
        for (expected, entry) in (first..).zip(stored) {
            if entry.position.index != expected {
                let message = format!("log entry {expected} is missing, found {}", entry.position.index);
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            entries.push(entry_of(entry)?);
        }
        Ok(entries)
    }

    /// Reads, beside the runtime's threads where that may take as long as a disk does.
    fn read_stored(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        beside::runtime_if(self.log.reads_file(self.group, start), || {
            self.log.read(self.group, start, end, bytes_max)
        })
    }

    fn report(group: GroupId, operation: &'static str) -> quorate_storage::log::Completion {
        Box::new(move |result| {
            if let Err(error) = result {
                // The log refuses everything after this, so the group's next operation stops it.
                tracing::error!(group = group.0, %error, "log {operation} failed");
            }
        })
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for GroupLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (mut start, end) = bounds(&range);
        let mut entries = Vec::new();
        loop {
            let chunk = self.read_held(start, end, READ_BYTES_MAX)?;
            let Some(last) = chunk.last() else { break };
            start = last.log_id.index + 1;
            entries.extend(chunk);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        let vote = self.log.state(self.group).vote;
        Ok(vote.map(|vote| codec::decode_vote(&vote)).transpose()?)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read_held(start, end, READ_BYTES_MAX)
    }

    /// Reads chunk by chunk: what apply has to catch up on may be far more than should be in memory. Ends where the
    /// log does; the state machine refuses to go on behind an entry that it did not get.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (start, end) = bounds(&range);
        let chunks = stream::try_unfold((self.clone(), start), move |(log, start)| async move {
            // Applying what is in memory never waits; other tasks want to run between the chunks.
            tokio::task::yield_now().await;
            let chunk = log.read_held(start, end, READ_BYTES_MAX)?;
            let next = chunk.last().map(|last| last.log_id.index + 1);
            Ok::<_, io::Error>(next.map(|next| (stream::iter(chunk.into_iter().map(Ok)), (log, next))))
        });
        Box::pin(chunks.try_flatten())
    }
}

impl RaftLogStorage<TypeConfig> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.log.state(self.group);
        Ok(LogState {
            last_purged_log_id: state.purged.map(log_id_of),
            last_log_id: state.last.map(log_id_of),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (durable, wait) = oneshot::channel();
        let done = Box::new(move |result| drop(durable.send(result)));
        beside::runtime_if(self.log.is_crowded(), || {
            self.log.save_vote(self.group, codec::encode_vote(vote), done);
        });
        wait.await.unwrap_or_else(|_| {
            Err(io::Error::other(
                "the log dropped a vote without saying whether it is durable",
            ))
        })
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.log.save_committed(self.group, position_of(committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.log.state(self.group).committed.map(log_id_of))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<_> = entries.into_iter().map(stored_entry).collect();
        let bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
        let done = Box::new(|result| callback.io_completed(result));
        beside::runtime_if(bytes >= LONG_BYTES || self.log.is_crowded(), || {
            self.log.append(self.group, entries, done);
        });
        Ok(())
    }

    /// Does not wait: what is appended later cannot become durable without the truncation before it.
    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let index = last.map(|last| last.index);
        let done = Self::report(self.group, "truncation");
        beside::runtime_if(self.log.is_crowded(), || {
            self.log.truncate_after(self.group, index, done);
        });
        Ok(())
    }

    /// Does not wait: a purge that a crash undoes leaves entries behind that the checkpoint covers.
    async fn purge(&mut self, up_to: LogId) -> Result<(), io::Error> {
        let done = Self::report(self.group, "purge");
        beside::runtime_if(self.log.is_crowded(), || {
            self.log.purge(self.group, position_of(up_to), done);
        });
        Ok(())
    }
}
