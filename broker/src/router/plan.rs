//! The plan for one topic: every session that gets the message, and how.
//!
//! Overlapping subscriptions of a session are merged: the highest QoS, all identifiers [MQTT5 3.3.4]. A plan does not
//! depend on the publisher; where No Local makes a difference it holds both answers.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use quorate_cluster::node::Location;
use quorate_cluster::state::{NodeId, SessionId, ShareKey};
use quorate_proto::codec::{QoS, RetainHandling, SubscriptionOptions};
use smallvec::SmallVec;

use super::QueueGauge;

/// The plan for a topic, valid for one epoch of the table.
#[derive(Debug, Default)]
pub struct Plan {
    /// Epoch of the table it was made from.
    pub epoch: u64,
    /// Sessions, those connected on this node first, by worker.
    pub targets: Vec<PlannedTarget>,
    /// Shared subscriptions.
    pub shares: Vec<PlannedShare>,
    /// Other nodes that have the connections of sessions among the targets.
    pub remotes: SmallVec<[PlannedRemote; 2]>,
}

/// Another node that may get the message for its live subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedRemote {
    /// The node.
    pub node: NodeId,
    /// It has a subscriber that gets messages of any QoS without replication.
    pub live: bool,
}

impl Plan {
    /// Finds the other nodes, once for all messages.
    pub(super) fn find_remotes(&mut self) {
        for target in &self.targets {
            let Some(node) = target.remote else { continue };
            let live = target.queue.is_none() || target.terms.qos == QoS::AtMostOnce;
            match self.remotes.iter_mut().find(|remote| remote.node == node) {
                Some(remote) => remote.live |= live,
                None => self.remotes.push(PlannedRemote { node, live }),
            }
        }
    }

    /// The other nodes that a message of this QoS goes to without replication.
    pub fn live_remotes(&self, qos: QoS) -> impl Iterator<Item = NodeId> {
        self.remotes
            .iter()
            .filter(move |remote| remote.live || qos == QoS::AtMostOnce)
            .map(|remote| remote.node)
    }
}

/// A session that gets the message.
#[derive(Debug, Clone)]
pub struct PlannedTarget {
    /// Session.
    pub session: SessionId,
    /// Its connection on this node.
    pub location: Option<Location>,
    /// The other node that has its connection.
    pub remote: Option<NodeId>,
    /// What waits for it, for durable sessions.
    pub queue: Option<Arc<QueueGauge>>,
    /// How it gets the message.
    pub terms: Terms,
    /// How it gets a message of its own, where No Local makes that differ; `Some(None)` for not at all.
    pub own_terms: Option<Option<Terms>>,
}

/// How a session gets a message: its matching subscriptions merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Maximum QoS.
    pub qos: QoS,
    /// Keep the RETAIN flag of the publisher.
    pub retain_as_published: bool,
    /// Send retained messages when it subscribes.
    pub wants_retained: bool,
    /// Identifiers of all matching subscriptions.
    pub subscription_ids: SmallVec<[u32; 2]>,
}

impl Terms {
    pub(super) fn of(options: &SubscriptionOptions, subscription_id: Option<u32>) -> Self {
        Self {
            qos: options.qos,
            retain_as_published: options.retain_as_published,
            wants_retained: options.retain_handling != RetainHandling::DoNotSend,
            subscription_ids: subscription_id.into_iter().collect(),
        }
    }

    pub(super) fn merge(&mut self, options: &SubscriptionOptions, subscription_id: Option<u32>) {
        self.qos = self.qos.max(options.qos);
        self.retain_as_published |= options.retain_as_published;
        self.wants_retained |= options.retain_handling != RetainHandling::DoNotSend;
        self.subscription_ids.extend(subscription_id);
    }
}

impl PlannedTarget {
    /// How it gets a message published by `publisher`.
    pub fn terms_for(&self, publisher: Option<SessionId>) -> Option<&Terms> {
        match &self.own_terms {
            Some(own) if publisher == Some(self.session) => own.as_ref(),
            _ => Some(&self.terms),
        }
    }
}

/// A shared subscription that gets the message.
#[derive(Debug, Clone)]
pub struct PlannedShare {
    /// Its name and filter.
    pub key: ShareKey,
    /// A durable member makes it a durable target (R40).
    pub durable: bool,
    /// Connected members.
    pub members: Vec<PlannedTarget>,
    /// Goes round the members.
    pub turn: Arc<AtomicU32>,
}
