//! The wills of sessions of live groups that were published in this group (R31).
//!
//! A live group holds no messages, so its leader publishes a due will in a data group, and tells its own group then. The
//! next leader does not know whether the one before it came that far, and publishes it again. So the data group remembers
//! whose wills it has had until it is told that the live group has forgotten them, or is gone; then nobody asks again.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::records::{Dirty, Key, Kind, RecordSink};
use super::{Epoch, SessionId};

/// The published wills.
#[derive(Debug, Default)]
pub(super) struct LiveWills {
    published: BTreeSet<(SessionId, Epoch)>,
    dirty: Dirty<(SessionId, Epoch)>,
}

impl LiveWills {
    pub(super) fn len(&self) -> usize {
        self.published.len()
    }

    pub(super) fn contains(&self, session: SessionId, epoch: Epoch) -> bool {
        self.published.contains(&(session, epoch))
    }

    /// Notes a will as published.
    pub(super) fn insert(&mut self, session: SessionId, epoch: Epoch) {
        if self.published.insert((session, epoch)) {
            self.dirty.insert((session, epoch));
        }
    }

    /// Forgets a will.
    pub(super) fn remove(&mut self, session: SessionId, epoch: Epoch) {
        if self.published.remove(&(session, epoch)) {
            self.dirty.insert((session, epoch));
        }
    }

    /// Wills behind `after`, in order.
    pub(super) fn after(
        &self,
        after: Option<(SessionId, Epoch)>,
    ) -> impl Iterator<Item = (SessionId, Epoch)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.published.range((start, Bound::Unbounded)).copied()
    }

    pub(super) fn drain(&mut self, sink: &mut impl RecordSink) {
        for will in self.dirty.take() {
            match self.published.contains(&will) {
                true => sink.put(record_key(will), |_| {}),
                false => sink.delete(record_key(will)),
            }
        }
    }

    pub(super) fn write_all(&self, sink: &mut impl RecordSink) {
        for will in &self.published {
            sink.put(record_key(*will), |_| {});
        }
    }

    pub(super) fn load(&mut self, session: SessionId, epoch: Epoch) {
        self.published.insert((session, epoch));
    }
}

fn record_key((session, epoch): (SessionId, Epoch)) -> Key {
    Key::new(Kind::LiveWill).session(session).u32(epoch.0)
}
