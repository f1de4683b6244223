//! The fixed header: cuts a byte stream into packets.
//!
//! Nothing is believed for longer than needed: wrong flags are refused with the first byte, and a packet above the
//! limit with its length, before a byte of its body has arrived or a buffer for it exists.

use super::primitive::VARIABLE_MAX;
use super::{DecodeError, ProtocolVersion, ReasonCode};

/// The largest packet the wire can express: type, four bytes of length, 268,435,455 bytes of body. What is sent to a
/// client that sets no maximum packet size must still fit this.
pub const PACKET_SIZE_MAX: u32 = 1 + 4 + VARIABLE_MAX;

const TOO_LARGE: DecodeError = DecodeError::new(
    ReasonCode::PACKET_TOO_LARGE,
    "packet is larger than the maximum packet size [MQTT-3.1.2-24]",
);
const RESERVED_TYPE: DecodeError = DecodeError::malformed("packet type 0 is reserved [MQTT5 2.1.2]");
const RESERVED_FLAGS: DecodeError =
    DecodeError::malformed("reserved flags of the fixed header are set [MQTT-2.1.3-1]");
const RETRY_FLAG: DecodeError = DecodeError::malformed(
    "only MQTT 3.1 marks PUBREL, SUBSCRIBE and UNSUBSCRIBE as duplicates [MQTT-2.1.3-1]",
);
const LENGTH_TOO_LONG: DecodeError =
    DecodeError::malformed("remaining length takes more than four bytes [MQTT5 1.5.5]");
const LENGTH_PADDED: DecodeError =
    DecodeError::malformed("remaining length takes more bytes than needed [MQTT-1.5.5-1]");

/// The values of the low nibble each packet type may have, as bits. Type 0 has none. PUBREL, SUBSCRIBE and
/// UNSUBSCRIBE may also carry the DUP flag, which MQTT 3.1 sets on retries; [`Frame::check_flags`] knows the version.
/// PUBLISH has every value without QoS 3 [MQTT-3.3.1-4] and without DUP at QoS 0 [MQTT-3.3.1-2].
const FLAGS_ALLOWED: [u16; 16] = {
    const NONE: u16 = 1;
    const RETRIED: u16 = 1 << 0b0010 | 1 << 0b1010;
    const PUBLISH: u16 = 0b0011_1100_0011_1111;
    [
        0, NONE, NONE, PUBLISH, NONE, NONE, RETRIED, NONE, RETRIED, NONE, RETRIED, NONE, NONE, NONE, NONE,
        NONE,
    ]
};

/// Control packet type, the high nibble of the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum PacketType {
    Connect = 1,
    Connack = 2,
    Publish = 3,
    Puback = 4,
    Pubrec = 5,
    Pubrel = 6,
    Pubcomp = 7,
    Subscribe = 8,
    Suback = 9,
    Unsubscribe = 10,
    Unsuback = 11,
    Pingreq = 12,
    Pingresp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            1 => Self::Connect,
            2 => Self::Connack,
            3 => Self::Publish,
            4 => Self::Puback,
            5 => Self::Pubrec,
            6 => Self::Pubrel,
            7 => Self::Pubcomp,
            8 => Self::Subscribe,
            9 => Self::Suback,
            10 => Self::Unsubscribe,
            11 => Self::Unsuback,
            12 => Self::Pingreq,
            13 => Self::Pingresp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// The first byte of a packet of this type whose flags are the fixed ones; PUBLISH adds its own.
    pub(super) const fn first_byte(self) -> u8 {
        let flags = match self {
            Self::Pubrel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        };
        (self as u8) << 4 | flags
    }
}

/// One whole packet of the stream, its body not yet decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Packet type.
    pub packet_type: PacketType,
    /// The low nibble of the first byte.
    pub flags: u8,
    /// Everything after the fixed header.
    pub body: &'a [u8],
    /// Bytes of the whole packet, fixed header included.
    pub size: usize,
}

impl<'a> Frame<'a> {
    /// Cuts the first packet off the front of `buf`; `None` when more bytes are needed. The caller drops
    /// [`Frame::size`] bytes from the buffer once it is done with the packet.
    ///
    /// # Errors
    ///
    /// 0x81 for a reserved type, reserved flags, or a remaining length that is longer than four bytes or than needed;
    /// 0x95 for a packet of more than `max_packet_size` bytes, fixed header included. Each is found as early as the
    /// bytes for it are there.
    #[inline]
    pub fn parse(buf: &'a [u8], max_packet_size: u32) -> Result<Option<Self>, DecodeError> {
        let Some(header) = Header::parse(buf)? else {
            return Ok(None);
        };
        if header.size > max_packet_size as usize {
            return Err(TOO_LARGE);
        }
        let Some(body) = buf.get(header.length..header.size) else {
            return Ok(None);
        };
        Ok(Some(Self {
            packet_type: header.packet_type,
            flags: header.flags,
            body,
            size: header.size,
        }))
    }

    /// Bytes the first packet of `buf` takes in all, as its fixed header announces; `None` while the header is
    /// incomplete or when it is wrong. For sizing a read buffer after [`Frame::parse`] returned `None`, and so had no
    /// objection to the size.
    pub fn needed(buf: &[u8]) -> Option<usize> {
        Header::parse(buf).ok().flatten().map(|header| header.size)
    }

    /// Refuses flags the version does not know; [`Frame::parse`] did all of this but for the version.
    pub(super) fn check_flags(&self, version: ProtocolVersion) -> Result<(), DecodeError> {
        if FLAGS_ALLOWED[self.packet_type as usize] >> (self.flags & 0x0F) & 1 == 0 {
            return Err(RESERVED_FLAGS);
        }
        if self.flags == 0b1010 && self.packet_type != PacketType::Publish && version != ProtocolVersion::V3_1
        {
            return Err(RETRY_FLAG);
        }
        Ok(())
    }
}

/// A fixed header.
struct Header {
    packet_type: PacketType,
    flags: u8,
    /// Bytes of the header itself, 2 to 5.
    length: usize,
    /// Bytes of the whole packet.
    size: usize,
}

impl Header {
    #[inline]
    fn parse(buf: &[u8]) -> Result<Option<Self>, DecodeError> {
        let Some((&first, rest)) = buf.split_first() else {
            return Ok(None);
        };
        let Some(packet_type) = PacketType::from_bits(first >> 4) else {
            return Err(RESERVED_TYPE);
        };
        let flags = first & 0x0F;
        if FLAGS_ALLOWED[packet_type as usize] >> flags & 1 == 0 {
            return Err(if packet_type == PacketType::Publish {
                publish_flags(flags)
            } else {
                RESERVED_FLAGS
            });
        }
        let Some((remaining, length_bytes)) = remaining_length(rest)? else {
            return Ok(None);
        };
        let length = 1 + length_bytes;
        Ok(Some(Self {
            packet_type,
            flags,
            length,
            size: length + remaining,
        }))
    }
}

/// Why these flags of a PUBLISH are wrong.
fn publish_flags(flags: u8) -> DecodeError {
    if flags & 0b0110 == 0b0110 {
        DecodeError::QOS_3
    } else {
        DecodeError::DUP_AT_QOS_0
    }
}

/// The remaining length and the bytes it takes; `None` when its last byte is not there yet.
#[inline]
fn remaining_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, DecodeError> {
    match *bytes {
        [first @ 0..0x80, ..] => Ok(Some((usize::from(first), 1))),
        [first, second @ 1..0x80, ..] => Ok(Some((usize::from(first & 0x7F) | usize::from(second) << 7, 2))),
        _ => long_remaining_length(bytes),
    }
}

/// A remaining length of three or four bytes, or one that is incomplete or wrong.
#[cold]
fn long_remaining_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, DecodeError> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte < 0x80 {
            return if byte == 0 {
                Err(LENGTH_PADDED)
            } else {
                Ok(Some((value, index + 1)))
            };
        }
    }
    if bytes.len() < 4 {
        Ok(None)
    } else {
        Err(LENGTH_TOO_LONG)
    }
}
