//! The state machine as Raft drives it: decodes an entry, applies it, tells the group what happened.

use std::sync::Arc;

use bytes::Bytes;
use quorate_storage::log::LogPosition;

use super::group::Standing;
use super::{Group, Host};
use crate::raft::{AppliedBatch, ReplicatedState, StateChanges, StateError};
use crate::state::{Batch, Event};

/// The replicated state of a group with this node around it.
pub(super) struct Replica<H: Host> {
    group: Arc<Group<H>>,
    events: Vec<Event>,
}

impl<H: Host> Replica<H> {
    pub(super) fn new(group: Arc<Group<H>>) -> Self {
        Self {
            group,
            events: Vec::new(),
        }
    }
}

impl<H: Host> Group<H> {
    /// Tells the host what a loaded state says, in the words of events; what it does not say is no more (R6).
    pub(super) fn announce(&self) {
        self.forget_sessions_beside(&|session| self.state().session_exists(session));
        let state = self.state();
        let mut events = Vec::new();
        for session in state.sessions(None) {
            events.push(Event::SessionOwner {
                client_id: session.client_id.clone(),
                session: session.session,
                owner: session.owner,
                fenced: None,
            });
            events.push(Event::Subscriptions {
                session: session.session,
                subscriptions: state.subscriptions(session.session).collect(),
            });
        }
        for view in state.queues() {
            let Some(first) = view.oldest else { continue };
            events.push(Event::Queued {
                queue: view.queue,
                first,
                count: view.len,
                bytes: view.bytes,
            });
        }
        events.push(Event::DeadlineChanged);
        drop(state);
        self.handle_events(&events);
    }
}

impl<H: Host> ReplicatedState for Replica<H> {
    fn apply(&mut self, at: LogPosition, entry: &Bytes) -> Result<AppliedBatch, StateError> {
        let index = at.index;
        let batch =
            Batch::decode(entry).map_err(|error| StateError::Corrupt(format!("entry {index}: {error}")))?;
        let group = &self.group;
        let _nothing_else_is_applied = group.applying.lock();
        let mut state = group.state();
        let outcome = state.apply(at, &batch, &mut self.events);
        let first_index = state.applied_at(&batch);
        group.unstored.count(&state);
        drop(state);
        if group.settings.is_own(&batch) {
            group.proposals.note_applied(batch.number, index);
        }
        group.clock().advance_to(batch.stamp);
        if group.standing() == Standing::Replica {
            group.handle_events(&self.events);
            group.feed_entry(index, &batch, &self.events);
            group.applied(index);
        } else {
            // Another replica tells what this one is still catching up with. This much is said but once.
            for event in &self.events {
                if let Event::RetainedTaken(told) = event {
                    group.retained_taken(told);
                }
            }
        }
        self.events.clear();
        Ok(AppliedBatch { outcome, first_index })
    }

    fn changes(&mut self) -> StateChanges {
        self.group.changes_to_store()
    }

    fn is_full(&self) -> bool {
        self.group.unstored.is_over_limit()
    }

    fn stored(&mut self, index: u64) {
        self.group.stored_up_to(index);
    }

    fn load(
        &mut self,
        entries: &mut dyn Iterator<Item = Result<(Vec<u8>, Vec<u8>), StateError>>,
    ) -> Result<(), StateError> {
        let group = self.group.clone();
        let _nothing_else_is_applied = group.applying.lock();
        let serves = group.standing() == Standing::Replica;
        if serves {
            // Who follows begins again.
            group.feeds.end_all();
            group.host.handle_events(group.id(), &group.queue_removals());
        }
        // The state wants plain records; an unreadable one ends the load.
        let mut unreadable = None;
        let records = std::iter::from_fn(|| match entries.next() {
            Some(Ok(record)) => Some(record),
            Some(Err(error)) => {
                unreadable = Some(error);
                None
            }
            None => None,
        });
        let loaded = {
            let mut state = group.state();
            let loaded = state.load(records);
            group.unstored.count(&state);
            loaded
        };
        if let Some(error) = unreadable {
            return Err(error);
        }
        loaded.map_err(|error| StateError::Corrupt(error.to_string()))?;
        if serves {
            group.announce();
        }
        Ok(())
    }

    fn loaded(&mut self, index: u64) {
        let group = &self.group;
        let _nothing_else_is_applied = group.applying.lock();
        if group.standing() == Standing::Replica {
            group.retained_loaded(index);
            group.applied(index);
        } else if group.following.applied() < Some(index) {
            // Who tells this node what the group does may not get there before this replica takes over.
            group.retained_waits.lock().forget(group.id(), index);
        }
    }
}
