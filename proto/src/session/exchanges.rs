//! The client's publishes that are not complete: what its receive maximum counts, and its QoS 2 identifiers.
//!
//! ```text
//!   PUBLISH ─> Pending ─ outcome ─> Received ─ PUBREL ─> (durable: Releasing ─ commit ─>) PUBCOMP, forgotten
//!                 └──── refused ─> forgotten
//!
//!   left from an earlier connection: Restored ─ PUBLISH ─> as Received, or Pending where the host has to look
//! ```
//!
//! Invariants: the quota used is that of the unanswered QoS 1 publishes and the QoS 2 identifiers that came on this
//! connection; MQTT 5 clients never use more than the receive maximum; as many identifiers are pending as QoS 2
//! publishes are unanswered.

use super::acknowledgements::Answer;
use super::packet_id_map::PacketIdMap;
use super::peer::Peer;
use super::{Action, Close};
use crate::codec::{PacketId, PacketType, ReasonCode};

const RECEIVE_MAXIMUM: Close = Close::new(
    ReasonCode::RECEIVE_MAXIMUM_EXCEEDED,
    "more unacknowledged publishes than the receive maximum [MQTT-3.3.4-9]",
);
const REUSED: Close = Close::new(
    ReasonCode::PROTOCOL_ERROR,
    "PUBLISH with the identifier of a publish that is released, but not complete [MQTT-4.3.3-6]",
);
const RELEASED_EARLY: Close = Close::new(
    ReasonCode::PROTOCOL_ERROR,
    "PUBREL for a publish that got no PUBREC [MQTT5 4.3.3]",
);

/// The client's publishes that are not complete, as its receive maximum counts them.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    quota_used: u32,
    /// QoS 2 identifiers.
    identifiers: PacketIdMap<Exchange>,
}

#[derive(Clone, Copy, Debug)]
struct Exchange {
    stage: Stage,
    /// Its PUBLISH came on this connection. One that is left from before uses no quota, since a client begins every
    /// connection with a full one [MQTT5 4.9].
    counted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Left from an earlier connection: the host holds the identifier, and may have had more to wait for.
    Restored,
    /// With the host.
    Pending,
    /// PUBREC was sent; whether the host holds the identifier.
    Received { recorded: bool },
    /// PUBREL came, the host commits it.
    Releasing,
}

/// What a QoS 2 publish is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    New,
    /// The host holds its identifier, and says when it is to be answered.
    Again,
    /// Known, and answered as far as it can be.
    Known,
}

impl Exchanges {
    /// Takes over the identifiers of a continued session.
    pub(super) fn restore(&mut self, identifiers: &[PacketId]) {
        let exchange = Exchange {
            stage: Stage::Restored,
            counted: false,
        };
        for packet_id in identifiers {
            self.identifiers.insert(*packet_id, exchange);
        }
    }

    /// A QoS 1 publish is admitted.
    pub(super) fn begin_at_least_once(&mut self, quota: u32) -> Result<(), Close> {
        self.take_quota(quota)
    }

    /// The PUBACK of a QoS 1 publish leaves.
    pub(super) fn end_at_least_once(&mut self) {
        self.quota_used -= 1;
    }

    /// A QoS 2 publish is admitted. `asks` tells that the host has to look where an earlier connection left it.
    pub(super) fn begin_exactly_once(
        &mut self,
        packet_id: PacketId,
        asks: bool,
        quota: u32,
        peer: &Peer,
        out: &mut Vec<u8>,
    ) -> Result<Admitted, Close> {
        if let Some(repeated) = self.repeated(packet_id, asks, quota, peer, out)? {
            return Ok(repeated);
        }
        self.take_quota(quota)?;
        self.identifiers.insert(
            packet_id,
            Exchange {
                stage: Stage::Pending,
                counted: true,
            },
        );
        Ok(Admitted::New)
    }

    /// Gives memory back.
    pub(super) fn trim(&mut self) {
        self.identifiers.trim();
    }

    fn take_quota(&mut self, quota: u32) -> Result<(), Close> {
        if self.quota_used >= quota {
            return Err(RECEIVE_MAXIMUM);
        }
        self.quota_used += 1;
        Ok(())
    }

    /// What a QoS 2 publish with a known identifier is; answers it [MQTT-4.3.3-10] unless the host is asked. It is not
    /// published again.
    fn repeated(
        &mut self,
        packet_id: PacketId,
        asks: bool,
        quota: u32,
        peer: &Peer,
        out: &mut Vec<u8>,
    ) -> Result<Option<Admitted>, Close> {
        let Some(exchange) = self.identifiers.find_mut(packet_id) else {
            return Ok(None);
        };
        match exchange.stage {
            Stage::Pending => return Ok(Some(Admitted::Known)),
            Stage::Releasing => return Err(REUSED),
            Stage::Restored | Stage::Received { .. } => {}
        }
        if !exchange.counted {
            if self.quota_used >= quota {
                return Err(RECEIVE_MAXIMUM);
            }
            exchange.counted = true;
            self.quota_used += 1;
        }
        if asks && exchange.stage == Stage::Restored {
            exchange.stage = Stage::Pending;
            return Ok(Some(Admitted::Again));
        }
        peer.write_ack(PacketType::Pubrec, packet_id, ReasonCode::SUCCESS, out);
        Ok(Some(Admitted::Known))
    }

    /// A PUBREC leaves. With an error it ends the exchange [MQTT5 4.3.3].
    pub(super) fn received(&mut self, answer: &Answer) {
        if answer.reason.is_error() {
            self.forget(answer.packet_id);
        } else if let Some(exchange) = self.identifiers.find_mut(answer.packet_id) {
            exchange.stage = Stage::Received {
                recorded: answer.recorded,
            };
        }
    }

    fn forget(&mut self, packet_id: PacketId) {
        if let Some(exchange) = self.identifiers.remove(packet_id) {
            self.quota_used -= u32::from(exchange.counted);
        }
    }

    /// PUBREL. What a durable session has recorded is committed before PUBCOMP leaves (R8).
    pub(super) fn handle_pubrel(
        &mut self,
        packet_id: PacketId,
        durable: bool,
        peer: &Peer,
        out: &mut Vec<u8>,
    ) -> Result<Action<'static>, Close> {
        let Some(exchange) = self.identifiers.find_mut(packet_id) else {
            let reason = ReasonCode::PACKET_IDENTIFIER_NOT_FOUND;
            peer.write_ack(PacketType::Pubcomp, packet_id, reason, out);
            return Ok(Action::None);
        };
        match exchange.stage {
            Stage::Pending => Err(RELEASED_EARLY),
            Stage::Releasing => Ok(Action::None),
            Stage::Restored | Stage::Received { recorded: true } if durable => {
                exchange.stage = Stage::Releasing;
                Ok(Action::Release { packet_id })
            }
            Stage::Restored | Stage::Received { .. } => {
                self.forget(packet_id);
                peer.write_ack(PacketType::Pubcomp, packet_id, ReasonCode::SUCCESS, out);
                Ok(Action::None)
            }
        }
    }

    pub(super) fn handle_released(
        &mut self,
        packet_id: PacketId,
        found: bool,
        peer: &Peer,
        out: &mut Vec<u8>,
    ) {
        let releasing = |exchange: &mut Exchange| exchange.stage == Stage::Releasing;
        if self.identifiers.find_mut(packet_id).is_some_and(releasing) {
            self.forget(packet_id);
            let reason = if found {
                ReasonCode::SUCCESS
            } else {
                ReasonCode::PACKET_IDENTIFIER_NOT_FOUND
            };
            peer.write_ack(PacketType::Pubcomp, packet_id, reason, out);
        }
    }

    /// Panics on a broken invariant; `answers` are the unanswered publishes at QoS 1 and at QoS 2.
    pub(super) fn check_invariants(&self, answers: (u32, u32), quota: Option<u16>) {
        let (mut counted, mut pending) = (0, 0);
        for (_, exchange) in self.identifiers.iter() {
            counted += u32::from(exchange.counted);
            pending += u32::from(exchange.stage == Stage::Pending);
            assert!(
                exchange.counted || exchange.stage != Stage::Pending,
                "a pending publish uses no quota"
            );
        }
        assert_eq!(
            pending, answers.1,
            "pending identifiers and unanswered QoS 2 publishes"
        );
        assert_eq!(self.quota_used, counted + answers.0, "quota used");
        let quota = quota.map_or(u32::MAX, u32::from);
        assert!(
            self.quota_used <= quota,
            "more publishes than the receive maximum"
        );
    }
}
