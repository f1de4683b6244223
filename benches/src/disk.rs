//! How long the disk takes to sync, beside a load that depends on it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes appended before each sync.
const APPENDED: usize = 4096;
/// Time between syncs: seldom enough not to be the load.
const INTERVAL: Duration = Duration::from_millis(50);

/// A thread that appends to a file and syncs it with fdatasync, again and again.
#[derive(Debug)]
pub struct SyncProbe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Vec<Duration>>>,
}

/// Times of fdatasync.
#[derive(Clone, Copy, Debug)]
pub struct SyncTimes {
    /// How many.
    pub count: usize,
    /// Half took no longer.
    pub median: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
}

impl SyncProbe {
    /// Begins, with a file in `directory` that is removed at the end.
    ///
    /// # Errors
    /// No file can be made there.
    pub fn start(directory: &Path) -> io::Result<Self> {
        let path = directory.join(format!("sync-probe-{}", std::process::id()));
        let mut file = File::create_new(&path)?;
        // It lives on without a name.
        std::fs::remove_file(&path)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut times = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                file.write_all(&[0x5a; APPENDED])?;
                let began = Instant::now();
                file.sync_data()?;
                times.push(began.elapsed());
                std::thread::sleep(INTERVAL);
            }
            Ok(times)
        });
        Ok(Self { stop, thread })
    }

    /// Ends; the times since it began.
    ///
    /// # Errors
    /// The disk failed, or there was no time for a single sync.
    pub fn finish(self) -> io::Result<SyncTimes> {
        self.stop.store(true, Ordering::Relaxed);
        let times = self.thread.join().map_err(|_| io::ErrorKind::Other)?;
        let mut times = times?;
        times.sort_unstable();
        let at = |part: usize| times.get(times.len() * part / 100).copied();
        let (median, p99) = at(50).zip(at(99)).ok_or(io::ErrorKind::TimedOut)?;
        Ok(SyncTimes {
            count: times.len(),
            median,
            p99,
        })
    }
}
