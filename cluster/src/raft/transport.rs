//! The way to the other nodes.

use super::group::{RaftGroup, WeakGroup};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{RaftNetworkFactory, RaftNetworkV2};
use parking_lot::Mutex;
use quorate_storage::log::GroupId;
use std::collections::HashMap;
use std::sync::Arc;

use super::machine::GroupSnapshot;
use super::snapshot::SnapshotData;
use super::types::{NodeAddress, TypeConfig, Vote};
use crate::state::{NodeId, NodeIncarnation};

/// Who a node is to its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The cluster, random at its creation.
    pub cluster: u128,
    /// The node.
    pub node: NodeId,
    /// Its start.
    pub incarnation: NodeIncarnation,
}

/// A node's connections to its peers, for Raft.
pub struct Transport {
    identity: NodeIdentity,
    groups: Mutex<HashMap<GroupId, WeakGroup>>,
}

impl Transport {
    /// A transport without any connection.
    pub fn new(identity: NodeIdentity) -> Arc<Self> {
        Arc::new(Self {
            identity,
            groups: Mutex::default(),
        })
    }

    /// Who this node is.
    pub fn identity(&self) -> NodeIdentity {
        self.identity
    }
}

impl Transport {
    pub(super) fn register(&self, group: &RaftGroup) {
        self.groups.lock().insert(group.group(), group.downgrade());
    }

    pub(super) fn forget(&self, group: GroupId) {
        self.groups.lock().remove(&group);
    }
}

pub(super) struct PeerFactory {
    _transport: Arc<Transport>,
    _group: GroupId,
}

impl PeerFactory {
    pub(super) fn new(transport: Arc<Transport>, group: GroupId) -> Self {
        Self {
            _transport: transport,
            _group: group,
        }
    }
}

pub(super) struct Peer;

impl RaftNetworkFactory<TypeConfig> for PeerFactory {
    type Network = Peer;

    async fn new_client(&mut self, _: u64, _: &NodeAddress) -> Peer {
        Peer
    }
}

fn unreachable() -> Unreachable<TypeConfig> {
    Unreachable::from_string("no transport")
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        _: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(unreachable().into())
    }

    async fn vote(
        &mut self,
        _: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(unreachable().into())
    }

    async fn pre_vote(
        &mut self,
        _: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _: Vote,
        _: GroupSnapshot,
        _: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(unreachable().into())
    }
}
