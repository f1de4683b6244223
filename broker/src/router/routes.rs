//! The table of routes: sessions, the trie of their subscriptions, shared subscriptions.
//!
//! Written by the tasks of the groups as they apply, read by the workers when a plan has gone stale. `epoch` changes
//! with every write that can change a plan; a worker compares it (one relaxed load) instead of locking.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::{HashMap, HashSet};
use parking_lot::RwLock;
use quorate_cluster::node::{Location, MemberAt, ShareMember};
use quorate_cluster::state::{Epoch, NodeId, NodeIncarnation, Owner, SessionId, ShareKey, Subscription};
use quorate_proto::codec::{QoS, RetainHandling, SubscriptionOptions};
use quorate_proto::topic::SubscriptionTrie;
use quorate_storage::log::GroupId;
use slab::Slab;

use super::early::EarlyGauges;
use super::plan::{Plan, PlannedShare, PlannedTarget, Terms};
use super::session::SessionRoute;
use super::share::{Member, ShareRoute, split_share};

/// Trie keys with this bit are shared subscriptions, the others sessions.
const SHARE_KEY: u32 = 1 << 31;

/// The router: the table behind its lock, and its epoch.
#[derive(Debug, Default)]
pub struct Router {
    table: RwLock<RouteTable>,
    epoch: AtomicU64,
}

/// A session cannot be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// A later connection took the session over.
    #[error("a later connection took the session over")]
    Fenced,
    /// The session has ended.
    #[error("the session has ended")]
    Ended,
}

impl Router {
    /// The epoch plans have to carry to be valid.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Changes routes. Plans made before are stale when this returns, unless `change` says that nothing changed.
    pub fn write<R>(&self, change: impl FnOnce(&mut RouteTable) -> (R, bool)) -> R {
        let mut table = self.table.write();
        let (result, changed) = change(&mut table);
        if changed {
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        result
    }

    /// Reads the table.
    pub fn read<R>(&self, look: impl FnOnce(&RouteTable) -> R) -> R {
        look(&self.table.read())
    }

    /// The plan for a topic.
    pub fn plan(&self, topic: &str) -> Plan {
        let table = self.table.read();
        // Under the lock, so that the plan is not older than its epoch.
        let epoch = self.epoch();
        table.plan(topic, epoch)
    }
}

/// Options and identifier of a subscription, as small as the trie wants its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RouteValue {
    subscription_id: u32,
    flags: u8,
}

impl RouteValue {
    fn of(subscription: &Subscription) -> Self {
        let options = &subscription.options;
        Self {
            subscription_id: subscription.subscription_id.unwrap_or(0),
            flags: options.qos as u8
                | u8::from(options.no_local) << 2
                | u8::from(options.retain_as_published) << 3
                | u8::from(options.retain_handling == RetainHandling::DoNotSend) << 4,
        }
    }

    fn options(self) -> SubscriptionOptions {
        SubscriptionOptions {
            qos: match self.flags & 3 {
                0 => QoS::AtMostOnce,
                1 => QoS::AtLeastOnce,
                _ => QoS::ExactlyOnce,
            },
            no_local: self.flags & 4 != 0,
            retain_as_published: self.flags & 8 != 0,
            retain_handling: match self.flags & 16 {
                0 => RetainHandling::Send,
                _ => RetainHandling::DoNotSend,
            },
        }
    }

    fn subscription_id(self) -> Option<u32> {
        (self.subscription_id != 0).then_some(self.subscription_id)
    }
}

/// Sessions, subscriptions, shares.
#[derive(Debug)]
pub struct RouteTable {
    trie: SubscriptionTrie<u32, RouteValue>,
    /// Boxed, so that a table that grows moves pointers only.
    sessions: Slab<Box<SessionRoute>>,
    by_session: HashMap<SessionId, u32, foldhash::fast::RandomState>,
    shares: Slab<ShareRoute>,
    by_share: HashMap<ShareKey, u32, foldhash::fast::RandomState>,
    early: EarlyGauges,
    copies: bool,
    /// This start of this node.
    this: Option<(NodeId, NodeIncarnation)>,
}

impl Default for RouteTable {
    fn default() -> Self {
        Self {
            // Clients choose filters: with a known seed they could choose levels that collide.
            trie: SubscriptionTrie::with_seed(RandomState::new().hash_one("subscription trie")),
            sessions: Slab::new(),
            by_session: HashMap::default(),
            shares: Slab::new(),
            by_share: HashMap::default(),
            early: EarlyGauges::default(),
            copies: false,
            this: None,
        }
    }
}

fn small(index: usize) -> u32 {
    u32::try_from(index).expect("fewer than 2^31 sessions fit one node's memory")
}

/// What [`RouteTable::set_owner`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnerChange {
    /// The connection of this node that the session leaves.
    pub left: Option<Location>,
    /// The session has another connection than it was known to have, or none any more.
    pub is_another: bool,
    /// Whether plans change.
    pub changes_plans: bool,
}

impl RouteTable {
    /// Whether overlapping subscriptions of a session each get a copy, instead of one message for all of them.
    pub fn set_copies(&mut self, copies: bool) {
        self.copies = copies;
    }

    /// Says whose connections are at this node: those of this start.
    pub fn set_this(&mut self, node: NodeId, incarnation: NodeIncarnation) {
        self.this = Some((node, incarnation));
    }

    /// Sessions known.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Subscriptions known, shared ones counted once per filter.
    pub fn subscriptions(&self) -> usize {
        self.trie.len()
    }

    /// Subscriptions of a session.
    pub fn subscriptions_of(&self, session: SessionId) -> usize {
        self.session(session).map_or(0, |route| route.filters.len())
    }

    /// Shared subscriptions known.
    pub fn shares(&self) -> usize {
        self.shares.len()
    }

    /// The route of a session.
    pub fn session(&self, session: SessionId) -> Option<&SessionRoute> {
        self.by_session
            .get(&session)
            .map(|key| &*self.sessions[*key as usize])
    }

    fn session_mut(&mut self, session: SessionId) -> Option<&mut SessionRoute> {
        self.by_session
            .get(&session)
            .map(|key| &mut *self.sessions[*key as usize])
    }

    /// A session was created, its connection changed, or either is told again.
    pub fn set_owner(&mut self, session: SessionId, owner: Option<Owner>) -> OwnerChange {
        let key = match self.by_session.get(&session) {
            Some(key) => *key,
            None => {
                let mut route = SessionRoute::new(session);
                if let (Some(queue), Some(early)) = (&mut route.queue, self.early.take(session)) {
                    *queue = early;
                }
                let key = small(self.sessions.insert(Box::new(route)));
                self.by_session.insert(session, key);
                key
            }
        };
        let route = &mut self.sessions[key as usize];
        let epoch = owner.map(|owner| owner.epoch).unwrap_or_default();
        let is_here = owner.is_some_and(|owner| self.this == Some((owner.node, owner.incarnation)));
        // The whole state is told again where a group's replica is read from elsewhere.
        let is_another = route.epoch != epoch;
        if is_here && !is_another && route.location.is_some() {
            return OwnerChange::default();
        }
        route.epoch = epoch;
        let left = route.location.take();
        let elsewhere = owner.filter(|_| !is_here).map(|owner| owner.node);
        // An older start of this node has no connections.
        let elsewhere = elsewhere.filter(|node| self.this.is_none_or(|(this, _)| this != *node));
        let moved = route.set_remote(elsewhere);
        OwnerChange {
            left,
            is_another,
            changes_plans: (left.is_some() || moved) && !route.filters.is_empty(),
        }
    }

    /// References were added to a session's queue; its route, where it is known.
    pub fn queued(&self, session: SessionId, count: u32, bytes: u64) -> Option<&SessionRoute> {
        let Some(route) = self.session(session) else {
            self.early.add(session, count, bytes);
            return None;
        };
        route.queue.as_ref()?.add(count, bytes);
        Some(route)
    }

    /// References left a session's queue.
    pub fn unqueued(&self, session: SessionId, count: u32, bytes: u64) {
        match self.session(session) {
            Some(route) => {
                if let Some(queue) = &route.queue {
                    queue.remove(count, bytes);
                }
            }
            None => self.early.remove(session, count, bytes),
        }
    }

    /// Connections here that have subscriptions and get messages without replication.
    pub fn live_subscribers(&self) -> Vec<Location> {
        let routes = self.sessions.iter().map(|(_, route)| route);
        routes
            .filter(|route| route.queue.is_none() && !route.filters.is_empty())
            .filter_map(|route| route.location)
            .collect()
    }

    /// Adds the connections here that get messages of a topic without replication, above QoS 0. Answers how many
    /// subscriptions were looked at.
    pub fn live_subscribers_of(
        &self,
        topic: &str,
        found: &mut HashSet<Location, foldhash::fast::RandomState>,
    ) -> usize {
        let mut looked_at = 0;
        self.trie.match_topic(topic, |key, value| {
            looked_at += 1;
            if key & SHARE_KEY == 0 && value.options().qos > QoS::AtMostOnce {
                let route = &self.sessions[*key as usize];
                found.extend(route.location.filter(|_| route.queue.is_none()));
            }
        });
        looked_at
    }

    /// The sessions at home in a group that are not among `known`.
    pub fn sessions_of_group_beside(
        &self,
        group: GroupId,
        known: impl Fn(SessionId) -> bool,
    ) -> Vec<SessionId> {
        let sessions = self.sessions.iter().map(|(_, route)| route.session);
        sessions
            .filter(|session| session.home() == group && !known(*session))
            .collect()
    }

    /// Sessions that another node has the connections of, for tests and metrics.
    pub fn remote_sessions(&self) -> usize {
        self.sessions
            .iter()
            .filter(|(_, route)| route.remote().is_some())
            .count()
    }

    /// The connection of (session, epoch) is at `location` from now on. Answers whether plans change.
    ///
    /// # Errors
    /// When a later connection has the session, or it has ended.
    pub fn attach(
        &mut self,
        session: SessionId,
        epoch: Epoch,
        location: Location,
    ) -> Result<bool, AttachError> {
        let route = self.session_mut(session).ok_or(AttachError::Ended)?;
        if route.epoch != epoch {
            return Err(AttachError::Fenced);
        }
        route.location = Some(location);
        if let Some(queue) = &route.queue {
            queue.untell_all();
        }
        Ok(!route.filters.is_empty())
    }

    /// The connection at `location` is gone. Answers whether plans change.
    pub fn detach(&mut self, session: SessionId, location: Location) -> bool {
        match self.session_mut(session) {
            Some(route) if route.location == Some(location) => {
                route.location = None;
                !route.filters.is_empty()
            }
            _ => false,
        }
    }

    /// A session ended: its subscriptions go. Answers its location, and whether plans change.
    pub fn remove_session(&mut self, session: SessionId) -> (Option<Location>, bool) {
        let Some(key) = self.by_session.remove(&session) else {
            return (None, false);
        };
        let route = self.sessions.remove(key as usize);
        for filter in route.filters.iter() {
            self.remove_route(key, filter);
        }
        (route.location, !route.filters.is_empty())
    }

    /// A subscription was added or replaced.
    pub fn subscribe(&mut self, session: SessionId, subscription: &Subscription) {
        let Some(key) = self.by_session.get(&session).copied() else {
            return;
        };
        // What is committed shares its text with the group's state.
        self.sessions[key as usize].filters.insert(&subscription.filter);
        let value = RouteValue::of(subscription);
        match split_share(&subscription.filter) {
            None => {
                self.trie.insert(&subscription.filter, key, value);
            }
            Some((name, filter)) => {
                let member = Member {
                    key,
                    session,
                    options: subscription.options,
                    subscription_id: subscription.subscription_id,
                };
                self.join_share(name, filter, member);
            }
        }
    }

    /// These are all subscriptions of a session.
    pub fn set_subscriptions(&mut self, session: SessionId, subscriptions: &[Subscription]) {
        let Some(route) = self.session(session) else {
            return;
        };
        let is_gone = |filter: &&Arc<str>| subscriptions.iter().all(|other| other.filter != **filter);
        let gone: Vec<Arc<str>> = route.filters.iter().filter(is_gone).cloned().collect();
        for filter in gone {
            self.unsubscribe(session, &filter);
        }
        for subscription in subscriptions {
            self.subscribe(session, subscription);
        }
    }

    /// A subscription was removed.
    pub fn unsubscribe(&mut self, session: SessionId, filter: &str) {
        let Some(key) = self.by_session.get(&session).copied() else {
            return;
        };
        self.sessions[key as usize].filters.remove(filter);
        self.remove_route(key, filter);
    }

    fn join_share(&mut self, name: &str, filter: &str, member: Member) {
        let share_key = ShareKey {
            name: name.into(),
            filter: filter.into(),
        };
        let index = match self.by_share.get(&share_key) {
            Some(index) => *index,
            None => {
                let index = small(self.shares.insert(ShareRoute::new(share_key.clone())));
                self.by_share.insert(share_key, index);
                self.trie.insert(
                    filter,
                    index | SHARE_KEY,
                    RouteValue {
                        subscription_id: 0,
                        flags: 0,
                    },
                );
                index
            }
        };
        self.shares[index as usize].add(member);
    }

    fn remove_route(&mut self, key: u32, filter: &str) {
        let Some((name, filter)) = split_share(filter) else {
            self.trie.remove(filter, &key);
            return;
        };
        let share_key = ShareKey {
            name: name.into(),
            filter: filter.into(),
        };
        let Some(index) = self.by_share.get(&share_key).copied() else {
            return;
        };
        let share = &mut self.shares[index as usize];
        share.remove(key);
        if share.members.is_empty() {
            self.shares.remove(index as usize);
            self.by_share.remove(&share_key);
            self.trie.remove(filter, &(index | SHARE_KEY));
        }
    }

    fn plan(&self, topic: &str, epoch: u64) -> Plan {
        let mut plan = Plan {
            epoch,
            ..Plan::default()
        };
        let mut places: HashMap<u32, usize, foldhash::fast::RandomState> = HashMap::default();
        let mut first: Option<(u32, usize)> = None;
        self.trie.match_topic(topic, |key, value| {
            if key & SHARE_KEY != 0 {
                plan.shares
                    .push(self.planned_share(&self.shares[(key & !SHARE_KEY) as usize]));
                return;
            }
            if self.copies {
                plan.targets
                    .push(PlannedTarget::new(&self.sessions[*key as usize], *value));
                return;
            }
            // Most topics have one subscriber: the map of places is filled from the second on.
            let place = match first {
                None => None,
                Some((known, place)) if known == *key => Some(place),
                Some(_) => places.get(key).copied(),
            };
            match place {
                Some(place) => plan.targets[place].merge(*value),
                None => {
                    let place = plan.targets.len();
                    plan.targets
                        .push(PlannedTarget::new(&self.sessions[*key as usize], *value));
                    if first.is_none() {
                        first = Some((*key, place));
                    } else {
                        places.insert(*key, place);
                    }
                }
            }
        });
        plan.find_remotes();
        // By worker, so that a fan-out touches each once.
        plan.targets.sort_by_key(|target| {
            target
                .location
                .map_or((u16::MAX, u32::MAX), |at| (at.worker, at.slot))
        });
        plan
    }

    fn planned_share(&self, share: &ShareRoute) -> PlannedShare {
        let mut members = Vec::with_capacity(share.members.len());
        let mut durable = false;
        for member in &share.members {
            let route = &self.sessions[member.key as usize];
            durable |= route.queue.is_some();
            if route.location.is_some() || route.remote().is_some() {
                members.push(PlannedTarget {
                    session: route.session,
                    location: route.location,
                    remote: route.remote(),
                    queue: route.queue.clone(),
                    terms: Terms::of(&member.options, member.subscription_id),
                    own_terms: None,
                });
            }
        }
        PlannedShare {
            key: share.key.clone(),
            durable,
            members,
            turn: share.turn.clone(),
        }
    }

    /// The connected members of a shared subscription, in the order they joined.
    pub fn share_members(&self, key: &ShareKey) -> Vec<ShareMember> {
        let Some(index) = self.by_share.get(key) else {
            return Vec::new();
        };
        let members = self.shares[*index as usize].members.iter();
        members
            .filter_map(|member| {
                let route = &self.sessions[member.key as usize];
                let here = route.location.map(MemberAt::Here);
                Some(ShareMember {
                    session: member.session,
                    at: here.or(route.remote().map(MemberAt::There))?,
                    options: member.options,
                    subscription_id: member.subscription_id,
                })
            })
            .collect()
    }

    /// Whether a shared subscription has a durable member.
    pub fn share_is_durable(&self, key: &ShareKey) -> bool {
        self.by_share.get(key).is_some_and(|index| {
            let mut members = self.shares[*index as usize].members.iter();
            members.any(|member| self.sessions[member.key as usize].queue.is_some())
        })
    }

    /// Whether a session has shared subscriptions.
    pub fn has_shares(&self, session: SessionId) -> bool {
        let route = self.session(session);
        route.is_some_and(|route| route.filters.iter().any(|filter| split_share(filter).is_some()))
    }

    /// The shared subscriptions of a session.
    pub fn shares_of(&self, session: SessionId) -> Vec<ShareKey> {
        let Some(route) = self.session(session) else {
            return Vec::new();
        };
        let shares = route.filters.iter().filter_map(|filter| split_share(filter));
        shares
            .map(|(name, filter)| ShareKey {
                name: name.into(),
                filter: filter.into(),
            })
            .collect()
    }
}

impl PlannedTarget {
    fn new(route: &SessionRoute, value: RouteValue) -> Self {
        let options = value.options();
        Self {
            session: route.session,
            location: route.location,
            remote: route.remote(),
            queue: route.queue.clone(),
            terms: Terms::of(&options, value.subscription_id()),
            own_terms: options.no_local.then_some(None),
        }
    }

    /// Adds another matching subscription of the same session.
    fn merge(&mut self, value: RouteValue) {
        let options = value.options();
        // Until the first subscription with No Local the own terms are the same as the others'.
        if options.no_local && self.own_terms.is_none() {
            self.own_terms = Some(Some(self.terms.clone()));
        } else if !options.no_local
            && let Some(own) = &mut self.own_terms
        {
            match own {
                Some(terms) => terms.merge(&options, value.subscription_id()),
                None => *own = Some(Terms::of(&options, value.subscription_id())),
            }
        }
        self.terms.merge(&options, value.subscription_id());
    }
}
