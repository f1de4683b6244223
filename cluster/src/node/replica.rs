//! The state machine as Raft drives it: decodes an entry, applies it, tells the group what happened.

use std::sync::Arc;

use bytes::Bytes;

use super::checkpoints::UNSAVED_BYTES_MAX;
use super::{Group, Host};
use crate::raft::{ReplicatedState, StateChanges, StateError};
use crate::state::{Batch, BatchOutcome, Event};

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

    /// Takes back what was told of the queues of a state that is about to be replaced.
    fn withdraw_queues(&mut self) {
        let state = self.group.state();
        let events: Vec<Event> = state
            .queues()
            .filter(|view| view.len > 0)
            .map(|view| Event::Removed {
                queue: view.queue,
                count: view.len,
                bytes: view.bytes,
            })
            .collect();
        drop(state);
        self.group.host.handle_events(self.group.id(), &events);
    }

    /// Tells the host what a loaded state says, in the words of events; what it does not say is no more (R6).
    fn announce(&mut self) {
        let group = &self.group;
        group
            .host
            .handle_reload(group.id(), &|session| group.state().session_exists(session));
        let state = self.group.state();
        let mut events = Vec::new();
        for session in state.sessions(None) {
            events.push(Event::SessionOwner {
                client_id: session.client_id.clone(),
                session: session.session,
                owner: session.owner,
                fenced: None,
            });
            for subscription in state.subscriptions(session.session) {
                events.push(Event::Subscribed {
                    session: session.session,
                    subscription,
                });
            }
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
        self.group.handle_events(&events);
    }
}

impl<H: Host> ReplicatedState for Replica<H> {
    fn apply(&mut self, index: u64, entry: &Bytes) -> Result<BatchOutcome, StateError> {
        let batch =
            Batch::decode(entry).map_err(|error| StateError::Corrupt(format!("entry {index}: {error}")))?;
        let mut state = self.group.state();
        let outcome = state.apply(index, &batch, &mut self.events);
        let unsaved = state.unsaved_bytes();
        drop(state);
        if unsaved >= UNSAVED_BYTES_MAX {
            self.group.filled.notify_one();
        }
        if self.group.settings.is_own(&batch) {
            self.group.proposals.note_applied(batch.number, index);
        }
        self.group.clock().advance_to(batch.stamp);
        self.group.handle_events(&self.events);
        self.events.clear();
        self.group.applied(index);
        Ok(outcome)
    }

    fn changes(&mut self) -> StateChanges {
        self.group.changes_to_store()
    }

    fn load(
        &mut self,
        entries: &mut dyn Iterator<Item = Result<(Vec<u8>, Vec<u8>), StateError>>,
    ) -> Result<(), StateError> {
        self.withdraw_queues();
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
        let loaded = self.group.state().load(records);
        if let Some(error) = unreadable {
            return Err(error);
        }
        loaded.map_err(|error| StateError::Corrupt(error.to_string()))?;
        self.announce();
        Ok(())
    }
}
