//! Packets that would be too large for the receiver lose their reason string, then their user properties.

use super::golden::key_value;
use super::*;

/// Shrinks a packet with reason string `r` (4 bytes) and user property `k` = `v` (7 bytes) to every size.
fn check<T: PartialEq + std::fmt::Debug + Clone>(
    full: T,
    shrink: impl Fn(T, u32) -> T,
    size: impl Fn(&T) -> usize,
    without_reason_string: T,
    bare: T,
) {
    let full_size = size(&full) as u32;
    let shorter_size = size(&without_reason_string) as u32;
    assert!(size(&bare) < shorter_size as usize && shorter_size < full_size);
    for max in full_size..full_size + 3 {
        assert_eq!(shrink(full.clone(), max), full, "fits {max}");
    }
    for max in shorter_size..full_size {
        assert_eq!(
            shrink(full.clone(), max),
            without_reason_string,
            "reason string goes at {max}"
        );
    }
    for max in 0..shorter_size {
        assert_eq!(shrink(full.clone(), max), bare, "user properties go at {max}");
    }
}

macro_rules! shrinks {
    ($test:ident, $bare:expr) => {
        #[test]
        fn $test() {
            let bare = $bare;
            let mut without_reason_string = bare.clone();
            without_reason_string.user_properties = key_value();
            let mut full = without_reason_string.clone();
            full.reason_string = Some("r");
            check(
                full,
                |packet, max| packet.shrink_to(V5, max),
                |packet| packet.encoded_len(V5),
                without_reason_string,
                bare,
            );
        }
    };
}

shrinks!(
    connack_mqtt_3_2_2_19_and_20,
    Connack::new(ReasonCode::NOT_AUTHORIZED)
);
shrinks!(
    ack_mqtt_3_4_2_2_and_3,
    Ack::new(id(1), ReasonCode::NOT_AUTHORIZED)
);
shrinks!(
    suback_mqtt_3_9_2_1_and_2,
    Suback::new(id(1), &[ReasonCode::NOT_AUTHORIZED])
);
shrinks!(
    unsuback_mqtt_3_11_2_1_and_2,
    Unsuback::new(id(1), &[ReasonCode::NOT_AUTHORIZED])
);
shrinks!(
    disconnect_mqtt_3_14_2_3_and_4,
    Disconnect::new(ReasonCode::NOT_AUTHORIZED)
);
shrinks!(
    auth_mqtt_3_15_2_2_and_3,
    Auth::new(ReasonCode::CONTINUE_AUTHENTICATION)
);

#[test]
fn before_5_there_is_nothing_to_drop() {
    let ack = Ack {
        reason_string: Some("r"),
        user_properties: key_value(),
        ..Ack::new(id(1), ReasonCode(0))
    };
    assert_eq!(ack.shrink_to(V3_1_1, 4), ack);
}
