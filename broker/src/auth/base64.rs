//! Base64 with padding [RFC 4648 4], as SCRAM messages and verifiers carry it. Small enough to keep here; strict:
//! one text per value, so that nothing is accepted in two spellings.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Encodes.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let group = at(0) << 16 | at(1) << 8 | at(2);
        for index in 0..4 {
            let sextet = (group >> (18 - 6 * index)) as usize & 0x3F;
            text.push(if index <= chunk.len() {
                char::from(ALPHABET[sextet])
            } else {
                '='
            });
        }
    }
    text
}

/// Decodes; `None` for anything that [`encode`] does not write.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for (index, chunk) in text.chunks_exact(4).enumerate() {
        let is_last = (index + 1) * 4 == text.len();
        let padded = if is_last { padding } else { 0 };
        if padded > 2 {
            return None;
        }
        let mut group = 0;
        for byte in &chunk[..4 - padded] {
            group = group << 6 | sextet(*byte)?;
        }
        group <<= 6 * padded;
        let decoded = [(group >> 16) as u8, (group >> 8) as u8, group as u8];
        // The bits that padding leaves over are zero, or one value would have several texts.
        if decoded[3 - padded..].iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend_from_slice(&decoded[..3 - padded]);
    }
    Some(bytes)
}

fn sextet(byte: u8) -> Option<u32> {
    ALPHABET
        .iter()
        .position(|letter| *letter == byte)
        .map(|index| index as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_vectors_of_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()));
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "Zg", "Zg=", "Z===", "====", "Zh==", "Zm9=", "Zg==Zg==", "Zm 9", "Zm9v\n", "Zm-_",
        ] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }

        #[test]
        fn what_decodes_has_one_spelling(text in "[A-Za-z0-9+/]{0,6}={0,2}") {
            if let Some(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
