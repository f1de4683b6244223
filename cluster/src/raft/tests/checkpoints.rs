//! Checkpoints, and snapshots that are installed from them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::storage::RaftStateMachine;
use quorate_storage::log::{GroupId, Log};
use tokio::sync::mpsc;

use super::table::Table;
use super::{Disk, GROUP, lead_alone, propose, within};
use crate::raft::checkpoint::{CheckpointSettings, GroupCheckpoint};
use crate::raft::machine::Machine;
use crate::raft::snapshot::{SnapshotData, SnapshotReceiver};
use crate::raft::{GroupSettings, NodeParts, RaftGroup};

#[tokio::test]
async fn a_checkpoint_is_the_state_as_of_one_index() {
    let (disk, table) = (Disk::new(), Table::default());
    let group = lead_alone(&disk.parts(1), &table).await;
    let read = within(group.ensure_linearizable()).await.unwrap();
    assert_eq!(group.applied_index(), Some(read));
    for number in 0..50 {
        propose(&group, &format!("key-{number}={number}")).await;
    }
    propose(&group, "key-0=").await;
    let stored = within(group.checkpoint()).await.unwrap().unwrap();
    assert_eq!(Some(stored), group.applied_index());
    assert_eq!(disk.store.position(GROUP), Some(stored));
    assert_eq!(
        within(group.checkpoint()).await.unwrap(),
        Some(stored),
        "nothing new, nothing written"
    );
    assert_eq!(disk.store.batches().len(), 1);
    propose(&group, "key-1=later").await;
    group.shutdown().await;

    let again = Table::default();
    let group = RaftGroup::start(&GroupSettings::new(GROUP), &disk.parts(1), again.state())
        .await
        .unwrap();
    within(group.wait_for_leader()).await.unwrap();
    within(group.ensure_linearizable()).await.unwrap();
    assert_eq!(
        (again.rows(), again.count()),
        (49, 52),
        "checkpoint and log, each entry once"
    );
    assert_eq!(again.get("key-1").as_deref(), Some("later"));
    assert_eq!(again.get("key-0"), None);
    let later = within(group.checkpoint()).await.unwrap().unwrap();
    assert!(later > stored);
}

/// What a replica catches up with is bounded by what it stores, and not by what there is to catch up with.
#[tokio::test]
async fn a_full_state_is_stored_before_more_is_applied() {
    let (disk, table) = (Disk::new(), Table::default());
    let group = lead_alone(&disk.parts(1), &table).await;
    table.limit_changes(10);
    disk.pause_store();
    let propose_all = tokio::spawn({
        let group = group.clone();
        async move {
            for number in 0..35 {
                propose(&group, &format!("key-{number}={number}")).await;
            }
        }
    });
    within(async {
        while disk.store.batches().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(table.rows(), 10, "nothing is applied while it is being stored");
    disk.resume_store();
    within(propose_all).await.unwrap();
    assert_eq!(table.rows(), 35);
    let of_its_own = disk.store.position(GROUP).unwrap();
    assert_eq!(disk.store.batches().len(), 3, "one for every ten");
    let stored = within(group.checkpoint()).await.unwrap().unwrap();
    assert!(stored > of_its_own);
    propose(&group, "key-1=later").await;
    group.shutdown().await;

    let again = Table::default();
    let group = RaftGroup::start(&GroupSettings::new(GROUP), &disk.parts(1), again.state())
        .await
        .unwrap();
    within(group.wait_for_leader()).await.unwrap();
    within(group.ensure_linearizable()).await.unwrap();
    assert_eq!((again.rows(), again.count()), (35, 36), "each entry once");
}

/// A checkpoint that openraft has not asked for is what a start begins from.
#[tokio::test]
async fn a_start_goes_on_from_what_a_full_state_has_stored() {
    let (disk, table) = (Disk::new(), Table::default());
    let group = lead_alone(&disk.parts(1), &table).await;
    table.limit_changes(10);
    for number in 0..25 {
        propose(&group, &format!("key-{number}={number}")).await;
    }
    group.shutdown().await;
    assert_eq!(disk.store.batches().len(), 2);

    let again = Table::default();
    let group = RaftGroup::start(&GroupSettings::new(GROUP), &disk.parts(1), again.state())
        .await
        .unwrap();
    within(group.wait_for_leader()).await.unwrap();
    within(group.ensure_linearizable()).await.unwrap();
    assert_eq!(
        (again.rows(), again.count()),
        (25, 25),
        "checkpoint and log, each entry once"
    );
}

#[tokio::test]
async fn a_checkpoint_purges_the_log_but_for_the_entries_to_keep() {
    let (disk, table) = (Disk::new(), Table::default());
    let settings = GroupSettings {
        log_entries_to_keep: 100,
        ..GroupSettings::new(GROUP)
    };
    let group = RaftGroup::start(&settings, &disk.parts(1), table.state())
        .await
        .unwrap();
    group.initialize_single(super::address(1)).await.unwrap();
    within(group.wait_for_leader()).await.unwrap();
    for number in 0..4_300 {
        propose(&group, &format!("key={number}")).await;
    }
    let stored = within(group.checkpoint()).await.unwrap().unwrap();
    within(async {
        while disk.log.state(GROUP).purged.map(|purged| purged.index) != Some(stored - 100) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    group.shutdown().await;
    let again = Table::default();
    let group = RaftGroup::start(&settings, &disk.parts(1), again.state())
        .await
        .unwrap();
    within(group.wait_for_leader()).await.unwrap();
    assert_eq!(propose(&group, "key=more").await, 4_301);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_that_wait_share_one_checkpoint() {
    let disk = Disk::new();
    let parts = disk.parts(1);
    let mut groups = Vec::new();
    for number in 0..8 {
        let settings = GroupSettings::new(GroupId(number));
        let group = RaftGroup::start(&settings, &parts, Table::default().state())
            .await
            .unwrap();
        group.initialize_single(super::address(1)).await.unwrap();
        within(group.wait_for_leader()).await.unwrap();
        propose(&group, "key=value").await;
        groups.push(group);
    }
    disk.store.pause();
    let checkpoints: Vec<_> = groups
        .iter()
        .map(|group| {
            let group = group.clone();
            tokio::spawn(async move { group.checkpoint().await.unwrap() })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(
        propose(&groups[0], "key=meanwhile").await,
        2,
        "a slow store does not hold proposals up"
    );
    disk.store.resume();
    for checkpoint in checkpoints {
        within(checkpoint).await.unwrap().unwrap();
    }
    let batches = disk.store.batches();
    assert_eq!(batches.concat().len(), 8);
    assert!(batches.len() <= 2, "{batches:?}");
}

#[tokio::test]
async fn a_failed_checkpoint_stops_the_group() {
    let (disk, table) = (Disk::new(), Table::default());
    let group = lead_alone(&disk.parts(1), &table).await;
    propose(&group, "key=value").await;
    disk.store.fail();
    let failed = within(group.checkpoint()).await.unwrap_err();
    assert!(failed.0.contains("the state store is broken"), "{failed}");
    assert!(
        within(group.stopped())
            .await
            .0
            .contains("the state store is broken")
    );
}

#[tokio::test]
async fn r43_a_checkpoint_waits_for_the_log_below_it() {
    let (disk, table) = (Disk::new(), Table::default());
    let parts = disk.parts(1);
    let group = lead_alone(&parts, &table).await;
    let applied = within(group.ensure_linearizable()).await.unwrap();
    // A checkpoint one entry ahead of what is synced: a follower may apply before its own disk has the entry.
    disk.log.hold();
    let proposal = tokio::spawn({
        let group = group.clone();
        async move { propose(&group, "key=value").await }
    });
    within(async {
        while disk.log.state(GROUP).last.map(|last| last.index) != Some(applied + 1) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let position = disk.log.state(GROUP).last.unwrap();
    let written = parts.checkpoints.checkpoint(GroupCheckpoint {
        group: GROUP,
        position,
        meta: bytes::Bytes::new(),
        changes: Vec::new(),
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(disk.store.position(GROUP), None, "written above what is synced");
    disk.log.release();
    within(written.wait()).await.unwrap();
    assert_eq!(disk.store.position(GROUP), Some(position.index));
    within(proposal).await.unwrap();
}

/// A machine that is no part of a running group, on a disk of its own.
async fn machine(disk: &Disk, parts: &NodeParts, table: &Table) -> Machine {
    let (in_use, _) = mpsc::channel(1);
    Machine::open(
        GROUP,
        Box::new(table.state()),
        Arc::clone(&parts.checkpoints),
        &disk.log.state(GROUP),
        in_use,
    )
    .await
    .unwrap()
}

/// A group with 300 rows of 8 KiB and a checkpoint: a snapshot of three chunks.
async fn large_group(disk: &Disk, parts: &NodeParts, table: &Table) -> RaftGroup {
    let group = lead_alone(parts, table).await;
    for number in 0..300 {
        propose(&group, &format!("key-{number}={}", "x".repeat(8192))).await;
    }
    within(group.checkpoint()).await.unwrap().unwrap();
    assert_eq!(disk.store.position(GROUP), group.applied_index());
    group
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_survives_its_chunks_and_replaces_everything() {
    let (sender, receiver) = (Disk::new(), Disk::new());
    let (sent, received) = (Table::default(), Table::default());
    let parts = sender.parts(1);
    let group = large_group(&sender, &parts, &sent).await;
    let mut source = machine(&sender, &parts, &Table::default()).await;
    let mut snapshot = source.get_current_snapshot().await.unwrap().unwrap();

    let chunks = tokio::task::spawn_blocking(move || {
        let mut chunks = Vec::new();
        snapshot.snapshot.chunks(&mut |chunk| {
            chunks.push(chunk);
            Ok(())
        })?;
        std::io::Result::Ok((snapshot.meta, chunks))
    });
    let (meta, chunks) = chunks.await.unwrap().unwrap();
    assert!(
        chunks.len() >= 4,
        "three chunks and the closing one: {}",
        chunks.len()
    );

    let parts = receiver.parts(2);
    // The receiver holds rows that are not in the snapshot.
    let old = lead_alone(&parts, &received).await;
    propose(&old, "old=row").await;
    within(old.checkpoint()).await.unwrap();
    old.shutdown().await;
    let mut target = machine(&receiver, &parts, &received).await;
    assert_eq!(received.get("old").as_deref(), Some("row"));
    let mut spool = SnapshotReceiver::create(receiver.spool.path()).unwrap();
    for chunk in &chunks {
        spool.push(chunk.clone()).unwrap();
    }
    let data = SnapshotData::Received(spool.finish().unwrap());
    within(target.install_snapshot(&meta, data)).await.unwrap();
    assert!(received.same_as(&sent));
    assert_eq!(receiver.store.position(GROUP), group.applied_index());
    let reopened = Table::default();
    // The log was not cut yet, as after a crash in between: that is not a lost log.
    assert!(receiver.log.state(GROUP).last.map(|last| last.index) < group.applied_index());
    machine(&receiver, &parts, &reopened).await;
    assert!(reopened.same_as(&sent), "the snapshot is on the disk");
    assert_eq!(
        std::fs::read_dir(receiver.spool.path()).unwrap().count(),
        0,
        "nothing is left in the spool"
    );

    for missing in 0..chunks.len() {
        let mut spool = SnapshotReceiver::create(receiver.spool.path()).unwrap();
        let mut rest = chunks.clone();
        rest.remove(missing);
        let pushed = rest.into_iter().try_for_each(|chunk| spool.push(chunk));
        assert!(
            pushed.and_then(|()| spool.finish().map(drop)).is_err(),
            "chunk {missing} is missing"
        );
    }
    for flipped in [0, 4, 9, 1000] {
        let mut spool = SnapshotReceiver::create(receiver.spool.path()).unwrap();
        let mut chunk = chunks[0].to_vec();
        chunk[flipped] ^= 1;
        assert!(spool.push(chunk.into()).is_err(), "byte {flipped} is wrong");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r45_a_snapshot_being_read_holds_its_checkpoint_up_for_a_bounded_time() {
    let (disk, table) = (Disk::new(), Table::default());
    let settings = CheckpointSettings {
        snapshot_pause_max: Duration::from_millis(400),
        ..disk.checkpoint_settings()
    };
    let parts = disk.parts_with(1, settings);
    let group = large_group(&disk, &parts, &table).await;
    let stored = disk.store.position(GROUP);
    let mut source = machine(&disk, &parts, &Table::default()).await;
    let mut snapshot = source.get_current_snapshot().await.unwrap().unwrap();
    let (begun, begin) = std::sync::mpsc::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let reading = tokio::task::spawn_blocking(move || {
        snapshot.snapshot.chunks(&mut |_| {
            begun.send(()).ok();
            may_go_on.recv().ok();
            Ok(())
        })
    });
    begin.recv().unwrap();
    propose(&group, "key-0=new").await;
    let checkpoint = tokio::spawn({
        let group = group.clone();
        async move { group.checkpoint().await }
    });
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(disk.store.position(GROUP), stored, "written under a reader");
    assert!(
        within(checkpoint).await.unwrap().unwrap() > stored,
        "the reader's time is up"
    );
    drop(go_on);
    let read = within(reading).await.unwrap();
    assert_eq!(
        read.unwrap_err().kind(),
        std::io::ErrorKind::Interrupted,
        "a mixed snapshot was not noticed"
    );
}

/// Where memory is short, a stream of another group than the one that takes it goes on; one of the group itself ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r45_memory_waits_for_the_checkpoints_that_hold_it() {
    let (disk, table) = (Disk::new(), Table::default());
    let settings = CheckpointSettings {
        snapshot_pause_urgent: Duration::from_millis(50),
        ..disk.checkpoint_settings()
    };
    let parts = disk.parts_with(1, settings);
    let group = large_group(&disk, &parts, &table).await;
    let stored = disk.store.position(GROUP);
    parts.checkpoints.memory_waits().store(true, Ordering::Relaxed);
    let lease = parts.checkpoints.leases(GROUP).read();
    propose(&group, "key-0=new").await;
    let checkpoint = tokio::spawn({
        let group = group.clone();
        async move { group.checkpoint().await }
    });
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert!(
        lease.is_held(),
        "a checkpoint that holds nothing ended the stream"
    );
    assert_eq!(disk.store.position(GROUP), stored);
    // What comes behind it is much.
    for number in 0..150 {
        propose(&group, &format!("key-{number}={}", "y".repeat(8192))).await;
    }
    assert!(within(checkpoint).await.unwrap().unwrap() > stored);
    assert!(!lease.end());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r45_a_snapshot_that_was_overtaken_before_it_is_read_is_refused() {
    let (disk, table) = (Disk::new(), Table::default());
    let parts = disk.parts(1);
    let group = large_group(&disk, &parts, &table).await;
    let mut source = machine(&disk, &parts, &Table::default()).await;
    let mut snapshot = source.get_current_snapshot().await.unwrap().unwrap();
    propose(&group, "key-0=new").await;
    within(group.checkpoint()).await.unwrap();
    let read = tokio::task::spawn_blocking(move || snapshot.snapshot.chunks(&mut |_| Ok(())));
    assert_eq!(
        within(read).await.unwrap().unwrap_err().kind(),
        std::io::ErrorKind::Interrupted
    );
}
