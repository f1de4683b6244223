//! Shared subscriptions: their members, in the order they joined.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use quorate_cluster::state::{SessionId, ShareKey};
use quorate_proto::codec::SubscriptionOptions;

/// One shared subscription.
#[derive(Debug)]
pub(super) struct ShareRoute {
    pub(super) key: ShareKey,
    pub(super) members: Vec<Member>,
    /// Goes round the members for messages that are not replicated; shared by all plans.
    pub(super) turn: Arc<AtomicU32>,
}

/// A member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    /// Place in the table of sessions.
    pub(super) key: u32,
    pub(super) session: SessionId,
    pub(super) options: SubscriptionOptions,
    pub(super) subscription_id: Option<u32>,
}

impl ShareRoute {
    pub(super) fn new(key: ShareKey) -> Self {
        Self {
            key,
            members: Vec::new(),
            turn: Arc::default(),
        }
    }

    pub(super) fn add(&mut self, member: Member) {
        match self.members.iter_mut().find(|known| known.key == member.key) {
            Some(known) => *known = member,
            None => self.members.push(member),
        }
    }

    pub(super) fn remove(&mut self, key: u32) {
        self.members.retain(|member| member.key != key);
    }
}

/// Takes a checked filter apart: `$share/{name}/{filter}` gives both, anything else nothing.
pub(crate) fn split_share(filter: &str) -> Option<(&str, &str)> {
    filter.strip_prefix("$share/")?.split_once('/')
}
