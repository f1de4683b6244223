//! What is refused of SUBSCRIBE and UNSUBSCRIBE.

use super::*;

const MALFORMED: u8 = 0x81;
const PROTOCOL_ERROR: u8 = 0x82;

#[test]
fn subscribe_has_a_filter_mqtt_3_8_3_2() {
    refused(BEFORE_5, 0x82, &[&hex("0001")], PROTOCOL_ERROR, "MQTT-3.8.3-2");
    refused([V5], 0x82, &[&hex("0001 00")], PROTOCOL_ERROR, "MQTT-3.8.3-2");
    assert!(SubscriptionRequests::from_payload(&[]).is_err());
}

#[test]
fn unsubscribe_has_a_filter_mqtt_3_10_3_2() {
    refused(BEFORE_5, 0xA2, &[&hex("0001")], PROTOCOL_ERROR, "MQTT-3.10.3-2");
    refused([V5], 0xA2, &[&hex("0001 00")], PROTOCOL_ERROR, "MQTT-3.10.3-2");
    assert!(TopicFilters::from_payload(&[]).is_err());
}

#[test]
fn options_of_5_mqtt_3_8_3_5() {
    for bits in 0..=255u8 {
        let body = [&hex("0001 00 0001 61")[..], &[bits]].concat();
        if bits & 0b1100_0000 != 0 {
            refused([V5], 0x82, &[&body], MALFORMED, "MQTT-3.8.3-5");
        } else if bits & 0b11 == 3 {
            refused(
                [V5],
                0x82,
                &[&body],
                PROTOCOL_ERROR,
                "QoS of a subscription is 3 [MQTT5 3.8.3.1]",
            );
        } else if bits >> 4 == 3 {
            refused(
                [V5],
                0x82,
                &[&body],
                PROTOCOL_ERROR,
                "retain handling is 3 [MQTT5 3.8.3.1]",
            );
        } else {
            accepted([V5], 0x82, &[&body]);
            let options = SubscriptionOptions::from_bits(bits).unwrap();
            assert_eq!(options.bits(), bits);
            assert_eq!(options.qos as u8, bits & 0b11);
            assert_eq!(options.no_local, bits & 0b100 != 0);
            assert_eq!(options.retain_as_published, bits & 0b1000 != 0);
            assert_eq!(options.retain_handling as u8, bits >> 4);
        }
    }
}

#[test]
fn options_before_5_are_the_qos_alone_mqtt_3_8_3_4() {
    for bits in 0..=255u8 {
        let body = [&hex("0001 0001 61")[..], &[bits]].concat();
        if bits > 2 {
            refused(BEFORE_5, 0x82, &[&body], MALFORMED, "MQTT-3.8.3-4");
        } else {
            accepted(BEFORE_5, 0x82, &[&body]);
        }
    }
}

#[test]
fn options_of_every_filter_are_checked() {
    refused(
        BEFORE_5,
        0x82,
        &[&hex("0001 0001 61 00 0001 62 03")],
        MALFORMED,
        "MQTT-3.8.3-4",
    );
    refused(
        [V5],
        0x82,
        &[&hex("0001 00 0001 61 00 0001 62 40")],
        MALFORMED,
        "MQTT-3.8.3-5",
    );
}

#[test]
fn no_local_does_not_go_with_a_shared_subscription_mqtt_3_8_3_4() {
    let head = hex("0001 00");
    refused(
        [V5],
        0x82,
        &[&head, &text("$share/g/t"), &[0x04]],
        PROTOCOL_ERROR,
        "MQTT-3.8.3-4",
    );
    refused(
        [V5],
        0x82,
        &[&head, &text("a"), &[0], &text("$share/g/t"), &[0x06]],
        PROTOCOL_ERROR,
        "MQTT-3.8.3-4",
    );
    accepted([V5], 0x82, &[&head, &text("$share/g/t"), &[0x00]]);
    accepted([V5], 0x82, &[&head, &text("$shared/g/t"), &[0x04]]);
    accepted([V5], 0x82, &[&head, &text("$share"), &[0x04]]);
    accepted([V5], 0x82, &[&head, &text("a/$share/g"), &[0x04]]);
}

#[test]
fn filters_are_whole() {
    for payload in ["0002 61", "00", "0001 61", "0001 61 00 00"] {
        let payload = hex(payload);
        refused(
            [V5],
            0x82,
            &[&hex("0001 00"), &payload],
            MALFORMED,
            "ends in the middle of a field",
        );
        refused(
            BEFORE_5,
            0x82,
            &[&hex("0001"), &payload],
            MALFORMED,
            "ends in the middle of a field",
        );
    }
    for payload in ["0002 61", "00", "0001 61 00"] {
        refused(
            [V5],
            0xA2,
            &[&hex("0001 00"), &hex(payload)],
            MALFORMED,
            "ends in the middle of a field",
        );
        refused(
            BEFORE_5,
            0xA2,
            &[&hex("0001"), &hex(payload)],
            MALFORMED,
            "ends in the middle of a field",
        );
    }
}
