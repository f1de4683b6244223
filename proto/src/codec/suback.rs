//! SUBACK.

use super::primitive::Reader;
use super::property::{PropertyId, PropertyReader};
use super::sink::{PutBody, PutProperties, Sink};
use super::{DecodeError, PacketId, PacketType, ProtocolVersion, ReasonCode, ReasonCodes, UserProperties};

const EMPTY: DecodeError = DecodeError::protocol_error("SUBACK has no reason code [MQTT-3.8.4-6]");
const RESERVED_RETURN_CODE: DecodeError =
    DecodeError::malformed("SUBACK return code is not 0, 1, 2 or 0x80 [MQTT-3.9.3-2 of 3.1.1]");

/// SUBACK. At 3.x a failure is 0x80; at 3.1 a failure cannot be told and encodes as the granted QoS 0 to 2 or 0x80.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suback<'a> {
    /// Packet identifier of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// Reason string.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// One reason code per filter, in order, as MQTT 5 bytes. `(&codes).into()` makes it from a slice.
    pub reasons: ReasonCodes<'a>,
}

impl<'a> Suback<'a> {
    /// A SUBACK without properties.
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
        let mut suback = Self::new(reader.packet_id()?, ReasonCodes::EMPTY);
        if version == ProtocolVersion::V5 {
            let mut properties = PropertyReader::new(&mut reader)?;
            while let Some(id) = properties.next()? {
                match id {
                    PropertyId::ReasonString => suback.reason_string = Some(properties.string()?),
                    _ => return properties.not_allowed(),
                }
            }
            suback.user_properties = properties.user_properties();
        }
        let codes = reader.rest();
        if codes.is_empty() {
            return Err(EMPTY);
        }
        if version == ProtocolVersion::V5 {
            if !codes
                .iter()
                .all(|code| ReasonCode(*code).is_allowed_in(PacketType::Suback))
            {
                return Err(DecodeError::REASON_NOT_ALLOWED);
            }
        } else if !codes.iter().all(|code| matches!(code, 0 | 1 | 2 | 0x80)) {
            return Err(RESERVED_RETURN_CODE);
        }
        suback.reasons = ReasonCodes::from_checked(codes);
        Ok(suback)
    }

    /// Appends the packet.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        self.put_packet(PacketType::Suback.first_byte(), version, out);
    }

    /// Exact bytes that [`Suback::encode`] appends.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        self.packet_len(version)
    }

    /// Drops the reason string, and then the user properties, when the packet would else be larger than the client
    /// takes [MQTT-3.9.2-1, -2].
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

impl PutProperties for Suback<'_> {
    fn put_properties<S: Sink>(&self, sink: &mut S) {
        sink.property_string(PropertyId::ReasonString, self.reason_string);
        self.user_properties.put(sink);
    }
}

impl PutBody for Suback<'_> {
    fn put_body<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        sink.put_u16(self.packet_id.get());
        if version == ProtocolVersion::V5 {
            self.put_property_block(sink);
        }
        for reason in self.reasons.iter() {
            sink.put_u8(if version == ProtocolVersion::V5 {
                reason.0
            } else {
                reason.suback_return_code()
            });
        }
    }
}
