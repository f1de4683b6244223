//! Keep alive.

use super::*;

#[test]
fn mqtt_3_1_2_21_server_keep_alive_is_told_and_holds() {
    let imposed = ConnectionSettings {
        server_keep_alive_secs: Some(20),
        ..Default::default()
    };
    let limited = ConnectionSettings {
        keep_alive_secs_max: Some(100),
        ..Default::default()
    };
    let cases = [
        (&imposed, 60, Some(20), 30_000),
        (&imposed, 20, None, 30_000),
        (&imposed, 0, Some(20), 30_000),
        (&limited, 60, None, 90_000),
        (&limited, 101, Some(100), 150_000),
        (&limited, 0, Some(100), 150_000),
    ];
    for (settings, asked, told, silence) in cases {
        let (side, connack) = Side::with(ProtocolVersion::V5, settings.clone(), |connect| {
            connect.keep_alive_secs = asked;
        });
        assert_eq!(connack.server_keep_alive_secs, told, "asked {asked}");
        assert_eq!(
            side.connection.deadline(),
            Some(side.now.plus_millis(silence)),
            "asked {asked}"
        );
        for version in V3 {
            let (side, _) = Side::with(version, settings.clone(), |connect| {
                connect.keep_alive_secs = asked
            });
            let own = (asked > 0).then(|| side.now.plus_millis(u64::from(asked) * 1_500));
            assert_eq!(
                side.connection.deadline(),
                own,
                "cannot be told, so its own holds"
            );
        }
    }
}

#[test]
fn mqtt_3_1_2_22_silence_for_one_and_a_half_times_the_keep_alive_is_the_end() {
    for version in EVERY {
        let (mut side, _) = Side::with(version, Default::default(), |connect| {
            connect.keep_alive_secs = 10
        });
        side.now = side.now.plus_millis(10_000);
        side.send(Packet::Pingreq).unwrap();
        assert_eq!(side.receive(), [Packet::Pingresp], "[MQTT-3.12.4-1]");
        assert_eq!(side.connection.deadline(), Some(side.now.plus_millis(15_000)));
        assert_eq!(
            side.connection.handle_timeout(side.now.plus_millis(14_999)),
            Ok(())
        );
        let close = side
            .connection
            .handle_timeout(side.now.plus_millis(15_000))
            .unwrap_err();
        assert_eq!(side.close(close), side.told(ReasonCode::KEEP_ALIVE_TIMEOUT));
        assert!(side.connection.farewell().publish_will, "[MQTT-3.1.2-8]");
        assert_eq!(side.connection.deadline(), None);
    }
}

#[test]
fn mqtt_3_1_2_22_silence_is_not_the_clients_while_frames_are_not_taken() {
    let settings = ConnectionSettings {
        requests_pending_max: 1,
        ..Default::default()
    };
    for version in EVERY {
        let (mut side, _) = Side::with(version, settings.clone(), |connect| connect.keep_alive_secs = 10);
        side.send(subscribe::subscribe(1, &["a"])).unwrap();
        assert!(!side.connection.ready_for_frames());
        side.now = side.now.plus_millis(60_000);
        assert_eq!(side.connection.handle_timeout(side.now), Ok(()));
        assert_eq!(
            side.connection.deadline(),
            Some(side.now.plus_millis(15_000)),
            "begins anew"
        );
        side.connection.record_activity(side.now.plus_millis(5));
        assert_eq!(side.connection.deadline(), Some(side.now.plus_millis(15_005)));
    }
}

#[test]
fn no_keep_alive_no_deadline() {
    for version in EVERY {
        let mut side = Side::connected(version);
        assert_eq!(side.connection.deadline(), None);
        assert_eq!(side.connection.handle_timeout(Instant(u64::MAX)), Ok(()));
    }
}
