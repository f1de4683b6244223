//! What happens by itself when group time has come to a deadline (R32).
//!
//! Invariant: the set holds exactly the deadlines that sessions, wills and retained messages name, so it is rebuilt
//! from them and not stored. Timers due at the same time act in the order of [`Timer`].

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{GroupTime, SessionId};

/// Milliseconds of a number of seconds after `now`.
pub(super) fn after_secs(now: GroupTime, secs: u32) -> GroupTime {
    GroupTime(now.0.saturating_add(u64::from(secs) * 1000))
}

/// Something with a deadline.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The will of a session whose connection ended is due.
    WillDelay(SessionId),
    /// A session without connection ends.
    SessionExpiry(SessionId),
    /// A retained message goes.
    RetainedExpiry(Arc<str>),
}

/// All deadlines of a group.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Timers {
    deadlines: BTreeSet<(GroupTime, Timer)>,
}

impl Timers {
    pub(super) fn schedule(&mut self, at: GroupTime, timer: Timer) {
        self.deadlines.insert((at, timer));
    }

    /// Takes a timer off; one that acts just now is off already.
    pub(super) fn cancel(&mut self, at: GroupTime, timer: Timer) {
        self.deadlines.remove(&(at, timer));
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<GroupTime> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Removes the earliest timer whose deadline is not after `now`.
    pub(super) fn pop_due(&mut self, now: GroupTime) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.deadlines.pop_first().map(|(_, timer)| timer)
    }
}
