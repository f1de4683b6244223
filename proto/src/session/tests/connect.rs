//! CONNECT and CONNACK.

use super::*;
use crate::session::AuthenticationRequest;

/// What a CONNECT is answered with: reason of the close, reason of CONNACK.
pub(super) fn refused(
    version: ProtocolVersion,
    settings: &ConnectionSettings,
    edit: impl FnOnce(&mut Connect<'static>),
) -> (ReasonCode, Option<ReasonCode>) {
    let mut side = Side::new(version, settings.clone());
    let mut connect = Connect::new(version, "client");
    edit(&mut connect);
    let told = side.violate(Packet::Connect(connect));
    assert_eq!(side.connection.farewell(), Default::default(), "never connected");
    told
}

#[test]
fn mqtt_3_1_0_1_first_packet_is_connect_else_closed_silently() {
    for version in EVERY {
        for packet in [
            Packet::Pingreq,
            Packet::Publish(publish(QoS::AtMostOnce, 0)),
            disconnect(ReasonCode::SUCCESS),
        ] {
            let mut side = Side::new(version, ConnectionSettings::default());
            assert!(side.connection.ready_for_frames());
            assert_eq!(side.violate(packet), (ReasonCode::PROTOCOL_ERROR, None));
            assert!(!side.connection.ready_for_frames());
        }
    }
}

#[test]
fn mqtt_3_1_0_2_second_connect_is_a_violation() {
    for version in EVERY {
        let mut side = Side::connected(version);
        let told = side.violate(Packet::Connect(Connect::new(version, "client")));
        assert_eq!(told, side.told(ReasonCode::PROTOCOL_ERROR));
    }
}

#[test]
fn mqtt_3_1_2_1_unknown_protocol_name_is_closed_silently() {
    let mut side = Side::new(ProtocolVersion::V5, ConnectionSettings::default());
    let close = side
        .send_bytes(b"\x10\x0D\0\x04HTTP\x05\x02\0\0\0\0\0".to_vec())
        .unwrap_err();
    assert_eq!(
        side.close(close),
        (ReasonCode::UNSUPPORTED_PROTOCOL_VERSION, None)
    );
}

#[test]
fn mqtt_3_1_2_2_unknown_level_is_answered_in_the_nearest_version() {
    for (level, version) in [
        (2, ProtocolVersion::V3_1_1),
        (6, ProtocolVersion::V5),
        (0x7F, ProtocolVersion::V5),
    ] {
        let mut side = Side::new(version, ConnectionSettings::default());
        let close = side
            .send_bytes([b"\x10\x0C\0\x04MQTT".as_slice(), &[level, 2, 0, 0, 0, 0]].concat())
            .unwrap_err();
        let reason = ReasonCode::UNSUPPORTED_PROTOCOL_VERSION;
        assert_eq!(side.close(close), (reason, Some(reason)), "level {level}");
    }
}

#[test]
fn mqtt_3_1_4_1_malformed_connect_is_refused_at_5_and_closed_silently_at_3() {
    for version in EVERY {
        let mut bytes = Vec::new();
        Connect::new(version, "client").encode(version, &mut bytes);
        let reserved_flag = if version == ProtocolVersion::V3_1 { 11 } else { 9 };
        bytes[reserved_flag] |= 1;
        let mut side = Side::new(version, ConnectionSettings::default());
        let close = side.send_bytes(bytes).unwrap_err();
        assert_eq!(side.close(close), side.told(ReasonCode::MALFORMED_PACKET));
    }
}

#[test]
fn mqtt_3_1_3_6_empty_client_identifier_is_assigned() {
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        let mut side = Side::new(version, ConnectionSettings::default());
        let request = side.request_open(|connect| connect.client_id = "");
        assert_eq!((&*request.client_id, request.assigned), ("assigned", true));
        assert_eq!(side.connection.client_id().unwrap(), &request.client_id);
        let connack = side.open(Opened::default());
        let told = (version == ProtocolVersion::V5).then_some("assigned");
        assert_eq!(connack.assigned_client_id, told, "[MQTT-3.1.3-7]");
    }
}

#[test]
fn mqtt_3_1_3_6_a_given_client_identifier_is_kept() {
    for version in EVERY {
        let mut side = Side::new(version, ConnectionSettings::default());
        let request = side.request_open(|_| {});
        assert_eq!((&*request.client_id, request.assigned), ("client", false));
        assert_eq!(side.open(Opened::default()).assigned_client_id, None);
    }
}

#[test]
fn mqtt_3_1_3_8_empty_client_identifier_without_an_assigned_one() {
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        for assigned_client_id in [None, Some("")] {
            let mut side = Side::new(version, ConnectionSettings::default());
            side.send(Packet::Connect(Connect::new(version, ""))).unwrap();
            let close = side
                .decide(Decision::Accept {
                    data: None,
                    assigned_client_id,
                })
                .unwrap_err();
            let reason = ReasonCode::CLIENT_IDENTIFIER_NOT_VALID;
            assert_eq!(side.close(close), (reason, Some(reason)));
        }
    }
}

#[test]
fn mqtt311_3_1_3_8_empty_client_identifier_needs_a_clean_session() {
    let reason = ReasonCode::CLIENT_IDENTIFIER_NOT_VALID;
    for (version, clean) in [(ProtocolVersion::V3_1_1, false), (ProtocolVersion::V3_1, true)] {
        let told = refused(version, &ConnectionSettings::default(), |connect| {
            connect.client_id = "";
            connect.clean_start = clean;
        });
        assert_eq!(told, (reason, Some(reason)), "return code 2");
    }
    let (side, _) = Side::with(ProtocolVersion::V5, ConnectionSettings::default(), |connect| {
        connect.client_id = "";
        connect.clean_start = false;
    });
    assert!(side.connection.is_connected(), "MQTT 5 knows no such rule");
}

#[test]
fn mqtt_3_1_3_5_long_client_identifiers() {
    let settings = ConnectionSettings {
        client_id_bytes_max: 30,
        ..Default::default()
    };
    let reason = ReasonCode::CLIENT_IDENTIFIER_NOT_VALID;
    for version in EVERY {
        let told = refused(version, &settings, |connect| {
            connect.client_id = "1234567890123456789012345678901"
        });
        assert_eq!(told, (reason, Some(reason)));
        let (side, _) = Side::with(version, settings.clone(), |connect| {
            connect.client_id = "123456789012345678901234567890";
        });
        assert!(
            side.connection.is_connected(),
            "more than 23 characters are taken"
        );
    }
}

#[test]
fn connect_gives_the_host_the_credentials() {
    for version in EVERY {
        let mut side = Side::new(version, ConnectionSettings::default());
        let mut connect = Connect::new(version, "client");
        connect.user_name = Some("user");
        connect.password = Some(b"secret");
        let Ok(Action::Authenticate(AuthenticationRequest::Connect(credentials))) =
            side.send(Packet::Connect(connect))
        else {
            panic!("no credentials");
        };
        assert_eq!(credentials.version, version);
        assert_eq!(
            (credentials.client_id, credentials.user_name, credentials.password),
            ("client", Some("user"), Some(b"secret".as_slice()))
        );
        assert!(side.receive().is_empty(), "no answer before the decision");
    }
}

#[test]
fn mqtt_3_1_4_2_a_refused_client_gets_the_reason_and_no_more() {
    for version in EVERY {
        let mut side = Side::new(version, ConnectionSettings::default());
        side.send(Packet::Connect(Connect::new(version, "client")))
            .unwrap();
        let reason = ReasonCode::BAD_USER_NAME_OR_PASSWORD;
        let close = side
            .decide(Decision::Refuse {
                reason,
                reason_string: Some("who?"),
            })
            .unwrap_err();
        side.connection.close(&close, &mut side.out);
        let Packet::Connack(connack) = side.receive_one() else {
            panic!("no CONNACK")
        };
        assert_eq!(
            (connack.reason, connack.session_present),
            (reason, false),
            "[MQTT-3.2.2-6]"
        );
        assert_eq!(
            connack.reason_string,
            (version == ProtocolVersion::V5).then_some("who?")
        );
        assert!(!side.connection.farewell().connected);
        side.connection.close(&close, &mut side.out);
        assert!(side.receive().is_empty(), "one answer");
    }
}

#[test]
fn refused_opening_is_a_failing_connack() {
    for version in EVERY {
        let mut side = Side::new(version, ConnectionSettings::default());
        side.request_open(|_| {});
        assert!(!side.connection.ready_for_frames(), "the session is not open");
        side.connection
            .handle_refused(ReasonCode::SERVER_UNAVAILABLE, None, &mut side.out);
        let Packet::Connack(connack) = side.receive_one() else {
            panic!("no CONNACK")
        };
        assert_eq!(
            connack.reason,
            ReasonCode::SERVER_UNAVAILABLE,
            "return code 3 at 3.x"
        );
        assert!(side.connection.is_closed());
    }
}

#[test]
fn mqtt_3_1_2_4_sessions_are_durable_as_asked_and_granted() {
    let settings = ConnectionSettings {
        session_expiry_secs_max: 1_000,
        ..Default::default()
    };
    let open = |version, clean_start, asked| {
        let mut side = Side::new(version, settings.clone());
        let request = side.request_open(|connect| {
            connect.clean_start = clean_start;
            connect.session_expiry_secs = asked;
        });
        let connack = side.open(Opened::default());
        assert_eq!(side.connection.is_durable(), request.durable);
        (
            request.clean_start,
            request.durable,
            request.expiry_secs,
            connack.session_expiry_secs,
        )
    };
    for version in V3 {
        assert_eq!(open(version, true, None), (true, false, 0, None));
        assert_eq!(
            open(version, false, None),
            (false, true, 1_000, None),
            "the longest there is"
        );
    }
    let version = ProtocolVersion::V5;
    assert_eq!(open(version, true, None), (true, false, 0, None));
    assert_eq!(
        open(version, false, None),
        (false, false, 0, None),
        "absent means 0 [MQTT5 3.1.2.11.2]"
    );
    assert_eq!(open(version, false, Some(1_000)), (false, true, 1_000, None));
    assert_eq!(
        open(version, true, Some(1_001)),
        (true, true, 1_000, Some(1_000)),
        "told [MQTT5 3.2.2.3.2]"
    );
    assert_eq!(
        open(version, false, Some(u32::MAX)),
        (false, true, 1_000, Some(1_000))
    );
}

#[test]
fn mqtt_3_2_2_2_session_present_is_told_unless_the_start_is_clean() {
    for version in EVERY {
        for clean_start in [false, true] {
            let mut side = Side::new(version, ConnectionSettings::default());
            side.request_open(|connect| connect.clean_start = clean_start);
            let connack = side.open(Opened {
                session_present: true,
                ..Default::default()
            });
            assert_eq!(
                connack.session_present,
                !clean_start && version > ProtocolVersion::V3_1
            );
            assert!(side.connection.ready_for_frames());
        }
    }
}

#[test]
fn mqtt_3_2_2_connack_has_what_differs_from_the_defaults() {
    let settings = ConnectionSettings {
        receive_maximum_in: 7,
        maximum_packet_size: 5_000,
        topic_alias_max_in: 3,
        maximum_qos: QoS::AtLeastOnce,
        retain_available: false,
        wildcard_available: false,
        shared_available: false,
        subscription_ids_available: false,
        response_information: Some("responses/".into()),
        ..Default::default()
    };
    for version in EVERY {
        let (_, connack) = Side::with(version, settings.clone(), |_| {});
        if version < ProtocolVersion::V5 {
            assert_eq!(connack, Connack::new(ReasonCode::SUCCESS));
            continue;
        }
        let mut expected = Connack::new(ReasonCode::SUCCESS);
        expected.receive_maximum = Some(7);
        expected.maximum_packet_size = Some(5_000);
        expected.topic_alias_maximum = 3;
        expected.maximum_qos = Some(QoS::AtLeastOnce);
        expected.retain_available = false;
        expected.wildcard_available = false;
        expected.shared_available = false;
        expected.subscription_ids_available = false;
        assert_eq!(connack, expected);
    }
    let generous = ConnectionSettings {
        receive_maximum_in: u16::MAX,
        maximum_packet_size: u32::MAX,
        topic_alias_max_in: 0,
        ..Default::default()
    };
    let (_, connack) = Side::with(ProtocolVersion::V5, generous, |_| {});
    assert_eq!(connack, Connack::new(ReasonCode::SUCCESS));
}

#[test]
fn mqtt_3_1_2_28_response_information_only_on_request() {
    let settings = ConnectionSettings {
        response_information: Some("responses/".into()),
        ..Default::default()
    };
    let (_, connack) = Side::with(ProtocolVersion::V5, settings.clone(), |connect| {
        connect.request_response_information = true;
    });
    assert_eq!(connack.response_information, Some("responses/"));
    let (_, connack) = Side::with(ProtocolVersion::V5, settings.clone(), |connect| {
        connect.request_response_information = true;
        connect.maximum_packet_size = Some(24);
    });
    assert_eq!(
        connack.response_information, None,
        "left out where it has no room"
    );
    let (_, connack) = Side::with(ProtocolVersion::V5, settings, |_| {});
    assert_eq!(connack.response_information, None);
}

#[test]
fn mqtt_3_1_2_24_no_connack_for_a_client_without_room_for_it() {
    let mut side = Side::new(ProtocolVersion::V5, ConnectionSettings::default());
    side.request_open(|connect| connect.maximum_packet_size = Some(4));
    let close = side
        .connection
        .handle_opened(Opened::default(), side.now, &mut side.out)
        .unwrap_err();
    assert_eq!(side.close(close), (ReasonCode::PACKET_TOO_LARGE, None));
    assert!(!side.connection.farewell().connected);
}

#[test]
fn window_is_the_smaller_of_the_clients_and_ours() {
    let settings = ConnectionSettings {
        window_out_max: 50,
        ..Default::default()
    };
    for (asked, window) in [(u16::MAX, 50), (50, 50), (3, 3)] {
        let mut side = Side::new(ProtocolVersion::V5, settings.clone());
        assert_eq!(side.connection.window_free(), 0, "not connected");
        let request = side.request_open(|connect| connect.receive_maximum = asked);
        assert_eq!(request.window_out, window);
        side.open(Opened::default());
        assert_eq!(side.connection.window_free(), usize::from(window));
    }
    for version in V3 {
        let (side, _) = Side::with(version, settings.clone(), |_| {});
        assert_eq!(side.connection.window_free(), 50);
    }
}
