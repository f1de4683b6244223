//! Brings the members of the groups that this node leads to what `meta` says, one step at a time ([`steps`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use quorate_storage::log::GroupId;

use super::leading::candidates;
use super::placement::META;
use super::places;
use super::steps::{self, Aim, Seen, Step};
use super::{Host, Node};
use crate::raft::{MembershipError, NodeAddress, RaftGroup};
use crate::state::NodeId;

/// Time between looks at the members.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Time for one step; what takes longer goes on by itself, and is found busy.
const STEP_MAX: Duration = Duration::from_secs(2);
/// Time between tries to hand leadership of a group over.
const HANDOVER_INTERVAL: Duration = Duration::from_secs(3);
/// Entries that a new replica may be behind when it becomes a voter.
const LAG_MAX: u64 = 1_000;
/// A member that has not answered for so long does not count as alive.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// Voters of `meta`; others learn.
const META_VOTERS_MAX: usize = 5;

/// When leadership of each group was last tried to be handed over.
#[derive(Default)]
pub(super) struct Handovers(Mutex<BTreeMap<GroupId, Instant>>);

impl Handovers {
    /// Whether enough time has passed since the last try; then this is the next.
    fn may_try(&self, group: GroupId) -> bool {
        let mut tried = self.0.lock();
        let now = Instant::now();
        let due = tried
            .get(&group)
            .is_none_or(|last| now.duration_since(*last) >= HANDOVER_INTERVAL);
        if due {
            tried.insert(group, now);
        }
        due
    }
}

impl<H: Host> Node<H> {
    /// Brings the members of the groups that this node leads to what `meta` says.
    pub(super) async fn run_reconciler(node: Weak<Self>) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(node) = node.upgrade() else { return };
            node.reconcile_all().await;
        }
    }

    async fn reconcile_all(&self) {
        let led = self.replicas().into_iter().filter(RaftGroup::is_leader);
        let steps = led.map(|replica| async move {
            if let Some(aim) = self.aim_of(&replica) {
                // A group without majority does not hold the others up.
                let _ = tokio::time::timeout(STEP_MAX, self.reconcile(&replica, &aim)).await;
            }
        });
        join_all(steps).await;
    }

    /// Where a group that this node leads is to come.
    fn aim_of(&self, replica: &RaftGroup) -> Option<Aim> {
        let state = self.directory().read();
        let active = state.view().serving.iter().filter(|(_, serving)| serving.active);
        let serving = active.map(|(node, _)| *node).collect();
        let members: BTreeSet<NodeId> = state.members().map(|(node, _)| node).collect();
        if replica.group() == META {
            let voters = replica.status().members;
            let voters = voters
                .iter()
                .filter(|(_, member)| member.voter)
                .map(|(node, _)| *node);
            let policy = self.policy(&state);
            let candidates = candidates(&state, |node| self.membership.absences.absent(node));
            return Some(Aim {
                voters: places::meta_voters(&candidates, &voters.collect(), META_VOTERS_MAX, &policy),
                learners: members,
                serving,
            });
        }
        let placed = state.placement(replica.group())?;
        let voters = placed.replicas.iter().filter(|node| members.contains(node));
        Some(Aim {
            voters: voters.copied().collect(),
            learners: BTreeSet::new(),
            serving,
        })
    }

    /// One step towards these members; the next look takes the next.
    async fn reconcile(&self, replica: &RaftGroup, aim: &Aim) {
        let status = replica.status();
        let this = self.this_node();
        if let Some(next) = status.next_voters {
            // Whoever began this change leads no more, or did not get to its end: until then both sets decide.
            return self.tell_step(replica, replica.set_voters(next).await);
        }
        let last = status.last_log.unwrap_or(0);
        let members: BTreeMap<NodeId, Seen> = status
            .members
            .iter()
            .map(|(node, member)| {
                let seen = Seen {
                    voter: member.voter,
                    caught_up: *node == this
                        || member.matched.is_some_and(|matched| matched + LAG_MAX >= last),
                    alive: *node == this || member.heard.is_some_and(|heard| heard < SILENCE_MAX),
                };
                (*node, seen)
            })
            .collect();
        let Some(step) = steps::next(this, &members, aim) else {
            return;
        };
        if !matches!(step, Step::Lead(_)) {
            tracing::info!(group = replica.group().0, ?step, "the members of a group change");
        }
        match step {
            Step::AddLearner(node) => {
                if let Some(group) = self.find_group(replica.group())
                    && group.is_stored_in_part()
                {
                    // The first that comes may get a snapshot.
                    group.store_whole().await;
                    if group.is_stored_in_part() {
                        return;
                    }
                }
                let record = self.directory().read().node(node).cloned();
                if let Some(record) = record {
                    let added = replica.add_learner(node, NodeAddress(record.address)).await;
                    self.tell_step(replica, added);
                }
            }
            Step::SetVoters(voters) => self.tell_step(replica, replica.set_voters(voters).await),
            Step::RemoveLearner(node) => self.tell_step(replica, replica.remove_learner(node).await),
            Step::Lead(node) => {
                if self.handovers.may_try(replica.group()) && self.may_hand_over(node, aim).await {
                    tracing::debug!(
                        group = replica.group().0,
                        node = node.0,
                        "leadership is handed over"
                    );
                    let _ = replica.transfer_leader(node).await;
                }
            }
        }
    }

    /// Whether a node is to lead in this one's place, without need: not while one of them stalls (R15).
    async fn may_hand_over(&self, node: NodeId, aim: &Aim) -> bool {
        let this = self.this_node();
        let may_stay = aim.voters.contains(&this) && aim.serving.contains(&this);
        !may_stay || self.has_fit_log() && self.is_fit(node).await
    }

    fn tell_step(&self, replica: &RaftGroup, done: Result<(), MembershipError>) {
        if let Err(error) = done {
            tracing::debug!(group = replica.group().0, %error, "the members of a group could not be changed yet");
        }
    }
}
