//! The queue behind the window: deliveries without replication that wait for the client's acknowledgements.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::{ConnectionSettings, Delivery, DropReason, Instant};
use crate::codec::QoS;
use crate::message::Message;

/// A delivery that waits.
#[derive(Debug)]
pub(super) struct Queued {
    message: Message,
    qos: QoS,
    retain: bool,
    subscription_ids: SmallVec<[u32; 2]>,
    expires_at: Option<Instant>,
}

impl Queued {
    fn new(delivery: &Delivery<'_>, message: Message) -> Self {
        Self {
            message,
            qos: delivery.qos,
            retain: delivery.retain,
            subscription_ids: delivery.subscription_ids.into(),
            expires_at: delivery.expires_at,
        }
    }

    /// The delivery as it was handed in.
    pub(super) fn delivery(&self) -> Delivery<'_> {
        Delivery {
            retain: self.retain,
            subscription_ids: &self.subscription_ids,
            expires_at: self.expires_at,
            ..Delivery::of(&self.message, self.qos)
        }
    }

    fn size(&self) -> usize {
        self.message.size()
    }
}

/// First in, first out, bounded in messages and bytes; at the bound the newest is refused (R23).
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Queued>,
    bytes: usize,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes a delivery; `own` is asked for the message only once there is a place for it.
    pub(super) fn push(
        &mut self,
        delivery: &Delivery<'_>,
        own: &mut dyn FnMut() -> Message,
        settings: &ConnectionSettings,
    ) -> Result<(), DropReason> {
        let size = delivery.topic.len()
            + delivery.forwardable.len()
            + delivery.payload.len()
            + std::mem::size_of::<Message>();
        let fits = self.waiting.len() < settings.queue_messages_max as usize
            && self.bytes.saturating_add(size) <= settings.queue_bytes_max as usize;
        if !fits {
            return Err(DropReason::QueueFull);
        }
        let queued = Queued::new(delivery, own());
        self.bytes += queued.size();
        self.waiting.push_back(queued);
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Option<Queued> {
        let queued = self.waiting.pop_front()?;
        self.bytes -= queued.size();
        Some(queued)
    }

    pub(super) fn check_invariants(&self) {
        let bytes: usize = self.waiting.iter().map(Queued::size).sum();
        assert_eq!(self.bytes, bytes, "bytes of the queue");
    }
}
