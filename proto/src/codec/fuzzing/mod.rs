//! The fuzzers' way in: what every input has to satisfy, whoever makes the inputs.
//!
//! - [`fuzz_decode`] takes bytes off a wire.
//! - [`fuzz_round_trip`] takes a description of packets, so that a fuzzer is past the length fields at once, and then
//!   a few bytes to damage them with.
//!
//! Both panic on a violation, and on nothing else.

mod checks;
mod content;
mod parts;

use super::{Frame, Packet, ProtocolVersion};
use crate::fuzz_input::Input;
use checks::{assert_framed, assert_lowers, assert_shrinks, assert_sound, assert_survives, whole_frame};
#[cfg(test)]
pub(super) use content::Content;
pub(super) use parts::Parts;

const EVERY_VERSION: [ProtocolVersion; 3] = [
    ProtocolVersion::V3_1,
    ProtocolVersion::V3_1_1,
    ProtocolVersion::V5,
];

/// Takes `data` for a byte stream of each version. What decodes has to be what the standard allows, as far as it shows
/// in the packet alone; it has to encode to the bytes it announces and decode to the same again; and what a server
/// tells a client has to be a packet at the older versions too, and at any maximum packet size.
pub fn fuzz_decode(data: &[u8]) {
    for version in EVERY_VERSION {
        let mut rest = data;
        while let Ok(Some(frame)) = Frame::parse(rest, u32::MAX) {
            assert_framed(rest, frame);
            rest = &rest[frame.size..];
            if let Ok(packet) = Packet::decode(frame, version) {
                assert_sound(&packet);
                assert_survives(&packet, version);
                assert_lowers(&packet, version);
            }
        }
    }
}

/// Makes one packet of every type for every version out of `data`: each has to arrive as it was sent, as far as the
/// version knows it. Then the rest of `data` changes bytes of the stream, which goes to [`fuzz_decode`].
pub fn fuzz_round_trip(data: &[u8]) {
    let mut input = Input::new(data);
    let parts = Parts::draw(&mut input);
    let damaged_version = input.pick(&EVERY_VERSION);
    let less = usize::from(input.byte());
    parts.assert_any_order_decodes(&mut input);
    for version in EVERY_VERSION {
        let mut stream = Vec::new();
        let packets = parts.packets(version);
        for (sent, _) in &packets {
            let start = stream.len();
            sent.encode(version, &mut stream);
            assert_eq!(sent.encoded_len(version), stream.len() - start, "{sent:?}");
        }
        let mut rest = &stream[..];
        for (sent, arrives) in &packets {
            let frame = whole_frame(rest, sent);
            assert_eq!(
                Packet::decode(frame, version).as_ref(),
                Ok(arrives),
                "{version:?}, sent as {sent:?}"
            );
            assert_sound(arrives);
            let maximum = sent.encoded_len(version).saturating_sub(less);
            assert_shrinks(sent, version, maximum);
            rest = &rest[frame.size..];
        }
        assert!(rest.is_empty());
        if version == damaged_version && !input.is_empty() {
            damage(&mut stream, &mut input);
            fuzz_decode(&stream);
        }
    }
}

/// Changes, removes or repeats up to four pieces of the stream.
fn damage(stream: &mut Vec<u8>, input: &mut Input<'_>) {
    for _ in 0..=input.below(4) {
        let at = usize::from(input.u16()) % stream.len();
        match input.below(4) {
            0 => drop(
                stream.drain(
                    at..(at + 1 + usize::from(input.below(8)))
                        .min(stream.len() - 1)
                        .max(at),
                ),
            ),
            1 => {
                let piece = stream[at..(at + 8).min(stream.len())].to_vec();
                stream.splice(at..at, piece);
            }
            _ => stream[at] = input.byte(),
        }
    }
}
