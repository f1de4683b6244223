//! The log alone: random operations, power cuts and kills, also amid opening.

use std::path::Path;
use std::sync::Arc;

use crate::faulty::{FaultyDisk, SplitMix};
use crate::log::{GroupId, Log, SyncPolicy};
use crate::log_suite::random::{History, Model, Operation, observe};
use crate::volume::VolumeId;
use crate::wal::{FlusherMode, Wal, WalError, WalOptions};

const WRITTEN: GroupId = GroupId(9);

fn open(disk: &FaultyDisk) -> Result<Wal, WalError> {
    let options = WalOptions {
        segment_bytes: 3000,
        tail_bytes_max: 1500,
        segments_kept: 2,
        flusher: FlusherMode::Manual,
        ..WalOptions::default()
    };
    let wal = Wal::open(
        Arc::new(disk.clone()),
        Path::new("/data/wal"),
        VolumeId([1; 16]),
        options,
    )?;
    wal.set_sync_policy(WRITTEN, SyncPolicy::Written);
    Ok(wal)
}

/// Opens until the power stays on that long.
fn open_at_last(disk: &FaultyDisk, random: &mut SplitMix) -> Result<Wal, String> {
    for _ in 0..5 {
        disk.crash_at(random.one_in(3).then(|| 1 + random.below(12)));
        match open(disk) {
            Ok(wal) => return Ok(wal),
            Err(_) if disk.is_down() => disk.crash(),
            Err(error) => return Err(format!("does not open: {error}")),
        }
    }
    disk.crash_at(None);
    open(disk).map_err(|error| format!("does not open: {error}"))
}

/// What each group had synced, where entries rather than a purge say so.
fn synced(wal: &Wal) -> Vec<(GroupId, u64)> {
    let groups = [0, 3, 6, 9].map(GroupId).into_iter();
    let by_entries = |group: &GroupId| {
        let purged = wal.state(*group).purged.map_or(0, |purged| purged.index);
        wal.synced_index(*group) > purged
    };
    groups
        .filter(by_entries)
        .map(|group| (group, wal.synced_index(group)))
        .collect()
}

/// One machine's life; the reason where something was lost or appeared.
fn live(seed: u64, cut_at: u64, ignore_syncs: bool) -> Result<u64, String> {
    let disk = FaultyDisk::new(seed);
    disk.set_ignore_syncs(ignore_syncs);
    let mut random = SplitMix::new(seed ^ 0xabcd);
    let mut history = History::new(Model::new());
    let mut survived = 0;
    for round in 0..6 {
        let wal = open_at_last(&disk, &mut random)?;
        let observed = observe(&wal);
        let found = history
            .find(&observed, history.completed())
            .map_err(|reason| format!("round {round}: {reason}"))?;
        survived += found as u64;
        history = History::new(observed);
        // A killed process loses nothing that was written; only a power cut tells `Written` from `Synced`.
        let kill = round > 0 && random.one_in(4);
        let at = if round == 0 { cut_at } else { 1 + random.below(150) };
        disk.crash_at((!kill).then_some(at));
        for number in 0..120 {
            let operation = Operation::draw(&mut random, history.current(), number);
            let durable_when_done = matches!(operation, Operation::Vote(..) | Operation::Reset(_));
            let counts = kill || operation.group() != WRITTEN || durable_when_done;
            history.submit(&wal, operation, counts);
            if random.one_in(3) && wal.flush_once().is_err() {
                break;
            }
        }
        let synced = synced(&wal);
        if kill {
            disk.kill()
        } else {
            disk.crash()
        }
        drop(wal);
        // The synced index is a promise of its own (R43): look at it before anything is repaired by opening.
        let wal = open(&disk).map_err(|error| format!("does not open: {error}"))?;
        for (group, index) in synced {
            let last = wal.state(group).last.map_or(0, |last| last.index);
            if last < index {
                return Err(format!(
                    "round {round}: {group:?} had {index} synced and now ends at {last}"
                ));
            }
        }
        drop(wal);
    }
    Ok(survived)
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_appears() {
    let mut survived = 0;
    for seed in 0..400 {
        // Every early operation of a life is cut at once, later ones at random.
        survived +=
            live(seed, seed % 200 + 1, false).unwrap_or_else(|reason| panic!("seed {seed}: {reason}"));
    }
    assert!(
        survived > 10_000,
        "the tests did something: {survived} operations survived"
    );
}

#[test]
fn without_syncs_the_test_above_fails() {
    let failed = (0..40).filter(|seed| live(*seed, 200, true).is_err()).count();
    assert!(failed > 20, "{failed} of 40 lives noticed");
}
