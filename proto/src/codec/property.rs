//! MQTT 5 properties on the wire: their identifiers and types, and the reader that walks a property block.
//!
//! A packet's decoder asks [`PropertyReader::next`] for the next identifier and then reads the value of the type that
//! belongs to it; an identifier it does not know it refuses. What holds for all packets is done here: the block's
//! length, repetition, user properties, and collecting what a subscriber gets unaltered.

use std::borrow::Cow;

use super::primitive::Reader;
use super::{DecodeError, UserProperties};

const BLOCK_TOO_LONG: DecodeError =
    DecodeError::malformed("property length reaches beyond the packet [MQTT5 2.2.2.1]");
const UNKNOWN: DecodeError = DecodeError::malformed("property identifier is not known [MQTT5 2.2.2.2]");
const NOT_ALLOWED: DecodeError =
    DecodeError::malformed("property is not allowed in this packet [MQTT5 2.2.2.2]");
const TWICE: DecodeError = DecodeError::protocol_error("property stands twice [MQTT5 2.2.2.2]");
const NOT_A_FLAG: DecodeError = DecodeError::protocol_error("property is neither 0 nor 1");

macro_rules! property_ids {
    ($($name:ident = $value:literal: $kind:ident),* $(,)?) => {
        /// Property identifiers [MQTT5 2.2.2.2]. All are below 0x80, so the variable byte integer is one byte.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum PropertyId {
            $($name = $value),*
        }

        impl PropertyId {
            #[inline]
            pub(super) const fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($value => Some(Self::$name),)*
                    _ => None,
                }
            }

            const fn kind(self) -> Kind {
                match self {
                    $(Self::$name => Kind::$kind),*
                }
            }
        }
    };
}

property_ids! {
    PayloadFormatIndicator = 0x01: Byte,
    MessageExpiryInterval = 0x02: FourByte,
    ContentType = 0x03: String,
    ResponseTopic = 0x08: String,
    CorrelationData = 0x09: Binary,
    SubscriptionIdentifier = 0x0B: Variable,
    SessionExpiryInterval = 0x11: FourByte,
    AssignedClientIdentifier = 0x12: String,
    ServerKeepAlive = 0x13: TwoByte,
    AuthenticationMethod = 0x15: String,
    AuthenticationData = 0x16: Binary,
    RequestProblemInformation = 0x17: Byte,
    WillDelayInterval = 0x18: FourByte,
    RequestResponseInformation = 0x19: Byte,
    ResponseInformation = 0x1A: String,
    ServerReference = 0x1C: String,
    ReasonString = 0x1F: String,
    ReceiveMaximum = 0x21: TwoByte,
    TopicAliasMaximum = 0x22: TwoByte,
    TopicAlias = 0x23: TwoByte,
    MaximumQos = 0x24: Byte,
    RetainAvailable = 0x25: Byte,
    UserProperty = 0x26: StringPair,
    MaximumPacketSize = 0x27: FourByte,
    WildcardSubscriptionAvailable = 0x28: Byte,
    SubscriptionIdentifierAvailable = 0x29: Byte,
    SharedSubscriptionAvailable = 0x2A: Byte,
}

/// Type of a property's value.
enum Kind {
    Byte,
    TwoByte,
    FourByte,
    Variable,
    Binary,
    String,
    StringPair,
}

impl PropertyId {
    /// The identifier as a member of a set.
    const fn bit(self) -> u64 {
        1 << self as u8
    }

    /// Reads a value of this property's type without looking at its meaning.
    pub(super) fn skip_value(self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        match self.kind() {
            Kind::Byte => reader.take(1).map(drop),
            Kind::TwoByte => reader.take(2).map(drop),
            Kind::FourByte => reader.take(4).map(drop),
            Kind::Variable => reader.variable().map(drop),
            Kind::Binary => reader.binary().map(drop),
            Kind::String => reader.string().map(drop),
            Kind::StringPair => reader.string().and_then(|_| reader.string()).map(drop),
        }
    }
}

/// What a subscriber gets unaltered from the publisher or from the will [MQTT-3.3.2-4, -15, -16, -17, -18, -20].
const FORWARDED: u64 = PropertyId::PayloadFormatIndicator.bit()
    | PropertyId::ContentType.bit()
    | PropertyId::ResponseTopic.bit()
    | PropertyId::CorrelationData.bit()
    | PropertyId::UserProperty.bit();

/// Walks the property block of one packet.
pub(super) struct PropertyReader<'a> {
    block: &'a [u8],
    reader: Reader<'a>,
    /// Where the property being read begins.
    start: usize,
    /// The property being read, as a set.
    current: u64,
    seen: u64,
    repeatable: u64,
    user_properties: Span,
    forwardable: Forwardable,
}

/// A range of the block; empty when both are 0.
#[derive(Clone, Copy, Default)]
struct Span {
    start: usize,
    end: usize,
}

impl<'a> PropertyReader<'a> {
    /// Takes the property block off the front of `reader`, its length first.
    #[inline]
    pub(super) fn new(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let length = reader.variable()? as usize;
        let block = reader.take(length).map_err(|_| BLOCK_TOO_LONG)?;
        Ok(Self {
            block,
            reader: Reader::new(block),
            start: 0,
            current: 0,
            seen: 0,
            repeatable: PropertyId::UserProperty.bit(),
            user_properties: Span::default(),
            forwardable: Forwardable::default(),
        })
    }

    /// Lets a property stand more than once, which otherwise only the user property may.
    pub(super) fn repeatable(mut self, id: PropertyId) -> Self {
        self.repeatable |= id.bit();
        self
    }

    /// The next property but user properties, which are collected on the way. The caller reads its value before it
    /// asks again.
    pub(super) fn next(&mut self) -> Result<Option<PropertyId>, DecodeError> {
        loop {
            self.close();
            if self.reader.is_empty() {
                return Ok(None);
            }
            self.start = self.position();
            let id = PropertyId::from_byte(self.reader.u8()?).ok_or(UNKNOWN)?;
            if self.seen & id.bit() & !self.repeatable != 0 {
                return Err(TWICE);
            }
            self.seen |= id.bit();
            self.current = id.bit();
            if id != PropertyId::UserProperty {
                return Ok(Some(id));
            }
            id.skip_value(&mut self.reader)?;
            if self.user_properties.end == 0 {
                self.user_properties.start = self.start;
            }
            self.user_properties.end = self.position();
        }
    }

    /// Notes the property that has just been read.
    fn close(&mut self) {
        if self.current & FORWARDED != 0 {
            let span = Span {
                start: self.start,
                end: self.position(),
            };
            self.forwardable.keep(self.block, span);
        }
    }

    fn position(&self) -> usize {
        self.block.len() - self.reader.rest().len()
    }

    /// The error for a property that the packet does not have.
    pub(super) const fn not_allowed<T>(&self) -> Result<T, DecodeError> {
        Err(NOT_ALLOWED)
    }

    /// The whole block.
    pub(super) const fn block(&self) -> &'a [u8] {
        self.block
    }

    /// The user properties met so far.
    pub(super) fn user_properties(&self) -> UserProperties<'a> {
        UserProperties::from_checked(&self.block[self.user_properties.start..self.user_properties.end])
    }

    /// What a subscriber gets unaltered, of the properties met so far.
    pub(super) fn into_forwardable(self) -> Cow<'a, [u8]> {
        self.forwardable.finish(self.block)
    }

    /// A byte that is 0 or 1.
    pub(super) fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(NOT_A_FLAG),
        }
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.reader.u16()
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.reader.u32()
    }

    /// A two byte integer that must not be 0, which else is `zero`.
    pub(super) fn u16_above_zero(&mut self, zero: DecodeError) -> Result<u16, DecodeError> {
        self.reader
            .u16()
            .and_then(|value| if value == 0 { Err(zero) } else { Ok(value) })
    }

    /// A four byte integer that must not be 0, which else is `zero`.
    pub(super) fn u32_above_zero(&mut self, zero: DecodeError) -> Result<u32, DecodeError> {
        self.reader
            .u32()
            .and_then(|value| if value == 0 { Err(zero) } else { Ok(value) })
    }

    /// A variable byte integer that must not be 0, which else is `zero`.
    pub(super) fn variable_above_zero(&mut self, zero: DecodeError) -> Result<u32, DecodeError> {
        self.reader
            .variable()
            .and_then(|value| if value == 0 { Err(zero) } else { Ok(value) })
    }

    pub(super) fn string(&mut self) -> Result<&'a str, DecodeError> {
        self.reader.string()
    }

    /// A string without wildcard characters, which else is `wildcard`.
    pub(super) fn topic_name(&mut self, wildcard: DecodeError) -> Result<&'a str, DecodeError> {
        self.reader.topic_name(wildcard)
    }

    pub(super) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        self.reader.binary()
    }
}

/// Collects parts of a block: by reference as long as they follow each other without a gap, by copy after that.
#[derive(Default)]
struct Forwardable {
    span: Span,
    copied: Vec<u8>,
}

impl Forwardable {
    fn keep(&mut self, block: &[u8], part: Span) {
        if self.copied.is_empty() {
            if self.span.end == 0 {
                self.span = part;
                return;
            }
            if self.span.end == part.start {
                self.span.end = part.end;
                return;
            }
            // The first gap: nothing after it makes the result longer than what the block has from the first part on.
            self.copied.reserve_exact(block.len() - self.span.start);
            self.copied
                .extend_from_slice(&block[self.span.start..self.span.end]);
        }
        self.copied.extend_from_slice(&block[part.start..part.end]);
    }

    fn finish(self, block: &[u8]) -> Cow<'_, [u8]> {
        if self.copied.is_empty() {
            Cow::Borrowed(&block[self.span.start..self.span.end])
        } else {
            Cow::Owned(self.copied)
        }
    }
}
