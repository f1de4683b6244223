//! A publish from its origin to its queues, as a whole or in [parts](super::parts).

use quorate_proto::codec::PacketId;

use super::group::{Events, Place};
use super::inbound::ReceivedWrite;
use super::messages::{MessageKey, Messages, Slot, Stored, counted_bytes};
use super::parts::{PartsKey, Progress, UnderWay};
use super::queue::Delivery;
use super::{
    Batch, Epoch, Event, GroupState, GroupTime, Origin, Outcome, PublishCommand, PublishPart, QueueLimits,
    RefusedReason, SessionId, Target, TargetQueue,
};

const FENCED: Outcome = Outcome::Refused(RefusedReason::Fenced);

impl GroupState {
    /// Stores a message for its targets, once however many they are. It is a first part where it has a number, which
    /// tells it from others that its proposer has under way.
    pub(super) fn publish(
        &mut self,
        place: Place,
        batch: &Batch,
        publish: &PublishCommand,
        number: Option<u64>,
        events: &mut Events<'_>,
    ) -> Outcome {
        if let Some(answer) = self.judge(&publish.origin) {
            return answer;
        }
        let key = match number {
            Some(number) => Some(PartsKey::new(&publish.origin, batch, number)),
            None => PartsKey::lasting(&publish.origin),
        };
        // Batches with a number are refused as a whole when their start is over; nothing would end what others begin.
        if matches!(key, Some(PartsKey::Proposed(node, start, _)) if self.proposers.is_lost(node, start)) {
            return FENCED;
        }
        // Another connection or another leader may have come to here with it.
        let (held, mut progress) = match key.and_then(|key| self.parts.take(key)) {
            Some(UnderWay { slot, progress }) => (Some(slot), progress),
            None => (None, Progress::default()),
        };
        if publish.set_retained && held.is_none() && self.outbox.is_full() && is_of_a_client(&publish.origin)
        {
            // Nothing of it is stored: it will have to be published again.
            return Outcome::Refused(RefusedReason::OutboxFull);
        }
        progress.taken |= publish.set_retained || publish.taken_live;
        let mut incoming = Incoming {
            place,
            publish,
            now: self.time,
            slot: held,
        };
        let size = held.map_or_else(
            || counted_bytes(&publish.message),
            |slot| self.messages.size(slot),
        );
        let refer = |messages: &mut Messages| incoming.refer(messages);
        let limits = &batch.queue_limits;
        self.store(&publish.targets, limits, size, &mut progress, refer, events);
        if publish.set_retained && held.is_none() {
            let slot = incoming.refer(&mut self.messages);
            self.outbox.push(place, slot, &self.messages);
            self.note_retained(&publish.origin, place, publish.taken_live);
            events.push(Event::RetainedQueued);
        }
        match (key, number) {
            (Some(key), Some(_)) => {
                let slot = held.unwrap_or_else(|| incoming.refer(&mut self.messages));
                progress.advance(&publish.targets);
                self.parts.insert(key, UnderWay { slot, progress });
                let MessageKey { index, position } = self.messages.key(slot);
                Outcome::Begun { index, position }
            }
            _ => self.conclude(&publish.origin, held, &progress),
        }
    }

    /// A QoS 2 message of a session goes to the outbox: what its client is to be told when it sends it again.
    fn note_retained(&mut self, origin: &Origin, key: MessageKey, kept: bool) {
        if let Origin::Session {
            session,
            packet_id: Some(packet_id),
            ..
        } = *origin
        {
            let write = ReceivedWrite {
                key,
                kept,
                refused: false,
            };
            self.inbound.note_write(session, packet_id, write);
        }
    }

    /// Goes on with a publish whose first part was there.
    pub(super) fn publish_more(
        &mut self,
        batch: &Batch,
        part: &PublishPart,
        events: &mut Events<'_>,
    ) -> Outcome {
        let key = PartsKey::new(&part.origin, batch, part.number);
        let refused = self.judge(&part.origin).or_else(|| {
            let is_next = self.parts.has_reached(key, part.after.as_ref());
            (!is_next).then_some(FENCED)
        });
        if refused.is_some() && matches!(key, PartsKey::Proposed(..)) {
            // Its proposer is told, and nobody else would go on with it.
            self.parts.abandon(key, &mut self.messages);
        }
        let under_way = match refused {
            None => self.parts.take(key),
            Some(answer) => return answer,
        };
        let Some(UnderWay { slot, mut progress }) = under_way else {
            return FENCED;
        };
        let refer = |messages: &mut Messages| {
            messages.add_reference(slot);
            slot
        };
        let (size, limits) = (self.messages.size(slot), &batch.queue_limits);
        self.store(&part.targets, limits, size, &mut progress, refer, events);
        if part.last {
            return self.conclude(&part.origin, Some(slot), &progress);
        }
        progress.advance(&part.targets);
        self.parts.insert(key, UnderWay { slot, progress });
        Outcome::Done
    }

    /// The client released an inbound identifier (R8), so it has no use for a message with it.
    pub(super) fn release(&mut self, session: SessionId, epoch: Epoch, packet_id: PacketId) -> Outcome {
        if let Some(refused) = self.fence(session, epoch) {
            return refused;
        }
        let under_way = PartsKey::Received(session, packet_id);
        let abandoned = self.parts.abandon(under_way, &mut self.messages);
        Outcome::Released(self.inbound.remove(session, packet_id) || abandoned)
    }

    /// A due will of this group needs nothing more.
    pub(super) fn will_published(&mut self, session: SessionId, epoch: Epoch) -> Outcome {
        self.wills.published(session, epoch);
        let under_way = PartsKey::Will(session, epoch);
        self.parts.abandon(under_way, &mut self.messages);
        Outcome::Done
    }

    pub(super) fn forget_live_wills(&mut self, wills: &[(SessionId, Epoch)]) -> Outcome {
        for (session, epoch) in wills {
            self.live_wills.remove(*session, *epoch);
            let under_way = PartsKey::LiveWill(*session, *epoch);
            self.parts.abandon(under_way, &mut self.messages);
        }
        Outcome::Done
    }

    /// The answer to a publish that is not to be stored, or to go on.
    fn judge(&self, origin: &Origin) -> Option<Outcome> {
        let is_over = match *origin {
            Origin::Session {
                session,
                epoch,
                packet_id,
            } => {
                let duplicate = packet_id.and_then(|packet_id| self.known(session, packet_id));
                return self.fence(session, epoch).or(duplicate);
            }
            Origin::Will { session, epoch } => !self.wills.is_due(session, epoch),
            Origin::LiveWill { session, epoch } => self.live_wills.contains(session, epoch),
            Origin::Live { .. } | Origin::Server => false,
        };
        is_over.then_some(FENCED)
    }

    /// The answer to a QoS 2 message that was received before.
    fn known(&self, session: SessionId, packet_id: PacketId) -> Option<Outcome> {
        if !self.inbound.contains(session, packet_id) {
            return None;
        }
        Some(match self.inbound.write_of(session, packet_id) {
            Some(ReceivedWrite {
                key,
                kept,
                refused: false,
            }) => Outcome::Repeated {
                index: key.index,
                position: key.position,
                kept,
            },
            // It is stored nowhere, so its client is to know.
            Some(ReceivedWrite { kept: false, .. }) => Outcome::Refused(RefusedReason::LimitReached),
            _ => Outcome::Published {
                duplicate: true,
                stored: 0,
                refused: 0,
            },
        })
    }

    /// Puts references to a message of `size` bytes into the queues of its targets; `refer` makes them.
    fn store(
        &mut self,
        targets: &[Target],
        limits: &QueueLimits,
        size: u64,
        progress: &mut Progress,
        mut refer: impl FnMut(&mut Messages) -> Slot,
        events: &mut Events<'_>,
    ) {
        for target in targets {
            if progress.has_passed(&target.queue) || self.is_over(&target.queue) {
                continue;
            }
            let delivery =
                Delivery::new(target.qos, target.retain, &target.subscription_ids).replayed(target.replayed);
            let message = || refer(&mut self.messages);
            match self.queues.push(&target.queue, limits, size, delivery, message) {
                Some(sequence) => {
                    progress.stored += 1;
                    events.queued(&target.queue, sequence, size);
                }
                None => progress.refused += 1,
            }
        }
    }

    /// Whether nobody will ever take anything from a queue: its session has ended, its node's start is lost.
    fn is_over(&self, queue: &TargetQueue) -> bool {
        match queue {
            TargetQueue::Session(session) => self.has_ended(*session),
            TargetQueue::Share(_) => false,
            TargetQueue::Node(node, incarnation) => self.proposers.is_lost(*node, *incarnation),
        }
    }

    /// All targets had their turn: lets go of the message that was held meanwhile, and notes that the origin has
    /// published it.
    ///
    /// The identifier of a QoS 2 message is recorded unless queue limits turned every target away and nobody gets it
    /// live: then nothing is stored and the publisher is told so (0x97), after which it uses the identifier for another
    /// message.
    fn conclude(&mut self, origin: &Origin, held: Option<Slot>, progress: &Progress) -> Outcome {
        if let Some(slot) = held {
            self.messages.release(slot);
        }
        match *origin {
            Origin::Session {
                session,
                packet_id: Some(packet_id),
                ..
            } if !progress.is_turned_away() => {
                self.inbound.insert(session, packet_id);
                if progress.stored > 0 {
                    self.inbound.note_kept(session, packet_id);
                }
            }
            Origin::Will { session, epoch } => self.wills.published(session, epoch),
            Origin::LiveWill { session, epoch } => self.live_wills.insert(session, epoch),
            _ => {}
        }
        Outcome::Published {
            duplicate: false,
            stored: progress.stored,
            refused: progress.refused,
        }
    }
}

/// Whether a client publishes it now and can be told to come again. A will cannot.
fn is_of_a_client(origin: &Origin) -> bool {
    matches!(origin, Origin::Session { .. } | Origin::Live { .. })
}

/// A message that comes with its command, and is stored with its first reference.
struct Incoming<'a> {
    place: Place,
    publish: &'a PublishCommand,
    now: GroupTime,
    /// Where it is, once it is stored.
    slot: Option<Slot>,
}

impl Incoming<'_> {
    /// One more reference to the message.
    fn refer(&mut self, messages: &mut Messages) -> Slot {
        let Self {
            place, publish, now, ..
        } = *self;
        let slot = *self.slot.get_or_insert_with(|| {
            let stored = Stored::now(publish.message.clone(), publish.origin.publisher(), now);
            messages.insert(place, stored)
        });
        messages.add_reference(slot);
        slot
    }
}
