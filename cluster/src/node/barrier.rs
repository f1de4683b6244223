//! Reads that see everything that was committed before they began (R18).
//!
//! Whoever wants to read waits at the barrier. One round asks the leader how far the group has committed, waits until
//! this node has applied that much, and lets all pass who waited before it began; the next round takes those who came
//! meanwhile. From then on what this node has applied may be read: it is a beginning of the log that ends behind what
//! the reader has to see.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::puller::WaitingPull;
use super::{Group, Host};
use crate::state::SessionId;

/// Pause after a round that failed.
const RETRY: Duration = Duration::from_millis(10);

/// Who waits at a group's barrier.
#[derive(Debug, Default)]
pub(super) struct Barrier {
    waiting: Mutex<Waiting>,
    entered: Notify,
    /// Rounds that are over.
    over: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The newest of each session: those of earlier connections are answered to nobody.
    pulls: BTreeMap<SessionId, WaitingPull>,
    /// Somebody has a turn in the next round.
    is_entered: bool,
    /// Number of the next round.
    round: u64,
}

/// Stands for a reader at a barrier. Whoever has one may leave and come back.
#[derive(Clone, Copy, Debug)]
pub struct BarrierTurn(u64);

impl Barrier {
    /// A pull that is answered behind the barrier.
    pub(super) fn enter(&self, pull: WaitingPull) {
        self.waiting.lock().pulls.insert(pull.request.session, pull);
        self.entered.notify_one();
    }
}

impl<H: Host> Group<H> {
    /// Waits until this node has applied everything that was committed anywhere when this was called. Never returns
    /// where the group has no leader.
    pub async fn pass_barrier(&self) {
        self.barrier_passed(self.enter_barrier()).await;
    }

    /// Takes a turn at the barrier, which ends when this node has applied everything that was committed anywhere when this
    /// was called.
    pub fn enter_barrier(&self) -> BarrierTurn {
        let round = {
            let mut waiting = self.barrier.waiting.lock();
            waiting.is_entered = true;
            waiting.round
        };
        self.barrier.entered.notify_one();
        BarrierTurn(round)
    }

    /// Waits for the end of a turn, for ever where the group has no leader.
    pub async fn barrier_passed(&self, turn: BarrierTurn) {
        let mut over = self.barrier.over.subscribe();
        let passed = over.wait_for(|over| *over > turn.0).await;
        debug_assert!(passed.is_ok(), "the group has the sender");
    }

    /// The barrier's task.
    pub(super) async fn run_barrier(self: Arc<Self>) {
        loop {
            let (is_entered, round, pulls) = {
                let mut waiting = self.barrier.waiting.lock();
                let pulls = std::mem::take(&mut waiting.pulls);
                let is_entered = std::mem::take(&mut waiting.is_entered) || !pulls.is_empty();
                waiting.round += u64::from(is_entered);
                (is_entered, waiting.round, pulls)
            };
            if !is_entered {
                self.barrier.entered.notified().await;
                continue;
            }
            while !self.catch_up().await {
                tokio::time::sleep(RETRY).await;
            }
            self.barrier.over.send_replace(round);
            if !pulls.is_empty() {
                self.pulls.lock().extend(pulls.into_values());
                self.attend.notify_one();
            }
        }
    }

    /// One round; false where nobody could say how far the group has committed.
    async fn catch_up(&self) -> bool {
        let Some(index) = self.ask_leader_for_index().await else {
            return false;
        };
        self.reached(index).await;
        true
    }

    /// How far the group has committed, by its leader as soon as there is one; `None` where that one cannot show that it
    /// leads.
    pub(super) async fn ask_leader_for_index(&self) -> Option<u64> {
        let Ok(leader) = self.leader().await else {
            // The replica has stopped, which ends the node.
            return std::future::pending().await;
        };
        if leader == self.settings.node {
            return self.read_index().await;
        }
        tokio::select! {
            index = self.peers.read_index(leader, self.id()) => index.ok(),
            () = self.leader_other_than(leader) => None,
        }
    }

    /// How far the group has committed, if this node leads it and can show that.
    pub(super) async fn read_index(&self) -> Option<u64> {
        self.replica()?.ensure_linearizable().await.ok()
    }
}
