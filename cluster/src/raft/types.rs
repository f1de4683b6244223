//! The types openraft is instantiated with.
//!
//! An entry's data is opaque bytes: what a batch says is decoded by the replicated state alone, at apply. Leader
//! identities are (term, node), so that a [`LogPosition`] names an entry for good.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use openraft::alias::{CommittedLeaderIdOf, EntryOf, LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use openraft::raft::responder::Responder;
use quorate_storage::log::{GroupId, LogEntry, LogPosition};
use tokio::sync::oneshot;

use super::codec::{self, CodecError};
use super::outcome::AppliedBatch;

/// openraft's types in this crate. Written out because its macro cannot name a responder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = EntryData;
    type R = Applied;
    type NodeId = u64;
    type Node = NodeAddress;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<EntryData, u64, NodeAddress>;
    type Entry = openraft::Entry<<Self::LeaderId as openraft::vote::RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type Responder<T>
        = OutcomeSender<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// A group since one of its beginnings: what is sent in one of them is not for another (R41).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupLife {
    pub(super) group: GroupId,
    pub(super) beginning: u64,
}

impl GroupLife {
    /// No group: a request to the node's service.
    pub(super) const NONE: Self = Self {
        group: GroupId(0),
        beginning: 0,
    };
}

pub(super) type LogId = LogIdOf<TypeConfig>;
pub(super) type Vote = VoteOf<TypeConfig>;
pub(super) type Entry = EntryOf<TypeConfig>;
pub(super) type Membership = openraft::Membership<u64, NodeAddress>;
pub(super) type StoredMembership = StoredMembershipOf<TypeConfig>;
pub(super) type SnapshotMeta = SnapshotMetaOf<TypeConfig>;
pub(super) type Payload = openraft::EntryPayload<EntryData, u64, NodeAddress>;
type CommittedLeaderId = CommittedLeaderIdOf<TypeConfig>;

/// Where the other nodes reach a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeAddress(pub String);

/// An encoded batch, stored behind the byte that tells payload kinds apart, so that neither the log nor the network
/// copies it again.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct EntryData {
    encoded: Bytes,
}

impl EntryData {
    /// Copies `batch` behind its kind byte, the only copy until it is written, and lets `patch` change it.
    pub(super) fn new(batch: &[u8], patch: impl FnOnce(&mut [u8])) -> Self {
        let mut encoded = BytesMut::with_capacity(1 + batch.len());
        encoded.put_u8(codec::PAYLOAD_NORMAL);
        encoded.extend_from_slice(batch);
        patch(&mut encoded[1..]);
        Self {
            encoded: encoded.freeze(),
        }
    }

    /// Takes a stored payload whose kind byte was checked to be [`codec::PAYLOAD_NORMAL`].
    pub(super) fn from_encoded(encoded: Bytes) -> Self {
        debug_assert_eq!(encoded.first(), Some(&codec::PAYLOAD_NORMAL));
        Self { encoded }
    }

    /// Length of the batch in bytes.
    pub(super) fn len(&self) -> usize {
        self.encoded.len().saturating_sub(1)
    }

    /// The batch.
    pub(super) fn batch(&self) -> Bytes {
        self.encoded.slice(1..)
    }

    /// The stored payload.
    pub(super) fn encoded(&self) -> Bytes {
        self.encoded.clone()
    }
}

impl fmt::Debug for EntryData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for EntryData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.len())
    }
}

/// What applying an entry answers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Applied {
    /// The entry held no batch: a new leader's first entry, or a change of membership.
    #[default]
    NoBatch,
    /// What the batch did.
    Batch(AppliedBatch),
}

/// Carries openraft's answer to whoever waits; a waiter that has gone is not an event worth a log line, which is what
/// openraft's own responders write for each.
pub(super) struct OutcomeSender<T>(oneshot::Sender<T>);

impl<T> OutcomeSender<T> {
    /// A sender and what it sends to.
    pub(super) fn new() -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }
}

impl<T: Send + 'static> Responder<TypeConfig, T> for OutcomeSender<T> {
    fn on_complete(self, result: T) {
        drop(self.0.send(result));
    }
}

/// The log's name of an openraft log identity.
pub(super) fn position_of(id: LogId) -> LogPosition {
    LogPosition {
        term: id.leader_id.term,
        leader: id.leader_id.node_id,
        index: id.index,
    }
}

/// openraft's name of a log position.
pub(super) fn log_id_of(position: LogPosition) -> LogId {
    let leader_id = CommittedLeaderId {
        term: position.term,
        node_id: position.leader,
    };
    LogId {
        leader_id,
        index: position.index,
    }
}

/// An entry as the log keeps it.
pub(super) fn stored_entry(entry: Entry) -> LogEntry {
    LogEntry {
        position: position_of(entry.log_id),
        payload: codec::encode_payload(entry.payload),
    }
}

/// The entry the log kept.
///
/// # Errors
/// The payload is not one this version can read.
pub(super) fn entry_of(stored: LogEntry) -> Result<Entry, CodecError> {
    Ok(Entry {
        log_id: log_id_of(stored.position),
        payload: codec::decode_payload(stored.payload)?,
    })
}
