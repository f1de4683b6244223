//! The commands of `meta`, each of which says what is to be.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use quorate_storage::log::GroupId;

use super::stalls::stall_body;
use super::{Stall, proto};
use crate::lineage::Lineage;
use crate::state::{GroupTime, NodeId, NodeIncarnation};

/// A change of the state.
#[derive(Clone, Debug, PartialEq)]
pub struct MetaCommand(proto::Command);

fn command(body: proto::command::Body) -> MetaCommand {
    MetaCommand(proto::Command { body: Some(body) })
}

impl MetaCommand {
    /// The cluster begins, with the volume that becomes its first node.
    pub fn found(
        replication_factor: u32,
        bootstrap_expect: u32,
        volume: [u8; 16],
        name: &str,
        address: &str,
    ) -> Self {
        command(proto::command::Body::Found(proto::Found {
            settings: Some(proto::Settings {
                replication_factor,
                bootstrap_expect,
                next_node: 1,
                feature_level: 0,
                time_by_wall: 0,
            }),
            founder: Some(join(volume, name, address)),
        }))
    }

    /// A volume asks for an identity.
    pub fn join(volume: [u8; 16], name: &str, address: &str) -> Self {
        command(proto::command::Body::Join(join(volume, name, address)))
    }

    /// A node has started; it has lost the logs of `lost_groups`, or may have lost the ends of
    /// them: each of one beginning. It knows the features up to `feature_level`.
    pub fn register(
        node: NodeId,
        incarnation: NodeIncarnation,
        address: &str,
        lost_groups: &BTreeMap<GroupId, u64>,
        feature_level: u32,
    ) -> Self {
        let lost_groups = lost_groups.iter().map(|(group, beginning)| proto::LostGroup {
            group: u32::from(group.0),
            beginning: *beginning,
        });
        command(proto::command::Body::Register(proto::Register {
            node: node.0,
            incarnation: incarnation.0,
            address: address.to_owned(),
            lost_groups: lost_groups.collect(),
            feature_level,
            ..proto::Register::default()
        }))
    }

    /// A registration that names the start and those before it on its volume (R46); others stay as they are.
    pub fn with_lineage(mut self, lineage: &Lineage) -> Self {
        if let Some(proto::command::Body::Register(register)) = &mut self.0.body {
            let bytes = |start: &[u8]| Bytes::copy_from_slice(start);
            register.start = bytes(&lineage.start);
            if let Some((incarnation, start)) = &lineage.accepted {
                register.accepted_incarnation = incarnation.0;
                register.accepted = bytes(start);
            }
            register.offered = lineage.offered.iter().map(|start| bytes(start)).collect();
        }
        self
    }

    /// A registration with the group time that the node's wall clock shows (R32); others stay as they are.
    pub fn with_time_by_wall(mut self, time: GroupTime) -> Self {
        if let Some(proto::command::Body::Register(register)) = &mut self.0.body {
            register.time_by_wall = time.0;
        }
        self
    }

    /// A start of a node has caught up and begins to serve.
    pub fn enter(node: NodeId, incarnation: NodeIncarnation) -> Self {
        command(proto::command::Body::Enter(proto::Enter {
            node: node.0,
            incarnation: incarnation.0,
        }))
    }

    /// Everybody who serves knows a start that has entered.
    pub fn activate(node: NodeId, incarnation: NodeIncarnation) -> Self {
        command(proto::command::Body::Activate(proto::Activate {
            node: node.0,
            incarnation: incarnation.0,
        }))
    }

    /// A start of a node serves no more.
    pub fn leave(node: NodeId, incarnation: NodeIncarnation) -> Self {
        command(proto::command::Body::Leave(proto::Leave {
            node: node.0,
            incarnation: incarnation.0,
        }))
    }

    /// A group is to have these replicas; `after` is the version of the placement this follows.
    pub fn place(group: GroupId, replicas: &[NodeId], after: u64) -> Self {
        command(proto::command::Body::Place(proto::Place {
            group: u32::from(group.0),
            replicas: replicas.iter().map(|node| node.0).collect(),
            after,
        }))
    }

    /// Groups that a majority has lost begin anew, each with one node alone and behind a version as in [`Self::place`].
    pub fn begin(groups: &[(GroupId, NodeId, u64)]) -> Self {
        let groups = groups.iter().map(|(group, node, after)| proto::Beginning {
            group: u32::from(group.0),
            node: node.0,
            after: *after,
        });
        command(proto::command::Body::Begin(proto::Begin {
            groups: groups.collect(),
        }))
    }

    /// A node is to lose its clients and groups, or not any more; where it is `leaving` it goes for good then.
    pub fn set_draining(node: NodeId, draining: bool, leaving: bool) -> Self {
        command(proto::command::Body::SetDraining(proto::SetDraining {
            node: node.0,
            draining,
            leaving,
        }))
    }

    /// What a start of the first node says of one of the second (R4).
    pub fn set_stalled(between: (NodeId, NodeId), stall: &Stall) -> Self {
        command(proto::command::Body::SetStalled(stall_body(between, stall)))
    }

    /// A node is gone for good.
    pub fn remove(node: NodeId) -> Self {
        command(proto::command::Body::Remove(proto::Remove { node: node.0 }))
    }

    /// All other nodes are lost for good, and this one goes on alone.
    pub fn recover(node: NodeId) -> Self {
        command(proto::command::Body::Recover(proto::Recover { node: node.0 }))
    }

    /// As an entry of the log.
    pub fn encode(&self) -> Bytes {
        self.0.encode_to_vec().into()
    }
}

fn join(volume: [u8; 16], name: &str, address: &str) -> proto::Join {
    proto::Join {
        volume: volume.to_vec().into(),
        name: name.to_owned(),
        address: address.to_owned(),
    }
}
