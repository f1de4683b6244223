//! Retained topics in order, and which of them match a filter.
//!
//! Every SUBSCRIBE may read from here, so the cost of a read must follow what it finds, not what is stored. The topics
//! lie in a B-tree in level order: level by level, so that a topic comes directly before everything below it. In plain
//! byte order `a-b` would stand between `a` and `a/b`, and neither the topics below a prefix nor those that share a
//! level would be one range.
//!
//! A read ([`RetainedIndex::matching`]) seeks to the filter's literal prefix and goes on from there. At a topic that
//! does not match it works out the smallest topic that still could, and seeks to it: `a/+/c` costs two steps per second
//! level, however much is stored below each. Reads are cut into pages, bounded in steps as well as in matches, so that
//! a filter such as `+/+/+/x` over a million topics does not hold up the thread that runs it; between two pages the
//! index may change.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Bound;

use super::filter::{MULTI_LEVEL, SINGLE_LEVEL};

/// Topics looked at per page, for each match that the page may hold.
const STEPS_PER_MATCH: usize = 16;
/// Topics looked at per page at least.
const STEPS_MIN: usize = 256;

/// An ordered map from topic name to `V` that finds the topics that match a filter.
///
/// Topics must have passed [`validate_topic_name`](super::validate_topic_name), filters
/// [`TopicFilter::parse`](super::TopicFilter::parse). Others do no harm, but what they match is unspecified.
#[derive(Clone, Debug)]
pub struct RetainedIndex<V> {
    topics: BTreeMap<Topic, V>,
}

/// One page of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<'a, V> {
    /// Topics that match, in level order, with their values.
    pub matches: Vec<(&'a str, &'a V)>,
    /// Where the next page begins: pass it as `after`. `None`: the read is complete. A page may hold fewer matches than
    /// asked for, even none, and still not be the last.
    pub resume_after: Option<String>,
}

impl<V> RetainedIndex<V> {
    /// An empty index.
    pub const fn new() -> Self {
        Self {
            topics: BTreeMap::new(),
        }
    }

    /// Number of topics.
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// True when there is no topic.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Sets the value of a topic; returns the one it had.
    pub fn insert(&mut self, topic: &str, value: V) -> Option<V> {
        // The key is only allocated when the topic is new.
        match self.get_mut(topic) {
            Some(old) => Some(std::mem::replace(old, value)),
            None => self.topics.insert(Topic(topic.into()), value),
        }
    }

    /// Removes a topic; returns its value.
    pub fn remove(&mut self, topic: &str) -> Option<V> {
        self.topics.remove::<dyn InLevelOrder + '_>(&topic)
    }

    /// The value of a topic.
    pub fn get(&self, topic: &str) -> Option<&V> {
        self.topics.get::<dyn InLevelOrder + '_>(&topic)
    }

    /// The value of a topic.
    pub fn get_mut(&mut self, topic: &str) -> Option<&mut V> {
        self.topics.get_mut::<dyn InLevelOrder + '_>(&topic)
    }

    /// All topics in level order, with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.topics.iter().map(|(topic, value)| (&*topic.0, value))
    }

    /// The first topics behind `after` that match `filter`, at most `limit` (0 is
    /// taken as 1, so that a caller gets on). Start with `after: None`, go on with [`Page::resume_after`].
    ///
    /// Wildcards at the first level do not match topics that begin with `$` [MQTT-4.7.2-1].
    pub fn matching<'a>(&'a self, filter: &str, after: Option<&str>, limit: usize) -> Page<'a, V> {
        let filter = Filter::new(filter);
        let steps_max = limit.saturating_mul(STEPS_PER_MATCH).max(STEPS_MIN);
        let mut scan = Scan::new(&self.topics, filter.prefix(), after);
        let mut matches = Vec::new();
        let mut target = String::new();
        let mut previous = None;
        for step in 0.. {
            let Some((topic, value)) = scan.next_entry() else {
                break;
            };
            if step >= steps_max || matches.len() >= limit.max(1) {
                // What was looked at last is done with; `topic` itself comes first on the next page.
                return Page {
                    matches,
                    resume_after: previous.map(str::to_owned),
                };
            }
            previous = Some(topic);
            let verdict = filter.judge(topic, &mut target);
            if verdict.is_match {
                matches.push((topic, value));
            }
            match verdict.next {
                Next::Adjacent => {}
                Next::Target => scan.seek(&target),
                Next::Nothing => break,
            }
        }
        Page {
            matches,
            resume_after: None,
        }
    }
}

impl<V> Default for RetainedIndex<V> {
    fn default() -> Self {
        Self::new()
    }
}

/// A walk through the topics that can jump ahead.
struct Scan<'a, V> {
    topics: &'a BTreeMap<Topic, V>,
    range: btree_map::Range<'a, Topic, V>,
    /// Read from `range` already, but not handed out.
    pending: Option<(&'a str, &'a V)>,
}

impl<'a, V> Scan<'a, V> {
    /// Begins at `prefix`, or behind `after` where that is further on.
    fn new(topics: &'a BTreeMap<Topic, V>, prefix: &str, after: Option<&str>) -> Self {
        let start: Bound<&dyn InLevelOrder> = match &after {
            Some(after) if level_order(after, prefix).is_ge() => Bound::Excluded(after),
            _ => Bound::Included(&prefix),
        };
        Self {
            topics,
            range: topics.range::<dyn InLevelOrder + '_, _>((start, Bound::Unbounded)),
            pending: None,
        }
    }

    fn next_entry(&mut self) -> Option<(&'a str, &'a V)> {
        self.pending
            .take()
            .or_else(|| self.range.next().map(|(topic, value)| (&*topic.0, value)))
    }

    /// Skips all topics before `target`. Often the next topic is there already, so that is looked at before the tree is
    /// searched.
    fn seek(&mut self, target: &str) {
        self.pending = self.next_entry();
        if self
            .pending
            .is_some_and(|(topic, _)| level_order(topic, target).is_lt())
        {
            let start: Bound<&dyn InLevelOrder> = Bound::Included(&target);
            self.range = self
                .topics
                .range::<dyn InLevelOrder + '_, _>((start, Bound::Unbounded));
            self.pending = None;
        }
    }
}

/// A filter, taken apart for a scan.
struct Filter<'f> {
    text: &'f str,
    levels: Vec<&'f str>,
}

/// What a scan learns from one topic.
struct Verdict {
    is_match: bool,
    next: Next,
}

/// Where the next topic that may match is.
enum Next {
    /// It may be the very next one.
    Adjacent,
    /// Nothing matches before the target that was written.
    Target,
    /// Nothing behind this topic matches.
    Nothing,
}

impl<'f> Filter<'f> {
    fn new(text: &'f str) -> Self {
        Self {
            text,
            levels: text.split('/').collect(),
        }
    }

    /// The literal levels at the beginning; no topic before it matches.
    fn prefix(&self) -> &'f str {
        let is_wildcard = |level: &&str| [SINGLE_LEVEL, MULTI_LEVEL].contains(level);
        let literal = self.levels.iter().take_while(|level| !is_wildcard(level));
        let end: usize = literal.map(|level| level.len() + 1).sum();
        &self.text[..end.saturating_sub(1)]
    }

    /// Whether `topic` matches, and where the next match can be at the earliest; `target` is scratch space for that.
    fn judge(&self, topic: &str, target: &mut String) -> Verdict {
        let no_match = |next| Verdict {
            is_match: false,
            next,
        };
        if topic.starts_with('$') && self.text.starts_with(['+', '#']) {
            // '%' is the character behind '$'.
            return no_match(write(target, ["%"]));
        }
        // End of the prefix of `topic` that ends with the last level that a `+` has matched.
        let mut last_single = None;
        let mut start = 0;
        for filter_level in &self.levels {
            if *filter_level == MULTI_LEVEL {
                return Verdict {
                    is_match: true,
                    next: Next::Adjacent,
                };
            }
            if start > topic.len() {
                // The topic has ended before the filter: what is sought is below it.
                let level = if *filter_level == SINGLE_LEVEL {
                    ""
                } else {
                    filter_level
                };
                return no_match(write(target, [topic, "/", level]));
            }
            let end = topic[start..]
                .find('/')
                .map_or(topic.len(), |length| start + length);
            if *filter_level == SINGLE_LEVEL {
                last_single = Some(&topic[..end]);
            } else {
                match level_order(&topic[start..end], filter_level) {
                    Ordering::Equal => {}
                    Ordering::Less => return no_match(write(target, [&topic[..start], filter_level])),
                    Ordering::Greater => return no_match(behind(target, last_single)),
                }
            }
            start = end + 1;
        }
        // All levels agree: a match if the topic has ended too, and in either case nothing below it is one.
        Verdict {
            is_match: start > topic.len(),
            next: behind(target, last_single),
        }
    }
}

/// Seeks behind everything below `prefix`; without one, there is no other value for any level of the filter.
fn behind(target: &mut String, prefix: Option<&str>) -> Next {
    match prefix {
        // In level order the null character is the first behind the separator.
        Some(prefix) => write(target, [prefix, "\0"]),
        None => Next::Nothing,
    }
}

fn write<const N: usize>(target: &mut String, parts: [&str; N]) -> Next {
    target.clear();
    parts.iter().for_each(|part| target.push_str(part));
    Next::Target
}

/// A stored topic, ordered by [`level_order`].
#[derive(Clone, Debug)]
struct Topic(Box<str>);

/// What [`Topic`]s and plain `&str` have in common: lets the map be searched without allocating a key.
trait InLevelOrder {
    fn topic(&self) -> &str;
}

impl InLevelOrder for Topic {
    fn topic(&self) -> &str {
        &self.0
    }
}

impl InLevelOrder for &str {
    fn topic(&self) -> &str {
        self
    }
}

impl<'a> Borrow<dyn InLevelOrder + 'a> for Topic {
    fn borrow(&self) -> &(dyn InLevelOrder + 'a) {
        self
    }
}

impl Ord for dyn InLevelOrder + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        level_order(self.topic(), other.topic())
    }
}

impl PartialOrd for dyn InLevelOrder + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn InLevelOrder + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.topic() == other.topic()
    }
}

impl Eq for dyn InLevelOrder + '_ {}

impl Ord for Topic {
    fn cmp(&self, other: &Self) -> Ordering {
        level_order(&self.0, &other.0)
    }
}

impl PartialOrd for Topic {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Topic {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Topic {}

/// Compares level by level: as bytes, with `/` before all others.
fn level_order(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let rank = |byte: u8| if byte == b'/' { 0 } else { u16::from(byte) + 1 };
    // Stored topics share long prefixes: eight bytes at a time up to where they part.
    let words = a
        .chunks_exact(8)
        .zip(b.chunks_exact(8))
        .take_while(|(a, b)| a == b)
        .count();
    let (rest_a, rest_b) = (&a[words * 8..], &b[words * 8..]);
    match rest_a.iter().zip(rest_b).find(|(a, b)| a != b) {
        Some((a, b)) => rank(*a).cmp(&rank(*b)),
        None => rest_a.len().cmp(&rest_b.len()),
    }
}

#[cfg(test)]
mod tests;
