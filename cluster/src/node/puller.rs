//! Answers pulls: references of a session's queue for the connection that owns the session (R29).
//!
//! A pull that finds nothing but references whose identifiers may still be in use (R22) is answered with none, and says so;
//! the connection is told when the oldest reference is settled.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::group::Standing;
use super::{Group, Host, Location, References};
use crate::state::{PulledReference, Sequence, SessionId, TargetQueue};

/// Identifiers per slot: a reference is sent only within this many of the oldest unsettled one (R22).
pub const SLOT_SIZE: u64 = 3_640;
/// References taken from the node's own queue at once.
pub(super) const NODE_PULL_COUNT: usize = 256;
/// Bytes in one answer, unless a single message is larger.
const PULL_BYTES_MAX: u64 = 256 * 1024;

/// A connection asks for references of its session's queue.
#[derive(Clone, Copy, Debug)]
pub struct PullRequest {
    /// The session.
    pub session: SessionId,
    /// The connection.
    pub location: Location,
    /// From this position on.
    pub from: Sequence,
    /// At most this many.
    pub count_max: u32,
}

/// A request and what must have happened before it is answered.
#[derive(Debug)]
pub(super) struct WaitingPull {
    pub(super) request: PullRequest,
    /// The outcomes of so many commands are known.
    pub(super) after: u64,
    /// Then, everything that is committed is applied here.
    pub(super) is_first: bool,
}

/// A piece of a queue.
#[derive(Debug)]
pub(super) struct PulledPart {
    pub(super) references: Vec<PulledReference>,
    /// What the references' messages count, those that have to be read from the disk too.
    pub(super) bytes: u64,
    /// Where the next reference will come.
    pub(super) end: Sequence,
    /// The oldest reference, where the identifier window has left all that was found.
    pub(super) stopped_at: Option<Sequence>,
}

impl<H: Host> Group<H> {
    pub(super) fn answer_pulls(self: &Arc<Self>) {
        let ready: Vec<WaitingPull> = {
            let mut pulls = self.pulls.lock();
            // Under the lock, which the proposer takes after it counted: what waits for later commands is looked at
            // again.
            let known = self.proposals.known();
            pulls.extract_if(.., |pull| pull.after <= known).collect()
        };
        for pull in ready {
            if pull.is_first {
                let is_first = false;
                self.barrier.enter(WaitingPull { is_first, ..pull });
                continue;
            }
            if self.standing() == Standing::Replica {
                let queue = TargetQueue::Session(pull.request.session);
                let count_max = pull.request.count_max as usize;
                let part = self.pull_part(&queue, pull.request.from, count_max, true);
                self.hand_over_pulled(self.finish_pull(&pull.request, part));
            } else {
                tokio::spawn(self.clone().pull_elsewhere(pull.request));
            }
        }
    }

    /// Takes what came to this node's own queue (R11): its live subscribers get it, and the group forgets it.
    pub(super) fn take_node_messages(self: &Arc<Self>) {
        if self.standing() != Standing::Replica {
            if !self.takes_node_messages.swap(true, Ordering::AcqRel) {
                let group = self.clone();
                tokio::spawn(async move {
                    group.take_node_messages_elsewhere().await;
                    group.takes_node_messages.store(false, Ordering::Release);
                    // What came after the last look.
                    if group.following.queue_len(&group.node_queue()) > 0 {
                        group.attend.notify_one();
                    }
                });
            }
            return;
        }
        loop {
            let from = *self.node_taken.lock();
            let mut references = Vec::new();
            self.state().pull(
                &self.node_queue(),
                from,
                NODE_PULL_COUNT,
                PULL_BYTES_MAX,
                &mut references,
            );
            if references.is_empty() {
                return;
            }
            self.hand_on_node_messages(references);
        }
    }

    pub(super) fn node_queue(&self) -> TargetQueue {
        TargetQueue::Node(self.settings.node, self.settings.incarnation)
    }

    /// Hands messages of this node's own queue to its live subscribers, once.
    pub(super) fn hand_on_node_messages(&self, mut references: Vec<PulledReference>) {
        let mut taken = self.node_taken.lock();
        references.retain(|reference| reference.sequence >= *taken);
        let Some(last) = references.last() else { return };
        *taken = Sequence(last.sequence.0 + 1);
        drop(taken);
        self.hand_over_to_node(references);
    }

    /// References of a queue as far as its identifier window goes, from this node's replica. `is_here`: the session's
    /// connection is, and is told when a window that has stopped it moves.
    pub(super) fn pull_part(
        &self,
        queue: &TargetQueue,
        from: Sequence,
        count_max: usize,
        is_here: bool,
    ) -> PulledPart {
        let state = self.state();
        let mut references = Vec::new();
        let bytes = state.pull(queue, from, count_max, PULL_BYTES_MAX, &mut references);
        let end = state.next_sequence(queue).unwrap_or_default();
        let mut stopped_at = None;
        if let (TargetQueue::Session(session), Some(oldest)) = (queue, state.oldest_unsettled(queue)) {
            let found = references.len();
            references.retain(|reference| reference.sequence.0 < oldest.0 + SLOT_SIZE);
            if references.is_empty() && found > 0 {
                stopped_at = Some(oldest);
                if is_here {
                    // Before apply can settle the oldest.
                    self.stopped.lock().insert(*session, oldest);
                }
            }
        }
        PulledPart {
            references,
            bytes,
            end,
            stopped_at,
        }
    }

    /// The answer for the connection.
    pub(super) fn finish_pull(&self, request: &PullRequest, part: PulledPart) -> References {
        let PulledPart {
            references,
            end,
            stopped_at,
            ..
        } = part;
        let next = references
            .last()
            .map_or(request.from, |last| Sequence(last.sequence.0 + 1));
        let sent_before = self.note_sent(request.session, next);
        let now = self.now();
        References {
            location: request.location,
            group: self.id(),
            more: !references.is_empty() && next < end,
            window_stopped: stopped_at.is_some(),
            references,
            next,
            sent_before,
            // What other nodes have handed out is not known here: then the session has to tell.
            started: match self.routes.was_always_alone() {
                true => self.clock().started(),
                false => now,
            },
            now,
        }
    }

    /// References left a session's queue: tells its connection to pull again where the identifier window stopped it
    /// and has moved since.
    pub(super) fn window_may_have_moved(&self, session: SessionId) {
        let Some(oldest) = self.stopped.lock().get(&session).copied() else {
            return;
        };
        let queue = TargetQueue::Session(session);
        // Where the queue is elsewhere it is looked at there.
        if self.standing() != Standing::Replica || self.state().oldest_unsettled(&queue) != Some(oldest) {
            self.stopped.lock().remove(&session);
            self.host.handle_pending(self.id(), session);
        }
    }

    /// Forgets what was handed out of queues that hold nothing: what comes to them has later positions.
    pub(super) fn forget_sent(&self) {
        let mut sent = self.sent.lock();
        sent.retain(|session, _| self.queue_len(&TargetQueue::Session(*session)) > 0);
        let len = sent.len();
        sent.shrink_to(2 * len);
    }

    /// Remembers what was handed out, so that a later connection marks it as sent before; answers the mark until now.
    fn note_sent(&self, session: SessionId, next: Sequence) -> Sequence {
        let mut sent = self.sent.lock();
        let mark = sent.entry(session).or_default();
        let before = *mark;
        *mark = before.max(next);
        before
    }
}
