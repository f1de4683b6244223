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

/// A connected member whose session ends with its connection.
fn live_member(number: u16, qos: QoS) -> ShareMember {
    let session = SessionId::new(Placement::live_of_client("live"), 1, number);
    let options = SubscriptionOptions {
        qos,
        ..SubscriptionOptions::default()
    };
    ShareMember {
        session,
        at: MemberAt::Here(location(session.0 as u32)),
        options,
        subscription_id: None,
    }
}

fn hold_of(given: &SharedReference) -> ShareHold {
    ShareHold {
        share: given.share.clone(),
        sequence: given.reference.sequence,
        give: given.give,
        giving: given.giving,
        from: NodeId(1),
    }
}

fn give_back(node: &TestNode, given: &SharedReference) {
    let hold = hold_of(given);
    if node.home().give_back_shared(&hold) {
        let givers: Vec<_> = node.home().givers_of(&hold).collect();
        assert_eq!(givers, [NodeId(1)]);
        node.home().share_returned(&hold.share, hold.sequence, hold.give);
    }
}

/// Sequences and sessions.
fn who(given: &[SharedReference]) -> Vec<(u64, SessionId)> {
    let who = given
        .iter()
        .map(|given| (given.reference.sequence.0, given.session));
    who.collect()
}

impl TestNode {
    fn set_live_members(&self, members: &[ShareMember]) {
        self.told.members.lock().insert(share(), members.to_vec());
        self.home().share_ready(&share());
    }

    /// What was given to members, when so much was, and nothing more comes.
    async fn given(&self, count: usize) -> Vec<SharedReference> {
        eventually(|| (self.told.shared.lock().len() >= count).then_some(())).await;
        for _ in 0..3 {
            self.settled().await;
        }
        let given = self.told.shared.lock().clone();
        assert_eq!(given.len(), count, "{:?}", who(&given));
        given
    }

    /// The members' node has taken what was given.
    fn take(&self, given: &[SharedReference]) -> Vec<bool> {
        let take = |given: &SharedReference| self.home().take_shared(&hold_of(given), given.session);
        given.iter().map(take).collect()
    }

    /// The members' node moves what was offered to them; whether each has been moved, or is nobody's.
    async fn move_offered(&self, given: &[SharedReference]) -> Vec<bool> {
        let mut moved = Vec::new();
        for given in given {
            let hold = hold_of(given);
            if !self.home().take_shared(&hold, given.session) {
                moved.push(false);
                continue;
            }
            let delivery = ShareDelivery {
                qos: QoS::ExactlyOnce,
                subscription_ids: Vec::new(),
                retain: false,
            };
            self.told.completions.lock().clear();
            self.home().move_shared(&hold, given.session, delivery, 7);
            let completion = eventually(|| self.told.completions.lock().remove(&7)).await;
            moved.push(self.home().moved_shared(&hold, &completion));
        }
        moved
    }

    /// Another leader takes over, which is this node again.
    async fn change_leader(&self) {
        let term = self.home().replica().and_then(|replica| replica.led_term());
        self.home().begin_dispatch(None);
        self.home()
            .begin_dispatch(Some(term.expect("a node alone leads")));
        eventually(|| self.home().shares.lock().is_open().then_some(())).await;
    }

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
}

/// R37: what is offered to a durable member is the share's until its node has moved it to the member's own queue.
#[tokio::test]
async fn r37_a_durable_members_node_moves_what_it_is_offered() {
    const COUNT: u32 = 50;
    let node = TestNode::start().await;
    let (first, second) = (session(&node, 1), session(&node, 2));
    node.set_members(&[first]);
    node.publish_to_share(COUNT).await;
    let given = node.given(WINDOW as usize).await;
    assert!(given.iter().all(|given| given.giving == Giving::Offered));
    assert_eq!(node.queued(&share_queue()), COUNT);

    assert_eq!(node.move_offered(&given[..6]).await, [true; 6]);
    node.queue_becomes(&TargetQueue::Session(first), 6).await;
    assert_eq!(node.queued(&share_queue()), COUNT - 6);
    let given = node.given(WINDOW as usize + 6).await;

    // What comes back goes to who has room.
    node.set_members(&[second]);
    node.given(2 * WINDOW as usize + 6).await;
    give_back(&node, &given[7]);
    let given = node.given(2 * WINDOW as usize + 6).await;
    assert_eq!(
        node.move_offered(&given[WINDOW as usize + 6..][..1]).await,
        [true]
    );
    let given = node.given(2 * WINDOW as usize + 7).await;
    assert_eq!(who(&given[2 * WINDOW as usize + 6..]), [(7, second)]);
}

/// R37: a node that says to have nothing of what it was offered has not moved it and will not: it goes to another. So does
/// what was offered before a restart.
#[tokio::test]
async fn r37_what_was_offered_and_not_moved_is_offered_again() {
    let node = TestNode::start().await;
    let only = session(&node, 1);
    node.set_members(&[only]);
    node.publish_to_share(4).await;
    let given = node.given(4).await;
    assert_eq!(node.move_offered(&given[..1]).await, [true]);
    assert_eq!(node.take(&given[1..2]), [true]);
    node.change_leader().await;
    let again = node.given(6).await;
    assert_eq!(
        who(&again[4..]),
        [(2, only), (3, only)],
        "the second is with the member's node"
    );
    assert_eq!(
        node.move_offered(&given[2..3]).await,
        [false],
        "of the earlier leader"
    );

    let node = node.restart(|_| {}).await;
    node.set_members(&[only]);
    assert_eq!(who(&node.given(3).await), [(1, only), (2, only), (3, only)]);
    assert_eq!(node.queued(&TargetQueue::Session(only)), 1);
}

/// What was offered to nodes that are lost is given to others when nothing of theirs can be committed any more.
#[tokio::test]
async fn r37_what_was_offered_to_a_lost_member_comes_from_its_node_alone() {
    let node = TestNode::start().await;
    let (first, second) = (session(&node, 1), session(&node, 2));
    node.set_members(&[first]);
    node.publish_to_share(1).await;
    let given = node.given(1).await;
    assert_eq!(node.take(&given), [true]);
    node.set_members(&[second]);
    node.home().share_member_lost(first);
    node.given(1).await;
    give_back(&node, &given[0]);
    assert_eq!(who(&node.given(2).await[1..]), [(0, second)]);
}

/// A member whose session is known to have ended is refused: its references go to others, none is forgotten.
#[tokio::test]
async fn a_refused_assignment_goes_to_another_member() {
    let node = TestNode::start().await;
    let ended = SessionId::new(node.home().id(), 1, 99);
    let other = session(&node, 1);
    node.set_members(&[ended, other]);
    node.publish_to_share(10).await;
    let given = node.given(10).await;
    node.set_members(&[other]);
    for given in &given {
        let is_moved = node.move_offered(std::slice::from_ref(given)).await[0];
        assert_eq!(is_moved, given.session == other);
        if !is_moved {
            give_back(&node, given);
        }
    }
    let again = node.given(15).await;
    assert_eq!(node.move_offered(&again[10..]).await, [true; 5]);
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
    let members = [1, 2].map(|number| live_member(number, QoS::AtLeastOnce));
    node.told.members.lock().insert(share(), members.to_vec());
    node.publish_to_share(4).await;
    eventually(|| (node.told.shared.lock().len() == 4).then_some(())).await;
    node.told.members.lock().insert(share(), members[1..].to_vec());
    home.share_member_lost(members[0].session);
    let mut given: Vec<_> = eventually(|| {
        let shared = node.told.shared.lock();
        let given = |given: &SharedReference| (given.reference.sequence.0, given.at);
        (shared.len() == 6).then(|| shared.iter().skip(4).map(given).collect())
    })
    .await;
    given.sort_unstable_by_key(|(sequence, _)| *sequence);
    assert_eq!(given, [(0, members[1].at), (2, members[1].at)]);
}

/// R37: a member whose session ends with its connection is sent a QoS 2 message when the group knows that it has it.
#[tokio::test]
async fn r37_what_a_live_member_is_sent_at_qos_2_is_committed_first() {
    let node = TestNode::start().await;
    let one = live_member(1, QoS::ExactlyOnce);
    node.set_live_members(&[one]);
    node.publish_to_share(3).await;
    let given = node.given(3).await;
    let held: Vec<_> = node.home().state().held_references().collect();
    let told = given.iter().map(|given| {
        let holder = ShareHolder {
            session: one.session,
            node: NodeId(1),
            incarnation: NodeIncarnation(1),
            give: given.give,
        };
        (share(), given.reference.sequence, holder)
    });
    assert_eq!(held, told.collect::<Vec<_>>());
    assert!(given.iter().all(|given| given.giving == Giving::Held));
    assert_eq!(
        node.queued(&share_queue()),
        3,
        "they are in the queue until they are done"
    );
    node.take(&given);
    given
        .iter()
        .for_each(|given| node.home().settle_shared(&hold_of(given)));
    node.queue_becomes(&share_queue(), 0).await;
}

/// R37 [MQTT-4.8.2-5]: what may have been sent goes to nobody else, also when its member is lost. What was not goes to
/// another.
#[tokio::test]
async fn r37_only_the_members_node_gives_back_what_is_held() {
    let node = TestNode::start().await;
    let members = [1, 2].map(|number| live_member(number, QoS::ExactlyOnce));
    node.set_live_members(&members[..1]);
    node.publish_to_share(2).await;
    let given = node.given(2).await;
    assert_eq!(node.take(&given), [true, true]);
    node.set_live_members(&members[1..]);
    node.home().share_member_lost(members[0].session);
    node.given(2).await;
    // One was on its way to the client, the other not.
    node.home().settle_shared(&hold_of(&given[0]));
    assert!(!node.home().give_back_shared(&hold_of(&given[1])));
    let given = node.given(3).await;
    assert_eq!(who(&given[2..]), [(1, members[1].session)]);
    assert_eq!(node.queued(&share_queue()), 1);
}

/// R37: what a start of a node that is over may have sent ends with it.
#[tokio::test]
async fn r37_what_was_held_ends_with_the_start_of_its_node() {
    let node = TestNode::start().await;
    node.set_live_members(&[live_member(1, QoS::ExactlyOnce)]);
    node.publish_to_share(2).await;
    node.given(2).await;
    let node = node.restart(|_| {}).await;
    node.set_live_members(&[live_member(2, QoS::ExactlyOnce)]);
    node.queue_becomes(&share_queue(), 0).await;
    assert_eq!(who(&node.told.shared.lock()), []);
}

/// R37: a choice that is committed though this leader does not know of it is found when another is refused: its node is
/// asked, and says that nobody was sent it.
#[tokio::test]
async fn r37_a_choice_that_the_leader_does_not_know_of_is_asked_about() {
    let node = TestNode::start().await;
    node.publish_to_share(1).await;
    let term = node.home().replica().and_then(|replica| replica.led_term());
    let unknown = GiveId::first(term.expect("a node alone leads"));
    let member = live_member(1, QoS::ExactlyOnce);
    let hold = Command::Hold {
        share: share(),
        sequence: Sequence(0),
        holder: ShareHolder {
            session: member.session,
            node: NodeId(1),
            incarnation: NodeIncarnation(1),
            give: unknown,
        },
    };
    node.home().propose(&hold, None);
    let holder = || node.home().state().holder(&share(), Sequence(0));
    eventually(|| holder().map(|_| ())).await;
    node.set_live_members(&[member]);
    let given = node.given(1).await;
    assert_eq!(holder().map(|holder| holder.give), Some(given[0].give));
    assert_ne!(given[0].give, unknown);
}

/// R38: what members hold stays with them when another leads, whether it may go to others or not.
#[tokio::test]
async fn r38_what_members_hold_is_not_given_again_by_a_new_leader() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let node = TestNode::start().await;
        let members = [1, 2].map(|number| live_member(number, qos));
        node.set_live_members(&members);
        node.publish_to_share(6).await;
        let given = node.given(6).await;
        assert_eq!(node.take(&given), [true; 6]);
        node.change_leader().await;
        node.given(6).await;
        // The new leader knows who has what.
        node.home().settle_shared(&hold_of(&given[0]));
        give_back(&node, &given[1]);
        assert_eq!(node.given(7).await[6].reference.sequence, Sequence(1), "{qos:?}");
    }
}

/// R38: what an earlier leader gave and no member's node has is given again, and comes too late after that.
#[tokio::test]
async fn r38_what_no_member_has_is_given_again_once() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let node = TestNode::start().await;
        let members = [1, 2].map(|number| live_member(number, qos));
        node.set_live_members(&members);
        node.publish_to_share(4).await;
        let given = node.given(4).await;
        assert_eq!(node.take(&given[..1]), [true]);
        node.change_leader().await;
        let again = node.given(7).await;
        let mut sequences: Vec<u64> = who(&again[4..]).iter().map(|(sequence, _)| *sequence).collect();
        sequences.sort_unstable();
        assert_eq!(sequences, [1, 2, 3], "{qos:?}");
        assert_eq!(node.take(&given[1..4]), [false; 3], "of the earlier leader");
        assert_eq!(node.take(&again[4..]), [true; 3]);
        assert_eq!(node.take(&again[4..]), [false; 3], "twice");
    }
}

/// R38: what a member is done with is named to a leader until that is committed.
#[tokio::test]
async fn r38_a_settled_reference_is_named_until_the_group_knows() {
    let node = TestNode::start().await;
    node.set_live_members(&[live_member(1, QoS::ExactlyOnce)]);
    node.publish_to_share(1).await;
    let given = node.given(1).await;
    node.take(&given);
    // No await between: the command cannot have been carried out.
    node.home().settle_shared(&hold_of(&given[0]));
    assert_eq!(node.home().report_held(NodeId(1), GiveId(0)).len(), 1);
    node.queue_becomes(&share_queue(), 0).await;
    eventually(|| {
        node.home()
            .report_held(NodeId(1), GiveId(0))
            .is_empty()
            .then_some(())
    })
    .await;
}

/// R38: who was told that a member has something is told that it has it no more.
#[tokio::test]
async fn r38_a_leader_that_asked_is_told_of_what_comes_back() {
    let node = TestNode::start().await;
    node.set_live_members(&[live_member(1, QoS::AtLeastOnce)]);
    node.publish_to_share(1).await;
    let hold = hold_of(&node.given(1).await[0]);
    node.home()
        .take_shared(&hold, live_member(1, QoS::AtLeastOnce).session);
    let givers = || node.home().givers_of(&hold).collect::<Vec<_>>();
    let later = GiveId::first(1 << 20);
    assert_eq!(node.home().report_held(NodeId(9), later.next()).len(), 1);
    assert_eq!(givers(), [NodeId(1), NodeId(9)]);
    node.home().report_held(NodeId(8), later);
    assert_eq!(givers(), [NodeId(1), NodeId(9)], "a question that comes late");
}

/// R39: what an earlier connection of a member had no room for says nothing of its next one.
#[tokio::test]
async fn r39_a_refusal_that_comes_late_blocks_nobody() {
    let node = TestNode::start().await;
    let only = session(&node, 1);
    node.set_members(&[only]);
    node.publish_to_share(1).await;
    let given = node.given(1).await;
    // Its client is connected anew.
    node.home().share_member_lost(only);
    let (sequence, give) = (given[0].reference.sequence, given[0].give);
    node.home().share_member_full(only, &share(), sequence, give);
    node.publish_to_share(1).await;
    assert_eq!(who(&node.given(2).await[1..]), [(1, only)]);
}

/// R39: a member that gave something back is not offered it again at once, for as long as its node and the leader know
/// different things of its connection.
#[tokio::test]
async fn r39_what_comes_back_is_not_offered_again_without_pause() {
    let node = TestNode::start().await;
    let only = session(&node, 1);
    node.set_members(&[only]);
    node.publish_to_share(1).await;
    let began = std::time::Instant::now();
    for count in 1..=4 {
        let given = eventually(|| {
            let shared = node.told.shared.lock();
            (shared.len() == count).then(|| shared[count - 1].clone())
        })
        .await;
        give_back(&node, &given);
    }
    assert!(began.elapsed() >= Duration::from_millis(150));
    node.given(5).await;
}

/// R39: a member whose node says that it has no room is left alone until it has.
#[tokio::test]
async fn r39_a_member_without_room_is_given_nothing() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let node = TestNode::start().await;
        let members = [1, 2].map(|number| live_member(number, qos));
        let [full, other] = members.map(|member| member.session);
        node.set_live_members(&members[..1]);
        node.publish_to_share(1).await;
        let given = node.given(1).await;
        node.take(&given);
        node.home()
            .share_member_full(full, &share(), given[0].reference.sequence, given[0].give);
        give_back(&node, &given[0]);
        node.given(1).await;
        node.set_live_members(&members);
        node.publish_to_share(3).await;
        let given = node.given(5).await;
        assert!(
            given[1..].iter().all(|given| given.session == other),
            "{:?}",
            who(&given)
        );
        node.set_live_members(&members[..1]);
        node.publish_to_share(1).await;
        node.given(5).await;
        node.home().share_member_has_room(full);
        assert_eq!(who(&node.given(6).await[5..]), [(4, full)]);
    }
}
