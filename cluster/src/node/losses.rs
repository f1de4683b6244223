//! The starts of nodes that are over end in every group.

use std::sync::Weak;
use std::time::Duration;

use super::{Host, Node};
use crate::state::{NodeId, NodeIncarnation};

impl<H: Host> Node<H> {
    /// Ends, in the groups that this node leads, the starts of nodes that are over (R3, R25).
    pub(super) async fn run_losses(node: Weak<Self>) {
        let Some(mut changed) = node.upgrade().map(|node| node.directory().watch()) else {
            return;
        };
        loop {
            {
                let Some(node) = node.upgrade() else { return };
                changed.mark_unchanged();
                node.end_lost_starts();
            }
            // A group may also come to be led by this node.
            let _ = tokio::time::timeout(Duration::from_secs(1), changed.changed()).await;
        }
    }

    fn end_lost_starts(&self) {
        let over: Vec<(NodeId, NodeIncarnation)> = {
            let state = self.directory().read();
            let over = state
                .nodes()
                .filter_map(|(node, record)| Some((node, record.last_ended()?)));
            over.collect()
        };
        for group in self.groups().filter(|group| group.leads()) {
            for (node, incarnation) in &over {
                group.end_start(*node, *incarnation);
            }
        }
    }
}
