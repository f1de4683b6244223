//! Deliveries without replication: the window, the queue, identifiers, expiry, sizes, aliases.

use super::*;
use crate::session::{DropReason, QueueDrops};

fn window(window_out_max: u16) -> ConnectionSettings {
    ConnectionSettings {
        window_out_max,
        ..Default::default()
    }
}

fn payloads(publishes: &[Publish<'static>]) -> Vec<&'static str> {
    publishes
        .iter()
        .map(|publish| std::str::from_utf8(publish.payload).unwrap())
        .collect()
}

#[test]
fn publish_carries_the_message() {
    for version in EVERY {
        let mut side = Side::connected(version);
        let forwardable: &[u8] = &[3, 0, 4, b't', b'e', b'x', b't'];
        let message = Message::new("a/b", forwardable, b"hello", QoS::ExactlyOnce, true, None);
        for (qos, number) in [
            (QoS::AtMostOnce, None),
            (QoS::AtLeastOnce, Some(1)),
            (QoS::ExactlyOnce, Some(2)),
        ] {
            let delivery = Delivery {
                subscription_ids: &[3, 300],
                ..Delivery::of(&message, qos)
            };
            assert_eq!(side.deliver_as(&message, delivery), DeliverResult::Sent);
            let publish = side.receive_publishes().remove(0);
            assert_eq!((publish.topic, publish.payload), ("a/b", b"hello".as_slice()));
            assert_eq!((publish.qos, publish.retain, publish.dup), (qos, true, false));
            assert_eq!(publish.packet_id.map(PacketId::get), number);
            let is_5 = version == ProtocolVersion::V5;
            let ids: Vec<u32> = publish.subscription_ids.iter().collect();
            assert_eq!(ids, if is_5 { vec![3, 300] } else { vec![] }, "[MQTT-3.3.4-3]");
            assert_eq!(
                &*publish.forwardable,
                if is_5 { forwardable } else { &[] },
                "[MQTT-3.3.2-17]"
            );
        }
    }
}

#[test]
fn mqtt_3_3_4_7_never_more_in_flight_than_the_window() {
    for version in EVERY {
        let (mut side, _) = Side::with(version, window(2), |_| {});
        let results: Vec<_> = ["1", "2", "3", "4"]
            .map(|payload| side.deliver(&message(payload), QoS::AtLeastOnce))
            .into();
        use DeliverResult::{Queued, Sent};
        assert_eq!(results, [Sent, Sent, Queued, Queued]);
        assert_eq!(
            (side.connection.in_flight(), side.connection.window_free()),
            (2, 0)
        );
        assert_eq!(side.connection.queued().0, 2);
        assert_eq!(
            side.deliver(&message("0"), QoS::AtMostOnce),
            Sent,
            "QoS 0 needs no window"
        );
        assert_eq!(payloads(&side.receive_publishes()), ["1", "2", "0"]);
    }
}

#[test]
fn mqtt_4_6_0_6_the_queue_leaves_in_order_as_the_window_opens() {
    for version in EVERY {
        let (mut side, _) = Side::with(version, window(2), |_| {});
        for payload in ["1", "2", "3", "4", "5"] {
            let _ = side.deliver(&message(payload), QoS::AtLeastOnce);
        }
        let sent = side.receive_publishes();
        side.send(Packet::Puback(Ack::new(
            sent[1].packet_id.unwrap(),
            ReasonCode::SUCCESS,
        )))
        .unwrap();
        assert_eq!(
            payloads(&side.receive_publishes()),
            ["3"],
            "an acknowledgement out of order makes room too"
        );
        side.send(Packet::Puback(Ack::new(
            sent[0].packet_id.unwrap(),
            ReasonCode::SUCCESS,
        )))
        .unwrap();
        assert_eq!(payloads(&side.receive_publishes()), ["4"]);
        assert_eq!(
            side.deliver(&message("6"), QoS::AtLeastOnce),
            DeliverResult::Queued,
            "behind the fifth"
        );
        side.send(Packet::Puback(ack(3))).unwrap();
        side.send(Packet::Puback(ack(4))).unwrap();
        assert_eq!(payloads(&side.receive_publishes()), ["5", "6"]);
        assert_eq!(side.connection.queued(), (0, 0));
    }
}

#[test]
fn mqtt_4_3_3_exactly_once_goes_through_its_four_packets() {
    for version in EVERY {
        let (mut side, _) = Side::with(version, window(1), |_| {});
        let _ = side.deliver(&message("1"), QoS::ExactlyOnce);
        let _ = side.deliver(&message("2"), QoS::ExactlyOnce);
        side.receive();
        assert_eq!(side.send(Packet::Pubrec(ack(1))), Ok(Action::None));
        assert_eq!(side.receive(), [Packet::Pubrel(ack(1))], "[MQTT-4.3.3-4]");
        assert_eq!(side.connection.in_flight(), 1, "not complete");
        assert_eq!(side.send(Packet::Pubrec(ack(1))), Ok(Action::None));
        assert_eq!(side.receive(), [Packet::Pubrel(ack(1))], "repeated");
        assert_eq!(side.send(Packet::Pubcomp(ack(1))), Ok(Action::None));
        assert_eq!(payloads(&side.receive_publishes()), ["2"]);
    }
}

#[test]
fn mqtt5_4_3_3_pubrec_with_an_error_ends_the_exchange() {
    let (mut side, _) = Side::with(ProtocolVersion::V5, window(1), |_| {});
    let _ = side.deliver(&message("1"), QoS::ExactlyOnce);
    let _ = side.deliver(&message("2"), QoS::ExactlyOnce);
    side.receive();
    side.send(Packet::Pubrec(Ack::new(id(1), ReasonCode::QUOTA_EXCEEDED)))
        .unwrap();
    assert_eq!(payloads(&side.receive_publishes()), ["2"], "and no PUBREL");
}

#[test]
fn acknowledgements_of_what_is_not_in_flight() {
    for version in EVERY {
        let mut side = Side::connected(version);
        assert_eq!(side.send(Packet::Puback(ack(9))), Ok(Action::None));
        assert_eq!(side.send(Packet::Pubcomp(ack(9))), Ok(Action::None));
        assert!(side.receive().is_empty());
        assert_eq!(side.send(Packet::Pubrec(ack(9))), Ok(Action::None));
        let reason = ReasonCode::PACKET_IDENTIFIER_NOT_FOUND;
        let reason = if version == ProtocolVersion::V5 {
            reason
        } else {
            ReasonCode::SUCCESS
        };
        assert_eq!(side.receive(), [Packet::Pubrel(Ack::new(id(9), reason))]);
    }
    let mut side = Side::connected(ProtocolVersion::V5);
    side.send(Packet::Pubrec(Ack::new(id(9), ReasonCode::UNSPECIFIED_ERROR)))
        .unwrap();
    assert!(side.receive().is_empty(), "an error asks for nothing");
}

#[test]
fn acknowledgements_that_do_not_fit_are_violations() {
    let wrong: [(QoS, Packet<'static>); 3] = [
        (QoS::AtLeastOnce, Packet::Pubrec(ack(1))),
        (QoS::AtLeastOnce, Packet::Pubcomp(ack(1))),
        (QoS::ExactlyOnce, Packet::Puback(ack(1))),
    ];
    for version in EVERY {
        for (qos, packet) in wrong
            .clone()
            .into_iter()
            .chain([(QoS::ExactlyOnce, Packet::Pubcomp(ack(1)))])
        {
            let mut side = Side::connected(version);
            let _ = side.deliver(&message("1"), qos);
            side.receive();
            let told = side.violate(packet);
            assert_eq!(told, side.told(ReasonCode::PROTOCOL_ERROR));
        }
    }
}

#[test]
fn queue_is_bounded_in_messages_and_bytes() {
    let size = message("1234").size() as u32;
    let by_messages = ConnectionSettings {
        queue_messages_max: 2,
        ..window(1)
    };
    let by_bytes = ConnectionSettings {
        queue_bytes_max: 2 * size + size / 2,
        ..window(1)
    };
    for version in EVERY {
        for settings in [&by_messages, &by_bytes] {
            let (mut side, _) = Side::with(version, settings.clone(), |_| {});
            let results: Vec<_> = (0..4)
                .map(|_| side.deliver(&message("1234"), QoS::AtLeastOnce))
                .collect();
            let full = DeliverResult::Dropped(DropReason::QueueFull);
            assert_eq!(
                results,
                [
                    DeliverResult::Sent,
                    DeliverResult::Queued,
                    DeliverResult::Queued,
                    full
                ]
            );
            assert_eq!(side.connection.queued(), (2, 2 * size as usize));
            side.send(Packet::Puback(ack(1))).unwrap();
            assert_eq!(
                side.deliver(&message("1234"), QoS::AtLeastOnce),
                DeliverResult::Queued,
                "room again"
            );
        }
    }
}

#[test]
fn a_message_is_owned_only_when_it_has_to_wait() {
    let settings = ConnectionSettings {
        queue_messages_max: 1,
        ..window(1)
    };
    let (mut side, _) = Side::with(ProtocolVersion::V5, settings, |_| {});
    let message = message("m");
    let mut owned = 0;
    for (qos, expected) in [
        (QoS::AtMostOnce, 0),
        (QoS::AtLeastOnce, 0),
        (QoS::AtLeastOnce, 1),
        (QoS::AtLeastOnce, 1),
    ] {
        let mut own = || {
            owned += 1;
            message.clone()
        };
        let _ = side
            .connection
            .deliver(&Delivery::of(&message, qos), &mut own, side.now, &mut side.out);
        assert_eq!(owned, expected);
    }
}

#[test]
fn full_output_drops_qos_0_and_holds_back_the_rest() {
    let settings = ConnectionSettings {
        output_bytes_max: 100,
        ..Default::default()
    };
    for version in EVERY {
        let (mut side, _) = Side::with(version, settings.clone(), |_| {});
        side.out = vec![0; 100];
        assert_eq!(
            side.deliver(&message("1"), QoS::AtMostOnce),
            DeliverResult::Sent,
            "not more than the limit"
        );
        let length = side.out.len();
        let full = DeliverResult::Dropped(DropReason::OutputFull);
        assert_eq!(side.deliver(&message("2"), QoS::AtMostOnce), full);
        assert_eq!(side.out.len(), length);
        for text in ["3", "4"] {
            assert_eq!(
                side.deliver(&message(text), QoS::AtLeastOnce),
                DeliverResult::Queued,
                "it waits for room in the output"
            );
        }
        assert_eq!(
            side.deliver_tracked(&tracked(&message("5"), 9, QoS::AtLeastOnce)),
            DeliverResult::Busy
        );
        assert_eq!(side.out.len(), length);
        side.out.clear();
        assert_eq!(
            side.deliver(&message("6"), QoS::AtLeastOnce),
            DeliverResult::Queued,
            "it does not overtake what waits"
        );
        side.connection.output_written(side.now, &mut side.out);
        let payloads: Vec<Vec<u8>> = side
            .receive_publishes()
            .iter()
            .map(|publish| publish.payload.to_vec())
            .collect();
        assert_eq!(payloads, [b"3", b"4", b"6"]);
    }
}

#[test]
fn mqtt_3_3_2_5_and_6_expiry() {
    for version in EVERY {
        let (mut side, _) = Side::with(version, window(1), |_| {});
        let message = message("m");
        let expiring = |qos, at: u64| Delivery {
            expires_at: Some(Instant(1_000 + at)),
            ..Delivery::of(&message, qos)
        };
        let told = |publish: &Publish<'_>| publish.message_expiry_secs;
        let is_5 = version == ProtocolVersion::V5;

        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            let expired = DeliverResult::Dropped(DropReason::Expired);
            assert_eq!(side.deliver_as(&message, expiring(qos, 0)), expired);
        }
        let _ = side.deliver_as(&message, expiring(QoS::AtLeastOnce, 9_001));
        assert_eq!(
            told(&side.receive_publishes()[0]),
            is_5.then_some(10),
            "a second begun is a second"
        );
        for at in [20_000, 5_000, 30_000] {
            assert_eq!(
                side.deliver_as(&message, expiring(QoS::AtLeastOnce, at)),
                DeliverResult::Queued
            );
        }
        side.now = side.now.plus_millis(6_000);
        side.send(Packet::Puback(ack(1))).unwrap();
        assert_eq!(
            told(&side.receive_publishes()[0]),
            is_5.then_some(14),
            "what is left [MQTT-3.3.2-6]"
        );
        side.send(Packet::Puback(ack(2))).unwrap();
        assert_eq!(
            told(&side.receive_publishes()[0]),
            is_5.then_some(24),
            "the one between has expired"
        );
        assert_eq!(
            side.connection.take_queue_drops(),
            QueueDrops {
                expired: 1,
                packet_too_large: 0
            }
        );
        assert_eq!(
            side.connection.take_queue_drops(),
            QueueDrops::default(),
            "counted once"
        );
    }
}

#[test]
fn mqtt_3_1_2_24_and_25_a_publish_too_large_for_the_client_is_skipped() {
    let size = 2 + 2 + "sensors/kitchen".len() + 2 + 1 + 4;
    for (maximum, fits) in [(size, true), (size - 1, false)] {
        let (mut side, _) = Side::with(ProtocolVersion::V5, window(1), |connect| {
            connect.maximum_packet_size = Some(maximum as u32);
        });
        let too_large = DeliverResult::Dropped(DropReason::PacketTooLarge);
        let result = side.deliver(&message("1234"), QoS::AtLeastOnce);
        assert_eq!(result, if fits { DeliverResult::Sent } else { too_large });
        assert_eq!(side.out.len(), if fits { size } else { 0 });
        assert_eq!(side.connection.in_flight(), usize::from(fits));
        assert_eq!(side.deliver(&message("12345678"), QoS::AtMostOnce), too_large);
    }
}

#[test]
fn mqtt_3_1_2_25_a_queued_publish_too_large_does_not_hold_up_the_others() {
    let (mut side, _) = Side::with(ProtocolVersion::V5, window(1), |connect| {
        connect.maximum_packet_size = Some(40)
    });
    let large = "x".repeat(40);
    for payload in ["1", &large, "2"] {
        let _ = side.deliver(&message(payload), QoS::AtLeastOnce);
    }
    side.receive();
    side.send(Packet::Puback(ack(1))).unwrap();
    assert_eq!(payloads(&side.receive_publishes()), ["2"]);
    assert_eq!(
        side.connection.take_queue_drops(),
        QueueDrops {
            expired: 0,
            packet_too_large: 1
        }
    );
}

#[test]
fn r24_identifiers_of_deliveries_without_replication() {
    for version in EVERY {
        for durable in [false, true] {
            let mut side = Side::new(version, window(2));
            side.request_open(|connect| {
                if durable {
                    ask_durable(connect)
                }
            });
            side.open(Opened {
                local_start: if durable { 3_653 } else { 65_533 },
                ..Default::default()
            });
            let mut identifiers = Vec::new();
            for _ in 0..4 {
                let _ = side.deliver(&message("m"), QoS::AtLeastOnce);
                let packet_id = side.receive_publishes()[0].packet_id.unwrap();
                side.send(Packet::Puback(Ack::new(packet_id, ReasonCode::SUCCESS)))
                    .unwrap();
                identifiers.push(packet_id.get());
            }
            let of_durable = vec![65_534, 65_535, 61_881, 61_882];
            assert_eq!(
                identifiers,
                if durable {
                    of_durable
                } else {
                    vec![65_534, 65_535, 1, 2]
                }
            );
        }
    }
}

#[test]
fn mqtt_2_2_1_4_an_identifier_in_use_is_not_used_again() {
    let (mut side, _) = Side::with(ProtocolVersion::V3_1_1, window(2), |_| {});
    let _ = side.deliver(&message("held"), QoS::AtLeastOnce);
    side.receive();
    let mut seen = Vec::new();
    for _ in 0..65_534 {
        let _ = side.connection.deliver(
            &Delivery::of(&message("m"), QoS::AtLeastOnce),
            &mut || unreachable!(),
            side.now,
            &mut side.out,
        );
        let packet_id = u16::from_be_bytes([side.out[19], side.out[20]]);
        seen.push(packet_id);
        side.out.clear();
        let frame = Frame {
            packet_type: crate::codec::PacketType::Puback,
            flags: 0,
            body: &packet_id.to_be_bytes(),
            size: 4,
        };
        side.connection
            .handle_frame(frame, side.now, &mut side.out)
            .unwrap();
    }
    assert_eq!(seen, (2..=65_535).collect::<Vec<u16>>());
    let _ = side.deliver(&message("next"), QoS::AtLeastOnce);
    assert_eq!(
        side.receive_publishes()[0].packet_id,
        Some(id(2)),
        "1 is still held"
    );
}

#[test]
fn nothing_is_delivered_before_connack_or_after_the_end() {
    for version in EVERY {
        let mut side = Side::new(version, ConnectionSettings::default());
        let gone = DeliverResult::Dropped(DropReason::NotConnected);
        assert_eq!(side.deliver(&message("m"), QoS::AtLeastOnce), gone);
        side.request_open(|_| {});
        assert_eq!(side.deliver(&message("m"), QoS::AtMostOnce), gone);
        side.open(Opened::default());
        side.close(Close::new(ReasonCode::SERVER_SHUTTING_DOWN, "end"));
        assert_eq!(side.deliver(&message("m"), QoS::AtLeastOnce), gone);
        assert_eq!(
            side.deliver_tracked(&tracked(&message("m"), 1, QoS::AtLeastOnce)),
            gone
        );
        assert!(side.out.is_empty());
    }
}

#[test]
fn trimming_loses_nothing() {
    let (mut side, _) = Side::with(ProtocolVersion::V5, window(1), |connect| {
        connect.topic_alias_maximum = 1
    });
    for payload in ["1", "2"] {
        let _ = side.deliver(&message(payload), QoS::AtLeastOnce);
    }
    side.connection.trim();
    side.send(Packet::Puback(ack(1))).unwrap();
    assert_eq!(payloads(&side.receive_publishes()), ["1", "2"]);
    side.send(Packet::Puback(ack(2))).unwrap();
    side.connection.trim();
    let _ = side.deliver(&message("3"), QoS::AtLeastOnce);
    let publish = side.receive_publishes().remove(0);
    assert_eq!((publish.packet_id, publish.topic_alias), (Some(id(3)), Some(1)));
}
