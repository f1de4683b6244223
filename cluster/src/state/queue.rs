//! One queue of references: what a session or a share has to get of this group's messages, in order.
//!
//! References stand in a ring in the order of their sequences, with settled ones as holes. The front is popped as it
//! is settled; holes behind it, as a share's slow member leaves them, are closed when they are more than half. A
//! queue without references and changes is its next sequence and nothing else.
//!
//! Invariants: sequences ascend and are below `next`; the front is not a hole; `live` and `bytes` count what is not
//! settled.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use quorate_proto::codec::QoS;

use super::codec::{CodecError, Reader, put_ids, put_share_holder, read_ids, read_qos, read_share_holder};
use super::messages::{MessageKey, Messages, Slot};
use super::{GiveId, QueueLimits, ShareHolder};

const RETAIN: u8 = 1 << 2;
const RECEIVED: u8 = 1 << 3;
const REPLAYED: u8 = 1 << 4;
const SETTLED: u8 = 1 << 5;
/// Of a stored reference: who has it follows.
const HELD: u8 = 1 << 6;
/// Of a session's own queue: it was a share's.
const SHARED: u8 = 1 << 7;
/// Fewer holes are not worth closing.
const HOLES_MIN: usize = 32;

/// Subscription identifiers, mostly none or one.
#[derive(Clone, Debug, PartialEq)]
enum Ids {
    None,
    One(u32),
    Many(Box<[u32]>),
}

/// What a reference says beside which message it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Delivery {
    flags: u8,
    ids: Ids,
}

impl Delivery {
    pub(super) fn new(qos: QoS, retain: bool, ids: &[u32]) -> Self {
        let ids = match ids {
            [] => Ids::None,
            [one] => Ids::One(*one),
            many => Ids::Many(many.into()),
        };
        Self {
            flags: qos as u8 | if retain { RETAIN } else { 0 },
            ids,
        }
    }

    pub(super) fn qos(&self) -> QoS {
        read_qos(self.flags).expect("flags are made from a QoS")
    }

    pub(super) fn retain(&self) -> bool {
        self.flags & RETAIN != 0
    }

    /// The retained message of a new subscription.
    pub(super) fn replayed(self, replayed: bool) -> Self {
        Self {
            flags: self.flags | if replayed { REPLAYED } else { 0 },
            ..self
        }
    }

    pub(super) fn is_replayed(&self) -> bool {
        self.flags & REPLAYED != 0
    }

    /// A message of a shared subscription in its member's own queue.
    pub(super) fn shared(self) -> Self {
        Self {
            flags: self.flags | SHARED,
            ..self
        }
    }

    pub(super) fn is_shared(&self) -> bool {
        self.flags & SHARED != 0
    }

    pub(super) fn received(&self) -> bool {
        self.flags & RECEIVED != 0
    }

    pub(super) fn ids(&self) -> &[u32] {
        match &self.ids {
            Ids::None => &[],
            Ids::One(id) => std::slice::from_ref(id),
            Ids::Many(ids) => ids,
        }
    }

    fn write(&self, holder: Option<&ShareHolder>, out: &mut Vec<u8>) {
        out.push(self.flags | if holder.is_some() { HELD } else { 0 });
        put_ids(out, self.ids());
        if let Some(holder) = holder {
            put_share_holder(out, holder);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<(Self, Option<ShareHolder>), CodecError> {
        let flags = reader.u8("reference flags")?;
        let is_held = flags & HELD != 0;
        let flags = flags & !HELD;
        if flags & SETTLED != 0 {
            return Err(CodecError::Invalid("reference flags"));
        }
        let plain = Self::new(read_qos(flags)?, false, &read_ids(reader)?);
        let holder = is_held.then(|| read_share_holder(reader)).transpose()?;
        Ok((Self { flags, ..plain }, holder))
    }
}

/// A reference.
#[derive(Debug)]
pub(super) struct Reference {
    pub(super) sequence: u64,
    pub(super) slot: Slot,
    pub(super) delivery: Delivery,
}

impl Reference {
    fn is_settled(&self) -> bool {
        self.delivery.flags & SETTLED != 0
    }

    fn write(&self, holder: Option<&ShareHolder>, messages: &Messages, out: &mut Vec<u8>) {
        messages.key(self.slot).write(out);
        self.delivery.write(holder, out);
    }
}

/// A stored reference, and who has it.
pub(super) fn read_reference(
    reader: &mut Reader<'_>,
) -> Result<(MessageKey, Delivery, Option<ShareHolder>), CodecError> {
    let key = MessageKey::read(reader)?;
    let (delivery, holder) = Delivery::read(reader)?;
    Ok((key, delivery, holder))
}

/// A queue.
#[derive(Debug)]
pub(super) struct Queue {
    next: u64,
    active: Option<Box<Active>>,
}

/// The part of a queue that has references or changes.
#[derive(Debug)]
struct Active {
    references: VecDeque<Reference>,
    live: u32,
    bytes: u64,
    /// The last checkpoint knows the sequences below this.
    saved_next: u64,
    /// Sequences below `saved_next` that changed since.
    changed: Vec<u64>,
    /// Who has references of a share for good, though they are not settled (R37).
    holders: BTreeMap<u64, ShareHolder>,
    /// The queue is on the list of changed queues.
    dirty: bool,
}

impl Active {
    fn at(&self, sequence: u64) -> Option<usize> {
        let first = self.references.front()?.sequence;
        // Without holes closed before it, a reference is where its sequence says.
        let guess = usize::try_from(sequence.checked_sub(first)?).ok()?;
        let at = match self.references.get(guess) {
            Some(reference) if reference.sequence == sequence => guess,
            _ => self
                .references
                .binary_search_by_key(&sequence, |reference| reference.sequence)
                .ok()?,
        };
        (!self.references[at].is_settled()).then_some(at)
    }

    fn note(&mut self, sequence: u64) {
        if sequence < self.saved_next {
            self.changed.push(sequence);
        }
    }

    /// Drops holes at the front, and all of them when they have become too many.
    fn close_holes(&mut self) {
        while self.references.front().is_some_and(Reference::is_settled) {
            self.references.pop_front();
        }
        let holes = self.references.len() - self.live as usize;
        if holes >= HOLES_MIN && holes * 2 > self.references.len() {
            self.references.retain(|reference| !reference.is_settled());
        }
    }
}

impl Queue {
    pub(super) fn new(next: u64) -> Self {
        Self { next, active: None }
    }

    /// Next sequence to be given.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn len(&self) -> u32 {
        self.active.as_ref().map_or(0, |active| active.live)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.bytes)
    }

    pub(super) fn has_room(&self, size: u64, limits: &QueueLimits) -> bool {
        self.len() < limits.messages_max && self.bytes().saturating_add(size) <= limits.bytes_max
    }

    /// Notes that the queue is on the list of changed queues; false when it was.
    pub(super) fn mark_dirty(&mut self) -> bool {
        !std::mem::replace(&mut self.active().dirty, true)
    }

    fn active(&mut self) -> &mut Active {
        let next = self.next;
        self.active.get_or_insert_with(|| {
            Box::new(Active {
                references: VecDeque::new(),
                live: 0,
                bytes: 0,
                saved_next: next,
                changed: Vec::new(),
                holders: BTreeMap::new(),
                dirty: false,
            })
        })
    }

    pub(super) fn push(&mut self, slot: Slot, size: u64, delivery: Delivery) -> u64 {
        let sequence = self.next;
        let active = self.active();
        active.references.push_back(Reference {
            sequence,
            slot,
            delivery,
        });
        active.live += 1;
        active.bytes += size;
        self.next += 1;
        sequence
    }

    /// Settles a reference and hands its message over, whose count stays as it is.
    pub(super) fn take(&mut self, sequence: u64, messages: &Messages) -> Option<(Slot, u64)> {
        let active = self.active.as_mut()?;
        let at = active.at(sequence)?;
        let reference = &mut active.references[at];
        reference.delivery.flags |= SETTLED;
        let slot = reference.slot;
        let size = messages.size(slot);
        active.live -= 1;
        active.bytes -= size;
        active.holders.remove(&sequence);
        active.note(sequence);
        active.close_holes();
        Some((slot, size))
    }

    /// Marks a reference as received; false when there is none or it is marked.
    pub(super) fn receive(&mut self, sequence: u64) -> bool {
        let Some(active) = self.active.as_mut() else {
            return false;
        };
        let Some(at) = active.at(sequence) else {
            return false;
        };
        let delivery = &mut active.references[at].delivery;
        if delivery.received() {
            return false;
        }
        delivery.flags |= RECEIVED;
        active.note(sequence);
        true
    }

    /// Notes who has a reference; whether that is new. Nothing where there is none, or another has it.
    pub(super) fn hold(&mut self, sequence: u64, holder: ShareHolder) -> Option<bool> {
        let active = self.active.as_mut()?;
        active.at(sequence)?;
        match active.holders.entry(sequence) {
            Entry::Occupied(entry) => return (*entry.get() == holder).then_some(false),
            Entry::Vacant(entry) => drop(entry.insert(holder)),
        }
        active.note(sequence);
        Some(true)
    }

    /// Nobody has a reference any more; whether somebody had it by this giving.
    pub(super) fn unhold(&mut self, sequence: u64, give: GiveId) -> bool {
        let Some(active) = self.active.as_mut() else {
            return false;
        };
        if active
            .holders
            .get(&sequence)
            .is_none_or(|holder| holder.give != give)
        {
            return false;
        }
        active.holders.remove(&sequence);
        active.note(sequence);
        true
    }

    /// Who has references, in the order of these.
    pub(super) fn holders(&self) -> impl Iterator<Item = (u64, ShareHolder)> {
        let holders = self.active.iter().flat_map(|active| &active.holders);
        holders.map(|(sequence, holder)| (*sequence, *holder))
    }

    /// Sequences that the last checkpoint may hold a record for.
    pub(super) fn saved_sequences(&self) -> Vec<u64> {
        let Some(active) = &self.active else {
            return Vec::new();
        };
        let live = self.iter_from(0).map(|reference| reference.sequence);
        let saved = live.take_while(|sequence| *sequence < active.saved_next);
        saved.chain(active.changed.iter().copied()).collect()
    }

    /// References from `sequence` on.
    pub(super) fn iter_from(&self, sequence: u64) -> impl DoubleEndedIterator<Item = &Reference> {
        let references = self.active.as_ref().map(|active| &active.references);
        references.into_iter().flat_map(move |references| {
            let start = references.partition_point(|reference| reference.sequence < sequence);
            references
                .range(start..)
                .filter(|reference| !reference.is_settled())
        })
    }

    /// Hands every change since the last checkpoint to `write`, none for a reference that is gone; then the queue is
    /// unchanged.
    pub(super) fn drain(
        &mut self,
        messages: &Messages,
        mut write: impl FnMut(u64, Option<&dyn Fn(&mut Vec<u8>)>),
    ) {
        let Some(active) = self.active.as_mut() else {
            return;
        };
        let mut changed = std::mem::take(&mut active.changed);
        changed.sort_unstable();
        changed.dedup();
        for sequence in changed {
            match active.at(sequence) {
                Some(at) => {
                    let holder = active.holders.get(&sequence);
                    write(
                        sequence,
                        Some(&|out| active.references[at].write(holder, messages, out)),
                    );
                }
                None => write(sequence, None),
            }
        }
        let saved_next = active.saved_next;
        active.saved_next = self.next;
        active.dirty = false;
        for reference in self.iter_from(saved_next) {
            let holder = self.holder(reference.sequence);
            write(
                reference.sequence,
                Some(&|out| reference.write(holder, messages, out)),
            );
        }
        self.shrink();
    }

    pub(super) fn holder(&self, sequence: u64) -> Option<&ShareHolder> {
        self.active.as_ref()?.holders.get(&sequence)
    }

    fn shrink(&mut self) {
        let Some(active) = self.active.as_mut() else {
            return;
        };
        if active.live == 0 {
            self.active = None;
        } else if active.references.capacity() > 64 + 4 * active.references.len() {
            active.references.shrink_to(2 * active.references.len());
        }
    }

    pub(super) fn write_references(
        &self,
        messages: &Messages,
        mut write: impl FnMut(u64, &dyn Fn(&mut Vec<u8>)),
    ) {
        for reference in self.iter_from(0) {
            let holder = self.holder(reference.sequence);
            write(reference.sequence, &|out| reference.write(holder, messages, out));
        }
    }

    /// Adds a stored reference; they come in order. False when its sequence has not been given yet.
    pub(super) fn load(&mut self, sequence: u64, slot: Slot, size: u64, delivery: Delivery) -> bool {
        if sequence >= self.next {
            return false;
        }
        let active = self.active();
        active.references.push_back(Reference {
            sequence,
            slot,
            delivery,
        });
        active.live += 1;
        active.bytes += size;
        true
    }

    /// Adds who has a stored reference.
    pub(super) fn load_holder(&mut self, sequence: u64, holder: ShareHolder) {
        self.active().holders.insert(sequence, holder);
    }

    /// Places in memory, holes counted.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.active.as_ref().map_or(0, |active| active.references.len())
    }

    pub(super) fn check_invariants(&self, messages: &Messages) -> Result<(), String> {
        let Some(active) = &self.active else { return Ok(()) };
        let mut sequences = active.references.iter().map(|reference| reference.sequence);
        if !sequences.clone().is_sorted_by(|left, right| left < right)
            || sequences.next_back() >= Some(self.next)
        {
            return Err("sequences do not ascend below the next one".into());
        }
        if active.references.front().is_some_and(Reference::is_settled) || active.saved_next > self.next {
            return Err("the front is a hole, or the checkpoint is ahead".into());
        }
        if active
            .holders
            .keys()
            .any(|sequence| active.at(*sequence).is_none())
        {
            return Err("somebody has a reference that is not there".into());
        }
        let live = self.iter_from(0).count();
        let bytes: u64 = self
            .iter_from(0)
            .map(|reference| messages.size(reference.slot))
            .sum();
        if (live, bytes) != (active.live as usize, active.bytes) {
            return Err(format!(
                "{live} references of {bytes} bytes, counted {} of {}",
                active.live, active.bytes
            ));
        }
        Ok(())
    }
}
