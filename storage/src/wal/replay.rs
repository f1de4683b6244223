//! Opening a log: what is believed of the files that an earlier run left.
//!
//! - **Every segment but the last** was synced as a whole before its successor was created: anything in it that is
//!   not an intact record is corruption.
//! - **The last segment** may have been cut off at any place, and after a power cut the part of it that was never
//!   synced may have survived out of order: intact records behind a hole are legitimate there. Every flush starts with
//!   a mark that says how far the segment was synced when the flush was written, and an idle log ends with one. So a
//!   hole before an offset that any intact mark states is corruption: something acknowledged is gone. A hole that no
//!   mark covers is the torn tail; everything from it on was never acknowledged as synced, or is the very last flush of
//!   a machine that lost its power before a mark followed, and is cut off and reported. (Damage to that very last
//!   flush cannot be told from a torn one. Replicas of the group still have it.)
//! - **A missing segment** between two others is corruption. A last segment that is no longer than its header was
//!   never used.
//! - **A log without its newest segment**, or without any, would pass for an older or a new one. The mark outside of its
//!   directory names the segment that has to be there, and after an orderly end its length.
//!
//! What was in the file but perhaps not on the disk is written again, byte for byte in place, and synced before
//! anybody is told about it: the earlier run may have been killed between write and sync, or may have ended because a
//! sync failed, after which Linux keeps pages that look clean, read well and are not on the disk.
//!
//! No length is believed before the bytes are there: memory is bounded by the longest record.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::error::WalError;
use super::group::{GroupState, Place, Slot, StateSegments};
use super::record::{Fields, INDEX_MAX, Kind, RECORD_HEADER_BYTES, SegmentMask};
use super::segment::{self, HeaderCheck, SEGMENT_HEADER_BYTES, Segment, SegmentReader};
use crate::disk::{self, Disk, DiskFile};
use crate::log::{GroupId, LogPosition};
use crate::volume::{LogMark, VolumeId};

/// An unsynced end that was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The file.
    pub file: PathBuf,
    /// Its length now.
    pub offset: u64,
    /// Bytes that were cut off.
    pub bytes: u64,
}

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Segment files.
    pub segments: u64,
    /// Intact records.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The end that was cut off, if any.
    pub torn: Option<TornTail>,
}

/// A log as read from its files.
pub(super) struct Replayed {
    pub(super) groups: BTreeMap<GroupId, GroupState>,
    pub(super) segments: BTreeMap<u64, Segment>,
    /// The segment to go on in, created and empty.
    pub(super) active: u64,
    pub(super) recovery: Recovery,
}

#[derive(Default)]
struct ReplayGroup {
    /// Sparse until all is read: entries copied forward come after newer ones.
    entries: BTreeMap<u64, Slot>,
    purged: Option<LogPosition>,
    vote: Option<Bytes>,
    committed: Option<LogPosition>,
    state_segments: StateSegments,
}

impl ReplayGroup {
    /// Applies a record; the reason where it contradicts those before.
    fn apply(&mut self, place: Place, fields: Fields, payload: &[u8]) -> Result<(), &'static str> {
        let LogPosition { term, leader, index } = fields.position;
        match fields.kind {
            Kind::Entry | Kind::Moved | Kind::Purge if index > INDEX_MAX => {
                return Err("impossible index");
            }
            Kind::Entry | Kind::Moved => {
                if fields.kind == Kind::Entry && self.entries.range(index..).next().is_some() {
                    return Err("an entry repeats an index");
                }
                let is_purged = self.purged.is_some_and(|purged| index <= purged.index);
                // Only a copy may come late. Once the purge is copied to the log's end, an entry would contradict others.
                if fields.kind == Kind::Entry && is_purged {
                    return Err("an entry is purged before it is written");
                }
                if !is_purged {
                    let payload_bytes = fields.payload_bytes as u32;
                    self.entries.insert(
                        index,
                        Slot {
                            term,
                            leader,
                            place,
                            payload_bytes,
                            payload: None,
                        },
                    );
                }
            }
            Kind::Vote => {
                self.vote = Some(Bytes::copy_from_slice(payload));
                self.state_segments.vote = place.segment;
            }
            Kind::Committed => {
                self.committed = Some(fields.position);
                self.state_segments.committed = place.segment;
            }
            Kind::Truncate if term == 0 => self.entries.clear(),
            Kind::Truncate => drop(self.entries.split_off(&index.saturating_add(1))),
            Kind::Purge => {
                if self.purged.is_none_or(|purged| purged.index <= index) {
                    self.purged = Some(fields.position);
                    self.state_segments.purged = place.segment;
                    self.entries = self.entries.split_off(&index.saturating_add(1));
                }
            }
            Kind::Reset => *self = Self::default(),
            Kind::Mark => {}
        }
        Ok(())
    }

    /// The group as the log uses it; the place of the entry after a gap where there is one.
    fn finish(self, segments: &mut BTreeMap<u64, Segment>) -> Result<GroupState, Place> {
        let first = match (self.entries.first_key_value(), self.purged) {
            (Some((index, _)), _) => *index,
            (None, Some(purged)) => purged.index.saturating_add(1),
            (None, None) => 0,
        };
        let mut slots = VecDeque::with_capacity(self.entries.len());
        for (expected, (index, slot)) in (first..).zip(self.entries) {
            if expected != index {
                return Err(slot.place);
            }
            if let Some(segment) = segments.get_mut(&slot.place.segment) {
                segment.add(slot.payload_bytes);
            }
            slots.push_back(slot);
        }
        let mut group = GroupState::replayed(first, slots);
        group.purged = self.purged;
        group.vote = self.vote;
        group.committed = self.committed;
        group.state_segments = self.state_segments;
        Ok(group)
    }
}

struct Replay<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    volume: VolumeId,
    groups: BTreeMap<GroupId, ReplayGroup>,
    recovery: Recovery,
}

/// Reads the log in `dir`, of which `expected` has to be there, repairs its end, and creates the segment to go on in.
pub(super) fn replay(
    disk: &dyn Disk,
    dir: &Path,
    volume: VolumeId,
    expected: Option<LogMark>,
) -> Result<Replayed, WalError> {
    let mut replay = Replay {
        disk,
        dir,
        volume,
        groups: BTreeMap::new(),
        recovery: Recovery::default(),
    };
    let io = |source| WalError::Io {
        dir: dir.to_owned(),
        source,
    };
    if let Some(expected) = expected {
        replay.check_expected(expected)?;
    }
    disk::create_dir_all_synced(disk, dir).map_err(io)?;
    let sequences = replay.list()?;
    let mut segments = BTreeMap::new();
    let mut active = 1;
    let mut is_reused = false;
    for (place, &sequence) in sequences.iter().enumerate() {
        let is_last = place + 1 == sequences.len();
        let file = disk.open(&replay.path(sequence)).map_err(io)?;
        active = sequence + 1;
        if is_last && file.size().map_err(io)? <= SEGMENT_HEADER_BYTES {
            // Never used, perhaps not even whole.
            active = sequence;
            is_reused = true;
            break;
        }
        replay.read_segment(sequence, &*file, is_last)?;
        segments.insert(sequence, Segment::new(Some(file)));
    }
    replay.recovery.segments = segments.len() as u64;
    let mut groups = BTreeMap::new();
    for (group, state) in std::mem::take(&mut replay.groups) {
        let state = state.finish(&mut segments).map_err(|place| {
            replay.corrupt(place.segment, place.offset, "entries before this one are missing")
        })?;
        groups.insert(group, state);
    }
    let ready = match is_reused {
        true => segment::reuse(disk, dir, volume, active),
        false => segment::create(disk, dir, volume, active),
    };
    let file = ready.map_err(io)?;
    segments.insert(active, Segment::new(Some(file)));
    Ok(Replayed {
        groups,
        segments,
        active,
        recovery: replay.recovery,
    })
}

impl Replay<'_> {
    fn path(&self, sequence: u64) -> PathBuf {
        self.dir.join(segment::file_name(sequence))
    }

    fn io(&self, source: io::Error) -> WalError {
        WalError::Io {
            dir: self.dir.to_owned(),
            source,
        }
    }

    fn corrupt(&self, sequence: u64, offset: u64, reason: &'static str) -> WalError {
        WalError::Corrupt {
            file: self.path(sequence),
            offset,
            reason,
        }
    }

    /// Refuses a log that has lost its newest files.
    fn check_expected(&self, expected: LogMark) -> Result<(), WalError> {
        let name = segment::file_name(expected.segment);
        let lost = |reason| {
            Err(WalError::Lost {
                dir: self.dir.to_owned(),
                reason,
            })
        };
        let size = match self.disk.open(&self.path(expected.segment)) {
            Ok(file) => file.size().map_err(|source| self.io(source))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return lost(format!("its newest file {name} is missing"));
            }
            Err(error) => return Err(self.io(error)),
        };
        match expected.bytes {
            Some(bytes) if size < bytes => lost(format!(
                "its newest file {name} has {size} bytes, and had {bytes} when the node stopped"
            )),
            _ => Ok(()),
        }
    }

    /// The segments there are, ascending, without a gap.
    fn list(&self) -> Result<Vec<u64>, WalError> {
        let names = self.disk.list(self.dir).map_err(|source| self.io(source))?;
        let mut sequences: Vec<u64> = names
            .iter()
            .filter_map(|name| segment::parse_file_name(name))
            .collect();
        sequences.sort_unstable();
        for pair in sequences.windows(2) {
            if pair[0] + 1 != pair[1] {
                return Err(self.corrupt(pair[0] + 1, 0, "the segment is missing"));
            }
        }
        match sequences.last() {
            Some(&u64::MAX) => Err(self.corrupt(u64::MAX, 0, "impossible sequence")),
            _ => Ok(sequences),
        }
    }

    fn read_segment(&mut self, sequence: u64, file: &dyn DiskFile, is_last: bool) -> Result<(), WalError> {
        let io = |source| WalError::Io {
            dir: self.dir.to_owned(),
            source,
        };
        let mask = SegmentMask::new(self.volume, sequence);
        let mut reader = SegmentReader::new(file, mask).map_err(io)?;
        let header = reader
            .bytes(0, SEGMENT_HEADER_BYTES as usize)
            .map_err(io)?
            .unwrap_or_default();
        match segment::check_header(header, self.volume, sequence) {
            HeaderCheck::Valid => {}
            HeaderCheck::Broken => return Err(self.corrupt(sequence, 0, "the header is damaged")),
            HeaderCheck::Foreign => {
                return Err(WalError::Foreign {
                    file: self.path(sequence),
                });
            }
            HeaderCheck::Newer(version) => {
                return Err(WalError::NewerFormat {
                    file: self.path(sequence),
                    version,
                });
            }
        }
        let mut offset = SEGMENT_HEADER_BYTES;
        let mut synced_through = 0;
        while let Some((fields, payload)) = reader.record(offset).map_err(io)? {
            let place = Place {
                segment: sequence,
                offset,
            };
            if fields.kind == Kind::Mark {
                synced_through = synced_through.max(fields.position.index);
            } else {
                let applied = self
                    .groups
                    .entry(fields.group)
                    .or_default()
                    .apply(place, fields, payload);
                applied.map_err(|reason| self.corrupt(sequence, offset, reason))?;
                self.recovery.records += 1;
            }
            offset += (RECORD_HEADER_BYTES + fields.payload_bytes) as u64;
        }
        self.recovery.bytes += offset - SEGMENT_HEADER_BYTES;
        let torn_bytes = reader.size() - offset;
        if torn_bytes > 0 {
            if !is_last {
                return Err(self.corrupt(sequence, offset, "damaged record in a closed segment"));
            }
            let stated = reader.marks_after(offset).map_err(io)?;
            if stated.max(Some(synced_through)) > Some(offset) {
                return Err(self.corrupt(sequence, offset, "damaged record before data known to be synced"));
            }
            self.recovery.torn = Some(TornTail {
                file: self.path(sequence),
                offset,
                bytes: torn_bytes,
            });
        }
        if is_last {
            make_durable(file, &mut reader, synced_through, offset, torn_bytes > 0).map_err(io)?;
        }
        Ok(())
    }
}

/// Cuts the torn tail off, writes again what may not be on the disk, and syncs.
fn make_durable(
    file: &dyn DiskFile,
    reader: &mut SegmentReader<'_>,
    synced_through: u64,
    end: u64,
    torn: bool,
) -> io::Result<()> {
    const PIECE_BYTES: u64 = 1 << 20;
    if torn {
        file.truncate(end)?;
    }
    let mut offset = synced_through.min(end);
    while offset < end {
        let count = (end - offset).min(PIECE_BYTES) as usize;
        let bytes = reader.bytes(offset, count)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        file.write_at(offset, bytes)?;
        offset += count as u64;
    }
    file.sync_data()
}
