//! What becomes of messages that were lent: what members' nodes say of it, and what is to be taken for it where they
//! cannot say it any more.

use std::collections::BTreeSet;
use std::rc::Rc;

use quorate_cluster::state::{NodeId, NodeIncarnation, SessionId, ShareKey};

use super::{Borrower, HeldShares, LenderNews, Returned};
use crate::metrics::DropReason;
use crate::peers::DroppedLoan;
use crate::worker::Worker;

/// Time between looks at whether the borrowers' nodes are still there, in milliseconds.
const LOOK_INTERVAL_MS: u64 = 1_000;

impl Worker {
    /// A member's node tells of what it was lent.
    pub(in crate::worker) fn handle_lender_news(self: &Rc<Self>, news: &LenderNews) {
        match *news {
            LenderNews::Returned(number, session, returned) => {
                self.handle_returned(number, session, returned)
            }
            LenderNews::HasRoom(session) => {
                let shares: Vec<ShareKey> = {
                    let mut held = self.held.borrow_mut();
                    let shares = held.shares.iter_mut();
                    shares
                        .filter_map(|(key, share)| share.full.remove(&session).then(|| key.clone()))
                        .collect()
                };
                for share in shares {
                    self.lend_waiting(&share);
                }
            }
        }
    }

    fn handle_returned(self: &Rc<Self>, number: u64, session: SessionId, returned: Returned) {
        if let Some(share) = self.note_returned(number, session, returned) {
            self.lend_waiting(&share);
        }
    }

    /// The share of a message that was lent to this member, and is it no more.
    fn note_returned(&self, number: u64, session: SessionId, returned: Returned) -> Option<ShareKey> {
        let share = {
            let mut held = self.held.borrow_mut();
            let HeldShares { messages, shares, .. } = &mut *held;
            let message = messages.get_mut(&number)?;
            message.with.filter(|borrower| borrower.session == session)?;
            let share = message.share.clone();
            if returned != Returned::Done {
                message.with = None;
                if let Some(known) = shares.get_mut(&share) {
                    known.note_returned(session);
                    if returned == Returned::Full {
                        known.full.insert(session);
                    }
                    known.waiting.push_front(number);
                }
            }
            share
        };
        if returned == Returned::Done {
            self.remove_held(number);
        }
        Some(share)
    }

    /// Looks again at what is held: routes and nodes may have changed.
    pub(in crate::worker) fn look_at_held(self: &Rc<Self>) {
        let now = self.now();
        let lent: BTreeSet<(NodeId, NodeIncarnation)> = {
            let mut held = self.held.borrow_mut();
            if now.millis_since(held.looked) < LOOK_INTERVAL_MS {
                BTreeSet::new()
            } else {
                held.looked = now;
                let lent = held.messages.values().filter_map(|held| held.with);
                lent.map(|borrower| (borrower.node, borrower.incarnation))
                    .collect()
            }
        };
        for (node, incarnation) in lent {
            if !self.shared.serves(node, incarnation) {
                self.borrowers_lost(node, incarnation);
            }
        }
        self.look_at_waiting();
    }

    fn look_at_waiting(self: &Rc<Self>) {
        let shares: Vec<ShareKey> = {
            let held = self.held.borrow();
            let shares = held.shares.iter();
            shares
                .filter(|(_, share)| !share.waiting.is_empty())
                .map(|(key, _)| key.clone())
                .collect()
        };
        for share in shares {
            self.lend_waiting(&share);
        }
    }

    /// Messages were dropped on their way to members at another node. What that node may have taken at QoS 2 is over: it
    /// closes the member. The rest goes to others.
    pub(in crate::worker) fn loans_dropped(self: &Rc<Self>, loans: &[DroppedLoan]) {
        // The first is to be in front of all that waits.
        for loan in loans.iter().rev() {
            let borrower = {
                let held = self.held.borrow();
                held.messages.get(&loan.number).and_then(|held| held.with)
            };
            if let Some(borrower) = borrower {
                self.take_back(loan.number, borrower, loan.may_be_taken);
            }
        }
        self.look_at_waiting();
    }

    /// A start of a node is lost, or what it has said of what was lent to its members: what may have been sent at QoS 2 is
    /// over, the rest goes to others.
    pub(in crate::worker) fn borrowers_lost(self: &Rc<Self>, node: NodeId, up_to: NodeIncarnation) {
        let lost: Vec<(u64, Borrower)> = {
            let held = self.held.borrow();
            let lent = held
                .messages
                .iter()
                .filter_map(|(number, held)| Some((*number, held.with?)));
            lent.filter(|(_, borrower)| borrower.node == node && borrower.incarnation <= up_to)
                .collect()
        };
        for (number, borrower) in lost.into_iter().rev() {
            self.take_back(number, borrower, true);
        }
        // What it said of its members' room may be lost as well.
        for share in self.held.borrow_mut().shares.values_mut() {
            share.full.clear();
        }
        self.look_at_waiting();
    }

    fn take_back(&self, number: u64, borrower: Borrower, may_be_taken: bool) {
        let returned = match borrower.is_final && may_be_taken {
            true => {
                self.counters
                    .messages_dropped
                    .of(DropReason::SessionEnded)
                    .increment();
                Returned::Done
            }
            false => Returned::Back,
        };
        self.note_returned(number, borrower.session, returned);
    }
}
