//! The wire's primitive types: integers, variable byte integers, UTF-8 strings, binary data [MQTT5 1.5].
//!
//! [`Reader`] takes them off the front of a packet body; writing them is [`super::sink::Sink`].

use super::{DecodeError, PacketId};

/// The largest variable byte integer.
pub(super) const VARIABLE_MAX: u32 = 268_435_455;

const TRUNCATED: DecodeError = DecodeError::malformed("packet ends in the middle of a field [MQTT5 1.2]");
const TRAILING: DecodeError = DecodeError::malformed("bytes after the end of the packet [MQTT5 1.2]");
const VARIABLE_TOO_LONG: DecodeError =
    DecodeError::malformed("variable byte integer takes more than four bytes [MQTT5 1.5.5]");
const VARIABLE_PADDED: DecodeError =
    DecodeError::malformed("variable byte integer takes more bytes than needed [MQTT-1.5.5-1]");
const NOT_UTF8: DecodeError = DecodeError::malformed("string is not well-formed UTF-8 [MQTT-1.5.4-1]");
const NULL_CHARACTER: DecodeError = DecodeError::malformed("string contains U+0000 [MQTT-1.5.4-2]");
const PACKET_ID_ZERO: DecodeError = DecodeError::protocol_error("packet identifier is 0 [MQTT-2.2.1-3]");

/// Reads primitive types off the front of a byte slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    #[inline]
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Refuses bytes that nothing has read.
    #[inline]
    pub(super) const fn finish(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(TRAILING)
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(*head)
    }

    /// The next `length` bytes.
    #[inline]
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_be_bytes)
    }

    /// Two byte integer [MQTT5 1.5.2].
    #[inline]
    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four byte integer [MQTT5 1.5.3].
    #[inline]
    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Variable byte integer [MQTT5 1.5.5].
    #[inline]
    pub(super) fn variable(&mut self) -> Result<u32, DecodeError> {
        let first = self.u8()?;
        if first < 0x80 {
            Ok(u32::from(first))
        } else {
            self.variable_after(first)
        }
    }

    fn variable_after(&mut self, first: u8) -> Result<u32, DecodeError> {
        let mut value = u32::from(first & 0x7F);
        for shift in [7, 14, 21] {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return if byte == 0 {
                    Err(VARIABLE_PADDED)
                } else {
                    Ok(value)
                };
            }
        }
        Err(VARIABLE_TOO_LONG)
    }

    /// Binary data: a length of two bytes, then as many bytes [MQTT5 1.5.6].
    #[inline]
    pub(super) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// UTF-8 encoded string [MQTT5 1.5.4]. A byte order mark is a character like any other [MQTT-1.5.4-3].
    #[inline]
    pub(super) fn string(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.binary()?;
        let text = utf8(bytes)?;
        if any_word(bytes, zero_bytes) {
            Err(NULL_CHARACTER)
        } else {
            Ok(text)
        }
    }

    /// A topic name: a string without wildcard characters, else `wildcard` is the error. Both are found in one pass.
    #[inline]
    pub(super) fn topic_name(&mut self, wildcard: DecodeError) -> Result<&'a str, DecodeError> {
        let bytes = self.binary()?;
        let text = utf8(bytes)?;
        if any_word(bytes, |word| zero_bytes(word) | wildcard_bytes(word)) {
            return Err(if bytes.contains(&0) {
                NULL_CHARACTER
            } else {
                wildcard
            });
        }
        Ok(text)
    }

    /// Packet identifier, which is never 0 [MQTT-2.2.1-3].
    #[inline]
    pub(super) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        PacketId::new(self.u16()?).ok_or(PACKET_ID_ZERO)
    }
}

#[inline]
fn utf8(bytes: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|_| NOT_UTF8)
}

/// Whether `test` finds something in `bytes`, eight of which it looks at at a time: strings here are mostly 10 to 100
/// bytes, too short for a general search to pay off. What is missing from the last eight is filled up with 0xFF.
#[inline]
fn any_word(bytes: &[u8], test: impl Fn(u64) -> u64) -> bool {
    let (words, tail) = bytes.as_chunks::<8>();
    let found = words
        .iter()
        .fold(0, |found, word| found | test(u64::from_ne_bytes(*word)));
    if tail.is_empty() {
        return found != 0;
    }
    // The last eight bytes overlap what has been searched, which is cheaper than going byte by byte.
    let last = bytes.last_chunk::<8>().copied().unwrap_or_else(|| {
        let mut padded = [0xFF; 8];
        padded[..tail.len()].copy_from_slice(tail);
        padded
    });
    found | test(u64::from_ne_bytes(last)) != 0
}

const LOW_BITS: u64 = 0x0101_0101_0101_0101;

/// Not 0 if any byte of the word is: the classic test, by the borrow that only a zero byte takes from its high bit.
#[inline]
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(LOW_BITS) & !word & (LOW_BITS << 7)
}

/// Not 0 if any byte of the word is `+` or `#`, which differ in a single bit.
#[inline]
const fn wildcard_bytes(word: u64) -> u64 {
    const DIFFERENCE: u64 = LOW_BITS * (b'+' ^ b'#') as u64;
    zero_bytes((word | DIFFERENCE) ^ (LOW_BITS * (b'+' | b'#') as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(bytes: &[u8]) -> bool {
        any_word(bytes, |word| zero_bytes(word) | wildcard_bytes(word))
    }

    #[test]
    fn search_finds_a_needle_at_every_place_of_every_length() {
        for length in 0..40 {
            let clean = vec![b'a'; length];
            assert!(!search(&clean), "length {length}");
            for position in 0..length {
                for needle in [0, b'+', b'#'] {
                    let mut bytes = clean.clone();
                    bytes[position] = needle;
                    assert!(search(&bytes), "{needle} at {position} of {length}");
                }
            }
        }
    }

    #[test]
    fn search_takes_no_neighbour_for_a_needle() {
        let others: Vec<u8> = (1..=255).filter(|byte| !b"+#".contains(byte)).collect();
        for window in others.windows(8) {
            assert!(!search(window), "{window:?}");
        }
    }
}
