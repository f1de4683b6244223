//! The subscription trie: from a topic name to everybody whose filter matches it.
//!
//! Every PUBLISH that is not in the router's cache comes through [`SubscriptionTrie::match_topic`], and every node of a
//! cluster holds every subscription, so both the time of a match and the bytes of a subscription count.
//!
//! A node stands for a path of levels. Its `+` and `#` children are fields; its literal children are found in one hash
//! index for the whole trie ([`index`]), because a map in every node would cost more than all the rest of it. A short
//! level lies in the node itself ([`text`]), and so does a single subscriber ([`subscribers`]). A leaf holds the rest of
//! its path as one shared text, its tail: `device/123/cmd` costs one node and one reference to `cmd`, and a match of it
//! one lookup by `123`. With a million such filters tails save 45 % of the memory and a third of a match's time. A
//! leaf is pushed down its tail when a second filter comes to share its path. Nodes are addressed by `u32` ([`arena`]).
//!
//! A match walks the trie with an explicit stack: at most one node waits per level of the topic, whatever is subscribed.
//!
//! Invariants (see [`SubscriptionTrie::check_invariants`]):
//!
//! 1. Every node but the root has a subscriber or a child, and its parent leads back to it.
//! 2. A node with a tail has subscribers and no children; its subscribers' filter is its path and the tail.
//! 3. A `#` node has neither children nor a tail.
//! 4. The index holds exactly the literal nodes, and each node's count of them is right.
//! 5. `len` is the number of (filter, key) pairs.

mod arena;
mod index;
mod subscribers;
#[cfg(test)]
mod tests;
mod text;
mod walk;

use std::hash::{BuildHasher, Hash};
use std::mem;

use foldhash::fast::FixedState;

use self::arena::Arena;
use self::index::HashIndex;
use self::subscribers::Subscribers;
use self::text::{Label, TextId, Texts};
use super::filter::{MULTI_LEVEL, SINGLE_LEVEL};

/// Index of the node that stands for no level at all; it is never freed.
const ROOT: u32 = 0;
/// In place of a node's index: there is none.
const NO_NODE: u32 = u32::MAX;

/// Maps topic filters to sets of subscribers. `K` names a subscriber (a session's slot), `V` is what its subscription
/// says (options); both lie inside the node where a filter has one subscriber, so keep them small.
///
/// Filters must have passed [`TopicFilter::parse`](super::TopicFilter::parse), topics
/// [`validate_topic_name`](super::validate_topic_name). Others do no harm, but what they match is unspecified.
#[derive(Debug)]
pub struct SubscriptionTrie<K, V> {
    nodes: Arena<Node<K, V>>,
    /// Literal children by [`child_hash`].
    literals: HashIndex,
    texts: Texts,
    hasher: FixedState,
    len: usize,
    /// Sum of [`Subscribers::bytes`].
    subscriber_bytes: usize,
}

#[derive(Debug)]
struct Node<K, V> {
    subscribers: Subscribers<K, V>,
    label: Label,
    parent: u32,
    tail: TextId,
    /// The `+` child.
    single: u32,
    /// The `#` child.
    multi: u32,
    /// Number of literal children.
    literals: u32,
}

/// How a node hangs on its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Single,
    Multi,
    Literal,
}

impl<K, V> Node<K, V> {
    const fn new(parent: u32, label: Label) -> Self {
        let subscribers = Subscribers::None;
        Self {
            subscribers,
            label,
            parent,
            tail: TextId::NONE,
            single: NO_NODE,
            multi: NO_NODE,
            literals: 0,
        }
    }

    const fn has_children(&self) -> bool {
        self.single != NO_NODE || self.multi != NO_NODE || self.literals > 0
    }
}

impl<K: Copy + Eq + Hash, V> SubscriptionTrie<K, V> {
    /// An empty trie. `seed` should be random and secret where clients choose filters: it keeps them from choosing
    /// levels that collide in the hash index. Nothing visible depends on it.
    pub fn with_seed(seed: u64) -> Self {
        let mut nodes = Arena::new();
        let root = nodes.insert(Node::new(NO_NODE, Label::EMPTY));
        debug_assert_eq!(root, ROOT);
        Self {
            nodes,
            literals: HashIndex::new(),
            texts: Texts::new(),
            hasher: FixedState::with_seed(seed),
            len: 0,
            subscriber_bytes: 0,
        }
    }

    /// Number of (filter, key) pairs.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True when there is no subscription.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of nodes, without the root: at most one for each level of each filter.
    pub const fn node_count(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Bytes of memory held, without the allocator's own overhead and without what values own elsewhere. Costs one
    /// step per thousand nodes.
    pub fn memory_bytes(&self) -> usize {
        self.nodes.bytes() + self.literals.bytes() + self.texts.bytes() + self.subscriber_bytes
    }

    /// Adds a subscription, or replaces the value of the one `key` has with this filter, which is then returned.
    pub fn insert(&mut self, filter: &str, key: K, value: V) -> Option<V> {
        let at = self.node_for(filter);
        let subscribers = &mut self.nodes.at_mut(at).subscribers;
        let bytes_before = subscribers.bytes();
        let replaced = subscribers.insert(key, value, &self.hasher);
        self.subscriber_bytes = self.subscriber_bytes - bytes_before + subscribers.bytes();
        self.len += usize::from(replaced.is_none());
        replaced
    }

    /// Removes the subscription of `key` with exactly this filter and returns its value. Nodes that are of no use any
    /// more are freed.
    pub fn remove(&mut self, filter: &str, key: &K) -> Option<V> {
        let at = self.node_of(filter)?;
        let subscribers = &mut self.nodes.at_mut(at).subscribers;
        let bytes_before = subscribers.bytes();
        let removed = subscribers.remove(key, &self.hasher)?;
        self.subscriber_bytes = self.subscriber_bytes - bytes_before + subscribers.bytes();
        self.len -= 1;
        self.prune(at);
        Some(removed)
    }

    /// The value of the subscription of `key` with exactly this filter.
    pub fn find(&self, filter: &str, key: &K) -> Option<&V> {
        self.nodes
            .at(self.node_of(filter)?)
            .subscribers
            .find(key, &self.hasher)
    }

    /// The node whose subscribers have the filter `filter`, if there is one.
    fn node_of(&self, filter: &str) -> Option<u32> {
        let (mut at, mut rest) = (ROOT, Some(filter));
        loop {
            let node = self.nodes.at(at);
            if node.tail != TextId::NONE {
                return (rest == Some(self.texts.text(node.tail))).then_some(at);
            }
            let Some(path) = rest else { return Some(at) };
            let (level, below) = split_level(path);
            at = self.child(at, level)?;
            rest = below;
        }
    }

    /// The node for the subscribers of `filter`, made if need be.
    fn node_for(&mut self, filter: &str) -> u32 {
        let (mut at, mut rest) = (ROOT, Some(filter));
        loop {
            let tail = self.nodes.at(at).tail;
            if tail != TextId::NONE {
                if rest == Some(self.texts.text(tail)) {
                    return at;
                }
                self.push_down(at, rest);
            }
            let Some(path) = rest else { return at };
            let (level, below) = split_level(path);
            match self.child(at, level) {
                Some(child) => (at, rest) = (child, below),
                None => return self.add_leaf(at, level, below),
            }
        }
    }

    fn child(&self, parent: u32, level: &str) -> Option<u32> {
        let node = self.nodes.at(parent);
        let found = match link_of(level) {
            Link::Single => node.single,
            Link::Multi => node.multi,
            Link::Literal => return self.literal_child(parent, node, level, self.hasher.hash_one(level)),
        };
        (found != NO_NODE).then_some(found)
    }

    fn literal_child(&self, parent: u32, node: &Node<K, V>, level: &str, hash: u64) -> Option<u32> {
        if node.literals == 0 {
            return None;
        }
        self.literals.find(child_hash(hash, parent), |child| {
            let child = self.nodes.at(child);
            child.parent == parent && child.label.is(level, &self.texts)
        })
    }

    /// Adds the child `level` to `parent`, which has none such, with `tail` below it.
    fn add_leaf(&mut self, parent: u32, level: &str, tail: Option<&str>) -> u32 {
        let link = link_of(level);
        let hash = self.hasher.hash_one(level);
        let label = match link {
            Link::Literal => Label::new(level, hash, &mut self.texts),
            Link::Single | Link::Multi => Label::EMPTY,
        };
        let mut leaf = Node::new(parent, label);
        if let Some(tail) = tail {
            leaf.tail = self.texts.acquire(tail, self.hasher.hash_one(tail));
        }
        let child = self.nodes.insert(leaf);
        let node = self.nodes.at_mut(parent);
        match link {
            Link::Single => node.single = child,
            Link::Multi => node.multi = child,
            Link::Literal => {
                node.literals += 1;
                self.literals.insert(child_hash(hash, parent), child);
            }
        }
        child
    }

    /// Turns the leaf `at` into an inner node: its subscribers move down its tail, past all levels that they share with
    /// `path` (so that a long common path costs linear time).
    fn push_down(&mut self, mut at: u32, mut path: Option<&str>) {
        let leaf = self.nodes.at_mut(at);
        let subscribers = mem::replace(&mut leaf.subscribers, Subscribers::None);
        let tail = mem::replace(&mut leaf.tail, TextId::NONE);
        let text = self.texts.text(tail).to_owned();
        self.texts.release(tail);
        let mut rest = text.as_str();
        let bottom = loop {
            let (level, below) = split_level(rest);
            match (path.map(split_level), below) {
                (Some((shared, path_below)), Some(tail_below)) if shared == level => {
                    at = self.add_leaf(at, level, None);
                    (path, rest) = (path_below, tail_below);
                }
                _ => break self.add_leaf(at, level, below),
            }
        };
        self.nodes.at_mut(bottom).subscribers = subscribers;
    }

    /// Frees `at` and its ancestors, up to the first that is still of use.
    fn prune(&mut self, mut at: u32) {
        while at != ROOT {
            let node = self.nodes.at(at);
            if !node.subscribers.is_empty() || node.has_children() {
                return;
            }
            let node = self.nodes.remove(at);
            self.unlink(at, &node);
            at = node.parent;
        }
    }

    fn unlink(&mut self, child: u32, node: &Node<K, V>) {
        if node.tail != TextId::NONE {
            self.texts.release(node.tail);
        }
        let parent = self.nodes.at_mut(node.parent);
        if parent.single == child {
            parent.single = NO_NODE;
        } else if parent.multi == child {
            parent.multi = NO_NODE;
        } else {
            parent.literals -= 1;
            self.literals.remove(self.child_hash_of(node), child);
            node.label.release(&mut self.texts);
        }
    }

    fn child_hash_of(&self, node: &Node<K, V>) -> u32 {
        child_hash(self.hasher.hash_one(node.label.level(&self.texts)), node.parent)
    }

    /// Panics when an invariant of the trie does not hold. Linear in the size of the trie.
    pub fn check_invariants(&self) {
        self.nodes.check_invariants();
        let mut literals_of = std::collections::HashMap::new();
        let mut texts_in_use = Vec::new();
        for (index, node) in self.nodes.iter() {
            node.subscribers.check_invariants(&self.hasher);
            if index == ROOT {
                assert!(
                    node.subscribers.is_empty() && node.tail == TextId::NONE,
                    "the root is no leaf"
                );
                continue;
            }
            let is_leaf = !node.subscribers.is_empty() && !node.has_children();
            assert!(
                !node.subscribers.is_empty() || node.has_children(),
                "node {index} is of no use"
            );
            assert!(
                is_leaf || node.tail == TextId::NONE,
                "node {index} has a tail and is no leaf"
            );
            texts_in_use.extend((node.tail != TextId::NONE).then_some(node.tail));
            let parent = self.nodes.at(node.parent);
            if parent.multi == index {
                assert!(
                    is_leaf && node.tail == TextId::NONE,
                    "something is below the # node {index}"
                );
            } else if parent.single != index {
                let found = self
                    .literals
                    .find(self.child_hash_of(node), |child| child == index);
                assert_eq!(found, Some(index), "literal node {index} is not in the index");
                *literals_of.entry(node.parent).or_insert(0) += 1;
                texts_in_use.extend(node.label.interned());
            }
        }
        for (index, node) in self.nodes.iter() {
            let literals = literals_of.get(&index).copied().unwrap_or(0);
            assert_eq!(node.literals, literals, "literal children of node {index}");
            for child in [node.single, node.multi]
                .into_iter()
                .filter(|child| *child != NO_NODE)
            {
                assert_eq!(self.nodes.at(child).parent, index, "parent of node {child}");
            }
        }
        assert_eq!(
            self.literals.len(),
            literals_of.values().sum::<u32>() as usize,
            "length of the index"
        );
        self.texts.check_invariants(texts_in_use.into_iter());
        let subscribers = || self.nodes.iter().map(|(_, node)| &node.subscribers);
        assert_eq!(
            self.len,
            subscribers().map(Subscribers::len).sum::<usize>(),
            "number of subscriptions"
        );
        assert_eq!(
            self.subscriber_bytes,
            subscribers().map(Subscribers::bytes).sum::<usize>(),
            "bytes of subscribers"
        );
    }
}

impl<K: Copy + Eq + Hash, V> Default for SubscriptionTrie<K, V> {
    /// A trie with a fixed seed: for tests, and where filters are the operator's own.
    fn default() -> Self {
        Self::with_seed(0)
    }
}

/// The first level of a path, and what is below it.
fn split_level(path: &str) -> (&str, Option<&str>) {
    match path.split_once('/') {
        Some((level, below)) => (level, Some(below)),
        None => (path, None),
    }
}

fn link_of(level: &str) -> Link {
    match level {
        SINGLE_LEVEL => Link::Single,
        MULTI_LEVEL => Link::Multi,
        _ => Link::Literal,
    }
}

/// Joins a level's hash and its parent's index. The level's hash is seeded, so that a client cannot choose levels that
/// collide; the index is added by a bijection, which keeps that.
const fn child_hash(level: u64, parent: u32) -> u32 {
    let mixed =
        (level ^ (parent as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    (mixed >> 32) as u32
}
