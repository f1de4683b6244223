//! CONNECT: the first packet of a client. It says itself which version of the protocol it, and all that follows, has.

use super::primitive::Reader;
use super::property::{PropertyId, PropertyReader};
use super::sink::{PutBody, PutProperties, Sink, unless};
use super::{DecodeError, PacketType, ProtocolVersion, QoS, ReasonCode, UserProperties, Will};

const NAME_UNKNOWN: DecodeError = DecodeError::new(
    ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
    "protocol name is not MQTT [MQTT-3.1.2-1]",
);
const LEVEL_UNKNOWN: DecodeError = DecodeError::new(
    ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
    "protocol level is not supported [MQTT-3.1.2-2]",
);
const RESERVED_FLAG: DecodeError = DecodeError::malformed("reserved connect flag is set [MQTT-3.1.2-3]");
const WILL_QOS_WITHOUT_WILL: DecodeError =
    DecodeError::malformed("will QoS is set without the will flag [MQTT-3.1.2-11]");
const WILL_RETAIN_WITHOUT_WILL: DecodeError =
    DecodeError::malformed("will retain is set without the will flag [MQTT-3.1.2-13]");
const WILL_QOS_3: DecodeError = DecodeError::malformed("will QoS is 3 [MQTT-3.1.2-12]");
const PASSWORD_WITHOUT_USER_NAME: DecodeError =
    DecodeError::malformed("password flag is set without the user name flag [MQTT-3.1.2-22 of 3.1.1]");
const RECEIVE_MAXIMUM_ZERO: DecodeError =
    DecodeError::protocol_error("receive maximum is 0 [MQTT5 3.1.2.11.3]");
const MAXIMUM_PACKET_SIZE_ZERO: DecodeError =
    DecodeError::protocol_error("maximum packet size is 0 [MQTT5 3.1.2.11.4]");
const DATA_WITHOUT_METHOD: DecodeError =
    DecodeError::protocol_error("authentication data without authentication method [MQTT5 3.1.2.11.10]");

/// An extension in wide use: a client that is itself a broker sets this bit of the protocol level.
const BRIDGE_BIT: u8 = 0x80;

/// CONNECT. For 3.1 and 3.1.1 the MQTT 5 properties have their defaults; `session_expiry_secs` is then `None` and the
/// session's rule for old clients decides (clean session 0 keeps the session).
#[derive(Clone, Debug, PartialEq)]
pub struct Connect<'a> {
    /// Version the client asks for.
    pub version: ProtocolVersion,
    /// The bridge bit (0x80 of the protocol level, an extension in wide use) was set.
    pub bridge: bool,
    /// Clean Start (5) or Clean Session (3.x).
    pub clean_start: bool,
    /// Keep alive in seconds, 0 for none.
    pub keep_alive_secs: u16,
    /// Client identifier; empty asks the server to assign one.
    pub client_id: &'a str,
    /// Will message.
    pub will: Option<Will<'a>>,
    /// User name.
    pub user_name: Option<&'a str>,
    /// Password.
    pub password: Option<&'a [u8]>,
    /// Session expiry interval; absent means 0 in MQTT 5.
    pub session_expiry_secs: Option<u32>,
    /// Receive maximum; 65,535 when absent.
    pub receive_maximum: u16,
    /// Maximum packet size the client takes; `None` for no limit.
    pub maximum_packet_size: Option<u32>,
    /// Topic alias maximum the client takes; 0 when absent.
    pub topic_alias_maximum: u16,
    /// Request response information; false when absent.
    pub request_response_information: bool,
    /// Request problem information; true when absent.
    pub request_problem_information: bool,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// Enhanced authentication method.
    pub authentication_method: Option<&'a str>,
    /// Enhanced authentication data.
    pub authentication_data: Option<&'a [u8]>,
}

impl<'a> Connect<'a> {
    /// A CONNECT with a clean start, without keep alive, will, credentials and properties.
    pub const fn new(version: ProtocolVersion, client_id: &'a str) -> Self {
        Self {
            version,
            bridge: false,
            clean_start: true,
            keep_alive_secs: 0,
            client_id,
            will: None,
            user_name: None,
            password: None,
            session_expiry_secs: None,
            receive_maximum: u16::MAX,
            maximum_packet_size: None,
            topic_alias_maximum: 0,
            request_response_information: false,
            request_problem_information: true,
            user_properties: UserProperties::from_checked(&[]),
            authentication_method: None,
            authentication_data: None,
        }
    }

    /// The version at the front of a CONNECT's body, whatever follows it: so the server can answer a CONNECT that
    /// does not decode in the client's own version [MQTT-3.1.4-1]. `None` when there is none it knows.
    pub fn peek_version(body: &[u8]) -> Option<ProtocolVersion> {
        decode_protocol(&mut Reader::new(body))
            .ok()
            .map(|(version, _)| version)
    }

    pub(super) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (version, bridge) = decode_protocol(&mut reader)?;
        let flags = Flags::decode(reader.u8()?, version)?;
        let mut connect = Self::new(version, "");
        connect.bridge = bridge;
        connect.clean_start = flags.clean_start;
        connect.keep_alive_secs = reader.u16()?;
        if version == ProtocolVersion::V5 {
            connect.decode_properties(&mut reader)?;
        }
        connect.client_id = reader.string()?;
        if let Some((qos, retain)) = flags.will {
            connect.will = Some(Will::decode(&mut reader, version, qos, retain)?);
        }
        // MQTT 3.1 lets the remaining length override these two flags, for clients of versions before it.
        let may_be_missing = version == ProtocolVersion::V3_1;
        if flags.user_name && !(may_be_missing && reader.is_empty()) {
            connect.user_name = Some(reader.string()?);
        }
        if flags.password && !(may_be_missing && reader.is_empty()) {
            connect.password = Some(reader.binary()?);
        }
        reader.finish().map(|()| connect)
    }

    fn decode_properties(&mut self, reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        let mut properties = PropertyReader::new(reader)?;
        while let Some(id) = properties.next()? {
            match id {
                PropertyId::SessionExpiryInterval => self.session_expiry_secs = Some(properties.u32()?),
                PropertyId::ReceiveMaximum => {
                    self.receive_maximum = properties.u16_above_zero(RECEIVE_MAXIMUM_ZERO)?;
                }
                PropertyId::MaximumPacketSize => {
                    self.maximum_packet_size = Some(properties.u32_above_zero(MAXIMUM_PACKET_SIZE_ZERO)?);
                }
                PropertyId::TopicAliasMaximum => self.topic_alias_maximum = properties.u16()?,
                PropertyId::RequestResponseInformation => {
                    self.request_response_information = properties.flag()?;
                }
                PropertyId::RequestProblemInformation => {
                    self.request_problem_information = properties.flag()?;
                }
                PropertyId::AuthenticationMethod => self.authentication_method = Some(properties.string()?),
                PropertyId::AuthenticationData => self.authentication_data = Some(properties.binary()?),
                _ => return properties.not_allowed(),
            }
        }
        self.user_properties = properties.user_properties();
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            return Err(DATA_WITHOUT_METHOD);
        }
        Ok(())
    }

    /// Appends the packet in its own [`Connect::version`]; the argument, there for the likeness with other packets,
    /// does not matter. A password without a user name, which 3.x does not know, is left out there.
    pub fn encode(&self, _version: ProtocolVersion, out: &mut Vec<u8>) {
        self.put_packet(PacketType::Connect.first_byte(), self.version, out);
    }

    /// Exact bytes that [`Connect::encode`] appends.
    pub fn encoded_len(&self, _version: ProtocolVersion) -> usize {
        self.packet_len(self.version)
    }

    /// The password, where the version allows it to stand.
    fn password_on_wire(&self) -> Option<&'a [u8]> {
        self.password
            .filter(|_| self.version == ProtocolVersion::V5 || self.user_name.is_some())
    }
}

/// Protocol name and level: the version, and whether the bridge bit is set.
fn decode_protocol(reader: &mut Reader<'_>) -> Result<(ProtocolVersion, bool), DecodeError> {
    let name = reader.binary()?;
    if name != b"MQTT" && name != b"MQIsdp" {
        return Err(NAME_UNKNOWN);
    }
    let level = reader.u8()?;
    match (name, level & !BRIDGE_BIT, level & BRIDGE_BIT != 0) {
        (b"MQIsdp", 3, bridge) => Ok((ProtocolVersion::V3_1, bridge)),
        (b"MQTT", 4, bridge) => Ok((ProtocolVersion::V3_1_1, bridge)),
        (b"MQTT", 5, false) => Ok((ProtocolVersion::V5, false)),
        _ => Err(LEVEL_UNKNOWN),
    }
}

const fn protocol_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::V3_1 => "MQIsdp",
        ProtocolVersion::V3_1_1 | ProtocolVersion::V5 => "MQTT",
    }
}

/// The connect flags [MQTT5 3.1.2.3].
struct Flags {
    clean_start: bool,
    /// QoS and retain flag of the will.
    will: Option<(QoS, bool)>,
    user_name: bool,
    password: bool,
}

impl Flags {
    const RESERVED: u8 = 1;
    const CLEAN_START: u8 = 1 << 1;
    const WILL: u8 = 1 << 2;
    const WILL_QOS_SHIFT: u8 = 3;
    const WILL_RETAIN: u8 = 1 << 5;
    const PASSWORD: u8 = 1 << 6;
    const USER_NAME: u8 = 1 << 7;

    fn decode(bits: u8, version: ProtocolVersion) -> Result<Self, DecodeError> {
        if bits & Self::RESERVED != 0 {
            return Err(RESERVED_FLAG);
        }
        let will_qos = bits >> Self::WILL_QOS_SHIFT & 0b11;
        let will_retain = bits & Self::WILL_RETAIN != 0;
        let will = if bits & Self::WILL != 0 {
            Some((QoS::from_bits(will_qos).ok_or(WILL_QOS_3)?, will_retain))
        } else {
            // MQTT 3.1 disregards both without the will flag; from 3.1.1 on they have to be 0.
            if version > ProtocolVersion::V3_1 && will_qos != 0 {
                return Err(WILL_QOS_WITHOUT_WILL);
            }
            if version > ProtocolVersion::V3_1 && will_retain {
                return Err(WILL_RETAIN_WITHOUT_WILL);
            }
            None
        };
        let user_name = bits & Self::USER_NAME != 0;
        let password = bits & Self::PASSWORD != 0;
        if password && !user_name && version < ProtocolVersion::V5 {
            return Err(PASSWORD_WITHOUT_USER_NAME);
        }
        Ok(Self {
            clean_start: bits & Self::CLEAN_START != 0,
            will,
            user_name,
            password,
        })
    }

    fn of(connect: &Connect<'_>) -> Self {
        Self {
            clean_start: connect.clean_start,
            will: connect.will.as_ref().map(|will| (will.qos, will.retain)),
            user_name: connect.user_name.is_some(),
            password: connect.password_on_wire().is_some(),
        }
    }

    fn bits(&self) -> u8 {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let will = self.will.map_or(0, |(qos, retain)| {
            Self::WILL | (qos as u8) << Self::WILL_QOS_SHIFT | flag(retain, Self::WILL_RETAIN)
        });
        will | flag(self.clean_start, Self::CLEAN_START)
            | flag(self.user_name, Self::USER_NAME)
            | flag(self.password, Self::PASSWORD)
    }
}

impl PutProperties for Connect<'_> {
    fn put_properties<S: Sink>(&self, sink: &mut S) {
        sink.property_u32(PropertyId::SessionExpiryInterval, self.session_expiry_secs);
        sink.property_u16(PropertyId::ReceiveMaximum, unless(self.receive_maximum, u16::MAX));
        sink.property_u32(PropertyId::MaximumPacketSize, self.maximum_packet_size);
        sink.property_u16(PropertyId::TopicAliasMaximum, unless(self.topic_alias_maximum, 0));
        sink.property_flag(
            PropertyId::RequestResponseInformation,
            self.request_response_information,
            false,
        );
        sink.property_flag(
            PropertyId::RequestProblemInformation,
            self.request_problem_information,
            true,
        );
        self.user_properties.put(sink);
        sink.property_string(PropertyId::AuthenticationMethod, self.authentication_method);
        sink.property_binary(PropertyId::AuthenticationData, self.authentication_data);
    }
}

impl PutBody for Connect<'_> {
    fn put_body<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        let bridge = if self.bridge && version < ProtocolVersion::V5 {
            BRIDGE_BIT
        } else {
            0
        };
        sink.put_string(protocol_name(version));
        sink.put_u8(version as u8 | bridge);
        sink.put_u8(Flags::of(self).bits());
        sink.put_u16(self.keep_alive_secs);
        if version == ProtocolVersion::V5 {
            self.put_property_block(sink);
        }
        sink.put_string(self.client_id);
        if let Some(will) = &self.will {
            will.put(version, sink);
        }
        if let Some(user_name) = self.user_name {
            sink.put_string(user_name);
        }
        if let Some(password) = self.password_on_wire() {
            sink.put_binary(password);
        }
    }
}
