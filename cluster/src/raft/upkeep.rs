//! Tasks beside a replica that watch where it stands.

use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Raft, RaftMetrics, ServerState};

use super::group::WeakGroup;
use super::machine::Machine;
use super::types::TypeConfig;

/// Switches ticks off while this node leads a group of one, and on again when a member is added.
pub(super) async fn tick_while_needed(raft: Raft<TypeConfig, Machine>, node: u64) {
    let mut metrics = raft.server_metrics();
    loop {
        let alone = {
            let metrics = metrics.borrow_and_update();
            let mut members = metrics.membership_config.nodes();
            metrics.state == ServerState::Leader && members.all(|(member, _)| *member == node)
        };
        raft.runtime_config().tick(!alone);
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Lets a replica vote and lead once it has applied everything that a leader has told it, since the start, to be
/// committed. What an earlier leader committed is in there as soon as the leader's own first entry is.
pub(super) async fn trust_when_caught_up(
    replica: WeakGroup,
    mut metrics: WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>,
) {
    loop {
        let caught_up = {
            let metrics = metrics.borrow_and_update();
            let from_leader = metrics.cluster_committed.filter(|committed| {
                metrics.vote.committed
                    && committed.leader_id == metrics.vote.leader_id
                    && metrics.current_leader != Some(metrics.id)
            });
            from_leader.is_some_and(|committed| metrics.last_applied >= Some(committed))
        };
        let Some(replica) = replica.upgrade() else { return };
        if caught_up {
            replica.trust_log();
            tracing::info!(
                group = replica.group().0,
                "the replica has caught up and votes again"
            );
            return;
        }
        drop(replica);
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
