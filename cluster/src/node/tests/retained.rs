//! Retained messages on their way to their topics' groups, and what their publishers are told.

use super::duties::{retained, topic_elsewhere};
use super::*;
use crate::node::group::Standing;
use crate::node::proposer::Waiter;
use crate::state::RefusedReason;

const LIMIT_REACHED: Completion = Completion::Applied(Outcome::Refused(RefusedReason::LimitReached));

/// R13: each publisher is told what became of its own message, whatever else left with it in one entry.
#[tokio::test]
async fn a_publisher_is_told_of_its_own_retained_message() {
    let node = TestNode::start_with(|settings| settings.retained_messages_max = 1).await;
    let home = node.home();
    let first = topic_elsewhere();
    let same_home = |topic: &String| Placement::data_of_topic(topic) == Placement::data_of_topic(&first);
    let second = (0..)
        .map(|number| format!("other/{number}"))
        .find(same_home)
        .unwrap();
    let publish = |topic: &str, payload: &str, ticket| {
        let command = retained(topic, payload);
        propose_retained(home, &command, ticket);
    };
    // One entry: the topics' group holds one message, and never both.
    publish(&first, "kept", 1);
    publish(&second, "beyond", 2);
    assert_eq!(node.completion(1).await, stored(0));
    assert_eq!(node.completion(2).await, LIMIT_REACHED);
    // The other way round.
    publish(&second, "beyond", 3);
    publish(&first, "again", 4);
    assert_eq!(node.completion(3).await, LIMIT_REACHED);
    assert_eq!(node.completion(4).await, stored(0));
    let topics = node.node.group(Placement::data_of_topic(&first));
    assert_eq!(text(&topics.state().retained(&first).unwrap().message), "again");
    assert!(topics.state().retained(&second).is_none());
}

/// A write whose topic's group did not take it stays in the outbox, and its publisher is told nothing, until it has.
#[tokio::test]
async fn a_write_that_was_not_taken_is_carried_again() {
    let node = TestNode::start().await;
    let home = node.home();
    let topic = topic_elsewhere();
    let topics = node.node.group(Placement::data_of_topic(&topic));
    // From now on the group refuses this start of the node.
    let lost = Command::NodeLost {
        node: node.settings.node,
        incarnation: node.settings.incarnation,
    };
    within(topics.propose_and_wait(&lost)).await;
    propose_retained(home, &retained(&topic, "kept"), 1);
    let last = publish(message("last"), vec![]);
    within(home.propose_and_wait(&last)).await;
    assert_eq!(within(topics.propose_and_wait(&last)).await, Completion::Refused);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(home.state().counts().outbox, 1);
    assert!(node.told.completions.lock().is_empty());

    let node = node.restart(|_| {}).await;
    let topics = node.node.group(Placement::data_of_topic(&topic));
    eventually(|| topics.state().retained(&topic)).await;
    eventually(|| (node.home().state().counts().outbox == 0).then_some(())).await;
}

/// Two topics whose homes are two groups, and neither that of [`CLIENT`].
fn two_topics() -> [String; 2] {
    let home = Placement::data_of_client(CLIENT);
    let group = |topic: &String| Placement::data_of_topic(topic);
    let first = topic_elsewhere();
    let second = (0..)
        .map(|number| format!("second/{number}"))
        .find(|topic| ![home, group(&first)].contains(&group(topic)))
        .unwrap();
    [first, second]
}

/// R33, R35: a group of topics without leader holds up the retained messages of its own topics alone, whatever their order in
/// the outbox.
#[tokio::test]
async fn r35_a_group_without_leader_holds_up_its_own_topics_alone() {
    let node = TestNode::start().await;
    let home = node.home();
    let [stuck, other] = two_topics();
    let stuck_group = node.node.group(Placement::data_of_topic(&stuck));
    node.disk.log().hold_group(stuck_group.id());
    propose_retained(home, &retained(&stuck, "first"), 1);
    for ticket in 2..10 {
        propose_retained(home, &retained(&other, "other"), ticket);
        assert_eq!(node.completion(ticket).await, stored(0), "{ticket}");
    }
    propose_retained(home, &retained(&stuck, "second"), 10);
    eventually(|| (home.state().counts().outbox == 2).then_some(())).await;
    assert!(node.told.completions.lock().is_empty());
    node.disk.log().release();
    assert_eq!(node.completion(1).await, stored(0));
    assert_eq!(node.completion(10).await, stored(0));
    assert_eq!(
        text(&stuck_group.state().retained(&stuck).unwrap().message),
        "second"
    );
    eventually(|| (home.state().counts().outbox == 0).then_some(())).await;
}

/// R33: where this node has no replica, or its replica has not caught up, the outbox here says nothing: who publishes in
/// parts waits for the topic's group like any other.
#[tokio::test]
async fn r33_a_publish_in_parts_waits_for_the_topics_group_without_a_replica_here() {
    let node = TestNode::start().await;
    let home = node.home();
    home.stand_on(Standing::Nothing);
    let topics = Placement::data_of_topic(&topic_elsewhere());
    let (index, position) = (home.state().applied() + 10, 3);
    home.retained_begun(9, &Completion::Applied(Outcome::Begun { index, position }));
    home.wait_for_begun((9, topics), Waiter::Ticket(1), stored(1));
    assert!(node.told.completions.lock().is_empty());
    let up_to = RetainedSource {
        group: home.id(),
        index,
        position,
    };
    home.retained_taken(&RetainedTaken {
        topics: Some(topics),
        up_to,
        refused: vec![],
        forgotten: None,
    });
    assert_eq!(node.completion(1).await, stored(1));
    // Its first part found no room.
    let full = Completion::Applied(Outcome::Refused(RefusedReason::OutboxFull));
    home.retained_begun(10, &full);
    home.wait_for_begun(
        (10, topics),
        Waiter::Ticket(2),
        Completion::Applied(Outcome::Refused(RefusedReason::Fenced)),
    );
    assert_eq!(node.completion(2).await, full);
}

/// What came to this replica as a snapshot was taken by the topics' groups, or stands in its outbox.
#[tokio::test]
async fn r33_a_loaded_state_says_what_was_taken() {
    let node = TestNode::start().await;
    let home = node.home();
    let [stuck, other] = two_topics().map(|topic| Placement::data_of_topic(&topic));
    let topic = &two_topics()[0];
    node.disk.log().hold_group(stuck);
    propose_retained(home, &retained(topic, "x"), 1);
    eventually(|| (home.state().counts().outbox == 1).then_some(())).await;
    let source = home.state().outbox(None, 1)[0].source;
    home.wait_for_retained(other, source, Waiter::Ticket(2), stored(1));
    let behind = RetainedSource {
        position: source.position + 1,
        ..source
    };
    home.wait_for_retained(other, behind, Waiter::Ticket(3), stored(0));
    assert!(node.told.completions.lock().is_empty());
    let index = home.known_index().unwrap();
    crate::raft::ReplicatedState::loaded(&mut super::super::replica::Replica::new(home.clone()), index);
    assert_eq!(node.completion(2).await, stored(1));
    // R13: it may have been refused, and nobody else holds it.
    assert_eq!(node.completion(3).await, Completion::Refused);
    assert!(
        node.told.completions.lock().is_empty(),
        "what is in the outbox waits"
    );
    node.disk.log().release();
    assert_eq!(node.completion(1).await, stored(0));
}

/// Opens the session of [`CLIENT`], or takes it up again, and has it publish a retained message at QoS 2.
async fn publish_exactly_once(node: &TestNode, topic: &str, ticket: u32) -> u64 {
    let home = node.home();
    let (session, epoch) = open_session(home, false, 600).await;
    let packet_id = quorate_proto::codec::PacketId::new(5);
    let index = home.known_index().unwrap() + 1;
    let publish = Command::Publish(PublishCommand {
        origin: Origin::Session {
            session,
            epoch,
            packet_id,
        },
        message: message_to(topic, b"value"),
        targets: vec![],
        set_retained: true,
        taken_live: false,
    });
    propose_retained(home, &publish, ticket);
    eventually(|| (home.known_index() >= Some(index)).then_some(index)).await
}

fn repeated(completion: &Completion) -> (u64, bool) {
    match completion {
        Completion::Applied(Outcome::Repeated { index, kept, .. }) => (*index, *kept),
        other => panic!("{other:?} is no repeat"),
    }
}

/// R33: a client that sends its message again, on whatever connection, is answered when the topic's group has it, and so is
/// the connection that sent it first.
#[tokio::test]
async fn r33_a_repeated_publish_waits_for_the_topics_group() {
    let node = TestNode::start().await;
    let home = node.home();
    let topic = topic_elsewhere();
    let topics = node.node.group(Placement::data_of_topic(&topic)).clone();
    node.disk.log().hold_group(topics.id());
    let index = publish_exactly_once(&node, &topic, 1).await;
    publish_exactly_once(&node, &topic, 2).await;
    assert!(node.told.completions.lock().is_empty());
    node.disk.log().release();
    let answer = node.completion(2).await;
    assert_eq!(repeated(&answer), (index, false));
    assert_eq!(node.completion(1).await, stored(0));
    assert_eq!(text(&topics.state().retained(&topic).unwrap().message), "value");
    eventually(|| (home.state().counts().outbox == 0).then_some(())).await;

    // A node without a replica is told by a feed.
    home.stand_on(Standing::Nothing);
    let mut source = home.repeated_write(&answer).unwrap();
    source.index += 1_000;
    home.wait_for_retained(topics.id(), source, Waiter::Ticket(3), answer.clone());
    assert!(node.told.completions.lock().is_empty());
    home.retained_taken(&RetainedTaken {
        topics: Some(topics.id()),
        up_to: source,
        refused: vec![],
        forgotten: None,
    });
    assert_eq!(node.completion(3).await, answer);

    // A start that was told of nothing finds it in its state.
    let node = node.restart(|_| {}).await;
    publish_exactly_once(&node, &topic, 4).await;
    let known = Completion::Applied(Outcome::Published {
        duplicate: true,
        stored: 0,
        refused: 0,
    });
    assert_eq!(node.completion(4).await, known);
}

/// R13, R33: what the topic's group refused is not called retained, however late and wherever it is asked.
#[tokio::test]
async fn r13_a_repeated_publish_learns_that_it_was_refused() {
    let node = TestNode::start_with(|settings| settings.retained_messages_max = 0).await;
    let topic = topic_elsewhere();
    let topics = Placement::data_of_topic(&topic);
    node.disk.log().hold_group(topics);
    publish_exactly_once(&node, &topic, 1).await;
    publish_exactly_once(&node, &topic, 2).await;
    assert!(node.told.completions.lock().is_empty());
    node.disk.log().release();
    assert_eq!(node.completion(2).await, LIMIT_REACHED);
    assert_eq!(node.completion(1).await, LIMIT_REACHED);
    let node = node.restart(|settings| settings.retained_messages_max = 9).await;
    publish_exactly_once(&node, &topic, 3).await;
    assert_eq!(node.completion(3).await, LIMIT_REACHED);
    assert!(node.node.group(topics).state().retained(&topic).is_none());
    publish_in_home(&node, &topic, 4).await;
    assert_eq!(node.completion(4).await, stored(0));
}

/// A retained message of nobody in particular; the index of its entry.
async fn publish_in_home(node: &TestNode, topic: &str, ticket: u32) -> u64 {
    let home = node.home();
    let index = home.known_index().unwrap() + 1;
    propose_retained(home, &retained(topic, "value"), ticket);
    eventually(|| (home.known_index() >= Some(index)).then_some(index)).await
}

/// R35: what a former leader has carried, and was refused, is refused to the publisher as well when the next one carries it
/// again.
#[tokio::test]
async fn r35_a_write_that_is_carried_again_has_its_first_outcome() {
    let node = TestNode::start().await;
    let home = node.home();
    let topic = topic_elsewhere();
    let topics = node.node.group(Placement::data_of_topic(&topic));
    // Nothing else is proposed here: the next entry is the publisher's.
    let source = RetainedSource {
        group: home.id(),
        index: home.known_index().unwrap() + 1,
        position: 0,
    };
    let first = Command::SetRetained {
        source,
        message: message_to(&topic, b"value"),
        messages_max: 0,
        bytes_max: 0,
    };
    assert_eq!(within(topics.propose_and_wait(&first)).await, LIMIT_REACHED);
    let index = publish_in_home(&node, &topic, 1).await;
    assert_eq!(index, source.index);
    assert_eq!(node.completion(1).await, LIMIT_REACHED);
    publish_in_home(&node, &topic, 2).await;
    assert_eq!(node.completion(2).await, stored(0));
}

#[test]
fn what_is_left_of_a_batch_goes_first_and_once() {
    use crate::node::retained::Outgoing;
    let at = |index| RetainedSource {
        group: GroupId(3),
        index,
        position: 0,
    };
    let [one, two] = [GroupId(1), GroupId(2)];
    let mut outgoing = Outgoing::default();
    for (index, topics) in [(1, one), (2, two), (3, one)] {
        outgoing.find(at(index), topics);
    }
    assert_eq!(outgoing.next(), Some((one, vec![at(1), at(3)])));
    assert_eq!(outgoing.next(), Some((two, vec![at(2)])));
    outgoing.find(at(4), one);
    assert_eq!(outgoing.next(), None, "both are busy");
    outgoing.left(one, vec![at(3)]);
    assert_eq!(outgoing.next(), Some((one, vec![at(3), at(4)])));
    outgoing.left(two, vec![]);
    assert_eq!(outgoing.next(), None);
    // Another node led meanwhile: what is in the outbox is found again.
    outgoing.give_up();
    outgoing.find(at(3), one);
    outgoing.find(at(4), one);
    outgoing.left(one, vec![at(3), at(4)]);
    assert_eq!(outgoing.next(), Some((one, vec![at(3), at(4)])));
    outgoing.give_up();
    outgoing.left(one, vec![at(4)]);
    assert_eq!(outgoing.next(), None);
}
