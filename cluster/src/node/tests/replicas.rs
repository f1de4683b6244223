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

/// R41: what a machine that lost its power has of a group that was not synced may be in any state: it is deleted, and does
/// not keep the node from starting.
#[tokio::test]
async fn r41_an_unsynced_group_that_cannot_be_read_begins_anew() {
    let node = TestNode::start().await;
    let group = node.node.group(Placement::memory_of_client(CLIENT)).clone();
    let lost = Command::NodeLost {
        node: NodeId(9),
        incarnation: NodeIncarnation(1),
    };
    within(group.propose_and_wait(&lost)).await;
    within(node.node.checkpoint()).await;
    let log = node.node.parts().log.clone();
    let id = group.id();
    drop(group);
    let node = node
        .restart(|settings| {
            // The state is ahead of its log.
            log.truncate_after(id, None, Box::new(|result| result.unwrap()));
            settings.machine_restarted = true;
        })
        .await;
    let group = node.node.group(id);
    assert!(
        !group.state().is_lost(NodeId(9), NodeIncarnation(1)),
        "it is empty"
    );
    within(group.propose_and_wait(&lost)).await;
    assert!(group.state().is_lost(NodeId(9), NodeIncarnation(1)));
}
