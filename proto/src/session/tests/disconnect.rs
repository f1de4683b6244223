//! The end, from either side, and what it means for the session.

use super::*;
use crate::session::Farewell;

#[test]
fn mqtt_3_14_4_3_disconnect_drops_the_will_and_its_absence_does_not() {
    for version in EVERY {
        let mut side = Side::connected(version);
        let lost = side.connection.farewell();
        assert_eq!(
            (lost.connected, lost.publish_will),
            (true, true),
            "the socket is lost [MQTT-3.1.2-8]"
        );
        assert_eq!(
            side.send(disconnect(ReasonCode::SUCCESS)),
            Ok(Action::Disconnected)
        );
        let farewell = Farewell {
            connected: true,
            publish_will: false,
            expiry_secs: None,
            disconnect_reason: Some(ReasonCode::SUCCESS),
        };
        assert_eq!(side.connection.farewell(), farewell);
        assert!(side.connection.is_closed() && side.receive().is_empty());
        assert!(!side.connection.ready_for_frames());
    }
}

#[test]
fn mqtt_3_1_2_10_other_reasons_keep_the_will() {
    for reason in [
        ReasonCode::DISCONNECT_WITH_WILL,
        ReasonCode::UNSPECIFIED_ERROR,
        ReasonCode::QUOTA_EXCEEDED,
    ] {
        let mut side = Side::connected(ProtocolVersion::V5);
        assert_eq!(side.send(disconnect(reason)), Ok(Action::Disconnected));
        let farewell = side.connection.farewell();
        assert_eq!(
            (farewell.publish_will, farewell.disconnect_reason),
            (true, Some(reason))
        );
    }
}

fn leave(asked_first: Option<u32>, secs: u32) -> (Side, Result<Action<'static>, Close>) {
    let settings = ConnectionSettings {
        session_expiry_secs_max: 1_000,
        ..Default::default()
    };
    let (mut side, _) = Side::with(ProtocolVersion::V5, settings, |connect| {
        connect.session_expiry_secs = asked_first
    });
    let mut disconnect = Disconnect::new(ReasonCode::SUCCESS);
    disconnect.session_expiry_secs = Some(secs);
    let result = side.send(Packet::Disconnect(disconnect));
    (side, result)
}

#[test]
fn mqtt_3_14_2_2_expiry_may_not_be_raised_from_zero() {
    for asked_first in [None, Some(0)] {
        let (mut side, result) = leave(asked_first, 1);
        assert_eq!(
            side.close(result.unwrap_err()),
            side.told(ReasonCode::PROTOCOL_ERROR)
        );
        let farewell = side.connection.farewell();
        assert_eq!((farewell.expiry_secs, farewell.publish_will), (None, true));
        let (side, result) = leave(asked_first, 0);
        assert_eq!(
            (result, side.connection.farewell().expiry_secs),
            (Ok(Action::Disconnected), Some(0))
        );
    }
}

#[test]
fn mqtt5_3_14_2_2_2_expiry_changes_within_what_is_granted() {
    for (secs, granted) in [(0, 0), (5, 5), (1_000, 1_000), (1_001, 1_000), (u32::MAX, 1_000)] {
        let (side, result) = leave(Some(60), secs);
        assert_eq!(result, Ok(Action::Disconnected));
        assert_eq!(side.connection.farewell().expiry_secs, Some(granted));
    }
}

#[test]
fn mqtt5_3_14_2_2_5_a_client_sends_no_server_reference() {
    let mut side = Side::connected(ProtocolVersion::V5);
    let mut disconnect = Disconnect::new(ReasonCode::SUCCESS);
    disconnect.server_reference = Some("elsewhere");
    let told = side.violate(Packet::Disconnect(disconnect));
    assert_eq!(told, side.told(ReasonCode::PROTOCOL_ERROR));
}

#[test]
fn mqtt_3_14_0_1_the_server_tells_why_at_5_after_connack() {
    for version in EVERY {
        for reason in [
            ReasonCode::SESSION_TAKEN_OVER,
            ReasonCode::SERVER_SHUTTING_DOWN,
            ReasonCode::ADMINISTRATIVE_ACTION,
            ReasonCode::SERVER_BUSY,
        ] {
            let mut side = Side::connected(version);
            assert_eq!(side.close(Close::new(reason, "told")), side.told(reason));
            assert!(side.connection.farewell().publish_will);
            assert!(
                side.send(Packet::Pingreq).is_ok() && side.receive().is_empty(),
                "nothing after the end"
            );
        }
    }
}

#[test]
fn mqtt5_4_13_use_another_server_names_it() {
    let close = Close::new(ReasonCode::USE_ANOTHER_SERVER, "draining").with_server_reference("node-2:1883");
    for version in EVERY {
        let mut side = Side::connected(version);
        side.connection.close(&close, &mut side.out);
        if version < ProtocolVersion::V5 {
            assert!(side.receive().is_empty());
            continue;
        }
        let Packet::Disconnect(disconnect) = side.receive_one() else {
            panic!("no DISCONNECT")
        };
        assert_eq!(
            (disconnect.reason, disconnect.server_reference),
            (close.reason, Some("node-2:1883"))
        );
        assert_eq!(disconnect.reason_string, Some("draining"));
    }
    for version in EVERY {
        let mut side = Side::new(version, ConnectionSettings::default());
        side.request_open(|_| {});
        side.connection
            .close(&close.clone().with_reason_string("go away"), &mut side.out);
        let Packet::Connack(connack) = side.receive_one() else {
            panic!("no CONNACK")
        };
        if version == ProtocolVersion::V5 {
            assert_eq!(
                (connack.reason, connack.server_reference),
                (close.reason, Some("node-2:1883"))
            );
            assert_eq!(connack.reason_string, Some("go away"));
        } else {
            assert_eq!(connack.reason, ReasonCode::SERVER_UNAVAILABLE, "return code 3");
        }
    }
}

/// Every reason can be told, before and after CONNACK, in a form that a client's decoder takes.
#[test]
fn mqtt5_2_4_only_reasons_a_packet_may_carry_are_sent() {
    for code in 0..=u8::MAX {
        let reason = ReasonCode(code);
        let told = Side::connected(ProtocolVersion::V5)
            .close(Close::new(reason, "why"))
            .1;
        assert!(told.is_some(), "{reason}");
        for version in EVERY {
            let mut side = Side::new(version, ConnectionSettings::default());
            side.request_open(|_| {});
            let told = side.close(Close::new(reason, "why")).1;
            assert!(told.is_none_or(|told| told.is_error()), "{reason} is no success");
            assert!(told.is_some() || version < ProtocolVersion::V5, "{reason}");
        }
    }
}

#[test]
fn what_waited_is_gone_with_the_connection() {
    let settings = ConnectionSettings {
        window_out_max: 1,
        ..Default::default()
    };
    for version in EVERY {
        let (mut side, _) = Side::with(version, settings.clone(), |_| {});
        let _ = side.deliver(&message("one"), QoS::AtLeastOnce);
        assert_eq!(
            side.deliver(&message("two"), QoS::AtLeastOnce),
            DeliverResult::Queued
        );
        side.send(disconnect(ReasonCode::SUCCESS)).unwrap();
        assert_eq!(
            (side.connection.in_flight(), side.connection.queued()),
            (0, (0, 0))
        );
        side.connection.check_invariants();
    }
}
