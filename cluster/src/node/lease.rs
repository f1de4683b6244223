//! Leases on the view (R1).
//!
//! A node answers clients only while it holds a lease from the leader of `meta`. It counts its lease from the moment it
//! asked, the leader from the moment it was asked, so that the node's ends first. Before a start of a node is taken out
//! of the view its lease has run out; a new leader waits for that as long as a lease lasts. A start that has entered
//! gets its first lease when all who have one know of it (R2).
//!
//! A node reads a clock for its own lease that goes on while the machine is suspended. The leader's need not: a lease that
//! seems younger than it is only keeps a start in the view for longer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::meta::{Serving, View};
use crate::state::{NodeId, NodeIncarnation};

/// How long a lease lasts: longer than an election of `meta` takes.
pub(super) const LEASE: Duration = Duration::from_millis(1_500);
/// Time between renewals.
pub(super) const RENEW_INTERVAL: Duration = Duration::from_millis(200);
/// A lease that was asked for so long ago still holds, and yet the node is probably cut off: it falls silent, so that
/// its clients look for another node before the lease has run out. Longer than a renewal takes when a process dies.
const FRESH_MAX: Duration = Duration::from_millis(950);
/// After the end of a lease by the leader's clock, before the view changes.
const LAPSE_MARGIN: Duration = Duration::from_millis(50);

/// Time since the machine started, suspension included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BootTime(Duration);

impl BootTime {
    pub(super) fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let secs = u64::try_from(time.tv_sec).unwrap_or_default();
        let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
        Self(Duration::from_secs(secs) + Duration::from_nanos(nanos))
    }
}

/// This node's lease; reading it costs a look at the clock.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// End in milliseconds since the machine started.
    until: AtomicU64,
}

impl Lease {
    /// It was granted to who asked at `asked`.
    pub(super) fn grant(&self, asked: BootTime) {
        self.until.fetch_max(millis(asked.0 + LEASE), Ordering::SeqCst);
    }

    /// It is given up.
    pub(super) fn end(&self) {
        self.until.store(0, Ordering::SeqCst);
    }

    /// Whether it holds now.
    pub(super) fn is_held(&self) -> bool {
        self.holds_for(Duration::ZERO)
    }

    /// Whether it holds and was renewed just now.
    pub(super) fn is_fresh(&self) -> bool {
        self.holds_for(LEASE - FRESH_MAX)
    }

    fn holds_for(&self, rest: Duration) -> bool {
        millis(BootTime::now().0 + rest) < self.until.load(Ordering::SeqCst)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What the leader of `meta` knows of a start.
#[derive(Clone, Copy, Debug)]
struct Known {
    incarnation: NodeIncarnation,
    asked: Instant,
    view: u64,
}

/// The leases that this node grants while it leads `meta`.
#[derive(Debug)]
pub(super) struct Leases {
    /// Since when this node leads: leases that its predecessor granted may hold for as long as one lasts.
    leads_since: Instant,
    known: BTreeMap<NodeId, Known>,
    /// A start that gets no more leases.
    condemned: Option<(NodeId, NodeIncarnation)>,
}

/// What the view needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ViewChange {
    Activate(NodeId, NodeIncarnation),
    Leave(NodeId, NodeIncarnation),
}

impl Leases {
    /// Those of a leader whose time begins `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            leads_since: now,
            known: BTreeMap::new(),
            condemned: None,
        }
    }

    /// Grants a start no more leases, so that it leaves the view when its last one has run out, unless another one is
    /// about to: one at a time. Whether it is so.
    pub(super) fn condemn(&mut self, node: NodeId, incarnation: NodeIncarnation, view: &View) -> bool {
        let start = (node, incarnation);
        let is_free = self
            .condemned
            .is_none_or(|(other, of)| (other, of) == start || !view.holds(other, of));
        if is_free {
            self.condemned = Some(start);
        }
        is_free
    }

    /// A start asked at `asked` and goes by the view with this number. Whether it gets a lease: `asked` is before the
    /// leader has made sure that it leads, and `view` is what it knows after that.
    pub(super) fn renew(
        &mut self,
        node: NodeId,
        incarnation: NodeIncarnation,
        goes_by: u64,
        asked: Instant,
        view: &View,
    ) -> bool {
        let Some(serving) = view.serving.get(&node) else {
            return false;
        };
        if serving.incarnation != incarnation || self.condemned == Some((node, incarnation)) {
            return false;
        }
        let known = Known {
            incarnation,
            asked,
            view: goes_by,
        };
        let entry = self.known.entry(node).or_insert(known);
        if entry.incarnation != incarnation || entry.asked <= asked {
            *entry = known;
        }
        serving.active
    }

    /// Whether a lease of this start, which is known, may still hold.
    fn may_hold(&self, node: NodeId, now: Instant) -> bool {
        let asked = self.known.get(&node).map(|known| known.asked);
        let last = asked.map_or(self.leads_since, |asked| asked.max(self.leads_since));
        now < last + LEASE + LAPSE_MARGIN
    }

    /// This node itself did not run for a while: what others asked may still wait to be heard.
    pub(super) fn stalled_until(&mut self, now: Instant) {
        self.leads_since = now;
    }

    /// What is to be changed in the view.
    pub(super) fn changes(&mut self, view: &View, now: Instant) -> Vec<ViewChange> {
        let mut changes = Vec::new();
        let mut activated = Vec::new();
        for (node, serving) in &view.serving {
            // One that has just entered has as long as any other to ask for the first time.
            let first_seen = Known {
                incarnation: serving.incarnation,
                asked: now,
                view: 0,
            };
            let known = self.known.entry(*node).or_insert(first_seen);
            if known.incarnation != serving.incarnation {
                *known = first_seen;
            }
            if !self.may_hold(*node, now) {
                changes.push(ViewChange::Leave(*node, serving.incarnation));
            } else if !serving.active && self.all_know(view, &activated, serving.entered) {
                activated.push(*node);
                changes.push(ViewChange::Activate(*node, serving.incarnation));
            }
        }
        changes
    }

    /// Whether everybody who may have a lease, or is about to get one, goes by the view with this number or a later one.
    fn all_know(&self, view: &View, activated: &[NodeId], number: u64) -> bool {
        let may_hold = |(node, serving): &(&NodeId, &Serving)| serving.active || activated.contains(node);
        let mut holders = view.serving.iter().filter(may_hold);
        holders.all(|(node, serving)| {
            self.known
                .get(node)
                .is_some_and(|known| known.incarnation == serving.incarnation && known.view >= number)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving(incarnation: u64, entered: u64, active: bool) -> Serving {
        Serving {
            incarnation: NodeIncarnation(incarnation),
            entered,
            active,
            missed: 0,
        }
    }

    fn view(number: u64, serving: &[(u64, Serving)]) -> View {
        View {
            number,
            serving: serving
                .iter()
                .map(|(node, serving)| (NodeId(*node), *serving))
                .collect(),
        }
    }

    #[test]
    fn r1_a_lease_counts_from_when_it_was_asked_for() {
        let lease = Lease::default();
        assert!(!lease.is_held());
        let ago = |time| BootTime(BootTime::now().0.saturating_sub(time));
        lease.grant(BootTime::now());
        assert!(lease.is_held() && lease.is_fresh());
        lease.end();
        assert!(!lease.is_held() && !lease.is_fresh());
        lease.grant(ago(FRESH_MAX));
        assert!(lease.is_held() && !lease.is_fresh());
        lease.end();
        lease.grant(ago(LEASE));
        assert!(!lease.is_held());
    }

    /// A machine that was suspended must not believe in the lease that it had: `/proc/uptime` goes on meanwhile.
    #[test]
    fn r1_a_lease_runs_out_while_the_machine_is_suspended() {
        let before = BootTime::now();
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split_once(' ').unwrap().0.parse().unwrap();
        let (before, after) = (before.0.as_secs_f64(), BootTime::now().0.as_secs_f64());
        // It is told in hundredths.
        assert!(
            before - 0.02 <= uptime && uptime <= after + 0.02,
            "{before} {uptime} {after}"
        );
    }

    #[test]
    fn r1_who_may_still_hold_a_lease_stays_in_the_view() {
        let start = Instant::now();
        let view = view(4, &[(1, serving(1, 1, true)), (2, serving(7, 2, true))]);
        let mut leases = Leases::new(start);
        assert_eq!(
            leases.changes(&view, start),
            vec![],
            "a predecessor may have granted any"
        );
        let almost = start + LEASE;
        assert_eq!(leases.changes(&view, almost), vec![]);
        assert!(leases.renew(NodeId(1), NodeIncarnation(1), 4, almost, &view));
        assert!(
            !leases.renew(NodeId(2), NodeIncarnation(6), 4, almost, &view),
            "an older start"
        );
        let after = start + LEASE + LAPSE_MARGIN;
        assert_eq!(
            leases.changes(&view, after),
            vec![ViewChange::Leave(NodeId(2), NodeIncarnation(7))]
        );
        assert!(
            !leases.renew(NodeId(3), NodeIncarnation(1), 4, after, &view),
            "not in the view"
        );
    }

    #[test]
    fn r1_who_is_condemned_leaves_as_if_it_had_fallen_silent_and_nobody_else_meanwhile() {
        let start = Instant::now();
        let view = view(
            4,
            &[
                (1, serving(1, 1, true)),
                (2, serving(7, 2, true)),
                (3, serving(1, 3, true)),
            ],
        );
        let mut leases = Leases::new(start);
        let renew = |leases: &mut Leases, node, incarnation, at| {
            leases.renew(NodeId(node), NodeIncarnation(incarnation), 4, at, &view)
        };
        assert!(renew(&mut leases, 2, 7, start));
        assert!(leases.condemn(NodeId(2), NodeIncarnation(7), &view));
        assert!(
            !leases.condemn(NodeId(3), NodeIncarnation(1), &view),
            "one at a time"
        );
        let late = start + LEASE + LAPSE_MARGIN;
        assert!(renew(&mut leases, 1, 1, late) && renew(&mut leases, 3, 1, late));
        assert!(!renew(&mut leases, 2, 7, late));
        assert_eq!(
            leases.changes(&view, late),
            vec![ViewChange::Leave(NodeId(2), NodeIncarnation(7))]
        );
        let next = View {
            serving: view
                .serving
                .iter()
                .filter(|(node, _)| node.0 != 2)
                .map(|(node, it)| (*node, *it))
                .collect(),
            ..view.clone()
        };
        assert!(
            leases.condemn(NodeId(3), NodeIncarnation(1), &next),
            "the first one has left"
        );
    }

    #[test]
    fn r1_a_start_that_has_just_entered_has_time_to_ask() {
        let start = Instant::now();
        let mut leases = Leases::new(start);
        let late = start + 10 * LEASE;
        let view = view(5, &[(2, serving(3, 5, false))]);
        assert_eq!(
            leases.changes(&view, late),
            vec![ViewChange::Activate(NodeId(2), NodeIncarnation(3))],
            "nobody else has to know of it"
        );
        let silent = late + LEASE + LAPSE_MARGIN;
        assert_eq!(
            leases.changes(&view, silent),
            vec![ViewChange::Leave(NodeId(2), NodeIncarnation(3))]
        );
    }

    #[test]
    fn r2_a_start_that_enters_gets_a_lease_when_all_know_of_it() {
        let start = Instant::now();
        let before = view(4, &[(1, serving(1, 1, true))]);
        let entered = view(5, &[(1, serving(1, 1, true)), (2, serving(1, 5, false))]);
        let mut leases = Leases::new(start);
        assert!(leases.renew(NodeId(1), NodeIncarnation(1), 4, start, &before));
        assert!(!leases.renew(NodeId(2), NodeIncarnation(1), 5, start, &entered));
        assert_eq!(
            leases.changes(&entered, start),
            vec![],
            "node 1 goes by an older view"
        );
        assert!(leases.renew(NodeId(1), NodeIncarnation(1), 5, start, &entered));
        assert_eq!(
            leases.changes(&entered, start),
            vec![ViewChange::Activate(NodeId(2), NodeIncarnation(1))]
        );
        let late = start + LEASE + LAPSE_MARGIN;
        let changes = leases.changes(&entered, late);
        assert_eq!(changes.len(), 2, "both fell silent: {changes:?}");
    }

    #[test]
    fn r2_of_two_that_enter_at_once_each_knows_the_other_before_it_gets_a_lease() {
        let start = Instant::now();
        let both = view(6, &[(1, serving(1, 5, false)), (2, serving(1, 6, false))]);
        let mut leases = Leases::new(start);
        let mut renew = |node, goes_by| leases.renew(NodeId(node), NodeIncarnation(1), goes_by, start, &both);
        // The first one's replica of `meta` is late.
        assert!(!renew(1, 5) && !renew(2, 6));
        let activate = |node| ViewChange::Activate(NodeId(node), NodeIncarnation(1));
        assert_eq!(leases.changes(&both, start), vec![activate(1)]);
        assert!(!leases.renew(NodeId(1), NodeIncarnation(1), 6, start, &both));
        assert_eq!(leases.changes(&both, start), vec![activate(1), activate(2)]);
    }
}
