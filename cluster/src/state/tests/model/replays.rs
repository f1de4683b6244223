//! Replays, told again from commands and outcomes (R24).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;

type Known = (ReplayId, QoS, u64, Option<ReplayCursor>);

/// What somebody knows of the replays who has seen what clients were answered and never the state.
#[derive(Default)]
pub(super) struct Replays(BTreeMap<(SessionId, Arc<str>), Known>);

impl Replays {
    pub(super) fn go_on(&mut self, batch: &Batch, outcomes: &[Outcome]) {
        for (command, outcome) in batch.commands.iter().zip(outcomes) {
            match (command, outcome) {
                (
                    Command::Subscribe {
                        session,
                        epoch,
                        subscriptions,
                        replay,
                        ..
                    },
                    Outcome::Subscribed(results),
                ) => {
                    let id = replay.map(|number| ReplayId {
                        epoch: *epoch,
                        number,
                    });
                    for (subscription, result) in subscriptions.iter().zip(results) {
                        self.subscribed((*session, id), subscription, *result);
                    }
                }
                (Command::Unsubscribe { session, filters, .. }, Outcome::Unsubscribed(_)) => {
                    for filter in filters {
                        self.0.remove(&(*session, filter.clone()));
                    }
                }
                (Command::Replay(step), Outcome::Published { .. } | Outcome::Done) => self.moved(step),
                _ => {}
            }
        }
    }

    fn subscribed(
        &mut self,
        (session, id): (SessionId, Option<ReplayId>),
        subscription: &Subscription,
        result: SubscribeResult,
    ) {
        let key = (session, subscription.filter.clone());
        match (id, subscription.options.qos) {
            _ if result == SubscribeResult::LimitReached => {}
            (Some(_), QoS::AtMostOnce) => drop(self.0.remove(&key)),
            (Some(id), qos) => drop(self.0.insert(key, (id, qos, 0, None))),
            // It asks for nothing: what is there goes on.
            (None, qos) => {
                if let Some(known) = self.0.get_mut(&key) {
                    known.1 = qos;
                }
            }
        }
    }

    fn moved(&mut self, step: &ReplayStep) {
        let key = (step.session, step.filter.clone());
        let (id, _, next, cursor) = self.0.get_mut(&key).expect("only what is there moves");
        assert_eq!((*id, *next), (step.id, step.step), "one step after the other");
        (*next, *cursor) = (*next + 1, step.cursor.clone());
        if step.cursor.is_none() {
            self.0.remove(&key);
        }
    }

    pub(super) fn check(&mut self, state: &GroupState) {
        self.0.retain(|(session, _), _| state.session_exists(*session));
        let sessions = state.sessions(None).map(|view| view.session);
        let pending = sessions.flat_map(|session| {
            let pending = state.pending_replays(session, None, usize::MAX).into_iter();
            pending.map(move |replay| {
                let known = (replay.id, replay.qos, replay.step, replay.cursor);
                ((session, replay.filter), known)
            })
        });
        assert_eq!(self.0, pending.collect());
        assert_eq!(state.counts().replays, self.0.len() as u64);
    }
}

/// A step of the replay that a session has for a filter, or of one that it might have.
pub(super) fn step_of(
    state: &GroupState,
    (session, epoch): (SessionId, Epoch),
    filter: &str,
    (off, value, end): (bool, Option<u32>, bool),
) -> Command {
    let pending = state.pending_replays(session, None, usize::MAX);
    let pending = pending.into_iter().find(|replay| &*replay.filter == filter);
    let (id, step) = pending.map_or((ReplayId { epoch, number: 1 }, 0), |replay| {
        (replay.id, replay.step)
    });
    Command::Replay(ReplayStep {
        session,
        epoch,
        filter: filter.into(),
        id,
        step: step + u64::from(off),
        value: value
            .map(|expiry| Message::new("t", &[], b"kept", QoS::AtLeastOnce, true, expiry.checked_sub(1))),
        cursor: (!end).then(|| ReplayCursor {
            slot: step as u8,
            after: value.map(|_| "t".into()),
            left: (step as u16).wrapping_mul(77),
        }),
    })
}
