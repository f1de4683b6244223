//! Deadlines of connections on a coarse wheel: a tick of 100 ms, no work per packet.
//!
//! A connection stands in the wheel once. When its tick comes it is asked for its deadline again, because every
//! packet moves the keep alive; usually it is just put further ahead.

use std::rc::Rc;
use std::time::Duration;

use quorate_cluster::node::Location;
use quorate_proto::codec::ReasonCode;
use quorate_proto::session::{Close, Instant};

use super::Worker;

/// Length of a tick in milliseconds.
const TICK_MS: u64 = 100;
/// Ticks once round.
const TICKS: usize = 1024;

/// The wheel.
#[derive(Debug)]
pub(super) struct Wheel {
    spokes: Vec<Vec<Location>>,
    /// Everything before this tick has fired.
    tick: u64,
}

impl Wheel {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            spokes: (0..TICKS).map(|_| Vec::new()).collect(),
            tick: now.0 / TICK_MS,
        }
    }

    /// Puts a connection in so that it fires at `deadline` or, where that is more than one round ahead, earlier.
    pub(super) fn insert(&mut self, location: Location, deadline: Instant) {
        // Rounded up: a deadline must not fire before it has passed.
        let tick = (deadline.0 / TICK_MS + 1).clamp(self.tick + 1, self.tick + TICKS as u64 - 1);
        self.spokes[tick as usize % TICKS].push(location);
    }

    /// Takes out what is due.
    fn due(&mut self, now: Instant, due: &mut Vec<Location>) {
        let end = now.0 / TICK_MS;
        while self.tick < end {
            self.tick += 1;
            // Taken with its room: a burst of connections would stay in every spoke.
            due.append(&mut std::mem::take(&mut self.spokes[self.tick as usize % TICKS]));
        }
    }
}

impl Worker {
    pub(super) async fn run_timers(self: Rc<Self>) {
        let mut ticks = tokio::time::interval(Duration::from_millis(TICK_MS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut due = Vec::new();
        loop {
            ticks.tick().await;
            let now = self.now();
            self.mailbox().runs(now);
            self.wheel.borrow_mut().due(now, &mut due);
            for location in due.drain(..) {
                if let Some(conn) = self.connection(location) {
                    self.check_deadline(&conn, now);
                }
            }
            self.close_overdue_publishers(&mut due);
            self.look_at_held();
            self.crossers.borrow_mut().expire(now);
        }
    }

    /// Closes publishers whose acknowledgement does not come: what they sent may still be committed, so there is no
    /// negative answer (R13).
    fn close_overdue_publishers(self: &Rc<Self>, overdue: &mut Vec<Location>) {
        let Some(since) = std::time::Instant::now().checked_sub(self.shared.settings.publish_wait_max) else {
            return;
        };
        self.ack_waits.borrow_mut().overdue(since, overdue);
        for location in overdue.drain(..) {
            if let Some(conn) = self.connection(location) {
                let close = Close::new(ReasonCode::SERVER_BUSY, "a publish could not be stored in time");
                self.close(&conn, &close);
            }
        }
    }

    /// Puts a connection into the wheel.
    pub(super) fn watch(&self, location: Location, deadline: Instant) {
        self.wheel.borrow_mut().insert(location, deadline);
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
    fn deadlines_fire_once_and_never_early() {
        let mut wheel = Wheel::new(Instant(5_000));
        wheel.insert(location(1), Instant(5_050));
        wheel.insert(location(2), Instant(6_499));
        wheel.insert(location(3), Instant(1));
        let mut fired = Vec::new();
        for now in (5_000..8_000).step_by(10) {
            let mut due = Vec::new();
            wheel.due(Instant(now), &mut due);
            fired.extend(due.into_iter().map(|at| (at.slot, now)));
        }
        assert_eq!(fired, vec![(1, 5_100), (3, 5_100), (2, 6_500)]);
    }

    #[test]
    fn a_deadline_beyond_the_round_fires_early_and_is_put_in_again() {
        let mut wheel = Wheel::new(Instant(0));
        wheel.insert(location(1), Instant(10_000_000));
        let mut due = Vec::new();
        wheel.due(Instant(TICK_MS * TICKS as u64), &mut due);
        assert_eq!(due.len(), 1);
    }
}
