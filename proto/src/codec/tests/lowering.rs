//! What the packets of MQTT 5 become for the older versions, code by code.

use super::*;

/// Return codes of 3.1 and 3.1.1 and what is told by them.
const RETURN_CODES: [(u8, &[u8]); 5] = [
    (1, &[0x84]),
    (2, &[0x85]),
    (
        3,
        &[
            0x80, 0x81, 0x82, 0x83, 0x88, 0x89, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
        ],
    ),
    (4, &[0x86, 0x8C]),
    (5, &[0x87, 0x8A]),
];

#[test]
fn connack_return_codes() {
    for version in BEFORE_5 {
        for (return_code, reasons) in RETURN_CODES {
            for reason in reasons {
                let connack = Connack::new(ReasonCode(*reason));
                assert_eq!(
                    encode(&Packet::Connack(connack), version),
                    [0x20, 2, 0, return_code],
                    "{reason:#X}"
                );
            }
        }
    }
}

#[test]
fn connack_has_session_present_from_3_1_1_on() {
    let mut connack = Connack::new(ReasonCode::SUCCESS);
    connack.session_present = true;
    for (version, bytes) in [
        (V3_1, "20 02 00 00"),
        (V3_1_1, "20 02 01 00"),
        (V5, "20 03 01 00 00"),
    ] {
        assert_eq!(encode(&Packet::Connack(connack.clone()), version), hex(bytes));
    }
}

#[test]
fn connack_of_5_never_writes_the_default_maximum_qos() {
    let mut connack = Connack::new(ReasonCode::SUCCESS);
    connack.maximum_qos = Some(QoS::ExactlyOnce);
    assert_eq!(encode(&Packet::Connack(connack), V5), hex("20 03 00 00 00"));
}

#[test]
fn suback_failures_are_0x80() {
    let reasons: Vec<ReasonCode> = [0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2]
        .map(ReasonCode)
        .to_vec();
    for version in BEFORE_5 {
        assert_eq!(
            encode(&Packet::Suback(Suback::new(id(1), &reasons)), version),
            hex("90 0E 0001 00 01 02 80 80 80 80 80 80 80 80 80")
        );
    }
}

#[test]
fn reasons_before_5_are_left_out() {
    let ack = Ack::new(id(1), ReasonCode::NOT_AUTHORIZED);
    let unsuback = Unsuback::new(id(1), &[ReasonCode::NO_SUBSCRIPTION_EXISTED]);
    let disconnect = Disconnect {
        session_expiry_secs: Some(1),
        ..Disconnect::new(ReasonCode::SERVER_BUSY)
    };
    for version in BEFORE_5 {
        assert_eq!(encode(&Packet::Puback(ack), version), hex("40 02 0001"));
        assert_eq!(encode(&Packet::Unsuback(unsuback), version), hex("B0 02 0001"));
        assert_eq!(encode(&Packet::Disconnect(disconnect), version), hex("E0 00"));
    }
}

#[test]
fn a_password_without_user_name_is_left_out_before_5() {
    for version in BEFORE_5 {
        let bare = Connect::new(version, "id");
        let with_password = Connect {
            password: Some(b"p"),
            ..bare.clone()
        };
        assert_eq!(
            encode(&Packet::Connect(with_password), version),
            encode(&Packet::Connect(bare), version)
        );
    }
}
