//! Which nodes are reached through a relay, and how many connections there are of each kind.
//!
//! A link goes over to a relay with the first connection that does, and comes back with the first direct one; both are
//! told once. A direct connection that breaks soon after its return makes the next return wait longer: a link that
//! comes and goes costs its users a silence each time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::state::NodeId;

/// Time before a relayed connection tries the direct way again.
const RETURN_WAIT_MIN: Duration = Duration::from_secs(2);
/// The longest such time, of a link that comes and goes.
const RETURN_WAIT_MAX: Duration = Duration::from_secs(60);
/// A direct connection that breaks so soon after its return was none.
const UNSTABLE_MAX: Duration = Duration::from_secs(10);
/// A link that has held directly for so long is trusted again.
const STABLE_MIN: Duration = Duration::from_secs(60);
/// No relay is asked again so soon after one said that the node's machine refuses connections.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// How a connection reaches its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::raft) enum Way {
    Direct,
    /// Through this member.
    Relayed(NodeId),
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionUse {
    /// Heartbeats, votes and other small requests that must not be late.
    Prompt,
    /// Entries of Raft's logs.
    Raft,
    /// Everything else that nodes ask each other.
    Service,
    /// A snapshot.
    Snapshot,
}

impl ConnectionUse {
    const ALL: [Self; 4] = [Self::Prompt, Self::Raft, Self::Service, Self::Snapshot];

    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Raft => "raft",
            Self::Service => "service",
            Self::Snapshot => "snapshot",
        }
    }
}

/// How many connections this node has to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionCount {
    /// What for.
    pub used_for: ConnectionUse,
    /// Whether they pass another node.
    pub relayed: bool,
    /// How many.
    pub count: u64,
}

type Counts = [[AtomicU64; 2]; ConnectionUse::ALL.len()];

/// Counts a connection while it stands.
pub(in crate::raft) struct Counted {
    counts: Arc<Counts>,
    place: (usize, usize),
    /// The direct connections to the node, where this is one.
    direct: Option<Arc<AtomicU64>>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(direct) = &self.direct {
            direct.fetch_sub(1, Ordering::Relaxed);
        }
        self.counts[self.place.0][self.place.1].fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is known of the link to a node.
#[derive(Debug, Default)]
struct Link {
    relayed: bool,
    /// When it last went from a relay to a direct connection.
    returned: Option<Instant>,
    /// Returns that did not last, one after the other.
    failed_returns: u32,
    /// When a relay last said that the node's machine refuses connections.
    refused: Option<Instant>,
    /// The member that last did not pass a connection to the node on.
    failed_relay: Option<NodeId>,
    /// Direct connections that stand.
    direct: Arc<AtomicU64>,
}

impl Link {
    fn return_wait(&self) -> Duration {
        let longer = RETURN_WAIT_MIN.saturating_mul(1 << self.failed_returns.min(6));
        longer.min(RETURN_WAIT_MAX)
    }
}

/// The links from this node to the others.
#[derive(Default)]
pub(in crate::raft) struct Ways {
    links: Mutex<HashMap<NodeId, Link>>,
    counts: Arc<Counts>,
}

impl Ways {
    /// A connection stands, and its other end is who it should be.
    pub(in crate::raft) fn established(&self, node: NodeId, way: Way, used_for: ConnectionUse) -> Counted {
        let place = (used_for as usize, usize::from(way != Way::Direct));
        self.counts[place.0][place.1].fetch_add(1, Ordering::Relaxed);
        let mut links = self.links.lock();
        let link = links.entry(node).or_default();
        let now = Instant::now();
        match way {
            Way::Direct if link.relayed => {
                link.relayed = false;
                link.returned = Some(now);
                tracing::info!(node = node.0, "a node is reached directly again");
            }
            Way::Direct => {
                let stable = |at: Instant| now.duration_since(at) > STABLE_MIN;
                if link.returned.is_some_and(stable) {
                    link.failed_returns = 0;
                }
            }
            Way::Relayed(relay) if !link.relayed => {
                link.relayed = true;
                let unstable = |at: Instant| now.duration_since(at) < UNSTABLE_MAX;
                if link.returned.is_some_and(unstable) {
                    link.failed_returns += 1;
                }
                tracing::warn!(
                    node = node.0,
                    relay = relay.0,
                    "a node cannot be reached directly; it is reached through another"
                );
            }
            Way::Relayed(_) => {}
        }
        let direct = (way == Way::Direct).then(|| Arc::clone(&link.direct));
        if let Some(direct) = &direct {
            direct.fetch_add(1, Ordering::Relaxed);
        }
        link.failed_relay = link.failed_relay.filter(|relay| way != Way::Relayed(*relay));
        Counted {
            counts: Arc::clone(&self.counts),
            place,
            direct,
        }
    }

    /// Whether a new connection tries a relay before the direct way.
    pub(in crate::raft) fn prefers_relay(&self, node: NodeId) -> bool {
        self.links.lock().get(&node).is_some_and(|link| link.relayed)
    }

    /// A relay said that the node's machine refuses connections.
    pub(super) fn note_refused(&self, node: NodeId) {
        self.links.lock().entry(node).or_default().refused = Some(Instant::now());
    }

    /// A relay did not pass a connection to the node on, or did not answer.
    pub(super) fn note_relay_failed(&self, node: NodeId, relay: NodeId) {
        self.links.lock().entry(node).or_default().failed_relay = Some(relay);
    }

    /// Puts relays to a node into the order in which they are asked: first those to which a direct connection stands,
    /// last the one that failed last.
    pub(in crate::raft) fn sort_relays<T>(&self, node: NodeId, relays: &mut [(NodeId, T)]) {
        let links = self.links.lock();
        let failed = links.get(&node).and_then(|link| link.failed_relay);
        relays.sort_by_key(|(relay, _)| {
            let link = links.get(relay);
            let stands = link.is_some_and(|link| link.direct.load(Ordering::Relaxed) > 0);
            let relayed = link.is_some_and(|link| link.relayed);
            (failed == Some(*relay), !stands, relayed, relay.0)
        });
    }

    /// Whether a relay is asked at all.
    pub(super) fn may_relay(&self, node: NodeId) -> bool {
        let links = self.links.lock();
        let refused = links.get(&node).and_then(|link| link.refused);
        refused.is_none_or(|at| at.elapsed() >= REFUSED_PAUSE)
    }

    /// How long a relayed connection waits before it tries the direct way.
    pub(in crate::raft) fn return_wait(&self, node: NodeId) -> Duration {
        let links = self.links.lock();
        links.get(&node).map_or(RETURN_WAIT_MIN, Link::return_wait)
    }

    /// The node has left the cluster.
    pub(in crate::raft) fn forget(&self, node: NodeId) {
        self.links.lock().remove(&node);
    }

    /// The connections of each kind.
    pub(in crate::raft) fn counts(&self) -> Vec<ConnectionCount> {
        let kinds = ConnectionUse::ALL.into_iter().flat_map(|used_for| {
            [false, true].map(|relayed| ConnectionCount {
                used_for,
                relayed,
                count: self.counts[used_for as usize][usize::from(relayed)].load(Ordering::Relaxed),
            })
        });
        kinds.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(2);

    fn count(ways: &Ways, used_for: ConnectionUse, relayed: bool) -> u64 {
        let counts = ways.counts();
        let found = counts
            .iter()
            .find(|count| (count.used_for, count.relayed) == (used_for, relayed));
        found.expect("every kind is there").count
    }

    #[test]
    fn connections_are_counted_while_they_stand() {
        let ways = Ways::default();
        let direct = ways.established(NODE, Way::Direct, ConnectionUse::Raft);
        let relayed = ways.established(NODE, Way::Relayed(NodeId(3)), ConnectionUse::Service);
        assert_eq!(count(&ways, ConnectionUse::Raft, false), 1);
        assert_eq!(count(&ways, ConnectionUse::Service, true), 1);
        assert_eq!(count(&ways, ConnectionUse::Service, false), 0);
        drop((direct, relayed));
        assert!(ways.counts().iter().all(|count| count.count == 0));
    }

    #[test]
    fn r5_a_link_that_comes_and_goes_stays_longer_on_its_relay_each_time() {
        let ways = Ways::default();
        let relayed = || drop(ways.established(NODE, Way::Relayed(NodeId(3)), ConnectionUse::Raft));
        let direct = || drop(ways.established(NODE, Way::Direct, ConnectionUse::Raft));
        assert!(!ways.prefers_relay(NODE));
        relayed();
        assert!(ways.prefers_relay(NODE));
        assert_eq!(ways.return_wait(NODE), RETURN_WAIT_MIN);
        let mut before = Duration::ZERO;
        for _ in 0..5 {
            let wait = ways.return_wait(NODE);
            assert!(wait > before, "{wait:?}");
            before = wait;
            direct();
            assert!(!ways.prefers_relay(NODE));
            relayed();
            // Another connection of the same link is no further failure.
            relayed();
        }
        for _ in 0..5 {
            direct();
            relayed();
        }
        assert_eq!(ways.return_wait(NODE), RETURN_WAIT_MAX);
    }

    #[test]
    fn a_refusing_machine_is_not_asked_for_at_once_again() {
        let ways = Ways::default();
        assert!(ways.may_relay(NODE));
        ways.note_refused(NODE);
        assert!(!ways.may_relay(NODE));
        assert!(ways.may_relay(NodeId(3)));
    }

    #[test]
    fn r5_relays_that_are_reached_are_asked_first() {
        let ways = Ways::default();
        let order = || {
            let mut relays = [5, 3, 4, 6].map(|relay| (NodeId(relay), ()));
            ways.sort_relays(NODE, &mut relays);
            relays.map(|(relay, ())| relay.0)
        };
        assert_eq!(order(), [3, 4, 5, 6]);
        let direct = ways.established(NodeId(5), Way::Direct, ConnectionUse::Raft);
        let _relayed = ways.established(NodeId(3), Way::Relayed(NodeId(5)), ConnectionUse::Raft);
        assert_eq!(order(), [5, 4, 6, 3]);
        ways.note_relay_failed(NODE, NodeId(5));
        assert_eq!(order(), [4, 6, 3, 5]);
        drop(ways.established(NODE, Way::Direct, ConnectionUse::Raft));
        assert_eq!(
            order(),
            [4, 6, 3, 5],
            "a direct connection says nothing of a relay"
        );
        drop(ways.established(NODE, Way::Relayed(NodeId(5)), ConnectionUse::Raft));
        assert_eq!(order(), [5, 4, 6, 3]);
        drop(direct);
        assert_eq!(order(), [4, 5, 6, 3]);
    }
}
