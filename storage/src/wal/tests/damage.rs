//! Torn ends and damage: which is cut off, which is refused.

use super::*;

use record::INDEX_MAX;

/// Opens a log whose only segment holds these records, intact.
fn open_records(records: &[(Kind, u64)]) -> Result<Wal, WalError> {
    let disk = FaultyDisk::new(1);
    let mut bytes = segment::encode_header(VOLUME, 1).to_vec();
    for (kind, index) in records {
        let mask = SegmentMask::new(VOLUME, 1).at(bytes.len() as u64);
        bytes.extend(RecordHeader::new(*kind, GROUP, position(*index), &[]).sealed(mask));
    }
    disk.create_dir(Path::new("/wal")).unwrap();
    let file = disk
        .create(&Path::new("/wal").join(segment::file_name(1)))
        .unwrap();
    file.write_at(0, &bytes).unwrap();
    open_with(&disk, options())
}

#[test]
fn records_that_the_log_never_writes_are_corruption() {
    let beyond = INDEX_MAX + 1;
    for (records, reason) in [
        (
            &[(Kind::Entry, 2), (Kind::Entry, 2)][..],
            "an entry repeats an index",
        ),
        (
            &[(Kind::Entry, 2), (Kind::Entry, 4)],
            "entries before this one are missing",
        ),
        (
            &[(Kind::Purge, 4), (Kind::Entry, 4)],
            "an entry is purged before it is written",
        ),
        (&[(Kind::Entry, beyond)], "impossible index"),
        (&[(Kind::Moved, u64::MAX)], "impossible index"),
        (&[(Kind::Purge, beyond)], "impossible index"),
    ] {
        match open_records(records) {
            Err(WalError::Corrupt { reason: found, .. }) => assert_eq!(found, reason, "{records:?}"),
            other => panic!("{records:?}: {other:?}"),
        }
    }
    for (records, held) in [
        (&[(Kind::Purge, 4), (Kind::Entry, 5)][..], vec![5]),
        (&[(Kind::Purge, 4), (Kind::Moved, 4)], vec![]),
        (&[(Kind::Entry, INDEX_MAX)], vec![INDEX_MAX]),
        (&[(Kind::Purge, INDEX_MAX)], vec![]),
    ] {
        let wal = open_records(records).unwrap();
        assert_eq!(indexes(&wal, GROUP), held, "{records:?}");
    }
}

#[test]
fn indexes_beyond_the_maximum_are_refused() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    let failed = || {
        let (done, result) = crate::log_suite::completion();
        (done, move || result.try_recv().unwrap().is_err())
    };
    let (done, append_failed) = failed();
    wal.append(GROUP, vec![entry(INDEX_MAX, 1), entry(INDEX_MAX + 1, 1)], done);
    let (done, purge_failed) = failed();
    wal.purge(GROUP, position(u64::MAX), done);
    flush(&wal);
    assert!(append_failed() && purge_failed());
    assert_eq!(wal.state(GROUP).last, None);
    append(&wal, GROUP, INDEX_MAX, 1);
    wal.append(GROUP, vec![entry(INDEX_MAX + 1, 1)], nothing());
    flush(&wal);
    assert_eq!(indexes(&wal, GROUP), [INDEX_MAX]);
}

#[test]
fn an_unsynced_tail_is_cut_off_and_reported() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    append(&wal, GROUP, 1, 100);
    flush(&wal);
    let (path, size) = last_segment(&disk);
    // The next flush dies half written.
    disk.kill();
    let file = disk.open(&path).unwrap();
    file.write_at(size, &[7; 50]).unwrap();
    drop(wal);
    let wal = open(&disk);
    let torn = wal.recovery().torn.clone().unwrap();
    assert_eq!((torn.file, torn.offset, torn.bytes), (path, size, 50));
    assert_eq!(indexes(&wal, GROUP), [1]);
    append(&wal, GROUP, 2, 100);
    wal.close().unwrap();
    let wal = open(&disk);
    assert_eq!(wal.recovery().torn, None, "it is cut off once");
    assert_eq!(indexes(&wal, GROUP), [1, 2]);
}

#[test]
fn every_flipped_bit_in_synced_data_is_corruption_and_names_the_place() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    for index in 1..=3 {
        append(&wal, GROUP, index, 20);
        flush(&wal);
    }
    wal.close().unwrap();
    let (path, size) = last_segment(&disk);
    // All but the last mark, which nothing acknowledged rests on.
    for offset in 0..size - 35 {
        let bit = (offset % 8) as u8;
        disk.flip_bit(&path, offset, bit).unwrap();
        disk.kill();
        match open_with(&disk, options()) {
            Err(WalError::Corrupt { file, offset: at, .. }) => {
                assert_eq!(file, path);
                assert!(at <= offset, "{at} is where the record of {offset} starts");
            }
            other => panic!("byte {offset}: {other:?}"),
        }
        disk.flip_bit(&path, offset, bit).unwrap();
    }
    disk.kill();
    assert_eq!(indexes(&open(&disk), GROUP), [1, 2, 3]);
}

#[test]
fn damage_in_a_closed_segment_is_corruption() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    for index in 1..=8 {
        append(&wal, GROUP, index, 1500);
        flush(&wal);
    }
    wal.close().unwrap();
    assert!(wal.stats().segments > 2);
    let first = Path::new("/wal").join(segment::file_name(1));
    let size = disk.open(&first).unwrap().size().unwrap();
    disk.flip_bit(&first, size - 1, 0).unwrap();
    disk.kill();
    assert!(matches!(open_with(&disk, options()), Err(WalError::Corrupt { file, .. }) if file == first));
}

#[test]
fn a_missing_segment_is_corruption() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    for index in 1..=8 {
        append(&wal, GROUP, index, 1500);
        flush(&wal);
    }
    wal.close().unwrap();
    let second = Path::new("/wal").join(segment::file_name(2));
    disk.remove(&second).unwrap();
    assert!(matches!(open_with(&disk, options()), Err(WalError::Corrupt { file, .. }) if file == second));
}

#[test]
fn files_of_another_volume_are_refused() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    append(&wal, GROUP, 1, 10);
    wal.close().unwrap();
    let other = Wal::open(
        Arc::new(disk.clone()),
        Path::new("/wal"),
        VolumeId([4; 16]),
        options(),
    );
    assert!(matches!(other, Err(WalError::Foreign { .. })));
}

#[test]
fn a_hole_in_the_unsynced_part_is_a_torn_tail_and_one_before_synced_data_is_not() {
    let disk = FaultyDisk::new(1);
    let wal = open(&disk);
    wal.set_sync_policy(GROUP, SyncPolicy::Written);
    append(&wal, GROUP, 1, 100);
    wal.save_vote(GROUP, Bytes::from_static(b"vote"), nothing());
    flush(&wal);
    let (path, synced_end) = last_segment(&disk);
    append(&wal, GROUP, 2, 600);
    flush(&wal);
    append(&wal, GROUP, 3, 600);
    flush(&wal);
    // The power cut kept entry 3 and lost entry 2.
    disk.flip_bit(&path, synced_end + 100, 1).unwrap();
    disk.kill();
    drop(wal);
    let wal = open(&disk);
    let torn = wal.recovery().torn.clone().unwrap();
    assert!(torn.offset >= synced_end - 35 && torn.bytes > 1200, "{torn:?}");
    assert_eq!(indexes(&wal, GROUP), [1]);
    assert_eq!(wal.state(GROUP).vote.unwrap(), "vote");
}

#[test]
fn what_a_failed_sync_left_in_the_cache_is_written_again_before_it_is_believed() {
    for seed in 0..50 {
        let disk = FaultyDisk::new(seed);
        disk.set_crash_mode(CrashMode::Lost);
        let wal = open(&disk);
        append(&wal, GROUP, 1, 700);
        flush(&wal);
        disk.fail_sync("wal", 0);
        wal.append(GROUP, vec![entry(2, 700)], nothing());
        assert!(wal.flush_once().is_err());
        // Same boot: the page cache shows entry 2, the platter may not have it.
        disk.kill();
        drop(wal);
        let wal = open(&disk);
        assert_eq!(wal.state(GROUP).last, Some(position(2)));
        disk.crash();
        drop(wal);
        assert_eq!(
            indexes(&open(&disk), GROUP),
            [1, 2],
            "seed {seed}: what was told is durable"
        );
    }
}

#[test]
fn damage_under_an_old_entry_is_an_error_when_it_is_read() {
    let disk = FaultyDisk::new(1);
    let wal = open_with(
        &disk,
        WalOptions {
            tail_bytes_max: 0,
            ..options()
        },
    )
    .unwrap();
    append(&wal, GROUP, 1, 100);
    flush(&wal);
    let (path, size) = last_segment(&disk);
    disk.flip_bit(&path, size - 60, 0).unwrap();
    let error = wal.read(GROUP, 1, 2, usize::MAX).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}

fn marked(disk: &FaultyDisk) -> WalOptions {
    WalOptions {
        mark: Some(LogMarkFile::new(Arc::new(disk.clone()), Path::new("/"))),
        ..options()
    }
}

/// A log of several segments, ended in order or not.
fn marked_log(is_closed: bool) -> FaultyDisk {
    let disk = FaultyDisk::new(1);
    let wal = open_with(&disk, marked(&disk)).unwrap();
    for index in 1..=10 {
        append(&wal, GROUP, index, 1500);
        flush(&wal);
    }
    if is_closed {
        wal.close().unwrap();
    } else {
        disk.kill();
    }
    drop(wal);
    assert!(disk.list(Path::new("/wal")).unwrap().len() > 2);
    disk
}

fn refusal(disk: &FaultyDisk) -> String {
    match open_with(disk, marked(disk)) {
        Err(error @ WalError::Lost { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn r44_a_log_that_lost_its_files_is_not_taken_for_a_new_or_an_older_one() {
    for is_closed in [true, false] {
        let disk = marked_log(is_closed);
        let (newest, _) = last_segment(&disk);
        disk.remove(&newest).unwrap();
        let told = refusal(&disk);
        let name = newest.file_name().unwrap().to_string_lossy().into_owned();
        assert!(told.contains("/wal") && told.contains(&name), "{told}");

        let disk = marked_log(is_closed);
        for name in disk.list(Path::new("/wal")).unwrap() {
            disk.remove(&Path::new("/wal").join(name)).unwrap();
        }
        refusal(&disk);
        assert_eq!(
            disk.list(Path::new("/wal")).unwrap(),
            [""; 0],
            "nothing is made in its place"
        );
    }
    let disk = marked_log(true);
    let (newest, size) = last_segment(&disk);
    disk.open(&newest).unwrap().truncate(size - 1).unwrap();
    let told = refusal(&disk);
    assert!(told.contains(&format!("{} bytes", size - 1)), "{told}");
}

#[test]
fn r44_a_log_is_found_again_whatever_was_purged_and_however_it_ended() {
    let disk = FaultyDisk::new(1);
    let mut last = 0;
    for round in 0..12 {
        let wal = open_with(&disk, marked(&disk)).unwrap();
        assert_eq!(wal.state(GROUP).last.map_or(0, |last| last.index), last);
        // Every third run writes nothing.
        for _ in 0..(round % 3) * 4 {
            last += 1;
            append(&wal, GROUP, last, 1500);
            flush(&wal);
        }
        if round % 4 == 3 {
            wal.purge(GROUP, position(last), nothing());
            flush(&wal);
        }
        match round % 2 {
            0 => wal.close().unwrap(),
            _ => disk.kill(),
        }
    }
    assert!(last > 10);
}

#[test]
fn a_damaged_mark_is_named() {
    let disk = marked_log(true);
    disk.flip_bit(Path::new("/log_mark"), 9, 2).unwrap();
    let error = open_with(&disk, marked(&disk)).unwrap_err();
    assert!(error.to_string().contains("/log_mark"), "{error}");
}
