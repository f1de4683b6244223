//! What a node alone stores of its live groups, and what it stores before somebody joins.

use super::*;

impl TestNode {
    fn live(&self) -> &Arc<Group<Told>> {
        self.node.group(Placement::live_of_client(CLIENT))
    }

    /// Records of the live group in the store.
    fn stored(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut stored = BTreeMap::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            stored.insert(key.to_vec(), value.to_vec());
            Ok(())
        };
        self.live().store.entries(self.live().id(), &mut visit).unwrap();
        stored
    }

    fn state_records(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.live().state().records().into_iter().collect()
    }

    async fn connect(&self, client_id: &str) -> SessionId {
        let open = Command::OpenSession {
            client_id: client_id.into(),
            clean_start: true,
            expiry_secs: 0,
            will: None,
            limits: LIMITS,
        };
        let Completion::Applied(Outcome::Opened { session, .. }) =
            within(self.live().propose_and_wait(&open)).await
        else {
            panic!("not opened")
        };
        session
    }
}

/// R42: a snapshot is what the store has, and is never a part of the state.
#[tokio::test]
async fn r42_a_node_alone_stores_its_live_groups_before_another_replica_comes() {
    let node = TestNode::start().await;
    node.connect("before").await;
    within(node.node.checkpoint()).await;
    assert!(node.live().is_stored_in_part());
    assert!(node.stored().is_empty(), "nobody needs it");
    // A durable session's group is as ever.
    assert!(!node.home().is_stored_in_part());

    within(node.live().store_whole()).await;
    assert!(!node.live().is_stored_in_part());
    assert_eq!(node.stored(), node.state_records());
    // From there on it has what changes.
    node.connect("after").await;
    within(node.node.checkpoint()).await;
    assert_eq!(node.stored(), node.state_records());
    let node = node.restart(|_| {}).await;
    assert!(!node.live().is_stored_in_part(), "what is whole stays whole");
    within(node.node.checkpoint()).await;
    assert_eq!(node.stored(), node.state_records());
}

/// R17: a start that finds nothing stored goes on with the indexes of the log, so that no session's number comes twice.
#[tokio::test]
async fn r17_sessions_of_a_live_group_that_is_not_stored_are_never_numbered_twice() {
    let node = TestNode::start().await;
    let first = node.connect("first").await;
    within(node.node.checkpoint()).await;
    let node = node.restart(|_| {}).await;
    assert!(node.live().state().session("first").is_none());
    let second = node.connect("first").await;
    assert!(second > first, "{second:?} {first:?}");
    within(node.live().store_whole()).await;
    assert_eq!(node.stored(), node.state_records());
}

/// A start that finds nothing stored begins with nothing, and so do the replicas that come later: in the log before that
/// there are sessions, and their wills, that ended with the last start.
#[tokio::test]
async fn r31_no_replica_gets_the_log_of_what_a_node_alone_did_not_store() {
    let node = TestNode::start().await;
    node.connect("before").await;
    within(node.node.checkpoint()).await;
    let log = |node: &TestNode| node.node.parts().log.state(node.live().id());
    let begins = log(&node).last.unwrap().index;
    let node = node.restart(|_| {}).await;
    assert!(node.live().is_stored_in_part());
    eventually(|| log(&node).purged.filter(|purged| purged.index >= begins)).await;
}
