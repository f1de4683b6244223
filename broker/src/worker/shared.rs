//! Messages of shared subscriptions that a connection of this worker was given.
//!
//! What a member holds at QoS 1 goes to another member when its connection is lost; at QoS 2 what was sent stays with
//! the session [MQTT-4.8.2-4, -5].

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use quorate_cluster::node::{
    Completion, Giving, Location, MemberAt, ShareDelivery, ShareHold, SharedReference,
};
use quorate_cluster::state::{NodeId, SessionId, ShareKey};
use quorate_proto::codec::QoS;
use quorate_proto::message::Message;
use quorate_proto::session::{
    DeliverResult, DeliveryPhase, DeliveryToken, DropReason, Instant, PacketIdSource, TrackedDelivery,
};
use quorate_storage::log::GroupId;

use super::connection::Conn;
use super::counting::drop_reason;
use super::held::{Lender, LenderNews, Returned};
use super::publish::Published;
use super::queue::{OTHER_TOKENS, translate};
use super::ticket::{Ticket, WaitsFor};
use super::{LiveShared, Mail, Worker};
use crate::metrics::DropReason as Dropped;
use crate::peers::{self, PeerBatch, Recipients};

/// Who gave a shared message to the connection, and is told what becomes of it.
#[derive(Debug, Clone)]
enum Holder {
    /// A group holds it until it is settled.
    Group { group: GroupId, hold: ShareHold },
    /// The worker whose connection published it holds it (R40).
    Lender { lender: Lender, number: u64 },
}

/// A shared message given to a connection.
#[derive(Debug)]
pub(crate) struct Shared {
    session: SessionId,
    holder: Holder,
    share: ShareKey,
    message: Message,
    qos: QoS,
    retain: bool,
    subscription_ids: Vec<u32>,
    expires_at: Option<Instant>,
}

impl Shared {
    fn is_offered(&self) -> bool {
        matches!(&self.holder, Holder::Group { hold, .. } if hold.giving == Giving::Offered)
    }
}

/// Who was told that a connection has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    Group { node: NodeId, group: GroupId },
    Lender(Lender),
}

/// What a connection holds of shared subscriptions.
#[derive(Debug, Default)]
pub(super) struct SharedHolds {
    waiting: VecDeque<Shared>,
    /// On their way into the session's own queue.
    moving: usize,
    /// These, and those that are there and were not sent.
    unsent: usize,
    sent: BTreeMap<DeliveryToken, Shared>,
    next_token: u64,
    /// Are told when there is room again (R39).
    refused: Vec<Refused>,
}

impl SharedHolds {
    /// Messages that will take a place in the connection's window.
    pub(super) fn to_be_sent(&self) -> usize {
        self.waiting.len() + self.unsent
    }

    /// One is on its way into the session's own queue.
    pub(super) fn one_moves(&mut self) {
        self.moving += 1;
        self.unsent += 1;
    }

    /// It is there, or never will be.
    pub(super) fn one_has_moved(&mut self) {
        self.moving = self.moving.saturating_sub(1);
    }

    /// One that came to the session's own queue was sent, or never will be.
    pub(super) fn one_was_sent(&mut self) {
        self.unsent = self.unsent.saturating_sub(1);
    }

    /// Nothing waits in the session's own queues: what came there and was not sent has expired.
    pub(super) fn own_are_empty(&mut self) {
        self.unsent = self.moving;
    }

    /// Whether the connection holds nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.unsent == 0 && self.sent.is_empty() && self.refused.is_empty()
    }
}

impl Worker {
    /// A message of a shared subscription without durable member.
    pub(super) fn deliver_live_shared(self: &Rc<Self>, live: LiveShared) {
        let shared = Shared {
            session: live.session,
            holder: Holder::Lender {
                lender: live.lender,
                number: live.number,
            },
            share: live.share,
            qos: live.message.qos.min(live.terms.qos),
            retain: live.message.retain && live.terms.retain_as_published,
            message: (*live.message).clone(),
            subscription_ids: live.terms.subscription_ids.to_vec(),
            expires_at: live.expires_at,
        };
        match self.open_connection(live.location) {
            Some(conn) => self.hold_shared(&conn, shared),
            None => self.give_back(&shared, false),
        }
    }

    /// References of shared queues for members here.
    pub(super) fn handle_shared_references(self: &Rc<Self>, references: Vec<SharedReference>) {
        for reference in references {
            let here = match reference.at {
                MemberAt::Here(location) => self.open_connection(location),
                MemberAt::There(_) => None,
            };
            let pulled = reference.reference;
            let now = self.now();
            let hold = ShareHold {
                share: reference.share.clone(),
                sequence: pulled.sequence,
                give: reference.give,
                giving: reference.giving,
                from: self.shared.settings.node,
            };
            let shared = Shared {
                session: reference.session,
                qos: given_qos(pulled.qos.min(reference.options.qos), hold.giving),
                holder: Holder::Group {
                    group: reference.group,
                    hold,
                },
                share: reference.share,
                retain: pulled.message.retain && reference.options.retain_as_published,
                message: pulled.message,
                subscription_ids: reference.subscription_id.into_iter().collect(),
                expires_at: pulled.expires_at.map(|at| translate(at, reference.now, now)),
            };
            self.take_reference(here.as_ref(), shared);
        }
    }

    /// A reference that another node's dispatch gives to a member here.
    pub(super) fn hold_forwarded(
        self: &Rc<Self>,
        session: SessionId,
        (group, hold): (GroupId, ShareHold),
        published: &Published<'_>,
    ) {
        if !self.looks_for(session) {
            return;
        }
        let (share, giving) = (hold.share.clone(), hold.giving);
        let given = |qos| given_qos(qos, giving);
        self.pass_on(session, &share, Holder::Group { group, hold }, published, given);
    }

    /// A message that another node's worker lends to a member here (R40).
    pub(super) fn borrow_forwarded(
        self: &Rc<Self>,
        session: SessionId,
        share: &ShareKey,
        (lender, number, is_final): (Lender, u64, bool),
        published: &Published<'_>,
    ) {
        if self.looks_for(session) {
            let holder = Holder::Lender { lender, number };
            // The lender may know another QoS of the subscription: what it gives to others is not sent at QoS 2.
            let given = |qos: QoS| match is_final {
                true => qos,
                false => qos.min(QoS::AtLeastOnce),
            };
            self.pass_on(session, share, holder, published, given);
        }
    }

    /// Whether it is this worker that looks where a member is. One looks for all: the others may look a moment later, and
    /// a connection that ends in between would be nobody's, and what was given to it never given back.
    fn looks_for(&self, session: SessionId) -> bool {
        session.0 % self.shared.mailboxes.len() as u64 == u64::from(self.index)
    }

    /// Looks where a member is, and lets its worker have what another node gives it.
    fn pass_on(
        self: &Rc<Self>,
        session: SessionId,
        share: &ShareKey,
        holder: Holder,
        published: &Published<'_>,
        given: impl FnOnce(QoS) -> QoS,
    ) {
        let members = self.shared.router.read(|table| table.share_members(share));
        let member = members.iter().find(|member| member.session == session);
        let here = member.and_then(|member| match member.at {
            MemberAt::Here(location) => Some((member, location)),
            MemberAt::There(_) => None,
        });
        let options = here.map(|(member, _)| member.options).unwrap_or_default();
        let subscription_id = here.and_then(|(member, _)| member.subscription_id);
        let shared = Shared {
            session,
            holder,
            share: share.clone(),
            qos: given(published.qos.min(options.qos)),
            retain: published.retain && options.retain_as_published,
            message: published.to_message(),
            subscription_ids: subscription_id.into_iter().collect(),
            expires_at: published.expiry_secs.map(|secs| self.now().plus_secs(secs)),
        };
        match here {
            Some((_, location)) if location.worker != self.index => {
                self.shared
                    .mail(location, Mail::Given(location, Box::new(shared)));
            }
            here => self.take_given(here.map(|(_, location)| location), shared),
        }
    }

    /// What another node gives to a member, at the member's worker; it goes back where the connection is gone.
    pub(super) fn take_given(self: &Rc<Self>, location: Option<Location>, shared: Shared) {
        let conn = location.and_then(|location| self.open_connection(location));
        match (&shared.holder, conn) {
            (Holder::Group { .. }, conn) => self.take_reference(conn.as_ref(), shared),
            (Holder::Lender { .. }, Some(conn)) => self.hold_shared(&conn, shared),
            (Holder::Lender { .. }, None) => self.give_back(&shared, false),
        }
    }

    /// A reference of a group for a connection, unless the group's leader counts on it that it did not come.
    fn take_reference(self: &Rc<Self>, conn: Option<&Rc<Conn>>, shared: Shared) {
        let Holder::Group { group, hold } = &shared.holder else {
            return;
        };
        let is_counted = hold.giving != Giving::Forgotten;
        if is_counted && !self.shared.node().group(*group).take_shared(hold, shared.session) {
            return;
        }
        match conn {
            Some(conn) => self.hold_shared(conn, shared),
            None if is_counted => self.give_back(&shared, false),
            None => {}
        }
    }

    /// Lets a connection have a message, unless the connection has no room for it (R39).
    fn hold_shared(self: &Rc<Self>, conn: &Rc<Conn>, shared: Shared) {
        if shared.is_offered() && shared.qos == QoS::AtMostOnce {
            // The subscription has changed since: the leader will give it otherwise.
            return self.give_back(&shared, false);
        }
        let has_room = {
            let state = &mut *conn.state.borrow_mut();
            let has_room = shared.qos == QoS::AtMostOnce || state.takes_shared();
            let holds = &mut state.rare().shared;
            if !has_room {
                let refused = match &shared.holder {
                    Holder::Group { group, hold } => Refused::Group {
                        node: hold.from,
                        group: *group,
                    },
                    Holder::Lender { lender, .. } => Refused::Lender(*lender),
                };
                if !holds.refused.contains(&refused) {
                    holds.refused.push(refused);
                }
            }
            has_room
        };
        if !has_room {
            return self.give_back(&shared, true);
        }
        if shared.is_offered() {
            return self.move_to_own(conn, shared);
        }
        conn.state.borrow_mut().rare().shared.waiting.push_back(shared);
        self.send_shared_waiting(conn);
    }

    /// Moves what is offered to a durable member to its own queue, from where it is sent (R37).
    fn move_to_own(self: &Rc<Self>, conn: &Rc<Conn>, shared: Shared) {
        let Holder::Group { group, hold } = &shared.holder else {
            return;
        };
        conn.state.borrow_mut().rare().shared.one_moves();
        let (group, hold) = (self.shared.node().group(*group).clone(), hold.clone());
        let delivery = ShareDelivery {
            qos: shared.qos,
            subscription_ids: shared.subscription_ids.clone(),
            retain: shared.retain,
        };
        let session = shared.session;
        let ticket = Ticket {
            location: conn.location,
            waits_for: WaitsFor::Moved(Box::new(shared)),
        };
        group.move_shared(&hold, session, delivery, ticket);
    }

    /// What was offered to a member is in its own queue, or is given back.
    pub(super) fn moved(self: &Rc<Self>, conn: Option<&Rc<Conn>>, shared: &Shared, completion: &Completion) {
        let is_back = matches!(&shared.holder, Holder::Group { group, hold }
            if !self.shared.node().group(*group).moved_shared(hold, completion));
        if is_back {
            self.give_back(shared, false);
        }
        if let Some(conn) = conn.filter(|conn| !conn.flags.get().ending) {
            let mut state = conn.state.borrow_mut();
            let holds = &mut state.rare().shared;
            holds.one_has_moved();
            if is_back {
                holds.one_was_sent();
            }
            drop(state);
            self.send_shared_waiting(conn);
        }
    }

    /// Sends what waits, as far as the window allows, and says where there is room for more.
    pub(super) fn send_shared_waiting(self: &Rc<Self>, conn: &Rc<Conn>) {
        loop {
            let mut state = conn.state.borrow_mut();
            let state = &mut *state;
            let own_wait = state
                .queue
                .as_ref()
                .is_some_and(|queue| queue.known_to_wait() > 0);
            if let Some(rare) = state.rare.as_mut().filter(|_| !own_wait) {
                rare.shared.own_are_empty();
            }
            let Some(holds) = state.rare.as_mut().map(|rare| &mut rare.shared) else {
                return;
            };
            let Some(shared) = holds.waiting.pop_front() else {
                break;
            };
            let token = DeliveryToken(OTHER_TOKENS | holds.next_token);
            self.lend_buffer(&mut state.out);
            let result = send(&mut state.protocol, token, &shared, self.now(), &mut state.out);
            let holds = &mut state.rare().shared;
            match result {
                DeliverResult::Busy => {
                    holds.waiting.push_front(shared);
                    return;
                }
                DeliverResult::Sent | DeliverResult::Queued => {
                    self.counters.messages_delivered.of(shared.qos).increment();
                    self.mark_dirty(conn);
                    if shared.qos > QoS::AtMostOnce {
                        holds.next_token += 1;
                        holds.sent.insert(token, shared);
                    } else {
                        self.done_with(&shared);
                    }
                }
                DeliverResult::Dropped(DropReason::NotConnected) => {
                    // The end of the connection gives it to another.
                    holds.waiting.push_front(shared);
                    return;
                }
                DeliverResult::Dropped(reason) => {
                    self.counters.messages_dropped.of(drop_reason(reason)).increment();
                    self.done_with(&shared);
                }
            }
        }
        self.tell_of_room(conn);
    }

    /// Who was told that the connection has no room is told that it has.
    fn tell_of_room(&self, conn: &Conn) {
        let (session, refused) = {
            let mut state = conn.state.borrow_mut();
            if !state.takes_shared() {
                return;
            }
            let Some((session, _)) = state.session() else {
                return;
            };
            let Some(rare) = &mut state.rare else { return };
            (session, std::mem::take(&mut rare.shared.refused))
        };
        for refused in refused {
            match refused {
                Refused::Group { node, group } if node == self.shared.settings.node => {
                    self.shared.node().group(group).share_member_has_room(session);
                }
                Refused::Group { node, group } => {
                    let groups = vec![group];
                    self.tell_peer(node, &Recipients::Dispatches { session, groups });
                }
                Refused::Lender(lender) => self.tell_lender(lender, LenderNews::HasRoom(session)),
            }
        }
    }

    fn tell_lender(&self, lender: Lender, news: LenderNews) {
        if lender.node == self.shared.settings.node {
            if lender.incarnation == self.shared.settings.incarnation {
                self.shared.mailboxes[usize::from(lender.worker)].send(Mail::LenderNews(news));
            }
            return;
        }
        self.tell_peer(lender.node, &Recipients::Lender { lender, news });
    }

    fn tell_peer(&self, node: NodeId, recipients: &Recipients) {
        let mut batch = PeerBatch::default();
        peers::put_item(&mut batch.items, recipients, &peers::NO_MESSAGE);
        self.shared.peers.send(&self.shared, node, batch);
    }

    /// The client is done with a shared message.
    pub(super) fn settle_shared(self: &Rc<Self>, conn: &Conn, token: DeliveryToken) {
        let shared = conn.state.borrow_mut().rare().shared.sent.remove(&token);
        if let Some(shared) = shared {
            self.done_with(&shared);
        }
    }

    fn done_with(&self, shared: &Shared) {
        match &shared.holder {
            Holder::Group { group, hold } => {
                if hold.giving != Giving::Forgotten {
                    self.shared.node().group(*group).settle_shared(hold);
                }
            }
            Holder::Lender { lender, number } => {
                let news = LenderNews::Returned(*number, shared.session, Returned::Done);
                self.tell_lender(*lender, news);
            }
        }
    }

    /// The connection is gone: what it held goes to other members. Its groups are told by the caller.
    pub(super) fn give_back_shared(self: &Rc<Self>, holds: SharedHolds) {
        let sent = holds.sent.into_values().map(|shared| (shared, true));
        let waiting = holds.waiting.into_iter().map(|shared| (shared, false));
        for (shared, is_sent) in sent.chain(waiting) {
            // What was sent at QoS 2 goes to nobody else, also when its session ends [MQTT-4.8.2-5].
            if is_sent && shared.qos == QoS::ExactlyOnce {
                self.counters
                    .messages_dropped
                    .of(Dropped::SessionEnded)
                    .increment();
                self.done_with(&shared);
            } else {
                self.give_back(&shared, false);
            }
        }
    }

    /// A message that the client was not sent, or did not acknowledge at QoS 1, goes to another member.
    fn give_back(self: &Rc<Self>, shared: &Shared, is_full: bool) {
        match &shared.holder {
            Holder::Group { group: id, hold } => {
                let group = self.shared.node().group(*id);
                let is_back = group.give_back_shared(hold);
                // After that: who asks now what is held is not told of this one.
                for giver in group.givers_of(hold) {
                    self.tell_giver(
                        giver,
                        (*id, hold),
                        shared,
                        (is_full && giver == hold.from, is_back),
                    );
                }
            }
            Holder::Lender { lender, number } => {
                if !self.shared.serves(lender.node, lender.incarnation) {
                    // Who held it is gone: this node holds it from now on.
                    return self.hold_own(&shared.share, &shared.message, shared.expires_at);
                }
                let returned = if is_full { Returned::Full } else { Returned::Back };
                let news = LenderNews::Returned(*number, shared.session, returned);
                self.tell_lender(*lender, news);
            }
        }
    }

    /// Tells a leader that a member has no room, and that a reference is nobody's.
    fn tell_giver(
        &self,
        giver: NodeId,
        (id, hold): (GroupId, &ShareHold),
        shared: &Shared,
        (is_full, is_back): (bool, bool),
    ) {
        if giver == self.shared.settings.node {
            let group = self.shared.node().group(id);
            if is_full {
                group.share_member_full(shared.session, &shared.share, hold.sequence, hold.give);
            }
            if is_back {
                group.share_returned(&hold.share, hold.sequence, hold.give);
            }
        } else if is_full || is_back {
            let recipients = Recipients::Dispatch {
                session: shared.session,
                share: shared.share.clone(),
                group: id,
                sequence: hold.sequence,
                give: hold.give,
                is_full,
                is_back,
            };
            self.tell_peer(giver, &recipients);
        }
    }
}

/// QoS of a group's reference: what may go to another member is not sent at QoS 2 (R37).
fn given_qos(qos: QoS, giving: Giving) -> QoS {
    match giving {
        Giving::Held | Giving::Offered => qos,
        Giving::Lent | Giving::Forgotten => qos.min(QoS::AtLeastOnce),
    }
}

fn send(
    protocol: &mut quorate_proto::session::Connection,
    token: DeliveryToken,
    shared: &Shared,
    now: Instant,
    out: &mut Vec<u8>,
) -> DeliverResult {
    if shared.qos == QoS::AtMostOnce {
        let delivery = quorate_proto::session::Delivery {
            retain: shared.retain,
            subscription_ids: &shared.subscription_ids,
            expires_at: shared.expires_at,
            ..quorate_proto::session::Delivery::of(&shared.message, QoS::AtMostOnce)
        };
        return protocol.deliver(&delivery, &mut || shared.message.clone(), now, out);
    }
    let tracked = TrackedDelivery {
        token,
        packet_id: PacketIdSource::Local,
        message: &shared.message,
        qos: shared.qos,
        retain: shared.retain,
        subscription_ids: &shared.subscription_ids,
        expires_at: shared.expires_at,
        phase: DeliveryPhase::Fresh,
    };
    protocol.deliver_tracked(&tracked, now, out)
}
