//! No input makes the codec panic, and whatever it accepts it can say again.

use proptest::collection::vec;
use proptest::prelude::*;

use super::fuzzing::{fuzz_decode, fuzz_round_trip};
use super::samples::parts;
use super::*;
use crate::fuzz_input::cases;

/// A packet whose length is right and whose body is anything.
fn framed() -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), vec(any::<u8>(), 0..64)).prop_map(|(first_byte, body)| packet(first_byte, &body))
}

/// A packet of MQTT 5 whose property block has the right length and anything in it, small numbers being likely.
fn with_property_block() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => 0..0x2Bu8, 1 => any::<u8>()];
    (0..heads().len(), vec(byte, 0..40), vec(any::<u8>(), 0..8)).prop_map(|(head, properties, rest)| {
        let (first_byte, before) = &heads()[head];
        packet(*first_byte, &[before.clone(), block(&properties), rest].concat())
    })
}

/// First bytes, and what stands before the property block.
fn heads() -> Vec<(u8, Vec<u8>)> {
    vec![
        (0x10, hex("0004 4D515454 05 02 0000")),
        (0x10, hex("0004 4D515454 05 C6 0000 00 0001 63")),
        (0x20, hex("00 00")),
        (0x32, hex("0001 74 0001")),
        (0x40, hex("0001 00")),
        (0x62, hex("0001 00")),
        (0x82, hex("0001")),
        (0x90, hex("0001")),
        (0xA2, hex("0001")),
        (0xB0, hex("0001")),
        (0xE0, hex("00")),
        (0xF0, hex("18")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(4_000)))]

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..200)) {
        fuzz_decode(&bytes);
    }

    #[test]
    fn any_body(bytes in vec(framed(), 1..4)) {
        fuzz_decode(&bytes.concat());
    }

    #[test]
    fn any_description(bytes in vec(any::<u8>(), 0..400)) {
        fuzz_round_trip(&bytes);
    }

    #[test]
    fn any_properties(bytes in with_property_block()) {
        fuzz_decode(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(200)))]

    #[test]
    fn packets_with_a_few_bytes_changed(
        parts in parts(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        for version in EVERY_VERSION {
            for (sent, _) in parts.packets(version) {
                let mut bytes = encode(&sent, version);
                for (place, value) in &changes {
                    let place = place.index(bytes.len());
                    bytes[place] = *value;
                }
                fuzz_decode(&bytes);
            }
        }
    }

    #[test]
    fn packets_with_a_piece_missing_or_twice(
        parts in parts(),
        start in any::<prop::sample::Index>(),
        length in 1..6usize,
        twice in any::<bool>(),
    ) {
        for version in EVERY_VERSION {
            for (sent, _) in parts.packets(version) {
                let bytes = encode(&sent, version);
                let frame = Frame::parse(&bytes, u32::MAX).unwrap().unwrap();
                if frame.body.is_empty() {
                    continue;
                }
                let start = start.index(frame.body.len());
                let end = (start + length).min(frame.body.len());
                let resume = if twice { start } else { end };
                let body = [&frame.body[..if twice { end } else { start }], &frame.body[resume..]].concat();
                fuzz_decode(&packet(bytes[0], &body));
            }
        }
    }

    #[test]
    fn every_truncation(parts in parts()) {
        for version in EVERY_VERSION {
            for (sent, _) in parts.packets(version) {
                let bytes = encode(&sent, version);
                let frame = Frame::parse(&bytes, u32::MAX).unwrap().unwrap();
                for length in 0..frame.body.len() {
                    fuzz_decode(&packet(bytes[0], &frame.body[..length]));
                }
                for length in 0..bytes.len() {
                    prop_assert_eq!(Frame::parse(&bytes[..length], u32::MAX), Ok(None));
                }
            }
        }
    }
}

#[test]
fn every_pair_of_bytes_as_a_body() {
    for first_byte in 0..=255u8 {
        for body in 0..=u16::MAX {
            // All of the values that matter for lengths, identifiers and codes; a full square takes too long.
            let [high, low] = body.to_be_bytes();
            if high > 2 && high < 0x80 && low > 0x2B && low < 0x7F {
                continue;
            }
            if let Ok(Some(frame)) = Frame::parse(&[first_byte, 2, high, low], 4) {
                for version in EVERY_VERSION {
                    let _ = std::hint::black_box(Packet::decode(frame, version));
                }
            }
        }
    }
}
