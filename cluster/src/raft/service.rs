//! What a node answers to its peers beside Raft.

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::answers::{Answers, Held};
use super::wire::AnswerBody;
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

/// Kinds of answers that can be large. Of each only so much waits to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LargeAnswer {
    /// Something that was read for the peer.
    Read,
    /// What the peer follows: not to wait behind what it reads.
    Feed,
}

/// Takes the answer to one request. Dropped, it says that there is none.
pub struct Reply {
    number: u64,
    answers: Option<Answers>,
    room: Option<OwnedSemaphorePermit>,
    _held: Held,
}

impl Reply {
    pub(super) fn new(number: u64, answers: Answers, held: Held) -> Self {
        Self {
            number,
            answers: Some(answers),
            room: None,
            _held: held,
        }
    }

    /// Waits until an answer of so many bytes may be made: others are sent first. `None` where the connection is gone.
    pub async fn make_room(&mut self, kind: LargeAnswer, bytes: usize) -> Option<()> {
        self.room = None;
        self.room = Some(self.answers.as_ref()?.room(kind, bytes).await?);
        Some(())
    }

    /// Answers.
    pub fn send(mut self, answer: Bytes) {
        self.finish(AnswerBody::Service(answer));
    }

    fn finish(&mut self, body: AnswerBody) {
        if let Some(answers) = self.answers.take() {
            answers.send(self.number, body, self.room.take());
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.finish(AnswerBody::Unavailable("not answered".to_owned()));
    }
}
