//! This node's lease: how it is renewed, and what follows when the cluster does not grant it any more (R1).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::lease::{BootTime, Lease, RENEW_INTERVAL};
use super::{Host, Node};

/// Whether this node may answer clients; a clone looks at the same lease.
#[derive(Clone, Debug)]
pub struct ServingLease(Arc<Lease>);

impl ServingLease {
    /// Whether it may now. Costs a look at the clock.
    pub fn is_held(&self) -> bool {
        self.0.is_held()
    }

    /// Whether it may, and has not been without contact to the leader of `meta` for suspiciously long.
    pub fn is_fresh(&self) -> bool {
        self.0.is_fresh()
    }
}

impl<H: Host> Node<H> {
    /// This node's lease.
    pub fn serving_lease(&self) -> ServingLease {
        ServingLease(self.membership.lease.clone())
    }

    /// Renews this node's lease, and tells the broker when its start is over.
    pub(super) async fn run_lease(node: Weak<Self>) {
        let mut ticks = tokio::time::interval(RENEW_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(node) = node.upgrade() else { return };
            if !node.renew_once().await {
                node.membership.lease.end();
                if !node.membership.leaving.load(Ordering::SeqCst) {
                    node.host().removed();
                }
                return;
            }
        }
    }

    /// False where the cluster has taken this start out of its view, or gone on without what it knows of a group (R41).
    async fn renew_once(&self) -> bool {
        let incarnation = self.incarnation();
        for node in self.meta_leader_candidates() {
            // Who goes by this view knows what `meta` says besides.
            let (view, is_of_the_past) = {
                let state = self.directory().read();
                (state.view().number, self.is_of_the_past(&state))
            };
            if is_of_the_past {
                return false;
            }
            let (asked, asked_at) = (Instant::now(), BootTime::now());
            let answer = if node == self.this_node() {
                self.grant(node, incarnation, view, asked).await
            } else {
                let renewing = self.peers().renew(node, incarnation, view);
                // A leader that does not answer is asked again: it may be another by then.
                let answer = tokio::time::timeout(2 * RENEW_INTERVAL, renewing).await;
                answer
                    .ok()
                    .and_then(Result::ok)
                    .map(|lease| (lease.granted, lease.in_view))
            };
            match answer {
                Some((true, _)) => {
                    self.membership.lease.grant(asked_at);
                    return true;
                }
                Some((false, false)) => return false,
                Some((false, true)) | None => {}
            }
        }
        true
    }
}
