//! Random operations against a model, with stops in between.
//!
//! The model is the list of what every submitted operation leads to. What a log holds after an unclean stop has to be
//! the state after some prefix of the submitted operations, for all groups the same one, and at least the prefix that
//! was completed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::{Bench, Subject, entry};
use crate::faulty::SplitMix;
use crate::log::{Completion, GroupId, Log, LogEntry, LogPosition};

/// One group as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ModelGroup {
    pub(crate) purged: Option<LogPosition>,
    pub(crate) vote: Option<Bytes>,
    pub(crate) entries: BTreeMap<u64, LogEntry>,
}

impl ModelGroup {
    pub(crate) fn last(&self) -> Option<LogPosition> {
        self.entries
            .last_key_value()
            .map(|(_, entry)| entry.position)
            .or(self.purged)
    }
}

/// All groups as they should be.
pub(crate) type Model = BTreeMap<GroupId, Arc<ModelGroup>>;

/// An operation on a log.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Append(GroupId, Vec<LogEntry>),
    Vote(GroupId, Bytes),
    Truncate(GroupId, Option<u64>),
    Purge(GroupId, LogPosition),
    Reset(GroupId),
}

impl Operation {
    /// Draws an operation that is possible in `model`.
    pub(crate) fn draw(random: &mut SplitMix, model: &Model, number: u64) -> Self {
        let group = GroupId(random.below(4) as u16 * 3);
        let state: Arc<ModelGroup> = model.get(&group).cloned().unwrap_or_default();
        let last = state.last();
        let first = state.entries.first_key_value().map(|(index, _)| *index);
        let term = last.map_or(1, |last| last.term) + u64::from(random.one_in(5));
        match random.below(20) {
            0..=1 => Self::Vote(group, Bytes::from(number.to_string())),
            2 => {
                let span = last.map_or(1, |last| last.index + 2);
                let low = first.unwrap_or(0);
                Self::Truncate(
                    group,
                    (!random.one_in(8)).then(|| low + random.below(span.saturating_sub(low))),
                )
            }
            3..=5 => {
                let low = state.purged.map_or(0, |purged| purged.index);
                let high = last.map_or(1, |last| last.index + u64::from(random.one_in(6)) * 3);
                let index = low + random.below(high.saturating_sub(low) + 1);
                let position = state
                    .entries
                    .get(&index)
                    .map_or(entry(term, index, 0).position, |it| it.position);
                Self::Purge(group, position)
            }
            6 if random.one_in(4) => Self::Reset(group),
            _ => {
                let start = last.map_or_else(|| random.below(3), |last| last.index + 1);
                let size = |random: &mut SplitMix| {
                    let longest = if random.one_in(10) { 3000 } else { 100 };
                    random.below(longest) as usize
                };
                let count = 1 + random.below(4);
                Self::Append(
                    group,
                    (start..start + count)
                        .map(|index| entry(term, index, size(random)))
                        .collect(),
                )
            }
        }
    }

    /// The group it concerns.
    pub(crate) fn group(&self) -> GroupId {
        match self {
            Self::Append(group, _)
            | Self::Vote(group, _)
            | Self::Truncate(group, _)
            | Self::Purge(group, _)
            | Self::Reset(group) => *group,
        }
    }

    fn pieces(&self) -> Vec<Self> {
        match self {
            Self::Append(group, entries) => entries
                .iter()
                .map(|entry| Self::Append(*group, vec![entry.clone()]))
                .collect(),
            other => vec![other.clone()],
        }
    }

    /// Does to the model what it should do to the log.
    pub(crate) fn apply(&self, model: &mut Model) {
        match self {
            Self::Append(group, entries) => {
                let held = &mut Arc::make_mut(model.entry(*group).or_default()).entries;
                held.extend(entries.iter().map(|entry| (entry.position.index, entry.clone())));
            }
            Self::Vote(group, vote) => {
                Arc::make_mut(model.entry(*group).or_default()).vote = Some(vote.clone());
            }
            Self::Truncate(group, index) => {
                let from = index.map_or(0, |index| index + 1);
                Arc::make_mut(model.entry(*group).or_default())
                    .entries
                    .split_off(&from);
            }
            Self::Purge(group, position) => {
                let state = Arc::make_mut(model.entry(*group).or_default());
                if state.purged.is_none_or(|purged| purged.index < position.index) {
                    state.entries = state.entries.split_off(&(position.index + 1));
                    state.purged = Some(*position);
                }
            }
            Self::Reset(group) => {
                model.insert(*group, Arc::default());
            }
        }
    }

    pub(crate) fn submit(self, log: &dyn Log, done: Completion) {
        match self {
            Self::Append(group, entries) => log.append(group, entries, done),
            Self::Vote(group, vote) => log.save_vote(group, vote, done),
            Self::Truncate(group, index) => log.truncate_after(group, index, done),
            Self::Purge(group, position) => log.purge(group, position, done),
            Self::Reset(group) => log.reset(group, done),
        }
    }
}

/// What a log holds, in the model's terms.
pub(crate) fn observe(log: &dyn Log) -> Model {
    let mut model = Model::new();
    for group in (0..12).step_by(3).map(GroupId) {
        let state = log.state(group);
        let entries = log.read(group, 0, u64::MAX, usize::MAX).expect("read");
        let entries: BTreeMap<u64, LogEntry> = entries
            .into_iter()
            .map(|entry| (entry.position.index, entry))
            .collect();
        let observed = ModelGroup {
            purged: state.purged,
            vote: state.vote,
            entries,
        };
        assert_eq!(observed.last(), state.last, "last of {group:?}");
        model.insert(group, Arc::new(observed));
    }
    model
}

/// A model in a few words, for messages.
pub(crate) fn describe(model: &Model) -> String {
    let group = |(group, state): (&GroupId, &Arc<ModelGroup>)| {
        let purged = state.purged.map(|purged| purged.index);
        let vote = state.vote.as_deref().map(|vote| vote.escape_ascii().to_string());
        let terms: Vec<(u64, u64)> = state
            .entries
            .values()
            .map(|it| (it.position.term, it.position.index))
            .collect();
        format!(
            "{}: purged {purged:?}, vote {vote:?}, entries {:?} to {:?}; ",
            group.0,
            terms.first(),
            terms.last()
        )
    };
    model.iter().map(group).collect()
}

/// Whether two models are the same, where a group without content and no group are.
pub(crate) fn same(one: &Model, other: &Model) -> bool {
    let empty = Arc::default();
    let in_other = |(group, state): (&GroupId, &Arc<ModelGroup>)| other.get(group).unwrap_or(&empty) == state;
    let not_in_one = |group: &GroupId| !one.contains_key(group);
    one.iter().all(in_other)
        && other
            .iter()
            .all(|(group, state)| !not_in_one(group) || *state == empty)
}

/// Submitted operations since a state that is known to be durable, and how many are completed.
pub(crate) struct History {
    /// The state before the first and after each submitted operation.
    pub(crate) states: Vec<Model>,
    completed: Arc<AtomicUsize>,
}

impl History {
    pub(crate) fn new(start: Model) -> Self {
        Self {
            states: vec![start],
            completed: Arc::default(),
        }
    }

    pub(crate) fn current(&self) -> &Model {
        self.states.last().expect("there is a first state")
    }

    /// How many are completed by now.
    pub(crate) fn completed(&self) -> usize {
        self.completed.load(Ordering::SeqCst)
    }

    /// Submits an operation; where it counts, its completion is noted when it succeeds.
    pub(crate) fn submit(&mut self, log: &dyn Log, operation: Operation, counts: bool) {
        // Each entry is a record of its own: a crash may keep the first ones of an append.
        for piece in operation.pieces() {
            let mut next = self.current().clone();
            piece.apply(&mut next);
            self.states.push(next);
        }
        let (completed, number) = (Arc::clone(&self.completed), self.states.len() - 1);
        let done: Completion = Box::new(move |result| {
            if result.is_ok() && counts {
                completed.fetch_max(number, Ordering::SeqCst);
            }
        });
        operation.submit(log, done);
    }

    /// The number of the submitted prefix that `observed` is; the reason where it is none, or one that lacks something
    /// completed.
    pub(crate) fn find(&self, observed: &Model, completed: usize) -> Result<usize, String> {
        let found = (0..self.states.len())
            .rev()
            .find(|number| same(&self.states[*number], observed));
        match found {
            Some(found) if found >= completed => Ok(found),
            found => Err(format!(
                "{completed} of {} were completed, found is {found:?}: {}\ncompleted: {}\nsubmitted: {}",
                self.states.len() - 1,
                describe(observed),
                describe(&self.states[completed]),
                describe(self.current()),
            )),
        }
    }
}

pub(super) fn run(subject: &mut dyn Subject, seed: u64, operations: usize) {
    let mut random = SplitMix::new(seed);
    let mut bench = Bench::new(subject);
    let mut history = History::new(Model::new());
    for number in 0..operations as u64 {
        let operation = Operation::draw(&mut random, history.current(), number);
        let log = Arc::clone(bench.log());
        history.submit(&*log, operation, true);
        if random.one_in(3) {
            bench.subject.pump(&log);
        }
        if random.one_in(10) {
            assert!(
                same(&observe(&*log), history.current()),
                "seed {seed}, operation {number}"
            );
        }
        drop(log);
        if random.one_in(25) {
            let clean = random.one_in(2);
            // What completes while the log is being killed may be lost with it.
            let completed = history.completed();
            bench.reopen(clean);
            let observed = observe(&**bench.log());
            if let Err(reason) = history.find(&observed, completed) {
                panic!("seed {seed}, operation {number}, clean stop {clean}: {reason}");
            }
            assert!(
                !clean || same(&observed, history.current()),
                "seed {seed}, operation {number}: clean stop"
            );
            history = History::new(observed);
        }
    }
}
