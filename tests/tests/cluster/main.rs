//! Clusters of real processes: what clients see of the promise when they, their publishers and the leaders of their
//! groups are on different nodes, and when nodes end.

mod addresses;
mod copies;
mod dev_cluster;
mod disks;
mod durability;
mod exactly_once;
mod failures;
mod followers;
mod growth;
mod large;
mod leaderless;
mod limits;
mod load;
mod membership;
mod moves;
mod names;
mod operator;
mod partitions;
mod power;
mod recovery;
mod replacement;
mod replays;
mod retained;
mod routing;
mod shares;
mod slow_peers;
mod time;
mod tls;
mod unsubscribing;
mod wills;

use quorate_tests::cluster::Cluster;

const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");

fn three() -> Cluster {
    Cluster::start(BINARY, 3)
}

/// What a client sees does not depend on whether its node has replicas of the groups: all nodes have all, or each has
/// a part of them.
const REPLICAS: [usize; 2] = [3, 1];

/// So many nodes of which each group has replicas at `replicas`.
fn nodes(count: usize, replicas: usize) -> Cluster {
    Cluster::start_with(env!("CARGO_BIN_EXE_quorate-under-test"), count, |config| {
        config.toml(&format!("[cluster]\nreplication_factor = {replicas}\n"))
    })
}
