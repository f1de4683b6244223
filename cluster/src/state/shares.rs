//! The queues of shared subscriptions.
//!
//! Unlike a session's incarnation a share comes back under its key when it was dropped and somebody subscribes again.
//! Its sequences must not: a late acknowledgement of the old queue would settle a message of the new one. So a new
//! queue starts above every sequence that a dropped one has given.

use super::HashMap;
use super::ShareKey;
use super::queue::Queue;

/// The queues of a group's shares.
#[derive(Debug, Default)]
pub(super) struct Shares {
    pub(super) queues: HashMap<ShareKey, Queue>,
    /// Where the next new queue starts.
    floor: u64,
}

impl Shares {
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    pub(super) fn load_floor(&mut self, floor: u64) {
        self.floor = floor;
    }

    pub(super) fn remove(&mut self, share: &ShareKey) -> Option<Queue> {
        let queue = self.queues.remove(share)?;
        self.floor = self.floor.max(queue.next());
        Some(queue)
    }
}
