//! The log of one machine through its life: operations in any order, power cuts and kills, also amid opening.

use std::path::Path;
use std::sync::Arc;

use crate::faulty::{FaultyDisk, SplitMix};
use crate::log::{GroupId, Log, SyncPolicy};
use crate::log_suite::random::{History, Model, Operation, observe};
use crate::volume::{LogMarkFile, VolumeId};
use crate::wal::{FlusherMode, Wal, WalError, WalOptions};

const WRITTEN: GroupId = GroupId(9);

const ROUNDS_MAX: u32 = 6;
const OPERATIONS_MAX: u64 = 120;

/// Runs the life that `data` describes: what was acknowledged is there afterwards, and nothing else appears.
pub fn fuzz_log_life(data: &[u8]) {
    let mut random = SplitMix::scripted(data);
    let disk = FaultyDisk::new(random.below(256));
    let cut_at = 1 + random.below(256);
    if let Err(reason) = live_log(&disk, random, cut_at) {
        panic!("{reason}");
    }
}

fn open(disk: &FaultyDisk) -> Result<Wal, WalError> {
    let options = WalOptions {
        segment_bytes: 3000,
        tail_bytes_max: 1500,
        segments_kept: 2,
        flusher: FlusherMode::Manual,
        mark: Some(LogMarkFile::new(Arc::new(disk.clone()), Path::new("/data"))),
        ..WalOptions::default()
    };
    let wal = Wal::open(
        Arc::new(disk.clone()),
        Path::new("/data/wal"),
        VolumeId([1; 16]),
        options,
    )?;
    wal.set_sync_policy(WRITTEN, SyncPolicy::Written);
    wal.check_invariants();
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

/// One machine's life on an empty disk, the power of which goes off for the first time at its `cut_at`-th operation;
/// how many operations survived, or why something was lost or appeared.
pub(crate) fn live_log(disk: &FaultyDisk, mut random: SplitMix, cut_at: u64) -> Result<u64, String> {
    let mut history = History::new(Model::new());
    let mut survived = 0;
    for round in 0..ROUNDS_MAX {
        let wal = open_at_last(disk, &mut random)?;
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
        for number in 0..OPERATIONS_MAX {
            let operation = Operation::draw(&mut random, history.current(), number);
            let durable_when_done = matches!(operation, Operation::Vote(..) | Operation::Reset(_));
            let counts = kill || operation.group() != WRITTEN || durable_when_done;
            history.submit(&wal, operation, counts);
            if random.one_in(3) && wal.flush_once().is_err() || random.is_spent() {
                break;
            }
            wal.check_invariants();
        }
        let synced = synced(&wal);
        if kill {
            disk.kill()
        } else {
            disk.crash()
        }
        drop(wal);
        // The synced index is a promise of its own (R43): look at it before anything is repaired by opening.
        let wal = open(disk).map_err(|error| format!("does not open: {error}"))?;
        for (group, index) in synced {
            let last = wal.state(group).last.map_or(0, |last| last.index);
            if last < index {
                return Err(format!(
                    "round {round}: {group:?} had {index} synced and now ends at {last}"
                ));
            }
        }
        history
            .find(&observe(&wal), history.completed())
            .map_err(|reason| format!("after round {round}: {reason}"))?;
        drop(wal);
        if random.is_spent() {
            break;
        }
    }
    Ok(survived)
}
