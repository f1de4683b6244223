//! A node's Raft traffic with its peers: who may talk, which groups are here, which connections there are.
//!
//! Every call starts with a hello (cluster, node, incarnation, and whom the caller believes to talk to), because
//! addresses are reused: a node that answers at a peer's address is not the peer. See `peer` for the sending side,
//! `server` for the receiving one, `failover` for what a broken connection starts.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_storage::log::GroupId;
use tonic::Status;
use tonic::transport::{Endpoint, Server};

use super::failover;
use super::group::{BATCH_BYTES_MAX, RaftGroup, WeakGroup};
use super::log::READ_BYTES_MAX;
use super::peer::Peer;
use super::server::PeerService;
use super::snapshot::CHUNK_BYTES_MAX;
use super::types::NodeAddress;
use super::wire::proto::Hello;
use super::wire::proto::raft_peer_server::RaftPeerServer;
use crate::state::{NodeId, NodeIncarnation};

/// Version of the messages between nodes.
const PROTOCOL_VERSION: u32 = 1;
/// Oldest version this one understands.
const PROTOCOL_VERSION_MIN: u32 = 1;
/// Largest message: a read of the log, or one large entry; or a chunk of a snapshot.
pub(super) const FRAME_BYTES_MAX: usize = 64 << 20;
const _: () =
    assert!(READ_BYTES_MAX + BATCH_BYTES_MAX < FRAME_BYTES_MAX && CHUNK_BYTES_MAX < FRAME_BYTES_MAX);

const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
const HTTP2_FRAME_BYTES: u32 = 256 << 10;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(500);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

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

/// A node's way to its peers, and theirs to its groups.
pub struct Transport {
    identity: NodeIdentity,
    groups: Mutex<HashMap<GroupId, WeakGroup>>,
    peers: Mutex<HashMap<NodeId, Weak<Peer>>>,
    /// Newest start of each node that has said hello.
    incarnations: Mutex<HashMap<NodeId, u64>>,
    /// Nodes that `failover` is looking after.
    looked_after: Mutex<HashSet<NodeId>>,
}

impl Transport {
    /// A transport without groups and connections.
    pub fn new(identity: NodeIdentity) -> Arc<Self> {
        Arc::new(Self {
            identity,
            groups: Mutex::default(),
            peers: Mutex::default(),
            incarnations: Mutex::default(),
            looked_after: Mutex::default(),
        })
    }

    /// Who this node is.
    pub fn identity(&self) -> NodeIdentity {
        self.identity
    }

    /// The service that peers call, to be added to a server made by [`server_builder`].
    pub fn service(self: &Arc<Self>) -> RaftPeerServer<PeerService> {
        RaftPeerServer::new(PeerService::new(Arc::clone(self)))
            .max_decoding_message_size(FRAME_BYTES_MAX)
            .max_encoding_message_size(FRAME_BYTES_MAX)
    }

    pub(super) fn register(&self, group: &RaftGroup) {
        self.groups.lock().insert(group.group(), group.downgrade());
    }

    pub(super) fn forget(&self, group: GroupId) {
        self.groups.lock().remove(&group);
    }

    pub(super) fn group(&self, group: GroupId) -> Option<RaftGroup> {
        self.groups.lock().get(&group).and_then(WeakGroup::upgrade)
    }

    pub(super) fn groups(&self) -> Vec<RaftGroup> {
        self.groups
            .lock()
            .values()
            .filter_map(WeakGroup::upgrade)
            .collect()
    }

    /// The way to `node`, which all groups share while any of them uses it.
    pub(super) fn peer(self: &Arc<Self>, node: NodeId, address: &NodeAddress) -> Arc<Peer> {
        let mut peers = self.peers.lock();
        if let Some(peer) = peers.get(&node).and_then(Weak::upgrade) {
            peer.set_address(address);
            return peer;
        }
        let peer = Peer::start(self, node, address.clone());
        peers.insert(node, Arc::downgrade(&peer));
        peer
    }

    /// A connection to or from `node` ended.
    pub(super) fn connection_ended(self: &Arc<Self>, node: NodeId) {
        failover::look_after(self, node);
    }

    /// Whether nobody was looking after `node` yet.
    pub(super) fn begin_to_look_after(&self, node: NodeId) -> bool {
        self.looked_after.lock().insert(node)
    }

    pub(super) fn end_to_look_after(&self, node: NodeId) {
        self.looked_after.lock().remove(&node);
    }

    pub(super) fn hello_to(&self, peer: NodeId) -> Hello {
        Hello {
            protocol_version: PROTOCOL_VERSION,
            cluster: self.identity.cluster.to_be_bytes().to_vec().into(),
            node: self.identity.node.0,
            incarnation: self.identity.incarnation.0,
            peer: peer.0,
        }
    }

    /// Checks who is at the other end; `expected` is set where that is known.
    pub(super) fn check_hello(
        &self,
        hello: Option<Hello>,
        expected: Option<NodeId>,
    ) -> Result<NodeId, Status> {
        let hello = hello.ok_or_else(|| Status::invalid_argument("no hello"))?;
        let refuse = |reason: String| Err(Status::failed_precondition(reason));
        if hello.protocol_version < PROTOCOL_VERSION_MIN {
            return refuse(format!("protocol version {} is too old", hello.protocol_version));
        }
        if hello.cluster[..] != self.identity.cluster.to_be_bytes() {
            return refuse("this is another cluster".to_owned());
        }
        if hello.peer != self.identity.node.0 {
            return refuse(format!(
                "this is node {}, not node {}",
                self.identity.node.0, hello.peer
            ));
        }
        let node = NodeId(hello.node);
        if node == self.identity.node || expected.is_some_and(|expected| expected != node) {
            return refuse(format!("node {} is not who should be here", node.0));
        }
        let mut incarnations = self.incarnations.lock();
        let newest = incarnations.entry(node).or_default();
        if hello.incarnation < *newest {
            return refuse(format!("start {} of node {} is over", hello.incarnation, node.0));
        }
        *newest = hello.incarnation;
        Ok(node)
    }
}

/// A server with the settings that calls between nodes need.
pub fn server_builder() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
}

/// How to connect to a node.
pub(super) fn endpoint(NodeAddress(address): &NodeAddress) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
    Ok(endpoint
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}
