//! Carries retained writes from their publishers' home group, where they stand in the outbox, to their topics' groups
//! (R33, R35), and holds the publishers' acknowledgements until then.
//!
//! A client that sends a message again waits by the place of its write, which its home group remembers with the packet
//! identifier, at whichever node it is now.
//!
//! Invariants: a publisher is answered by what became of its own write; a write is taken off the outbox when its
//! topic's group has it or has refused it for good, in the order of the outbox among those to topics of one group.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use quorate_proto::message::Message;
use quorate_storage::log::GroupId;

use super::proposer::Waiter;
use super::{Completion, Group, Host, Node, Placement};
use crate::state::{Command, OutboxWrite, Outcome, RefusedReason, RetainedSource, RetainedTaken};

/// Retained writes carried at once.
const OUTBOX_BATCH: usize = 256;
/// Their bytes, unless a single one is larger.
const OUTBOX_BYTES_MAX: usize = 1 << 20;
/// Pause after a topic's group did not take a write.
const RETRY: Duration = Duration::from_millis(500);

/// What a leader has found in its outbox and not carried yet.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    looked_at: Option<RetainedSource>,
    waiting: BTreeMap<GroupId, VecDeque<RetainedSource>>,
    /// Groups of topics that writes are on their way to: what they are sent next has to come behind.
    busy: BTreeSet<GroupId>,
}

impl Outgoing {
    /// Another node leads.
    pub(super) fn give_up(&mut self) {
        self.looked_at = None;
        self.waiting.clear();
    }

    /// Behind all that was found before.
    pub(super) fn find(&mut self, source: RetainedSource, topics: GroupId) {
        self.looked_at = Some(source);
        self.waiting.entry(topics).or_default().push_back(source);
    }

    /// The next writes for some group of topics that is not busy; it is from now on.
    pub(super) fn next(&mut self) -> Option<(GroupId, Vec<RetainedSource>)> {
        let busy = &self.busy;
        let is_free = |topics: &GroupId| !busy.contains(topics);
        let (topics, waiting) = self.waiting.iter_mut().find(|(topics, _)| is_free(topics))?;
        let (topics, count) = (*topics, waiting.len().min(OUTBOX_BATCH));
        let writes = waiting.drain(..count).collect();
        if waiting.is_empty() {
            self.waiting.remove(&topics);
        }
        self.busy.insert(topics);
        Some((topics, writes))
    }

    /// A group of topics has had its turn and left these.
    pub(super) fn left(&mut self, topics: GroupId, left: Vec<RetainedSource>) {
        self.busy.remove(&topics);
        let waiting = self.waiting.entry(topics).or_default();
        let first = waiting.front().copied();
        for source in left.into_iter().rev() {
            // What has been found again since, or will be, stands there.
            if Some(source) <= self.looked_at && first.is_none_or(|first| source < first) {
                waiting.push_front(source);
            }
        }
        if waiting.is_empty() {
            self.waiting.remove(&topics);
        }
    }
}

impl<H: Host> Group<H> {
    /// The task that carries retained writes, to each group of topics on its own: one without leader holds up its own
    /// topics alone.
    pub(super) async fn run_outbox(self: Arc<Self>, node: Weak<Node<H>>) {
        let mut outgoing = Outgoing::default();
        let mut on_their_way = FuturesUnordered::new();
        let mut was_full = false;
        loop {
            match self.leads() {
                true => self.look_into_outbox(&mut outgoing),
                false => outgoing.give_up(),
            }
            self.tell_full(&outgoing, &mut was_full);
            while let Some((topics, sources)) = outgoing.next() {
                on_their_way.push(self.carry(&node, topics, sources));
            }
            tokio::select! {
                () = self.outbox_filled.notified() => {}
                Some((topics, left)) = on_their_way.next() => outgoing.left(topics, left),
            }
        }
    }

    fn look_into_outbox(&self, outgoing: &mut Outgoing) {
        let state = self.state();
        for (source, topic) in state.outbox_topics(outgoing.looked_at) {
            outgoing.find(source, Placement::data_of_topic(topic));
        }
    }

    fn tell_full(&self, outgoing: &Outgoing, was_full: &mut bool) {
        let is_full = self.leads() && self.state().outbox_is_full();
        if is_full && !std::mem::replace(was_full, is_full) {
            let group = Placement::name(self.id());
            let topics: Vec<String> = outgoing.busy.iter().copied().map(Placement::name).collect();
            tracing::warn!(
                group,
                ?topics,
                "retained messages are refused: groups do not take those of their topics"
            );
        }
        *was_full = is_full;
    }

    /// Carries writes to the group of their topics. Returns that group and the writes that have to be carried again.
    async fn carry(
        self: &Arc<Self>,
        node: &Weak<Node<H>>,
        topics: GroupId,
        mut sources: Vec<RetainedSource>,
    ) -> (GroupId, Vec<RetainedSource>) {
        let Some(to) = node.upgrade().map(|node| node.group(topics).clone()) else {
            return (topics, Vec::new());
        };
        let mut writes: Vec<OutboxWrite> = {
            let state = self.state();
            sources
                .iter()
                .filter_map(|source| state.outbox_write(*source))
                .collect()
        };
        if writes.is_empty() {
            return (topics, Vec::new());
        }
        limit_bytes(&mut writes);
        let count = writes.len();
        let Some(writes) = self.recall_writes(writes).await else {
            return std::future::pending().await;
        };
        let all_there = writes.len() == count;
        let (taken, all_taken) = self.carry_retained(&to, writes).await;
        if !(all_there && all_taken) {
            tokio::time::sleep(RETRY).await;
        }
        sources.retain(|source| Some(*source) > taken);
        (topics, sources)
    }

    /// Reads the messages that are not in memory; `None` when that cannot go on.
    async fn recall_writes(self: &Arc<Self>, mut writes: Vec<OutboxWrite>) -> Option<Vec<OutboxWrite>> {
        for write in &mut writes {
            let Some(stored) = write.stored else { continue };
            let group = self.clone();
            let read = tokio::task::spawn_blocking(move || group.read_message(&stored)).await;
            match read.ok()? {
                Ok(Some(message)) => write.message = message,
                // It was taken meanwhile, by the leader that comes.
                Ok(None) => continue,
                Err(error) => {
                    self.host.fatal(format!("a retained message on its way: {error}"));
                    return None;
                }
            }
            write.stored = None;
        }
        // Its topic's group is not to take an empty one, nor one behind it before.
        let missing = writes.iter().position(|write| write.stored.is_some());
        writes.truncate(missing.unwrap_or(writes.len()));
        Some(writes)
    }

    /// Tells `waiter` once the write at `source` is with the group of its topic.
    pub(super) fn wait_for_retained(
        &self,
        topics: GroupId,
        source: RetainedSource,
        waiter: Waiter<H::Ticket>,
        completion: Completion,
    ) {
        let told = self
            .retained_waits
            .lock()
            .wait(topics, source, waiter, completion);
        self.tell_all(told);
    }

    fn tell_all(&self, told: impl IntoIterator<Item = (Waiter<H::Ticket>, Completion)>) {
        let told = told.into_iter();
        let completions: Vec<_> = told
            .filter_map(|(waiter, completion)| self.tell(waiter, completion))
            .collect();
        if !completions.is_empty() {
            self.host.complete(completions);
        }
    }

    /// The first part of a publish has its place; where an earlier attempt stored the message, that one's.
    pub(super) fn retained_begun(&self, number: u64, completion: &Completion) {
        let source = match *completion {
            Completion::Applied(Outcome::Begun { index, position }) => Some(RetainedSource {
                group: self.id(),
                index,
                position,
            }),
            Completion::Applied(Outcome::Refused(RefusedReason::OutboxFull)) => None,
            _ => return,
        };
        self.retained_waits.lock().begin(number, source);
    }

    /// The last part of a publish is there: tells `waiter` once the write of its first part is with the group of
    /// its topic.
    pub(super) fn wait_for_begun(
        &self,
        (number, topics): (u64, GroupId),
        waiter: Waiter<H::Ticket>,
        completion: Completion,
    ) {
        let begun = self.retained_waits.lock().end(number);
        let is_stored = matches!(
            completion,
            Completion::Applied(Outcome::Published { duplicate: false, .. })
        );
        let completion = match (is_stored, begun) {
            (true, Some(Some(source))) => return self.wait_for_retained(topics, source, waiter, completion),
            // Its first part found no room, so nothing of it is stored.
            (false, Some(None)) => Completion::Applied(Outcome::Refused(RefusedReason::OutboxFull)),
            // It is not answered: its first part was not.
            (true, _) => Completion::Refused,
            // It says itself what became of it.
            (false, _) => completion,
        };
        self.tell_all([(waiter, completion)]);
    }

    /// Carries writes to the group of their topics: the last one that was taken, and whether all of them were.
    ///
    /// A leader that comes carries what is not noted again, and the group of the topics remembers so many refusals: after some
    /// the next writes go when this group has noted them.
    async fn carry_retained(
        &self,
        to: &Group<H>,
        writes: Vec<OutboxWrite>,
    ) -> (Option<RetainedSource>, bool) {
        let sources: Vec<RetainedSource> = writes.iter().map(|write| write.source).collect();
        let answers = writes
            .into_iter()
            .map(|write| to.submit(&self.set_retained(write.source, write.message)));
        // Proposed in their order, before the first answer is waited for.
        let answers: Vec<_> = answers.collect();
        let mut taken = Vec::new();
        let mut refused = Vec::new();
        let mut all_taken = true;
        for (source, answer) in sources.into_iter().zip(join_all(answers).await) {
            match answer.unwrap_or(Completion::Refused) {
                Completion::Refused => all_taken = false,
                _ if !all_taken => {}
                Completion::Applied(Outcome::Refused(_)) | Completion::TooLarge => {
                    refused.push(source);
                    taken.push(source);
                }
                Completion::Applied(_) => taken.push(source),
            }
        }
        let Some(up_to) = taken.last().copied() else {
            return (None, all_taken);
        };
        let noted = self.submit(&Command::RetainedCarried {
            topics: to.id(),
            writes: taken,
            refused: refused.clone(),
        });
        let has_refused = !refused.is_empty();
        // Publishers at other nodes are told when that is applied there.
        self.retained_taken(&RetainedTaken {
            topics: Some(to.id()),
            up_to,
            refused,
            forgotten: None,
        });
        if has_refused {
            let _ = noted.await;
        }
        (Some(up_to), all_taken)
    }

    /// The write of a message that was known and is on its way, where that is what a publish was answered.
    pub(super) fn repeated_write(&self, completion: &Completion) -> Option<RetainedSource> {
        match *completion {
            Completion::Applied(Outcome::Repeated { index, position, .. }) => Some(RetainedSource {
                group: self.id(),
                index,
                position,
            }),
            _ => None,
        }
    }

    fn set_retained(&self, source: RetainedSource, message: Message) -> Command {
        Command::SetRetained {
            source,
            message,
            messages_max: self.settings.retained_messages_max,
            bytes_max: self.settings.retained_bytes_max,
        }
    }

    /// The leader of this group, whoever it is, has passed writes on.
    pub(super) fn retained_taken(&self, told: &RetainedTaken) {
        let completions = self.retained_waits.lock().note(told);
        self.tell_all(completions);
    }

    /// What this replica's state, as of `index`, says of writes that have left the outbox. Which of them were refused is
    /// known as far as this node remembers it.
    pub(super) fn retained_now(&self, index: u64) -> Vec<RetainedTaken> {
        let mut first: BTreeMap<GroupId, RetainedSource> = BTreeMap::new();
        let applied = {
            let state = self.state();
            for (source, topic) in state.outbox_topics(None) {
                first.entry(Placement::data_of_topic(topic)).or_insert(source);
            }
            state.applied().max(index)
        };
        let last = RetainedSource {
            group: self.id(),
            index: applied,
            position: u32::MAX,
        };
        let waits = self.retained_waits.lock();
        Placement::data_groups()
            .map(|topics| {
                let (refused, forgotten) = waits.refused(topics);
                let up_to = first.get(&topics).map_or(last, before);
                RetainedTaken {
                    topics: Some(topics),
                    up_to,
                    refused,
                    forgotten,
                }
            })
            .collect()
    }

    /// The state was replaced by one as of `index`, which does not say what was refused before.
    pub(super) fn retained_loaded(&self, index: u64) {
        for mut told in self.retained_now(index) {
            told.forgotten = Some(told.up_to);
            self.retained_taken(&told);
        }
    }
}

/// Where the write before this one could stand at most.
fn before(source: &RetainedSource) -> RetainedSource {
    let (index, position) = match source.position.checked_sub(1) {
        Some(position) => (source.index, position),
        None => (source.index.saturating_sub(1), u32::MAX),
    };
    RetainedSource {
        group: source.group,
        index,
        position,
    }
}

/// Leaves the first writes that together stay below the bound; at least one.
fn limit_bytes(writes: &mut Vec<OutboxWrite>) {
    let mut bytes = 0;
    let beyond = writes.iter().position(|write| {
        // One that is not in memory is large.
        bytes += match write.stored {
            Some(_) => OUTBOX_BYTES_MAX,
            None => write.message.size(),
        };
        bytes > OUTBOX_BYTES_MAX
    });
    if let Some(beyond) = beyond {
        writes.truncate(beyond.max(1));
    }
}
