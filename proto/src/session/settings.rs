//! What a listener grants to its connections.

use std::sync::Arc;

use crate::codec::QoS;
use crate::topic::TopicLimits;

/// Limits and features of a listener's connections, shared by all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// Inbound QoS 1 and 2 publishes that may be unacknowledged at a time, at least 1 [MQTT5 3.2.2.3.3].
    pub receive_maximum_in: u16,
    /// Outbound QoS 1 and 2 publishes in flight at most, at least 1; the client's receive maximum lowers it.
    pub window_out_max: u16,
    /// Largest packet taken from a client, in bytes, fixed header included [MQTT5 3.2.2.3.6].
    pub maximum_packet_size: u32,
    /// Topic aliases a client may set [MQTT5 3.2.2.3.8].
    pub topic_alias_max_in: u16,
    /// Topic aliases used towards a client, which may lower it; at most 256 are used.
    pub topic_alias_max_out: u16,
    /// Longest session expiry granted, in seconds; sessions of 3.x clients without clean session get it.
    pub session_expiry_secs_max: u32,
    /// Keep alive imposed on MQTT 5 clients, in seconds [MQTT-3.1.2-21].
    pub server_keep_alive_secs: Option<u16>,
    /// Longest keep alive granted to MQTT 5 clients, in seconds; also imposed where a client asks for none.
    pub keep_alive_secs_max: Option<u16>,
    /// Maximum QoS of publishes [MQTT5 3.2.2.3.4].
    pub maximum_qos: QoS,
    /// Whether retained messages are taken [MQTT5 3.2.2.3.5].
    pub retain_available: bool,
    /// Whether filters may have wildcards [MQTT5 3.2.2.3.11].
    pub wildcard_available: bool,
    /// Whether shared subscriptions are taken [MQTT5 3.2.2.3.13].
    pub shared_available: bool,
    /// Whether subscription identifiers are taken [MQTT5 3.2.2.3.12].
    pub subscription_ids_available: bool,
    /// Told to clients that request it [MQTT5 3.2.2.3.15].
    pub response_information: Option<Arc<str>>,
    /// Longest client identifier, in bytes.
    pub client_id_bytes_max: u16,
    /// Most levels of a topic name or filter.
    pub topic_levels_max: u16,
    /// Longest topic name or filter, in bytes.
    pub topic_bytes_max: u16,
    /// Most filters of one SUBSCRIBE or UNSUBSCRIBE; with more the connection is closed with 0x97, since answering
    /// each of them would need many times the memory of the packet.
    pub filters_per_packet_max: u16,
    /// SUBSCRIBE and UNSUBSCRIBE packets that may wait for their outcome before no further frame is taken.
    pub requests_pending_max: u16,
    /// Whether a payload that is marked as UTF-8 and is not gets refused with 0x99 [MQTT5 3.3.2.3.2].
    pub validate_payload_format: bool,
    /// Messages that wait for the window of a connection at most.
    pub queue_messages_max: u32,
    /// Bytes of the messages that wait for the window of a connection at most.
    pub queue_bytes_max: u32,
    /// QoS 0 deliveries are dropped while the connection's output buffer holds more bytes.
    pub output_bytes_max: usize,
}

impl ConnectionSettings {
    /// The limits on topic names and filters, as the topic module takes them.
    pub const fn topic_limits(&self) -> TopicLimits {
        TopicLimits {
            levels_max: self.topic_levels_max,
            bytes_max: self.topic_bytes_max,
        }
    }
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            receive_maximum_in: 100,
            window_out_max: 100,
            maximum_packet_size: 1024 * 1024,
            topic_alias_max_in: 32,
            topic_alias_max_out: 32,
            session_expiry_secs_max: 7 * 24 * 3600,
            server_keep_alive_secs: None,
            keep_alive_secs_max: None,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            wildcard_available: true,
            shared_available: true,
            subscription_ids_available: true,
            response_information: None,
            client_id_bytes_max: 256,
            topic_levels_max: 128,
            topic_bytes_max: 1024,
            filters_per_packet_max: 10_000,
            requests_pending_max: 32,
            validate_payload_format: false,
            queue_messages_max: 10_000,
            queue_bytes_max: 64 * 1024 * 1024,
            output_bytes_max: 4 * 1024 * 1024,
        }
    }
}
