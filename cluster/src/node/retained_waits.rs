//! Publishers of retained messages that wait for their topics' groups (R33), and what is known of what these took.
//!
//! The writes to the topics of one group are taken in the order in which they stand in this group's log; what another
//! group takes has nothing to do with them. So how far they have come is known for each group of topics.
//!
//! Invariant: of the writes behind `forgotten` and up to `taken`, the refused ones are all in `refused`.

use std::collections::{BTreeMap, BTreeSet};

use quorate_storage::log::GroupId;

use super::{Completion, Placement};
use crate::state::{Outcome, RefusedReason, RetainedSource, RetainedTaken};

/// Refused writes that are remembered for each group of topics. Whose publisher asks later is not told that its message is
/// retained.
const REFUSED_MAX: usize = 1_024;

/// Publishers of retained messages that wait, and how far the writes have come.
#[derive(Debug)]
pub(super) struct RetainedWaits<T> {
    topics: BTreeMap<GroupId, Carried<T>>,
    /// Publishes in parts whose last one is missing, and where the writes of their first parts stand; none where there was
    /// no room.
    begun: BTreeMap<u64, Option<RetainedSource>>,
}

/// The writes to the topics of one group.
#[derive(Debug)]
struct Carried<T> {
    /// A message that was sent again, on another connection, may have two who wait for its write.
    waiting: BTreeMap<RetainedSource, Vec<(T, Completion)>>,
    taken: Option<RetainedSource>,
    refused: BTreeSet<RetainedSource>,
    forgotten: Option<RetainedSource>,
}

impl<T> Default for RetainedWaits<T> {
    fn default() -> Self {
        Self {
            topics: BTreeMap::new(),
            begun: BTreeMap::new(),
        }
    }
}

impl<T> Default for Carried<T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            taken: None,
            refused: BTreeSet::new(),
            forgotten: None,
        }
    }
}

impl<T> Carried<T> {
    /// `completion`, unless it said that the message is in the outbox alone and the topic's group refused it:
    /// then it is final that nothing holds it. Where that is not known nothing is said (R13).
    fn judge(&self, source: RetainedSource, completion: Completion) -> Completion {
        let stored_nowhere = matches!(
            completion,
            Completion::Applied(Outcome::Published { stored: 0, .. } | Outcome::Repeated { kept: false, .. })
        );
        if !stored_nowhere {
            completion
        } else if self.refused.contains(&source) {
            Completion::Applied(Outcome::Refused(RefusedReason::LimitReached))
        } else if Some(source) <= self.forgotten {
            Completion::Refused
        } else {
            completion
        }
    }

    fn note(&mut self, told: &RetainedTaken, completions: &mut Vec<(T, Completion)>) {
        if told.forgotten > self.taken {
            self.forgotten = self.forgotten.max(told.forgotten);
        }
        self.refused.extend(&told.refused);
        while self.refused.len() > REFUSED_MAX {
            self.forgotten = self.forgotten.max(self.refused.pop_first());
        }
        self.taken = self.taken.max(Some(told.up_to));
        while let Some(first) = self.waiting.first_entry()
            && Some(*first.key()) <= self.taken
        {
            let (source, waiting) = first.remove_entry();
            let told = waiting.into_iter();
            completions.extend(told.map(|(ticket, completion)| (ticket, self.judge(source, completion))));
        }
    }
}

impl<T> RetainedWaits<T> {
    /// Who published the write at `source` waits for the group of its topic. What it is told, if that has it already.
    pub(super) fn wait(
        &mut self,
        topics: GroupId,
        source: RetainedSource,
        ticket: T,
        completion: Completion,
    ) -> Option<(T, Completion)> {
        let carried = self.topics.entry(topics).or_default();
        if carried.taken < Some(source) {
            carried
                .waiting
                .entry(source)
                .or_default()
                .push((ticket, completion));
            return None;
        }
        Some((ticket, carried.judge(source, completion)))
    }

    /// Writes have come to where they belong. Who waited for that, and what they are told.
    #[must_use]
    pub(super) fn note(&mut self, told: &RetainedTaken) -> Vec<(T, Completion)> {
        let mut completions = Vec::new();
        match told.topics {
            Some(topics) => {
                let carried = self.topics.entry(topics).or_default();
                carried.note(told, &mut completions);
            }
            None => {
                for topics in Placement::data_groups() {
                    let carried = self.topics.entry(topics).or_default();
                    carried.note(told, &mut completions);
                }
            }
        }
        completions
    }

    /// A state as of `index` of group `home` does not say which writes were refused before.
    pub(super) fn forget(&mut self, home: GroupId, index: u64) {
        let last = RetainedSource {
            group: home,
            index,
            position: u32::MAX,
        };
        for topics in Placement::data_groups() {
            let carried = self.topics.entry(topics).or_default();
            carried.forgotten = carried.forgotten.max(Some(last));
        }
    }

    /// What is remembered of the refused writes to topics of a group: these, and where that begins.
    pub(super) fn refused(&self, topics: GroupId) -> (Vec<RetainedSource>, Option<RetainedSource>) {
        self.topics
            .get(&topics)
            .map(|carried| (carried.refused.iter().copied().collect(), carried.forgotten))
            .unwrap_or_default()
    }

    /// The first part of a publish has its place, or found no room.
    pub(super) fn begin(&mut self, number: u64, source: Option<RetainedSource>) {
        self.begun.insert(number, source);
    }

    /// The last part of a publish is there: what became of its first one, if that is known.
    pub(super) fn end(&mut self, number: u64) -> Option<Option<RetainedSource>> {
        self.begun.remove(&number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: GroupId = GroupId(3);
    const TOPICS: GroupId = GroupId(7);
    const LIMIT: Completion = Completion::Applied(Outcome::Refused(RefusedReason::LimitReached));

    fn at(index: u64) -> RetainedSource {
        RetainedSource {
            group: HERE,
            index,
            position: 0,
        }
    }

    fn published(stored: u32) -> Completion {
        Completion::Applied(Outcome::Published {
            duplicate: false,
            stored,
            refused: 0,
        })
    }

    fn taken(up_to: u64, refused: &[u64], forgotten: Option<u64>) -> RetainedTaken {
        RetainedTaken {
            topics: Some(TOPICS),
            up_to: at(up_to),
            refused: refused.iter().copied().map(at).collect(),
            forgotten: forgotten.map(at),
        }
    }

    #[test]
    fn r33_who_waits_is_told_in_the_order_of_one_group_of_topics() {
        let mut waits = RetainedWaits::default();
        let other = GroupId(8);
        assert_eq!(waits.wait(TOPICS, at(5), 'a', published(0)), None);
        assert_eq!(waits.wait(other, at(6), 'b', published(0)), None);
        assert_eq!(waits.wait(TOPICS, at(7), 'c', published(0)), None);
        assert_eq!(waits.note(&taken(6, &[], None)), [('a', published(0))]);
        assert_eq!(
            waits.wait(TOPICS, at(4), 'd', published(0)),
            Some(('d', published(0)))
        );
        let mut all = taken(9, &[7], None);
        all.topics = None;
        assert_eq!(waits.note(&all), [('c', LIMIT), ('b', published(0))]);
    }

    /// R13: a beginning says what it does not know, and nobody is told more than that.
    #[test]
    fn r13_what_was_refused_in_a_gap_is_not_called_retained() {
        let mut waits = RetainedWaits::default();
        assert_eq!(waits.note(&taken(5, &[4], None)), []);
        // The other side remembers refusals behind 7.
        assert_eq!(waits.note(&taken(9, &[8], Some(7))), []);
        let mut told = |index, stored| waits.wait(TOPICS, at(index), (), published(stored)).unwrap().1;
        assert_eq!(told(6, 0), Completion::Refused);
        assert_eq!(told(6, 1), published(1), "it is stored for others");
        assert_eq!(told(8, 0), LIMIT);
        assert_eq!(told(9, 0), published(0));
        assert_eq!(told(4, 0), LIMIT);
        // What was heard here without a gap is not forgotten.
        let mut waits = RetainedWaits::<()>::default();
        assert_eq!(waits.note(&taken(9, &[8], None)), []);
        assert_eq!(waits.note(&taken(9, &[], Some(7))), []);
        let told = waits.wait(TOPICS, at(6), (), published(0)).unwrap().1;
        assert_eq!(told, published(0));
    }

    #[test]
    fn r13_a_state_that_was_loaded_does_not_say_what_was_refused() {
        let mut waits = RetainedWaits::default();
        waits.forget(HERE, 6);
        assert_eq!(waits.note(&taken(9, &[5, 8], None)), []);
        let mut told = |index, stored| waits.wait(TOPICS, at(index), (), published(stored)).unwrap().1;
        assert_eq!([told(5, 0), told(8, 0)], [LIMIT, LIMIT]);
        assert_eq!([told(6, 0), told(6, 2)], [Completion::Refused, published(2)]);
        assert_eq!(told(7, 0), published(0));
    }

    #[test]
    fn refused_writes_are_remembered_up_to_a_bound() {
        let mut waits = RetainedWaits::default();
        let many: Vec<u64> = (1..=REFUSED_MAX as u64 + 1).collect();
        assert_eq!(waits.note(&taken(9_999, &many, None)), []);
        let (refused, forgotten) = waits.refused(TOPICS);
        assert_eq!((refused.len(), forgotten), (REFUSED_MAX, Some(at(1))));
        let mut told = |index| waits.wait(TOPICS, at(index), (), published(0)).unwrap().1;
        assert_eq!(told(1), Completion::Refused);
        assert_eq!(told(2), LIMIT);
        assert_eq!(told(5_000), published(0));
    }
}
