//! What a node answers to its peers beside Raft.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::wire::AnswerBody;
use super::wire::proto::Answer;
use crate::state::{NodeId, NodeIncarnation};

/// A start of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerStart {
    /// The node.
    pub node: NodeId,
    /// Its start.
    pub incarnation: NodeIncarnation,
}

/// Answers the requests of peers that are not Raft's.
pub trait Service: Send + Sync + 'static {
    /// A request of one connection, in the order they were sent. Must not block; the answer can be given later, and
    /// in any order.
    fn handle(&self, from: PeerStart, request: Bytes, reply: Reply);
}

/// Takes the answer to one request. Dropped, it says that there is none.
pub struct Reply {
    number: u64,
    answers: Option<mpsc::UnboundedSender<Answer>>,
}

impl Reply {
    pub(super) fn new(number: u64, answers: mpsc::UnboundedSender<Answer>) -> Self {
        Self {
            number,
            answers: Some(answers),
        }
    }

    /// Answers.
    pub fn send(mut self, answer: Bytes) {
        self.finish(AnswerBody::Service(answer));
    }

    fn finish(&mut self, body: AnswerBody) {
        if let Some(answers) = self.answers.take() {
            // Where the connection is gone its peer knows that there is no answer.
            drop(answers.send(Answer {
                number: self.number,
                body: Some(body),
            }));
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.finish(AnswerBody::Unavailable("not answered".to_owned()));
    }
}
