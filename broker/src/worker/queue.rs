//! A durable session's queues, as its connection sees them: pulls references from the groups as the window allows
//! (R29) and sends them.

use std::collections::VecDeque;
use std::rc::Rc;

use quorate_cluster::node::{
    DATA_GROUPS, Location, MEMORY_GROUPS, Placement, PullRequest, References, SLOT_SIZE,
};
use quorate_cluster::state::{GroupTime, PulledReference, Sequence, SessionId};
use quorate_proto::codec::{PacketId, QoS};
use quorate_proto::session::{
    DeliverResult, DeliveryPhase, DeliveryToken, DropReason, Instant, PacketIdSource, TrackedDelivery,
};
use smallvec::SmallVec;

use super::Worker;
use super::connection::{Conn, ConnState};
use super::counting::drop_reason;
use super::crossers::{Content, Queued};
use super::retained::Replays;

/// Groups with queues, one bit each in the masks below.
pub(super) const SLOTS: usize = (DATA_GROUPS + MEMORY_GROUPS) as usize;
/// Tokens with this bit are not references of the session's own queues.
pub(super) const OTHER_TOKENS: u64 = 1 << 63;

/// The token of a reference: slot and sequence.
fn token_of(slot: u8, sequence: Sequence) -> DeliveryToken {
    DeliveryToken(u64::from(slot) << 56 | sequence.0)
}

/// Slot and sequence of a reference's token; `None` for other tokens.
pub(super) fn token_parts(token: DeliveryToken) -> Option<(u8, Sequence)> {
    if token.0 & OTHER_TOKENS != 0 {
        return None;
    }
    let slot = u8::try_from(token.0 >> 56).ok()?;
    Some((slot, Sequence(token.0 & ((1 << 56) - 1))))
}

/// A reference that was pulled and not sent yet.
#[derive(Debug)]
struct Held {
    slot: u8,
    reference: PulledReference,
    phase: DeliveryPhase,
    expires_at: Option<Instant>,
}

/// Where the connection is in its session's queues.
#[derive(Debug, Default)]
pub(super) struct DurableQueue {
    /// Where to go on, by slot.
    next: [Sequence; SLOTS],
    /// Pulls under way: how many were asked for, by slot.
    asked: [u16; SLOTS],
    /// Slots that have references which were not pulled.
    ready: u32,
    /// Slots that have references for which no identifier is free (R22).
    stopped: u32,
    /// Slots whose groups have not answered since the session was continued. They wait for a barrier, and may have no
    /// leader: what they were asked for takes no place from others.
    unheard: u32,
    /// The slot that is asked first when there is room again.
    turn: u8,
    /// Until when the session's last connection may have been sent what an earlier start of the node stored; `None`
    /// where nothing can have been.
    closed_at: Option<GroupTime>,
    /// References of each group that are still judged by `closed_at`.
    unsure: [u16; SLOTS],
    held: VecDeque<Held>,
    /// The session had a connection before.
    is_resumed: bool,
}

impl DurableQueue {
    /// A session that is continued may have references in every group.
    ///
    /// `window_max` is what the window of any connection holds at most.
    pub(super) fn resumed(closed_at: Option<GroupTime>, window_max: u16) -> Self {
        Self {
            ready: (1 << SLOTS) - 1,
            unheard: (1 << SLOTS) - 1,
            closed_at,
            unsure: [window_max; SLOTS],
            is_resumed: true,
            ..Self::default()
        }
    }

    /// Whether the session's last connection may have been sent a reference of an earlier start of the node, which
    /// nobody remembers: as many as a window holds, of what was stored before the connection ended.
    fn may_have_been_sent(&mut self, slot: u8, received_at: GroupTime) -> bool {
        let unsure = &mut self.unsure[usize::from(slot)];
        let may = *unsure > 0 && self.closed_at.is_some_and(|closed_at| received_at <= closed_at);
        *unsure = unsure.saturating_sub(1);
        may
    }

    /// Whether something was pulled that is not sent yet.
    pub(super) fn holds_some(&self) -> bool {
        !self.held.is_empty()
    }

    /// How many references are pulled or asked for.
    fn pulled(&self) -> usize {
        let asked: usize = self.asked.iter().map(|asked| usize::from(*asked)).sum();
        self.held.len() + asked
    }

    /// How many references are pulled, asked for, or known to be there in one group each.
    pub(super) fn known_to_wait(&self) -> usize {
        self.pulled() + (self.ready | self.stopped).count_ones() as usize
    }

    /// How many references are pulled, or asked of groups that answer.
    fn expected(&self) -> usize {
        let asked = self.asked.iter().enumerate();
        let heard = asked.filter(|(slot, _)| self.unheard & (1 << slot) == 0);
        self.held.len() + heard.map(|(_, asked)| usize::from(*asked)).sum::<usize>()
    }

    /// Shares what the window has room for among the groups that have references (R29): slots, where to go on, and for how
    /// many to ask. Where there is less room than groups, those whose turn it is get it. Groups that were not heard of yet
    /// are asked for one each beside that.
    fn share_out(&mut self, window_free: usize) -> Vec<(u8, Sequence, usize)> {
        let mut room = window_free.saturating_sub(self.expected());
        let mut requests = Vec::new();
        if room > 0 {
            let asked_first = self.ready & self.unheard;
            let slots = (0..SLOTS).filter(|slot| asked_first & (1 << slot) != 0 && self.asked[*slot] == 0);
            for slot in slots.collect::<SmallVec<[usize; SLOTS]>>() {
                self.ready &= !(1 << slot);
                self.asked[slot] = 1;
                let number = u8::try_from(slot).expect("few slots");
                requests.push((number, self.next[slot], 1));
            }
        }
        while room > 0 {
            let from_turn = (0..SLOTS).map(|step| (usize::from(self.turn) + step) % SLOTS);
            let heard = self.ready & !self.unheard;
            let mut idle = from_turn.filter(|slot| heard & (1 << slot) != 0 && self.asked[*slot] == 0);
            let Some(slot) = idle.next() else { break };
            let count = (room / (1 + idle.count())).max(1);
            self.ready &= !(1 << slot);
            self.asked[slot] = u16::try_from(count).unwrap_or(u16::MAX);
            room -= count;
            let number = u8::try_from(slot).expect("few slots");
            self.turn = number + 1;
            requests.push((number, self.next[slot], count));
        }
        requests
    }

    /// The answer of a group: where its queue goes on, and whether there is more.
    fn answered(&mut self, slot: u8, next: Sequence, more: bool, window_stopped: bool) {
        self.asked[usize::from(slot)] = 0;
        self.unheard &= !(1 << slot);
        self.next[usize::from(slot)] = next;
        if more {
            self.ready |= 1 << slot;
        }
        self.stopped &= !(1 << slot);
        self.stopped |= u32::from(window_stopped) << slot;
    }

    /// A group has references, or identifiers for those it had.
    fn has_some(&mut self, slot: u8) {
        self.ready |= 1 << slot;
        self.stopped &= !(1 << slot);
    }

    /// Whether a reference is certain to be sent for the first time. Of a session that is continued only what was pulled is
    /// known: its last connection may have been sent the rest.
    pub(super) fn is_unsent(&self, slot: u8, sequence: Sequence) -> bool {
        let is_it = |held: &Held| held.slot == slot && held.reference.sequence == sequence;
        let is_fresh = |held: &Held| held.phase == DeliveryPhase::Fresh;
        let next = self.next.get(usize::from(slot));
        (!self.is_resumed && next.is_some_and(|next| sequence >= *next))
            || self.held.iter().any(|held| is_it(held) && is_fresh(held))
    }

    /// Whether everything that is known to wait in a group has been sent.
    pub(super) fn is_drained(&self, slot: u8) -> bool {
        (self.ready | self.stopped) & (1 << slot) == 0
            && self.asked[usize::from(slot)] == 0
            && self.held.iter().all(|held| held.slot != slot)
    }

    /// Whether a reference with this packet identifier is still to be sent; a PUBREC for it was committed, so it goes
    /// on with PUBREL.
    pub(super) fn expects(&mut self, packet_id: PacketId) -> bool {
        let number = u64::from(packet_id.get()) - 1;
        let slot = u8::try_from(number / SLOT_SIZE).unwrap_or(u8::MAX);
        let mut waiting = self.held.iter_mut();
        let held = waiting
            .find(|held| held.slot == slot && held.reference.sequence.0 % SLOT_SIZE == number % SLOT_SIZE);
        match held {
            Some(held) => {
                held.phase = DeliveryPhase::Received;
                true
            }
            // What is not pulled yet comes with the mark.
            None => self.ready & (1u32.checked_shl(u32::from(slot)).unwrap_or(0)) != 0,
        }
    }
}

impl Worker {
    /// A group has references for a session.
    pub(super) fn handle_pending(self: &Rc<Self>, location: Location, slot: u8) {
        let Some(conn) = self.connection(location) else {
            return;
        };
        if let Some(queue) = &mut conn.state.borrow_mut().queue {
            queue.has_some(slot);
        }
        self.pull(&conn);
    }

    /// The window may have room: send what is held, ask for more, go on with retained messages.
    pub(super) fn window_moved(self: &Rc<Self>, conn: &Rc<Conn>) {
        let (queue, rare) = {
            let state = conn.state.borrow();
            (state.queue.is_some(), state.rare.is_some())
        };
        if queue {
            self.send_held(conn);
            self.pull(conn);
        }
        if rare {
            self.send_shared_waiting(conn);
            self.replay(conn);
        }
    }

    /// Asks groups that have references for as many as the window has room for.
    pub(super) fn pull(&self, conn: &Rc<Conn>) {
        let mut state = conn.state.borrow_mut();
        let Some((session, _)) = state.session() else {
            return;
        };
        let free = state.protocol.window_free();
        let Some(queue) = &mut state.queue else { return };
        let requests = queue.share_out(free);
        drop(state);
        for (slot, from, count) in requests {
            self.request(conn, session, slot, from, count);
        }
    }

    fn request(&self, conn: &Conn, session: SessionId, slot: u8, from: Sequence, count: usize) {
        // Before the group looks: what comes after that is told again.
        self.shared.router.read(|table| {
            if let Some(queue) = table.session(session).and_then(|route| route.queue.as_ref()) {
                queue.untell(slot);
            }
        });
        self.shared.node().group_of_slot(slot).pull(PullRequest {
            session,
            location: conn.location,
            from,
            count_max: u32::try_from(count).unwrap_or(u32::MAX),
        });
    }

    /// The answer to a pull.
    pub(super) fn handle_references(self: &Rc<Self>, references: References) {
        let Some(conn) = self.connection(references.location) else {
            return;
        };
        let slot = Placement::packet_id_slot(references.group);
        let now = self.now();
        {
            let mut state = conn.state.borrow_mut();
            let Some(queue) = &mut state.queue else { return };
            queue.answered(slot, references.next, references.more, references.window_stopped);
            for reference in references.references {
                // An equal stamp may be one from before: the clock goes on where it stopped.
                let before_start = reference.received_at <= references.started;
                let phase = if reference.received {
                    DeliveryPhase::Received
                } else if reference.sequence < references.sent_before
                    || (before_start && queue.may_have_been_sent(slot, reference.received_at))
                {
                    DeliveryPhase::Resent
                } else {
                    DeliveryPhase::Fresh
                };
                let expires_at = reference.expires_at.map(|at| translate(at, references.now, now));
                queue.held.push_back(Held {
                    slot,
                    reference,
                    phase,
                    expires_at,
                });
            }
        }
        self.window_moved(&conn);
    }

    /// Sends what was pulled, in order, as far as window and identifiers allow.
    fn send_held(&self, conn: &Rc<Conn>) {
        loop {
            let mut state = conn.state.borrow_mut();
            let Some((session, _)) = state.session() else {
                return;
            };
            let Some(held) = state.queue.as_mut().and_then(|queue| queue.held.pop_front()) else {
                return;
            };
            let state = &mut *state;
            let is_home = held.slot == Placement::packet_id_slot(Placement::home_of(session));
            if let Some(rare) = &mut state.rare
                && is_home
            {
                rare.replays.reached(held.reference.received_at);
            }
            let is_first = held.phase == DeliveryPhase::Fresh;
            let is_own = |replays: &Replays| held.reference.replayed && replays.is_own(is_first, is_home);
            if let Some(rare) = &mut state.rare
                && is_own(&rare.replays)
                && held.phase != DeliveryPhase::Received
                && rare.replays.is_overtaken(held.reference.message.topic())
            {
                rare.replays.value_sent();
                self.note_queued_dropped(session, &held);
                self.propose_settled(session, held.slot, held.reference.sequence);
                continue;
            }
            let queued = self.judge(session, &held);
            if queued == Some(Queued::Needless) {
                if let Some(rare) = &mut state.rare {
                    rare.replays.value_sent();
                }
                self.propose_settled(session, held.slot, held.reference.sequence);
                continue;
            }
            self.lend_buffer(&mut state.out);
            let result = state
                .protocol
                .deliver_tracked(&tracked(&held), self.now(), &mut state.out);
            if let Some(rare) = &mut state.rare
                && result != DeliverResult::Busy
            {
                if is_own(&rare.replays) {
                    rare.replays.value_sent();
                }
                // Also where the group cannot tell whether an earlier connection was sent it: it was counted.
                if held.reference.shared {
                    rare.shared.one_was_sent();
                }
                let is_sent = matches!(result, DeliverResult::Sent | DeliverResult::Queued);
                // What a share had belongs to another subscription.
                if is_first && is_sent && !held.reference.replayed && !held.reference.shared {
                    rare.replays.note_live(held.reference.message.topic());
                }
            }
            let is_sent = matches!(result, DeliverResult::Sent | DeliverResult::Queued);
            // What a share had belongs to another subscription, and of what the client had there is PUBREL alone.
            if is_sent && !held.reference.shared && held.phase != DeliveryPhase::Received {
                self.note_queued_sent(state, session, &held, queued);
            }
            match result {
                DeliverResult::Busy => {
                    if let Some(queue) = &mut state.queue {
                        queue.held.push_front(held);
                    }
                    return;
                }
                DeliverResult::Dropped(DropReason::NotConnected) => return,
                DeliverResult::Dropped(reason) => {
                    self.counters.messages_dropped.of(drop_reason(reason)).increment();
                    self.note_queued_dropped(session, &held);
                    self.propose_settled(session, held.slot, held.reference.sequence);
                }
                DeliverResult::Sent | DeliverResult::Queued if !is_first => {
                    self.counters.messages_resent.increment();
                    self.mark_dirty(conn);
                }
                DeliverResult::Sent | DeliverResult::Queued => {
                    self.counters
                        .messages_delivered
                        .of(held.reference.qos)
                        .increment();
                    self.mark_dirty(conn);
                }
            }
        }
    }
}

impl Worker {
    /// What is to become of a retained message that the connection has not sent before; `None` for all others (R33).
    fn judge(&self, session: SessionId, held: &Held) -> Option<Queued> {
        let is_it = held.reference.replayed && held.phase == DeliveryPhase::Fresh;
        is_it.then(|| {
            let mut crossers = self.crossers.borrow_mut();
            crossers.judge_queued(session, &held.reference.message)
        })
    }

    fn note_queued_sent(
        &self,
        state: &mut ConnState,
        session: SessionId,
        held: &Held,
        queued: Option<Queued>,
    ) {
        let message = &held.reference.message;
        let mut crossers = self.crossers.borrow_mut();
        if queued.is_none() {
            return crossers.note_sent(session, message.topic(), || Content::of(message));
        }
        crossers.queued_sent(session, message);
        if let Some(rare) = state.rare.as_mut().filter(|_| queued == Some(Queued::Given)) {
            rare.replays.note_given(message);
        }
    }
}

impl Worker {
    /// A retained message of a queue will not be sent.
    fn note_queued_dropped(&self, session: SessionId, held: &Held) {
        if held.reference.replayed && held.phase == DeliveryPhase::Fresh {
            let topic = held.reference.message.topic();
            self.crossers.borrow_mut().queued_dropped(session, topic);
        }
    }
}

fn tracked(held: &Held) -> TrackedDelivery<'_> {
    let reference = &held.reference;
    debug_assert_ne!(reference.qos, QoS::AtMostOnce, "references are at QoS 1 and 2");
    // A QoS 2 reference that an earlier connection may have begun and that expired meanwhile: the client either holds
    // it and completes, or answers that it does not know the identifier (R23).
    TrackedDelivery {
        token: token_of(held.slot, reference.sequence),
        packet_id: PacketIdSource::Derived {
            group: held.slot,
            sequence: reference.sequence.0,
        },
        message: &reference.message,
        qos: reference.qos,
        retain: reference.retain,
        subscription_ids: &reference.subscription_ids,
        expires_at: held.expires_at,
        phase: held.phase,
    }
}

/// A moment of group time on this node's clock.
pub(super) fn translate(at: GroupTime, group_now: GroupTime, now: Instant) -> Instant {
    Instant((now.0 + at.0).saturating_sub(group_now.0))
}

#[cfg(test)]
mod tests;
