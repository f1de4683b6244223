//! What a group does by itself.

use quorate_proto::codec::SubscriptionOptions;

use super::*;

/// A topic whose retained message has another home than what [`CLIENT`] publishes.
pub(in crate::node) fn topic_elsewhere() -> String {
    let is_elsewhere = |topic: &String| Placement::data_of_topic(topic) != Placement::data_of_client(CLIENT);
    (0..)
        .map(|number| format!("topic/{number}"))
        .find(is_elsewhere)
        .unwrap()
}

pub(in crate::node) fn retained(topic: &str, payload: &str) -> Command {
    Command::Publish(PublishCommand {
        origin: Origin::Server,
        message: message_to(topic, payload.as_bytes()),
        targets: vec![],
        set_retained: true,
        taken_live: false,
    })
}

impl TestNode {
    /// Opens a session without expiry that leaves a will behind, and loses its connection.
    async fn lose_connection(&self, client: &str, will: Message) {
        let live = self.node.group(Placement::live_of_client(client));
        let will = WillMessage {
            message: will,
            delay_secs: 0,
        };
        self.come_and_go(live, client, 0, Some(Box::new(will))).await;
    }

    /// Opens a session, and ends its connection without DISCONNECT.
    async fn come_and_go(
        &self,
        home: &Group<Told>,
        client: &str,
        expiry_secs: u32,
        will: Option<Box<WillMessage>>,
    ) -> SessionId {
        let open = Command::OpenSession {
            client_id: client.into(),
            clean_start: true,
            expiry_secs,
            will,
            limits: LIMITS,
        };
        let Completion::Applied(Outcome::Opened { session, epoch, .. }) =
            within(home.propose_and_wait(&open)).await
        else {
            panic!("not opened");
        };
        let close = Command::CloseConnection {
            session,
            epoch,
            publish_will: true,
            expiry_secs: None,
        };
        within(home.propose_and_wait(&close)).await;
        session
    }
}

/// R32: where a stop of all nodes counts later than a group began to wait for a deadline, the deadline comes sooner.
#[tokio::test]
async fn r32_a_stop_that_counts_late_wakes_what_waits_for_its_time() {
    let node = TestNode::start().await;
    let home = node.home();
    let session = node.come_and_go(home, CLIENT, 3_600, None).await;
    let is_there = || home.state().session_exists(session);
    assert!(is_there());
    // Until the group's timer waits.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    node.node.count_full_stop(GroupTime(home.now().0 + 2 * 3_600_000));
    within(async {
        while is_there() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// R31: wills of a live group whose topics are at home in a data group without leader hold up no others.
#[tokio::test]
async fn r31_a_group_without_leader_holds_up_the_wills_of_its_own_topics_alone() {
    let node = TestNode::start().await;
    let queue = TargetQueue::Session(elsewhere(1));
    *node.told.targets.lock() = vec![target(queue, QoS::AtLeastOnce)];
    let stuck = topic_elsewhere();
    let home = Placement::data_of_topic(&stuck);
    let other = (0..)
        .map(|number| format!("other/{number}"))
        .find(|topic| Placement::data_of_topic(topic) != home)
        .unwrap();
    node.disk.log().hold_group(home);
    node.lose_connection("a", message_to(&stuck, b"stuck")).await;
    node.lose_connection("b", message_to(&other, b"other")).await;
    assert_eq!(eventually(|| node.told.wills.lock().pop()).await, "other");
    node.lose_connection("c", message_to(&other, b"another")).await;
    assert_eq!(eventually(|| node.told.wills.lock().pop()).await, "another");
    node.disk.log().release();
    assert_eq!(eventually(|| node.told.wills.lock().pop()).await, "stuck");
    let live = node.node.group(Placement::live_of_client("a"));
    eventually(|| (live.state().counts().due_wills == 0).then_some(())).await;
}

/// R33: who subscribes while a retained will is published is answered when the group of its topic has the value, and so finds
/// it.
#[tokio::test]
async fn r33_a_subscription_that_crosses_a_retained_will_waits_for_it() {
    let node = TestNode::start().await;
    let topic = topic_elsewhere();
    let topics = node.node.group(Placement::data_of_topic(&topic));
    let will = Message::new(&topic, &[], b"gone", QoS::AtLeastOnce, true, None);
    let home = node.home();
    let (session, epoch) = open_session(home, true, 600).await;
    node.disk.log().hold_group(topics.id());
    node.lose_connection("a", will).await;
    eventually(|| (!home.routes.crossings.is_empty()).then_some(())).await;
    let subscribe = Command::Subscribe {
        session,
        epoch,
        subscriptions: vec![Subscription {
            filter: topic.as_str().into(),
            options: SubscriptionOptions::default(),
            subscription_id: None,
        }],
        limits: LIMITS,
        replay: None,
    };
    home.propose_routes(&subscribe, Some(1));
    // What is proposed behind it is answered at once.
    within(home.propose_and_wait(&publish(message("m"), vec![]))).await;
    assert!(node.told.completions.lock().is_empty());
    node.disk.log().release();
    assert!(matches!(
        node.completion(1).await,
        Completion::Applied(Outcome::Subscribed(_))
    ));
    assert_eq!(text(&topics.state().retained(&topic).unwrap().message), "gone");
    assert!(home.routes.crossings.is_empty());
}

/// A group answers pulls and dispatches shared references while its retained writes wait for another group.
#[tokio::test]
async fn retained_writes_hold_up_nobody() {
    let node = TestNode::start().await;
    let home = node.home();
    let topic = topic_elsewhere();
    node.disk.log().hold_group(Placement::data_of_topic(&topic));
    propose_retained(home, &retained(&topic, "kept"), 1);
    let queue = TargetQueue::Session(elsewhere(1));
    let queued = publish(message("m"), vec![target(queue, QoS::AtLeastOnce)]);
    within(home.propose_and_wait(&queued)).await;
    home.pull(PullRequest {
        session: elsewhere(1),
        location: location(1),
        from: Sequence(0),
        count_max: 10,
    });
    assert_eq!(node.references().await.references.len(), 1);
    assert!(
        node.told.completions.lock().is_empty(),
        "the topic's group holds it up"
    );
    node.disk.log().release();
    assert_eq!(node.completion(1).await, stored(0));
}

/// Wills of connections that end together are proposed together, not one commit after the other.
#[tokio::test]
async fn wills_are_published_together() {
    const WILLS: u64 = 100;
    let node = TestNode::start().await;
    let home = node.node.group(Placement::data_of_topic("topic"));
    *node.told.targets.lock() = vec![target(TargetQueue::Session(elsewhere(1)), QoS::AtLeastOnce)];
    let before = home.proposals.pushed();
    node.disk.log().hold_group(home.id());
    for number in 0..WILLS {
        node.lose_connection(&format!("client-{number}"), message(&number.to_string()))
            .await;
    }
    // The first batch may have begun with one of them.
    eventually(|| (home.proposals.pushed() > before).then_some(())).await;
    node.disk.log().release();
    let mut published = eventually(|| {
        let wills = node.told.wills.lock();
        (wills.len() as u64 == WILLS).then(|| wills.clone())
    })
    .await;
    published.sort_by_key(|will| will.parse::<u64>().unwrap());
    let numbers: Vec<String> = (0..WILLS).map(|number| number.to_string()).collect();
    assert_eq!(published, numbers, "each once");
    let entries = home.replica().unwrap().applied_index().unwrap();
    assert!(entries < WILLS / 2, "{entries} entries");
    let queue = TargetQueue::Session(elsewhere(1));
    assert_eq!(u64::from(home.state().queue_len(&queue)), WILLS);
    let live = node.node.group(Placement::live_of_client(CLIENT));
    eventually(|| (live.state().counts().due_wills == 0).then_some(())).await;
}

/// A will that no entry can hold still reaches who is connected, and is done with.
#[tokio::test]
async fn will_that_no_entry_can_hold_is_not_tried_for_ever() {
    let node = TestNode::start().await;
    // 60,000 shares with long names are more than one entry holds.
    let share = |number: u32| ShareKey {
        name: number.to_string().into(),
        filter: "f".repeat(300).into(),
    };
    let targets = (0..60_000).map(|number| target(TargetQueue::Share(share(number)), QoS::AtLeastOnce));
    *node.told.targets.lock() = targets.collect();
    node.lose_connection(CLIENT, message("will")).await;
    let live = node.node.group(Placement::live_of_client(CLIENT));
    eventually(|| (live.state().counts().due_wills == 0).then_some(())).await;
    assert_eq!(*node.told.wills.lock(), ["will"]);
}

/// A deadline is kept while all else waits.
#[tokio::test]
async fn deadlines_are_kept_while_retained_writes_wait() {
    let node = TestNode::start().await;
    let home = node.home();
    let topic = topic_elsewhere();
    node.disk.log().hold_group(Placement::data_of_topic(&topic));
    propose_retained(home, &retained(&topic, "kept"), 1);
    let (session, epoch) = open_session(home, true, 1).await;
    let close = Command::CloseConnection {
        session,
        epoch,
        publish_will: false,
        expiry_secs: None,
    };
    within(home.propose_and_wait(&close)).await;
    eventually(|| (!home.state().session_exists(session)).then_some(())).await;
    node.disk.log().release();
}
