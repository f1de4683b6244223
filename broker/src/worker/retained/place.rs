//! Where a replay reads: through the groups of the topics, page by page.

use std::sync::Arc;

use quorate_cluster::node::{Node, Placement};
use quorate_cluster::state::{GroupTime, ReplayCursor, RetainedView};
use quorate_proto::message::Message;

use crate::node::Shared;

/// Values read at once.
pub(super) const PIECE: usize = 64;
/// Groups that hold retained messages, by their slots.
const SLOTS: u8 = 16;

/// Without a wildcard there is one topic, in one group.
fn is_exact(filter: &str) -> bool {
    !filter.contains(['+', '#'])
}

/// Slot of the group of a topic.
pub(super) fn slot_of(topic: &str) -> u8 {
    Placement::packet_id_slot(Placement::data_of_topic(topic))
}

/// Where a replay goes on reading.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) filter: Arc<str>,
    /// Slot of the group being read; [`SLOTS`] at the end.
    slot: u8,
    /// Topic after which to go on in that group.
    after: Option<Arc<str>>,
    /// That group was read from by this connection, so what was acknowledged before is there.
    is_begun: bool,
}

impl Place {
    /// Before everything that a filter matches.
    pub(super) fn before(filter: Arc<str>) -> Self {
        let slot = match is_exact(&filter) {
            true => slot_of(&filter),
            false => 0,
        };
        Self {
            filter,
            slot,
            after: None,
            is_begun: false,
        }
    }

    /// Where another connection was.
    pub(super) fn at(filter: Arc<str>, cursor: Option<ReplayCursor>) -> Self {
        match cursor {
            None => Self::before(filter),
            Some(ReplayCursor { slot, after }) => Self {
                filter,
                slot,
                after,
                is_begun: false,
            },
        }
    }

    /// What the state keeps of it; none at the end.
    pub(super) fn cursor(&self) -> Option<ReplayCursor> {
        (!self.is_end()).then(|| ReplayCursor {
            slot: self.slot,
            after: self.after.clone(),
        })
    }

    pub(super) fn is_end(&self) -> bool {
        self.slot >= SLOTS
    }

    /// Whether a topic is still to be looked for: its group is not being read yet.
    pub(super) fn is_before(&self, topic: &str) -> bool {
        let slot = slot_of(topic);
        self.slot < slot || (self.slot == slot && self.after.is_none())
    }

    /// A page was read that says where the next one of its group begins.
    fn advance(&mut self, resume_after: Option<String>) {
        self.is_begun = true;
        self.after = resume_after.map(Arc::from);
        if is_exact(&self.filter) {
            self.slot = SLOTS;
        } else if self.after.is_none() {
            self.slot += 1;
            self.is_begun = false;
        }
    }

    /// Reads on, in whatever group and at whatever node, until something is found or there is no more: as the groups were
    /// when they were begun with, or later (R36).
    pub(super) async fn read(mut self, node: &Node<Shared>) -> (Self, Vec<Value>) {
        while !self.is_end() {
            let group = node.group_of_slot(self.slot);
            let page = group
                .read_retained(&self.filter, self.after.as_deref(), PIECE, !self.is_begun)
                .await;
            let values = values(page.matches, group.now());
            self.advance(page.resume_after);
            if !values.is_empty() {
                return (self, values);
            }
        }
        (self, Vec::new())
    }

    /// Reads on at a node that is alone, at most `pages` of the index.
    pub(super) fn read_here(&mut self, node: &Node<Shared>, pages: &mut usize) -> Vec<Value> {
        while !self.is_end() && *pages > 0 {
            *pages -= 1;
            let group = node.group_of_slot(self.slot);
            let page = group
                .state()
                .retained_page(&self.filter, self.after.as_deref(), PIECE);
            let values = values(page.matches, group.now());
            self.advance(page.resume_after);
            if !values.is_empty() {
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
}

impl Value {
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
        })
        .collect()
}
