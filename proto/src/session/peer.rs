//! What the client at the other end understands and takes, and the packets that are written by it.

use crate::codec::{
    Ack, Auth, Connack, Disconnect, PACKET_SIZE_MAX, PacketId, PacketType, ProtocolVersion, ReasonCode,
    Suback, Unsuback,
};

use super::Close;

pub(super) const NO_ROOM: Close = Close::new(
    ReasonCode::PACKET_TOO_LARGE,
    "the client's maximum packet size has no room for the answer [MQTT-3.1.2-24]",
);

/// What CONNECT said of the client's abilities.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) version: ProtocolVersion,
    /// Reason strings may be sent on packets other than CONNACK and DISCONNECT [MQTT-3.1.2-29].
    pub(super) wants_problem_information: bool,
    /// Largest packet it takes.
    pub(super) maximum_packet_size: u32,
}

impl Peer {
    /// A client of which only the version is known.
    pub(super) const fn new(version: ProtocolVersion) -> Self {
        Self {
            version,
            wants_problem_information: true,
            maximum_packet_size: PACKET_SIZE_MAX,
        }
    }

    /// Whether packets to it carry reason codes and properties.
    #[inline]
    pub(super) fn reads_reasons(&self) -> bool {
        self.version == ProtocolVersion::V5
    }

    fn takes(&self, size: usize) -> bool {
        size <= self.maximum_packet_size as usize
    }

    /// PUBACK, PUBREC, PUBREL or PUBCOMP. They always have room: without a reason string they are no longer than the
    /// CONNACK was.
    #[inline]
    pub(super) fn write_ack(
        &self,
        packet_type: PacketType,
        packet_id: PacketId,
        reason: ReasonCode,
        out: &mut Vec<u8>,
    ) {
        Ack::new(packet_id, reason).encode(packet_type, self.version, out);
    }

    /// The same with a reason string, where the client wants one.
    pub(super) fn write_ack_because(
        &self,
        packet_type: PacketType,
        packet_id: PacketId,
        reason: ReasonCode,
        why: &str,
        out: &mut Vec<u8>,
    ) {
        let mut ack = Ack::new(packet_id, reason);
        if self.wants_problem_information {
            ack.reason_string = Some(why);
            ack = ack.shrink_to(self.version, self.maximum_packet_size);
        }
        ack.encode(packet_type, self.version, out);
    }

    pub(super) fn write_suback(&self, mut suback: Suback<'_>, out: &mut Vec<u8>) -> Result<(), Close> {
        if self.wants_problem_information {
            suback = suback.shrink_to(self.version, self.maximum_packet_size);
        } else {
            suback.reason_string = None;
        }
        if !self.takes(suback.encoded_len(self.version)) {
            return Err(NO_ROOM);
        }
        suback.encode(self.version, out);
        Ok(())
    }

    pub(super) fn write_unsuback(&self, mut unsuback: Unsuback<'_>, out: &mut Vec<u8>) -> Result<(), Close> {
        if self.wants_problem_information {
            unsuback = unsuback.shrink_to(self.version, self.maximum_packet_size);
        } else {
            unsuback.reason_string = None;
        }
        if !self.takes(unsuback.encoded_len(self.version)) {
            return Err(NO_ROOM);
        }
        unsuback.encode(self.version, out);
        Ok(())
    }

    pub(super) fn write_auth(&self, auth: &Auth<'_>, out: &mut Vec<u8>) -> Result<(), Close> {
        if !self.takes(auth.encoded_len(self.version)) {
            return Err(NO_ROOM);
        }
        auth.encode(self.version, out);
        Ok(())
    }

    pub(super) fn write_connack(&self, connack: Connack<'_>, out: &mut Vec<u8>) -> Result<(), Close> {
        let connack = connack.shrink_to(self.version, self.maximum_packet_size);
        if !self.takes(connack.encoded_len(self.version)) {
            return Err(NO_ROOM);
        }
        connack.encode(self.version, out);
        Ok(())
    }

    /// DISCONNECT, where the client's version has one from the server and there is room for it.
    pub(super) fn write_disconnect(&self, disconnect: Disconnect<'_>, out: &mut Vec<u8>) {
        let disconnect = disconnect.shrink_to(self.version, self.maximum_packet_size);
        if self.reads_reasons() && self.takes(disconnect.encoded_len(self.version)) {
            disconnect.encode(self.version, out);
        }
    }
}
