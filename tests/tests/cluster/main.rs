//! Clusters of real processes: what clients see of the promise when they, their publishers and the leaders of their
//! groups are on different nodes, and when nodes end.

mod addresses;
mod dev_cluster;
mod failures;
mod membership;
mod moves;
mod partitions;
mod routing;
mod tls;

use quorate_tests::cluster::Cluster;

fn three() -> Cluster {
    Cluster::start(env!("CARGO_BIN_EXE_quorate-under-test"), 3)
}
