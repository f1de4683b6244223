//! Commands and the entries they leave in.

use super::*;
use crate::node::proposer::{COMMAND_BYTES_MAX, Due, Waiter};
use crate::raft::Proposed;

/// A publish whose command has exactly this many bytes.
fn publish_of(bytes: usize) -> Command {
    let encoded = |payload: usize| {
        let queue = TargetQueue::Session(elsewhere(1));
        let targets = vec![target(queue, QoS::AtLeastOnce)];
        let command = publish(message_to("t", &vec![0; payload]), targets);
        let mut buffer = Vec::new();
        command.encode(&mut buffer);
        (command, buffer.len())
    };
    let (_, with_room) = encoded(bytes);
    let (command, len) = encoded(2 * bytes - with_room);
    assert_eq!(len, bytes);
    command
}

fn proposed(outcome: BatchOutcome, index: u64, first_index: Option<u64>) -> Proposed {
    Proposed {
        outcome,
        index,
        first_index,
    }
}

/// A batch whose entry this node got as a part of a snapshot, or between two feeds: the leader says where it stands, and its
/// publisher is answered as any other.
#[tokio::test]
async fn r33_a_batch_that_was_not_applied_here_is_answered() {
    let node = TestNode::start().await;
    let home = node.home();
    within(home.propose_and_wait(&publish(message("x"), vec![]))).await;
    let index = home.known_index().unwrap();
    let outcome = BatchOutcome::Applied(vec![Outcome::Published {
        duplicate: false,
        stored: 0,
        refused: 0,
    }]);
    let waiters = vec![(Waiter::Ticket(1), Due::Retained(home.id()))];
    home.committed(77, waiters, proposed(outcome, index, Some(index)));
    propose_retained(home, &super::duties::retained("a", "x"), 2);
    for ticket in [1, 2] {
        assert_eq!(node.completion(ticket).await, stored(0), "{ticket}");
    }
}

/// What is known of the own batches never goes back: a replica that catches up applies what another one has told.
#[tokio::test]
async fn the_last_batch_is_the_one_with_the_highest_number() {
    let node = TestNode::start().await;
    let proposals = &node.home().proposals;
    proposals.note_applied(9, 90);
    proposals.note_applied(8, 80);
    proposals.note_applied(9, 95);
    assert_eq!(proposals.applied_at(9), Some(90), "a repeat has no effect");
}

/// A command that no entry can hold is refused by itself; it used to be repeated for ever, with all behind it waiting.
#[tokio::test]
async fn what_no_entry_can_hold_is_refused_alone() {
    let node = TestNode::start().await;
    let home = node.home();
    home.propose(&publish_of(40), Some(1));
    home.propose(&publish_of(COMMAND_BYTES_MAX + 1), Some(2));
    home.propose(&publish_of(COMMAND_BYTES_MAX), Some(3));
    home.propose(&publish_of(40), Some(4));
    propose_retained(home, &publish_of(COMMAND_BYTES_MAX + 1), 5);
    for (ticket, completion) in [
        (1, stored(1)),
        (2, Completion::TooLarge),
        (3, stored(1)),
        (4, stored(1)),
        (5, Completion::TooLarge),
    ] {
        assert_eq!(node.completion(ticket).await, completion, "{ticket}");
    }
    assert_eq!(
        within(home.propose_and_wait(&publish_of(COMMAND_BYTES_MAX + 1))).await,
        Completion::TooLarge
    );
    assert_eq!(node.node.backlog().bytes(), 0, "nothing waits");
}

/// An entry that Raft itself refuses for its size is refused, not repeated.
#[tokio::test]
async fn entry_that_is_too_large_is_not_repeated() {
    let node = TestNode::start().await;
    let entry = vec![0; crate::raft::BATCH_BYTES_MAX + 1];
    assert_eq!(
        within(node.home().propose_until_known(entry.into())).await,
        Some(proposed(BatchOutcome::Refused, 0, None))
    );
}

/// Queues to be dropped can be more than one entry holds.
#[tokio::test]
async fn unknown_queues_are_dropped_whatever_their_number() {
    const SHARES: usize = 300;
    let node = TestNode::start().await;
    let filter: std::sync::Arc<str> = "f".repeat(60_000).into();
    for number in 0..SHARES {
        let share = ShareKey {
            name: number.to_string().into(),
            filter: filter.clone(),
        };
        let queue = TargetQueue::Share(share);
        node.told.unknown.lock().insert(queue.clone());
        node.home().propose(
            &publish(message("m"), vec![target(queue, QoS::AtLeastOnce)]),
            None,
        );
    }
    within(node.home().propose_and_wait(&publish(message("last"), vec![]))).await;
    assert_eq!(node.home().state().queues().count(), SHARES);
    within(node.node.drop_unknown_queues(node.home())).await;
    within(node.home().propose_and_wait(&publish(message("last"), vec![]))).await;
    assert_eq!(node.home().state().queues().count(), 0);
}

/// A node that has not heard of a session may merely not have heard of it yet: it drops nothing of it before the session's
/// home has said how far it is, and nothing at all while it does not serve.
#[tokio::test]
async fn r17_a_queue_is_dropped_only_when_its_owner_s_home_does_not_know_it() {
    let node = TestNode::start().await;
    let group = node.home();
    let home = Placement::data_groups().find(|home| *home != group.id()).unwrap();
    let queue = TargetQueue::Session(SessionId::new(home, 1, 1));
    node.told.unknown.lock().insert(queue.clone());
    let publish = publish(message("m"), vec![target(queue.clone(), QoS::AtLeastOnce)]);
    within(group.propose_and_wait(&publish)).await;
    let drop_and_look = || async {
        node.node.drop_unknown_queues(group).await;
        node.settled().await;
        group.state().queue_len(&queue)
    };
    // Its home says nothing while it is not asked on behalf of a node that serves.
    node.node.membership.lease.end();
    assert_eq!(drop_and_look().await, 1, "without lease");
    let lease = node.node.serving_lease();
    eventually(|| lease.is_held().then_some(())).await;
    node.node.group(home).replica().unwrap().shutdown().await;
    assert_eq!(drop_and_look().await, 1, "the home says nothing");
    let node = node.restart(|_| {}).await;
    node.told.unknown.lock().insert(queue.clone());
    within(node.node.drop_unknown_queues(node.home())).await;
    node.settled().await;
    assert_eq!(node.home().state().queue_len(&queue), 0);
}

/// An entry's outcome may come back between its apply and openraft's knowledge of that: its waiters are told by one of the
/// two who look, and not by the next entry, which may never come.
#[tokio::test]
async fn a_waiter_is_told_whichever_comes_first_outcome_or_apply() {
    let node = TestNode::start().await;
    let home = node.home();
    let outcome = || BatchOutcome::Applied(vec![Outcome::Done]);
    let far = home.replica().unwrap().applied_index().unwrap() + 1_000;
    home.applied(far);
    let at = |index| proposed(outcome(), index, None);
    home.committed(90, vec![(Waiter::Ticket(1), Due::Applied)], at(far));
    assert_eq!(node.completion(1).await, Completion::Applied(Outcome::Done));
    home.committed(91, vec![(Waiter::Ticket(2), Due::Applied)], at(far + 1));
    home.committed(92, vec![(Waiter::Ticket(3), Due::Committed)], at(far + 2));
    assert_eq!(node.completion(3).await, Completion::Applied(Outcome::Done));
    assert!(
        !node.told.completions.lock().contains_key(&2),
        "it is not applied yet"
    );
    home.applied(far + 1);
    assert_eq!(node.completion(2).await, Completion::Applied(Outcome::Done));
}
