//! Feeds between a source and a node that follows, without a network: frames are handed over by hand.

mod following;

use std::time::Duration;

use super::follower::FeedEnded;
use super::told::{Beginning, Told};
use crate::node::Placement;
use crate::node::group::Standing;
use crate::node::peers::{AnswerBody, RequestBody, proto};
use crate::node::proposer::Waiter;
use crate::node::tests::duties::{retained, topic_elsewhere};
use crate::node::tests::{CLIENT, TestNode, eventually, message, publish, target};
use crate::raft::PeerStart;
use crate::raft::tests::within;
use crate::state::*;
use quorate_proto::codec::QoS;
use quorate_storage::log::GroupId;
use tokio::sync::{mpsc, oneshot, watch};

const OTHER: (NodeId, NodeIncarnation) = (NodeId(2), NodeIncarnation(7));

fn other() -> PeerStart {
    PeerStart {
        node: OTHER.0,
        incarnation: OTHER.1,
    }
}

/// Asks as the other node does, and what it has been told since.
struct Follower {
    ask: proto::Follow,
    told: Told,
    applied: u64,
}

impl Follower {
    /// Begins a feed and takes everything that is there.
    async fn begin(node: &TestNode, attached: &[SessionId]) -> Self {
        let mut ask = proto::Follow {
            attached: attached.iter().map(|session| session.0).collect(),
            ..proto::Follow::default()
        };
        let mut beginning = Beginning::at(attached);
        loop {
            let frame = within(node.home().answer_follow(other(), ask.clone()))
                .await
                .unwrap();
            (ask.feed, ask.have) = (frame.feed, frame.frame);
            for item in frame.items {
                beginning.take(node.home().id(), OTHER, item).unwrap();
            }
            if frame.applied > 0 {
                let (told, ..) = beginning.finish();
                let applied = frame.applied;
                return Self { ask, told, applied };
            }
        }
    }

    /// The events of the next frames, until everything up to `index` was told.
    async fn events(&mut self, node: &TestNode, index: u64) -> Vec<Event> {
        let mut events = Vec::new();
        while self.applied < index {
            let frame = within(node.home().answer_follow(other(), self.ask.clone()))
                .await
                .unwrap();
            self.take(node, frame, &mut events);
        }
        events
    }

    fn take(&mut self, node: &TestNode, frame: proto::Followed, events: &mut Vec<Event>) {
        (self.ask.feed, self.ask.have, self.applied) = (frame.feed, frame.frame, frame.applied);
        let group = node.home().id();
        for item in frame.items {
            self.told
                .take(group, OTHER, item, events, &mut Vec::new())
                .unwrap();
        }
    }
}

async fn open(node: &TestNode, client_id: &str) -> SessionId {
    let command = Command::OpenSession {
        client_id: client_id.into(),
        clean_start: true,
        expiry_secs: 600,
        will: None,
        limits: SessionLimits {
            sessions_max: 1_000,
            subscriptions_max: 1_000,
        },
    };
    match within(node.home().propose_and_wait(&command)).await {
        crate::node::Completion::Applied(Outcome::Opened { session, .. }) => session,
        other => panic!("{other:?}"),
    }
}

fn subscription(filter: &str) -> Subscription {
    Subscription {
        filter: filter.into(),
        options: Default::default(),
        subscription_id: None,
    }
}

async fn subscribe(node: &TestNode, session: SessionId, filter: &str) {
    let command = Command::Subscribe {
        session,
        epoch: Epoch(1),
        subscriptions: vec![subscription(filter)],
        limits: SessionLimits {
            sessions_max: 1_000,
            subscriptions_max: 1_000,
        },
        replay: None,
    };
    within(node.home().propose_and_wait(&command)).await;
}

/// R6: a feed begins with all sessions, however many frames that takes, and goes on with what changes.
#[tokio::test]
async fn r6_a_feed_begins_with_everything_and_goes_on() {
    let node = TestNode::start().await;
    let mut sessions = Vec::new();
    for number in 0..600 {
        sessions.push(open(&node, &format!("c{number}")).await);
    }
    subscribe(&node, sessions[0], "a/b").await;
    let mut follower = Follower::begin(&node, &[]).await;
    for (number, session) in sessions.iter().enumerate() {
        let view = follower.told.session(&format!("c{number}")).unwrap();
        assert_eq!((view.session, view.owner.unwrap().node), (*session, NodeId(1)));
    }
    subscribe(&node, sessions[1], "c/d").await;
    let index = node.home().known_index().unwrap();
    let events = follower.events(&node, index).await;
    assert_eq!(
        events,
        [Event::Subscribed {
            session: sessions[1],
            subscription: subscription("c/d")
        }]
    );
    let end = Command::EndSession {
        session: sessions[2],
        publish_will: false,
    };
    within(node.home().propose_and_wait(&end)).await;
    let index = node.home().known_index().unwrap();
    follower.events(&node, index).await;
    assert!(follower.told.session("c2").is_none());
}

/// R6: the whole of a session is told where it is asked for, so that what is known in vain goes.
#[tokio::test]
async fn r6_a_session_is_told_again_as_a_whole() {
    let node = TestNode::start().await;
    let session = open(&node, CLIENT).await;
    subscribe(&node, session, "a").await;
    let mut follower = Follower::begin(&node, &[]).await;
    follower.ask.refresh = vec![session.0];
    let frame = within(node.home().answer_follow(other(), follower.ask.clone()))
        .await
        .unwrap();
    let mut events = Vec::new();
    follower.take(&node, frame, &mut events);
    let subscriptions = vec![subscription("a")];
    assert_eq!(
        events.last(),
        Some(&Event::Subscriptions {
            session,
            subscriptions
        })
    );
}

/// A frame that was lost is sent again, and no other.
#[tokio::test]
async fn a_lost_frame_is_sent_again() {
    let node = TestNode::start().await;
    let session = open(&node, CLIENT).await;
    let follower = Follower::begin(&node, &[]).await;
    subscribe(&node, session, "a").await;
    let ask = || node.home().answer_follow(other(), follower.ask.clone());
    let first = within(ask()).await.unwrap();
    subscribe(&node, session, "b").await;
    assert_eq!(within(ask()).await.unwrap(), first);
    let mut ask = follower.ask.clone();
    ask.have = first.frame + 1;
    assert!(
        within(node.home().answer_follow(other(), ask)).await.is_none(),
        "it begins again"
    );
    let mut ask = follower.ask.clone();
    ask.feed += 1;
    assert!(within(node.home().answer_follow(other(), ask)).await.is_none());
}

/// R19, R20: the queues of attached sessions are told of, from what they hold when they are attached; others are not.
#[tokio::test]
async fn r20_queues_are_told_to_the_node_of_their_connection() {
    let node = TestNode::start().await;
    let [here, elsewhere] = [1, 2].map(|number| SessionId::new(GroupId(200), 1, number));
    let fill = async |session| {
        let targets = vec![target(TargetQueue::Session(session), QoS::AtLeastOnce)];
        within(node.home().propose_and_wait(&publish(message("x"), targets))).await;
    };
    fill(here).await;
    let mut follower = Follower::begin(&node, &[here]).await;
    let queue = |session| TargetQueue::Session(session);
    assert_eq!(follower.told.queue_len(&queue(here)), 1);
    fill(here).await;
    fill(elsewhere).await;
    let index = node.home().known_index().unwrap();
    let events = follower.events(&node, index).await;
    assert!(
        matches!(&events[..], [Event::Queued { queue: TargetQueue::Session(session), count: 1, .. }] if *session == here)
    );
    // Left and come again: what is in the queue counts once.
    let attach = |attached: &[SessionId], detached: &[SessionId]| proto::Attach {
        feed: follower.ask.feed,
        attached: attached.iter().map(|session| session.0).collect(),
        detached: detached.iter().map(|session| session.0).collect(),
        ..proto::Attach::default()
    };
    node.home()
        .answer_attach(other(), &attach(&[here, elsewhere], &[here]))
        .unwrap();
    follower.told.attach(elsewhere);
    fill(elsewhere).await;
    let index = node.home().known_index().unwrap();
    follower.events(&node, index).await;
    assert_eq!(follower.told.queue_len(&queue(here)), 2);
    assert_eq!(follower.told.queue_len(&queue(elsewhere)), 2);
    let mut events = Vec::new();
    follower.told.detach(here, &mut events);
    assert!(matches!(&events[..], [Event::Removed { count: 2, .. }]));
}

/// R27: of the queues of sessions that are connected elsewhere a node is told how long they are, about; it hears of them
/// when it begins, and when their connection leaves it.
#[tokio::test]
async fn r27_the_lengths_of_queues_are_told_to_nodes_that_follow() {
    let node = TestNode::start().await;
    let [here, elsewhere] = [1, 2].map(|number| SessionId::new(GroupId(200), 1, number));
    let fill = async |session, count: u32| {
        for _ in 0..count {
            let targets = vec![target(TargetQueue::Session(session), QoS::AtLeastOnce)];
            within(node.home().propose_and_wait(&publish(message("x"), targets))).await;
        }
    };
    let step = node.home().settings.queue_limits.messages_max / 64;
    let queue = |session| TargetQueue::Session(session);
    fill(elsewhere, step).await;
    fill(here, step + 1).await;
    let mut follower = Follower::begin(&node, &[here]).await;
    assert_eq!(follower.told.queue_len(&queue(elsewhere)), step);
    fill(elsewhere, step + 1).await;
    let events = follower.events(&node, node.home().known_index().unwrap()).await;
    assert_eq!(follower.told.queue_len(&queue(elsewhere)), 2 * step);
    let counts = events.iter().map(|event| match event {
        Event::Queued { count, .. } => i64::from(*count),
        Event::Removed { count, .. } => -i64::from(*count),
        _ => 0,
    });
    assert_eq!(counts.sum::<i64>(), i64::from(step), "as events they add up");
    let mut events = Vec::new();
    follower.told.detach(here, &mut events);
    let attach = proto::Attach {
        feed: follower.ask.feed,
        detached: vec![here.0],
        ..proto::Attach::default()
    };
    node.home().answer_attach(other(), &attach).unwrap();
    fill(elsewhere, 1).await;
    follower.events(&node, node.home().known_index().unwrap()).await;
    assert_eq!(follower.told.queue_len(&queue(here)), step + 1);
    assert_eq!(follower.told.queue_len(&queue(elsewhere)), 2 * step);
}

/// Who waits for an index hears of it at once, whether or not the entry concerns it.
#[tokio::test]
async fn who_waits_for_an_index_is_answered() {
    let node = TestNode::start().await;
    let follower = Follower::begin(&node, &[]).await;
    let wanted = node.home().known_index().unwrap() + 1;
    let attach = proto::Attach {
        feed: follower.ask.feed,
        wanted,
        ..proto::Attach::default()
    };
    node.home().answer_attach(other(), &attach).unwrap();
    let asked = node.home().answer_follow(other(), follower.ask.clone());
    let applied = async {
        // Nobody is told of this.
        let targets = vec![target(TargetQueue::Session(SessionId(1)), QoS::AtLeastOnce)];
        node.home()
            .propose_and_wait(&publish(message("x"), targets))
            .await
    };
    let (frame, _) = tokio::time::timeout(Duration::from_secs(5), async { tokio::join!(asked, applied) })
        .await
        .unwrap();
    assert!(frame.unwrap().applied >= wanted);
}

#[test]
fn all_refused_writes_that_a_beginning_tells_are_taken() {
    let at = |index| RetainedSource {
        group: crate::node::META,
        index,
        position: 0,
    };
    let taken = |up_to, refused: &[u64]| RetainedTaken {
        topics: Some(GroupId(3)),
        up_to: at(up_to),
        refused: refused.iter().copied().map(at).collect(),
        forgotten: (up_to == 5).then(|| at(2)),
    };
    let mut beginning = Beginning::at(&[]);
    for told in [taken(5, &[4]), taken(7, &[6]), taken(8, &[])] {
        let item = super::items::retained_item(&told);
        beginning.take(crate::node::META, OTHER, item).unwrap();
    }
    let (_, events, _) = beginning.finish();
    let mut all = taken(8, &[4, 6]);
    all.forgotten = Some(at(2));
    assert_eq!(events, [Event::RetainedTaken(all)]);
}

/// A node that was let go waits to hear of it, however much the feed has to tell beside.
#[tokio::test]
async fn a_change_of_members_is_told_by_a_busy_feed() {
    let node = TestNode::start().await;
    let session = SessionId::new(GroupId(200), 1, 1);
    let mut follower = Follower::begin(&node, &[session]).await;
    let replica = node.home().replica().unwrap();
    let publish = || {
        let targets = vec![target(TargetQueue::Session(session), QoS::AtLeastOnce)];
        publish(message("x"), targets)
    };
    within(node.home().propose_and_wait(&publish())).await;
    let frame = within(node.home().answer_follow(other(), follower.ask.clone()))
        .await
        .unwrap();
    follower.take(&node, frame, &mut Vec::new());
    let (learner, address) = (NodeId(9), crate::raft::NodeAddress::default());
    // The change is settled a little later than it is answered.
    let has = |count| {
        let replica = &replica;
        eventually(move || replica.settled_members().filter(|members| members.len() == count))
    };
    within(replica.add_learner(learner, address)).await.unwrap();
    has(2).await;
    within(node.home().propose_and_wait(&publish())).await;
    let frame = within(node.home().answer_follow(other(), follower.ask.clone()))
        .await
        .unwrap();
    assert!(!frame.items.is_empty(), "it has something else to tell");
    assert_eq!(frame.members, [1, 9]);
    follower.take(&node, frame, &mut Vec::new());

    within(replica.remove_learner(learner)).await.unwrap();
    has(1).await;
    within(node.home().propose_and_wait(&publish())).await;
    let frame = within(node.home().answer_follow(other(), follower.ask.clone()))
        .await
        .unwrap();
    assert_eq!((frame.items.is_empty(), &frame.members[..]), (false, &[1][..]));
}

/// A source that is no replica any more says so, and keeps nothing for anybody.
#[tokio::test]
async fn a_source_without_replica_feeds_nobody() {
    let node = TestNode::start().await;
    let follower = Follower::begin(&node, &[]).await;
    node.home().stand_on(Standing::Feed);
    assert!(
        within(node.home().answer_follow(other(), follower.ask.clone()))
            .await
            .is_none()
    );
    let ask = proto::Follow::default();
    assert!(within(node.home().answer_follow(other(), ask)).await.is_none());
    node.home().stand_on(Standing::Replica);
    node.home().feeds.end_all();
    assert!(
        within(node.home().answer_follow(other(), follower.ask))
            .await
            .is_none()
    );
    eventually(|| (node.told.references.lock().is_empty()).then_some(())).await;
}

#[test]
fn nonsense_is_refused() {
    let mut told = Told::default();
    let mut take = |item| told.take(crate::node::META, OTHER, item, &mut Vec::new(), &mut Vec::new());
    assert!(take(proto::FeedItem { body: None }).is_err());
    let subscribed = proto::FeedSubscription {
        options: 0x3f,
        ..Default::default()
    };
    assert!(take(super::items::item(super::items::Body::Subscribed(subscribed))).is_err());
}
