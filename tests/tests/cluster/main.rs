//! Clusters of real processes: what clients see of the promise when they, their publishers and the leaders of their
//! groups are on different nodes, and when nodes end.

mod dev_cluster;
mod durability;
mod failures;
mod membership;
mod moves;
mod routing;

use quorate_tests::cluster::Cluster;

const BINARY: &str = env!("CARGO_BIN_EXE_quorate-under-test");

fn three() -> Cluster {
    Cluster::start(BINARY, 3)
}
