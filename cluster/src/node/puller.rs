//! Answers pulls: references of a session's queue for the connection that owns the session (R29).

use std::sync::Arc;

use super::{Group, Host, Location, References};
use crate::state::{Sequence, SessionId, TargetQueue};

/// Identifiers per slot: a reference is sent only within this many of the oldest unsettled one (R22).
const SLOT_SIZE: u64 = 3_855;
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

/// A request and the number of commands whose outcome must be known before it is answered.
#[derive(Debug)]
pub(super) struct WaitingPull {
    pub(super) request: PullRequest,
    pub(super) after: u64,
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
            let references = self.answer_pull(&pull.request);
            self.host.handle_references(references);
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
        let window_end = state
            .oldest_unsettled(&queue)
            .map(|oldest| Sequence(oldest.0 + SLOT_SIZE));
        let end = state.next_sequence(&queue).unwrap_or_default();
        drop(state);
        if let Some(window_end) = window_end {
            references.retain(|reference| reference.sequence < window_end);
        }
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
            started: self.clock().started(),
            now,
        }
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
