//! What happens to a group's state by itself: the leader ticks when a deadline passes, and drops what nobody will ever
//! take.
//!
//! Every duty is repeatable: its input stands in the replicated state until an entry says it is done, so a new leader
//! goes on where the old one stopped. Each that waits for entries has a task of its own ([`wills`](super::wills),
//! [`retained`](super::retained) too): none holds up another, or the answers that connections wait for.

use std::sync::Arc;

use super::puller::SLOT_SIZE;
use super::{Group, Host};
use crate::raft::RaftGroup;
use crate::state::{Command, NodeId, NodeIncarnation, Sequence, TargetQueue};

/// Expired references dropped from a queue at once.
const EXPIRED_BATCH: usize = 10_000;
/// Queues dropped by one command: their names together stay below what an entry holds.
const DROP_BATCH: usize = 100;

impl<H: Host> Group<H> {
    /// The task that wakes the duties of the leader when this node has come to lead. Ends with the replica.
    pub(super) async fn run_leadership(self: Arc<Self>, replica: RaftGroup) {
        let mut changes = replica.changes();
        let mut leads = false;
        loop {
            let led = std::mem::replace(&mut leads, replica.is_leader());
            if leads != led {
                tracing::debug!(group = self.id().0, leads, "leadership has changed");
                self.begin_dispatch(leads);
                self.retained_waits.lock().leader_changed();
                self.deadline_changed.notify_one();
                self.will_due.notify_one();
                self.outbox_filled.notify_one();
                self.attend.notify_one();
            }
            self.feeds.wake_all();
            if !changes.changed().await {
                return;
            }
        }
    }

    /// Proposes the end of a node's starts up to this one, where it was not applied yet.
    pub(super) fn end_start(&self, node: NodeId, incarnation: NodeIncarnation) {
        let mut ended = self.ended.lock();
        let asked = ended.get(&node).is_some_and(|asked| *asked >= incarnation);
        if asked || self.state().is_lost(node, incarnation) {
            return;
        }
        ended.insert(node, incarnation);
        drop(ended);
        self.propose(&Command::NodeLost { node, incarnation }, None);
    }

    /// The task that lets time pass: proposes a tick when a deadline has come.
    pub(super) async fn run_timers(self: Arc<Self>) {
        loop {
            let deadline = self.state().next_deadline();
            match deadline {
                Some(_) if !self.leads() => self.deadline_changed.notified().await,
                None => self.deadline_changed.notified().await,
                Some(deadline) if deadline <= self.now() => {
                    if !self.tick().await {
                        return;
                    }
                }
                Some(deadline) => {
                    let wait = self.clock().until(deadline);
                    // A wake-up before the deadline only means another look.
                    let _ = tokio::time::timeout(wait, self.deadline_changed.notified()).await;
                }
            }
        }
    }

    /// Drops queued messages whose lifetime has ended, beyond what a connection may have been sent (R22, R23), so that
    /// an absent session's queue does not stay full of them.
    ///
    /// What this start of the node handed out is known. Of what came before it, an earlier connection may have been
    /// sent anything within the identifier window, whatever the client acknowledged of it: the identifier of a QoS 2
    /// message that is dropped there would be used for another, which the client takes for a repeat.
    pub(super) fn drop_expired(&self) {
        let queues: Vec<TargetQueue> = {
            let state = self.state();
            let filled = state.queues().filter(|view| view.len > 0);
            filled.map(|view| view.queue).collect()
        };
        let started = self.clock().started();
        for queue in queues {
            let sent = match &queue {
                TargetQueue::Session(session) => self.sent.lock().get(session).copied(),
                TargetQueue::Share(share) => Some(self.shares.lock().next(share)),
                // What a node has of its queue it has delivered.
                TargetQueue::Node(..) => continue,
            };
            let sent = sent.unwrap_or_default();
            let state = self.state();
            let window_end = match (&queue, state.oldest_unsettled(&queue)) {
                (TargetQueue::Session(_), Some(oldest)) => Sequence(oldest.0 + SLOT_SIZE),
                // A member's connection takes identifiers of its own, and they end with it.
                _ => Sequence(0),
            };
            // What other nodes have handed out is not known here.
            let is_known = self.routes.was_always_alone();
            let unsent = |sequence, received_at| {
                sequence >= sent && ((is_known && received_at > started) || sequence >= window_end)
            };
            let sequences = state.expired(&queue, unsent, EXPIRED_BATCH);
            drop(state);
            if !sequences.is_empty() {
                self.propose(&Command::Settle { queue, sequences }, None);
            }
        }
    }

    /// Drops the queues of sessions that have ended and of shares without member (R17): their home is another
    /// group, which cannot touch them.
    pub(super) fn drop_unknown_queues(&self) {
        let queues: Vec<(TargetQueue, Sequence)> = {
            let state = self.state();
            state.queues().map(|view| (view.queue, view.next)).collect()
        };
        // An owner that comes after this look gets what is published from then on: the sequence shows it.
        let unknown: Vec<(TargetQueue, Sequence)> = queues
            .into_iter()
            .filter(|(queue, _)| !self.host.queue_is_known(queue))
            .collect();
        for queues in unknown.chunks(DROP_BATCH) {
            let queues = queues.to_vec();
            self.propose(&Command::DropQueues { queues }, None);
        }
    }
}
