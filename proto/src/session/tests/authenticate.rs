//! Enhanced authentication [MQTT5 4.12].

use super::*;
use crate::codec::Auth;
use crate::session::AuthenticationRequest;

fn auth(reason: ReasonCode, method: Option<&'static str>, data: &'static [u8]) -> Packet<'static> {
    let mut auth = Auth::new(reason);
    auth.authentication_method = method;
    auth.authentication_data = method.map(|_| data);
    Packet::Auth(auth)
}

const CONTINUE: ReasonCode = ReasonCode::CONTINUE_AUTHENTICATION;
const AGAIN: ReasonCode = ReasonCode::REAUTHENTICATE;

fn name_method(connect: &mut Connect<'static>) {
    connect.authentication_method = Some("SCRAM");
    connect.authentication_data = Some(b"first");
}

/// CONNECT with a method, the host continued once.
fn challenged() -> Side {
    let mut side = Side::new(ProtocolVersion::V5, ConnectionSettings::default());
    let mut connect = Connect::new(ProtocolVersion::V5, "client");
    name_method(&mut connect);
    let Ok(Action::Authenticate(AuthenticationRequest::Connect(credentials))) =
        side.send(Packet::Connect(connect))
    else {
        panic!("no request");
    };
    assert_eq!(
        (credentials.method, credentials.data),
        (Some("SCRAM"), Some(b"first".as_slice()))
    );
    assert!(!side.connection.ready_for_frames());
    assert_eq!(
        side.decide(Decision::Continue {
            data: Some(b"challenge")
        }),
        Ok(Action::None)
    );
    assert_eq!(
        side.receive(),
        [auth(CONTINUE, Some("SCRAM"), b"challenge")],
        "[MQTT-4.12.0-2]"
    );
    assert!(side.connection.ready_for_frames());
    side
}

fn authenticated() -> Side {
    Side::with(ProtocolVersion::V5, ConnectionSettings::default(), name_method).0
}

#[test]
fn mqtt_4_12_0_2_several_rounds_then_connack_with_method_and_data() {
    let mut side = challenged();
    for round in 0..3 {
        let data = [b"r1".as_slice(), b"r2", b"r3"][round];
        let request = AuthenticationRequest::Continue {
            method: "SCRAM",
            data: Some(data),
            again: false,
        };
        assert_eq!(
            side.send(auth(CONTINUE, Some("SCRAM"), data)),
            Ok(Action::Authenticate(request))
        );
        assert!(!side.connection.ready_for_frames());
        if round < 2 {
            side.decide(Decision::Continue { data: None }).unwrap();
            let Packet::Auth(challenge) = side.receive_one() else {
                panic!("no AUTH")
            };
            assert_eq!(challenge.authentication_data, None);
        }
    }
    let accept = Decision::Accept {
        data: Some(b"proof"),
        assigned_client_id: None,
    };
    assert!(matches!(side.decide(accept), Ok(Action::Open(_))));
    let connack = side.open(Opened::default());
    assert_eq!(connack.authentication_method, Some("SCRAM"), "[MQTT-4.12.0-5]");
    assert_eq!(connack.authentication_data, Some(b"proof".as_slice()));
}

#[test]
fn mqtt_4_12_0_4_refused_after_a_round() {
    let mut side = challenged();
    side.send(auth(CONTINUE, Some("SCRAM"), b"wrong")).unwrap();
    let reason = ReasonCode::NOT_AUTHORIZED;
    let close = side
        .decide(Decision::Refuse {
            reason,
            reason_string: None,
        })
        .unwrap_err();
    assert_eq!(side.close(close), (reason, Some(reason)));
}

#[test]
fn mqtt_3_1_2_30_only_auth_and_disconnect_before_connack() {
    for packet in [
        Packet::Pingreq,
        Packet::Publish(publish(QoS::AtMostOnce, 0)),
        subscribe::subscribe(1, &["a"]),
    ] {
        let mut side = challenged();
        assert_eq!(
            side.violate(packet),
            (ReasonCode::PROTOCOL_ERROR, Some(ReasonCode::PROTOCOL_ERROR))
        );
    }
    let mut side = challenged();
    assert_eq!(
        side.send(disconnect(ReasonCode::SUCCESS)),
        Ok(Action::Disconnected)
    );
    assert!(side.connection.is_closed() && !side.connection.farewell().connected);
}

#[test]
fn mqtt_4_12_0_5_the_method_must_not_change() {
    let violation = (ReasonCode::PROTOCOL_ERROR, Some(ReasonCode::PROTOCOL_ERROR));
    for method in [Some("OTHER"), None] {
        assert_eq!(challenged().violate(auth(CONTINUE, method, b"x")), violation);
        assert_eq!(
            authenticated().violate(auth(AGAIN, method, b"x")),
            violation,
            "[MQTT-4.12.1-1]"
        );
    }
}

#[test]
fn auth_out_of_turn_is_a_violation() {
    let violation = (ReasonCode::PROTOCOL_ERROR, Some(ReasonCode::PROTOCOL_ERROR));
    assert_eq!(challenged().violate(auth(AGAIN, Some("SCRAM"), b"x")), violation);
    assert_eq!(
        challenged().violate(auth(ReasonCode::SUCCESS, Some("SCRAM"), b"x")),
        violation
    );
    assert_eq!(
        authenticated().violate(auth(CONTINUE, Some("SCRAM"), b"x")),
        violation
    );
    let mut side = authenticated();
    side.send(auth(AGAIN, Some("SCRAM"), b"x")).unwrap();
    assert_eq!(
        side.violate(auth(AGAIN, Some("SCRAM"), b"x")),
        violation,
        "the host is to decide"
    );
}

#[test]
fn mqtt_4_12_0_6_auth_without_a_method_is_a_violation() {
    let mut side = Side::connected(ProtocolVersion::V5);
    let told = side.violate(auth(AGAIN, Some("SCRAM"), b"x"));
    assert_eq!(
        told,
        (ReasonCode::PROTOCOL_ERROR, Some(ReasonCode::PROTOCOL_ERROR))
    );
}

#[test]
fn auth_is_no_packet_of_the_older_versions() {
    for version in V3 {
        let mut side = Side::connected(version);
        let close = side.send_bytes(vec![0xF0, 0]).unwrap_err();
        assert_eq!(side.close(close).1, None);
    }
}

#[test]
fn mqtt_4_12_0_1_a_continued_client_without_method_is_refused() {
    for version in EVERY {
        let mut side = Side::new(version, ConnectionSettings::default());
        side.send(Packet::Connect(Connect::new(version, "client")))
            .unwrap();
        let close = side.decide(Decision::Continue { data: None }).unwrap_err();
        let (reason, told) = side.close(close);
        assert_eq!(reason, ReasonCode::BAD_AUTHENTICATION_METHOD);
        assert!(told.is_some());
    }
}

#[test]
fn mqtt_4_12_1_1_authenticated_anew_while_served() {
    let mut side = authenticated();
    let request = AuthenticationRequest::Reauthenticate {
        method: "SCRAM",
        data: Some(b"again"),
    };
    assert_eq!(
        side.send(auth(AGAIN, Some("SCRAM"), b"again")),
        Ok(Action::Authenticate(request))
    );
    assert!(side.connection.ready_for_frames());
    side.send(Packet::Pingreq).unwrap();
    assert_eq!(side.deliver(&message("m"), QoS::AtLeastOnce), DeliverResult::Sent);
    assert_eq!(side.receive().len(), 2);

    side.decide(Decision::Continue { data: Some(b"c") }).unwrap();
    assert_eq!(side.receive(), [auth(CONTINUE, Some("SCRAM"), b"c")]);
    let request = AuthenticationRequest::Continue {
        method: "SCRAM",
        data: Some(b"r"),
        again: true,
    };
    assert_eq!(
        side.send(auth(CONTINUE, Some("SCRAM"), b"r")),
        Ok(Action::Authenticate(request))
    );
    let accept = Decision::Accept {
        data: Some(b"d"),
        assigned_client_id: None,
    };
    assert_eq!(side.decide(accept), Ok(Action::None));
    assert_eq!(side.receive(), [auth(ReasonCode::SUCCESS, Some("SCRAM"), b"d")]);
    assert!(side.send(auth(AGAIN, Some("SCRAM"), b"and again")).is_ok());
}

#[test]
fn mqtt_4_12_1_2_failed_anew_is_disconnected() {
    let mut side = authenticated();
    side.send(auth(AGAIN, Some("SCRAM"), b"again")).unwrap();
    let refuse = Decision::Refuse {
        reason: ReasonCode::BAD_USER_NAME_OR_PASSWORD,
        reason_string: None,
    };
    let close = side.decide(refuse).unwrap_err();
    let told = side.close(close).1;
    assert_eq!(
        told,
        Some(ReasonCode::NOT_AUTHORIZED),
        "0x86 is no reason of a DISCONNECT"
    );
    assert!(side.connection.farewell().publish_will);
}

#[test]
fn a_decision_nobody_waits_for_changes_nothing() {
    for version in EVERY {
        let mut side = Side::connected(version);
        let refuse = Decision::Refuse {
            reason: ReasonCode::NOT_AUTHORIZED,
            reason_string: None,
        };
        assert_eq!(side.decide(refuse), Ok(Action::None));
        assert!(side.connection.is_connected() && side.receive().is_empty());
    }
    let mut side = challenged();
    assert_eq!(side.accept(), Ok(Action::None), "it is the client's turn");
    assert!(side.connection.ready_for_frames());
}

#[test]
fn mqtt_3_1_2_24_an_auth_without_room_ends_the_exchange() {
    let mut side = Side::new(ProtocolVersion::V5, ConnectionSettings::default());
    let mut connect = Connect::new(ProtocolVersion::V5, "client");
    name_method(&mut connect);
    connect.maximum_packet_size = Some(20);
    side.send(Packet::Connect(connect)).unwrap();
    let close = side
        .decide(Decision::Continue {
            data: Some(b"a challenge longer than that"),
        })
        .unwrap_err();
    assert_eq!(
        side.close(close),
        (ReasonCode::PACKET_TOO_LARGE, Some(ReasonCode::PACKET_TOO_LARGE))
    );
}
