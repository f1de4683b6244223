//! Retained messages on their way to their topics' groups, and what their publishers are told.

use super::duties::{retained, topic_elsewhere};
use super::*;
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
