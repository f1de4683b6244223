//! Bytes that wait for somebody slower than those who send them, with a bound that senders respect.
//!
//! The bound is soft: who already has a message may add it, and looks before it takes the next one from its source.
//! So the bytes stay below the bound plus what every source hands over at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// A counter of waiting bytes with a bound.
#[derive(Debug)]
pub struct Backlog {
    bytes: AtomicUsize,
    bound: usize,
    room: Notify,
}

impl Backlog {
    /// An empty one that counts as full above `bound` bytes.
    pub fn new(bound: usize) -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            bound,
            room: Notify::new(),
        }
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether senders should wait for [`Self::room`] before they take more.
    pub fn is_full(&self) -> bool {
        self.bytes() > self.bound
    }

    /// Bytes were added.
    pub fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes left; at half the bound those who wait go on.
    pub fn remove(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        debug_assert!(before >= bytes, "what leaves was added");
        let low = self.bound / 2;
        if before > low && before - bytes <= low {
            self.room.notify_waiters();
        }
    }

    /// Waits until at most half the bound waits.
    pub async fn room(&self) {
        loop {
            let freed = self.room.notified();
            tokio::pin!(freed);
            // From here on no signal is missed.
            freed.as_mut().enable();
            if self.bytes.load(Ordering::Acquire) <= self.bound / 2 {
                return;
            }
            freed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn who_waits_goes_on_at_half_the_bound() {
        let backlog = Arc::new(Backlog::new(100));
        backlog.room().await;
        backlog.add(100);
        assert!(!backlog.is_full(), "the bound itself is allowed");
        backlog.add(1);
        assert!(backlog.is_full());
        let waits = tokio::spawn({
            let backlog = backlog.clone();
            async move { backlog.room().await }
        });
        tokio::task::yield_now().await;
        backlog.remove(50);
        tokio::task::yield_now().await;
        assert!(!waits.is_finished(), "51 bytes are more than half");
        backlog.remove(1);
        waits.await.expect("the waiter is woken");
        assert_eq!(backlog.bytes(), 50);
    }
}
