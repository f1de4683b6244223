//! The will in a CONNECT.

use super::connect::refused;
use super::*;
use crate::codec::Will;
use crate::session::SessionWill;

#[test]
fn mqtt_3_1_3_2_the_will_is_kept_for_the_opening() {
    for version in EVERY {
        let mut side = Side::new(version, ConnectionSettings::default());
        let request = side.request_open(|connect| {
            let mut will = Will::new("state", b"gone", QoS::ExactlyOnce, true);
            if version == ProtocolVersion::V5 {
                will.delay_secs = 30;
                will.message_expiry_secs = Some(60);
                will.forwardable = [3, 0, 1, b't'].as_slice().into();
            }
            connect.will = Some(will);
        });
        let SessionWill { message, delay_secs } = request.will.unwrap();
        let is_5 = version == ProtocolVersion::V5;
        assert_eq!(
            (message.topic(), message.payload()),
            ("state", b"gone".as_slice())
        );
        assert_eq!((message.qos, message.retain), (QoS::ExactlyOnce, true));
        assert_eq!(
            (delay_secs, message.expiry_secs),
            if is_5 { (30, Some(60)) } else { (0, None) }
        );
        assert_eq!(
            message.forwardable(),
            if is_5 { [3, 0, 1, b't'].as_slice() } else { &[] }
        );
    }
}

#[test]
fn mqtt_3_2_2_12_and_13_wills_beyond_what_is_offered() {
    let settings = ConnectionSettings {
        maximum_qos: QoS::AtLeastOnce,
        retain_available: false,
        topic_levels_max: 3,
        validate_payload_format: true,
        ..Default::default()
    };
    let cases = [
        (
            Will::new("a", b"", QoS::ExactlyOnce, false),
            ReasonCode::QOS_NOT_SUPPORTED,
        ),
        (
            Will::new("a", b"", QoS::AtLeastOnce, true),
            ReasonCode::RETAIN_NOT_SUPPORTED,
        ),
        (
            Will::new("a/#", b"", QoS::AtLeastOnce, false),
            ReasonCode::TOPIC_NAME_INVALID,
        ),
        (
            Will::new("", b"", QoS::AtLeastOnce, false),
            ReasonCode::TOPIC_NAME_INVALID,
        ),
        (
            Will::new("a/b/c/d", b"", QoS::AtLeastOnce, false),
            ReasonCode::TOPIC_NAME_INVALID,
        ),
    ];
    for version in EVERY {
        for (will, reason) in &cases {
            let told = refused(version, &settings, |connect| connect.will = Some(will.clone()));
            assert_eq!(
                told,
                (*reason, (version == ProtocolVersion::V5).then_some(*reason)),
                "{will:?}"
            );
        }
    }
    let told = refused(ProtocolVersion::V5, &settings, |connect| {
        let mut will = Will::new("a", b"\xFF", QoS::AtLeastOnce, false);
        will.forwardable = [1, 1].as_slice().into();
        connect.will = Some(will);
    });
    assert_eq!(
        told,
        (
            ReasonCode::PAYLOAD_FORMAT_INVALID,
            Some(ReasonCode::PAYLOAD_FORMAT_INVALID)
        )
    );
}
