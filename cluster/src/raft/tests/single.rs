//! A group of one: proposals, restarts, failures, and what it costs to stand still.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::storage::RaftLogStorage;
use quorate_storage::log::{GroupId, Log};

use super::table::Table;
use super::{Disk, GROUP, address, lead_alone, propose, within};
use crate::raft::log::GroupLog;
use crate::raft::types::Vote;
use crate::raft::{
    BATCH_BYTES_MAX, GroupRole, GroupSettings, ProposeError, RaftGroup, StartError, StateError, begin_empty,
    inspect, take_over,
};
use crate::state::NodeId;

#[tokio::test]
async fn proposals_are_applied_in_order_and_answered() {
    let (disk, table) = (Disk::new(), Table::default());
    let group = lead_alone(&disk.parts(1), &table).await;
    for number in 1..=100 {
        assert_eq!(propose(&group, &format!("key={number}")).await, number);
    }
    assert_eq!(table.get("key").as_deref(), Some("100"));
    let status = group.status();
    assert_eq!((status.role, status.leader), (GroupRole::Leader, Some(NodeId(1))));
    assert!(group.is_leader());
    assert_eq!(
        group.ensure_linearizable().await.unwrap(),
        group.applied_index().unwrap()
    );
    assert!(
        !group.initialize_single(address(1)).await.unwrap(),
        "a group is created once"
    );
}

#[tokio::test]
async fn a_restart_replays_the_log() {
    let (disk, table) = (Disk::new(), Table::default());
    let group = lead_alone(&disk.parts(1), &table).await;
    let term = group.status().term;
    for number in 0..50 {
        propose(&group, &format!("key-{number}={number}")).await;
    }
    group.shutdown().await;
    assert!(within(group.failed()).await.is_none(), "it was told to");

    let began = Instant::now();
    let again = Table::default();
    let group = RaftGroup::start(&GroupSettings::new(GROUP), &disk.parts(1), again.state())
        .await
        .unwrap();
    within(group.wait_for_leader()).await.unwrap();
    assert!(
        began.elapsed() < Duration::from_millis(250),
        "the only voter waits for nobody"
    );
    within(group.ensure_linearizable()).await.unwrap();
    assert!(
        group.status().term > term,
        "leadership is never resumed in the old term"
    );
    assert_eq!(again.rows(), 50);
    assert_eq!(propose(&group, "key-0=").await, 51);
    assert_eq!(again.get("key-0"), None);
}

#[tokio::test]
async fn what_is_not_durable_is_not_answered() {
    let (disk, table) = (Disk::new(), Table::default());
    let group = lead_alone(&disk.parts(1), &table).await;
    within(group.ensure_linearizable()).await.unwrap();
    disk.log.hold();
    let proposal = tokio::spawn({
        let group = group.clone();
        async move { propose(&group, "key=value").await }
    });
    within(async {
        while disk.log.held() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!proposal.is_finished(), "answered before the log was synced");
    assert_eq!(table.rows(), 0);
    disk.log.release();
    assert_eq!(within(proposal).await.unwrap(), 1);
}

#[tokio::test]
async fn a_vote_is_durable_before_it_is_answered() {
    let disk = Disk::new();
    let (in_use, _released) = tokio::sync::mpsc::channel(1);
    let mut log = GroupLog::new(disk.log.clone(), GROUP, in_use);
    disk.log.hold();
    let saving = tokio::spawn(async move { log.save_vote(&Vote::new(3, 2)).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!saving.is_finished());
    disk.log.release();
    within(saving).await.unwrap().unwrap();
    assert!(disk.log.state(GROUP).vote.is_some());
}

#[tokio::test]
async fn a_broken_log_stops_the_group() {
    let (disk, table) = (Disk::new(), Table::default());
    let group = lead_alone(&disk.parts(1), &table).await;
    propose(&group, "key=1").await;
    disk.log.break_disk();
    let proposal = within(group.propose(&Bytes::from_static(b"key=2"))).await;
    assert_eq!(
        proposal,
        Err(ProposeError::Unknown),
        "the entry may be on the disk"
    );
    assert!(within(group.stopped()).await.0.contains("the disk is broken"));
    let failed = within(group.failed()).await;
    assert!(failed.is_some_and(|stopped| stopped.0.contains("the disk is broken")));
    let proposal = within(group.propose(&Bytes::from_static(b"key=3"))).await;
    assert!(matches!(proposal, Err(ProposeError::Fatal(_))), "{proposal:?}");
    assert_eq!(group.status().role, GroupRole::Stopped);
}

#[tokio::test]
async fn an_entry_that_cannot_be_applied_stops_the_group() {
    let (disk, table) = (Disk::new(), Table::default());
    let group = lead_alone(&disk.parts(1), &table).await;
    let proposal = within(group.propose(&Bytes::from_static(b"no command"))).await;
    assert_eq!(proposal, Err(ProposeError::Unknown));
    assert!(within(group.stopped()).await.0.contains("no command"));
}

#[tokio::test]
async fn only_a_member_that_leads_takes_proposals() {
    let (disk, table) = (Disk::new(), Table::default());
    let parts = disk.parts(1);
    let group = RaftGroup::start(&GroupSettings::new(GROUP), &parts, table.state())
        .await
        .unwrap();
    let batch = Bytes::from_static(b"key=1");
    assert_eq!(
        within(group.propose(&batch)).await,
        Err(ProposeError::NotLeader { leader: None })
    );
    let read = within(group.ensure_linearizable()).await;
    assert_eq!(read, Err(ProposeError::NotLeader { leader: None }));
    let large = Bytes::from(vec![b'='; BATCH_BYTES_MAX + 1]);
    assert_eq!(
        within(group.propose(&large)).await,
        Err(ProposeError::TooLarge(large.len()))
    );
}

#[tokio::test]
async fn a_lost_state_store_is_noticed_at_start() {
    let (disk, table) = (Disk::new(), Table::default());
    let parts = disk.parts(1);
    let settings = GroupSettings {
        log_entries_to_keep: 0,
        ..GroupSettings::new(GROUP)
    };
    let group = RaftGroup::start(&settings, &parts, table.state()).await.unwrap();
    group.initialize_single(address(1)).await.unwrap();
    within(group.wait_for_leader()).await.unwrap();
    for number in 0..4200 {
        propose(&group, &format!("key={number}")).await;
    }
    within(group.checkpoint()).await.unwrap().unwrap();
    within(async {
        while disk.log.state(GROUP).purged.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    group.shutdown().await;
    disk.store.lose(GROUP);
    let start = RaftGroup::start(&settings, &disk.parts(1), table.state()).await;
    assert!(matches!(
        start.err(),
        Some(StartError::State(StateError::StateLost { stored: None, .. }))
    ));
}

#[tokio::test]
async fn r44_a_lost_log_is_noticed_at_start() {
    let (disk, table) = (Disk::new(), Table::default());
    let parts = disk.parts(1);
    let group = lead_alone(&parts, &table).await;
    for number in 0..10 {
        propose(&group, &format!("key={number}")).await;
    }
    let stored = within(group.checkpoint()).await.unwrap().unwrap();
    propose(&group, "key=acknowledged").await;
    group.shutdown().await;
    // An older one is there, or nothing of it.
    for last in [Some(stored - 1), None] {
        disk.log
            .truncate_after(GROUP, last, Box::new(|result| result.unwrap()));
        let settings = GroupSettings::new(GROUP);
        let start = RaftGroup::start(&settings, &disk.parts(1), table.state()).await;
        let Some(StartError::State(error @ StateError::LogLost { .. })) = start.err() else {
            panic!("started over a log that ends at {last:?}")
        };
        assert!(error.to_string().contains(&stored.to_string()), "{error}");
    }
}

/// R17: what a group that begins empty does is behind everything that others may remember of it.
#[tokio::test]
async fn r17_a_group_of_which_nothing_is_left_begins_behind_what_it_was() {
    const BEYOND: u64 = 1 << 32;
    let (disk, table) = (Disk::new(), Table::default());
    let parts = disk.parts(1);
    let begin = || {
        let (log, store) = (&*parts.log, &**parts.checkpoints.store());
        let held = inspect(GROUP, log, store, &mut |_| ()).unwrap();
        let held = match held.last {
            None => begin_empty(store, &held, NodeId(1), BEYOND).unwrap(),
            Some(_) => held,
        };
        take_over(log, &held, NodeId(1), &address(1), &[]).unwrap();
    };
    // Once more, as after a crash in the middle.
    begin();
    begin();
    for run in 0..2 {
        let group = RaftGroup::start(&GroupSettings::new(GROUP), &parts, table.state())
            .await
            .unwrap();
        within(group.wait_for_leader()).await.unwrap();
        assert_eq!(propose(&group, &format!("key={run}")).await, run + 1);
        assert!(group.applied_index().unwrap() > BEYOND + u64::from(run));
        group.shutdown().await;
    }
}

/// A little more than what a node of a small cluster carries: `meta`, 16 data groups, one live group and one for memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_one_groups_restart_fast_and_cost_nothing_while_idle() {
    let disk = Disk::new();
    let parts = disk.parts(1);
    let start = async |parts: &crate::raft::NodeParts| {
        let starting = (0..21_u16).map(|group| {
            let parts = parts.clone();
            tokio::spawn(async move {
                let settings = GroupSettings::new(GroupId(group));
                RaftGroup::start(&settings, &parts, Table::default().state())
                    .await
                    .unwrap()
            })
        });
        let mut groups = Vec::new();
        for starting in starting.collect::<Vec<_>>() {
            groups.push(starting.await.unwrap());
        }
        groups
    };
    let groups = start(&parts).await;
    for group in &groups {
        group.initialize_single(address(1)).await.unwrap();
        within(group.wait_for_leader()).await.unwrap();
        propose(group, "key=value").await;
        within(group.checkpoint()).await.unwrap();
    }
    for group in groups {
        group.shutdown().await;
    }

    let parts = disk.parts(1);
    let began = Instant::now();
    let groups = start(&parts).await;
    for group in &groups {
        within(group.wait_for_leader()).await.unwrap();
        within(group.ensure_linearizable()).await.unwrap();
    }
    let restart = began.elapsed();
    println!("restart of 21 groups until all lead and read: {restart:?}");
    assert!(restart < Duration::from_secs(1));

    tokio::time::sleep(Duration::from_millis(500)).await;
    let (before, began) = (cpu_time(), Instant::now());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let share = (cpu_time() - before).as_secs_f64() / began.elapsed().as_secs_f64();
    println!("21 idle groups use {:.3} % of a core", share * 100.0);
    assert!(share < 0.01, "idle groups use {share} of a core");
    for group in &groups {
        assert_eq!(propose(group, "key=again").await, 2, "an idle leader still leads");
    }
}

/// Time that the threads of this process have run, from the scheduler's own account, in nanoseconds' resolution.
pub(super) fn cpu_time() -> Duration {
    let mut total = Duration::ZERO;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        // A thread may end while this reads.
        if let Ok(account) = std::fs::read_to_string(task.unwrap().path().join("schedstat")) {
            total += Duration::from_nanos(account.split_whitespace().next().unwrap().parse().unwrap());
        }
    }
    total
}

/// Proposals per second of a group of one over `log`, and the CPU time of each. Printed, not judged: the machine
/// is not known.
pub(super) async fn measure(name: &str, log: Arc<dyn Log>) {
    let disk = Disk::new();
    let parts = super::parts_over(1, log, disk.store.clone(), disk.checkpoint_settings());
    let table = Table::default();
    let group = lead_alone(&parts, &table).await;
    // Unoptimised code is not worth a long measurement.
    let scale = if cfg!(debug_assertions) { 1 } else { 16 };
    let mut expected = 0;
    for (clients, each) in [(1, 100 * scale), (16, 200 * scale), (256, 25 * scale)] {
        expected += clients * each;
        let (before, began) = (cpu_time(), Instant::now());
        let running = (0..clients).map(|client| {
            let group = group.clone();
            tokio::spawn(async move {
                let batch = Bytes::from(format!("client-{client}={}", "x".repeat(1024)));
                for _ in 0..each {
                    group.propose(&batch).await.unwrap();
                }
            })
        });
        for running in running.collect::<Vec<_>>() {
            running.await.unwrap();
        }
        let (cpu, took) = (cpu_time() - before, began.elapsed());
        let proposals = f64::from(clients * each);
        println!(
            "{name}: {clients} clients, 1 KiB batches: {:.0} proposals/s, {:.1} us CPU each",
            proposals / took.as_secs_f64(),
            cpu.as_secs_f64() * 1e6 / proposals,
        );
    }
    assert_eq!(table.count(), expected, "every proposal was applied once");
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_per_second_over_a_log_in_memory() {
    let disk = Disk::new();
    measure("memory", disk.log.clone()).await;
}
