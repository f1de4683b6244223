//! Carries retained writes from their publishers' home group, where they stand in the outbox, to their topics' groups
//! (R33, R35), and holds the publishers' acknowledgements until then.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use super::{Completion, Group, Host, Node, Placement};
use crate::state::{Command, OutboxWrite, Outcome, RefusedReason, RetainedSource};

/// Retained writes carried at once.
const OUTBOX_BATCH: usize = 256;

/// Publishers of retained messages that wait for the topic's group.
#[derive(Debug)]
pub(super) struct RetainedWaits<T> {
    waiting: VecDeque<(RetainedSource, T, Completion)>,
    taken: Option<RetainedSource>,
}

impl<T> Default for RetainedWaits<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            taken: None,
        }
    }
}

impl<H: Host> Group<H> {
    /// The task that carries retained writes.
    pub(super) async fn run_outbox(self: Arc<Self>, node: Weak<Node<H>>) {
        loop {
            let Some(node) = node.upgrade() else { return };
            self.carry_retained(&node).await;
            drop(node);
            self.outbox_filled.notified().await;
        }
    }

    /// Completes `ticket` once everything that is in the outbox now has been taken.
    pub(super) fn wait_for_retained(&self, ticket: H::Ticket, completion: Completion) {
        let mut waits = self.retained_waits.lock();
        match self.state().outbox_last() {
            Some(source) if waits.taken < Some(source) => {
                waits.waiting.push_back((source, ticket, completion))
            }
            _ => {
                drop(waits);
                self.host.complete(vec![(ticket, completion)]);
            }
        }
    }

    async fn carry_retained(&self, node: &Node<H>) {
        loop {
            let after = self.retained_waits.lock().taken;
            let writes = self.state().outbox(after, OUTBOX_BATCH);
            let Some(last) = writes.last().map(|write| write.source) else {
                return;
            };
            let mut refused = Vec::new();
            for (source, completion) in self.propose_retained_writes(node, writes).await {
                let limit_reached = Completion::Applied(Outcome::Refused(RefusedReason::LimitReached));
                if completion == limit_reached || completion == Completion::TooLarge {
                    refused.push(source);
                }
            }
            self.propose(&Command::RetainedTaken { up_to: last }, None);
            self.complete_retained(last, &refused);
        }
    }

    async fn propose_retained_writes(
        &self,
        node: &Node<H>,
        writes: Vec<OutboxWrite>,
    ) -> Vec<(RetainedSource, Completion)> {
        let mut answers = Vec::with_capacity(writes.len());
        for write in writes {
            let OutboxWrite { source, message, .. } = write;
            let topic_group = node.group(Placement::data_of_topic(message.topic())).clone();
            let command = Command::SetRetained {
                source,
                message,
                messages_max: self.settings.retained_messages_max,
                bytes_max: self.settings.retained_bytes_max,
            };
            answers.push((source, topic_group.submit(&command)));
        }
        let mut completions = Vec::with_capacity(answers.len());
        for (source, answer) in answers {
            completions.push((source, answer.await.unwrap_or(Completion::Refused)));
        }
        completions
    }

    fn complete_retained(&self, taken: RetainedSource, refused: &[RetainedSource]) {
        let mut waits = self.retained_waits.lock();
        waits.taken = Some(taken);
        let mut completions = Vec::new();
        while waits.waiting.front().is_some_and(|(source, ..)| *source <= taken) {
            let Some((source, ticket, completion)) = waits.waiting.pop_front() else {
                break;
            };
            let stored_nowhere = matches!(
                completion,
                Completion::Applied(Outcome::Published { stored: 0, .. })
            );
            // R13: a negative answer only where it is final that nothing holds the message.
            let completion = if refused.contains(&source) && stored_nowhere {
                Completion::Applied(Outcome::Refused(RefusedReason::LimitReached))
            } else {
                completion
            };
            completions.push((ticket, completion));
        }
        drop(waits);
        if !completions.is_empty() {
            self.host.complete(completions);
        }
    }
}
