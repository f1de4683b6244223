//! Reading a checkpoint file that is anything, and recovering a store with it.
//!
//! The input describes the stream of items; the chunks around them get checksums that fit, which no fuzzer would guess.
//! What the file holds, and what the store has to hold after it was copied, is worked out from the description.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::checkpointer::FILE_NAME;
use super::file::{self, FileHeader, Item, Reader};
use super::layout::{GENERATION_MAX, GroupRecord, KEY_BYTES_MAX, PART_BYTES};
use super::{Checkpointer, FaultyStore, GroupCheckpoint, StateError};
use crate::disk::{Disk, DiskFile};
use crate::faulty::{FaultyDisk, SplitMix};
use crate::log::{GroupId, LogPosition};

const DIR: &str = "/s";
const GROUPS: [GroupId; 3] = [GroupId(1), GroupId(2), GroupId(u16::MAX)];

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a store has to hold of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    record: GroupRecord,
    content: Content,
}

type Truth = BTreeMap<GroupId, Stored>;

/// The items of a file as the input describes them.
#[derive(Debug)]
struct Described {
    header: FileHeader,
    stream: Vec<u8>,
    items: Vec<Item>,
    /// The stream goes on with something that is no item.
    is_broken: bool,
}

/// Writes a store and the checkpoint file that `data` describes, and opens them, with power cuts on the way. The reader
/// has to find exactly the items described, up to the first that is none; the store has to hold what it held and what
/// an intact file adds, and to be refused with a broken one; and it has to take the next checkpoint.
pub(crate) fn fuzz_checkpoint(data: &[u8]) {
    let mut random = SplitMix::scripted(data);
    let disk = FaultyDisk::new(random.below(256));
    let store = Arc::new(FaultyStore::new(disk.clone(), random.below(256)));
    let mut truth = Truth::new();
    let (sequence, identity) = {
        let checkpointer = open(&disk, &store).expect("a new store opens");
        for _ in 0..random.below(3) {
            take_checkpoint(&checkpointer, &mut truth, &mut random);
        }
        (checkpointer.writer.lock().sequence, checkpointer.identity)
    };

    let header = FileHeader {
        store: identity ^ u64::from(random.one_in(16)),
        sequence: match random.below(8) {
            0 => sequence.saturating_sub(1),
            1 => sequence,
            _ => sequence + 1,
        },
    };
    let described = describe(header, &truth, &mut random);
    let file = disk
        .create(&Path::new(DIR).join(FILE_NAME))
        .expect("there is none");
    let is_whole = put(&*file, &described, &mut random);
    disk.sync_dir(Path::new(DIR))
        .expect("the disk in memory does not fail");
    let is_intact = is_whole && !described.is_broken;
    assert_eq!(read(Arc::clone(&file), is_whole, &described), is_intact);
    if is_whole && described.is_broken && header.sequence < sequence {
        // Not read at all: it was copied long ago.
        return;
    }

    let Some(checkpointer) = recover(&disk, &store, &mut random) else {
        assert!(
            !is_intact || header.store != identity || names_no_group(&described),
            "{described:?}"
        );
        return;
    };
    assert!(is_intact && header.store == identity, "opened with {described:?}");
    if header.sequence >= sequence {
        apply(&mut truth, described.items);
    }
    assert_eq!(observe(&checkpointer), truth, "copied from the file");
    take_checkpoint(&checkpointer, &mut truth, &mut random);
    drop(checkpointer);
    disk.crash();
    store.crash();
    let checkpointer = open(&disk, &store).expect("a store that was used opens");
    assert_eq!(
        observe(&checkpointer),
        truth,
        "after the next checkpoint and a power cut"
    );
    let keys = truth.values().flat_map(|stored| stored.content.values());
    let keys: usize = keys.map(|value| 1 + parts(value)).sum();
    assert_eq!(
        store.copy().len(),
        1 + truth.len() + keys,
        "keys that belong to nothing"
    );
}

fn open(disk: &FaultyDisk, store: &Arc<FaultyStore>) -> Result<Checkpointer, StateError> {
    Checkpointer::open(Arc::new(disk.clone()), Path::new(DIR), store.clone())
}

/// Opens until the power stays on that long; `None` where the store is refused.
fn recover(disk: &FaultyDisk, store: &Arc<FaultyStore>, random: &mut SplitMix) -> Option<Checkpointer> {
    for _ in 0..random.below(4) {
        disk.crash_at(Some(1 + random.below(16)));
        let opened = open(disk, store);
        let was_cut = disk.is_down();
        disk.crash();
        store.crash();
        if let Err(error) = opened
            && !was_cut
        {
            assert!(
                !matches!(error, StateError::Io(_)),
                "an I/O error without a fault: {error}"
            );
        }
    }
    disk.crash_at(None);
    match open(disk, store) {
        Ok(checkpointer) => Some(checkpointer),
        Err(StateError::Io(error)) => panic!("an I/O error without a fault: {error}"),
        Err(_) => None,
    }
}

/// Parts of a value that is too long for one.
fn parts(value: &[u8]) -> usize {
    if value.len() > PART_BYTES {
        value.len().div_ceil(PART_BYTES)
    } else {
        0
    }
}

fn names_no_group(described: &Described) -> bool {
    matches!(described.items.first(), Some(Item::Change(..)))
}

fn draw_groups(random: &mut SplitMix) -> Vec<GroupId> {
    GROUPS.into_iter().filter(|_| !random.one_in(3)).collect()
}

fn draw_meta(random: &mut SplitMix) -> Bytes {
    let length = random.below(4) as usize;
    vec![random.below(256) as u8; length].into()
}

/// Mostly short, now and then around the lengths at which a value is split.
fn draw_value(random: &mut SplitMix) -> Vec<u8> {
    let length = match random.below(24) {
        0 => PART_BYTES as u64 - 1 + random.below(3),
        1 => 2 * PART_BYTES as u64 + random.below(2),
        _ => random.below(20),
    };
    let byte = random.below(256) as u8;
    vec![byte; length as usize]
}

fn draw_change(random: &mut SplitMix) -> (Vec<u8>, Option<Vec<u8>>) {
    let key = draw_key(random);
    let is_removal = random.one_in(4);
    (key, (!is_removal).then(|| draw_value(random)))
}

fn draw_key(random: &mut SplitMix) -> Vec<u8> {
    match random.below(16) {
        0 => Vec::new(),
        1 => vec![0xff; 1 + random.below(3) as usize],
        number => vec![b'k', (number % 6) as u8],
    }
}

fn position(index: u64) -> LogPosition {
    LogPosition {
        term: 1,
        leader: 1,
        index,
    }
}

/// Takes a checkpoint of some groups, as a node does.
fn take_checkpoint(checkpointer: &Checkpointer, truth: &mut Truth, random: &mut SplitMix) {
    let mut groups = Vec::new();
    for group in draw_groups(random) {
        let index = truth.get(&group).map_or(0, |stored| stored.record.position.index);
        let changes: BTreeMap<Vec<u8>, Option<Vec<u8>>> =
            (0..random.below(5)).map(|_| draw_change(random)).collect();
        groups.push(GroupCheckpoint {
            group,
            position: position(index.saturating_add(1)),
            meta: draw_meta(random),
            changes: changes.into_iter().collect(),
        });
    }
    checkpointer
        .checkpoint(groups.clone())
        .expect("the disk in memory does not fail");
    for GroupCheckpoint {
        group,
        position,
        meta,
        changes,
    } in groups
    {
        let generation = checkpointer.groups.read()[&group].generation;
        let record = GroupRecord {
            generation,
            position,
            meta,
        };
        let changes = changes.into_iter().map(|(key, value)| Item::Change(key, value));
        apply(truth, std::iter::once(Item::Group(group, record)).chain(changes));
    }
}

/// Draws the items of a file: each group once, mostly in the generation that it has.
fn describe(header: FileHeader, truth: &Truth, random: &mut SplitMix) -> Described {
    let mut described = Described {
        header,
        stream: Vec::new(),
        items: Vec::new(),
        is_broken: false,
    };
    if random.one_in(32) {
        let (key, value) = draw_change(random);
        described.put_change(key, value);
    }
    for group in draw_groups(random) {
        let stored = truth.get(&group).map(|stored| &stored.record);
        let generation = match (random.below(16), stored) {
            (0, _) => 0,
            (1, _) => GENERATION_MAX + random.below(2) as u32,
            (2, _) => 1 + random.below(9) as u32,
            (_, Some(record)) => record.generation,
            (_, None) => 1,
        };
        let record = GroupRecord {
            generation,
            position: position(stored.map_or(0, |record| record.position.index) + 1),
            meta: draw_meta(random),
        };
        described.put_group(group, record);
        // Each key once, as the checkpointer demands it of its caller.
        let changes: BTreeMap<_, _> = (0..random.below(6)).map(|_| draw_change(random)).collect();
        for (key, value) in changes {
            described.put_change(key, value);
        }
        if random.one_in(16) {
            described.put_garbage(random);
        }
        if described.is_broken {
            break;
        }
    }
    described
}

impl Described {
    fn put_sized(&mut self, data: &[u8]) {
        self.stream.extend((data.len() as u32).to_le_bytes());
        self.stream.extend(data);
    }

    fn put_group(&mut self, group: GroupId, record: GroupRecord) {
        self.stream.push(1);
        self.stream.extend(group.0.to_le_bytes());
        self.stream.extend(record.generation.to_le_bytes());
        let LogPosition { term, leader, index } = record.position;
        self.stream
            .extend([term, leader, index].map(u64::to_le_bytes).concat());
        self.put_sized(&record.meta);
        self.is_broken |= !(1..=GENERATION_MAX).contains(&record.generation);
        if !self.is_broken {
            self.items.push(Item::Group(group, record));
        }
    }

    fn put_change(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.stream.push(if value.is_some() { 2 } else { 3 });
        self.put_sized(&key);
        value.iter().for_each(|value| self.put_sized(value));
        if !self.is_broken {
            self.items.push(Item::Change(key, value));
        }
    }

    /// Something that is no item: an unknown tag, a key that is too long, or an item that the file's end cuts off.
    fn put_garbage(&mut self, random: &mut SplitMix) {
        self.is_broken = true;
        match random.below(3) {
            0 => self.stream.push([0, 4, 255][random.below(3) as usize]),
            1 => {
                self.stream.push(3);
                self.put_sized(&vec![7; KEY_BYTES_MAX + 1]);
            }
            _ => {
                self.stream.push(2);
                let length = [1, 1 << 10, u32::MAX][random.below(3) as usize];
                self.stream.extend(length.to_le_bytes());
            }
        }
    }
}

/// Writes the file in chunks as the input says, perhaps damaged, and syncs it; whether it is as a file has to be.
fn put(file: &dyn DiskFile, described: &Described, random: &mut SplitMix) -> bool {
    let mut chunks = Vec::new();
    let mut rest = &described.stream[..];
    while !rest.is_empty() {
        let length = match random.below(4) {
            0 => 1 + random.below(40) as usize,
            _ => rest.len(),
        };
        let (chunk, later) = rest.split_at(length.min(rest.len()));
        chunks.push(seal(described.header.sequence, chunks.len(), chunk));
        rest = later;
    }
    chunks.push(seal(described.header.sequence, chunks.len(), &[]));
    let header = described.header.encode();
    let intact = [&header[..], &chunks.concat()].concat();

    // Whole chunks, each with a checksum that fits it, in another order, twice or not at all.
    let at = random.below(chunks.len() as u64) as usize;
    match random.below(32) {
        0 => chunks.swap(0, at),
        1 => chunks.insert(at, chunks[at].clone()),
        2 => drop(chunks.remove(at)),
        3 => chunks[at] = seal(described.header.sequence + 1, at, &[7]),
        _ => {}
    }
    let mut bytes = [&header[..], &chunks.concat()].concat();
    if random.one_in(24) {
        bytes.extend([0; 8]);
    }
    if random.one_in(24) {
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << random.below(8);
    }
    if random.one_in(24) {
        let cut = 1 + random.below(bytes.len() as u64 - 1) as usize;
        bytes.truncate(bytes.len() - cut);
    }
    file.write_at(0, &bytes)
        .expect("the disk in memory does not fail");
    file.sync_data().expect("the disk in memory does not fail");
    bytes == intact
}

/// A chunk with the checksum of the file's sequence and of its own number.
fn seal(sequence: u64, number: usize, data: &[u8]) -> Vec<u8> {
    let checksum = file::chunk_checksum(sequence, number as u64, data);
    let length = data.len() as u32;
    [&length.to_le_bytes()[..], &checksum.to_le_bytes(), data].concat()
}

/// Reads the file and compares it with the description; whether it is intact.
fn read(file: Arc<dyn DiskFile>, is_whole: bool, described: &Described) -> bool {
    let mut reader = match Reader::open(file) {
        Ok(reader) => reader,
        Err(_) => return false,
    };
    assert!(is_whole, "read in spite of its damage: {described:?}");
    assert_eq!(reader.header(), described.header);
    for expected in &described.items {
        match reader.next_item() {
            Ok(Some(item)) => assert_eq!(&item, expected),
            other => panic!("{other:?} is not {expected:?}"),
        }
    }
    match reader.next_item() {
        Ok(None) => true,
        Ok(Some(item)) => panic!("{item:?} was not written"),
        Err(_) => {
            assert!(described.is_broken, "not read to its end: {described:?}");
            false
        }
    }
}

/// Does to the truth what copying the items does to the store. A change belongs to the group named last.
fn apply(truth: &mut Truth, items: impl IntoIterator<Item = Item>) {
    let mut current = None;
    for item in items {
        match item {
            Item::Group(group, record) => {
                let stored = truth.entry(group).or_insert_with(|| Stored {
                    record: record.clone(),
                    content: Content::new(),
                });
                if stored.record.generation != record.generation {
                    stored.content.clear();
                }
                stored.record = record;
                current = Some(group);
            }
            Item::Change(key, value) => {
                let stored = current.and_then(|group| truth.get_mut(&group));
                let content = &mut stored.expect("a change follows its group").content;
                match value {
                    Some(value) => drop(content.insert(key, value)),
                    None => drop(content.remove(&key)),
                }
            }
        }
    }
}

fn observe(checkpointer: &Checkpointer) -> Truth {
    let records = checkpointer.groups.read().clone();
    let stored = |(group, record): (GroupId, GroupRecord)| {
        let mut content = Content::new();
        let visit = |key: &[u8], value: &[u8]| drop(content.insert(key.to_vec(), value.to_vec()));
        checkpointer
            .entries(group, visit)
            .expect("what was stored is read");
        assert_eq!(
            checkpointer.load(group),
            Some((record.position, record.meta.clone())),
            "the position that the log is replayed from"
        );
        (group, Stored { record, content })
    };
    records.into_iter().map(stored).collect()
}
