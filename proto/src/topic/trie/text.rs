//! The texts of the trie: the level a node stands for, and the rest of the path below a leaf.
//!
//! A [`Label`] is one level in 16 bytes. Nearly all levels in use (`device`, serial numbers, MAC addresses) fit into the
//! node itself, so comparing them touches no other cache line. Longer levels and all tails are interned in [`Texts`]
//! with a count of their uses, so that the `rpc/request/+` below a million devices is stored once. Interning every level
//! was rejected: it costs a match one more lookup, and so two more cache misses, per level.

use super::arena::Arena;
use super::index::HashIndex;

/// Bytes of a level that fit into the node.
const INLINE_BYTES: usize = 15;
/// In place of the length: the first four bytes are a [`TextId`].
const INTERNED: u8 = u8::MAX;

/// Names an interned text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TextId(u32);

impl TextId {
    /// No text. The arena never gives this index out.
    pub(super) const NONE: Self = Self(u32::MAX);
}

/// Texts that are held once however often they are used.
#[derive(Debug)]
pub(super) struct Texts {
    entries: Arena<Interned>,
    by_text: HashIndex,
    text_bytes: usize,
}

#[derive(Debug)]
struct Interned {
    text: Box<str>,
    hash: u32,
    uses: u32,
}

impl Texts {
    pub(super) fn new() -> Self {
        Self {
            entries: Arena::new(),
            by_text: HashIndex::new(),
            text_bytes: 0,
        }
    }

    /// The identifier of `text`, used once more. `hash` must be the same for the same text.
    pub(super) fn acquire(&mut self, text: &str, hash: u64) -> TextId {
        let hash = (hash >> 32) as u32;
        if let Some(index) = self
            .by_text
            .find(hash, |index| *self.entries.at(index).text == *text)
        {
            self.entries.at_mut(index).uses += 1;
            return TextId(index);
        }
        let index = self.entries.insert(Interned {
            text: text.into(),
            hash,
            uses: 1,
        });
        self.by_text.insert(hash, index);
        self.text_bytes += text.len();
        TextId(index)
    }

    /// Gives one use back.
    pub(super) fn release(&mut self, id: TextId) {
        let entry = self.entries.at_mut(id.0);
        entry.uses -= 1;
        if entry.uses == 0 {
            let entry = self.entries.remove(id.0);
            self.by_text.remove(entry.hash, id.0);
            self.text_bytes -= entry.text.len();
        }
    }

    pub(super) fn text(&self, id: TextId) -> &str {
        &self.entries.at(id.0).text
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.entries.bytes() + self.by_text.bytes() + self.text_bytes
    }

    /// Panics unless exactly the texts of `in_use` are held, each with its number of uses.
    pub(super) fn check_invariants(&self, in_use: impl Iterator<Item = TextId>) {
        let mut uses = std::collections::HashMap::new();
        for id in in_use {
            *uses.entry(id).or_insert(0) += 1;
        }
        self.entries.check_invariants();
        assert_eq!(uses.len(), self.entries.len(), "texts in use");
        assert_eq!(self.by_text.len(), self.entries.len(), "texts in the index");
        for (index, entry) in self.entries.iter() {
            assert_eq!(
                uses.get(&TextId(index)),
                Some(&entry.uses),
                "uses of {:?}",
                entry.text
            );
            let found = self
                .by_text
                .find(entry.hash, |other| self.entries.at(other).text == entry.text);
            assert_eq!(found, Some(index), "index entry of {:?}", entry.text);
        }
        let text_bytes: usize = self.entries.iter().map(|(_, entry)| entry.text.len()).sum();
        assert_eq!(text_bytes, self.text_bytes, "bytes of texts");
    }
}

/// One level. Not `Drop`: whoever discards one calls [`Label::release`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Label {
    length: u8,
    bytes: [u8; INLINE_BYTES],
}

impl Label {
    /// For the nodes that are found through a field and never by their text.
    pub(super) const EMPTY: Self = Self {
        length: 0,
        bytes: [0; INLINE_BYTES],
    };

    /// A label for `level`, whose hash is `hash`.
    pub(super) fn new(level: &str, hash: u64, texts: &mut Texts) -> Self {
        let mut bytes = [0; INLINE_BYTES];
        if level.len() <= INLINE_BYTES {
            bytes[..level.len()].copy_from_slice(level.as_bytes());
            return Self {
                length: level.len() as u8,
                bytes,
            };
        }
        bytes[..4].copy_from_slice(&texts.acquire(level, hash).0.to_ne_bytes());
        Self {
            length: INTERNED,
            bytes,
        }
    }

    /// Gives the use of an interned text back.
    pub(super) fn release(self, texts: &mut Texts) {
        if let Some(id) = self.interned() {
            texts.release(id);
        }
    }

    /// The text of a level that did not fit.
    pub(super) fn interned(self) -> Option<TextId> {
        let [a, b, c, d, ..] = self.bytes;
        (self.length == INTERNED).then_some(TextId(u32::from_ne_bytes([a, b, c, d])))
    }

    /// True when this is the level `level`.
    pub(super) fn is(&self, level: &str, texts: &Texts) -> bool {
        self.utf8(texts) == level.as_bytes()
    }

    /// The level.
    pub(super) fn level<'a>(&'a self, texts: &'a Texts) -> &'a str {
        std::str::from_utf8(self.utf8(texts)).expect("a label was copied from a whole str")
    }

    fn utf8<'a>(&'a self, texts: &'a Texts) -> &'a [u8] {
        match self.interned() {
            Some(id) => texts.text(id).as_bytes(),
            None => &self.bytes[..usize::from(self.length)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_levels_need_no_memory() {
        let mut texts = Texts::new();
        for level in ["", "a", "fifteen bytes..", "日本日本日"] {
            let label = Label::new(level, 1, &mut texts);
            assert!(label.is(level, &texts) && !label.is("b", &texts), "{level}");
            assert_eq!(label.level(&texts), level);
        }
        assert_eq!(texts.entries.len(), 0);
        assert_eq!(size_of::<Label>(), 16);
    }

    #[test]
    fn long_levels_are_shared_and_freed() {
        let mut texts = Texts::new();
        let level = "exactly sixteen.";
        let (first, second) = (Label::new(level, 1, &mut texts), Label::new(level, 1, &mut texts));
        // The same hash on purpose: the index must compare the texts.
        let other = Label::new("another, longer, level", 1, &mut texts);
        assert!(first.is(level, &texts) && second.is(level, &texts) && !other.is(level, &texts));
        let in_use = |labels: &[Label]| {
            labels
                .iter()
                .filter_map(|label| label.interned())
                .collect::<Vec<_>>()
        };
        texts.check_invariants(in_use(&[first, second, other]).into_iter());
        first.release(&mut texts);
        texts.check_invariants(in_use(&[second, other]).into_iter());
        second.release(&mut texts);
        other.release(&mut texts);
        texts.check_invariants([].into_iter());
        assert_eq!(texts.entries.len(), 0);
    }

    #[test]
    fn memory_is_given_back() {
        let mut texts = Texts::new();
        let hash = |number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let ids: Vec<TextId> = (0..10_000)
            .map(|number| texts.acquire(&number.to_string(), hash(number)))
            .collect();
        let full = texts.bytes();
        ids.into_iter().for_each(|id| texts.release(id));
        assert!(
            texts.bytes() < full / 10,
            "{} of {full} bytes held",
            texts.bytes()
        );
    }
}
