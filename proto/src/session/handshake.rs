//! From CONNECT to CONNACK: what the client asks for, and what it is granted.

use std::sync::Arc;

use super::aliases::OutboundAliases;
use super::keep_alive::{self, KeepAlive};
use super::outbound::Outbound;
use super::peer::{NO_ROOM, Peer};
use super::{Close, ConnectionSettings, Credentials, Instant, OpenRequest, Opened, SessionWill};
use crate::codec::{Connack, Connect, PACKET_SIZE_MAX, ProtocolVersion, QoS, ReasonCode, Will};
use crate::message::Message;
use crate::topic::validate_topic_name;

const CLIENT_ID_LONG: Close = Close::new(
    ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
    "client identifier is longer than allowed [MQTT-3.1.3-5]",
);
const CLIENT_ID_EMPTY: Close = Close::new(
    ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
    "client identifier is empty, which asks for a clean session of MQTT 3.1.1 or 5 [MQTT-3.1.3-8]",
);
const CLIENT_ID_UNASSIGNED: Close = Close::new(
    ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
    "no client identifiers are assigned here [MQTT-3.1.3-8]",
);
const WILL_QOS: Close = Close::new(
    ReasonCode::QOS_NOT_SUPPORTED,
    "will is above the maximum QoS [MQTT-3.2.2-12]",
);
const WILL_RETAIN: Close = Close::new(
    ReasonCode::RETAIN_NOT_SUPPORTED,
    "will with RETAIN, which is not available [MQTT-3.2.2-13]",
);
const WILL_TOPIC: Close = Close::new(
    ReasonCode::TOPIC_NAME_INVALID,
    "topic of the will has a wildcard, is empty, or is beyond the limits [MQTT-4.7.1-1]",
);
const WILL_PAYLOAD: Close = Close::new(
    ReasonCode::PAYLOAD_FORMAT_INVALID,
    "payload of the will is marked as UTF-8 and is not [MQTT5 3.1.3.2.3]",
);

/// A CONNECT that is not answered yet.
#[derive(Debug)]
pub(super) struct Handshake {
    /// Empty until one is assigned, where the client gave none.
    client_id: Arc<str>,
    assigned: bool,
    clean_start: bool,
    keep_alive_secs: u16,
    keep_alive_imposed_secs: Option<u16>,
    receive_maximum: u16,
    topic_alias_maximum: u16,
    wants_response_information: bool,
    expiry_asked_secs: u32,
    expiry_secs: u32,
    will: Option<SessionWill>,
    /// For CONNACK.
    authentication_data: Option<Box<[u8]>>,
}

/// What a connection is once its CONNACK is written.
pub(super) struct Granted {
    pub(super) keep_alive: KeepAlive,
    pub(super) outbound: Outbound,
}

/// What the client's CONNECT says of its abilities.
pub(super) fn peer(connect: &Connect<'_>) -> Peer {
    Peer {
        version: connect.version,
        wants_problem_information: connect.request_problem_information,
        maximum_packet_size: connect
            .maximum_packet_size
            .unwrap_or(PACKET_SIZE_MAX)
            .min(PACKET_SIZE_MAX),
    }
}

/// The version to refuse a CONNECT in that may not decode; `None` where the other end does not seem to speak MQTT. A
/// level above 5 is answered as 5, one below as 3.1.1, which is what its client can best be expected to read.
pub(super) fn answer_version(body: &[u8]) -> Option<ProtocolVersion> {
    if let Some(version) = Connect::peek_version(body) {
        return Some(version);
    }
    let level = body
        .strip_prefix(b"\0\x04MQTT")
        .or_else(|| body.strip_prefix(b"\0\x06MQIsdp"))?
        .first()?;
    Some(if level & 0x7F >= ProtocolVersion::V5 as u8 {
        ProtocolVersion::V5
    } else {
        ProtocolVersion::V3_1_1
    })
}

/// What the host needs for its decision.
pub(super) fn credentials<'a>(connect: &Connect<'a>) -> Credentials<'a> {
    Credentials {
        version: connect.version,
        client_id: connect.client_id,
        user_name: connect.user_name,
        password: connect.password,
        method: connect.authentication_method,
        data: connect.authentication_data,
        clean_start: connect.clean_start,
        keep_alive_secs: connect.keep_alive_secs,
        bridge: connect.bridge,
    }
}

impl Handshake {
    /// Checks a CONNECT and keeps what is needed until CONNACK.
    pub(super) fn new(connect: &Connect<'_>, settings: &ConnectionSettings) -> Result<Self, Close> {
        check_client_id(connect, settings)?;
        let will = connect
            .will
            .as_ref()
            .map(|will| check_will(will, settings))
            .transpose()?;
        let (expiry_asked_secs, expiry_secs) = expiry(connect, settings);
        Ok(Self {
            client_id: connect.client_id.into(),
            assigned: false,
            clean_start: connect.clean_start,
            keep_alive_secs: connect.keep_alive_secs,
            keep_alive_imposed_secs: keep_alive::imposed(connect.version, connect.keep_alive_secs, settings),
            receive_maximum: connect.receive_maximum,
            topic_alias_maximum: connect.topic_alias_maximum,
            wants_response_information: connect.request_response_information,
            expiry_asked_secs,
            expiry_secs,
            will,
            authentication_data: None,
        })
    }

    /// The client is who it says: it gets an identifier if it has none [MQTT-3.1.3-6], and its session may be opened.
    pub(super) fn accept(
        &mut self,
        data: Option<&[u8]>,
        assigned_client_id: Option<&str>,
        settings: &ConnectionSettings,
        peer: &Peer,
    ) -> Result<OpenRequest, Close> {
        if self.client_id.is_empty() {
            let assigned = assigned_client_id.filter(|client_id| !client_id.is_empty());
            self.client_id = assigned.ok_or(CLIENT_ID_UNASSIGNED)?.into();
            self.assigned = true;
        }
        self.authentication_data = data.map(Into::into);
        Ok(OpenRequest {
            version: peer.version,
            client_id: self.client_id.clone(),
            assigned: self.assigned,
            clean_start: self.clean_start,
            expiry_secs: self.expiry_secs,
            durable: self.expiry_secs > 0,
            will: self.will.take(),
            window_out: self.window_out(settings),
        })
    }

    pub(super) fn client_id(&self) -> &Arc<str> {
        &self.client_id
    }

    pub(super) fn expiry_secs(&self) -> u32 {
        self.expiry_secs
    }

    /// The client asked for a session that ends with the connection, and may not change its mind [MQTT-3.14.2-2].
    pub(super) fn asked_no_expiry(&self) -> bool {
        self.expiry_asked_secs == 0
    }

    fn window_out(&self, settings: &ConnectionSettings) -> u16 {
        self.receive_maximum.min(settings.window_out_max).max(1)
    }

    /// Answers with CONNACK. It has all that differs from what the client asked for or assumes.
    pub(super) fn open(
        &self,
        opened: &Opened,
        method: Option<&str>,
        settings: &ConnectionSettings,
        peer: &Peer,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Granted, Close> {
        self.write_connack(opened, method, settings, peer, out)?;
        let aliases = OutboundAliases::new(self.topic_alias_maximum, settings.topic_alias_max_out);
        let keep_alive_secs = self.keep_alive_imposed_secs.unwrap_or(self.keep_alive_secs);
        Ok(Granted {
            keep_alive: KeepAlive::new(keep_alive_secs, now),
            outbound: Outbound::new(
                self.window_out(settings),
                self.expiry_secs > 0 || opened.durable,
                opened.local_start,
                aliases,
            ),
        })
    }

    fn write_connack(
        &self,
        opened: &Opened,
        method: Option<&str>,
        settings: &ConnectionSettings,
        peer: &Peer,
        out: &mut Vec<u8>,
    ) -> Result<(), Close> {
        let mut connack = Connack::new(ReasonCode::SUCCESS);
        connack.session_present = opened.session_present && !self.clean_start;
        connack.session_expiry_secs =
            (self.expiry_secs != self.expiry_asked_secs).then_some(self.expiry_secs);
        connack.receive_maximum = Some(settings.receive_maximum_in).filter(|maximum| *maximum < u16::MAX);
        connack.maximum_qos = Some(settings.maximum_qos).filter(|qos| *qos < QoS::ExactlyOnce);
        connack.retain_available = settings.retain_available;
        connack.maximum_packet_size =
            Some(settings.maximum_packet_size).filter(|size| *size < PACKET_SIZE_MAX);
        connack.assigned_client_id = self.assigned.then_some(&self.client_id);
        connack.topic_alias_maximum = settings.topic_alias_max_in;
        connack.wildcard_available = settings.wildcard_available;
        connack.subscription_ids_available = settings.subscription_ids_available;
        connack.shared_available = settings.shared_available;
        connack.server_keep_alive_secs = self.keep_alive_imposed_secs;
        connack.authentication_method = method;
        connack.authentication_data = self.authentication_data.as_deref();
        let wanted = settings
            .response_information
            .as_ref()
            .filter(|_| self.wants_response_information);
        let information = wanted.map(|information| information.replace("%c", &self.client_id));
        if information.is_some() {
            connack.response_information = information.as_deref();
            // The one property the client can do without [MQTT5 3.2.2.3.15].
            if peer.write_connack(connack.clone(), out).is_ok() {
                return Ok(());
            }
            connack.response_information = None;
        }
        peer.write_connack(connack, out).map_err(|_| NO_ROOM)
    }
}

/// The session expiry asked for and granted. The older versions know but two: with the connection, or never, which is
/// granted as the longest there is.
fn expiry(connect: &Connect<'_>, settings: &ConnectionSettings) -> (u32, u32) {
    let asked = match connect.version {
        ProtocolVersion::V5 => connect.session_expiry_secs.unwrap_or(0),
        _ if connect.clean_start => 0,
        _ => u32::MAX,
    };
    (asked, asked.min(settings.session_expiry_secs_max))
}

/// MQTT 3.1 asks for 1 to 23 characters; more are taken, as most servers do, none are not.
fn check_client_id(connect: &Connect<'_>, settings: &ConnectionSettings) -> Result<(), Close> {
    if connect.client_id.len() > usize::from(settings.client_id_bytes_max) {
        return Err(CLIENT_ID_LONG);
    }
    let may_be_empty = match connect.version {
        ProtocolVersion::V3_1 => false,
        ProtocolVersion::V3_1_1 => connect.clean_start,
        ProtocolVersion::V5 => true,
    };
    if connect.client_id.is_empty() && !may_be_empty {
        return Err(CLIENT_ID_EMPTY);
    }
    Ok(())
}

fn check_will(will: &Will<'_>, settings: &ConnectionSettings) -> Result<SessionWill, Close> {
    if will.qos > settings.maximum_qos {
        return Err(WILL_QOS);
    }
    if will.retain && !settings.retain_available {
        return Err(WILL_RETAIN);
    }
    validate_topic_name(will.topic, &settings.topic_limits()).map_err(|_| WILL_TOPIC)?;
    if settings.validate_payload_format && will.payload_is_utf8 && std::str::from_utf8(will.payload).is_err()
    {
        return Err(WILL_PAYLOAD);
    }
    let Will {
        topic,
        payload,
        qos,
        retain,
        delay_secs,
        message_expiry_secs,
        ..
    } = *will;
    let message = Message::new(
        topic,
        &will.forwardable,
        payload,
        qos,
        retain,
        message_expiry_secs,
    );
    Ok(SessionWill { message, delay_secs })
}
