//! All queues of a group, of sessions wherever their home is, of shares, and of nodes.
//!
//! A queue stays, as its next sequence alone, when it is empty: sequences are never reused, since packet identifiers
//! follow from them (R22).
//!
//! Unlike a session's incarnation a share comes back under its key when it was dropped and somebody subscribes again,
//! and so does the queue of a node that whoever had it dropped did not know yet. Their sequences must not: a late
//! acknowledgement of the old queue would settle a message of the new one. So a new queue of a share or of a node starts
//! above every sequence that a dropped one has given.

use std::collections::BTreeMap;

use hashbrown::hash_map::Entry;

use super::messages::{Messages, Slot};
use super::queue::{Delivery, Queue};
use super::records::{Key, Kind, RecordSink};
use super::{
    GiveId, HashMap, NodeId, NodeIncarnation, QueueLimits, SessionId, ShareHolder, ShareKey, TargetQueue,
};

/// The queues.
#[derive(Debug, Default)]
pub(super) struct Queues {
    sessions: HashMap<SessionId, Queue>,
    shares: HashMap<ShareKey, Queue>,
    nodes: BTreeMap<(NodeId, NodeIncarnation), Queue>,
    /// Where the next new queue of a share or of a node starts.
    floor: u64,
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

    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// The starts of nodes that have a queue, in order.
    pub(super) fn node_starts(&self) -> impl Iterator<Item = (NodeId, NodeIncarnation)> {
        self.nodes.keys().copied()
    }

    /// The queues of the starts of `node` up to `incarnation`.
    pub(super) fn of_node(&self, node: NodeId, incarnation: NodeIncarnation) -> Vec<TargetQueue> {
        let first = (node, NodeIncarnation(0));
        self.nodes
            .range(first..=(node, incarnation))
            .map(|((node, incarnation), _)| TargetQueue::Node(*node, *incarnation))
            .collect()
    }

    pub(super) fn get(&self, queue: &TargetQueue) -> Option<&Queue> {
        match queue {
            TargetQueue::Session(session) => self.sessions.get(session),
            TargetQueue::Share(share) => self.shares.get(share),
            TargetQueue::Node(node, incarnation) => self.nodes.get(&(*node, *incarnation)),
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
            .iter()
            .map(|(share, queue)| (TargetQueue::Share(share.clone()), queue));
        let nodes = self
            .nodes
            .iter()
            .map(|((node, incarnation), queue)| (TargetQueue::Node(*node, *incarnation), queue));
        sessions.chain(shares).chain(nodes)
    }

    /// Appends a reference to the message of `size` bytes that `slot` names, unless the queue is full; `slot` is asked
    /// only when it is not. The queue of a node is never full: nobody would hear that its connections got nothing.
    pub(super) fn push(
        &mut self,
        queue: &TargetQueue,
        limits: &QueueLimits,
        size: u64,
        delivery: Delivery,
        slot: impl FnOnce() -> Slot,
    ) -> Option<u64> {
        let floor = self.floor;
        let target = match queue {
            TargetQueue::Session(session) => with_room(self.sessions.entry(*session), 0, size, limits),
            TargetQueue::Share(share) => with_room(self.shares.entry(share.clone()), floor, size, limits),
            TargetQueue::Node(node, incarnation) => {
                let entry = self.nodes.entry((*node, *incarnation));
                Some(entry.or_insert_with(|| Queue::new(floor)))
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
        let target = self.find(queue)?;
        let taken = target.take(sequence, messages)?;
        if target.mark_dirty() {
            self.dirty.push(queue.clone());
        }
        self.references -= 1;
        self.bytes -= taken.1;
        Some(taken)
    }

    /// Notes who has a reference of a share; false where there is none, or another has it.
    pub(super) fn hold(&mut self, queue: &TargetQueue, sequence: u64, holder: ShareHolder) -> bool {
        let Some(target) = self.find(queue) else {
            return false;
        };
        let Some(is_new) = target.hold(sequence, holder) else {
            return false;
        };
        if is_new && target.mark_dirty() {
            self.dirty.push(queue.clone());
        }
        true
    }

    /// Nobody has a reference any more; whether its holder had it by this giving.
    pub(super) fn unhold(&mut self, queue: &TargetQueue, sequence: u64, give: GiveId) -> bool {
        let Some(target) = self.find(queue) else {
            return false;
        };
        let was_held = target.unhold(sequence, give);
        if was_held && target.mark_dirty() {
            self.dirty.push(queue.clone());
        }
        was_held
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
            TargetQueue::Node(node, incarnation) => self.nodes.remove(&(*node, *incarnation)),
        }?;
        if !matches!(queue, TargetQueue::Session(_)) {
            self.floor = self.floor.max(removed.next());
        }
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

    fn find(&mut self, queue: &TargetQueue) -> Option<&mut Queue> {
        match queue {
            TargetQueue::Session(session) => self.sessions.get_mut(session),
            TargetQueue::Share(share) => self.shares.get_mut(share),
            TargetQueue::Node(node, incarnation) => self.nodes.get_mut(&(*node, *incarnation)),
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
            let Some(target) = self.find(queue) else {
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
        self.floor = floor;
    }

    pub(super) fn load_queue(&mut self, queue: TargetQueue, next: u64) {
        match queue {
            TargetQueue::Session(session) => self.sessions.insert(session, Queue::new(next)),
            TargetQueue::Share(share) => self.shares.insert(share, Queue::new(next)),
            TargetQueue::Node(node, incarnation) => self.nodes.insert((node, incarnation), Queue::new(next)),
        };
    }

    /// Adds a stored reference; false when its queue does not know its sequence.
    pub(super) fn load_reference(
        &mut self,
        queue: &TargetQueue,
        sequence: u64,
        (slot, size): (Slot, u64),
        (delivery, holder): (Delivery, Option<ShareHolder>),
    ) -> bool {
        let Some(target) = self.find(queue) else {
            return false;
        };
        let loaded = target.load(sequence, slot, size, delivery);
        if let Some(holder) = holder {
            target.load_holder(sequence, holder);
        }
        self.references += 1;
        self.bytes += size;
        loaded
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
            if !matches!(key, TargetQueue::Share(_)) && queue.holders().next().is_some() {
                return Err(format!(
                    "queue {key:?}: only members of shares are given references"
                ));
            }
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

/// The queue of an entry unless it is full; a new one begins with the sequence `first`.
fn with_room<'a, K: std::hash::Hash, S: std::hash::BuildHasher>(
    entry: Entry<'a, K, Queue, S>,
    first: u64,
    size: u64,
    limits: &QueueLimits,
) -> Option<&'a mut Queue> {
    match entry {
        Entry::Occupied(entry) => Some(entry.into_mut()).filter(|queue| queue.has_room(size, limits)),
        Entry::Vacant(entry) => {
            let new = Queue::new(first);
            new.has_room(size, limits).then(|| entry.insert(new))
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
