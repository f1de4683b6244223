//! Retained messages for those who subscribed while they were published (R33).
//!
//! A publish is matched before its retained value has reached the topic's group. Who subscribes in between is not
//! matched, and its replay does not find the value yet. So a publish that sets a retained message is matched again when
//! the value is there, if the routes have changed since, and the sessions that came get it as the retained message it
//! is. It is acknowledged after that.

use std::rc::Rc;

use hashbrown::HashSet;
use quorate_cluster::node::{Completion, Placement};
use quorate_cluster::state::{MessageParts, Origin, Outcome, SessionId, Target, TargetQueue, encode_publish};
use quorate_proto::codec::QoS;
use quorate_proto::message::Message;
use quorate_storage::log::GroupId;
use slab::Slab;

use super::publish::{Published, Targets};
use super::ticket::WaitsFor;
use super::{Ticket, Worker};
use crate::router::Plan;

/// A retained publish under way.
#[derive(Debug)]
pub(super) struct Late {
    /// Who it was matched to.
    plan: Rc<Plan>,
    /// Who it was delivered to live, where that came later (R11).
    live_plan: Option<Rc<Plan>>,
    message: Message,
    publisher: Option<SessionId>,
    /// The publisher's group: what it publishes next goes to the same queue.
    group: GroupId,
}

/// Names a [`Late`] of the worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LateKey(u32);

/// The retained publishes under way.
#[derive(Debug, Default)]
pub(super) struct LateList(Slab<Late>);

impl LateList {
    fn remove(&mut self, key: LateKey) -> Option<Late> {
        self.0.try_remove(key.0 as usize)
    }
}

impl Worker {
    /// Remembers a publish that sets a retained message.
    pub(super) fn look_again(
        &self,
        group: GroupId,
        plan: &Rc<Plan>,
        published: &Published<'_>,
    ) -> Option<LateKey> {
        (published.retain && !published.payload.is_empty()).then(|| {
            let late = Late {
                plan: plan.clone(),
                live_plan: None,
                message: published.to_message(),
                publisher: published.publisher,
                group,
            };
            let key = self.late.borrow_mut().0.insert(late);
            LateKey(u32::try_from(key).expect("fewer publishes are under way"))
        })
    }

    /// It was delivered live by this plan.
    pub(super) fn delivered_by(&self, key: LateKey, plan: &Rc<Plan>) {
        if let Some(late) = self.late.borrow_mut().0.get_mut(key.0 as usize) {
            late.live_plan = Some(plan.clone());
        }
    }

    /// The value of a retained publish has reached its topic's group. Gives the ticket back unless it goes on with
    /// queues that get the message as well.
    pub(super) fn reach_late(
        self: &Rc<Self>,
        mut ticket: Ticket,
        completion: Completion,
    ) -> Option<(Ticket, Completion)> {
        let WaitsFor::Publish { late, matched, .. } = &mut ticket.waits_for else {
            return Some((ticket, completion));
        };
        let Some(late) = late.take().and_then(|key| self.late.borrow_mut().remove(key)) else {
            return Some((ticket, completion));
        };
        let is_stored = matches!(
            completion,
            Completion::Applied(Outcome::Published { duplicate: false, .. })
        );
        if !is_stored || late.plan.epoch == self.shared.router.epoch() {
            return Some((ticket, completion));
        }
        let (live, durable) = self.deliver_late(&late);
        *matched |= live;
        if durable.is_empty() {
            return Some((ticket, completion));
        }
        self.append_late(&late, &durable, ticket);
        None
    }

    /// Delivers to live sessions that have come; answers whether there was one, and the queues of durable ones.
    fn deliver_late(self: &Rc<Self>, late: &Late) -> (bool, Targets) {
        let topic = late.message.topic();
        let (mut live, mut durable) = (false, Targets::new());
        // Who came after a later value finds that, or is found by it.
        let home = self.shared.node().group(Placement::data_of_topic(topic));
        let stands = home
            .state()
            .retained(topic)
            .is_some_and(|retained| retained.message.payload() == late.message.payload());
        if !stands {
            return (live, durable);
        }
        let sessions_of = |plan: &Plan| -> HashSet<SessionId, foldhash::fast::RandomState> {
            plan.targets.iter().map(|target| target.session).collect()
        };
        let known = sessions_of(&late.plan);
        let known_live = late.live_plan.as_ref().map(|plan| sessions_of(plan));
        let published = Published::of(&late.message, late.publisher);
        let expires_at = published.expiry_secs.map(|secs| self.now().plus_secs(secs));
        for target in &self.plan(topic).targets {
            let terms = target.terms_for(late.publisher);
            let Some(terms) = terms.filter(|terms| terms.wants_retained && !known.contains(&target.session))
            else {
                continue;
            };
            let qos = published.qos.min(terms.qos);
            if target.queue.is_some() && qos > QoS::AtMostOnce {
                durable.push(Target {
                    queue: TargetQueue::Session(target.session),
                    qos,
                    retain: true,
                    replayed: true,
                    subscription_ids: terms.subscription_ids.to_vec(),
                });
            } else if let Some(location) = target.location
                && known_live
                    .as_ref()
                    .is_none_or(|known| !known.contains(&target.session))
            {
                let mut terms = terms.clone();
                terms.retain_as_published = true;
                self.deliver_to(location, &published, &terms, expires_at, &mut None);
                live = true;
            }
        }
        (live, durable)
    }

    fn append_late(&self, late: &Late, durable: &Targets, ticket: Ticket) {
        let message = &late.message;
        let encode = |buffer: &mut Vec<u8>| {
            let parts = MessageParts {
                topic: message.topic(),
                forwardable: message.forwardable(),
                payload: message.payload(),
                qos: message.qos,
                retain: message.retain,
                expiry_secs: message.expiry_secs,
            };
            let targets = durable.iter().map(Target::borrowed);
            encode_publish(buffer, &Origin::Server, &parts, targets, false, false);
        };
        let group = self.shared.node().group(late.group);
        group.propose_encoded(encode, Some(ticket));
    }
}
