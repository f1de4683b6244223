//! Raft's messages between nodes and what openraft calls them.

use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use quorate_storage::log::{LogEntry, LogPosition};

use super::codec::CodecError;
use super::types::{LogId, TypeConfig, Vote, entry_of, log_id_of, position_of, stored_entry};

/// What `proto/proto/raft.proto` declares.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub(super) mod proto {
    tonic::include_proto!("quorate.raft.v1");
}

pub(super) use proto::answer::Body as AnswerBody;
pub(super) use proto::request::Body as RequestBody;

/// A message lacks something or holds what it cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    #[error("message without {0}")]
    Missing(&'static str),
    #[error(transparent)]
    Value(#[from] CodecError),
}

pub(super) fn vote_to_wire(vote: &Vote) -> proto::StoredVote {
    proto::StoredVote {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(super) fn vote_from_wire(vote: Option<proto::StoredVote>) -> Result<Vote, WireError> {
    let vote = vote.ok_or(WireError::Missing("a vote"))?;
    Ok(match vote.committed {
        true => Vote::new_committed(vote.term, vote.node),
        false => Vote::new(vote.term, vote.node),
    })
}

fn position_to_wire(position: LogPosition) -> proto::LogPosition {
    proto::LogPosition {
        term: position.term,
        leader: position.leader,
        index: position.index,
    }
}

fn position_from_wire(position: proto::LogPosition) -> LogPosition {
    LogPosition {
        term: position.term,
        leader: position.leader,
        index: position.index,
    }
}

fn log_id_to_wire(log_id: Option<LogId>) -> Option<proto::LogPosition> {
    log_id.map(|log_id| position_to_wire(position_of(log_id)))
}

fn log_id_from_wire(position: Option<proto::LogPosition>) -> Option<LogId> {
    position.map(|position| log_id_of(position_from_wire(position)))
}

/// `stream` is 0 for a request that may overtake others.
pub(super) fn append_to_wire(request: AppendEntriesRequest<TypeConfig>, stream: u64) -> proto::Append {
    let entries = request.entries.into_iter().map(|entry| {
        let LogEntry { position, payload } = stored_entry(entry);
        proto::Entry {
            position: Some(position_to_wire(position)),
            payload,
        }
    });
    proto::Append {
        vote: Some(vote_to_wire(&request.vote)),
        previous: log_id_to_wire(request.prev_log_id),
        entries: entries.collect(),
        committed: log_id_to_wire(request.leader_commit),
        stream,
    }
}

pub(super) fn append_from_wire(append: proto::Append) -> Result<AppendEntriesRequest<TypeConfig>, WireError> {
    let entries = append.entries.into_iter().map(|entry| {
        let position = entry.position.ok_or(WireError::Missing("an entry's position"))?;
        let position = position_from_wire(position);
        Ok(entry_of(LogEntry {
            position,
            payload: entry.payload,
        })?)
    });
    Ok(AppendEntriesRequest {
        vote: vote_from_wire(append.vote)?,
        prev_log_id: log_id_from_wire(append.previous),
        entries: entries.collect::<Result<_, WireError>>()?,
        leader_commit: log_id_from_wire(append.committed),
    })
}

pub(super) fn appended_to_wire(result: StreamAppendResult<TypeConfig>) -> AnswerBody {
    match result {
        Ok(last) => AnswerBody::Appended(proto::Appended {
            last: log_id_to_wire(last),
        }),
        Err(StreamAppendError::Conflict(log_id)) => {
            AnswerBody::Conflict(position_to_wire(position_of(log_id)))
        }
        Err(StreamAppendError::HigherVote(vote)) => AnswerBody::HigherVote(vote_to_wire(&vote)),
    }
}

pub(super) fn appended_from_wire(body: AnswerBody) -> Result<StreamAppendResult<TypeConfig>, WireError> {
    match body {
        AnswerBody::Appended(appended) => Ok(Ok(log_id_from_wire(appended.last))),
        AnswerBody::Conflict(position) => Ok(Err(StreamAppendError::Conflict(log_id_of(
            position_from_wire(position),
        )))),
        AnswerBody::HigherVote(vote) => Ok(Err(StreamAppendError::HigherVote(vote_from_wire(Some(vote))?))),
        _ => Err(WireError::Missing("an answer to an append")),
    }
}

pub(super) fn vote_request_to_wire(request: VoteRequest<TypeConfig>) -> proto::Vote {
    proto::Vote {
        vote: Some(vote_to_wire(&request.vote)),
        last: log_id_to_wire(request.last_log_id),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(super) fn vote_request_from_wire(request: proto::Vote) -> Result<VoteRequest<TypeConfig>, WireError> {
    let mut vote = VoteRequest::new(vote_from_wire(request.vote)?, log_id_from_wire(request.last));
    vote.leadership_transfer = request.leadership_transfer;
    Ok(vote)
}

pub(super) fn vote_answer_to_wire(answer: VoteResponse<TypeConfig>) -> AnswerBody {
    AnswerBody::Vote(proto::VoteAnswer {
        vote: Some(vote_to_wire(&answer.vote)),
        granted: answer.vote_granted,
        last: log_id_to_wire(answer.last_log_id),
    })
}

pub(super) fn vote_answer_from_wire(body: AnswerBody) -> Result<VoteResponse<TypeConfig>, WireError> {
    let AnswerBody::Vote(answer) = body else {
        return Err(WireError::Missing("an answer to a vote"));
    };
    let vote = vote_from_wire(answer.vote)?;
    Ok(VoteResponse::new(
        vote,
        log_id_from_wire(answer.last),
        answer.granted,
    ))
}

pub(super) fn transfer_to_wire(request: &TransferLeaderRequest<TypeConfig>) -> proto::TransferLeader {
    proto::TransferLeader {
        from: Some(vote_to_wire(request.from_leader())),
        to: *request.to_node_id(),
        last: log_id_to_wire(request.last_log_id().copied()),
    }
}

pub(super) fn transfer_from_wire(
    request: proto::TransferLeader,
) -> Result<TransferLeaderRequest<TypeConfig>, WireError> {
    let from = vote_from_wire(request.from)?;
    Ok(TransferLeaderRequest::new(
        from,
        request.to,
        log_id_from_wire(request.last),
    ))
}

pub(super) fn transfer_answer_to_wire(answer: TransferLeaderResponse<TypeConfig>) -> AnswerBody {
    use proto::transfer_answer::Refused;
    let refused = answer.err().map(|error| match error {
        TransferLeaderError::VoteChanged { expected, actual } => Refused::VoteChanged(proto::VoteChanged {
            expected: Some(vote_to_wire(&expected)),
            actual: Some(vote_to_wire(&actual)),
        }),
        TransferLeaderError::LogNotFlushed { expected, actual } => {
            Refused::LogNotFlushed(proto::LogNotFlushed {
                expected: log_id_to_wire(expected),
                actual: log_id_to_wire(actual),
            })
        }
    });
    AnswerBody::TransferLeader(proto::TransferAnswer { refused })
}

pub(super) fn transfer_answer_from_wire(
    body: AnswerBody,
) -> Result<TransferLeaderResponse<TypeConfig>, WireError> {
    use proto::transfer_answer::Refused;
    let AnswerBody::TransferLeader(answer) = body else {
        return Err(WireError::Missing("an answer to a leadership transfer"));
    };
    Ok(match answer.refused {
        None => Ok(()),
        Some(Refused::VoteChanged(changed)) => Err(TransferLeaderError::VoteChanged {
            expected: vote_from_wire(changed.expected)?,
            actual: vote_from_wire(changed.actual)?,
        }),
        Some(Refused::LogNotFlushed(log)) => Err(TransferLeaderError::LogNotFlushed {
            expected: log_id_from_wire(log.expected),
            actual: log_id_from_wire(log.actual),
        }),
    })
}
