//! What a leader has to know before it gives references out (R38): who has what was given before.
//!
//! A new leader applies what earlier ones committed, asks all nodes of the view, and begins when all have answered, or
//! after 500 ms. What a node names is with its members. What it does not name its members were not sent, and will not be:
//! it refuses what was given before it was asked. So a node is asked again whenever what was on the way between it and
//! the leader may be lost.
//!
//! A reference that is held for good (R37) waits for the answer of its holder's node, however long that takes, or for
//! that node's end.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;

use super::dispatch::{Given, GivenStanding};
use super::holding::HeldReference;
use crate::node::peers::{AnswerBody, RequestBody, proto};
use crate::node::{Group, Host, Node, Placement};
use crate::state::{Command, GiveId, NodeId, NodeIncarnation, Sequence, SessionId, ShareKey, TargetQueue};

/// How long a new leader waits for all nodes before it gives out what nobody has named.
const GATHER_MAX: Duration = Duration::from_millis(500);
/// How long a node may take to answer before it is asked again.
const ASK_MAX: Duration = Duration::from_secs(1);
/// Pause before a node is asked again.
const RETRY: Duration = Duration::from_millis(20);

impl<H: Host> Node<H> {
    /// The task that takes shared references back from nodes that leave the view.
    pub(in crate::node) async fn run_share_losses(node: Weak<Self>) {
        let Some(mut view) = node.upgrade().map(|node| node.directory().watch_view()) else {
            return;
        };
        while view.changed().await.is_ok() {
            let Some(node) = node.upgrade() else { return };
            for group in Placement::queue_groups() {
                node.group(group).share_starts_lost();
            }
        }
    }
}

impl<H: Host> Group<H> {
    /// Another node leads, or this one begins to, in this term.
    pub(in crate::node) fn begin_dispatch(self: &Arc<Self>, term: Option<u64>) {
        let mut dispatch = self.shares.lock();
        dispatch.begin(term);
        let generation = dispatch.generation;
        drop(dispatch);
        if term.is_some() {
            tokio::spawn(self.clone().gather(generation));
        }
    }

    fn dispatches(&self, generation: u64) -> bool {
        self.shares.lock().generation == generation && self.leads()
    }

    async fn gather(self: Arc<Self>, generation: u64) {
        loop {
            if !self.dispatches(generation) {
                return;
            }
            if let Some(index) = self.read_index().await {
                self.reached(index).await;
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
        self.load_held(generation);
        let starts = self.routes.serving();
        let asked = starts.into_iter();
        let asks = join_all(asked.map(|(node, incarnation)| self.ask_holder(node, incarnation, generation)));
        let mut asks = std::pin::pin!(asks);
        let answered = tokio::time::timeout(GATHER_MAX, asks.as_mut()).await;
        self.open_dispatch(generation);
        if answered.is_err() {
            tracing::debug!(
                group = self.id().0,
                "shared references are given out before all nodes have said which they hold"
            );
            asks.await;
        }
    }

    /// What members have for good stays with them.
    fn load_held(&self, generation: u64) {
        let mut dispatch = self.shares.lock();
        if dispatch.generation != generation {
            return;
        }
        for (share, sequence, holder) in self.state().held_references() {
            dispatch.note_given(&share, sequence, Given::held(&holder));
        }
    }

    /// Gives out what nobody is known to have.
    fn open_dispatch(&self, generation: u64) {
        let mut dispatch = self.shares.lock();
        if dispatch.generation != generation {
            return;
        }
        dispatch.is_open = true;
        let state = self.state();
        let filled = state.queues().filter_map(|view| match view.queue {
            TargetQueue::Share(share) if view.len > 0 => Some(share),
            _ => None,
        });
        dispatch.marked.extend(filled);
        drop((state, dispatch));
        self.share_starts_lost();
        self.attend.notify_one();
    }

    /// Something between this node and another may be lost: asks that what it holds.
    pub fn doubt_holder(self: &Arc<Self>, node: NodeId) {
        let generation = {
            let mut dispatch = self.shares.lock();
            if !dispatch.is_open {
                // It may have answered already.
                dispatch.doubted.insert(node);
                return;
            }
            dispatch.generation
        };
        let serving = self.routes.serving();
        let Some((_, incarnation)) = serving.into_iter().find(|(serving, _)| *serving == node) else {
            return;
        };
        let group = self.clone();
        tokio::spawn(async move { group.ask_holder(node, incarnation, generation).await });
    }

    /// Asks a node what its members hold, until it has answered or is out of the view.
    async fn ask_holder(&self, node: NodeId, incarnation: NodeIncarnation, generation: u64) {
        {
            let mut dispatch = self.shares.lock();
            if dispatch.generation != generation {
                return;
            }
            dispatch.begin_asking();
        }
        self.ask_until_told(node, incarnation, generation).await;
        let mut dispatch = self.shares.lock();
        if dispatch.generation == generation {
            dispatch.end_asking();
        }
    }

    async fn ask_until_told(&self, node: NodeId, incarnation: NodeIncarnation, generation: u64) {
        while self.dispatches(generation) && self.routes.serves(node, incarnation) {
            let fence = {
                let mut dispatch = self.shares.lock();
                let fence = dispatch.number();
                dispatch.fences.insert(node, fence);
                fence
            };
            let told = match node == self.settings.node {
                true => Some(self.report_held(node, fence)),
                false => self.ask_held(node, fence).await,
            };
            if let Some(told) = told {
                // What it says to be done with, the group has committed: it is not given again here.
                if let Some(index) = self.read_index().await {
                    self.reached(index).await;
                }
                return self.told_held((node, incarnation), generation, fence, told);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn ask_held(&self, node: NodeId, fence: GiveId) -> Option<Vec<HeldReference>> {
        let ask = proto::ReportShared {
            group: u32::from(self.id().0),
            fence: fence.0,
        };
        let asked = self.peers.ask(node, RequestBody::ReportShared(ask));
        match tokio::time::timeout(ASK_MAX, asked).await {
            Ok(Ok(AnswerBody::SharedReported(told))) => Some(told.references.into_iter().map(read).collect()),
            _ => None,
        }
    }

    /// A node has named what its members hold of what was given before `fence`.
    fn told_held(
        &self,
        (node, incarnation): (NodeId, NodeIncarnation),
        generation: u64,
        fence: GiveId,
        told: Vec<HeldReference>,
    ) {
        let mut dispatch = self.shares.lock();
        if dispatch.generation != generation {
            return;
        }
        // What it said of its members' room may be lost as well.
        let blocked: Vec<SessionId> = dispatch.blocked.keys().copied().collect();
        for session in blocked {
            dispatch.unblock(session);
        }
        let mut named = BTreeSet::new();
        for HeldReference {
            share,
            sequence,
            session,
            give,
        } in told
        {
            let named_give = (share, sequence, give);
            if dispatch.has_come_back(&named_give) {
                continue;
            }
            let (share, ..) = &named_give;
            let queue = TargetQueue::Share(share.clone());
            if dispatch.given(share, sequence).is_none() && self.state().holds(&queue, sequence) {
                let standing = dispatch.standing_of(give);
                let given = Given {
                    session,
                    node,
                    incarnation,
                    give,
                    standing,
                    is_of_earlier: false,
                };
                dispatch.note_given(share, sequence, given);
            }
            named.insert(named_give);
        }
        let is_asked =
            |given: &Given| (given.node, given.incarnation) == (node, incarnation) && given.give < fence;
        let mut unheld = Vec::new();
        for (share, sequence, given) in dispatch.all_given(is_asked) {
            if named.contains(&(share.clone(), sequence, given.give)) {
                continue;
            }
            match given.standing {
                GivenStanding::Lent | GivenStanding::Offered => dispatch.give_again(&share, sequence),
                GivenStanding::Held => unheld.push((share, sequence, given.give)),
                // It is looked at when the outcome is known.
                GivenStanding::Holding => {}
            }
        }
        drop(dispatch);
        for (share, sequence, give) in unheld {
            self.unhold(share, sequence, give);
        }
        self.attend.notify_one();
    }

    /// Nobody was sent a reference that is held: another may have it.
    pub(super) fn unhold(&self, share: ShareKey, sequence: Sequence, give: GiveId) {
        let unhold = Command::Unhold {
            share,
            sequence,
            give,
        };
        self.propose(&unhold, None);
    }

    /// What was given to members of nodes that have left the view: what may have been sent at QoS 2 ends with them
    /// [MQTT-4.8.2-5], the rest goes to others.
    pub(in crate::node) fn share_starts_lost(&self) {
        let mut dispatch = self.shares.lock();
        if !dispatch.is_open {
            return;
        }
        let this = (self.settings.node, self.settings.incarnation);
        let lost = dispatch.all_given(|given| {
            let start = (given.node, given.incarnation);
            start != this && !self.routes.serves(start.0, start.1)
        });
        let mut ended = Vec::new();
        for (share, sequence, given) in lost {
            match given.standing {
                GivenStanding::Lent => dispatch.give_again(&share, sequence),
                // As long as the group takes entries of that start, one may move it to the member's queue.
                GivenStanding::Offered if !self.state().has_lost(given.node, given.incarnation) => {}
                GivenStanding::Offered => dispatch.give_again(&share, sequence),
                GivenStanding::Held => {
                    dispatch.release(&share, sequence);
                    ended.push((share, sequence));
                }
                GivenStanding::Holding => {}
            }
        }
        drop(dispatch);
        for (share, sequence) in ended {
            let queue = TargetQueue::Share(share);
            let sequences = vec![sequence];
            self.propose(&Command::Settle { queue, sequences }, None);
        }
        self.attend.notify_one();
    }

    /// What this node answers to a leader.
    pub(in crate::node) fn answer_report_shared(
        &self,
        from: NodeId,
        ask: &proto::ReportShared,
    ) -> proto::SharedReported {
        let held = self.report_held(from, GiveId(ask.fence));
        proto::SharedReported {
            references: held.into_iter().map(put).collect(),
        }
    }
}

fn put(held: HeldReference) -> proto::SharedReference {
    proto::SharedReference {
        name: held.share.name.to_string(),
        filter: held.share.filter.to_string(),
        sequence: held.sequence.0,
        session: held.session.0,
        give: held.give.0,
    }
}

fn read(told: proto::SharedReference) -> HeldReference {
    HeldReference {
        share: ShareKey {
            name: told.name.into(),
            filter: told.filter.into(),
        },
        sequence: Sequence(told.sequence),
        session: SessionId(told.session),
        give: GiveId(told.give),
    }
}
