//! The subscription trie: from a topic name to everybody whose filter matches it.
//!
//! Every PUBLISH that is not in the router's cache comes through [`SubscriptionTrie::match_topic`], and every node of a
//! cluster holds every subscription, so both the time of a match and the bytes of a subscription count.
//!
//! A node stands for a path of levels. Its `+` and `#` children are fields; its literal children are found in one table
//! for the whole trie ([`edges`]), its text lies in the node if it is short ([`label`]), and so does a single subscriber
//! ([`subscribers`]). Nodes are addressed by `u32` ([`arena`]). A match walks the trie with an explicit stack: at most
//! two nodes wait per level of the topic, whatever is subscribed. Joining single children into one node (path
//! compression) was rejected: it would save one node of 48 to 64 bytes per idle connection and cost a split on insert.
//!
//! Invariants (see [`SubscriptionTrie::check_invariants`]):
//!
//! 1. Every node but the root has a subscriber or a child, and its parent leads back to it.
//! 2. A `#` node has no children.
//! 3. The table of children holds exactly the literal nodes, and each node's count of them is right.
//! 4. `len` is the number of (filter, key) pairs.

mod arena;
mod edges;
mod label;
mod subscribers;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, Hash};

use foldhash::fast::FixedState;
use smallvec::SmallVec;

use self::arena::Arena;
use self::edges::{Edges, edge_hash};
use self::label::{Label, LongLabels};
use self::subscribers::Subscribers;
use super::filter::{MULTI_LEVEL, SINGLE_LEVEL};
use super::name::is_dollar_topic;

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
    edges: Edges,
    labels: LongLabels,
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
        Self {
            subscribers: Subscribers::None,
            label,
            parent,
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
    /// levels that collide in the hash table. Nothing visible depends on it.
    pub fn with_seed(seed: u64) -> Self {
        let mut nodes = Arena::new();
        let root = nodes.insert(Node::new(NO_NODE, Label::EMPTY));
        debug_assert_eq!(root, ROOT);
        Self {
            nodes,
            edges: Edges::new(),
            labels: LongLabels::new(),
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

    /// Number of nodes, without the root; a subscription adds at most one per level of its filter.
    pub const fn node_count(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Bytes of memory held, without the allocator's own overhead and without what values own elsewhere. Costs one
    /// step per thousand nodes.
    pub fn memory_bytes(&self) -> usize {
        self.nodes.bytes() + self.edges.bytes() + self.labels.bytes() + self.subscriber_bytes
    }

    /// Adds a subscription, or replaces the value of the one `key` has with this filter, which is then returned.
    pub fn insert(&mut self, filter: &str, key: K, value: V) -> Option<V> {
        let mut at = ROOT;
        for level in filter.split('/') {
            at = self.child_or_insert(at, level);
        }
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

    /// Calls `visit` once for each subscription whose filter matches the topic name, so more than once for a key with
    /// overlapping filters. The order is the same for the same history of calls.
    ///
    /// Wildcards at the first level do not match a topic that begins with `$` [MQTT-4.7.2-1].
    pub fn match_topic(&self, topic: &str, mut visit: impl FnMut(&K, &V)) {
        let mut levels = Levels::new(topic, &self.hasher);
        let mut waiting: SmallVec<[(u32, u32); 32]> = SmallVec::new();
        let mut next = Some((ROOT, 0));
        while let Some((index, depth)) = next {
            let node = self.nodes.at(index);
            let wildcards_apply = depth > 0 || !is_dollar_topic(topic);
            // `a/#` matches `a` too, so this comes before the end of the topic is looked at.
            if node.multi != NO_NODE && wildcards_apply {
                self.nodes.at(node.multi).subscribers.visit(&mut visit);
            }
            next = match levels.at(depth as usize) {
                None => {
                    node.subscribers.visit(&mut visit);
                    None
                }
                Some((level, hash)) => {
                    if node.single != NO_NODE && wildcards_apply {
                        waiting.push((node.single, depth + 1));
                    }
                    self.literal_child(index, node, level, hash)
                        .map(|child| (child, depth + 1))
                }
            };
            next = next.or_else(|| waiting.pop());
        }
    }

    /// The node whose path is `filter`.
    fn node_of(&self, filter: &str) -> Option<u32> {
        filter
            .split('/')
            .try_fold(ROOT, |at, level| self.child(at, level))
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
        self.edges.find(edge_hash(hash, parent), |child| {
            let child = self.nodes.at(child);
            child.parent == parent && self.labels.is(&child.label, level)
        })
    }

    fn child_or_insert(&mut self, parent: u32, level: &str) -> u32 {
        if let Some(child) = self.child(parent, level) {
            return child;
        }
        let link = link_of(level);
        if link != Link::Literal {
            let child = self.nodes.insert(Node::new(parent, Label::EMPTY));
            let node = self.nodes.at_mut(parent);
            *(if link == Link::Single {
                &mut node.single
            } else {
                &mut node.multi
            }) = child;
            return child;
        }
        let hash = self.hasher.hash_one(level);
        let label = self.labels.acquire(level, hash);
        let child = self.nodes.insert(Node::new(parent, label));
        self.edges.insert(edge_hash(hash, parent), child);
        self.nodes.at_mut(parent).literals += 1;
        child
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
        let parent = self.nodes.at_mut(node.parent);
        if parent.single == child {
            parent.single = NO_NODE;
        } else if parent.multi == child {
            parent.multi = NO_NODE;
        } else {
            parent.literals -= 1;
            self.edges.remove(self.edge_hash_of(node), child);
            self.labels.release(node.label);
        }
    }

    fn edge_hash_of(&self, node: &Node<K, V>) -> u32 {
        let text =
            std::str::from_utf8(self.labels.text(&node.label)).expect("a label is a whole level of a str");
        edge_hash(self.hasher.hash_one(text), node.parent)
    }

    /// Panics when an invariant of the trie does not hold. Linear in the size of the trie.
    pub fn check_invariants(&self) {
        self.nodes.check_invariants();
        let mut literal_nodes = Vec::new();
        let mut literals_of = std::collections::HashMap::new();
        let mut len = 0;
        for (index, node) in self.nodes.iter() {
            node.subscribers.check_invariants(&self.hasher);
            len += node.subscribers.len();
            if index == ROOT {
                assert!(node.subscribers.is_empty(), "the root has subscribers");
                continue;
            }
            assert!(
                !node.subscribers.is_empty() || node.has_children(),
                "node {index} is of no use"
            );
            let parent = self.nodes.at(node.parent);
            if parent.multi == index {
                assert!(!node.has_children(), "the # node {index} has children");
            } else if parent.single != index {
                let found = self.edges.find(self.edge_hash_of(node), |child| child == index);
                assert_eq!(
                    found,
                    Some(index),
                    "literal node {index} is not in the table of children"
                );
                *literals_of.entry(node.parent).or_insert(0) += 1;
                literal_nodes.push(&node.label);
            }
        }
        assert_eq!(
            self.edges.len(),
            literal_nodes.len(),
            "length of the table of children"
        );
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
        self.labels.check_invariants(literal_nodes.into_iter());
        assert_eq!(self.len, len, "number of subscriptions");
        let subscriber_bytes: usize = self.nodes.iter().map(|(_, node)| node.subscribers.bytes()).sum();
        assert_eq!(self.subscriber_bytes, subscriber_bytes, "bytes of subscribers");
    }
}

impl<K: Copy + Eq + Hash, V> Default for SubscriptionTrie<K, V> {
    /// A trie with a fixed seed: for tests, and where filters are the operator's own.
    fn default() -> Self {
        Self::with_seed(0)
    }
}

fn link_of(level: &str) -> Link {
    match level {
        SINGLE_LEVEL => Link::Single,
        MULTI_LEVEL => Link::Multi,
        _ => Link::Literal,
    }
}

/// The levels of a topic with their hashes, cut off as the walk reaches them: a topic of 65,535 levels costs nothing
/// where no filter is that deep.
struct Levels<'a> {
    known: SmallVec<[(&'a str, u64); 16]>,
    rest: std::str::Split<'a, char>,
    hasher: &'a FixedState,
}

impl<'a> Levels<'a> {
    fn new(topic: &'a str, hasher: &'a FixedState) -> Self {
        Self {
            known: SmallVec::new(),
            rest: topic.split('/'),
            hasher,
        }
    }

    /// The level at `depth`, `None` behind the last one. The walk goes down level by level, so at most one is missing.
    fn at(&mut self, depth: usize) -> Option<(&'a str, u64)> {
        if depth == self.known.len() {
            let level = self.rest.next()?;
            self.known.push((level, self.hasher.hash_one(level)));
        }
        self.known.get(depth).copied()
    }
}
