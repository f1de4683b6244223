//! Brings messages back whose payload is in the state store alone, on their way to the broker.
//!
//! The attendant waits for nothing, so they take a lane of their own, which reads them one after the other: not more than
//! one answer of each group is in memory. What has to keep its order goes through the lane as long as something is in it.
//!
//! A message that the store does not have was settled, here or, where a snapshot has come, elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Giving, Group, Host, References, SharedReference};
use crate::raft::StateError;
use crate::state::{Command, PulledReference, StoredMessage};

/// What waits for messages.
#[derive(Debug)]
enum Recall {
    Pull(References),
    Shared(SharedReference),
    /// Of the node's own queue: settled when it is handed over.
    Node(PulledReference),
}

/// The lane of a group.
#[derive(Debug)]
pub(super) struct Recalls {
    waiting: AtomicUsize,
    sender: mpsc::UnboundedSender<Recall>,
    receiver: Mutex<Option<mpsc::UnboundedReceiver<Recall>>>,
}

impl Default for Recalls {
    fn default() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self {
            waiting: AtomicUsize::new(0),
            sender,
            receiver: Mutex::new(Some(receiver)),
        }
    }
}

impl Recalls {
    fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0
    }

    fn push(&self, recall: Recall) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        // Where the lane has ended the node goes down.
        drop(self.sender.send(recall));
    }
}

impl<H: Host> Group<H> {
    /// Hands the answer to a pull to its connection, which asks for no more before it has it.
    pub(super) fn hand_over_pulled(&self, references: References) {
        match references.references.iter().any(|it| it.stored.is_some()) {
            true => self.recalls.push(Recall::Pull(references)),
            false => self.host.handle_references(references),
        }
    }

    /// Hands shared references to their members.
    pub(super) fn hand_over_shared(&self, references: Vec<SharedReference>) {
        // Nobody is sent what is only offered.
        let is_here = |it: &SharedReference| it.reference.stored.is_none() || it.giving == Giving::Offered;
        if self.recalls.is_empty() && references.iter().all(is_here) {
            self.host.handle_shared(references);
        } else {
            let recalls = references.into_iter().map(Recall::Shared);
            recalls.for_each(|recall| self.recalls.push(recall));
        }
    }

    /// Hands what came to the node's own queue to its live subscribers.
    pub(super) fn hand_over_to_node(&self, references: Vec<PulledReference>) {
        let is_here = |it: &PulledReference| it.stored.is_none();
        if self.recalls.is_empty() && references.iter().all(is_here) {
            self.deliver_to_node(references);
        } else {
            let recalls = references.into_iter().map(Recall::Node);
            recalls.for_each(|recall| self.recalls.push(recall));
        }
    }

    fn deliver_to_node(&self, references: Vec<PulledReference>) {
        let sequences = references.iter().map(|reference| reference.sequence).collect();
        self.host.handle_node_messages(references);
        let queue = self.node_queue();
        self.propose(&Command::Settle { queue, sequences }, None);
    }

    /// The lane's task.
    pub(super) async fn run_recalls(self: Arc<Self>) {
        let Some(mut recalls) = self.recalls.receiver.lock().take() else {
            return;
        };
        while let Some(mut recall) = recalls.recv().await {
            let group = self.clone();
            let reading =
                tokio::task::spawn_blocking(move || group.read_stored(&mut recall).map(|()| recall));
            match reading.await {
                Ok(Ok(recall)) => self.hand_over(recall),
                Ok(Err(error)) => {
                    let what = format!("a queued message of group {}: {error}", self.id().0);
                    self.host.fatal(what);
                    return;
                }
                // The runtime is going down.
                Err(_) => return,
            }
            self.recalls.waiting.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn hand_over(&self, recall: Recall) {
        match recall {
            Recall::Pull(references) => self.host.handle_references(references),
            Recall::Shared(reference) if reference.reference.stored.is_none() => {
                self.host.handle_shared(vec![reference]);
            }
            Recall::Node(reference) if reference.stored.is_none() => self.deliver_to_node(vec![reference]),
            Recall::Shared(_) | Recall::Node(_) => {}
        }
    }

    /// Reads what is missing; what stays marked as stored is gone.
    fn read_stored(&self, recall: &mut Recall) -> Result<(), StateError> {
        match recall {
            Recall::Pull(references) => {
                for reference in &mut references.references {
                    self.complete_reference(reference)?;
                }
                references.references.retain(|it| it.stored.is_none());
            }
            Recall::Shared(reference) => self.complete_reference(&mut reference.reference)?,
            Recall::Node(reference) => self.complete_reference(reference)?,
        }
        Ok(())
    }

    pub(super) fn complete_reference(&self, reference: &mut PulledReference) -> Result<(), StateError> {
        if let Some(stored) = reference.stored
            && let Some(message) = self.read_message(&stored)?
        {
            reference.message = message;
            reference.stored = None;
        }
        Ok(())
    }

    /// A message from the state store; blocks.
    ///
    /// # Errors
    /// It cannot be read, or is not what was written (R49).
    pub(super) fn read_message(
        &self,
        stored: &StoredMessage,
    ) -> Result<Option<quorate_proto::message::Message>, StateError> {
        let value = self.store.value(self.id(), &stored.key())?;
        let message = value.map(|value| stored.read(value)).transpose();
        message.map_err(|error| StateError::Corrupt(error.to_string()))
    }
}
