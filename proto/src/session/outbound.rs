//! What the client is sent: the window, the queue behind it, packet identifiers, topic aliases, packet size, expiry.
//!
//! Invariants: a message waits only while the window is full or no identifier is free; what waits leaves in order, and
//! nothing at QoS 1 or 2 without replication overtakes it; no packet exceeds the client's maximum.

use super::aliases::{AliasUse, OutboundAliases};
use super::in_flight::InFlight;
use super::local_ids::LocalIds;
use super::peer::Peer;
use super::queue::Queue;
use super::{
    ConnectionSettings, DeliverResult, Delivery, DeliveryPhase, DropReason, Instant, QueueDrops,
    TrackedDelivery,
};
use crate::codec::{OutboundPublish, PACKET_SIZE_MAX, PacketId, PacketType, QoS, ReasonCode};
use crate::message::Message;

/// Bytes of a PUBLISH besides its parts, at most: fixed header 5, topic length 2, packet identifier 2, length of the
/// properties 4, message expiry 5, topic alias 3.
const OVERHEAD_MAX: usize = 5 + 2 + 2 + 4 + 5 + 3;
/// Bytes of a subscription identifier, at most.
const SUBSCRIPTION_ID_MAX: usize = 1 + 4;
/// A topic is worth an alias only if it is longer than the property that replaces it.
const ALIAS_WORTH: usize = 3;

/// The outbound half of a connection.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    pub(super) in_flight: InFlight,
    local_ids: LocalIds,
    aliases: Option<Box<OutboundAliases>>,
    queue: Option<Box<Waiting>>,
}

/// The queue and what it dropped.
#[derive(Debug, Default)]
struct Waiting {
    queue: Queue,
    drops: QueueDrops,
}

/// The identity of a PUBLISH: what the message itself does not say.
#[derive(Clone, Copy)]
struct Exchange {
    packet_id: Option<PacketId>,
    dup: bool,
}

const AT_MOST_ONCE: Exchange = Exchange {
    packet_id: None,
    dup: false,
};

impl Outbound {
    pub(super) fn new(
        window: u16,
        durable: bool,
        local_start: u64,
        aliases: Option<OutboundAliases>,
    ) -> Self {
        Self {
            in_flight: InFlight::new(window, durable),
            local_ids: LocalIds::new(durable, local_start),
            aliases: aliases.map(Box::new),
            queue: None,
        }
    }

    pub(super) fn queued(&self) -> (usize, usize) {
        self.queue
            .as_ref()
            .map_or((0, 0), |waiting| (waiting.queue.len(), waiting.queue.bytes()))
    }

    fn is_queue_empty(&self) -> bool {
        self.queue.as_ref().is_none_or(|waiting| waiting.queue.is_empty())
    }

    /// A delivery without replication.
    #[inline]
    pub(super) fn deliver(
        &mut self,
        delivery: &Delivery<'_>,
        own: &mut dyn FnMut() -> Message,
        settings: &ConnectionSettings,
        peer: &Peer,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> DeliverResult {
        if delivery.qos == QoS::AtMostOnce {
            if out.len() > settings.output_bytes_max {
                return DeliverResult::Dropped(DropReason::OutputFull);
            }
            return self.write(delivery, AT_MOST_ONCE, peer, now, out).into();
        }
        if is_expired(delivery.expires_at, now) {
            return DeliverResult::Dropped(DropReason::Expired);
        }
        // What waits goes first: the window may have room and only the output none.
        if self.is_queue_empty()
            && out.len() <= settings.output_bytes_max
            && let Some(packet_id) = self.free_untracked_id()
        {
            return self.publish(delivery, packet_id, peer, now, out).into();
        }
        match self
            .queue
            .get_or_insert_default()
            .queue
            .push(delivery, own, settings)
        {
            Ok(()) => DeliverResult::Queued,
            Err(reason) => DeliverResult::Dropped(reason),
        }
    }

    /// An identifier for a delivery nobody keeps track of, if the window has room.
    #[inline]
    fn free_untracked_id(&mut self) -> Option<PacketId> {
        if self.in_flight.free_untracked() == 0 {
            return None;
        }
        self.free_id()
    }

    /// An identifier that is not derived.
    #[inline]
    fn free_id(&mut self) -> Option<PacketId> {
        let Self {
            in_flight, local_ids, ..
        } = self;
        local_ids.next_free(|packet_id| in_flight.contains(packet_id))
    }

    #[inline]
    fn publish(
        &mut self,
        delivery: &Delivery<'_>,
        packet_id: PacketId,
        peer: &Peer,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<(), DropReason> {
        let exchange = Exchange {
            packet_id: Some(packet_id),
            dup: false,
        };
        self.write(delivery, exchange, peer, now, out)?;
        self.in_flight.published(packet_id, delivery.qos, None);
        Ok(())
    }

    /// Sends what waits, as far as the window has room.
    #[inline]
    pub(super) fn send_queued(
        &mut self,
        settings: &ConnectionSettings,
        peer: &Peer,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        if !self.is_queue_empty() {
            self.send_waiting(settings, peer, now, out);
        }
    }

    fn send_waiting(&mut self, settings: &ConnectionSettings, peer: &Peer, now: Instant, out: &mut Vec<u8>) {
        while out.len() <= settings.output_bytes_max
            && let Some(packet_id) = self.free_untracked_id()
        {
            let Some(queued) = self.queue.as_mut().and_then(|waiting| waiting.queue.pop()) else {
                return;
            };
            let sent = self.publish(&queued.delivery(), packet_id, peer, now, out);
            if let (Err(reason), Some(waiting)) = (sent, &mut self.queue) {
                waiting.drops.count(reason);
            }
        }
    }

    /// A delivery the host keeps track of.
    pub(super) fn deliver_tracked(
        &mut self,
        tracked: &TrackedDelivery<'_>,
        settings: &ConnectionSettings,
        peer: &Peer,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> DeliverResult {
        assert!(
            tracked.qos != QoS::AtMostOnce,
            "a delivery at QoS 0 has nothing to keep track of"
        );
        if self.in_flight.free() == 0 || out.len() > settings.output_bytes_max {
            return DeliverResult::Busy;
        }
        let packet_id = match tracked.packet_id.derived_id() {
            Some(packet_id) => Some(packet_id).filter(|packet_id| !self.in_flight.contains(*packet_id)),
            None => self.free_id(),
        };
        let Some(packet_id) = packet_id else {
            return DeliverResult::Busy;
        };
        if tracked.phase == DeliveryPhase::Received {
            peer.write_ack(PacketType::Pubrel, packet_id, ReasonCode::SUCCESS, out);
            self.in_flight.released(packet_id, tracked.token);
            return DeliverResult::Sent;
        }
        let dup = tracked.phase == DeliveryPhase::Resent;
        let exchange = Exchange {
            packet_id: Some(packet_id),
            dup,
        };
        let sent = self.write(&tracked.delivery(), exchange, peer, now, out);
        if sent.is_ok() {
            self.in_flight
                .published(packet_id, tracked.qos, Some(tracked.token));
        }
        sent.into()
    }

    /// Writes a PUBLISH, by its alias where it has one; what the client could not take is not sent [MQTT-3.1.2-25].
    #[inline]
    fn write(
        &mut self,
        delivery: &Delivery<'_>,
        exchange: Exchange,
        peer: &Peer,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<(), DropReason> {
        if !exchange.dup && is_expired(delivery.expires_at, now) {
            return Err(DropReason::Expired);
        }
        let mut publish = OutboundPublish {
            topic: delivery.topic,
            payload: delivery.payload,
            forwardable: delivery.forwardable,
            qos: delivery.qos,
            dup: exchange.dup,
            retain: delivery.retain,
            packet_id: exchange.packet_id,
            message_expiry_secs: delivery
                .expires_at
                .map(|expires_at| remaining_secs(expires_at, now)),
            topic_alias: None,
            subscription_ids: delivery.subscription_ids,
        };
        let mut set = None;
        if let Some(aliases) = self
            .aliases
            .as_mut()
            .filter(|_| delivery.topic.len() > ALIAS_WORTH)
        {
            match aliases.find(delivery.topic) {
                AliasUse::Known(alias) => {
                    publish.topic = "";
                    publish.topic_alias = Some(alias);
                }
                AliasUse::Set(alias) => {
                    publish.topic_alias = Some(alias);
                    set = Some(alias);
                }
            }
        }
        if !fits(&publish, peer) {
            // Setting an alias is not worth a message.
            let Some(_) = set.take() else {
                return Err(DropReason::PacketTooLarge);
            };
            publish.topic_alias = None;
            if !fits(&publish, peer) {
                return Err(DropReason::PacketTooLarge);
            }
        }
        publish.encode(peer.version, out);
        if let (Some(alias), Some(aliases)) = (set, &mut self.aliases) {
            aliases.commit(alias, delivery.topic);
        }
        Ok(())
    }

    /// What was dropped from the queue since the last call.
    pub(super) fn take_queue_drops(&mut self) -> QueueDrops {
        self.queue
            .as_mut()
            .map(|waiting| std::mem::take(&mut waiting.drops))
            .unwrap_or_default()
    }

    pub(super) fn trim(&mut self) {
        self.in_flight.trim();
        let idle = |waiting: &Waiting| waiting.queue.is_empty() && waiting.drops == QueueDrops::default();
        if self.queue.as_ref().is_some_and(|waiting| idle(waiting)) {
            self.queue = None;
        }
    }

    pub(super) fn check_invariants(&self) {
        self.in_flight.check_invariants();
        if let Some(aliases) = &self.aliases {
            aliases.check_invariants();
        }
        if let Some(waiting) = &self.queue {
            waiting.queue.check_invariants();
        }
    }
}

impl From<Result<(), DropReason>> for DeliverResult {
    fn from(result: Result<(), DropReason>) -> Self {
        match result {
            Ok(()) => Self::Sent,
            Err(reason) => Self::Dropped(reason),
        }
    }
}

/// Whether the client takes a packet of this size. Most are far from the limit, which is cheaper to see than the
/// exact size, and guards it: a length the wire cannot express has none.
#[inline]
fn fits(publish: &OutboundPublish<'_>, peer: &Peer) -> bool {
    let parts = publish.topic.len() + publish.forwardable.len() + publish.payload.len();
    let size_max = parts + OVERHEAD_MAX + publish.subscription_ids.len() * SUBSCRIPTION_ID_MAX;
    let limit = peer.maximum_packet_size.min(PACKET_SIZE_MAX) as usize;
    size_max <= limit || (size_max <= PACKET_SIZE_MAX as usize && publish.encoded_len(peer.version) <= limit)
}

#[inline]
fn is_expired(expires_at: Option<Instant>, now: Instant) -> bool {
    expires_at.is_some_and(|expires_at| now >= expires_at)
}

/// The lifetime to tell [MQTT-3.3.2-6]: what is left of it, seconds begun counting as whole ones.
fn remaining_secs(expires_at: Instant, now: Instant) -> u32 {
    u32::try_from(expires_at.millis_since(now).div_ceil(1000)).unwrap_or(u32::MAX)
}
