//! Deliveries that are not replicated, to this worker's connections.

use std::rc::Rc;
use std::sync::Arc;

use quorate_cluster::node::{Location, Placement};
use quorate_proto::codec::QoS;
use quorate_proto::message::Message;
use quorate_proto::session::{DeliverResult, Delivery, Instant};

use super::Worker;
use super::batch::LiveBatch;
use super::connection::{Conn, ConnState};
use super::counting::drop_reason;
use super::crossers::Content;
use crate::router::Terms;

/// Copies a delivery for a connection that cannot send it yet.
pub(super) fn own_message(delivery: &Delivery<'_>, now: Instant) -> Message {
    // The connection keeps the deadline itself; the interval only matters for properties.
    let expiry = delivery
        .expires_at
        .map(|at| u32::try_from(at.millis_since(now) / 1000).unwrap_or(u32::MAX));
    Message::new(
        delivery.topic,
        delivery.forwardable,
        delivery.payload,
        delivery.qos,
        delivery.retain,
        expiry,
    )
}

impl Worker {
    /// Delivers to a connection of this worker.
    pub(super) fn deliver(&self, conn: &Rc<Conn>, delivery: &Delivery<'_>) {
        let now = self.now();
        let result = {
            let state = &mut *conn.state.borrow_mut();
            self.lend_buffer(&mut state.out);
            let result =
                state
                    .protocol
                    .deliver(delivery, &mut || own_message(delivery, now), now, &mut state.out);
            if matches!(result, DeliverResult::Sent | DeliverResult::Queued) {
                if let Some(rare) = &mut state.rare {
                    rare.replays.note_live(delivery.topic);
                }
                self.note_sent(state, delivery);
            }
            result
        };
        self.count_delivery(conn, delivery.qos, result);
    }

    /// A connection was sent something that may come to it once more (R33). What a durable session is sent at QoS 0 is no
    /// more than that.
    pub(super) fn note_sent(&self, state: &ConnState, delivery: &Delivery<'_>) {
        let mut crossers = self.crossers.borrow_mut();
        if crossers.is_empty() {
            return;
        }
        let Some((session, _)) = state.session() else {
            return;
        };
        match Placement::is_durable(session) && delivery.qos == QoS::AtMostOnce {
            true => crossers.note_sent_once(session, delivery.topic),
            false => crossers.note_sent(session, delivery.topic, || {
                Content::new(delivery.forwardable, delivery.payload)
            }),
        }
    }

    pub(super) fn count_delivery(&self, conn: &Rc<Conn>, qos: QoS, result: DeliverResult) {
        match result {
            DeliverResult::Sent => {
                self.counters.messages_delivered.of(qos).increment();
                self.mark_dirty(conn);
            }
            DeliverResult::Dropped(reason) => {
                self.counters.messages_dropped.of(drop_reason(reason)).increment()
            }
            DeliverResult::Queued | DeliverResult::Busy => {}
        }
    }

    /// Delivers what another worker sent.
    pub(super) fn deliver_batch(&self, mut batch: LiveBatch) {
        batch.visit(|slot, generation, delivery| {
            let location = Location {
                worker: self.index,
                slot,
                generation,
            };
            if let Some(conn) = self.connection(location) {
                self.deliver(&conn, delivery);
            }
        });
        batch.clear();
        // The emptied batch serves this worker's own traffic the other way.
        for slot in self.outgoing.borrow_mut().iter_mut() {
            if slot.is_empty() && slot.capacity() == 0 {
                *slot = batch;
                break;
            }
        }
    }

    /// Delivers a message of the broker itself.
    pub(super) fn deliver_own(&self, location: Location, message: &Arc<Message>, terms: &Terms) {
        let Some(conn) = self.connection(location) else {
            return;
        };
        let mut delivery = Delivery::of(message, message.qos.min(terms.qos));
        delivery.retain = message.retain && terms.retain_as_published;
        delivery.subscription_ids = &terms.subscription_ids;
        delivery.expires_at = message.expiry_secs.map(|secs| self.now().plus_secs(secs));
        self.deliver(&conn, &delivery);
    }
}
