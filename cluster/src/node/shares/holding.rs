//! What the members here have been given of a group's shared queues, as the leader is told that asks (R38).
//!
//! A reference stands here from when it was taken until the entry that says what became of it is applied: a leader that
//! asks, and finds it neither here nor settled, knows that nobody was sent it, and nobody will be.

use std::collections::BTreeMap;

use quorate_proto::codec::QoS;

use crate::node::host::{ShareMember, shared_qos};
use crate::node::proposer::{Due, Waiter};
use crate::node::{Completion, Group, Host, Placement};
use crate::state::{
    Command, GiveId, NodeId, Outcome, PulledReference, Sequence, SessionId, ShareKey, TargetQueue,
};

/// A reference of a shared queue that was given to a member here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareHold {
    /// The shared subscription.
    pub share: ShareKey,
    /// The reference.
    pub sequence: Sequence,
    /// Which giving of it this is.
    pub give: GiveId,
    /// How it is this member's.
    pub giving: Giving,
    /// The node that gave it.
    pub from: NodeId,
}

/// How a reference of a shared queue is given to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Giving {
    /// The group knows it no more: nobody acknowledges it.
    Forgotten,
    /// Until it is acknowledged it may go to another: it is not sent at QoS 2.
    Lent,
    /// The group knows that this member has it for good (R37); its session ends with its connection.
    Held,
    /// The member's node moves it to the member's own queue ([`Command::Assign`]), from which it is sent.
    Offered,
}

impl Giving {
    pub(super) fn of(reference: &PulledReference, member: &ShareMember) -> Self {
        match shared_qos(reference.qos, &member.options) {
            QoS::AtMostOnce => Self::Forgotten,
            QoS::AtLeastOnce => Self::Lent,
            QoS::ExactlyOnce if Placement::is_durable(member.session) => Self::Offered,
            QoS::ExactlyOnce => Self::Held,
        }
    }
}

/// What members here hold.
#[derive(Debug, Default)]
pub(in crate::node) struct Holding {
    /// A leader was told what there was of everything given before this.
    fence: GiveId,
    /// That leader.
    told: Option<NodeId>,
    references: BTreeMap<(ShareKey, Sequence), (SessionId, GiveId)>,
}

/// How a member gets what was offered to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareDelivery {
    /// QoS, 1 or 2.
    pub qos: QoS,
    /// Subscription identifiers.
    pub subscription_ids: Vec<u32>,
    /// RETAIN flag.
    pub retain: bool,
}

/// One that a leader is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::node) struct HeldReference {
    pub(in crate::node) share: ShareKey,
    pub(in crate::node) sequence: Sequence,
    pub(in crate::node) session: SessionId,
    pub(in crate::node) give: GiveId,
}

impl<H: Host> Group<H> {
    /// A reference has come for a member here. False where it must not be sent: the leader has been told since that it
    /// had not come, or it has come before. One that was given later shows that the earlier giving is over, though this
    /// node has not applied that yet.
    pub fn take_shared(&self, hold: &ShareHold, session: SessionId) -> bool {
        let mut holding = self.holding.lock();
        let key = (hold.share.clone(), hold.sequence);
        let has_come = |(_, give): &(SessionId, GiveId)| *give >= hold.give;
        if hold.give < holding.fence || holding.references.get(&key).is_some_and(has_come) {
            return false;
        }
        holding.references.insert(key, (session, hold.give));
        true
    }

    /// The member is done with a reference, or has it for good and its session has ended: it is settled, and the member
    /// has room.
    pub fn settle_shared(&self, hold: &ShareHold) {
        self.settle_given(&hold.share, hold.sequence);
        let queue = TargetQueue::Share(hold.share.clone());
        let settle = Command::Settle {
            queue,
            sequences: vec![hold.sequence],
        };
        self.end_hold(hold, &settle);
    }

    /// The member was not sent a reference, or was lost before it acknowledged one that may go to others. Whether the
    /// [`Self::givers_of`] it are still to be told.
    pub fn give_back_shared(&self, hold: &ShareHold) -> bool {
        if hold.giving == Giving::Held {
            let unhold = Command::Unhold {
                share: hold.share.clone(),
                sequence: hold.sequence,
                give: hold.give,
            };
            self.end_hold(hold, &unhold);
            return false;
        }
        self.forget_hold(hold);
        true
    }

    /// Who counts a reference as given: the leader that gave it, and the one that was told of it since.
    pub fn givers_of(&self, hold: &ShareHold) -> impl Iterator<Item = NodeId> {
        let told = self.holding.lock().told.filter(|told| *told != hold.from);
        std::iter::once(hold.from).chain(told)
    }

    fn end_hold(&self, hold: &ShareHold, command: &Command) {
        let waiter = Waiter::Held(hold.clone());
        self.push(|buffer| command.encode(buffer), waiter, Due::Applied);
    }

    /// What became of a reference is known to the group.
    pub(in crate::node) fn hold_ended(&self, hold: &ShareHold, completion: &Completion) {
        // A batch that was refused is of a start of this node that is over.
        if *completion != Completion::Refused {
            self.forget_hold(hold);
        }
    }

    /// Moves what was offered to a member to its own queue; refused where the member's session, or the time of the leader
    /// that offered it, is over. Call [`Self::moved_shared`] with the outcome.
    pub fn move_shared(
        &self,
        hold: &ShareHold,
        session: SessionId,
        delivery: ShareDelivery,
        ticket: H::Ticket,
    ) {
        let assign = Command::Assign {
            share: hold.share.clone(),
            sequence: hold.sequence,
            session,
            qos: delivery.qos,
            subscription_ids: delivery.subscription_ids,
            retain: delivery.retain,
            give: hold.give,
        };
        self.push(
            |buffer| assign.encode(buffer),
            Waiter::Ticket(ticket),
            Due::Applied,
        );
    }

    /// What was offered to a member is in its own queue, or somebody else's. False where it is to be
    /// [given back](Self::give_back_shared).
    pub fn moved_shared(&self, hold: &ShareHold, completion: &Completion) -> bool {
        match completion {
            Completion::Applied(Outcome::Done) => self.forget_hold(hold),
            // This start of the node is over.
            Completion::Refused => {}
            _ => return false,
        }
        true
    }

    fn forget_hold(&self, hold: &ShareHold) {
        let key = (hold.share.clone(), hold.sequence);
        let mut holding = self.holding.lock();
        if holding
            .references
            .get(&key)
            .is_some_and(|(_, give)| *give == hold.give)
        {
            holding.references.remove(&key);
        }
    }

    /// What members here hold, for a leader; of what was given before `fence` nothing more is taken.
    pub(in crate::node) fn report_held(&self, to: NodeId, fence: GiveId) -> Vec<HeldReference> {
        let mut holding = self.holding.lock();
        if fence > holding.fence {
            holding.fence = fence;
            holding.told = Some(to);
        }
        let references = holding.references.iter();
        references
            .map(|((share, sequence), (session, give))| HeldReference {
                share: share.clone(),
                sequence: *sequence,
                session: *session,
                give: *give,
            })
            .collect()
    }
}
