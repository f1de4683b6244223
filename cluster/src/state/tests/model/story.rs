//! The events of a log, told again without the state.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;

/// What somebody knows who has seen the events and never the state.
#[derive(Default)]
pub(super) struct Story {
    sessions: BTreeMap<SessionId, (ClientId, Option<Owner>)>,
    subscriptions: BTreeMap<(SessionId, Arc<str>), Subscription>,
    queues: BTreeMap<TargetQueue, (u64, u64)>,
}

impl Story {
    pub(super) fn go_on(&mut self, events: &[Event]) {
        for event in events {
            match event.clone() {
                Event::SessionOwner {
                    client_id,
                    session,
                    owner,
                    fenced,
                } => {
                    let before = self
                        .sessions
                        .insert(session, (client_id, owner))
                        .and_then(|(_, owner)| owner);
                    assert!(fenced.is_none() || fenced == before);
                    assert!(
                        owner.is_none() || fenced == before,
                        "a connection taken over is fenced"
                    );
                }
                Event::SessionEnded {
                    client_id,
                    session,
                    fenced,
                } => {
                    let (client, owner) = self.sessions.remove(&session).expect("a session ends once");
                    assert_eq!(client, client_id);
                    assert!(fenced.is_none() || fenced == owner);
                    self.subscriptions.retain(|(of, _), _| *of != session);
                }
                Event::Subscribed {
                    session,
                    subscription,
                } => {
                    self.subscriptions
                        .insert((session, subscription.filter.clone()), subscription);
                }
                Event::Subscriptions { .. } => panic!("apply tells of one after the other"),
                Event::Unsubscribed { session, filter } => {
                    assert!(self.subscriptions.remove(&(session, filter)).is_some());
                }
                Event::Unheld { .. } | Event::NodeLost => {}
                Event::Queued {
                    queue, count, bytes, ..
                } => {
                    let (len, size) = self.queues.entry(queue).or_default();
                    *len += u64::from(count);
                    *size += bytes;
                }
                Event::Removed { queue, count, bytes } => {
                    let (len, size) = self.queues.get_mut(&queue).expect("what is removed was queued");
                    *len -= u64::from(count);
                    *size -= bytes;
                }
                Event::WillDue { .. }
                | Event::RetainedQueued
                | Event::DeadlineChanged
                | Event::RetainedTaken { .. } => {}
            }
        }
    }

    pub(super) fn check(&self, state: &GroupState) {
        let sessions: BTreeMap<_, _> = state
            .sessions(None)
            .map(|view| (view.session, (view.client_id, view.owner)))
            .collect();
        assert_eq!(self.sessions, sessions);
        let subscriptions: BTreeMap<_, _> = sessions
            .keys()
            .flat_map(|session| {
                state
                    .subscriptions(*session)
                    .map(|subscription| ((*session, subscription.filter.clone()), subscription))
            })
            .collect();
        assert_eq!(self.subscriptions, subscriptions);
        for (queue, (len, size)) in &self.queues {
            assert_eq!(
                (u64::from(state.queue_len(queue)), state.queue_bytes(queue)),
                (*len, *size),
                "{queue:?}"
            );
        }
        let total = |part: fn(&(u64, u64)) -> u64| self.queues.values().map(part).sum::<u64>();
        assert_eq!((total(|queue| queue.0), total(|queue| queue.1)), {
            let counts = state.counts();
            (counts.queued_references, counts.queued_bytes)
        });
    }
}
