//! UNSUBSCRIBE.

use super::primitive::Reader;
use super::property::PropertyReader;
use super::sink::{PutBody, PutProperties, Sink};
use super::{DecodeError, PacketId, PacketType, ProtocolVersion, UserProperties};

const EMPTY: DecodeError = DecodeError::protocol_error("UNSUBSCRIBE has no topic filter [MQTT-3.10.3-2]");

/// UNSUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unsubscribe<'a> {
    /// Packet identifier.
    pub packet_id: PacketId,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// The filters, at least one, in order; already checked for form while decoding.
    pub filters: TopicFilters<'a>,
}

impl<'a> Unsubscribe<'a> {
    pub(super) fn decode(body: &'a [u8], version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let mut user_properties = UserProperties::default();
        if version == ProtocolVersion::V5 {
            let mut properties = PropertyReader::new(&mut reader)?;
            if properties.next()?.is_some() {
                return properties.not_allowed();
            }
            user_properties = properties.user_properties();
        }
        let filters = TopicFilters::from_payload(reader.rest())?;
        Ok(Self {
            packet_id,
            user_properties,
            filters,
        })
    }

    /// Appends the packet.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        self.put_packet(PacketType::Unsubscribe.first_byte(), version, out);
    }

    /// Exact bytes that [`Unsubscribe::encode`] appends.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        self.packet_len(version)
    }
}

impl PutProperties for Unsubscribe<'_> {
    fn put_properties<S: Sink>(&self, sink: &mut S) {
        self.user_properties.put(sink);
    }
}

impl PutBody for Unsubscribe<'_> {
    fn put_body<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) {
        sink.put_u16(self.packet_id.get());
        if version == ProtocolVersion::V5 {
            self.put_property_block(sink);
        }
        sink.put(self.filters.payload);
    }
}

/// The filters of an UNSUBSCRIBE, borrowed in encoded form.
#[derive(Clone, Copy, PartialEq)]
pub struct TopicFilters<'a> {
    /// The checked payload bytes.
    pub(crate) payload: &'a [u8],
}

impl<'a> TopicFilters<'a> {
    /// The filters in the payload of an UNSUBSCRIBE, as [`TopicFilters::encode_into`] writes it.
    ///
    /// # Errors
    ///
    /// As for an UNSUBSCRIBE with this payload.
    pub fn from_payload(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        if reader.is_empty() {
            return Err(EMPTY);
        }
        while !reader.is_empty() {
            reader.string()?;
        }
        Ok(Self { payload })
    }

    /// Appends the filters to a payload for [`TopicFilters::from_payload`].
    pub fn encode_into<'b>(filters: impl IntoIterator<Item = &'b str>, payload: &mut Vec<u8>) {
        for filter in filters {
            payload.put_string(filter);
        }
    }

    /// The filters in order.
    pub fn iter(&self) -> TopicFiltersIter<'a> {
        TopicFiltersIter {
            reader: Reader::new(self.payload),
        }
    }

    /// Number of filters; walks the payload.
    pub fn len(&self) -> usize {
        let mut reader = Reader::new(self.payload);
        std::iter::from_fn(|| reader.binary().ok()).count()
    }

    /// Always false for what was decoded [MQTT-3.10.3-2].
    pub const fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }
}

impl std::fmt::Debug for TopicFilters<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for TopicFilters<'a> {
    type Item = &'a str;
    type IntoIter = TopicFiltersIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Iterates over [`TopicFilters`].
#[derive(Clone)]
pub struct TopicFiltersIter<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for TopicFiltersIter<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.reader.string().ok()
    }
}
