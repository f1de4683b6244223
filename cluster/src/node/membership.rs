//! This node's part in `meta`: what it knows of the cluster, and how it has commands proposed.
//!
//! [`renewal`](super::renewal) keeps its lease, [`leading`](super::leading) is what it does while it leads `meta`,
//! [`reconcile`](super::reconcile) brings the groups that it leads to where `meta` wants them.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_storage::log::GroupId;

use super::beginnings::Beginnings;
use super::leading::Absences;
use super::lease::{Lease, Leases};
use super::placement::META;
use super::{Host, Node};
use crate::meta::{Directory, MetaCommand, MetaState};
use crate::raft::{NodeAddress, ProposeError, Proposed, RaftGroup};
use crate::state::{BatchOutcome, GroupTime, NodeId};

/// Pause after something that could not be done yet.
const RETRY: Duration = Duration::from_millis(50);

/// What this node keeps about `meta`.
pub(super) struct Membership {
    pub(super) directory: Arc<Directory>,
    pub(super) meta: std::sync::OnceLock<RaftGroup>,
    pub(super) lease: Arc<Lease>,
    /// What it grants, and the term that it leads in: another leader may have granted between two of its terms.
    pub(super) leases: Mutex<Option<(u64, Leases)>>,
    /// Since when others do not serve, while it leads.
    pub(super) absences: Absences,
    pub(super) beginnings: Arc<Beginnings>,
    /// When this node last looked at what `meta` needs.
    pub(super) last_look: Mutex<Instant>,
    /// This node leaves for good: that it is in the view no more is no news.
    pub(super) leaving: AtomicBool,
    /// Nodes that can be asked for the leader of `meta` before this one knows it.
    pub(super) known: Vec<NodeId>,
}

impl Membership {
    pub(super) fn new(directory: Arc<Directory>, beginnings: Arc<Beginnings>, known: Vec<NodeId>) -> Self {
        Self {
            directory,
            meta: std::sync::OnceLock::new(),
            lease: Arc::default(),
            leases: Mutex::default(),
            absences: Absences::default(),
            beginnings,
            last_look: Mutex::new(Instant::now()),
            leaving: AtomicBool::new(false),
            known,
        }
    }
}

impl<H: Host> Node<H> {
    /// What this node knows of the cluster.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.membership.directory
    }

    /// Number of the cluster.
    pub fn cluster(&self) -> u128 {
        self.transport().identity().cluster
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
            group => self.find_group(group)?.known_leader(),
        }
    }

    pub(super) async fn propose_meta_here(&self, command: &[u8]) -> Result<Proposed, ProposeError> {
        let meta = self.meta().ok_or(ProposeError::NotLeader { leader: None })?;
        meta.propose_patched(command, |_| ()).await
    }

    /// Who may lead `meta`: the node that this one follows, else all it knows.
    pub(super) fn meta_leader_candidates(&self) -> Vec<NodeId> {
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
            if let Ok(proposed) = proposed {
                return Some(proposed.outcome != BatchOutcome::Refused);
            }
        }
        None
    }

    /// Proposes a command until the state says what is asked for, or that it never will.
    pub(super) async fn bring_about<T>(
        &self,
        command: &MetaCommand,
        look: impl FnMut(&MetaState) -> Option<T>,
    ) -> T {
        self.bring_about_as_of(|| command.clone(), look).await
    }

    /// The same, with a command as it is at each time that it is proposed.
    pub(super) async fn bring_about_as_of<T>(
        &self,
        command: impl Fn() -> MetaCommand,
        mut look: impl FnMut(&MetaState) -> Option<T>,
    ) -> T {
        loop {
            if let Some(found) = look(&self.directory().read()) {
                return found;
            }
            let proposed = self.propose_meta(&command()).await;
            let applied = self.directory().wait_for(&mut look);
            // Applied here a moment later, where it was proposed elsewhere.
            let wait = if proposed == Some(true) { 10 * RETRY } else { RETRY };
            if let Ok(found) = tokio::time::timeout(wait, applied).await {
                return found;
            }
        }
    }

    /// A stop of all nodes counts: what groups wait for comes sooner.
    pub(super) fn count_full_stop(&self, time: GroupTime) {
        if self.noted_clock().count_full_stop(time) {
            for group in self.groups() {
                group.deadline_changed.notify_one();
            }
        }
    }

    /// Keeps the addresses of the other nodes, and how much group time has passed, as `meta` has them.
    pub(super) async fn run_directory(node: Weak<Self>) {
        let Some(mut changed) = node.upgrade().map(|node| node.directory().watch()) else {
            return;
        };
        loop {
            {
                let Some(node) = node.upgrade() else { return };
                changed.mark_unchanged();
                let transport = node.transport();
                let directory = node.directory().read();
                node.count_full_stop(directory.time_by_wall());
                for (id, record) in directory.nodes().filter(|(id, _)| *id != node.this_node()) {
                    match record.removed {
                        true => transport.forget_node(id),
                        false => {
                            transport.record_start(id, record.incarnation, record.start);
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
}
