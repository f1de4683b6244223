//! Packets that are malformed, forbidden or out of order [2.1, 2.2, 4.13].

use quorate_tests::scope::Scope;
use quorate_tests::wire::{
    Encode, Property, auth, connect, disconnect, filter, fixed, puback, publish, pubrel, subscribe,
    unsubscribe,
};
use quorate_tests::{Version, each_version};

use super::broker;

/// The bytes are answered with this reason and the end.
async fn expect_refused(version: Version, bytes: &[u8], code: u8) {
    let mut raw = broker()
        .raw_client(version, &connect(&Scope::new().id("a")))
        .await;
    raw.send(bytes).await;
    raw.expect_disconnect(code).await;
}

/// [MQTT-4.13.1-1], [MQTT-4.13.2-1], section 2.1.2; 3.1.1 [MQTT-4.8.0-1]: types that are reserved, or that only a
/// server sends.
async fn packets_that_a_client_never_sends_are_refused(version: Version) {
    expect_refused(version, &[0x00, 0x00], 0x81).await;
    expect_refused(version, &[0x20, 0x03, 0x00, 0x00, 0x00], 0x82).await;
    expect_refused(version, &[0x90, 0x04, 0x00, 0x01, 0x00, 0x00], 0x82).await;
    expect_refused(version, &[0xB0, 0x04, 0x00, 0x01, 0x00, 0x00], 0x82).await;
    expect_refused(version, &[0xD0, 0x00], 0x82).await;
}
each_version!(packets_that_a_client_never_sends_are_refused: v5);

/// The same before MQTT 5, where the packets have other forms and nothing is told.
async fn packets_that_an_old_client_never_sends_are_refused(version: Version) {
    for bytes in [
        &[0x00, 0x00][..],
        &[0x20, 0x02, 0, 0],
        &[0x90, 0x03, 0, 1, 0],
        &[0xB0, 0x02, 0, 1],
        &[0xD0, 0],
        &[0xF0, 0],
    ] {
        expect_refused(version, bytes, 0).await;
    }
}
each_version!(packets_that_an_old_client_never_sends_are_refused: v3_1, v3_1_1);

/// [MQTT-2.1.3-1], [MQTT-3.6.1-1], [MQTT-3.8.1-1], [MQTT-3.10.1-1], [MQTT-3.14.1-1], [MQTT-3.15.1-1]; 3.1.1
/// [MQTT-2.2.2-1], [MQTT-2.2.2-2] and those of the packets: every wrong value of every packet's flags.
async fn reserved_flags_are_refused(version: Version) {
    let packets = [
        (puback(1).encode(version), 0x0),
        (pubrel(1).encode(version), 0x2),
        (subscribe(1, [filter("a").qos(0)]).encode(version), 0x2),
        (unsubscribe(1, ["a"]).encode(version), 0x2),
        (vec![0xC0, 0x00], 0x0),
        (disconnect().encode(version), 0x0),
    ];
    for (packet, right) in packets {
        // With DUP set MQTT 3.1 allows a repeated packet, which 3.1.1 and 5 do not.
        for flags in (0x0..=0xF).filter(|flags| *flags != right) {
            let mut bytes = packet.clone();
            bytes[0] = bytes[0] & 0xF0 | flags;
            expect_refused(version, &bytes, 0x81).await;
        }
    }
}
each_version!(reserved_flags_are_refused: v3_1_1, v5);

/// [MQTT-3.15.1-1]
#[tokio::test]
async fn reserved_flags_of_auth_are_refused() {
    for flags in 1..=0xF {
        expect_refused(Version::V5, &[0xF0 | flags, 0x02, 0x19, 0x00], 0x81).await;
    }
}

/// Section 2.1.2 and 3.12: PINGREQ has no body.
async fn pingreq_with_a_body_is_refused(version: Version) {
    expect_refused(version, &[0xC0, 0x01, 0x00], 0x81).await;
}
each_version!(pingreq_with_a_body_is_refused);

/// [MQTT-1.5.5-1] and section 2.1.4: lengths of more than four bytes, and longer than needed.
async fn wrong_remaining_length_is_refused(version: Version) {
    for bytes in [
        &[0xC0, 0x80, 0x80, 0x80, 0x80, 0x00][..],
        &[0xC0, 0xFF, 0xFF, 0xFF, 0xFF],
        &[0xC0, 0x80, 0x00],
        &[0xC0, 0x80, 0x80, 0x00],
    ] {
        expect_refused(version, bytes, 0x81).await;
    }
}
each_version!(wrong_remaining_length_is_refused);

/// [MQTT-1.5.5-1]: likewise for the length of the properties and for subscription identifiers.
#[tokio::test]
async fn padded_variable_integers_are_refused() {
    expect_refused(Version::V5, &fixed(0x30, &[0, 1, b'a', 0x80, 0x00]), 0x81).await;
    let padded = Property::Raw(vec![0x0B, 0x81, 0x00]);
    expect_refused(
        Version::V5,
        &subscribe(1, [filter("a")]).property(padded).encode(Version::V5),
        0x81,
    )
    .await;
}

/// [MQTT-3.3.1-4]
async fn qos_3_is_refused(version: Version) {
    expect_refused(version, &publish("a", "m").qos(3).id(1).encode(version), 0x81).await;
}
each_version!(qos_3_is_refused);

/// [MQTT-3.3.1-2]
async fn dup_at_qos_0_is_refused(version: Version) {
    expect_refused(version, &publish("a", "m").dup().encode(version), 0x81).await;
}
each_version!(dup_at_qos_0_is_refused: v3_1_1, v5);

/// [MQTT-2.2.1-3]; 3.1.1 [MQTT-2.3.1-1]: packet identifier 0.
async fn packet_identifier_0_is_refused(version: Version) {
    expect_refused(version, &publish("a", "m").qos(1).id(0).encode(version), 0x82).await;
    expect_refused(version, &publish("a", "m").qos(2).id(0).encode(version), 0x82).await;
    expect_refused(version, &subscribe(0, [filter("a")]).encode(version), 0x82).await;
    expect_refused(version, &unsubscribe(0, ["a"]).encode(version), 0x82).await;
    expect_refused(version, &puback(0).encode(version), 0x82).await;
}
each_version!(packet_identifier_0_is_refused);

/// [MQTT-2.2.1-2]; 3.1.1 [MQTT-2.3.1-5]: at QoS 0 there is no identifier; two bytes there are payload at 3.1.1, and at
/// 5 the property length.
#[tokio::test]
async fn publish_at_qos_0_has_no_identifier() {
    let scope = Scope::new();
    let mut client = broker().clean(Version::V3_1_1, &scope.id("a")).await;
    client.subscribe(&scope.topic("x"), 0).await;
    client.publish(publish(&scope.topic("x"), "m").id(0x4142)).await;
    client.expect("ABm").await;
    expect_refused(
        Version::V5,
        &publish("a", "").id(0x2626).encode(Version::V5),
        0x81,
    )
    .await;
}

/// [MQTT-3.8.3-2], [MQTT-3.10.3-2]; 3.1.1 [MQTT-3.8.3-3], [MQTT-3.10.3-2]
async fn empty_lists_of_filters_are_refused(version: Version) {
    expect_refused(version, &subscribe(1, []).encode(version), 0x82).await;
    expect_refused(version, &unsubscribe::<&str>(1, []).encode(version), 0x82).await;
}
each_version!(empty_lists_of_filters_are_refused);

/// [MQTT-3.8.3-5]; 3.1.1 [MQTT-3.8.3-4]: reserved bits and values of the options.
#[tokio::test]
async fn reserved_subscription_options_are_refused() {
    for (options, code) in [
        (0b0100_0000, 0x81),
        (0b1000_0000, 0x81),
        (0b0000_0011, 0x82),
        (0b0011_0000, 0x82),
    ] {
        let packet = subscribe(1, [filter("a").options(options)]);
        expect_refused(Version::V5, &packet.encode(Version::V5), code).await;
    }
    for bit in 2..8 {
        let packet = subscribe(1, [filter("a").options(1 << bit)]);
        expect_refused(Version::V3_1_1, &packet.encode(Version::V3_1_1), 0).await;
    }
    expect_refused(
        Version::V3_1_1,
        &subscribe(1, [filter("a").options(3)]).encode(Version::V3_1_1),
        0,
    )
    .await;
}

/// [MQTT-3.3.4-6]: only a server sends subscription identifiers in a PUBLISH.
#[tokio::test]
async fn publish_with_subscription_identifier_is_refused() {
    let packet = publish("a", "m").property(Property::SubscriptionId(1));
    expect_refused(Version::V5, &packet.encode(Version::V5), 0x82).await;
}

/// [MQTT-3.3.2-14]
#[tokio::test]
async fn response_topic_with_wildcard_is_refused() {
    for topic in ["a/+", "#"] {
        let packet = publish("a", "m").property(Property::ResponseTopic(topic.into()));
        expect_refused(Version::V5, &packet.encode(Version::V5), 0x82).await;
    }
}

/// Sections 2.2.2.2, 3.3.2.3 and 3.8.2.1.2: values that are not allowed, properties that stand twice, and such that do
/// not belong into the packet.
#[tokio::test]
async fn wrong_properties_are_refused() {
    let twice = |property: Property| {
        publish("a", "m")
            .property(property.clone())
            .property(property)
            .encode(Version::V5)
    };
    for property in [
        Property::PayloadFormat(0),
        Property::MessageExpiry(1),
        Property::ContentType("a".into()),
        Property::ResponseTopic("a".into()),
        Property::CorrelationData(vec![1]),
        Property::TopicAlias(1),
    ] {
        expect_refused(Version::V5, &twice(property), 0x82).await;
    }
    let once = |property| publish("a", "m").property(property).encode(Version::V5);
    expect_refused(Version::V5, &once(Property::PayloadFormat(2)), 0x82).await;
    for property in [
        Property::SessionExpiry(1),
        Property::ReasonString("a".into()),
        Property::Raw(vec![0x04, 0]),
    ] {
        expect_refused(Version::V5, &once(property), 0x81).await;
    }
    let zero = subscribe(1, [filter("a")]).property(Property::SubscriptionId(0));
    expect_refused(Version::V5, &zero.encode(Version::V5), 0x82).await;
    let two = subscribe(1, [filter("a")])
        .property(Property::SubscriptionId(1))
        .property(Property::SubscriptionId(2));
    expect_refused(Version::V5, &two.encode(Version::V5), 0x82).await;
}

/// [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1], [MQTT-3.14.2-1], [MQTT-3.15.2-1]: a code that the
/// packet does not have.
#[tokio::test]
async fn wrong_reason_codes_are_refused() {
    for first_byte in [0x40, 0x50, 0x62, 0x70] {
        expect_refused(Version::V5, &fixed(first_byte, &[0, 1, 0x04]), 0x82).await;
    }
    expect_refused(Version::V5, &disconnect().code(0x01).encode(Version::V5), 0x82).await;
    expect_refused(Version::V5, &auth(0x01).encode(Version::V5), 0x82).await;
}

/// [MQTT-3.14.2-2] has its likeness for clients: a server reference is not theirs to send.
#[tokio::test]
async fn server_reference_from_a_client_is_refused() {
    let packet = disconnect().property(Property::ServerReference("other".into()));
    expect_refused(Version::V5, &packet.encode(Version::V5), 0x82).await;
}

/// [MQTT-3.14.4-1], [MQTT-3.14.4-2]: nothing is taken after DISCONNECT, and the server closes.
async fn nothing_is_processed_after_disconnect(version: Version) {
    let scope = Scope::new();
    let mut subscriber = broker().clean(version, &scope.id("s")).await;
    subscriber.subscribe(&scope.topic("x"), 1).await;
    let mut raw = broker().raw_client(version, &connect(&scope.id("p"))).await;
    let mut bytes = disconnect().encode(version);
    bytes.extend(publish(&scope.topic("x"), "too late").encode(version));
    raw.send(&bytes).await;
    raw.expect_closed().await;
    subscriber.publish(publish(&scope.topic("x"), "end").qos(1)).await;
    subscriber.expect("end").await;
}
each_version!(nothing_is_processed_after_disconnect);

/// [MQTT-4.13.1-1]: an error ends its connection, not the broker nor others.
async fn errors_leave_other_connections_alone(version: Version) {
    let scope = Scope::new();
    let mut bystander = broker().raw_client(version, &connect(&scope.id("b"))).await;
    for _ in 0..20 {
        expect_refused(version, &[0xC0, 0x01, 0x00], 0x81).await;
    }
    bystander.expect_alive().await;
}
each_version!(errors_leave_other_connections_alone);
