//! The duties of the leader of `meta`: it grants leases, keeps the view, and says where the groups are.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quorate_storage::log::GroupId;

use super::lease::{Leases, ViewChange};
use super::places::{self, Candidate, Policy};
use super::start::FOUNDER;
use super::{Host, Node, Placement};
use crate::meta::{GroupPlacement, MetaCommand, MetaState};
use crate::raft::RaftGroup;
use crate::state::{NodeId, NodeIncarnation};

/// Time between looks at what `meta` needs.
const LEAD_INTERVAL: Duration = Duration::from_millis(100);
/// A look that comes so late shows that this node did not run.
const STALL_MIN: Duration = Duration::from_millis(400);

impl<H: Host> Node<H> {
    /// What the leader of `meta` answers to who asks for a lease: whether it gets one, and whether it is in the view.
    /// `None` where this node does not lead, or cannot show it.
    pub(super) async fn grant(
        &self,
        node: NodeId,
        incarnation: NodeIncarnation,
        goes_by: u64,
        asked: Instant,
    ) -> Option<(bool, bool)> {
        let meta = self.meta().filter(|meta| meta.is_leader())?;
        meta.ensure_linearizable().await.ok()?;
        let view = self.directory().read().view().clone();
        let mut leases = self.membership.leases.lock();
        // Whoever leads begins to keep leases before the first is asked for.
        let (_, leases) = leases.as_mut()?;
        let granted = leases.renew(node, incarnation, goes_by, asked, &view);
        Some((granted, view.holds(node, incarnation)))
    }

    /// The duties of the leader of `meta`.
    pub(super) async fn run_meta_leader(node: Weak<Self>) {
        let mut ticks = tokio::time::interval(LEAD_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(node) = node.upgrade() else { return };
            node.lead_meta().await;
        }
    }

    async fn lead_meta(&self) {
        let Some(meta) = self.meta().filter(|meta| meta.is_leader()) else {
            *self.membership.leases.lock() = None;
            self.membership.absences.forget();
            return;
        };
        let now = Instant::now();
        let last = std::mem::replace(&mut *self.membership.last_look.lock(), now);
        let term = meta.status().term;
        let is_new = |leases: &Option<(u64, Leases)>| leases.as_ref().is_none_or(|(of, _)| *of != term);
        if is_new(&self.membership.leases.lock()) {
            // What an earlier leader committed has to be known before the view is judged.
            if meta.ensure_linearizable().await.is_err() {
                return;
            }
            *self.membership.leases.lock() = Some((term, Leases::new(Instant::now())));
            tracing::info!("this node leads the cluster's membership");
            return;
        }
        let view = self.directory().read().view().clone();
        let changes = {
            let mut leases = self.membership.leases.lock();
            let Some((_, leases)) = leases.as_mut() else {
                return;
            };
            if now.duration_since(last) > STALL_MIN {
                leases.stalled_until(now);
            }
            leases.changes(&view, now)
        };
        // Who grants leases has one.
        let is_own =
            |change: &ViewChange| matches!(change, ViewChange::Leave(node, _) if *node == self.this_node());
        for change in changes.into_iter().filter(|change| !is_own(change)) {
            let command = match change {
                ViewChange::Activate(node, incarnation) => MetaCommand::activate(node, incarnation),
                ViewChange::Leave(node, incarnation) => MetaCommand::leave(node, incarnation),
            };
            // What fails is found again in the next look: a leader that is cut off tells of nothing that did not happen.
            let proposed = meta.propose(&command.encode()).await;
            if let (ViewChange::Leave(node, incarnation), Ok(_)) = (change, proposed) {
                tracing::warn!(
                    node = node.0,
                    incarnation = incarnation.0,
                    "a node fell silent; it serves no more"
                );
            }
        }
        // A node that has to start anew sees leaders that are none any more.
        if !self.is_of_the_past(&self.directory().read()) {
            self.place_groups(meta).await;
        }
    }

    /// Proposes where the groups are to be.
    async fn place_groups(&self, meta: &RaftGroup) {
        let stuck: Vec<GroupId> = Placement::groups()
            .filter(|group| !self.may_be_placed(meta, *group))
            .collect();
        let places: Vec<MetaCommand> = {
            let state = self.directory().read();
            self.membership.absences.note(&state);
            // The first member of a group has to be there before others join it: it creates the group.
            let may_grow = |group: GroupId, placed: &GroupPlacement| {
                let has_begun = !placed.is_beginning()
                    || self
                        .find_group(group)
                        .is_some_and(|group| group.known_leader().is_some());
                has_begun && !stuck.contains(&group)
            };
            let candidates = candidates(&state, |node| self.membership.absences.absent(node));
            let policy = self.policy(&state);
            let wanted = wanted_places(&state, &candidates, &policy, may_grow);
            self.tell_replaced(&state, &candidates, &policy, &wanted);
            wanted
                .into_iter()
                .map(|(group, replicas, after)| MetaCommand::place(group, &replicas, after))
                .collect()
        };
        for place in places {
            let _ = meta.propose(&place.encode()).await;
        }
    }

    /// Tells the operator once of each node whose places go to others because it has not served for so long.
    fn tell_replaced(
        &self,
        state: &MetaState,
        candidates: &[Candidate],
        policy: &Policy,
        wanted: &[(GroupId, Vec<NodeId>, u64)],
    ) {
        for candidate in candidates {
            let absent = candidate.absent.filter(|absent| *absent >= policy.replace_after);
            let loses = |(group, replicas, _): &(GroupId, Vec<NodeId>, u64)| {
                let placed = state.placement(*group);
                placed.is_some_and(|placed| placed.replicas.contains(&candidate.node))
                    && !replicas.contains(&candidate.node)
            };
            if let Some(absent) = absent
                && wanted.iter().any(loses)
                && self.membership.absences.is_news(candidate.node)
            {
                tracing::warn!(
                    node = candidate.node.0,
                    name = state.node(candidate.node).map_or("", |record| &record.name),
                    absent_secs = absent.as_secs(),
                    "a node has not served for cluster.replace_after_secs; its places in the groups go to other nodes"
                );
            }
        }
    }

    /// How many replicas groups are to have.
    pub(super) fn policy(&self, state: &MetaState) -> Policy {
        Policy {
            factor: usize::try_from(state.replication_factor()).unwrap_or(usize::MAX),
            replace_after: self.replace_after(),
        }
    }
}

/// Since when nodes do not serve, as far as this node has seen it: a new leader of `meta` counts anew.
#[derive(Debug, Default)]
pub(super) struct Absences(Mutex<BTreeMap<NodeId, Absence>>);

#[derive(Clone, Copy, Debug)]
struct Absence {
    since: Instant,
    /// That its places go to others is in the log.
    told: bool,
}

impl Absences {
    fn note(&self, state: &MetaState) {
        let mut absences = self.0.lock();
        absences.retain(|node, _| !state.view().serving.contains_key(node));
        for (node, _) in state
            .members()
            .filter(|(node, _)| !state.view().serving.contains_key(node))
        {
            absences.entry(node).or_insert_with(|| Absence {
                since: Instant::now(),
                told: false,
            });
        }
    }

    fn forget(&self) {
        self.0.lock().clear();
    }

    /// For how long a node has not served; nothing where it does.
    pub(super) fn absent(&self, node: NodeId) -> Option<Duration> {
        let absences = self.0.lock();
        absences.get(&node).map(|absence| absence.since.elapsed())
    }

    /// Whether it was not told yet that the places of this node go to others.
    fn is_news(&self, node: NodeId) -> bool {
        let mut absences = self.0.lock();
        absences
            .get_mut(&node)
            .is_some_and(|absence| !std::mem::replace(&mut absence.told, true))
    }
}

/// The members that have started once, as the leader of `meta` sees them.
pub(super) fn candidates(state: &MetaState, absent: impl Fn(NodeId) -> Option<Duration>) -> Vec<Candidate> {
    let started = state
        .members()
        .filter(|(_, record)| record.incarnation > NodeIncarnation(0));
    let candidates = started.map(|(node, record)| Candidate {
        node,
        absent: absent(node),
        draining: record.draining,
        leaving: record.leaving,
    });
    candidates.collect()
}

/// The groups whose placement is to change: with the new replicas and the version that they follow.
///
/// A group begins with the node that founded the cluster, alone, which creates it then and only then.
fn wanted_places(
    state: &MetaState,
    candidates: &[Candidate],
    policy: &Policy,
    may_grow: impl Fn(GroupId, &GroupPlacement) -> bool,
) -> Vec<(GroupId, Vec<NodeId>, u64)> {
    if candidates.is_empty() {
        return Vec::new();
    }
    let groups: Vec<GroupId> = Placement::groups().collect();
    let present: BTreeMap<GroupId, &GroupPlacement> = groups
        .iter()
        .filter_map(|group| Some((*group, state.placement(*group)?)))
        .collect();
    let table = present
        .iter()
        .map(|(group, placed)| (*group, placed.replicas.clone()))
        .collect();
    let mut wanted = places::wanted(&groups, candidates, &table, policy);
    let mut changes = Vec::new();
    for group in groups {
        let Some(placed) = present.get(&group) else {
            changes.push((group, vec![FOUNDER], 0));
            continue;
        };
        let replicas = wanted.remove(&group).unwrap_or_default();
        if replicas != placed.replicas && may_grow(group, placed) {
            changes.push((group, replicas, placed.version));
        }
    }
    changes
}
