//! Carries retained writes from their publishers' home group, where they stand in the outbox, to their topics' groups
//! (R33, R35), and holds the publishers' acknowledgements until then.
//!
//! Invariants: a publisher is answered by what became of its own write; a write is taken off the outbox when its
//! topic's group has it or has refused it for good, in the order of the outbox.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;

use super::{Completion, Group, Host, Node, Placement};
use crate::state::{Command, OutboxWrite, Outcome, RefusedReason, RetainedSource};

/// Retained writes carried at once.
const OUTBOX_BATCH: usize = 256;
/// Their bytes, unless a single one is larger.
const OUTBOX_BYTES_MAX: usize = 1 << 20;
/// Pause after a topic's group did not take a write.
const RETRY: Duration = Duration::from_millis(500);

/// Publishers of retained messages that wait for the topic's group.
#[derive(Debug)]
pub(super) struct RetainedWaits<T> {
    waiting: BTreeMap<RetainedSource, (T, Completion)>,
    taken: Option<RetainedSource>,
    /// Writes that their topics' groups refused and that a publisher may still ask for.
    refused: BTreeSet<RetainedSource>,
    /// All publishers of entries up to this index have asked, but for those of `begun`.
    asked_to: u64,
    /// Publishes in parts whose last one is missing, and where the writes of their first parts stand.
    begun: BTreeMap<u64, RetainedSource>,
}

impl<T> Default for RetainedWaits<T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            taken: None,
            refused: BTreeSet::new(),
            asked_to: 0,
            begun: BTreeMap::new(),
        }
    }
}

impl<T> RetainedWaits<T> {
    /// `completion`, unless it said that the message is stored in the outbox alone and the topic's group refused it:
    /// then it is final that nothing holds it (R13).
    fn judge(&self, source: RetainedSource, completion: Completion) -> Completion {
        let stored_nowhere = matches!(
            completion,
            Completion::Applied(Outcome::Published { stored: 0, .. })
        );
        if stored_nowhere && self.refused.contains(&source) {
            Completion::Applied(Outcome::Refused(RefusedReason::LimitReached))
        } else {
            completion
        }
    }

    /// Another leader carries on, or this one begins: with what stands in the outbox.
    pub(super) fn leader_changed(&mut self) {
        self.refused.clear();
    }

    fn forget_refused(&mut self) {
        let (taken, asked_to, begun) = (self.taken, self.asked_to, &self.begun);
        self.refused.retain(|source| {
            Some(*source) > taken || source.index > asked_to || begun.values().any(|begun| begun == source)
        });
    }
}

impl<H: Host> Group<H> {
    /// The task that carries retained writes.
    pub(super) async fn run_outbox(self: Arc<Self>, node: Weak<Node<H>>) {
        loop {
            let Some(node) = node.upgrade() else { return };
            let taken = self.retained_waits.lock().taken;
            let mut writes = match self.leads() {
                true => self.state().outbox(taken, OUTBOX_BATCH),
                false => Vec::new(),
            };
            let is_idle = writes.is_empty();
            limit_bytes(&mut writes);
            let count = writes.len();
            let Some(writes) = self.recall_writes(writes).await else {
                return;
            };
            let all_there = writes.len() == count;
            let all_taken = self.carry_retained(&node, writes).await && all_there;
            drop(node);
            if is_idle {
                self.outbox_filled.notified().await;
            } else if !all_taken {
                tokio::time::sleep(RETRY).await;
            }
        }
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

    /// Completes `ticket` once the write at `source` is with its topic's group.
    pub(super) fn wait_for_retained(
        &self,
        source: RetainedSource,
        ticket: H::Ticket,
        completion: Completion,
    ) {
        let mut waits = self.retained_waits.lock();
        if waits.taken < Some(source) {
            waits.waiting.insert(source, (ticket, completion));
            return;
        }
        let completion = waits.judge(source, completion);
        drop(waits);
        self.host.complete(vec![(ticket, completion)]);
    }

    /// The first part of a publish has its place; where an earlier attempt stored the message, that one's.
    pub(super) fn retained_begun(&self, number: u64, completion: &Completion) {
        if let Completion::Applied(Outcome::Begun { index, position }) = *completion {
            let source = RetainedSource {
                group: self.id(),
                index,
                position,
            };
            self.retained_waits.lock().begun.insert(number, source);
        }
    }

    /// The last part of a publish is there: completes `ticket` once the write of its first part is with its topic's group.
    pub(super) fn wait_for_begun(&self, number: u64, ticket: H::Ticket, completion: Completion) {
        let begun = self.retained_waits.lock().begun.remove(&number);
        let is_stored = matches!(
            completion,
            Completion::Applied(Outcome::Published { duplicate: false, .. })
        );
        let Some(source) = begun.filter(|_| is_stored) else {
            // It says itself what became of it, or is not answered: its first part was not.
            let completion = if is_stored {
                Completion::Refused
            } else {
                completion
            };
            self.host.complete(vec![(ticket, completion)]);
            return;
        };
        // That of an earlier attempt may have been taken before this start of the node could hear of it.
        let first = self.state().outbox(None, 1).first().map(|write| write.source);
        if first.is_none_or(|first| first > source) {
            let completion = self.retained_waits.lock().judge(source, completion);
            self.host.complete(vec![(ticket, completion)]);
            return;
        }
        self.wait_for_retained(source, ticket, completion);
    }

    /// All publishers of the entry at `index` have asked for their writes.
    pub(super) fn retained_asked(&self, index: u64) {
        let mut waits = self.retained_waits.lock();
        waits.asked_to = index;
        if !waits.refused.is_empty() {
            waits.forget_refused();
        }
    }

    /// Carries writes to their topics' groups; whether all of them were taken.
    async fn carry_retained(&self, node: &Node<H>, writes: Vec<OutboxWrite>) -> bool {
        let sources: Vec<RetainedSource> = writes.iter().map(|write| write.source).collect();
        let answers = writes.into_iter().map(|write| {
            let OutboxWrite { source, message, .. } = write;
            let topic_group = node.group(Placement::data_of_topic(message.topic()));
            topic_group.submit(&Command::SetRetained {
                source,
                message,
                messages_max: self.settings.retained_messages_max,
                bytes_max: self.settings.retained_bytes_max,
            })
        });
        // Proposed in their order, before the first answer is waited for.
        let answers: Vec<_> = answers.collect();
        let mut taken = None;
        let mut refused = Vec::new();
        let mut all_taken = true;
        for (source, answer) in sources.into_iter().zip(join_all(answers).await) {
            match answer.unwrap_or(Completion::Refused) {
                // A repeat of a refused write would be answered as done.
                Completion::Applied(Outcome::Refused(_)) | Completion::TooLarge => {
                    self.retained_waits.lock().refused.insert(source);
                    refused.push(source);
                }
                Completion::Applied(_) => {}
                Completion::Refused => all_taken = false,
            }
            if all_taken {
                taken = Some(source);
            }
        }
        if let Some(up_to) = taken {
            refused.retain(|source| *source <= up_to);
            self.propose(&Command::RetainedTaken { up_to, refused }, None);
            // Publishers at other nodes are told when that is applied there.
            self.complete_retained(up_to);
        }
        all_taken
    }

    /// The leader of this group, whoever it is, has passed writes on.
    pub(super) fn retained_taken(&self, up_to: RetainedSource, refused: &[RetainedSource]) {
        self.retained_waits.lock().refused.extend(refused);
        self.complete_retained(up_to);
    }

    fn complete_retained(&self, taken: RetainedSource) {
        let mut waits = self.retained_waits.lock();
        if waits.taken >= Some(taken) {
            return;
        }
        waits.taken = Some(taken);
        let mut completions = Vec::new();
        while let Some(first) = waits.waiting.first_entry()
            && *first.key() <= taken
        {
            let (source, (ticket, completion)) = first.remove_entry();
            completions.push((ticket, waits.judge(source, completion)));
        }
        waits.forget_refused();
        drop(waits);
        if !completions.is_empty() {
            self.host.complete(completions);
        }
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
