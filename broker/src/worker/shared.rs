//! Messages of shared subscriptions that a connection of this worker was given.
//!
//! What a member holds at QoS 1 goes to another member when its connection is lost; at QoS 2 what was sent stays with
//! the session [MQTT-4.8.2-4, -5].

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use quorate_cluster::node::{MemberAt, SharedReference};
use quorate_cluster::state::{Sequence, SessionId, ShareKey};
use quorate_proto::codec::QoS;
use quorate_proto::message::Message;
use quorate_proto::session::{
    ConnectionSettings, DeliverResult, DeliveryPhase, DeliveryToken, DropReason, Instant, PacketIdSource,
    TrackedDelivery,
};
use quorate_storage::log::GroupId;

use super::connection::Conn;
use super::counting::drop_reason;
use super::publish::{Published, next_member};
use super::queue::{OTHER_TOKENS, translate};
use super::{LiveShared, Worker};
use crate::metrics::DropReason as Dropped;
use crate::peers::Recipients;

/// Where a shared message comes from.
#[derive(Debug, Clone)]
enum Holder {
    /// A group holds it until it is settled.
    Group { group: GroupId, sequence: Sequence },
    /// Nobody but this connection.
    Live,
}

/// A shared message given to a connection.
#[derive(Debug)]
struct Shared {
    holder: Holder,
    share: ShareKey,
    message: Message,
    qos: QoS,
    retain: bool,
    subscription_ids: Vec<u32>,
    expires_at: Option<Instant>,
}

/// What a connection holds of shared subscriptions.
#[derive(Debug, Default)]
pub(super) struct SharedHolds {
    waiting: VecDeque<Shared>,
    /// Bytes of what waits and is held nowhere else.
    waiting_bytes: usize,
    sent: BTreeMap<DeliveryToken, Shared>,
    next_token: u64,
}

impl SharedHolds {
    /// Lets a message wait, unless it is held nowhere else and the session's limits say no.
    fn push(&mut self, shared: Shared, settings: &ConnectionSettings) -> bool {
        if matches!(shared.holder, Holder::Live) {
            let size = shared.message.size();
            let full = self.waiting.len() >= settings.queue_messages_max as usize
                || self.waiting_bytes + size > settings.queue_bytes_max as usize;
            if full {
                return false;
            }
            self.waiting_bytes += size;
        }
        self.waiting.push_back(shared);
        true
    }

    fn pop(&mut self) -> Option<Shared> {
        let shared = self.waiting.pop_front()?;
        if matches!(shared.holder, Holder::Live) {
            self.waiting_bytes -= shared.message.size();
        }
        Some(shared)
    }

    /// Puts back what [`Self::pop`] gave.
    fn put_back(&mut self, shared: Shared) {
        if matches!(shared.holder, Holder::Live) {
            self.waiting_bytes += shared.message.size();
        }
        self.waiting.push_front(shared);
    }

    /// Whether the connection holds nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty()
    }
}

impl Worker {
    /// A message of a shared subscription without durable member.
    pub(super) fn deliver_live_shared(self: &Rc<Self>, live: LiveShared) {
        let Some(conn) = self.open_connection(live.location) else {
            return self.give_to_another(live.share, &live.message, live.expires_at);
        };
        let shared = Shared {
            holder: Holder::Live,
            share: live.share,
            qos: live.message.qos.min(live.terms.qos),
            retain: live.message.retain && live.terms.retain_as_published,
            message: (*live.message).clone(),
            subscription_ids: live.terms.subscription_ids.to_vec(),
            expires_at: live.expires_at,
        };
        self.hold_shared(&conn, shared);
    }

    /// References of shared queues for members here.
    pub(super) fn handle_shared_references(self: &Rc<Self>, references: Vec<SharedReference>) {
        for reference in references {
            let here = match reference.at {
                MemberAt::Here(location) => self.open_connection(location),
                MemberAt::There(_) => None,
            };
            let Some(conn) = here else {
                let group = self.shared.node().group(reference.group);
                group.share_returned(&reference.share, reference.reference.sequence);
                continue;
            };
            let pulled = reference.reference;
            let now = self.now();
            let shared = Shared {
                holder: Holder::Group {
                    group: reference.group,
                    sequence: pulled.sequence,
                },
                share: reference.share,
                qos: pulled.qos.min(reference.options.qos),
                retain: pulled.message.retain && reference.options.retain_as_published,
                message: pulled.message,
                subscription_ids: reference.subscription_id.into_iter().collect(),
                expires_at: pulled.expires_at.map(|at| translate(at, reference.now, now)),
            };
            self.hold_shared(&conn, shared);
        }
    }

    /// A reference that another node's dispatch gives to a member here. False where the member is not here, which one
    /// worker says.
    pub(super) fn hold_forwarded(
        self: &Rc<Self>,
        session: SessionId,
        share: &ShareKey,
        (group, sequence): (GroupId, Sequence),
        published: &Published<'_>,
    ) -> bool {
        let members = self.shared.router.read(|table| table.share_members(share));
        let member = members.iter().find(|member| member.session == session);
        let here = member.and_then(|member| match member.at {
            MemberAt::Here(location) => Some((member, location)),
            MemberAt::There(_) => None,
        });
        let Some((member, location)) = here else {
            return self.index != 0;
        };
        if location.worker != self.index {
            return true;
        }
        let Some(conn) = self.open_connection(location) else {
            return false;
        };
        let shared = Shared {
            holder: Holder::Group { group, sequence },
            share: share.clone(),
            qos: published.qos.min(member.options.qos),
            retain: published.retain && member.options.retain_as_published,
            message: published.to_message(),
            subscription_ids: member.subscription_id.into_iter().collect(),
            expires_at: published.expiry_secs.map(|secs| self.now().plus_secs(secs)),
        };
        self.hold_shared(&conn, shared);
        true
    }

    fn hold_shared(self: &Rc<Self>, conn: &Rc<Conn>, shared: Shared) {
        let waits = {
            let state = &mut *conn.state.borrow_mut();
            let holds = &mut state.rare.get_or_insert_default().shared;
            holds.push(shared, state.protocol.settings())
        };
        if !waits {
            self.counters.messages_dropped.of(Dropped::QueueFull).increment();
        }
        self.send_shared_waiting(conn);
    }

    /// Sends what waits, as far as the window allows.
    pub(super) fn send_shared_waiting(self: &Rc<Self>, conn: &Rc<Conn>) {
        loop {
            let mut state = conn.state.borrow_mut();
            let state = &mut *state;
            let Some(holds) = state.rare.as_mut().map(|rare| &mut rare.shared) else {
                return;
            };
            let Some(shared) = holds.pop() else {
                return;
            };
            let token = DeliveryToken(OTHER_TOKENS | holds.next_token);
            self.lend_buffer(&mut state.out);
            let result = send(&mut state.protocol, token, &shared, self.now(), &mut state.out);
            let holds = &mut state.rare().shared;
            match result {
                DeliverResult::Busy => {
                    holds.put_back(shared);
                    return;
                }
                DeliverResult::Sent | DeliverResult::Queued => {
                    self.counters.messages_delivered.of(shared.qos).increment();
                    self.mark_dirty(conn);
                    if shared.qos > QoS::AtMostOnce {
                        holds.next_token += 1;
                        holds.sent.insert(token, shared);
                    }
                }
                DeliverResult::Dropped(DropReason::NotConnected) => {
                    // The end of the connection gives it to another.
                    holds.put_back(shared);
                    return;
                }
                DeliverResult::Dropped(reason) => {
                    self.counters.messages_dropped.of(drop_reason(reason)).increment();
                    self.done_with(&shared);
                }
            }
        }
    }

    /// The client is done with a shared message.
    pub(super) fn settle_shared(self: &Rc<Self>, conn: &Conn, token: DeliveryToken) {
        let shared = conn.state.borrow_mut().rare().shared.sent.remove(&token);
        if let Some(shared) = shared {
            self.done_with(&shared);
        }
    }

    fn done_with(&self, shared: &Shared) {
        if let Holder::Group { group, sequence } = shared.holder {
            self.shared
                .node()
                .group(group)
                .settle_shared(&shared.share, sequence);
        }
    }

    /// The connection is gone: what it held goes to other members. Its groups are told by the caller.
    pub(super) fn give_back_shared(self: &Rc<Self>, holds: SharedHolds) {
        let sent = holds.sent.into_values().map(|shared| (shared, true));
        let waiting = holds.waiting.into_iter().map(|shared| (shared, false));
        for (shared, is_sent) in sent.chain(waiting) {
            // What was sent at QoS 2 goes to nobody else, also when its session ends [MQTT-4.8.2-5].
            let is_over = is_sent && shared.qos == QoS::ExactlyOnce;
            match shared.holder {
                Holder::Group { group, sequence } => {
                    let group = self.shared.node().group(group);
                    if is_over {
                        group.settle_shared(&shared.share, sequence);
                    } else {
                        group.share_returned(&shared.share, sequence);
                    }
                }
                Holder::Live if is_over => self
                    .counters
                    .messages_dropped
                    .of(Dropped::SessionEnded)
                    .increment(),
                Holder::Live => self.give_to_another(shared.share, &shared.message, shared.expires_at),
            }
        }
    }

    pub(super) fn give_to_another(
        self: &Rc<Self>,
        share: ShareKey,
        message: &Message,
        expires_at: Option<Instant>,
    ) {
        let plan = self.plan(message.topic());
        let found = plan
            .shares
            .iter()
            .find(|planned| planned.key == share)
            .and_then(next_member);
        if let Some((member, node)) = found.and_then(|member| Some((member, member.remote?))) {
            let recipient = Recipients::Member {
                session: member.session,
                share,
            };
            return self.forward(node, &recipient, &Published::of(message, None));
        }
        let Some((member, location)) = found.and_then(|member| Some((member, member.location?))) else {
            self.counters.messages_dropped.of(Dropped::NoMember).increment();
            return;
        };
        self.send_live_shared(LiveShared {
            location,
            share,
            message: std::sync::Arc::new(message.clone()),
            terms: member.terms.clone(),
            expires_at,
        });
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
