//! The bytes that the next flush writes: small records one after the other in one buffer, long payloads where they are.
//!
//! A long payload is not copied: that would take memory and time in the thread that appends, and, under the log's lock, in
//! all others.

use bytes::Bytes;

/// A payload from this size on is written from where it is: a write of its own costs less than the copy. Tests that crash
/// the log have short payloads, and are to write several pieces too.
const SHARED_BYTES_MIN: usize = if cfg!(test) { 512 } else { 64 << 10 };

/// Memory above this size is freed after use.
const BYTES_KEPT: usize = 1 << 20;

/// Bytes in the order in which they go into the file.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    copied: Vec<u8>,
    /// Payloads that are not copied, each behind so many of the copied bytes.
    shared: Vec<(usize, Bytes)>,
    shared_bytes: usize,
}

impl Pieces {
    pub(crate) fn len(&self) -> usize {
        self.copied.len() + self.shared_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Room for copies of so many bytes.
    pub(crate) fn reserve<'a>(&mut self, headers: usize, payloads: impl Iterator<Item = &'a Bytes>) {
        let copied = payloads.map(Bytes::len).filter(|len| *len < SHARED_BYTES_MIN);
        self.copied.reserve(headers + copied.sum::<usize>());
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.copied.extend_from_slice(bytes);
    }

    pub(crate) fn put_payload(&mut self, payload: &Bytes) {
        if payload.len() < SHARED_BYTES_MIN {
            return self.put(payload);
        }
        self.shared_bytes += payload.len();
        self.shared.push((self.copied.len(), payload.clone()));
    }

    /// Replaces the first bytes, which were put as such.
    pub(crate) fn put_first(&mut self, bytes: &[u8]) {
        self.copied[..bytes.len()].copy_from_slice(bytes);
    }

    /// What is to be written, in order, each with its offset from the first.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let mut from = 0;
        let ends = self.shared.iter().map(|(end, payload)| (*end, &payload[..]));
        let pieces = ends
            .chain([(self.copied.len(), &[][..])])
            .flat_map(move |(end, payload)| {
                let copied = &self.copied[from..end];
                from = end;
                [copied, payload]
            });
        let mut offset = 0;
        pieces.filter(|piece| !piece.is_empty()).map(move |piece| {
            let at = offset;
            offset += piece.len() as u64;
            (at, piece)
        })
    }

    /// Empty pieces with the memory of these, if that is not much.
    pub(crate) fn into_spare(mut self) -> Option<Self> {
        self.copied.clear();
        let copied = self.copied;
        (copied.capacity() <= BYTES_KEPT).then(|| Self {
            copied,
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pieces: &Pieces) -> Vec<u8> {
        let mut file = vec![0; pieces.len()];
        for (offset, piece) in pieces.in_order() {
            let offset = usize::try_from(offset).unwrap();
            file[offset..offset + piece.len()].copy_from_slice(piece);
        }
        file
    }

    #[test]
    fn long_payloads_are_not_copied_and_stay_in_their_place() {
        let mut pieces = Pieces::default();
        let mut expected = Vec::new();
        let mut long = Vec::new();
        for (number, len) in [
            10,
            SHARED_BYTES_MIN,
            SHARED_BYTES_MIN + 1,
            0,
            SHARED_BYTES_MIN - 1,
            3 << 20,
            7,
        ]
        .into_iter()
        .enumerate()
        {
            let payload = Bytes::from(vec![number as u8 + 1; len]);
            pieces.put(b"header");
            pieces.put_payload(&payload);
            expected.extend_from_slice(b"header");
            expected.extend_from_slice(&payload);
            long.extend((len >= SHARED_BYTES_MIN).then(|| payload.as_ptr()));
        }
        assert_eq!(pieces.len(), expected.len());
        assert!(written(&pieces) == expected);
        let shared = pieces
            .in_order()
            .filter(|(_, piece)| piece.len() >= SHARED_BYTES_MIN && piece[0] != b'h');
        assert_eq!(shared.map(|(_, piece)| piece.as_ptr()).collect::<Vec<_>>(), long);
        pieces.put_first(b"HEADER");
        assert!(written(&pieces).starts_with(b"HEADER"));
        assert!(pieces.into_spare().is_some_and(|spare| spare.is_empty()));
    }

    #[test]
    fn a_payload_at_the_end_or_alone_is_written_too() {
        for header in [&b""[..], b"h"] {
            let mut pieces = Pieces::default();
            pieces.put(header);
            pieces.put_payload(&Bytes::from(vec![1; SHARED_BYTES_MIN]));
            let mut expected = header.to_vec();
            expected.extend(vec![1; SHARED_BYTES_MIN]);
            assert!(written(&pieces) == expected);
        }
        assert_eq!(Pieces::default().in_order().count(), 0);
    }

    #[test]
    fn much_memory_is_not_kept() {
        let mut pieces = Pieces::default();
        pieces.put(&vec![1; BYTES_KEPT + 1]);
        assert!(pieces.into_spare().is_none());
    }
}
