//! References from their queues to the end, and the way of retained writes.

use quorate_proto::message::Message;
use quorate_storage::log::GroupId;

use super::group::Events;
use super::messages::MessageKey;
use super::queue::Delivery;
use super::retained::{Arrival, RetainedLimits};
use super::timers::Timer;
use super::{
    Event, GiveId, GroupState, Outcome, QueueLimits, RefusedReason, RetainedSource, RetainedTaken, Sequence,
    SessionId, ShareHolder, ShareKey, TargetQueue,
};

/// A member's queue takes what is assigned to it: the message has its place in the group already, and the leader assigns
/// only to short queues.
const UNLIMITED: QueueLimits = QueueLimits {
    messages_max: u32::MAX,
    bytes_max: u64::MAX,
};

impl GroupState {
    /// Receivers are done with references; what is gone already is done as well (R21).
    pub(super) fn settle(
        &mut self,
        queue: &TargetQueue,
        sequences: &[Sequence],
        events: &mut Events<'_>,
    ) -> Outcome {
        let (mut count, mut bytes) = (0, 0);
        for sequence in sequences {
            if let Some((slot, size)) = self.queues.take(queue, sequence.0, &self.messages) {
                self.messages.release(slot);
                count += 1;
                bytes += size;
            }
        }
        events.removed(queue, count, bytes);
        Outcome::Done
    }

    pub(super) fn received(&mut self, session: SessionId, sequences: &[Sequence]) -> Outcome {
        for sequence in sequences {
            self.queues.receive(session, sequence.0);
        }
        Outcome::Done
    }

    /// Moves a reference of a share to a member's queue (R37). Refused, so that the message stays with the share, where the
    /// member's session is known to have ended, and where another has it: the choice is of an earlier leader then.
    pub(super) fn assign(
        &mut self,
        share: &ShareKey,
        sequence: Sequence,
        session: SessionId,
        delivery: Delivery,
        events: &mut Events<'_>,
    ) -> Outcome {
        if self.has_ended(session) {
            return Outcome::Refused(RefusedReason::Fenced);
        }
        let from = TargetQueue::Share(share.clone());
        if self
            .queues
            .get(&from)
            .is_some_and(|queue| queue.holder(sequence.0).is_some())
        {
            return Outcome::Refused(RefusedReason::Fenced);
        }
        let Some((slot, size)) = self.queues.take(&from, sequence.0, &self.messages) else {
            return Outcome::Done;
        };
        events.removed(&from, 1, size);
        let to = TargetQueue::Session(session);
        if let Some(sequence) = self.queues.push(&to, &UNLIMITED, size, delivery, || slot) {
            events.queued(&to, sequence, size);
        }
        Outcome::Done
    }

    /// Notes who has a reference of a share for good, though the queue keeps it (R37).
    pub(super) fn hold(&mut self, share: &ShareKey, sequence: Sequence, holder: ShareHolder) -> Outcome {
        let queue = TargetQueue::Share(share.clone());
        if self.has_ended(holder.session) || !self.queues.hold(&queue, sequence.0, holder) {
            return Outcome::Refused(RefusedReason::Fenced);
        }
        Outcome::Done
    }

    /// A member gives back what it was not sent; what another has is left alone.
    pub(super) fn unhold(
        &mut self,
        share: &ShareKey,
        sequence: Sequence,
        give: GiveId,
        events: &mut Events<'_>,
    ) -> Outcome {
        let queue = TargetQueue::Share(share.clone());
        if self.queues.unhold(&queue, sequence.0, give) {
            events.push(Event::Unheld {
                share: share.clone(),
                sequence,
                give,
            });
        }
        Outcome::Done
    }

    /// Drops queues whose session, share or node is gone. One that got a message since this was found out stays, and so does
    /// the queue of a session that this group, as its home, knows to exist: whoever asks has read something old.
    pub(super) fn drop_queues(
        &mut self,
        queues: &[(TargetQueue, Sequence)],
        events: &mut Events<'_>,
    ) -> Outcome {
        for (queue, next) in queues {
            if self.next_sequence(queue) != Some(*next) {
                continue;
            }
            if matches!(queue, TargetQueue::Session(session) if self.sessions.contains(*session)) {
                continue;
            }
            if let Some(dropped) = self.queues.drop_queue(queue, &mut self.messages) {
                events.removed(queue, dropped.count, dropped.bytes);
            }
        }
        Outcome::Done
    }

    /// A retained write arrives from a publisher's home group. It counts as taken also when a limit refuses it, so
    /// that the refusal is final and a repeat cannot overtake a later write. A repeat gets the first outcome.
    pub(super) fn set_retained(
        &mut self,
        source: &RetainedSource,
        message: &Message,
        limits: RetainedLimits,
    ) -> Outcome {
        match self.retained.advance(source) {
            Arrival::New => {}
            Arrival::Taken => return Outcome::Done,
            Arrival::Refused => return Outcome::Refused(RefusedReason::LimitReached),
            Arrival::Forgotten => return Outcome::Refused(RefusedReason::Fenced),
        }
        let Some(change) = self.retained.set((source, message), self.time, limits) else {
            self.retained.refuse(source);
            return Outcome::Refused(RefusedReason::LimitReached);
        };
        if change.off != change.on {
            let timer = || Timer::RetainedExpiry(message.topic().into());
            if let Some(at) = change.off {
                self.timers.cancel(at, timer());
            }
            if let Some(at) = change.on {
                self.timers.schedule(at, timer());
            }
        }
        Outcome::Done
    }

    /// Retained writes of this group reached their topics' groups.
    pub(super) fn retained_taken(
        &mut self,
        up_to: &RetainedSource,
        refused: &[RetainedSource],
        events: &mut Events<'_>,
    ) -> Outcome {
        if up_to.group == self.group {
            events.push(Event::RetainedTaken(RetainedTaken {
                topics: None,
                up_to: *up_to,
                refused: refused.to_vec(),
                forgotten: None,
            }));
            let up_to = MessageKey {
                index: up_to.index,
                position: up_to.position,
            };
            while let Some(key) = self.outbox.first().filter(|key| *key <= up_to) {
                self.leave_outbox(key, refused);
            }
        }
        Outcome::Done
    }

    /// The group of some topics has these writes. Those to other topics stay, whatever their order.
    pub(super) fn retained_carried(
        &mut self,
        topics: GroupId,
        writes: &[RetainedSource],
        refused: &[RetainedSource],
        events: &mut Events<'_>,
    ) -> Outcome {
        let group = self.group;
        let writes = || writes.iter().filter(|write| write.group == group);
        let Some(up_to) = writes().max().copied() else {
            return Outcome::Done;
        };
        for write in writes() {
            let key = MessageKey {
                index: write.index,
                position: write.position,
            };
            self.leave_outbox(key, refused);
        }
        events.push(Event::RetainedTaken(RetainedTaken {
            topics: Some(topics),
            up_to,
            refused: refused.to_vec(),
            forgotten: None,
        }));
        Outcome::Done
    }

    /// A write has come to its topic's group, or was refused there. Its client is told if it asks again.
    fn leave_outbox(&mut self, key: MessageKey, refused: &[RetainedSource]) {
        let Some(slot) = self.outbox.get(key) else {
            return;
        };
        if let Some(publisher) = self.messages.get(slot).publisher() {
            let place = RetainedSource {
                group: self.group,
                index: key.index,
                position: key.position,
            };
            self.inbound.write_left(publisher, key, refused.contains(&place));
        }
        self.outbox.remove(key, &mut self.messages);
    }
}
