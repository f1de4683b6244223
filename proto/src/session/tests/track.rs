//! Deliveries the host keeps track of.

use super::*;
use crate::session::DropReason;

fn settled(token: u64, reason: ReasonCode) -> Result<Action<'static>, Close> {
    Ok(Action::Settled {
        token: DeliveryToken(token),
        reason,
    })
}

#[test]
fn r24_identifier_follows_group_and_sequence() {
    let cases = [
        (0, 0, 1),
        (0, 3_639, 3_640),
        (0, 3_640, 1),
        (1, 0, 3_641),
        (16, 3_639, 61_880),
        (15, 10_000_000, 54_601 + 920),
    ];
    for version in EVERY {
        for (group, sequence, number) in cases {
            let mut side = Side::durable(version);
            let message = message("m");
            let packet_id = PacketIdSource::Derived { group, sequence };
            let delivery = TrackedDelivery {
                packet_id,
                ..tracked(&message, 1, QoS::AtLeastOnce)
            };
            assert_eq!(side.deliver_tracked(&delivery), DeliverResult::Sent);
            assert_eq!(side.receive_publishes()[0].packet_id, Some(id(number)));
        }
    }
}

#[test]
fn puback_settles() {
    for version in EVERY {
        let mut side = Side::durable(version);
        let message = message("m");
        assert_eq!(
            side.deliver_tracked(&tracked(&message, 7, QoS::AtLeastOnce)),
            DeliverResult::Sent
        );
        let publish = side.receive_publishes().remove(0);
        assert_eq!(
            (publish.qos, publish.dup, publish.packet_id),
            (QoS::AtLeastOnce, false, Some(id(8)))
        );
        assert_eq!(side.send(Packet::Puback(ack(8))), settled(7, ReasonCode::SUCCESS));
        assert_eq!(side.send(Packet::Puback(ack(8))), Ok(Action::None), "once");
        assert_eq!(side.connection.in_flight(), 0);
    }
}

#[test]
fn mqtt_4_8_2_6_the_reason_of_a_refused_delivery_is_handed_on() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut side = Side::durable(ProtocolVersion::V5);
        let message = message("m");
        let _ = side.deliver_tracked(&tracked(&message, 7, qos));
        side.receive();
        let refused = Ack::new(id(8), ReasonCode::QUOTA_EXCEEDED);
        let packet = if qos == QoS::AtLeastOnce {
            Packet::Puback(refused)
        } else {
            Packet::Pubrec(refused)
        };
        assert_eq!(side.send(packet), settled(7, ReasonCode::QUOTA_EXCEEDED));
        assert!(side.receive().is_empty(), "no PUBREL");
        assert_eq!(side.connection.in_flight(), 0);
    }
}

#[test]
fn pubrel_follows_the_commit_of_pubrec() {
    for version in EVERY {
        let mut side = Side::durable(version);
        let message = message("m");
        let _ = side.deliver_tracked(&tracked(&message, 7, QoS::ExactlyOnce));
        side.receive();
        let received = Action::Received {
            packet_id: id(8),
            token: Some(DeliveryToken(7)),
        };
        assert_eq!(side.send(Packet::Pubrec(ack(8))), Ok(received));
        assert_eq!(
            side.send(Packet::Pubrec(ack(8))),
            Ok(Action::None),
            "one commit is enough"
        );
        assert!(side.receive().is_empty());
        side.connection.handle_received_committed(id(8), &mut side.out);
        assert_eq!(side.receive(), [Packet::Pubrel(ack(8))]);
        side.connection.handle_received_committed(id(8), &mut side.out);
        assert!(side.receive().is_empty(), "committed once");
        assert_eq!(
            side.send(Packet::Pubcomp(ack(8))),
            settled(7, ReasonCode::SUCCESS)
        );
    }
}

#[test]
fn pubcomp_before_pubrel_is_a_violation() {
    for version in EVERY {
        let mut side = Side::durable(version);
        let message = message("m");
        let _ = side.deliver_tracked(&tracked(&message, 7, QoS::ExactlyOnce));
        side.receive();
        side.send(Packet::Pubrec(ack(8))).unwrap();
        let told = side.violate(Packet::Pubcomp(ack(8)));
        assert_eq!(told, side.told(ReasonCode::PROTOCOL_ERROR));
    }
}

#[test]
fn mqtt_3_3_1_1_what_was_sent_before_is_sent_with_dup() {
    for version in EVERY {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut side = Side::durable(version);
            let message = message("m");
            let expires_at = Some(Instant(500));
            let again = TrackedDelivery {
                phase: DeliveryPhase::Resent,
                expires_at,
                ..tracked(&message, 7, qos)
            };
            assert_eq!(
                side.deliver_tracked(&again),
                DeliverResult::Sent,
                "begun, so it goes on after its expiry"
            );
            let publish = side.receive_publishes().remove(0);
            assert_eq!(
                (publish.dup, publish.packet_id, publish.qos),
                (true, Some(id(8)), qos)
            );
        }
    }
}

#[test]
fn mqtt_4_4_0_1_what_was_received_before_goes_on_with_pubrel() {
    for version in EVERY {
        let mut side = Side::durable(version);
        let message = message("m");
        let delivery = TrackedDelivery {
            phase: DeliveryPhase::Received,
            ..tracked(&message, 7, QoS::ExactlyOnce)
        };
        assert_eq!(side.deliver_tracked(&delivery), DeliverResult::Sent);
        assert_eq!(side.receive(), [Packet::Pubrel(ack(8))]);
        assert_eq!(side.connection.in_flight(), 1);
        assert_eq!(
            side.send(Packet::Pubcomp(ack(8))),
            settled(7, ReasonCode::SUCCESS)
        );
    }
}

#[test]
fn r22_a_busy_identifier_is_held_back() {
    for version in EVERY {
        for phase in [
            DeliveryPhase::Fresh,
            DeliveryPhase::Resent,
            DeliveryPhase::Received,
        ] {
            let mut side = Side::durable(version);
            let message = message("m");
            let _ = side.deliver_tracked(&tracked(&message, 7, QoS::AtLeastOnce));
            side.receive();
            let packet_id = PacketIdSource::Derived {
                group: 0,
                sequence: 7 + 3_640,
            };
            let next = TrackedDelivery {
                packet_id,
                phase,
                ..tracked(&message, 8, QoS::ExactlyOnce)
            };
            assert_eq!(side.deliver_tracked(&next), DeliverResult::Busy);
            assert!(side.receive().is_empty());
            assert_eq!(side.send(Packet::Puback(ack(8))), settled(7, ReasonCode::SUCCESS));
            assert_eq!(side.deliver_tracked(&next), DeliverResult::Sent);
        }
    }
}

#[test]
fn a_full_window_is_busy() {
    let settings = ConnectionSettings {
        window_out_max: 1,
        ..Default::default()
    };
    for version in EVERY {
        let (mut side, _) = Side::with(version, settings.clone(), ask_durable);
        let message = message("m");
        assert_eq!(
            side.deliver_tracked(&tracked(&message, 1, QoS::AtLeastOnce)),
            DeliverResult::Sent
        );
        assert_eq!(side.connection.window_free(), 0);
        assert_eq!(
            side.deliver_tracked(&tracked(&message, 2, QoS::AtLeastOnce)),
            DeliverResult::Busy
        );
        assert_eq!(side.receive_publishes().len(), 1);
    }
}

#[test]
fn what_cannot_be_sent_is_dropped_and_leaves_nothing_behind() {
    let (mut side, _) = Side::with(ProtocolVersion::V5, ConnectionSettings::default(), |connect| {
        ask_durable(connect);
        connect.maximum_packet_size = Some(60);
    });
    let large = message(&"x".repeat(60));
    for phase in [DeliveryPhase::Fresh, DeliveryPhase::Resent] {
        let delivery = TrackedDelivery {
            phase,
            ..tracked(&large, 1, QoS::AtLeastOnce)
        };
        assert_eq!(
            side.deliver_tracked(&delivery),
            DeliverResult::Dropped(DropReason::PacketTooLarge)
        );
    }
    let small = message("m");
    let expired = TrackedDelivery {
        expires_at: Some(side.now),
        ..tracked(&small, 1, QoS::AtLeastOnce)
    };
    assert_eq!(
        side.deliver_tracked(&expired),
        DeliverResult::Dropped(DropReason::Expired)
    );
    assert_eq!((side.out.len(), side.connection.in_flight()), (0, 0));
    assert_eq!(
        side.deliver_tracked(&tracked(&small, 1, QoS::AtLeastOnce)),
        DeliverResult::Sent,
        "the same identifier"
    );
}

#[test]
fn a_tracked_delivery_of_a_live_session_has_an_identifier_of_ours() {
    for version in EVERY {
        let mut side = Side::connected(version);
        let message = message("m");
        let _ = side.deliver(&message, QoS::AtLeastOnce);
        let delivery = TrackedDelivery {
            packet_id: PacketIdSource::Local,
            ..tracked(&message, 7, QoS::AtLeastOnce)
        };
        assert_eq!(side.deliver_tracked(&delivery), DeliverResult::Sent);
        let identifiers: Vec<_> = side
            .receive_publishes()
            .iter()
            .map(|publish| publish.packet_id)
            .collect();
        assert_eq!(identifiers, [Some(id(1)), Some(id(2))]);
        assert_eq!(
            side.send(Packet::Puback(ack(1))),
            Ok(Action::None),
            "nobody keeps track of it"
        );
        assert_eq!(side.send(Packet::Puback(ack(2))), settled(7, ReasonCode::SUCCESS));
    }
}

/// PUBREC for what an earlier connection sent: a PUBREL would make the client forget an identifier of which the
/// PUBLISH may be about to be repeated.
#[test]
fn pubrec_of_a_reference_not_in_flight_is_the_hosts_to_answer() {
    for version in EVERY {
        let mut side = Side::durable(version);
        let question = || {
            Ok(Action::Received {
                packet_id: id(8),
                token: None,
            })
        };
        assert_eq!(side.send(Packet::Pubrec(ack(8))), question());
        assert!(side.receive().is_empty());
        side.connection.handle_received_committed(id(8), &mut side.out);
        let reason = ReasonCode::PACKET_IDENTIFIER_NOT_FOUND;
        let reason = if version == ProtocolVersion::V5 {
            reason
        } else {
            ReasonCode::SUCCESS
        };
        assert_eq!(
            side.receive(),
            [Packet::Pubrel(Ack::new(id(8), reason))],
            "the host knows no such reference"
        );

        assert_eq!(side.send(Packet::Pubrec(ack(8))), question());
        let message = message("m");
        let known = TrackedDelivery {
            phase: DeliveryPhase::Received,
            ..tracked(&message, 7, QoS::ExactlyOnce)
        };
        assert_eq!(side.deliver_tracked(&known), DeliverResult::Sent);
        assert_eq!(side.receive(), [Packet::Pubrel(ack(8))], "the host does");

        side.send(Packet::Pubrec(ack(61_881))).unwrap();
        assert_eq!(
            side.receive(),
            [Packet::Pubrel(Ack::new(id(61_881), reason))],
            "not of a replicated reference"
        );
    }
}

#[test]
fn the_window_that_an_acknowledgement_opens_is_used_at_once() {
    let settings = ConnectionSettings {
        window_out_max: 1,
        ..Default::default()
    };
    for version in EVERY {
        let (mut side, _) = Side::with(version, settings.clone(), ask_durable);
        let message = message("m");
        let _ = side.deliver_tracked(&tracked(&message, 7, QoS::AtLeastOnce));
        assert_eq!(side.deliver(&message, QoS::AtLeastOnce), DeliverResult::Queued);
        side.receive();
        assert_eq!(side.send(Packet::Puback(ack(8))), settled(7, ReasonCode::SUCCESS));
        assert_eq!(side.receive_publishes().len(), 1);
    }
}

/// The queue refills the window before the host can, so it may not have all of it.
#[test]
fn a_quarter_of_a_durable_window_is_kept_for_what_is_tracked() {
    let settings = ConnectionSettings {
        window_out_max: 8,
        ..Default::default()
    };
    for version in EVERY {
        let (mut side, _) = Side::with(version, settings.clone(), ask_durable);
        let message = message("m");
        let sent = (0..10)
            .filter(|_| side.deliver(&message, QoS::AtLeastOnce) == DeliverResult::Sent)
            .count();
        assert_eq!((sent, side.connection.window_free()), (6, 2));
        assert_eq!(
            side.deliver_tracked(&tracked(&message, 1, QoS::AtLeastOnce)),
            DeliverResult::Sent
        );
        assert_eq!(
            side.deliver_tracked(&tracked(&message, 2, QoS::AtLeastOnce)),
            DeliverResult::Sent
        );
        assert_eq!(
            side.deliver_tracked(&tracked(&message, 3, QoS::AtLeastOnce)),
            DeliverResult::Busy
        );
        side.receive();
        side.send(Packet::Puback(ack(2))).unwrap();
        assert!(
            side.receive().is_empty(),
            "the place of a tracked one stays for the next of them"
        );
        side.send(Packet::Puback(ack(61_881))).unwrap();
        assert_eq!(side.receive_publishes().len(), 1);
        assert_eq!(side.connection.window_free(), 1);

        let (mut side, _) = Side::with(version, settings.clone(), |_| {});
        let sent = (0..10)
            .filter(|_| side.deliver(&message, QoS::AtLeastOnce) == DeliverResult::Sent)
            .count();
        assert_eq!(
            sent, 8,
            "a session that ends with its connection has nothing else"
        );
    }
}
