//! Durable shared subscriptions: gives each reference of a shared queue to one connected member.
//!
//! Round robin over the members that have room. At QoS 0 and 1 a member that is lost gives its references back and
//! they go to another at once; at QoS 2 the assignment to a durable member is committed first and final (R37)
//! [MQTT-4.8.2-4, -5]. What was assigned waits in the member's own queue of this group, whose length, which a restart
//! does not forget, bounds how much is assigned to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use quorate_proto::codec::QoS;

use super::host::{ShareMember, shared_qos};
use super::proposer::Waiter;
use super::{Completion, Group, Host, Location, Placement, SharedReference};
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
    in_flight: BTreeMap<Sequence, SessionId>,
    held: BTreeMap<SessionId, usize>,
    /// Goes round the members.
    turn: usize,
}

/// Dispatch state of a group's shared queues. Lost with the leader: a new one gives unsettled references again.
#[derive(Debug, Default)]
pub(super) struct ShareDispatch {
    shares: BTreeMap<ShareKey, Share>,
    marked: BTreeSet<ShareKey>,
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
        if let Some(state) = dispatch.shares.get_mut(share) {
            state.release(sequence);
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
        if let Some(state) = dispatch.shares.get_mut(share) {
            state.release(sequence);
            state.returned.insert(sequence);
        }
        dispatch.mark(share);
        drop(dispatch);
        self.attend.notify_one();
    }

    /// The session's connection is gone: what it held goes to others.
    pub fn share_member_lost(&self, session: SessionId) {
        let mut dispatch = self.shares.lock();
        let mut touched = Vec::new();
        for (key, share) in &mut dispatch.shares {
            if share.take_back(session) {
                touched.push(key.clone());
            }
        }
        for key in &touched {
            dispatch.mark(key);
        }
        drop(dispatch);
        if !touched.is_empty() {
            self.attend.notify_one();
        }
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
        for key in marked {
            let members = self.host.share_members(&key);
            let (given, assigned) = self.dispatch_share(&key, &members);
            for (assign, assignment) in assigned {
                self.push(|buffer| assign.encode(buffer), Waiter::Assign(assignment), false);
            }
            if !given.is_empty() {
                self.host.handle_shared(given);
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
            assigning,
            full,
            ..
        } = &mut *dispatch;
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
                let chosen = share.choose(members, |member, held| {
                    if !is_assigned(&reference, member) {
                        return held < MEMBER_WINDOW;
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
                    given.push(self.give(key, share, &member, reference));
                }
            }
            share.returned.clear();
            if !progressed {
                return (given, assigned);
            }
        }
    }

    /// Hands a reference to a member.
    fn give(
        &self,
        key: &ShareKey,
        share: &mut Share,
        member: &ShareMember,
        reference: PulledReference,
    ) -> SharedReference {
        if shared_qos(reference.qos, &member.options) == QoS::AtMostOnce {
            let settle = Command::Settle {
                queue: TargetQueue::Share(key.clone()),
                sequences: vec![reference.sequence],
            };
            self.propose(&settle, None);
        } else {
            // A session that ends with its connection needs no committed choice: nobody can take it up again.
            share.hold(reference.sequence, member.session);
        }
        SharedReference {
            location: member.location,
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
    /// The next member that has room; `has_room` is told how many references each holds.
    fn choose(
        &mut self,
        members: &[ShareMember],
        mut has_room: impl FnMut(&ShareMember, usize) -> bool,
    ) -> Option<ShareMember> {
        for step in 0..members.len() {
            let member = &members[(self.turn + step) % members.len()];
            let held = self.held.get(&member.session).copied().unwrap_or(0);
            if has_room(member, held) {
                self.turn = self.turn + step + 1;
                return Some(*member);
            }
        }
        None
    }

    fn hold(&mut self, sequence: Sequence, session: SessionId) {
        self.in_flight.insert(sequence, session);
        *self.held.entry(session).or_default() += 1;
    }

    fn release(&mut self, sequence: Sequence) {
        if let Some(session) = self.in_flight.remove(&sequence)
            && let Some(held) = self.held.get_mut(&session)
        {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&session);
            }
        }
    }

    fn take_back(&mut self, session: SessionId) -> bool {
        if self.held.remove(&session).is_none() {
            return false;
        }
        let returned: Vec<Sequence> = self
            .in_flight
            .iter()
            .filter(|(_, holder)| **holder == session)
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in returned {
            self.in_flight.remove(&sequence);
            self.returned.insert(sequence);
        }
        true
    }
}

/// Where a member's connection is.
impl ShareMember {
    /// Its connection.
    pub fn location(&self) -> Location {
        self.location
    }
}
