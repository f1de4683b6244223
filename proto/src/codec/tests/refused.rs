//! What is refused of packets in general, of strings, and of PUBLISH and the acknowledgements.

use super::*;

const MALFORMED: u8 = 0x81;
const PROTOCOL_ERROR: u8 = 0x82;

/// A PUBLISH body with this topic: at MQTT 5 with an empty property block, which before it is payload.
fn topic(bytes: &[u8]) -> Vec<u8> {
    [text(bytes), vec![0]].concat()
}

#[test]
fn strings_must_be_well_formed_utf8_mqtt_1_5_4_1() {
    let wrong: [&[u8]; 7] = [
        b"\xFF",
        b"a\xC3",
        b"\xC0\x80",         // U+0000 in two bytes
        b"\xED\xA0\x80",     // a surrogate, high
        b"\xED\xBF\xBF",     // a surrogate, low
        b"\xF4\x90\x80\x80", // above U+10FFFF
        b"\x80",
    ];
    for bytes in wrong {
        refused(EVERY_VERSION, 0x30, &[&topic(bytes)], MALFORMED, "MQTT-1.5.4-1");
        refused(
            BEFORE_5,
            0x82,
            &[&hex("0001"), &text(bytes), &[0]],
            MALFORMED,
            "MQTT-1.5.4-1",
        );
        refused(
            [V5],
            0x82,
            &[&hex("0001 00"), &text(bytes), &[0]],
            MALFORMED,
            "MQTT-1.5.4-1",
        );
        refused(
            BEFORE_5,
            0xA2,
            &[&hex("0001"), &text(bytes)],
            MALFORMED,
            "MQTT-1.5.4-1",
        );
        let reason_string = block(&[&[0x1F], &text(bytes)[..]].concat());
        refused(
            [V5],
            0x40,
            &[&hex("0001 00"), &reason_string],
            MALFORMED,
            "MQTT-1.5.4-1",
        );
        let user_property = block(&[&[0x26], &text("k")[..], &text(bytes)[..]].concat());
        refused(
            [V5],
            0x40,
            &[&hex("0001 00"), &user_property],
            MALFORMED,
            "MQTT-1.5.4-1",
        );
        let user_property = block(&[&[0x26], &text(bytes)[..], &text("v")[..]].concat());
        refused(
            [V5],
            0x40,
            &[&hex("0001 00"), &user_property],
            MALFORMED,
            "MQTT-1.5.4-1",
        );
    }
}

#[test]
fn strings_must_not_contain_the_null_character_mqtt_1_5_4_2() {
    for bytes in [
        "\0",
        "a\0",
        "\0a",
        "a long enough topic\0/with a null in the middle",
    ] {
        refused(
            EVERY_VERSION,
            0x30,
            &[&topic(bytes.as_bytes())],
            MALFORMED,
            "MQTT-1.5.4-2",
        );
        refused(
            BEFORE_5,
            0x82,
            &[&hex("0001"), &text(bytes), &[0]],
            MALFORMED,
            "MQTT-1.5.4-2",
        );
        refused(
            [V5],
            0xA2,
            &[&hex("0001 00"), &text(bytes)],
            MALFORMED,
            "MQTT-1.5.4-2",
        );
        let user_property = block(&[&[0x26], &text("k")[..], &text(bytes)[..]].concat());
        refused(
            [V5],
            0x40,
            &[&hex("0001 00"), &user_property],
            MALFORMED,
            "MQTT-1.5.4-2",
        );
    }
    // A null and a wildcard: the packet is malformed before its topic is invalid.
    refused(EVERY_VERSION, 0x30, &[&topic(b"+\0")], MALFORMED, "MQTT-1.5.4-2");
}

#[test]
fn a_byte_order_mark_stays_mqtt_1_5_4_3() {
    for version in EVERY_VERSION {
        let bytes = packet(0x30, &topic("\u{FEFF}a".as_bytes()));
        match decode(&bytes, version) {
            Ok(Packet::Publish(publish)) => assert_eq!(publish.topic, "\u{FEFF}a"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn topic_names_have_no_wildcards_mqtt_3_3_2_2() {
    for bytes in [
        "+",
        "#",
        "a/+/b",
        "a/b/#",
        "a+",
        "long/enough/for/several/words/#",
    ] {
        refused(
            EVERY_VERSION,
            0x30,
            &[&topic(bytes.as_bytes())],
            0x90,
            "MQTT-3.3.2-2",
        );
    }
    accepted(EVERY_VERSION, 0x30, &[&topic("a/*/b,\"!$".as_bytes())]);
}

#[test]
fn a_topic_is_not_empty_mqtt_4_7_3_1() {
    refused(BEFORE_5, 0x30, &[&topic(b"")], MALFORMED, "MQTT-4.7.3-1");
    refused([V5], 0x30, &[&topic(b"")], PROTOCOL_ERROR, "3.3.2.1");
    refused(
        [V5],
        0x30,
        &[&text(""), &block(&hex("02 00000001"))],
        PROTOCOL_ERROR,
        "3.3.2.1",
    );
}

#[test]
fn packet_identifiers_are_not_0_mqtt_2_2_1_3() {
    let zero: &[u8] = &[0, 0];
    let cases: [(u8, &[u8], &[u8]); 10] = [
        (0x32, b"\0\x01t", b"\0"),
        (0x34, b"\0\x01t", b"\0"),
        (0x40, b"", b""),
        (0x50, b"", b""),
        (0x62, b"", b""),
        (0x70, b"", b""),
        (0x82, b"", b"\0\x01a\0"),
        (0x90, b"", b"\0"),
        (0xA2, b"", b"\0\x01a"),
        (0xB0, b"", b""),
    ];
    for (first_byte, before, after) in cases {
        refused(
            EVERY_VERSION,
            first_byte,
            &[before, zero, after],
            PROTOCOL_ERROR,
            "MQTT-2.2.1-3",
        );
    }
}

#[test]
fn a_field_does_not_reach_beyond_the_packet() {
    for (first_byte, bytes) in [
        (0x30, ""),
        (0x30, "00"),
        (0x30, "0002 61"),
        (0x32, "0001 61 00"),
        (0x40, ""),
        (0x62, "01"),
        (0x82, "00"),
        (0x90, "00"),
        (0xA2, "00"),
        (0xB0, "00"),
        (0x20, "00"),
        (0x20, ""),
        (0x10, "0004 4D5154"),
    ] {
        refused(
            EVERY_VERSION,
            first_byte,
            &[&hex(bytes)],
            MALFORMED,
            "ends in the middle of a field",
        );
    }
    refused(
        [V5],
        0x30,
        &[&hex("0001 61")],
        MALFORMED,
        "ends in the middle of a field",
    );
    for bytes in ["0001", "0001 0002 61", "0001 0001 61"] {
        let what = if bytes == "0001" {
            "MQTT-3.8.3-2"
        } else {
            "ends in the middle of a field"
        };
        let reason = if bytes == "0001" {
            PROTOCOL_ERROR
        } else {
            MALFORMED
        };
        refused(BEFORE_5, 0x82, &[&hex(bytes)], reason, what);
    }
    refused(
        BEFORE_5,
        0xA2,
        &[&hex("0001 0002 61")],
        MALFORMED,
        "ends in the middle of a field",
    );
}

#[test]
fn nothing_follows_the_end_of_a_packet() {
    let trailing = "after the end";
    for (first_byte, bytes) in [(0xC0, "00"), (0xD0, "00")] {
        refused(EVERY_VERSION, first_byte, &[&hex(bytes)], MALFORMED, trailing);
    }
    for (first_byte, bytes) in [
        (0x20, "00 00 00"),
        (0x40, "0001 00"),
        (0x50, "0001 00"),
        (0x62, "0001 00"),
        (0x70, "0001 00"),
        (0xB0, "0001 00"),
        (0xE0, "00"),
    ] {
        refused(BEFORE_5, first_byte, &[&hex(bytes)], MALFORMED, trailing);
    }
    for (first_byte, bytes) in [
        (0x20, "00 00 00 00"),
        (0x40, "0001 00 00 00"),
        (0x50, "0001 00 00 00"),
        (0x62, "0001 00 00 00"),
        (0x70, "0001 00 00 00"),
        (0xE0, "00 00 00"),
        (0xF0, "18 04 15 0001 6D 00"),
        (0x10, "0004 4D515454 05 02 0000 00 0000 00"),
    ] {
        refused([V5], first_byte, &[&hex(bytes)], MALFORMED, trailing);
    }
    refused(
        [V3_1_1],
        0x10,
        &[&hex("0004 4D515454 04 02 0000 0000 00")],
        MALFORMED,
        trailing,
    );
    refused(
        [V3_1],
        0x10,
        &[&hex("0006 4D5149736470 03 02 0000 0001 61 00")],
        MALFORMED,
        trailing,
    );
}

/// Reason codes per packet type, from the tables of MQTT 5.
const REASONS: [(u8, &[u8]); 9] = [
    (
        0x20,
        &[
            0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97,
            0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
        ],
    ),
    (0x40, &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]),
    (0x50, &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]),
    (0x62, &[0x00, 0x92]),
    (0x70, &[0x00, 0x92]),
    (
        0x90,
        &[
            0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2,
        ],
    ),
    (0xB0, &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91]),
    (
        0xE0,
        &[
            0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95,
            0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
        ],
    ),
    (0xF0, &[0x00, 0x18, 0x19]),
];

#[test]
fn reason_codes_are_those_of_the_packet_mqtt5_2_4() {
    for (first_byte, allowed) in REASONS {
        for reason in 0..=255u8 {
            let body = match first_byte {
                0x20 => vec![0, reason, 0],
                0x90 | 0xB0 => vec![0, 1, 0, reason],
                0xE0 => vec![reason],
                0xF0 => vec![reason, 4, 0x15, 0, 1, b'm'],
                _ => vec![0, 1, reason],
            };
            if allowed.contains(&reason) {
                accepted([V5], first_byte, &[&body]);
            } else {
                refused([V5], first_byte, &[&body], PROTOCOL_ERROR, "2.4");
            }
        }
    }
}

#[test]
fn return_codes_of_connack_before_5_are_0_to_5() {
    for code in 0..=255u8 {
        if code <= 5 {
            accepted(BEFORE_5, 0x20, &[&[0, code]]);
        } else {
            refused(BEFORE_5, 0x20, &[&[0, code]], MALFORMED, "3.2.2.3");
        }
    }
}

#[test]
fn return_codes_of_suback_before_5_mqtt_3_9_3_2() {
    for code in 0..=255u8 {
        if matches!(code, 0..=2 | 0x80) {
            accepted(BEFORE_5, 0x90, &[&hex("0001"), &[code]]);
        } else {
            refused(
                BEFORE_5,
                0x90,
                &[&hex("0001 01"), &[code]],
                MALFORMED,
                "MQTT-3.9.3-2",
            );
        }
    }
}

#[test]
fn connack_flags_are_reserved_but_one_mqtt_3_2_2_1() {
    for flags in 2..=255u8 {
        refused([V3_1_1], 0x20, &[&[flags, 0]], MALFORMED, "MQTT-3.2.2-1");
        refused([V5], 0x20, &[&[flags, 0, 0]], MALFORMED, "MQTT-3.2.2-1");
        accepted([V3_1], 0x20, &[&[flags, 0]]);
    }
}

#[test]
fn a_refusal_has_no_session_mqtt_3_2_2_6() {
    refused([V3_1_1], 0x20, &[&hex("01 05")], PROTOCOL_ERROR, "MQTT-3.2.2-6");
    refused([V5], 0x20, &[&hex("01 87 00")], PROTOCOL_ERROR, "MQTT-3.2.2-6");
    let mut connack = Connack::new(ReasonCode::NOT_AUTHORIZED);
    connack.session_present = true;
    assert_eq!(
        encode(&Packet::Connack(connack.clone()), V3_1_1),
        hex("20 02 00 05")
    );
    assert_eq!(encode(&Packet::Connack(connack), V5), hex("20 03 00 87 00"));
}

#[test]
fn acks_of_subscriptions_say_something_mqtt_3_8_4_6_and_3_11_3_1() {
    refused(BEFORE_5, 0x90, &[&hex("0001")], PROTOCOL_ERROR, "MQTT-3.8.4-6");
    refused([V5], 0x90, &[&hex("0001 00")], PROTOCOL_ERROR, "MQTT-3.8.4-6");
    refused([V5], 0xB0, &[&hex("0001 00")], PROTOCOL_ERROR, "MQTT-3.11.3-1");
}

#[test]
fn auth_exists_in_5_alone() {
    refused(BEFORE_5, 0xF0, &[&[]], MALFORMED, "2.2.1");
    accepted([V5], 0xF0, &[&[]]);
}

#[test]
fn auth_names_its_method_mqtt5_3_15_2_2_2() {
    refused([V5], 0xF0, &[&hex("18 00")], PROTOCOL_ERROR, "3.15.2.2.2");
    refused([V5], 0xF0, &[&hex("00 00")], PROTOCOL_ERROR, "3.15.2.2.2");
    refused(
        [V5],
        0xF0,
        &[&hex("18 04 16 0001 FF")],
        PROTOCOL_ERROR,
        "3.15.2.2.2",
    );
    refused(
        [V5],
        0xF0,
        &[&hex("18")],
        MALFORMED,
        "ends in the middle of a field",
    );
}
