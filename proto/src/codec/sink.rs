//! Writing: every packet says once what it consists of, and that one description is run twice, first against a
//! counter and then against the output buffer. So the lengths on the wire cannot disagree with what is written, and
//! `encoded_len` is exact. [`super::OutboundPublish`] alone computes its length by hand, being the hottest.

use super::ProtocolVersion;
use super::primitive::VARIABLE_MAX;
use super::property::PropertyId;

/// Where a packet is written to. The provided methods write the primitive types.
///
/// Strings and binary data are limited to 65,535 bytes by their length field. Whatever came off a wire fits; should
/// anything longer get here nevertheless it is cut, because a shorter string does less harm than a stream out of step
/// or a process that stops.
pub(super) trait Sink {
    fn put(&mut self, bytes: &[u8]);

    #[inline]
    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    #[inline]
    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    #[inline]
    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    #[inline]
    fn put_variable(&mut self, value: u32) {
        let (bytes, length) = variable_bytes(value);
        self.put(&bytes[..length]);
    }

    #[inline]
    fn put_binary(&mut self, bytes: &[u8]) {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.put_u16(length);
        self.put(&bytes[..usize::from(length)]);
    }

    #[inline]
    fn put_string(&mut self, text: &str) {
        self.put_binary(clip(text).as_bytes());
    }

    fn property_u8(&mut self, id: PropertyId, value: Option<u8>) {
        if let Some(value) = value {
            self.put(&[id as u8, value]);
        }
    }

    /// A property that is written only when it differs from its default.
    fn property_flag(&mut self, id: PropertyId, value: bool, default: bool) {
        self.property_u8(id, (value != default).then_some(u8::from(value)));
    }

    fn property_u16(&mut self, id: PropertyId, value: Option<u16>) {
        if let Some(value) = value {
            self.put_u8(id as u8);
            self.put_u16(value);
        }
    }

    fn property_u32(&mut self, id: PropertyId, value: Option<u32>) {
        if let Some(value) = value {
            self.put_u8(id as u8);
            self.put_u32(value);
        }
    }

    fn property_variable(&mut self, id: PropertyId, value: Option<u32>) {
        if let Some(value) = value {
            self.put_u8(id as u8);
            self.put_variable(value);
        }
    }

    fn property_string(&mut self, id: PropertyId, value: Option<&str>) {
        if let Some(value) = value {
            self.put_u8(id as u8);
            self.put_string(value);
        }
    }

    fn property_binary(&mut self, id: PropertyId, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.put_u8(id as u8);
            self.put_binary(value);
        }
    }
}

impl Sink for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts what would be written.
#[derive(Default)]
pub(super) struct Counter {
    length: usize,
}

impl Sink for Counter {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
    }
}

/// What has an MQTT 5 property block.
pub(super) trait PutProperties {
    /// Writes the properties, without the length in front of them.
    fn put_properties<S: Sink>(&self, sink: &mut S);

    /// Bytes of the properties, without the length in front of them.
    fn properties_len(&self) -> usize {
        let mut counter = Counter::default();
        self.put_properties(&mut counter);
        counter.length
    }

    /// Writes the length of the properties, then the properties.
    fn put_property_block<S: Sink>(&self, sink: &mut S) {
        sink.put_variable(wire_length(self.properties_len()));
        self.put_properties(sink);
    }
}

/// What is a packet: everything behind its fixed header.
pub(super) trait PutBody {
    /// Writes variable header and payload.
    fn put_body<S: Sink>(&self, version: ProtocolVersion, sink: &mut S);

    /// Exact bytes of the whole packet.
    fn packet_len(&self, version: ProtocolVersion) -> usize {
        let remaining = self.body_len(version);
        1 + variable_len(wire_length(remaining)) + remaining
    }

    /// Appends the whole packet, its fixed header beginning with `first_byte`.
    fn put_packet(&self, first_byte: u8, version: ProtocolVersion, out: &mut Vec<u8>) {
        let remaining = self.body_len(version);
        out.reserve(1 + 4 + remaining);
        out.put_u8(first_byte);
        out.put_variable(wire_length(remaining));
        self.put_body(version, out);
    }

    /// Bytes of variable header and payload.
    fn body_len(&self, version: ProtocolVersion) -> usize {
        let mut counter = Counter::default();
        self.put_body(version, &mut counter);
        counter.length
    }
}

/// A length as the wire carries it.
#[inline]
pub(super) fn wire_length(length: usize) -> u32 {
    debug_assert!(
        length <= VARIABLE_MAX as usize,
        "the sender keeps packets below PACKET_SIZE_MAX"
    );
    length as u32
}

/// Bytes that a variable byte integer takes.
#[inline]
pub(super) const fn variable_len(value: u32) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// A variable byte integer, in as many bytes of the array as it takes [MQTT5 1.5.5].
#[inline]
pub(super) const fn variable_bytes(value: u32) -> ([u8; 4], usize) {
    let length = variable_len(value);
    let groups = [value, value >> 7, value >> 14, value >> 21];
    let mut bytes = [0; 4];
    let mut index = 0;
    while index < length {
        let more = if index + 1 < length { 0x80 } else { 0 };
        bytes[index] = (groups[index] & 0x7F) as u8 | more;
        index += 1;
    }
    (bytes, length)
}

/// The text, cut to what a length of two bytes can express.
#[inline]
pub(super) fn clip(text: &str) -> &str {
    if text.len() <= usize::from(u16::MAX) {
        text
    } else {
        &text[..text.floor_char_boundary(usize::from(u16::MAX))]
    }
}

/// `Some` unless it is the default, which the wire leaves out.
pub(super) fn unless<T: PartialEq>(value: T, default: T) -> Option<T> {
    (value != default).then_some(value)
}
