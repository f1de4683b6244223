//! The duties of the leader of `meta`: it grants leases, keeps the view, and says where the groups are.

use std::sync::Weak;
use std::time::{Duration, Instant};

use quorate_storage::log::GroupId;

use super::lease::{Leases, ViewChange};
use super::start::FOUNDER;
use super::{Host, Node, Placement};
use crate::meta::{MetaCommand, MetaState};
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
                ViewChange::Leave(node, incarnation) => {
                    tracing::warn!(
                        node = node.0,
                        incarnation = incarnation.0,
                        "a node fell silent; it serves no more"
                    );
                    MetaCommand::leave(node, incarnation)
                }
            };
            // What fails is found again in the next look.
            let _ = meta.propose(&command.encode()).await;
        }
        self.place_groups(meta).await;
    }

    /// Proposes where the groups are to be.
    async fn place_groups(&self, meta: &RaftGroup) {
        let places: Vec<MetaCommand> = {
            let state = self.directory().read();
            // The first members of the groups have to be there before others join them.
            let may_grow = self.groups().all(|group| group.replica().is_some());
            let wanted = wanted_places(&state, may_grow);
            wanted
                .into_iter()
                .map(|(group, replicas, after)| MetaCommand::place(group, &replicas, after))
                .collect()
        };
        for place in places {
            let _ = meta.propose(&place.encode()).await;
        }
    }
}

/// The groups whose placement is to change: with the new replicas and the version that they follow.
///
/// A group begins with the node that founded the cluster, alone, which creates it then and only then.
fn wanted_places(state: &MetaState, may_grow: bool) -> Vec<(GroupId, Vec<NodeId>, u64)> {
    let members: Vec<NodeId> = state
        .members()
        .filter(|(_, record)| record.incarnation > NodeIncarnation(0))
        .map(|(node, _)| node)
        .collect();
    if members.is_empty() {
        return Vec::new();
    }
    let mut places = Vec::new();
    for (number, group) in Placement::groups().enumerate() {
        let mut wanted = members.clone();
        // Each node is first for its part of the groups.
        wanted.rotate_left(number % members.len());
        let placed = state.placement(group);
        let (replicas, version) =
            placed.map_or((&[][..], 0), |placed| (&placed.replicas[..], placed.version));
        if version == 0 {
            wanted = vec![FOUNDER];
        } else if !may_grow {
            continue;
        }
        if replicas != wanted {
            places.push((group, wanted, version));
        }
    }
    places
}
