//! Reason codes of MQTT 5 and the return codes of 3.x they map to.

use super::PacketType;

/// A reason code byte. A newtype rather than an enum: one value has several names, and a peer may send any byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReasonCode(pub u8);

impl std::fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "0x{:02X}", self.0)
    }
}

macro_rules! reason_codes {
    ($($name:ident = $value:literal),* $(,)?) => {
        impl ReasonCode {
            $(#[doc = concat!("Reason code ", stringify!($value), ".")] pub const $name: Self = Self($value);)*
        }
    };
}

reason_codes! {
    SUCCESS = 0x00,
    GRANTED_QOS_0 = 0x00,
    GRANTED_QOS_1 = 0x01,
    GRANTED_QOS_2 = 0x02,
    DISCONNECT_WITH_WILL = 0x04,
    NO_MATCHING_SUBSCRIBERS = 0x10,
    NO_SUBSCRIPTION_EXISTED = 0x11,
    CONTINUE_AUTHENTICATION = 0x18,
    REAUTHENTICATE = 0x19,
    UNSPECIFIED_ERROR = 0x80,
    MALFORMED_PACKET = 0x81,
    PROTOCOL_ERROR = 0x82,
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83,
    UNSUPPORTED_PROTOCOL_VERSION = 0x84,
    CLIENT_IDENTIFIER_NOT_VALID = 0x85,
    BAD_USER_NAME_OR_PASSWORD = 0x86,
    NOT_AUTHORIZED = 0x87,
    SERVER_UNAVAILABLE = 0x88,
    SERVER_BUSY = 0x89,
    BANNED = 0x8A,
    SERVER_SHUTTING_DOWN = 0x8B,
    BAD_AUTHENTICATION_METHOD = 0x8C,
    KEEP_ALIVE_TIMEOUT = 0x8D,
    SESSION_TAKEN_OVER = 0x8E,
    TOPIC_FILTER_INVALID = 0x8F,
    TOPIC_NAME_INVALID = 0x90,
    PACKET_IDENTIFIER_IN_USE = 0x91,
    PACKET_IDENTIFIER_NOT_FOUND = 0x92,
    RECEIVE_MAXIMUM_EXCEEDED = 0x93,
    TOPIC_ALIAS_INVALID = 0x94,
    PACKET_TOO_LARGE = 0x95,
    MESSAGE_RATE_TOO_HIGH = 0x96,
    QUOTA_EXCEEDED = 0x97,
    ADMINISTRATIVE_ACTION = 0x98,
    PAYLOAD_FORMAT_INVALID = 0x99,
    RETAIN_NOT_SUPPORTED = 0x9A,
    QOS_NOT_SUPPORTED = 0x9B,
    USE_ANOTHER_SERVER = 0x9C,
    SERVER_MOVED = 0x9D,
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E,
    CONNECTION_RATE_EXCEEDED = 0x9F,
    MAXIMUM_CONNECT_TIME = 0xA0,
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1,
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2,
}

impl ReasonCode {
    /// 0x80 and above mean failure [MQTT5 2.4].
    pub const fn is_error(self) -> bool {
        self.0 >= 0x80
    }

    /// The CONNACK return code of MQTT 3.1 and 3.1.1 that comes closest [MQTT-3.2.2-4 of 3.1.1]. What has no
    /// counterpart is "server unavailable": it invites a retry, where the others blame the client's configuration.
    pub const fn connect_return_code(self) -> u8 {
        match self {
            Self::UNSUPPORTED_PROTOCOL_VERSION => 1,
            Self::CLIENT_IDENTIFIER_NOT_VALID => 2,
            Self::BAD_USER_NAME_OR_PASSWORD | Self::BAD_AUTHENTICATION_METHOD => 4,
            Self::NOT_AUTHORIZED | Self::BANNED => 5,
            other if other.is_error() => 3,
            _ => 0,
        }
    }

    /// The reason code that a CONNACK return code of MQTT 3.1 and 3.1.1 stands for; 6 to 255 are reserved.
    pub(super) const fn from_connect_return_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::SUCCESS,
            1 => Self::UNSUPPORTED_PROTOCOL_VERSION,
            2 => Self::CLIENT_IDENTIFIER_NOT_VALID,
            3 => Self::SERVER_UNAVAILABLE,
            4 => Self::BAD_USER_NAME_OR_PASSWORD,
            5 => Self::NOT_AUTHORIZED,
            _ => return None,
        })
    }

    /// The byte a SUBACK of MQTT 3.1 and 3.1.1 has for it: the granted QoS, or 0x80 [MQTT-3.9.3-2 of 3.1.1].
    pub(super) const fn suback_return_code(self) -> u8 {
        if self.is_error() { 0x80 } else { self.0 }
    }

    /// Whether MQTT 5 lets a packet of this type, from either side, carry this reason code [MQTT5 2.4].
    pub(super) const fn is_allowed_in(self, packet_type: PacketType) -> bool {
        match packet_type {
            PacketType::Connack => matches!(
                self.0,
                0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99 | 0x9A..=0x9D | 0x9F
            ),
            PacketType::Puback | PacketType::Pubrec => {
                matches!(
                    self.0,
                    0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99
                )
            }
            PacketType::Pubrel | PacketType::Pubcomp => matches!(self.0, 0x00 | 0x92),
            PacketType::Suback => {
                matches!(
                    self.0,
                    0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2
                )
            }
            PacketType::Unsuback => matches!(self.0, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91),
            PacketType::Disconnect => matches!(
                self.0,
                0x00 | 0x04 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B | 0x8D..=0x8F | 0x90 | 0x93..=0xA2
            ),
            PacketType::Auth => matches!(self.0, 0x00 | 0x18 | 0x19),
            _ => false,
        }
    }
}

/// The reason codes of a SUBACK or UNSUBACK, one per filter, in order: a slice of [`ReasonCode`] when the packet is
/// to be sent, the bytes of the packet when it was received. Reads like a slice either way.
#[derive(Clone, Copy)]
pub struct ReasonCodes<'a>(Source<'a>);

#[derive(Clone, Copy)]
enum Source<'a> {
    Codes(&'a [ReasonCode]),
    Bytes(&'a [u8]),
}

/// Every reason code at the index of its value, to lend a reference for a received byte.
static EVERY_CODE: [ReasonCode; 256] = {
    let mut codes = [ReasonCode(0); 256];
    let mut value = 0;
    while value < 256 {
        codes[value] = ReasonCode(value as u8);
        value += 1;
    }
    codes
};

impl<'a> ReasonCodes<'a> {
    /// No reason codes, as in the UNSUBACK of MQTT 3.x.
    pub const EMPTY: Self = Self(Source::Codes(&[]));

    /// The bytes of a packet whose codes have been checked.
    pub(super) const fn from_checked(bytes: &'a [u8]) -> Self {
        Self(Source::Bytes(bytes))
    }

    /// Number of reason codes.
    pub const fn len(&self) -> usize {
        match self.0 {
            Source::Codes(codes) => codes.len(),
            Source::Bytes(bytes) => bytes.len(),
        }
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The reason codes in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a ReasonCode> + Clone + use<'a> {
        let codes = *self;
        (0..self.len()).map(move |index| codes.at(index))
    }

    /// The reason codes, copied.
    pub fn to_vec(&self) -> Vec<ReasonCode> {
        self.iter().copied().collect()
    }

    fn at(&self, index: usize) -> &'a ReasonCode {
        match self.0 {
            Source::Codes(codes) => &codes[index],
            Source::Bytes(bytes) => &EVERY_CODE[usize::from(bytes[index])],
        }
    }
}

impl<'a, T: AsRef<[ReasonCode]> + ?Sized> From<&'a T> for ReasonCodes<'a> {
    fn from(codes: &'a T) -> Self {
        Self(Source::Codes(codes.as_ref()))
    }
}

impl std::ops::Index<usize> for ReasonCodes<'_> {
    type Output = ReasonCode;

    fn index(&self, index: usize) -> &ReasonCode {
        self.at(index)
    }
}

impl PartialEq for ReasonCodes<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ReasonCodes<'_> {}

impl<T: AsRef<[ReasonCode]>> PartialEq<T> for ReasonCodes<'_> {
    fn eq(&self, other: &T) -> bool {
        self.iter().eq(other.as_ref())
    }
}

impl std::fmt::Debug for ReasonCodes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
