//! Publishers that wait for PUBACK or PUBREC: how long it took, and who has waited too long.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use quorate_cluster::node::Location;

/// Names one publish that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AckWait(u64);

#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Instant,
    location: Location,
}

/// The publishes of a worker that wait, oldest first.
#[derive(Debug, Default)]
pub(super) struct AckWaits {
    /// Number of the first in the queue.
    first: u64,
    /// Holes are publishes that were answered before older ones.
    waiting: VecDeque<Option<Waiting>>,
}

impl AckWaits {
    /// A publish of the connection at `location` waits from now on.
    pub(super) fn begin(&mut self, location: Location, now: Instant) -> AckWait {
        let since = now;
        self.waiting.push_back(Some(Waiting { since, location }));
        AckWait(self.first + self.waiting.len() as u64 - 1)
    }

    /// It was answered; how long it waited, unless it was given up before.
    pub(super) fn end(&mut self, wait: AckWait, now: Instant) -> Option<Duration> {
        let place = usize::try_from(wait.0.checked_sub(self.first)?).ok()?;
        let waiting = self.waiting.get_mut(place)?.take()?;
        self.drop_holes();
        Some(now.saturating_duration_since(waiting.since))
    }

    /// Gives up what waits since before `since`: the connections.
    pub(super) fn overdue(&mut self, since: Instant, overdue: &mut Vec<Location>) {
        while let Some(waiting) = self.waiting.front() {
            match waiting {
                Some(waiting) if waiting.since >= since => return,
                Some(waiting) => overdue.push(waiting.location),
                None => {}
            }
            self.waiting.pop_front();
            self.first += 1;
        }
    }

    fn drop_holes(&mut self) {
        while let Some(None) = self.waiting.front() {
            self.waiting.pop_front();
            self.first += 1;
        }
        if self.waiting.is_empty() && self.waiting.capacity() > 4_096 {
            self.waiting = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(slot: u32) -> Location {
        Location {
            worker: 0,
            slot,
            generation: 1,
        }
    }

    #[test]
    fn answers_end_waits_in_any_order() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut waits = AckWaits::default();
        let first = waits.begin(location(1), after(0));
        let second = waits.begin(location(2), after(1));
        let third = waits.begin(location(1), after(2));
        assert_eq!(waits.end(second, after(11)), Some(Duration::from_millis(10)));
        assert_eq!(waits.end(second, after(12)), None, "an answer counts once");
        assert_eq!(waits.end(first, after(5)), Some(Duration::from_millis(5)));
        let mut overdue = Vec::new();
        waits.overdue(after(2), &mut overdue);
        assert!(overdue.is_empty(), "the third waits since the limit, not longer");
        waits.overdue(after(3), &mut overdue);
        assert_eq!(overdue, vec![location(1)]);
        assert_eq!(waits.end(third, after(4)), None, "it was given up");
        let fourth = waits.begin(location(4), after(5));
        assert_eq!(waits.end(fourth, after(6)), Some(Duration::from_millis(1)));
    }
}
