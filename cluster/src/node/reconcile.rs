//! Brings the members of the groups that this node leads to what `meta` says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quorate_storage::log::GroupId;

use super::{Host, Node};
use crate::meta::{MetaState, NodeRecord};
use crate::raft::{NodeAddress, RaftGroup};
use crate::state::NodeId;

/// Time between looks at the members.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Time between tries to hand leadership of a group over.
const HANDOVER_INTERVAL: Duration = Duration::from_secs(3);
/// Entries that a new replica may be behind when it becomes a voter.
const LAG_MAX: u64 = 1_000;
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
        if let Some(meta) = self.meta().filter(|meta| meta.is_leader()) {
            let (voters, learners) = meta_members(&self.directory().read());
            self.reconcile(meta, &voters, &learners).await;
        }
        for group in self.groups() {
            let Some(replica) = group.replica().filter(|replica| replica.is_leader()) else {
                continue;
            };
            let placed = self.directory().read().placement(group.id()).cloned();
            if let Some(placed) = placed {
                self.reconcile(replica, &placed.replicas, &[]).await;
            }
        }
    }

    /// One step towards these members; the next look takes the next.
    async fn reconcile(&self, replica: &RaftGroup, voters: &[NodeId], learners: &[NodeId]) {
        let status = replica.status();
        if status.members_changing {
            return;
        }
        for node in voters.iter().chain(learners) {
            if !status.members.contains_key(node) {
                let address = self.directory().read().node(*node).map(address_of);
                if let Some(address) = address
                    && let Err(error) = replica.add_learner(*node, address).await
                {
                    tracing::debug!(group = replica.group().0, %error, "a learner could not be added yet");
                }
                return;
            }
        }
        let present: BTreeSet<NodeId> = status
            .members
            .iter()
            .filter(|(_, member)| member.voter)
            .map(|(node, _)| *node)
            .collect();
        let wanted: BTreeSet<NodeId> = voters.iter().copied().collect();
        let has_caught_up = |node: &NodeId| {
            let matched = status.members.get(node).and_then(|member| member.matched);
            matched.is_some_and(|matched| matched + LAG_MAX >= status.last_log.unwrap_or(0))
        };
        if present != wanted {
            let ready = wanted
                .iter()
                .all(|node| present.contains(node) || has_caught_up(node));
            if ready && let Err(error) = replica.set_voters(wanted).await {
                tracing::debug!(group = replica.group().0, %error, "the voters could not be changed yet");
            }
            return;
        }
        self.spread_leader(replica, voters, has_caught_up).await;
    }

    /// The first of a group's replicas is to lead it, where it serves.
    async fn spread_leader(
        &self,
        replica: &RaftGroup,
        voters: &[NodeId],
        has_caught_up: impl Fn(&NodeId) -> bool,
    ) {
        let serves = |node: &NodeId| {
            let state = self.directory().read();
            let serving = state.view().serving.get(node);
            serving.is_some_and(|serving| serving.active)
        };
        let Some(best) = voters.iter().find(|node| serves(node)) else {
            return;
        };
        if *best != self.this_node() && has_caught_up(best) && self.handovers.may_try(replica.group()) {
            tracing::debug!(
                group = replica.group().0,
                node = best.0,
                "leadership is handed over"
            );
            let _ = replica.transfer_leader(*best).await;
        }
    }
}

fn address_of(record: &NodeRecord) -> NodeAddress {
    NodeAddress(record.address.clone())
}

/// Who is to vote in `meta` and who is to learn.
fn meta_members(state: &MetaState) -> (Vec<NodeId>, Vec<NodeId>) {
    let mut voters: Vec<NodeId> = state.members().map(|(node, _)| node).collect();
    let learners = voters.split_off(voters.len().min(META_VOTERS_MAX));
    (voters, learners)
}
