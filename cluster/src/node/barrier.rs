//! Reads that see everything that was committed before they began (R18).
//!
//! Whoever wants to read waits at the barrier. One round asks the leader how far the group has committed, waits until
//! this node has applied that much, and lets all pass who waited before it began; the next round takes those who came
//! meanwhile. From then on what this node has applied may be read: it is a beginning of the log that ends behind what
//! the reader has to see.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::puller::WaitingPull;
use super::{Group, Host};

/// Pause after a round that failed.
const RETRY: Duration = Duration::from_millis(10);
/// Tasks among which those that have gone are not looked for.
const TASKS_MIN: usize = 64;

/// Who waits at a group's barrier.
#[derive(Debug, Default)]
pub(super) struct Barrier {
    waiting: Mutex<Waiting>,
    entered: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    pulls: Vec<WaitingPull>,
    tasks: Vec<oneshot::Sender<()>>,
    /// With so many tasks those that have gone are looked for.
    tidy_at: usize,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.pulls.is_empty() && self.tasks.is_empty()
    }

    /// A task that waits. Those that do so no more are forgotten at times: without a leader none would ever go.
    fn push_task(&mut self, passed: oneshot::Sender<()>) {
        if self.tasks.len() >= self.tidy_at {
            self.tasks.retain(|task| !task.is_closed());
            self.tidy_at = TASKS_MIN.max(2 * self.tasks.len());
        }
        self.tasks.push(passed);
    }
}

impl Barrier {
    /// A pull that is answered behind the barrier.
    pub(super) fn enter(&self, pull: WaitingPull) {
        self.waiting.lock().pulls.push(pull);
        self.entered.notify_one();
    }
}

impl<H: Host> Group<H> {
    /// Waits until this node has applied everything that was committed anywhere when this was called. Never returns
    /// where the group has no leader.
    pub async fn pass_barrier(&self) {
        let (passed, passing) = oneshot::channel();
        self.barrier.waiting.lock().push_task(passed);
        self.barrier.entered.notify_one();
        if passing.await.is_err() {
            // The node is going down.
            std::future::pending::<()>().await;
        }
    }

    /// The barrier's task.
    pub(super) async fn run_barrier(self: Arc<Self>) {
        loop {
            let waiting = std::mem::take(&mut *self.barrier.waiting.lock());
            if waiting.is_empty() {
                self.barrier.entered.notified().await;
                continue;
            }
            while !self.catch_up().await {
                tokio::time::sleep(RETRY).await;
            }
            for task in waiting.tasks {
                // Who waited may have gone.
                let _ = task.send(());
            }
            if !waiting.pulls.is_empty() {
                self.pulls.lock().extend(waiting.pulls);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r36_who_waits_no_more_is_forgotten_although_the_group_has_no_leader() {
        let mut waiting = Waiting::default();
        let mut stay = Vec::new();
        for number in 0..100 * TASKS_MIN {
            let (passed, passing) = oneshot::channel();
            waiting.push_task(passed);
            if number % TASKS_MIN == 0 {
                stay.push(passing);
            }
        }
        let open = waiting.tasks.iter().filter(|task| !task.is_closed()).count();
        assert_eq!(open, stay.len());
        assert!(waiting.tasks.len() <= 2 * stay.len() + TASKS_MIN);
    }
}
