//! PUBLISH against bytes written by hand: inbound, outbound, and what is forwarded unaltered.

use std::borrow::Cow;

use super::golden::golden;
use super::*;

fn bare<'a>(topic: &'a str, payload: &'a [u8]) -> Publish<'a> {
    Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic,
        packet_id: None,
        topic_alias: None,
        message_expiry_secs: None,
        payload_is_utf8: false,
        subscription_ids: SubscriptionIds::default(),
        response_topic: None,
        forwardable: Cow::Borrowed(&[]),
        payload,
    }
}

/// Decodes a PUBLISH of MQTT 5 to topic `t` with these properties.
#[track_caller]
fn with_properties(properties: &str, check: impl FnOnce(Publish<'_>)) {
    let bytes = packet(
        0x30,
        &[text("t"), block(&hex(properties)), b"payload".to_vec()].concat(),
    );
    match decode(&bytes, V5) {
        Ok(Packet::Publish(publish)) => {
            assert_eq!(publish.payload, b"payload");
            check(publish);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn publish_at_every_qos() {
    for version in BEFORE_5 {
        golden(
            version,
            "30 06 0003 612F62 78",
            Packet::Publish(bare("a/b", b"x")),
        );
    }
    golden(V5, "30 07 0003 612F62 00 78", Packet::Publish(bare("a/b", b"x")));
    let at_least_once = Publish {
        qos: QoS::AtLeastOnce,
        dup: true,
        packet_id: Some(id(0x0A0B)),
        ..bare("a/b", b"x")
    };
    for version in BEFORE_5 {
        golden(
            version,
            "3A 08 0003 612F62 0A0B 78",
            Packet::Publish(at_least_once.clone()),
        );
    }
    golden(V5, "3A 09 0003 612F62 0A0B 00 78", Packet::Publish(at_least_once));
    let exactly_once = Publish {
        qos: QoS::ExactlyOnce,
        retain: true,
        packet_id: Some(id(0xFFFF)),
        ..bare("a/b", b"")
    };
    for version in BEFORE_5 {
        golden(
            version,
            "35 07 0003 612F62 FFFF",
            Packet::Publish(exactly_once.clone()),
        );
    }
    golden(V5, "35 08 0003 612F62 FFFF 00", Packet::Publish(exactly_once));
}

#[test]
fn publish_with_everything() {
    let forwardable = hex("01 01 03 0001 74 08 0001 72 09 0001 AA 26 0001 6B 0001 76");
    let ids = hex("0B 01 0B 8001");
    let publish = Publish {
        topic_alias: Some(9),
        message_expiry_secs: Some(60),
        payload_is_utf8: true,
        subscription_ids: SubscriptionIds::from_block(&ids).unwrap(),
        response_topic: Some("r"),
        forwardable: Cow::Borrowed(&forwardable),
        ..bare("", b"x")
    };
    golden(
        V5,
        "30 26 0000 22 02 0000003C 23 0009 0B 01 0B 8001
         01 01 03 0001 74 08 0001 72 09 0001 AA 26 0001 6B 0001 76 78",
        Packet::Publish(publish),
    );
}

#[test]
fn what_is_forwarded_is_borrowed_when_it_stands_in_one_piece() {
    let pieces = [
        ("", ""),
        ("26 0001 6B 0001 76", "26 0001 6B 0001 76"),
        ("23 0001 01 01 03 0001 74", "01 01 03 0001 74"),
        ("01 01 03 0001 74 02 00000001", "01 01 03 0001 74"),
        (
            "0B 05 23 0001 08 0001 72 26 0001 6B 0001 76 02 00000001 0B 07",
            "08 0001 72 26 0001 6B 0001 76",
        ),
        ("02 00000001", ""),
    ];
    for (properties, forwarded) in pieces {
        with_properties(properties, |publish| {
            assert!(matches!(publish.forwardable, Cow::Borrowed(_)), "{properties}");
            assert_eq!(publish.forwardable, hex(forwarded), "{properties}");
        });
    }
}

#[test]
fn what_is_forwarded_is_joined_when_something_is_cut_out_of_it() {
    let pieces = [
        ("01 01 02 00000001 03 0001 74", "01 01 03 0001 74"),
        (
            "01 01 23 0001 03 0001 74 08 0001 72",
            "01 01 03 0001 74 08 0001 72",
        ),
        (
            "26 0001 6B 0001 76 0B 01 26 0001 6B 0001 76 0B 02 09 0001 AA",
            "26 0001 6B 0001 76 26 0001 6B 0001 76 09 0001 AA",
        ),
    ];
    for (properties, forwarded) in pieces {
        with_properties(properties, |publish| {
            assert!(matches!(publish.forwardable, Cow::Owned(_)), "{properties}");
            assert_eq!(publish.forwardable, hex(forwarded), "{properties}");
        });
    }
}

#[test]
fn what_is_forwarded_of_a_will_leaves_out_delay_and_expiry() {
    let properties = hex("26 0001 6B 0001 76 18 00000005 01 01 02 00000006 03 0001 74");
    let body = [
        hex("0004 4D515454 05 06 0000 00 0000"),
        block(&properties),
        text("w"),
        text("p"),
    ];
    let bytes = packet(0x10, &body.concat());
    let Ok(Packet::Connect(Connect { will: Some(will), .. })) = decode(&bytes, V5) else {
        panic!("no will");
    };
    assert_eq!(
        (will.delay_secs, will.message_expiry_secs, will.payload_is_utf8),
        (5, Some(6), true)
    );
    assert_eq!(will.forwardable, hex("26 0001 6B 0001 76 01 01 03 0001 74"));
}

#[test]
fn subscription_identifiers_keep_their_order_and_repetitions() {
    with_properties("0B 05 26 0001 6B 0001 76 0B 05 0B FFFFFF7F", |publish| {
        assert_eq!(
            publish.subscription_ids.iter().collect::<Vec<_>>(),
            [5, 5, 268_435_455]
        );
        assert!(!publish.subscription_ids.is_empty());
    });
    with_properties("26 0001 6B 0001 76", |publish| {
        assert!(publish.subscription_ids.is_empty())
    });
}

#[test]
fn an_alias_stands_for_the_topic_or_goes_with_it() {
    accepted([V5], 0x30, &[&text("t"), &block(&hex("23 FFFF"))]);
    accepted([V5], 0x30, &[&text(""), &block(&hex("23 0001"))]);
}

#[test]
fn outbound() {
    let publish = OutboundPublish {
        topic: "a/b",
        payload: b"x",
        forwardable: &hex("01 01"),
        qos: QoS::AtLeastOnce,
        dup: true,
        retain: true,
        packet_id: Some(id(7)),
        message_expiry_secs: Some(60),
        topic_alias: Some(9),
        subscription_ids: &[1, 128],
    };
    for (version, expected) in [
        (V3_1, "3B 08 0003 612F62 0007 78"),
        (V3_1_1, "3B 08 0003 612F62 0007 78"),
        (
            V5,
            "3B 18 0003 612F62 0007 0F 02 0000003C 23 0009 0B 01 0B 8001 01 01 78",
        ),
    ] {
        let mut bytes = vec![0xEE];
        publish.encode(version, &mut bytes);
        assert_eq!(bytes[0], 0xEE, "what stood in the buffer stays");
        assert_eq!(bytes[1..], hex(expected), "{version:?}");
        assert_eq!(publish.encoded_len(version), bytes.len() - 1);
    }
}

#[test]
fn outbound_never_has_dup_at_qos_0() {
    let publish = OutboundPublish {
        topic: "t",
        payload: b"",
        forwardable: &[],
        qos: QoS::AtMostOnce,
        dup: true,
        retain: false,
        packet_id: None,
        message_expiry_secs: None,
        topic_alias: None,
        subscription_ids: &[],
    };
    let mut bytes = Vec::new();
    publish.encode(V3_1_1, &mut bytes);
    assert_eq!(bytes, hex("30 03 0001 74"));
}

#[test]
fn outbound_sizes_at_the_edges_of_the_length_field() {
    let payload = vec![b'x'; 2_097_200];
    for version in EVERY_VERSION {
        for edge in [0x80, 0x4000, 0x20_0000] {
            for size in edge - 10..edge + 10 {
                let publish = OutboundPublish {
                    topic: "t",
                    payload: &payload[..size],
                    forwardable: &[],
                    qos: QoS::AtMostOnce,
                    dup: false,
                    retain: false,
                    packet_id: None,
                    message_expiry_secs: None,
                    topic_alias: None,
                    subscription_ids: &[],
                };
                let mut bytes = Vec::new();
                publish.encode(version, &mut bytes);
                assert_eq!(publish.encoded_len(version), bytes.len());
                assert_eq!(
                    Frame::parse(&bytes, u32::MAX).unwrap().map(|frame| frame.size),
                    Some(bytes.len())
                );
            }
        }
    }
}
