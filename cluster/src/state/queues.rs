//! All queues of a group, of sessions wherever their home is and of shares.
//!
//! A queue stays, as its next sequence alone, when it is empty: sequences are never reused, since packet identifiers
//! follow from them (R22).

use hashbrown::hash_map::Entry;

use super::messages::{Messages, Slot};
use super::queue::{Delivery, Queue};
use super::records::{Key, Kind, RecordSink};
use super::shares::Shares;
use super::{HashMap, QueueLimits, SessionId, TargetQueue};

/// The queues.
#[derive(Debug, Default)]
pub(super) struct Queues {
    sessions: HashMap<SessionId, Queue>,
    shares: Shares,
    /// Queues that changed since the last checkpoint.
    dirty: Vec<TargetQueue>,
    /// Records of queues that were dropped since: the queue itself, or one of its references.
    dropped: Vec<(TargetQueue, Option<u64>)>,
    references: u64,
    bytes: u64,
}

/// What a dropped queue held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) count: u32,
    pub(super) bytes: u64,
}

impl Queues {
    /// References in all queues.
    pub(super) fn references(&self) -> u64 {
        self.references
    }

    /// Bytes of the references in all queues; a message counts once per reference.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn shares(&self) -> &Shares {
        &self.shares
    }

    pub(super) fn get(&self, queue: &TargetQueue) -> Option<&Queue> {
        match queue {
            TargetQueue::Session(session) => self.sessions.get(session),
            TargetQueue::Share(share) => self.shares.queues.get(share),
        }
    }

    /// All queues, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TargetQueue, &Queue)> {
        let sessions = self
            .sessions
            .iter()
            .map(|(session, queue)| (TargetQueue::Session(*session), queue));
        let shares = self
            .shares
            .queues
            .iter()
            .map(|(share, queue)| (TargetQueue::Share(share.clone()), queue));
        sessions.chain(shares)
    }

    /// Appends a reference to the message of `size` bytes that `slot` names, unless the queue is full; `slot` is asked
    /// only when it is not.
    pub(super) fn push(
        &mut self,
        queue: &TargetQueue,
        limits: &QueueLimits,
        size: u64,
        delivery: Delivery,
        slot: impl FnOnce() -> Slot,
    ) -> Option<u64> {
        let new = Queue::new(0);
        let target = match queue {
            TargetQueue::Session(session) => match self.sessions.entry(*session) {
                Entry::Occupied(entry) => Some(entry.into_mut()).filter(|queue| queue.has_room(size, limits)),
                Entry::Vacant(entry) => new.has_room(size, limits).then(|| entry.insert(new)),
            },
            TargetQueue::Share(share) => {
                let floor = self.shares.floor();
                match self.shares.queues.entry(share.clone()) {
                    Entry::Occupied(entry) => {
                        Some(entry.into_mut()).filter(|queue| queue.has_room(size, limits))
                    }
                    Entry::Vacant(entry) => new
                        .has_room(size, limits)
                        .then(|| entry.insert(Queue::new(floor))),
                }
            }
        }?;
        if target.mark_dirty() {
            self.dirty.push(queue.clone());
        }
        self.references += 1;
        self.bytes += size;
        Some(target.push(slot(), size, delivery))
    }

    /// Settles a reference and hands its message over, whose count stays as it is.
    pub(super) fn take(
        &mut self,
        queue: &TargetQueue,
        sequence: u64,
        messages: &Messages,
    ) -> Option<(Slot, u64)> {
        let target = Self::find(&mut self.sessions, &mut self.shares, queue)?;
        let taken = target.take(sequence, messages)?;
        if target.mark_dirty() {
            self.dirty.push(queue.clone());
        }
        self.references -= 1;
        self.bytes -= taken.1;
        Some(taken)
    }

    /// Marks a reference as received.
    pub(super) fn receive(&mut self, session: SessionId, sequence: u64) {
        let Some(target) = self.sessions.get_mut(&session) else {
            return;
        };
        if target.receive(sequence) && target.mark_dirty() {
            self.dirty.push(TargetQueue::Session(session));
        }
    }

    /// Drops a queue with all its references.
    pub(super) fn drop_queue(&mut self, queue: &TargetQueue, messages: &mut Messages) -> Option<Dropped> {
        let removed = match queue {
            TargetQueue::Session(session) => self.sessions.remove(session),
            TargetQueue::Share(share) => self.shares.remove(share),
        }?;
        self.dropped.push((queue.clone(), None));
        let saved = removed.saved_sequences();
        self.dropped
            .extend(saved.into_iter().map(|sequence| (queue.clone(), Some(sequence))));
        for reference in removed.iter_from(0) {
            messages.release(reference.slot);
        }
        let dropped = Dropped {
            count: removed.len(),
            bytes: removed.bytes(),
        };
        self.references -= u64::from(dropped.count);
        self.bytes -= dropped.bytes;
        Some(dropped)
    }

    fn find<'a>(
        sessions: &'a mut HashMap<SessionId, Queue>,
        shares: &'a mut Shares,
        queue: &TargetQueue,
    ) -> Option<&'a mut Queue> {
        match queue {
            TargetQueue::Session(session) => sessions.get_mut(session),
            TargetQueue::Share(share) => shares.queues.get_mut(share),
        }
    }

    pub(super) fn drain(&mut self, messages: &Messages, sink: &mut impl RecordSink) {
        // First what was dropped: a queue of the same key may have come after it.
        for (queue, sequence) in std::mem::take(&mut self.dropped) {
            sink.delete(match sequence {
                Some(sequence) => reference_key(&queue, sequence),
                None => queue_key(&queue),
            });
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable();
        dirty.dedup();
        // In two passes, so that the records come in the order of their keys.
        for queue in &dirty {
            if let Some(target) = self.get(queue) {
                sink.put(queue_key(queue), |out| write_queue(target, out));
            }
        }
        for queue in &dirty {
            let Some(target) = Self::find(&mut self.sessions, &mut self.shares, queue) else {
                continue;
            };
            target.drain(messages, |sequence, fields| match fields {
                Some(fields) => sink.put(reference_key(queue, sequence), fields),
                None => sink.delete(reference_key(queue, sequence)),
            });
        }
    }

    pub(super) fn write_all(&self, messages: &Messages, sink: &mut impl RecordSink) {
        for (queue, target) in self.iter() {
            sink.put(queue_key(&queue), |out| write_queue(target, out));
            target.write_references(messages, |sequence, fields| {
                sink.put(reference_key(&queue, sequence), fields)
            });
        }
    }

    pub(super) fn load_floor(&mut self, floor: u64) {
        self.shares.load_floor(floor);
    }

    pub(super) fn load_queue(&mut self, queue: TargetQueue, next: u64) {
        match queue {
            TargetQueue::Session(session) => self.sessions.insert(session, Queue::new(next)),
            TargetQueue::Share(share) => self.shares.queues.insert(share, Queue::new(next)),
        };
    }

    /// Adds a stored reference; false when its queue does not know its sequence.
    pub(super) fn load_reference(
        &mut self,
        queue: &TargetQueue,
        sequence: u64,
        (slot, size): (Slot, u64),
        delivery: Delivery,
    ) -> bool {
        let Some(target) = Self::find(&mut self.sessions, &mut self.shares, queue) else {
            return false;
        };
        self.references += 1;
        self.bytes += size;
        target.load(sequence, slot, size, delivery)
    }

    /// `exists` tells whether a session whose home may be this group exists.
    pub(super) fn check_invariants(
        &self,
        messages: &Messages,
        exists: impl Fn(SessionId) -> bool,
    ) -> Result<(), String> {
        let (mut references, mut bytes) = (0, 0);
        for (key, queue) in self.iter() {
            queue
                .check_invariants(messages)
                .map_err(|error| format!("queue {key:?}: {error}"))?;
            references += u64::from(queue.len());
            bytes += queue.bytes();
            if matches!(key, TargetQueue::Session(session) if !exists(session)) {
                return Err(format!("queue {key:?}: the session does not exist"));
            }
        }
        match (references, bytes) == (self.references, self.bytes) {
            true => Ok(()),
            false => Err("queues: totals are wrong".into()),
        }
    }
}

fn queue_key(queue: &TargetQueue) -> Key {
    Key::new(Kind::Queue).queue(queue)
}

fn reference_key(queue: &TargetQueue, sequence: u64) -> Key {
    Key::new(Kind::Reference).queue(queue).u64(sequence)
}

fn write_queue(queue: &Queue, out: &mut Vec<u8>) {
    super::codec::put_varint(out, queue.next());
}
