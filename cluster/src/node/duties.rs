//! What the leader of a group does beyond answering: ticks when a deadline passes, publishes wills that are due,
//! carries retained writes to their topics' groups.
//!
//! Every duty is repeatable: its input stands in the replicated state until an entry says it is done, so a new leader
//! goes on where the old one stopped.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use quorate_proto::codec::QoS;

use super::{Completion, Group, GroupKind, Host, Node, Placement};
use crate::state::{
    Command, DueWill, Origin, OutboxWrite, Outcome, PublishCommand, RefusedReason, RetainedSource, Sequence,
    TargetQueue,
};

/// Retained writes carried at once.
const OUTBOX_BATCH: usize = 256;

/// Expired references dropped from a queue at once.
const EXPIRED_BATCH: usize = 10_000;
/// Queues dropped by one command: their names together stay below what an entry holds.
const DROP_BATCH: usize = 100;
/// References that a connection of an earlier start of the node may have been sent.
const WINDOW_MAX: u64 = 100;

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
    /// The attendant's task.
    pub(super) async fn run_attendant(self: Arc<Self>, node: Weak<Node<H>>) {
        loop {
            let deadline = self.state().next_deadline();
            match deadline {
                None => self.attend.notified().await,
                Some(deadline) => {
                    let wait = self.clock().until(deadline);
                    // A wake-up before the deadline only means another look.
                    let _ = tokio::time::timeout(wait, self.attend.notified()).await;
                }
            }
            let Some(node) = node.upgrade() else { return };
            self.answer_pulls();
            if !self.do_duties(&node).await {
                return;
            }
        }
    }

    async fn do_duties(self: &Arc<Self>, node: &Node<H>) -> bool {
        let due = self
            .state()
            .next_deadline()
            .is_some_and(|deadline| deadline <= self.now());
        if due && !self.tick().await {
            return false;
        }
        self.dispatch_shares();
        self.publish_due_wills(node).await;
        self.carry_retained(node).await;
        true
    }

    /// Drops queued messages whose lifetime has ended, beyond what a connection may have been sent (R22, R23), so that
    /// an absent session's queue does not stay full of them.
    pub(super) fn drop_expired(&self) {
        let queues: Vec<(TargetQueue, Sequence)> = {
            let state = self.state();
            let filled = state.queues().filter(|view| view.len > 0);
            filled
                .filter_map(|view| Some((view.queue, view.oldest?)))
                .collect()
        };
        for (queue, oldest) in queues {
            let unsent = match &queue {
                TargetQueue::Session(session) => self.sent.lock().get(session).copied(),
                TargetQueue::Share(share) => Some(self.shares.lock().next(share)),
            };
            let sequences = self.state().expired(
                &queue,
                unsent.unwrap_or(Sequence(oldest.0 + WINDOW_MAX)),
                EXPIRED_BATCH,
            );
            if !sequences.is_empty() {
                self.propose(&Command::Settle { queue, sequences }, None);
            }
        }
    }

    /// Drops the queues of sessions that have ended and of shares without member (R17): their home is another
    /// group, which cannot touch them.
    pub(super) fn drop_unknown_queues(&self) {
        let queues: Vec<TargetQueue> = self.state().queues().map(|view| view.queue).collect();
        let unknown: Vec<TargetQueue> = queues
            .into_iter()
            .filter(|queue| !self.host.queue_is_known(queue))
            .collect();
        for queues in unknown.chunks(DROP_BATCH) {
            let queues = queues.to_vec();
            self.propose(&Command::DropQueues { queues }, None);
        }
    }

    async fn publish_due_wills(&self, node: &Node<H>) {
        let due: Vec<DueWill> = self.state().due_wills().collect();
        for will in due {
            self.publish_will(node, will).await;
        }
    }

    async fn publish_will(&self, node: &Node<H>, due: DueWill) {
        let DueWill {
            session,
            epoch,
            message,
        } = due;
        let home = match Placement::kind(self.id()) {
            GroupKind::Data => self.id(),
            GroupKind::Live => Placement::data_of_topic(message.topic()),
        };
        let origin = if home == self.id() {
            Origin::Will { session, epoch }
        } else {
            Origin::Server
        };
        let targets = if message.qos == QoS::AtMostOnce {
            Vec::new()
        } else {
            self.host.durable_targets(&message)
        };
        // A live group cannot hold messages; its will leaves nothing behind in the home group where nobody needs it.
        if home == self.id() || !targets.is_empty() || message.retain {
            let publish = PublishCommand {
                origin,
                set_retained: message.retain,
                taken_live: false,
                message: message.clone(),
                targets,
            };
            if !matches!(
                node.group(home)
                    .propose_and_wait(&Command::Publish(publish))
                    .await,
                Completion::Applied(Outcome::Published { .. })
            ) {
                return;
            }
        }
        self.host.deliver_will(&Arc::new(message));
        if home != self.id() {
            self.propose_and_wait(&Command::WillPublished { session, epoch })
                .await;
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
