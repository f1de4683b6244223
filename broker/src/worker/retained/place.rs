//! Where a replay reads: through the groups of the topics, page by page.
//!
//! A group without leader lets nobody pass its barrier. It is left for later, so that it holds up its own values alone
//! (R36); a replay of which nothing else is left waits aside. A group that is lost while it is being read is waited for.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::select_all;
use quorate_cluster::node::{BarrierTurn, Node, Placement};
use quorate_cluster::state::{
    GroupTime, ReplayCursor, RetainedSource, RetainedView, Sequence, SessionId, TargetQueue,
};
use quorate_proto::message::Message;

use crate::node::Shared;

/// Values read at once.
pub(super) const PIECE: usize = 64;
/// Groups that hold retained messages, by their slots.
const SLOTS: u8 = 16;
/// How long a group's barrier is waited for before others have their turn, unless they have passed it earlier.
const PASS_WAIT: Duration = Duration::from_millis(300);
/// How much older than its SUBSCRIBE, as groups and this node tell time, a value may be that was published behind that.
const CLOCKS_DIFFER_MAX_MS: u64 = 10_000;

/// Without a wildcard there is one topic, in one group.
fn is_exact(filter: &str) -> bool {
    !filter.contains(['+', '#'])
}

/// Slot of the group of a topic.
pub(super) fn slot_of(topic: &str) -> u8 {
    Placement::packet_id_slot(Placement::data_of_topic(topic))
}

/// The bit of a slot; none for slots that hold no retained messages.
const fn bit(slot: u8) -> u16 {
    match slot < SLOTS {
        true => 1 << slot,
        false => 0,
    }
}

/// What a read has found.
#[derive(Debug)]
pub(super) enum Found {
    /// These values, or none, at the end.
    Values(Vec<Value>),
    /// Nothing, and none of the groups that are left lets anybody pass its barrier.
    Held,
}

/// A durable session that may get by its queue what a replay finds (R33).
#[derive(Clone, Copy, Debug)]
pub(super) struct Crosser {
    pub(super) session: SessionId,
    pub(super) subscribed_at: std::time::Instant,
}

impl Crosser {
    /// Whether a value may have been published since the session subscribed; what is older need not be asked for.
    fn may_cross(&self, value: &Value) -> bool {
        let since = u64::try_from(self.subscribed_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        value.now.0.saturating_sub(value.received_at.0) <= since.saturating_add(CLOCKS_DIFFER_MAX_MS)
    }
}

/// Where a replay goes on reading.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) filter: Arc<str>,
    /// The groups that are left, by the bits of their slots.
    left: u16,
    /// Slot of the one that is next, as long as there is one.
    slot: u8,
    /// Topic after which to go on in that group.
    after: Option<Arc<str>>,
    /// That group was read from by this connection, so what was acknowledged before is there.
    is_begun: bool,
    /// Turns at the barriers of groups that are left, where one was not passed in time.
    turns: Vec<(u8, BarrierTurn)>,
}

impl Place {
    /// Before everything that a filter matches.
    pub(super) fn before(filter: Arc<str>) -> Self {
        let left = match is_exact(&filter) {
            true => bit(slot_of(&filter)),
            false => u16::MAX,
        };
        Self::new(filter, left, 0, None)
    }

    /// Where another connection was.
    pub(super) fn at(filter: Arc<str>, cursor: Option<ReplayCursor>) -> Self {
        match cursor {
            None => Self::before(filter),
            Some(ReplayCursor { slot, after, left }) => Self::new(filter, left, slot, after),
        }
    }

    fn new(filter: Arc<str>, left: u16, slot: u8, after: Option<Arc<str>>) -> Self {
        let mut place = Self {
            filter,
            left,
            slot,
            after,
            is_begun: false,
            turns: Vec::new(),
        };
        place.find_next();
        place
    }

    /// What the state keeps of it; none at the end.
    pub(super) fn cursor(&self) -> Option<ReplayCursor> {
        (!self.is_end()).then(|| ReplayCursor {
            slot: self.slot,
            after: self.after.clone(),
            left: self.left,
        })
    }

    /// What the state keeps of it behind a topic in the group that was read last.
    pub(super) fn cursor_behind(&self, topic: &str) -> ReplayCursor {
        let slot = slot_of(topic);
        ReplayCursor {
            slot,
            after: Some(topic.into()),
            left: self.left | bit(slot),
        }
    }

    pub(super) fn is_end(&self) -> bool {
        self.left == 0
    }

    /// Whether a topic is still to be looked for, as it is later than now: its group is neither being read nor waited for.
    pub(super) fn is_before(&self, topic: &str) -> bool {
        let slot = slot_of(topic);
        let is_being_read = self.slot == slot && self.after.is_some();
        self.left & bit(slot) != 0 && !is_being_read && self.turn_of(slot).is_none()
    }

    fn turn_of(&self, slot: u8) -> Option<BarrierTurn> {
        let turn = self.turns.iter().find(|(of, _)| *of == slot);
        turn.map(|(_, turn)| *turn)
    }

    /// Goes to the next group that is left, unless it is at one.
    fn find_next(&mut self) {
        if self.left & bit(self.slot) == 0 {
            self.after = None;
            let later = (self.slot..SLOTS).find(|slot| self.left & bit(*slot) != 0);
            self.slot = later.unwrap_or_else(|| u8::try_from(self.left.trailing_zeros()).unwrap_or(0));
        }
    }

    /// A page was read that says where the next one of its group begins.
    fn advance(&mut self, resume_after: Option<String>) {
        self.is_begun = true;
        self.after = resume_after.map(Arc::from);
        if is_exact(&self.filter) {
            self.left = 0;
        } else if self.after.is_none() {
            self.left &= !bit(self.slot);
            self.is_begun = false;
            self.find_next();
        }
    }

    /// Reads on, in whatever group and at whatever node, until something is found or there is no more: as the groups were
    /// when they were begun with, or later (R36).
    pub(super) async fn read(mut self, node: &Node<Shared>, crosser: Option<Crosser>) -> (Self, Found) {
        while !self.is_end() {
            if !self.is_begun && !self.pass_barrier(node).await {
                return (self, Found::Held);
            }
            let group = node.group_of_slot(self.slot);
            let page = group
                .read_retained(&self.filter, self.after.as_deref(), PIECE)
                .await;
            let mut values = values(page.matches, group.now());
            self.advance(page.resume_after);
            if !values.is_empty() {
                if let Some(crosser) = crosser {
                    find_queued(node, crosser, &mut values).await;
                }
                return (self, Found::Values(values));
            }
        }
        (self, Found::Values(Vec::new()))
    }

    /// Passes the barrier of the group that is next, or of another one where that takes long; false where none is passed.
    async fn pass_barrier(&mut self, node: &Node<Shared>) -> bool {
        if self.turns.is_empty() {
            let turn = self.enter_barrier(node, self.slot);
            let passing = node.group_of_slot(self.slot).barrier_passed(turn);
            if tokio::time::timeout(PASS_WAIT, passing).await.is_ok() {
                self.turns.clear();
                return true;
            }
            // The state knows of one group how far it was read: that one is gone on with.
            let others = (0..SLOTS).filter(|slot| self.after.is_none() && self.left & bit(*slot) != 0);
            for slot in others.collect::<Vec<_>>() {
                self.enter_barrier(node, slot);
            }
        }
        let Ok(slot) = tokio::time::timeout(PASS_WAIT, self.any_passed(node)).await else {
            return false;
        };
        self.turns.retain(|(of, _)| *of != slot);
        self.slot = slot;
        true
    }

    fn enter_barrier(&mut self, node: &Node<Shared>, slot: u8) -> BarrierTurn {
        self.turn_of(slot).unwrap_or_else(|| {
            let turn = node.group_of_slot(slot).enter_barrier();
            self.turns.push((slot, turn));
            turn
        })
    }

    /// Waits until a barrier is passed that the replay has a turn at; the slot of its group.
    pub(super) async fn any_passed(&self, node: &Node<Shared>) -> u8 {
        let passing = self.turns.iter().map(|(slot, turn)| {
            let passed = node.group_of_slot(*slot).barrier_passed(*turn);
            passed.map(|()| *slot).boxed()
        });
        // There is a turn wherever a barrier is waited for.
        select_all(passing).await.0
    }

    /// Reads on at a node that is alone, at most `pages` of the index.
    pub(super) fn read_here(
        &mut self,
        node: &Node<Shared>,
        pages: &mut usize,
        crosser: Option<Crosser>,
    ) -> Vec<Value> {
        while !self.is_end() && *pages > 0 {
            *pages -= 1;
            let group = node.group_of_slot(self.slot);
            let page = group
                .state()
                .retained_page(&self.filter, self.after.as_deref(), PIECE);
            let mut values = values(page.matches, group.now());
            self.advance(page.resume_after);
            if !values.is_empty() {
                for (value, source, session) in crossing(&mut values, crosser) {
                    let from = node.group(source.group);
                    let queue = TargetQueue::Session(session);
                    let found = from.state().crossing(&queue, source);
                    value.note_queued(source, found);
                }
                return values;
            }
        }
        Vec::new()
    }
}

/// A value read for a replay.
#[derive(Debug)]
pub(super) struct Value {
    pub(super) message: Message,
    pub(super) expires_at: Option<GroupTime>,
    /// Group time when it was read.
    pub(super) now: GroupTime,
    received_at: GroupTime,
    source: Option<RetainedSource>,
    /// The session's queue has it, or had when this was read: slot and sequence.
    pub(super) queued: Option<(u8, Sequence)>,
}

impl Value {
    fn note_queued(&mut self, source: RetainedSource, sequence: Option<Sequence>) {
        let slot = Placement::packet_id_slot(source.group);
        self.queued = sequence.map(|sequence| (slot, sequence));
    }

    /// The message, with the expiry interval that it has left.
    pub(super) fn to_append(&self) -> Message {
        let left = |at: GroupTime| at.0.saturating_sub(self.now.0).div_ceil(1000);
        let mut message = self.message.clone();
        message.expiry_secs = self
            .expires_at
            .map(|at| u32::try_from(left(at)).unwrap_or(u32::MAX));
        message
    }
}

/// What was read, as far as it has not expired since the group's last tick.
fn values(read: Vec<RetainedView>, now: GroupTime) -> Vec<Value> {
    let alive = read
        .into_iter()
        .filter(|value| value.expires_at.is_none_or(|at| at > now));
    alive
        .map(|value| Value {
            message: value.message,
            expires_at: value.expires_at,
            now,
            received_at: value.received_at,
            source: value.source,
            queued: None,
        })
        .collect()
}

/// The values that a session's queue may have as well.
fn crossing(
    values: &mut [Value],
    crosser: Option<Crosser>,
) -> impl Iterator<Item = (&mut Value, RetainedSource, SessionId)> {
    values.iter_mut().filter_map(move |value| {
        let crosser = crosser.filter(|crosser| crosser.may_cross(value))?;
        let source = value.source?;
        Some((value, source, crosser.session))
    })
}

/// Asks the groups of their publishers for what a session's queue has of these values.
async fn find_queued(node: &Node<Shared>, crosser: Crosser, values: &mut [Value]) {
    let asking = crossing(values, Some(crosser)).map(|(value, source, session)| async move {
        let from = node.group(source.group);
        value.note_queued(source, from.find_crossing(session, source).await);
    });
    let asking = futures_util::future::join_all(asking);
    // Where a group cannot tell the others are not to wait for it: its value may come twice.
    let _ = tokio::time::timeout(PASS_WAIT, asking).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots_of(mut place: Place) -> Vec<u8> {
        let mut slots = Vec::new();
        while !place.is_end() {
            slots.push(place.slot);
            place.advance(None);
        }
        slots
    }

    /// A topic of the group at a slot.
    fn topic_at(slot: u8) -> String {
        let mut topics = (0..).map(|number| format!("topic/{number}"));
        topics.find(|topic| slot_of(topic) == slot).unwrap()
    }

    #[test]
    fn r36_every_group_is_read_once_whichever_is_left_for_later() {
        assert_eq!(
            slots_of(Place::before("#".into())),
            (0..SLOTS).collect::<Vec<_>>()
        );
        assert_eq!(slots_of(Place::before("a/b".into())), [slot_of("a/b")]);
        let mut place = Place::before("#".into());
        place.advance(None);
        // Another one lets readers pass first.
        place.slot = 5;
        let (before, here, behind) = (topic_at(1), topic_at(5), topic_at(0));
        assert!(place.is_before(&before) && place.is_before(&here) && !place.is_before(&behind));
        place.advance(Some(here.clone()));
        assert!(place.is_before(&before) && !place.is_before(&here));
        let cursor = place.cursor_behind(&here);
        assert_eq!(place.cursor(), Some(cursor.clone()));
        place.advance(None);
        assert_eq!(
            place.cursor_behind(&here),
            cursor,
            "a value of the last page of its group"
        );
        assert!(!place.is_before(&here));
        let mut others: Vec<u8> = (6..SLOTS).chain(1..5).collect();
        assert_eq!(slots_of(place), others);
        // The next connection begins with what was being read.
        others.insert(0, 5);
        let resumed = Place::at("#".into(), Some(cursor));
        assert_eq!(resumed.after.as_deref(), Some(&here[..]));
        let mut resumed = slots_of(resumed);
        resumed.sort_unstable();
        others.sort_unstable();
        assert_eq!(resumed, others);
        assert!(Place::before("#".into()).cursor().is_some());
        assert_eq!(slots_of(Place::at("#".into(), None)).len(), usize::from(SLOTS));
    }
}
