//! Pulls of a session's queue.

use super::*;

const SESSION: u16 = 1;

impl TestNode {
    fn queue(&self) -> TargetQueue {
        TargetQueue::Session(elsewhere(SESSION))
    }

    /// Fills the session's queue up to `count` references.
    async fn fill(&self, count: u64, qos: QoS) {
        for number in 1..=count {
            let command = publish(message("m"), vec![target(self.queue(), qos)]);
            let ticket = (number == count).then_some(u32::MAX);
            self.home().propose(&command, ticket);
        }
        self.completion(u32::MAX).await;
    }

    async fn pull_from(&self, from: u64) -> References {
        self.pull(from, 100).await
    }

    async fn pull(&self, from: u64, count_max: u32) -> References {
        self.home().pull(PullRequest {
            session: elsewhere(SESSION),
            location: location(1),
            from: Sequence(from),
            count_max,
        });
        self.references().await
    }

    /// Pulls from the start until there is no more; answers where to go on.
    async fn pull_all(&self) -> u64 {
        let mut next = 0;
        loop {
            let references = self.pull_from(next).await;
            next = references.next.0;
            if !references.more {
                return next;
            }
        }
    }

    async fn settle_queue(&self, sequences: std::ops::Range<u64>) {
        let settle = Command::Settle {
            queue: self.queue(),
            sequences: sequences.map(Sequence).collect(),
        };
        within(self.home().propose_and_wait(&settle)).await;
    }
}

/// R22, R23: what an earlier start of the node may have sent is not dropped when it expires, however little of it the
/// client has left unacknowledged.
#[tokio::test]
async fn what_may_have_been_sent_before_a_restart_is_not_dropped() {
    let node = TestNode::start().await;
    let expiring = |secs| {
        let mut message = message("m");
        message.expiry_secs = Some(secs);
        publish(message, vec![target(node.queue(), QoS::ExactlyOnce)])
    };
    for _ in 0..300 {
        node.home().propose(&expiring(60), None);
    }
    let (last, short) = (publish(message("last"), vec![]), expiring(1));
    within(node.home().propose_and_wait(&last)).await;
    assert_eq!(node.pull_all().await, 300);
    node.settle_queue(1..250).await;
    // The clock goes on an hour later.
    let node = node
        .restart(|settings| {
            let mut note = settings.clock.read().unwrap().unwrap();
            note.wall_millis -= 3_600_000;
            settings.clock.write(note).unwrap();
        })
        .await;
    let left = || node.home().state().queue_len(&node.queue());
    let sweep = async || {
        within(node.home().propose_and_wait(&last)).await;
        node.home().drop_expired();
        within(node.home().propose_and_wait(&last)).await;
        left()
    };
    assert_eq!(sweep().await, 51, "nothing is pulled yet");
    node.pull(0, 10).await;
    assert_eq!(sweep().await, 51, "a part is pulled");
    // What came since and was handed out to nobody goes.
    for _ in 0..3 {
        node.home().propose(&short, None);
    }
    assert_eq!(sweep().await, 54);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(sweep().await, 51);
}

/// R22: what the identifier window holds back is told as soon as the oldest reference is settled.
#[tokio::test]
async fn a_pull_that_the_identifier_window_stopped_goes_on_with_the_oldest() {
    let node = TestNode::start().await;
    node.fill(SLOT_SIZE + 5, QoS::AtLeastOnce).await;
    assert_eq!(node.pull_all().await, SLOT_SIZE);
    assert!(node.pull_from(SLOT_SIZE).await.window_stopped);
    node.settle_queue(1..SLOT_SIZE).await;
    assert!(node.told.pending.lock().is_empty(), "the oldest is still there");
    node.settle_queue(0..1).await;
    let told = eventually(|| node.told.pending.lock().pop()).await;
    assert_eq!(told, (node.home().id(), elsewhere(SESSION)));
    let references = node.pull_from(SLOT_SIZE).await;
    assert!(references.references.len() == 5 && !references.window_stopped);
    node.settle_queue(SLOT_SIZE..SLOT_SIZE + 5).await;
    assert!(node.told.pending.lock().is_empty(), "once");
    assert!(node.home().stopped.lock().is_empty());
}

/// What was handed out is forgotten as soon as it is settled, of sessions that ended as well.
#[tokio::test]
async fn nothing_is_remembered_of_an_empty_queue() {
    let node = TestNode::start().await;
    node.fill(3, QoS::AtLeastOnce).await;
    node.pull_all().await;
    node.settle_queue(0..2).await;
    node.home().forget_sent();
    assert_eq!(node.pull_from(0).await.sent_before, Sequence(3));
    node.settle_queue(2..3).await;
    node.home().forget_sent();
    assert!(node.home().sent.lock().is_empty());
    // What comes now was sent to nobody.
    node.fill(1, QoS::AtLeastOnce).await;
    let references = node.pull_from(0).await;
    assert!(references.references[0].sequence >= references.sent_before);
}

/// R11: what comes to the node's own queue is handed to its live subscribers once, however often it is found there: before
/// the group has forgotten it, or where the queue is read elsewhere and the answer to an earlier look comes late.
#[tokio::test]
async fn r11_what_comes_to_the_nodes_own_queue_is_handed_on_once() {
    let node = TestNode::start().await;
    let home = node.home();
    let queue = home.node_queue();
    let handed_on = || node.told.node_messages.lock().clone();
    for number in 0..3 {
        let command = publish(
            message(&number.to_string()),
            vec![target(queue.clone(), QoS::ExactlyOnce)],
        );
        within(home.propose_and_wait(&command)).await;
    }
    eventually(|| (home.state().queue_len(&queue) == 0).then_some(())).await;
    assert_eq!(handed_on(), ["0", "1", "2"]);
    let reference = |number: u64| PulledReference {
        sequence: Sequence(number),
        message: message(&number.to_string()),
        stored: None,
        publisher: None,
        qos: QoS::ExactlyOnce,
        retain: false,
        replayed: false,
        shared: false,
        subscription_ids: vec![],
        received: false,
        expires_at: None,
        received_at: GroupTime(0),
    };
    for found in [0..3, 1..5, 3..5, 0..6] {
        home.hand_on_node_messages(found.map(reference).collect());
    }
    assert_eq!(handed_on(), ["0", "1", "2", "3", "4", "5"]);
}
