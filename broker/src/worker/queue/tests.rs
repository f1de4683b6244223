//! How a window is shared, and what is known of the queues.

use quorate_cluster::state::GroupTime;
use quorate_proto::message::Message;

use super::*;
use crate::worker::testing::worker;

/// Groups that have references without end.
fn endless(slots: &[u8]) -> DurableQueue {
    let mut queue = DurableQueue::default();
    slots.iter().for_each(|slot| queue.has_some(*slot));
    queue
}

/// What each group was asked for in so many rounds, in each of which the whole window is used and acknowledged.
fn pulled_in(rounds: usize, queue: &mut DurableQueue, window: usize) -> [usize; SLOTS] {
    let mut pulled = [0; SLOTS];
    for _ in 0..rounds {
        let requests = queue.share_out(window);
        let room: usize = requests.iter().map(|(_, _, count)| count).sum();
        assert_eq!(room, window);
        assert!(queue.share_out(window).is_empty(), "the window is used");
        for (slot, from, count) in requests {
            pulled[usize::from(slot)] += count;
            let next = Sequence(from.0 + count as u64);
            queue.answered(slot, next, true, false);
        }
    }
    pulled
}

/// R29: with a window that has room for fewer references than there are groups with some, each gets its turn.
#[test]
fn r29_no_group_with_references_starves_behind_a_small_window() {
    const ROUNDS: usize = 60;
    let slots = [0, 3, 4, 9, 16];
    for window in 1..=4 {
        let mut queue = endless(&slots);
        let pulled = pulled_in(ROUNDS, &mut queue, window);
        for slot in slots {
            assert_eq!(pulled[usize::from(slot)], ROUNDS * window / slots.len(), "{slot}");
        }
    }
}

#[test]
fn r29_a_window_is_shared_over_the_groups_with_references() {
    let mut queue = endless(&[2, 5, 16]);
    let requests = queue.share_out(100);
    let counts: Vec<(u8, usize)> = requests.iter().map(|(slot, _, count)| (*slot, *count)).collect();
    assert_eq!(counts, [(2, 33), (5, 33), (16, 34)]);
    // What one has not is the others'.
    for slot in [2, 5, 16] {
        queue.answered(slot, Sequence(1), slot != 5, false);
    }
    let counts: Vec<usize> = queue.share_out(100).iter().map(|(_, _, count)| *count).collect();
    assert_eq!(counts, [50, 50]);
    // One that has some again has a place as soon as one is free, although the others have more.
    queue.answered(2, Sequence(2), true, false);
    queue.answered(16, Sequence(2), true, false);
    queue.has_some(5);
    let asked = pulled_in(3, &mut queue, 1);
    assert_eq!((asked[2], asked[5], asked[16]), (1, 1, 1));
}

/// R29, R19: groups without leader do not answer, and take nothing of a small window from those that do.
#[test]
fn r29_groups_that_do_not_answer_take_no_room() {
    const ANSWERS: u8 = 5;
    let mut queue = DurableQueue::resumed(None, 1);
    let requests = queue.share_out(1);
    assert_eq!(requests.len(), SLOTS, "each is asked");
    assert!(requests.iter().all(|(.., count)| *count == 1));
    assert!(queue.share_out(1).is_empty());
    for round in 1..10 {
        queue.answered(ANSWERS, Sequence(round), true, false);
        assert_eq!(queue.share_out(1), [(ANSWERS, Sequence(round), 1)]);
    }
    queue.answered(ANSWERS, Sequence(10), false, false);
    assert!(queue.is_drained(ANSWERS) && !queue.is_drained(ANSWERS + 1));
    // One of the others has a leader again.
    queue.answered(ANSWERS + 1, Sequence(1), true, false);
    assert_eq!(queue.share_out(1), [(ANSWERS + 1, Sequence(1), 1)]);
}

/// R22: a queue whose identifiers are all in use has more than it shows.
#[test]
fn r22_r24_what_the_identifier_window_has_stopped_is_not_drained() {
    let mut queue = endless(&[7]);
    assert_eq!(queue.share_out(10), [(7, Sequence(0), 10)]);
    queue.answered(7, Sequence(0), false, true);
    assert!(!queue.is_drained(7) && queue.is_drained(6));
    assert_eq!(queue.known_to_wait(), 1);
    assert!(queue.share_out(10).is_empty(), "nothing is asked for in vain");
    // The group tells when the window has moved.
    queue.has_some(7);
    assert_eq!(queue.share_out(10).len(), 1);
    queue.answered(7, Sequence(3), false, false);
    assert!(queue.is_drained(7));
    assert_eq!(queue.known_to_wait(), 0);
}

fn moved_here(sequence: u64) -> PulledReference {
    PulledReference {
        sequence: Sequence(sequence),
        message: Message::new("t", &[], b"m", QoS::AtLeastOnce, false, None),
        stored: None,
        publisher: None,
        qos: QoS::AtLeastOnce,
        retain: false,
        replayed: false,
        shared: true,
        subscription_ids: Vec::new(),
        received: false,
        expires_at: None,
        received_at: GroupTime(1),
    }
}

/// R39: a shared message that moved to the member's own queue takes no place among those to come once it was sent, also
/// where the group does not know whether an earlier connection had it. The queue has more, so the count is not begun anew.
#[tokio::test]
async fn r39_a_moved_message_that_counts_as_resent_is_sent_all_the_same() {
    let worker = worker();
    let group = Placement::data_of_client("c");
    let session = SessionId::new(group, 1, 0);
    let conn = worker.connect(session, 1);
    let slot = Placement::packet_id_slot(group);
    let mut queue = endless(&[slot]);
    queue.share_out(1);
    {
        let mut state = conn.state.borrow_mut();
        state.queue = Some(Box::new(queue));
        let holds = &mut state.rare().shared;
        holds.one_moves();
        holds.one_has_moved();
        assert_eq!(holds.to_be_sent(), 1);
    }
    worker.handle_references(References {
        location: conn.location,
        group,
        references: vec![moved_here(4)],
        next: Sequence(5),
        sent_before: Sequence(5),
        more: true,
        window_stopped: false,
        started: GroupTime(0),
        now: GroupTime(1),
    });
    let state = conn.state.borrow();
    assert_eq!(state.protocol.window_free(), 0, "it was sent");
    assert_eq!(worker.counters.messages_resent.value(), 1);
    let waits = state.rare.as_ref().map_or(0, |rare| rare.shared.to_be_sent());
    assert_eq!(waits, 0);
}
