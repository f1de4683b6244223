//! QoS 2 from the client, up to PUBCOMP.

use super::*;

fn pubcomp(number: u16, reason: ReasonCode, version: ProtocolVersion) -> Packet<'static> {
    let reason = if version == ProtocolVersion::V5 {
        reason
    } else {
        ReasonCode::SUCCESS
    };
    Packet::Pubcomp(Ack::new(id(number), reason))
}

#[test]
fn mqtt_4_3_3_11_pubrel_is_answered_at_once_without_a_durable_session() {
    for version in EVERY {
        let mut side = Side::connected(version);
        side.publish_with(QoS::ExactlyOnce, 5, MATCHED).unwrap();
        assert_eq!(side.send(Packet::Pubrel(ack(5))), Ok(Action::None));
        assert_eq!(side.receive(), [Packet::Pubrec(ack(5)), Packet::Pubcomp(ack(5))]);
        let again = side.publish(QoS::ExactlyOnce, 5);
        assert!(again.is_some(), "the identifier is free");
    }
}

#[test]
fn r8_pubcomp_of_a_durable_session_follows_the_commit() {
    for version in EVERY {
        for found in [true, false] {
            let mut side = Side::durable(version);
            side.publish_with(QoS::ExactlyOnce, 5, MATCHED).unwrap();
            side.receive();
            assert_eq!(
                side.send(Packet::Pubrel(ack(5))),
                Ok(Action::Release { packet_id: id(5) })
            );
            assert_eq!(
                side.send(Packet::Pubrel(ack(5))),
                Ok(Action::None),
                "one commit is enough"
            );
            assert!(side.receive().is_empty());
            side.connection.handle_released(id(5), found, &mut side.out);
            let reason = if found {
                ReasonCode::SUCCESS
            } else {
                ReasonCode::PACKET_IDENTIFIER_NOT_FOUND
            };
            assert_eq!(side.receive(), [pubcomp(5, reason, version)]);
            side.connection.handle_released(id(5), found, &mut side.out);
            assert!(side.receive().is_empty(), "released once");
        }
    }
}

#[test]
fn mqtt_4_3_3_10_a_repeated_publish_is_answered_and_not_published_again() {
    for version in EVERY {
        let mut side = Side::durable(version);
        let repeated = || {
            Packet::Publish(Publish {
                dup: true,
                ..publish(QoS::ExactlyOnce, 5)
            })
        };
        let token = side.publish(QoS::ExactlyOnce, 5).unwrap();
        assert_eq!(side.send(repeated()), Ok(Action::None));
        assert!(side.receive().is_empty(), "the first has no outcome yet");
        side.outcome(token, MATCHED).unwrap();
        assert_eq!(side.receive(), [Packet::Pubrec(ack(5))], "one answer");
        assert_eq!(side.send(repeated()), Ok(Action::None));
        assert_eq!(side.receive(), [Packet::Pubrec(ack(5))], "and again");
    }
}

#[test]
fn mqtt_4_3_3_6_a_publish_between_pubrel_and_pubcomp_is_a_violation() {
    for version in EVERY {
        let mut side = Side::durable(version);
        side.publish_with(QoS::ExactlyOnce, 5, MATCHED).unwrap();
        side.send(Packet::Pubrel(ack(5))).unwrap();
        side.receive();
        let told = side.violate(Packet::Publish(publish(QoS::ExactlyOnce, 5)));
        assert_eq!(told, side.told(ReasonCode::PROTOCOL_ERROR));
    }
}

#[test]
fn mqtt5_4_3_3_pubrel_before_pubrec_is_a_violation() {
    for version in EVERY {
        let mut side = Side::connected(version);
        let _token = side.publish(QoS::ExactlyOnce, 5).unwrap();
        let told = side.violate(Packet::Pubrel(ack(5)));
        assert_eq!(told, side.told(ReasonCode::PROTOCOL_ERROR));
    }
}

#[test]
fn mqtt5_3_7_2_1_pubrel_for_an_unknown_identifier() {
    for version in EVERY {
        for mut side in [Side::connected(version), Side::durable(version)] {
            assert_eq!(side.send(Packet::Pubrel(ack(5))), Ok(Action::None));
            assert_eq!(
                side.receive(),
                [pubcomp(5, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND, version)]
            );
        }
    }
}

#[test]
fn mqtt5_4_3_3_pubrec_with_an_error_frees_the_identifier() {
    let mut side = Side::durable(ProtocolVersion::V5);
    side.publish_with(
        QoS::ExactlyOnce,
        5,
        PublishOutcome::Refused(ReasonCode::QUOTA_EXCEEDED),
    )
    .unwrap();
    assert_eq!(
        side.receive(),
        [Packet::Pubrec(Ack::new(id(5), ReasonCode::QUOTA_EXCEEDED))]
    );
    assert!(side.publish(QoS::ExactlyOnce, 5).is_some(), "a new publish");
}

#[test]
fn a_forbidden_publish_of_the_older_versions_needs_no_commit_to_be_released() {
    for version in V3 {
        let mut side = Side::durable(version);
        side.publish_with(
            QoS::ExactlyOnce,
            5,
            PublishOutcome::Refused(ReasonCode::NOT_AUTHORIZED),
        )
        .unwrap();
        assert_eq!(side.send(Packet::Pubrel(ack(5))), Ok(Action::None));
        assert_eq!(side.receive(), [Packet::Pubrec(ack(5)), Packet::Pubcomp(ack(5))]);
    }
}

/// A client that takes up a session with these identifiers of QoS 2 messages.
fn resumed(version: ProtocolVersion, inbound: Vec<PacketId>) -> Side {
    let mut side = Side::new(version, ConnectionSettings::default());
    side.request_open(|connect| {
        ask_durable(connect);
        connect.clean_start = false;
    });
    side.open(Opened {
        session_present: true,
        inbound,
        ..Default::default()
    });
    side
}

#[test]
fn mqtt_4_4_0_1_identifiers_of_the_session_are_known_on_its_next_connection() {
    for version in EVERY {
        let mut side = resumed(version, vec![id(5), id(6)]);
        let repeated = Publish {
            dup: true,
            ..publish(QoS::ExactlyOnce, 5)
        };
        assert_eq!(side.send(Packet::Publish(repeated)), Ok(Action::None));
        assert_eq!(side.receive(), [Packet::Pubrec(ack(5))]);
        assert_eq!(
            side.send(Packet::Pubrel(ack(6))),
            Ok(Action::Release { packet_id: id(6) })
        );
        assert!(side.publish(QoS::ExactlyOnce, 7).is_some());
    }
}

/// R33: the retained message of an earlier connection may not have come to its topic's group: the host says when it has, and
/// whether it was taken there.
#[test]
fn r33_a_repeated_retained_message_is_answered_by_the_host() {
    for version in EVERY {
        let mut side = resumed(version, vec![id(5), id(6), id(7)]);
        let repeat = |number| {
            Packet::Publish(Publish {
                dup: true,
                retain: true,
                ..publish(QoS::ExactlyOnce, number)
            })
        };
        let ask = |side: &mut Side, number| match side.send(repeat(number)) {
            Ok(Action::Publish(crate::session::PublishRequest { token, .. })) => token.expect("QoS 2"),
            other => panic!("{other:?}"),
        };
        let token = ask(&mut side, 5);
        assert!(token.is_repeat() && token.is_exactly_once());
        assert_eq!(side.receive(), [], "nothing is known yet");
        // The client is impatient.
        assert_eq!(side.send(repeat(5)), Ok(Action::None));
        assert_eq!(side.receive(), []);
        side.connection.check_invariants();
        let told = side
            .connection
            .handle_publish_outcome(token, MATCHED, &mut side.out);
        told.unwrap();
        assert_eq!(side.receive(), [Packet::Pubrec(ack(5))]);
        // From now on it is known here.
        assert_eq!(side.send(repeat(5)), Ok(Action::None));
        assert_eq!(side.receive(), [Packet::Pubrec(ack(5))]);
        assert_eq!(
            side.send(Packet::Pubrel(ack(5))),
            Ok(Action::Release { packet_id: id(5) })
        );
        // PUBREC came on the earlier connection.
        assert_eq!(
            side.send(Packet::Pubrel(ack(6))),
            Ok(Action::Release { packet_id: id(6) })
        );
        let token = ask(&mut side, 7);
        let refused = PublishOutcome::Refused(ReasonCode::QUOTA_EXCEEDED);
        let told = side
            .connection
            .handle_publish_outcome(token, refused, &mut side.out);
        if version == ProtocolVersion::V5 {
            told.unwrap();
            assert_eq!(
                side.receive(),
                [Packet::Pubrec(Ack::new(id(7), ReasonCode::QUOTA_EXCEEDED))]
            );
            side.connection.check_invariants();
        } else {
            assert_eq!(told.unwrap_err().reason, ReasonCode::QUOTA_EXCEEDED);
        }
    }
}

/// A client begins every connection with a full quota [MQTT5 4.9], and uses it for what it sends again.
#[test]
fn mqtt_3_3_4_9_receive_maximum_counts_what_came_on_this_connection() {
    let settings = ConnectionSettings {
        receive_maximum_in: 2,
        ..Default::default()
    };
    let mut side = Side::new(ProtocolVersion::V5, settings);
    side.request_open(|connect| {
        ask_durable(connect);
        connect.clean_start = false;
    });
    side.open(Opened {
        session_present: true,
        inbound: vec![id(1), id(2), id(3)],
        ..Default::default()
    });
    side.connection.check_invariants();
    let repeated = |number| {
        Packet::Publish(Publish {
            dup: true,
            ..publish(QoS::ExactlyOnce, number)
        })
    };
    for _ in 0..3 {
        side.send(repeated(1)).unwrap();
    }
    side.send(Packet::Pubrel(ack(2))).unwrap();
    side.connection.handle_released(id(2), true, &mut side.out);
    assert!(
        side.publish(QoS::AtLeastOnce, 9).is_some(),
        "one repeated, one new"
    );
    let told = side.send(repeated(3)).unwrap_err();
    assert_eq!(told.reason, ReasonCode::RECEIVE_MAXIMUM_EXCEEDED);
}

#[test]
fn r14_a_repeated_publish_at_qos_1_is_a_new_one() {
    for version in EVERY {
        let mut side = Side::connected(version);
        side.publish_with(QoS::AtLeastOnce, 5, MATCHED).unwrap();
        let repeated = Publish {
            dup: true,
            ..publish(QoS::AtLeastOnce, 5)
        };
        assert!(matches!(
            side.send(Packet::Publish(repeated)),
            Ok(Action::Publish(_))
        ));
    }
}
