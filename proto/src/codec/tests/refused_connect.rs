//! What is refused of CONNECT, and what only looks as if it had to be.

use super::*;

const MALFORMED: u8 = 0x81;
const PROTOCOL_ERROR: u8 = 0x82;
const UNSUPPORTED: u8 = 0x84;

/// A CONNECT of 3.1.1 with these flags and this payload.
fn connect_3_1_1(flags: u8, payload: &[u8]) -> Vec<u8> {
    [&hex("0004 4D515454 04"), &[flags, 0, 0][..], payload].concat()
}

fn connect_3_1(flags: u8, payload: &[u8]) -> Vec<u8> {
    [&hex("0006 4D5149736470 03"), &[flags, 0, 0][..], payload].concat()
}

/// A CONNECT of 5 with these flags and this payload, without properties.
fn connect_5(flags: u8, payload: &[u8]) -> Vec<u8> {
    [&hex("0004 4D515454 05"), &[flags, 0, 0, 0][..], payload].concat()
}

/// Client identifier `c`, will topic `w`, will payload `p`.
const WITH_WILL: &[u8] = &[0, 1, b'c', 0, 1, b'w', 0, 1, b'p'];
const CLIENT_ID: &[u8] = &[0, 1, b'c'];

#[track_caller]
fn refused_connect(body: &[u8], reason: u8, clause: &str) {
    // The version given from outside must not matter.
    refused(EVERY_VERSION, 0x10, &[body], reason, clause);
}

#[track_caller]
fn connect(body: &[u8]) -> Connect<'static> {
    let bytes: &'static [u8] = packet(0x10, body).leak();
    match decode(bytes, V5) {
        Ok(Packet::Connect(connect)) => connect,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_protocol_name_is_mqtt_3_1_2_1() {
    for name in ["", "MQT", "mqtt", "MQTTS", "MQIsdP", "HTTP/1.1", "\0\0\0\0"] {
        let body = [text(name), hex("04 02 0000 0000")].concat();
        refused_connect(&body, UNSUPPORTED, "MQTT-3.1.2-1");
    }
}

#[test]
fn the_protocol_level_is_known_mqtt_3_1_2_2() {
    let known = [
        ("MQIsdp", 0x03),
        ("MQIsdp", 0x83),
        ("MQTT", 0x04),
        ("MQTT", 0x84),
        ("MQTT", 0x05),
    ];
    for name in ["MQIsdp", "MQTT"] {
        for level in 0..=255u8 {
            let body = [text(name), vec![level], hex("02 0000 00 0000 00")].concat();
            if known.contains(&(name, level)) {
                let version = Connect::peek_version(&body).expect("a version");
                assert_eq!(version as u8, level & 0x7F, "{name} {level}");
            } else {
                refused_connect(&body, UNSUPPORTED, "MQTT-3.1.2-2");
                assert_eq!(Connect::peek_version(&body), None, "{name} {level}");
            }
        }
    }
}

#[test]
fn the_version_shows_even_when_the_rest_is_broken() {
    assert_eq!(Connect::peek_version(&hex("0004 4D515454 05 FF")), Some(V5));
    assert_eq!(Connect::peek_version(&hex("0004 4D515454 04")), Some(V3_1_1));
    assert_eq!(Connect::peek_version(&hex("0006 4D5149736470 03")), Some(V3_1));
    assert_eq!(Connect::peek_version(&hex("0004 4D515454")), None);
}

#[test]
fn the_reserved_flag_is_0_mqtt_3_1_2_3() {
    refused_connect(&connect_3_1(0x03, CLIENT_ID), MALFORMED, "MQTT-3.1.2-3");
    refused_connect(&connect_3_1_1(0x03, CLIENT_ID), MALFORMED, "MQTT-3.1.2-3");
    refused_connect(&connect_5(0x03, CLIENT_ID), MALFORMED, "MQTT-3.1.2-3");
}

#[test]
fn will_qos_needs_a_will_mqtt_3_1_2_11() {
    for qos in [0x08, 0x10, 0x18] {
        refused_connect(&connect_3_1_1(qos, CLIENT_ID), MALFORMED, "MQTT-3.1.2-11");
        refused_connect(&connect_5(qos, CLIENT_ID), MALFORMED, "MQTT-3.1.2-11");
    }
}

#[test]
fn will_qos_is_not_3_mqtt_3_1_2_12() {
    refused_connect(&connect_3_1(0x1C, WITH_WILL), MALFORMED, "MQTT-3.1.2-12");
    refused_connect(&connect_3_1_1(0x1C, WITH_WILL), MALFORMED, "MQTT-3.1.2-12");
    refused_connect(
        &connect_5(0x1C, &[CLIENT_ID, &[0], &WITH_WILL[3..]].concat()),
        MALFORMED,
        "MQTT-3.1.2-12",
    );
}

#[test]
fn will_retain_needs_a_will_mqtt_3_1_2_13() {
    refused_connect(&connect_3_1_1(0x20, CLIENT_ID), MALFORMED, "MQTT-3.1.2-13");
    refused_connect(&connect_5(0x20, CLIENT_ID), MALFORMED, "MQTT-3.1.2-13");
}

#[test]
fn the_flags_of_a_missing_will_do_not_matter_at_3_1() {
    assert_eq!(connect(&connect_3_1(0x38, CLIENT_ID)).will, None);
}

#[test]
fn a_password_before_5_needs_a_user_name_mqtt_3_1_2_22() {
    let payload = [CLIENT_ID, &text("p")].concat();
    refused_connect(&connect_3_1(0x40, &payload), MALFORMED, "MQTT-3.1.2-22");
    refused_connect(&connect_3_1_1(0x40, &payload), MALFORMED, "MQTT-3.1.2-22");
    assert_eq!(connect(&connect_5(0x40, &payload)).password, Some(&b"p"[..]));
}

#[test]
fn the_payload_has_what_the_flags_say() {
    let missing = "ends in the middle of a field";
    for flags in [0x04, 0x80, 0xC0] {
        refused_connect(&connect_3_1_1(flags, CLIENT_ID), MALFORMED, missing);
        refused_connect(&connect_5(flags, CLIENT_ID), MALFORMED, missing);
    }
    refused_connect(
        &connect_3_1_1(0xC0, &[CLIENT_ID, &text("u")].concat()),
        MALFORMED,
        missing,
    );
    refused_connect(
        &connect_3_1_1(0x04, &[CLIENT_ID, &text("w")].concat()),
        MALFORMED,
        missing,
    );
    refused_connect(&connect_3_1_1(0, &[]), MALFORMED, missing);
}

#[test]
fn at_3_1_the_length_overrides_the_flags_of_user_name_and_password() {
    let bare = connect(&connect_3_1(0xC2, CLIENT_ID));
    assert_eq!((bare.user_name, bare.password), (None, None));
    let named = connect(&connect_3_1(0xC2, &[CLIENT_ID, &text("u")].concat()));
    assert_eq!((named.user_name, named.password), (Some("u"), None));
    refused_connect(
        &connect_3_1(0xC2, &[CLIENT_ID, &[0]].concat()),
        MALFORMED,
        "ends in the middle of a field",
    );
}

#[test]
fn names_in_a_connect_are_strings_mqtt_1_5_4() {
    for (bytes, clause) in [(&b"\xFF"[..], "MQTT-1.5.4-1"), (&b"\0"[..], "MQTT-1.5.4-2")] {
        refused_connect(&connect_3_1_1(0x02, &text(bytes)), MALFORMED, clause);
        refused_connect(
            &connect_3_1_1(0x04, &[CLIENT_ID, &text(bytes), &text("p")].concat()),
            MALFORMED,
            clause,
        );
        refused_connect(
            &connect_3_1_1(0x80, &[CLIENT_ID, &text(bytes)].concat()),
            MALFORMED,
            clause,
        );
        let will = [CLIENT_ID, &text("w"), &text(bytes), &text("u"), &text(bytes)].concat();
        let accepted = connect(&connect_3_1_1(0xC4, &will));
        assert_eq!(accepted.password, Some(bytes), "a password is binary");
        assert_eq!(
            accepted.will.map(|will| will.payload),
            Some(bytes),
            "a will payload is binary"
        );
    }
}

#[test]
fn authentication_data_needs_a_method_mqtt5_3_1_2_11_10() {
    let with = |properties: &str| {
        [
            hex("0004 4D515454 05 02 0000"),
            block(&hex(properties)),
            CLIENT_ID.to_vec(),
        ]
        .concat()
    };
    refused_connect(&with("16 0001 FF"), PROTOCOL_ERROR, "3.1.2.11.10");
    assert_eq!(
        connect(&with("16 0001 FF 15 0001 6D")).authentication_method,
        Some("m")
    );
    assert_eq!(connect(&with("15 0001 6D")).authentication_data, None);
}
