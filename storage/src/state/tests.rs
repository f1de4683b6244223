//! The checkpointer over a store that forgets, and over sled. Power cuts at every operation are in `crash_tests`.

mod large_values;
mod long_keys;
mod torn_parameters;

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::disk::{Disk, RealDisk};
use crate::faulty::{CrashMode, FaultyDisk};
use crate::log::LogPosition;

const DIR: &str = "/state";
const GROUP: GroupId = GroupId(4);

struct Machine {
    disk: FaultyDisk,
    store: Arc<FaultyStore>,
}

impl Machine {
    fn new() -> Self {
        let disk = FaultyDisk::new(1);
        Self {
            store: Arc::new(FaultyStore::new(disk.clone(), 2)),
            disk,
        }
    }

    fn open(&self) -> Result<Arc<Checkpointer>, StateError> {
        Checkpointer::open(Arc::new(self.disk.clone()), Path::new(DIR), self.store.clone()).map(Arc::new)
    }
}

fn position(index: u64) -> LogPosition {
    LogPosition {
        term: 1,
        leader: 1,
        index,
    }
}

fn change(key: &str, value: Option<&[u8]>) -> Change {
    (key.as_bytes().to_vec(), value.map(<[u8]>::to_vec))
}

fn one(group: GroupId, index: u64, changes: Vec<Change>) -> Vec<GroupCheckpoint> {
    vec![GroupCheckpoint {
        group,
        position: position(index),
        meta: Bytes::from(format!("meta {index}")),
        changes,
    }]
}

fn content(checkpointer: &Checkpointer, group: GroupId) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let visit =
        |key: &[u8], value: &[u8]| found.push((String::from_utf8(key.to_vec()).unwrap(), value.to_vec()));
    checkpointer.entries(group, visit).unwrap();
    found
}

fn exercise(checkpointer: &Checkpointer) {
    assert_eq!(checkpointer.load(GROUP), None);
    let large: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
    let changes = vec![
        change("b", Some(&large)),
        change("a", Some(b"1")),
        change("", Some(b"")),
    ];
    checkpointer.checkpoint(one(GROUP, 5, changes)).unwrap();
    assert_eq!(
        checkpointer.load(GROUP),
        Some((position(5), Bytes::from_static(b"meta 5")))
    );
    assert_eq!(
        content(checkpointer, GROUP),
        [
            ("".to_owned(), vec![]),
            ("a".to_owned(), b"1".to_vec()),
            ("b".to_owned(), large)
        ]
    );
    let shorter = vec![3; 60_000];
    checkpointer
        .checkpoint(one(
            GROUP,
            6,
            vec![change("b", Some(&shorter)), change("a", None)],
        ))
        .unwrap();
    assert_eq!(checkpointer.value(GROUP, b"b").unwrap(), Some(shorter));
    assert_eq!(checkpointer.value(GROUP, b"a").unwrap(), None);
    checkpointer
        .checkpoint(one(GROUP, 7, vec![change("b", None)]))
        .unwrap();
    assert_eq!(content(checkpointer, GROUP), [("".to_owned(), vec![])]);
}

#[test]
fn values_of_all_sizes_are_stored_changed_and_removed() {
    let machine = Machine::new();
    exercise(&machine.open().unwrap());
    let left = machine.store.copy().len();
    assert_eq!(
        left, 3,
        "the value, the group's record, the store's record: no part is left over"
    );
}

#[test]
fn sled_does_the_same_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let store = SledStore::open(&dir.path().join("sled"), &SledOptions::default()).unwrap();
        Checkpointer::open(Arc::new(RealDisk), dir.path(), Arc::new(store)).unwrap()
    };
    exercise(&open());
    let checkpointer = open();
    assert_eq!(checkpointer.load(GROUP).unwrap().0, position(7));
    assert_eq!(content(&checkpointer, GROUP), [("".to_owned(), vec![])]);
    checkpointer
        .replace(
            GROUP,
            position(9),
            Bytes::new(),
            [Ok((b"k".to_vec(), vec![1; 70_000]))],
        )
        .unwrap();
    while checkpointer.collect_garbage(10).unwrap() {}
    drop(checkpointer);
    assert_eq!(content(&open(), GROUP), [("k".to_owned(), vec![1; 70_000])]);
}

#[test]
fn a_lost_sled_is_noticed_and_not_started_empty() {
    let dir = tempfile::tempdir().unwrap();
    let sled = dir.path().join("sled");
    let open = || {
        let store = SledStore::open(&sled, &SledOptions::default())?;
        Checkpointer::open(Arc::new(RealDisk), dir.path(), Arc::new(store))
    };
    open()
        .unwrap()
        .checkpoint(one(GROUP, 1, vec![change("a", Some(b"1"))]))
        .unwrap();
    let copy = dir.path().join("copy");
    std::fs::rename(&sled, &copy).unwrap();
    assert!(matches!(open(), Err(StateError::StateLost { .. })), "gone");
    std::fs::remove_dir_all(&sled).unwrap();
    std::fs::rename(&copy, &sled).unwrap();
    assert_eq!(open().unwrap().load(GROUP).unwrap().0, position(1));
    let mut data = std::fs::read(sled.join("db")).unwrap();
    data.fill(0xa5);
    std::fs::write(sled.join("db"), data).unwrap();
    assert!(matches!(open(), Err(StateError::StateLost { .. })), "damaged");
}

#[test]
fn a_store_that_lost_its_newest_state_is_lost() {
    let machine = Machine::new();
    let checkpointer = machine.open().unwrap();
    checkpointer
        .checkpoint(one(GROUP, 1, vec![change("a", Some(b"1"))]))
        .unwrap();
    let older = machine.store.copy();
    checkpointer
        .checkpoint(one(GROUP, 2, vec![change("a", Some(b"2"))]))
        .unwrap();
    machine.store.replace_content(older);
    let error = machine.open().unwrap_err();
    assert!(matches!(&error, StateError::StateLost { .. }), "{error}");
    assert!(error.to_string().contains(DIR), "{error}");
}

#[test]
fn a_store_without_its_marker_is_lost() {
    let machine = Machine::new();
    machine.open().unwrap().checkpoint(one(GROUP, 1, vec![])).unwrap();
    machine.disk.remove(&Path::new(DIR).join("initialised")).unwrap();
    assert!(matches!(machine.open(), Err(StateError::StateLost { .. })));
}

#[test]
fn a_damaged_value_is_an_error_that_names_group_and_key() {
    let machine = Machine::new();
    let checkpointer = machine.open().unwrap();
    let large = vec![7; 100_000];
    checkpointer
        .checkpoint(one(
            GROUP,
            1,
            vec![change("big", Some(&large)), change("key", Some(b"v"))],
        ))
        .unwrap();
    for (stored, byte, key) in [
        (layout::value_key(GROUP, 1, b"key"), 5, "key"),
        (layout::value_key(GROUP, 1, b"key"), 0, "key"),
        (layout::value_key(GROUP, 1, b"big"), 6, "big"),
        (layout::parts_range(GROUP, 1).0, 77, "big"),
    ] {
        assert!(machine.store.flip_bit(&stored, byte));
        let error = checkpointer.value(GROUP, key.as_bytes()).unwrap_err();
        assert!(
            matches!(&error, StateError::CorruptValue { group: GROUP, key: named } if named == key.as_bytes()),
            "{error}"
        );
        assert!(checkpointer.entries(GROUP, |_, _| {}).is_err());
        assert!(machine.store.flip_bit(&stored, byte));
    }
    assert_eq!(content(&checkpointer, GROUP).len(), 2);
}

#[test]
fn a_damaged_record_of_a_group_or_the_store_is_a_lost_store() {
    for key in [layout::record_key(GROUP), layout::STORE_KEY.to_vec()] {
        let machine = Machine::new();
        machine.open().unwrap().checkpoint(one(GROUP, 1, vec![])).unwrap();
        assert!(machine.store.flip_bit(&key, 6));
        assert!(matches!(machine.open(), Err(StateError::StateLost { .. })));
    }
}

#[test]
fn replaced_state_swaps_and_leaves_nothing_behind() {
    let machine = Machine::new();
    let checkpointer = machine.open().unwrap();
    let other = GroupId(5);
    checkpointer
        .checkpoint(one(other, 1, vec![change("x", Some(b"1"))]))
        .unwrap();
    checkpointer
        .checkpoint(one(GROUP, 1, vec![change("old", Some(&[1; 90_000]))]))
        .unwrap();
    let broken: Vec<io::Result<Entry>> = vec![
        Ok((b"half".to_vec(), vec![1])),
        Err(io::Error::other("peer gone")),
    ];
    assert!(
        checkpointer
            .replace(GROUP, position(8), Bytes::new(), broken)
            .is_err()
    );
    assert_eq!(
        checkpointer.load(GROUP).unwrap().0,
        position(1),
        "a broken snapshot changes nothing"
    );
    checkpointer
        .replace(
            GROUP,
            position(9),
            Bytes::from_static(b"m"),
            [Ok((b"new".to_vec(), b"2".to_vec()))],
        )
        .unwrap();
    assert_eq!(
        checkpointer.load(GROUP),
        Some((position(9), Bytes::from_static(b"m")))
    );
    assert_eq!(content(&checkpointer, GROUP), [("new".to_owned(), b"2".to_vec())]);
    while checkpointer.collect_garbage(1).unwrap() {}
    assert_eq!(
        machine.store.copy().len(),
        5,
        "two values, two groups' records, the store's"
    );
    checkpointer.remove(GROUP).unwrap();
    assert_eq!(
        (checkpointer.load(GROUP), content(&checkpointer, GROUP).len()),
        (None, 0)
    );
    checkpointer
        .checkpoint(one(GROUP, 2, vec![change("again", Some(b"3"))]))
        .unwrap();
    assert_eq!(
        content(&checkpointer, GROUP).len(),
        1,
        "nothing of its former life"
    );
    let reopened = machine.open().unwrap();
    assert_eq!(machine.store.copy().len(), 5, "opening cleans up");
    assert_eq!(content(&reopened, other).len(), 1);
}

#[test]
fn a_snapshot_is_read_in_pieces_while_checkpoints_of_its_group_wait() {
    let machine = Machine::new();
    let checkpointer = machine.open().unwrap();
    let changes: Vec<Change> = (0..100)
        .map(|number| change(&format!("{number:03}"), Some(&[1; 100])))
        .collect();
    checkpointer.checkpoint(one(GROUP, 3, changes)).unwrap();
    assert!(checkpointer.snapshot(GroupId(99)).unwrap().is_none());
    let mut reader = checkpointer.snapshot(GROUP).unwrap().unwrap();
    assert_eq!(
        (reader.position(), reader.meta().as_ref()),
        (position(3), b"meta 3".as_slice())
    );
    let refused = checkpointer.checkpoint(one(GROUP, 4, vec![])).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy);
    checkpointer.checkpoint(one(GroupId(8), 4, vec![])).unwrap();
    let (mut count, mut pieces) = (0, 0);
    loop {
        let chunk = reader.next_chunk(1000).unwrap();
        count += chunk.entries.len();
        pieces += 1;
        if chunk.is_last {
            break;
        }
    }
    assert!(count == 100 && pieces > 10, "{count} entries in {pieces} pieces");
    let mut second = checkpointer.snapshot(GROUP).unwrap().unwrap();
    drop(reader);
    assert!(
        checkpointer.checkpoint(one(GROUP, 4, vec![])).is_err(),
        "the second reader is left"
    );
    checkpointer
        .replace(GROUP, position(9), Bytes::new(), [])
        .unwrap();
    assert!(second.next_chunk(1000).is_err(), "the state it read is gone");
    drop(second);
    checkpointer.checkpoint(one(GROUP, 10, vec![])).unwrap();
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let machine = Machine::new();
    let checkpointer = machine.open().unwrap();
    checkpointer.checkpoint(one(GROUP, 5, vec![])).unwrap();
    let mut twice = one(GROUP, 6, vec![]);
    twice.extend(one(GROUP, 7, vec![]));
    let long_key = one(GROUP, 6, vec![(vec![0; KEY_BYTES_MAX + 1], None)]);
    let long_meta = vec![GroupCheckpoint {
        meta: Bytes::from(vec![0; META_BYTES_MAX + 1]),
        ..one(GROUP, 6, vec![]).remove(0)
    }];
    for refused in [one(GROUP, 4, vec![]), twice, long_key, long_meta] {
        assert_eq!(
            checkpointer.checkpoint(refused).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
    let long_key = one(GROUP, 6, vec![(vec![4; KEY_BYTES_MAX + 1], None)]);
    let error = checkpointer.checkpoint(long_key).unwrap_err().to_string();
    assert_eq!(
        error,
        "group 4: a key of kind 4 has 131137 bytes, more than 131136"
    );
    let long_value = (vec![7], Some(vec![0; VALUE_BYTES_MAX + 1]));
    let error = checkpointer
        .checkpoint(one(GROUP, 6, vec![long_value]))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "group 4: a value of kind 7 has 67108865 bytes, more than 67108864"
    );
    checkpointer.checkpoint(one(GROUP, 6, vec![])).unwrap();
}

#[test]
fn after_a_failed_sync_nothing_is_believed_until_reopened() {
    let machine = Machine::new();
    let checkpointer = machine.open().unwrap();
    checkpointer
        .checkpoint(one(GROUP, 1, vec![change("a", Some(b"1"))]))
        .unwrap();
    machine.store.fail_sync();
    assert!(
        checkpointer
            .checkpoint(one(GROUP, 2, vec![change("a", Some(b"2"))]))
            .is_err()
    );
    assert!(checkpointer.checkpoint(one(GROUP, 3, vec![])).is_err());
    assert!(
        checkpointer.value(GROUP, b"a").is_err(),
        "it may be half of the checkpoint"
    );
    assert!(checkpointer.snapshot(GROUP).is_err());
    let checkpointer = machine.open().unwrap();
    assert_eq!(
        checkpointer.load(GROUP).unwrap().0,
        position(2),
        "the file was complete"
    );
    assert_eq!(checkpointer.value(GROUP, b"a").unwrap().unwrap(), b"2");
}

#[test]
fn a_damaged_checkpoint_file_is_a_lost_store_and_a_half_written_one_is_nothing() {
    let machine = Machine::new();
    let checkpointer = machine.open().unwrap();
    machine.store.fail_sync();
    assert!(
        checkpointer
            .checkpoint(one(GROUP, 2, vec![change("a", Some(b"2"))]))
            .is_err()
    );
    let path = Path::new(DIR).join("checkpoint");
    machine.disk.flip_bit(&path, 50, 1).unwrap();
    assert!(
        matches!(machine.open(), Err(StateError::StateLost { .. })),
        "the store may hold a part of it"
    );
    machine
        .disk
        .rename(&path, &Path::new(DIR).join("checkpoint.tmp"))
        .unwrap();
    assert_eq!(machine.open().unwrap().load(GROUP), None);
    assert_eq!(machine.disk.list(Path::new(DIR)).unwrap(), ["initialised"]);
}

#[test]
fn a_kill_amid_a_swap_and_then_a_power_cut_leave_the_old_or_the_new_state() {
    for seed in 0..30 {
        for cut_at in 1..20 {
            let disk = FaultyDisk::new(seed);
            let machine = Machine {
                store: Arc::new(FaultyStore::new(disk.clone(), seed)),
                disk,
            };
            let checkpointer = machine.open().unwrap();
            checkpointer
                .checkpoint(one(GROUP, 1, vec![change("old", Some(b"1"))]))
                .unwrap();
            machine.disk.crash_at(Some(cut_at));
            let entries = [Ok((b"new".to_vec(), b"2".to_vec()))];
            let replaced = checkpointer.replace(GROUP, position(9), Bytes::new(), entries);
            drop(checkpointer);
            machine.disk.kill();
            let seen = machine.open().unwrap().load(GROUP).unwrap().0;
            assert!(replaced.is_err() || seen == position(9));
            machine.disk.crash();
            machine.store.crash();
            let checkpointer = machine.open().unwrap();
            assert_eq!(
                checkpointer.load(GROUP).unwrap().0,
                seen,
                "what was loaded once stays"
            );
            let key = if seen == position(9) { "new" } else { "old" };
            assert_eq!(
                content(&checkpointer, GROUP).first().unwrap().0,
                key,
                "seed {seed}, cut {cut_at}"
            );
        }
    }
}

#[test]
fn a_kill_amid_a_checkpoint_and_then_a_power_cut_amid_its_recovery_leave_the_old_or_the_new_state() {
    for (killed_at, cut_at) in (1..24).flat_map(|killed_at| (1..24).map(move |cut_at| (killed_at, cut_at))) {
        let machine = Machine::new();
        machine.disk.set_crash_mode(CrashMode::Lost);
        let checkpointer = machine.open().unwrap();
        let state = |value: &[u8]| vec![change("a", Some(value)), change("b", Some(value))];
        checkpointer.checkpoint(one(GROUP, 1, state(b"1"))).unwrap();
        machine.disk.crash_at(Some(killed_at));
        let _ = checkpointer.checkpoint(one(GROUP, 2, state(b"2")));
        // The name of the file may be in the cache alone.
        machine.disk.kill();
        machine.disk.crash_at(Some(cut_at));
        let _ = machine.open();
        machine.disk.crash();
        machine.store.crash();
        let checkpointer = machine.open().unwrap();
        let (position, _) = checkpointer.load(GROUP).unwrap();
        let value = position.index.to_string().into_bytes();
        assert_eq!(
            content(&checkpointer, GROUP),
            [("a".to_owned(), value.clone()), ("b".to_owned(), value)],
            "at {}, killed at {killed_at}, cut at {cut_at}",
            position.index
        );
    }
}
