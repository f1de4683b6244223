//! PUBLISH from the client: topics, aliases, features, the receive maximum.

use super::*;
use crate::session::TopicRef;

const BOTH: [QoS; 2] = [QoS::AtLeastOnce, QoS::ExactlyOnce];

/// The topic the host is given for a publish.
fn topic(side: &mut Side, publish: Publish<'_>) -> TopicRef<'static> {
    match side.send(Packet::Publish(publish)) {
        Ok(Action::Publish(request)) => request.topic,
        other => panic!("{other:?}"),
    }
}

fn aliased(topic: &'static str, alias: u16) -> Publish<'static> {
    Publish {
        topic,
        topic_alias: Some(alias),
        ..publish(QoS::AtMostOnce, 0)
    }
}

#[test]
fn publish_at_qos_0_needs_no_outcome() {
    for version in EVERY {
        let mut side = Side::connected(version);
        let Ok(Action::Publish(request)) = side.send(Packet::Publish(publish(QoS::AtMostOnce, 0))) else {
            panic!()
        };
        assert_eq!(request.token, None);
        assert_eq!(
            (&*request.topic, request.publish.payload),
            ("sensors/kitchen", b"21.5".as_slice())
        );
        assert!(side.receive().is_empty());
    }
}

#[test]
fn mqtt_3_2_2_11_qos_above_the_maximum_is_a_violation() {
    for (maximum_qos, qos) in [
        (QoS::AtMostOnce, QoS::AtLeastOnce),
        (QoS::AtLeastOnce, QoS::ExactlyOnce),
    ] {
        for version in EVERY {
            let settings = ConnectionSettings {
                maximum_qos,
                ..Default::default()
            };
            let (mut side, _) = Side::with(version, settings, |_| {});
            assert!(side.send(Packet::Publish(publish(maximum_qos, 1))).is_ok());
            let told = side.violate(Packet::Publish(publish(qos, 2)));
            assert_eq!(told, side.told(ReasonCode::QOS_NOT_SUPPORTED));
        }
    }
}

#[test]
fn mqtt_3_2_2_14_retain_where_it_is_not_available_is_a_violation() {
    let settings = ConnectionSettings {
        retain_available: false,
        ..Default::default()
    };
    for version in EVERY {
        let (mut side, _) = Side::with(version, settings.clone(), |_| {});
        let told = side.violate(Packet::Publish(Publish {
            retain: true,
            ..publish(QoS::AtMostOnce, 0)
        }));
        assert_eq!(told, side.told(ReasonCode::RETAIN_NOT_SUPPORTED));
    }
}

#[test]
fn mqtt_3_3_4_6_subscription_identifier_from_a_client_is_a_violation() {
    let mut side = Side::connected(ProtocolVersion::V5);
    let mut block = Vec::new();
    SubscriptionIds::encode_into([5], &mut block);
    let subscription_ids = SubscriptionIds::from_block(&block).unwrap();
    let told = side.violate(Packet::Publish(Publish {
        subscription_ids,
        ..publish(QoS::AtMostOnce, 0)
    }));
    assert_eq!(told, side.told(ReasonCode::PROTOCOL_ERROR));
}

#[test]
fn mqtt_3_3_2_2_wildcard_in_a_topic_is_a_violation() {
    for version in EVERY {
        let mut side = Side::connected(version);
        let told = side.violate(Packet::Publish(Publish {
            topic: "a/+",
            ..publish(QoS::AtMostOnce, 0)
        }));
        assert_eq!(told, side.told(ReasonCode::TOPIC_NAME_INVALID));
    }
}

#[test]
fn packets_of_a_server_are_violations() {
    use crate::codec::{Suback, Unsuback};
    for version in EVERY {
        for packet in [
            Packet::Connack(Connack::new(ReasonCode::SUCCESS)),
            Packet::Suback(Suback::new(id(1), &[ReasonCode::SUCCESS])),
            Packet::Unsuback(Unsuback::new(id(1), &[ReasonCode::SUCCESS])),
            Packet::Pingresp,
        ] {
            let mut side = Side::connected(version);
            let told = side.violate(packet);
            assert_eq!(told, side.told(ReasonCode::PROTOCOL_ERROR));
        }
    }
}

#[test]
fn mqtt_3_3_2_8_to_12_topic_aliases() {
    let mut side = Side::connected(ProtocolVersion::V5);
    assert_eq!(topic(&mut side, aliased("a/b", 1)), TopicRef::Frame("a/b"));
    assert_eq!(
        topic(&mut side, aliased("c", 32)),
        TopicRef::Frame("c"),
        "the maximum itself"
    );
    let by_alias = topic(&mut side, aliased("", 1));
    assert!(matches!(by_alias, TopicRef::Alias(_)));
    assert_eq!(&*by_alias, "a/b");
    assert_eq!(&*topic(&mut side, aliased("", 32)), "c");
    topic(&mut side, aliased("new", 1));
    assert_eq!(
        &*topic(&mut side, aliased("", 1)),
        "new",
        "an alias may be set anew"
    );
    assert_eq!(&*by_alias, "a/b", "what was handed out stays");
}

#[test]
fn mqtt_3_3_2_9_alias_above_the_maximum_is_a_violation() {
    for maximum in [0, 32] {
        for topic in ["a", ""] {
            let settings = ConnectionSettings {
                topic_alias_max_in: maximum,
                ..Default::default()
            };
            let (mut side, _) = Side::with(ProtocolVersion::V5, settings, |_| {});
            let told = side.violate(Packet::Publish(aliased(topic, maximum + 1)));
            assert_eq!(told, side.told(ReasonCode::TOPIC_ALIAS_INVALID));
        }
    }
}

#[test]
fn mqtt5_3_3_2_3_4_alias_that_was_not_set_is_a_violation() {
    let mut side = Side::connected(ProtocolVersion::V5);
    topic(&mut side, aliased("a", 3));
    let told = side.violate(Packet::Publish(aliased("", 2)));
    assert_eq!(told, side.told(ReasonCode::PROTOCOL_ERROR));
}

#[test]
fn mqtt_3_3_2_7_aliases_end_with_the_connection() {
    let mut side = Side::durable(ProtocolVersion::V5);
    topic(&mut side, aliased("a", 1));
    let mut next = Side::durable(ProtocolVersion::V5);
    assert!(next.send(Packet::Publish(aliased("", 1))).is_err());
}

/// Topics within the limits, and one byte or level beyond them.
#[test]
fn topics_beyond_the_limits_are_refused() {
    let settings = ConnectionSettings {
        topic_levels_max: 3,
        topic_bytes_max: 10,
        ..Default::default()
    };
    for version in EVERY {
        for good in ["a/b/c", "0123456789", "//"] {
            let (mut side, _) = Side::with(version, settings.clone(), |_| {});
            assert_eq!(
                &*topic(
                    &mut side,
                    Publish {
                        topic: good,
                        ..publish(QoS::AtMostOnce, 0)
                    }
                ),
                good
            );
        }
        for bad in ["a/b/c/d", "01234567890", "///"] {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                let (mut side, _) = Side::with(version, settings.clone(), |_| {});
                let result = side.send(Packet::Publish(Publish {
                    topic: bad,
                    ..publish(qos, 4)
                }));
                if version == ProtocolVersion::V5 && qos > QoS::AtMostOnce {
                    assert_eq!(result, Ok(Action::None));
                    let (Packet::Puback(ack) | Packet::Pubrec(ack)) = side.receive_one() else {
                        panic!("no answer")
                    };
                    assert_eq!(
                        (ack.packet_id, ack.reason),
                        (id(4), ReasonCode::TOPIC_NAME_INVALID)
                    );
                    assert!(ack.reason_string.is_some());
                } else {
                    let told = side.close(result.expect_err(bad));
                    assert_eq!(told, side.told(ReasonCode::TOPIC_NAME_INVALID));
                }
            }
        }
    }
}

#[test]
fn an_alias_of_a_refused_topic_is_refused_again() {
    let settings = ConnectionSettings {
        topic_bytes_max: 10,
        ..Default::default()
    };
    let (mut side, _) = Side::with(ProtocolVersion::V5, settings, |_| {});
    for topic in ["longer than ten bytes", ""] {
        let publish = Publish {
            topic,
            topic_alias: Some(1),
            ..publish(QoS::AtLeastOnce, 4)
        };
        assert_eq!(side.send(Packet::Publish(publish)), Ok(Action::None));
        let Packet::Puback(puback) = side.receive_one() else {
            panic!("no PUBACK")
        };
        assert_eq!(puback.reason, ReasonCode::TOPIC_NAME_INVALID, "{topic:?}");
    }
}

#[test]
fn mqtt5_3_3_2_3_2_payload_that_is_not_what_it_is_marked_as() {
    let bad = |qos| Publish {
        forwardable: [1, 1].as_slice().into(),
        payload: b"\xFF",
        ..publish(qos, 4)
    };
    let validating = ConnectionSettings {
        validate_payload_format: true,
        ..Default::default()
    };
    for qos in BOTH {
        let (mut side, _) = Side::with(ProtocolVersion::V5, validating.clone(), |_| {});
        assert_eq!(side.send(Packet::Publish(bad(qos))), Ok(Action::None));
        let (Packet::Puback(ack) | Packet::Pubrec(ack)) = side.receive_one() else {
            panic!("no answer")
        };
        assert_eq!(ack.reason, ReasonCode::PAYLOAD_FORMAT_INVALID);
        let good = Publish {
            payload: "ü".as_bytes(),
            ..bad(qos)
        };
        assert!(matches!(side.send(Packet::Publish(good)), Ok(Action::Publish(_))));
    }
    let (mut side, _) = Side::with(ProtocolVersion::V5, validating, |_| {});
    let told = side.violate(Packet::Publish(bad(QoS::AtMostOnce)));
    assert_eq!(told, side.told(ReasonCode::PAYLOAD_FORMAT_INVALID));
    let mut side = Side::connected(ProtocolVersion::V5);
    assert!(
        matches!(
            side.send(Packet::Publish(bad(QoS::AtLeastOnce))),
            Ok(Action::Publish(_))
        ),
        "not looked at"
    );
}

#[test]
fn mqtt_3_3_4_9_receive_maximum_counts_until_puback_and_pubcomp() {
    let settings = ConnectionSettings {
        receive_maximum_in: 2,
        ..Default::default()
    };
    let (mut side, _) = Side::with(ProtocolVersion::V5, settings, |_| {});
    for round in 0..3 {
        side.publish_with(QoS::AtLeastOnce, 1, MATCHED).unwrap();
        side.publish_with(QoS::ExactlyOnce, 2 + round, MATCHED).unwrap();
        side.send(Packet::Pubrel(ack(2 + round))).unwrap();
    }
    side.receive();
    side.publish_with(QoS::ExactlyOnce, 10, MATCHED).unwrap();
    side.publish_with(
        QoS::ExactlyOnce,
        11,
        PublishOutcome::Refused(ReasonCode::QUOTA_EXCEEDED),
    )
    .unwrap();
    side.publish_with(QoS::ExactlyOnce, 12, MATCHED).unwrap();
    side.receive();
    let told = side.violate(Packet::Publish(publish(QoS::AtLeastOnce, 13)));
    assert_eq!(
        told,
        side.told(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED),
        "two PUBRECs are without PUBREL"
    );
}

#[test]
fn mqtt_3_3_4_9_receive_maximum_counts_unanswered_publishes() {
    let settings = ConnectionSettings {
        receive_maximum_in: 3,
        ..Default::default()
    };
    for qos in BOTH {
        let (mut side, _) = Side::with(ProtocolVersion::V5, settings.clone(), |_| {});
        let tokens: Vec<_> = (1..=3).map(|number| side.publish(qos, number)).collect();
        assert_eq!(tokens.iter().flatten().count(), 3);
        assert!(
            side.send(Packet::Publish(publish(QoS::AtMostOnce, 0))).is_ok(),
            "QoS 0 does not count"
        );
        let told = side.violate(Packet::Publish(publish(qos, 4)));
        assert_eq!(told, side.told(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED));
    }
}

#[test]
fn the_older_versions_are_slowed_instead() {
    let settings = ConnectionSettings {
        receive_maximum_in: 2,
        ..Default::default()
    };
    for version in V3 {
        let (mut side, _) = Side::with(version, settings.clone(), |_| {});
        let first = side.publish(QoS::AtLeastOnce, 1).unwrap();
        assert!(side.connection.ready_for_frames());
        let second = side.publish(QoS::ExactlyOnce, 2).unwrap();
        assert!(!side.connection.ready_for_frames());
        side.outcome(second, MATCHED).unwrap();
        assert!(side.connection.ready_for_frames());
        side.outcome(first, MATCHED).unwrap();
        side.publish_with(QoS::ExactlyOnce, 3, MATCHED).unwrap();
        side.publish_with(QoS::ExactlyOnce, 4, MATCHED).unwrap();
        assert!(
            side.connection.ready_for_frames(),
            "PUBRELs are waited for, and have to be read"
        );
    }
}
