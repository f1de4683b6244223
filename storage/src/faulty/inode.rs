//! One file of the faulty disk: what readers see, what the platter has, and the changes between the two.
//!
//! Invariant: applying all pending changes to the durable content gives the current content, unless a sync failed.

use super::{CrashMode, SplitMix};
use std::io;

/// Bytes that a disk writes as one.
const SECTOR: u64 = 512;

/// Old content kept for refilling holes: blocks of a removed file that a new file gets.
const STALE_BYTES_MAX: usize = 256 * 1024;

/// Content of removed files, which a hole of a new file may show.
#[derive(Debug, Default)]
pub(super) struct StaleBlocks(Vec<u8>);

impl StaleBlocks {
    pub(super) fn keep(&mut self, inode: &Inode) {
        if !inode.current.is_empty() {
            self.0.clear();
            self.0
                .extend_from_slice(&inode.current[..inode.current.len().min(STALE_BYTES_MAX)]);
        }
    }
}

#[derive(Debug)]
enum Change {
    Write { offset: u64, data: Vec<u8> },
    Truncate(u64),
}

#[derive(Debug, Default)]
pub(super) struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

fn write_into(content: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let end = offset as usize + data.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset as usize..end].copy_from_slice(data);
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { offset, data } => write_into(content, *offset, data),
        Change::Truncate(length) => content.resize(*length as usize, 0),
    }
}

impl Inode {
    pub(super) fn size(&self) -> u64 {
        self.current.len() as u64
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let start = (offset as usize).min(self.current.len());
        let count = buffer.len().min(self.current.len() - start);
        buffer[..count].copy_from_slice(&self.current[start..start + count]);
        count
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        write_into(&mut self.current, offset, data);
        self.pending.push(Change::Write {
            offset,
            data: data.to_vec(),
        });
    }

    pub(super) fn truncate(&mut self, length: u64) {
        self.current.resize(length as usize, 0);
        self.pending.push(Change::Truncate(length));
    }

    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            apply(&mut self.durable, &change);
        }
    }

    /// Some of what was pending reaches the platter, the rest never will, and readers see all of it.
    pub(super) fn fail_sync(&mut self, random: &mut SplitMix) {
        for change in self.pending.drain(..) {
            if random.one_in(3) {
                apply(&mut self.durable, &change);
            }
        }
    }

    pub(super) fn flip(&mut self, offset: u64, bit: u8) -> io::Result<()> {
        let mask = 1 << (bit & 7);
        *self
            .current
            .get_mut(offset as usize)
            .ok_or(io::ErrorKind::UnexpectedEof)? ^= mask;
        if let Some(byte) = self.durable.get_mut(offset as usize) {
            *byte ^= mask;
        }
        for change in &mut self.pending {
            if let Change::Write { offset: start, data } = change
                && let Some(byte) = offset
                    .checked_sub(*start)
                    .and_then(|at| data.get_mut(at as usize))
            {
                *byte ^= mask;
            }
        }
        Ok(())
    }

    /// What is left after a power cut.
    pub(super) fn settle(&mut self, mode: CrashMode, random: &mut SplitMix, stale: &StaleBlocks) {
        let mode = match mode {
            CrashMode::Any => match random.below(4) {
                0 => CrashMode::Lost,
                1 => CrashMode::Prefix,
                2 => CrashMode::Sectors,
                _ => {
                    self.sync();
                    CrashMode::Lost
                }
            },
            fixed => fixed,
        };
        match mode {
            CrashMode::Prefix => self.settle_prefix(random),
            CrashMode::Sectors => self.settle_sectors(random, stale),
            CrashMode::Lost | CrashMode::Any => self.pending.clear(),
        }
        self.current = self.durable.clone();
    }

    fn settle_prefix(&mut self, random: &mut SplitMix) {
        let kept = random.below(self.pending.len() as u64 + 1) as usize;
        for (place, change) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            if place < kept {
                apply(&mut self.durable, &change);
            } else if place == kept
                && let Change::Write { offset, data } = change
            {
                let torn = random.below(data.len() as u64 + 1) as usize;
                write_into(&mut self.durable, offset, &data[..torn]);
            }
        }
    }

    fn settle_sectors(&mut self, random: &mut SplitMix, stale: &StaleBlocks) {
        let synced = self.durable.len();
        let (length_kept, holes_stale) = (random.one_in(2), random.one_in(2));
        if length_kept && self.current.len() > synced {
            self.durable.resize(self.current.len(), 0);
        }
        let rarely = random.one_in(2);
        let mut written = vec![false; self.current.len().max(self.durable.len())];
        for change in std::mem::take(&mut self.pending) {
            let Change::Write { offset, data } = change else {
                if random.one_in(2) {
                    apply(&mut self.durable, &change);
                }
                continue;
            };
            let end = offset + data.len() as u64;
            let mut start = offset;
            while start < end {
                let stop = end.min((start / SECTOR + 1) * SECTOR);
                let dropped = if rarely {
                    random.one_in(8)
                } else {
                    random.one_in(2)
                };
                if !dropped {
                    let piece = &data[(start - offset) as usize..(stop - offset) as usize];
                    write_into(&mut self.durable, start, piece);
                    written.resize(written.len().max(stop as usize), false);
                    written[start as usize..stop as usize].fill(true);
                }
                start = stop;
            }
        }
        if holes_stale {
            let end = self.durable.len().min(stale.0.len());
            for (at, written) in written.iter().enumerate().take(end).skip(synced) {
                if !written {
                    self.durable[at] = stale.0[at];
                }
            }
        }
    }
}
