//! Large messages of long queues: they leave memory when a checkpoint holds them, and come back with a pull.

use super::*;

const LARGE: usize = 100_000;
const SESSION: u16 = 1;

fn queue() -> TargetQueue {
    TargetQueue::Session(elsewhere(SESSION))
}

fn large(number: u8) -> Message {
    message_to("large", &[number; LARGE])
}

impl TestNode {
    async fn queue_up(&self, queue: &TargetQueue, message: Message) {
        let targets = vec![target(queue.clone(), QoS::AtLeastOnce)];
        within(self.home().propose_and_wait(&publish(message, targets))).await;
    }

    /// Payload bytes of the queue that are in memory.
    fn in_memory(&self, queue: &TargetQueue) -> usize {
        let mut references = Vec::new();
        let state = self.home().state();
        state.pull(queue, Sequence(0), usize::MAX, u64::MAX, &mut references);
        references.iter().map(|it| it.message.payload().len()).sum()
    }

    async fn pull_payloads(&self, from: u64) -> (Vec<(usize, u8)>, References) {
        self.home().pull(PullRequest {
            session: elsewhere(SESSION),
            location: location(1),
            from: Sequence(from),
            count_max: 100,
        });
        let references = self.references().await;
        let payload = |it: &PulledReference| (it.message.payload().len(), it.message.payload()[0]);
        (references.references.iter().map(payload).collect(), references)
    }
}

#[tokio::test]
async fn large_messages_leave_memory_and_come_back_in_their_order() {
    let node = TestNode::start().await;
    for number in 1..=5 {
        node.queue_up(&queue(), large(number)).await;
    }
    node.queue_up(&queue(), message_to("small", &[6; 10])).await;
    let counts = node.home().state().counts();
    assert_eq!(node.in_memory(&queue()), 5 * LARGE + 10);
    within(node.node.checkpoint()).await;
    assert_eq!(node.in_memory(&queue()), 10);
    // Limits and metrics count them as before.
    assert_eq!(node.home().state().counts(), counts);
    node.queue_up(&queue(), large(7)).await;
    let check = |node: TestNode| async move {
        let (mut found, mut from) = (Vec::new(), 0);
        loop {
            let (payloads, references) = node.pull_payloads(from).await;
            assert!(payloads.len() <= 3, "256 KiB at once");
            found.extend(payloads);
            from = references.next.0;
            if !references.more {
                break;
            }
        }
        let of = |number| (if number == 6 { 10 } else { LARGE }, number);
        assert_eq!(found, (1..=7).map(of).collect::<Vec<_>>());
        node
    };
    let node = check(node).await;
    // After a start that found them in the store they have never been in memory.
    let node = node.restart(|_| {}).await;
    assert_eq!(node.in_memory(&queue()), 10);
    let node = check(node).await;
    // What is settled leaves the store with the next checkpoint, and a pull that comes late is not given it.
    let settle = Command::Settle {
        queue: queue(),
        sequences: (0..7).map(Sequence).collect(),
    };
    within(node.home().propose_and_wait(&settle)).await;
    within(node.node.checkpoint()).await;
    assert_eq!(node.home().state().counts().message_bytes, 0);
    let (payloads, _) = node.pull_payloads(0).await;
    assert_eq!(payloads, []);
}

/// A group that gets much takes a checkpoint without waiting for its time.
#[tokio::test]
async fn much_that_is_queued_is_stored_at_once() {
    let node = TestNode::start().await;
    let bytes = 6 << 20;
    for _ in 0..8 {
        node.queue_up(&queue(), message_to("large", &vec![1; bytes]))
            .await;
    }
    eventually(|| (node.in_memory(&queue()) <= 4 * bytes).then_some(())).await;
    assert_eq!(node.home().state().queue_bytes(&queue()) / bytes as u64, 8);
}

/// While the store is slow, clients that publish are to wait: what is large is not proposed, what is small is, and when
/// the store has caught up everything goes on.
#[tokio::test]
async fn large_messages_wait_while_too_many_of_them_wait_for_the_store() {
    let node = TestNode::start().await;
    node.disk.pause_store();
    let message = || message_to("large", &vec![1; 6 << 20]);
    let mut queued = 0;
    while !node.node.unstored().is_full() {
        node.queue_up(&queue(), message()).await;
        queued += 1;
    }
    assert_eq!(queued, 6, "32 MiB");
    let targets = vec![target(queue(), QoS::AtLeastOnce)];
    let mut held_back = node.home().submit(&publish(message(), targets));
    let is_other = |group: &GroupId| *group != node.home().id();
    let other = Placement::data_groups().find(is_other).unwrap();
    for number in 0..10 {
        let targets = vec![target(queue(), QoS::AtLeastOnce)];
        let small = publish(message_to("small", &[number; 10_000]), targets);
        within(node.node.group(other).propose_and_wait(&small)).await;
    }
    assert!(held_back.try_recv().is_err(), "it is not proposed");
    assert_eq!(node.home().state().queue_len(&queue()), 6);
    node.disk.resume_store();
    within(held_back).await.unwrap();
    assert_eq!(node.home().state().queue_len(&queue()), 7);
    within(node.node.checkpoint()).await;
    assert_eq!(node.node.unstored().bytes(), 0, "all of it is stored");
    // What is settled before any checkpoint has it counts no more either.
    let another = TargetQueue::Session(elsewhere(2));
    node.queue_up(&another, message()).await;
    assert!(node.node.unstored().bytes() > 6 << 20);
    let settle = Command::Settle {
        queue: another,
        sequences: vec![Sequence(0)],
    };
    within(node.home().propose_and_wait(&settle)).await;
    assert_eq!(node.node.unstored().bytes(), 0);
}

/// R33: a retained message that waits for its topic's group is passed on whole.
#[tokio::test]
async fn r33_a_retained_write_comes_back_for_its_topics_group() {
    let node = TestNode::start().await;
    let topic = super::duties::topic_elsewhere();
    let topics = node.node.group(Placement::data_of_topic(&topic));
    let lost = Command::NodeLost {
        node: node.settings.node,
        incarnation: node.settings.incarnation,
    };
    within(topics.propose_and_wait(&lost)).await;
    let retained = Message::new(&topic, &[], &[9; LARGE], QoS::AtLeastOnce, true, None);
    let command = Command::Publish(PublishCommand {
        origin: Origin::Server,
        message: retained,
        targets: vec![],
        set_retained: true,
        taken_live: false,
    });
    propose_retained(node.home(), &command, 1);
    eventually(|| (node.home().state().counts().outbox == 1).then_some(())).await;
    within(node.node.checkpoint()).await;
    let write = node.home().state().outbox(None, 1).remove(0);
    assert!(write.stored.is_some() && write.message.payload().is_empty());
    let node = node.restart(|_| {}).await;
    let topics = node.node.group(Placement::data_of_topic(&topic));
    let value = eventually(|| topics.state().retained(&topic)).await;
    assert_eq!(value.message.payload(), &[9; LARGE][..]);
}

/// Shared references that are not in memory hold up those behind them, so that a member gets them in their order.
#[tokio::test]
async fn shared_references_keep_their_order_on_their_way_back() {
    let node = TestNode::start().await;
    let share = ShareKey {
        name: "g".into(),
        filter: "#".into(),
    };
    let queue = TargetQueue::Share(share.clone());
    for number in 1..=5 {
        node.queue_up(&queue, large(number)).await;
    }
    within(node.node.checkpoint()).await;
    assert_eq!(node.in_memory(&queue), 0);
    for number in 6..=9 {
        node.queue_up(&queue, message_to("small", &[number])).await;
    }
    let is_other = |group: &GroupId| *group != node.home().id();
    let session = SessionId::new(Placement::data_groups().find(is_other).unwrap(), 1, 1);
    let member = ShareMember {
        session,
        at: MemberAt::Here(location(1)),
        options: quorate_proto::codec::SubscriptionOptions {
            qos: QoS::AtLeastOnce,
            ..Default::default()
        },
        subscription_id: None,
    };
    node.told.members.lock().insert(share.clone(), vec![member]);
    node.home().share_ready(&share);
    let given = eventually(|| {
        let shared = node.told.shared.lock();
        (shared.len() == 9).then(|| {
            let first = |it: &SharedReference| it.reference.message.payload()[0];
            shared.iter().map(first).collect::<Vec<_>>()
        })
    })
    .await;
    assert_eq!(given, (1..=9).collect::<Vec<_>>());
}

/// R49: a message that is not what was stored is an error, and not one that is gone.
#[tokio::test]
async fn r49_a_stored_message_that_is_damaged_is_not_passed_over() {
    let node = TestNode::start().await;
    node.queue_up(&queue(), large(1)).await;
    within(node.node.checkpoint()).await;
    let mut references = Vec::new();
    let state = node.home().state();
    state.pull(&queue(), Sequence(0), 1, u64::MAX, &mut references);
    drop(state);
    let stored = references[0].stored.expect("it is not in memory");
    let message = node.home().read_message(&stored).unwrap();
    assert_eq!(message, Some(large(1)));
    node.disk.damage(node.home().id(), &stored.key());
    assert!(node.home().read_message(&stored).is_err());
}
