//! Publishes the wills that a group holds as due (R31).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use quorate_proto::message::Message;
use quorate_storage::log::GroupId;
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
        let mut busy = BTreeSet::new();
        let mut on_their_way = FuturesUnordered::new();
        loop {
            if self.leads() {
                for (home, due) in self.due_wills_but_of(&busy) {
                    busy.insert(home);
                    on_their_way.push(self.publish_to(home, &node, due));
                }
            }
            tokio::select! {
                () = self.will_due.notified() => {}
                Some(home) = on_their_way.next() => drop(busy.remove(&home)),
            }
        }
    }

    /// The first wills for each group that is to hold them, but for these groups: one without leader holds up its own
    /// wills alone.
    fn due_wills_but_of(&self, busy: &BTreeSet<GroupId>) -> BTreeMap<GroupId, Vec<DueWill>> {
        let mut due: BTreeMap<GroupId, Vec<DueWill>> = BTreeMap::new();
        let state = self.state();
        for (session, epoch, message) in state.due_will_messages() {
            let home = self.home_of_will(message);
            if busy.contains(&home) {
                continue;
            }
            let due = due.entry(home).or_default();
            if due.len() < WILLS_BATCH {
                due.push(DueWill {
                    session,
                    epoch,
                    message: message.clone(),
                });
            }
        }
        due
    }

    async fn publish_to(&self, home: GroupId, node: &Weak<Node<H>>, due: Vec<DueWill>) -> GroupId {
        let to = node.upgrade().map(|node| node.group(home).clone());
        if let Some(to) = to
            && !self.publish_wills(&to, due).await
        {
            tokio::time::sleep(RETRY).await;
        }
        home
    }

    /// Which group is to hold a will for durable sessions. A live group cannot hold messages.
    fn home_of_will(&self, message: &Message) -> GroupId {
        match Placement::kind(self.id()) {
            GroupKind::Data | GroupKind::Memory | GroupKind::Meta => self.id(),
            GroupKind::Live => Placement::data_of_topic(message.topic()),
        }
    }

    /// Publishes wills that group `to` is to hold; whether none of them has to be tried again.
    async fn publish_wills(&self, to: &Group<H>, due: Vec<DueWill>) -> bool {
        let publishing: Vec<_> = due.iter().map(|will| self.submit_will(to, will)).collect();
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
    fn submit_will(&self, to: &Group<H>, due: &DueWill) -> Option<oneshot::Receiver<Completion>> {
        let DueWill {
            session,
            epoch,
            message,
        } = due;
        let (session, epoch) = (*session, *epoch);
        // Whoever comes after it was matched finds it in its topic's group (R33).
        let is_kept = message.retain && !message.payload().is_empty();
        let crossing = is_kept.then(|| self.routes.crossings.begin());
        let origin = match Placement::kind(self.id()) {
            GroupKind::Data | GroupKind::Memory | GroupKind::Meta => Origin::Will { session, epoch },
            // The data group remembers whose will it has published.
            GroupKind::Live => Origin::LiveWill { session, epoch },
        };
        let targets = self.host.will_targets(session, message);
        if to.id() != self.id() && targets.is_empty() && !message.retain {
            return None;
        }
        let publish = Publish {
            origin: &origin,
            message: message.into(),
            targets: &targets,
            set_retained: message.retain,
            taken_live: false,
        };
        let (applied, carried) = to.submit_will_publish(&publish);
        if let Some(crossing) = crossing {
            tokio::spawn(async move {
                let _ = carried.await;
                drop(crossing);
            });
        }
        Some(applied)
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
