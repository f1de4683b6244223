//! What a message of a run says: whose run it belongs to, who published it, and its number.
//!
//! The payload is a checksum, the identity, and filler up to the size that was asked for; the checksum covers all that
//! follows it. So a payload that was cut, mixed up or of another run is known as such.

use std::fmt;

/// Checksum, run, kind, index, number.
const HEADER_BYTES: usize = 4 + 8 + 1 + 4 + 8;

/// The smallest payload.
pub(crate) const PAYLOAD_BYTES_MIN: usize = HEADER_BYTES;

/// Who published a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// A publisher of the main stream, by index.
    Stream(u32),
    /// A publisher to a shared group, by index.
    Shared(u32),
    /// The writer of a retained topic, by index.
    Retained(u32),
    /// A client with wills, by index.
    Will(u32),
}

impl Source {
    const fn parts(self) -> (u8, &'static str, u32) {
        match self {
            Self::Stream(index) => (1, "stream", index),
            Self::Shared(index) => (2, "shared", index),
            Self::Retained(index) => (3, "retained", index),
            Self::Will(index) => (4, "will", index),
        }
    }

    const fn from_parts(kind: u8, index: u32) -> Option<Self> {
        Some(match kind {
            1 => Self::Stream(index),
            2 => Self::Shared(index),
            3 => Self::Retained(index),
            4 => Self::Will(index),
            _ => return None,
        })
    }

    /// The topic of its messages.
    pub(crate) fn topic(self, run: u64) -> String {
        let (_, kind, index) = self.parts();
        format!("{}{kind}/{index}", topic_prefix(run))
    }

    /// The filter for all sources of the same kind.
    pub(crate) fn filter_of_kind(self, run: u64) -> String {
        let (_, kind, _) = self.parts();
        format!("{}{kind}/+", topic_prefix(run))
    }

    /// Whether this is the part of its topic that follows [`topic_prefix`].
    pub(crate) fn has_topic(self, rest: &str) -> bool {
        let (_, kind, index) = self.parts();
        let found = rest.strip_prefix(kind).and_then(|rest| rest.strip_prefix('/'));
        found.and_then(|index| index.parse().ok()) == Some(index)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, kind, index) = self.parts();
        write!(f, "{kind}/{index}")
    }
}

/// The beginning of every topic of a run.
pub(crate) fn topic_prefix(run: u64) -> String {
    format!("verify/{run:016x}/")
}

/// The identity of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Identifies the run.
    pub(crate) run: u64,
    /// Who published it.
    pub(crate) source: Source,
    /// Counts the messages of the source from 1.
    pub(crate) number: u64,
}

impl Message {
    /// Writes the payload of `bytes` bytes, or of the smallest size where that is more, in place of what `payload` held.
    pub(crate) fn encode(&self, bytes: usize, payload: &mut Vec<u8>) {
        let (kind, _, index) = self.source.parts();
        payload.clear();
        payload.extend_from_slice(&[0; 4]);
        payload.extend_from_slice(&self.run.to_be_bytes());
        payload.push(kind);
        payload.extend_from_slice(&index.to_be_bytes());
        payload.extend_from_slice(&self.number.to_be_bytes());
        payload.resize(bytes.max(HEADER_BYTES), self.number as u8);
        let checksum = crc32c::crc32c(&payload[4..]);
        payload[..4].copy_from_slice(&checksum.to_be_bytes());
    }

    /// The identity in a payload; `None` for what no run wrote, or what was damaged.
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let (checksum, rest) = payload.split_first_chunk::<4>()?;
        if crc32c::crc32c(rest) != u32::from_be_bytes(*checksum) {
            return None;
        }
        let (run, rest) = rest.split_first_chunk::<8>()?;
        let (kind, rest) = rest.split_first()?;
        let (index, rest) = rest.split_first_chunk::<4>()?;
        let (number, _) = rest.split_first_chunk::<8>()?;
        Some(Self {
            run: u64::from_be_bytes(*run),
            source: Source::from_parts(*kind, u32::from_be_bytes(*index))?,
            number: u64::from_be_bytes(*number),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: Message = Message {
        run: 0xABCD,
        source: Source::Shared(3),
        number: 77,
    };

    #[test]
    fn a_payload_says_what_it_is() {
        let mut payload = Vec::new();
        for bytes in [0, PAYLOAD_BYTES_MIN, 100] {
            MESSAGE.encode(bytes, &mut payload);
            assert_eq!(payload.len(), bytes.max(PAYLOAD_BYTES_MIN));
            assert_eq!(Message::decode(&payload), Some(MESSAGE));
        }
    }

    #[test]
    fn damage_anywhere_is_seen() {
        let mut payload = Vec::new();
        MESSAGE.encode(40, &mut payload);
        for index in 0..payload.len() {
            let mut damaged = payload.clone();
            damaged[index] ^= 1;
            assert_eq!(Message::decode(&damaged), None);
            assert_eq!(Message::decode(&payload[..index]), None);
        }
    }

    #[test]
    fn a_topic_belongs_to_one_source() {
        let topic = MESSAGE.source.topic(0xABCD);
        assert_eq!(topic, "verify/000000000000abcd/shared/3");
        let rest = topic.strip_prefix(&topic_prefix(0xABCD)).unwrap();
        assert!(Source::Shared(3).has_topic(rest));
        for other in [Source::Shared(4), Source::Stream(3), Source::Will(3)] {
            assert!(!other.has_topic(rest));
        }
        assert_eq!(
            MESSAGE.source.filter_of_kind(1),
            "verify/0000000000000001/shared/+"
        );
    }
}
