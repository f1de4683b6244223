//! Answers pulls: references of a session's queue for the connection that owns the session (R29).
//!
//! A pull that finds nothing but references whose identifiers may still be in use (R22) is answered as if there were
//! nothing; the connection is told when the oldest reference is settled.

use std::sync::Arc;

use super::{Group, Host, Location, References};
use crate::state::{Sequence, SessionId, TargetQueue};

/// Identifiers per slot: a reference is sent only within this many of the oldest unsettled one (R22).
pub const SLOT_SIZE: u64 = 3_640;
/// References taken from the node's own queue at once.
const NODE_PULL_COUNT: usize = 256;
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
            let references = self.answer_pull(&pull.request);
            self.hand_over_pulled(references);
        }
    }

    /// Takes what came to this node's own queue (R11): its live subscribers get it, and the group forgets it.
    pub(super) fn take_node_messages(&self) {
        let queue = TargetQueue::Node(self.settings.node, self.settings.incarnation);
        let mut taken = self.node_taken.lock();
        loop {
            let mut references = Vec::new();
            self.state()
                .pull(&queue, *taken, NODE_PULL_COUNT, PULL_BYTES_MAX, &mut references);
            let Some(last) = references.last() else { return };
            *taken = Sequence(last.sequence.0 + 1);
            self.hand_over_to_node(references);
        }
    }

    fn answer_pull(&self, request: &PullRequest) -> References {
        let queue = TargetQueue::Session(request.session);
        let now = self.now();
        let state = self.state();
        let mut references = Vec::new();
        state.pull(
            &queue,
            request.from,
            request.count_max as usize,
            PULL_BYTES_MAX,
            &mut references,
        );
        let end = state.next_sequence(&queue).unwrap_or_default();
        if let Some(oldest) = state.oldest_unsettled(&queue) {
            let found = references.len();
            references.retain(|reference| reference.sequence.0 < oldest.0 + SLOT_SIZE);
            if references.is_empty() && found > 0 {
                // Before apply can settle the oldest.
                self.stopped.lock().insert(request.session, oldest);
            }
        }
        drop(state);
        let next = references
            .last()
            .map_or(request.from, |last| Sequence(last.sequence.0 + 1));
        let sent_before = self.note_sent(request.session, next);
        References {
            location: request.location,
            group: self.id(),
            more: !references.is_empty() && next < end,
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
        if self.state().oldest_unsettled(&queue) != Some(oldest) {
            self.stopped.lock().remove(&session);
            self.host.handle_pending(self.id(), session);
        }
    }

    /// Forgets what was handed out of queues that hold nothing: what comes to them has later positions.
    pub(super) fn forget_sent(&self) {
        let mut sent = self.sent.lock();
        sent.retain(|session, _| self.state().queue_len(&TargetQueue::Session(*session)) > 0);
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
