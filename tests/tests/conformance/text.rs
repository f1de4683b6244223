//! UTF-8 strings wherever they stand [1.5.4, 1.5.7].

use quorate_tests::scope::Scope;
use quorate_tests::wire::{
    Encode, Filter, Property, Will, connect, disconnect, filter, publish, subscribe, unsubscribe,
};
use quorate_tests::{Version, each_version};

use super::broker;

/// What is not well-formed UTF-8 or holds U+0000: a surrogate, a lone continuation, a cut sequence, two overlong forms,
/// a code point above the last, a null character.
const BAD: [&[u8]; 7] = [
    &[0xED, 0xA0, 0x80],
    &[0x80],
    &[0xE2, 0x82],
    &[0xC0, 0xAF],
    &[0xC0, 0x80],
    &[0xF4, 0x90, 0x80, 0x80],
    &[0x00],
];

/// Stands in packets where bad bytes are to go; no other field holds it.
const PLACE: &str = "@@@@@@@@";

/// The packet with the place filled by bad bytes, the string's length kept by padding.
fn spoil(packet: Vec<u8>, bad: &[u8]) -> Vec<u8> {
    let at = packet
        .windows(PLACE.len())
        .position(|window| window == PLACE.as_bytes())
        .expect("the place is there");
    let mut packet = packet;
    packet[at..at + bad.len()].copy_from_slice(bad);
    packet
}

/// Sends the spoiled packet on a connection of its own.
async fn expect_malformed(version: Version, packet: &impl Encode) {
    for bad in BAD {
        let mut raw = broker()
            .raw_client(version, &connect(&Scope::new().id("a")))
            .await;
        raw.send(&spoil(packet.encode(version), bad)).await;
        raw.expect_disconnect(0x81).await;
    }
}

/// [MQTT-1.5.4-1], [MQTT-1.5.4-2], [MQTT-3.1.3-4], [MQTT-3.1.3-11], [MQTT-3.1.3-12]; 3.1.1 [MQTT-1.5.3-1],
/// [MQTT-1.5.3-2], [MQTT-3.1.3-4], [MQTT-3.1.3-10], [MQTT-3.1.3-11]
async fn connect_strings_are_utf8(version: Version) {
    let packets = [
        connect(PLACE),
        connect("a").will(Will::new(PLACE, "payload")),
        connect("a").user_name(PLACE).password("secret"),
    ];
    for packet in packets {
        for bad in BAD {
            let mut raw = broker().raw(version).await;
            raw.send(&spoil(packet.encode(version), bad)).await;
            raw.expect_connect_rejected(0x81).await;
        }
    }
}
each_version!(connect_strings_are_utf8);

/// [MQTT-1.5.4-1], [MQTT-3.3.2-1]
async fn topic_names_are_utf8(version: Version) {
    expect_malformed(version, &publish(PLACE, "m")).await;
}
each_version!(topic_names_are_utf8);

/// [MQTT-3.8.3-1], [MQTT-3.10.3-1]
async fn topic_filters_are_utf8(version: Version) {
    expect_malformed(version, &subscribe(1, [filter("good"), filter(PLACE)])).await;
    expect_malformed(version, &unsubscribe(1, ["good", PLACE])).await;
}
each_version!(topic_filters_are_utf8);

/// [MQTT-1.5.4-1], [MQTT-1.5.7-1], [MQTT-3.3.2-13], [MQTT-3.3.2-19]
#[tokio::test]
async fn property_strings_are_utf8() {
    let properties = [
        Property::user(PLACE, "value"),
        Property::user("name", PLACE),
        Property::ContentType(PLACE.into()),
        Property::ResponseTopic(PLACE.into()),
    ];
    for property in properties {
        expect_malformed(Version::V5, &publish("a", "m").property(property)).await;
    }
    expect_malformed(
        Version::V5,
        &subscribe(1, [filter("a")]).property(Property::user(PLACE, "")),
    )
    .await;
    expect_malformed(
        Version::V5,
        &unsubscribe(1, ["a"]).property(Property::user("", PLACE)),
    )
    .await;
    expect_malformed(
        Version::V5,
        &disconnect().property(Property::ReasonString(PLACE.into())),
    )
    .await;
}

/// [MQTT-1.5.4-3]; 3.1.1 [MQTT-1.5.3-3]: a byte order mark is a character like others.
async fn byte_order_mark_is_kept(version: Version) {
    let scope = Scope::new();
    let mut client = broker()
        .clean(version, &format!("\u{feff}{}", scope.id("a")))
        .await;
    let topic = scope.topic("\u{feff}x");
    client.subscribe(&topic, 1).await;
    client.publish(publish(&scope.topic("x"), "without").qos(1)).await;
    client.publish(publish(&topic, "with").qos(1)).await;
    assert_eq!(client.expect("with").await.topic, topic);
}
each_version!(byte_order_mark_is_kept);

/// Section 1.5.4: whatever is well-formed arrives as it was sent, up to four-byte characters and U+10FFFF.
async fn every_character_is_kept(version: Version) {
    let scope = Scope::new();
    let mut client = broker().clean(version, &scope.id("a")).await;
    client.subscribe(&scope.topic("#"), 1).await;
    for text in [
        "ß",
        "漢字",
        "🦀",
        "\u{10FFFF}",
        "\u{1}",
        "\u{7f}",
        "\u{85}",
        "\u{fffe}",
        " ",
        "e\u{301}",
    ] {
        client.publish(publish(&scope.topic(text), text).qos(1)).await;
        assert_eq!(client.expect(text).await.topic, scope.topic(text));
    }
}
each_version!(every_character_is_kept);

/// A string that says it is longer than its packet.
async fn string_beyond_its_packet_is_refused(version: Version) {
    let mut raw = broker()
        .raw_client(version, &connect(&Scope::new().id("a")))
        .await;
    raw.send(&[0x30, 0x03, 0x00, 0x05, b'a']).await;
    raw.expect_disconnect(0x81).await;
}
each_version!(string_beyond_its_packet_is_refused);

/// [MQTT-3.8.3-1]: filters that are not UTF-8, however short.
#[tokio::test]
async fn raw_filter_of_one_bad_byte_is_refused() {
    let mut raw = broker()
        .raw_client(Version::V5, &connect(&Scope::new().id("a")))
        .await;
    raw.send(&subscribe(1, [Filter::raw(&[0xFF])])).await;
    raw.expect_disconnect(0x81).await;
}
