//! DISCONNECT.

use super::primitive::Reader;
use super::property::{PropertyId, PropertyReader};
use super::sink::{PutBody, PutProperties, Sink};
use super::{DecodeError, PacketType, ProtocolVersion, ReasonCode, UserProperties};

/// DISCONNECT; at 3.x only a client sends it and it carries nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disconnect<'a> {
    /// Reason code.
    pub reason: ReasonCode,
    /// Session expiry interval; only a client sends it.
    pub session_expiry_secs: Option<u32>,
    /// Reason string.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// Server reference; only a server sends it.
    pub server_reference: Option<&'a str>,
}

impl<'a> Disconnect<'a> {
    /// A DISCONNECT with a reason and nothing else.
    pub const fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            session_expiry_secs: None,
            reason_string: None,
            user_properties: UserProperties::from_checked(&[]),
            server_reference: None,
        }
    }

    pub(super) fn decode(body: &'a [u8], version: ProtocolVersion) -> Result<Self, DecodeError> {
        // An empty body is a normal disconnection, a single byte a reason without properties
        // [MQTT5 3.14.2.1, 3.14.2.2.1].
        let mut disconnect = Self::new(ReasonCode::SUCCESS);
        let mut reader = Reader::new(body);
        if reader.is_empty() || version < ProtocolVersion::V5 {
            return reader.finish().map(|()| disconnect);
        }
        disconnect.reason = ReasonCode(reader.u8()?);
        if !disconnect.reason.is_allowed_in(PacketType::Disconnect) {
            return Err(DecodeError::REASON_NOT_ALLOWED);
        }
        if reader.is_empty() {
            return Ok(disconnect);
        }
        let mut properties = PropertyReader::new(&mut reader)?;
        while let Some(id) = properties.next()? {
            match id {
                PropertyId::SessionExpiryInterval => disconnect.session_expiry_secs = Some(properties.u32()?),
                PropertyId::ReasonString => disconnect.reason_string = Some(properties.string()?),
                PropertyId::ServerReference => disconnect.server_reference = Some(properties.string()?),
                _ => return properties.not_allowed(),
            }
        }
        disconnect.user_properties = properties.user_properties();
        reader.finish().map(|()| disconnect)
    }

    /// Appends the packet.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        self.put_packet(PacketType::Disconnect.first_byte(), version, out);
    }

    /// Exact bytes that [`Disconnect::encode`] appends.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        self.packet_len(version)
    }

    /// Drops the reason string, and then the user properties, when the packet would else be larger than the receiver
    /// takes [MQTT-3.14.2-3, -4].
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

impl PutProperties for Disconnect<'_> {
    fn put_properties<S: Sink>(&self, sink: &mut S) {
        sink.property_u32(PropertyId::SessionExpiryInterval, self.session_expiry_secs);
        sink.property_string(PropertyId::ReasonString, self.reason_string);
        self.user_properties.put(sink);
        sink.property_string(PropertyId::ServerReference, self.server_reference);
    }
}

impl PutBody for Disconnect<'_> {
    fn put_body<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        if version < ProtocolVersion::V5 {
            return;
        }
        let has_properties = self.properties_len() > 0;
        if self.reason == ReasonCode::SUCCESS && !has_properties {
            return;
        }
        sink.put_u8(self.reason.0);
        if has_properties {
            self.put_property_block(sink);
        }
    }
}
