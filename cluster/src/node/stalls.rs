//! Nodes that take no deliveries, as `meta` notes them (R4).

use std::sync::Weak;
use std::time::Duration;

use super::{Host, Node};
use crate::meta::{MetaCommand, MetaState, Stall};
use crate::state::{NodeId, NodeIncarnation};

/// Time for one attempt: whom it is sent to may be the node that stalls, and no leader any more.
const ATTEMPT_MAX: Duration = Duration::from_millis(300);

impl<H: Host> Node<H> {
    /// Has `meta` note, or take back, that this start may have answered publishers of messages that a start of another
    /// node has not accepted, once. Whether it is known to be committed. Where it is not it may be later: `number` rises
    /// with what is to be noted, so that this undoes nothing that follows.
    pub async fn note_stalled(
        &self,
        (peer, peer_incarnation): (NodeId, NodeIncarnation),
        number: u64,
        stalled: bool,
    ) -> bool {
        let stall = Stall {
            incarnation: self.incarnation(),
            peer_incarnation,
            number,
            stalled,
        };
        let between = (self.this_node(), peer);
        let command = MetaCommand::set_stalled(between, &stall);
        let attempt = tokio::time::timeout(ATTEMPT_MAX, self.propose_meta(&command));
        let is_known = |state: &MetaState| (state.stall(between.0, peer) == Some(&stall)).then_some(());
        tokio::select! {
            proposed = attempt => proposed.is_ok_and(|proposed| proposed == Some(true)),
            // It may be committed without an answer.
            () = self.directory().wait_for(is_known) => true,
        }
    }

    /// Tells the broker when a start of another node is over that may have answered publishers of messages which this
    /// start has not accepted.
    pub(super) async fn run_missed(node: Weak<Self>) {
        let Some((mut view, this, incarnation)) = node.upgrade().map(|node| {
            let view = node.directory().watch_view();
            (view, node.this_node(), node.incarnation())
        }) else {
            return;
        };
        let mut told = 0;
        loop {
            let missed = {
                let view = view.borrow_and_update();
                let serving = view.serving.get(&this);
                serving
                    .filter(|serving| serving.incarnation == incarnation)
                    .map_or(0, |serving| serving.missed)
            };
            if missed > told {
                told = missed;
                let Some(node) = node.upgrade() else { return };
                node.host().deliveries_missed();
            }
            if view.changed().await.is_err() {
                return;
            }
        }
    }
}
