//! Durable shared subscriptions: gives each reference of a shared queue to one connected member.
//!
//! Round robin over the members that have room. At QoS 0 and 1 a member that is lost gives its references back and
//! they go to another at once; at QoS 2 the assignment to a durable member is committed first and final (R37)
//! [MQTT-4.8.2-4, -5]. What was assigned waits in the member's own queue of this group, whose length, which a restart
//! does not forget, bounds how much is assigned to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use quorate_proto::codec::QoS;

use super::host::{MemberAt, ShareMember, shared_qos};
use super::proposer::{Due, Waiter};
use super::{Completion, Group, Host, Placement, SharedReference};
use crate::state::{Command, Outcome, PulledReference, Sequence, SessionId, ShareKey, TargetQueue};

/// References of one group that one member may hold unsettled, and length of its own queue from which on nothing is
/// assigned to it.
const MEMBER_WINDOW: usize = 16;
/// References looked at in one pull.
const PULL_COUNT: usize = 64;

/// Dispatch state of one shared queue.
#[derive(Debug, Default)]
struct Share {
    /// Everything below was given to somebody once.
    next: Sequence,
    /// Given back by members that were lost.
    returned: BTreeSet<Sequence>,
    in_flight: BTreeMap<Sequence, Holder>,
    /// Goes round the members.
    turn: usize,
}

/// Who holds a reference.
#[derive(Clone, Copy, Debug)]
struct Holder {
    session: SessionId,
    /// A message at QoS 2 that another node has for a member without a durable session. What was sent of it is known
    /// there alone, and it must not go to another [MQTT-4.8.2-5]: it ends with the member.
    is_final: bool,
}

/// How many references of which shares each member holds.
#[derive(Debug, Default)]
struct Held(BTreeMap<SessionId, BTreeMap<ShareKey, usize>>);

impl Held {
    fn count(&self, session: SessionId, share: &ShareKey) -> usize {
        let shares = self.0.get(&session);
        shares.and_then(|shares| shares.get(share)).copied().unwrap_or(0)
    }

    fn add(&mut self, session: SessionId, share: &ShareKey) {
        *self
            .0
            .entry(session)
            .or_default()
            .entry(share.clone())
            .or_default() += 1;
    }

    fn remove(&mut self, session: SessionId, share: &ShareKey) {
        let Some(shares) = self.0.get_mut(&session) else {
            return;
        };
        if let Some(count) = shares.get_mut(share) {
            *count -= 1;
            if *count == 0 {
                shares.remove(share);
            }
        }
        if shares.is_empty() {
            self.0.remove(&session);
        }
    }

    /// Forgets a member; answers the shares it held something of.
    fn take(&mut self, session: SessionId) -> impl Iterator<Item = ShareKey> {
        self.0
            .remove(&session)
            .into_iter()
            .flatten()
            .map(|(share, _)| share)
    }
}

/// Dispatch state of a group's shared queues. Lost with the leader: a new one gives unsettled references again.
#[derive(Debug, Default)]
pub(super) struct ShareDispatch {
    shares: BTreeMap<ShareKey, Share>,
    marked: BTreeSet<ShareKey>,
    held: Held,
    /// Assignments that were proposed and whose outcome is not known, by member.
    assigning: BTreeMap<SessionId, usize>,
    /// Members whose own queue was too long, and the shares that had something for them.
    full: BTreeMap<SessionId, BTreeSet<ShareKey>>,
}

/// A QoS 2 reference on its way into a member's own queue.
#[derive(Debug)]
pub(super) struct Assignment {
    share: ShareKey,
    sequence: Sequence,
    session: SessionId,
}

impl ShareDispatch {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.shares.is_empty() && self.held.0.is_empty() && self.assigning.is_empty() && self.full.is_empty()
    }

    /// First reference that was given to nobody yet.
    pub(super) fn next(&self, share: &ShareKey) -> Sequence {
        self.shares.get(share).map_or(Sequence(0), |share| share.next)
    }

    /// The share has references, or members with room.
    pub(super) fn mark(&mut self, share: &ShareKey) {
        if !self.marked.contains(share) {
            self.marked.insert(share.clone());
        }
    }

    /// What a member held is not held by it any more.
    fn release(&mut self, share: &ShareKey, sequence: Sequence) -> Option<&mut Share> {
        let dispatched = self.shares.get_mut(share)?;
        if let Some(holder) = dispatched.in_flight.remove(&sequence) {
            self.held.remove(holder.session, share);
        }
        Some(dispatched)
    }

    /// The member's own queue has become shorter; whether a share has something for it.
    fn mark_shares_of(&mut self, session: SessionId) -> bool {
        let shares = self.full.remove(&session);
        let any = shares.is_some();
        self.marked.extend(shares.into_iter().flatten());
        any
    }
}

impl<H: Host> Group<H> {
    /// A member connected or got room.
    pub fn share_ready(&self, share: &ShareKey) {
        self.shares.lock().mark(share);
        self.attend.notify_one();
    }

    /// The member is done with a reference: it is settled, and the member has room.
    pub fn settle_shared(&self, share: &ShareKey, sequence: Sequence) {
        let mut dispatch = self.shares.lock();
        if let Some(state) = dispatch.release(share, sequence) {
            state.returned.remove(&sequence);
        }
        dispatch.mark(share);
        drop(dispatch);
        let queue = TargetQueue::Share(share.clone());
        self.propose(
            &Command::Settle {
                queue,
                sequences: vec![sequence],
            },
            None,
        );
        self.attend.notify_one();
    }

    /// A reference did not reach its member, which had gone: it goes to another.
    pub fn share_returned(&self, share: &ShareKey, sequence: Sequence) {
        let mut dispatch = self.shares.lock();
        if let Some(state) = dispatch.release(share, sequence) {
            state.returned.insert(sequence);
        }
        dispatch.mark(share);
        drop(dispatch);
        self.attend.notify_one();
    }

    /// The session's connection is gone: what it held goes to others.
    pub fn share_member_lost(&self, session: SessionId) {
        let mut dispatch = self.shares.lock();
        let shares: Vec<ShareKey> = dispatch.held.take(session).collect();
        let mut ended = Vec::new();
        for key in &shares {
            if let Some(share) = dispatch.shares.get_mut(key) {
                let sequences = share.take_back(session);
                if !sequences.is_empty() {
                    let queue = TargetQueue::Share(key.clone());
                    ended.push(Command::Settle { queue, sequences });
                }
            }
            dispatch.mark(key);
        }
        drop(dispatch);
        for settle in ended {
            self.propose(&settle, None);
        }
        if !shares.is_empty() {
            self.attend.notify_one();
        }
    }

    /// References left a shared queue: who held them has room.
    pub(super) fn shared_removed(&self, key: &ShareKey) {
        let mut dispatch = self.shares.lock();
        let Some(share) = dispatch.shares.get(key) else {
            return;
        };
        let queue = TargetQueue::Share(key.clone());
        let gone: Vec<Sequence> = {
            let state = self.state();
            let held = share.in_flight.keys().chain(&share.returned);
            held.filter(|sequence| !state.holds(&queue, **sequence))
                .copied()
                .collect()
        };
        for sequence in &gone {
            if let Some(share) = dispatch.release(key, *sequence) {
                share.returned.remove(sequence);
            }
        }
        if !gone.is_empty() {
            dispatch.mark(key);
            drop(dispatch);
            self.attend.notify_one();
        }
    }

    /// Another node leads, or this one begins to: it gives everything that is not settled.
    pub(super) fn begin_dispatch(&self, leads: bool) {
        let mut dispatch = self.shares.lock();
        *dispatch = ShareDispatch::default();
        if leads {
            let state = self.state();
            dispatch
                .marked
                .extend(state.queues().filter_map(|view| match view.queue {
                    TargetQueue::Share(share) if view.len > 0 => Some(share),
                    _ => None,
                }));
        }
    }

    /// Forgets shares whose queue was dropped and of which no member holds anything.
    pub(super) fn forget_shares(&self) {
        let mut dispatch = self.shares.lock();
        let state = self.state();
        dispatch.shares.retain(|key, share| {
            let is_idle = share.in_flight.is_empty() && share.returned.is_empty();
            !is_idle || state.next_sequence(&TargetQueue::Share(key.clone())).is_some()
        });
    }

    /// References left a session's own queue; whether the attendant has something to give it.
    pub(super) fn member_has_room(&self, session: SessionId) -> bool {
        let mut dispatch = self.shares.lock();
        dispatch.full.contains_key(&session)
            && self.queue_has_room(session, 0)
            && dispatch.mark_shares_of(session)
    }

    fn queue_has_room(&self, session: SessionId, coming: usize) -> bool {
        let queued = self.state().queue_len(&TargetQueue::Session(session)) as usize;
        queued + coming < MEMBER_WINDOW
    }

    /// An assignment is committed, or refused: then the reference is still the share's.
    pub(super) fn assigned(&self, assignment: Assignment, completion: &Completion) {
        let Assignment {
            share: key,
            sequence,
            session,
        } = assignment;
        let mut dispatch = self.shares.lock();
        if let Some(assigning) = dispatch.assigning.get_mut(&session) {
            *assigning -= 1;
            if *assigning == 0 {
                dispatch.assigning.remove(&session);
            }
        }
        if *completion != Completion::Applied(Outcome::Done)
            && let Some(share) = dispatch.shares.get_mut(&key)
        {
            share.returned.insert(sequence);
        }
        dispatch.mark_shares_of(session);
        dispatch.mark(&key);
        drop(dispatch);
        // A group that refuses its batches has nothing to give any more.
        if matches!(completion, Completion::Applied(_)) {
            self.attend.notify_one();
        }
    }

    pub(super) fn dispatch_shares(self: &Arc<Self>) {
        let marked = std::mem::take(&mut self.shares.lock().marked);
        if !self.leads() {
            return;
        }
        for key in marked {
            let members = self.host.share_members(&key);
            let (given, assigned) = self.dispatch_share(&key, &members);
            for (assign, assignment) in assigned {
                self.push(
                    |buffer| assign.encode(buffer),
                    Waiter::Assign(assignment),
                    Due::Applied,
                );
            }
            if !given.is_empty() {
                self.hand_over_shared(given);
            }
        }
    }

    /// What is given to members now, and what is to be assigned to them.
    fn dispatch_share(
        &self,
        key: &ShareKey,
        members: &[ShareMember],
    ) -> (Vec<SharedReference>, Vec<(Command, Assignment)>) {
        let queue = TargetQueue::Share(key.clone());
        let (mut given, mut assigned) = (Vec::new(), Vec::new());
        let mut dispatch = self.shares.lock();
        let ShareDispatch {
            shares,
            held,
            assigning,
            full,
            ..
        } = &mut *dispatch;
        // A member that comes marks its shares in every group, and few of them have something for it.
        if !shares.contains_key(key) && self.state().queue_len(&queue) == 0 {
            return (given, assigned);
        }
        let share = shares.entry(key.clone()).or_default();
        loop {
            let mut references = Vec::new();
            {
                let state = self.state();
                for sequence in &share.returned {
                    state.pull(&queue, *sequence, 1, u64::MAX, &mut references);
                    // A returned reference that was settled meanwhile yields its successor: not ours to give here.
                    references.pop_if(|reference| reference.sequence != *sequence);
                }
                state.pull(&queue, share.next, PULL_COUNT, u64::MAX, &mut references);
            }
            let mut progressed = false;
            for reference in references {
                let chosen = share.choose(members, |member| {
                    if !is_assigned(&reference, member) {
                        return held.count(member.session, key) < MEMBER_WINDOW;
                    }
                    let coming = assigning.get(&member.session).copied().unwrap_or(0);
                    let has_room = self.queue_has_room(member.session, coming);
                    if !has_room {
                        full.entry(member.session).or_default().insert(key.clone());
                    }
                    has_room
                });
                let Some(member) = chosen else {
                    return (given, assigned);
                };
                progressed = true;
                share.returned.remove(&reference.sequence);
                share.next = share.next.max(Sequence(reference.sequence.0 + 1));
                if is_assigned(&reference, &member) {
                    *assigning.entry(member.session).or_default() += 1;
                    assigned.push(assign(key, &member, &reference));
                } else {
                    if shared_qos(reference.qos, &member.options) > QoS::AtMostOnce {
                        // A session that ends with its connection needs no committed choice: nobody can take it up
                        // again.
                        let holder = Holder {
                            session: member.session,
                            is_final: matches!(member.at, MemberAt::There(_))
                                && shared_qos(reference.qos, &member.options) == QoS::ExactlyOnce,
                        };
                        share.in_flight.insert(reference.sequence, holder);
                        held.add(member.session, key);
                    }
                    given.push(self.give(key, &member, reference));
                }
            }
            share.returned.clear();
            if !progressed {
                return (given, assigned);
            }
        }
    }

    /// Hands a reference to a member.
    fn give(&self, key: &ShareKey, member: &ShareMember, reference: PulledReference) -> SharedReference {
        if shared_qos(reference.qos, &member.options) == QoS::AtMostOnce {
            let settle = Command::Settle {
                queue: TargetQueue::Share(key.clone()),
                sequences: vec![reference.sequence],
            };
            self.propose(&settle, None);
        }
        SharedReference {
            at: member.at,
            session: member.session,
            group: self.id(),
            share: key.clone(),
            reference,
            options: member.options,
            subscription_id: member.subscription_id,
            now: self.now(),
        }
    }
}

/// Whether a member gets a reference by an entry that makes it the member's own.
fn is_assigned(reference: &PulledReference, member: &ShareMember) -> bool {
    shared_qos(reference.qos, &member.options) == QoS::ExactlyOnce && Placement::is_durable(member.session)
}

fn assign(key: &ShareKey, member: &ShareMember, reference: &PulledReference) -> (Command, Assignment) {
    let assign = Command::Assign {
        share: key.clone(),
        sequence: reference.sequence,
        session: member.session,
        qos: QoS::ExactlyOnce,
        subscription_ids: member.subscription_id.into_iter().collect(),
        retain: reference.message.retain && member.options.retain_as_published,
    };
    let assignment = Assignment {
        share: key.clone(),
        sequence: reference.sequence,
        session: member.session,
    };
    (assign, assignment)
}

impl Share {
    /// The next member that has room.
    fn choose(
        &mut self,
        members: &[ShareMember],
        mut has_room: impl FnMut(&ShareMember) -> bool,
    ) -> Option<ShareMember> {
        for step in 0..members.len() {
            let member = &members[(self.turn + step) % members.len()];
            if has_room(member) {
                self.turn = self.turn + step + 1;
                return Some(*member);
            }
        }
        None
    }

    /// Takes back what a member held; answers what ends with it.
    fn take_back(&mut self, session: SessionId) -> Vec<Sequence> {
        let mut ended = Vec::new();
        let taken = self
            .in_flight
            .extract_if(.., |_, holder| holder.session == session);
        for (sequence, holder) in taken {
            if holder.is_final {
                ended.push(sequence);
            } else {
                self.returned.insert(sequence);
            }
        }
        ended
    }
}
