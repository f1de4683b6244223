//! How a node goes for good: when it is to leave, has no clients and votes nowhere, it leaves the view and the cluster.
//!
//! The node does this itself, as long as it runs, so that it is the last to serve by what it knows. Whether it votes
//! nowhere is what the groups' leaders say.

use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::{Host, Node};
use crate::meta::MetaCommand;
use crate::state::NodeId;

/// Time between looks at what still holds the node.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// After it has left the view it waits no longer than this to be told that it was removed.
const REMOVAL_MAX: Duration = Duration::from_secs(10);

impl<H: Host> Node<H> {
    /// Waits until this node is to leave, and leaves.
    pub(super) async fn run_leaving(node: Weak<Self>) {
        loop {
            let Some(directory) = node.upgrade().map(|node| node.directory().clone()) else {
                return;
            };
            let Some(this) = node.upgrade().map(|node| node.this_node()) else {
                return;
            };
            directory
                .wait_for(|state| {
                    state
                        .node(this)
                        .is_some_and(|record| record.leaving)
                        .then_some(())
                })
                .await;
            let Some(node) = node.upgrade() else { return };
            let is_free =
                node.host().clients() == 0 && node.cluster_report().await.votes_nowhere(this) == Some(true);
            if is_free {
                node.leave_for_good().await;
                return;
            }
            drop(node);
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    async fn leave_for_good(&self) {
        tracing::info!("this node has no clients and no groups any more; it leaves the cluster");
        self.membership.leaving.store(true, Ordering::SeqCst);
        self.membership.lease.end();
        let since = Instant::now();
        let leave = MetaCommand::leave(self.this_node(), self.incarnation());
        while self.propose_meta(&leave).await.is_none() && since.elapsed() < REMOVAL_MAX {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        let remove = MetaCommand::remove(self.this_node());
        let is_removed = || {
            let state = self.directory().read();
            state.node(self.this_node()).is_some_and(|record| record.removed)
        };
        let mut removed = false;
        while !removed && since.elapsed() < REMOVAL_MAX {
            removed = self.propose_meta(&remove).await == Some(true) || is_removed();
            if !removed {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        }
        if !removed {
            tracing::warn!("the cluster has not said that this node was removed; see quorate ctl nodes");
        }
        self.host().left();
    }

    /// Returns when another node says that the cluster has removed this one.
    pub(super) async fn until_others_have_removed_it(&self) {
        const ASK_INTERVAL: Duration = Duration::from_millis(500);
        loop {
            tokio::time::sleep(ASK_INTERVAL).await;
            let others: Vec<NodeId> = {
                let state = self.directory().read();
                let members = state.members().map(|(node, _)| node);
                members.filter(|node| *node != self.this_node()).collect()
            };
            let asked = others
                .into_iter()
                .map(|node| tokio::time::timeout(ASK_INTERVAL, self.ask_report(node)));
            let answers = join_all(asked).await;
            if answers
                .into_iter()
                .any(|answer| matches!(answer, Ok(Ok(report)) if report.is_asker_removed()))
            {
                return;
            }
        }
    }
}
