//! The fuzzers' way in: what every input has to satisfy, whoever makes the inputs.

use super::{Frame, Packet, ProtocolVersion};

/// Takes `data` for a byte stream of each version and asserts, for every packet that decodes, that encoding it takes
/// the bytes it announces and gives a packet which decodes to the same. Panics on a violation, and on nothing else.
pub fn fuzz_decode(data: &[u8]) {
    for version in [
        ProtocolVersion::V3_1,
        ProtocolVersion::V3_1_1,
        ProtocolVersion::V5,
    ] {
        let mut rest = data;
        while let Ok(Some(frame)) = Frame::parse(rest, u32::MAX) {
            rest = &rest[frame.size..];
            if let Ok(packet) = Packet::decode(frame, version) {
                assert_survives(&packet, version);
            }
        }
    }
}

/// Asserts that the packet comes back from its own encoding.
fn assert_survives(packet: &Packet<'_>, version: ProtocolVersion) {
    let mut bytes = Vec::new();
    packet.encode(version, &mut bytes);
    assert_eq!(
        packet.encoded_len(version),
        bytes.len(),
        "announced and written length of {packet:?}"
    );
    let frame = match Frame::parse(&bytes, u32::MAX) {
        Ok(Some(frame)) => frame,
        other => panic!("{packet:?} encodes to {bytes:02X?}, which is no frame: {other:?}"),
    };
    assert_eq!(frame.size, bytes.len(), "frame of {packet:?}");
    assert_eq!(
        Packet::decode(frame, version).as_ref(),
        Ok(packet),
        "decoded again at {version:?}"
    );
}
