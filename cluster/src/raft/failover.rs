//! Elections that do not wait for a timeout (R16).
//!
//! A killed process resets its connections, and its port refuses new ones. A follower that sees both of its leader
//! knows what the election timeout would only let it guess, and stands for election when the leader's lease ends;
//! with several followers, one after the other by rank, so that they do not split the votes. The votes of the others
//! still decide: a leader that lives keeps its lease at a majority, and a pre-vote fails without harm.

use std::sync::Arc;
use std::time::Duration;

use super::connection;
use super::group::RaftGroup;
use super::transport::Transport;
use crate::state::NodeId;

/// Time to find out whether a port answers; no answer at all proves nothing.
const PROBE_MAX: Duration = Duration::from_millis(200);
/// After the end of the lease here: the others' may end a little later.
const LEASE_MARGIN: Duration = Duration::from_millis(10);
/// Distance between the candidates.
const RANK_STEP: Duration = Duration::from_millis(40);
/// Elections tried before the ordinary timeout is left to do it.
const ATTEMPTS_MAX: usize = 5;

/// Looks whether `node`, a connection with which has ended, is gone, and does what has to be done in the groups it led.
pub(super) fn look_after(transport: &Arc<Transport>, node: NodeId) {
    let led: Vec<_> = transport
        .groups()
        .into_iter()
        .filter(|group| group.leader() == Some(node))
        .collect();
    let known = || led.iter().find_map(|group| group.address_of(node));
    let Some(address) = transport.address(node).or_else(known) else {
        return;
    };
    // Both directions of a connection end at once.
    if !transport.begin_to_look_after(node) {
        return;
    }
    let transport = Arc::clone(transport);
    tokio::spawn(async move {
        if connection::is_gone(&transport, node, &address, PROBE_MAX).await {
            tracing::info!(node = node.0, groups = led.len(), "a leader's process is gone");
            futures_util::future::join_all(led.iter().map(|group| succeed(group, node))).await;
        }
        transport.end_to_look_after(node);
    });
}

/// Stands for election as soon as the lease of `lost` allows it, as long as nobody else leads.
async fn succeed(group: &RaftGroup, lost: NodeId) {
    let Some(rank) = group.rank_without(lost) else {
        return;
    };
    for _ in 0..ATTEMPTS_MAX {
        let Some(rest) = group.lease_rest().await else {
            return;
        };
        tokio::time::sleep(rest + LEASE_MARGIN + RANK_STEP * rank).await;
        // The lease was renewed while this slept: by the leader itself, or by its successor.
        let renewed = group.lease_rest().await.is_none_or(|rest| !rest.is_zero());
        if renewed || group.leader() != Some(lost) || group.elect().await.is_err() {
            return;
        }
        tokio::time::sleep(RANK_STEP).await;
        if group.leader() != Some(lost) {
            return;
        }
    }
}
