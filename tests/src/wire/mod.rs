//! Packets as bytes, built and taken apart by the tests themselves.
//!
//! This is deliberately not `quorate_proto::codec`: a mistake made on both sides of that codec would cancel out here,
//! and a test client must be able to build packets that no codec agrees to write. The builders write whatever they are
//! told; the parser is strict, so that every packet the broker sends in any test is checked for reserved bits, shortest
//! lengths, properties that belong there, and left-over bytes.

mod connect;
mod incoming;
mod outgoing;
mod property;

pub use connect::{ConnectBuilder, Will, connect};
pub use incoming::{Ack, Auth, Connack, Disconnect, Packet, Publish, Suback, split};
pub use outgoing::{
    AckBuilder, AuthBuilder, DisconnectBuilder, Encode, Filter, PublishBuilder, SubscribeBuilder,
    UnsubscribeBuilder, auth, disconnect, filter, fixed, puback, pubcomp, publish, pubrec, pubrel, subscribe,
    unsubscribe,
};
pub use property::{Properties, Property};
pub use quorate_proto::codec::ProtocolVersion as Version;

/// Appends a two-byte length and the bytes.
pub(crate) fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("a field of at most 65,535 bytes");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Appends a variable byte integer in its shortest form.
pub(crate) fn put_variable(out: &mut Vec<u8>, mut value: usize) {
    assert!(value <= 268_435_455, "a variable byte integer holds 28 bits");
    loop {
        let byte = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            return out.push(byte);
        }
        out.push(byte | 0x80);
    }
}

/// Reads fields off the front of a packet's body; every error says what is wrong with the broker's packet.
pub(crate) struct Reader<'a> {
    pub(crate) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or("a field ends beyond the packet")?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn short(&mut self) -> Result<u16, String> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into().expect("two bytes")))
    }

    pub(crate) fn long(&mut self) -> Result<u32, String> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    pub(crate) fn variable(&mut self) -> Result<u32, String> {
        let mut value = 0;
        for index in 0..4 {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x7F) << (7 * index);
            if byte < 0x80 {
                return if byte == 0 && index > 0 {
                    Err("a length is padded [MQTT-1.5.5-1]".into())
                } else {
                    Ok(value)
                };
            }
        }
        Err("a length takes more than four bytes".into())
    }

    pub(crate) fn binary(&mut self) -> Result<Vec<u8>, String> {
        let length = self.short()?;
        Ok(self.take(length.into())?.to_vec())
    }

    pub(crate) fn text(&mut self) -> Result<String, String> {
        let text = String::from_utf8(self.binary()?).map_err(|_| "a string is not UTF-8 [MQTT-1.5.4-1]")?;
        if text.contains('\0') {
            Err("a string holds U+0000 [MQTT-1.5.4-2]".into())
        } else {
            Ok(text)
        }
    }

    pub(crate) fn packet_id(&mut self) -> Result<u16, String> {
        match self.short()? {
            0 => Err("packet identifier is 0 [MQTT-2.2.1-4]".into()),
            id => Ok(id),
        }
    }

    pub(crate) fn finish(&self) -> Result<(), String> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(format!("{} bytes left over", self.rest.len()))
        }
    }
}
