//! Topic aliases towards the client.

use super::*;

#[test]
fn mqtt_3_3_2_outbound_aliases_of_the_topics_used_last() {
    let settings = ConnectionSettings {
        topic_alias_max_out: 2,
        ..Default::default()
    };
    let (mut side, _) = Side::with(ProtocolVersion::V5, settings, |connect| {
        connect.topic_alias_maximum = 5
    });
    let mut sent = |topic: &'static str| {
        let message = Message::new(topic, &[], b"", QoS::AtMostOnce, false, None);
        let _ = side.deliver(&message, QoS::AtMostOnce);
        let publish = side.receive_publishes().remove(0);
        (publish.topic, publish.topic_alias)
    };
    assert_eq!(sent("first"), ("first", Some(1)));
    assert_eq!(sent("second"), ("second", Some(2)));
    assert_eq!(sent("first"), ("", Some(1)));
    assert_eq!(
        sent("third"),
        ("third", Some(2)),
        "in place of the one used longest ago"
    );
    assert_eq!(sent("first"), ("", Some(1)));
    assert_eq!(sent("third"), ("", Some(2)));
    assert_eq!(sent("second"), ("second", Some(1)));
    assert_eq!(sent("abc"), ("abc", None), "an alias would not be shorter");
}

#[test]
fn mqtt_3_1_2_26_no_alias_above_the_clients_maximum() {
    for (version, maximum) in [
        (ProtocolVersion::V5, 0),
        (ProtocolVersion::V3_1_1, 0),
        (ProtocolVersion::V5, 1),
    ] {
        let (mut side, _) = Side::with(version, ConnectionSettings::default(), |connect| {
            connect.topic_alias_maximum = maximum;
        });
        for topic in ["first", "second", "third", "first"] {
            let message = Message::new(topic, &[], b"", QoS::AtMostOnce, false, None);
            let _ = side.deliver(&message, QoS::AtMostOnce);
        }
        for publish in side.receive_publishes() {
            assert!(publish.topic_alias.unwrap_or(0) <= maximum);
            assert_eq!(publish.topic_alias.is_some(), maximum > 0);
        }
    }
}

#[test]
fn an_alias_is_not_set_at_the_price_of_the_message() {
    let exact = 2 + 2 + "topic".len() + 1;
    let (mut side, _) = Side::with(ProtocolVersion::V5, ConnectionSettings::default(), |connect| {
        connect.topic_alias_maximum = 5;
        connect.maximum_packet_size = Some(exact as u32 + 15);
    });
    let message =
        |payload: &str| Message::new("topic", &[], payload.as_bytes(), QoS::AtMostOnce, false, None);
    assert_eq!(
        side.deliver(&message(&"x".repeat(15)), QoS::AtMostOnce),
        DeliverResult::Sent
    );
    assert_eq!(side.receive_publishes()[0].topic_alias, None);
    assert_eq!(side.deliver(&message(""), QoS::AtMostOnce), DeliverResult::Sent);
    let publish = side.receive_publishes().remove(0);
    assert_eq!(
        (publish.topic, publish.topic_alias),
        ("topic", Some(1)),
        "it was not set before"
    );
    assert_eq!(
        side.deliver(&message(&"x".repeat(17)), QoS::AtMostOnce),
        DeliverResult::Sent,
        "by its alias it fits"
    );
    assert_eq!(side.receive_publishes()[0].topic, "");
}
