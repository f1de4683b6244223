//! Messages for shared subscriptions without durable member, at QoS 1 and 2: the worker whose connection published one
//! holds it until a member acknowledged it (R40).
//!
//! ```text
//! publisher's worker (here) --lends--> member's worker (`shared`) --> member
//!            ^                              |
//!            +--- done, given back, full ---+
//! ```
//!
//! A member that is lost, with its connection or its node, gives a message back, and the next one gets it. At QoS 2 what
//! a member may have been sent is over with it [MQTT-4.8.2-5]: its own node knows whether it was, and where that node is
//! lost too, it may have been. One that was dropped on its way to a node that took nothing for too long (R4) counts as sent
//! where it had left this node, and the member is closed; what was accepted stays with its member. Where a share has become durable, what is held for it goes to its queue. What no member
//! has room for waits here, within the limits of a queue, and beyond those is refused.

mod returned;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;
use quorate_cluster::node::{Placement, Publish};
use quorate_cluster::state::{NodeId, NodeIncarnation, Origin, SessionId, ShareKey, Target, TargetQueue};
use quorate_proto::codec::QoS;
use quorate_proto::message::Message;
use quorate_proto::session::Instant;

use super::publish::Published;
use super::{LiveShared, Worker};
use crate::metrics::DropReason;
use crate::peers::Recipients;
use crate::router::{PlannedShare, PlannedTarget};

/// Bytes that all workers of a node hold.
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Messages of one share that a member is lent at once: more than its window has, as its node knows that better.
const LENT_MAX: u32 = 128;
/// What a message counts beside its bytes.
const OVERHEAD: usize = 128;

/// Names a message that a worker of some node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Lender {
    /// The start of the node.
    pub(crate) node: NodeId,
    pub(crate) incarnation: NodeIncarnation,
    /// The worker.
    pub(crate) worker: u16,
}

/// What became of a message that was lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Returned {
    /// The member acknowledged it, or it is over with the member's session.
    Done,
    /// It was not sent, or not acknowledged at QoS 1: another may have it.
    Back,
    /// As [`Self::Back`]: the member has no room.
    Full,
}

/// What a member's node tells a lender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LenderNews {
    /// Of a message.
    Returned(u64, SessionId, Returned),
    /// A member that had no room has some.
    HasRoom(SessionId),
}

/// Bytes that the workers of this node hold.
#[derive(Debug, Default)]
pub(crate) struct HeldBytes(AtomicUsize);

impl HeldBytes {
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.bytes() + bytes <= HELD_BYTES_MAX
    }

    fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn remove(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Who has a message that is held here.
#[derive(Clone, Copy, Debug)]
struct Borrower {
    session: SessionId,
    node: NodeId,
    incarnation: NodeIncarnation,
    /// It is this member's for good.
    is_final: bool,
}

/// A message.
#[derive(Debug)]
struct HeldMessage {
    share: ShareKey,
    message: Arc<Message>,
    expires_at: Option<Instant>,
    /// Nobody while it waits for a member with room.
    with: Option<Borrower>,
}

impl HeldMessage {
    fn weight(&self) -> usize {
        OVERHEAD + self.message.size()
    }
}

/// What a worker knows of a share.
#[derive(Debug, Default)]
struct HeldShare {
    /// Wait for a member with room.
    waiting: VecDeque<u64>,
    messages: u32,
    bytes: u64,
    /// What members have been lent.
    lent: BTreeMap<SessionId, u32>,
    /// Members without room.
    full: BTreeSet<SessionId>,
}

impl HeldShare {
    fn may_lend_to(&self, session: SessionId) -> bool {
        let lent = self.lent.get(&session).copied().unwrap_or(0);
        lent < LENT_MAX && !self.full.contains(&session)
    }

    fn note_lent(&mut self, session: SessionId) {
        *self.lent.entry(session).or_default() += 1;
    }

    fn note_returned(&mut self, session: SessionId) {
        if let Some(lent) = self.lent.get_mut(&session) {
            *lent -= 1;
            if *lent == 0 {
                self.lent.remove(&session);
            }
        }
    }
}

/// What a worker holds.
#[derive(Debug, Default)]
pub(super) struct HeldShares {
    last: u64,
    looked: Instant,
    messages: BTreeMap<u64, HeldMessage>,
    shares: HashMap<ShareKey, HeldShare, foldhash::fast::RandomState>,
}

impl HeldShares {
    fn insert(&mut self, held: HeldMessage) -> u64 {
        let share = self.shares.entry(held.share.clone()).or_default();
        share.messages += 1;
        share.bytes += held.message.size() as u64;
        self.last += 1;
        self.messages.insert(self.last, held);
        self.last
    }

    /// A message is lent, under a number of its own: what is said of an earlier loan of it may come twice, and late.
    fn lend(&mut self, number: u64, borrower: Borrower) -> Option<u64> {
        let mut held = self.messages.remove(&number)?;
        held.with = Some(borrower);
        let share = self.shares.entry(held.share.clone()).or_default();
        share.note_lent(borrower.session);
        self.last += 1;
        self.messages.insert(self.last, held);
        Some(self.last)
    }

    fn remove(&mut self, number: u64) -> Option<HeldMessage> {
        let held = self.messages.remove(&number)?;
        if let Some(share) = self.shares.get_mut(&held.share) {
            if let Some(borrower) = held.with {
                share.note_returned(borrower.session);
            }
            share.messages -= 1;
            share.bytes -= held.message.size() as u64;
            if share.messages == 0 {
                self.shares.remove(&held.share);
            }
        }
        Some(held)
    }
}

/// How a message for a share fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lent {
    /// There is nobody to get it.
    Nobody,
    /// A member at another node is to get it.
    There(NodeId),
    /// It is with a member here, or waits for one.
    Here,
    /// Too much waits already.
    Full,
}

impl Worker {
    fn lender(&self) -> Lender {
        Lender {
            node: self.shared.settings.node,
            incarnation: self.shared.settings.incarnation,
            worker: self.index,
        }
    }

    /// Takes charge of a message for a share: gives it to a member, or lets it wait for one.
    pub(super) fn hold_for_share(
        self: &Rc<Self>,
        planned: &PlannedShare,
        published: &Published<'_>,
        expires_at: Option<Instant>,
    ) -> Lent {
        if planned.members.is_empty() {
            return Lent::Nobody;
        }
        let held = HeldMessage {
            share: planned.key.clone(),
            message: Arc::new(published.to_message()),
            expires_at,
            with: None,
        };
        let Some(number) = self.insert_held(held) else {
            return Lent::Full;
        };
        let waits_first = {
            let held = self.held.borrow();
            held.shares
                .get(&planned.key)
                .is_some_and(|share| !share.waiting.is_empty())
        };
        // What came before goes first.
        if !waits_first {
            match self.lend(number, planned) {
                Lent::Full => {}
                lent => return lent,
            }
        }
        self.let_wait(number);
        Lent::Here
    }

    /// As [`Self::hold_for_share`], for a message that no connection of this worker published.
    pub(super) fn hold_own(
        self: &Rc<Self>,
        share: &ShareKey,
        message: &Message,
        expires_at: Option<Instant>,
    ) {
        let plan = self.plan(message.topic());
        let planned = plan.shares.iter().find(|planned| planned.key == *share);
        let lent = match planned {
            Some(planned) if planned.durable => return self.hand_to_queue(share, message),
            Some(planned) => self.hold_for_share(planned, &Published::of(message, None), expires_at),
            None => Lent::Nobody,
        };
        self.count_not_lent(lent);
    }

    fn count_not_lent(&self, lent: Lent) {
        let reason = match lent {
            Lent::Nobody => DropReason::NoMember,
            Lent::Full => DropReason::QueueFull,
            Lent::There(_) | Lent::Here => return,
        };
        self.counters.messages_dropped.of(reason).increment();
    }

    fn insert_held(&self, message: HeldMessage) -> Option<u64> {
        let settings = &self.shared.settings;
        let mut held = self.held.borrow_mut();
        if let Some(share) = held.shares.get(&message.share) {
            let bytes = share.bytes + message.message.size() as u64;
            if share.messages >= settings.queue_messages_max || bytes > settings.queue_bytes_max {
                return None;
            }
        }
        let weight = message.weight();
        if !self.shared.held_bytes.has_room(weight) {
            return None;
        }
        self.shared.held_bytes.add(weight);
        Some(held.insert(message))
    }

    fn remove_held(&self, number: u64) -> Option<HeldMessage> {
        let message = self.held.borrow_mut().remove(number)?;
        self.shared.held_bytes.remove(message.weight());
        Some(message)
    }

    fn let_wait(&self, number: u64) {
        let mut held = self.held.borrow_mut();
        let HeldShares { messages, shares, .. } = &mut *held;
        if let Some(share) = messages.get(&number).and_then(|held| shares.get_mut(&held.share)) {
            share.waiting.push_back(number);
        }
    }

    /// Gives a message to the next member that has room, at a node that takes what it is sent.
    fn lend(self: &Rc<Self>, number: u64, planned: &PlannedShare) -> Lent {
        let Some((message, expires_at)) = self
            .held
            .borrow()
            .messages
            .get(&number)
            .map(|held| (held.message.clone(), held.expires_at))
        else {
            return Lent::Here;
        };
        let Some((member, borrower)) = self.choose_borrower(planned, &message) else {
            return Lent::Full;
        };
        let qos = message.qos.min(member.terms.qos);
        let published = Published::of(&message, None);
        if qos == QoS::AtMostOnce {
            self.remove_held(number);
            return match (member.location, member.remote) {
                (Some(location), _) => {
                    self.deliver_to(location, &published, &member.terms, expires_at, &mut None);
                    Lent::Here
                }
                (None, Some(node)) => {
                    let recipient = Recipients::Member {
                        session: member.session,
                        share: planned.key.clone(),
                    };
                    self.forward(node, &recipient, &published);
                    Lent::There(node)
                }
                (None, None) => Lent::Nobody,
            };
        }
        let Some(number) = self.held.borrow_mut().lend(number, borrower) else {
            return Lent::Here;
        };
        let Some(location) = member.location else {
            let left = expires_at.map(|at| at.millis_since(self.now()).div_ceil(1_000));
            let published = Published {
                expiry_secs: left.map(|left| u32::try_from(left).unwrap_or(u32::MAX)),
                ..published
            };
            let recipient = Recipients::Borrower {
                session: member.session,
                share: planned.key.clone(),
                incarnation: self.shared.settings.incarnation,
                worker: self.index,
                number,
                is_final: borrower.is_final,
            };
            self.forward(borrower.node, &recipient, &published);
            return Lent::There(borrower.node);
        };
        self.send_live_shared(LiveShared {
            location,
            session: member.session,
            share: planned.key.clone(),
            message,
            terms: member.terms.clone(),
            expires_at,
            lender: self.lender(),
            number,
        });
        Lent::Here
    }

    fn choose_borrower<'a>(
        &self,
        planned: &'a PlannedShare,
        message: &Message,
    ) -> Option<(&'a PlannedTarget, Borrower)> {
        let turn = planned.turn.fetch_add(1, Ordering::Relaxed) as usize;
        let count = planned.members.len();
        let held = self.held.borrow();
        let share = held.shares.get(&planned.key);
        let members = (0..count).map(|step| &planned.members[(turn + step) % count]);
        members
            .filter(|member| share.is_none_or(|share| share.may_lend_to(member.session)))
            .find_map(|member| {
                let (node, incarnation) = match (member.location, member.remote) {
                    (Some(_), _) => (self.shared.settings.node, self.shared.settings.incarnation),
                    (None, Some(node)) => {
                        let incarnation = self.shared.serving_start(node)?;
                        if !self.shared.peers.takes(node, incarnation) {
                            return None;
                        }
                        (node, incarnation)
                    }
                    (None, None) => return None,
                };
                let borrower = Borrower {
                    session: member.session,
                    node,
                    incarnation,
                    is_final: message.qos.min(member.terms.qos) == QoS::ExactlyOnce,
                };
                Some((member, borrower))
            })
    }

    /// Gives what waits for a share to its members, as far as they have room.
    fn lend_waiting(self: &Rc<Self>, key: &ShareKey) {
        loop {
            let next = {
                let held = self.held.borrow();
                let share = held.shares.get(key);
                share.and_then(|share| share.waiting.front().copied())
            };
            let Some(number) = next else { return };
            let Some(message) = self
                .held
                .borrow()
                .messages
                .get(&number)
                .map(|held| held.message.clone())
            else {
                self.pop_waiting(key);
                continue;
            };
            let plan = self.plan(message.topic());
            let planned = plan.shares.iter().find(|planned| planned.key == *key);
            match planned {
                None => {
                    self.pop_waiting(key);
                    self.remove_held(number);
                    self.count_not_lent(Lent::Nobody);
                }
                Some(planned) if planned.durable => {
                    self.pop_waiting(key);
                    self.remove_held(number);
                    self.hand_to_queue(key, &message);
                }
                Some(planned) => {
                    if self.lend(number, planned) == Lent::Full {
                        return;
                    }
                    self.pop_waiting(key);
                }
            }
        }
    }

    fn pop_waiting(&self, key: &ShareKey) {
        if let Some(share) = self.held.borrow_mut().shares.get_mut(key) {
            share.waiting.pop_front();
        }
    }

    /// The share has a durable member: its queue takes what was not sent.
    fn hand_to_queue(&self, share: &ShareKey, message: &Message) {
        let target = Target {
            queue: TargetQueue::Share(share.clone()),
            qos: message.qos,
            retain: message.retain,
            replayed: false,
            subscription_ids: Vec::new(),
        };
        let publish = Publish {
            origin: &Origin::Server,
            message: Published::of(message, None).parts(),
            targets: &[target],
            set_retained: false,
            taken_live: false,
        };
        let group = Placement::data_of_topic(message.topic());
        self.shared.node().group(group).propose_publish(&publish, None);
    }
}

#[cfg(test)]
mod tests;
