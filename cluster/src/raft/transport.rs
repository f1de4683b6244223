//! A node's Raft traffic with its peers: who may talk, which groups are here, which connections there are.
//!
//! Every call starts with a hello (cluster, node, incarnation, and whom the caller believes to talk to), because
//! addresses are reused: a node that answers at a peer's address is not the peer. See `peer` for the sending side,
//! `server` for the receiving one, `failover` for what a broken connection starts.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_storage::log::GroupId;
use tokio::sync::watch;
use tonic::Status;
use tonic::transport::{Endpoint, Server};

use super::connection::{ConnectionCount, PeerTls, Refusals, Relays, Ways};
use super::failover;
use super::group::{BATCH_BYTES_MAX, RaftGroup, WeakGroup};
use super::log::READ_BYTES_MAX;
use super::peer::{Answered, Lane, NoAnswer, Peer};
use super::server::PeerService;
use super::service::Service;
use super::snapshot::CHUNK_BYTES_MAX;
use super::types::NodeAddress;
use super::wire::proto::Hello;
use super::wire::proto::raft_peer_server::RaftPeerServer;
use crate::lineage::{Lineage, StartId};
use crate::state::{NodeId, NodeIncarnation};

/// Version of the messages between nodes.
const PROTOCOL_VERSION: u32 = 1;
/// Oldest version this one understands.
const PROTOCOL_VERSION_MIN: u32 = 1;
/// Largest message: a read of the log, or one large entry; or a chunk of a snapshot.
pub(super) const FRAME_BYTES_MAX: usize = 64 << 20;
const _: () =
    assert!(READ_BYTES_MAX + BATCH_BYTES_MAX < FRAME_BYTES_MAX && CHUNK_BYTES_MAX < FRAME_BYTES_MAX);

/// What a refusal carries where the caller's volume is a copy (R46).
const COPY_KEY: &str = "quorate-volume-is-a-copy";

const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
const HTTP2_FRAME_BYTES: u32 = 256 << 10;
/// A connection of which nothing came for so long is asked whether it lives, and given up when it does not answer: a
/// link that drops everything tells nobody. Longer than a process on a busy machine has to wait for its turn.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(200);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(400);

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

/// Starts of a member: what the cluster has recorded, and what it has said itself.
#[derive(Clone, Copy, Debug, Default)]
struct Starts {
    recorded: u64,
    /// Identifier of the recorded one, where it has one.
    start: Option<StartId>,
    newest: u64,
}

/// A node may have started so many times more than is recorded here. Whoever names a later start is not the node, and
/// must not make it look like an earlier one.
const UNRECORDED_STARTS_MAX: u64 = 1 << 20;

impl Starts {
    fn may_be(self, incarnation: u64) -> bool {
        incarnation <= self.recorded.saturating_add(UNRECORDED_STARTS_MAX)
    }
}

/// A node's way to its peers, and theirs to its groups.
pub struct Transport {
    identity: NodeIdentity,
    groups: Mutex<HashMap<GroupId, WeakGroup>>,
    peers: Mutex<HashMap<(NodeId, Lane), Weak<Peer>>>,
    /// Where the nodes are now, and since which start of theirs; the groups' own records of it may be older.
    addresses: Mutex<HashMap<NodeId, (NodeIncarnation, NodeAddress)>>,
    /// Ways that are kept for [`Transport::ask`].
    asked: Mutex<HashMap<(NodeId, Lane), Arc<Peer>>>,
    service: OnceLock<Arc<dyn Service>>,
    /// Starts of the members.
    starts: Mutex<HashMap<NodeId, Starts>>,
    /// This start, and those before it on its volume.
    lineage: OnceLock<Lineage>,
    /// Another node has refused this one, whose volume is a copy.
    called_a_copy: watch::Sender<bool>,
    /// Nodes that `failover` is looking after.
    looked_after: Mutex<HashSet<NodeId>>,
    tls: Option<Arc<PeerTls>>,
    ways: Ways,
    relays: Relays,
    refusals: Refusals,
}

impl Transport {
    /// A transport without groups and connections.
    pub fn new(identity: NodeIdentity) -> Arc<Self> {
        Self::with_tls(identity, None)
    }

    /// As [`Self::new`], whose connections are checked and encrypted.
    pub fn with_tls(identity: NodeIdentity, tls: Option<Arc<PeerTls>>) -> Arc<Self> {
        Arc::new(Self {
            identity,
            groups: Mutex::default(),
            peers: Mutex::default(),
            addresses: Mutex::default(),
            asked: Mutex::default(),
            service: OnceLock::new(),
            starts: Mutex::default(),
            lineage: OnceLock::new(),
            called_a_copy: watch::Sender::new(false),
            looked_after: Mutex::default(),
            tls,
            ways: Ways::default(),
            relays: Relays::default(),
            refusals: Refusals::default(),
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

    /// Who answers the peers' requests that are not Raft's. Set once, before the first peer connects.
    ///
    /// # Panics
    /// When it is set twice.
    pub fn set_service(&self, service: Arc<dyn Service>) {
        assert!(self.service.set(service).is_ok(), "a node has one service");
    }

    /// Says in every hello which starts came before this one on its volume (R46). Set once, before the first connection.
    ///
    /// # Panics
    /// When it is set twice.
    pub fn set_lineage(&self, lineage: Lineage) {
        assert!(self.lineage.set(lineage).is_ok(), "a start has one lineage");
    }

    /// Waits until another node refuses this one because its volume is a copy (R46).
    pub async fn until_called_a_copy(&self) {
        let mut called = self.called_a_copy.subscribe();
        // The sender lives as long as this transport.
        let _ = called.wait_for(|called| *called).await;
    }

    /// What a peer answered to a hello.
    pub(super) fn note_refusal(&self, status: &Status) {
        if status.metadata().contains_key(COPY_KEY) {
            self.called_a_copy.send_replace(true);
        }
    }

    pub(super) fn service_of_node(&self) -> Option<&Arc<dyn Service>> {
        self.service.get()
    }

    /// A start of a node can be reached there, whatever the groups' records say. What is known of a later start stays.
    /// Whether it was new.
    pub fn set_address(
        self: &Arc<Self>,
        node: NodeId,
        incarnation: NodeIncarnation,
        address: &NodeAddress,
    ) -> bool {
        let mut addresses = self.addresses.lock();
        match addresses.get_mut(&node) {
            Some((of, _)) if *of > incarnation => return false,
            Some((of, known)) if known == address => {
                *of = incarnation;
                return false;
            }
            _ => {}
        }
        addresses.insert(node, (incarnation, address.clone()));
        drop(addresses);
        let peers = self.peers.lock();
        for lane in Lane::ALL {
            if let Some(peer) = peers.get(&(node, lane)).and_then(Weak::upgrade) {
                peer.set_address(address);
            }
        }
        true
    }

    /// Where a node can be reached, as far as this one was told.
    pub fn address(&self, node: NodeId) -> Option<NodeAddress> {
        self.addresses
            .lock()
            .get(&node)
            .map(|(_, address)| address.clone())
    }

    /// The way to `node`, which all groups share while any of them uses it. `address` counts where nothing newer is
    /// known.
    pub(super) fn peer(self: &Arc<Self>, node: NodeId, address: &NodeAddress, lane: Lane) -> Arc<Peer> {
        let address = self.address(node).unwrap_or_else(|| address.clone());
        let mut peers = self.peers.lock();
        if let Some(peer) = peers.get(&(node, lane)).and_then(Weak::upgrade) {
            peer.set_address(&address);
            return peer;
        }
        let peer = Peer::start(self, node, address, lane);
        peers.insert((node, lane), Arc::downgrade(&peer));
        peer
    }

    /// Sends a request to a node's service; requests to one node arrive in the order of the calls, as long as the
    /// connection holds. The answer is awaited apart from that.
    pub fn ask(self: &Arc<Self>, node: NodeId, request: Bytes) -> Answered {
        self.ask_over(Lane::Service, node, request)
    }

    /// As [`Self::ask`], for a small request that must not be late: it goes with Raft's heartbeats, where neither entries
    /// nor large answers stand in its way.
    pub fn ask_promptly(self: &Arc<Self>, node: NodeId, request: Bytes) -> Answered {
        self.ask_over(Lane::Prompt, node, request)
    }

    fn ask_over(self: &Arc<Self>, lane: Lane, node: NodeId, request: Bytes) -> Answered {
        let Some(address) = self.address(node) else {
            return Answered::none(NoAnswer::new(node, "its address is not known"));
        };
        let mut asked = self.asked.lock();
        let peer = asked
            .entry((node, lane))
            .or_insert_with(|| self.peer(node, &address, lane));
        peer.ask(request)
    }

    pub(super) fn tls(&self) -> Option<&PeerTls> {
        self.tls.as_deref()
    }

    pub(super) fn ways(&self) -> &Ways {
        &self.ways
    }

    pub(super) fn relays(&self) -> &Relays {
        &self.relays
    }

    /// Members that could pass a connection to `node` on, beginning with the one that is asked first.
    pub(super) fn relays_to(&self, node: NodeId) -> Vec<(NodeId, NodeAddress)> {
        let mut relays: Vec<_> = self
            .addresses
            .lock()
            .iter()
            .filter(|(relay, _)| **relay != node && **relay != self.identity.node)
            .map(|(relay, (_, address))| (*relay, address.clone()))
            .collect();
        self.ways.sort_relays(node, &mut relays);
        relays
    }

    /// How many connections this node has to others, by kind.
    pub fn connection_counts(&self) -> Vec<ConnectionCount> {
        self.ways.counts()
    }

    /// How many connections this node passes on between others.
    pub fn passed_on(&self) -> usize {
        self.relays.count()
    }

    /// The cluster has recorded this start of a member, with its identifier.
    pub fn record_start(&self, node: NodeId, incarnation: NodeIncarnation, start: Option<StartId>) {
        let mut starts = self.starts.lock();
        let starts = starts.entry(node).or_default();
        if incarnation.0 >= starts.recorded {
            (starts.recorded, starts.start) = (incarnation.0, start);
        }
        starts.newest = starts.newest.max(incarnation.0);
    }

    /// Whether a node could be at this start, as far as the cluster has recorded it.
    pub fn may_be_at(&self, node: NodeId, incarnation: NodeIncarnation) -> bool {
        let starts = self.starts.lock();
        starts
            .get(&node)
            .copied()
            .unwrap_or_default()
            .may_be(incarnation.0)
    }

    /// Somebody says to be this start of a node. Who is no member, or not yet known as one, is not remembered; it may
    /// still be here to learn that it was removed, or to bring what makes it known.
    fn note_start(&self, node: NodeId, incarnation: u64) -> Result<(), String> {
        let mut members = self.starts.lock();
        let starts = members.get(&node).copied().unwrap_or_default();
        if incarnation < starts.newest {
            return Err(format!("start {incarnation} of node {} is over", node.0));
        }
        if !starts.may_be(incarnation) {
            return Err(format!("node {} cannot be at start {incarnation}", node.0));
        }
        if let Some(starts) = members.get_mut(&node) {
            starts.newest = incarnation;
        }
        Ok(())
    }

    /// Nothing is sent to a node any more that has left the cluster.
    pub fn forget_node(&self, node: NodeId) {
        self.starts.lock().remove(&node);
        self.ways.forget(node);
        self.asked.lock().retain(|(asked, _), _| *asked != node);
        self.addresses.lock().remove(&node);
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
        let lineage = self.lineage.get();
        let bytes = |start: &StartId| Bytes::copy_from_slice(start);
        let accepted = lineage.and_then(|lineage| lineage.accepted.as_ref());
        let offered = lineage.map_or(&[][..], |lineage| &lineage.offered);
        Hello {
            protocol_version: PROTOCOL_VERSION,
            cluster: self.identity.cluster.to_be_bytes().to_vec().into(),
            node: self.identity.node.0,
            incarnation: self.identity.incarnation.0,
            peer: peer.0,
            start: lineage.map_or(Bytes::new(), |lineage| bytes(&lineage.start)),
            accepted_incarnation: accepted.map_or(0, |(incarnation, _)| incarnation.0),
            accepted: accepted.map_or(Bytes::new(), |(_, start)| bytes(start)),
            offered: offered.iter().map(bytes).collect(),
        }
    }

    /// Whether whoever says to be a start of a member runs on a copy of its volume, as far as this node knows (R46).
    fn is_of_a_copy(&self, hello: &Hello) -> bool {
        let starts = self.starts.lock().get(&NodeId(hello.node)).copied();
        let Some(Starts {
            recorded,
            start: Some(start),
            ..
        }) = starts
        else {
            return false;
        };
        let accepted = (hello.accepted_incarnation, &hello.accepted[..]);
        Lineage::read(hello.incarnation, &hello.start, accepted, &hello.offered)
            .is_none_or(|lineage| lineage.is_of_a_copy(NodeIncarnation(recorded), start))
    }

    /// Checks the hello of somebody who calls, and tells who is refused.
    pub(super) fn check_caller(&self, hello: Option<Hello>) -> Result<NodeId, Status> {
        let from = hello.as_ref().map_or(0, |hello| hello.node);
        let checked = self.check_hello(hello, None);
        if let Err(status) = &checked {
            let from = format!("somebody who says to be node {from}");
            self.refusals.tell(&from, status.message());
        }
        checked
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
        if self.is_of_a_copy(&hello) {
            let mut status = Status::failed_precondition(format!(
                "start {} of node {} knows nothing of the last one: its volume is a copy of another, or was restored \
                 from one",
                hello.incarnation, node.0
            ));
            status
                .metadata_mut()
                .insert(COPY_KEY, tonic::metadata::AsciiMetadataValue::from_static("1"));
            return Err(status);
        }
        match self.note_start(node, hello.incarnation) {
            Ok(()) => Ok(node),
            Err(reason) => refuse(reason),
        }
    }
}

/// A server with the settings that calls between nodes need.
pub fn server_builder() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
}

/// The settings of a connection to a node.
pub(super) fn endpoint() -> Endpoint {
    // The connection stands already; the name is only what HTTP/2 has to say.
    Endpoint::from_static("http://node")
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}
