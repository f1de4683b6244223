//! What the leader of a group drops from time to time because nobody will ever take it.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::time::Duration;

use futures_util::future::join_all;
use quorate_storage::log::GroupId;

use super::puller::SLOT_SIZE;
use super::{Group, Host, Node, Placement};
use crate::state::{Command, Sequence, TargetQueue};

/// Expired references dropped from a queue at once.
const EXPIRED_BATCH: usize = 10_000;
/// Queues dropped by one command: their names together stay below what an entry holds.
const DROP_BATCH: usize = 100;
/// How long the home groups of queues may take to say what they know; those that do not are asked the next time.
const HOMES_MAX: Duration = Duration::from_secs(5);

impl<H: Host> Node<H> {
    /// The task that keeps the queues of the groups that this node leads clean.
    pub(super) async fn run_upkeep(node: Weak<Self>, interval: Duration) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let Some(node) = node.upgrade() else { return };
            for group in Placement::queue_groups() {
                let group = node.group(group);
                if group.leads() {
                    group.drop_expired();
                    // What was given while the view changed.
                    group.share_starts_lost();
                    node.drop_unknown_queues(group).await;
                }
                group.forget_sent();
                group.forget_shares();
            }
        }
    }

    /// Drops the queues of sessions that have ended and of shares without member (R17): their home is another group, which
    /// cannot touch them.
    ///
    /// What this node knows of the homes may be old, or nothing while it starts. So it asks them first how far they are:
    /// a queue whose owner it does not know after that has none. An owner that comes later gets what is published from
    /// then on, which the sequence shows.
    pub(super) async fn drop_unknown_queues(&self, group: &Group<H>) {
        if !self.membership.lease.is_held() {
            return;
        }
        let unknown = self.unknown_queues(group);
        let asked: BTreeSet<GroupId> = unknown.iter().flat_map(|(queue, _)| homes(queue)).collect();
        let asked = asked.into_iter().filter_map(|home| self.find_group(home));
        let passed = asked.map(|home| async move {
            let passing = home.pass_barrier();
            let passed = tokio::time::timeout(HOMES_MAX, passing).await;
            passed.is_ok().then_some(home.id())
        });
        let passed: BTreeSet<GroupId> = join_all(passed).await.into_iter().flatten().collect();
        let still_unknown = unknown.into_iter().filter(|(queue, _)| {
            homes(queue).all(|home| passed.contains(&home)) && !self.host().queue_is_known(queue)
        });
        let queues: Vec<(TargetQueue, Sequence)> = still_unknown.collect();
        for queues in queues.chunks(DROP_BATCH) {
            let queues = queues.to_vec();
            group.propose(&Command::DropQueues { queues }, None);
        }
    }

    fn unknown_queues(&self, group: &Group<H>) -> Vec<(TargetQueue, Sequence)> {
        let mut queues: Vec<(TargetQueue, Sequence)> = {
            let state = group.state();
            state.queues().map(|view| (view.queue, view.next)).collect()
        };
        queues.retain(|(queue, _)| !self.host().queue_is_known(queue));
        queues
    }
}

/// The groups that know the owners of a queue.
fn homes(queue: &TargetQueue) -> impl Iterator<Item = GroupId> {
    let (one, all) = match queue {
        TargetQueue::Session(session) => (Some(session.home()), false),
        TargetQueue::Share(_) => (None, true),
        TargetQueue::Node(..) => (None, false),
    };
    let all = Placement::groups().filter(move |group| all && Placement::has_sessions(*group));
    one.into_iter().chain(all)
}

impl<H: Host> Group<H> {
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
}
