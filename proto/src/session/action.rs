//! What a connection asks of its host, and what the host answers. Nothing here borrows from the connection.

use std::sync::Arc;

use super::DeliveryToken;
use crate::codec::{PacketId, ProtocolVersion, Publish, ReasonCode, SubscriptionOptions};
use crate::message::Message;

/// What the host has to do for a frame.
#[derive(Debug, PartialEq)]
pub enum Action<'a> {
    /// Nothing.
    None,
    /// Decide, then call [`super::Connection::handle_authenticated`].
    Authenticate(AuthenticationRequest<'a>),
    /// Open the session, then call [`super::Connection::handle_opened`] or [`super::Connection::handle_refused`].
    Open(OpenRequest),
    /// Authorise and route; with a token, then call [`super::Connection::handle_publish_outcome`]. A retained message of an
    /// earlier connection comes again, with a token that says so ([`PublishToken::is_repeat`]).
    Publish(PublishRequest<'a>),
    /// PUBREL of a durable session: commit the release of the identifier, then call
    /// [`super::Connection::handle_released`] (R8).
    Release {
        /// The identifier the client chose for its publish.
        packet_id: PacketId,
    },
    /// Subscribe, then call [`super::Connection::handle_subscribed`].
    Subscribe(SubscribeRequest<'a>),
    /// Unsubscribe, then call [`super::Connection::handle_unsubscribed`].
    Unsubscribe(UnsubscribeRequest<'a>),
    /// The client is done with a tracked delivery: PUBACK, PUBCOMP, or PUBREC of 0x80 or above [MQTT-4.8.2-6].
    Settled {
        /// The delivery.
        token: DeliveryToken,
        /// What the client said.
        reason: ReasonCode,
    },
    /// PUBREC of a tracked QoS 2 delivery: commit that, then call [`super::Connection::handle_received_committed`].
    ///
    /// Without a token the identifier belongs to a durable session's replicated deliveries, but is not in flight on
    /// this connection: a client may answer here what it received on its previous connection. A PUBREL would end an
    /// exchange whose PUBLISH the host may be about to send again, so the host, which knows the session's references,
    /// decides: deliver it with [`super::DeliveryPhase::Received`] once committed, or leave it where the PUBLISH is
    /// still to be repeated, or call [`super::Connection::handle_received_committed`], which answers 0x92.
    Received {
        /// Identifier of the exchange.
        packet_id: PacketId,
        /// The delivery, where it is in flight on this connection.
        token: Option<DeliveryToken>,
    },
    /// The client sent DISCONNECT: close the socket; [`super::Connection::farewell`] has the details.
    Disconnected,
}

/// A decision that is the host's: who is this, and may it connect?
#[derive(Debug, PartialEq)]
pub enum AuthenticationRequest<'a> {
    /// CONNECT.
    Connect(Credentials<'a>),
    /// The client's next AUTH (0x18) of an exchange that the host continued.
    Continue {
        /// Authentication method.
        method: &'a str,
        /// Authentication data.
        data: Option<&'a [u8]>,
        /// The exchange authenticates a connected client anew.
        again: bool,
    },
    /// AUTH 0x19: a connected client authenticates anew; it goes on being served meanwhile.
    Reauthenticate {
        /// Authentication method, the one of CONNECT [MQTT-4.12.1-1].
        method: &'a str,
        /// Authentication data.
        data: Option<&'a [u8]>,
    },
}

/// What a CONNECT says about the client.
#[derive(Clone, Debug, PartialEq)]
pub struct Credentials<'a> {
    /// Protocol version.
    pub version: ProtocolVersion,
    /// Client identifier; where it is empty the host has to supply one in [`Decision::Accept`].
    pub client_id: &'a str,
    /// User name.
    pub user_name: Option<&'a str>,
    /// Password.
    pub password: Option<&'a [u8]>,
    /// Enhanced authentication method.
    pub method: Option<&'a str>,
    /// Enhanced authentication data.
    pub data: Option<&'a [u8]>,
    /// Clean Start or Clean Session.
    pub clean_start: bool,
    /// Keep alive the client asked for, in seconds.
    pub keep_alive_secs: u16,
    /// The bridge bit was set.
    pub bridge: bool,
}

/// The host's answer to an [`AuthenticationRequest`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision<'a> {
    /// Accepted.
    Accept {
        /// Authentication data for the client, only where it named a method.
        data: Option<&'a [u8]>,
        /// The client identifier for a client that sent an empty one; without it such a client gets 0x85.
        assigned_client_id: Option<&'a str>,
    },
    /// AUTH 0x18: the exchange goes on. Only where the client named a method.
    Continue {
        /// Authentication data.
        data: Option<&'a [u8]>,
    },
    /// Refused; the call returns the [`super::Close`].
    Refuse {
        /// 0x86, 0x87, 0x8A, 0x8C, ...
        reason: ReasonCode,
        /// For the client, at MQTT 5.
        reason_string: Option<&'a str>,
    },
}

/// An accepted client whose session is to be created or taken over.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenRequest {
    /// Protocol version.
    pub version: ProtocolVersion,
    /// Client identifier, never empty; shared with the connection.
    pub client_id: Arc<str>,
    /// The client identifier was assigned by the host.
    pub assigned: bool,
    /// Discard an existing session.
    pub clean_start: bool,
    /// Session expiry granted, in seconds; 0 ends the session with the connection.
    pub expiry_secs: u32,
    /// The session outlives the connection: `expiry_secs > 0`.
    pub durable: bool,
    /// The will.
    pub will: Option<SessionWill>,
    /// Outbound window, the client's receive maximum already applied.
    pub window_out: u16,
}

/// The will of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionWill {
    /// The message.
    pub message: Message,
    /// Will delay in seconds; 0 for 3.x.
    pub delay_secs: u32,
}

/// The session is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The host has state for this client identifier and it is continued [MQTT-3.2.2-3].
    pub session_present: bool,
    /// Identifiers of inbound QoS 2 publishes that are committed and not released.
    pub inbound: Vec<PacketId>,
    /// The session is replicated for longer than this connection asked for: a client that takes up a durable session
    /// with an expiry of 0 still gets what waits for it, under the identifiers it was sent with.
    pub durable: bool,
    /// Where the cycle of identifiers for deliveries without replication begins. Any number; one that differs from
    /// connection to connection (the session's epoch) keeps an identifier that a client may still hold from its
    /// previous connection from being the first that is used again.
    pub local_start: u64,
}

/// A publish of the client.
#[derive(Debug, PartialEq)]
pub struct PublishRequest<'a> {
    /// The packet; its own `topic` is empty where an alias stands for it.
    pub publish: Publish<'a>,
    /// The topic, its alias resolved, checked against the rules and limits.
    pub topic: TopicRef<'a>,
    /// For the outcome; `None` at QoS 0.
    pub token: Option<PublishToken>,
}

/// A topic, from the frame or from the connection's alias table.
#[derive(Clone, Debug)]
pub enum TopicRef<'a> {
    /// In the frame.
    Frame(&'a str),
    /// An alias stood for it.
    Alias(Arc<str>),
}

impl std::ops::Deref for TopicRef<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Frame(topic) => topic,
            Self::Alias(topic) => topic,
        }
    }
}

impl PartialEq for TopicRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

/// Stands for a publish whose outcome is outstanding. Given back exactly once, to the connection it came from.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the publisher waits for the outcome"]
pub struct PublishToken {
    pub(super) packet_id: PacketId,
    /// Place in the order of acknowledgements of its quality of service.
    pub(super) sequence: u32,
    pub(super) exactly_once: bool,
    pub(super) repeated: bool,
}

impl PublishToken {
    /// Packet identifier of the publish.
    pub fn packet_id(&self) -> PacketId {
        self.packet_id
    }

    /// Whether the session holds the identifier from an earlier connection, and so the message: it was taken then. What is
    /// to be told now is when that is complete.
    pub fn is_repeat(&self) -> bool {
        self.repeated
    }

    /// Whether it is a QoS 2 publish, whose identifier is recorded with it.
    pub fn is_exactly_once(&self) -> bool {
        self.exactly_once
    }
}

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    /// Taken, with the guarantee of its class.
    Accepted {
        /// Some subscription matched; if none did, MQTT 5 clients are told so (0x10).
        matched: bool,
    },
    /// It is final that the message is not stored anywhere (R13). MQTT 5 clients get the code; older ones a positive
    /// acknowledgement for 0x87, as [MQTT-3.3.5-2] of 3.1.1 allows, else the connection ends.
    Refused(ReasonCode),
}

/// SUBSCRIBE, its filters checked.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscribeRequest<'a> {
    /// Packet identifier, for the answer.
    pub packet_id: PacketId,
    /// Subscription identifier.
    pub subscription_id: Option<u32>,
    /// The filters in order, at least one.
    pub entries: Vec<SubscribeEntry<'a>>,
}

/// One filter of a SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SubscribeEntry<'a> {
    /// The filter as sent, `$share/` included.
    pub filter: &'a str,
    /// The parts of a shared subscription's filter.
    pub share: Option<Share<'a>>,
    /// Options.
    pub options: SubscriptionOptions,
    /// Syntax, features and limits; an error is the answer for this filter.
    pub verdict: Result<(), ReasonCode>,
}

/// `$share/{name}/{filter}`, taken apart [MQTT5 4.8.2].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share<'a> {
    /// Share name.
    pub name: &'a str,
    /// What is subscribed to.
    pub filter: &'a str,
}

/// UNSUBSCRIBE, its filters checked.
#[derive(Clone, Debug, PartialEq)]
pub struct UnsubscribeRequest<'a> {
    /// Packet identifier, for the answer.
    pub packet_id: PacketId,
    /// The filters in order, at least one.
    pub entries: Vec<UnsubscribeEntry<'a>>,
}

/// One filter of an UNSUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnsubscribeEntry<'a> {
    /// The filter as sent, `$share/` included.
    pub filter: &'a str,
    /// The parts of a shared subscription's filter.
    pub share: Option<Share<'a>>,
    /// An error is the answer for this filter.
    pub verdict: Result<(), ReasonCode>,
}
