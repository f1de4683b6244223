//! CONNACK: the server's answer to CONNECT.

use super::{QoS, ReasonCode, UserProperties};

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
