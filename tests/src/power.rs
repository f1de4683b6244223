//! Power cuts: takes back what a node did to its data directory and did not sync. `tests/shims/power.c` notes how.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::random::Random;

const CHANGED: u64 = 1;
const SYNCED: u64 = 2;
const CREATED: u64 = 3;
const REMOVED: u64 = 4;
const RENAMED: u64 = 5;
const HEADER: usize = 40;

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, Debug)]
pub enum Left {
    /// Nothing.
    Nothing,
    /// Of the changes of each file and each directory the first ones, as many as chance says.
    Some {
        /// Of the choices.
        seed: u64,
    },
    /// Of the changes of each directory the first ones, and of each block of a file any of the contents that it has had since
    /// it was synced: a disk writes in an order of its own.
    Torn {
        /// Of the choices.
        seed: u64,
    },
}

/// What a disk writes as a whole, in bytes.
const BLOCK: u64 = 512;

/// What a power cut took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Changes of files.
    pub changes: usize,
    /// Files created, removed and renamed.
    pub names: usize,
}

/// A note of the journal: how to take one step back.
struct Note {
    at: u64,
    kind: u64,
    inode: u64,
    offset: u64,
    size: u64,
    bytes: Vec<u8>,
}

/// Leaves the data directory of a node that does not run, in `directory`, as a power cut does.
///
/// # Panics
/// The node did not run with the shim, or the directory cannot be changed.
pub fn cut(directory: &Path, left: Left) -> Taken {
    let notes_dir = directory.join("power");
    let journal = fs::read(notes_dir.join("journal")).expect("the node ran with the shim");
    let lost = lost_notes(read_notes(&journal), left);
    let mut taken = Taken::default();
    // Names first: what was removed has its file again, and what was created takes its changes along.
    for note in lost.iter().rev().filter(|note| note.kind != CHANGED) {
        take_name_back(note);
        taken.names += 1;
    }
    let files = files_by_inode(&directory.join("data"));
    match left {
        Left::Torn { seed } => {
            let mut chance = Random::new(seed);
            let mut changed: BTreeMap<u64, Vec<&Note>> = BTreeMap::new();
            for note in lost.iter().filter(|note| note.kind == CHANGED) {
                changed.entry(note.inode).or_default().push(note);
            }
            for (inode, notes) in changed {
                if let Some(path) = files.get(&inode) {
                    taken.changes += tear(path, &notes, &mut chance);
                }
            }
        }
        Left::Nothing | Left::Some { .. } => {
            for note in lost.iter().rev().filter(|note| note.kind == CHANGED) {
                if let Some(path) = files.get(&note.inode) {
                    take_change_back(path, note);
                    taken.changes += 1;
                }
            }
        }
    }
    fs::remove_dir_all(&notes_dir).expect("the notes are the test's");
    taken
}

fn read_notes(mut journal: &[u8]) -> Vec<Note> {
    let mut notes = Vec::new();
    let whole = journal.len();
    // The process may have been killed within a note: what that is of did not happen.
    while let Some((header, rest)) = journal.split_at_checked(HEADER) {
        let field = |number: usize| {
            let bytes = &header[number * 8..number * 8 + 8];
            u64::from_ne_bytes(bytes.try_into().expect("eight bytes"))
        };
        let length = usize::try_from(field(4)).expect("a length in memory");
        let Some((bytes, behind)) = rest.split_at_checked(length) else {
            break;
        };
        notes.push(Note {
            at: (whole - journal.len()) as u64,
            kind: field(0),
            inode: field(1),
            offset: field(2),
            size: field(3),
            bytes: bytes.to_vec(),
        });
        journal = behind;
    }
    notes
}

/// The notes of what was not synced and is lost, in their order.
fn lost_notes(notes: Vec<Note>, left: Left) -> Vec<Note> {
    let mut synced: HashMap<u64, u64> = HashMap::new();
    for note in notes.iter().filter(|note| note.kind == SYNCED) {
        let up_to = synced.entry(note.inode).or_default();
        *up_to = note.offset.max(*up_to);
    }
    let is_pending = |note: &Note| {
        let up_to = synced.get(&note.inode).copied().unwrap_or(0);
        note.kind != SYNCED && note.at >= up_to
    };
    let mut pending: Vec<Note> = notes.into_iter().filter(is_pending).collect();
    if let Left::Some { seed } | Left::Torn { seed } = left {
        let is_torn = |note: &Note| matches!(left, Left::Torn { .. }) && note.kind == CHANGED;
        let mut chance = Random::new(seed);
        let mut counts: HashMap<u64, usize> = HashMap::new();
        for note in &pending {
            *counts.entry(note.inode).or_default() += 1;
        }
        let mut inodes: Vec<(u64, usize)> = counts.into_iter().collect();
        inodes.sort_unstable();
        let mut kept: HashMap<u64, usize> = inodes
            .into_iter()
            .map(|(inode, count)| (inode, chance.below(count as u64 + 1) as usize))
            .collect();
        pending.retain(|note| {
            if is_torn(note) {
                return true;
            }
            let kept = kept.get_mut(&note.inode).expect("each was counted");
            let is_lost = *kept == 0;
            *kept = kept.saturating_sub(1);
            is_lost
        });
    }
    pending
}

fn paths(note: &Note) -> Vec<PathBuf> {
    let paths = note.bytes.split(|byte| *byte == 0);
    paths
        .filter(|path| !path.is_empty())
        .map(|path| PathBuf::from(OsStr::from_bytes(path)))
        .collect()
}

fn take_name_back(note: &Note) {
    let paths = paths(note);
    match (note.kind, &paths[..]) {
        (CREATED, [path]) => match fs::remove_file(path) {
            // Its later removal is not taken back.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            result => result.expect("a file of the test"),
        },
        (REMOVED, [path, kept]) => fs::hard_link(kept, path).expect("the removed file was kept"),
        (RENAMED, [from, to, kept @ ..]) => {
            fs::rename(to, from).expect("a file of the test");
            if let [kept] = kept {
                fs::hard_link(kept, to).expect("the replaced file was kept");
            }
        }
        (kind, paths) => panic!("no note is of kind {kind} with {paths:?}"),
    }
}

fn take_change_back(path: &Path, note: &Note) {
    let file: File = OpenOptions::new()
        .write(true)
        .open(path)
        .expect("a file of the test");
    file.write_all_at(&note.bytes, note.offset)
        .and_then(|()| file.set_len(note.size))
        .expect("the file can be written");
}

/// Gives each block of a file one of the contents that it had before and behind these changes; how many changes of blocks
/// are lost.
fn tear(path: &Path, notes: &[&Note], chance: &mut Random) -> usize {
    let mut contents = fs::read(path).expect("a file of the test");
    let last_size = contents.len() as u64;
    // What each has changed, beyond the end of the file too.
    let end_of = |number: usize| {
        let note = notes[number];
        let size_then = notes.get(number + 1).map_or(last_size, |next| next.size);
        let grown_to = if size_then > note.size { size_then } else { 0 };
        grown_to.max(note.offset + note.bytes.len() as u64)
    };
    let mut blocks: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (number, note) in notes.iter().enumerate() {
        for block in note.offset / BLOCK..end_of(number).div_ceil(BLOCK) {
            blocks.entry(block).or_default().push(number);
        }
    }
    let mut lost = 0;
    for (block, changes) in blocks {
        let kept = chance.below(changes.len() as u64 + 1) as usize;
        for number in changes[kept..].iter().rev() {
            let note = notes[*number];
            let from = note.offset.max(block * BLOCK);
            let to = end_of(*number).min((block + 1) * BLOCK);
            if contents.len() < to as usize {
                contents.resize(to as usize, 0);
            }
            for at in from..to {
                let old = note.bytes.get((at - note.offset) as usize);
                contents[at as usize] = old.copied().unwrap_or(0);
            }
            lost += 1;
        }
    }
    fs::write(path, contents).expect("the file can be written");
    lost
}

fn files_by_inode(directory: &Path) -> HashMap<u64, PathBuf> {
    let mut files = HashMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("the data directory is there") {
            let entry = entry.expect("the directory can be read");
            let metadata = entry.metadata().expect("the directory can be read");
            match metadata.is_dir() {
                true => directories.push(entry.path()),
                false => drop(files.insert(metadata.ino(), entry.path())),
            }
        }
    }
    files
}
