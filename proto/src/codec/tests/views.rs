//! What packets lend out in encoded form: iterating, building, and comparing.

use super::*;

#[test]
fn user_properties() {
    let pairs = [("a", "1"), ("", ""), ("a", "2"), ("ü", "€")];
    let mut encoded = Vec::new();
    UserProperties::encode_into(pairs, &mut encoded);
    let properties = UserProperties::from_block(&encoded).unwrap();
    assert_eq!(properties.iter().collect::<Vec<_>>(), pairs);
    assert!(!properties.is_empty());
    assert_eq!(
        format!("{properties:?}"),
        r#"[("a", "1"), ("", ""), ("a", "2"), ("ü", "€")]"#
    );
    assert!(UserProperties::default().is_empty());
}

#[test]
fn user_properties_skip_what_stands_between() {
    let mixed = hex("01 01 26 0001 61 0001 31 0B 8001 03 0001 74 26 0001 62 0001 32 23 0001 02 00000001");
    let pure = hex("26 0001 61 0001 31 26 0001 62 0001 32");
    let mixed = UserProperties::from_block(&mixed).unwrap();
    assert_eq!(mixed.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "2")]);
    assert_eq!(mixed, UserProperties::from_block(&pure).unwrap());
    assert_ne!(mixed, UserProperties::from_block(&pure[..7]).unwrap());
    assert_ne!(mixed, UserProperties::default());
    assert!(UserProperties::from_block(&hex("01 01")).unwrap().is_empty());
}

#[test]
fn blocks_are_checked() {
    for block in [
        "26",
        "26 0001 61",
        "26 0001 61 0001",
        "00",
        "FF",
        "26 0001 00 0001 61",
        "26 0001 FF 0001 61",
    ] {
        let block = hex(block);
        assert_eq!(
            UserProperties::from_block(&block).unwrap_err().reason,
            ReasonCode::MALFORMED_PACKET
        );
        assert_eq!(
            SubscriptionIds::from_block(&block).unwrap_err().reason,
            ReasonCode::MALFORMED_PACKET
        );
    }
    assert_eq!(
        SubscriptionIds::from_block(&hex("0B 00")).unwrap_err().reason,
        ReasonCode::PROTOCOL_ERROR
    );
}

#[test]
fn subscription_ids() {
    let values = [1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455, 1];
    let mut encoded = Vec::new();
    SubscriptionIds::encode_into(values, &mut encoded);
    assert_eq!(
        encoded,
        hex("0B01 0B7F 0B8001 0BFF7F 0B808001 0BFFFF7F 0B80808001 0BFFFFFF7F 0B01"),
        "the table of MQTT5 1.5.5"
    );
    let ids = SubscriptionIds::from_block(&encoded).unwrap();
    assert_eq!(ids.iter().collect::<Vec<_>>(), values);
    assert_ne!(ids, SubscriptionIds::default());
    assert_eq!(
        format!("{:?}", SubscriptionIds::from_block(&hex("0B05 0B06")).unwrap()),
        "[5, 6]"
    );
}

#[test]
fn subscription_requests() {
    let shared = SubscriptionOptions {
        retain_as_published: true,
        ..SubscriptionOptions::new(QoS::AtLeastOnce)
    };
    let requests = [
        ("a/#", SubscriptionOptions::default()),
        ("$share/g/+", shared),
        ("", shared),
    ];
    let mut payload = Vec::new();
    SubscriptionRequests::encode_into(requests, &mut payload);
    let decoded = SubscriptionRequests::from_payload(&payload).unwrap();
    assert_eq!(decoded.into_iter().collect::<Vec<_>>(), requests);
    assert_eq!(decoded.len(), 3);
    assert!(!decoded.is_empty());
    for length in 1..payload.len() {
        let boundary = [6, 6 + 13].contains(&length);
        assert_eq!(
            SubscriptionRequests::from_payload(&payload[..length]).is_ok(),
            boundary,
            "{length}"
        );
    }
}

#[test]
fn topic_filters() {
    let mut payload = Vec::new();
    TopicFilters::encode_into(["a/#", "", "ü"], &mut payload);
    let filters = TopicFilters::from_payload(&payload).unwrap();
    assert_eq!(filters.into_iter().collect::<Vec<_>>(), ["a/#", "", "ü"]);
    assert_eq!(filters.len(), 3);
    assert!(!filters.is_empty());
    assert!(TopicFilters::from_payload(&payload[..payload.len() - 1]).is_err());
}

#[test]
fn reason_codes_read_like_a_slice_wherever_they_come_from() {
    let sent = [ReasonCode::GRANTED_QOS_1, ReasonCode::QUOTA_EXCEEDED];
    let bytes = encode(&Packet::Suback(Suback::new(id(1), &sent)), V5);
    let Ok(Packet::Suback(received)) = decode(&bytes, V5) else {
        panic!("no SUBACK");
    };
    for codes in [
        ReasonCodes::from(&sent),
        ReasonCodes::from(&sent.to_vec()),
        received.reasons,
    ] {
        assert_eq!(codes, sent);
        assert_eq!(codes, received.reasons);
        assert_eq!(codes.len(), 2);
        assert_eq!(codes[1], ReasonCode::QUOTA_EXCEEDED);
        assert_eq!(codes.to_vec(), sent);
        assert_eq!(codes.iter().len(), 2);
        assert_ne!(codes, [ReasonCode::GRANTED_QOS_1]);
        assert_ne!(codes, ReasonCodes::EMPTY);
        assert!(!codes.is_empty());
    }
    assert!(ReasonCodes::EMPTY.is_empty());
}

#[test]
fn strings_longer_than_their_length_field_are_cut_between_characters() {
    let long = "€".repeat(30_000);
    let mut disconnect = Disconnect::new(ReasonCode::SERVER_MOVED);
    disconnect.reason_string = Some(&long);
    let bytes = encode(&Packet::Disconnect(disconnect), V5);
    assert_eq!(disconnect.encoded_len(V5), bytes.len());
    match decode(&bytes, V5) {
        Ok(Packet::Disconnect(decoded)) => assert_eq!(decoded.reason_string, Some(&long[..65_535])),
        other => panic!("{other:?}"),
    }
    let mut publish = OutboundPublish {
        topic: &long,
        payload: b"x",
        forwardable: &[],
        qos: QoS::AtMostOnce,
        dup: false,
        retain: false,
        packet_id: None,
        message_expiry_secs: None,
        topic_alias: None,
        subscription_ids: &[],
    };
    for topic in [&long[..], &long[..65_535], &long[..65_532]] {
        publish.topic = topic;
        let mut bytes = Vec::new();
        publish.encode(V5, &mut bytes);
        assert_eq!(publish.encoded_len(V5), bytes.len());
        match decode(&bytes, V5) {
            Ok(Packet::Publish(decoded)) => assert_eq!(decoded.topic, &topic[..topic.len().min(65_535)]),
            other => panic!("{other:?}"),
        }
    }
}
