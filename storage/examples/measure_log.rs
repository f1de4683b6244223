//! Measures the log on a real directory: `cargo run --profile quick -p quorate-storage --example measure_log -- DIR`.
//!
//! Prints what an append costs its caller, and what groups with a window of appends in flight get through.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_storage::disk::RealDisk;
use quorate_storage::log::{GroupId, Log, LogEntry, LogPosition, SyncPolicy};
use quorate_storage::volume::VolumeId;
use quorate_storage::wal::{Wal, WalOptions};

fn entry(index: u64, payload: &Bytes) -> LogEntry {
    LogEntry {
        position: LogPosition {
            term: 1,
            leader: 1,
            index,
        },
        payload: payload.clone(),
    }
}

fn append(wal: &Wal, group: GroupId, entry: LogEntry, done: &SyncSender<()>) {
    let done = done.clone();
    let completion = Box::new(move |result: std::io::Result<()>| {
        result.expect("the disk works");
        done.send(()).expect("somebody waits");
    });
    wal.append(group, vec![entry], completion);
}

/// Time that a caller spends in one append while the flusher is busy.
fn call_cost(wal: &Wal, payload_bytes: usize, policy: SyncPolicy) {
    const APPENDS: u64 = 2000;
    let group = GroupId(if policy == SyncPolicy::Synced { 100 } else { 101 });
    wal.set_sync_policy(group, policy);
    let payload = Bytes::from(vec![7; payload_bytes]);
    let (sender, receiver) = sync_channel(APPENDS as usize);
    let next = wal.state(group).last.map_or(1, |last| last.index + 1);
    let mut costs: Vec<Duration> = (next..next + APPENDS)
        .map(|index| {
            let entry = entry(index, &payload);
            let began = Instant::now();
            append(wal, group, entry, &sender);
            let cost = began.elapsed();
            if index % 16 == 0 {
                std::thread::sleep(Duration::from_micros(200));
            }
            cost
        })
        .collect();
    (0..APPENDS).for_each(|_| receiver.recv().expect("completes"));
    costs.sort();
    let [half, most] = [costs.len() / 2, costs.len() * 99 / 100].map(|at| costs[at]);
    println!("append call, {payload_bytes} bytes, {policy:?}: p50 {half:?}, p99 {most:?}");
}

fn throughput(wal: &Arc<Wal>, groups: u16, window: usize, payload_bytes: usize) {
    const SECONDS: u64 = 3;
    let before = wal.stats();
    let began = Instant::now();
    let threads: Vec<_> = (0..groups)
        .map(|number| {
            let (wal, payload) = (Arc::clone(wal), Bytes::from(vec![7; payload_bytes]));
            std::thread::spawn(move || {
                let group = GroupId(number);
                let (sender, receiver) = sync_channel(window * 2);
                let first = wal.state(group).last.map_or(1, |last| last.index + 1);
                let (mut next, mut done) = (first, 0_u64);
                let began = Instant::now();
                while began.elapsed() < Duration::from_secs(SECONDS) {
                    while next - first - done < window as u64 {
                        append(&wal, group, entry(next, &payload), &sender);
                        next += 1;
                    }
                    receiver.recv().expect("completes");
                    done += 1 + receiver.try_iter().count() as u64;
                }
                while done < next - first {
                    receiver.recv().expect("completes");
                    done += 1;
                }
                let position = LogPosition {
                    term: 1,
                    leader: 1,
                    index: next - 1,
                };
                wal.purge(group, position, Box::new(|_| {}));
                done
            })
        })
        .collect();
    let appended: u64 = threads
        .into_iter()
        .map(|thread| thread.join().expect("no panic"))
        .sum();
    let seconds = began.elapsed().as_secs_f64();
    let after = wal.stats();
    println!(
        "{groups} groups x {window} in flight, {payload_bytes} bytes: {:.0} entries/s, {:.0} MB/s, {:.0} syncs/s",
        appended as f64 / seconds,
        (after.bytes_written - before.bytes_written) as f64 / seconds / 1e6,
        (after.syncs - before.syncs) as f64 / seconds,
    );
}

fn main() {
    let dir = std::env::args().nth(1).expect("a directory to write in");
    let wal = Wal::open(
        Arc::new(RealDisk),
        Path::new(&dir),
        VolumeId([1; 16]),
        WalOptions::default(),
    );
    let wal = Arc::new(wal.expect("the log opens"));
    for bytes in [256, 16 << 10] {
        call_cost(&wal, bytes, SyncPolicy::Synced);
        call_cost(&wal, bytes, SyncPolicy::Written);
    }
    for (groups, window, bytes) in [(1, 1, 256), (8, 8, 256), (8, 64, 256), (4, 4, 16 << 10)] {
        throughput(&wal, groups, window, bytes);
    }
    println!("{:?}", wal.stats());
    wal.close().expect("the log closes");
}
