//! How long the queues are of sessions that are not connected to a node that follows. It adds them up with those of
//! other groups and refuses what goes beyond a session's limit (R27); for that it is enough to know them roughly.

use crate::state::{QueueLimits, SessionId};

/// Steps in which a session's limit is told.
const STEPS: u32 = 64;

/// References of a queue and their bytes.
type Length = (u32, u64);

/// What one node that follows was told.
#[derive(Debug)]
pub(super) struct Lengths {
    step: Length,
    told: hashbrown::HashMap<SessionId, Length, foldhash::fast::RandomState>,
}

impl Lengths {
    /// Nothing was told yet; queues are limited like this.
    pub(super) fn new(limits: &QueueLimits) -> Self {
        Self {
            step: (
                (limits.messages_max / STEPS).max(1),
                (limits.bytes_max / u64::from(STEPS)).max(1),
            ),
            told: hashbrown::HashMap::default(),
        }
    }

    /// A queue is this long now; whether that is to be told.
    pub(super) fn note(&mut self, session: SessionId, length: Length) -> bool {
        let told = self.told.get(&session).copied().unwrap_or_default();
        let has_emptied = length.0 == 0 && told.0 > 0;
        let has_moved = length.0.abs_diff(told.0) >= self.step.0 || length.1.abs_diff(told.1) >= self.step.1;
        if length.0 == 0 {
            self.told.remove(&session);
        } else if has_moved {
            self.told.insert(session, length);
        }
        has_emptied || has_moved
    }

    /// The session is connected there: its queue is told exactly from now on.
    pub(super) fn forget(&mut self, session: SessionId) {
        self.told.remove(&session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_told_in_steps_and_when_nothing_is_left() {
        let mut lengths = Lengths::new(&QueueLimits {
            messages_max: 640,
            bytes_max: 64_000,
        });
        let session = SessionId(1);
        let mut note = |count, bytes| lengths.note(session, (count, bytes));
        assert!(!note(9, 900));
        assert!(note(10, 900));
        assert!(!note(19, 999));
        assert!(!note(1, 100));
        assert!(note(2, 1_900), "bytes count too");
        assert!(!note(1, 1_000));
        assert!(note(0, 0));
        assert!(!note(0, 0));
        assert!(!note(9, 0));
        assert!(note(11, 0));
        lengths.forget(session);
        assert!(
            !lengths.note(session, (0, 0)),
            "of an attached session it is told otherwise"
        );
    }
}
