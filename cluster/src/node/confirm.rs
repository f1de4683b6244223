//! SUBACK and UNSUBACK mean that every node that serves routes by the change (R1).
//!
//! One round asks all nodes of the view for everything that waits and is over when each has confirmed or has left the
//! view; what comes meanwhile waits for the next one. So a storm of subscriptions costs few messages. A node that is
//! gone holds up a round until its lease has run out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use quorate_storage::log::GroupId;
use tokio::sync::Notify;

use super::peers::Peers;
use super::{Completion, Host};
use crate::meta::Directory;
use crate::state::{NodeId, NodeIncarnation};

/// Pause before a node is asked again that could not be reached.
const RETRY: Duration = Duration::from_millis(20);

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
}

impl<H: Host> RouteConfirmations<H> {
    pub(super) fn new(host: Arc<H>, peers: Peers, directory: Arc<Directory>) -> Self {
        Self {
            host,
            peers,
            directory,
            waiting: Mutex::new(Vec::new()),
            entered: Notify::new(),
        }
    }

    /// Whether nobody has to be asked.
    pub(super) fn is_alone(&self) -> bool {
        self.directory.read().view().serving.len() <= 1
    }

    /// Whether the cluster never had another node.
    pub(super) fn was_always_alone(&self) -> bool {
        self.directory.read().nodes().count() <= 1
    }

    /// Completes `ticket` when every node routes by the entry at `index`.
    pub(super) fn confirm(&self, group: GroupId, index: u64, ticket: H::Ticket, completion: Completion) {
        self.waiting.lock().push(Change {
            group,
            index,
            ticket,
            completion,
        });
        self.entered.notify_one();
    }

    /// The task that asks.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            let changes = std::mem::take(&mut *self.waiting.lock());
            if changes.is_empty() {
                self.entered.notified().await;
                continue;
            }
            let mut watermarks: BTreeMap<GroupId, u64> = BTreeMap::new();
            for change in &changes {
                let watermark = watermarks.entry(change.group).or_default();
                *watermark = (*watermark).max(change.index);
            }
            let watermarks: Vec<(GroupId, u64)> = watermarks.into_iter().collect();
            self.round(&watermarks).await;
            let completions = changes
                .into_iter()
                .map(|change| (change.ticket, change.completion));
            self.host.complete(completions.collect());
        }
    }

    /// Asks everybody who is in the view now. A node that enters later applies, before it serves, what was committed
    /// before (R2).
    async fn round(&self, watermarks: &[(GroupId, u64)]) {
        let this = self.peers.this_node();
        let view = self.directory.read().view().clone();
        let asked = view.serving.into_iter().filter(|(node, _)| *node != this);
        join_all(asked.map(|(node, serving)| self.ask(node, serving.incarnation, watermarks))).await;
    }

    async fn ask(&self, node: NodeId, incarnation: NodeIncarnation, watermarks: &[(GroupId, u64)]) {
        let confirmed = async {
            while self.peers.confirm(node, watermarks).await.is_err() {
                tokio::time::sleep(RETRY).await;
            }
        };
        let left = self
            .directory
            .wait_for(|state| (!state.view().holds(node, incarnation)).then_some(()));
        tokio::select! {
            () = confirmed => {}
            () = left => {}
        }
    }
}
