//! Data directories: who may open them, what survives, what is refused.

use super::*;
use crate::disk::RealDisk;
use crate::faulty::FaultyDisk;
use crate::log::GroupId;

const DIR: &str = "/node/data";

fn open(disk: &FaultyDisk) -> Result<Volume, VolumeError> {
    open_on(disk, "boot")
}

fn open_on(disk: &FaultyDisk, boot: &str) -> Result<Volume, VolumeError> {
    Volume::open_on_boot(Arc::new(disk.clone()), Path::new(DIR), boot)
}

fn membership() -> Membership {
    Membership {
        cluster: ClusterId([0xa5; 16]),
        node: 7,
    }
}

#[test]
fn a_second_process_is_told_which_directory_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let volume = Volume::open(Arc::new(RealDisk), &path).unwrap();
    let error = Volume::open(Arc::new(RealDisk), &path).unwrap_err();
    assert!(matches!(error, VolumeError::Locked { .. }));
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    drop(volume);
    let volume = Volume::open(Arc::new(RealDisk), &path).unwrap();
    assert_eq!(volume.incarnation(), 2);
    assert!(!volume.machine_restarted(), "same boot");
}

#[test]
fn a_directory_that_cannot_be_written_says_so() {
    let disk = FaultyDisk::new(1);
    disk.set_capacity(Some(10));
    assert!(matches!(open(&disk), Err(VolumeError::NotWritable { .. })));
}

#[test]
fn identity_is_kept_and_membership_is_set_once() {
    let disk = FaultyDisk::new(1);
    let volume = open(&disk).unwrap();
    let id = volume.id();
    assert_eq!(
        (volume.membership(), volume.previous_run()),
        (None, PreviousRun::None)
    );
    volume.set_membership(membership()).unwrap();
    let other = Membership {
        node: 8,
        ..membership()
    };
    assert!(matches!(
        volume.set_membership(other),
        Err(VolumeError::OtherMember { .. })
    ));
    volume.set_membership(membership()).unwrap();
    disk.crash();
    drop(volume);
    let volume = open(&disk).unwrap();
    assert_eq!((volume.id(), volume.membership()), (id, Some(membership())));
    assert_ne!(VolumeId::random(), VolumeId::random());
}

#[test]
fn incarnations_rise_and_identity_holds_through_power_cuts_at_every_operation() {
    for seed in 0..20 {
        for at in 1..40 {
            let disk = FaultyDisk::new(seed * 1000 + at);
            let (mut highest, mut id, mut member) = (0, None, None);
            disk.crash_at(Some(at));
            for _ in 0..4 {
                let opened = open(&disk).and_then(|volume| {
                    assert!(volume.incarnation() > highest, "seed {seed}, power cut {at}");
                    highest = volume.incarnation();
                    assert_eq!(*id.get_or_insert(volume.id()), volume.id());
                    if member.is_some() {
                        assert_eq!(volume.membership(), member);
                    }
                    volume.set_membership(membership())?;
                    member = Some(membership());
                    volume.close_clean()
                });
                if opened.is_err() {
                    assert!(disk.is_down(), "seed {seed}, power cut {at}: {opened:?}");
                    disk.crash();
                }
            }
            assert!(highest >= 3);
        }
    }
}

#[test]
fn the_test_above_fails_on_a_disk_that_does_not_sync() {
    let broken = (0..50).filter(|seed| {
        let disk = FaultyDisk::new(*seed);
        disk.set_ignore_syncs(true);
        let first = open(&disk).unwrap();
        disk.crash();
        open(&disk).map_or(true, |second| second.incarnation() <= first.incarnation())
    });
    assert!(broken.count() > 0);
}

#[test]
fn a_restart_of_the_machine_is_remembered_until_it_is_dealt_with() {
    let disk = FaultyDisk::new(1);
    let run = |boot: &str| {
        let volume = open_on(&disk, boot).unwrap();
        let seen = (volume.previous_run(), volume.machine_restarted());
        (volume, seen)
    };
    let (volume, seen) = run("one");
    assert_eq!(seen, (PreviousRun::None, false));
    drop(volume);
    let (volume, seen) = run("one");
    assert_eq!(
        seen,
        (PreviousRun::Unclean, false),
        "killed on the same boot: written data is still there"
    );
    volume.close_clean().unwrap();
    let (volume, seen) = run("two");
    assert_eq!(seen, (PreviousRun::Clean, false), "all was synced");
    drop(volume);
    let (volume, seen) = run("three");
    assert_eq!(seen, (PreviousRun::Unclean, true));
    volume.close_clean().unwrap();
    let (volume, seen) = run("three");
    assert_eq!(seen, (PreviousRun::Clean, true), "nobody has dealt with it yet");
    volume.handle_restart_recovered().unwrap();
    drop(volume);
    let (_volume, seen) = run("three");
    assert_eq!(seen, (PreviousRun::Unclean, false));
}

#[test]
fn damage_and_missing_files_are_refused_and_named() {
    for name in [IDENTITY, INCARNATION] {
        let disk = FaultyDisk::new(1);
        drop(open(&disk).unwrap());
        let path = Path::new(DIR).join(name);
        disk.flip_bit(&path, 9, 2).unwrap();
        assert!(matches!(open(&disk), Err(VolumeError::Corrupt { file, .. }) if file == path));
        disk.flip_bit(&path, 9, 2).unwrap();
        disk.create_dir(&Path::new(DIR).join("wal")).unwrap();
        disk.remove(&path).unwrap();
        assert!(matches!(open(&disk), Err(VolumeError::Corrupt { file, .. }) if file == path));
    }
}

#[test]
fn a_directory_with_other_content_is_not_taken_over() {
    let disk = FaultyDisk::new(1);
    crate::disk::create_dir_all_synced(&disk, &Path::new(DIR).join("wal")).unwrap();
    assert!(matches!(open(&disk), Err(VolumeError::Corrupt { .. })));
}

#[test]
fn a_newer_format_is_told_from_damage() {
    let disk = FaultyDisk::new(1);
    drop(open(&disk).unwrap());
    let data = Fields::new(FORMAT_VERSION + 1).encode();
    disk::write_atomically(&disk, Path::new(DIR), IDENTITY, &data).unwrap();
    assert!(matches!(
        open(&disk),
        Err(VolumeError::NewerFormat { version: 2, .. })
    ));
}

#[test]
fn r32_a_note_of_the_clocks_is_the_new_or_the_old_one_after_a_power_cut() {
    let note = |number: u64| ClockNote {
        group_millis: number,
        wall_millis: 1_700_000_000_000 + number,
    };
    for at in 1..12 {
        let disk = FaultyDisk::new(at);
        let volume = open(&disk).unwrap();
        assert_eq!(volume.clock_file().read().unwrap(), None);
        volume.clock_file().write(note(1)).unwrap();
        disk.crash_at(Some(at));
        let written = volume.clock_file().write(note(2)).is_ok();
        disk.crash();
        drop(volume);
        let found = open(&disk).unwrap().clock_file().read().unwrap();
        if written {
            assert_eq!(found, Some(note(2)), "power cut {at}");
        } else {
            assert!(
                found == Some(note(1)) || found == Some(note(2)),
                "power cut {at}: {found:?}"
            );
        }
    }
    let disk = FaultyDisk::new(1);
    let volume = open(&disk).unwrap();
    volume.clock_file().write(note(1)).unwrap();
    disk.flip_bit(&Path::new(DIR).join(CLOCK), 9, 2).unwrap();
    assert!(matches!(
        volume.clock_file().read(),
        Err(VolumeError::Corrupt { .. })
    ));
}

#[test]
fn a_recovery_that_was_begun_is_known_until_its_end() {
    let disk = FaultyDisk::new(1);
    let volume = open(&disk).unwrap();
    volume.set_membership(membership()).unwrap();
    assert!(!volume.is_recovering().unwrap());
    volume.begin_recovery().unwrap();
    drop(volume);
    let volume = open(&disk).unwrap();
    assert!(volume.is_recovering().unwrap(), "it was cut off");
    assert_eq!(volume.membership(), Some(membership()));
    volume.begin_recovery().unwrap();
    let other = Membership {
        cluster: ClusterId([1; 16]),
        ..membership()
    };
    volume.end_recovery(other).unwrap();
    drop(volume);
    let volume = open(&disk).unwrap();
    assert!(!volume.is_recovering().unwrap());
    assert_eq!(volume.membership(), Some(other));
}

#[test]
fn r41_beginnings_are_kept_by_group() {
    let disk = FaultyDisk::new(1);
    let (one, other) = (GroupId(17), GroupId(32));
    let file = open(&disk).unwrap().beginnings_file();
    assert_eq!(file.read(one).unwrap(), FIRST_BEGINNING);
    file.write(one, 4).unwrap();
    file.write(other, 9).unwrap();
    file.write(one, 11).unwrap();
    assert!(file.is_trusted(one).unwrap());
    disk.crash();
    assert!(open(&disk).unwrap().beginnings_file().is_trusted(other).unwrap());
    let file = open_on(&disk, "next boot").unwrap().beginnings_file();
    assert!(!file.is_trusted(one).unwrap());
    assert_eq!((file.read(one).unwrap(), file.read(other).unwrap()), (11, 9));
}

/// R46: what was offered is known to the next start whether or not it heard of its acceptance, and whatever a crash leaves.
#[test]
fn r46_starts_are_noted_before_they_are_offered_and_until_a_later_one_is_accepted() {
    let disk = FaultyDisk::new(1);
    let starts = |disk: &FaultyDisk| open(disk).unwrap().starts_file().unwrap();
    let first = starts(&disk);
    assert_eq!((first.accepted(), first.offered()), (None, &[][..]));
    let unoffered = starts(&disk);
    assert_ne!(unoffered.start(), first.start(), "each start has its own");
    first.note_offered().unwrap();
    first.note_offered().unwrap();
    disk.crash();
    let second = starts(&disk);
    assert_eq!(
        (second.accepted(), second.offered()),
        (None, &[first.start()][..])
    );
    second.note_offered().unwrap();
    let third = starts(&disk);
    assert_eq!(third.offered(), [first.start(), second.start()]);
    third.note_offered().unwrap();
    third.note_accepted(7).unwrap();
    disk.crash();
    let fourth = starts(&disk);
    assert_eq!(fourth.accepted(), Some((7, third.start())));
    assert_eq!(fourth.offered(), [[0; 16]; 0]);
}

#[test]
fn r46_starts_without_end_that_are_never_accepted_take_no_room() {
    let disk = FaultyDisk::new(1);
    let mut last = [0; 16];
    for start in 0..3 * OFFERED_STARTS_MAX {
        let starts = open(&disk).unwrap().starts_file().unwrap();
        assert!(starts.offered().len() <= OFFERED_STARTS_MAX);
        assert_eq!(
            starts.start() == last,
            start >= OFFERED_STARTS_MAX,
            "start {start}"
        );
        last = starts.start();
        starts.note_offered().unwrap();
    }
}

#[test]
fn a_damaged_file_of_starts_is_named() {
    let disk = FaultyDisk::new(1);
    open(&disk)
        .unwrap()
        .starts_file()
        .unwrap()
        .note_offered()
        .unwrap();
    let path = Path::new(DIR).join(STARTS);
    disk.flip_bit(&path, 20, 1).unwrap();
    let error = open(&disk).unwrap().starts_file().unwrap_err();
    assert!(
        matches!(&error, VolumeError::Corrupt { file, .. } if *file == path),
        "{error}"
    );
}
