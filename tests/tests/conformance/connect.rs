//! CONNECT and CONNACK [3.1, 3.2].

use quorate_tests::scope::Scope;
use quorate_tests::wire::{Encode, Packet, Property, Will, connect, filter, fixed, publish, subscribe};
use quorate_tests::{Version, each_version};

use super::broker;

/// Bytes of a CONNECT before its connect flags: fixed header, protocol name, level.
fn flags_at(version: Version) -> usize {
    if version == Version::V3_1 { 11 } else { 9 }
}

/// A CONNECT with some bits of its connect flags turned.
fn with_flags_turned(version: Version, bits: u8) -> Vec<u8> {
    let mut bytes = connect(&Scope::new().id("flags")).encode(version);
    bytes[flags_at(version)] ^= bits;
    bytes
}

/// [MQTT-3.1.0-1]
async fn first_packet_must_be_connect(version: Version) {
    let packets = [
        vec![0xC0, 0x00],
        publish("a", "b").encode(version),
        subscribe(1, [filter("a")]).encode(version),
    ];
    for packet in packets {
        let mut raw = broker().raw(version).await;
        raw.send(&packet).await;
        raw.expect_closed().await;
    }
}
each_version!(first_packet_must_be_connect);

/// [MQTT-3.1.0-2]
async fn second_connect_ends_the_connection(version: Version) {
    let scope = Scope::new();
    let mut raw = broker().raw_client(version, &connect(&scope.id("a"))).await;
    raw.send(&connect(&scope.id("a"))).await;
    raw.expect_disconnect(0x82).await;
}
each_version!(second_connect_ends_the_connection);

/// [MQTT-3.1.2-1]
#[tokio::test]
async fn unknown_protocol_name_ends_the_connection() {
    for name in ["MQTR", "mqtt", "hj", ""] {
        let mut body = vec![0, u8::try_from(name.len()).expect("a short name")];
        body.extend(name.as_bytes());
        body.extend([4, 2, 0, 0, 0, 1, b'a']);
        let mut raw = broker().raw(Version::V3_1_1).await;
        raw.send(&fixed(0x10, &body)).await;
        raw.expect_closed().await;
    }
}

/// [MQTT-3.1.2-2]: told in the form of the nearest version, 0x84 above 5 and return code 1 below.
#[tokio::test]
async fn unsupported_level_is_told_and_closed() {
    for (level, version, code) in [
        (6, Version::V5, 0x84),
        (99, Version::V5, 0x84),
        (0, Version::V3_1_1, 1),
        (3, Version::V3_1_1, 1),
    ] {
        let mut raw = broker().raw(version).await;
        raw.send(&fixed(
            0x10,
            &[0, 4, b'M', b'Q', b'T', b'T', level, 2, 0, 0, 0, 1, b'a'],
        ))
        .await;
        raw.expect_refused(Some(code)).await;
    }
}

/// [MQTT-3.1.2-3]
async fn reserved_connect_flag_is_rejected(version: Version) {
    let mut raw = broker().raw(version).await;
    raw.send(&with_flags_turned(version, 0b1)).await;
    raw.expect_connect_rejected(0x81).await;
}
each_version!(reserved_connect_flag_is_rejected: v3_1_1, v5);

/// [MQTT-3.1.2-11], [MQTT-3.1.2-13]; 3.1.1 [MQTT-3.1.2-11], [MQTT-3.1.2-13], [MQTT-3.1.2-15]
async fn will_qos_and_retain_need_the_will_flag(version: Version) {
    for bits in [0b0000_1000, 0b0001_0000, 0b0010_0000] {
        let mut raw = broker().raw(version).await;
        raw.send(&with_flags_turned(version, bits)).await;
        raw.expect_connect_rejected(0x81).await;
    }
}
each_version!(will_qos_and_retain_need_the_will_flag: v3_1_1, v5);

/// [MQTT-3.1.2-12]; 3.1.1 [MQTT-3.1.2-14]
async fn will_qos_3_is_rejected(version: Version) {
    let mut raw = broker().raw(version).await;
    raw.send(&connect("a").will(Will::new("a", "b").qos(3))).await;
    raw.expect_connect_rejected(0x81).await;
}
each_version!(will_qos_3_is_rejected);

/// [MQTT-3.1.2-9]: the flag says there is a will, the payload has none.
async fn will_flag_needs_a_will_in_the_payload(version: Version) {
    let mut raw = broker().raw(version).await;
    raw.send(&with_flags_turned(version, 0b100)).await;
    raw.expect_connect_rejected(0x81).await;
}
each_version!(will_flag_needs_a_will_in_the_payload);

/// [MQTT-3.1.2-16] to [MQTT-3.1.2-19]; 3.1.1 [MQTT-3.1.2-18] to [MQTT-3.1.2-21]
async fn credentials_must_fit_their_flags(version: Version) {
    const USER_NAME: u8 = 0b1000_0000;
    const PASSWORD: u8 = 0b0100_0000;
    let scope = Scope::new();
    let with = connect(&scope.id("a")).user_name("someone").password("secret");
    for (bytes, turned) in [
        (connect(&scope.id("a")).encode(version), USER_NAME),
        (with.encode(version), USER_NAME),
        (
            connect(&scope.id("a")).user_name("someone").encode(version),
            PASSWORD,
        ),
        (with.encode(version), PASSWORD),
    ] {
        let mut bytes = bytes;
        bytes[flags_at(version)] ^= turned;
        let mut raw = broker().raw(version).await;
        raw.send(&bytes).await;
        raw.expect_connect_rejected(0x81).await;
    }
}
each_version!(credentials_must_fit_their_flags: v3_1_1, v5);

/// 3.1.1 [MQTT-3.1.2-22]
async fn password_needs_a_user_name_before_mqtt_5(version: Version) {
    let mut raw = broker().raw(version).await;
    raw.send(&connect(&Scope::new().id("a")).password("secret")).await;
    raw.expect_closed().await;
}
each_version!(password_needs_a_user_name_before_mqtt_5: v3_1, v3_1_1);

/// [MQTT-3.1.4-1]
async fn bytes_after_the_payload_are_rejected(version: Version) {
    let mut bytes = connect(&Scope::new().id("a")).encode(version);
    bytes[1] += 1;
    bytes.push(b'x');
    let mut raw = broker().raw(version).await;
    raw.send(&bytes).await;
    raw.expect_connect_rejected(0x81).await;
}
each_version!(bytes_after_the_payload_are_rejected);

/// [MQTT-3.1.4-1], [MQTT-3.1.3-3]: cut off anywhere, a CONNECT is not one.
async fn a_connect_that_is_cut_off_is_rejected(version: Version) {
    let whole = connect("a")
        .will(Will::new("a", "b"))
        .user_name("u")
        .password("p")
        .encode(version);
    for length in flags_at(version) + 1..whole.len() {
        let mut raw = broker().raw(version).await;
        raw.send(&fixed(0x10, &whole[2..length])).await;
        raw.expect_connect_rejected(0x81).await;
    }
}
each_version!(a_connect_that_is_cut_off_is_rejected: v3_1_1, v5);

/// [MQTT-3.1.3-5]
async fn every_client_identifier_of_23_letters_and_digits_is_taken(version: Version) {
    for id in [
        "0123456789abcdefghijklm",
        "nopqrstuvwxyzABCDEFGHIJ",
        "KLMNOPQRSTUVWXYZ",
        "a",
    ] {
        let client = broker().clean(version, id).await;
        client.disconnect().await;
    }
}
each_version!(every_client_identifier_of_23_letters_and_digits_is_taken: v3_1, v3_1_1, v5);

/// [MQTT-3.1.3-6], [MQTT-3.1.3-7], [MQTT-3.2.2-16]: each gets an identifier of its own, and can come back with it.
#[tokio::test]
async fn empty_client_identifier_gets_a_new_one() {
    let mut assigned = Vec::new();
    for clean in [true, false] {
        let packet = if clean { connect("") } else { connect("").resume() }.expiry(60);
        let client = broker().client(Version::V5, &packet).await;
        let id = client
            .connack
            .properties
            .assigned_client_id()
            .expect("an identifier [MQTT-3.2.2-16]");
        assert!(!client.connack.session_present && !id.is_empty());
        client.disconnect().await;
        let again = broker().durable(Version::V5, &id).await;
        assert!(
            again.connack.session_present,
            "the session is kept under the assigned identifier [MQTT-3.1.3-7]"
        );
        assert_eq!(again.connack.properties.assigned_client_id(), None);
        assigned.push(id);
    }
    assert_ne!(assigned[0], assigned[1]);
}

/// 3.1.1 [MQTT-3.1.3-6]: two clients without identifier do not take each other over.
#[tokio::test]
async fn empty_client_identifier_is_unique_at_3_1_1() {
    let mut first = broker().clean(Version::V3_1_1, "").await;
    let mut second = broker().clean(Version::V3_1_1, "").await;
    first.raw.expect_alive().await;
    second.raw.expect_alive().await;
}

/// 3.1.1 [MQTT-3.1.3-7], [MQTT-3.1.3-8]
#[tokio::test]
async fn empty_client_identifier_without_clean_session_is_rejected() {
    let mut raw = broker().raw(Version::V3_1_1).await;
    raw.send(&connect("").resume()).await;
    raw.expect_refused(Some(2)).await;
}

/// MQTT 3.1 section 3.1: the client identifier has 1 to 23 characters.
#[tokio::test]
async fn empty_client_identifier_is_rejected_at_3_1() {
    let mut raw = broker().raw(Version::V3_1).await;
    raw.send(&connect("")).await;
    raw.expect_refused(Some(2)).await;
}

/// [MQTT-3.1.3-8]; 3.1.1 [MQTT-3.1.3-9], [MQTT-3.2.2-4], [MQTT-3.2.2-5]
async fn too_long_client_identifier_is_rejected(version: Version) {
    let mut raw = broker().raw(version).await;
    raw.send(&connect(&"a".repeat(257))).await;
    raw.expect_refused(Some(if version == Version::V5 { 0x85 } else { 2 }))
        .await;
    broker()
        .clean(
            version,
            &format!("{}{}", Scope::new().id("long"), "a".repeat(240)),
        )
        .await;
}
each_version!(too_long_client_identifier_is_rejected);

/// [MQTT-3.1.4-6]; 3.1.1 [MQTT-3.1.4-5]: what a rejected client sent along has no effect.
async fn nothing_after_a_rejected_connect_is_processed(version: Version) {
    let scope = Scope::new();
    let mut subscriber = broker().clean(version, &scope.id("s")).await;
    subscriber.subscribe(&scope.topic("#"), 1).await;
    let mut raw = broker().raw(version).await;
    let mut bytes = connect(&"a".repeat(257)).encode(version);
    bytes.extend(publish(&scope.topic("x"), "rejected").retain().encode(version));
    raw.send(&bytes).await;
    raw.expect_refused(Some(if version == Version::V5 { 0x85 } else { 2 }))
        .await;
    let mut publisher = broker().clean(version, &scope.id("p")).await;
    publisher.publish(publish(&scope.topic("x"), "end").qos(1)).await;
    subscriber.expect("end").await;
    let mut late = broker().clean(version, &scope.id("l")).await;
    late.subscribe(&scope.topic("#"), 1).await;
    publisher
        .publish(publish(&scope.topic("x"), "later").qos(1))
        .await;
    late.expect("later").await;
}
each_version!(nothing_after_a_rejected_connect_is_processed);

/// [MQTT-3.2.0-1], [MQTT-3.2.0-2]: a client may send on without waiting; CONNACK still comes first, and once. What it
/// sent takes effect in order: its own message reaches its subscription, if it likes before SUBACK (section 3.8.4).
async fn connack_comes_first_and_once(version: Version) {
    let scope = Scope::new();
    let mut bytes = connect(&scope.id("a")).encode(version);
    bytes.extend(subscribe(1, [filter(&scope.topic("x"))]).encode(version));
    bytes.extend(publish(&scope.topic("x"), "m").qos(1).id(2).encode(version));
    let mut raw = broker().raw(version).await;
    raw.send(&bytes).await;
    assert_eq!(raw.expect_connack().await.code, 0);
    let (mut subacks, mut messages, mut pubacks) = (0, 0, 0);
    for _ in 0..3 {
        match raw.receive().await {
            Packet::Suback(suback) if suback.id == 1 => subacks += 1,
            Packet::Publish(message) if message.payload == b"m" => messages += 1,
            Packet::Puback(puback) if puback.id == 2 => pubacks += 1,
            other => panic!("the broker sent {other:?}"),
        }
    }
    assert_eq!((subacks, messages, pubacks), (1, 1, 1));
}
each_version!(connack_comes_first_and_once);

/// [MQTT-2.2.2-1] and section 3.1.2.11: values that are not allowed, and properties that may stand only once.
#[tokio::test]
async fn wrong_connect_properties_are_rejected() {
    let protocol_errors = [
        vec![Property::ReceiveMaximum(0)],
        vec![Property::MaximumPacketSize(0)],
        vec![Property::RequestProblemInformation(2)],
        vec![Property::RequestResponseInformation(2)],
        vec![Property::SessionExpiry(1), Property::SessionExpiry(1)],
        vec![Property::ReceiveMaximum(9), Property::ReceiveMaximum(9)],
        vec![Property::MaximumPacketSize(999), Property::MaximumPacketSize(999)],
        vec![Property::TopicAliasMaximum(1), Property::TopicAliasMaximum(1)],
        vec![
            Property::RequestProblemInformation(1),
            Property::RequestProblemInformation(1),
        ],
        vec![
            Property::RequestResponseInformation(1),
            Property::RequestResponseInformation(1),
        ],
        vec![Property::AuthMethod("m".into()), Property::AuthMethod("m".into())],
        vec![Property::AuthData(vec![1])],
    ];
    let malformed = [
        vec![Property::TopicAlias(1)],
        vec![Property::SubscriptionId(1)],
        vec![Property::WillDelay(1)],
        vec![Property::Raw(vec![0x00, 0x00])],
        vec![Property::Raw(vec![0x7F, 0x00])],
        vec![Property::Raw(vec![0x11, 0x00, 0x00])],
    ];
    let cases = protocol_errors.map(|properties| (properties, 0x82)).into_iter();
    for (properties, code) in cases.chain(malformed.map(|properties| (properties, 0x81))) {
        let mut raw = broker().raw(Version::V5).await;
        let packet = properties
            .iter()
            .cloned()
            .fold(connect("a"), |packet, property| packet.property(property));
        raw.send(&packet).await;
        let connack = raw.expect_connack().await;
        assert_eq!(connack.code, code, "{properties:?}");
        raw.expect_closed().await;
    }
}

/// Section 3.1.3.2: the will's properties, likewise.
#[tokio::test]
async fn wrong_will_properties_are_rejected() {
    for (properties, code) in [
        (vec![Property::WillDelay(1), Property::WillDelay(1)], 0x82),
        (vec![Property::PayloadFormat(2)], 0x82),
        (vec![Property::PayloadFormat(1), Property::PayloadFormat(1)], 0x82),
        (vec![Property::MessageExpiry(1), Property::MessageExpiry(1)], 0x82),
        (
            vec![
                Property::ContentType("a".into()),
                Property::ContentType("a".into()),
            ],
            0x82,
        ),
        (
            vec![
                Property::ResponseTopic("a".into()),
                Property::ResponseTopic("a".into()),
            ],
            0x82,
        ),
        (
            vec![
                Property::CorrelationData(vec![1]),
                Property::CorrelationData(vec![1]),
            ],
            0x82,
        ),
        (vec![Property::TopicAlias(1)], 0x81),
    ] {
        let will = properties
            .iter()
            .cloned()
            .fold(Will::new("a", "b"), |will, property| will.property(property));
        let mut raw = broker().raw(Version::V5).await;
        raw.send(&connect("a").will(will)).await;
        let connack = raw.expect_connack().await;
        assert_eq!(connack.code, code, "{properties:?}");
        raw.expect_closed().await;
    }
}

/// [MQTT-3.2.2-9], [MQTT-3.2.2-15] to [MQTT-3.2.2-18] and DESIGN's defaults: what differs from the standard's
/// defaults is said, and what does not is not restricted.
#[tokio::test]
async fn connack_tells_the_limits() {
    let client = broker()
        .client(Version::V5, &connect(&Scope::new().id("a")).expiry(8 * 24 * 3600))
        .await;
    let properties = &client.connack.properties;
    assert_eq!(properties.receive_maximum(), Some(100));
    assert_eq!(properties.maximum_packet_size(), Some(1_048_576));
    assert_eq!(properties.topic_alias_maximum(), Some(32));
    assert_eq!(
        properties.session_expiry(),
        Some(7 * 24 * 3600),
        "more than seven days is cut, and said"
    );
    assert_eq!(properties.maximum_qos(), None);
    for available in [
        properties.retain_available(),
        properties.wildcard_available(),
        properties.subscription_ids_available(),
        properties.shared_available(),
    ] {
        assert_ne!(available, Some(0));
    }
    assert_eq!(properties.server_keep_alive(), None, "[MQTT-3.2.2-22]");
    assert_eq!(properties.assigned_client_id(), None);
    assert_eq!(properties.auth_method(), None, "[MQTT-4.12.0-6]");
}

/// [MQTT-3.1.2-28]: response information only on request; this broker has none configured.
#[tokio::test]
async fn response_information_is_not_sent_unasked() {
    let client = broker().clean(Version::V5, &Scope::new().id("a")).await;
    assert_eq!(client.connack.properties.response_information(), None);
}
