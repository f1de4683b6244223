//! What the leader of a group knows of its shared queues: who was given what, and who has room.

use std::collections::{BTreeMap, BTreeSet};

use crate::node::ShareMember;
use crate::state::{GiveId, NodeId, NodeIncarnation, Sequence, SessionId, ShareHolder, ShareKey};

/// References of one group that one member may hold unsettled.
pub(super) const MEMBER_WINDOW: usize = 16;

/// Dispatch state of one shared queue.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// Everything below was given to somebody once.
    pub(super) next: Sequence,
    /// Given back by members that were lost, or had no room.
    pub(super) returned: BTreeSet<Sequence>,
    pub(super) given: BTreeMap<Sequence, Given>,
    /// Goes round the members.
    turn: usize,
}

/// Who was given a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) session: SessionId,
    /// The node of its connection, and its start.
    pub(super) node: NodeId,
    pub(super) incarnation: NodeIncarnation,
    pub(super) give: GiveId,
    pub(super) standing: GivenStanding,
    /// The connection that it was given to is over.
    pub(super) is_of_earlier: bool,
}

impl Given {
    /// As the group has it.
    pub(super) fn held(holder: &ShareHolder) -> Self {
        Self {
            session: holder.session,
            node: holder.node,
            incarnation: holder.incarnation,
            give: holder.give,
            standing: GivenStanding::Held,
            is_of_earlier: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GivenStanding {
    /// Goes to another member when this one is lost.
    Lent,
    /// Its node moves it into the member's own queue when there is room (R39), or gives it back. It may have moved as
    /// long as entries of that node are taken.
    Offered,
    /// Its [`Hold`](crate::state::Command::Hold) is under way: nobody has been sent it.
    Holding,
    /// With this member for good (R37): the entries of its node say what becomes of it, or the end of that node.
    Held,
}

impl Share {
    /// Nobody has a reference any more. What was not looked at yet is found where it is.
    fn come_back(&mut self, sequence: Sequence) {
        if sequence < self.next {
            self.returned.insert(sequence);
        }
    }

    /// The next member that has room.
    pub(super) fn choose(
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
}

/// How many references of which shares each member holds.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<SessionId, BTreeMap<ShareKey, usize>>);

impl Held {
    pub(super) fn count(&self, session: SessionId, share: &ShareKey) -> usize {
        let shares = self.0.get(&session);
        shares.and_then(|shares| shares.get(share)).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, session: SessionId, share: &ShareKey) {
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

    /// The shares of which a member holds something.
    fn shares_of(&self, session: SessionId) -> Vec<ShareKey> {
        let shares = self.0.get(&session);
        shares.map_or_else(Vec::new, |shares| shares.keys().cloned().collect())
    }
}

/// Dispatch state of a group's shared queues, of one time that this node leads it.
#[derive(Debug, Default)]
pub(in crate::node) struct ShareDispatch {
    /// Counts the times that this node began to lead, or ceased to.
    pub(super) generation: u64,
    /// What earlier leaders gave is known as far as it has to be (R38): references are given out.
    pub(super) is_open: bool,
    /// Below all givings of this leader's term.
    first: GiveId,
    /// The last giving, or question about what was given.
    last: GiveId,
    /// Nodes have been asked what they hold of what was given before this; they take nothing of it any more.
    pub(super) fences: BTreeMap<NodeId, GiveId>,
    pub(super) shares: BTreeMap<ShareKey, Share>,
    pub(super) marked: BTreeSet<ShareKey>,
    /// Nodes to be asked what they hold.
    pub(super) doubted: BTreeSet<NodeId>,
    pub(super) held: Held,
    /// How many nodes are being asked what they hold, and what came back meanwhile: their answers may be older.
    asking: usize,
    came_back: BTreeSet<(ShareKey, Sequence, GiveId)>,
    /// Members whose node has said that they have no room, and the shares that had something for them (R39).
    pub(super) blocked: BTreeMap<SessionId, BTreeSet<ShareKey>>,
    /// Those of them that are left out for a moment, each with the number of its pause.
    paused: BTreeMap<SessionId, GiveId>,
}

/// For a moment a member is not chosen.
#[derive(Debug)]
pub(super) struct Pause {
    generation: u64,
    session: SessionId,
    number: GiveId,
}

impl ShareDispatch {
    #[cfg(test)]
    pub(in crate::node) fn is_empty(&self) -> bool {
        self.shares.is_empty() && self.held.0.is_empty()
    }

    #[cfg(test)]
    pub(in crate::node) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Another time of leading begins, in this term, or one ends. Numbers go on where it is the same term.
    pub(super) fn begin(&mut self, term: Option<u64>) {
        let first = GiveId::first(term.unwrap_or(0));
        *self = Self {
            generation: self.generation + 1,
            first,
            last: self.last.max(first),
            ..Self::default()
        };
    }

    /// A node is asked what it holds.
    pub(super) fn begin_asking(&mut self) {
        self.asking += 1;
    }

    /// A node has been asked.
    pub(super) fn end_asking(&mut self) {
        self.asking -= 1;
        if self.asking == 0 {
            self.came_back.clear();
        }
    }

    /// A member gave something back that it is not known to have: a node that is being asked may name it still.
    pub(super) fn note_came_back(&mut self, share: &ShareKey, sequence: Sequence, give: GiveId) {
        if self.asking > 0 {
            self.came_back.insert((share.clone(), sequence, give));
        }
    }

    /// Whether a member has given this back since nodes are asked.
    pub(super) fn has_come_back(&self, named: &(ShareKey, Sequence, GiveId)) -> bool {
        self.came_back.contains(named)
    }

    /// A number above all before.
    pub(super) fn number(&mut self) -> GiveId {
        self.last = self.last.next();
        self.last
    }

    /// First reference that was given to nobody yet.
    pub(in crate::node) fn next(&self, share: &ShareKey) -> Sequence {
        self.shares.get(share).map_or(Sequence(0), |share| share.next)
    }

    /// The share has references, or members with room.
    pub(in crate::node) fn mark(&mut self, share: &ShareKey) {
        if !self.marked.contains(share) {
            self.marked.insert(share.clone());
        }
    }

    /// How a reference stands that a node says to have: of what an earlier leader offered nothing is moved any more.
    pub(super) fn standing_of(&self, give: GiveId) -> GivenStanding {
        match give > self.first {
            true => GivenStanding::Offered,
            false => GivenStanding::Lent,
        }
    }

    /// Notes who has a reference.
    pub(super) fn note_given(&mut self, key: &ShareKey, sequence: Sequence, given: Given) {
        let share = self.shares.entry(key.clone()).or_default();
        share.returned.remove(&sequence);
        let before = share.given.insert(sequence, given);
        self.held.add(given.session, key);
        if let Some(before) = before {
            self.held.remove(before.session, key);
        }
    }

    /// Nobody has a reference any more; who had.
    pub(super) fn release(&mut self, key: &ShareKey, sequence: Sequence) -> Option<Given> {
        let given = self.shares.get_mut(key)?.given.remove(&sequence)?;
        self.held.remove(given.session, key);
        self.mark(key);
        Some(given)
    }

    /// A reference that nobody has any more goes to another.
    pub(super) fn give_again(&mut self, key: &ShareKey, sequence: Sequence) {
        self.release(key, sequence);
        if let Some(share) = self.shares.get_mut(key) {
            share.come_back(sequence);
        }
        self.mark(key);
    }

    /// Who has a reference by a giving, or may get it.
    pub(super) fn given(&self, key: &ShareKey, sequence: Sequence) -> Option<&Given> {
        self.shares.get(key)?.given.get(&sequence)
    }

    /// What is given to members for which `is_meant`.
    pub(super) fn all_given(&self, is_meant: impl Fn(&Given) -> bool) -> Vec<(ShareKey, Sequence, Given)> {
        let shares = self.shares.iter();
        let given = shares.flat_map(|(key, share)| {
            let given = share.given.iter();
            given.map(move |(sequence, given)| (key, *sequence, *given))
        });
        given
            .filter(|(_, _, given)| is_meant(given))
            .map(|(key, sequence, given)| (key.clone(), sequence, given))
            .collect()
    }

    /// What a lost member had goes to others, unless it is held for good; the shares it held something of.
    pub(super) fn lose(&mut self, session: SessionId) -> Vec<ShareKey> {
        self.unblock(session);
        let shares = self.held.shares_of(session);
        for key in &shares {
            let Some(share) = self.shares.get_mut(key) else {
                continue;
            };
            let is_lost = |given: &Given| given.session == session && given.standing == GivenStanding::Lent;
            let lost = share.given.extract_if(.., |_, given| is_lost(given));
            let lost: Vec<_> = lost.collect();
            for (sequence, _) in lost {
                share.come_back(sequence);
                self.held.remove(session, key);
            }
            let left = share.given.values_mut().filter(|given| given.session == session);
            left.for_each(|given| given.is_of_earlier = true);
            self.mark(key);
        }
        shares
    }

    /// Leaves a member out that gave something back, unless it is left out already.
    pub(super) fn pause(&mut self, session: SessionId, share: &ShareKey) -> Option<Pause> {
        if self.blocked.contains_key(&session) {
            return None;
        }
        self.blocked.insert(session, BTreeSet::from([share.clone()]));
        let number = self.number();
        self.paused.insert(session, number);
        Some(Pause {
            generation: self.generation,
            session,
            number,
        })
    }

    /// The member may be chosen again; whether a share has something for it.
    pub(super) fn end_pause(&mut self, pause: &Pause) -> bool {
        let is_paused =
            self.generation == pause.generation && self.paused.get(&pause.session) == Some(&pause.number);
        is_paused && self.unblock(pause.session)
    }

    /// The member's node says itself when it is to be chosen again.
    pub(super) fn end_pause_of(&mut self, session: SessionId) {
        self.paused.remove(&session);
    }

    /// The member's node says that it has room again; whether a share has something for it.
    pub(super) fn unblock(&mut self, session: SessionId) -> bool {
        self.paused.remove(&session);
        let shares = self.blocked.remove(&session);
        let any = shares.is_some();
        self.marked.extend(shares.into_iter().flatten());
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(session: u64, give: u64) -> Given {
        Given {
            session: SessionId(session),
            node: NodeId(1),
            incarnation: NodeIncarnation(1),
            give: GiveId(give),
            standing: GivenStanding::Lent,
            is_of_earlier: false,
        }
    }

    fn key() -> ShareKey {
        ShareKey {
            name: "g".into(),
            filter: "a".into(),
        }
    }

    /// What a new leader hears of may lie behind what nobody has: it is found in its place, and nothing is passed over.
    #[test]
    fn r38_what_comes_back_from_behind_the_next_reference_waits_in_its_place() {
        let mut dispatch = ShareDispatch::default();
        for (sequence, session) in [(2, 7), (5, 8), (6, 9)] {
            dispatch.note_given(&key(), Sequence(sequence), given(session, sequence));
        }
        dispatch.shares.get_mut(&key()).unwrap().next = Sequence(4);
        dispatch.give_again(&key(), Sequence(2));
        dispatch.give_again(&key(), Sequence(5));
        dispatch.lose(SessionId(9));
        let share = &dispatch.shares[&key()];
        assert_eq!(share.returned, BTreeSet::from([Sequence(2)]));
        assert!(share.given.is_empty());
        assert_eq!(share.next, Sequence(4));
    }

    /// A node's answer may be older than what its members have given back since.
    #[test]
    fn r38_what_has_come_back_meanwhile_is_remembered_while_nodes_are_asked() {
        let mut dispatch = ShareDispatch::default();
        let named = (key(), Sequence(1), GiveId(3));
        dispatch.note_came_back(&key(), Sequence(1), GiveId(3));
        assert!(!dispatch.has_come_back(&named), "nobody is asked");
        dispatch.begin_asking();
        dispatch.begin_asking();
        dispatch.note_came_back(&key(), Sequence(1), GiveId(3));
        dispatch.end_asking();
        assert!(dispatch.has_come_back(&named));
        dispatch.end_asking();
        assert!(!dispatch.has_come_back(&named));
    }
}
