//! What a node answers to its peers: the receiving side of [`peers`](super::peers).

use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::join_all;
use prost::Message;
use quorate_storage::log::GroupId;

use super::judge::Accusation;
use super::peers::{AnswerBody, RequestBody, encode_answer, group_of, proto};
use super::placement::META;
use super::{Host, Node};
use crate::raft::{LargeAnswer, PeerStart, ProposeError, Proposed, Reply, Service};
use crate::state::{BatchOutcome, NodeId, NodeIncarnation};

/// Answers the peers of a node.
pub(super) struct NodeService<H: Host>(pub(super) Weak<Node<H>>);

impl<H: Host> Service for NodeService<H> {
    fn handle(&self, from: PeerStart, request: Bytes, reply: Reply) {
        // Before anything is waited for: a lease counts from here.
        let asked = Instant::now();
        let Some(node) = self.0.upgrade() else { return };
        let request = proto::Request::decode(request).unwrap_or_default();
        let is_of_now = |body: &RequestBody| {
            group_of(body).is_none_or(|group| node.is_at_beginning(group, request.beginning))
        };
        match request.body {
            Some(body) if !is_of_now(&body) => reply.send(encode_answer(match body {
                RequestBody::Propose(_) | RequestBody::ReadIndex(_) => node.not_leader(META),
                _ => AnswerBody::NotHere(proto::NotHere {}),
            })),
            Some(RequestBody::Broker(request)) => {
                node.host().handle_peer(from, request, BrokerReply(reply));
            }
            Some(body) => drop(tokio::spawn(async move {
                let mut reply = reply;
                if let Some(answer) = node.answer(from, body, asked, &mut reply).await {
                    reply.send(encode_answer(answer));
                }
            })),
            None => tracing::warn!(node = from.node.0, "a peer asks what this version does not know"),
        }
    }
}

/// Takes the broker's answer to another's request.
pub struct BrokerReply(Reply);

impl BrokerReply {
    /// Answers.
    pub fn send(self, answer: Bytes) {
        self.0.send(encode_answer(AnswerBody::Broker(answer)));
    }
}

impl<H: Host> Node<H> {
    async fn answer(
        self: &Arc<Self>,
        from: PeerStart,
        body: RequestBody,
        asked: Instant,
        reply: &mut Reply,
    ) -> Option<AnswerBody> {
        match body {
            RequestBody::Propose(propose) => Some(self.answer_propose(propose).await),
            RequestBody::ReadIndex(read) => Some(self.answer_read_index(read).await),
            RequestBody::Renew(renew) => {
                let incarnation = NodeIncarnation(renew.incarnation);
                Some(
                    match self.grant(from.node, incarnation, renew.view, asked).await {
                        Some((granted, in_view)) => AnswerBody::Lease(proto::Lease {
                            granted,
                            in_view,
                            view: self.directory().read().view().number,
                        }),
                        None => self.not_leader(META),
                    },
                )
            }
            RequestBody::Confirm(confirm) => self.answer_confirm(confirm).await,
            RequestBody::Report(_) => Some(self.answer_report(from.node)),
            RequestBody::ReportShared(ask) => {
                let group = self.find_group(group_id(ask.group))?;
                Some(AnswerBody::SharedReported(
                    group.answer_report_shared(from.node, &ask),
                ))
            }
            RequestBody::Accuse(accuse) => Some(self.answer_accuse(from.node, &accuse)),
            RequestBody::AskFitness(_) => {
                let fit = self.is_fit_to_lead();
                Some(AnswerBody::Fitness(proto::Fitness { fit }))
            }
            RequestBody::Broker(_) => None,
            body => Some(
                self.answer_follower(from, body, reply)
                    .await
                    .unwrap_or(AnswerBody::NotHere(proto::NotHere {})),
            ),
        }
    }

    /// What a node without a replica asks; `None` where this one has none, or not what was asked for.
    async fn answer_follower(
        &self,
        from: PeerStart,
        body: RequestBody,
        reply: &mut Reply,
    ) -> Option<AnswerBody> {
        let find = |number| self.find_group(group_id(number));
        Some(match body {
            RequestBody::Follow(ask) => {
                let frame = find(ask.group)?.answer_follow(from, ask).await?;
                reply.make_room(LargeAnswer::Feed, frame.encoded_len()).await?;
                AnswerBody::Followed(frame)
            }
            RequestBody::Attach(ask) => {
                find(ask.group)?.answer_attach(from, &ask)?;
                AnswerBody::Attached(proto::Attached {})
            }
            RequestBody::Pull(ask) => {
                AnswerBody::Pulled(find(ask.group)?.answer_pull(from, ask, reply).await?)
            }
            RequestBody::ReadRetained(ask) => {
                AnswerBody::RetainedRead(find(ask.group)?.answer_read_retained(ask, reply).await?)
            }
            RequestBody::Locate(ask) => AnswerBody::Located(find(ask.group)?.answer_locate(ask).await?),
            RequestBody::ReadDueWills(ask) => {
                AnswerBody::DueWillsRead(find(ask.group)?.answer_due_wills(ask).await?)
            }
            RequestBody::ReadReplays(ask) => {
                AnswerBody::ReplaysRead(find(ask.group)?.answer_read_replays(ask, reply).await?)
            }
            RequestBody::FindCrossing(ask) => {
                AnswerBody::CrossingFound(find(ask.group)?.answer_find_crossing(ask).await?)
            }
            _ => return None,
        })
    }

    fn answer_accuse(self: &Arc<Self>, from: NodeId, accuse: &proto::Accuse) -> AnswerBody {
        let accusation = Accusation {
            node: NodeId(accuse.node),
            incarnation: NodeIncarnation(accuse.incarnation),
            group: group_id(accuse.group),
            index: accuse.index,
        };
        match self.examine(from, accusation) {
            true => AnswerBody::Accused(proto::Accused {}),
            false => self.not_leader(META),
        }
    }

    fn not_leader(&self, group: GroupId) -> AnswerBody {
        let leader = self.leader_of(group).map_or(0, |leader| leader.0);
        AnswerBody::NotLeader(proto::NotLeader { leader })
    }

    async fn answer_propose(&self, propose: proto::Propose) -> AnswerBody {
        let group = group_id(propose.group);
        let proposed = match group {
            META => self.propose_meta_here(&propose.batch).await,
            group => match self.find_group(group) {
                Some(group) => group.propose_here(&propose.batch).await,
                None => Err(ProposeError::NotLeader { leader: None }),
            },
        };
        match proposed {
            Ok(Proposed {
                outcome,
                index,
                first_index,
            }) => {
                let mut outcomes = Vec::new();
                let refused = outcome == BatchOutcome::Refused;
                outcome.encode(&mut outcomes);
                AnswerBody::Proposed(proto::Proposed {
                    index,
                    refused,
                    outcomes: outcomes.into(),
                    first_index: first_index.unwrap_or(0),
                })
            }
            Err(ProposeError::TooLarge(_)) => AnswerBody::TooLarge(proto::TooLarge {}),
            Err(ProposeError::NotLeader { .. } | ProposeError::Fatal(_)) => self.not_leader(group),
            Err(ProposeError::Unknown) => AnswerBody::Unknown(proto::Unknown {}),
        }
    }

    async fn answer_read_index(&self, read: proto::ReadIndex) -> AnswerBody {
        let group = group_id(read.group);
        let index = match self.find_group(group) {
            Some(group) => group.read_index().await,
            None => None,
        };
        match index {
            Some(index) => AnswerBody::IndexRead(proto::IndexRead { index }),
            None => self.not_leader(group),
        }
    }

    /// Answers when this node knows everything up to the watermarks, and so routes by it, and what it matched before is where
    /// those find it who were not matched (R33).
    async fn answer_confirm(&self, confirm: proto::Confirm) -> Option<AnswerBody> {
        let mut groups = Vec::with_capacity(confirm.watermarks.len());
        for watermark in confirm.watermarks {
            groups.push((self.find_group(group_id(watermark.group))?, watermark.index));
        }
        join_all(groups.iter().map(|(group, index)| group.reached(*index))).await;
        if let Some((group, _)) = groups.first() {
            group.routes.crossings.pass().await;
        }
        Some(AnswerBody::Confirmed(proto::Confirmed {}))
    }
}

/// No group has the number that stands for what is none.
fn group_id(number: u32) -> GroupId {
    GroupId(u16::try_from(number).unwrap_or(u16::MAX))
}
