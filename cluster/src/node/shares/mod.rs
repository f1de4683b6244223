//! Shared subscriptions whose messages a group holds: gives each reference of a shared queue to one connected member.
//!
//! ```text
//! leader (dispatch) --Hold--> group                     what is for one member for good (R37)
//!        |    ^
//!      gives  gives back, asks (gather, R38)
//!        v    |
//! member's node (holding) --Assign, Settle, Unhold--> group    what became of it
//! ```
//!
//! Round robin over the members that have room. At QoS 1 a member that is lost gives its references back and they go to
//! another at once. At QoS 2 the choice is committed first (R37) [MQTT-4.8.2-4, -5]: what a durable member is offered its
//! node moves to its own queue of this group, when it has room for it; what a member whose session ends with its
//! connection is given stays in the share's queue, with its name. Only the node of that member can say that it was not
//! sent, and then another gets it.
//!
//! A member's node takes no more than the member has room for, and says so; the leader leaves that member alone until it
//! is told that there is room (R39).

mod dispatch;
mod gather;
mod holding;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::host::{MemberAt, ShareMember};
use super::proposer::{Due, Waiter};
use super::{Completion, Group, Host, SharedReference};
use crate::state::{
    Command, GiveId, NodeId, NodeIncarnation, Outcome, PulledReference, Sequence, SessionId, ShareHolder,
    ShareKey, TargetQueue,
};
pub(super) use dispatch::ShareDispatch;
use dispatch::{Given, GivenStanding, MEMBER_WINDOW, Pause, Share};
pub(super) use holding::Holding;
pub use holding::{Giving, ShareDelivery, ShareHold};

/// How long a member that gave something back is not chosen.
const MEMBER_PAUSE: Duration = Duration::from_millis(50);

/// References looked at in one pull.
const PULL_COUNT: usize = 64;

/// A QoS 2 reference that is given to a member when the group knows that it has it.
#[derive(Debug)]
pub(super) struct Choice {
    generation: u64,
    reference: SharedReference,
}

/// What a look at a share has to do.
#[derive(Debug, Default)]
struct Dispatched {
    given: Vec<SharedReference>,
    chosen: Vec<SharedReference>,
}

impl<H: Host> Group<H> {
    /// A member connected.
    pub fn share_ready(&self, share: &ShareKey) {
        self.shares.lock().mark(share);
        self.attend.notify_one();
    }

    /// A reference did not reach its member, or was not acknowledged by one that has gone: it goes to another.
    pub fn share_returned(self: &Arc<Self>, share: &ShareKey, sequence: Sequence, give: GiveId) {
        let mut dispatch = self.shares.lock();
        let is_its = |given: &Given| {
            given.give == give && matches!(given.standing, GivenStanding::Lent | GivenStanding::Offered)
        };
        if let Some(given) = dispatch.given(share, sequence).copied().filter(is_its) {
            dispatch.give_again(share, sequence);
            let pause = dispatch.pause(given.session, share);
            drop(dispatch);
            if let Some(pause) = pause {
                self.end_pause(pause);
            }
            self.attend.notify_one();
        } else {
            dispatch.note_came_back(share, sequence, give);
        }
    }

    /// A member that gave something back may be chosen again a little later: its node may know before this one that its
    /// connection is over.
    fn end_pause(self: &Arc<Self>, pause: Pause) {
        let group = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(MEMBER_PAUSE).await;
            if let Some(group) = group.upgrade()
                && group.shares.lock().end_pause(&pause)
            {
                group.attend.notify_one();
            }
        });
    }

    /// A member's node has refused something: the member has no room until the node says that it has (R39). What an
    /// earlier connection had no room for says nothing of the present one, and nobody would say that it has room.
    pub fn share_member_full(&self, session: SessionId, share: &ShareKey, sequence: Sequence, give: GiveId) {
        let mut dispatch = self.shares.lock();
        let is_refused = |given: &Given| given.give == give && !given.is_of_earlier;
        if dispatch.given(share, sequence).is_some_and(is_refused) {
            dispatch.blocked.entry(session).or_default().insert(share.clone());
            dispatch.end_pause_of(session);
        }
    }

    /// A member that was said to have no room has some.
    pub fn share_member_has_room(&self, session: SessionId) {
        if self.shares.lock().unblock(session) {
            self.attend.notify_one();
        }
    }

    /// The session's connection is gone: what it held goes to others. What is its own for good is its node's to end.
    pub fn share_member_lost(&self, session: SessionId) {
        let shares = self.shares.lock().lose(session);
        if !shares.is_empty() {
            self.attend.notify_one();
        }
    }

    /// The member is done with a reference: it has room.
    fn settle_given(&self, share: &ShareKey, sequence: Sequence) {
        let mut dispatch = self.shares.lock();
        // Until the group has settled it, a reference that was not looked at yet would be given to another.
        let is_passed = sequence < dispatch.next(share);
        if is_passed && dispatch.release(share, sequence).is_some() {
            drop(dispatch);
            self.attend.notify_one();
        }
    }

    /// References left a shared queue: who held them has room.
    pub(super) fn shared_removed(&self, key: &ShareKey) {
        let mut dispatch = self.shares.lock();
        let Some(share) = dispatch.shares.get_mut(key) else {
            return;
        };
        let queue = TargetQueue::Share(key.clone());
        let gone: Vec<Sequence> = {
            let state = self.state();
            share.returned.retain(|sequence| state.holds(&queue, *sequence));
            let given = share.given.keys();
            given
                .filter(|sequence| !state.holds(&queue, **sequence))
                .copied()
                .collect()
        };
        for sequence in &gone {
            dispatch.release(key, *sequence);
        }
        if !gone.is_empty() {
            drop(dispatch);
            self.attend.notify_one();
        }
    }

    /// A member was not sent what it was to have for good.
    pub(super) fn shared_unheld(&self, share: &ShareKey, sequence: Sequence, give: GiveId) {
        let mut dispatch = self.shares.lock();
        if dispatch
            .given(share, sequence)
            .is_some_and(|given| given.give == give)
        {
            dispatch.give_again(share, sequence);
            drop(dispatch);
            self.attend.notify_one();
        }
    }

    /// Forgets shares whose queue was dropped and of which no member holds anything.
    pub(super) fn forget_shares(&self) {
        let mut dispatch = self.shares.lock();
        let state = self.state();
        dispatch.shares.retain(|key, share| {
            let is_idle = share.given.is_empty() && share.returned.is_empty();
            !is_idle || state.next_sequence(&TargetQueue::Share(key.clone())).is_some()
        });
    }

    /// The group knows who has a reference for good, or refuses that: now it is sent, or goes to another.
    pub(super) fn chosen(&self, choice: Choice, completion: &Completion) {
        let Choice {
            generation,
            reference,
        } = choice;
        let SharedReference { share, give, .. } = &reference;
        let sequence = reference.reference.sequence;
        let mut dispatch = self.shares.lock();
        // Whoever leads now asks what became of it.
        if dispatch.generation != generation || !self.leads() {
            return;
        }
        let Some(given) = dispatch.given(share, sequence).copied() else {
            return;
        };
        if given.give != *give {
            return;
        }
        if *completion != Completion::Applied(Outcome::Done) {
            match self.state().holder(share, sequence) {
                // It was chosen at another time that this node led.
                Some(holder) => {
                    dispatch.note_given(share, sequence, Given::held(&holder));
                    dispatch.doubted.insert(holder.node);
                }
                None => dispatch.give_again(share, sequence),
            }
            drop(dispatch);
            if matches!(completion, Completion::Applied(_)) {
                self.attend.notify_one();
            }
            return;
        }
        let standing = GivenStanding::Held;
        dispatch.note_given(share, sequence, Given { standing, ..given });
        let is_refused = dispatch
            .fences
            .get(&given.node)
            .is_some_and(|fence| *give < *fence);
        let this = (self.settings.node, self.settings.incarnation);
        let start = (given.node, given.incarnation);
        let is_lost = start != this && !self.routes.serves(start.0, start.1);
        drop(dispatch);
        if is_refused || is_lost {
            // Its node takes nothing that was given before it was asked, or takes nothing any more.
            self.unhold(share.clone(), sequence, *give);
        } else {
            self.hand_over_shared(vec![reference]);
        }
    }

    pub(super) fn dispatch_shares(self: &Arc<Self>) {
        let (marked, doubted) = {
            let mut dispatch = self.shares.lock();
            if !dispatch.is_open {
                // What is marked is looked at then.
                return;
            }
            (
                std::mem::take(&mut dispatch.marked),
                std::mem::take(&mut dispatch.doubted),
            )
        };
        for node in doubted {
            self.doubt_holder(node);
        }
        if marked.is_empty() || !self.leads() {
            return;
        }
        let starts = self.routes.serving().into_iter().collect();
        for key in marked {
            let members = self.host.share_members(&key);
            let Dispatched { given, chosen } = self.dispatch_share(&key, &members, &starts);
            for reference in chosen {
                self.propose_hold(reference, &starts);
            }
            if !given.is_empty() {
                self.hand_over_shared(given);
            }
        }
    }

    fn propose_hold(&self, reference: SharedReference, starts: &BTreeMap<NodeId, NodeIncarnation>) {
        let Some((node, incarnation)) = self.start_of(reference.at, starts) else {
            return;
        };
        let hold = Command::Hold {
            share: reference.share.clone(),
            sequence: reference.reference.sequence,
            holder: ShareHolder {
                session: reference.session,
                node,
                incarnation,
                give: reference.give,
            },
        };
        let generation = self.shares.lock().generation;
        let choice = Choice {
            generation,
            reference,
        };
        self.push(
            |buffer| hold.encode(buffer),
            Waiter::Hold(Box::new(choice)),
            Due::Applied,
        );
    }

    /// The start of the node that a member's connection is at; none where it does not serve any more.
    fn start_of(
        &self,
        at: MemberAt,
        starts: &BTreeMap<NodeId, NodeIncarnation>,
    ) -> Option<(NodeId, NodeIncarnation)> {
        match at {
            MemberAt::Here(_) => Some((self.settings.node, self.settings.incarnation)),
            MemberAt::There(node) => Some((node, *starts.get(&node)?)),
        }
    }

    /// What is given to members now, and what is to be theirs first.
    fn dispatch_share(
        &self,
        key: &ShareKey,
        members: &[ShareMember],
        starts: &BTreeMap<NodeId, NodeIncarnation>,
    ) -> Dispatched {
        let queue = TargetQueue::Share(key.clone());
        let mut dispatched = Dispatched::default();
        let mut dispatch = self.shares.lock();
        // A member that comes marks its shares in every group, and few of them have something for it.
        if !dispatch.shares.contains_key(key) && self.state().queue_len(&queue) == 0 {
            return dispatched;
        }
        loop {
            let (references, skipped) = {
                let share = dispatch.shares.entry(key.clone()).or_default();
                self.waiting_references(&queue, share)
            };
            let mut progressed = skipped;
            for reference in references {
                let Some(member) = self.choose_member(&mut dispatch, key, &reference, members, starts) else {
                    return dispatched;
                };
                progressed = true;
                self.give(&mut dispatch, key, &member, reference, starts, &mut dispatched);
            }
            if let Some(share) = dispatch.shares.get_mut(key) {
                share.returned.clear();
            }
            if !progressed {
                return dispatched;
            }
        }
    }

    /// References that nobody has, a piece of the queue at a time; whether some were passed over.
    fn waiting_references(&self, queue: &TargetQueue, share: &mut Share) -> (Vec<PulledReference>, bool) {
        let mut references = Vec::new();
        let state = self.state();
        for sequence in &share.returned {
            let before = references.len();
            state.pull(queue, *sequence, 1, u64::MAX, &mut references);
            // A returned reference that was settled meanwhile yields its successor, if any: not ours to give here.
            let is_other = |reference: &PulledReference| reference.sequence != *sequence;
            if references.len() > before && references.last().is_some_and(is_other) {
                references.pop();
            }
        }
        let mut new = Vec::new();
        state.pull(queue, share.next, PULL_COUNT, u64::MAX, &mut new);
        let mut skipped = false;
        for reference in new {
            if share.given.contains_key(&reference.sequence) {
                // An earlier leader gave it. Those in front of it are given below.
                skipped |= references.is_empty();
                if references.is_empty() {
                    share.next = Sequence(reference.sequence.0 + 1);
                }
            } else {
                references.push(reference);
            }
        }
        (references, skipped)
    }

    fn choose_member(
        &self,
        dispatch: &mut ShareDispatch,
        key: &ShareKey,
        reference: &PulledReference,
        members: &[ShareMember],
        starts: &BTreeMap<NodeId, NodeIncarnation>,
    ) -> Option<ShareMember> {
        let ShareDispatch {
            shares,
            held,
            blocked,
            ..
        } = dispatch;
        let share = shares.get_mut(key)?;
        share.choose(members, |member| {
            let is_counted = Giving::of(reference, member) != Giving::Forgotten;
            if let (Some(shares), true) = (blocked.get_mut(&member.session), is_counted) {
                shares.insert(key.clone());
                return false;
            }
            let has_room = held.count(member.session, key) < MEMBER_WINDOW;
            has_room && self.start_of(member.at, starts).is_some()
        })
    }

    /// Gives a reference to a member.
    fn give(
        &self,
        dispatch: &mut ShareDispatch,
        key: &ShareKey,
        member: &ShareMember,
        reference: PulledReference,
        starts: &BTreeMap<NodeId, NodeIncarnation>,
        dispatched: &mut Dispatched,
    ) {
        let sequence = reference.sequence;
        let give = dispatch.number();
        if let Some(share) = dispatch.shares.get_mut(key) {
            share.returned.remove(&sequence);
            share.next = share.next.max(Sequence(sequence.0 + 1));
        }
        let giving = Giving::of(&reference, member);
        let standing = match giving {
            Giving::Forgotten => None,
            Giving::Lent => Some(GivenStanding::Lent),
            Giving::Held => Some(GivenStanding::Holding),
            Giving::Offered => Some(GivenStanding::Offered),
        };
        if let (Some(standing), Some((node, incarnation))) = (standing, self.start_of(member.at, starts)) {
            let given = Given {
                session: member.session,
                node,
                incarnation,
                give,
                standing,
                is_of_earlier: false,
            };
            dispatch.note_given(key, sequence, given);
        }
        if giving == Giving::Forgotten {
            let settle = Command::Settle {
                queue: TargetQueue::Share(key.clone()),
                sequences: vec![sequence],
            };
            self.propose(&settle, None);
        }
        let reference = SharedReference {
            at: member.at,
            session: member.session,
            group: self.id(),
            share: key.clone(),
            reference,
            options: member.options,
            subscription_id: member.subscription_id,
            give,
            giving,
            now: self.now(),
        };
        match giving {
            Giving::Held => dispatched.chosen.push(reference),
            _ => dispatched.given.push(reference),
        }
    }
}
