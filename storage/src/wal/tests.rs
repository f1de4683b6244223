//! What only the segmented log does: torn ends, damage, segments, failure. The contract of every log is tested by
//! `log_suite`.

mod damage;

use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::faulty::{CrashMode, FaultyDisk};

const VOLUME: VolumeId = VolumeId([3; 16]);
const GROUP: GroupId = GroupId(1);

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: 4096,
        flusher: FlusherMode::Manual,
        ..WalOptions::default()
    }
}

fn open_with(disk: &FaultyDisk, options: WalOptions) -> Result<Wal, WalError> {
    Wal::open(Arc::new(disk.clone()), Path::new("/wal"), VOLUME, options)
}

fn open(disk: &FaultyDisk) -> Wal {
    open_with(disk, options()).unwrap()
}

fn position(index: u64) -> LogPosition {
    LogPosition {
        term: 1,
        leader: 1,
        index,
    }
}

fn entry(index: u64, bytes: usize) -> LogEntry {
    LogEntry {
        position: position(index),
        payload: Bytes::from(vec![index as u8; bytes]),
    }
}

fn nothing() -> Completion {
    Box::new(|_| {})
}

fn append(wal: &Wal, group: GroupId, index: u64, bytes: usize) {
    wal.append(
        group,
        vec![entry(index, bytes)],
        Box::new(|result| result.unwrap()),
    );
}

fn flush(wal: &Wal) {
    wal.flush_once().unwrap();
    wal.check_invariants();
}

fn last_segment(disk: &FaultyDisk) -> (PathBuf, u64) {
    let name = disk.list(Path::new("/wal")).unwrap().pop().unwrap();
    let path = Path::new("/wal").join(name);
    let size = disk.open(&path).unwrap().size().unwrap();
    (path, size)
}

fn indexes(wal: &Wal, group: GroupId) -> Vec<u64> {
    wal.read(group, 0, u64::MAX, usize::MAX)
        .unwrap()
        .iter()
        .map(|entry| entry.position.index)
        .collect()
}

#[test]
fn a_failed_sync_fails_the_log_for_ever_and_everybody_is_told() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    append(&wal, GROUP, 1, 10);
    flush(&wal);
    disk.fail_sync("wal", 0);
    let failures = Arc::new(AtomicUsize::new(0));
    let count = || -> Completion {
        let failures = Arc::clone(&failures);
        Box::new(move |result| {
            assert!(result.is_err());
            failures.fetch_add(1, Ordering::SeqCst);
        })
    };
    wal.append(GROUP, vec![entry(2, 10)], count());
    wal.save_vote(GROUP, Bytes::from_static(b"v"), count());
    assert!(wal.flush_once().is_err());
    assert_eq!(failures.load(Ordering::SeqCst), 2);
    let syncs = disk.syncs();
    wal.append(GROUP, vec![entry(3, 10)], count());
    wal.purge(GROUP, position(1), count());
    assert_eq!(
        failures.load(Ordering::SeqCst),
        4,
        "later operations fail at once"
    );
    assert!(wal.flush_once().is_err());
    assert_eq!(disk.syncs(), syncs, "the sync is not tried again");
    assert!(wal.failure().is_some());
}

#[test]
fn a_full_disk_fails_the_log_and_loses_nothing_acknowledged() {
    let disk = FaultyDisk::new(1);
    disk.set_capacity(Some(6000));
    let wal = open(&disk);
    let acknowledged = Arc::new(AtomicU64::new(0));
    for index in 1..20 {
        let acknowledged = Arc::clone(&acknowledged);
        let done: Completion = Box::new(move |result| {
            if result.is_ok() {
                acknowledged.store(index, Ordering::SeqCst);
            }
        });
        wal.append(GROUP, vec![entry(index, 500)], done);
        if wal.flush_once().is_err() {
            break;
        }
    }
    let acknowledged = acknowledged.load(Ordering::SeqCst);
    assert!((3..15).contains(&acknowledged));
    drop(wal);
    disk.set_capacity(None);
    disk.crash();
    assert!(open(&disk).state(GROUP).last.unwrap().index >= acknowledged);
}

#[test]
fn purged_segments_are_deleted_and_votes_survive_them() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    wal.save_vote(GROUP, Bytes::from_static(b"vote"), nothing());
    wal.save_committed(GROUP, position(3));
    for index in 1..=40 {
        append(&wal, GROUP, index, 1000);
        flush(&wal);
    }
    assert!(wal.stats().segments > 8);
    wal.purge(GROUP, position(38), nothing());
    while wal.flush_once().unwrap() {}
    wal.check_invariants();
    assert!(wal.stats().segments <= 2, "{:?}", wal.stats());
    assert!(wal.oldest_segment_groups().iter().all(|(_, index)| *index >= 39));
    disk.crash();
    drop(wal);
    let wal = open(&disk);
    assert_eq!(indexes(&wal, GROUP), [39, 40]);
    let state = wal.state(GROUP);
    assert_eq!(state.vote.unwrap(), "vote");
    assert_eq!(
        (state.purged, state.committed),
        (Some(position(38)), Some(position(3)))
    );
}

#[test]
fn a_lagging_group_does_not_pin_files() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    let lagging = GroupId(9);
    append(&wal, lagging, 1, 200);
    append(&wal, lagging, 2, 200);
    for index in 1..=60 {
        append(&wal, GROUP, index, 1000);
        flush(&wal);
        wal.purge(GROUP, position(index), nothing());
        flush(&wal);
    }
    while wal.flush_once().unwrap() {}
    assert!(wal.stats().segments <= 6, "{:?}", wal.stats());
    assert!(wal.stats().entries_moved >= 2);
    assert_eq!(
        wal.read(lagging, 1, 3, usize::MAX).unwrap(),
        [entry(1, 200), entry(2, 200)]
    );
    append(&wal, lagging, 3, 200);
    flush(&wal);
    disk.crash();
    drop(wal);
    assert_eq!(indexes(&open(&disk), lagging), [1, 2, 3]);
}

#[test]
fn a_group_with_much_alive_is_named_and_not_copied() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    for index in 1..=30 {
        append(&wal, GROUP, index, 1000);
        flush(&wal);
    }
    assert_eq!(wal.stats().entries_moved, 0);
    assert_eq!(wal.oldest_segment_groups(), [(GROUP, 1)]);
}

#[test]
fn a_log_of_many_segments_names_who_keeps_the_oldest() {
    let disk = FaultyDisk::new(1);
    let wal = open_with(
        &disk,
        WalOptions {
            segments_max: 2,
            ..options()
        },
    )
    .unwrap();
    let other = GroupId(GROUP.0 + 1);
    append(&wal, other, 1, 10);
    let mut index = 0;
    while wal.stats().segments <= 2 {
        assert_eq!(wal.crowding(1), []);
        index += 1;
        append(&wal, GROUP, index, 1000);
        flush(&wal);
    }
    assert_eq!(wal.crowding(2), [], "it may take twice the room");
    let crowding = wal.crowding(1);
    let last = crowding
        .iter()
        .find(|(group, _)| *group == GROUP)
        .expect("it has entries there")
        .1;
    assert!(last > 1 && last < index, "{last} of {index}");
    assert!(crowding.contains(&(other, 1)));
    // Once these are gone the file goes with the next flushes.
    for (group, index) in crowding {
        wal.purge(group, position(index), nothing());
    }
    flush(&wal);
    flush(&wal);
    assert_eq!(wal.crowding(1), []);
}

#[test]
fn old_payloads_leave_memory_and_come_back_from_the_file() {
    let disk = FaultyDisk::new(1);
    let wal = open_with(
        &disk,
        WalOptions {
            tail_bytes_max: 3000,
            ..options()
        },
    )
    .unwrap();
    for index in 1..=20 {
        append(&wal, GROUP, index, 1000);
    }
    wal.check_invariants();
    flush(&wal);
    let cached = wal.shared.state.lock().groups[&GROUP]
        .slots()
        .filter(|(_, slot)| slot.payload.is_some())
        .count();
    assert_eq!(cached, 3);
    let expected: Vec<_> = (1..=20).map(|index| entry(index, 1000)).collect();
    assert_eq!(wal.read(GROUP, 1, 21, usize::MAX).unwrap(), expected);
    wal.truncate_after(GROUP, Some(10), nothing());
    append(&wal, GROUP, 11, 1000);
    flush(&wal);
    assert_eq!(wal.read(GROUP, 1, 12, usize::MAX).unwrap(), expected[..11]);
}

#[test]
fn starts_without_writes_leave_no_files_behind() {
    let disk = FaultyDisk::new(1);
    for _ in 0..5 {
        open(&disk).close().unwrap();
    }
    assert_eq!(disk.list(Path::new("/wal")).unwrap().len(), 1);
}

#[test]
fn written_groups_complete_before_the_sync_but_not_before_their_vote() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    wal.set_sync_policy(GROUP, SyncPolicy::Written);
    let order = Arc::new(Mutex::new(Vec::new()));
    let note = |what: &'static str| -> Completion {
        let (order, disk, syncs) = (Arc::clone(&order), disk.clone(), disk.syncs());
        Box::new(move |result| {
            result.unwrap();
            order.lock().push((what, disk.syncs() - syncs));
        })
    };
    wal.append(GroupId(2), vec![entry(1, 10)], note("synced entry"));
    wal.append(GROUP, vec![entry(1, 10)], note("written entry"));
    wal.save_vote(GROUP, Bytes::from_static(b"v"), note("vote"));
    wal.append(GROUP, vec![entry(2, 10)], note("entry after the vote"));
    wal.flush_once().unwrap();
    wal.append(GROUP, vec![entry(3, 10)], note("next flush"));
    wal.flush_once().unwrap();
    assert_eq!(
        *order.lock(),
        [
            ("written entry", 0),
            ("synced entry", 1),
            ("vote", 1),
            ("entry after the vote", 1),
            ("next flush", 0)
        ]
    );
    assert_eq!(wal.synced_index(GROUP), 2);
    wal.request_sync();
    wal.flush_once().unwrap();
    assert_eq!(wal.synced_index(GROUP), 3);
}

#[test]
fn the_flusher_thread_syncs_written_data_by_itself_and_shares_syncs() {
    let disk = FaultyDisk::new(1);
    let options = WalOptions {
        sync_written_after: Duration::from_millis(20),
        ..WalOptions::default()
    };
    let wal = Arc::new(open_with(&disk, options).unwrap());
    wal.set_sync_policy(GROUP, SyncPolicy::Written);
    append(&wal, GROUP, 1, 10);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while wal.synced_index(GROUP) < 1 {
        assert!(std::time::Instant::now() < deadline, "synced in the background");
        std::thread::sleep(Duration::from_millis(1));
    }
    disk.set_sync_delay(Duration::from_millis(20));
    let before = wal.stats().syncs;
    let (sender, receiver) = std::sync::mpsc::channel();
    for index in 1..=200 {
        let sender = sender.clone();
        let done: Completion = Box::new(move |result| sender.send(result.is_ok()).unwrap());
        wal.append(GroupId(5), vec![entry(index, 10)], done);
    }
    assert!((0..200).all(|_| receiver.recv().unwrap()));
    assert!(wal.stats().syncs - before < 20, "one sync serves many");
}

#[test]
fn a_completion_may_hold_the_last_reference_and_submit() {
    let disk = FaultyDisk::new(1);
    let wal = Arc::new(open_with(&disk, WalOptions::default()).unwrap());
    let (sender, receiver) = std::sync::mpsc::channel();
    let held = Arc::clone(&wal);
    let done: Completion = Box::new(move |result| {
        result.unwrap();
        append(&held, GROUP, 2, 10);
        drop(held);
        sender.send(()).unwrap();
    });
    wal.append(GROUP, vec![entry(1, 10)], done);
    drop(wal);
    receiver.recv().unwrap();
}

#[test]
fn a_commit_position_alone_is_written_soon() {
    let disk = FaultyDisk::new(1);
    let wal = open_with(&disk, WalOptions::default()).unwrap();
    append(&wal, GROUP, 1, 10);
    wal.save_committed(GROUP, position(1));
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while wal.stats().bytes_pending > 0 || wal.stats().flushes < 2 {
        assert!(std::time::Instant::now() < deadline, "{:?}", wal.stats());
        wal.save_committed(GROUP, position(1));
        std::thread::sleep(Duration::from_millis(150));
    }
    disk.kill();
    drop(wal);
    assert_eq!(open(&disk).state(GROUP).committed, Some(position(1)));
}

#[test]
fn callers_wait_when_too_much_is_pending_and_go_on() {
    let disk = FaultyDisk::new(1);
    disk.set_sync_delay(Duration::from_millis(10));
    let options = WalOptions {
        pending_bytes_max: 4000,
        ..WalOptions::default()
    };
    let wal = Arc::new(open_with(&disk, options).unwrap());
    let highest = (1..=50).map(|index| {
        append(&wal, GROUP, index, 1000);
        wal.stats().bytes_pending
    });
    let highest = highest.max().unwrap();
    assert!((1000..6500).contains(&highest), "{highest} bytes were pending");
    wal.close().unwrap();
    assert_eq!(indexes(&open(&disk), GROUP).len(), 50);
}

#[test]
fn a_closed_log_refuses_and_closing_twice_is_fine() {
    let disk = FaultyDisk::new(1);
    let wal = open_with(&disk, WalOptions::default()).unwrap();
    append(&wal, GROUP, 1, 10);
    wal.close().unwrap();
    wal.close().unwrap();
    let (done, result) = crate::log_suite::completion();
    wal.append(GROUP, vec![entry(2, 10)], done);
    assert_eq!(
        result.recv().unwrap().unwrap_err().kind(),
        io::ErrorKind::BrokenPipe
    );
}

#[test]
fn what_is_appended_during_a_sync_is_not_counted_as_synced() {
    let disk = FaultyDisk::new(1);
    let held: Arc<Mutex<Option<Arc<Wal>>>> = Arc::default();
    let in_sync = Arc::clone(&held);
    let observer: SyncObserver = Arc::new(move |_| {
        // Called between the end of the sync and its effect.
        if let Some(wal) = in_sync.lock().take() {
            append(&wal, GROUP, 2, 10);
        }
    });
    let wal = Arc::new(
        open_with(
            &disk,
            WalOptions {
                sync_observer: Some(observer),
                ..options()
            },
        )
        .unwrap(),
    );
    *held.lock() = Some(Arc::clone(&wal));
    append(&wal, GROUP, 1, 10);
    flush(&wal);
    assert_eq!((wal.synced_index(GROUP), indexes(&wal, GROUP).len()), (1, 2));
    flush(&wal);
    assert_eq!(wal.synced_index(GROUP), 2);
}
