//! What a node believes of others.

use super::{TestNode, eventually, within};
use crate::meta::{FEATURE_LEVEL, MetaCommand};
use crate::node::peers::proto;
use crate::raft::NodeAddress;
use crate::state::{NodeId, NodeIncarnation};

const OTHER: NodeId = NodeId(2);

fn member(incarnation: u64, address: &str) -> proto::Member {
    proto::Member {
        node: OTHER.0,
        incarnation,
        address: address.to_owned(),
        name: "two".to_owned(),
    }
}

impl TestNode {
    async fn in_meta(&self, command: MetaCommand, is_done: fn(&crate::meta::NodeRecord) -> bool) {
        let done = self.node.bring_about(&command, |state| {
            state.node(OTHER).is_some_and(is_done).then_some(())
        });
        within(done).await;
    }

    fn address(&self) -> Option<String> {
        self.node.transport().address(OTHER).map(|address| address.0)
    }
}

/// What a seed says of a node is believed as far as it can be true.
#[tokio::test]
async fn a_node_is_where_it_says_unless_that_start_cannot_be() {
    let node = TestNode::start().await;
    node.in_meta(MetaCommand::join([2; 16], "two", "a:1"), |_| true)
        .await;
    let register = MetaCommand::register(
        OTHER,
        NodeIncarnation(1),
        "a:1",
        &Default::default(),
        FEATURE_LEVEL,
    );
    node.in_meta(register, |record| record.incarnation.0 == 1).await;
    eventually(|| node.address()).await;
    node.node.learn(&member(u64::MAX, "evil:1"));
    assert_eq!(node.address().as_deref(), Some("a:1"));
    node.node.learn(&member(2, "b:1"));
    assert_eq!(node.address().as_deref(), Some("b:1"));
    within(node.node.shutdown()).await;
}

/// A node that was removed is no member, though this one knew it when it started.
#[tokio::test]
async fn a_removed_node_does_not_come_back_by_what_it_says() {
    let node = TestNode::start().await;
    node.in_meta(MetaCommand::join([2; 16], "two", "a:1"), |_| true)
        .await;
    node.in_meta(MetaCommand::remove(OTHER), |record| record.removed)
        .await;
    let known = (OTHER, NodeAddress("a:1".to_owned()));
    let node = node.restart(|settings| settings.known = vec![known]).await;
    eventually(|| node.address().is_none().then_some(())).await;
    node.node.learn(&member(2, "b:1"));
    assert_eq!(node.address(), None);
    within(node.node.shutdown()).await;
}
