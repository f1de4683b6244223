//! Draining: the node takes no new clients, and those that it has are told to go elsewhere, at a bounded rate, so that the
//! other nodes are not overrun by all of them at once.
//!
//! An operator drains a node through the cluster, which every node then knows of and moves leadership away; SIGTERM
//! drains the clients alone, in bounded time, before the node stops.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::admin::Readiness;
use crate::node::Shared;
use crate::worker::Mail;

/// Time between rounds.
const ROUND_INTERVAL: Duration = Duration::from_millis(100);
/// Connections that are closed in a round at least.
const ROUND_MIN: u64 = 20;

/// Tells clients to go until there are none, or `over` has passed twice.
pub(crate) async fn shed(shared: &Shared, over: Duration) {
    let rounds = (over.as_millis() / ROUND_INTERVAL.as_millis()).max(1) as u64;
    let share = shared.clients().div_ceil(rounds).max(ROUND_MIN);
    for _ in 0..2 * rounds {
        if shared.clients() == 0 {
            return;
        }
        shed_round(shared, share);
        tokio::time::sleep(ROUND_INTERVAL).await;
    }
}

fn shed_round(shared: &Shared, share: u64) {
    let workers = shared.mailboxes.len().max(1) as u64;
    let each = usize::try_from(share.div_ceil(workers)).unwrap_or(usize::MAX);
    for mailbox in &shared.mailboxes {
        mailbox.send(Mail::Shed(each));
    }
}

/// Drains this node for as long as the cluster says that it is to be drained.
pub(crate) async fn follow(shared: Weak<Shared>, readiness: Readiness, over: Duration) {
    let Some(directory) = shared.upgrade().map(|shared| shared.node().directory().clone()) else {
        return;
    };
    let mut changed = directory.watch();
    loop {
        let Some(shared) = shared.upgrade() else { return };
        changed.mark_unchanged();
        let this = shared.settings.node;
        let (drains, leaves) = {
            let state = directory.read();
            let record = state.node(this);
            (
                record.is_some_and(|record| record.draining),
                record.is_some_and(|record| record.leaving),
            )
        };
        if drains != shared.is_draining() {
            tell(drains, leaves);
            shared.set_draining(drains);
        }
        let reason = match (drains, leaves) {
            (true, true) => Some("the node is drained, and then removed from the cluster".to_owned()),
            (true, false) => {
                Some("the node is drained; quorate ctl node drain --cancel takes it back".to_owned())
            }
            _ => None,
        };
        readiness.set("draining", reason);
        if drains {
            shed(&shared, over).await;
        }
        drop(shared);
        // Somebody may have come in while the drain began.
        let wait = if drains {
            ROUND_INTERVAL * 10
        } else {
            Duration::from_secs(3600)
        };
        let _ = tokio::time::timeout(wait, changed.changed()).await;
    }
}

fn tell(drains: bool, leaves: bool) {
    match (drains, leaves) {
        (true, true) => tracing::info!("this node is drained and then leaves the cluster"),
        (true, false) => tracing::info!("this node is drained: it takes no clients and leads no groups"),
        _ => tracing::info!("the drain is over: this node takes clients again"),
    }
}

/// Before a stop: hands leadership over and sheds the clients, where there are nodes that they can go to.
pub(crate) async fn before_stop(shared: &Arc<Shared>, over: Duration) {
    if shared.node().is_alone() || !shared.may_answer() {
        return;
    }
    shared.set_draining(true);
    tracing::info!(clients = shared.clients(), "clients are told to use another node");
    shared.node().hand_over().await;
    shed(shared, over).await;
}
