//! Publishes the wills that a group holds as due (R31).

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use quorate_proto::codec::QoS;
use tokio::sync::oneshot;

use super::{Completion, Group, GroupKind, Host, Node, Placement};
use crate::state::{Command, DueWill, Origin, Outcome, PublishCommand};

/// Wills published at once: many connections end together when a network or a node goes.
const WILLS_BATCH: usize = 64;
/// Pause after a group did not take one.
const RETRY: Duration = Duration::from_millis(500);

impl<H: Host> Group<H> {
    /// The task that publishes wills.
    pub(super) async fn run_wills(self: Arc<Self>, node: Weak<Node<H>>) {
        loop {
            let Some(node) = node.upgrade() else { return };
            let due: Vec<DueWill> = self.state().due_wills().take(WILLS_BATCH).collect();
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
            let stored = matches!(completion, Completion::Applied(Outcome::Published { .. }));
            match completion {
                // The home group does not hold it any more: it was published.
                Completion::Applied(Outcome::Refused(_)) => continue,
                Completion::Refused => {
                    all_taken = false;
                    continue;
                }
                // Where it is too large for the log, those who are connected get it all the same.
                Completion::Applied(_) | Completion::TooLarge => {
                    self.host.deliver_will(session, &Arc::new(message))
                }
            }
            // A data group that stored it as its own holds it no longer.
            if !stored || Placement::kind(self.id()) == GroupKind::Live {
                published.push(self.submit(&Command::WillPublished { session, epoch }));
            }
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
            GroupKind::Data => {
                let (session, epoch) = (*session, *epoch);
                (self.id(), Origin::Will { session, epoch })
            }
            // A live group cannot hold messages.
            GroupKind::Live => (Placement::data_of_topic(message.topic()), Origin::Server),
        };
        let targets = match message.qos {
            QoS::AtMostOnce => Vec::new(),
            QoS::AtLeastOnce | QoS::ExactlyOnce => self.host.will_targets(*session, message),
        };
        if home != self.id() && targets.is_empty() && !message.retain {
            return None;
        }
        let publish = PublishCommand {
            origin,
            set_retained: message.retain,
            taken_live: false,
            message: message.clone(),
            targets,
        };
        Some(node.group(home).submit(&Command::Publish(publish)))
    }
}
