//! The way of a connection to its session: one connection of a client identifier opens it at a time, the others wait
//! in order, and clients that throw each other out are slowed down (R26).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use quorate_cluster::node::Location;
use quorate_proto::session::{Instant, OpenRequest};

/// A connection that is to open its session.
pub(crate) type Entrant = (Location, Box<OpenRequest>);

/// Takeovers of one client identifier that are not delayed, and the time in which they are forgotten.
const TAKEOVERS_FREE: u64 = 5;
const FORGOTTEN_MS: u64 = 10_000;
/// Further delay of each takeover beyond.
const DELAY_STEP_MS: u64 = 200;
/// Longest delay; well below what a client waits for CONNACK.
const DELAY_MAX_MS: u64 = 5_000;
/// A takeover weighs this much; the weight falls by one each millisecond.
const WEIGHT: u64 = FORGOTTEN_MS / TAKEOVERS_FREE;
/// Client identifiers remembered before those at rest are looked for.
const REMEMBERED_MIN: usize = 1_024;

/// The gate of a node.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    opening: Mutex<HashMap<Arc<str>, VecDeque<Entrant>, foldhash::fast::RandomState>>,
    takeovers: Mutex<Takeovers>,
}

impl Gate {
    /// Lets a connection open its session now, or makes it wait for the one that is at it.
    pub(crate) fn enter(&self, location: Location, request: Box<OpenRequest>) -> Option<Box<OpenRequest>> {
        let mut opening = self.opening.lock();
        match opening.get_mut(&request.client_id) {
            Some(waiting) => {
                waiting.push_back((location, request));
                None
            }
            None => {
                opening.insert(request.client_id.clone(), VecDeque::new());
                Some(request)
            }
        }
    }

    /// A connection is done opening; the next one that waits, if any.
    pub(crate) fn leave(&self, client_id: &Arc<str>) -> Option<Entrant> {
        let mut opening = self.opening.lock();
        let next = opening.get_mut(client_id)?.pop_front();
        if next.is_none() {
            opening.remove(client_id);
        }
        next
    }

    /// A session was taken from a connection here by one at another node.
    pub(crate) fn taken_away(&self, client_id: &Arc<str>, now: Instant) {
        // Who took it has waited there; who takes it back waits here.
        let _ = self.takeover(client_id, now);
    }

    /// A connection is about to take a session over; how long it has to wait first.
    pub(crate) fn takeover(&self, client_id: &Arc<str>, now: Instant) -> Option<Duration> {
        self.takeovers.lock().note(client_id, now)
    }
}

/// When the weight of a client identifier's takeovers will have fallen to nothing.
#[derive(Debug, Default)]
struct Takeovers {
    at_rest: HashMap<Arc<str>, Instant, foldhash::fast::RandomState>,
    clean_at: usize,
}

impl Takeovers {
    fn note(&mut self, client_id: &Arc<str>, now: Instant) -> Option<Duration> {
        if self.at_rest.len() >= self.clean_at.max(REMEMBERED_MIN) {
            self.at_rest.retain(|_, at_rest| *at_rest > now);
            self.clean_at = 2 * self.at_rest.len();
        }
        let at_rest = self.at_rest.entry(client_id.clone()).or_insert(now);
        // Bounded, so that a storm is forgotten soon after it has ended.
        let weight_max = FORGOTTEN_MS + WEIGHT * (DELAY_MAX_MS / DELAY_STEP_MS);
        let weight = (at_rest.0.saturating_sub(now.0) + WEIGHT).min(weight_max);
        *at_rest = now.plus_millis(weight);
        let beyond = weight.saturating_sub(FORGOTTEN_MS).div_ceil(WEIGHT);
        if beyond == 1 {
            tracing::warn!(
                client_id = &**client_id,
                "connections with this client identifier keep taking the session over from each other; they are slowed down"
            );
        }
        (beyond > 0).then(|| Duration::from_millis((beyond * DELAY_STEP_MS).min(DELAY_MAX_MS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r26_takeovers_are_delayed_progressively_and_forgotten() {
        let gate = Gate::default();
        let client: Arc<str> = "c".into();
        let note = |millis| gate.takeover(&client, Instant(millis));
        for number in 0..TAKEOVERS_FREE {
            assert_eq!(note(number), None, "takeover {number}");
        }
        assert_eq!(note(5), Some(Duration::from_millis(200)));
        assert_eq!(note(6), Some(Duration::from_millis(400)));
        for _ in 0..100 {
            note(7);
        }
        assert_eq!(note(8), Some(Duration::from_millis(5_000)), "the longest delay");
        assert_eq!(gate.takeover(&"other".into(), Instant(9)), None);
        assert_eq!(note(100_000), None, "a storm is forgotten");
    }

    #[test]
    fn r26_one_takeover_in_two_seconds_is_never_delayed() {
        let gate = Gate::default();
        for number in 0..100 {
            assert_eq!(gate.takeover(&"c".into(), Instant(number * 2_000)), None);
        }
    }

    #[test]
    fn what_is_at_rest_is_not_remembered() {
        let mut takeovers = Takeovers::default();
        for number in 0..10_000u64 {
            takeovers.note(&number.to_string().into(), Instant(number * 100));
        }
        assert!(takeovers.at_rest.len() <= REMEMBERED_MIN);
    }
}
