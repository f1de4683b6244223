//! Opening a log whose files are anything.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::VOLUME;
use super::segments::{self, Found, GROUPS, Held, Segment};
use crate::disk::Disk;
use crate::faulty::{CrashMode, FaultyDisk, SplitMix};
use crate::log::{Log, LogEntry, LogPosition};
use crate::wal::{FlusherMode, Wal, WalError, WalOptions, file_name};

const DIR: &str = "/wal";

/// Writes the segments that `data` describes, with damage, and opens them as a log. It has to refuse them or to find
/// exactly what an independent reading of the records says; what it found has to be there again after a kill and after
/// a power cut; and the log has to be usable.
pub fn fuzz_log_recovery(data: &[u8]) {
    let mut random = SplitMix::scripted(data);
    let segments = segments::write(&mut random);
    let expected = segments::expect(&segments);
    let disk = FaultyDisk::new(random.below(256));
    if random.one_in(2) {
        disk.set_crash_mode(CrashMode::Lost);
    }
    put(&disk, &segments, random.one_in(2));

    let (wal, expected) = match (open(&disk), expected) {
        (Ok(wal), Ok(expected)) => (wal, expected),
        (Err(WalError::Io { source, .. }), _) => panic!("an I/O error without a fault: {source}"),
        (Err(_), Err(_)) => return,
        (Ok(wal), Err(reason)) => panic!("opened in spite of: {reason}; found {:?}", observe(&wal)),
        (Err(error), Ok(expected)) => panic!("refused: {error}; but it holds {expected:?}"),
    };
    assert_eq!(observe(&wal), expected, "found is not what was written");
    let expected = Found {
        torn_bytes: 0,
        ..expected
    };
    disk.kill();
    drop(wal);
    assert_holds(&disk, &expected, "after a kill");
    disk.crash();
    assert_holds(&disk, &expected, "after a power cut");
    assert_usable(&disk, expected);
}

/// Writes the files as an earlier run would have left them: all synced but the end of the last one, of which no mark
/// says that it is. That run may have ended because the sync of it failed, after which readers see what no later sync
/// brings to the disk.
fn put(disk: &FaultyDisk, segments: &[Segment], fail_sync: bool) {
    let dir = Path::new(DIR);
    let written = disk.create_dir(dir).and_then(|()| {
        disk.sync_dir(Path::new("/"))?;
        for (place, segment) in segments.iter().enumerate() {
            let is_last = place + 1 == segments.len();
            let synced = if is_last {
                segment.stated_synced().max(64).min(segment.bytes.len() as u64)
            } else {
                segment.bytes.len() as u64
            };
            let (synced, unsynced) = segment.bytes.split_at(synced as usize);
            let file = disk.create(&dir.join(file_name(segment.sequence)))?;
            disk.sync_dir(dir)?;
            file.write_at(0, synced)?;
            file.sync_data()?;
            file.write_at(synced.len() as u64, unsynced)?;
            if is_last && fail_sync {
                disk.fail_sync(DIR, 0);
                assert!(file.sync_data().is_err(), "the sync was made to fail");
            }
        }
        Ok(())
    });
    written.expect("the disk in memory does not fail");
}

fn open(disk: &FaultyDisk) -> Result<Wal, WalError> {
    let options = WalOptions {
        segment_bytes: 2000,
        tail_bytes_max: 500,
        segments_kept: 1,
        flusher: FlusherMode::Manual,
        ..WalOptions::default()
    };
    let wal = Wal::open(Arc::new(disk.clone()), Path::new(DIR), VOLUME, options)?;
    wal.check_invariants();
    Ok(wal)
}

fn observe(wal: &Wal) -> Found {
    let held = |group| {
        let entries = wal
            .read(group, 0, u64::MAX, usize::MAX)
            .expect("an entry that was found is read");
        Held {
            state: wal.state(group),
            entries: (entries.into_iter())
                .map(|entry| (entry.position.index, (entry.position, entry.payload)))
                .collect(),
        }
    };
    Found {
        groups: GROUPS.into_iter().map(held).collect(),
        torn_bytes: wal.recovery().torn.as_ref().map_or(0, |torn| torn.bytes),
    }
}

fn assert_holds(disk: &FaultyDisk, expected: &Found, when: &str) {
    match open(disk) {
        Ok(wal) => assert_eq!(&observe(&wal), expected, "{when}"),
        Err(error) => panic!("{when} it does not open: {error}"),
    }
    disk.kill();
}

/// Appends to every group until old segments are emptied and deleted, and looks whether all of it is there.
fn assert_usable(disk: &FaultyDisk, mut expected: Found) {
    let wal = open(disk).expect("opened before");
    for _ in 0..4 {
        for (group, held) in GROUPS.into_iter().zip(&mut expected.groups) {
            let index = held.state.last.map_or(1, |last| last.index + 1);
            if index > u64::MAX / 2 {
                continue;
            }
            let position = LogPosition {
                term: 9,
                leader: 9,
                index,
            };
            let payload = Bytes::from(vec![index as u8; 900]);
            held.entries.insert(index, (position, payload.clone()));
            held.state.last = Some(position);
            wal.append(
                group,
                vec![LogEntry { position, payload }],
                Box::new(|result| result.expect("a log that opened takes entries")),
            );
        }
        wal.flush_once().expect("the disk in memory does not fail");
        wal.check_invariants();
    }
    assert_eq!(
        observe(&wal),
        Found {
            torn_bytes: observe(&wal).torn_bytes,
            ..expected.clone()
        }
    );
    disk.crash();
    drop(wal);
    let wal = open(disk).expect("a log that was used opens");
    assert_eq!(observe(&wal).groups, expected.groups, "after use and a power cut");
}
