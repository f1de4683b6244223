//! SUBSCRIBE.

use super::primitive::Reader;
use super::property::{PropertyId, PropertyReader};
use super::sink::{PutBody, PutProperties, Sink};
use super::{DecodeError, PacketId, PacketType, ProtocolVersion, QoS, UserProperties};

const EMPTY: DecodeError = DecodeError::protocol_error("SUBSCRIBE has no topic filter [MQTT-3.8.3-2]");
const RESERVED_BITS: DecodeError =
    DecodeError::malformed("reserved bits of the subscription options are set [MQTT-3.8.3-5]");
const QOS_3: DecodeError = DecodeError::protocol_error("maximum QoS of a subscription is 3 [MQTT5 3.8.3.1]");
const RESERVED_BITS_3: DecodeError =
    DecodeError::malformed("requested QoS is not 0, 1 or 2 [MQTT-3.8.3-4 of 3.1.1]");
const RETAIN_HANDLING_3: DecodeError = DecodeError::protocol_error("retain handling is 3 [MQTT5 3.8.3.1]");
const NO_LOCAL_SHARED: DecodeError =
    DecodeError::protocol_error("No Local on a shared subscription [MQTT-3.8.3-4]");
const SUBSCRIPTION_ID_ZERO: DecodeError =
    DecodeError::protocol_error("subscription identifier is 0 [MQTT5 3.8.2.1.2]");

/// SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Subscribe<'a> {
    /// Packet identifier.
    pub packet_id: PacketId,
    /// Subscription identifier, 1 to 268,435,455.
    pub subscription_id: Option<u32>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// The filters with their options, at least one, in order; already checked for form while decoding.
    pub requests: SubscriptionRequests<'a>,
}

impl<'a> Subscribe<'a> {
    pub(super) fn decode(body: &'a [u8], version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let mut subscription_id = None;
        let mut user_properties = UserProperties::default();
        if version == ProtocolVersion::V5 {
            let mut properties = PropertyReader::new(&mut reader)?;
            while let Some(id) = properties.next()? {
                match id {
                    PropertyId::SubscriptionIdentifier => {
                        subscription_id = Some(properties.variable_above_zero(SUBSCRIPTION_ID_ZERO)?);
                    }
                    _ => return properties.not_allowed(),
                }
            }
            user_properties = properties.user_properties();
        }
        let requests = SubscriptionRequests::check(reader.rest(), version)?;
        Ok(Self {
            packet_id,
            subscription_id,
            user_properties,
            requests,
        })
    }

    /// Appends the packet. At 3.x the options are the QoS alone.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        self.put_packet(PacketType::Subscribe.first_byte(), version, out);
    }

    /// Exact bytes that [`Subscribe::encode`] appends.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        self.packet_len(version)
    }
}

impl PutProperties for Subscribe<'_> {
    fn put_properties<S: Sink>(&self, sink: &mut S) {
        sink.property_variable(PropertyId::SubscriptionIdentifier, self.subscription_id);
        self.user_properties.put(sink);
    }
}

impl PutBody for Subscribe<'_> {
    fn put_body<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        sink.put_u16(self.packet_id.get());
        if version == ProtocolVersion::V5 {
            self.put_property_block(sink);
            sink.put(self.requests.payload);
            return;
        }
        for (filter, options) in self.requests {
            sink.put_string(filter);
            sink.put_u8(options.qos as u8);
        }
    }
}

/// The (filter, options) pairs of a SUBSCRIBE, borrowed in encoded form.
#[derive(Clone, Copy, PartialEq)]
pub struct SubscriptionRequests<'a> {
    /// The checked payload bytes.
    pub(crate) payload: &'a [u8],
}

impl<'a> SubscriptionRequests<'a> {
    /// The pairs in the payload of an MQTT 5 SUBSCRIBE, as [`SubscriptionRequests::encode_into`] writes it.
    ///
    /// # Errors
    ///
    /// As for a SUBSCRIBE with this payload.
    pub fn from_payload(payload: &'a [u8]) -> Result<Self, DecodeError> {
        Self::check(payload, ProtocolVersion::V5)
    }

    /// Appends the pairs to a payload for [`SubscriptionRequests::from_payload`].
    pub fn encode_into<'b>(
        requests: impl IntoIterator<Item = (&'b str, SubscriptionOptions)>,
        payload: &mut Vec<u8>,
    ) {
        for (filter, options) in requests {
            payload.put_string(filter);
            payload.put_u8(options.bits());
        }
    }

    fn check(payload: &'a [u8], version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        if reader.is_empty() {
            return Err(EMPTY);
        }
        while !reader.is_empty() {
            let filter = reader.string()?;
            let bits = reader.u8()?;
            if version < ProtocolVersion::V5 {
                QoS::from_bits(bits).ok_or(RESERVED_BITS_3)?;
            } else if SubscriptionOptions::from_bits(bits)?.no_local && filter.starts_with("$share/") {
                return Err(NO_LOCAL_SHARED);
            }
        }
        Ok(Self { payload })
    }

    /// The (filter, options) pairs in order.
    pub fn iter(&self) -> SubscriptionRequestsIter<'a> {
        SubscriptionRequestsIter {
            reader: Reader::new(self.payload),
        }
    }

    /// Number of pairs; walks the payload.
    pub fn len(&self) -> usize {
        let mut reader = Reader::new(self.payload);
        std::iter::from_fn(|| reader.binary().and_then(|_| reader.u8()).ok()).count()
    }

    /// Always false for what was decoded [MQTT-3.8.3-2].
    pub const fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }
}

impl std::fmt::Debug for SubscriptionRequests<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for SubscriptionRequests<'a> {
    type Item = (&'a str, SubscriptionOptions);
    type IntoIter = SubscriptionRequestsIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Iterates over [`SubscriptionRequests`].
#[derive(Clone)]
pub struct SubscriptionRequestsIter<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for SubscriptionRequestsIter<'a> {
    type Item = (&'a str, SubscriptionOptions);

    fn next(&mut self) -> Option<Self::Item> {
        let filter = self.reader.string().ok()?;
        let options = SubscriptionOptions::from_bits(self.reader.u8().ok()?).ok()?;
        Some((filter, options))
    }
}

/// Subscription options of one filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SubscriptionOptions {
    /// Maximum QoS.
    pub qos: QoS,
    /// No Local; always false at 3.x.
    pub no_local: bool,
    /// Retain As Published; always false at 3.x.
    pub retain_as_published: bool,
    /// Retain handling; always `Send` at 3.x.
    pub retain_handling: RetainHandling,
}

impl SubscriptionOptions {
    /// Options that ask for a QoS and leave the rest at its default.
    pub const fn new(qos: QoS) -> Self {
        Self {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }
    }

    /// Reads the subscription options byte of MQTT 5 [MQTT5 3.8.3.1].
    ///
    /// # Errors
    ///
    /// 0x81 when reserved bits are set [MQTT-3.8.3-5], 0x82 when QoS or retain handling are 3.
    pub const fn from_bits(bits: u8) -> Result<Self, DecodeError> {
        if bits & 0b1100_0000 != 0 {
            return Err(RESERVED_BITS);
        }
        let Some(qos) = QoS::from_bits(bits & 0b11) else {
            return Err(QOS_3);
        };
        let retain_handling = match bits >> 4 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(RETAIN_HANDLING_3),
        };
        Ok(Self {
            qos,
            no_local: bits & 0b0100 != 0,
            retain_as_published: bits & 0b1000 != 0,
            retain_handling,
        })
    }

    /// The subscription options byte of MQTT 5.
    pub const fn bits(self) -> u8 {
        self.qos as u8
            | (self.no_local as u8) << 2
            | (self.retain_as_published as u8) << 3
            | (self.retain_handling as u8) << 4
    }
}

/// What to do with retained messages on SUBSCRIBE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// Send at every subscribe.
    #[default]
    Send = 0,
    /// Send if the subscription is new.
    SendIfNew = 1,
    /// Do not send.
    DoNotSend = 2,
}
