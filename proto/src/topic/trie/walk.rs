//! The match: a walk through the trie along a topic name.

use std::hash::{BuildHasher, Hash};

use foldhash::fast::FixedState;
use smallvec::SmallVec;

use super::super::filter::{MULTI_LEVEL, matches_levels};
use super::super::name::is_dollar_topic;
use super::text::TextId;
use super::{NO_NODE, ROOT, SubscriptionTrie, split_level};

impl<K: Copy + Eq + Hash, V> SubscriptionTrie<K, V> {
    /// Calls `visit` once for each subscription whose filter matches the topic name, so more than once for a key with
    /// overlapping filters. The order is the same for the same history of calls.
    ///
    /// Wildcards at the first level do not match a topic that begins with `$` [MQTT-4.7.2-1].
    pub fn match_topic(&self, topic: &str, mut visit: impl FnMut(&K, &V)) {
        let mut levels = Levels {
            topic,
            known: SmallVec::new(),
            hasher: &self.hasher,
        };
        let mut waiting: SmallVec<[(u32, usize); 16]> = SmallVec::new();
        let mut next = Some((ROOT, 0));
        while let Some((index, depth)) = next {
            next = self
                .step(index, depth, &mut levels, &mut waiting, &mut visit)
                .or_else(|| waiting.pop());
        }
    }

    /// Visits what matches at the node `index`, whose path is the first `depth` levels. Returns the literal child to go
    /// on with; the `+` child waits.
    fn step(
        &self,
        index: u32,
        depth: usize,
        levels: &mut Levels<'_>,
        waiting: &mut SmallVec<[(u32, usize); 16]>,
        visit: &mut impl FnMut(&K, &V),
    ) -> Option<(u32, usize)> {
        let node = self.nodes.at(index);
        if node.tail != TextId::NONE {
            if tail_matches(self.texts.text(node.tail), levels.below(depth)) {
                node.subscribers.visit(visit);
            }
            return None;
        }
        let wildcards_apply = depth > 0 || !is_dollar_topic(levels.topic);
        // `a/#` matches `a` too, so this comes before the end of the topic is looked at.
        if node.multi != NO_NODE && wildcards_apply {
            self.nodes.at(node.multi).subscribers.visit(visit);
        }
        let Some((level, hash)) = levels.at(depth) else {
            node.subscribers.visit(visit);
            return None;
        };
        if node.single != NO_NODE && wildcards_apply {
            waiting.push((node.single, depth + 1));
        }
        Some((self.literal_child(index, node, level, hash)?, depth + 1))
    }
}

/// Whether the end of a filter matches the end of a topic (`None`: the topic has ended). The first level is behind
/// both, so the rule about `$` does not apply.
fn tail_matches(tail: &str, below: Option<&str>) -> bool {
    match below {
        Some(below) => matches_levels(tail, below),
        None => tail == MULTI_LEVEL,
    }
}

/// The levels of a topic with their hashes, cut off as the walk reaches them: a topic of 65,535 levels costs nothing
/// where no filter is that deep.
struct Levels<'a> {
    topic: &'a str,
    known: SmallVec<[Level<'a>; 12]>,
    hasher: &'a FixedState,
}

#[derive(Clone, Copy)]
struct Level<'a> {
    text: &'a str,
    hash: u64,
    below: Option<&'a str>,
}

impl<'a> Levels<'a> {
    /// What is below the first `depth` levels. The walk goes down level by level, so those are known.
    fn below(&self, depth: usize) -> Option<&'a str> {
        if depth == 0 {
            Some(self.topic)
        } else {
            self.known[depth - 1].below
        }
    }

    /// The level at `depth` and its hash; `None` behind the last one.
    fn at(&mut self, depth: usize) -> Option<(&'a str, u64)> {
        if let Some(level) = self.known.get(depth) {
            return Some((level.text, level.hash));
        }
        let (text, below) = split_level(self.below(depth)?);
        let hash = self.hasher.hash_one(text);
        self.known.push(Level { text, hash, below });
        Some((text, hash))
    }
}
