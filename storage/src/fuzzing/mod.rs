//! Entry points for fuzzers. All panic on a violation, and on nothing else.
//!
//! Checksums keep random bytes out, so a fuzzer that is given the bytes of files finds nothing: most entry points take
//! a description instead, and compare with what must come of it.
//!
//! - [`fuzz_log_recovery`]: segment files with checksums that fit and records in any order, then damage.
//! - [`fuzz_log_life`]: operations on a log, power cuts and kills.
//! - [`fuzz_node_life`]: log, checkpoints and store together, as a node uses them.
//! - [`fuzz_checkpoint`]: a checkpoint file, and the store that is recovered with it.
//! - [`replay_log`] and [`decode_checkpoint`] take the bytes: decoding ends without a panic and with bounded memory.

mod log_life;
mod node_life;
mod recovery;
mod segments;

use std::path::Path;
use std::sync::Arc;

use crate::disk::Disk;
use crate::faulty::FaultyDisk;
use crate::log::{GroupId, Log};
use crate::state;
use crate::volume::VolumeId;
use crate::wal::{FlusherMode, Wal, WalError, WalOptions};
pub use log_life::fuzz_log_life;
#[cfg(test)]
pub(crate) use log_life::live_log;
pub use node_life::fuzz_node_life;
#[cfg(test)]
pub(crate) use node_life::live_node;
pub use recovery::fuzz_log_recovery;

/// The volume whose segments [`replay_log`] reads: for corpora.
pub const VOLUME: VolumeId = VolumeId([0x51; 16]);

/// Opens a log whose only segment holds `data`, and where that succeeds, opens it again: the repaired log has to be
/// intact and the same. True where it opened.
pub fn replay_log(data: &[u8]) -> bool {
    let disk = FaultyDisk::new(0);
    let dir = Path::new("/wal");
    let options = || WalOptions {
        flusher: FlusherMode::Manual,
        ..WalOptions::default()
    };
    let written = disk
        .create_dir(dir)
        .and_then(|()| disk.create(&dir.join("0000000000000001.log")))
        .and_then(|file| file.write_at(0, data));
    let open = || Wal::open(Arc::new(disk.clone()), dir, VOLUME, options());
    let first = match written.map(|()| open()) {
        Ok(Ok(first)) => first,
        Ok(Err(WalError::Io { source, .. })) => panic!("an I/O error without a fault: {source}"),
        Ok(Err(_)) => return false,
        Err(error) => panic!("the disk in memory failed: {error}"),
    };
    let view = |log: &Wal| {
        let groups = (0..=u16::MAX).step_by(257).chain(0..64).map(GroupId);
        groups
            .map(|group| (log.state(group), log.read(group, 0, u64::MAX, 1 << 20).ok()))
            .collect::<Vec<_>>()
    };
    let before = view(&first);
    drop(first);
    match open() {
        Ok(second) => {
            assert_eq!(second.recovery().torn, None, "a torn end is cut off once");
            assert_eq!(view(&second), before, "a repaired log stays the same");
        }
        Err(error) => panic!("a repaired log does not open: {error}"),
    }
    true
}

/// Writes a store and the checkpoint file that `data` describes, and opens them, with power cuts on the way.
pub fn fuzz_checkpoint(data: &[u8]) {
    state::fuzz_checkpoint(data);
}

/// Decodes `data` as a checkpoint file; the number of items in it.
pub fn decode_checkpoint(data: &[u8]) -> usize {
    let disk = FaultyDisk::new(0);
    let path = Path::new("/checkpoint");
    match disk
        .create(path)
        .and_then(|file| file.write_at(0, data).map(|()| file))
    {
        Ok(file) => state::fuzz_decode(file),
        Err(error) => panic!("the disk in memory failed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::log::{LogEntry, LogPosition};
    use crate::state::{Checkpointer, FaultyStore, GroupCheckpoint};

    /// Cases of a property test: the usual number, times `QUORATE_CASES_FACTOR` where it is set.
    fn cases(usual: u32) -> u32 {
        let factor = std::env::var("QUORATE_CASES_FACTOR").ok();
        usual
            * factor.map_or(1, |factor| {
                factor.parse().expect("QUORATE_CASES_FACTOR is a number")
            })
    }

    /// Content of a segment with a bit of everything.
    fn segment() -> Vec<u8> {
        let disk = FaultyDisk::new(0);
        let options = WalOptions {
            flusher: FlusherMode::Manual,
            ..WalOptions::default()
        };
        let log = Wal::open(Arc::new(disk.clone()), Path::new("/wal"), VOLUME, options).unwrap();
        for group in 0..3 {
            let group = GroupId(group);
            log.save_vote(group, Bytes::from_static(b"vote"), Box::new(|_| {}));
            let entry = |index| LogEntry {
                position: LogPosition {
                    term: 1,
                    leader: 2,
                    index,
                },
                payload: Bytes::from(vec![index as u8; 40]),
            };
            log.append(group, (1..6).map(entry).collect(), Box::new(|_| {}));
            log.flush_once().unwrap();
            log.truncate_after(group, Some(4), Box::new(|_| {}));
            log.save_committed(
                group,
                LogPosition {
                    term: 1,
                    leader: 2,
                    index: 3,
                },
            );
            log.purge(
                group,
                LogPosition {
                    term: 1,
                    leader: 2,
                    index: 2,
                },
                Box::new(|_| {}),
            );
            log.flush_once().unwrap();
        }
        log.reset(GroupId(2), Box::new(|_| {}));
        log.close().unwrap();
        content(&disk, "/wal/0000000000000001.log")
    }

    fn content(disk: &FaultyDisk, path: &str) -> Vec<u8> {
        let file = disk.open(Path::new(path)).unwrap();
        let mut data = vec![0; file.size().unwrap() as usize];
        file.read_at(0, &mut data).unwrap();
        data
    }

    fn checkpoint() -> Vec<u8> {
        let disk = FaultyDisk::new(0);
        let store = Arc::new(FaultyStore::new(disk.clone(), 0));
        let checkpointer =
            Checkpointer::open(Arc::new(disk.clone()), Path::new("/s"), store.clone()).unwrap();
        store.fail_sync();
        let changes = (0..20_u8)
            .map(|number| (vec![number], (number % 3 > 0).then(|| vec![number; 99])))
            .collect();
        let (group, position, meta) = (GroupId(1), LogPosition::default(), Bytes::from_static(b"m"));
        checkpointer
            .checkpoint(vec![GroupCheckpoint {
                group,
                position,
                meta,
                changes,
            }])
            .unwrap_err();
        content(&disk, "/s/checkpoint")
    }

    #[test]
    fn intact_content_decodes() {
        assert!(replay_log(&segment()));
        assert_eq!(decode_checkpoint(&checkpoint()), 21);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: cases(600), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_description_of_a_log(data in proptest::collection::vec(any::<u8>(), 0..400)) {
            fuzz_log_recovery(&data);
        }

        #[test]
        fn any_life_of_a_log(data in proptest::collection::vec(any::<u8>(), 0..400)) {
            fuzz_log_life(&data);
        }

        #[test]
        fn any_life_of_a_node(data in proptest::collection::vec(any::<u8>(), 0..400)) {
            fuzz_node_life(&data);
        }

        #[test]
        fn any_description_of_a_checkpoint(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz_checkpoint(&data);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: cases(300), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes(data in proptest::collection::vec(any::<u8>(), 0..2000)) {
            replay_log(&data);
            decode_checkpoint(&data);
        }

        #[test]
        fn mutated_segments(
            cut in 0..2000_usize,
            flips in proptest::collection::vec((0..2000_usize, any::<u8>()), 0..4),
            copied in (0..2000_usize, 0..2000_usize, 0..200_usize),
        ) {
            let mut data = segment();
            let length = data.len();
            let (from, to, count) = (copied.0 % length, copied.1 % length, copied.2);
            let count = count.min(length - from).min(length - to);
            data.copy_within(from..from + count, to);
            for (at, mask) in flips {
                data[at % length] ^= mask;
            }
            data.truncate(length - cut.min(length) / 4);
            replay_log(&data);
        }

        #[test]
        fn mutated_checkpoints(cut in 0..4000_usize, at in 0..4000_usize, mask in 1..=255_u8) {
            let mut data = checkpoint();
            let length = data.len();
            data[at % length] ^= mask;
            data.truncate(length - (cut % length) / 8);
            prop_assert_eq!(decode_checkpoint(&data), 0, "one checksum covers all");
        }
    }
}
