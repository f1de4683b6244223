//! Packets against bytes written by hand from the specifications, both ways, at each version. PUBLISH stands apart.

use super::*;

/// Asserts that the packet has these bytes, and the bytes are this packet.
#[track_caller]
pub(super) fn golden(version: ProtocolVersion, bytes: &str, packet: Packet<'_>) {
    let bytes = hex(bytes);
    assert_eq!(encode(&packet, version), bytes, "encoded at {version:?}");
    assert_eq!(packet.encoded_len(version), bytes.len());
    assert_eq!(
        decode(&bytes, version).as_ref(),
        Ok(&packet),
        "decoded at {version:?}"
    );
}

/// A user property `k` = `v`.
pub(super) const KEY_VALUE: &[u8] = &[0x26, 0, 1, b'k', 0, 1, b'v'];

pub(super) fn key_value() -> UserProperties<'static> {
    UserProperties::from_block(KEY_VALUE).unwrap()
}

#[test]
fn connect_3_1() {
    let mut connect = Connect::new(V3_1, "id");
    connect.keep_alive_secs = 60;
    golden(
        V3_1,
        "10 10 0006 4D5149736470 03 02 003C 0002 6964",
        Packet::Connect(connect),
    );
}

#[test]
fn connect_of_bridges() {
    let mut connect = Connect::new(V3_1, "id");
    connect.bridge = true;
    golden(
        V3_1,
        "10 10 0006 4D5149736470 83 02 0000 0002 6964",
        Packet::Connect(connect.clone()),
    );
    connect.version = V3_1_1;
    golden(
        V3_1_1,
        "10 0E 0004 4D515454 84 02 0000 0002 6964",
        Packet::Connect(connect),
    );
}

#[test]
fn connect_3_1_1_with_everything() {
    let mut connect = Connect::new(V3_1_1, "c");
    connect.keep_alive_secs = 10;
    connect.will = Some(Will::new("w/t", b"Hi", QoS::AtLeastOnce, true));
    connect.user_name = Some("u");
    connect.password = Some(b"p");
    golden(
        V3_1_1,
        "10 1C 0004 4D515454 04 EE 000A 0001 63 0003 772F74 0002 4869 0001 75 0001 70",
        Packet::Connect(connect),
    );
}

#[test]
fn connect_5_bare() {
    golden(
        V5,
        "10 0D 0004 4D515454 05 02 0000 00 0000",
        Packet::Connect(Connect::new(V5, "")),
    );
}

#[test]
fn connect_5_with_a_password_alone() {
    let mut connect = Connect::new(V5, "");
    connect.clean_start = false;
    connect.password = Some(&[0xFF]);
    golden(
        V5,
        "10 10 0004 4D515454 05 40 0000 00 0000 0001 FF",
        Packet::Connect(connect),
    );
}

#[test]
fn connect_5_with_everything() {
    let forwardable = hex("01 01 03 0001 74 08 0001 72 09 0001 AA 26 0001 6B 0001 76");
    let connect = Connect {
        version: V5,
        bridge: false,
        clean_start: true,
        keep_alive_secs: 10,
        client_id: "c",
        will: Some(Will {
            topic: "w/t",
            payload: b"Hi",
            qos: QoS::ExactlyOnce,
            retain: false,
            delay_secs: 30,
            message_expiry_secs: Some(60),
            payload_is_utf8: true,
            forwardable: (&forwardable[..]).into(),
        }),
        user_name: Some("u"),
        password: Some(b"p"),
        session_expiry_secs: Some(120),
        receive_maximum: 10,
        maximum_packet_size: Some(4096),
        topic_alias_maximum: 5,
        request_response_information: true,
        request_problem_information: false,
        user_properties: key_value(),
        authentication_method: Some("m"),
        authentication_data: Some(&[0xFF]),
    };
    golden(
        V5,
        "10 60 0004 4D515454 05 D6 000A
         23 11 00000078 21 000A 27 00001000 22 0005 19 01 17 00 26 0001 6B 0001 76 15 0001 6D 16 0001 FF
         0001 63
         1F 18 0000001E 02 0000003C 01 01 03 0001 74 08 0001 72 09 0001 AA 26 0001 6B 0001 76
         0003 772F74 0002 4869 0001 75 0001 70",
        Packet::Connect(connect),
    );
}

#[test]
fn connack_before_5() {
    let mut connack = Connack::new(ReasonCode::SUCCESS);
    golden(V3_1, "20 02 00 00", Packet::Connack(connack.clone()));
    golden(V3_1_1, "20 02 00 00", Packet::Connack(connack.clone()));
    connack.session_present = true;
    golden(V3_1_1, "20 02 01 00", Packet::Connack(connack));
    let refusals = [
        ("20 02 00 01", ReasonCode::UNSUPPORTED_PROTOCOL_VERSION),
        ("20 02 00 02", ReasonCode::CLIENT_IDENTIFIER_NOT_VALID),
        ("20 02 00 03", ReasonCode::SERVER_UNAVAILABLE),
        ("20 02 00 04", ReasonCode::BAD_USER_NAME_OR_PASSWORD),
        ("20 02 00 05", ReasonCode::NOT_AUTHORIZED),
    ];
    for (bytes, reason) in refusals {
        for version in BEFORE_5 {
            golden(version, bytes, Packet::Connack(Connack::new(reason)));
        }
    }
}

#[test]
fn connack_5() {
    golden(
        V5,
        "20 03 00 00 00",
        Packet::Connack(Connack::new(ReasonCode::SUCCESS)),
    );
    golden(
        V5,
        "20 03 00 9F 00",
        Packet::Connack(Connack::new(ReasonCode::CONNECTION_RATE_EXCEEDED)),
    );
    let connack = Connack {
        session_present: true,
        reason: ReasonCode::SUCCESS,
        session_expiry_secs: Some(1),
        receive_maximum: Some(2),
        maximum_qos: Some(QoS::AtLeastOnce),
        retain_available: false,
        maximum_packet_size: Some(3),
        assigned_client_id: Some("i"),
        topic_alias_maximum: 4,
        reason_string: Some("r"),
        user_properties: key_value(),
        wildcard_available: false,
        subscription_ids_available: false,
        shared_available: false,
        server_keep_alive_secs: Some(5),
        response_information: Some("p"),
        server_reference: Some("s"),
        authentication_method: Some("m"),
        authentication_data: Some(&[0xFF]),
    };
    golden(
        V5,
        "20 3F 01 00 3C
         11 00000001 21 0002 24 01 25 00 27 00000003 12 0001 69 22 0004 1F 0001 72 26 0001 6B 0001 76
         28 00 29 00 2A 00 13 0005 1A 0001 70 1C 0001 73 15 0001 6D 16 0001 FF",
        Packet::Connack(connack),
    );
}

type MakeAck = fn(Ack<'static>) -> Packet<'static>;

/// First byte of each acknowledgement, and how it is made a packet.
const ACKS: [(&str, MakeAck); 4] = [
    ("40", Packet::Puback),
    ("50", Packet::Pubrec),
    ("62", Packet::Pubrel),
    ("70", Packet::Pubcomp),
];

#[test]
fn acks() {
    for (first, make) in ACKS {
        for version in EVERY_VERSION {
            let ack = Ack::new(id(0x1234), ReasonCode::SUCCESS);
            golden(version, &format!("{first} 02 1234"), make(ack));
        }
    }
    let not_found = Ack::new(id(1), ReasonCode::PACKET_IDENTIFIER_NOT_FOUND);
    golden(V5, "62 03 0001 92", Packet::Pubrel(not_found));
    golden(V5, "70 03 0001 92", Packet::Pubcomp(not_found));
    let quota = Ack::new(id(1), ReasonCode::QUOTA_EXCEEDED);
    golden(V5, "40 03 0001 97", Packet::Puback(quota));
    golden(V5, "50 03 0001 97", Packet::Pubrec(quota));
    for (first, make) in ACKS {
        let ack = Ack {
            reason_string: Some("r"),
            user_properties: key_value(),
            ..Ack::new(id(1), ReasonCode(0))
        };
        golden(
            V5,
            &format!("{first} 0F 0001 00 0B 1F 0001 72 26 0001 6B 0001 76"),
            make(ack),
        );
    }
}

#[test]
fn an_ack_may_spell_out_what_it_could_leave_out() {
    for (first, make) in ACKS {
        let success = make(Ack::new(id(1), ReasonCode::SUCCESS));
        for bytes in ["03 0001 00", "04 0001 00 00"] {
            assert_eq!(
                decode(&hex(&format!("{first}{bytes}")), V5).as_ref(),
                Ok(&success),
                "{first} {bytes}"
            );
        }
    }
}

#[test]
fn subscribe() {
    let mut payload = Vec::new();
    let all = SubscriptionOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let at_least_once = SubscriptionOptions::new(QoS::AtLeastOnce);
    SubscriptionRequests::encode_into(
        [("a/+", at_least_once), ("#", SubscriptionOptions::default())],
        &mut payload,
    );
    let mut subscribe = Subscribe {
        packet_id: id(10),
        subscription_id: None,
        user_properties: UserProperties::default(),
        requests: SubscriptionRequests::from_payload(&payload).unwrap(),
    };
    for version in BEFORE_5 {
        golden(
            version,
            "82 0C 000A 0003 612F2B 01 0001 23 00",
            Packet::Subscribe(subscribe),
        );
    }
    golden(
        V5,
        "82 0D 000A 00 0003 612F2B 01 0001 23 00",
        Packet::Subscribe(subscribe),
    );

    let mut payload = Vec::new();
    SubscriptionRequests::encode_into([("t", all)], &mut payload);
    subscribe.requests = SubscriptionRequests::from_payload(&payload).unwrap();
    subscribe.subscription_id = Some(268_435_455);
    subscribe.user_properties = key_value();
    golden(
        V5,
        "82 13 000A 0C 0B FFFFFF7F 26 0001 6B 0001 76 0001 74 2E",
        Packet::Subscribe(subscribe),
    );
}

#[test]
fn suback() {
    let codes = [
        ReasonCode::GRANTED_QOS_0,
        ReasonCode::GRANTED_QOS_2,
        ReasonCode::UNSPECIFIED_ERROR,
    ];
    for version in BEFORE_5 {
        golden(
            version,
            "90 05 0001 00 02 80",
            Packet::Suback(Suback::new(id(1), &codes)),
        );
    }
    golden(
        V5,
        "90 06 0001 00 00 02 80",
        Packet::Suback(Suback::new(id(1), &codes)),
    );
    let suback = Suback {
        reason_string: Some("r"),
        user_properties: key_value(),
        ..Suback::new(id(1), &[ReasonCode::QUOTA_EXCEEDED])
    };
    golden(
        V5,
        "90 0F 0001 0B 1F 0001 72 26 0001 6B 0001 76 97",
        Packet::Suback(suback),
    );
}

#[test]
fn unsubscribe() {
    let mut payload = Vec::new();
    TopicFilters::encode_into(["a/b", "#"], &mut payload);
    let mut unsubscribe = Unsubscribe {
        packet_id: id(10),
        user_properties: UserProperties::default(),
        filters: TopicFilters::from_payload(&payload).unwrap(),
    };
    for version in BEFORE_5 {
        golden(
            version,
            "A2 0A 000A 0003 612F62 0001 23",
            Packet::Unsubscribe(unsubscribe),
        );
    }
    golden(
        V5,
        "A2 0B 000A 00 0003 612F62 0001 23",
        Packet::Unsubscribe(unsubscribe),
    );
    unsubscribe.user_properties = key_value();
    golden(
        V5,
        "A2 12 000A 07 26 0001 6B 0001 76 0003 612F62 0001 23",
        Packet::Unsubscribe(unsubscribe),
    );
}

#[test]
fn unsuback() {
    for version in BEFORE_5 {
        golden(
            version,
            "B0 02 0001",
            Packet::Unsuback(Unsuback::new(id(1), ReasonCodes::EMPTY)),
        );
    }
    let codes = [ReasonCode::SUCCESS, ReasonCode::NO_SUBSCRIPTION_EXISTED];
    golden(
        V5,
        "B0 05 0001 00 00 11",
        Packet::Unsuback(Unsuback::new(id(1), &codes)),
    );
    let unsuback = Unsuback {
        reason_string: Some("r"),
        user_properties: key_value(),
        ..Unsuback::new(id(1), &[ReasonCode::NOT_AUTHORIZED])
    };
    golden(
        V5,
        "B0 0F 0001 0B 1F 0001 72 26 0001 6B 0001 76 87",
        Packet::Unsuback(unsuback),
    );
}

#[test]
fn ping() {
    for version in EVERY_VERSION {
        golden(version, "C0 00", Packet::Pingreq);
        golden(version, "D0 00", Packet::Pingresp);
    }
    let mut bytes = Vec::new();
    encode_pingreq(&mut bytes);
    encode_pingresp(&mut bytes);
    assert_eq!(bytes, hex("C000 D000"));
}

#[test]
fn disconnect() {
    for version in EVERY_VERSION {
        golden(
            version,
            "E0 00",
            Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS)),
        );
    }
    golden(
        V5,
        "E0 01 8E",
        Packet::Disconnect(Disconnect::new(ReasonCode::SESSION_TAKEN_OVER)),
    );
    let disconnect = Disconnect {
        reason: ReasonCode::SERVER_MOVED,
        session_expiry_secs: Some(7),
        reason_string: Some("r"),
        user_properties: key_value(),
        server_reference: Some("s"),
    };
    golden(
        V5,
        "E0 16 9D 14 11 00000007 1F 0001 72 26 0001 6B 0001 76 1C 0001 73",
        Packet::Disconnect(disconnect),
    );
    let success = Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS));
    assert_eq!(decode(&hex("E0 01 00"), V5).as_ref(), Ok(&success));
    assert_eq!(decode(&hex("E0 02 00 00"), V5).as_ref(), Ok(&success));
}

#[test]
fn auth() {
    golden(V5, "F0 00", Packet::Auth(Auth::new(ReasonCode::SUCCESS)));
    let auth = Auth {
        authentication_method: Some("m"),
        authentication_data: Some(&[0xFF]),
        reason_string: Some("r"),
        user_properties: key_value(),
        ..Auth::new(ReasonCode::CONTINUE_AUTHENTICATION)
    };
    golden(
        V5,
        "F0 15 18 13 15 0001 6D 16 0001 FF 1F 0001 72 26 0001 6B 0001 76",
        Packet::Auth(auth),
    );
}
