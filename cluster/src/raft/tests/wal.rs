//! Groups over the node's real log: power cuts, and what proposals cost.

use std::path::Path;
use std::sync::Arc;

use quorate_storage::disk::{Disk, RealDisk};
use quorate_storage::faulty::SplitMix;
use quorate_storage::log::Log;
use quorate_storage::volume::VolumeId;
use quorate_storage::wal::{Wal, WalOptions};

use super::harness::{Cluster, Node};
use super::{GROUP, within};
use crate::raft::GroupSettings;

/// A log in `directory`.
pub(super) fn open(disk: Arc<dyn Disk>, directory: &Path) -> Wal {
    let options = WalOptions {
        segment_bytes: 1 << 20,
        ..WalOptions::default()
    };
    Wal::open(disk, directory, VolumeId([7; 16]), options).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_power_cuts() {
    let seed = std::env::var("RAFT_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut random = SplitMix::new(seed);
    let settings = GroupSettings {
        log_entries_to_keep: 0,
        ..GroupSettings::new(GROUP)
    };
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(Node::new(id, &settings).await.with_wal(seed * 10 + id));
    }
    let mut cluster = Cluster::of(nodes).await;
    let mut answered = 0;
    for round in 0..8 {
        for number in 0..100 {
            cluster.propose(&format!("{round}-{number}=answered")).await;
            answered += 1;
        }
        if random.next_u64().is_multiple_of(2) {
            let node = random.next_u64() as usize % 3;
            within(cluster.nodes[node].group().checkpoint()).await.unwrap();
        }
        // One node, or all of them at once.
        let victims = match random.next_u64() % 3 {
            0 => vec![0, 1, 2],
            _ => vec![random.next_u64() as usize % 3],
        };
        println!("seed {seed}, round {round}: power cut at {victims:?}");
        // Something is on its way when the power goes.
        let leader = cluster.nodes[cluster.leader().await].group().clone();
        let unanswered =
            tokio::spawn(async move { leader.propose(&bytes::Bytes::from_static(b"unanswered=1")).await });
        tokio::task::yield_now().await;
        for victim in &victims {
            cluster.nodes[*victim].cut_power().await;
        }
        if victims.len() == 1 {
            cluster.propose(&format!("{round}-meanwhile=answered")).await;
            answered += 1;
        }
        for victim in &victims {
            cluster.nodes[*victim].start().await;
        }
        within(unanswered).await.unwrap().ok();
        cluster.check_same().await;
        for node in &cluster.nodes {
            let rows = node.table.rows() - usize::from(node.table.get("unanswered").is_some());
            assert_eq!(rows, answered, "seed {seed}, round {round}: node {:?}", node.id);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_per_second_over_the_write_ahead_log() {
    let directory = tempfile::tempdir().unwrap();
    let options = WalOptions::default();
    let wal = Arc::new(Wal::open(Arc::new(RealDisk), directory.path(), VolumeId([7; 16]), options).unwrap());
    let log: Arc<dyn Log> = wal.clone();
    super::single::measure("write-ahead log", log).await;
    println!("write-ahead log: {:?}", wal.stats());
}
