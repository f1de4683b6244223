//! The side of the replica: what each node that follows has not been told yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Notify;

use super::super::group::Standing;
use super::super::peers::proto;
use super::super::{Group, Host};
use super::ANSWER_INTERVAL;
use super::items::{self, Body, item, queue_item, session_item};
use super::lengths::Lengths;
use crate::raft::{PeerStart, RaftGroup};
use crate::state::{Batch, ClientId, Event, GroupState, Sequence, SessionId, TargetQueue};

/// Sessions told in one frame at the beginning of a feed.
const PAGE_SESSIONS: usize = 256;
/// Bytes of such a frame from which on no more are added.
const PAGE_BYTES: usize = 256 << 10;
/// Bytes that a feed may be behind; the node that follows begins again then.
const BEHIND_BYTES_MAX: usize = 32 << 20;
/// A feed that nobody asks for any more ends.
const UNASKED_MAX: Duration = Duration::from_secs(10);
/// Items of queues wait so long for others.
const GATHER: Duration = Duration::from_millis(1);
/// How long a replica may take to reach the index at which a feed is to begin.
const BEGIN_MAX: Duration = Duration::from_secs(2);

type Sessions = hashbrown::HashSet<SessionId, foldhash::fast::RandomState>;

/// The feeds of one group to other nodes.
#[derive(Debug)]
pub(in crate::node) struct Feeds {
    next: AtomicU64,
    feeds: Mutex<Vec<Feed>>,
    has_some: AtomicBool,
}

/// The feed of one node.
#[derive(Debug)]
struct Feed {
    id: u64,
    to: PeerStart,
    /// At the beginning: the sessions behind this one are still to be told.
    telling: Option<Option<ClientId>>,
    attached: Sessions,
    lengths: Lengths,
    pending: Vec<proto::FeedItem>,
    pending_bytes: usize,
    /// Pending items that somebody waits for.
    is_urgent: bool,
    applied: u64,
    /// The node waits to hear that this index is applied.
    wanted: Option<u64>,
    told_leader: u64,
    /// The members that were told last; none before.
    told_members: Vec<u64>,
    /// When members and counters were told last.
    told_status_at: Instant,
    /// The frame that was sent last, until the next is asked for.
    sent: Option<proto::Followed>,
    frame: u64,
    sent_at: Instant,
    wake: Arc<Notify>,
    asked_at: Instant,
}

/// What to do about a question for the next frame.
enum Look {
    Frame(Box<proto::Followed>),
    Wait {
        wake: Arc<Notify>,
        longest: Duration,
        /// Or until this index is applied.
        wanted: Option<u64>,
    },
}

impl Feed {
    fn push(&mut self, item: proto::FeedItem, is_urgent: bool) {
        self.pending_bytes += item.encoded_len();
        self.pending.push(item);
        self.is_urgent |= is_urgent;
    }

    fn is_over(&self) -> bool {
        self.pending_bytes > BEHIND_BYTES_MAX || self.asked_at.elapsed() > UNASKED_MAX
    }

    /// What an event of an attached session's queue, or of the node's own, says.
    fn queue_body(&self, event: &Event) -> Option<Body> {
        let (queue, first, count, bytes, is_queued) = match event {
            Event::Queued {
                queue,
                first,
                count,
                bytes,
            } => (queue, *first, *count, *bytes, true),
            Event::Removed { queue, count, bytes } => (queue, Default::default(), *count, *bytes, false),
            _ => return None,
        };
        let session = match queue {
            TargetQueue::Session(session) if self.attached.contains(session) => *session,
            TargetQueue::Node(node, incarnation)
                if (*node, *incarnation) == (self.to.node, self.to.incarnation) =>
            {
                SessionId(0)
            }
            _ => return None,
        };
        let told = queue_item(session, first, count, bytes);
        Some(if is_queued {
            Body::Queued(told)
        } else {
            Body::Removed(told)
        })
    }

    /// Tells what stands in a queue now.
    fn push_queue(&mut self, state: &GroupState, queue: &TargetQueue) {
        let session = match queue {
            TargetQueue::Session(session) => *session,
            _ => SessionId(0),
        };
        let first = state.oldest_unsettled(queue).unwrap_or_default();
        let (count, bytes) = (state.queue_len(queue), state.queue_bytes(queue));
        self.push(item(Body::Queue(queue_item(session, first, count, bytes))), true);
    }

    /// Tells roughly how long the queue of a session is that is connected elsewhere.
    fn push_length(&mut self, session: SessionId, length: (u32, u64)) {
        if self.lengths.note(session, length) {
            let told = queue_item(session, Sequence::default(), length.0, length.1);
            self.push(item(Body::Length(told)), false);
        }
    }

    fn is_due(&self, leader: u64, members: Option<&[u64]>) -> bool {
        self.telling.is_some()
            || self.is_urgent
            || self.wanted.is_some_and(|wanted| wanted <= self.applied)
            || leader != self.told_leader
            || self.misses_members(members)
            || (!self.pending.is_empty() && self.sent_at.elapsed() >= GATHER)
            || self.asked_at.elapsed() >= ANSWER_INTERVAL
    }

    /// Whether the members are others than those that were told: a node that was let go waits to hear of it.
    fn misses_members(&self, members: Option<&[u64]>) -> bool {
        members.is_some_and(|members| members != self.told_members)
    }

    /// When to look again.
    fn wait(&self) -> Duration {
        let answer = ANSWER_INTERVAL.saturating_sub(self.asked_at.elapsed());
        match self.pending.is_empty() {
            true => answer,
            false => answer.min(GATHER.saturating_sub(self.sent_at.elapsed())),
        }
    }
}

impl Feeds {
    /// `start` tells the numbers of feeds apart from those of earlier starts of the node.
    pub(in crate::node) fn new(start: crate::state::NodeIncarnation) -> Self {
        Self {
            next: AtomicU64::new((start.0 << 32) + 1),
            feeds: Mutex::default(),
            has_some: AtomicBool::new(false),
        }
    }

    /// Who follows goes elsewhere: the state was replaced, or is about to go.
    pub(in crate::node) fn end_all(&self) {
        let feeds = std::mem::take(&mut *self.feeds.lock());
        self.has_some.store(false, Ordering::Release);
        for feed in feeds {
            feed.wake.notify_one();
        }
    }

    /// Something may be due: the group's leader has changed.
    pub(in crate::node) fn wake_all(&self) {
        for feed in &*self.feeds.lock() {
            feed.wake.notify_one();
        }
    }

    fn change<T>(&self, id: u64, to: PeerStart, change: impl FnOnce(&mut Feed) -> T) -> Option<T> {
        let mut feeds = self.feeds.lock();
        let feed = feeds.iter_mut().find(|feed| feed.id == id && feed.to == to)?;
        Some(change(feed))
    }

    fn add(&self, feed: Feed) {
        let mut feeds = self.feeds.lock();
        feeds.retain(|known| known.to.node != feed.to.node && !known.is_over());
        feeds.push(feed);
        self.has_some.store(true, Ordering::Release);
    }
}

impl<H: Host> Group<H> {
    /// Apply has carried out the entry at `index`; called while nothing else is applied.
    pub(in crate::node) fn feed_entry(&self, index: u64, batch: &Batch, events: &[Event]) {
        if !self.feeds.has_some.load(Ordering::Acquire) {
            return;
        }
        let common: Vec<proto::FeedItem> = events
            .iter()
            .filter_map(|event| self.common_item(event))
            .collect();
        let lengths = self.lengths_after(events);
        let mut feeds = self.feeds.feeds.lock();
        feeds.retain(|feed| !feed.is_over());
        self.feeds.has_some.store(!feeds.is_empty(), Ordering::Release);
        for feed in &mut *feeds {
            let was_due = feed.is_urgent || !feed.pending.is_empty();
            for item in &common {
                feed.push(item.clone(), true);
            }
            for event in events {
                if let Some(body) = feed.queue_body(event) {
                    feed.push(item(body), false);
                }
            }
            for (session, length) in &lengths {
                if !feed.attached.contains(session) {
                    feed.push_length(*session, *length);
                }
            }
            if (batch.node, batch.incarnation) == (feed.to.node, feed.to.incarnation) && batch.number > 0 {
                let number = batch.number;
                feed.push(item(Body::Batch(proto::FeedBatch { number, index })), false);
            }
            feed.applied = index;
            let is_wanted = feed.wanted.is_some_and(|wanted| wanted <= index);
            if is_wanted || feed.is_urgent || (!was_due && !feed.pending.is_empty()) {
                feed.wake.notify_one();
            }
        }
    }

    /// How long the queues of sessions are that events speak of.
    fn lengths_after(&self, events: &[Event]) -> Vec<(SessionId, (u32, u64))> {
        let state = self.state();
        let sessions = events.iter().filter_map(|event| match event {
            Event::Queued {
                queue: queue @ TargetQueue::Session(session),
                ..
            }
            | Event::Removed {
                queue: queue @ TargetQueue::Session(session),
                ..
            } => Some((*session, (state.queue_len(queue), state.queue_bytes(queue)))),
            _ => None,
        });
        sessions.collect()
    }

    fn common_item(&self, event: &Event) -> Option<proto::FeedItem> {
        let Event::SessionOwner { session, .. } = event else {
            return items::common_item(event);
        };
        // Ended by the same entry: said by a later event.
        let view = self.state().session_by_id(*session)?;
        Some(session_item(&view, None::<std::iter::Empty<_>>))
    }

    /// Answers a node that follows this replica, when there is something to tell; `None` where this node cannot feed it.
    pub(in crate::node) async fn answer_follow(
        &self,
        from: PeerStart,
        ask: proto::Follow,
    ) -> Option<proto::Followed> {
        let id = match ask.feed {
            0 => self.begin_feed(from, &ask).await?,
            id => id,
        };
        if !ask.refresh.is_empty() {
            self.tell_again(id, from, &ask.refresh)?;
        }
        self.feeds
            .change(id, from, |feed| feed.asked_at = Instant::now())?;
        loop {
            match self.look(id, from, ask.have)? {
                Look::Frame(frame) => return Some(*frame),
                Look::Wait {
                    wake,
                    longest,
                    wanted,
                } => {
                    let replica = self.replica()?;
                    let is_applied = async {
                        match wanted {
                            Some(wanted) => replica.reached(wanted).await,
                            None => std::future::pending().await,
                        }
                    };
                    // Either way it is looked at again.
                    tokio::select! {
                        () = wake.notified() => {}
                        () = is_applied => {}
                        () = tokio::time::sleep(longest) => {}
                    }
                }
            }
        }
    }

    async fn begin_feed(&self, from: PeerStart, ask: &proto::Follow) -> Option<u64> {
        let replica = self.replica()?;
        tokio::time::timeout(BEGIN_MAX, replica.reached(ask.after))
            .await
            .ok()?;
        let _nothing_is_applied = self.applying.lock();
        if self.standing() != Standing::Replica {
            return None;
        }
        let now = Instant::now();
        let id = self.feeds.next.fetch_add(1, Ordering::Relaxed);
        let mut feed = Feed {
            id,
            to: from,
            telling: Some(None),
            attached: ask.attached.iter().copied().map(SessionId).collect(),
            lengths: Lengths::new(&self.settings.queue_limits),
            pending: Vec::new(),
            pending_bytes: 0,
            is_urgent: true,
            applied: self.known_index().unwrap_or(0),
            wanted: None,
            told_leader: 0,
            told_members: Vec::new(),
            told_status_at: now,
            sent: None,
            frame: 0,
            sent_at: now,
            wake: Arc::default(),
            asked_at: now,
        };
        let state = self.state();
        let sessions = ask
            .attached
            .iter()
            .copied()
            .map(SessionId)
            .map(TargetQueue::Session);
        let own = TargetQueue::Node(from.node, from.incarnation);
        for queue in sessions.chain([own]).filter(|queue| state.queue_len(queue) > 0) {
            feed.push_queue(&state, &queue);
        }
        for view in state.queues() {
            if let TargetQueue::Session(session) = view.queue
                && !feed.attached.contains(&session)
            {
                feed.push_length(session, (view.len, view.bytes));
            }
        }
        drop(state);
        for told in self.retained_now(feed.applied) {
            feed.push(items::retained_item(&told), true);
        }
        self.feeds.add(feed);
        Some(id)
    }

    /// Tells sessions again, as a whole.
    fn tell_again(&self, id: u64, from: PeerStart, sessions: &[u64]) -> Option<()> {
        let _nothing_is_applied = self.applying.lock();
        let state = self.state();
        let told: Vec<proto::FeedItem> = sessions
            .iter()
            .filter_map(|session| state.session_by_id(SessionId(*session)))
            .map(|view| session_item(&view, Some(state.subscriptions(view.session))))
            .collect();
        drop(state);
        self.feeds.change(id, from, |feed| {
            for item in told {
                feed.push(item, true);
            }
        })
    }

    /// Sessions have come to or left a node that follows; it also says what index it waits for.
    pub(in crate::node) fn answer_attach(&self, from: PeerStart, ask: &proto::Attach) -> Option<()> {
        let _nothing_is_applied = self.applying.lock();
        let state = self.state();
        self.feeds.change(ask.feed, from, |feed| {
            for session in ask.detached.iter().copied().map(SessionId) {
                feed.attached.remove(&session);
                if !ask.attached.contains(&session.0) {
                    let queue = TargetQueue::Session(session);
                    feed.push_length(session, (state.queue_len(&queue), state.queue_bytes(&queue)));
                }
            }
            for session in ask.attached.iter().copied().map(SessionId) {
                feed.lengths.forget(session);
                if feed.attached.insert(session) {
                    feed.push_queue(&state, &TargetQueue::Session(session));
                }
            }
            if ask.wanted > 0 {
                feed.wanted = Some(feed.wanted.map_or(ask.wanted, |wanted| wanted.min(ask.wanted)));
            }
            feed.wake.notify_one();
        })
    }

    fn look(&self, id: u64, from: PeerStart, have: u64) -> Option<Look> {
        if self.standing() != Standing::Replica {
            return None;
        }
        let replica = self.replica()?;
        let leader = replica.leader().map_or(0, |leader| leader.0);
        let members = settled_members(&replica);
        // A page goes behind what is told of earlier entries, and before what later ones do.
        let _nothing_is_applied = self.applying.lock();
        let known = self.known_index().unwrap_or(0);
        let after = self.feeds.change(id, from, |feed| feed.telling.clone())?;
        let page = after.map(|after| self.page(after.as_deref()));
        self.feeds.change(id, from, |feed| {
            if let Some(sent) = &feed.sent {
                match sent.frame {
                    frame if frame == have + 1 => return Some(Look::Frame(Box::new(sent.clone()))),
                    frame if frame == have => feed.sent = None,
                    _ => return None,
                }
            }
            if feed.frame != have {
                return None;
            }
            // Not every entry is a batch.
            feed.applied = feed.applied.max(known);
            if !feed.is_due(leader, members.as_deref()) {
                return Some(Look::Wait {
                    wake: feed.wake.clone(),
                    longest: feed.wait(),
                    wanted: feed.wanted,
                });
            }
            let mut told = std::mem::take(&mut feed.pending);
            feed.pending_bytes = 0;
            feed.is_urgent = false;
            if let Some((sessions, next)) = page {
                told.extend(sessions);
                feed.telling = next.map(Some);
            }
            if feed.wanted.is_some_and(|wanted| wanted <= feed.applied) {
                feed.wanted = None;
            }
            feed.frame += 1;
            feed.told_leader = leader;
            feed.sent_at = Instant::now();
            let frame = self.frame(feed, told, members);
            feed.sent = Some(frame.clone());
            Some(Look::Frame(Box::new(frame)))
        })?
    }

    fn frame(
        &self,
        feed: &mut Feed,
        items: Vec<proto::FeedItem>,
        members: Option<Vec<u64>>,
    ) -> proto::Followed {
        let is_idle = items.is_empty();
        let mut frame = proto::Followed {
            feed: feed.id,
            frame: feed.frame,
            items,
            applied: if feed.telling.is_none() { feed.applied } else { 0 },
            stamp: self.state().group_time().0,
            leader: feed.told_leader,
            ..proto::Followed::default()
        };
        // What nobody waits for is not looked up for every frame.
        let is_due = is_idle || feed.frame == 1 || feed.told_status_at.elapsed() >= ANSWER_INTERVAL;
        if is_due || feed.misses_members(members.as_deref()) {
            feed.told_status_at = Instant::now();
            if let Some(members) = members {
                feed.told_members.clone_from(&members);
                frame.members = members;
            }
            let counts = self.state().counts();
            frame.retained_messages = counts.retained;
            frame.retained_bytes = counts.retained_bytes;
        }
        frame
    }

    /// The next sessions to be told, and the last of them where more may follow.
    fn page(&self, after: Option<&str>) -> (Vec<proto::FeedItem>, Option<ClientId>) {
        let state = self.state();
        let mut told = Vec::new();
        let mut bytes = 0;
        for view in state.sessions(after).take(PAGE_SESSIONS) {
            let session = session_item(&view, Some(state.subscriptions(view.session)));
            bytes += session.encoded_len();
            told.push(session);
            if told.len() == PAGE_SESSIONS || bytes >= PAGE_BYTES {
                return (told, Some(view.client_id));
            }
        }
        (told, None)
    }
}

/// The group's members, as far as this replica knows; `None` while they are being changed.
fn settled_members(replica: &RaftGroup) -> Option<Vec<u64>> {
    let members = replica.settled_members()?;
    Some(members.into_iter().map(|node| node.0).collect())
}
