//! Pulls of a session's queue.

use super::*;

const SLOT_SIZE: u64 = 3_855;
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
        self.home().pull(PullRequest {
            session: elsewhere(SESSION),
            location: location(1),
            from: Sequence(from),
            count_max: 100,
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

/// R22: what the identifier window holds back is told as soon as the oldest reference is settled.
#[tokio::test]
async fn a_pull_that_the_identifier_window_stopped_goes_on_with_the_oldest() {
    let node = TestNode::start().await;
    node.fill(SLOT_SIZE + 5, QoS::AtLeastOnce).await;
    assert_eq!(node.pull_all().await, SLOT_SIZE);
    node.settle_queue(1..SLOT_SIZE).await;
    assert!(node.told.pending.lock().is_empty(), "the oldest is still there");
    node.settle_queue(0..1).await;
    let told = eventually(|| node.told.pending.lock().pop()).await;
    assert_eq!(told, (node.home().id(), elsewhere(SESSION)));
    assert_eq!(node.pull_from(SLOT_SIZE).await.references.len(), 5);
    node.settle_queue(SLOT_SIZE..SLOT_SIZE + 5).await;
    assert!(node.told.pending.lock().is_empty(), "once");
    assert!(node.home().stopped.lock().is_empty());
}
