//! Leaders that no quorum answers fall silent (R15).
//!
//! Who hears a leader does not stand for election. A leader that is heard and hears nobody would so be followed for ever and
//! commit nothing. openraft can stop its heartbeats, but after the 400 ms of a lease, and an answer counts there only
//! if it comes within one heartbeat interval: where processors are short for half a second, leaders that everybody hears
//! fell silent for 800 ms and lost their groups. So heartbeats go on until a follower that hears nothing would stand,
//! and whoever has to do with a lease looks at the lease.

use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, ServerState};
use parking_lot::Mutex;

use super::group::RaftGroup;
use super::settings::GroupSettings;

/// When heartbeats are sent by a leader that no quorum answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    /// Without an answer for so long a leader falls silent.
    after: Duration,
    /// It is silent for so long, then is heard for as long, and so on.
    phase: Duration,
}

impl Silence {
    pub(super) fn new(settings: &GroupSettings) -> Self {
        let (min, max) = (settings.election_millis_min, settings.election_millis_max);
        Self {
            after: Duration::from_millis(max + min),
            // A lease and the longest wait of a follower.
            phase: Duration::from_millis(2 * max),
        }
    }

    /// Whether a leader sends heartbeats whom a quorum answered so long ago.
    fn is_over(self, unanswered: Duration) -> bool {
        match unanswered.checked_sub(self.after) {
            None => true,
            Some(beyond) => (beyond.as_nanos() / self.phase.as_nanos()) % 2 == 1,
        }
    }
}

/// The term in which a leader has not been answered yet, and since when it is known to lead in it.
pub(super) type Unanswered = Mutex<Option<(u64, Instant)>>;

impl RaftGroup {
    /// Stops the heartbeats of a leader that no quorum answers, and lets them go on: to be called all the time, several times
    /// in an election timeout.
    pub fn mind_quorum(&self) {
        let sends = self
            .unanswered_for()
            .is_none_or(|unanswered| self.silence().is_over(unanswered));
        self.raft().runtime_config().heartbeat(sends);
    }

    /// How long ago a quorum answered this leader of several voters; `None` where it leads no others.
    fn unanswered_for(&self) -> Option<Duration> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let mut unanswered = self.unanswered().lock();
        let voters = metrics.membership_config.membership().voter_ids().take(2).count();
        if metrics.state != ServerState::Leader || voters < 2 {
            *unanswered = None;
            return None;
        }
        if let Some(answered) = &metrics.last_quorum_acked {
            *unanswered = None;
            return Some(answered.elapsed());
        }
        let now = Instant::now();
        let since = unanswered
            .filter(|(term, _)| *term == metrics.current_term)
            .unwrap_or((metrics.current_term, now));
        *unanswered = Some(since);
        Some(now.duration_since(since.1))
    }
}

#[cfg(test)]
mod tests {
    use quorate_storage::log::GroupId;

    use super::*;

    #[test]
    fn r15_a_leader_that_nobody_answers_is_silent_until_others_could_stand() {
        let silence = Silence::new(&GroupSettings::new(GroupId(1)));
        let sends = |millis| silence.is_over(Duration::from_millis(millis));
        for heard in [0, 400, 649] {
            assert!(
                sends(heard),
                "{heard} ms: a follower that hears nothing would not stand either"
            );
        }
        // The longest wait of a follower that heard the last heartbeat is 800 ms.
        for silent in [650, 1_000, 1_449] {
            assert!(!sends(silent), "{silent} ms");
        }
        for probing in [1_450, 2_249] {
            assert!(sends(probing), "{probing} ms: perhaps it is answered again");
        }
        assert!(!sends(2_250));
    }
}
