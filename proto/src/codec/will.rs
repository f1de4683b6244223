//! The will message in a CONNECT: flags, properties, topic and payload [MQTT5 3.1.3.2 to 3.1.3.4].

use std::borrow::Cow;

use super::primitive::Reader;
use super::property::{PropertyId, PropertyReader};
use super::publish::RESPONSE_TOPIC_WILDCARD;
use super::sink::{PutProperties, Sink, unless};
use super::{DecodeError, ProtocolVersion, QoS};

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
    pub forwardable: Cow<'a, [u8]>,
}

impl<'a> Will<'a> {
    /// A will without properties.
    pub const fn new(topic: &'a str, payload: &'a [u8], qos: QoS, retain: bool) -> Self {
        Self {
            topic,
            payload,
            qos,
            retain,
            delay_secs: 0,
            message_expiry_secs: None,
            payload_is_utf8: false,
            forwardable: Cow::Borrowed(&[]),
        }
    }

    pub(super) fn decode(
        reader: &mut Reader<'a>,
        version: ProtocolVersion,
        qos: QoS,
        retain: bool,
    ) -> Result<Self, DecodeError> {
        let mut will = Self::new("", &[], qos, retain);
        if version == ProtocolVersion::V5 {
            will.decode_properties(reader)?;
        }
        will.topic = reader.string()?;
        will.payload = reader.binary()?;
        Ok(will)
    }

    fn decode_properties(&mut self, reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        let mut properties = PropertyReader::new(reader)?;
        while let Some(id) = properties.next()? {
            match id {
                PropertyId::WillDelayInterval => self.delay_secs = properties.u32()?,
                PropertyId::PayloadFormatIndicator => self.payload_is_utf8 = properties.flag()?,
                PropertyId::MessageExpiryInterval => self.message_expiry_secs = Some(properties.u32()?),
                PropertyId::ContentType => drop(properties.string()?),
                PropertyId::ResponseTopic => drop(properties.topic_name(RESPONSE_TOPIC_WILDCARD)?),
                PropertyId::CorrelationData => drop(properties.binary()?),
                _ => return properties.not_allowed(),
            }
        }
        self.forwardable = properties.into_forwardable();
        Ok(())
    }

    /// Writes what the payload of a CONNECT has of the will.
    pub(super) fn put<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        if version == ProtocolVersion::V5 {
            self.put_property_block(sink);
        }
        sink.put_string(self.topic);
        sink.put_binary(self.payload);
    }
}

impl PutProperties for Will<'_> {
    fn put_properties<S: Sink>(&self, sink: &mut S) {
        sink.property_u32(PropertyId::WillDelayInterval, unless(self.delay_secs, 0));
        sink.property_u32(PropertyId::MessageExpiryInterval, self.message_expiry_secs);
        sink.put(&self.forwardable);
    }
}
