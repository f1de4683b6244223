//! What nodes ask each other, in types: the sending side.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use quorate_storage::log::GroupId;

use super::beginnings::Beginnings;
use super::judge::Accusation;
use super::placement::META;
use crate::raft::{Answered, NoAnswer, ProposeError, Proposed, Transport};
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
    beginnings: Arc<Beginnings>,
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

/// The group that a request is about, where it is about one that can begin anew (R41).
pub(super) fn group_of(body: &RequestBody) -> Option<GroupId> {
    let number = match body {
        RequestBody::Propose(ask) => ask.group,
        RequestBody::ReadIndex(ask) => ask.group,
        RequestBody::Follow(ask) => ask.group,
        RequestBody::Attach(ask) => ask.group,
        RequestBody::Pull(ask) => ask.group,
        RequestBody::ReadRetained(ask) => ask.group,
        RequestBody::Locate(ask) => ask.group,
        RequestBody::ReadDueWills(ask) => ask.group,
        RequestBody::ReadReplays(ask) => ask.group,
        RequestBody::FindCrossing(ask) => ask.group,
        RequestBody::ReportShared(ask) => ask.group,
        // What is confirmed is asked only by nodes that serve: those that know of an older beginning do so no more.
        RequestBody::Renew(_)
        | RequestBody::Confirm(_)
        | RequestBody::Broker(_)
        | RequestBody::Report(_)
        | RequestBody::Accuse(_)
        | RequestBody::AskFitness(_) => return None,
    };
    let group = u16::try_from(number).ok().map(GroupId)?;
    (group != META).then_some(group)
}

pub(super) fn encode_answer(body: AnswerBody) -> Bytes {
    proto::Answer { body: Some(body) }.encode_to_vec().into()
}

async fn read_answer(answered: Answered) -> Result<AnswerBody, AskError> {
    let answer = proto::Answer::decode(answered.wait().await?).map_err(|_| AskError::Malformed)?;
    answer.body.ok_or(AskError::Malformed)
}

impl Peers {
    pub(super) fn new(transport: Arc<Transport>, beginnings: Arc<Beginnings>) -> Self {
        Self {
            transport,
            beginnings,
        }
    }

    pub(super) fn this_node(&self) -> NodeId {
        self.transport.identity().node
    }

    /// A request, with the beginning of the group it is for.
    fn encode(&self, body: RequestBody) -> Bytes {
        let request = proto::Request {
            beginning: group_of(&body).map_or(0, |group| self.beginnings.of(group)),
            body: Some(body),
        };
        request.encode_to_vec().into()
    }

    /// Requests to one node arrive in the order of the calls; the answer is what the future waits for.
    pub(super) fn ask(
        &self,
        node: NodeId,
        body: RequestBody,
    ) -> impl Future<Output = Result<AnswerBody, AskError>> + use<> {
        read_answer(self.transport.ask(node, self.encode(body)))
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
    ) -> Result<Proposed, ProposeError> {
        let is_of_meta = group == META;
        let group = u32::from(group.0);
        let size = batch.len();
        let request = RequestBody::Propose(proto::Propose { group, batch });
        // What `meta` is told is small, and seldom; behind deliveries that the node does not take it would not get there.
        let answer = match is_of_meta {
            true => read_answer(self.transport.ask_promptly(node, self.encode(request))).await,
            false => self.ask(node, request).await,
        };
        match answer {
            Ok(AnswerBody::Proposed(proposed)) => {
                let outcome = match proposed.refused {
                    true => BatchOutcome::Refused,
                    false => BatchOutcome::decode(&proposed.outcomes)
                        .map_err(|error| ProposeError::Fatal(format!("node {}: {error}", node.0)))?,
                };
                Ok(Proposed {
                    outcome,
                    index: proposed.index,
                    first_index: (proposed.first_index > 0).then_some(proposed.first_index),
                })
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

    /// Asks the leader of `meta` for a lease, which must not be late.
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
        let request = self.encode(RequestBody::Renew(renew));
        match read_answer(self.transport.ask_promptly(node, request)).await? {
            AnswerBody::Lease(lease) => Ok(LeaseAnswer {
                granted: lease.granted,
                in_view: lease.in_view,
            }),
            AnswerBody::NotLeader(_) => Err(AskError::NotLeader),
            _ => Err(AskError::Malformed),
        }
    }

    /// Asks the leader of `meta` to look at a start that does not confirm.
    pub(super) async fn accuse(&self, node: NodeId, accusation: &Accusation) -> Result<(), AskError> {
        let accuse = proto::Accuse {
            node: accusation.node.0,
            incarnation: accusation.incarnation.0,
            group: u32::from(accusation.group.0),
            index: accusation.index,
        };
        match self.ask(node, RequestBody::Accuse(accuse)).await? {
            AnswerBody::Accused(_) => Ok(()),
            AnswerBody::NotLeader(_) => Err(AskError::NotLeader),
            _ => Err(AskError::Malformed),
        }
    }

    /// Asks a node whether it is fit to lead.
    pub(super) async fn is_fit(&self, node: NodeId) -> Result<bool, AskError> {
        match self
            .ask(node, RequestBody::AskFitness(proto::AskFitness {}))
            .await?
        {
            AnswerBody::Fitness(fitness) => Ok(fitness.fit),
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
