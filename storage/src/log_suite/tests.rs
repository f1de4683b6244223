//! The suite, run for each log there is.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::{Subject, completion, entry, run_all, run_random};
use crate::disk::{Disk, RealDisk};
use crate::faulty::FaultyDisk;
use crate::log::{GroupId, Log, SyncPolicy};
use crate::sled_log::SledLog;
use crate::state::SledOptions;
use crate::volume::VolumeId;
use crate::wal::{FlusherMode, Wal, WalOptions};

const VOLUME: VolumeId = VolumeId([9; 16]);

/// Small, so that segments turn over and memory is short.
fn small(flusher: FlusherMode) -> WalOptions {
    WalOptions {
        segment_bytes: 5000,
        tail_bytes_max: 2000,
        segments_kept: 3,
        flusher,
        ..WalOptions::default()
    }
}

struct WalOnRealDisk {
    dir: tempfile::TempDir,
    wal: Option<Arc<Wal>>,
    options: WalOptions,
}

impl WalOnRealDisk {
    fn new(options: WalOptions) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            wal: None,
            options,
        }
    }
}

impl Subject for WalOnRealDisk {
    fn open(&mut self) -> std::io::Result<Arc<dyn Log>> {
        let path = self.dir.path().join("wal");
        let wal = Wal::open(Arc::new(RealDisk), &path, VOLUME, self.options.clone());
        let wal = Arc::new(wal.map_err(std::io::Error::other)?);
        self.wal = Some(Arc::clone(&wal));
        Ok(wal)
    }

    fn stop(&mut self, log: Arc<dyn Log>, clean: bool) {
        drop(log);
        let wal = self.wal.take().unwrap();
        if clean {
            wal.close().unwrap()
        } else {
            wal.abandon()
        }
    }
}

struct WalOnFaultyDisk {
    disk: FaultyDisk,
    wal: Option<Arc<Wal>>,
}

impl WalOnFaultyDisk {
    fn new(seed: u64) -> Self {
        Self {
            disk: FaultyDisk::new(seed),
            wal: None,
        }
    }
}

impl Subject for WalOnFaultyDisk {
    fn open(&mut self) -> std::io::Result<Arc<dyn Log>> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let wal = Wal::open(disk, Path::new("/data/wal"), VOLUME, small(FlusherMode::Manual));
        let wal = Arc::new(wal.map_err(std::io::Error::other)?);
        self.wal = Some(Arc::clone(&wal));
        Ok(wal)
    }

    fn stop(&mut self, log: Arc<dyn Log>, clean: bool) {
        drop(log);
        let wal = self.wal.take().unwrap();
        if clean {
            wal.close().unwrap()
        } else {
            self.disk.crash()
        }
    }

    fn pump(&mut self, _log: &Arc<dyn Log>) {
        while self.wal.as_ref().unwrap().flush_once().unwrap() {}
    }
}

struct Sled {
    dir: tempfile::TempDir,
    runs: u32,
    log: Option<Arc<SledLog>>,
}

impl Sled {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            runs: 0,
            log: None,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(self.runs.to_string())
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

impl Subject for Sled {
    fn open(&mut self) -> std::io::Result<Arc<dyn Log>> {
        let log = Arc::new(SledLog::open(
            &self.path(),
            &SledOptions { cache_bytes: 4 << 20 },
        )?);
        self.log = Some(Arc::clone(&log));
        Ok(log)
    }

    fn stop(&mut self, log: Arc<dyn Log>, clean: bool) {
        drop(log);
        let log = self.log.take().unwrap();
        if clean {
            return log.close().unwrap();
        }
        // What a killed process leaves is what is in its files now; sled's own end would write more. Nothing may be
        // written during the copy.
        log.abandon();
        let killed = self.path();
        self.runs += 1;
        copy_dir(&killed, &self.path());
    }
}

#[test]
fn wal_on_the_real_disk() {
    run_all(|| WalOnRealDisk::new(WalOptions::default()));
    run_all(|| WalOnRealDisk::new(small(FlusherMode::Thread)));
}

#[test]
fn wal_on_a_disk_that_loses_what_is_not_synced() {
    let mut seed = 0;
    run_all(|| {
        seed += 1;
        WalOnFaultyDisk::new(seed)
    });
}

#[test]
fn sled_log() {
    run_all(Sled::new);
}

/// Appends, and returns what `synced_index` says when the completion runs.
fn synced_when_done(log: &Arc<SledLog>, group: GroupId, index: u64) -> u64 {
    let (sender, receiver) = channel();
    let seen = Arc::clone(log);
    let done = Box::new(move |result: std::io::Result<()>| {
        result.unwrap();
        sender.send(seen.synced_index(group)).unwrap();
    });
    log.append(group, vec![entry(1, index, 7)], done);
    receiver.recv().unwrap()
}

#[test]
fn r41_written_groups_of_sled_log_wait_for_the_write_and_not_for_the_sync() {
    let (written, synced) = (GroupId(9), GroupId(1));
    let mut subject = Sled::new();
    drop(subject.open().unwrap());
    let log = subject.log.clone().unwrap();
    log.set_sync_policy(written, SyncPolicy::Written);
    assert_eq!(synced_when_done(&log, written, 1), 0);
    assert_eq!(synced_when_done(&log, synced, 1), 1, "others do");
    // A group that goes on without pause is synced all the same, and a vote at once.
    let began = Instant::now();
    let mut index = 1;
    while synced_when_done(&log, written, index + 1) < 2 {
        index += 1;
        assert!(began.elapsed() < Duration::from_secs(30), "never synced");
    }
    let (done, result) = completion();
    let last = index + 2;
    log.append(
        written,
        vec![entry(1, last, 7)],
        Box::new(|result| result.unwrap()),
    );
    log.save_vote(written, b"vote".to_vec().into(), done);
    result.recv().unwrap().unwrap();
    assert_eq!(log.synced_index(written), last);
    // What is written survives the process, synced or not; a reset does not change the policy.
    let (done, result) = completion();
    log.reset(written, done);
    result.recv().unwrap().unwrap();
    assert_eq!(synced_when_done(&log, written, 1), 0);
    subject.stop(log, false);
    let log = subject.open().unwrap();
    assert_eq!(log.state(written).last.map(|last| last.index), Some(1));
}

#[test]
fn random_operations_on_wal_on_the_real_disk() {
    for seed in 0..8 {
        run_random(&mut WalOnRealDisk::new(small(FlusherMode::Thread)), seed, 300);
    }
}

#[test]
fn random_operations_on_wal_on_a_disk_that_loses_what_is_not_synced() {
    for seed in 0..60 {
        run_random(&mut WalOnFaultyDisk::new(seed), seed, 400);
    }
}

#[test]
fn random_operations_on_sled_log() {
    for seed in 0..5 {
        run_random(&mut Sled::new(), seed, 200);
    }
}

/// A log that says "done" before it is.
struct Lying(WalOnFaultyDisk);

impl Subject for Lying {
    fn open(&mut self) -> std::io::Result<Arc<dyn Log>> {
        self.0.disk.set_ignore_syncs(true);
        self.0.open()
    }

    fn stop(&mut self, log: Arc<dyn Log>, clean: bool) {
        self.0.stop(log, clean);
    }

    fn pump(&mut self, log: &Arc<dyn Log>) {
        self.0.pump(log);
    }
}

#[test]
fn the_suite_notices_missing_syncs() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let checks = std::panic::catch_unwind(|| run_all(|| Lying(WalOnFaultyDisk::new(5))));
    let random = std::panic::catch_unwind(|| {
        for seed in 0..20 {
            run_random(&mut Lying(WalOnFaultyDisk::new(seed)), seed, 400);
        }
    });
    std::panic::set_hook(hook);
    assert!(checks.is_err() && random.is_err());
}
