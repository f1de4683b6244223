//! The log in sled where the power fails: the test runs itself as the process that writes, and takes back what that did
//! not sync.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;

use quorate_storage::log::{GroupId, Log, LogEntry, LogPosition};
use quorate_storage::sled_log::SledLog;
use quorate_storage::state::SledOptions;
use quorate_tests::power::{Left, cut};
use quorate_tests::random::Random;
use quorate_tests::shim::start_script;

const NAME: &str = "sled_log::a_log_in_sled_survives_power_cuts_that_tear_what_is_not_synced";
/// The directory of a process that writes.
const DIRECTORY: &str = "QUORATE_SLED_LOG_DIRECTORY";
const GROUP: GroupId = GroupId(3);
/// Entries that the writer keeps: what is purged makes room that is written over.
const KEPT: u64 = 150;
const WINDOW: usize = 64;

fn entry(index: u64) -> LogEntry {
    const SIZES: [usize; 4] = [10, 700, 2_000, 4_096];
    LogEntry {
        position: position(index),
        payload: vec![index as u8; SIZES[index as usize % SIZES.len()]].into(),
    }
}

fn position(index: u64) -> LogPosition {
    LogPosition {
        term: 1,
        leader: 1,
        index,
    }
}

fn open(directory: &Path) -> SledLog {
    let options = SledOptions { cache_bytes: 4 << 20 };
    SledLog::open(&directory.join("data"), &options).expect("the log opens")
}

/// Appends until the process is killed, and says what is synced.
fn write_for_ever(directory: &Path) -> ! {
    let log = open(directory);
    let (done, is_done) = channel();
    let mut last = log.state(GROUP).last.map_or(0, |last| last.index);
    let mut waiting = 0;
    loop {
        while waiting < WINDOW {
            last += 1;
            waiting += 1;
            let (index, done) = (last, done.clone());
            let tell = Box::new(move |result: std::io::Result<()>| {
                result.expect("the disk is well");
                done.send(index).expect("the writer waits");
            });
            log.append(GROUP, vec![entry(index)], tell);
            if index > KEPT {
                log.purge(GROUP, position(index - KEPT), Box::new(|_| ()));
            }
        }
        let index = is_done.recv().expect("completions come");
        waiting -= 1;
        println!("synced {index}");
    }
}

/// What was synced is there, whole and without a gap; of what was not, a beginning at most.
#[test]
fn a_log_in_sled_survives_power_cuts_that_tear_what_is_not_synced() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        write_for_ever(&PathBuf::from(directory));
    }
    let seed = Random::seed();
    println!("QUORATE_CRASH_SEED={seed}");
    let mut random = Random::new(seed);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let program = std::env::current_exe().expect("the test has a program");
    let program = program.to_str().expect("the path is UTF-8");
    let script = start_script(
        directory.path(),
        program,
        "power",
        &[(DIRECTORY, directory.path())],
    );
    let mut changes = 0;
    for round in 0..12 {
        let mut writer = Command::new(&script)
            .args(["--exact", NAME, "--nocapture"])
            // Names the directory to the shim.
            .arg(directory.path().join("quorate.toml"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test runs");
        let told = BufReader::new(writer.stdout.take().expect("it is piped"));
        let synced = told.lines().filter_map(|line| {
            let line = line.expect("the writer tells");
            line.strip_prefix("synced ")?.parse::<u64>().ok()
        });
        let count = 20 + random.below(200) as usize;
        let synced = synced.take(count).last().expect("the writer writes");
        writer.kill().expect("it runs");
        writer.wait().expect("it was killed");
        let left = Left::Torn {
            seed: random.below(u64::MAX),
        };
        let taken = cut(directory.path(), left);
        println!("round {round}: {synced} synced, {taken:?}");
        changes += taken.changes;
        let log = open(directory.path());
        let state = log.state(GROUP);
        let last = state.last.expect("entries were synced").index;
        assert!(last >= synced, "{last} of {synced}");
        let first = state.purged.map_or(1, |purged| purged.index + 1);
        let found = log
            .read(GROUP, first, last + 1, usize::MAX)
            .expect("the log can be read");
        let expected: Vec<LogEntry> = (first..=last).map(entry).collect();
        assert!(
            found == expected,
            "entries {first} to {last} are not as they were written"
        );
    }
    assert!(changes > 0, "everything was synced: nothing was cut");
}
