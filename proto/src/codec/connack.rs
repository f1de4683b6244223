//! CONNACK: the server's answer to CONNECT.

use super::primitive::Reader;
use super::property::{PropertyId, PropertyReader};
use super::sink::{PutBody, PutProperties, Sink, unless};
use super::{DecodeError, PacketType, ProtocolVersion, QoS, ReasonCode, UserProperties};

const RESERVED_FLAGS: DecodeError =
    DecodeError::malformed("reserved connect acknowledge flag is set [MQTT-3.2.2-1]");
const RESERVED_RETURN_CODE: DecodeError =
    DecodeError::malformed("CONNACK return code is reserved [MQTT 3.1.1 3.2.2.3]");
const SESSION_PRESENT_ON_FAILURE: DecodeError =
    DecodeError::protocol_error("session present although the connection is refused [MQTT-3.2.2-6]");
const RECEIVE_MAXIMUM_ZERO: DecodeError =
    DecodeError::protocol_error("receive maximum is 0 [MQTT5 3.2.2.3.3]");
const MAXIMUM_PACKET_SIZE_ZERO: DecodeError =
    DecodeError::protocol_error("maximum packet size is 0 [MQTT5 3.2.2.3.6]");

/// CONNACK. 3.1 and 3.1.1 clients get the return code that fits `reason` and, at 3.1.1, session present.
#[derive(Clone, Debug, PartialEq)]
pub struct Connack<'a> {
    /// Session present flag; zero whenever `reason` is not success [MQTT-3.2.2-6].
    pub session_present: bool,
    /// Reason code.
    pub reason: ReasonCode,
    /// Session expiry interval, where it differs from what was asked.
    pub session_expiry_secs: Option<u32>,
    /// Receive maximum of the server; `None` means 65,535.
    pub receive_maximum: Option<u16>,
    /// Maximum QoS; `None` means 2.
    pub maximum_qos: Option<QoS>,
    /// Retain available.
    pub retain_available: bool,
    /// Maximum packet size of the server.
    pub maximum_packet_size: Option<u32>,
    /// Client identifier the server assigned.
    pub assigned_client_id: Option<&'a str>,
    /// Topic alias maximum of the server.
    pub topic_alias_maximum: u16,
    /// Reason string.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// Wildcard subscriptions available.
    pub wildcard_available: bool,
    /// Subscription identifiers available.
    pub subscription_ids_available: bool,
    /// Shared subscriptions available.
    pub shared_available: bool,
    /// Keep alive the client has to use instead of its own.
    pub server_keep_alive_secs: Option<u16>,
    /// Response information.
    pub response_information: Option<&'a str>,
    /// Server reference.
    pub server_reference: Option<&'a str>,
    /// Enhanced authentication method.
    pub authentication_method: Option<&'a str>,
    /// Enhanced authentication data.
    pub authentication_data: Option<&'a [u8]>,
}

impl<'a> Connack<'a> {
    /// A CONNACK with a reason and nothing else: no session present, every property at its default.
    pub const fn new(reason: ReasonCode) -> Self {
        Self {
            session_present: false,
            reason,
            session_expiry_secs: None,
            receive_maximum: None,
            maximum_qos: None,
            retain_available: true,
            maximum_packet_size: None,
            assigned_client_id: None,
            topic_alias_maximum: 0,
            reason_string: None,
            user_properties: UserProperties::from_checked(&[]),
            wildcard_available: true,
            subscription_ids_available: true,
            shared_available: true,
            server_keep_alive_secs: None,
            response_information: None,
            server_reference: None,
            authentication_method: None,
            authentication_data: None,
        }
    }

    pub(super) fn decode(body: &'a [u8], version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        // The first byte is unused in MQTT 3.1.
        let flags = if version == ProtocolVersion::V3_1 {
            reader.u8().map(|_| 0)?
        } else {
            reader.u8()?
        };
        if flags > 1 {
            return Err(RESERVED_FLAGS);
        }
        let code = reader.u8()?;
        let mut connack = Self::new(match version {
            ProtocolVersion::V5 => ReasonCode(code),
            _ => ReasonCode::from_connect_return_code(code).ok_or(RESERVED_RETURN_CODE)?,
        });
        connack.session_present = flags == 1;
        if connack.session_present && connack.reason != ReasonCode::SUCCESS {
            return Err(SESSION_PRESENT_ON_FAILURE);
        }
        if version == ProtocolVersion::V5 {
            if !connack.reason.is_allowed_in(PacketType::Connack) {
                return Err(DecodeError::REASON_NOT_ALLOWED);
            }
            connack.decode_properties(&mut reader)?;
        }
        reader.finish().map(|()| connack)
    }

    fn decode_properties(&mut self, reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        let mut properties = PropertyReader::new(reader)?;
        while let Some(id) = properties.next()? {
            match id {
                PropertyId::SessionExpiryInterval => self.session_expiry_secs = Some(properties.u32()?),
                PropertyId::ReceiveMaximum => {
                    self.receive_maximum = Some(properties.u16_above_zero(RECEIVE_MAXIMUM_ZERO)?);
                }
                PropertyId::MaximumQos => {
                    let at_least_once = properties.flag()?;
                    self.maximum_qos = Some(if at_least_once {
                        QoS::AtLeastOnce
                    } else {
                        QoS::AtMostOnce
                    });
                }
                PropertyId::RetainAvailable => self.retain_available = properties.flag()?,
                PropertyId::MaximumPacketSize => {
                    self.maximum_packet_size = Some(properties.u32_above_zero(MAXIMUM_PACKET_SIZE_ZERO)?);
                }
                PropertyId::AssignedClientIdentifier => self.assigned_client_id = Some(properties.string()?),
                PropertyId::TopicAliasMaximum => self.topic_alias_maximum = properties.u16()?,
                PropertyId::ReasonString => self.reason_string = Some(properties.string()?),
                PropertyId::WildcardSubscriptionAvailable => self.wildcard_available = properties.flag()?,
                PropertyId::SubscriptionIdentifierAvailable => {
                    self.subscription_ids_available = properties.flag()?;
                }
                PropertyId::SharedSubscriptionAvailable => self.shared_available = properties.flag()?,
                PropertyId::ServerKeepAlive => self.server_keep_alive_secs = Some(properties.u16()?),
                PropertyId::ResponseInformation => self.response_information = Some(properties.string()?),
                PropertyId::ServerReference => self.server_reference = Some(properties.string()?),
                PropertyId::AuthenticationMethod => self.authentication_method = Some(properties.string()?),
                PropertyId::AuthenticationData => self.authentication_data = Some(properties.binary()?),
                _ => return properties.not_allowed(),
            }
        }
        self.user_properties = properties.user_properties();
        Ok(())
    }

    /// Appends the packet. Session present is never set on a refusal [MQTT-3.2.2-6].
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        self.put_packet(PacketType::Connack.first_byte(), version, out);
    }

    /// Exact bytes that [`Connack::encode`] appends.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        self.packet_len(version)
    }

    /// Drops the reason string, and then the user properties, when the packet would else be larger than the client
    /// takes [MQTT-3.2.2-19, -20].
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

impl PutProperties for Connack<'_> {
    fn put_properties<S: Sink>(&self, sink: &mut S) {
        // Maximum QoS 2 is the default and must not be written [MQTT5 3.2.2.3.4].
        let maximum_qos = self
            .maximum_qos
            .filter(|qos| *qos != QoS::ExactlyOnce)
            .map(|qos| qos as u8);
        sink.property_u32(PropertyId::SessionExpiryInterval, self.session_expiry_secs);
        sink.property_u16(PropertyId::ReceiveMaximum, self.receive_maximum);
        sink.property_u8(PropertyId::MaximumQos, maximum_qos);
        sink.property_flag(PropertyId::RetainAvailable, self.retain_available, true);
        sink.property_u32(PropertyId::MaximumPacketSize, self.maximum_packet_size);
        sink.property_string(PropertyId::AssignedClientIdentifier, self.assigned_client_id);
        sink.property_u16(PropertyId::TopicAliasMaximum, unless(self.topic_alias_maximum, 0));
        sink.property_string(PropertyId::ReasonString, self.reason_string);
        self.user_properties.put(sink);
        sink.property_flag(
            PropertyId::WildcardSubscriptionAvailable,
            self.wildcard_available,
            true,
        );
        sink.property_flag(
            PropertyId::SubscriptionIdentifierAvailable,
            self.subscription_ids_available,
            true,
        );
        sink.property_flag(
            PropertyId::SharedSubscriptionAvailable,
            self.shared_available,
            true,
        );
        sink.property_u16(PropertyId::ServerKeepAlive, self.server_keep_alive_secs);
        sink.property_string(PropertyId::ResponseInformation, self.response_information);
        sink.property_string(PropertyId::ServerReference, self.server_reference);
        sink.property_string(PropertyId::AuthenticationMethod, self.authentication_method);
        sink.property_binary(PropertyId::AuthenticationData, self.authentication_data);
    }
}

impl PutBody for Connack<'_> {
    fn put_body<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        let session_present = self.session_present && self.reason == ReasonCode::SUCCESS;
        sink.put_u8(u8::from(session_present && version > ProtocolVersion::V3_1));
        match version {
            ProtocolVersion::V5 => {
                sink.put_u8(self.reason.0);
                self.put_property_block(sink);
            }
            _ => sink.put_u8(self.reason.connect_return_code()),
        }
    }
}
