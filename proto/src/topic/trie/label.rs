//! The text of one level, as a trie node holds it: 16 bytes.
//!
//! Nearly all levels in use (`device`, `cmd`, serial numbers, MAC addresses) fit into the node itself, so comparing
//! them touches no other cache line. The longer ones are interned with a count of their uses, so that a long level
//! name below a million different parents is stored once. Interning every level was rejected: it costs the match one
//! more lookup, and so two more cache misses, per level.

use hashbrown::HashTable;

use super::arena::Arena;

/// Bytes that fit into the node.
const INLINE_BYTES: usize = 15;
/// In place of the length: the first four bytes are an index into [`LongLabels`].
const INTERNED: u8 = u8::MAX;

/// A level's text. Not `Drop`: whoever discards one calls [`LongLabels::release`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Label {
    length: u8,
    bytes: [u8; INLINE_BYTES],
}

impl Label {
    /// A label for the nodes that are found through a field and never by their text.
    pub(super) const EMPTY: Self = Self {
        length: 0,
        bytes: [0; INLINE_BYTES],
    };

    fn interned(self) -> Option<u32> {
        let [a, b, c, d, ..] = self.bytes;
        (self.length == INTERNED).then_some(u32::from_ne_bytes([a, b, c, d]))
    }
}

/// The levels that do not fit into a node.
#[derive(Debug)]
pub(super) struct LongLabels {
    texts: Arena<LongLabel>,
    by_text: HashTable<u32>,
    text_bytes: usize,
}

#[derive(Debug)]
struct LongLabel {
    text: Box<str>,
    /// Hash of the text, so that the table grows without hashing again.
    hash: u64,
    uses: u32,
}

impl LongLabels {
    pub(super) const fn new() -> Self {
        Self {
            texts: Arena::new(),
            by_text: HashTable::new(),
            text_bytes: 0,
        }
    }

    /// The label for `level`, whose hash is `hash`.
    pub(super) fn acquire(&mut self, level: &str, hash: u64) -> Label {
        let text = level.as_bytes();
        if text.len() <= INLINE_BYTES {
            let mut bytes = [0; INLINE_BYTES];
            bytes[..text.len()].copy_from_slice(text);
            return Label {
                length: text.len() as u8,
                bytes,
            };
        }
        let index = self.acquire_long(level, hash);
        let mut bytes = [0; INLINE_BYTES];
        bytes[..4].copy_from_slice(&index.to_ne_bytes());
        Label {
            length: INTERNED,
            bytes,
        }
    }

    fn acquire_long(&mut self, level: &str, hash: u64) -> u32 {
        let known = self
            .by_text
            .find(hash, |index| *self.texts.at(*index).text == *level);
        if let Some(index) = known.copied() {
            self.texts.at_mut(index).uses += 1;
            return index;
        }
        let index = self.texts.insert(LongLabel {
            text: level.into(),
            hash,
            uses: 1,
        });
        self.text_bytes += level.len();
        let texts = &self.texts;
        self.by_text
            .insert_unique(hash, index, |index| texts.at(*index).hash);
        index
    }

    /// Gives one use of a label back.
    pub(super) fn release(&mut self, label: Label) {
        let Some(index) = label.interned() else { return };
        let long = self.texts.at_mut(index);
        long.uses -= 1;
        if long.uses > 0 {
            return;
        }
        let hash = long.hash;
        match self.by_text.find_entry(hash, |candidate| *candidate == index) {
            Ok(entry) => entry.remove(),
            Err(_) => panic!("a long label is missing from its table"),
        };
        let long = self.texts.remove(index);
        self.text_bytes -= long.text.len();
        let texts = &self.texts;
        shrink(&mut self.by_text, |index| texts.at(*index).hash);
    }

    /// True when `label` is the text `level`.
    pub(super) fn is(&self, label: &Label, level: &str) -> bool {
        self.text(label) == level.as_bytes()
    }

    /// The UTF-8 text of a label.
    pub(super) fn text<'a>(&'a self, label: &'a Label) -> &'a [u8] {
        match label.interned() {
            Some(index) => self.texts.at(index).text.as_bytes(),
            None => &label.bytes[..usize::from(label.length)],
        }
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.texts.bytes() + self.by_text.allocation_size() + self.text_bytes
    }

    /// Panics unless exactly the labels of `in_use` are held, each with its number of uses.
    pub(super) fn check_invariants<'a>(&self, in_use: impl Iterator<Item = &'a Label>) {
        let mut uses = std::collections::HashMap::new();
        for index in in_use.filter_map(|label| label.interned()) {
            *uses.entry(index).or_insert(0) += 1;
        }
        self.texts.check_invariants();
        assert_eq!(uses.len(), self.texts.len(), "long labels in use");
        assert_eq!(self.by_text.len(), self.texts.len(), "long labels in the table");
        for (index, long) in self.texts.iter() {
            assert_eq!(
                uses.get(&index),
                Some(&long.uses),
                "uses of long label {:?}",
                long.text
            );
            let found = self.by_text.find(long.hash, |candidate| {
                *self.texts.at(*candidate).text == *long.text
            });
            assert_eq!(found, Some(&index), "table entry of long label {:?}", long.text);
        }
        let text_bytes: usize = self.texts.iter().map(|(_, long)| long.text.len()).sum();
        assert_eq!(text_bytes, self.text_bytes, "bytes of long labels");
    }
}

/// Gives a table's memory back once it is used to less than an eighth; not earlier, so that a table whose size swings
/// is not rebuilt again and again.
pub(super) fn shrink<T>(table: &mut HashTable<T>, hash: impl Fn(&T) -> u64) {
    const CAPACITY_KEPT: usize = 64;
    if table.capacity() > CAPACITY_KEPT && table.len() < table.capacity() / 8 {
        table.shrink_to(table.len() * 2, hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_levels_need_no_memory() {
        let mut labels = LongLabels::new();
        for level in ["", "a", "fifteen bytes..", "日本日本日"] {
            let label = labels.acquire(level, 1);
            assert!(labels.is(&label, level), "{level}");
            assert!(!labels.is(&label, "b"));
        }
        assert_eq!(labels.bytes(), 0);
        assert_eq!(size_of::<Label>(), 16);
    }

    #[test]
    fn long_levels_are_shared_and_freed() {
        let mut labels = LongLabels::new();
        let text = "exactly sixteen.";
        let (first, second) = (labels.acquire(text, 1), labels.acquire(text, 1));
        // The same hash on purpose: the table must compare the texts.
        let other = labels.acquire("another, longer, level", 1);
        assert!(labels.is(&first, text) && labels.is(&second, text) && !labels.is(&other, text));
        labels.check_invariants([first, second, other].iter());
        labels.release(first);
        labels.check_invariants([second, other].iter());
        labels.release(second);
        labels.release(other);
        labels.check_invariants([].iter());
        assert_eq!(labels.texts.len(), 0);
    }

    #[test]
    fn the_table_shrinks() {
        let mut labels = LongLabels::new();
        let text = |number: u64| format!("a level longer than fifteen bytes {number}");
        let hash = |number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let all: Vec<Label> = (0..10_000)
            .map(|number| labels.acquire(&text(number), hash(number)))
            .collect();
        let full = labels.bytes();
        for label in &all {
            labels.release(*label);
        }
        assert!(
            labels.bytes() < full / 20,
            "{} of {full} bytes held",
            labels.bytes()
        );
    }
}
