//! A PUBLISH on its way in: authorise, plan, deliver to live subscribers, propose for durable ones.
//!
//! Live subscribers get QoS 0 and 1 when matched, in publisher order (R12). A QoS 2 publish of a durable session goes
//! through the home group first and reaches live subscribers after the commit (R11), so that a repeat after any
//! failure is recognised before anybody sees it twice.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use quorate_cluster::node::{Location, Placement, Publish};
use quorate_cluster::state::{Epoch, MessageParts, NodeId, Origin, SessionId, Target, TargetQueue};
use quorate_proto::codec::{QoS, ReasonCode};
use quorate_proto::message::Message;
use quorate_proto::session::{Close, Delivery, Instant, PublishOutcome, PublishRequest, PublishToken};
use quorate_proto::topic;
use quorate_storage::log::GroupId;
use smallvec::SmallVec;

use super::batch::FULL_BYTES;
use super::connection::Conn;
use super::held::Lent;
use super::ticket::{Answer, ExactlyOnce, LivePublish, WaitsFor, WaitsForAck};
use super::{AckWait, LiveShared, Mail, Ticket, Worker};
use crate::auth::Action as AuthorizedAction;
use crate::config::DurabilityClass;
use crate::metrics::DropReason;
use crate::peers::Recipients;
use crate::router::{Plan, PlannedShare, PlannedTarget, Terms};

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

/// Which shares get a message by their queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shares {
    /// Those with a durable member.
    Durable,
    /// Those with any member.
    All,
}

/// Who took a message without replication.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Somebody did.
    pub(super) any: bool,
    /// Too much waits for a share.
    pub(super) refused: bool,
    /// Other nodes that are to accept it.
    pub(super) nodes: SmallVec<[NodeId; 2]>,
}

impl Taken {
    fn add(&mut self, node: NodeId) {
        self.any = true;
        if !self.nodes.contains(&node) {
            self.nodes.push(node);
        }
    }
}

/// What matching found.
#[derive(Debug, Default)]
pub(super) struct Matched {
    /// Some subscription matched.
    pub(super) any: bool,
    /// Somebody gets it live.
    pub(super) live: bool,
    /// Some queue was full.
    pub(super) refused: bool,
    /// Durable queues that get it.
    pub(super) durable: Targets,
}

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

    /// The durable queues a message goes to; full ones refuse it (before the acknowledgement, as promised).
    pub(super) fn match_durable(&self, plan: &Plan, published: &Published<'_>, shares: Shares) -> Matched {
        let mut matched = Matched::default();
        for target in &plan.targets {
            let Some(terms) = target.terms_for(published.publisher) else {
                continue;
            };
            let qos = published.qos.min(terms.qos);
            let (Some(queue), true) = (&target.queue, qos > QoS::AtMostOnce) else {
                continue;
            };
            if self.shared.queue_is_full(queue) {
                matched.refused = true;
                self.counters
                    .messages_dropped
                    .of(DropReason::QueueFull)
                    .increment();
                continue;
            }
            matched.any = true;
            matched.durable.push(Target {
                queue: TargetQueue::Session(target.session),
                qos,
                retain: published.retain && terms.retain_as_published,
                replayed: false,
                subscription_ids: terms.subscription_ids.to_vec(),
            });
        }
        for share in &plan.shares {
            let is_meant = match shares {
                Shares::Durable => share.durable,
                Shares::All => share.durable || !share.members.is_empty(),
            };
            if is_meant && published.qos > QoS::AtMostOnce {
                matched.any = true;
                matched.durable.push(Target {
                    queue: TargetQueue::Share(share.key.clone()),
                    qos: published.qos,
                    retain: published.retain,
                    replayed: false,
                    subscription_ids: Vec::new(),
                });
            }
        }
        matched
    }

    /// Delivers to everybody who is connected and gets the message without replication. Whether there was anybody.
    pub(super) fn deliver_live(self: &Rc<Self>, plan: &Plan, published: &Published<'_>) -> Taken {
        let mut taken = self.deliver_live_here(plan, published);
        self.deliver_to_shares(plan, published, &mut taken);
        for node in plan.live_remotes(published.qos) {
            self.forward(node, &Recipients::Matching, published);
            taken.add(node);
        }
        taken
    }

    /// As [`Self::deliver_live`], to connections of this node, and to no shares.
    pub(super) fn deliver_live_here(self: &Rc<Self>, plan: &Plan, published: &Published<'_>) -> Taken {
        let expires_at = published.expiry_secs.map(|secs| self.now().plus_secs(secs));
        let mut taken = Taken::default();
        let mut any = false;
        let mut begun: Option<u16> = None;
        for target in &plan.targets {
            let Some(terms) = target.terms_for(published.publisher) else {
                continue;
            };
            let qos = published.qos.min(terms.qos);
            if target.queue.is_some() && qos > QoS::AtMostOnce {
                continue;
            }
            any = true;
            let Some(location) = target.location else { continue };
            self.deliver_to(location, published, terms, expires_at, &mut begun);
        }
        taken.any = any;
        taken
    }

    /// Gives a message to one member of each share without durable member, wherever it is; at QoS 0 of each share.
    fn deliver_to_shares(self: &Rc<Self>, plan: &Plan, published: &Published<'_>, taken: &mut Taken) {
        let expires_at = published.expiry_secs.map(|secs| self.now().plus_secs(secs));
        for share in &plan.shares {
            if published.qos == QoS::AtMostOnce {
                self.deliver_to_member(share, published, expires_at, taken);
                continue;
            }
            if share.durable {
                continue;
            }
            match self.hold_for_share(share, published, expires_at) {
                Lent::Nobody => {}
                Lent::Here => taken.any = true,
                Lent::There(node) => taken.add(node),
                Lent::Full => {
                    taken.refused = true;
                    self.counters
                        .messages_dropped
                        .of(DropReason::QueueFull)
                        .increment();
                }
            }
        }
    }

    pub(super) fn deliver_to(
        &self,
        location: Location,
        published: &Published<'_>,
        terms: &Terms,
        expires_at: Option<Instant>,
        begun: &mut Option<u16>,
    ) {
        let qos = published.qos.min(terms.qos);
        let retain = published.retain && terms.retain_as_published;
        if location.worker == self.index {
            let Some(conn) = self.connection(location) else {
                return;
            };
            let delivery = Delivery {
                topic: published.topic,
                forwardable: published.forwardable,
                payload: published.payload,
                qos,
                retain,
                subscription_ids: &terms.subscription_ids,
                expires_at,
            };
            self.deliver(&conn, &delivery);
            return;
        }
        let mut outgoing = self.outgoing.borrow_mut();
        let batch = &mut outgoing[usize::from(location.worker)];
        if *begun != Some(location.worker) {
            if batch.weight() >= FULL_BYTES {
                // Not to grow with what one turn publishes, and so that what waits is known. Between messages: a large
                // one is copied once, however many targets it has.
                self.shared.mailboxes[usize::from(location.worker)].send(Mail::Live(std::mem::take(batch)));
            }
            batch.begin(
                published.topic,
                published.forwardable,
                published.payload,
                expires_at,
            );
            *begun = Some(location.worker);
        }
        batch.target(
            location.slot,
            location.generation,
            qos,
            retain,
            &terms.subscription_ids,
        );
        drop(outgoing);
        self.mark_batches();
    }

    /// Delivers at QoS 0 to the next member of a shared subscription.
    fn deliver_to_member(
        self: &Rc<Self>,
        share: &PlannedShare,
        published: &Published<'_>,
        expires_at: Option<Instant>,
        taken: &mut Taken,
    ) {
        let Some(member) = next_member(share) else { return };
        if let Some(location) = member.location {
            // Another target of this message may share the worker: a message of its own keeps batches in order.
            self.deliver_to(location, published, &member.terms, expires_at, &mut None);
            taken.any = true;
        } else if let Some(node) = member.remote {
            let recipient = Recipients::Member {
                session: member.session,
                share: share.key.clone(),
            };
            self.forward(node, &recipient, published);
            taken.add(node);
        }
    }

    /// Hands a message of a shared subscription to its member's worker.
    pub(super) fn send_live_shared(self: &Rc<Self>, shared: LiveShared) {
        if shared.location.worker == self.index {
            self.deliver_live_shared(shared);
        } else {
            let mailbox = &self.shared.mailboxes[usize::from(shared.location.worker)];
            mailbox.send(Mail::Shared(Box::new(shared)));
        }
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

/// Whether [`Worker::deliver_live_here`] would find anybody.
fn has_live_taker(plan: &Plan, published: &Published<'_>) -> bool {
    let is_live = |target: &PlannedTarget| {
        let terms = target.terms_for(published.publisher);
        terms.is_some_and(|terms| target.queue.is_none() || published.qos.min(terms.qos) == QoS::AtMostOnce)
            && target.remote.is_none()
    };
    plan.targets.iter().any(is_live)
}

/// Round robin over the connected members.
fn next_member(share: &PlannedShare) -> Option<&PlannedTarget> {
    if share.members.is_empty() {
        return None;
    }
    let turn = share.turn.fetch_add(1, Ordering::Relaxed) as usize;
    share.members.get(turn % share.members.len())
}
