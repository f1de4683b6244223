//! Properties: which stand where, which repeat, which values they have.

use super::*;

const MALFORMED: u8 = 0x81;
const PROTOCOL_ERROR: u8 = 0x82;

/// Every property with a value that is right for it.
const VALID: [(u8, &str); 27] = [
    (0x01, "01"),
    (0x02, "00000001"),
    (0x03, "0001 61"),
    (0x08, "0001 61"),
    (0x09, "0001 61"),
    (0x0B, "01"),
    (0x11, "00000001"),
    (0x12, "0001 61"),
    (0x13, "0001"),
    (0x15, "0001 61"),
    (0x16, "0001 61"),
    (0x17, "01"),
    (0x18, "00000001"),
    (0x19, "01"),
    (0x1A, "0001 61"),
    (0x1C, "0001 61"),
    (0x1F, "0001 61"),
    (0x21, "0001"),
    (0x22, "0001"),
    (0x23, "0001"),
    (0x24, "01"),
    (0x25, "01"),
    (0x26, "0001 61 0001 61"),
    (0x27, "00000001"),
    (0x28, "01"),
    (0x29, "01"),
    (0x2A, "01"),
];

/// A place where properties stand: what is before and after the block, and which of them it takes [MQTT5 2.2.2.2].
struct Place {
    name: &'static str,
    first_byte: u8,
    before: &'static str,
    after: &'static str,
    takes: &'static [u8],
}

impl Place {
    fn body(&self, properties: &[u8]) -> Vec<u8> {
        [hex(self.before), block(properties), hex(self.after)].concat()
    }
}

const ACK: &[u8] = &[0x1F, 0x26];

#[rustfmt::skip]
const PLACES: [Place; 13] = [
    Place { name: "CONNECT", first_byte: 0x10, before: "0004 4D515454 05 02 0000", after: "0001 63",
        takes: &[0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27] },
    Place { name: "will", first_byte: 0x10, before: "0004 4D515454 05 06 0000 00 0001 63", after: "0001 77 0001 70",
        takes: &[0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26] },
    Place { name: "CONNACK", first_byte: 0x20, before: "00 00", after: "",
        takes: &[0x11, 0x12, 0x13, 0x15, 0x16, 0x1A, 0x1C, 0x1F, 0x21, 0x22, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2A] },
    Place { name: "PUBLISH", first_byte: 0x32, before: "0001 74 0001", after: "FF FF",
        takes: &[0x01, 0x02, 0x03, 0x08, 0x09, 0x0B, 0x23, 0x26] },
    Place { name: "PUBACK", first_byte: 0x40, before: "0001 00", after: "", takes: ACK },
    Place { name: "PUBREC", first_byte: 0x50, before: "0001 00", after: "", takes: ACK },
    Place { name: "PUBREL", first_byte: 0x62, before: "0001 00", after: "", takes: ACK },
    Place { name: "PUBCOMP", first_byte: 0x70, before: "0001 00", after: "", takes: ACK },
    Place { name: "SUBSCRIBE", first_byte: 0x82, before: "0001", after: "0001 61 00", takes: &[0x0B, 0x26] },
    Place { name: "SUBACK", first_byte: 0x90, before: "0001", after: "00", takes: ACK },
    Place { name: "UNSUBSCRIBE", first_byte: 0xA2, before: "0001", after: "0001 61", takes: &[0x26] },
    Place { name: "UNSUBACK", first_byte: 0xB0, before: "0001", after: "00", takes: ACK },
    Place { name: "DISCONNECT", first_byte: 0xE0, before: "00", after: "", takes: &[0x11, 0x1C, 0x1F, 0x26] },
];

/// AUTH is apart because it cannot do without a method.
#[rustfmt::skip]
const AUTH: Place =
    Place { name: "AUTH", first_byte: 0xF0, before: "18", after: "", takes: &[0x15, 0x16, 0x1F, 0x26] };

fn property(id: u8, value: &str) -> Vec<u8> {
    [vec![id], hex(value)].concat()
}

/// What must stand beside a property for the packet to be right.
fn companion(place: &Place, id: u8) -> Vec<u8> {
    let needs_method = (place.name == "CONNECT" && id == 0x16) || (place.name == "AUTH" && id != 0x15);
    if needs_method {
        property(0x15, "0001 6D")
    } else {
        Vec::new()
    }
}

#[test]
fn properties_stand_where_the_table_allows_mqtt5_2_2_2_2() {
    for place in PLACES.iter().chain([&AUTH]) {
        for (id, value) in VALID {
            let properties = [companion(place, id), property(id, value)].concat();
            let body = place.body(&properties);
            if place.takes.contains(&id) {
                accepted([V5], place.first_byte, &[&body]);
            } else {
                refused([V5], place.first_byte, &[&body], MALFORMED, "2.2.2.2");
            }
        }
    }
}

#[test]
fn unknown_properties_are_refused_mqtt5_2_2_2_2() {
    for place in PLACES.iter().chain([&AUTH]) {
        for id in (0..=255u8).filter(|id| !VALID.iter().any(|(known, _)| known == id)) {
            let body = place.body(&[id, 0, 0, 0, 0]);
            refused([V5], place.first_byte, &[&body], MALFORMED, "2.2.2.2");
        }
    }
}

#[test]
fn properties_stand_once_mqtt5_2_2_2_2() {
    for place in PLACES.iter().chain([&AUTH]) {
        for (id, value) in VALID.into_iter().filter(|(id, _)| place.takes.contains(id)) {
            let twice = property(id, value).repeat(2);
            let apart = [
                property(id, value),
                property(0x26, "0001 61 0001 61"),
                property(id, value),
            ]
            .concat();
            for properties in [twice, apart] {
                let body = place.body(&[companion(place, id), properties].concat());
                if id == 0x26 || (id == 0x0B && place.name == "PUBLISH") {
                    accepted([V5], place.first_byte, &[&body]);
                } else {
                    refused(
                        [V5],
                        place.first_byte,
                        &[&body],
                        PROTOCOL_ERROR,
                        "stands twice [MQTT5 2.2.2.2]",
                    );
                }
            }
        }
    }
}

#[test]
fn a_property_is_whole() {
    for place in PLACES.iter().chain([&AUTH]) {
        for (id, value) in VALID.into_iter().filter(|(id, _)| place.takes.contains(id)) {
            let whole = property(id, value);
            for length in 1..whole.len() {
                let body = place.body(&[companion(place, id), whole[..length].to_vec()].concat());
                refused(
                    [V5],
                    place.first_byte,
                    &[&body],
                    MALFORMED,
                    "ends in the middle of a field",
                );
            }
        }
    }
}

#[test]
fn a_property_block_is_whole_mqtt5_2_2_2_1() {
    for place in PLACES.iter().chain([&AUTH]) {
        let after = hex(place.after);
        for length in [hex("7F"), hex("8001"), hex("FFFFFF7F")] {
            let body = [hex(place.before), length, after.clone()].concat();
            refused([V5], place.first_byte, &[&body], MALFORMED, "2.2.2.1");
        }
        let padded = [hex(place.before), hex("8000"), after.clone()].concat();
        refused([V5], place.first_byte, &[&padded], MALFORMED, "MQTT-1.5.5-1");
        let endless = [hex(place.before), hex("FFFFFFFF01"), after].concat();
        refused([V5], place.first_byte, &[&endless], MALFORMED, "1.5.5");
    }
}

#[test]
fn flags_are_0_or_1() {
    let flags: [u8; 8] = [0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A];
    for place in PLACES.iter() {
        for id in flags.into_iter().filter(|id| place.takes.contains(id)) {
            for value in 0..=255u8 {
                let body = place.body(&[id, value]);
                if value <= 1 {
                    accepted([V5], place.first_byte, &[&body]);
                } else {
                    refused(
                        [V5],
                        place.first_byte,
                        &[&body],
                        PROTOCOL_ERROR,
                        "neither 0 nor 1",
                    );
                }
            }
        }
    }
}

#[test]
fn some_numbers_are_not_0() {
    let [connect, _, connack, publish, .., subscribe, _, _, _, _] = &PLACES;
    for (place, properties, reason, clause) in [
        (connect, "21 0000", PROTOCOL_ERROR, "3.1.2.11.3"),
        (connect, "27 00000000", PROTOCOL_ERROR, "3.1.2.11.4"),
        (connack, "21 0000", PROTOCOL_ERROR, "3.2.2.3.3"),
        (connack, "27 00000000", PROTOCOL_ERROR, "3.2.2.3.6"),
        (publish, "0B 00", PROTOCOL_ERROR, "3.3.2.3.8"),
        (publish, "0B 01 0B 00", PROTOCOL_ERROR, "3.3.2.3.8"),
        (publish, "23 0000", 0x94, "MQTT-3.3.2-8"),
        (subscribe, "0B 00", PROTOCOL_ERROR, "3.8.2.1.2"),
    ] {
        refused(
            [V5],
            place.first_byte,
            &[&place.body(&hex(properties))],
            reason,
            clause,
        );
    }
    // The others may be.
    for (place, properties) in [
        (connect, "11 00000000 22 0000"),
        (connack, "11 00000000 22 0000 13 0000"),
        (publish, "02 00000000"),
    ] {
        accepted([V5], place.first_byte, &[&place.body(&hex(properties))]);
    }
}

#[test]
fn subscription_identifiers_are_variable_byte_integers_mqtt5_1_5_5() {
    let [_, _, _, publish, .., subscribe, _, _, _, _] = &PLACES;
    for place in [publish, subscribe] {
        accepted([V5], place.first_byte, &[&place.body(&hex("0B FFFFFF7F"))]);
        refused(
            [V5],
            place.first_byte,
            &[&place.body(&hex("0B FFFFFFFF01"))],
            MALFORMED,
            "1.5.5",
        );
        refused(
            [V5],
            place.first_byte,
            &[&place.body(&hex("0B 8100"))],
            MALFORMED,
            "MQTT-1.5.5-1",
        );
    }
}

#[test]
fn response_topics_have_no_wildcards_mqtt_3_3_2_14() {
    let [_, will, _, publish, ..] = &PLACES;
    for place in [will, publish] {
        for topic in ["+", "a/#", "reply/to/+/somewhere"] {
            let properties = [vec![0x08], text(topic)].concat();
            refused(
                [V5],
                place.first_byte,
                &[&place.body(&properties)],
                PROTOCOL_ERROR,
                "MQTT-3.3.2-14",
            );
        }
        for (topic, clause) in [(&b"\xFF"[..], "MQTT-1.5.4-1"), (&b"a\0"[..], "MQTT-1.5.4-2")] {
            let properties = [vec![0x08], text(topic)].concat();
            refused(
                [V5],
                place.first_byte,
                &[&place.body(&properties)],
                MALFORMED,
                clause,
            );
        }
    }
}

#[test]
fn string_properties_are_strings_mqtt_1_5_4() {
    let strings: [u8; 8] = [0x03, 0x08, 0x12, 0x15, 0x1A, 0x1C, 0x1F, 0x26];
    for place in PLACES.iter().chain([&AUTH]) {
        for id in strings.into_iter().filter(|id| place.takes.contains(id)) {
            for (bytes, clause) in [(&b"\xC3"[..], "MQTT-1.5.4-1"), (&b"\0"[..], "MQTT-1.5.4-2")] {
                let value = if id == 0x26 {
                    [text("k"), text(bytes)].concat()
                } else {
                    text(bytes)
                };
                let properties = [companion(place, id), vec![id], value].concat();
                refused(
                    [V5],
                    place.first_byte,
                    &[&place.body(&properties)],
                    MALFORMED,
                    clause,
                );
            }
        }
        for id in [0x09, 0x16].into_iter().filter(|id| place.takes.contains(id)) {
            let properties = [companion(place, id), vec![id], text(b"\0\xFF")].concat();
            accepted([V5], place.first_byte, &[&place.body(&properties)]);
        }
    }
}
