//! Replicas that go.

use super::*;

/// A node may be killed between the two steps that delete a replica: what the second left must not be in the way of a
/// replica that comes later.
#[tokio::test]
async fn the_remains_of_a_replica_that_has_gone_are_deleted() {
    let node = TestNode::start().await;
    let group = node.home().clone();
    let targets = vec![target(TargetQueue::Session(elsewhere(1)), QoS::AtLeastOnce)];
    within(group.propose_and_wait(&publish(message("x"), targets))).await;
    within(node.node.checkpoint()).await;
    let has_state = || {
        let store = node.node.parts().checkpoints.store();
        store.load(group.id()).unwrap().is_some()
    };
    within(node.node.forget_remains(group.id())).await.unwrap();
    assert!(has_state(), "a replica with its log is none that has gone");

    within(group.replica().unwrap().shutdown()).await;
    let (done, is_done) = tokio::sync::oneshot::channel();
    let log = &node.node.parts().log;
    log.reset(group.id(), Box::new(move |result| done.send(result).unwrap()));
    within(is_done).await.unwrap().unwrap();
    assert!(has_state());
    within(node.node.forget_remains(group.id())).await.unwrap();
    assert!(!has_state());
}
