//! The replicated state of `meta`.
//!
//! Invariants: a node's identifier is given once; a volume has one node; the view holds only starts that are their
//! node's newest and nodes that were not removed; its number rises with every change. Stalls are between starts in it.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use quorate_storage::log::GroupId;

use super::{Stall, proto};
use crate::lineage::{Lineage, StartId};
use crate::state::{GroupTime, NodeId, NodeIncarnation};

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// Random number of its volume.
    pub volume: [u8; 16],
    /// Its name, unique among the nodes that were not removed.
    pub name: String,
    /// Where the other nodes reach it.
    pub address: String,
    /// Its newest start; 0 before the first.
    pub incarnation: NodeIncarnation,
    /// The random identifier of that start, by which a copy of the volume is told from it (R46); `None` before the first.
    pub start: Option<StartId>,
    /// That start is over: it left, or fell silent.
    pub ended: bool,
    /// It is to get no new clients and groups.
    pub draining: bool,
    /// It is to be gone for good once it has neither.
    pub leaving: bool,
    /// It is gone for good.
    pub removed: bool,
    /// Groups whose log its newest start has lost, or may have lost the end of, and has not been brought up to date in.
    pub lost_groups: BTreeSet<GroupId>,
    /// The highest feature level that its newest start knows (R50).
    pub feature_level: u32,
    /// Group time by its wall clock when its newest start registered; 0 where that serves, or does not know (R32).
    pub time_by_wall: GroupTime,
}

impl NodeRecord {
    /// The last start that is over for good; its connections have ended.
    pub fn last_ended(&self) -> Option<NodeIncarnation> {
        let last = match self.ended {
            true => self.incarnation.0,
            false => self.incarnation.0.saturating_sub(1),
        };
        (last > 0).then_some(NodeIncarnation(last))
    }

    /// Whether a start of the node runs on a copy of its volume (R46).
    pub fn shows_a_copy(&self, lineage: &Lineage) -> bool {
        self.start
            .is_some_and(|start| lineage.is_of_a_copy(self.incarnation, start))
    }
}

/// A start of a node in the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    /// The start.
    pub incarnation: NodeIncarnation,
    /// Number of the view it came with.
    pub entered: u64,
    /// Whether it may have a lease: everybody who serves knows of it (R2).
    pub active: bool,
    /// Number of the view with which the last start ended that may have answered publishers of messages which this one
    /// has not accepted (R4); 0 where none did.
    pub missed: u64,
}

/// The starts of nodes that serve clients, or are about to (R1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Rises with every change.
    pub number: u64,
    /// Who is in it.
    pub serving: BTreeMap<NodeId, Serving>,
}

impl View {
    /// Whether this start of a node is in it.
    pub fn holds(&self, node: NodeId, incarnation: NodeIncarnation) -> bool {
        self.serving
            .get(&node)
            .is_some_and(|serving| serving.incarnation == incarnation)
    }
}

/// Where a group is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupPlacement {
    /// Its voters, best leader first.
    pub replicas: Vec<NodeId>,
    /// Counts the placements of the group.
    pub version: u64,
    /// The placement with which the group began: with the node that is placed there alone, which creates it. Not the
    /// first where a majority had lost it (R41).
    pub begun: u64,
}

impl GroupPlacement {
    /// Whether this is the placement that the group began with.
    pub fn is_beginning(&self) -> bool {
        self.version == self.begun
    }
}

/// Groups as a message names them.
pub(super) fn group_ids(numbers: &[u32]) -> Result<BTreeSet<GroupId>, Rejected> {
    let group = |number: &u32| u16::try_from(*number).map(GroupId);
    let groups = numbers.iter().map(group).collect::<Result<_, _>>();
    groups.map_err(|_| Rejected::Malformed)
}

/// Identifier of a start as a message names it.
pub(super) fn start_id(bytes: &[u8]) -> Result<Option<StartId>, Rejected> {
    match bytes {
        [] => Ok(None),
        bytes => bytes.try_into().map(Some).map_err(|_| Rejected::Malformed),
    }
}

/// A command was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// There is no such node, or not any more.
    #[error("the cluster has no such node, or has removed it")]
    UnknownNode,
    /// The volume was used at a later time already: it is a copy, or was restored (R46).
    #[error("a later start of this node is known: its volume is a copy of another, or was restored from one")]
    OldIncarnation,
    /// Another start of the node has come since or beside: the volume is a copy, or was restored (R46).
    #[error(
        "it knows nothing of this node's last start: its volume is a copy of another, or was restored from one"
    )]
    CopiedVolume,
    /// It does not know all features that the cluster uses (R50).
    #[error("it is of an earlier version than the cluster has agreed on")]
    OldVersion,
    /// Another node has the name and serves.
    #[error("another node that serves has this name")]
    NameInUse,
    /// The node serves: it is drained first.
    #[error("the node serves")]
    Serves,
    /// Nobody would be left.
    #[error("nobody would be left")]
    LastNode,
    /// It rests on something that has changed.
    #[error("it rests on something that has changed since")]
    Outdated,
    /// It cannot be decoded or lacks something.
    #[error("it is malformed")]
    Malformed,
}

/// The starts that a registration names; `None` where it names none, or more than a volume notes.
fn lineage_of(register: &proto::Register) -> Option<Lineage> {
    let accepted = (register.accepted_incarnation, &register.accepted[..]);
    Lineage::read(register.incarnation, &register.start, accepted, &register.offered)
}

/// The nodes, the view and the placement.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetaState {
    pub(super) founded: bool,
    pub(super) replication_factor: u32,
    pub(super) bootstrap_expect: u32,
    pub(super) next_node: u64,
    pub(super) feature_level: u32,
    pub(super) time_by_wall: GroupTime,
    pub(super) nodes: BTreeMap<NodeId, NodeRecord>,
    pub(super) view: View,
    pub(super) groups: BTreeMap<GroupId, GroupPlacement>,
    /// What starts say of others, by node and peer.
    pub(super) stalls: BTreeMap<(NodeId, NodeId), Stall>,
}

impl MetaState {
    /// Carries out the command that `entry` encodes.
    ///
    /// # Errors
    /// The command is void; nothing has changed.
    pub fn apply(&mut self, entry: &[u8]) -> Result<(), Rejected> {
        use proto::command::Body;
        let command = proto::Command::decode(entry).map_err(|_| Rejected::Malformed)?;
        let body = command.body.ok_or(Rejected::Malformed)?;
        if !self.founded && !matches!(body, Body::Found(_)) {
            return Err(Rejected::Outdated);
        }
        self.carry_out(body)?;
        self.raise_feature_level();
        Ok(())
    }

    fn carry_out(&mut self, body: proto::command::Body) -> Result<(), Rejected> {
        use proto::command::Body;
        match body {
            Body::Found(found) => self.found(found),
            Body::Join(join) => self.join(join),
            Body::Register(register) => self.register(&register),
            Body::Enter(enter) => self.enter(NodeId(enter.node), NodeIncarnation(enter.incarnation)),
            Body::Activate(activate) => {
                self.activate(NodeId(activate.node), NodeIncarnation(activate.incarnation))
            }
            Body::Leave(leave) => self.leave(NodeId(leave.node), NodeIncarnation(leave.incarnation)),
            Body::Place(place) => self.place(&place),
            Body::Begin(begin) => self.begin(&begin),
            Body::SetDraining(change) => self.set_draining(&change),
            Body::SetStalled(said) => self.set_stalled(&said),
            Body::Remove(remove) => self.remove(NodeId(remove.node)),
            Body::Recover(recover) => self.recover(NodeId(recover.node)),
        }
    }

    fn found(&mut self, found: proto::Found) -> Result<(), Rejected> {
        let settings = found.settings.ok_or(Rejected::Malformed)?;
        if self.founded {
            return Err(Rejected::Outdated);
        }
        self.founded = true;
        self.replication_factor = settings.replication_factor;
        self.bootstrap_expect = settings.bootstrap_expect;
        self.next_node = settings.next_node.max(1);
        self.join(found.founder.ok_or(Rejected::Malformed)?)
    }

    fn join(&mut self, join: proto::Join) -> Result<(), Rejected> {
        let volume: [u8; 16] = join.volume[..].try_into().map_err(|_| Rejected::Malformed)?;
        if let Some((_, known)) = self.nodes.iter().find(|(_, node)| node.volume == volume) {
            return if known.removed {
                Err(Rejected::UnknownNode)
            } else {
                Ok(())
            };
        }
        if self.serving_node_named(&join.name).is_some() {
            return Err(Rejected::NameInUse);
        }
        // A volume that comes under the name of a node that does not serve replaces it: that one's volume is lost.
        let replaced: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.name == join.name && !node.removed)
            .map(|(node, _)| *node)
            .collect();
        for node in replaced {
            self.retire(node);
        }
        let node = NodeId(self.next_node);
        self.next_node += 1;
        let record = NodeRecord {
            volume,
            name: join.name,
            address: join.address,
            incarnation: NodeIncarnation(0),
            start: None,
            ended: false,
            draining: false,
            leaving: false,
            removed: false,
            lost_groups: BTreeSet::new(),
            feature_level: 0,
            time_by_wall: GroupTime(0),
        };
        self.nodes.insert(node, record);
        Ok(())
    }

    fn serving_node_named(&self, name: &str) -> Option<NodeId> {
        let mut serving = self.view.serving.keys();
        serving
            .find(|node| self.nodes.get(node).is_some_and(|record| record.name == name))
            .copied()
    }

    fn member(&mut self, node: NodeId) -> Result<&mut NodeRecord, Rejected> {
        self.nodes
            .get_mut(&node)
            .filter(|record| !record.removed)
            .ok_or(Rejected::UnknownNode)
    }

    fn register(&mut self, register: &proto::Register) -> Result<(), Rejected> {
        let (node, incarnation) = (NodeId(register.node), NodeIncarnation(register.incarnation));
        // What it has of an earlier beginning is of no use, lost or not: it begins with nothing.
        let of_now = register.lost_groups.iter().filter(|lost| {
            let group = u16::try_from(lost.group).map(GroupId);
            let placed = group.ok().and_then(|group| self.groups.get(&group));
            placed.is_none_or(|placed| placed.begun == lost.beginning)
        });
        let of_now: Vec<u32> = of_now.map(|lost| lost.group).collect();
        let lost_groups = group_ids(&of_now)?;
        let agreed = self.feature_level;
        let lineage = lineage_of(register);
        let record = self.member(node)?;
        if register.feature_level < agreed {
            return Err(Rejected::OldVersion);
        }
        if incarnation < record.incarnation {
            return Err(Rejected::OldIncarnation);
        }
        if incarnation == record.incarnation && (record.ended || register.address != record.address) {
            // The same start has one address, and ends once: two processes run on copies of a volume.
            return Err(Rejected::OldIncarnation);
        }
        let is_of_a_copy = match &lineage {
            Some(lineage) => record.shows_a_copy(lineage),
            None => record.start.is_some(),
        };
        if is_of_a_copy {
            return Err(Rejected::CopiedVolume);
        }
        record.start = lineage.map(|lineage| lineage.start);
        record.ended = false;
        record.incarnation = incarnation;
        record.address.clone_from(&register.address);
        record.lost_groups = lost_groups;
        record.feature_level = register.feature_level;
        self.leave_before(node, incarnation);
        // A repeat may come when it serves.
        if !self.view.holds(node, incarnation) {
            self.member(node)?.time_by_wall = GroupTime(register.time_by_wall);
            self.count_full_stop();
        }
        Ok(())
    }

    /// Group time goes on by as much as the wall clocks of a majority of the members say (R32), of starts that do not
    /// serve yet: so it does only after a stop of most of them, and a single wrong clock moves nothing.
    fn count_full_stop(&mut self) {
        let starting = self.members().filter(|(_, record)| !record.ended);
        let mut times: Vec<GroupTime> = starting.map(|(_, record)| record.time_by_wall).collect();
        times.sort_unstable_by(|one, other| other.cmp(one));
        let majority = self.members().count() / 2;
        if let Some(time) = times.get(majority) {
            self.time_by_wall = self.time_by_wall.max(*time);
        }
    }

    /// What all members know is used from now on, and never less: entries that rest on it are in the logs.
    fn raise_feature_level(&mut self) {
        let known_to_all = self.members().map(|(_, record)| record.feature_level).min();
        self.feature_level = self.feature_level.max(known_to_all.unwrap_or(0));
    }

    /// Starts of `node` before `incarnation` serve no more: its process tells that they are over.
    fn leave_before(&mut self, node: NodeId, incarnation: NodeIncarnation) {
        if self
            .view
            .serving
            .get(&node)
            .is_some_and(|serving| serving.incarnation < incarnation)
        {
            self.view.serving.remove(&node);
            self.view.number += 1;
            self.end_stalls(node);
        }
    }

    fn enter(&mut self, node: NodeId, incarnation: NodeIncarnation) -> Result<(), Rejected> {
        let record = self.member(node)?;
        if record.incarnation != incarnation || record.ended {
            return Err(Rejected::OldIncarnation);
        }
        // It has caught up with every group.
        record.lost_groups.clear();
        record.time_by_wall = GroupTime(0);
        if !self.view.holds(node, incarnation) {
            self.view.number += 1;
            let serving = Serving {
                incarnation,
                entered: self.view.number,
                active: false,
                missed: 0,
            };
            self.view.serving.insert(node, serving);
        }
        Ok(())
    }

    fn activate(&mut self, node: NodeId, incarnation: NodeIncarnation) -> Result<(), Rejected> {
        let serving = self.view.serving.get_mut(&node);
        let serving = serving.filter(|serving| serving.incarnation == incarnation);
        let serving = serving.ok_or(Rejected::Outdated)?;
        if !serving.active {
            serving.active = true;
            self.view.number += 1;
        }
        Ok(())
    }

    /// A start that left does not come back: the node has to start anew.
    fn leave(&mut self, node: NodeId, incarnation: NodeIncarnation) -> Result<(), Rejected> {
        let record = self.nodes.get_mut(&node).ok_or(Rejected::UnknownNode)?;
        record.ended |= record.incarnation == incarnation;
        self.leave_before(node, NodeIncarnation(incarnation.0 + 1));
        Ok(())
    }

    fn place(&mut self, place: &proto::Place) -> Result<(), Rejected> {
        let group = GroupId(u16::try_from(place.group).map_err(|_| Rejected::Malformed)?);
        let replicas = place.replicas.iter().map(|node| NodeId(*node)).collect();
        let begun = self.groups.get(&group).map_or(1, |placement| placement.begun);
        self.put_group(group, replicas, place.after, begun)
    }

    fn begin(&mut self, begin: &proto::Begin) -> Result<(), Rejected> {
        let mut groups = self.groups.clone();
        for beginning in &begin.groups {
            let group = GroupId(u16::try_from(beginning.group).map_err(|_| Rejected::Malformed)?);
            let begun = beginning.after.checked_add(1).ok_or(Rejected::Malformed)?;
            self.put_group(group, vec![NodeId(beginning.node)], beginning.after, begun)
                .inspect_err(|_| self.groups = std::mem::take(&mut groups))?;
        }
        for beginning in &begin.groups {
            let begins = |group: &GroupId| u32::from(group.0) == beginning.group;
            for record in self.nodes.values_mut() {
                record.lost_groups.retain(|group| !begins(group));
            }
        }
        Ok(())
    }

    fn put_group(
        &mut self,
        group: GroupId,
        replicas: Vec<NodeId>,
        after: u64,
        begun: u64,
    ) -> Result<(), Rejected> {
        let distinct: BTreeSet<NodeId> = replicas.iter().copied().collect();
        let all_members = replicas
            .iter()
            .all(|node| self.nodes.get(node).is_some_and(|record| !record.removed));
        if replicas.is_empty() || distinct.len() != replicas.len() || !all_members {
            return Err(Rejected::UnknownNode);
        }
        let version = self.groups.get(&group).map_or(0, |placement| placement.version);
        if version != after {
            return Err(Rejected::Outdated);
        }
        let version = version + 1;
        let placement = GroupPlacement {
            replicas,
            version,
            begun,
        };
        self.groups.insert(group, placement);
        Ok(())
    }

    fn set_draining(&mut self, change: &proto::SetDraining) -> Result<(), Rejected> {
        let node = NodeId(change.node);
        let leaves = change.draining && change.leaving;
        let stays = |(other, record): (NodeId, &NodeRecord)| other != node && !record.leaving;
        if leaves && !self.members().any(stays) {
            return Err(Rejected::LastNode);
        }
        let record = self.member(node)?;
        record.draining = change.draining;
        record.leaving = leaves;
        Ok(())
    }

    fn remove(&mut self, node: NodeId) -> Result<(), Rejected> {
        if self.view.serving.contains_key(&node) {
            return Err(Rejected::Serves);
        }
        let record = self.nodes.get(&node).ok_or(Rejected::UnknownNode)?;
        if !record.removed && self.members().count() == 1 {
            return Err(Rejected::LastNode);
        }
        self.retire(node);
        Ok(())
    }

    /// The starts of all nodes are over, and all nodes but one are gone; it has all groups.
    fn recover(&mut self, node: NodeId) -> Result<(), Rejected> {
        let record = self.member(node)?;
        (record.draining, record.leaving, record.ended) = (false, false, true);
        let others: Vec<NodeId> = self
            .nodes
            .keys()
            .copied()
            .filter(|other| *other != node)
            .collect();
        for other in others {
            self.retire(other);
        }
        self.view.serving.clear();
        self.stalls.clear();
        self.view.number += 1;
        for placement in self.groups.values_mut() {
            placement.replicas = vec![node];
            placement.version += 1;
        }
        Ok(())
    }

    /// A node is gone for good.
    fn retire(&mut self, node: NodeId) {
        if let Some(record) = self.nodes.get_mut(&node) {
            record.removed = true;
            record.ended = true;
        }
    }

    /// Whether the cluster was founded.
    pub fn is_founded(&self) -> bool {
        self.founded
    }

    /// Copies of everything, as far as there are nodes.
    pub fn replication_factor(&self) -> u32 {
        self.replication_factor
    }

    /// Nodes before the cluster serves for the first time.
    pub fn bootstrap_expect(&self) -> u32 {
        self.bootstrap_expect
    }

    /// The feature level that all members know (R50): what rests on a higher one is not used.
    pub fn feature_level(&self) -> u32 {
        self.feature_level
    }

    /// Group time that has passed by the wall clocks of a majority: how long all nodes were stopped is in it (R32).
    pub fn time_by_wall(&self) -> GroupTime {
        self.time_by_wall
    }

    /// A node, removed or not.
    pub fn node(&self, node: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(&node)
    }

    /// The node of a volume.
    pub fn node_of_volume(&self, volume: [u8; 16]) -> Option<NodeId> {
        let mut nodes = self.nodes.iter();
        nodes
            .find(|(_, record)| record.volume == volume)
            .map(|(node, _)| *node)
    }

    /// The nodes that were not removed.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &NodeRecord)> {
        self.nodes
            .iter()
            .filter(|(_, record)| !record.removed)
            .map(|(node, record)| (*node, record))
    }

    /// All nodes there ever were.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &NodeRecord)> {
        self.nodes.iter().map(|(node, record)| (*node, record))
    }

    /// Who serves.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Where a group is to be.
    pub fn placement(&self, group: GroupId) -> Option<&GroupPlacement> {
        self.groups.get(&group)
    }
}
