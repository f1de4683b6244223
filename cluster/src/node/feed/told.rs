//! What a feed has told: the sessions of the group, and the queues of those that are connected here.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use quorate_storage::log::GroupId;

use super::super::peers::proto;
use super::items::{self, Body};
use crate::state::{
    ClientId, CodecError, Event, NodeId, NodeIncarnation, RetainedTaken, Sequence, SessionId, SessionView,
    Subscription, TargetQueue,
};

/// References and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Waiting {
    first: Sequence,
    count: u32,
    bytes: u64,
}

/// A batch of this node that was applied: its number and index.
pub(super) type OwnBatch = (u64, u64);

/// The sessions of a group that this node has no replica of.
#[derive(Debug, Default)]
pub(super) struct Told {
    sessions: hashbrown::HashMap<ClientId, SessionView, foldhash::fast::RandomState>,
    clients: hashbrown::HashMap<SessionId, ClientId, foldhash::fast::RandomState>,
    /// Exactly those of the attached sessions, and roughly those of others that are long.
    queues: hashbrown::HashMap<TargetQueue, Waiting, foldhash::fast::RandomState>,
    /// Durable sessions that are connected here: what comes of other queues is of connections that have left.
    attached: hashbrown::HashSet<SessionId, foldhash::fast::RandomState>,
}

impl Told {
    /// Nothing yet, at a node to which these sessions are connected.
    pub(super) fn at(attached: &[SessionId]) -> Self {
        Self {
            attached: attached.iter().copied().collect(),
            ..Self::default()
        }
    }

    pub(super) fn session(&self, client_id: &str) -> Option<&SessionView> {
        self.sessions.get(client_id)
    }

    pub(super) fn holds(&self, session: SessionId) -> bool {
        self.clients.contains_key(&session)
    }

    pub(super) fn queue_len(&self, queue: &TargetQueue) -> u32 {
        self.queues.get(queue).map_or(0, |waiting| waiting.count)
    }

    fn set_session(&mut self, view: SessionView) {
        self.clients.insert(view.session, view.client_id.clone());
        self.sessions.insert(view.client_id.clone(), view);
    }

    fn end_session(&mut self, session: SessionId) {
        if let Some(client_id) = self.clients.remove(&session) {
            // A later session of the same client may be known already.
            if self
                .sessions
                .get(&client_id)
                .is_some_and(|known| known.session == session)
            {
                self.sessions.remove(&client_id);
            }
        }
    }

    /// Notes an item and says it in the words of events.
    ///
    /// # Errors
    /// The item cannot be understood.
    pub(super) fn take(
        &mut self,
        group: GroupId,
        this: (NodeId, NodeIncarnation),
        item: proto::FeedItem,
        events: &mut Vec<Event>,
        batches: &mut Vec<OwnBatch>,
    ) -> Result<(), CodecError> {
        match item.body.ok_or(CodecError::Invalid("feed item"))? {
            Body::Session(session) => {
                let told = items::read_session(session)?;
                events.push(owner_event(&told.view));
                if let Some(subscriptions) = told.subscriptions {
                    let session = told.view.session;
                    events.push(Event::Subscriptions {
                        session,
                        subscriptions,
                    });
                }
                self.set_session(told.view);
            }
            Body::Ended(ended) => {
                let session = SessionId(ended.session);
                self.end_session(session);
                events.push(Event::SessionEnded {
                    client_id: ended.client_id.into(),
                    session,
                    fenced: None,
                });
            }
            Body::Subscribed(subscribed) => events.push(Event::Subscribed {
                session: SessionId(subscribed.session),
                subscription: items::read_subscription(&subscribed)?,
            }),
            Body::Unsubscribed(unsubscribed) => events.push(Event::Unsubscribed {
                session: SessionId(unsubscribed.session),
                filter: unsubscribed.filter.into(),
            }),
            Body::Queue(told) => {
                let queue = items::queue_of(&told, this);
                if self.is_meant(&queue) {
                    self.replace(queue, &told, events);
                }
            }
            Body::Length(told) => {
                let queue = TargetQueue::Session(SessionId(told.session));
                // Of a session that is connected here it is told exactly.
                if !self.is_meant(&queue) {
                    self.replace(queue, &told, events);
                }
            }
            Body::Queued(told) => {
                let queue = items::queue_of(&told, this);
                if self.is_meant(&queue) {
                    self.add(queue, &told, events);
                }
            }
            Body::Removed(told) => {
                let queue = items::queue_of(&told, this);
                let Some(waiting) = self.queues.get_mut(&queue) else {
                    return Ok(());
                };
                let (count, bytes) = (told.count.min(waiting.count), told.bytes.min(waiting.bytes));
                waiting.count -= count;
                waiting.bytes -= bytes;
                if waiting.count == 0 {
                    self.queues.remove(&queue);
                }
                events.push(Event::Removed { queue, count, bytes });
            }
            Body::RetainedTaken(taken) => {
                let taken = items::read_retained_taken(group, &taken)?;
                events.push(Event::RetainedTaken(taken));
            }
            Body::Batch(batch) => batches.push((batch.number, batch.index)),
        }
        Ok(())
    }

    fn is_meant(&self, queue: &TargetQueue) -> bool {
        match queue {
            TargetQueue::Session(session) => self.attached.contains(session),
            TargetQueue::Node(..) | TargetQueue::Share(_) => true,
        }
    }

    /// This is all that is in a queue.
    fn replace(&mut self, queue: TargetQueue, told: &proto::FeedQueue, events: &mut Vec<Event>) {
        let before = self.queues.remove(&queue);
        events.extend(before.map(|waiting| removed(queue.clone(), waiting)));
        self.add(queue, told, events);
    }

    fn add(&mut self, queue: TargetQueue, told: &proto::FeedQueue, events: &mut Vec<Event>) {
        if told.count == 0 {
            return;
        }
        let first = Sequence(told.first);
        let waiting = self.queues.entry(queue.clone()).or_insert(Waiting {
            first,
            ..Waiting::default()
        });
        waiting.count = waiting.count.saturating_add(told.count);
        waiting.bytes = waiting.bytes.saturating_add(told.bytes);
        let (count, bytes) = (told.count, told.bytes);
        events.push(Event::Queued {
            queue,
            first,
            count,
            bytes,
        });
    }

    /// A session's connection has come to this node.
    pub(super) fn attach(&mut self, session: SessionId) {
        self.attached.insert(session);
    }

    /// A session's connection has left this node: its queue is not told of any more.
    pub(super) fn detach(&mut self, session: SessionId, events: &mut Vec<Event>) {
        self.attached.remove(&session);
        let queue = TargetQueue::Session(session);
        if let Some(waiting) = self.queues.remove(&queue) {
            events.push(removed(queue, waiting));
        }
    }

    /// Takes back what was told of all queues.
    pub(super) fn withdraw_all(&mut self) -> Vec<Event> {
        self.queues
            .drain()
            .map(|(queue, waiting)| removed(queue, waiting))
            .collect()
    }
}

fn owner_event(view: &SessionView) -> Event {
    Event::SessionOwner {
        client_id: view.client_id.clone(),
        session: view.session,
        owner: view.owner,
        fenced: None,
    }
}

fn removed(queue: TargetQueue, waiting: Waiting) -> Event {
    let Waiting { count, bytes, .. } = waiting;
    Event::Removed { queue, count, bytes }
}

/// What the beginning of a feed tells, until it is whole.
#[derive(Debug, Default)]
pub(super) struct Beginning {
    told: Told,
    subscriptions: BTreeMap<SessionId, BTreeMap<Arc<str>, Subscription>>,
    pub(super) batches: Vec<OwnBatch>,
    /// By the groups of topics.
    taken: BTreeMap<Option<GroupId>, RetainedTaken>,
}

impl Beginning {
    /// Nothing yet, at a node to which these sessions are connected.
    pub(super) fn at(attached: &[SessionId]) -> Self {
        Self {
            told: Told::at(attached),
            ..Self::default()
        }
    }

    /// A session's connection has come to this node or left it.
    pub(super) fn attach(&mut self, session: SessionId, is_here: bool) {
        match is_here {
            true => self.told.attach(session),
            // What was told of its queue nobody has heard of yet.
            false => self.told.detach(session, &mut Vec::new()),
        }
    }

    /// Notes an item.
    ///
    /// # Errors
    /// The item cannot be understood.
    pub(super) fn take(
        &mut self,
        group: GroupId,
        this: (NodeId, NodeIncarnation),
        item: proto::FeedItem,
    ) -> Result<(), CodecError> {
        let mut events = Vec::new();
        self.told
            .take(group, this, item, &mut events, &mut self.batches)?;
        for event in events {
            match event {
                Event::Subscriptions {
                    session,
                    subscriptions,
                } => {
                    let all = subscriptions.into_iter();
                    let all = all.map(|subscription| (subscription.filter.clone(), subscription));
                    self.subscriptions.insert(session, all.collect());
                }
                Event::Subscribed {
                    session,
                    subscription,
                } => {
                    let all = self.subscriptions.entry(session).or_default();
                    all.insert(subscription.filter.clone(), subscription);
                }
                Event::Unsubscribed { session, filter } => {
                    if let Some(all) = self.subscriptions.get_mut(&session) {
                        all.remove(&filter);
                    }
                }
                Event::SessionEnded { session, .. } => drop(self.subscriptions.remove(&session)),
                Event::RetainedTaken(taken) => match self.taken.entry(taken.topics) {
                    Entry::Vacant(entry) => drop(entry.insert(taken)),
                    Entry::Occupied(mut entry) => entry.get_mut().merge(taken),
                },
                _ => {}
            }
        }
        Ok(())
    }

    /// Everything, and the events that say it.
    pub(super) fn finish(mut self) -> (Told, Vec<Event>, Vec<OwnBatch>) {
        let mut events = Vec::new();
        for view in self.told.sessions.values() {
            events.push(owner_event(view));
            let subscriptions = self.subscriptions.remove(&view.session).unwrap_or_default();
            events.push(Event::Subscriptions {
                session: view.session,
                subscriptions: subscriptions.into_values().collect(),
            });
        }
        for (queue, waiting) in &self.told.queues {
            events.push(Event::Queued {
                queue: queue.clone(),
                first: waiting.first,
                count: waiting.count,
                bytes: waiting.bytes,
            });
        }
        events.extend(self.taken.into_values().map(Event::RetainedTaken));
        (self.told, events, self.batches)
    }
}
