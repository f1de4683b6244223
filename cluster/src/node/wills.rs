//! Publishes the wills that a group holds as due (R31).

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::{Completion, Group, GroupKind, Host, Node, Placement, Publish};
use crate::state::{Command, DueWill, Origin, Outcome};

/// Wills published at once: many connections end together when a network or a node goes.
const WILLS_BATCH: usize = 64;
/// Time between looks for wills that need not be remembered any more.
const FORGET_INTERVAL: Duration = Duration::from_secs(10);
/// Pause after a group did not take one.
const RETRY: Duration = Duration::from_millis(500);

impl<H: Host> Group<H> {
    /// The task that publishes wills.
    pub(super) async fn run_wills(self: Arc<Self>, node: Weak<Node<H>>) {
        loop {
            let Some(node) = node.upgrade() else { return };
            let due: Vec<DueWill> = match self.leads() {
                true => self.state().due_wills().take(WILLS_BATCH).collect(),
                false => Vec::new(),
            };
            let is_idle = due.is_empty();
            let all_taken = self.publish_wills(&node, due).await;
            drop(node);
            if is_idle {
                self.will_due.notified().await;
            } else if !all_taken {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Publishes wills; whether none of them has to be tried again.
    async fn publish_wills(&self, node: &Node<H>, due: Vec<DueWill>) -> bool {
        let publishing: Vec<_> = due.iter().map(|will| self.submit_will(node, will)).collect();
        let answers = join_all(publishing.into_iter().map(|answer| async {
            match answer {
                Some(answer) => answer.await.unwrap_or(Completion::Refused),
                None => Completion::Applied(Outcome::Done),
            }
        }));
        let mut all_taken = true;
        let mut published = Vec::new();
        for (will, completion) in due.into_iter().zip(answers.await) {
            let DueWill {
                session,
                epoch,
                message,
            } = will;
            match completion {
                // It was published before.
                Completion::Applied(Outcome::Refused(_)) => {
                    published.push(self.submit(&Command::WillPublished { session, epoch }));
                    continue;
                }
                Completion::Refused => {
                    all_taken = false;
                    continue;
                }
                Completion::Applied(_) | Completion::TooLarge => {
                    self.host.deliver_will(session, &Arc::new(message.clone()));
                }
            }
            // A data group that stored it as its own holds it no longer; said twice, it does no harm.
            published.push(self.submit(&Command::WillPublished { session, epoch }));
        }
        join_all(published).await;
        all_taken
    }

    /// Proposes a will to the group that is to hold it for durable sessions; none where nobody needs that.
    fn submit_will(&self, node: &Node<H>, due: &DueWill) -> Option<oneshot::Receiver<Completion>> {
        let DueWill {
            session,
            epoch,
            message,
        } = due;
        let (home, origin) = match Placement::kind(self.id()) {
            GroupKind::Data | GroupKind::Memory | GroupKind::Meta => {
                let (session, epoch) = (*session, *epoch);
                (self.id(), Origin::Will { session, epoch })
            }
            // A live group cannot hold messages. The data group remembers whose will it has published.
            GroupKind::Live => {
                let (session, epoch) = (*session, *epoch);
                let home = Placement::data_of_topic(message.topic());
                (home, Origin::LiveWill { session, epoch })
            }
        };
        let targets = self.host.will_targets(*session, message);
        if home != self.id() && targets.is_empty() && !message.retain {
            return None;
        }
        let publish = Publish {
            origin: &origin,
            message: message.into(),
            targets: &targets,
            set_retained: message.retain,
            taken_live: false,
        };
        Some(node.group(home).submit_publish(&publish))
    }

    /// Forgets wills of live groups that those do not hold any more (R31). Not as soon as they are published: what a
    /// former leader has proposed may still be on its way, and would be published again.
    pub(super) async fn forget_live_wills(&self, node: &Node<H>) {
        const AT_ONCE: usize = 10_000;
        let remembered = self.state().live_wills(None, AT_ONCE);
        if remembered.is_empty() || !self.leads() {
            return;
        }
        let mut due = BTreeSet::new();
        for home in Placement::groups().filter(|group| Placement::kind(*group) == GroupKind::Live) {
            let home = node.group(home);
            due.extend(home.read_due_wills().await);
        }
        let wills: Vec<_> = remembered
            .into_iter()
            .filter(|will| !due.contains(will))
            .collect();
        if !wills.is_empty() {
            self.propose(&Command::ForgetLiveWills { wills }, None);
        }
    }

    /// The task that looks for them.
    pub(super) async fn run_live_wills(self: Arc<Self>, node: Weak<Node<H>>) {
        loop {
            tokio::time::sleep(FORGET_INTERVAL).await;
            let Some(node) = node.upgrade() else { return };
            self.forget_live_wills(&node).await;
        }
    }
}
