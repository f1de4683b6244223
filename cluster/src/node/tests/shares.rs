//! Shared subscriptions with durable members.

use quorate_proto::codec::SubscriptionOptions;

use super::*;

const WINDOW: u32 = 16;

fn share() -> ShareKey {
    ShareKey {
        name: "g".into(),
        filter: "topic".into(),
    }
}

fn share_queue() -> TargetQueue {
    TargetQueue::Share(share())
}

/// A connected durable member with the highest QoS.
fn member(session: SessionId) -> ShareMember {
    assert!(Placement::is_durable(session));
    ShareMember {
        session,
        at: MemberAt::Here(location(session.0 as u32)),
        options: SubscriptionOptions {
            qos: QoS::ExactlyOnce,
            ..SubscriptionOptions::default()
        },
        subscription_id: None,
    }
}

/// A session whose home is another data group.
fn session(node: &TestNode, number: u16) -> SessionId {
    let is_other = |group: &GroupId| *group != node.home().id();
    SessionId::new(Placement::data_groups().find(is_other).unwrap(), 1, number)
}

impl TestNode {
    fn set_members(&self, sessions: &[SessionId]) {
        let members = sessions.iter().map(|session| member(*session)).collect();
        self.told.members.lock().insert(share(), members);
        self.home().share_ready(&share());
    }

    async fn publish_to_share(&self, count: u32) {
        for number in 0..count {
            let mut message = message(&number.to_string());
            message.qos = QoS::ExactlyOnce;
            let targets = vec![target(share_queue(), QoS::ExactlyOnce)];
            self.home().propose(&publish(message, targets), None);
        }
        self.settled().await;
    }

    fn queued(&self, queue: &TargetQueue) -> u32 {
        self.home().state().queue_len(queue)
    }

    async fn queue_becomes(&self, queue: &TargetQueue, len: u32) {
        eventually(|| (self.queued(queue) == len).then_some(())).await;
        // Whatever is under way would change it still.
        for _ in 0..3 {
            self.settled().await;
        }
        assert_eq!(self.queued(queue), len);
    }

    /// Everything proposed until now is applied.
    pub(super) async fn settled(&self) {
        within(self.home().propose_and_wait(&publish(message(""), vec![]))).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }

    async fn settle(&self, session: SessionId, sequences: std::ops::Range<u64>) {
        let settle = Command::Settle {
            queue: TargetQueue::Session(session),
            sequences: sequences.map(Sequence).collect(),
        };
        within(self.home().propose_and_wait(&settle)).await;
    }
}

/// R37, bounded: a member is assigned as much as its window holds, the rest stays with the share.
#[tokio::test]
async fn a_member_is_assigned_no_more_than_its_window() {
    const COUNT: u32 = 200;
    let node = TestNode::start().await;
    let (first, second) = (session(&node, 1), session(&node, 2));
    let queues = [first, second].map(TargetQueue::Session);
    node.set_members(&[first]);
    node.publish_to_share(COUNT).await;
    node.queue_becomes(&queues[0], WINDOW).await;
    assert_eq!(node.queued(&share_queue()), COUNT - WINDOW);

    node.set_members(&[first, second]);
    node.queue_becomes(&queues[1], WINDOW).await;
    assert_eq!(node.queued(&queues[0]), WINDOW);

    node.settle(first, 0..10).await;
    eventually(|| (node.queued(&share_queue()) == COUNT - 2 * WINDOW - 10).then_some(())).await;
    node.queue_becomes(&queues[0], WINDOW).await;
}

/// What was assigned before a restart counts after it.
#[tokio::test]
async fn a_restart_does_not_forget_what_was_assigned() {
    let node = TestNode::start().await;
    let only = session(&node, 1);
    node.set_members(&[only]);
    node.publish_to_share(50).await;
    node.queue_becomes(&TargetQueue::Session(only), WINDOW).await;
    let node = node.restart(|_| {}).await;
    node.set_members(&[only]);
    node.queue_becomes(&TargetQueue::Session(only), WINDOW).await;
    node.settle(only, 0..u64::from(WINDOW)).await;
    eventually(|| (node.queued(&share_queue()) == 50 - 2 * WINDOW).then_some(())).await;
}

/// A member whose session is known to have ended is refused: its references go to others, none is forgotten.
#[tokio::test]
async fn a_refused_assignment_goes_to_another_member() {
    let node = TestNode::start().await;
    let ended = SessionId::new(node.home().id(), 1, 99);
    let other = session(&node, 1);
    node.set_members(&[ended, other]);
    node.publish_to_share(10).await;
    node.queue_becomes(&TargetQueue::Session(other), 10).await;
    assert_eq!(node.queued(&share_queue()), 0);
}

/// A share leaves nothing behind where it has no queue, nor when its queue is dropped.
#[tokio::test]
async fn nothing_is_remembered_of_a_share_without_queue() {
    let node = TestNode::start().await;
    let home = node.home();
    let live = SessionId::new(Placement::live_of_client("live"), 1, 1);
    let mut member = member(session(&node, 1));
    member.session = live;
    node.told.members.lock().insert(share(), vec![member]);
    home.share_ready(&share());
    node.settled().await;
    assert!(home.shares.lock().is_empty(), "no queue");

    node.publish_to_share(2).await;
    eventually(|| (node.told.shared.lock().len() == 2).then_some(())).await;
    node.told.unknown.lock().insert(share_queue());
    assert!(!home.shares.lock().is_empty(), "a member holds something");
    within(node.node.drop_unknown_queues(home)).await;
    node.settled().await;
    home.forget_shares();
    assert!(home.shares.lock().is_empty(), "what it held is gone");
}

/// What a lost member held goes to others, and what others hold does not.
#[tokio::test]
async fn a_lost_member_gives_back_what_it_held() {
    let node = TestNode::start().await;
    let home = node.home();
    let live = |number| SessionId::new(Placement::live_of_client("live"), 1, number);
    let members = [1, 2].map(|number| ShareMember {
        session: live(number),
        ..member(session(&node, number))
    });
    node.told.members.lock().insert(share(), members.to_vec());
    node.publish_to_share(4).await;
    eventually(|| (node.told.shared.lock().len() == 4).then_some(())).await;
    node.told.members.lock().insert(share(), members[1..].to_vec());
    home.share_member_lost(live(1));
    let mut given: Vec<_> = eventually(|| {
        let shared = node.told.shared.lock();
        let given = |given: &SharedReference| (given.reference.sequence.0, given.at);
        (shared.len() == 6).then(|| shared.iter().skip(4).map(given).collect())
    })
    .await;
    given.sort_unstable_by_key(|(sequence, _)| *sequence);
    assert_eq!(given, [(0, members[1].at), (2, members[1].at)]);
}
