//! Tests of the codec as a whole. What they share: bytes by hand, and decoding a single packet.

mod framing;
mod golden;
mod golden_publish;
mod lowering;
mod refused;
mod refused_connect;
mod refused_properties;
mod refused_subscribe;
mod robustness;
mod round_trip;
mod samples;
mod shrinking;
mod views;

use super::*;

use ProtocolVersion::{V3_1, V3_1_1, V5};

const EVERY_VERSION: [ProtocolVersion; 3] = [V3_1, V3_1_1, V5];
const BEFORE_5: [ProtocolVersion; 2] = [V3_1, V3_1_1];

/// Bytes written as hexadecimal digits; blanks are for the reader.
fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u32> = digits.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] * 16 + pair[1]) as u8)
        .collect()
}

/// A string or binary data with its length of two bytes.
fn text(content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [&(content.len() as u16).to_be_bytes()[..], content].concat()
}

/// A length below 16,384 as a variable byte integer.
fn length(length: usize) -> Vec<u8> {
    assert!(length < 16_384);
    if length < 128 {
        vec![length as u8]
    } else {
        vec![(length % 128) as u8 | 0x80, (length / 128) as u8]
    }
}

/// A property block with its length.
fn block(properties: &[u8]) -> Vec<u8> {
    [&length(properties.len()), properties].concat()
}

/// A packet with this first byte and body.
fn packet(first_byte: u8, body: &[u8]) -> Vec<u8> {
    [&[first_byte], &length(body.len())[..], body].concat()
}

/// Decodes bytes that are exactly one packet.
fn decode(bytes: &[u8], version: ProtocolVersion) -> Result<Packet<'_>, DecodeError> {
    let frame = Frame::parse(bytes, u32::MAX)?.expect("the packet is whole");
    assert_eq!(frame.size, bytes.len(), "one packet");
    Packet::decode(frame, version)
}

fn encode(packet: &Packet<'_>, version: ProtocolVersion) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode(version, &mut bytes);
    bytes
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

/// Asserts that a packet is refused at each of the versions with the reason, and that the log names the clause.
#[track_caller]
fn refused(
    versions: impl IntoIterator<Item = ProtocolVersion>,
    first_byte: u8,
    body: &[&[u8]],
    reason: u8,
    clause: &str,
) {
    let bytes = packet(first_byte, &body.concat());
    for version in versions {
        let error = decode(&bytes, version).expect_err(&format!("refused at {version:?}"));
        assert_eq!(error.reason, ReasonCode(reason), "{version:?}: {error}");
        assert!(
            error.what.contains(clause),
            "{version:?}: {error} does not name {clause}"
        );
    }
}

/// Asserts that a packet is accepted at each of the versions: the neighbour of one that is refused.
#[track_caller]
fn accepted(versions: impl IntoIterator<Item = ProtocolVersion>, first_byte: u8, body: &[&[u8]]) {
    let bytes = packet(first_byte, &body.concat());
    for version in versions {
        if let Err(error) = decode(&bytes, version) {
            panic!("{version:?}: {error}");
        }
    }
}
