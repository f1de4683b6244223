//! Retained messages for those who subscribed while they were published (R33).
//!
//! A publish is matched before its retained value has reached the topic's group. Who subscribes in between is not
//! matched, and its replay does not find the value yet. So a publish that sets a retained message is matched again when
//! the value is there, if the routes have changed since, and the sessions that came get it as the retained message it
//! is. It is acknowledged after that. A connection that is still going to look gets nothing, nor does one that had it or
//! found it already ([`super::crossers`]).

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use quorate_cluster::node::{Completion, Location, Placement, Publish};
use quorate_cluster::state::{NodeId, Origin, Outcome, RetainedView, SessionId, Target, TargetQueue};
use quorate_proto::codec::QoS;
use quorate_proto::message::Message;
use quorate_proto::session::Delivery;
use quorate_storage::log::GroupId;
use slab::Slab;

use super::connection::ConnState;
use super::publish::{Published, Targets};
use super::ticket::{Answer, WaitsFor};
use super::{Mail, Ticket, Worker};
use crate::peers::{Joint, Recipients, Waiting};
use crate::router::{Plan, PlannedTarget, Terms};

/// A retained publish under way.
#[derive(Debug)]
pub(super) struct Late {
    /// Who it was matched to.
    plan: Rc<Plan>,
    /// Who it was delivered to live at this node, where that came later (R11).
    live_plan: Option<Rc<Plan>>,
    message: Message,
    publisher: Option<SessionId>,
    /// The publisher's group: what it publishes next goes to the same queue.
    group: GroupId,
}

impl Late {
    /// Whether the topic still has this value.
    fn is_value(&self, retained: &RetainedView) -> bool {
        retained.message.payload() == self.message.payload()
    }
}

/// Names a [`Late`] of the worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LateKey(u32);

/// A topic with retained publishes under way.
#[derive(Debug, Default)]
struct LateTopic {
    /// The epochs of their plans, ascending.
    under_way: VecDeque<u64>,
    /// By which plans the worker published to it since the first of them, one for each epoch. Whoever stands in a plan
    /// that is not older than a message's own has that message, or a later one.
    plans: VecDeque<Rc<Plan>>,
}

impl LateTopic {
    fn note(&mut self, plan: &Rc<Plan>) {
        if self.plans.back().is_none_or(|last| last.epoch != plan.epoch) {
            self.plans.push_back(plan.clone());
        }
    }

    /// A publish is no longer under way; what no other needs is forgotten.
    fn end(&mut self, epoch: u64) {
        if let Some(place) = self.under_way.iter().position(|of| *of == epoch) {
            self.under_way.remove(place);
        }
        let oldest = self.under_way.front().copied().unwrap_or(u64::MAX);
        while self.plans.front().is_some_and(|plan| plan.epoch < oldest) {
            self.plans.pop_front();
        }
    }
}

/// The retained publishes under way.
#[derive(Debug, Default)]
pub(super) struct LateList {
    publishes: Slab<Late>,
    topics: HashMap<Box<str>, LateTopic, foldhash::fast::RandomState>,
}

type Sessions = HashSet<SessionId, foldhash::fast::RandomState>;

impl LateList {
    fn insert(&mut self, late: Late) -> LateKey {
        let topic = late.message.topic();
        if !self.topics.contains_key(topic) {
            self.topics.insert(topic.into(), LateTopic::default());
        }
        if let Some(known) = self.topics.get_mut(topic) {
            known.under_way.push_back(late.plan.epoch);
            known.note(&late.plan);
        }
        LateKey(u32::try_from(self.publishes.insert(late)).expect("fewer publishes are under way"))
    }

    /// The worker publishes to a topic.
    fn note(&mut self, topic: &str, plan: &Rc<Plan>) {
        if let Some(known) = self.topics.get_mut(topic) {
            known.note(plan);
        }
    }

    /// Takes a publish out, with the plans of the later ones.
    fn remove(&mut self, key: LateKey) -> Option<(Late, Vec<Rc<Plan>>)> {
        let late = self.publishes.try_remove(key.0 as usize)?;
        let topic = late.message.topic();
        let known = self.topics.get_mut(topic)?;
        let later = known.plans.iter().filter(|plan| plan.epoch >= late.plan.epoch);
        let later = later.cloned().collect();
        known.end(late.plan.epoch);
        if known.under_way.is_empty() {
            self.topics.remove(topic);
        }
        Some((late, later))
    }
}

/// A retained message for a connection whose subscription came while it was published.
#[derive(Debug)]
pub(crate) struct LateRetained {
    pub(crate) location: Location,
    session: SessionId,
    message: Arc<Message>,
    terms: Terms,
    answer: Arc<Joint>,
}

impl LateRetained {
    /// Bytes it counts for while it waits.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + self.message.size()
    }
}

impl Worker {
    /// A publish to a topic that may have retained publishes under way; remembers it where it is one.
    pub(super) fn look_again(
        &self,
        group: GroupId,
        plan: &Rc<Plan>,
        published: &Published<'_>,
    ) -> Option<LateKey> {
        (published.retain && !published.payload.is_empty()).then(|| {
            self.late.borrow_mut().insert(Late {
                plan: plan.clone(),
                live_plan: None,
                message: published.to_message(),
                publisher: published.publisher,
                group,
            })
        })
    }

    /// Who gets this publish needs no earlier one of its topic any more.
    pub(super) fn note_published(&self, topic: &str, plan: &Rc<Plan>) {
        let mut late = self.late.borrow_mut();
        if !late.topics.is_empty() {
            late.note(topic, plan);
        }
    }

    /// It was delivered live by this plan, to connections here.
    pub(super) fn delivered_by(&self, key: LateKey, plan: &Rc<Plan>) {
        if let Some(late) = self.late.borrow_mut().publishes.get_mut(key.0 as usize) {
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
        let WaitsFor::Publish { late, .. } = &mut ticket.waits_for else {
            return Some((ticket, completion));
        };
        let found = late.take().and_then(|key| self.late.borrow_mut().remove(key));
        let Some((late, later)) = found else {
            return Some((ticket, completion));
        };
        let Completion::Applied(Outcome::Published { duplicate: false, .. }) = completion else {
            return Some((ticket, completion));
        };
        if late.plan.epoch == self.shared.router.epoch() {
            return Some((ticket, completion));
        }
        let topic = late.message.topic();
        let home = self.shared.node().group(Placement::data_of_topic(topic)).clone();
        if self.shared.node().is_alone() {
            // Who came after a later value finds that, or is found by it.
            let retained = home.state().retained(topic);
            let stands = retained.is_some_and(|retained| late.is_value(&retained));
            return self.reach_those_who_came(ticket, completion, &late, &later, stands);
        }
        let (worker, topic) = (self.clone(), topic.to_owned());
        tokio::task::spawn_local(async move {
            let reading = async move {
                home.pass_barrier().await;
                home.read_retained(&topic, None, 1).await
            };
            // Where the runtime is gone the node stops: no answer (R13).
            let Ok(page) = worker.shared.control.spawn(reading).await else {
                return;
            };
            let stands = page
                .matches
                .first()
                .is_some_and(|retained| late.is_value(retained));
            let left = worker.reach_those_who_came(ticket, completion, &late, &later, stands);
            if let Some((ticket, completion)) = left {
                worker.hand_over(ticket, completion);
            }
        });
        None
    }

    /// Sends a retained message to those who came while it was published. Gives the ticket back unless it goes on with
    /// their queues.
    fn reach_those_who_came(
        self: &Rc<Self>,
        mut ticket: Ticket,
        completion: Completion,
        late: &Late,
        later: &[Rc<Plan>],
        stands: bool,
    ) -> Option<(Ticket, Completion)> {
        let targets = match stands {
            true => self.late_targets(late, later),
            false => Vec::new(),
        };
        if targets.is_empty() {
            return Some((ticket, completion));
        }
        if let WaitsFor::Publish { matched, answer, .. } = &mut ticket.waits_for {
            *matched = true;
            // It is stored: what becomes of the rest does not change the answer (R13).
            *answer = Answer::Accepted;
        }
        // Given when the queues of all who came have the message. Where one is never heard of, as when the node stops,
        // there is no answer (R13).
        let missing = missing(&targets, &late.message, late.publisher) + 1;
        let answer = Joint::new(self.shared.clone(), missing, Some((ticket, completion)));
        self.send_late(late, targets, &answer);
        // As the last of those that were missing, where all others are done.
        answer.done();
        None
    }

    /// Who has come and has neither this message nor a later one.
    fn late_targets(&self, late: &Late, later: &[Rc<Plan>]) -> Vec<PlannedTarget> {
        let sessions = |plan: &Rc<Plan>| -> Vec<SessionId> {
            plan.targets.iter().map(|target| target.session).collect()
        };
        let known: Sessions = later.iter().flat_map(sessions).collect();
        // What came after the commit went to connections here: the other nodes match what the entry had for them.
        let live = late.live_plan.iter().flat_map(|plan| &plan.targets);
        let live_here = live.filter(|target| target.location.is_some());
        let known_live: Sessions = live_here.map(|target| target.session).collect();
        let plan = self.plan(late.message.topic());
        let is_late = |target: &&PlannedTarget| {
            let Some(terms) = target.terms_for(late.publisher) else {
                return false;
            };
            let is_queued = target.queue.is_some() && late.message.qos.min(terms.qos) > QoS::AtMostOnce;
            terms.wants_retained
                && !known.contains(&target.session)
                && (is_queued
                    || ((target.location.is_some() || target.remote.is_some())
                        && !known_live.contains(&target.session)))
        };
        plan.targets.iter().filter(is_late).cloned().collect()
    }

    /// Hands the message to the connections that have come, and to the queues of sessions without one.
    fn send_late(&self, late: &Late, targets: Vec<PlannedTarget>, answer: &Arc<Joint>) {
        let message = Arc::new(late.message.clone());
        let mut durable = Targets::new();
        let mut elsewhere: BTreeMap<NodeId, Vec<SessionId>> = BTreeMap::new();
        for target in targets {
            let Some(terms) = target.terms_for(late.publisher) else {
                continue;
            };
            if let Some(location) = target.location {
                let late = LateRetained {
                    location,
                    session: target.session,
                    message: message.clone(),
                    terms: terms.clone(),
                    answer: answer.clone(),
                };
                self.shared.mailboxes[usize::from(location.worker)].send(Mail::Late(Box::new(late)));
            } else if let (Some(node), true) = (target.remote, is_live(&target, &message, terms)) {
                elsewhere.entry(node).or_default().push(target.session);
            } else if !is_live(&target, &message, terms) {
                durable.push(Target {
                    queue: TargetQueue::Session(target.session),
                    qos: message.qos.min(terms.qos),
                    retain: true,
                    replayed: true,
                    subscription_ids: terms.subscription_ids.to_vec(),
                });
            }
        }
        for (node, sessions) in elsewhere {
            let published = Published::of(&message, late.publisher);
            self.forward(node, &Recipients::Late(sessions), &published);
            answer.one_more();
            self.wait_for_peer(node, Waiting::Joint(answer.clone()));
        }
        if !durable.is_empty() {
            let location = Location {
                worker: self.index,
                slot: u32::MAX,
                generation: 0,
            };
            let waits_for = WaitsFor::LateStored(answer.clone());
            self.append_late(late, &durable, Ticket { location, waits_for });
        }
    }

    /// A retained message for a connection here, unless it finds the value itself or had a newer one.
    pub(super) fn deliver_late_retained(self: &Rc<Self>, late: &LateRetained) {
        let (message, terms) = (&late.message, &late.terms);
        let qos = message.qos.min(terms.qos);
        let is_queued = qos > QoS::AtMostOnce && Placement::is_durable(late.session);
        let terms_of_queue = || (qos, terms.subscription_ids.to_vec());
        let Some(conn) = self.open_connection(late.location) else {
            if is_queued {
                // The session stays, and gets it later.
                let ticket = Ticket {
                    location: late.location,
                    waits_for: WaitsFor::RetainedAppended(Some(late.answer.clone())),
                };
                self.propose_retained(late.session, message, terms_of_queue(), ticket);
            } else {
                late.answer.done();
            }
            return;
        };
        let needless = {
            let state = conn.state.borrow();
            self.will_find_or_had(&state, message)
        };
        if needless {
            late.answer.done();
            return;
        }
        if is_queued {
            let answer = Some(late.answer.clone());
            self.append_retained(&conn, late.session, message, terms_of_queue(), answer);
            return;
        }
        let mut delivery = Delivery::of(message, qos);
        delivery.retain = true;
        delivery.subscription_ids = &terms.subscription_ids;
        delivery.expires_at = message.expiry_secs.map(|secs| self.now().plus_secs(secs));
        self.deliver(&conn, &delivery);
        late.answer.done();
    }

    /// Whether a connection is still going to look for a message, had a live one of its topic, or was sent this one and
    /// nothing else of its topic since.
    fn will_find_or_had(&self, state: &ConnState, message: &Message) -> bool {
        let topic = message.topic();
        let rare = state.rare.as_ref();
        rare.is_some_and(|rare| rare.replays.will_find(topic) || rare.replays.had_live(topic, 0))
            || state.session().is_some_and(|(session, _)| {
                let mut crossers = self.crossers.borrow_mut();
                crossers.had(session, message)
            })
    }

    /// A retained message of another node for a connection here.
    pub(super) fn deliver_late_here(self: &Rc<Self>, location: Location, message: &Message, terms: &Terms) {
        let Some(conn) = self.open_connection(location) else {
            return;
        };
        let needless = {
            let state = conn.state.borrow();
            self.will_find_or_had(&state, message)
        };
        if needless {
            return;
        }
        let mut delivery = Delivery::of(message, message.qos.min(terms.qos));
        delivery.retain = true;
        delivery.subscription_ids = &terms.subscription_ids;
        delivery.expires_at = message.expiry_secs.map(|secs| self.now().plus_secs(secs));
        self.deliver(&conn, &delivery);
    }

    fn append_late(&self, late: &Late, durable: &Targets, ticket: Ticket) {
        let publish = Publish {
            origin: &Origin::Server,
            message: (&late.message).into(),
            targets: durable,
            set_retained: false,
            taken_live: false,
        };
        let group = self.shared.node().group(late.group);
        group.propose_publish(&publish, Some(ticket));
    }
}

/// Whether a target gets a message without replication.
fn is_live(target: &PlannedTarget, message: &Message, terms: &Terms) -> bool {
    target.queue.is_none() || message.qos.min(terms.qos) == QoS::AtMostOnce
}

/// Connections, and one command for all queues of sessions without.
fn missing(targets: &[PlannedTarget], message: &Message, publisher: Option<SessionId>) -> usize {
    let connected = targets.iter().filter(|target| target.location.is_some()).count();
    let queued = |target: &&PlannedTarget| {
        let terms = target.terms_for(publisher);
        target.location.is_none()
            && target.queue.is_some()
            && terms.is_some_and(|terms| !is_live(target, message, terms))
    };
    connected + usize::from(targets.iter().any(|target| queued(&target)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(epoch: u64) -> Rc<Plan> {
        Rc::new(Plan {
            epoch,
            ..Plan::default()
        })
    }

    fn late(epoch: u64) -> Late {
        Late {
            plan: plan(epoch),
            live_plan: None,
            message: Message::new("t", &[], b"v", QoS::AtMostOnce, true, None),
            publisher: None,
            group: GroupId(1),
        }
    }

    #[test]
    fn later_plans_are_known_as_long_as_a_publish_needs_them() {
        let mut list = LateList::default();
        let epochs = |plans: &[Rc<Plan>]| plans.iter().map(|plan| plan.epoch).collect::<Vec<_>>();
        let mut keys = VecDeque::from([list.insert(late(0))]);
        // One is always under way while the routes change.
        for epoch in 1..1_000 {
            keys.push_back(list.insert(late(epoch)));
            list.note("t", &plan(epoch));
            list.note("other", &plan(epoch));
            let (_, later) = list.remove(keys.pop_front().unwrap()).unwrap();
            assert_eq!(epochs(&later), [epoch - 1, epoch]);
            assert_eq!((list.topics.len(), list.topics["t"].plans.len()), (1, 1));
        }
        list.note("t", &plan(1_000));
        let (_, later) = list.remove(keys.pop_front().unwrap()).unwrap();
        assert_eq!(epochs(&later), [999, 1_000]);
        assert!(list.topics.is_empty() && list.publishes.is_empty());
    }
}
