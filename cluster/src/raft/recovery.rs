//! What a stopped node's disk holds of its groups, and the rewriting of their members when the majority is lost for good.
//!
//! A group goes on with the node alone when the last membership in its log says so: it is appended there, in a term of
//! its own, like any other entry. Nothing that is in the log is taken away.

use std::collections::BTreeSet;
use std::io;

use bytes::Bytes;
use quorate_storage::log::{Completion, GroupId, Log, LogEntry, LogPosition};

use super::checkpoint::CheckpointStore;
use super::codec;
use super::log::READ_BYTES_MAX;
use super::machine::{StateError, check_log};
use super::types::{
    Membership, NodeAddress, Payload, SnapshotMeta, StoredMembership, Vote, log_id_of, position_of,
};
use crate::state::NodeId;

/// What a volume holds of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldGroup {
    /// The group.
    pub group: GroupId,
    /// Last entry; `None` where there is nothing of the group.
    pub last: Option<LogPosition>,
    /// Last entry that is known to be committed: those behind it may never have been acknowledged.
    pub committed: Option<LogPosition>,
    /// Last entry in the stored state.
    pub checkpoint: Option<LogPosition>,
    /// Term of the last vote, and for whom it was.
    pub vote: Option<(u64, NodeId)>,
    /// Who votes, by the last entry that says so.
    pub voters: BTreeSet<NodeId>,
}

/// Reads everything that is held of a group, and gives each batch behind the stored state to `visit`.
///
/// # Errors
/// Something is damaged or missing (R44, R49).
pub fn inspect(
    group: GroupId,
    log: &dyn Log,
    store: &dyn CheckpointStore,
    visit: &mut dyn FnMut(&Bytes),
) -> Result<HeldGroup, StateError> {
    let corrupt = |error: codec::CodecError| StateError::Corrupt(format!("group {}: {error}", group.0));
    let state = log.state(group);
    let stored = store.load(group)?;
    let stored = match &stored {
        Some((_, meta)) => Some(codec::decode_stored_meta(meta).map_err(corrupt)?),
        None => None,
    };
    check_log(&state, stored.as_ref())?;
    // Every value is read once, so that a damaged one is found while the other nodes are not given up yet.
    store.entries(group, &mut |_, _| Ok(()))?;
    let checkpoint = stored
        .as_ref()
        .and_then(|(meta, _)| meta.last_log_id)
        .map(position_of);
    let mut voters: BTreeSet<NodeId> = match &stored {
        Some((meta, _)) => meta
            .last_membership
            .membership()
            .voter_ids()
            .map(NodeId)
            .collect(),
        None => BTreeSet::new(),
    };
    let first = checkpoint.map_or(0, |checkpoint| checkpoint.index + 1);
    let end = match checkpoint <= state.last {
        true => state.last.map_or(0, |last| last.index + 1),
        // A snapshot that came shortly before the end: what the log holds is void, and about to be cut.
        false => first,
    };
    let mut next = first;
    while next < end {
        let entries = log.read(group, next, end, READ_BYTES_MAX)?;
        if entries.is_empty() {
            return Err(StateError::Corrupt(format!(
                "group {}: entry {next} is missing",
                group.0
            )));
        }
        for entry in entries {
            if entry.position.index != next {
                return Err(StateError::Corrupt(format!(
                    "group {}: entry {next} is missing",
                    group.0
                )));
            }
            next += 1;
            match codec::decode_payload(entry.payload).map_err(corrupt)? {
                Payload::Normal(data) => visit(&data.batch()),
                Payload::Membership(membership) => voters = membership.voter_ids().map(NodeId).collect(),
                Payload::Blank => {}
            }
        }
    }
    let vote = state
        .vote
        .map(|vote| codec::decode_vote(&vote))
        .transpose()
        .map_err(corrupt)?;
    Ok(HeldGroup {
        group,
        last: state.last.max(checkpoint),
        committed: state.committed,
        checkpoint,
        vote: vote.map(|vote| (vote.leader_id.term, NodeId(vote.leader_id.node_id))),
        voters,
    })
}

/// Lets a group of which nothing is here begin empty, behind `index`; durable when it returns. Other groups may remember how
/// far it had come, so `index` has to be beyond that. [`take_over`] comes next, with what is answered.
///
/// # Errors
/// The store failed.
pub fn begin_empty(
    store: &dyn CheckpointStore,
    held: &HeldGroup,
    node: NodeId,
    index: u64,
) -> io::Result<HeldGroup> {
    let position = LogPosition {
        term: held.vote.map_or(0, |(term, _)| term) + 1,
        leader: node.0,
        index,
    };
    let meta = SnapshotMeta {
        last_log_id: Some(log_id_of(position)),
        last_membership: StoredMembership::default(),
    };
    // As if it had come from another node: the log need not have what is before.
    let meta = codec::encode_installed_meta(&meta);
    store.replace(held.group, position, meta, &mut std::iter::empty())?;
    Ok(HeldGroup {
        last: Some(position),
        checkpoint: Some(position),
        ..held.clone()
    })
}

/// Makes `node` the only member of a group, and appends `batches`; durable when it returns. Done again, it is done again:
/// with the same result.
///
/// # Errors
/// The log failed.
pub fn take_over(
    log: &dyn Log,
    held: &HeldGroup,
    node: NodeId,
    address: &NodeAddress,
    batches: &[Bytes],
) -> io::Result<()> {
    // Above everything that this node has seen: what comes from an older leader is refused.
    let voted = held.vote.map_or(0, |(term, _)| term);
    let term = held.last.map_or(0, |last| last.term).max(voted) + 1;
    let members = std::collections::BTreeMap::from([(node.0, address.clone())]);
    let membership = Membership::new(vec![BTreeSet::from([node.0])], members)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    let payloads = std::iter::once(codec::encode_payload(Payload::Membership(membership)));
    let payloads = payloads.chain(batches.iter().map(|batch| codec::encode_batch(batch)));
    let first = held.last.map_or(0, |last| last.index + 1);
    let entries = payloads.zip(first..).map(|(payload, index)| LogEntry {
        position: LogPosition {
            term,
            leader: node.0,
            index,
        },
        payload,
    });
    let entries: Vec<LogEntry> = entries.collect();
    let group = held.group;
    // A snapshot that was installed may lie ahead of the log, which was not cut any more.
    if let Some(checkpoint) = held
        .checkpoint
        .filter(|checkpoint| log.state(group).last < Some(*checkpoint))
    {
        wait(|done| log.truncate_after(group, Some(checkpoint.index), done))?;
        wait(|done| log.purge(group, checkpoint, done))?;
    }
    let vote = codec::encode_vote(&Vote::new_committed(term, node.0));
    wait(|done| log.save_vote(group, vote, done))?;
    wait(|done| log.append(group, entries, done))
}

/// Waits until an operation of the log is durable. Blocks.
fn wait(submit: impl FnOnce(Completion)) -> io::Result<()> {
    let (done, result) = std::sync::mpsc::channel();
    submit(Box::new(move |result| drop(done.send(result))));
    result
        .recv()
        .unwrap_or_else(|_| Err(io::Error::other("the log has stopped")))
}
