//! UNSUBACK.

use super::primitive::Reader;
use super::property::{PropertyId, PropertyReader};
use super::sink::{PutBody, PutProperties, Sink};
use super::{DecodeError, PacketId, PacketType, ProtocolVersion, ReasonCode, ReasonCodes, UserProperties};

const EMPTY: DecodeError = DecodeError::protocol_error("UNSUBACK has no reason code [MQTT-3.11.3-1]");

/// UNSUBACK. At 3.x the reasons are left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unsuback<'a> {
    /// Packet identifier of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// Reason string.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// One reason code per filter, in order. `(&codes).into()` makes it from a slice.
    pub reasons: ReasonCodes<'a>,
}

impl<'a> Unsuback<'a> {
    /// An UNSUBACK without properties.
    pub fn new(packet_id: PacketId, reasons: impl Into<ReasonCodes<'a>>) -> Self {
        Self {
            packet_id,
            reason_string: None,
            user_properties: UserProperties::default(),
            reasons: reasons.into(),
        }
    }

    pub(super) fn decode(body: &'a [u8], version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut unsuback = Self::new(reader.packet_id()?, ReasonCodes::EMPTY);
        if version < ProtocolVersion::V5 {
            return reader.finish().map(|()| unsuback);
        }
        let mut properties = PropertyReader::new(&mut reader)?;
        while let Some(id) = properties.next()? {
            match id {
                PropertyId::ReasonString => unsuback.reason_string = Some(properties.string()?),
                _ => return properties.not_allowed(),
            }
        }
        unsuback.user_properties = properties.user_properties();
        let codes = reader.rest();
        if codes.is_empty() {
            return Err(EMPTY);
        }
        if !codes
            .iter()
            .all(|code| ReasonCode(*code).is_allowed_in(PacketType::Unsuback))
        {
            return Err(DecodeError::REASON_NOT_ALLOWED);
        }
        unsuback.reasons = ReasonCodes::from_checked(codes);
        Ok(unsuback)
    }

    /// Appends the packet.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        self.put_packet(PacketType::Unsuback.first_byte(), version, out);
    }

    /// Exact bytes that [`Unsuback::encode`] appends.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        self.packet_len(version)
    }

    /// Drops the reason string, and then the user properties, when the packet would else be larger than the client
    /// takes [MQTT-3.11.2-1, -2].
    pub fn shrink_to(mut self, version: ProtocolVersion, max_packet_size: u32) -> Self {
        if self.encoded_len(version) > max_packet_size as usize {
            self.reason_string = None;
        }
        if self.encoded_len(version) > max_packet_size as usize {
            self.user_properties = UserProperties::default();
        }
        self
    }
}

impl PutProperties for Unsuback<'_> {
    fn put_properties<S: Sink>(&self, sink: &mut S) {
        sink.property_string(PropertyId::ReasonString, self.reason_string);
        self.user_properties.put(sink);
    }
}

impl PutBody for Unsuback<'_> {
    fn put_body<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        sink.put_u16(self.packet_id.get());
        if version < ProtocolVersion::V5 {
            return;
        }
        self.put_property_block(sink);
        for reason in self.reasons.iter() {
            sink.put_u8(reason.0);
        }
    }
}
