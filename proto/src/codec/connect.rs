//! CONNECT: the first packet of a client.

use super::{ProtocolVersion, QoS, UserProperties};

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

/// The will in a CONNECT.
#[derive(Clone, Debug, PartialEq)]
pub struct Will<'a> {
    /// Topic name, not yet checked against the topic rules.
    pub topic: &'a str,
    /// Payload.
    pub payload: &'a [u8],
    /// Quality of service.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// Will delay interval in seconds.
    pub delay_secs: u32,
    /// Message expiry interval in seconds.
    pub message_expiry_secs: Option<u32>,
    /// Payload format indicator is 1 (UTF-8).
    pub payload_is_utf8: bool,
    /// The properties a subscriber gets, as an MQTT 5 property block without its length: everything but the will
    /// delay and the message expiry, in the order the client sent it.
    pub forwardable: std::borrow::Cow<'a, [u8]>,
}
