//! What nodes ask each other, in types: the sending side.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use quorate_storage::log::GroupId;

use crate::raft::{NoAnswer, ProposeError, Transport};
use crate::state::{BatchOutcome, NodeId, NodeIncarnation};

/// What `proto/proto/node.proto` declares.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub(super) mod proto {
    tonic::include_proto!("quorate.node.v1");
}

pub(super) use proto::answer::Body as AnswerBody;
pub(super) use proto::request::Body as RequestBody;

/// A node's way to ask the others.
#[derive(Clone)]
pub(super) struct Peers {
    transport: Arc<Transport>,
}

/// No usable answer came.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    #[error("a peer answered what was not asked")]
    Malformed,
    #[error("the asked node does not lead the group")]
    NotLeader,
}

/// What the leader of `meta` says of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeaseAnswer {
    pub(super) granted: bool,
    pub(super) in_view: bool,
}

pub(super) fn encode_request(body: RequestBody) -> Bytes {
    proto::Request { body: Some(body) }.encode_to_vec().into()
}

pub(super) fn encode_answer(body: AnswerBody) -> Bytes {
    proto::Answer { body: Some(body) }.encode_to_vec().into()
}

impl Peers {
    pub(super) fn new(transport: Arc<Transport>) -> Self {
        Self { transport }
    }

    pub(super) fn this_node(&self) -> NodeId {
        self.transport.identity().node
    }

    /// Requests to one node arrive in the order of the calls; the answer is what the future waits for.
    pub(super) fn ask(
        &self,
        node: NodeId,
        body: RequestBody,
    ) -> impl Future<Output = Result<AnswerBody, AskError>> + use<> {
        let answered = self.transport.ask(node, encode_request(body));
        async move {
            let answer = proto::Answer::decode(answered.wait().await?).map_err(|_| AskError::Malformed)?;
            answer.body.ok_or(AskError::Malformed)
        }
    }

    /// Hands a request to another node's broker.
    pub(super) fn ask_broker(
        &self,
        node: NodeId,
        request: Bytes,
    ) -> impl Future<Output = Option<Bytes>> + use<> {
        let answer = self.ask(node, RequestBody::Broker(request));
        async move {
            match answer.await {
                Ok(AnswerBody::Broker(answer)) => Some(answer),
                _ => None,
            }
        }
    }

    /// Has another node propose a batch.
    pub(super) async fn propose(
        &self,
        node: NodeId,
        group: GroupId,
        batch: Bytes,
    ) -> Result<(BatchOutcome, u64), ProposeError> {
        let group = u32::from(group.0);
        let size = batch.len();
        let answer = self
            .ask(node, RequestBody::Propose(proto::Propose { group, batch }))
            .await;
        match answer {
            Ok(AnswerBody::Proposed(proposed)) => {
                let outcome = match proposed.refused {
                    true => BatchOutcome::Refused,
                    false => BatchOutcome::decode(&proposed.outcomes)
                        .map_err(|error| ProposeError::Fatal(format!("node {}: {error}", node.0)))?,
                };
                Ok((outcome, proposed.index))
            }
            Ok(AnswerBody::NotLeader(_)) => Err(ProposeError::NotLeader { leader: None }),
            Ok(AnswerBody::TooLarge(_)) => Err(ProposeError::TooLarge(size)),
            Ok(_) | Err(_) => Err(ProposeError::Unknown),
        }
    }

    /// Asks a group's leader up to which index the group has committed.
    pub(super) async fn read_index(&self, node: NodeId, group: GroupId) -> Result<u64, AskError> {
        let group = u32::from(group.0);
        match self
            .ask(node, RequestBody::ReadIndex(proto::ReadIndex { group }))
            .await?
        {
            AnswerBody::IndexRead(read) => Ok(read.index),
            AnswerBody::NotLeader(_) => Err(AskError::NotLeader),
            _ => Err(AskError::Malformed),
        }
    }

    /// Asks the leader of `meta` for a lease.
    pub(super) async fn renew(
        &self,
        node: NodeId,
        incarnation: NodeIncarnation,
        view: u64,
    ) -> Result<LeaseAnswer, AskError> {
        let renew = proto::Renew {
            incarnation: incarnation.0,
            view,
        };
        match self.ask(node, RequestBody::Renew(renew)).await? {
            AnswerBody::Lease(lease) => Ok(LeaseAnswer {
                granted: lease.granted,
                in_view: lease.in_view,
            }),
            AnswerBody::NotLeader(_) => Err(AskError::NotLeader),
            _ => Err(AskError::Malformed),
        }
    }

    /// Waits until a node routes by everything up to the watermarks.
    pub(super) async fn confirm(&self, node: NodeId, watermarks: &[(GroupId, u64)]) -> Result<(), AskError> {
        let watermarks = watermarks.iter().map(|(group, index)| proto::Watermark {
            group: u32::from(group.0),
            index: *index,
        });
        let confirm = proto::Confirm {
            watermarks: watermarks.collect(),
        };
        match self.ask(node, RequestBody::Confirm(confirm)).await? {
            AnswerBody::Confirmed(_) => Ok(()),
            _ => Err(AskError::Malformed),
        }
    }
}
