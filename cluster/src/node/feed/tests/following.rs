//! A node that follows: what it passes to its source, and when it leaves it.

use super::*;

/// A node that follows another one; what it passes to its source is carried out by hand.
struct Passed {
    source: TestNode,
    node: TestNode,
    held: mpsc::UnboundedSender<(proto::Attach, oneshot::Sender<AnswerBody>)>,
}

impl Passed {
    const HERE: PeerStart = PeerStart {
        node: NodeId(1),
        incarnation: NodeIncarnation(1),
    };

    /// The node, and what it passes.
    async fn start() -> (
        Self,
        mpsc::UnboundedReceiver<(proto::Attach, oneshot::Sender<AnswerBody>)>,
    ) {
        let (source, node) = (TestNode::start().await, TestNode::start().await);
        // So that its own replica, which is of another group in truth, never knows as much as it is told.
        for _ in 0..50 {
            within(source.home().propose_and_wait(&publish(message("x"), vec![]))).await;
        }
        node.home().stand_on(Standing::Nothing);
        let (held, passed) = mpsc::unbounded_channel();
        (Self { source, node, held }, passed)
    }

    /// Ends when the feed does.
    async fn follow(&self) -> FeedEnded {
        let ask = |body| {
            let (source, held) = (self.source.home().clone(), self.held.clone());
            async move {
                let not_here = AnswerBody::NotHere(proto::NotHere {});
                Ok(match body {
                    RequestBody::Follow(ask) => source
                        .answer_follow(Self::HERE, ask)
                        .await
                        .map_or(not_here, AnswerBody::Followed),
                    RequestBody::Attach(attach) => {
                        let (answer, answered) = oneshot::channel();
                        held.send((attach, answer)).unwrap();
                        answered.await.unwrap_or(not_here)
                    }
                    other => panic!("{other:?}"),
                })
            }
        };
        let (_wanted, mut is_wanted) = watch::channel(true);
        self.node
            .home()
            .try_follow(OTHER.0, &mut is_wanted, ask)
            .await
            .unwrap_err()
    }

    /// The source has something to tell, and it was taken.
    async fn exchange(&self, session: SessionId) {
        let targets = vec![target(TargetQueue::Session(session), QoS::AtLeastOnce)];
        within(
            self.source
                .home()
                .propose_and_wait(&publish(message("x"), targets)),
        )
        .await;
        let index = self.source.home().known_index();
        eventually(|| (self.node.home().following.applied() >= index).then_some(())).await;
    }

    fn carry_out(&self, attach: &proto::Attach) {
        self.source.home().answer_attach(Self::HERE, attach).unwrap();
    }
}

/// The source carries out each request in a task of its own: two at once could change places, and a session that has come
/// back would be told of no more.
#[tokio::test]
async fn r20_what_is_passed_to_a_source_keeps_its_order() {
    let (followed, mut passed) = Passed::start().await;
    let session = SessionId::new(GroupId(200), 1, 1);
    let attached = &followed.node.home().attached;
    let script = async {
        followed.exchange(session).await;
        attached.set(session, true);
        let (come, answer) = passed.recv().await.unwrap();
        assert_eq!(come.attached, [session.0]);
        attached.set(session, false);
        for _ in 0..3 {
            followed.exchange(session).await;
        }
        assert!(
            passed.try_recv().is_err(),
            "the first one is not known to be carried out"
        );
        followed.carry_out(&come);
        answer.send(AnswerBody::Attached(proto::Attached {})).unwrap();
        let (gone, answer) = passed.recv().await.unwrap();
        assert_eq!(
            (&gone.attached[..], &gone.detached[..]),
            (&[][..], &[session.0][..])
        );
        attached.set(session, true);
        followed.carry_out(&gone);
        answer.send(AnswerBody::Attached(proto::Attached {})).unwrap();
        let (back, _answer) = passed.recv().await.unwrap();
        followed.carry_out(&back);
        followed.exchange(session).await;
        let queue = TargetQueue::Session(session);
        assert_eq!(followed.node.home().queue_len(&queue), 5);
    };
    tokio::select! {
        ended = followed.follow() => panic!("{ended}"),
        () = script => {}
    }
}

/// A node whose replica took over and that is placed away at once wants a feed again before the last one has ended: that one
/// told the beginning long ago, and would be ignored for ever.
#[tokio::test]
async fn a_feed_does_not_outlive_the_replica_that_took_over() {
    let (followed, _passed) = Passed::start().await;
    let script = async {
        followed.exchange(SessionId::new(GroupId(200), 1, 1)).await;
        followed.node.home().stand_on(Standing::Replica);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = within(followed.follow()) => assert!(matches!(ended, FeedEnded::NotWanted), "{ended}"),
        () = script => {}
    }
}

/// What a source said of the members is of its time: a node that got a replica since, led with it and is placed away again is
/// still needed, and deletes nothing for what it once heard.
#[tokio::test]
async fn what_was_heard_of_the_members_does_not_outlive_the_feed() {
    let (followed, _passed) = Passed::start().await;
    let node = followed.node.home();
    let follow_until_told = async || {
        tokio::select! {
            ended = followed.follow() => panic!("{ended}"),
            () = followed.exchange(SessionId::new(GroupId(200), 1, 1)) => {}
        }
        assert!(node.following.excludes(NodeId(9)));
    };
    follow_until_told().await;
    let (_wanted, mut is_wanted) = watch::channel(true);
    let silent = |_| std::future::pending();
    let feed = node.try_follow(OTHER.0, &mut is_wanted, silent);
    assert!(within(feed).await.is_err());
    assert!(!node.following.excludes(NodeId(9)), "another feed has begun");
    follow_until_told().await;
    node.following.end();
    assert!(!node.following.excludes(NodeId(9)), "a replica took over");
}

/// R33: a feed begins with what has become of retained writes: who waits for one that was taken before is answered.
#[tokio::test]
async fn r33_a_feed_begins_with_what_was_taken() {
    let (followed, _passed) = Passed::start().await;
    let source = followed.source.home();
    let topic = topic_elsewhere();
    let topics = Placement::data_of_topic(&topic);
    within(source.propose_and_wait(&retained(&topic, "x"))).await;
    let write = RetainedSource {
        group: source.id(),
        index: source.known_index().unwrap(),
        position: 0,
    };
    eventually(|| (source.state().counts().outbox == 0).then_some(())).await;
    let stored = |stored| {
        crate::node::Completion::Applied(Outcome::Published {
            duplicate: false,
            stored,
            refused: 0,
        })
    };
    let node = followed.node.home();
    node.wait_for_retained(topics, write, Waiter::Ticket(1), stored(0));
    tokio::select! {
        ended = followed.follow() => panic!("{ended}"),
        told = followed.node.completion(1) => assert_eq!(told, stored(0)),
    }
}

/// R1: a source that answers and applies nothing is left, so that who follows it can confirm what others have applied.
#[tokio::test]
async fn r1_a_source_that_stands_still_is_left_for_another() {
    let (followed, mut passed) = Passed::start().await;
    let node = followed.node.home();
    let script = async {
        followed.exchange(SessionId::new(GroupId(200), 1, 1)).await;
        let wait = node.reached(node.known_index().unwrap() + 1_000);
        let answers = async {
            while let Some((_, answer)) = passed.recv().await {
                answer.send(AnswerBody::Attached(proto::Attached {})).unwrap();
            }
        };
        tokio::join!(wait, answers);
    };
    tokio::select! {
        ended = within(followed.follow()) => assert!(matches!(ended, FeedEnded::Behind), "{ended}"),
        () = script => {}
    }
}

/// Whoever came or went and was not heard of is told of with a new feed.
#[tokio::test]
async fn a_feed_ends_where_the_source_does_not_carry_out_what_is_passed() {
    let (followed, mut passed) = Passed::start().await;
    let session = SessionId::new(GroupId(200), 1, 1);
    let script = async {
        followed.exchange(session).await;
        followed.node.home().attached.set(session, true);
        let (_, answer) = passed.recv().await.unwrap();
        answer.send(AnswerBody::NotHere(proto::NotHere {})).unwrap();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = within(followed.follow()) => assert!(matches!(ended, FeedEnded::NoAnswer(_)), "{ended}"),
        () = script => {}
    }
}
