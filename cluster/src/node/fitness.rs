//! Leaders that stall (R15).
//!
//! A leader that does not apply what is committed for more than 300 ms hands the group over: to a voter that is up to date
//! and says of itself that it is fit. A node that has stalled calls itself unfit for a while, so that nobody gives it back
//! what it gave away. Where all stall, because they share a machine, nobody is fit, and all stays as it is.
//!
//! A leader whose log does not get to its disk keeps its groups: openraft commits and applies with the disks of the others.
//! Handed over it would be worse: the next leader's vote has to get to that disk before this node's replica goes on, and
//! until then it proposes nothing, applies nothing and confirms no routes. So such a node calls itself unfit, is given
//! nothing to lead, and gives nothing away that it need not.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use quorate_storage::log::GroupId;

use super::placement::META;
use super::{Host, Node, Placement};
use crate::raft::RaftGroup;
use crate::state::NodeId;

/// Time between looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A flush or a replica that stands still for so long stalls.
const STALL_MAX: Duration = Duration::from_millis(300);
/// One that stands still for so long may be about to: where several share a disk, they do not notice at the same moment.
const DOUBT_MIN: Duration = Duration::from_millis(100);
/// A node that has stalled is not fit for so long.
const UNFIT_FOR: Duration = Duration::from_secs(30);
/// Time after which a group is handed over once more.
const HANDOVER_INTERVAL: Duration = Duration::from_secs(2);
/// Time for a node to say whether it is fit.
const ANSWER_MAX: Duration = Duration::from_millis(200);
/// A voter that has not answered for so long is not chosen.
const SILENCE_MAX: Duration = Duration::from_millis(500);
/// Entries that a voter may be behind: more would have to get to its disk first.
const LAG_MAX: u64 = 64;

/// What this node knows of how it stalls.
#[derive(Debug, Default)]
pub(super) struct Fitness {
    stalls: Mutex<Stalls>,
    handed_over: AtomicU64,
}

/// How a replica stands.
#[derive(Clone, Copy, Debug)]
struct Standing {
    committed: u64,
    applied: u64,
}

/// Since when what stands still.
#[derive(Debug, Default)]
struct Stalls {
    looked: Option<Instant>,
    /// Where a replica with entries to apply has come, and since when it is there.
    applied: BTreeMap<GroupId, (u64, Instant)>,
    /// When the log stalled last, and when any replica did.
    log: Option<Instant>,
    replica: Option<Instant>,
    /// When each group was handed over last.
    handed_over: BTreeMap<GroupId, Instant>,
}

/// What stalls now.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stalling {
    /// The log, and it has not for a while.
    log_anew: bool,
    /// Those that do not apply.
    groups: Vec<GroupId>,
}

impl Stalls {
    /// Looks at the log's flush that is under way, and at the replicas.
    fn look(
        &mut self,
        now: Instant,
        flush: Option<Duration>,
        replicas: &BTreeMap<GroupId, Standing>,
    ) -> Stalling {
        let last = self.looked.replace(now);
        // A process that did not run knows nothing of its disk.
        if last.is_none_or(|last| now.duration_since(last) >= STALL_MAX) {
            self.applied.clear();
            return Stalling::default();
        }
        let mut log_anew = false;
        if flush.is_some_and(|running| running >= STALL_MAX) {
            log_anew = !is_recent(self.log, now);
            self.log = Some(now);
        }
        self.applied
            .retain(|group, _| replicas.get(group).is_some_and(|at| at.applied < at.committed));
        let mut groups = Vec::new();
        for (group, standing) in replicas {
            if standing.applied >= standing.committed {
                continue;
            }
            let since = self.applied.entry(*group).or_insert((standing.applied, now));
            if since.0 != standing.applied {
                *since = (standing.applied, now);
            }
            if now.duration_since(since.1) >= STALL_MAX {
                groups.push(*group);
            }
        }
        if !groups.is_empty() {
            self.replica = Some(now);
        }
        Stalling { log_anew, groups }
    }

    fn is_fit(&self, now: Instant, flush: Option<Duration>) -> bool {
        let has_stalled = is_recent(self.log, now) || is_recent(self.replica, now);
        let is_in_doubt = flush.is_some_and(|running| running >= DOUBT_MIN)
            || self
                .applied
                .values()
                .any(|(_, since)| now.duration_since(*since) >= DOUBT_MIN);
        !has_stalled && !is_in_doubt
    }

    /// Whether enough time has passed since a group was handed over.
    fn may_hand_over(&self, group: GroupId, now: Instant) -> bool {
        self.handed_over
            .get(&group)
            .is_none_or(|last| now.duration_since(*last) >= HANDOVER_INTERVAL)
    }

    fn note_handed_over(&mut self, group: GroupId, now: Instant) {
        self.handed_over.insert(group, now);
    }
}

fn is_recent(stalled: Option<Instant>, now: Instant) -> bool {
    stalled.is_some_and(|at| now.duration_since(at) < UNFIT_FOR)
}

impl Fitness {
    /// The node is not to lead for a while.
    pub(super) fn mark_unfit(&self, now: Instant) {
        self.stalls.lock().replica = Some(now);
    }
}

impl<H: Host> Node<H> {
    /// Times that this node handed a group over because it stalled.
    pub fn handed_over_stalled(&self) -> u64 {
        self.fitness.handed_over.load(Ordering::Relaxed)
    }

    /// Whether this node is fit to lead groups.
    pub(super) fn is_fit_to_lead(&self) -> bool {
        let flush = self.parts().log.flush_running_for();
        self.fitness.stalls.lock().is_fit(Instant::now(), flush)
    }

    /// Whether the log of this node has not stalled lately: else it gives away no group without need.
    pub(super) fn has_fit_log(&self) -> bool {
        !is_recent(self.fitness.stalls.lock().log, Instant::now())
    }

    /// Whether another node says that it is.
    pub(super) async fn is_fit(&self, node: NodeId) -> bool {
        let answer = tokio::time::timeout(ANSWER_MAX, self.peers().is_fit(node)).await;
        matches!(answer, Ok(Ok(true)))
    }

    /// Looks whether the log or a replica stalls, and hands over what this node leads.
    pub(super) async fn run_fitness(node: Weak<Self>) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let before = Instant::now();
            ticks.tick().await;
            let Some(node) = node.upgrade() else { return };
            let stood_still = before.elapsed().saturating_sub(LOOK_INTERVAL);
            if stood_still >= STALL_MAX {
                tracing::warn!(
                    ?stood_still,
                    "this node stood still: its processors were busy, or its machine was stopped; others may lead its groups now"
                );
            }
            node.look_at_fitness().await;
        }
    }

    async fn look_at_fitness(&self) {
        let now = Instant::now();
        let replicas = self.replicas();
        let standing = |replica: &RaftGroup| {
            let standing = Standing {
                committed: replica.committed_index().unwrap_or(0),
                applied: replica.applied_index().unwrap_or(0),
            };
            (replica.group(), standing)
        };
        let standings = replicas.iter().map(standing).collect();
        let flush = self.parts().log.flush_running_for();
        let due: Vec<&RaftGroup> = {
            let mut stalls = self.fitness.stalls.lock();
            let stalling = stalls.look(now, flush, &standings);
            if stalling.log_anew {
                tracing::warn!("the disk of this node's log stalls; it is given no groups to lead");
            }
            let led = replicas.iter().filter(|replica| replica.is_leader());
            led.filter(|replica| stalling.groups.contains(&replica.group()))
                .filter(|replica| stalls.may_hand_over(replica.group(), now))
                .collect()
        };
        if !due.is_empty() {
            self.hand_over_stalled(&due).await;
        }
    }

    /// Other nodes that serve, are to stay, and say that they are fit to lead.
    pub(super) async fn fit_nodes(&self) -> Vec<NodeId> {
        let serving: Vec<NodeId> = {
            let state = self.directory().read();
            let active = state.view().serving.iter().filter(|(_, serving)| serving.active);
            let stays = |node: &NodeId| state.node(*node).is_some_and(|record| !record.draining);
            active.map(|(node, _)| *node).filter(stays).collect()
        };
        let others = serving.into_iter().filter(|node| *node != self.this_node());
        let asked = others.map(|node| async move { self.is_fit(node).await.then_some(node) });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn hand_over_stalled(&self, replicas: &[&RaftGroup]) {
        let fit = self.fit_nodes().await;
        for replica in replicas {
            let Some(node) = self.successor(replica, &fit) else {
                tracing::debug!(
                    group = replica.group().0,
                    "a stalled leader has nobody to hand over to"
                );
                continue;
            };
            self.fitness
                .stalls
                .lock()
                .note_handed_over(replica.group(), Instant::now());
            self.fitness.handed_over.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                group = Placement::name(replica.group()),
                node = node.0,
                "this node does not apply what is committed; another one is to lead the group"
            );
            let _ = replica.transfer_leader(node).await;
        }
    }

    /// The best of those that are fit to lead a group after this node.
    fn successor(&self, replica: &RaftGroup, fit: &[NodeId]) -> Option<NodeId> {
        let status = replica.status();
        let last = status.last_log.unwrap_or(0);
        let could = |node: &&NodeId| {
            status.members.get(node).is_some_and(|member| {
                member.voter
                    && member.heard.is_some_and(|heard| heard < SILENCE_MAX)
                    && member.matched.is_some_and(|matched| matched + LAG_MAX >= last)
            })
        };
        let wanted = match replica.group() {
            META => Vec::new(),
            group => {
                let state = self.directory().read();
                state
                    .placement(group)
                    .map_or(Vec::new(), |placed| placed.replicas.clone())
            }
        };
        let in_order = wanted.iter().filter(|node| fit.contains(node)).chain(fit);
        in_order.copied().find(|node| could(&node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(3);

    /// A group, and one that has nothing to apply.
    fn at(applied: u64, committed: u64) -> BTreeMap<GroupId, Standing> {
        let standing = |committed, applied| Standing { committed, applied };
        BTreeMap::from([
            (GROUP, standing(committed, applied)),
            (GroupId(9), standing(1, 1)),
        ])
    }

    /// Looks every 100 ms, beginning now; each time the flush has been running for so many milliseconds.
    fn looks(stalls: &mut Stalls, start: Instant, seen: &[(Option<u64>, u64, u64)]) -> Vec<Stalling> {
        let look = |(tick, (flush, applied, committed)): (u32, &(Option<u64>, u64, u64))| {
            let flush = flush.map(Duration::from_millis);
            stalls.look(start + tick * LOOK_INTERVAL, flush, &at(*applied, *committed))
        };
        (0..).zip(seen).map(look).collect()
    }

    fn stalling(groups: &[GroupId]) -> Stalling {
        Stalling {
            log_anew: false,
            groups: groups.to_vec(),
        }
    }

    #[test]
    fn r15_a_node_whose_flush_does_not_end_is_unfit_and_keeps_its_groups() {
        let (mut stalls, start) = (Stalls::default(), Instant::now());
        let seen = [
            (None, 5, 5),
            (Some(50), 5, 5),
            (Some(150), 5, 5),
            (Some(299), 5, 5),
        ];
        let quiet = looks(&mut stalls, start, &seen);
        assert!(quiet.iter().all(|seen| *seen == stalling(&[])), "{quiet:?}");
        let later = start + 4 * LOOK_INTERVAL;
        assert!(stalls.is_fit(later, None));
        assert!(!stalls.is_fit(later, Some(DOUBT_MIN)), "it may be about to stall");
        let seen = looks(&mut stalls, later, &[(Some(399), 5, 5), (Some(499), 5, 5)]);
        let told_once = Stalling {
            log_anew: true,
            groups: Vec::new(),
        };
        assert_eq!(seen, [told_once, stalling(&[])]);
        let later = later + LOOK_INTERVAL;
        assert!(!stalls.is_fit(later + UNFIT_FOR / 2, None));
        assert!(stalls.is_fit(later + UNFIT_FOR, None));
    }

    #[test]
    fn r15_a_replica_that_does_not_apply_stalls_and_one_that_has_nothing_to_apply_does_not() {
        let (mut stalls, start) = (Stalls::default(), Instant::now());
        let busy = [
            (None, 5, 9),
            (None, 6, 9),
            (None, 6, 9),
            (None, 7, 9),
            (None, 7, 9),
            (None, 9, 9),
        ];
        let mut seen = looks(&mut stalls, start, &busy);
        let later = start + 6 * LOOK_INTERVAL;
        seen.extend(looks(&mut stalls, later, &[(None, 9, 9); 9]));
        assert!(seen.iter().all(|seen| *seen == stalling(&[])), "{seen:?}");
        let later = later + 9 * LOOK_INTERVAL;
        let seen = looks(&mut stalls, later, &[(None, 9, 10); 3]);
        assert!(seen.iter().all(|seen| *seen == stalling(&[])), "{seen:?}");
        assert!(!stalls.is_fit(later + 2 * LOOK_INTERVAL, None), "in doubt");
        let later = later + 3 * LOOK_INTERVAL;
        assert_eq!(looks(&mut stalls, later, &[(None, 9, 10)]), [stalling(&[GROUP])]);
        looks(&mut stalls, later + LOOK_INTERVAL, &[(None, 10, 10)]);
        assert!(!stalls.is_fit(later + UNFIT_FOR / 2, None));
        assert!(stalls.is_fit(later + UNFIT_FOR, None));
    }

    #[test]
    fn r15_a_process_that_did_not_run_judges_nothing() {
        let (mut stalls, start) = (Stalls::default(), Instant::now());
        looks(&mut stalls, start, &[(None, 9, 10), (None, 9, 10)]);
        let later = start + 10 * LOOK_INTERVAL;
        let seen = looks(
            &mut stalls,
            later,
            &[(Some(950), 9, 10), (None, 9, 10), (None, 9, 10)],
        );
        assert!(seen.iter().all(|seen| *seen == stalling(&[])), "{seen:?}");
        let later = later + 3 * LOOK_INTERVAL;
        looks(&mut stalls, later, &[(None, 10, 10)]);
        assert!(stalls.is_fit(later, None));
    }

    #[test]
    fn r15_a_group_is_not_handed_over_again_and_again() {
        let (mut stalls, start) = (Stalls::default(), Instant::now());
        assert!(stalls.may_hand_over(GROUP, start));
        stalls.note_handed_over(GROUP, start);
        assert!(!stalls.may_hand_over(GROUP, start + HANDOVER_INTERVAL / 2));
        assert!(stalls.may_hand_over(GroupId(4), start));
        assert!(stalls.may_hand_over(GROUP, start + HANDOVER_INTERVAL));
    }
}
