//! This node's part in `meta`: it registers its start, holds a lease, and, while it leads `meta`, grants leases and
//! says where the groups are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_storage::log::GroupId;

use super::lease::{Lease, Leases, RENEW_INTERVAL, ViewChange};
use super::placement::META;
use super::start::FOUNDER;
use super::{Host, Node, Placement};
use crate::meta::{Directory, MetaCommand, MetaState, NodeRecord};
use crate::raft::{NodeAddress, ProposeError, RaftGroup};
use crate::state::{BatchOutcome, NodeId, NodeIncarnation};

/// Time between looks at what `meta` needs.
const LEAD_INTERVAL: Duration = Duration::from_millis(100);
/// A look that comes so late shows that this node did not run.
const STALL_MIN: Duration = Duration::from_millis(400);
/// Pause after something that could not be done yet.
const RETRY: Duration = Duration::from_millis(50);
/// Voters of `meta`; others learn.
const META_VOTERS_MAX: usize = 5;
/// Time between tries to hand leadership of a group over.
const HANDOVER_INTERVAL: Duration = Duration::from_secs(3);
/// Entries that a new replica may be behind when it becomes a voter.
const LAG_MAX: u64 = 1_000;

/// What this node keeps about `meta`.
pub(super) struct Membership {
    pub(super) directory: Arc<Directory>,
    pub(super) meta: std::sync::OnceLock<RaftGroup>,
    pub(super) lease: Arc<Lease>,
    /// What it grants, and the term that it leads in: another leader may have granted between two of its terms.
    leases: Mutex<Option<(u64, Leases)>>,
    /// When this node last looked at what `meta` needs.
    last_look: Mutex<Instant>,
    /// Nodes that can be asked for the leader of `meta` before this one knows it.
    pub(super) known: Vec<NodeId>,
}

impl Membership {
    pub(super) fn new(directory: Arc<Directory>, known: Vec<NodeId>) -> Self {
        Self {
            directory,
            meta: std::sync::OnceLock::new(),
            lease: Arc::default(),
            leases: Mutex::default(),
            last_look: Mutex::new(Instant::now()),
            known,
        }
    }
}

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

/// Whether this node may answer clients; a clone looks at the same lease.
#[derive(Clone, Debug)]
pub struct ServingLease(Arc<Lease>);

impl ServingLease {
    /// Whether it may now. Costs a look at the clock.
    pub fn is_held(&self) -> bool {
        self.0.is_held()
    }

    /// Whether it may, and has not been without contact to the leader of `meta` for suspiciously long.
    pub fn is_fresh(&self) -> bool {
        self.0.is_fresh()
    }
}

impl<H: Host> Node<H> {
    /// What this node knows of the cluster.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.membership.directory
    }

    /// This node's lease.
    pub fn serving_lease(&self) -> ServingLease {
        ServingLease(self.membership.lease.clone())
    }

    /// Whether no other node serves, or is about to.
    pub fn is_alone(&self) -> bool {
        self.directory().read().view().serving.len() <= 1
    }

    /// This node's replica of `meta`.
    pub fn meta(&self) -> Option<&RaftGroup> {
        self.membership.meta.get()
    }

    pub(super) fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        match group {
            META => self.meta().and_then(RaftGroup::leader),
            group => self.find_group(group)?.replica().and_then(RaftGroup::leader),
        }
    }

    pub(super) async fn propose_meta_here(
        &self,
        command: &[u8],
    ) -> Result<(BatchOutcome, u64), ProposeError> {
        let meta = self.meta().ok_or(ProposeError::NotLeader { leader: None })?;
        meta.propose_patched(command, |_| ()).await
    }

    /// Who may lead `meta`: the node that this one follows, else all it knows.
    fn meta_leader_candidates(&self) -> Vec<NodeId> {
        if let Some(leader) = self.leader_of(META) {
            return vec![leader];
        }
        let mut nodes: BTreeSet<NodeId> = self.directory().read().members().map(|(node, _)| node).collect();
        nodes.extend(&self.membership.known);
        nodes
            .into_iter()
            .filter(|node| *node != self.this_node())
            .collect()
    }

    /// Has the leader of `meta` propose a command, once; whether it was carried out, if that is known.
    pub(super) async fn propose_meta(&self, command: &MetaCommand) -> Option<bool> {
        let encoded: Bytes = command.encode();
        for node in self.meta_leader_candidates() {
            let proposed = if node == self.this_node() {
                self.propose_meta_here(&encoded).await
            } else {
                let answer = self.peers().propose(node, META, encoded.clone());
                let answer = tokio::time::timeout(Duration::from_secs(1), answer).await;
                answer.unwrap_or(Err(ProposeError::Unknown))
            };
            if let Ok((outcome, _)) = proposed {
                return Some(outcome != BatchOutcome::Refused);
            }
        }
        None
    }

    /// Proposes a command until the state says what is asked for, or that it never will.
    pub(super) async fn bring_about<T>(
        &self,
        command: &MetaCommand,
        mut look: impl FnMut(&MetaState) -> Option<T>,
    ) -> T {
        loop {
            if let Some(found) = look(&self.directory().read()) {
                return found;
            }
            let proposed = self.propose_meta(command).await;
            let applied = self.directory().wait_for(&mut look);
            // Applied here a moment later, where it was proposed elsewhere.
            let wait = if proposed == Some(true) { 10 * RETRY } else { RETRY };
            if let Ok(found) = tokio::time::timeout(wait, applied).await {
                return found;
            }
        }
    }

    /// Keeps the addresses of the other nodes as `meta` has them.
    pub(super) async fn run_addresses(node: Weak<Self>) {
        let Some(mut changed) = node.upgrade().map(|node| node.directory().watch()) else {
            return;
        };
        loop {
            {
                let Some(node) = node.upgrade() else { return };
                changed.mark_unchanged();
                let transport = node.transport();
                let directory = node.directory().read();
                for (id, record) in directory.nodes().filter(|(id, _)| *id != node.this_node()) {
                    match record.removed {
                        true => transport.forget_node(id),
                        false => {
                            let address = NodeAddress(record.address.clone());
                            transport.set_address(id, record.incarnation, &address);
                        }
                    }
                }
            }
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Renews this node's lease, and tells the broker when its start is over.
    pub(super) async fn run_lease(node: Weak<Self>) {
        let mut ticks = tokio::time::interval(RENEW_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(node) = node.upgrade() else { return };
            if !node.renew_once().await {
                node.membership.lease.end();
                node.host().removed();
                return;
            }
        }
    }

    /// False where the cluster has taken this start out of its view.
    async fn renew_once(&self) -> bool {
        let incarnation = self.incarnation();
        for node in self.meta_leader_candidates() {
            let view = self.directory().read().view().number;
            let asked = Instant::now();
            let answer = if node == self.this_node() {
                self.grant(node, incarnation, view, asked).await
            } else {
                let renewing = self.peers().renew(node, incarnation, view);
                // A leader that does not answer is asked again: it may be another by then.
                let answer = tokio::time::timeout(2 * RENEW_INTERVAL, renewing).await;
                answer
                    .ok()
                    .and_then(Result::ok)
                    .map(|lease| (lease.granted, lease.in_view))
            };
            match answer {
                Some((true, _)) => {
                    self.membership.lease.grant(asked);
                    return true;
                }
                Some((false, false)) => return false,
                Some((false, true)) | None => {}
            }
        }
        true
    }

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

    /// Brings the members of the groups that this node leads to what `meta` says.
    pub(super) async fn run_reconciler(node: Weak<Self>) {
        let mut ticks = tokio::time::interval(LEAD_INTERVAL);
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

    /// Ends, in the groups that this node leads, the starts of nodes that are over (R3, R25).
    pub(super) async fn run_losses(node: Weak<Self>) {
        let Some(mut changed) = node.upgrade().map(|node| node.directory().watch()) else {
            return;
        };
        loop {
            {
                let Some(node) = node.upgrade() else { return };
                changed.mark_unchanged();
                node.end_lost_starts();
            }
            // A group may also come to be led by this node.
            let _ = tokio::time::timeout(Duration::from_secs(1), changed.changed()).await;
        }
    }

    fn end_lost_starts(&self) {
        let over: Vec<(NodeId, NodeIncarnation)> = {
            let state = self.directory().read();
            let over = state
                .nodes()
                .filter_map(|(node, record)| Some((node, record.last_ended()?)));
            over.collect()
        };
        for group in self.groups().filter(|group| group.leads()) {
            for (node, incarnation) in &over {
                group.end_start(*node, *incarnation);
            }
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
