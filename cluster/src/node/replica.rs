//! The state machine as Raft drives it: decodes an entry, applies it, tells the group what happened.

use std::sync::Arc;

use bytes::Bytes;

use super::{Group, GroupKind, Host, Placement};
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

    /// Tells the host what a loaded state says, in the words of events.
    fn announce(&mut self) {
        let state = self.group.state();
        let mut events = Vec::new();
        for session in state.sessions(None) {
            events.push(Event::SessionOwner {
                client_id: session.client_id.clone(),
                session: session.session,
                owner: None,
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
        drop(state);
        if self.group.settings.is_own(&batch) {
            self.group.proposals.note_applied(batch.number, index);
        }
        self.group.handle_events(&self.events);
        self.events.clear();
        Ok(outcome)
    }

    fn changes(&mut self) -> StateChanges {
        let mut state = self.group.state();
        match Placement::kind(self.group.id()) {
            GroupKind::Data => state.take_changes(),
            // A live group starts empty after a full stop (R41): its state never goes to disk.
            GroupKind::Live => {
                state.forget_changes();
                StateChanges::new()
            }
        }
    }

    fn load(
        &mut self,
        entries: &mut dyn Iterator<Item = Result<(Vec<u8>, Vec<u8>), StateError>>,
    ) -> Result<(), StateError> {
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
