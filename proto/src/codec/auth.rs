//! AUTH: enhanced authentication, MQTT 5 only.

use super::primitive::Reader;
use super::property::{PropertyId, PropertyReader};
use super::sink::{PutBody, PutProperties, Sink};
use super::{DecodeError, PacketType, ProtocolVersion, ReasonCode, UserProperties};

const NOT_IN_3: DecodeError =
    DecodeError::malformed("packet type 15 is reserved before MQTT 5 [MQTT 3.1.1 2.2.1]");
const NO_METHOD: DecodeError =
    DecodeError::protocol_error("AUTH has no authentication method [MQTT5 3.15.2.2.2]");

/// AUTH.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Auth<'a> {
    /// 0x00 success, 0x18 continue authentication, 0x19 re-authenticate.
    pub reason: ReasonCode,
    /// Authentication method.
    pub authentication_method: Option<&'a str>,
    /// Authentication data.
    pub authentication_data: Option<&'a [u8]>,
    /// Reason string.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Auth<'a> {
    /// An AUTH with a reason and nothing else. Only success may stay like this: everything else needs the method.
    pub const fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            authentication_method: None,
            authentication_data: None,
            reason_string: None,
            user_properties: UserProperties::from_checked(&[]),
        }
    }

    pub(super) fn decode(body: &'a [u8], version: ProtocolVersion) -> Result<Self, DecodeError> {
        if version < ProtocolVersion::V5 {
            return Err(NOT_IN_3);
        }
        // An empty body is success without properties, not even a method [MQTT5 3.15.2.1].
        let mut auth = Self::new(ReasonCode::SUCCESS);
        let mut reader = Reader::new(body);
        if reader.is_empty() {
            return Ok(auth);
        }
        auth.reason = ReasonCode(reader.u8()?);
        if !auth.reason.is_allowed_in(PacketType::Auth) {
            return Err(DecodeError::REASON_NOT_ALLOWED);
        }
        let mut properties = PropertyReader::new(&mut reader)?;
        while let Some(id) = properties.next()? {
            match id {
                PropertyId::AuthenticationMethod => auth.authentication_method = Some(properties.string()?),
                PropertyId::AuthenticationData => auth.authentication_data = Some(properties.binary()?),
                PropertyId::ReasonString => auth.reason_string = Some(properties.string()?),
                _ => return properties.not_allowed(),
            }
        }
        auth.user_properties = properties.user_properties();
        reader.finish()?;
        if auth.authentication_method.is_none() {
            Err(NO_METHOD)
        } else {
            Ok(auth)
        }
    }

    /// Appends the packet. There is no AUTH before MQTT 5, so `version` is 5.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        debug_assert_eq!(version, ProtocolVersion::V5, "AUTH exists in MQTT 5 alone");
        self.put_packet(PacketType::Auth.first_byte(), version, out);
    }

    /// Exact bytes that [`Auth::encode`] appends.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        self.packet_len(version)
    }

    /// Drops the reason string, and then the user properties, when the packet would else be larger than the receiver
    /// takes [MQTT-3.15.2-2, -3].
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

impl PutProperties for Auth<'_> {
    fn put_properties<S: Sink>(&self, sink: &mut S) {
        sink.property_string(PropertyId::AuthenticationMethod, self.authentication_method);
        sink.property_binary(PropertyId::AuthenticationData, self.authentication_data);
        sink.property_string(PropertyId::ReasonString, self.reason_string);
        self.user_properties.put(sink);
    }
}

impl PutBody for Auth<'_> {
    fn put_body<S: Sink>(&self, _version: ProtocolVersion, sink: &mut S) {
        if self.reason == ReasonCode::SUCCESS && self.properties_len() == 0 {
            return;
        }
        sink.put_u8(self.reason.0);
        self.put_property_block(sink);
    }
}
