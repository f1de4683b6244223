//! PUBACK, PUBREC, PUBREL and PUBCOMP, which share one shape.

use super::primitive::Reader;
use super::property::{PropertyId, PropertyReader};
use super::sink::{PutBody, PutProperties, Sink};
use super::{DecodeError, Frame, PacketId, PacketType, ProtocolVersion, ReasonCode, UserProperties};

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ack<'a> {
    /// Packet identifier of the exchange.
    pub packet_id: PacketId,
    /// Reason code; success where the packet has none.
    pub reason: ReasonCode,
    /// Reason string.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Ack<'a> {
    /// An acknowledgement with a reason and nothing else.
    #[inline]
    pub const fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self {
            packet_id,
            reason,
            reason_string: None,
            user_properties: UserProperties::from_checked(&[]),
        }
    }

    #[inline(always)]
    pub(super) fn decode(frame: Frame<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(frame.body);
        let packet_id = reader.packet_id()?;
        // Two bytes are success without properties [MQTT5 3.4.2.1].
        if reader.is_empty() {
            return Ok(Self::new(packet_id, ReasonCode::SUCCESS));
        }
        Self::decode_with_reason(frame.packet_type, version, packet_id, reader)
    }

    #[inline(never)]
    fn decode_with_reason(
        packet_type: PacketType,
        version: ProtocolVersion,
        packet_id: PacketId,
        mut reader: Reader<'a>,
    ) -> Result<Self, DecodeError> {
        let mut ack = Self::new(packet_id, ReasonCode::SUCCESS);
        if version == ProtocolVersion::V5 {
            ack.reason = ReasonCode(reader.u8()?);
            if !ack.reason.is_allowed_in(packet_type) {
                return Err(DecodeError::REASON_NOT_ALLOWED);
            }
            // Three bytes are a reason without properties [MQTT5 3.4.2.2.1].
            if !reader.is_empty() {
                ack.decode_properties(&mut reader)?;
            }
        }
        reader.finish().map(|()| ack)
    }

    fn decode_properties(&mut self, reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        let mut properties = PropertyReader::new(reader)?;
        while let Some(id) = properties.next()? {
            match id {
                PropertyId::ReasonString => self.reason_string = Some(properties.string()?),
                _ => return properties.not_allowed(),
            }
        }
        self.user_properties = properties.user_properties();
        Ok(())
    }

    /// Appends the packet; `packet_type` says which of the four it is. MQTT 3.x knows the packet identifier alone.
    #[inline]
    pub fn encode(&self, packet_type: PacketType, version: ProtocolVersion, out: &mut Vec<u8>) {
        debug_assert!(
            matches!(
                packet_type,
                PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp
            ),
            "{packet_type:?} is not an acknowledgement"
        );
        if version < ProtocolVersion::V5 || self.is_bare_success() {
            let [high, low] = self.packet_id.get().to_be_bytes();
            out.extend_from_slice(&[packet_type.first_byte(), 2, high, low]);
        } else {
            self.put_packet(packet_type.first_byte(), version, out);
        }
    }

    /// Exact bytes that [`Ack::encode`] appends.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        self.packet_len(version)
    }

    /// Drops the reason string, and then the user properties, when the packet would else be larger than the receiver
    /// takes [MQTT-3.4.2-2, -3, 3.5.2-2, -3, 3.6.2-2, -3, 3.7.2-2, -3].
    pub fn shrink_to(mut self, version: ProtocolVersion, max_packet_size: u32) -> Self {
        if self.encoded_len(version) > max_packet_size as usize {
            self.reason_string = None;
        }
        if self.encoded_len(version) > max_packet_size as usize {
            self.user_properties = UserProperties::default();
        }
        self
    }

    fn has_properties(&self) -> bool {
        self.reason_string.is_some() || !self.user_properties.is_empty()
    }

    fn is_bare_success(&self) -> bool {
        self.reason == ReasonCode::SUCCESS && !self.has_properties()
    }
}

impl PutProperties for Ack<'_> {
    fn put_properties<S: Sink>(&self, sink: &mut S) {
        sink.property_string(PropertyId::ReasonString, self.reason_string);
        self.user_properties.put(sink);
    }
}

impl PutBody for Ack<'_> {
    fn put_body<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        sink.put_u16(self.packet_id.get());
        if version < ProtocolVersion::V5 || self.is_bare_success() {
            return;
        }
        sink.put_u8(self.reason.0);
        if self.has_properties() {
            self.put_property_block(sink);
        }
    }
}
