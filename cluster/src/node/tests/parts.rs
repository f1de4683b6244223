//! Publishes that their proposer cuts into parts (R7).

use super::*;
use crate::node::Publish;

const TARGETS: u16 = 60;
/// A list of [`TARGETS`] sessions makes about eight parts of this size.
const BYTES_MAX: usize = 80;

fn targets(count: u16) -> Vec<Target> {
    let queue = |number| TargetQueue::Session(elsewhere(number));
    (0..count)
        .rev()
        .map(|number| target(queue(number), QoS::AtLeastOnce))
        .collect()
}

fn propose(group: &Group<Told>, origin: &Origin, message: &Message, targets: &[Target], ticket: u32) {
    let publish = Publish {
        origin,
        message: message.into(),
        targets,
        set_retained: message.retain,
        taken_live: false,
    };
    group.propose_publish(&publish, Some(ticket));
}

fn payloads(group: &Group<Told>, number: u16) -> Vec<String> {
    let state = group.state();
    let queue = TargetQueue::Session(elsewhere(number));
    let mut references = Vec::new();
    state.pull(&queue, Sequence(0), 1_000, u64::MAX, &mut references);
    references
        .iter()
        .map(|reference| text(&reference.message))
        .collect()
}

/// One answer, for all targets together; what is published next comes behind it in each queue.
#[tokio::test]
async fn r7_a_publish_in_parts_is_answered_once_and_keeps_its_place() {
    for bytes_max in [1, 20, BYTES_MAX, 400, 1 << 20] {
        let node = TestNode::start_with(|settings| settings.entry_bytes_max = bytes_max).await;
        let home = node.home();
        let (session, epoch) = open_session(home, false, 600).await;
        let origins = [
            Origin::Server,
            Origin::Session {
                session,
                epoch,
                packet_id: None,
            },
            Origin::Session {
                session,
                epoch,
                packet_id: quorate_proto::codec::PacketId::new(7),
            },
            Origin::Live { session: None },
        ];
        for (number, origin) in (1..).zip(&origins) {
            let message = message(&number.to_string());
            propose(home, origin, &message, &targets(TARGETS), number);
            propose(home, origin, &message_to("t", b"next"), &targets(1), 100 + number);
        }
        for number in 1..=4 {
            assert_eq!(
                node.completion(number).await,
                stored(u32::from(TARGETS)),
                "{bytes_max}"
            );
            assert!(matches!(
                node.completion(100 + number).await,
                Completion::Applied(_)
            ));
        }
        assert!(node.told.completions.lock().is_empty(), "nobody is told twice");
        // A QoS 2 identifier is known by then.
        assert_eq!(payloads(home, 0), ["1", "next", "2", "next", "3", "4", "next"]);
        for number in 1..TARGETS {
            assert_eq!(payloads(home, number), ["1", "2", "3", "4"]);
        }
        assert_eq!(home.state().counts().under_way, 0);
        assert_eq!(node.node.backlog().bytes(), 0);
    }
}

/// As many targets as fill entries leave in as many entries, with what others publish in between.
#[tokio::test]
async fn r7_parts_leave_in_entries_of_their_own() {
    let node = TestNode::start().await;
    let home = node.home();
    let large: Vec<Target> = targets(TARGETS)
        .into_iter()
        .map(|target| Target {
            subscription_ids: vec![u32::MAX; 2_000],
            ..target
        })
        .collect();
    let before = home.replica().unwrap().applied_index().unwrap();
    propose(home, &Origin::Server, &message("large"), &large, 1);
    propose(home, &Origin::Server, &message("next"), &targets(TARGETS), 2);
    assert_eq!(node.completion(2).await, stored(u32::from(TARGETS)));
    assert_eq!(node.completion(1).await, stored(u32::from(TARGETS)));
    let entries = home.replica().unwrap().applied_index().unwrap() - before;
    assert!(entries >= 5, "600 KB left in {entries} entries");
    for number in 0..TARGETS {
        assert_eq!(payloads(home, number), ["large", "next"]);
    }
}

/// The client sends a message of QoS 2 again, at a node that has started anew; it goes on where apply has got to, cut as
/// the list is then.
#[tokio::test]
async fn r7_a_retry_after_an_unknown_outcome_goes_on() {
    let node = TestNode::start_with(|settings| settings.entry_bytes_max = BYTES_MAX).await;
    let (session, epoch) = open_session(node.home(), false, 600).await;
    let packet_id = quorate_proto::codec::PacketId::new(7);
    let origin = |epoch| Origin::Session {
        session,
        epoch,
        packet_id,
    };
    let mut sorted = targets(TARGETS);
    sorted.reverse();
    let publish = PublishCommand {
        origin: origin(epoch),
        message: message("first attempt"),
        targets: sorted[..11].to_vec(),
        set_retained: false,
        taken_live: false,
    };
    within(
        node.home()
            .propose_and_wait(&Command::PublishFirst { number: 1, publish }),
    )
    .await;
    let more = PublishPart {
        number: 1,
        origin: origin(epoch),
        after: Some(sorted[10].queue.clone()),
        targets: sorted[11..23].to_vec(),
        last: false,
    };
    within(node.home().propose_and_wait(&Command::PublishMore(more))).await;
    let node = node.restart(|_| {}).await;
    let home = node.home();
    assert_eq!(home.state().counts().under_way, 1);
    let (_, epoch) = open_session(home, false, 600).await;
    let again = message("second attempt");
    propose(home, &origin(epoch), &again, &targets(TARGETS), 1);
    assert_eq!(node.completion(1).await, stored(u32::from(TARGETS)));
    for number in 0..TARGETS {
        assert_eq!(payloads(home, number), ["first attempt"]);
    }
    // And now it is known.
    propose(home, &origin(epoch), &again, &targets(TARGETS), 2);
    let duplicate = Outcome::Published {
        duplicate: true,
        stored: 0,
        refused: 0,
    };
    assert_eq!(node.completion(2).await, Completion::Applied(duplicate));
}

/// R33: whoever waits for the topic's group waits for the write of the first part, also where an earlier attempt made it.
#[tokio::test]
async fn r33_a_retained_publish_in_parts_waits_for_its_topics_group() {
    let node = TestNode::start_with(|settings| {
        settings.entry_bytes_max = BYTES_MAX;
        settings.retained_messages_max = 1;
    })
    .await;
    let home = node.home();
    let topic = super::duties::topic_elsewhere();
    let retained = |topic: &str, payload: &str| {
        Message::new(topic, &[], payload.as_bytes(), QoS::ExactlyOnce, true, None)
    };
    let topics = node.node.group(Placement::data_of_topic(&topic)).clone();
    propose(
        home,
        &Origin::Server,
        &retained(&topic, "one"),
        &targets(TARGETS),
        1,
    );
    assert_eq!(node.completion(1).await, stored(u32::from(TARGETS)));
    let value = topics.state().retained(&topic).unwrap();
    assert_eq!(text(&value.message), "one");

    // Refused by the topic's group, and stored nowhere else: then it is final that nothing holds it (R13).
    let beyond = (0..)
        .map(|number| format!("other/{number}"))
        .find(|other| Placement::data_of_topic(other) == Placement::data_of_topic(&topic))
        .unwrap();
    let ended: Vec<Target> = targets(TARGETS)
        .into_iter()
        .map(|target| Target {
            queue: TargetQueue::Session(SessionId::new(home.id(), 1, 60_000)),
            ..target
        })
        .collect();
    propose(home, &Origin::Server, &retained(&beyond, "two"), &ended, 2);
    let limit = Completion::Applied(Outcome::Refused(RefusedReason::LimitReached));
    assert_eq!(node.completion(2).await, limit);

    // An earlier attempt, of a start that has ended; its write was taken then.
    let (session, epoch) = open_session(home, false, 600).await;
    let origin = |epoch| Origin::Session {
        session,
        epoch,
        packet_id: quorate_proto::codec::PacketId::new(7),
    };
    let publish = PublishCommand {
        origin: origin(epoch),
        message: retained(&topic, "three"),
        targets: vec![],
        set_retained: true,
        taken_live: false,
    };
    within(home.propose_and_wait(&Command::PublishFirst { number: 9, publish })).await;
    eventually(|| (home.state().counts().outbox == 0).then_some(())).await;
    within(node.node.checkpoint()).await;
    let node = node.restart(|_| {}).await;
    let home = node.home();
    let (_, epoch) = open_session(home, false, 600).await;
    propose(
        home,
        &origin(epoch),
        &retained(&topic, "three"),
        &targets(TARGETS),
        3,
    );
    assert_eq!(node.completion(3).await, stored(u32::from(TARGETS)));
}

/// R31: a will whose targets no entry of this size holds is published, once.
#[tokio::test]
async fn r31_a_will_with_many_targets_is_published_in_parts() {
    let node = TestNode::start_with(|settings| settings.entry_bytes_max = BYTES_MAX).await;
    *node.told.targets.lock() = targets(TARGETS);
    for home in [node.home(), node.node.group(Placement::live_of_client(CLIENT))] {
        let will = WillMessage {
            message: message_to("will", b"gone"),
            delay_secs: 0,
        };
        let open = Command::OpenSession {
            client_id: CLIENT.into(),
            clean_start: true,
            expiry_secs: 0,
            will: Some(Box::new(will)),
            limits: LIMITS,
        };
        let Completion::Applied(Outcome::Opened { session, epoch, .. }) =
            within(home.propose_and_wait(&open)).await
        else {
            panic!("not opened")
        };
        let close = Command::CloseConnection {
            session,
            epoch,
            publish_will: true,
            expiry_secs: None,
        };
        within(home.propose_and_wait(&close)).await;
        let delivered = eventually(|| node.told.wills.lock().pop()).await;
        assert_eq!(delivered, "gone");
        let group = match Placement::kind(home.id()) {
            GroupKind::Live => node.node.group(Placement::data_of_topic("will")),
            _ => home,
        };
        for number in 0..TARGETS {
            assert_eq!(payloads(group, number), ["gone"], "{number}");
        }
        for number in 0..TARGETS {
            let queue = TargetQueue::Session(elsewhere(number));
            let sequences = vec![Sequence(0)];
            within(group.propose_and_wait(&Command::Settle { queue, sequences })).await;
        }
        assert_eq!(group.state().counts().under_way, 0);
    }
}

/// What cannot be stored at all is refused once, and nothing of it stays.
#[tokio::test]
async fn r7_a_message_that_no_entry_holds_is_refused_with_all_its_parts() {
    let node = TestNode::start_with(|settings| settings.entry_bytes_max = BYTES_MAX).await;
    let home = node.home();
    let huge = message_to("t", &vec![0; crate::raft::BATCH_BYTES_MAX]);
    propose(home, &Origin::Server, &huge, &targets(TARGETS), 1);
    propose(home, &Origin::Server, &message("m"), &targets(TARGETS), 2);
    assert_eq!(node.completion(1).await, Completion::TooLarge);
    assert_eq!(node.completion(2).await, stored(u32::from(TARGETS)));
    assert_eq!(payloads(home, 3), ["m"]);
    assert_eq!(home.state().counts().under_way, 0);
}
