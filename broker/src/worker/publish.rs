//! A PUBLISH on its way in: authorise, plan, deliver to live subscribers, propose for durable ones.
//!
//! Live subscribers get QoS 0 and 1 when matched, in publisher order (R12). A QoS 2 publish of a durable session goes
//! through the home group first and reaches live subscribers after the commit (R11), so that a repeat after any
//! failure is recognised before anybody sees it twice.

use std::rc::Rc;
use std::sync::Arc;

use quorate_cluster::node::{Placement, Publish};
use quorate_cluster::state::{Epoch, MessageParts, Origin, SessionId, Target};
use quorate_proto::codec::{QoS, ReasonCode};
use quorate_proto::message::Message;
use quorate_proto::session::{Close, PublishOutcome, PublishRequest, PublishToken};
use quorate_proto::topic;
use quorate_storage::log::GroupId;
use smallvec::SmallVec;

use super::connection::Conn;
use super::recipients::{Matched, Shares, has_live_taker};
use super::ticket::{Answer, ExactlyOnce, LivePublish, WaitsFor, WaitsForAck};
use super::{AckWait, Ticket, Worker};
use crate::auth::Action as AuthorizedAction;
use crate::config::DurabilityClass;
use crate::router::Plan;

/// A message as the routes see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Published<'a> {
    pub(super) topic: &'a str,
    pub(super) forwardable: &'a [u8],
    pub(super) payload: &'a [u8],
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) expiry_secs: Option<u32>,
    pub(super) publisher: Option<SessionId>,
}

impl<'a> Published<'a> {
    pub(super) fn of(message: &'a Message, publisher: Option<SessionId>) -> Self {
        Self {
            topic: message.topic(),
            forwardable: message.forwardable(),
            payload: message.payload(),
            qos: message.qos,
            retain: message.retain,
            expiry_secs: message.expiry_secs,
            publisher,
        }
    }

    pub(super) fn parts(&self) -> MessageParts<'a> {
        MessageParts {
            topic: self.topic,
            forwardable: self.forwardable,
            payload: self.payload,
            qos: self.qos,
            retain: self.retain,
            expiry_secs: self.expiry_secs,
        }
    }

    pub(super) fn to_message(self) -> Message {
        Message::new(
            self.topic,
            self.forwardable,
            self.payload,
            self.qos,
            self.retain,
            self.expiry_secs,
        )
    }
}

/// Durable queues that get a message.
pub(super) type Targets = SmallVec<[Target; 2]>;

impl Worker {
    pub(super) fn handle_publish(
        self: &Rc<Self>,
        conn: &Rc<Conn>,
        request: PublishRequest<'_>,
    ) -> Result<(), Close> {
        let PublishRequest {
            publish,
            topic,
            token,
        } = request;
        self.counters.messages_received.of(publish.qos).increment();
        let is_repeat = token.as_ref().is_some_and(PublishToken::is_repeat);
        if let Some(reason) = self.forbidden(conn, &topic) {
            if is_repeat {
                // What was taken on an earlier connection is not refused any more, and nothing of this goes further.
                return self.answer(conn, token, PublishOutcome::Accepted { matched: true });
            }
            self.counters.publishes_refused.of(reason).increment();
            return self.answer(conn, token, PublishOutcome::Refused(reason));
        }
        let is_new_value = publish.retain && !publish.payload.is_empty() && !is_repeat;
        if is_new_value && self.shared.retained_is_full(&topic) {
            self.counters
                .publishes_refused
                .of(ReasonCode::QUOTA_EXCEEDED)
                .increment();
            return self.answer(conn, token, PublishOutcome::Refused(ReasonCode::QUOTA_EXCEEDED));
        }
        let session = conn.session();
        let published = Published {
            topic: &topic,
            forwardable: &publish.forwardable,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            expiry_secs: publish.message_expiry_secs,
            publisher: session.map(|(session, _)| session),
        };
        let plan = self.plan(&topic);
        if !is_repeat {
            self.note_published(&topic, &plan);
        }
        match (token, session) {
            (Some(token), Some((session, epoch)))
                if token.is_exactly_once() && Placement::is_durable(session) =>
            {
                self.publish_exactly_once(conn, &plan, &published, token, (session, epoch))
            }
            (token, session) => self.publish_live_first(conn, &plan, &published, token, session),
        }
    }

    /// The reason a client must not publish to a topic.
    fn forbidden(&self, conn: &Conn, topic: &str) -> Option<ReasonCode> {
        // Topics of the broker itself [MQTT5 4.7.2].
        if topic.starts_with("$SYS/") || topic == "$SYS" {
            return Some(ReasonCode::NOT_AUTHORIZED);
        }
        let allowed = self.is_authorized(conn, AuthorizedAction::Publish, topic);
        (!allowed).then_some(ReasonCode::NOT_AUTHORIZED)
    }

    pub(super) fn wait_for_ack(&self, conn: &Conn, token: PublishToken) -> WaitsForAck {
        let mut waits = self.ack_waits.borrow_mut();
        let wait = waits.begin(conn.location, std::time::Instant::now());
        WaitsForAck { token, wait }
    }

    /// Counts how long a publisher waited.
    pub(super) fn ack_wait_over(&self, wait: AckWait) {
        let waited = self.ack_waits.borrow_mut().end(wait, std::time::Instant::now());
        if let Some(waited) = waited {
            self.counters.publish_ack.observe(waited);
        }
    }

    fn answer(
        &self,
        conn: &Rc<Conn>,
        token: Option<PublishToken>,
        outcome: PublishOutcome,
    ) -> Result<(), Close> {
        let Some(token) = token else { return Ok(()) };
        // Within this turn: below what the histogram can tell.
        self.counters.publish_ack.observe(std::time::Duration::ZERO);
        let state = &mut *conn.state.borrow_mut();
        self.lend_buffer(&mut state.out);
        state
            .protocol
            .handle_publish_outcome(token, outcome, &mut state.out)
    }

    fn publish_live_first(
        self: &Rc<Self>,
        conn: &Rc<Conn>,
        plan: &Rc<Plan>,
        published: &Published<'_>,
        token: Option<PublishToken>,
        session: Option<(SessionId, Epoch)>,
    ) -> Result<(), Close> {
        let mut matched = self.match_durable(plan, published, Shares::Durable);
        let taken = self.deliver_live(plan, published);
        matched.refused |= taken.refused;
        matched.live = taken.any;
        matched.any |= matched.live;
        if matched.durable.is_empty() && !published.retain {
            if !taken.nodes.is_empty() {
                self.answer_when_taken(conn, token, &taken.nodes);
                return Ok(());
            }
            let outcome = if matched.refused && !matched.any {
                PublishOutcome::Refused(ReasonCode::QUOTA_EXCEEDED)
            } else {
                PublishOutcome::Accepted { matched: matched.any }
            };
            return self.answer(conn, token, outcome);
        }
        let origin = match session {
            Some((session, epoch)) if Placement::is_durable(session) => Origin::Session {
                session,
                epoch,
                packet_id: None,
            },
            _ => Origin::Live {
                session: session.map(|(session, _)| session),
            },
        };
        let (group, origin) = match self.is_for_memory(conn, published) {
            // Nothing is known of sessions there.
            true => (
                memory_group(conn),
                Origin::Live {
                    session: published.publisher,
                },
            ),
            false => (publish_group(conn, &origin), origin),
        };
        let late = self.look_again(group, plan, published);
        let forwarded = match token {
            Some(_) => self.wait_until_taken(&taken.nodes),
            None => None,
        };
        let ticket = (token.is_some() || late.is_some()).then(|| Ticket {
            location: conn.location,
            waits_for: WaitsFor::Publish {
                ack: token.map(|token| self.wait_for_ack(conn, token)),
                matched: matched.any,
                late,
                answer: Answer::of(published.retain),
                forwarded,
            },
        });
        self.propose_publish(group, &origin, published, &matched, ticket);
        Ok(())
    }

    /// Whether queues of a message are of a weaker class than `quorum`. Only what is to be sent at QoS 1 is: QoS 2 and
    /// retained messages keep the promise they have, which is always allowed.
    fn is_for_memory(&self, conn: &Conn, published: &Published<'_>) -> bool {
        let rules = &self.shared.settings.durability;
        if published.qos != QoS::AtLeastOnce || published.retain {
            return false;
        }
        let matching = |(filter, _): &&(String, DurabilityClass)| topic::matches(filter, published.topic);
        let rule = rules.iter().find(matching);
        let class = rule.map_or(conn.listener.durability, |(_, class)| *class);
        class != DurabilityClass::Quorum
    }

    fn publish_exactly_once(
        self: &Rc<Self>,
        conn: &Rc<Conn>,
        plan: &Rc<Plan>,
        published: &Published<'_>,
        token: PublishToken,
        (session, epoch): (SessionId, Epoch),
    ) -> Result<(), Close> {
        // A share's queue gives its messages to members without durable session too, and once, whatever fails and
        // whoever joins or leaves meanwhile (R11, R40).
        let mut matched = self.match_durable(plan, published, Shares::All);
        matched.live = has_live_taker(plan, published);
        // Others' live subscribers get it from the group, so that it is once whatever fails (R11).
        matched.durable.extend(self.node_targets(plan, published));
        let nobody = matched.durable.is_empty() && !matched.live && !published.retain;
        if matched.refused && nobody && !self.is_repeat(session, &token) {
            let refused = PublishOutcome::Refused(ReasonCode::QUOTA_EXCEEDED);
            return self.answer(conn, Some(token), refused);
        }
        let origin = Origin::Session {
            session,
            epoch,
            packet_id: Some(token.packet_id()),
        };
        let group = publish_group(conn, &origin);
        let is_repeat = token.is_repeat();
        let waits_for = WaitsFor::ExactlyOnce(ExactlyOnce {
            ack: self.wait_for_ack(conn, token),
            // Who got a message that was taken before is not known here.
            live: matched.live && !is_repeat,
            epoch,
            publish: LivePublish {
                publisher: session,
                // What was taken before was matched where it was, and nobody is sent it again.
                late: match is_repeat {
                    true => None,
                    false => self.look_again(group, plan, published),
                },
                message: Arc::new(published.to_message()),
            },
            live_delivery: None,
        });
        let ticket = Ticket {
            location: conn.location,
            waits_for,
        };
        self.propose_publish(group, &origin, published, &matched, Some(ticket));
        Ok(())
    }

    /// Whether a QoS 2 message of a durable session is known already.
    fn is_repeat(&self, session: SessionId, token: &PublishToken) -> bool {
        let home = self.shared.node().home(session);
        // Of a session that is at home elsewhere only its group can tell.
        !home.is_here() || home.state().inbound(session).contains(&token.packet_id())
    }

    fn propose_publish(
        &self,
        group: GroupId,
        origin: &Origin,
        published: &Published<'_>,
        matched: &Matched,
        ticket: Option<Ticket>,
    ) {
        if published.retain {
            match published.payload.is_empty() {
                true => self.counters.retained_cleared.increment(),
                false => self.counters.retained_set.increment(),
            }
        }
        let publish = Publish {
            origin,
            message: published.parts(),
            targets: &matched.durable,
            set_retained: published.retain,
            taken_live: matched.live,
        };
        self.shared.node().group(group).propose_publish(&publish, ticket);
    }
}

/// The group of a client's publishes of a weaker class.
fn memory_group(conn: &Conn) -> GroupId {
    let state = conn.state.borrow();
    Placement::memory_of_client(state.protocol.client_id().map_or("", |client_id| client_id))
}

/// The group a publish is committed in.
fn publish_group(conn: &Conn, origin: &Origin) -> GroupId {
    match origin {
        Origin::Session { session, .. } => Placement::home_of(*session),
        _ => {
            let state = conn.state.borrow();
            Placement::data_of_client(state.protocol.client_id().map_or("", |client_id| client_id))
        }
    }
}
