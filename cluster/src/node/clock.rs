//! Group time at a leader (R32): the last stamp plus the leader's monotonic elapsed time.
//!
//! Group time 0 is the creation of the cluster. The wall clock is read once, when a node starts: it only adds the gap
//! of a full stop, never takes time back.

use std::time::{Duration, Instant, SystemTime};

use crate::state::GroupTime;

/// Stamps the entries a leader proposes.
#[derive(Clone, Copy, Debug)]
pub struct GroupClock {
    base: GroupTime,
    started: Instant,
}

impl GroupClock {
    /// A clock that goes on from `last`, the last stamp of the group's log. `created_at` is the wall clock's time of
    /// the cluster's creation, `wall_now` the wall clock's time now.
    pub fn resume(last: GroupTime, created_at: SystemTime, wall_now: SystemTime) -> Self {
        let by_wall = wall_now.duration_since(created_at).unwrap_or(Duration::ZERO);
        let by_wall = GroupTime(u64::try_from(by_wall.as_millis()).unwrap_or(u64::MAX / 2));
        Self {
            base: last.max(by_wall),
            started: Instant::now(),
        }
    }

    /// Group time when the clock started: what is older came before this start of the node.
    pub fn started(&self) -> GroupTime {
        self.base
    }

    /// The stamp of an entry proposed now.
    pub fn stamp(&self) -> GroupTime {
        GroupTime(self.base.0 + u64::try_from(self.started.elapsed().as_millis()).unwrap_or(0))
    }

    /// How long until the clock shows `deadline`; zero when it has passed.
    pub fn until(&self, deadline: GroupTime) -> Duration {
        Duration::from_millis(deadline.0.saturating_sub(self.stamp().0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r32_wall_clock_adds_the_gap_of_a_stop_and_never_takes_time_back() {
        let created = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let later = created + Duration::from_secs(60);
        let ahead = GroupClock::resume(GroupTime(10_000), created, later);
        assert!(ahead.stamp() >= GroupTime(60_000) && ahead.stamp() < GroupTime(61_000));
        let backwards = GroupClock::resume(GroupTime(90_000), created, later);
        assert!(backwards.stamp() >= GroupTime(90_000));
        let before_creation = GroupClock::resume(GroupTime(5), created, SystemTime::UNIX_EPOCH);
        assert!(before_creation.stamp() >= GroupTime(5));
    }
}
