//! Outcomes of publishes and the order of their acknowledgements.

use super::*;

fn reasons(side: &mut Side) -> Vec<(u16, ReasonCode)> {
    let reason = |packet| match packet {
        Packet::Puback(ack) | Packet::Pubrec(ack) => (ack.packet_id.get(), ack.reason),
        other => panic!("{other:?}"),
    };
    side.receive().into_iter().map(reason).collect()
}

#[test]
fn mqtt_4_3_2_4_puback_and_4_3_3_8_pubrec_follow_the_outcome() {
    for version in EVERY {
        let mut side = Side::connected(version);
        let token = side.publish(QoS::AtLeastOnce, 5).unwrap();
        assert_eq!((token.packet_id(), token.is_exactly_once()), (id(5), false));
        assert!(side.receive().is_empty(), "not before the outcome");
        side.outcome(token, MATCHED).unwrap();
        assert_eq!(side.receive(), [Packet::Puback(ack(5))]);
        let token = side.publish(QoS::ExactlyOnce, 6).unwrap();
        assert!(token.is_exactly_once());
        side.outcome(token, MATCHED).unwrap();
        assert_eq!(side.receive(), [Packet::Pubrec(ack(6))]);
    }
}

#[test]
fn mqtt5_3_4_2_1_nobody_subscribed_is_told_at_5() {
    for version in EVERY {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut side = Side::connected(version);
            side.publish_with(qos, 5, PublishOutcome::Accepted { matched: false })
                .unwrap();
            let is_5 = version == ProtocolVersion::V5;
            let expected = if is_5 {
                ReasonCode::NO_MATCHING_SUBSCRIBERS
            } else {
                ReasonCode::SUCCESS
            };
            assert_eq!(reasons(&mut side), [(5, expected)]);
        }
    }
}

#[test]
fn a_refusal_is_told_at_5() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut side = Side::connected(ProtocolVersion::V5);
        for (refused, told) in [
            (ReasonCode::NOT_AUTHORIZED, ReasonCode::NOT_AUTHORIZED),
            (ReasonCode::QUOTA_EXCEEDED, ReasonCode::QUOTA_EXCEEDED),
            (ReasonCode::SERVER_BUSY, ReasonCode::UNSPECIFIED_ERROR),
        ] {
            side.publish_with(qos, 5, PublishOutcome::Refused(refused))
                .unwrap();
            assert_eq!(reasons(&mut side), [(5, told)], "0x89 is no reason of PUBACK");
        }
    }
}

#[test]
fn mqtt311_3_3_5_2_a_forbidden_publish_is_acknowledged_other_refusals_are_the_end() {
    for version in V3 {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut side = Side::connected(version);
            side.publish_with(qos, 5, PublishOutcome::Refused(ReasonCode::NOT_AUTHORIZED))
                .unwrap();
            assert_eq!(reasons(&mut side), [(5, ReasonCode::SUCCESS)]);
            let result = side.publish_with(qos, 6, PublishOutcome::Refused(ReasonCode::QUOTA_EXCEEDED));
            assert_eq!(
                side.close(result.unwrap_err()),
                (ReasonCode::QUOTA_EXCEEDED, None)
            );
        }
    }
}

#[test]
fn mqtt_4_6_0_2_pubacks_leave_in_order_whatever_the_order_of_outcomes() {
    for version in EVERY {
        let mut side = Side::connected(version);
        let mut tokens: Vec<_> = (1..=5)
            .map(|number| side.publish(QoS::AtLeastOnce, number).unwrap())
            .collect();
        let fifth = tokens.pop().unwrap();
        for token in tokens.drain(1..).rev() {
            side.outcome(token, MATCHED).unwrap();
            assert!(side.receive().is_empty());
        }
        side.outcome(tokens.remove(0), MATCHED).unwrap();
        let sent: Vec<_> = reasons(&mut side).iter().map(|(number, _)| *number).collect();
        assert_eq!(sent, [1, 2, 3, 4]);
        side.outcome(fifth, MATCHED).unwrap();
        assert_eq!(reasons(&mut side).len(), 1);
    }
}

#[test]
fn mqtt_4_6_0_3_pubrecs_have_an_order_of_their_own() {
    for version in EVERY {
        let mut side = Side::connected(version);
        let once = side.publish(QoS::AtLeastOnce, 1).unwrap();
        let first = side.publish(QoS::ExactlyOnce, 2).unwrap();
        let second = side.publish(QoS::ExactlyOnce, 3).unwrap();
        side.outcome(second, MATCHED).unwrap();
        assert!(side.receive().is_empty());
        side.outcome(first, MATCHED).unwrap();
        assert_eq!(
            side.receive(),
            [Packet::Pubrec(ack(2)), Packet::Pubrec(ack(3))],
            "QoS 1 is not waited for"
        );
        side.outcome(once, MATCHED).unwrap();
        assert_eq!(side.receive(), [Packet::Puback(ack(1))]);
    }
}

/// What the connection itself refuses takes its place in the order too.
#[test]
fn mqtt_4_6_0_2_a_fault_does_not_overtake() {
    let settings = ConnectionSettings {
        topic_bytes_max: 20,
        ..Default::default()
    };
    let (mut side, _) = Side::with(ProtocolVersion::V5, settings, |_| {});
    let first = side.publish(QoS::AtLeastOnce, 1).unwrap();
    let bad = Publish {
        topic: "longer than twenty bytes",
        ..publish(QoS::AtLeastOnce, 2)
    };
    assert_eq!(side.send(Packet::Publish(bad)), Ok(Action::None));
    assert!(side.receive().is_empty());
    side.outcome(first, MATCHED).unwrap();
    assert_eq!(
        reasons(&mut side),
        [(1, ReasonCode::SUCCESS), (2, ReasonCode::TOPIC_NAME_INVALID)]
    );
}

#[test]
fn mqtt_3_1_2_29_no_reason_strings_where_none_are_wanted() {
    let settings = ConnectionSettings {
        topic_bytes_max: 20,
        ..Default::default()
    };
    for (wanted, room) in [(true, true), (true, false), (false, true)] {
        let (mut side, _) = Side::with(ProtocolVersion::V5, settings.clone(), |connect| {
            connect.request_problem_information = wanted;
            connect.maximum_packet_size = Some(if room { 200 } else { 20 });
        });
        let bad = Publish {
            topic: "longer than twenty bytes",
            ..publish(QoS::AtLeastOnce, 2)
        };
        side.send(Packet::Publish(bad)).unwrap();
        let Packet::Puback(puback) = side.receive_one() else {
            panic!("no PUBACK")
        };
        assert_eq!(puback.reason, ReasonCode::TOPIC_NAME_INVALID);
        assert_eq!(puback.reason_string.is_some(), wanted && room, "[MQTT-3.4.2-2]");
        let close = Close::new(
            ReasonCode::SERVER_SHUTTING_DOWN,
            "this server is shutting down now",
        );
        side.connection.close(&close, &mut side.out);
        let Packet::Disconnect(disconnect) = side.receive_one() else {
            panic!("no DISCONNECT")
        };
        assert_eq!(
            disconnect.reason_string.is_some(),
            room,
            "DISCONNECT may always have one"
        );
    }
}

#[test]
fn an_outcome_after_the_end_changes_nothing() {
    for version in EVERY {
        let mut side = Side::connected(version);
        let token = side.publish(QoS::ExactlyOnce, 1).unwrap();
        side.close(Close::new(ReasonCode::SERVER_SHUTTING_DOWN, "shutting down"));
        side.outcome(token, MATCHED).unwrap();
        side.connection.handle_released(id(1), true, &mut side.out);
        side.connection.handle_received_committed(id(1), &mut side.out);
        side.connection
            .handle_subscribed(id(1), &[ReasonCode::SUCCESS], &mut side.out)
            .unwrap();
        side.connection
            .handle_unsubscribed(id(1), &[ReasonCode::SUCCESS], &mut side.out)
            .unwrap();
        assert!(side.out.is_empty());
    }
}
