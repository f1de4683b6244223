//! A log's files, written record by record as a script says, and what has to be found in them.
//!
//! The script makes records whose checksums fit, which no fuzzer would guess, in an order that the log itself may never
//! have written; then it damages the bytes. What has to be found is worked out from the list of records, by the rules
//! that the log's `replay` states, without reading the files.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::VOLUME;
use crate::faulty::SplitMix;
use crate::log::{GroupId, GroupLogState, LogPosition};
use crate::wal::{Kind, RecordHeader, SEGMENT_HEADER_BYTES, SegmentMask, encode_header};

pub(super) const GROUPS: [GroupId; 3] = [GroupId(0), GroupId(1), GroupId(u16::MAX)];

const SEGMENTS_MAX: u64 = 3;
const RECORDS_MAX: usize = 40;
const FIRST_SEQUENCE: u64 = 3;

/// What a group has to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) state: GroupLogState,
    pub(super) entries: BTreeMap<u64, (LogPosition, Bytes)>,
}

/// What has to be found: every group of [`GROUPS`], and the bytes cut off the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) groups: Vec<Held>,
    pub(super) torn_bytes: u64,
}

/// A record as the script wrote it.
#[derive(Clone, Debug)]
struct Said {
    kind: Kind,
    group: GroupId,
    position: LogPosition,
    payload: Bytes,
}

/// A segment file.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) sequence: u64,
    /// Its content, damage included.
    pub(super) bytes: Vec<u8>,
    /// Its content before the damage.
    intact: Vec<u8>,
    /// What was written where; `None` for bytes that are no record.
    pieces: Vec<(Range<usize>, Option<Said>)>,
}

/// The files that the script writes.
pub(super) fn write(random: &mut SplitMix) -> Vec<Segment> {
    let count = 1 + random.below(SEGMENTS_MAX);
    let mut last = BTreeMap::new();
    (FIRST_SEQUENCE..FIRST_SEQUENCE + count)
        .map(|sequence| {
            let mut segment = Segment::new(sequence);
            while segment.pieces.len() < RECORDS_MAX && !random.is_spent() && !random.one_in(16) {
                segment.write_piece(random, &mut last);
            }
            segment.damage(random);
            segment
        })
        .collect()
}

/// A place in a record's fields: mostly what fits, else anything.
fn near(random: &mut SplitMix, fitting: u64) -> u64 {
    match random.below(16) {
        0 => match random.below(2) {
            0 => u64::MAX - random.below(3),
            _ => u64::MAX / 2 - random.below(3),
        },
        1..=3 => random.below(12),
        4 => fitting.saturating_sub(random.below(4)),
        5 => fitting.saturating_add(random.below(4)),
        _ => fitting,
    }
}

impl Segment {
    fn new(sequence: u64) -> Self {
        Self {
            sequence,
            bytes: Vec::new(),
            intact: encode_header(VOLUME, sequence).to_vec(),
            pieces: Vec::new(),
        }
    }

    /// Appends a record, or something that is none. `last` has the last index of each group, as the script thinks.
    fn write_piece(&mut self, random: &mut SplitMix, last: &mut BTreeMap<GroupId, u64>) {
        let offset = self.intact.len() as u64;
        let group = GROUPS[random.below(3) as usize];
        let next = last.get(&group).map_or(1, |last| last.saturating_add(1));
        let kind = match random.below(16) {
            0..=6 => Kind::Entry,
            7 => Kind::Vote,
            8 => Kind::Committed,
            9 => Kind::Truncate,
            10..=11 => Kind::Purge,
            12 => Kind::Moved,
            13 => Kind::Mark,
            14 => Kind::Reset,
            _ => return self.write_hole(random),
        };
        let fitting = match kind {
            Kind::Mark => offset,
            Kind::Entry => next,
            _ => next.saturating_sub(1 + random.below(3)),
        };
        let index = near(random, fitting);
        let mut position = LogPosition {
            term: random.below(3),
            leader: 7,
            index,
        };
        if kind == Kind::Mark {
            (position.term, position.leader) = (0, 0);
        }
        let length = match kind {
            Kind::Entry | Kind::Moved | Kind::Vote if random.one_in(8) => random.below(3000),
            Kind::Entry | Kind::Moved | Kind::Vote => random.below(20),
            _ => 0,
        };
        let byte = random.below(256) as u8;
        let payload = vec![byte; length as usize];
        // Rarely a record of another place, as a recycled block would show.
        let elsewhere = u64::from(random.one_in(32));
        let mask = SegmentMask::new(VOLUME, self.sequence).at(offset + elsewhere);
        let owner = if kind == Kind::Mark { GroupId(0) } else { group };
        let header = RecordHeader::new(kind, owner, position, &payload).sealed(mask);
        self.intact.extend_from_slice(&header);
        self.intact.extend_from_slice(&payload);
        let said = Said {
            kind,
            group,
            position,
            payload: payload.into(),
        };
        self.pieces.push((
            offset as usize..self.intact.len(),
            (elsewhere == 0).then_some(said),
        ));
        match kind {
            Kind::Entry | Kind::Truncate => drop(last.insert(group, index)),
            Kind::Reset => drop(last.remove(&group)),
            _ => {}
        }
    }

    /// Appends bytes that are no record.
    fn write_hole(&mut self, random: &mut SplitMix) {
        let start = self.intact.len();
        let byte = if random.one_in(2) {
            0
        } else {
            random.below(256) as u8
        };
        let length = 1 + random.below(100) as usize;
        self.intact.resize(start + length, byte);
        self.pieces.push((start..start + length, None));
    }

    /// Flips bytes and cuts the end off, or does not.
    fn damage(&mut self, random: &mut SplitMix) {
        self.bytes = self.intact.clone();
        for _ in 0..random.below(8).saturating_sub(5) {
            let at = random.below(self.bytes.len() as u64) as usize;
            self.bytes[at] ^= random.below(256) as u8;
        }
        if random.one_in(6) {
            let cut = random.below(self.bytes.len() as u64 + 1) as usize;
            self.bytes.truncate(self.bytes.len() - cut);
        }
    }

    fn is_intact(&self, range: &Range<usize>) -> bool {
        self.bytes
            .get(range.clone())
            .is_some_and(|bytes| bytes == &self.intact[range.clone()])
    }

    /// The records from the begin up to the first that is broken, and where that is.
    fn believed(&self) -> (impl Iterator<Item = &Said>, usize) {
        let broken = |piece: &&(Range<usize>, Option<Said>)| piece.1.is_none() || !self.is_intact(&piece.0);
        let count = self.pieces.iter().take_while(|piece| !broken(piece)).count();
        let end = match count {
            0 => SEGMENT_HEADER_BYTES as usize,
            _ => self.pieces[count - 1].0.end,
        };
        (
            self.pieces[..count].iter().filter_map(|piece| piece.1.as_ref()),
            end,
        )
    }

    /// The highest offset that an intact mark, anywhere in the file, calls synced.
    pub(super) fn stated_synced(&self) -> u64 {
        let marks = self.pieces.iter().filter_map(|(range, said)| {
            let said = said.as_ref().filter(|said| said.kind == Kind::Mark)?;
            self.is_intact(range).then_some(said.position.index)
        });
        marks.max().unwrap_or(0)
    }
}

/// What has to be found in the files; the reason where they must be refused.
pub(super) fn expect(segments: &[Segment]) -> Result<Found, &'static str> {
    let mut groups: BTreeMap<GroupId, Held> = BTreeMap::new();
    let mut torn_bytes = 0;
    let header_bytes = SEGMENT_HEADER_BYTES as usize;
    for (place, segment) in segments.iter().enumerate() {
        let is_last = place + 1 == segments.len();
        if is_last && segment.bytes.len() <= header_bytes {
            break;
        }
        if !segment.is_intact(&(0..header_bytes)) {
            return Err("header");
        }
        let (records, end) = segment.believed();
        for said in records {
            groups.entry(said.group).or_default().apply(said)?;
        }
        if end < segment.bytes.len() {
            if !is_last {
                return Err("damage in a closed segment");
            }
            if segment.stated_synced() > end as u64 {
                return Err("damage before data known to be synced");
            }
            torn_bytes = (segment.bytes.len() - end) as u64;
        }
    }
    let groups = GROUPS.map(|group| groups.remove(&group).unwrap_or_default());
    let groups: Result<Vec<Held>, &str> = groups.into_iter().map(Held::finish).collect();
    Ok(Found {
        groups: groups?,
        torn_bytes,
    })
}

impl Held {
    fn apply(&mut self, said: &Said) -> Result<(), &'static str> {
        let LogPosition { term, index, .. } = said.position;
        match said.kind {
            Kind::Entry | Kind::Moved | Kind::Purge if index > u64::MAX / 2 => {
                return Err("impossible index");
            }
            Kind::Entry | Kind::Moved => {
                if said.kind == Kind::Entry && self.entries.keys().any(|held| *held >= index) {
                    return Err("repeated index");
                }
                let is_purged = self.state.purged.is_some_and(|purged| index <= purged.index);
                if said.kind == Kind::Entry && is_purged {
                    return Err("entry behind its purge");
                }
                if !is_purged {
                    self.entries.insert(index, (said.position, said.payload.clone()));
                }
            }
            Kind::Vote => self.state.vote = Some(said.payload.clone()),
            Kind::Committed => self.state.committed = Some(said.position),
            Kind::Truncate => self.entries.retain(|held, _| term > 0 && *held <= index),
            Kind::Purge => {
                if self.state.purged.is_none_or(|purged| purged.index <= index) {
                    self.state.purged = Some(said.position);
                    self.entries.retain(|held, _| *held > index);
                }
            }
            Kind::Reset => *self = Self::default(),
            Kind::Mark => {}
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Self, &'static str> {
        let indexes: Vec<u64> = self.entries.keys().copied().collect();
        if indexes.windows(2).any(|pair| pair[0] + 1 != pair[1]) {
            return Err("missing entries");
        }
        let last = self.entries.values().next_back().map(|(position, _)| *position);
        self.state.last = last.or(self.state.purged);
        Ok(self)
    }
}
