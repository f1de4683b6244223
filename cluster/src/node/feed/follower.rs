//! The side of the node without a replica: keeps a feed from one of the group's replicas, and takes what it tells.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use xxhash_rust::xxh3::xxh3_64;

use super::super::group::Standing;
use super::super::peers::{AnswerBody, AskError, RequestBody, proto};
use super::super::{Group, Host};
use super::SILENCE_MAX;
use super::attached::Listener;
use super::passing::Passing;
use super::told::{Beginning, OwnBatch, Told};
use crate::meta::Directory;
use crate::state::{Event, GroupTime, NodeId, SessionId, SessionView, TargetQueue};

/// Pause before another replica is asked.
const RETRY: Duration = Duration::from_millis(20);

/// What this node was told of a group.
#[derive(Debug)]
pub(in crate::node) struct Following {
    /// Whether there is to be a feed.
    wanted: watch::Sender<bool>,
    /// Who leads, as far as the source knows.
    leader: watch::Sender<Option<NodeId>>,
    /// Everything up to this index was told. `None` before the first feed is whole.
    applied: watch::Sender<Option<u64>>,
    told: Mutex<Told>,
    /// The group's members, when they were told last.
    members: Mutex<Option<BTreeSet<NodeId>>>,
    /// Whom the feed comes from.
    source: watch::Sender<Option<NodeId>>,
    /// An index that somebody waits for, and sessions to be told again.
    asked: Mutex<(Option<u64>, Vec<SessionId>)>,
    ask: Notify,
    retained_messages: AtomicU64,
    retained_bytes: AtomicU64,
}

impl Default for Following {
    fn default() -> Self {
        Self {
            wanted: watch::Sender::new(false),
            leader: watch::Sender::new(None),
            applied: watch::Sender::new(None),
            told: Mutex::default(),
            members: Mutex::default(),
            source: watch::Sender::new(None),
            asked: Mutex::default(),
            ask: Notify::new(),
            retained_messages: AtomicU64::new(0),
            retained_bytes: AtomicU64::new(0),
        }
    }
}

/// A replica that has not told in so long what somebody waits for is left for another one.
const BEHIND_MAX: Duration = Duration::from_secs(2);

/// How long who leads is taken for granted where no replica tells anything any more.
const LEADER_KNOWN_MAX: Duration = Duration::from_secs(1);

/// Why a feed ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum FeedEnded {
    #[error("it is not needed any more")]
    NotWanted,
    #[error("the replica was silent")]
    Silent,
    #[error("the replica stands still")]
    Behind,
    #[error(transparent)]
    NoAnswer(#[from] AskError),
    #[error("an item cannot be understood: {0}")]
    Malformed(#[from] crate::state::CodecError),
}

impl Following {
    /// Begins or ends the feed.
    pub(in crate::node) fn want(&self, is_wanted: bool) {
        self.wanted
            .send_if_modified(|wanted| std::mem::replace(wanted, is_wanted) != is_wanted);
    }

    /// Everything up to this index was told.
    pub(in crate::node) fn applied(&self) -> Option<u64> {
        *self.applied.borrow()
    }

    /// Who leads the group, as far as is known.
    pub(in crate::node) fn leader(&self) -> Option<NodeId> {
        *self.leader.borrow()
    }

    fn set_leader(&self, leader: Option<NodeId>) {
        self.leader
            .send_if_modified(|known| std::mem::replace(known, leader) != leader);
    }

    pub(in crate::node) fn watch_leader(&self) -> watch::Receiver<Option<NodeId>> {
        self.leader.subscribe()
    }

    /// The node whose replica tells, as soon as there is one.
    pub(in crate::node) async fn wait_for_source(&self) -> NodeId {
        known(&self.source).await
    }

    /// Who leads, as soon as that is known.
    pub(in crate::node) async fn wait_for_leader(&self) -> NodeId {
        known(&self.leader).await
    }

    /// Whether the source says that this node is not among the group's members.
    pub(in crate::node) fn excludes(&self, node: NodeId) -> bool {
        self.members
            .lock()
            .as_ref()
            .is_some_and(|members| !members.contains(&node))
    }

    /// What was told before may have changed since: nothing is deleted for it.
    fn forget_members(&self) {
        *self.members.lock() = None;
    }

    /// Waits until everything up to `index` was told.
    pub(in crate::node) async fn reached(&self, index: u64) {
        let mut applied = self.applied.subscribe();
        if applied
            .borrow_and_update()
            .is_some_and(|applied| applied >= index)
        {
            return;
        }
        self.ask_for(index);
        // The sender lives as long as the group.
        let _ = applied
            .wait_for(|applied| applied.is_some_and(|applied| applied >= index))
            .await;
    }

    fn ask_for(&self, index: u64) {
        let mut asked = self.asked.lock();
        asked.0 = Some(asked.0.map_or(index, |other| other.max(index)));
        self.ask.notify_one();
    }

    /// Has a session told again, as a whole.
    pub(in crate::node) fn refresh(&self, session: SessionId) {
        self.asked.lock().1.push(session);
        self.ask.notify_one();
    }

    /// A session at home in the group.
    pub(in crate::node) fn session(&self, client_id: &str) -> Option<SessionView> {
        self.told.lock().session(client_id).cloned()
    }

    pub(in crate::node) fn queue_len(&self, queue: &TargetQueue) -> u32 {
        self.told.lock().queue_len(queue)
    }

    /// Retained messages of the group and their bytes, as they were a moment ago.
    pub(in crate::node) fn retained(&self) -> (u64, u64) {
        let messages = self.retained_messages.load(Ordering::Relaxed);
        (messages, self.retained_bytes.load(Ordering::Relaxed))
    }

    /// The replica has taken over.
    pub(in crate::node) fn end(&self) -> Vec<Event> {
        self.forget_members();
        self.withdraw()
    }

    /// Takes back what was told of queues: it is known from elsewhere now.
    fn withdraw(&self) -> Vec<Event> {
        let events = self.told.lock().withdraw_all();
        *self.told.lock() = Told::default();
        self.applied.send_replace(None);
        events
    }
}

/// A node, as soon as it is known.
async fn known(node: &watch::Sender<Option<NodeId>>) -> NodeId {
    let mut node = node.subscribe();
    loop {
        if let Some(node) = *node.borrow_and_update() {
            return node;
        }
        // The sender lives as long as the group.
        let _ = node.changed().await;
    }
}

impl<H: Host> Group<H> {
    /// The task that keeps the feed.
    pub(in crate::node) async fn run_follower(self: Arc<Self>, directory: Arc<Directory>) {
        let mut wanted = self.following.wanted.subscribe();
        let mut tries = 0;
        let (mut before, mut told_until) = (None, Instant::now());
        loop {
            if wanted.wait_for(|wanted| *wanted).await.is_err() {
                return;
            }
            let Some(source) = self.choose_source(&directory, tries) else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            let ended = self.follow(source, &mut wanted).await;
            match self.following.source.send_replace(None) {
                Some(_) => told_until = Instant::now(),
                // Who leads would be among those that were asked.
                None if told_until.elapsed() > LEADER_KNOWN_MAX => self.following.set_leader(None),
                None => {}
            }
            if matches!(ended, FeedEnded::NotWanted) {
                continue;
            }
            // Once for each that fails, not for each try.
            if before.replace(source) != Some(source) {
                let group = self.id().0;
                tracing::info!(group, node = source.0, reason = %ended, "a replica is not followed any more");
            }
            tries += 1;
            tokio::time::sleep(RETRY).await;
        }
    }

    /// A replica's node: those that serve first, and not all nodes' choice the same. Replicas are where the group is
    /// placed, or still where it was.
    fn choose_source(&self, directory: &Directory, tries: usize) -> Option<NodeId> {
        let this = self.settings.node;
        let state = directory.read();
        let replicas = &state.placement(self.id())?.replicas;
        let members = state.members().map(|(node, _)| node);
        let mut candidates: Vec<NodeId> = members.filter(|node| *node != this).collect();
        let weight = |node: &NodeId| {
            let mut key = [0; 18];
            key[..2].copy_from_slice(&self.id().0.to_be_bytes());
            key[2..10].copy_from_slice(&this.0.to_be_bytes());
            key[10..].copy_from_slice(&node.0.to_be_bytes());
            xxh3_64(&key)
        };
        let serves = |node: &NodeId| state.view().serving.contains_key(node);
        candidates.sort_by_key(|node| (!replicas.contains(node), !serves(node), weight(node)));
        (!candidates.is_empty()).then(|| candidates[tries % candidates.len()])
    }

    async fn follow(self: &Arc<Self>, source: NodeId, wanted: &mut watch::Receiver<bool>) -> FeedEnded {
        let ask = |body| self.peers.ask(source, body);
        match self.try_follow(source, wanted, ask).await {
            Ok(()) => FeedEnded::NotWanted,
            Err(ended) => ended,
        }
    }

    /// Keeps a feed from `source`, which `ask` reaches, as long as it is wanted.
    pub(super) async fn try_follow<A>(
        self: &Arc<Self>,
        source: NodeId,
        wanted: &mut watch::Receiver<bool>,
        ask_source: impl Fn(RequestBody) -> A,
    ) -> Result<(), FeedEnded>
    where
        A: Future<Output = Result<AnswerBody, AskError>> + Send + 'static,
    {
        let (attached, listener) = self.attached.listen();
        let mut beginning = Some(Beginning::at(&attached));
        let mut passing = Passing::default();
        let mut wanted_index = None;
        self.following.forget_members();
        let mut ask = proto::Follow {
            group: u32::from(self.id().0),
            after: self.known_index().unwrap_or(0),
            attached: attached.iter().map(|session| session.0).collect(),
            ..proto::Follow::default()
        };
        while *wanted.borrow_and_update() {
            let answer = ask_source(RequestBody::Follow(ask.clone()));
            let answer = tokio::time::timeout(SILENCE_MAX, answer);
            tokio::pin!(answer);
            let answer = loop {
                let may_pass = ask.feed != 0 && passing.is_idle();
                tokio::select! {
                    answer = &mut answer => break answer.map_err(|_| FeedEnded::Silent)??,
                    passed = passing.passed() => passed?,
                    () = listener.changed.notified(), if may_pass => {
                        let attach = self.changes_of_attached(ask.feed, &listener, &mut beginning);
                        passing.pass(attach, &ask_source);
                    }
                    () = self.following.ask.notified(), if may_pass => {
                        let attach = self.wanted_index(ask.feed);
                        if let Some(attach) = &attach {
                            let since = wanted_index.map_or_else(Instant::now, |(_, since)| since);
                            wanted_index = Some((attach.wanted, since));
                        }
                        passing.pass(attach, &ask_source);
                    }
                }
            };
            let AnswerBody::Followed(frame) = answer else {
                return Err(AskError::NotLeader.into());
            };
            if ask.feed == 0 {
                // What changed before the feed had a number.
                listener.changed.notify_one();
                self.following.ask.notify_one();
                self.following.source.send_replace(Some(source));
            }
            (ask.feed, ask.have) = (frame.feed, frame.frame);
            ask.attached = Vec::new();
            ask.refresh = std::mem::take(&mut self.following.asked.lock().1)
                .iter()
                .map(|session| session.0)
                .collect();
            self.take_frame(frame, &mut beginning)?;
            let known = self.known_index();
            wanted_index.take_if(|(index, _)| known >= Some(*index));
            // A replica that answers and applies nothing would keep this node from confirming what it follows (R1).
            if beginning.is_none() && wanted_index.is_some_and(|(_, since)| since.elapsed() > BEHIND_MAX) {
                return Err(FeedEnded::Behind);
            }
        }
        Ok(())
    }

    /// Who has come and gone since the source was told.
    fn changes_of_attached(
        &self,
        feed: u64,
        listener: &Listener,
        beginning: &mut Option<Beginning>,
    ) -> Option<proto::Attach> {
        let changes = listener.take();
        if changes.is_empty() {
            return None;
        }
        let mut attach = proto::Attach {
            group: u32::from(self.id().0),
            feed,
            ..proto::Attach::default()
        };
        let mut events = Vec::new();
        let _nothing_is_applied = self.applying.lock();
        {
            let mut told = self.following.told.lock();
            for (session, is_here) in changes {
                // In the order in which it happened: what came last counts.
                attach.attached.retain(|other| *other != session.0);
                attach.detached.retain(|other| *other != session.0);
                match is_here {
                    true => {
                        attach.attached.push(session.0);
                        // Left and come again: it is told as a whole.
                        attach.detached.push(session.0);
                    }
                    false => attach.detached.push(session.0),
                }
                match beginning {
                    Some(beginning) => beginning.attach(session, is_here),
                    None if is_here => told.attach(session),
                    None => told.detach(session, &mut events),
                }
            }
        }
        if !events.is_empty() {
            self.handle_events(&events);
        }
        Some(attach)
    }

    /// The index that somebody waits for.
    fn wanted_index(&self, feed: u64) -> Option<proto::Attach> {
        let wanted = self.following.asked.lock().0.take()?;
        Some(proto::Attach {
            group: u32::from(self.id().0),
            feed,
            wanted,
            ..proto::Attach::default()
        })
    }

    fn take_frame(
        self: &Arc<Self>,
        frame: proto::Followed,
        beginning: &mut Option<Beginning>,
    ) -> Result<(), FeedEnded> {
        let proto::Followed {
            items,
            applied,
            stamp,
            leader,
            members,
            ..
        } = frame;
        self.following.set_leader((leader != 0).then_some(NodeId(leader)));
        if !members.is_empty() {
            *self.following.members.lock() = Some(members.into_iter().map(NodeId).collect());
            self.following
                .retained_messages
                .store(frame.retained_messages, Ordering::Relaxed);
            self.following
                .retained_bytes
                .store(frame.retained_bytes, Ordering::Relaxed);
        }
        let this = (self.settings.node, self.settings.incarnation);
        let _nothing_else_is_applied = self.applying.lock();
        if let Some(begun) = beginning {
            for item in items {
                begun.take(self.id(), this, item)?;
            }
            // What was told or applied before must not be taken back. As long as the group may elect this node's replica
            // its duties are done here.
            let may_leave = self.standing() != Standing::Replica || self.following.excludes(this.0);
            let is_newer = self.known_index().is_none_or(|known| known <= applied);
            let is_whole = applied > 0 && is_newer && may_leave;
            if let Some(begun) = beginning.take_if(|_| is_whole) {
                self.install(begun, applied);
            }
            return Ok(());
        }
        if self.standing() != Standing::Feed {
            // The replica took over since. Where a feed is wanted again already, it has to begin with everything.
            return Err(FeedEnded::NotWanted);
        }
        let (mut events, mut batches) = (Vec::new(), Vec::new());
        {
            let mut told = self.following.told.lock();
            for item in items {
                told.take(self.id(), this, item, &mut events, &mut batches)?;
            }
        }
        if !events.is_empty() {
            self.handle_events(&events);
        }
        self.clock().advance_to(GroupTime(stamp));
        self.advance(applied, &batches);
        Ok(())
    }

    /// A new feed is whole: it takes the place of what was known (R6).
    fn install(&self, begun: Beginning, applied: u64) {
        let withdrawn = match self.standing() {
            Standing::Replica => self.queue_removals(),
            Standing::Feed => self.following.withdraw(),
            Standing::Nothing => Vec::new(),
        };
        self.host.handle_events(self.id(), &withdrawn);
        let (told, events, batches) = begun.finish();
        *self.following.told.lock() = told;
        self.stand_on(Standing::Feed);
        let is_known = |session| self.following.told.lock().holds(session);
        self.forget_sessions_beside(&is_known);
        self.handle_events(&events);
        self.advance(applied, &batches);
        tracing::debug!(group = self.id().0, applied, "a replica is followed");
    }

    fn advance(&self, applied: u64, batches: &[OwnBatch]) {
        for (number, index) in batches {
            self.proposals.note_applied(*number, *index);
            self.applied(*index);
        }
        if applied > 0 && self.following.applied() != Some(applied) {
            self.applied(applied);
            self.following.applied.send_replace(Some(applied));
        }
    }
}
