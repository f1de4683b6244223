//! What happens to a group's state by itself: the leader ticks when a deadline passes.
//!
//! Every duty is repeatable: its input stands in the replicated state until an entry says it is done, so a new leader
//! goes on where the old one stopped. Each that waits for entries has a task of its own ([`wills`](super::wills),
//! [`retained`](super::retained) too): none holds up another, or the answers that connections wait for.

use std::sync::Arc;

use super::group::Standing;
use super::{Group, Host};
use crate::raft::RaftGroup;
use crate::state::{Command, NodeId, NodeIncarnation};

impl<H: Host> Group<H> {
    /// The task that wakes the duties of the leader when this node has come to lead. Ends with the replica.
    pub(super) async fn run_leadership(self: Arc<Self>, replica: RaftGroup) {
        let mut changes = replica.changes();
        let mut standing = self.watch_standing();
        // The term in which this node leads. It may have led in another one just before.
        let mut leads = None;
        loop {
            // A replica that another one still tells this node of has no duties yet.
            let stands = *standing.borrow_and_update() == Standing::Replica;
            let led = std::mem::replace(&mut leads, replica.led_term().filter(|_| stands));
            if leads != led {
                tracing::debug!(group = self.id().0, term = leads, "leadership has changed");
                self.begin_dispatch(leads);
                self.deadline_changed.notify_one();
                self.will_due.notify_one();
                self.outbox_filled.notify_one();
                self.attend.notify_one();
            }
            self.feeds.wake_all();
            tokio::select! {
                goes_on = changes.changed() => if !goes_on {
                    return;
                },
                // The sender lives as long as the group.
                _ = standing.changed() => {}
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
}
