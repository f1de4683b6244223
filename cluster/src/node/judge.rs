//! Starts that serve and do not confirm changes of routes (R1).
//!
//! Such a start renews its lease, and so every SUBACK would wait for it. Who waits for it accuses it at the leader of
//! `meta`, which believes nobody: it asks the accused itself, for some seconds, so that a machine that is merely busy has
//! its time. Where that is in vain it grants the start no more leases, which leaves the view when its last one has run
//! out, and starts anew. Before that the leader makes sure that it is not itself the one that is sick: it has to be there
//! already, and one more node has to confirm to it. It condemns one start at a time, and none without which the others
//! would be no majority. A leader that is itself accused, and lags, lets another one lead, which then judges it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use quorate_storage::log::GroupId;

use super::{Host, Node, Placement};
use crate::meta::View;
use crate::raft::RaftGroup;
use crate::state::{NodeId, NodeIncarnation};

/// Time that the accused has to confirm to the leader of `meta`.
const TRIAL_MAX: Duration = Duration::from_secs(5);
/// Pause before a node is asked again that could not be reached.
const RETRY: Duration = Duration::from_millis(50);
/// Time for an accusation to be taken.
const ACCUSE_MAX: Duration = Duration::from_secs(1);

/// A start that serves does not confirm what a group did up to an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accusation {
    pub(super) node: NodeId,
    pub(super) incarnation: NodeIncarnation,
    pub(super) group: GroupId,
    pub(super) index: u64,
}

/// What the leader of `meta` examines, and how often it condemned somebody.
#[derive(Debug, Default)]
pub(super) struct Trials {
    under_way: Mutex<BTreeSet<NodeId>>,
    condemned: AtomicU64,
}

#[cfg(test)]
impl Trials {
    /// Whether nothing is examined.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.lock().is_empty()
    }
}

/// What a trial has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The accused confirms.
    Innocent,
    /// It does not, and others do.
    Guilty,
    /// This node itself is behind, where others are not.
    OwnFault,
    /// Nobody confirms.
    Unknown,
}

/// What is known when a trial is over.
#[derive(Clone, Copy, Debug, Default)]
struct Evidence {
    accused: bool,
    this_node: bool,
    /// One that confirmed.
    witness: Option<NodeId>,
    /// The accused only follows replicas, and one of these has not confirmed: it may be what the accused waits for.
    has_excuse: bool,
}

impl Evidence {
    fn verdict(self, is_own_trial: bool) -> Verdict {
        match self {
            Self { accused: true, .. } => Verdict::Innocent,
            Self { witness: None, .. } | Self { has_excuse: true, .. } => Verdict::Unknown,
            _ if is_own_trial => Verdict::OwnFault,
            Self { this_node: true, .. } => Verdict::Guilty,
            Self { .. } => Verdict::Unknown,
        }
    }
}

/// Whether so many members have a majority that serves when one of the view is out of it.
fn is_enough_without_one(view: &View, members: usize) -> bool {
    let active = view.serving.values().filter(|serving| serving.active).count();
    active.saturating_sub(1) * 2 > members
}

impl<H: Host> Node<H> {
    /// Starts condemned by this node, while it led `meta`.
    pub fn starts_condemned(&self) -> u64 {
        self.trials.condemned.load(Ordering::Relaxed)
    }

    /// Tells the leader of `meta` of a start that does not confirm.
    pub(super) async fn accuse(self: &Arc<Self>, accusation: Accusation) {
        for leader in self.meta_leader_candidates() {
            let is_taken = if leader == self.this_node() {
                self.examine(leader, accusation)
            } else {
                let accused = self.peers().accuse(leader, &accusation);
                matches!(tokio::time::timeout(ACCUSE_MAX, accused).await, Ok(Ok(())))
            };
            if is_taken {
                return;
            }
        }
    }

    /// Begins to look at an accusation, unless that goes on already. False where this node does not lead `meta`.
    pub(super) fn examine(self: &Arc<Self>, from: NodeId, accusation: Accusation) -> bool {
        if !self.meta().is_some_and(RaftGroup::is_leader) {
            return false;
        }
        let Accusation {
            node,
            incarnation,
            group,
            index,
        } = accusation;
        let serves = self.directory().read().view().holds(node, incarnation);
        if !serves || self.find_group(group).is_none() || !self.trials.under_way.lock().insert(node) {
            return true;
        }
        tracing::info!(
            node = node.0,
            from = from.0,
            group = Placement::name(group),
            index,
            "a node is said not to confirm; it is asked"
        );
        let this = Arc::downgrade(self);
        self.spawn(async move {
            if let Some(this) = this.upgrade() {
                this.hold_trial(accusation).await;
                this.trials.under_way.lock().remove(&node);
            }
        });
        true
    }

    async fn hold_trial(&self, accusation: Accusation) {
        let is_own_trial = accusation.node == self.this_node();
        let evidence = self.take_evidence(accusation).await;
        let (node, group) = (accusation.node.0, Placement::name(accusation.group));
        match evidence.verdict(is_own_trial) {
            Verdict::Innocent => {}
            Verdict::Unknown => tracing::warn!(
                node,
                group,
                "whether a node lags cannot be judged: too few others confirm"
            ),
            Verdict::Guilty => self.condemn(accusation).await,
            Verdict::OwnFault => {
                self.fitness.mark_unfit(Instant::now());
                tracing::warn!(group, "this node lags, and lets another one lead the membership");
                if let (Some(witness), Some(meta)) = (evidence.witness, self.meta()) {
                    let _ = meta.transfer_leader(witness).await;
                }
            }
        }
    }

    /// Asks everybody who serves until the accused has confirmed, or the time is over.
    async fn take_evidence(&self, accusation: Accusation) -> Evidence {
        let view = self.directory().read().view().clone();
        let voters = self.meta().map(|meta| meta.status().members).unwrap_or_default();
        let is_voter = |node: &NodeId| voters.get(node).is_some_and(|member| member.voter);
        let mut confirmations = FuturesUnordered::new();
        for node in view.serving.keys().copied() {
            confirmations.push(async move {
                self.confirmed_by(node, accusation).await;
                node
            });
        }
        let mut replicas = self.replicas_of(accusation.group);
        let is_follower = !replicas.remove(&accusation.node);
        replicas.retain(|node| view.serving.contains_key(node));
        let mut evidence = Evidence::default();
        let deadline = tokio::time::Instant::now() + TRIAL_MAX;
        while let Ok(Some(node)) = tokio::time::timeout_at(deadline, confirmations.next()).await {
            replicas.remove(&node);
            if node == self.this_node() {
                evidence.this_node = true;
            }
            if node == accusation.node {
                evidence.accused = true;
                break;
            }
            // Where another one is to lead, it has to be one that can.
            if node != self.this_node() && (evidence.witness.is_none() || is_voter(&node)) {
                evidence.witness = Some(node);
            }
        }
        evidence.has_excuse = is_follower && !replicas.is_empty();
        evidence
    }

    /// Where a group is placed.
    fn replicas_of(&self, group: GroupId) -> BTreeSet<NodeId> {
        let state = self.directory().read();
        let placed = state
            .placement(group)
            .map(|placed| placed.replicas.iter().copied());
        placed.into_iter().flatten().collect()
    }

    async fn confirmed_by(&self, node: NodeId, accusation: Accusation) {
        let watermark = (accusation.group, accusation.index);
        if node == self.this_node() {
            if let Some(group) = self.find_group(accusation.group) {
                group.reached(accusation.index).await;
            }
            return;
        }
        while self.peers().confirm(node, &[watermark]).await.is_err() {
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn condemn(&self, accusation: Accusation) {
        let Accusation {
            node,
            incarnation,
            group,
            ..
        } = accusation;
        // Who does not lead any more grants nothing either.
        let Some(meta) = self.meta().filter(|meta| meta.is_leader()) else {
            return;
        };
        if meta.ensure_linearizable().await.is_err() {
            return;
        }
        let (view, members) = {
            let state = self.directory().read();
            (state.view().clone(), state.members().count())
        };
        if !view.holds(node, incarnation) {
            return;
        }
        let group = Placement::name(group);
        let is_condemned = is_enough_without_one(&view, members) && {
            let mut leases = self.membership.leases.lock();
            leases
                .as_mut()
                .is_some_and(|(_, leases)| leases.condemn(node, incarnation, &view))
        };
        if is_condemned {
            self.trials.condemned.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                node = node.0,
                incarnation = incarnation.0,
                group,
                "a node serves and does not confirm; it gets no more leases and has to start anew"
            );
        } else {
            tracing::warn!(
                node = node.0,
                group,
                "a node serves and does not confirm; it stays, because another one is leaving or too few would be left"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::Serving;

    #[test]
    fn r1_nobody_is_condemned_by_a_leader_that_may_be_the_sick_one() {
        let evidence = |accused, this_node, witness: Option<u64>| Evidence {
            accused,
            this_node,
            witness: witness.map(NodeId),
            has_excuse: false,
        };
        assert_eq!(evidence(false, true, Some(3)).verdict(false), Verdict::Guilty);
        assert_eq!(evidence(true, false, None).verdict(false), Verdict::Innocent);
        assert_eq!(evidence(false, true, None).verdict(false), Verdict::Unknown);
        assert_eq!(evidence(false, false, Some(3)).verdict(false), Verdict::Unknown);
        assert_eq!(evidence(false, false, Some(3)).verdict(true), Verdict::OwnFault);
        assert_eq!(evidence(false, false, None).verdict(true), Verdict::Unknown);
        let follower = Evidence {
            has_excuse: true,
            ..evidence(false, true, Some(3))
        };
        assert_eq!(follower.verdict(false), Verdict::Unknown);
    }

    #[test]
    fn r1_those_that_are_left_are_a_majority() {
        let view = |active: u64, entering: u64| View {
            number: 1,
            serving: (1..=active + entering)
                .map(|node| {
                    let serving = Serving {
                        incarnation: NodeIncarnation(1),
                        entered: 1,
                        active: node <= active,
                        missed: 0,
                    };
                    (NodeId(node), serving)
                })
                .collect(),
        };
        assert!(is_enough_without_one(&view(3, 0), 3));
        assert!(!is_enough_without_one(&view(2, 1), 3));
        assert!(!is_enough_without_one(&view(2, 0), 2));
        assert!(is_enough_without_one(&view(4, 0), 5));
        assert!(!is_enough_without_one(&view(3, 0), 5));
        assert!(!is_enough_without_one(&view(0, 0), 1));
    }
}
