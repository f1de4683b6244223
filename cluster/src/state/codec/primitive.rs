//! Integers, strings and byte runs as entries and stored values write them.
//!
//! Invariant: nothing is allocated for a length that the remaining bytes cannot hold, and no input makes a read panic.

use std::sync::Arc;

use bytes::Bytes;

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Written by a version of the format that this one does not know.
    #[error("format version {0} is unknown")]
    Version(u8),
    /// A discriminant that the format does not have.
    #[error("{what} {tag} is unknown")]
    Tag {
        /// What it tells apart.
        what: &'static str,
        /// The byte.
        tag: u8,
    },
    /// The bytes end too early, or a length is larger than what is left.
    #[error("the bytes end within {0}")]
    Truncated(&'static str),
    /// A value that its term cannot take.
    #[error("{0} is out of range")]
    Invalid(&'static str),
    /// Bytes are left after the end.
    #[error("{0} bytes are left over")]
    Trailing(usize),
}

/// Appends an unsigned integer in groups of 7 bits, lowest first; the top bit says that more follow.
pub(in crate::state) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// What [`put_varint`] wrote at `at`, which moves behind it.
pub(in crate::state) fn take_varint(
    bytes: &[u8],
    at: &mut usize,
    what: &'static str,
) -> Result<u64, CodecError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at).ok_or(CodecError::Truncated(what))?;
        *at += 1;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(CodecError::Invalid(what))
}

/// Appends a string behind its length.
pub(in crate::state) fn put_str(out: &mut Vec<u8>, value: &str) {
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value.as_bytes());
}

/// Appends a truth value.
pub(in crate::state) fn put_bool(out: &mut Vec<u8>, value: bool) {
    out.push(u8::from(value));
}

/// Appends an optional integer: 0 for none, else the value plus one.
pub(in crate::state) fn put_option(out: &mut Vec<u8>, value: Option<u32>) {
    put_varint(out, value.map_or(0, |value| u64::from(value) + 1));
}

/// Appends an optional integer of 64 bits: whether it is there, then the value.
pub(in crate::state) fn put_option_u64(out: &mut Vec<u8>, value: Option<u64>) {
    put_bool(out, value.is_some());
    if let Some(value) = value {
        put_varint(out, value);
    }
}

/// What [`put_option_u64`] wrote.
pub(in crate::state) fn read_option_u64(
    reader: &mut Reader<'_>,
    what: &'static str,
) -> Result<Option<u64>, CodecError> {
    match reader.bool(what)? {
        false => Ok(None),
        true => reader.varint(what).map(Some),
    }
}

/// Reads from the front of shared bytes; byte runs it hands out share their allocation.
#[derive(Debug)]
pub(in crate::state) struct Reader<'a> {
    source: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(in crate::state) fn new(source: &'a Bytes) -> Self {
        Self { source, at: 0 }
    }

    /// Bytes not read yet.
    pub(in crate::state) fn remaining(&self) -> usize {
        self.source.len() - self.at
    }

    /// Succeeds when everything was read.
    pub(in crate::state) fn finish(&self) -> Result<(), CodecError> {
        match self.remaining() {
            0 => Ok(()),
            left => Err(CodecError::Trailing(left)),
        }
    }

    pub(in crate::state) fn u8(&mut self, what: &'static str) -> Result<u8, CodecError> {
        let byte = *self.source.get(self.at).ok_or(CodecError::Truncated(what))?;
        self.at += 1;
        Ok(byte)
    }

    pub(in crate::state) fn bool(&mut self, what: &'static str) -> Result<bool, CodecError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CodecError::Invalid(what)),
        }
    }

    pub(in crate::state) fn varint(&mut self, what: &'static str) -> Result<u64, CodecError> {
        take_varint(self.source, &mut self.at, what)
    }

    pub(in crate::state) fn varint_u32(&mut self, what: &'static str) -> Result<u32, CodecError> {
        u32::try_from(self.varint(what)?).map_err(|_| CodecError::Invalid(what))
    }

    pub(in crate::state) fn varint_u16(&mut self, what: &'static str) -> Result<u16, CodecError> {
        u16::try_from(self.varint(what)?).map_err(|_| CodecError::Invalid(what))
    }

    /// What [`put_option`] wrote.
    pub(in crate::state) fn option(&mut self, what: &'static str) -> Result<Option<u32>, CodecError> {
        match self.varint(what)? {
            0 => Ok(None),
            more => u32::try_from(more - 1)
                .map(Some)
                .map_err(|_| CodecError::Invalid(what)),
        }
    }

    /// A number of items of which each takes at least `item_bytes_min`, so that a buffer for them may be reserved.
    pub(in crate::state) fn count(
        &mut self,
        item_bytes_min: usize,
        what: &'static str,
    ) -> Result<usize, CodecError> {
        let count = self.length(what)?;
        if count > self.remaining() / item_bytes_min {
            return Err(CodecError::Truncated(what));
        }
        Ok(count)
    }

    pub(in crate::state) fn length(&mut self, what: &'static str) -> Result<usize, CodecError> {
        usize::try_from(self.varint(what)?).map_err(|_| CodecError::Invalid(what))
    }

    /// The next `len` bytes.
    pub(in crate::state) fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], CodecError> {
        if len > self.remaining() {
            return Err(CodecError::Truncated(what));
        }
        let taken = &self.source[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    /// The next `len` bytes without copying them.
    pub(in crate::state) fn take_shared(
        &mut self,
        len: usize,
        what: &'static str,
    ) -> Result<Bytes, CodecError> {
        let start = self.at;
        self.take(len, what)?;
        Ok(self.source.slice(start..start + len))
    }

    /// Eight bytes, highest first.
    pub(in crate::state) fn u64_big_endian(&mut self, what: &'static str) -> Result<u64, CodecError> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8, what)?);
        Ok(u64::from_be_bytes(bytes))
    }

    /// Eight bytes, lowest first.
    pub(in crate::state) fn u64_fixed(&mut self, what: &'static str) -> Result<u64, CodecError> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8, what)?);
        Ok(u64::from_le_bytes(bytes))
    }

    pub(in crate::state) fn str(&mut self, what: &'static str) -> Result<Arc<str>, CodecError> {
        let len = self.length(what)?;
        let text = std::str::from_utf8(self.take(len, what)?).map_err(|_| CodecError::Invalid(what))?;
        Ok(Arc::from(text))
    }
}
