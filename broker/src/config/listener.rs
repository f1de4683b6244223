//! `[[listener]]`: the addresses clients connect to, and what each offers them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use quorate_proto::codec::QoS;

use super::durability::DurabilityClass;
use super::limits::{LimitsConfig, PACKET_BYTES_MAX};
use super::schema::{choice, section};

choice! {
    /// What a listener speaks.
    pub enum ListenerKind {
        /// MQTT over TCP.
        Mqtt = "mqtt",
        /// MQTT over TLS.
        Mqtts = "mqtts",
        /// MQTT over WebSocket.
        Ws = "ws",
        /// MQTT over WebSocket over TLS.
        Wss = "wss",
    }
}

impl ListenerKind {
    /// Whether the listener needs a certificate.
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    /// Whether connections begin with a WebSocket handshake.
    pub const fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

section! {
    /// An address clients connect to, and what it offers them. Writing one `[[listener]]` replaces all default ones.
    /// The environment and flags change a listener by its name: `QUORATE_LISTENER__MQTT__BIND`.
    pub struct ListenerConfig named by name {
        /// Name of the listener, unique in the node; stands in logs.
        name: String = String::new(), "", Name, Restart, required;
        /// What the listener speaks. `mqtts` and `wss` are not served in this version, and refused: end TLS in front of
        /// it.
        kind: ListenerKind = ListenerKind::Mqtt, "", Any, Restart, required;
        /// Address and port to listen on. Port 0 takes any free port.
        bind: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "", Any, Restart, required;
        /// Path of the WebSocket; for kinds `ws` and `wss`.
        path: String = "/mqtt".to_owned(), "", Length(1, 255), Restart;
        /// Expect a PROXY protocol header (version 1 or 2) on each connection. Only for listeners that nobody but
        /// the load balancer can reach: the header is believed.
        proxy_protocol: bool = false, "", Any, Restart;
        /// Certificate and key; for kinds `mqtts` and `wss`, which are not served in this version.
        tls: Option<Box<TlsConfig>> = None;
        /// Accept clients without user name on this listener; unset takes `auth.allow_anonymous`.
        allow_anonymous: Option<bool> = None, "", Any, Restart;
        /// Durability of messages published here, where no `[[durability]]` rule matches the topic.
        durability: DurabilityClass = DurabilityClass::Quorum, "", Any, Restart;
        /// Highest quality of service clients may use.
        maximum_qos: u8 = 2, "", Range(0, 2), Restart;
        /// Allow retained messages.
        retain_available: bool = true, "", Any, Restart;
        /// Allow `+` and `#` in subscriptions.
        wildcard_available: bool = true, "", Any, Restart;
        /// Allow shared subscriptions.
        shared_available: bool = true, "", Any, Restart;
        /// Allow subscription identifiers.
        subscription_ids_available: bool = true, "", Any, Restart;
        /// Keep alive that MQTT 5 clients are told to use instead of their own; unset leaves it to them.
        server_keep_alive_secs: Option<u16> = None, "seconds", Range(1, 65_535), Restart;
        /// Longest keep alive of MQTT 5 clients: one that asks for more, or for none, is told to use this instead.
        keep_alive_secs_max: Option<u16> = None, "seconds", Range(1, 65_535), Restart;
        /// Topic aliases a client may use; unset takes `limits.topic_alias_maximum`.
        topic_alias_maximum: Option<u16> = None, "aliases", Range(0, 65_535), Restart;
        /// QoS 1 and 2 messages a client may have unacknowledged; unset takes `limits.receive_maximum`.
        receive_maximum: Option<u16> = None, "messages", Range(1, 65_535), Restart;
        /// Largest packet a client may send; unset takes `limits.maximum_packet_size`.
        maximum_packet_size: Option<u32> = None, "bytes", Range(1_024, PACKET_BYTES_MAX), Restart;
    }
}

section! {
    /// Certificate and key of a listener, PEM files. Listeners with TLS are not served in this version.
    pub struct TlsConfig {
        /// File of the certificate chain, the server's first.
        cert: PathBuf = PathBuf::new(), "", Any, Live, required;
        /// File of the private key.
        key: PathBuf = PathBuf::new(), "", Any, Live, required;
        /// File of the authorities that sign client certificates; set, every client needs a certificate.
        client_ca: Option<PathBuf> = None, "", Any, Live;
    }
}

impl ListenerConfig {
    /// A listener on loopback with defaults for everything else.
    pub fn loopback(name: &str, kind: ListenerKind, port: u16) -> Self {
        let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            name: name.to_owned(),
            kind,
            bind,
            ..Self::default()
        }
    }

    /// What clients of this listener are offered, with the values it takes from `limits` filled in.
    pub fn capabilities(&self, limits: &LimitsConfig) -> Capabilities {
        Capabilities {
            maximum_qos: QoS::from_bits(self.maximum_qos).unwrap_or(QoS::ExactlyOnce),
            retain_available: self.retain_available,
            wildcard_available: self.wildcard_available,
            shared_available: self.shared_available,
            subscription_ids_available: self.subscription_ids_available,
            server_keep_alive_secs: self.server_keep_alive_secs,
            keep_alive_secs_max: self.keep_alive_secs_max,
            topic_alias_maximum: self.topic_alias_maximum.unwrap_or(limits.topic_alias_maximum),
            receive_maximum: self.receive_maximum.unwrap_or(limits.receive_maximum),
            maximum_packet_size: self.maximum_packet_size.unwrap_or(limits.maximum_packet_size),
        }
    }
}

/// What the clients of one listener are offered, as CONNACK tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Highest quality of service.
    pub maximum_qos: QoS,
    /// Retained messages.
    pub retain_available: bool,
    /// `+` and `#` in subscriptions.
    pub wildcard_available: bool,
    /// Shared subscriptions.
    pub shared_available: bool,
    /// Subscription identifiers.
    pub subscription_ids_available: bool,
    /// Keep alive to use instead of the client's own, in seconds.
    pub server_keep_alive_secs: Option<u16>,
    /// Longest keep alive, in seconds.
    pub keep_alive_secs_max: Option<u16>,
    /// Topic aliases the client may use.
    pub topic_alias_maximum: u16,
    /// QoS 1 and 2 messages the client may have unacknowledged.
    pub receive_maximum: u16,
    /// Largest packet the client may send, in bytes.
    pub maximum_packet_size: u32,
}
