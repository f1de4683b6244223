//! The fixed header: packets cut from a stream, and streams that stop being one.

use super::*;

/// One packet of every type and some of every size class, as one stream.
fn stream() -> (Vec<u8>, Vec<usize>) {
    let mut stream = Vec::new();
    let mut sizes = Vec::new();
    let payload = vec![7; 20_000];
    for payload_len in [0, 1, 100, 121, 122, 123, 16_378, 16_379, 16_380, 20_000] {
        let publish = OutboundPublish {
            topic: "a/b",
            payload: &payload[..payload_len],
            forwardable: &[],
            qos: QoS::AtMostOnce,
            dup: false,
            retain: false,
            packet_id: None,
            message_expiry_secs: None,
            topic_alias: None,
            subscription_ids: &[],
        };
        let start = stream.len();
        publish.encode(V5, &mut stream);
        sizes.push(stream.len() - start);
    }
    for whole in [
        hex("10 0E 0004 4D515454 04 02 003C 0002 6964"),
        hex("20 03 00 00 00"),
        hex("40 02 0001"),
        hex("50 02 0001"),
        hex("62 02 0001"),
        hex("70 02 0001"),
        hex("82 07 0001 00 0001 61 00"),
        hex("90 04 0001 00 00"),
        hex("A2 06 0001 00 0001 61"),
        hex("B0 04 0001 00 00"),
        hex("C0 00"),
        hex("D0 00"),
        hex("E0 00"),
        hex("F0 00"),
    ] {
        sizes.push(whole.len());
        stream.extend(whole);
    }
    (stream, sizes)
}

/// Sizes of the packets that can be cut off the front, and what is left.
fn cut(mut bytes: &[u8]) -> (Vec<usize>, &[u8]) {
    let mut sizes = Vec::new();
    while let Some(frame) = Frame::parse(bytes, u32::MAX).expect("a good stream") {
        assert!(Packet::decode(frame, V5).is_ok(), "{frame:?}");
        assert_eq!(bytes[0], (frame.packet_type as u8) << 4 | frame.flags);
        assert!(bytes[..frame.size].ends_with(frame.body));
        sizes.push(frame.size);
        bytes = &bytes[frame.size..];
    }
    (sizes, bytes)
}

#[test]
fn a_stream_split_anywhere_gives_the_same_packets() {
    let (stream, sizes) = stream();
    for split in 0..=stream.len() {
        // Cutting what is behind every split again would take minutes; behind the large packets a sample does.
        if split > 2_000 && split + 200 < stream.len() && split % 97 != 0 {
            continue;
        }
        let (mut seen, rest) = cut(&stream[..split]);
        let continued = [rest, &stream[split..]].concat();
        let (after, rest) = cut(&continued);
        seen.extend(after);
        assert_eq!(seen, sizes, "split at {split}");
        assert!(rest.is_empty(), "split at {split}");
    }
}

#[test]
fn a_packet_is_not_there_before_its_last_byte() {
    let (stream, sizes) = stream();
    let mut start = 0;
    for size in sizes {
        let whole = &stream[start..start + size];
        for length in 0..size {
            assert_eq!(
                Frame::parse(&whole[..length], u32::MAX),
                Ok(None),
                "{length} of {size}"
            );
        }
        assert_eq!(Frame::parse(whole, u32::MAX).unwrap().unwrap().size, size);
        start += size;
    }
}

#[test]
fn needed_tells_the_size_as_soon_as_the_header_is_whole() {
    for (bytes, needed) in [
        ("", None),
        ("30", None),
        ("3080", None),
        ("30808080", None),
        ("3000", Some(2)),
        ("307F", Some(129)),
        ("308001", Some(3 + 128)),
        ("30FFFFFF7F", Some(268_435_460)),
        ("30FFFFFF80", None),
        ("0000", None),
    ] {
        assert_eq!(Frame::needed(&hex(bytes)), needed, "{bytes}");
    }
}

#[test]
fn an_announced_packet_above_the_limit_is_refused_by_its_header_alone() {
    let header = hex("30 FF FF FF 7F");
    let error = Frame::parse(&header, 1_048_576).unwrap_err();
    assert_eq!(error.reason, ReasonCode::PACKET_TOO_LARGE);
    assert!(error.what.contains("MQTT-3.1.2-24"));
    // Where the limit allows it, it is waited for, and parsing has nothing to keep meanwhile: it only borrows.
    assert_eq!(Frame::parse(&header, PACKET_SIZE_MAX), Ok(None));
    assert_eq!(
        Frame::parse(&header, PACKET_SIZE_MAX - 1).unwrap_err().reason,
        ReasonCode::PACKET_TOO_LARGE
    );
}

#[test]
fn the_limit_counts_the_fixed_header() {
    let bytes = hex("40 02 0001");
    assert!(Frame::parse(&bytes, 4).unwrap().is_some());
    assert_eq!(
        Frame::parse(&bytes, 3).unwrap_err().reason,
        ReasonCode::PACKET_TOO_LARGE
    );
    assert_eq!(
        Frame::parse(&bytes[..2], 3).unwrap_err().reason,
        ReasonCode::PACKET_TOO_LARGE
    );
}

#[test]
fn a_remaining_length_takes_at_most_four_bytes() {
    for bytes in ["30 80808080", "30 FFFFFFFF", "30 FFFFFFFF01"] {
        let error = Frame::parse(&hex(bytes), u32::MAX).unwrap_err();
        assert_eq!(error.reason, ReasonCode::MALFORMED_PACKET, "{bytes}");
        assert!(error.what.contains("1.5.5"), "{error}");
    }
}

#[test]
fn a_remaining_length_takes_no_more_bytes_than_needed() {
    for bytes in ["C0 8000", "30 FF00", "30 808000", "30 80808000"] {
        let error = Frame::parse(&hex(bytes), u32::MAX).unwrap_err();
        assert_eq!(error.reason, ReasonCode::MALFORMED_PACKET, "{bytes}");
        assert!(error.what.contains("MQTT-1.5.5-1"), "{error}");
    }
}

#[test]
fn every_first_byte_is_judged_alone() {
    for first in 0..=255u8 {
        let (packet_type, flags) = (first >> 4, first & 0x0F);
        let right = match packet_type {
            0 => false,
            3 => flags & 0b0110 != 0b0110 && flags & 0b1110 != 0b1000,
            6 | 8 | 10 => flags == 0b0010 || flags == 0b1010,
            _ => flags == 0,
        };
        match Frame::parse(&[first], u32::MAX) {
            Ok(None) => assert!(right, "{first:#04X} accepted"),
            Ok(Some(frame)) => panic!("{frame:?}"),
            Err(error) => {
                assert!(!right, "{first:#04X}: {error}");
                assert_eq!(error.reason, ReasonCode::MALFORMED_PACKET);
                let clause = match (packet_type, flags & 0b0110) {
                    (0, _) => "2.1.2",
                    (3, 0b0110) => "MQTT-3.3.1-4",
                    (3, _) => "MQTT-3.3.1-2",
                    _ => "MQTT-2.1.3-1",
                };
                assert!(error.what.contains(clause), "{first:#04X}: {error}");
            }
        }
    }
}

#[test]
fn only_3_1_marks_retries_of_other_packets_than_publish() {
    for (first, body) in [
        (0x6A, hex("0001")),
        (0x8A, hex("0001 0001 61 00")),
        (0xAA, hex("0001 0001 61")),
    ] {
        accepted([V3_1], first, &[&body]);
        refused([V3_1_1, V5], first, &[&body], 0x81, "MQTT-2.1.3-1");
    }
}

#[test]
fn flags_are_checked_for_frames_that_did_not_come_from_parse() {
    for (packet_type, flags) in [
        (PacketType::Puback, 1),
        (PacketType::Pubrel, 0),
        (PacketType::Pingreq, 8),
    ] {
        let frame = Frame {
            packet_type,
            flags,
            body: &[0, 1],
            size: 4,
        };
        let error = Packet::decode(frame, V5).unwrap_err();
        assert!(error.what.contains("MQTT-2.1.3-1"), "{error}");
    }
    let frame = Frame {
        packet_type: PacketType::Publish,
        flags: 0b0110,
        body: &[0, 1, b'a', 0, 1, 0],
        size: 8,
    };
    assert_eq!(Packet::decode(frame, V5), Err(DecodeError::QOS_3));
    let frame = Frame {
        packet_type: PacketType::Publish,
        flags: 0b1000,
        body: &[0, 1, b'a', 0],
        size: 6,
    };
    assert_eq!(Packet::decode(frame, V5), Err(DecodeError::DUP_AT_QOS_0));
}
