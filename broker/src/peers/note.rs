//! The note in `meta` without which nobody is told that a message is delivered which another node has not accepted (R4).
//!
//! Where this node ends then, nobody else knows that the other one has missed something; the note says so. It is a row
//! of decisions with numbers that rise: to note, to take back, to note. `meta` keeps the one with the highest number, so
//! a decision that arrives late undoes none that came after it.

use std::time::{Duration, Instant};

use quorate_cluster::state::NodeId;
use tokio::sync::watch;

/// A note stands until there was no stall for so long: a node that stalls again and again makes few entries.
const CALM_MIN: Duration = Duration::from_secs(2);

/// Pauses between attempts to note something: the first, and what they grow to.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What `meta` is to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// 0 before the first, with which there is nothing to be done.
    pub(super) number: u64,
    pub(super) stalled: bool,
}

/// The note of one node, as it is decided.
#[derive(Debug)]
pub(super) struct StallNote {
    decided: watch::Sender<Decision>,
    /// Number of the last decision that `meta` has.
    noted: watch::Receiver<u64>,
    calm_since: Option<Instant>,
}

/// Brings decisions to `meta`.
#[derive(Debug)]
pub(super) struct NoteKeeper {
    decided: watch::Receiver<Decision>,
    noted: watch::Sender<u64>,
}

/// A note that does not stand, and who keeps it.
pub(super) fn stall_note() -> (StallNote, NoteKeeper) {
    let (decided, decisions) = watch::channel(Decision::default());
    let (noted, numbers) = watch::channel(0);
    let note = StallNote {
        decided,
        noted: numbers,
        calm_since: None,
    };
    let keeper = NoteKeeper {
        decided: decisions,
        noted,
    };
    (note, keeper)
}

impl StallNote {
    /// The node stalls. Whether the note stands, so that publishers may be told; else it is asked for.
    pub(super) fn stands(&mut self) -> bool {
        self.calm_since = None;
        let decision = *self.decided.borrow();
        if !decision.stalled {
            self.decide(true);
            return false;
        }
        *self.noted.borrow() == decision.number
    }

    /// Nothing is left that publishers were told of and the node has not accepted. Takes the note back where that has been
    /// so for long enough; until when to wait, where it has not.
    pub(super) fn calm(&mut self, now: Instant) -> Option<Instant> {
        if !self.decided.borrow().stalled {
            return None;
        }
        let until = *self.calm_since.get_or_insert(now) + CALM_MIN;
        if now < until {
            return Some(until);
        }
        self.decide(false);
        None
    }

    fn decide(&mut self, stalled: bool) {
        self.decided.send_modify(|decision| {
            *decision = Decision {
                number: decision.number + 1,
                stalled,
            };
        });
    }

    /// Waits until `meta` has a decision that it did not have, no longer than until `deadline`.
    pub(super) async fn changed_before(&mut self, deadline: Instant) {
        let _ = tokio::time::timeout_at(deadline.into(), self.noted.changed()).await;
    }
}

impl NoteKeeper {
    /// Brings each decision about a node to `meta`, or the next one where that comes first. `bring` tries it once and says
    /// whether it is committed, or that this process has nothing to do with `meta` any more.
    pub(super) async fn run(mut self, node: NodeId, bring: impl AsyncFn(Decision) -> Option<bool>) {
        let mut pause = PAUSE_MIN;
        loop {
            let decision = *self.decided.borrow_and_update();
            let is_new = decision.number > *self.noted.borrow();
            let attempt = async {
                let is_noted = bring(decision).await;
                if is_noted == Some(false) {
                    tokio::time::sleep(pause).await;
                }
                is_noted
            };
            tokio::select! {
                is_noted = attempt, if is_new => match is_noted {
                    Some(true) => {
                        tracing::debug!(
                            node = node.0,
                            stalled = decision.stalled,
                            number = decision.number,
                            "it is noted whether a node takes deliveries"
                        );
                        self.noted.send_replace(decision.number);
                        pause = PAUSE_MIN;
                    }
                    Some(false) => pause = (2 * pause).min(PAUSE_MAX),
                    None => return,
                },
                changed = self.decided.changed() => match changed {
                    Ok(()) => pause = PAUSE_MIN,
                    Err(_) => return,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::sync::Semaphore;

    use super::*;

    /// By the clock of the test.
    fn in_time(duration: Duration) -> Instant {
        (tokio::time::Instant::now() + duration).into_std()
    }

    #[test]
    fn r4_nobody_is_told_before_the_note_stands() {
        let (mut note, keeper) = stall_note();
        assert!(!note.stands());
        let first = *keeper.decided.borrow();
        assert_eq!((first.number, first.stalled), (1, true));
        assert!(!note.stands(), "it is asked for");
        assert_eq!(keeper.decided.borrow().number, 1, "once");
        keeper.noted.send_replace(1);
        assert!(note.stands() && note.stands());
    }

    #[test]
    fn r4_a_note_is_taken_back_after_a_calm_and_no_stall_rests_on_it_then() {
        let (mut note, keeper) = stall_note();
        let start = Instant::now();
        assert_eq!(note.calm(start), None, "there is none");
        note.stands();
        keeper.noted.send_replace(1);
        assert_eq!(note.calm(start), Some(start + CALM_MIN));
        assert!(note.stands(), "a short calm changes nothing");
        let again = start + CALM_MIN;
        assert_eq!(note.calm(again), Some(again + CALM_MIN));
        assert_eq!(note.calm(again + CALM_MIN), None);
        let back = Decision {
            number: 2,
            stalled: false,
        };
        assert_eq!(*keeper.decided.borrow(), back);
        // From the decision on, whether or not `meta` has it.
        assert!(!note.stands());
        let next = Decision {
            number: 3,
            stalled: true,
        };
        assert_eq!(*keeper.decided.borrow(), next);
        keeper.noted.send_replace(2);
        assert!(!note.stands(), "what was taken back is not what is asked for");
        keeper.noted.send_replace(3);
        assert!(note.stands());
    }

    #[tokio::test]
    async fn r4_decisions_are_brought_one_at_a_time_and_a_later_one_takes_the_place_of_one_on_its_way() {
        let (mut note, keeper) = stall_note();
        let brought: Arc<Mutex<Vec<Decision>>> = Arc::default();
        let (seen, permits) = (brought.clone(), Arc::new(Semaphore::new(0)));
        let answers = permits.clone();
        let keeper = tokio::spawn(keeper.run(NodeId(2), async move |decision| {
            seen.lock().push(decision);
            answers.acquire().await.expect("it is not closed").forget();
            Some(true)
        }));
        let numbers = || brought.lock().iter().map(|it| it.number).collect::<Vec<_>>();
        let until = async |expected: &[u64]| {
            for _ in 0..1_000 {
                if numbers() == expected {
                    return;
                }
                tokio::task::yield_now().await;
            }
            panic!("{:?} were brought, not {expected:?}", numbers());
        };
        assert!(!note.stands());
        until(&[1]).await;
        permits.add_permits(1);
        note.changed_before(in_time(CALM_MIN)).await;
        assert!(note.stands());
        let start = Instant::now();
        note.calm(start);
        note.calm(start + CALM_MIN);
        until(&[1, 2]).await;
        // Its answer has not come, and never will.
        assert!(!note.stands());
        until(&[1, 2, 3]).await;
        permits.add_permits(1);
        note.changed_before(in_time(CALM_MIN)).await;
        assert!(note.stands());
        drop(note);
        keeper.await.expect("it ends with the note");
    }

    #[tokio::test(start_paused = true)]
    async fn r4_what_is_not_known_to_be_noted_is_tried_again_with_pauses_and_nobody_is_told_meanwhile() {
        let (mut note, keeper) = stall_note();
        let tries: Arc<Mutex<Vec<tokio::time::Instant>>> = Arc::default();
        let seen = tries.clone();
        let keeper = tokio::spawn(keeper.run(NodeId(2), async move |_| {
            let mut tries = seen.lock();
            tries.push(tokio::time::Instant::now());
            Some(tries.len() == 12)
        }));
        note.stands();
        while tries.lock().len() < 12 {
            assert!(!note.stands());
            note.changed_before(in_time(PAUSE_MAX)).await;
        }
        note.changed_before(in_time(PAUSE_MAX)).await;
        assert!(note.stands());
        let tries = tries.lock().clone();
        let pauses: Vec<Duration> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.is_sorted(), "{pauses:?}");
        assert!(PAUSE_MIN <= pauses[0] && pauses[10] >= PAUSE_MAX, "{pauses:?}");
        drop(note);
        keeper.await.expect("it ends with the note");
    }
}
