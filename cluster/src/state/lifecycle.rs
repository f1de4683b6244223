//! Sessions from CONNECT to their end: takeover, expiry, wills, subscriptions, the loss of a node.

use std::sync::Arc;

use super::group::{Events, Place};
use super::replays::ReplayId;
use super::sessions::{Connection, EXPIRY_NEVER, Session};
use super::timers::{Timer, after_secs};
use super::wills::StoredWill;
use super::{
    Batch, ClientId, Epoch, Event, GroupState, NodeId, NodeIncarnation, Outcome, RefusedReason, SessionId,
    SubscribeResult, Subscription, TargetQueue, WillMessage,
};

/// Epoch of a session's first connection.
const FIRST_EPOCH: Epoch = Epoch(1);

/// What a CONNECT asks for.
#[derive(Debug)]
pub(super) struct OpenRequest<'a> {
    pub(super) client_id: &'a ClientId,
    pub(super) clean_start: bool,
    pub(super) expiry_secs: u32,
    pub(super) will: Option<&'a WillMessage>,
    pub(super) sessions_max: u32,
}

impl GroupState {
    /// A client connected. The limit on sessions is checked only where their number would grow.
    pub(super) fn open_session(
        &mut self,
        place: Place,
        batch: &Batch,
        request: &OpenRequest<'_>,
        events: &mut Events<'_>,
    ) -> Outcome {
        // Batches with a number are refused as a whole when their start is over; this is for those without.
        if self.proposers.is_lost(batch.node, batch.incarnation) {
            return Outcome::Refused(RefusedReason::Fenced);
        }
        let existing = self.sessions.id_of(request.client_id);
        let Ok(position) = u16::try_from(place.position) else {
            return Outcome::Refused(RefusedReason::LimitReached);
        };
        if existing.is_none() && self.sessions.len() >= request.sessions_max as usize {
            return Outcome::Refused(RefusedReason::LimitReached);
        }
        let previous = existing
            .and_then(|id| self.sessions.get(id))
            .and_then(Session::owner);
        let connection = Connection {
            node: batch.node,
            incarnation: batch.incarnation,
        };
        let resumed = existing
            .filter(|_| !request.clean_start)
            .and_then(|id| self.resume(id, connection, request.expiry_secs, events));
        let (session, epoch) = resumed.unwrap_or_else(|| {
            if let Some(id) = existing {
                let publish_will = !self.sessions.waits_for_return(id);
                self.end_session(id, publish_will, true, events);
            }
            let id = SessionId::new(self.group, place.index, position);
            self.create(id, connection, request);
            (id, FIRST_EPOCH)
        });
        if let Some(will) = request.will {
            self.wills.store(session, epoch, will);
        }
        events.push(Event::SessionOwner {
            client_id: request.client_id.clone(),
            session,
            owner: self.sessions.get(session).and_then(Session::owner),
            fenced: previous.filter(|_| resumed.is_some()),
        });
        Outcome::Opened {
            session,
            epoch,
            present: resumed.is_some(),
            previous,
            inbound: self.inbound.of(session).to_vec(),
            replaying: self.replays.of(session, None).next().is_some(),
        }
    }

    fn create(&mut self, id: SessionId, connection: Connection, request: &OpenRequest<'_>) {
        let session = Session {
            client_id: request.client_id.clone(),
            epoch: FIRST_EPOCH,
            connection: Some(connection),
            expiry_secs: request.expiry_secs,
            expires_at: None,
        };
        self.sessions.insert(id, session);
    }

    /// Gives a session to a new connection. None where there is nothing to go on with: the takeover ends the old
    /// connection first [MQTT-3.1.4-3], and a session of expiry 0 ends with it.
    ///
    /// The will of a connection that is taken over is due, unless it has a delay: then the client has come back before
    /// that passed [MQTT-3.1.3-9], as it has where a will was waiting.
    fn resume(
        &mut self,
        id: SessionId,
        connection: Connection,
        expiry_secs: u32,
        events: &mut Events<'_>,
    ) -> Option<(SessionId, Epoch)> {
        if !self.sessions.get(id)?.outlives_connection() {
            return None;
        }
        if let Some(will) = self.take_will(id)
            && will.will.delay_secs == 0
        {
            self.will_due(id, will, events);
        }
        let (epoch, deadline_off) = self.sessions.attach(id, connection, expiry_secs)?;
        if let Some(at) = deadline_off {
            self.timers.cancel(at, Timer::SessionExpiry(id));
        }
        Some((id, epoch))
    }

    /// The connection (session, epoch) ended.
    pub(super) fn close_connection(
        &mut self,
        id: SessionId,
        epoch: Epoch,
        publish_will: bool,
        expiry_secs: Option<u32>,
        events: &mut Events<'_>,
    ) -> Outcome {
        let Some(session) = self.sessions.get(id) else {
            return Outcome::Done;
        };
        if session.epoch != epoch {
            return Outcome::Refused(RefusedReason::Fenced);
        }
        if session.connection.is_some() {
            self.detach(id, publish_will, expiry_secs, events);
        }
        Outcome::Done
    }

    /// The connection (session, epoch) ended because its node is drained. What its will would tell is not so, if the client
    /// comes back in time.
    pub(super) fn drain_connection(
        &mut self,
        id: SessionId,
        epoch: Epoch,
        will_delay_secs: u32,
        events: &mut Events<'_>,
    ) -> Outcome {
        let is_current = self
            .sessions
            .get(id)
            .is_some_and(|session| session.epoch == epoch && session.connection.is_some());
        let has_to_wait = is_current && will_delay_secs > 0;
        let Some(mut will) = has_to_wait.then(|| self.wills.take(id)).flatten() else {
            return self.close_connection(id, epoch, true, None, events);
        };
        will.will.delay_secs = will.will.delay_secs.max(will_delay_secs);
        let ends = self.sessions.get(id).filter(|session| session.expiry_secs == 0);
        let Some(client_id) = ends.map(|session| session.client_id.clone()) else {
            self.wills.put_back(id, will);
            return self.close_connection(id, epoch, true, None, events);
        };
        // It ends when the time is over, and its will is due.
        let expires_at = after_secs(self.time, will_delay_secs);
        will.fires_at = Some(expires_at);
        self.wills.put_back(id, will);
        self.timers.schedule(expires_at, Timer::WillDelay(id));
        self.sessions.detach(id, 0, Some(expires_at));
        self.timers.schedule(expires_at, Timer::SessionExpiry(id));
        events.push(Event::SessionOwner {
            client_id,
            session: id,
            owner: None,
            fenced: None,
        });
        Outcome::Done
    }

    /// A session goes on, or not, without its connection.
    fn detach(
        &mut self,
        id: SessionId,
        publish_will: bool,
        expiry_secs: Option<u32>,
        events: &mut Events<'_>,
    ) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let expiry_secs = expiry_secs.unwrap_or(session.expiry_secs);
        if expiry_secs == 0 {
            self.end_session(id, publish_will, false, events);
            return;
        }
        let client_id = session.client_id.clone();
        let expires_at = (expiry_secs != EXPIRY_NEVER).then(|| after_secs(self.time, expiry_secs));
        self.sessions.detach(id, expiry_secs, expires_at);
        if let Some(at) = expires_at {
            self.timers.schedule(at, Timer::SessionExpiry(id));
        }
        events.push(Event::SessionOwner {
            client_id,
            session: id,
            owner: None,
            fenced: None,
        });
        let Some(mut will) = self.take_will(id).filter(|_| publish_will) else {
            return;
        };
        if will.will.delay_secs == 0 {
            self.will_due(id, will, events);
            return;
        }
        // Where the session ends before [MQTT-3.1.3.2.2], its end makes the will due.
        let fires_at = after_secs(self.time, will.will.delay_secs);
        will.fires_at = Some(fires_at);
        self.wills.put_back(id, will);
        self.timers.schedule(fires_at, Timer::WillDelay(id));
    }

    /// Ends a session with all it has in this group; other groups drop its references when they find it gone (R17).
    /// Its will, if it has not been published, is due now or forgotten. `fence` tells to close its connection.
    pub(super) fn end_session(
        &mut self,
        id: SessionId,
        publish_will: bool,
        fence: bool,
        events: &mut Events<'_>,
    ) {
        let will = self.take_will(id);
        let Some(session) = self.sessions.remove(id) else {
            return;
        };
        if let Some(at) = session.expires_at {
            self.timers.cancel(at, Timer::SessionExpiry(id));
        }
        self.subscriptions.remove_session(id);
        self.replays.remove_session(id);
        self.inbound.remove_session(id);
        self.parts.abandon_session(id, &mut self.messages);
        let fenced = session.owner().filter(|_| fence);
        events.push(Event::SessionEnded {
            client_id: session.client_id,
            session: id,
            fenced,
        });
        let queue = TargetQueue::Session(id);
        if let Some(dropped) = self.queues.drop_queue(&queue, &mut self.messages) {
            events.removed(&queue, dropped.count, dropped.bytes);
        }
        if let Some(will) = will.filter(|_| publish_will) {
            self.will_due(id, will, events);
        }
    }

    /// Takes a session's will off its record and its timer.
    fn take_will(&mut self, id: SessionId) -> Option<StoredWill> {
        let will = self.wills.take(id)?;
        if let Some(at) = will.fires_at {
            self.timers.cancel(at, Timer::WillDelay(id));
        }
        Some(will)
    }

    pub(super) fn will_due(&mut self, session: SessionId, will: StoredWill, events: &mut Events<'_>) {
        let epoch = will.epoch;
        self.wills.make_due(session, will);
        events.push(Event::WillDue { session, epoch });
    }

    /// All connections of a node's starts up to `incarnation` ended without a DISCONNECT (R3), and nobody takes what
    /// waits for them (R11).
    pub(super) fn node_lost(
        &mut self,
        node: NodeId,
        incarnation: NodeIncarnation,
        events: &mut Events<'_>,
    ) -> Outcome {
        self.proposers.lose(node, incarnation);
        for session in self.sessions.held_by(node, incarnation) {
            self.detach(session, true, None, events);
        }
        self.parts.abandon_node(node, incarnation, &mut self.messages);
        for queue in self.queues.of_node(node, incarnation) {
            if let Some(dropped) = self.queues.drop_queue(&queue, &mut self.messages) {
                events.removed(&queue, dropped.count, dropped.bytes);
            }
        }
        events.push(Event::NodeLost);
        Outcome::Done
    }

    /// `replay` names what the subscriptions begin that ask for retained messages; none where nobody goes on with it.
    pub(super) fn subscribe(
        &mut self,
        (session, epoch): (SessionId, Epoch),
        subscriptions: &[Subscription],
        subscriptions_max: u32,
        replay: Option<ReplayId>,
        events: &mut Events<'_>,
    ) -> Outcome {
        if let Some(refused) = self.fence(session, epoch) {
            return refused;
        }
        let mut results = Vec::with_capacity(subscriptions.len());
        for subscription in subscriptions {
            let result = self
                .subscriptions
                .insert(session, subscription, subscriptions_max);
            if result != SubscribeResult::LimitReached {
                self.begin_replay(session, subscription, replay, result == SubscribeResult::Added);
                events.push(Event::Subscribed {
                    session,
                    subscription: subscription.clone(),
                });
            }
            results.push(result);
        }
        Outcome::Subscribed(results)
    }

    pub(super) fn unsubscribe(
        &mut self,
        session: SessionId,
        epoch: Epoch,
        filters: &[Arc<str>],
        events: &mut Events<'_>,
    ) -> Outcome {
        if let Some(refused) = self.fence(session, epoch) {
            return refused;
        }
        let mut existed = Vec::with_capacity(filters.len());
        for filter in filters {
            let removed = self.subscriptions.remove(session, filter);
            if removed {
                self.replays.remove(session, filter);
                events.push(Event::Unsubscribed {
                    session,
                    filter: filter.clone(),
                });
            }
            existed.push(removed);
        }
        Outcome::Unsubscribed(existed)
    }
}
