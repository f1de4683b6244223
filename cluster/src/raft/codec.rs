//! The bytes of entry payloads, votes and checkpoint descriptions, as the log and the state store keep them and as
//! nodes send them to each other.
//!
//! Each value starts with a byte that holds its format version (high half) and its kind (low half); a reader refuses
//! what it does not know. Numbers are little-endian. Values do not checksum themselves: the log, the state store and
//! the snapshot stream below them do.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_storage::log::LogPosition;

use super::types::{
    EntryData, Membership, NodeAddress, Payload, SnapshotMeta, StoredMembership, Vote, log_id_of, position_of,
};

/// Payload of a new leader's first entry.
pub(super) const PAYLOAD_BLANK: u8 = 0x11;
/// Payload that is a batch.
pub(super) const PAYLOAD_NORMAL: u8 = 0x12;
/// Payload that is a membership.
pub(super) const PAYLOAD_MEMBERSHIP: u8 = 0x13;
const VOTE: u8 = 0x14;
const SNAPSHOT_META: u8 = 0x15;
/// As [`SNAPSHOT_META`], of a state that came as a snapshot: the log may not have reached it yet. Only stored.
const INSTALLED_META: u8 = 0x16;

/// A stored or received value is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The value ends early.
    #[error("value is cut short")]
    Truncated,
    /// The first byte names a version or a kind this version does not know.
    #[error("unknown value kind {0:#04x}")]
    UnknownKind(u8),
    /// There is more than there should be.
    #[error("{0} bytes behind the value")]
    TrailingBytes(usize),
    /// A field holds what it cannot hold.
    #[error("invalid {0}")]
    Invalid(&'static str),
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Encodes an entry's payload. A batch is not copied.
pub(super) fn encode_payload(payload: Payload) -> Bytes {
    match payload {
        Payload::Blank => Bytes::from_static(&[PAYLOAD_BLANK]),
        Payload::Normal(data) => data.encoded(),
        Payload::Membership(membership) => {
            let mut out = BytesMut::new();
            out.put_u8(PAYLOAD_MEMBERSHIP);
            put_membership(&mut out, &membership);
            out.freeze()
        }
    }
}

/// Encodes a batch as an entry's payload.
pub(super) fn encode_batch(batch: &[u8]) -> Bytes {
    encode_payload(Payload::Normal(EntryData::new(batch, |_| ())))
}

/// Decodes an entry's payload. A batch is not copied.
///
/// # Errors
/// The payload is malformed or of an unknown kind.
pub(super) fn decode_payload(mut bytes: Bytes) -> Result<Payload, CodecError> {
    match *bytes.first().ok_or(CodecError::Truncated)? {
        PAYLOAD_NORMAL => Ok(Payload::Normal(EntryData::from_encoded(bytes))),
        PAYLOAD_BLANK => {
            bytes.advance(1);
            finish(&bytes)?;
            Ok(Payload::Blank)
        }
        PAYLOAD_MEMBERSHIP => {
            bytes.advance(1);
            let membership = take_membership(&mut bytes)?;
            finish(&bytes)?;
            Ok(Payload::Membership(membership))
        }
        kind => Err(CodecError::UnknownKind(kind)),
    }
}

/// Encodes a vote.
pub(super) fn encode_vote(vote: &Vote) -> Bytes {
    let mut out = BytesMut::with_capacity(18);
    out.put_u8(VOTE);
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.node_id);
    out.put_u8(u8::from(vote.committed));
    out.freeze()
}

/// Decodes a vote.
///
/// # Errors
/// The value is malformed or of an unknown version.
pub(super) fn decode_vote(mut bytes: &[u8]) -> Result<Vote, CodecError> {
    take_kind(&mut bytes, VOTE)?;
    let (term, node_id) = (take_u64(&mut bytes)?, take_u64(&mut bytes)?);
    let committed = take_bool(&mut bytes, "vote")?;
    finish(bytes)?;
    Ok(match committed {
        true => Vote::new_committed(term, node_id),
        false => Vote::new(term, node_id),
    })
}

/// Encodes what a checkpoint or a snapshot says of itself: the last entry in it and the membership then.
pub(super) fn encode_snapshot_meta(meta: &SnapshotMeta) -> Bytes {
    encode_meta(SNAPSHOT_META, meta)
}

/// [`encode_snapshot_meta`] for the store, of a state that came as a snapshot.
pub(super) fn encode_installed_meta(meta: &SnapshotMeta) -> Bytes {
    encode_meta(INSTALLED_META, meta)
}

fn encode_meta(kind: u8, meta: &SnapshotMeta) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(kind);
    put_position(&mut out, meta.last_log_id.map(position_of));
    put_position(&mut out, meta.last_membership.log_id().map(position_of));
    put_membership(&mut out, meta.last_membership.membership());
    out.freeze()
}

/// Decodes the description of a checkpoint or snapshot.
///
/// # Errors
/// The value is malformed or of an unknown version.
pub(super) fn decode_snapshot_meta(bytes: &[u8]) -> Result<SnapshotMeta, CodecError> {
    decode_meta(SNAPSHOT_META, bytes)
}

/// Decodes the description of a stored state, and whether that came as a snapshot.
///
/// # Errors
/// The value is malformed or of an unknown version.
pub(super) fn decode_stored_meta(bytes: &[u8]) -> Result<(SnapshotMeta, bool), CodecError> {
    match bytes.first() {
        Some(&INSTALLED_META) => Ok((decode_meta(INSTALLED_META, bytes)?, true)),
        _ => Ok((decode_meta(SNAPSHOT_META, bytes)?, false)),
    }
}

fn decode_meta(kind: u8, mut bytes: &[u8]) -> Result<SnapshotMeta, CodecError> {
    take_kind(&mut bytes, kind)?;
    let last_log_id = take_position(&mut bytes)?.map(log_id_of);
    let membership_id = take_position(&mut bytes)?.map(log_id_of);
    let membership = take_membership(&mut bytes)?;
    finish(bytes)?;
    Ok(SnapshotMeta {
        last_log_id,
        last_membership: StoredMembership::new(membership_id, membership),
    })
}

fn put_membership(out: &mut BytesMut, membership: &Membership) {
    let configs = membership.get_joint_config();
    out.put_u8(u8::try_from(configs.len()).expect("openraft joins at most two configurations"));
    for config in configs {
        out.put_u16_le(u16::try_from(config.len()).expect("a group has far fewer voters than 65,536"));
        for node in config {
            out.put_u64_le(*node);
        }
    }
    let nodes: Vec<_> = membership.nodes().collect();
    out.put_u16_le(u16::try_from(nodes.len()).expect("a group has far fewer members than 65,536"));
    for (node, NodeAddress(address)) in nodes {
        out.put_u64_le(*node);
        out.put_u16_le(
            u16::try_from(address.len()).expect("an address is checked to be short when it is proposed"),
        );
        out.put_slice(address.as_bytes());
    }
}

fn take_membership(bytes: &mut impl Buf) -> Result<Membership, CodecError> {
    let mut configs = Vec::new();
    for _ in 0..take_u8(bytes)? {
        let mut voters = BTreeSet::new();
        for _ in 0..take_u16(bytes)? {
            voters.insert(take_u64(bytes)?);
        }
        configs.push(voters);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..take_u16(bytes)? {
        let node = take_u64(bytes)?;
        let length = usize::from(take_u16(bytes)?);
        if bytes.remaining() < length {
            return Err(CodecError::Truncated);
        }
        let address = String::from_utf8(bytes.copy_to_bytes(length).into())
            .map_err(|_| CodecError::Invalid("node address"))?;
        nodes.insert(node, NodeAddress(address));
    }
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|_| CodecError::Invalid("membership"))
}

/// Appends an optional log position.
pub(super) fn put_position(out: &mut BytesMut, position: Option<LogPosition>) {
    out.put_u8(u8::from(position.is_some()));
    if let Some(position) = position {
        out.put_u64_le(position.term);
        out.put_u64_le(position.leader);
        out.put_u64_le(position.index);
    }
}

fn take_position(bytes: &mut impl Buf) -> Result<Option<LogPosition>, CodecError> {
    if !take_bool(bytes, "position")? {
        return Ok(None);
    }
    Ok(Some(LogPosition {
        term: take_u64(bytes)?,
        leader: take_u64(bytes)?,
        index: take_u64(bytes)?,
    }))
}

fn take_kind(bytes: &mut impl Buf, expected: u8) -> Result<(), CodecError> {
    match take_u8(bytes)? {
        kind if kind == expected => Ok(()),
        kind => Err(CodecError::UnknownKind(kind)),
    }
}

fn take_bool(bytes: &mut impl Buf, field: &'static str) -> Result<bool, CodecError> {
    match take_u8(bytes)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(CodecError::Invalid(field)),
    }
}

fn take_u8(bytes: &mut impl Buf) -> Result<u8, CodecError> {
    bytes.try_get_u8().map_err(|_| CodecError::Truncated)
}

fn take_u16(bytes: &mut impl Buf) -> Result<u16, CodecError> {
    bytes.try_get_u16_le().map_err(|_| CodecError::Truncated)
}

fn take_u64(bytes: &mut impl Buf) -> Result<u64, CodecError> {
    bytes.try_get_u64_le().map_err(|_| CodecError::Truncated)
}

fn finish(rest: &[u8]) -> Result<(), CodecError> {
    match rest.len() {
        0 => Ok(()),
        more => Err(CodecError::TrailingBytes(more)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership() -> Membership {
        let nodes = BTreeMap::from([
            (1, NodeAddress("a:1".to_owned())),
            (2, NodeAddress("b:2".to_owned())),
            (7, NodeAddress("learner:3".to_owned())),
        ]);
        Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([1])], nodes).unwrap()
    }

    fn position(term: u64, leader: u64, index: u64) -> LogPosition {
        LogPosition { term, leader, index }
    }

    #[test]
    fn payloads_survive_a_round_trip() {
        for payload in [
            Payload::Blank,
            Payload::Normal(EntryData::new(b"batch", |_| ())),
            Payload::Normal(EntryData::new(b"", |_| ())),
            Payload::Membership(membership()),
        ] {
            assert_eq!(decode_payload(encode_payload(payload.clone())), Ok(payload));
        }
        assert_eq!(
            EntryData::new(b"batch", |_| ()).batch(),
            Bytes::from_static(b"batch")
        );
    }

    #[test]
    fn votes_and_metas_survive_a_round_trip() {
        for vote in [Vote::new(3, 9), Vote::new_committed(u64::MAX, 1)] {
            assert_eq!(decode_vote(&encode_vote(&vote)), Ok(vote));
        }
        let meta = SnapshotMeta {
            last_log_id: Some(log_id_of(position(4, 2, 77))),
            last_membership: StoredMembership::new(Some(log_id_of(position(1, 2, 3))), membership()),
        };
        assert_eq!(
            decode_snapshot_meta(&encode_snapshot_meta(&meta)),
            Ok(meta.clone())
        );
        assert_eq!(
            decode_stored_meta(&encode_snapshot_meta(&meta)),
            Ok((meta.clone(), false))
        );
        let installed = encode_installed_meta(&meta);
        assert_eq!(decode_stored_meta(&installed), Ok((meta, true)));
        assert_eq!(
            decode_snapshot_meta(&installed),
            Err(CodecError::UnknownKind(0x16))
        );
        let empty = SnapshotMeta::default();
        assert_eq!(decode_snapshot_meta(&encode_snapshot_meta(&empty)), Ok(empty));
    }

    #[test]
    fn every_cut_and_every_extension_is_refused() {
        let vote = encode_vote(&Vote::new(3, 9));
        let meta = encode_snapshot_meta(&SnapshotMeta {
            last_log_id: Some(log_id_of(position(4, 2, 77))),
            last_membership: StoredMembership::new(None, membership()),
        });
        let payload = encode_payload(Payload::Membership(membership()));
        for cut in 0..vote.len() {
            assert!(decode_vote(&vote[..cut]).is_err());
        }
        for cut in 0..meta.len() {
            assert!(decode_snapshot_meta(&meta[..cut]).is_err());
        }
        for cut in 0..payload.len() {
            assert!(decode_payload(payload.slice(..cut)).is_err());
        }
        let extended = |bytes: &Bytes| [bytes.as_ref(), &[0]].concat();
        assert_eq!(decode_vote(&extended(&vote)), Err(CodecError::TrailingBytes(1)));
        assert_eq!(
            decode_snapshot_meta(&extended(&meta)),
            Err(CodecError::TrailingBytes(1))
        );
        assert_eq!(
            decode_payload(extended(&payload).into()),
            Err(CodecError::TrailingBytes(1))
        );
    }

    #[test]
    fn unknown_versions_and_invalid_fields_are_refused() {
        assert_eq!(
            decode_payload(Bytes::from_static(&[0x22])),
            Err(CodecError::UnknownKind(0x22))
        );
        assert_eq!(decode_vote(&[0x24]), Err(CodecError::UnknownKind(0x24)));
        let mut vote = encode_vote(&Vote::new(3, 9)).to_vec();
        *vote.last_mut().unwrap() = 2;
        assert_eq!(decode_vote(&vote), Err(CodecError::Invalid("vote")));
        // A voter without an address.
        let payload = [PAYLOAD_MEMBERSHIP, 1, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(
            decode_payload(payload.to_vec().into()),
            Err(CodecError::Invalid("membership"))
        );
    }
}
