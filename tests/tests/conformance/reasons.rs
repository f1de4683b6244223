//! Reason strings and user properties on acknowledgements: within the client's packet size, and only where it wants
//! them [3.1.2.11.7, 3.2.2.3.9 and their like].

use quorate_tests::Version;
use quorate_tests::client::RawClient;
use quorate_tests::scope::Scope;
use quorate_tests::wire::{
    ConnectBuilder, Encode, Packet, Properties, Property, connect, filter, publish, subscribe, unsubscribe,
};

use super::broker;

/// A packet that is answered with a refusal.
type Refused = fn() -> Vec<u8>;

/// Every kind of answer that can refuse on an open connection; beyond the configured 1,024 bytes topics are refused.
const REFUSED: [(&str, Refused); 5] = [
    ("PUBACK", || {
        publish(&"x".repeat(2_000), "m").qos(1).id(1).encode(Version::V5)
    }),
    ("PUBREC", || {
        publish(&"x".repeat(2_000), "m").qos(2).id(1).encode(Version::V5)
    }),
    ("SUBACK", || subscribe(1, [filter("a/#/b")]).encode(Version::V5)),
    ("UNSUBACK", || unsubscribe(1, ["a/#/b"]).encode(Version::V5)),
    ("DISCONNECT", || vec![0xC0, 0x01, 0x00]),
];

/// The answer: its properties and its size.
async fn answer(packet: &ConnectBuilder, refused: Refused) -> (Properties, usize) {
    let mut raw = broker().raw_client(Version::V5, packet).await;
    raw.send(&refused()).await;
    properties_and_size(raw.receive().await)
}

fn properties_and_size(packet: Packet) -> (Properties, usize) {
    match packet {
        Packet::Connack(it) => (it.properties, it.size),
        Packet::Puback(it) | Packet::Pubrec(it) | Packet::Pubrel(it) | Packet::Pubcomp(it) => {
            (it.properties, it.size)
        }
        Packet::Suback(it) | Packet::Unsuback(it) => (it.properties, it.size),
        Packet::Disconnect(it) => (it.properties, it.size),
        other => panic!("the broker sent {other:?}"),
    }
}

fn limited(bytes: usize) -> ConnectBuilder {
    let bytes = u32::try_from(bytes).expect("a small packet");
    connect(&Scope::new().id("a")).property(Property::MaximumPacketSize(bytes))
}

/// [MQTT-3.4.2-2], [MQTT-3.5.2-2], [MQTT-3.9.2-1], [MQTT-3.11.2-1], [MQTT-3.14.2-3], and -3, -2, -4 of each for user
/// properties: with room for it the reason string is there, with one byte less it is left out and the rest is sent.
#[tokio::test]
async fn reason_string_fits_the_clients_packet_size() {
    for (name, refused) in REFUSED {
        let (properties, size) = answer(&connect(&Scope::new().id("a")), refused).await;
        assert!(
            properties
                .reason_string()
                .is_some_and(|reason| !reason.is_empty()),
            "{name} says why"
        );
        let (properties, _) = answer(&limited(size), refused).await;
        assert!(
            properties.reason_string().is_some(),
            "{name} of {size} bytes fits {size}"
        );
        let (properties, smaller) = answer(&limited(size - 1), refused).await;
        assert_eq!(
            properties.reason_string(),
            None,
            "{name} of {size} bytes does not fit one less"
        );
        assert!(properties.users().is_empty() && smaller < size);
    }
}

/// [MQTT-3.1.2-24], [MQTT-3.6.2-2], [MQTT-3.6.2-3], [MQTT-3.7.2-2], [MQTT-3.7.2-3]: with a maximum that has room for
/// CONNACK and little else, every answer is sent, and fits.
#[tokio::test]
async fn answers_stay_within_a_small_packet_size() {
    let connack = broker().clean(Version::V5, &Scope::new().id("a")).await.connack;
    let unknown: [(&str, Refused); 2] = [
        ("PUBREL", || quorate_tests::wire::pubrec(9).encode(Version::V5)),
        ("PUBCOMP", || quorate_tests::wire::pubrel(9).encode(Version::V5)),
    ];
    for (name, refused) in REFUSED.into_iter().chain(unknown) {
        let (_, size) = answer(&limited(connack.size), refused).await;
        assert!(
            size <= connack.size,
            "{name} of {size} bytes does not fit {}",
            connack.size
        );
    }
}

/// [MQTT-3.2.2-19], [MQTT-3.2.2-20]: likewise CONNACK.
#[tokio::test]
async fn reason_string_of_connack_fits_the_clients_packet_size() {
    let refusal = |packet: ConnectBuilder| async move {
        let mut raw: RawClient = broker().raw(Version::V5).await;
        raw.send(&packet).await;
        let connack = raw.expect_connack().await;
        assert_eq!(connack.code, 0x85);
        connack
    };
    let id = "x".repeat(300);
    let with_limit = |bytes: usize| {
        connect(&id).property(Property::MaximumPacketSize(u32::try_from(bytes).expect("small")))
    };
    let connack = refusal(connect(&id)).await;
    assert!(
        connack
            .properties
            .reason_string()
            .is_some_and(|reason| !reason.is_empty())
    );
    assert!(
        refusal(with_limit(connack.size))
            .await
            .properties
            .reason_string()
            .is_some()
    );
    let smaller = refusal(with_limit(connack.size - 1)).await;
    assert!(smaller.properties.reason_string().is_none() && smaller.size < connack.size);
}

/// [MQTT-3.1.2-29]: without problem information only CONNACK and DISCONNECT may carry it.
#[tokio::test]
async fn problem_information_is_sent_where_it_is_wanted() {
    for wanted in [1, 0] {
        for (name, refused) in REFUSED {
            let packet = connect(&Scope::new().id("a")).property(Property::RequestProblemInformation(wanted));
            let (properties, _) = answer(&packet, refused).await;
            let has = properties.reason_string().is_some() || !properties.users().is_empty();
            assert_eq!(
                has,
                wanted == 1 || name == "DISCONNECT" && has,
                "{name}, wanted {wanted}"
            );
        }
    }
}

/// [MQTT-3.1.2-29]: what a publisher sent along is not problem information, and arrives.
#[tokio::test]
async fn user_properties_of_messages_are_not_problem_information() {
    let scope = Scope::new();
    let packet = connect(&scope.id("a")).property(Property::RequestProblemInformation(0));
    let mut client = broker().client(Version::V5, &packet).await;
    client.subscribe(&scope.topic("x"), 1).await;
    client
        .publish(
            publish(&scope.topic("x"), "m")
                .qos(1)
                .property(Property::user("a", "b")),
        )
        .await;
    assert_eq!(
        client.expect("m").await.properties.users(),
        [("a".to_owned(), "b".to_owned())]
    );
}
