//! PINGREQ and PINGRESP: two bytes each, the same in every version [MQTT5 3.12, 3.13].

/// A whole PINGREQ.
pub const PINGREQ: [u8; 2] = [0xC0, 0x00];

/// A whole PINGRESP.
pub const PINGRESP: [u8; 2] = [0xD0, 0x00];

/// Appends a PINGREQ.
pub fn encode_pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&PINGREQ);
}

/// Appends a PINGRESP [MQTT-3.12.4-1].
pub fn encode_pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&PINGRESP);
}
