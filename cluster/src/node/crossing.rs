//! Retained messages that were matched at this node and are not with their topics' groups yet.
//!
//! Whoever subscribes meanwhile was not matched, and would look for the value too early (R33). So this node does not confirm
//! that it routes by a subscription before those are there that it had matched without it: SUBACK, and the look for retained
//! messages behind it, come after the value. Nothing is matched again, so nobody can get it twice, and where this node ends
//! instead, SUBACK waits until it has left the view (R1).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a message may hold up confirmations: the group of its topic may have no leader, and that holds up no SUBACK for
/// long (R36).
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The messages under way, by number in the order of their matching.
#[derive(Debug, Default)]
pub(super) struct Crossings {
    under_way: Mutex<UnderWay>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct UnderWay {
    last: u64,
    /// By number, and so in the order of their beginnings as well.
    begun: BTreeMap<u64, Instant>,
}

/// One of them, as long as this exists.
#[derive(Debug)]
pub struct Crossing {
    crossings: Arc<Crossings>,
    number: u64,
}

impl Drop for Crossing {
    fn drop(&mut self) {
        self.crossings.under_way.lock().begun.remove(&self.number);
        self.crossings.ended.notify_waiters();
    }
}

impl Crossings {
    /// A message is about to be matched.
    pub(super) fn begin(self: &Arc<Self>) -> Crossing {
        let mut under_way = self.under_way.lock();
        under_way.last += 1;
        let number = under_way.last;
        under_way.begun.insert(number, Instant::now());
        Crossing {
            crossings: self.clone(),
            number,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.under_way.lock().begun.is_empty()
    }

    /// Waits for those that have begun before this, and not too long before.
    pub(super) async fn pass(&self) {
        let last = self.under_way.lock().last;
        loop {
            let ended = self.ended.notified();
            let Some(given_up_at) = self.under_way.lock().wait_for(last) else {
                return;
            };
            tokio::select! {
                () = ended => {}
                () = tokio::time::sleep_until(given_up_at) => {}
            }
        }
    }
}

impl UnderWay {
    /// Until when the oldest one up to `last` is waited for.
    fn wait_for(&mut self, last: u64) -> Option<Instant> {
        let now = Instant::now();
        loop {
            let first = self.begun.first_entry().filter(|first| *first.key() <= last)?;
            let given_up_at = *first.get() + WAIT_MAX;
            if given_up_at > now {
                return Some(given_up_at);
            }
            first.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn those_that_begin_later_are_not_waited_for() {
        let crossings = Arc::new(Crossings::default());
        assert!(crossings.pass().now_or_never().is_some());
        let [first, second] = [crossings.begin(), crossings.begin()];
        let mut passing = std::pin::pin!(crossings.pass());
        assert!(passing.as_mut().now_or_never().is_none());
        let later = crossings.begin();
        drop(second);
        assert!(passing.as_mut().now_or_never().is_none());
        drop(first);
        passing.await;
        assert!(!crossings.is_empty());
        drop(later);
        assert!(crossings.is_empty());
    }

    /// R36: a group without leader holds up no SUBACK for long, and none that comes later.
    #[tokio::test(start_paused = true)]
    async fn r36_what_does_not_end_is_waited_for_once_and_up_to_a_bound() {
        let crossings = Arc::new(Crossings::default());
        let _stuck = crossings.begin();
        let began = Instant::now();
        crossings.pass().await;
        assert_eq!(began.elapsed(), WAIT_MAX);
        assert!(crossings.pass().now_or_never().is_some());
    }
}
