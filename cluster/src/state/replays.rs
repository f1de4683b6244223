//! The retained messages that are still to come for new subscriptions of durable sessions (R24), by session and filter.
//!
//! A replay begins in the entry that commits its SUBSCRIBE. Whoever holds the session's connection reads the groups of
//! the topics and proposes what it finds step by step: each appends one value to the session's queue in this group and
//! moves the cursor, in one entry. The next connection, at whichever node, goes on where the cursor is.
//!
//! Steps are numbered, and one is taken only when its turn has come, for the replay it was made for, from the session's
//! connection: so none of a connection that was taken over, of a replay that was replaced, or behind one that is
//! missing has any effect. A subscription that is renewed without asking for retained messages leaves its replay where it
//! is, on the new terms: nothing that the earlier SUBSCRIBE promised is lost [MQTT-3.8.4-3], and what is appended from then
//! on has the QoS that was granted last [MQTT-3.8.4-8]. At QoS 0 that is nothing.
//!
//! Invariants: a replay's subscription exists, so a session has at most as many as subscriptions; its terms are the
//! subscription's.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use quorate_proto::codec::{QoS, RetainHandling, SubscriptionOptions};
use quorate_proto::message::Message;

use super::codec::{CodecError, Reader, put_bool, put_epoch, put_option, put_str, put_varint, read_epoch};
use super::group::{Events, Place};
use super::messages::{Stored, counted_bytes};
use super::queue::Delivery;
use super::records::{Dirty, Key, Kind, RecordSink};
use super::{Batch, Epoch, GroupState, Outcome, RefusedReason, SessionId, Subscription, TargetQueue};

/// Tells a replay from an earlier one of the same session and filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplayId {
    /// The connection that subscribed.
    pub epoch: Epoch,
    /// Which of its SUBSCRIBEs.
    pub number: u32,
}

/// Where a replay goes on reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayCursor {
    /// Packet identifier slot of the group of topics that is next.
    pub slot: u8,
    /// Topic behind which to go on in it; none at its beginning.
    pub after: Option<Arc<str>>,
    /// The groups that are left, that one too: bit n stands for slot n. Those without leader are read last (R36).
    pub left: u16,
}

/// One step of a replay.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayStep {
    /// Session.
    pub session: SessionId,
    /// Connection.
    pub epoch: Epoch,
    /// Filter of the subscription.
    pub filter: Arc<str>,
    /// Of which replay.
    pub id: ReplayId,
    /// Number of the step, from 0.
    pub step: u64,
    /// The value that is appended, with the expiry interval that it has left; none to move the cursor alone.
    pub value: Option<Message>,
    /// Where the replay is behind it; none at its end.
    pub cursor: Option<ReplayCursor>,
}

/// A replay, as whoever goes on with it needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingReplay {
    /// Filter of the subscription.
    pub filter: Arc<str>,
    /// Of which SUBSCRIBE.
    pub id: ReplayId,
    /// QoS that the subscription was granted last.
    pub qos: QoS,
    /// The subscription's identifier.
    pub subscription_id: Option<u32>,
    /// Number of the next step.
    pub step: u64,
    /// Where it goes on; none at the beginning.
    pub cursor: Option<ReplayCursor>,
}

impl PendingReplay {
    /// Bytes that it counts for in an answer.
    pub(crate) fn size(&self) -> usize {
        let after = self.cursor.as_ref().and_then(|cursor| cursor.after.as_ref());
        size_of::<Self>() + self.filter.len() + after.map_or(0, |after| after.len())
    }
}

/// Whether a subscription gets retained messages [MQTT-3.3.1-9 to -11]; a shared one never does [MQTT5 4.8.2].
pub fn wants_retained(filter: &str, options: &SubscriptionOptions, is_new: bool) -> bool {
    let is_shared = filter
        .strip_prefix("$share/")
        .is_some_and(|rest| rest.contains('/'));
    !is_shared
        && match options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => is_new,
            RetainHandling::DoNotSend => false,
        }
}

/// A replay in the state; its filter is its key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Replay {
    id: ReplayId,
    qos: QoS,
    subscription_id: Option<u32>,
    step: u64,
    cursor: Option<ReplayCursor>,
}

impl Replay {
    fn pending(&self, filter: &Arc<str>) -> PendingReplay {
        PendingReplay {
            filter: filter.clone(),
            id: self.id,
            qos: self.qos,
            subscription_id: self.subscription_id,
            step: self.step,
            cursor: self.cursor.clone(),
        }
    }

    pub(super) fn of(pending: PendingReplay) -> Self {
        Self {
            id: pending.id,
            qos: pending.qos,
            subscription_id: pending.subscription_id,
            step: pending.step,
            cursor: pending.cursor,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_id(out, self.id);
        out.push(self.qos as u8);
        put_option(out, self.subscription_id);
        put_varint(out, self.step);
        put_cursor(out, self.cursor.as_ref());
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            id: read_id(reader)?,
            qos: QoS::from_bits(reader.u8("QoS")?).ok_or(CodecError::Invalid("QoS of a replay"))?,
            subscription_id: reader.option("subscription identifier")?,
            step: reader.varint("step of a replay")?,
            cursor: read_cursor(reader)?,
        })
    }
}

impl PendingReplay {
    /// As nodes tell it to each other.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_str(out, &self.filter);
        Replay::of(self.clone()).write(out);
    }

    pub(crate) fn decode(encoded: &[u8]) -> Result<Self, CodecError> {
        let encoded = bytes::Bytes::copy_from_slice(encoded);
        let mut reader = Reader::new(&encoded);
        let filter = reader.str("filter")?;
        let replay = Replay::read(&mut reader)?;
        reader.finish()?;
        Ok(replay.pending(&filter))
    }
}

pub(super) fn put_id(out: &mut Vec<u8>, id: ReplayId) {
    put_epoch(out, id.epoch);
    put_varint(out, u64::from(id.number));
}

pub(super) fn read_id(reader: &mut Reader<'_>) -> Result<ReplayId, CodecError> {
    Ok(ReplayId {
        epoch: read_epoch(reader)?,
        number: reader.varint_u32("number of a replay")?,
    })
}

pub(super) fn put_cursor(out: &mut Vec<u8>, cursor: Option<&ReplayCursor>) {
    put_bool(out, cursor.is_some());
    if let Some(ReplayCursor { slot, after, left }) = cursor {
        out.push(*slot);
        put_bool(out, after.is_some());
        if let Some(after) = after {
            put_str(out, after);
        }
        put_varint(out, u64::from(*left));
    }
}

pub(super) fn read_cursor(reader: &mut Reader<'_>) -> Result<Option<ReplayCursor>, CodecError> {
    if !reader.bool("whether there is a cursor")? {
        return Ok(None);
    }
    let slot = reader.u8("slot")?;
    let after = match reader.bool("whether there is a topic")? {
        false => None,
        true => Some(reader.str("topic")?),
    };
    let left = reader.varint_u16("groups that are left")?;
    Ok(Some(ReplayCursor { slot, after, left }))
}

/// All replays of a group.
#[derive(Debug)]
pub(super) struct Replays {
    entries: BTreeMap<(SessionId, Arc<str>), Replay>,
    dirty: Dirty<(SessionId, Arc<str>)>,
    /// Smallest filter, where a session's range starts.
    start: Arc<str>,
}

impl Default for Replays {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            dirty: Dirty::default(),
            start: Arc::from(""),
        }
    }
}

impl Replays {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// A session's replays by filter, from behind `after`.
    pub(super) fn of(&self, session: SessionId, after: Option<&str>) -> impl Iterator<Item = PendingReplay> {
        let start = match after {
            None => Bound::Included((session, self.start.clone())),
            Some(after) => Bound::Excluded((session, Arc::from(after))),
        };
        self.entries
            .range((start, Bound::Unbounded))
            .take_while(move |((of, _), _)| *of == session)
            .map(|((_, filter), replay)| replay.pending(filter))
    }

    /// Begins a replay in place of an earlier one, or ends that where nothing at QoS 1 or 2 is to come.
    fn begin(&mut self, session: SessionId, subscription: &Subscription, id: ReplayId) {
        if subscription.options.qos == QoS::AtMostOnce {
            return self.remove(session, &subscription.filter);
        }
        let replay = Replay {
            id,
            qos: subscription.options.qos,
            subscription_id: subscription.subscription_id,
            step: 0,
            cursor: None,
        };
        let key = (session, subscription.filter.clone());
        self.entries.insert(key.clone(), replay);
        self.dirty.insert(key);
    }

    /// The subscription has new terms, and its replay goes on.
    fn renew(&mut self, session: SessionId, subscription: &Subscription) {
        let key = (session, subscription.filter.clone());
        if let Some(replay) = self.entries.get_mut(&key) {
            replay.qos = subscription.options.qos;
            replay.subscription_id = subscription.subscription_id;
            self.dirty.insert(key);
        }
    }

    /// The replay that a step is the next of.
    fn next_of(&self, step: &ReplayStep) -> Option<&Replay> {
        let replay = self.entries.get(&(step.session, step.filter.clone()))?;
        (replay.id == step.id && replay.step == step.step).then_some(replay)
    }

    /// The step is done.
    fn advance(&mut self, step: &ReplayStep) {
        let Some(cursor) = &step.cursor else {
            return self.remove(step.session, &step.filter);
        };
        let key = (step.session, step.filter.clone());
        if let Some(replay) = self.entries.get_mut(&key) {
            replay.step = replay.step.wrapping_add(1);
            replay.cursor = Some(cursor.clone());
            self.dirty.insert(key);
        }
    }

    pub(super) fn remove(&mut self, session: SessionId, filter: &Arc<str>) {
        let key = (session, filter.clone());
        if self.entries.remove(&key).is_some() {
            self.dirty.insert(key);
        }
    }

    /// Removes all replays of a session.
    pub(super) fn remove_session(&mut self, session: SessionId) {
        let filters: Vec<_> = self.of(session, None).map(|replay| replay.filter).collect();
        for filter in filters {
            self.remove(session, &filter);
        }
    }

    pub(super) fn drain(&mut self, sink: &mut impl RecordSink) {
        for entry in self.dirty.take() {
            let key = key(entry.0, &entry.1);
            match self.entries.get(&entry) {
                Some(replay) => sink.put(key, |out| replay.write(out)),
                None => sink.delete(key),
            }
        }
    }

    pub(super) fn write_all(&self, sink: &mut impl RecordSink) {
        for ((session, filter), replay) in &self.entries {
            sink.put(key(*session, filter), |out| replay.write(out));
        }
    }

    pub(super) fn load(&mut self, session: SessionId, filter: &str, replay: Replay) {
        self.entries.insert((session, Arc::from(filter)), replay);
    }

    /// `subscription` tells which subscriptions there are.
    pub(super) fn check_invariants(
        &self,
        subscription: impl Fn(SessionId, &Arc<str>) -> Option<Subscription>,
    ) -> Result<(), String> {
        let is_sound = |(session, filter): &(SessionId, Arc<str>), replay: &Replay| {
            subscription(*session, filter).is_some_and(|subscription| {
                (replay.qos, replay.subscription_id)
                    == (subscription.options.qos, subscription.subscription_id)
            })
        };
        match self.entries.iter().find(|(key, replay)| !is_sound(key, replay)) {
            Some((key, _)) => Err(format!("replays: {key:?} is of no subscription on its terms")),
            None => Ok(()),
        }
    }
}

fn key(session: SessionId, filter: &str) -> Key {
    Key::new(Kind::Replay).session(session).rest(filter)
}

impl GroupState {
    /// The retained messages that are still to come for a session's subscriptions, by filter from behind `after` on, until
    /// they are `bytes_max` bytes; one that is larger comes alone.
    pub fn pending_replays(
        &self,
        session: SessionId,
        after: Option<&str>,
        bytes_max: usize,
    ) -> Vec<PendingReplay> {
        let mut bytes = 0;
        let mut pending = Vec::new();
        for replay in self.replays.of(session, after) {
            bytes += replay.size();
            if bytes > bytes_max && !pending.is_empty() {
                break;
            }
            pending.push(replay);
        }
        pending
    }

    /// A subscription was committed by SUBSCRIBE `id` of its session's connection, if that asks for retained messages at all.
    pub(super) fn begin_replay(
        &mut self,
        session: SessionId,
        subscription: &Subscription,
        id: Option<ReplayId>,
        is_new: bool,
    ) {
        match id.filter(|_| wants_retained(&subscription.filter, &subscription.options, is_new)) {
            Some(id) => self.replays.begin(session, subscription, id),
            None => self.replays.renew(session, subscription),
        }
    }

    /// Appends a value to the session's queue and moves the cursor of its replay. A value that finds no room is not
    /// stored, as a live message would not be (R23); the replay goes on behind it.
    pub(super) fn replay_step(
        &mut self,
        place: Place,
        batch: &Batch,
        step: &ReplayStep,
        events: &mut Events<'_>,
    ) -> Outcome {
        if let Some(refused) = self.fence(step.session, step.epoch) {
            return refused;
        }
        let Some(replay) = self.replays.next_of(step) else {
            return Outcome::Refused(RefusedReason::Fenced);
        };
        let (qos, ids) = (replay.qos, replay.subscription_id);
        self.replays.advance(step);
        let Some(value) = &step.value else {
            return Outcome::Done;
        };
        let qos = value.qos.min(qos);
        if qos == QoS::AtMostOnce {
            return Outcome::Done;
        }
        let queue = TargetQueue::Session(step.session);
        let size = counted_bytes(value);
        let delivery = Delivery::new(qos, true, ids.as_slice()).replayed(true);
        let (messages, now) = (&mut self.messages, self.time);
        let refer = || {
            let slot = messages.insert(place, Stored::now(value.clone(), None, now));
            messages.add_reference(slot);
            slot
        };
        let stored = self
            .queues
            .push(&queue, &batch.queue_limits, size, delivery, refer);
        if let Some(sequence) = stored {
            events.queued(&queue, sequence, size);
        }
        Outcome::Published {
            duplicate: false,
            stored: u32::from(stored.is_some()),
            refused: u32::from(stored.is_none()),
        }
    }
}
