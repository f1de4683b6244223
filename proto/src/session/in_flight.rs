//! Exchanges with the client as receiver: from PUBLISH to PUBACK or PUBCOMP.
//!
//! ```text
//!   QoS 1:  PUBLISH ─> AwaitingPuback ─ PUBACK ─> settled
//!   QoS 2:  PUBLISH ─> AwaitingPubrec ─ PUBREC ─> (tracked: Committing ─ commit ─>) AwaitingPubcomp ─ PUBCOMP ─> settled
//!                            └─ PUBREC >= 0x80 ─> settled
//! ```
//!
//! Invariants: never more than the window; identifiers are unique; what nobody keeps track of leaves a durable
//! session's share of the window to what is tracked.

use super::local_ids::is_derived;
use super::packet_id_map::PacketIdMap;
use super::peer::Peer;
use super::{Action, Close, DeliveryToken};
use crate::codec::{Ack, PacketId, PacketType, QoS, ReasonCode};

const WRONG_ACK: Close = Close::new(
    ReasonCode::PROTOCOL_ERROR,
    "acknowledgement that does not fit the state of its exchange [MQTT5 4.3.2, 4.3.3]",
);

/// What an acknowledgement is answered with.
type Handled = Result<Action<'static>, Close>;

#[derive(Clone, Copy, Debug)]
struct Exchange {
    stage: Stage,
    token: Option<DeliveryToken>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    AwaitingPuback,
    AwaitingPubrec,
    /// PUBREC came, the host commits it.
    Committing,
    AwaitingPubcomp,
}

/// The exchanges that are not complete.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    exchanges: PacketIdMap<Exchange>,
    window: u16,
    /// Exchanges without a token, and how many there may be.
    untracked: u16,
    untracked_max: u16,
}

impl InFlight {
    /// The queue of a connection refills a window before the host can, so a steady stream without replication would
    /// starve the replicated references of a durable session: a quarter of the window is kept for those.
    pub(super) fn new(window: u16, durable: bool) -> Self {
        let untracked_max = if durable { window - window / 4 } else { window };
        Self {
            exchanges: PacketIdMap::default(),
            window,
            untracked: 0,
            untracked_max,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.exchanges.len()
    }

    #[inline]
    pub(super) fn free(&self) -> usize {
        usize::from(self.window).saturating_sub(self.exchanges.len())
    }

    /// Room for what nobody keeps track of.
    #[inline]
    pub(super) fn free_untracked(&self) -> usize {
        self.free().min(usize::from(self.untracked_max - self.untracked))
    }

    #[inline]
    pub(super) fn contains(&self, packet_id: PacketId) -> bool {
        self.exchanges.contains(packet_id)
    }

    /// A PUBLISH was written.
    #[inline]
    pub(super) fn published(&mut self, packet_id: PacketId, qos: QoS, token: Option<DeliveryToken>) {
        let stage = if qos == QoS::ExactlyOnce {
            Stage::AwaitingPubrec
        } else {
            Stage::AwaitingPuback
        };
        self.untracked += u16::from(token.is_none());
        self.exchanges.insert(packet_id, Exchange { stage, token });
    }

    /// A PUBREL was written for what an earlier connection published.
    pub(super) fn released(&mut self, packet_id: PacketId, token: DeliveryToken) {
        self.exchanges.insert(
            packet_id,
            Exchange {
                stage: Stage::AwaitingPubcomp,
                token: Some(token),
            },
        );
    }

    /// PUBACK. What is not in flight is left alone: it may answer an earlier connection.
    #[inline]
    pub(super) fn handle_puback(&mut self, puback: &Ack<'_>) -> Handled {
        match self.exchanges.find_mut(puback.packet_id) {
            None => Ok(Action::None),
            Some(Exchange {
                stage: Stage::AwaitingPuback,
                ..
            }) => Ok(self.settle(puback)),
            Some(_) => Err(WRONG_ACK),
        }
    }

    pub(super) fn handle_pubrec(
        &mut self,
        pubrec: &Ack<'_>,
        durable: bool,
        peer: &Peer,
        out: &mut Vec<u8>,
    ) -> Handled {
        let packet_id = pubrec.packet_id;
        let Some(exchange) = self.exchanges.find_mut(packet_id) else {
            return Ok(unknown_pubrec(pubrec, durable, peer, out));
        };
        match (exchange.stage, exchange.token) {
            (Stage::AwaitingPuback, _) => return Err(WRONG_ACK),
            (Stage::AwaitingPubrec, _) if pubrec.reason.is_error() => return Ok(self.settle(pubrec)),
            (Stage::AwaitingPubrec, Some(token)) => {
                exchange.stage = Stage::Committing;
                return Ok(Action::Received {
                    packet_id,
                    token: Some(token),
                });
            }
            (Stage::Committing, _) => return Ok(Action::None),
            (Stage::AwaitingPubrec, None) => exchange.stage = Stage::AwaitingPubcomp,
            // A 3.x client may repeat its PUBREC, having missed the PUBREL.
            (Stage::AwaitingPubcomp, _) => {}
        }
        peer.write_ack(PacketType::Pubrel, packet_id, ReasonCode::SUCCESS, out);
        Ok(Action::None)
    }

    pub(super) fn handle_pubcomp(&mut self, pubcomp: &Ack<'_>) -> Handled {
        match self.exchanges.find_mut(pubcomp.packet_id) {
            None => Ok(Action::None),
            Some(Exchange {
                stage: Stage::AwaitingPubcomp,
                ..
            }) => Ok(self.settle(pubcomp)),
            Some(_) => Err(WRONG_ACK),
        }
    }

    /// The host has committed a PUBREC, or does not know the identifier of one that was not in flight.
    pub(super) fn handle_received_committed(&mut self, packet_id: PacketId, peer: &Peer, out: &mut Vec<u8>) {
        let reason = match self.exchanges.find_mut(packet_id) {
            Some(exchange) if exchange.stage == Stage::Committing => {
                exchange.stage = Stage::AwaitingPubcomp;
                ReasonCode::SUCCESS
            }
            // Delivered again since: that exchange takes its own course.
            Some(_) => return,
            None => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
        };
        peer.write_ack(PacketType::Pubrel, packet_id, reason, out);
    }

    #[inline]
    fn settle(&mut self, ack: &Ack<'_>) -> Action<'static> {
        match self.exchanges.remove(ack.packet_id) {
            Some(Exchange {
                token: Some(token), ..
            }) => Action::Settled {
                token,
                reason: ack.reason,
            },
            Some(Exchange { token: None, .. }) => {
                self.untracked -= 1;
                Action::None
            }
            None => Action::None,
        }
    }

    pub(super) fn trim(&mut self) {
        self.exchanges.trim();
    }

    pub(super) fn check_invariants(&self) {
        assert!(
            self.exchanges.len() <= usize::from(self.window),
            "more in flight than the window"
        );
        let untracked = self
            .exchanges
            .iter()
            .filter(|(_, exchange)| exchange.token.is_none())
            .count();
        assert_eq!(
            untracked,
            usize::from(self.untracked),
            "exchanges without a token"
        );
        assert!(
            self.untracked <= self.untracked_max,
            "the share of tracked deliveries is used up"
        );
        let committing =
            |(_, exchange): (_, Exchange)| exchange.stage == Stage::Committing && exchange.token.is_none();
        assert!(
            !self.exchanges.iter().any(committing),
            "a PUBREC is committed for nobody"
        );
    }
}

/// PUBREC of an identifier that is not in flight: 0x92, unless the host may know it [MQTT5 4.3.3].
fn unknown_pubrec(pubrec: &Ack<'_>, durable: bool, peer: &Peer, out: &mut Vec<u8>) -> Action<'static> {
    let packet_id = pubrec.packet_id;
    if pubrec.reason.is_error() {
        return Action::None;
    }
    if durable && is_derived(packet_id) {
        return Action::Received {
            packet_id,
            token: None,
        };
    }
    peer.write_ack(
        PacketType::Pubrel,
        packet_id,
        ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
        out,
    );
    Action::None
}
