//! SUBACK and UNSUBACK mean that every node that serves routes by the change (R1).
//!
//! One round asks all nodes of the view for everything of a group that waits and is over when each has confirmed or has left
//! the view; what comes meanwhile waits for the next one. So a storm of subscriptions costs few messages. A node that is
//! gone holds up a round until its lease has run out; one that is there and does not confirm, until the leader of `meta`
//! has looked at it ([`judge`](super::judge)).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::{join, join_all};
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use quorate_storage::log::GroupId;
use tokio::sync::Notify;

use super::crossing::Crossings;
use super::judge::Accusation;
use super::peers::Peers;
use super::{Completion, Host, Node, Placement};
use crate::meta::Directory;
use crate::state::{NodeId, NodeIncarnation};

/// Pause before a node is asked again that could not be reached.
const RETRY: Duration = Duration::from_millis(20);

/// Time between words on a node that does not confirm, and accusations of it.
const TELL_INTERVAL: Duration = Duration::from_secs(5);

struct Change<T> {
    group: GroupId,
    index: u64,
    ticket: T,
    completion: Completion,
}

/// Changes of routes that this node applied and others have not confirmed.
pub(super) struct RouteConfirmations<H: Host> {
    host: Arc<H>,
    peers: Peers,
    directory: Arc<Directory>,
    waiting: Mutex<Vec<Change<H::Ticket>>>,
    entered: Notify,
    /// How many changes were not completed: none that comes later goes ahead of them.
    under_way: AtomicUsize,
    /// What this node has matched, and may have matched without a change.
    pub(super) crossings: Arc<Crossings>,
    /// Who takes accusations.
    node: OnceLock<Weak<Node<H>>>,
}

impl<H: Host> RouteConfirmations<H> {
    pub(super) fn new(host: Arc<H>, peers: Peers, directory: Arc<Directory>) -> Self {
        Self {
            host,
            peers,
            directory,
            waiting: Mutex::new(Vec::new()),
            entered: Notify::new(),
            under_way: AtomicUsize::new(0),
            crossings: Arc::default(),
            node: OnceLock::new(),
        }
    }

    /// Whether a change is confirmed as soon as it is applied here.
    pub(super) fn is_confirmed_here(&self) -> bool {
        self.is_alone() && self.crossings.is_empty() && self.under_way.load(Ordering::Acquire) == 0
    }

    /// Says which node this is of.
    pub(super) fn set_node(&self, node: Weak<Node<H>>) {
        assert!(self.node.set(node).is_ok(), "it is of one node");
    }

    /// Whether nobody has to be asked.
    pub(super) fn is_alone(&self) -> bool {
        self.directory.read().view().serving.len() <= 1
    }

    /// The nodes of the view, and their starts.
    pub(super) fn serving(&self) -> Vec<(NodeId, NodeIncarnation)> {
        let directory = self.directory.read();
        let serving = directory.view().serving.iter();
        serving
            .map(|(node, serving)| (*node, serving.incarnation))
            .collect()
    }

    /// Whether a start of a node is in the view.
    pub(super) fn serves(&self, node: NodeId, incarnation: NodeIncarnation) -> bool {
        self.directory.read().view().holds(node, incarnation)
    }

    /// Whether the cluster never had another node.
    pub(super) fn was_always_alone(&self) -> bool {
        self.directory.read().nodes().count() <= 1
    }

    /// Completes `ticket` when every node routes by the entry at `index`.
    pub(super) fn confirm(&self, group: GroupId, index: u64, ticket: H::Ticket, completion: Completion) {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        self.waiting.lock().push(Change {
            group,
            index,
            ticket,
            completion,
        });
        self.entered.notify_one();
    }

    /// The task that asks, for each group on its own: a node that lags in one holds up no changes of another.
    pub(super) async fn run(self: Arc<Self>) {
        let mut waiting: BTreeMap<GroupId, Vec<Change<H::Ticket>>> = BTreeMap::new();
        let mut asked = BTreeSet::new();
        let mut rounds = FuturesUnordered::new();
        loop {
            for change in std::mem::take(&mut *self.waiting.lock()) {
                waiting.entry(change.group).or_default().push(change);
            }
            // Who is asked about a group already is asked about what came since when that is over.
            let free = waiting.extract_if(.., |group, _| asked.insert(*group));
            rounds.extend(free.map(|(group, changes)| self.round(group, changes)));
            tokio::select! {
                () = self.entered.notified() => {}
                Some(group) = rounds.next() => drop(asked.remove(&group)),
            }
        }
    }

    /// Asks everybody who is in the view now. A node that enters later applies, before it serves, what was committed
    /// before (R2).
    async fn round(&self, group: GroupId, changes: Vec<Change<H::Ticket>>) -> GroupId {
        let this = self.peers.this_node();
        let last = changes.iter().map(|change| change.index).max();
        let watermark = (group, last.unwrap_or_default());
        let view = self.directory.read().view().clone();
        let asked = view.serving.into_iter().filter(|(node, _)| *node != this);
        let asked = join_all(asked.map(|(node, serving)| self.ask(node, serving.incarnation, watermark)));
        join(asked, self.crossings.pass()).await;
        let completions: Vec<_> = changes
            .into_iter()
            .map(|change| (change.ticket, change.completion))
            .collect();
        let count = completions.len();
        self.host.complete(completions);
        self.under_way.fetch_sub(count, Ordering::AcqRel);
        group
    }

    async fn ask(&self, node: NodeId, incarnation: NodeIncarnation, watermark: (GroupId, u64)) {
        let confirmed = async {
            while self.peers.confirm(node, &[watermark]).await.is_err() {
                tokio::time::sleep(RETRY).await;
            }
        };
        let left = self
            .directory
            .wait_for(|state| (!state.view().holds(node, incarnation)).then_some(()));
        let began = Instant::now();
        let tell = async {
            loop {
                tokio::time::sleep(TELL_INTERVAL).await;
                let group = Placement::name(watermark.0);
                let waited = began.elapsed();
                tracing::warn!(
                    node = node.0,
                    group,
                    ?waited,
                    "a node that serves lags; SUBACKs wait for it"
                );
                if let Some(accuser) = self.node.get().and_then(Weak::upgrade) {
                    let (group, index) = watermark;
                    let accusation = Accusation {
                        node,
                        incarnation,
                        group,
                        index,
                    };
                    accuser.accuse(accusation).await;
                }
            }
        };
        tokio::select! {
            () = confirmed => {}
            () = left => {}
            () = tell => {}
        }
    }
}
