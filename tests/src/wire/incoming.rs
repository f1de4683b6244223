//! What the broker sends, taken apart strictly.

use super::{Properties, Reader, Version};

/// The packets a server may send, by type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Connack = 2,
    Publish = 3,
    Puback = 4,
    Pubrec = 5,
    Pubrel = 6,
    Pubcomp = 7,
    Suback = 9,
    Unsuback = 11,
    Pingresp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl Kind {
    fn from_first_byte(byte: u8) -> Result<Self, String> {
        use Kind::*;
        let kinds = [
            Connack, Publish, Puback, Pubrec, Pubrel, Pubcomp, Suback, Unsuback, Pingresp, Disconnect, Auth,
        ];
        let kind = kinds.into_iter().find(|kind| *kind as u8 == byte >> 4);
        let kind = kind.ok_or(format!("a server never sends packet type {}", byte >> 4))?;
        let flags = if kind == Pubrel { 0b0010 } else { 0 };
        if kind != Publish && byte & 0x0F != flags {
            return Err(format!(
                "{kind:?} has reserved flags {:04b} [MQTT-2.1.3-1]",
                byte & 0x0F
            ));
        }
        Ok(kind)
    }
}

/// A packet from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Packet {
    Connack(Connack),
    Publish(Publish),
    Puback(Ack),
    Pubrec(Ack),
    Pubrel(Ack),
    Pubcomp(Ack),
    Suback(Suback),
    Unsuback(Suback),
    Pingresp,
    Disconnect(Disconnect),
    Auth(Auth),
}

/// CONNACK.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Connack {
    pub session_present: bool,
    pub code: u8,
    pub properties: Properties,
    /// Bytes of the whole packet.
    pub size: usize,
}

/// PUBLISH to a subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Publish {
    pub dup: bool,
    pub qos: u8,
    pub retain: bool,
    pub topic: String,
    pub id: Option<u16>,
    pub properties: Properties,
    pub payload: Vec<u8>,
    /// Bytes of the whole packet.
    pub size: usize,
}

impl Publish {
    /// The payload as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("this payload is text")
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Ack {
    pub id: u16,
    pub code: u8,
    pub properties: Properties,
    /// Bytes of the whole packet.
    pub size: usize,
}

/// SUBACK or UNSUBACK; an UNSUBACK of 3.x has no codes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Suback {
    pub id: u16,
    pub codes: Vec<u8>,
    pub properties: Properties,
    /// Bytes of the whole packet.
    pub size: usize,
}

/// DISCONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Disconnect {
    pub code: u8,
    pub properties: Properties,
    /// Bytes of the whole packet.
    pub size: usize,
}

/// AUTH.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Auth {
    pub code: u8,
    pub properties: Properties,
    /// Bytes of the whole packet.
    pub size: usize,
}

/// Cuts the first packet off `bytes` and takes it apart; `None` while it is incomplete. The number is its size.
///
/// # Errors
///
/// What is wrong with the packet.
pub fn split(bytes: &[u8], version: Version) -> Result<Option<(Packet, usize)>, String> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let kind = Kind::from_first_byte(first)?;
    let length_ends = rest.iter().take(4).position(|byte| *byte < 0x80);
    let Some(length_bytes) = length_ends.map(|last| last + 1) else {
        return if rest.len() < 4 {
            Ok(None)
        } else {
            Err("remaining length takes more than four bytes".into())
        };
    };
    let length = Reader { rest }.variable()? as usize;
    let size = 1 + length_bytes + length;
    let Some(body) = bytes.get(1 + length_bytes..size) else {
        return Ok(None);
    };
    let mut body = Body {
        reader: Reader { rest: body },
        kind,
        version,
        size,
    };
    let packet = body
        .packet(first & 0x0F)
        .map_err(|what| format!("{kind:?}: {what}"))?;
    body.reader
        .finish()
        .map_err(|what| format!("{packet:?}: {what}"))?;
    Ok(Some((packet, size)))
}

struct Body<'a> {
    reader: Reader<'a>,
    kind: Kind,
    version: Version,
    size: usize,
}

impl Body<'_> {
    fn packet(&mut self, flags: u8) -> Result<Packet, String> {
        Ok(match self.kind {
            Kind::Connack => Packet::Connack(self.connack()?),
            Kind::Publish => Packet::Publish(self.publish(flags)?),
            Kind::Puback => Packet::Puback(self.ack()?),
            Kind::Pubrec => Packet::Pubrec(self.ack()?),
            Kind::Pubrel => Packet::Pubrel(self.ack()?),
            Kind::Pubcomp => Packet::Pubcomp(self.ack()?),
            Kind::Suback => Packet::Suback(self.suback()?),
            Kind::Unsuback => Packet::Unsuback(self.suback()?),
            Kind::Pingresp => Packet::Pingresp,
            Kind::Disconnect => Packet::Disconnect(self.disconnect()?),
            Kind::Auth => Packet::Auth(self.auth()?),
        })
    }

    /// The properties; at 3.x there are none.
    fn properties(&mut self) -> Result<Properties, String> {
        if self.version == Version::V5 {
            Properties::read(&mut self.reader, self.kind)
        } else {
            Ok(Properties::default())
        }
    }

    /// A code and properties, either of which may be left out at the end of a packet of MQTT 5.
    fn code_and_properties(&mut self) -> Result<(u8, Properties), String> {
        if self.reader.rest.is_empty() {
            return Ok((0, Properties::default()));
        }
        let code = self.code()?;
        let properties = if self.reader.rest.is_empty() {
            Properties::default()
        } else {
            self.properties()?
        };
        Ok((code, properties))
    }

    /// A reason code that this packet may carry when a server sends it.
    fn code(&mut self) -> Result<u8, String> {
        let code = self.reader.byte()?;
        let allowed: &[u8] = match (self.version, self.kind) {
            (Version::V5, Kind::Connack) => &[
                0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95,
                0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
            ],
            (_, Kind::Connack) => &[0, 1, 2, 3, 4, 5],
            (_, Kind::Puback | Kind::Pubrec) => &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
            (_, Kind::Pubrel | Kind::Pubcomp) => &[0x00, 0x92],
            (Version::V5, Kind::Suback) => &[
                0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2,
            ],
            (Version::V3_1_1, Kind::Suback) => &[0x00, 0x01, 0x02, 0x80],
            (_, Kind::Suback) => &[0x00, 0x01, 0x02, 0x80],
            (_, Kind::Unsuback) => &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91],
            (_, Kind::Disconnect) => &[
                0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94,
                0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
            ],
            (_, Kind::Auth) => &[0x00, 0x18],
            (_, Kind::Publish | Kind::Pingresp) => unreachable!("has no code"),
        };
        if allowed.contains(&code) {
            Ok(code)
        } else {
            Err(format!("must not carry code 0x{code:02X}"))
        }
    }

    fn connack(&mut self) -> Result<Connack, String> {
        let flags = self.reader.byte()?;
        if flags > 1 || self.version == Version::V3_1 && flags != 0 {
            return Err(format!("acknowledge flags are {flags:08b} [MQTT-3.2.2-1]"));
        }
        let code = self.code()?;
        if code != 0 && flags != 0 {
            return Err("session present on a refusal [MQTT-3.2.2-6]".into());
        }
        Ok(Connack {
            session_present: flags == 1,
            code,
            properties: self.properties()?,
            size: self.size,
        })
    }

    fn publish(&mut self, flags: u8) -> Result<Publish, String> {
        let qos = flags >> 1 & 0b11;
        let dup = flags & 0b1000 != 0;
        if qos == 3 || qos == 0 && dup {
            return Err(format!("flags are {flags:04b} [MQTT-3.3.1-2, MQTT-3.3.1-4]"));
        }
        let topic = self.reader.text()?;
        let id = if qos > 0 {
            Some(self.reader.packet_id()?)
        } else {
            None
        };
        let properties = self.properties()?;
        if properties.topic_alias() == Some(0) {
            return Err("topic alias is 0 [MQTT-3.3.2-8]".into());
        }
        if topic.is_empty() && properties.topic_alias().is_none() || topic.contains(['+', '#']) {
            return Err(format!("topic name is {topic:?} [MQTT-3.3.2-2, MQTT-4.7.3-1]"));
        }
        let payload = self.reader.take(self.reader.rest.len())?.to_vec();
        Ok(Publish {
            dup,
            qos,
            retain: flags & 1 != 0,
            topic,
            id,
            properties,
            payload,
            size: self.size,
        })
    }

    fn ack(&mut self) -> Result<Ack, String> {
        let id = self.reader.packet_id()?;
        let (code, properties) = self.only_at_5()?;
        Ok(Ack {
            id,
            code,
            properties,
            size: self.size,
        })
    }

    /// [`Self::code_and_properties`], of which a packet at 3.x has nothing; what follows there is left over.
    fn only_at_5(&mut self) -> Result<(u8, Properties), String> {
        if self.version == Version::V5 {
            self.code_and_properties()
        } else {
            Ok((0, Properties::default()))
        }
    }

    fn suback(&mut self) -> Result<Suback, String> {
        let id = self.reader.packet_id()?;
        let properties = self.properties()?;
        let mut codes = Vec::new();
        while !self.reader.rest.is_empty() && (self.version == Version::V5 || self.kind == Kind::Suback) {
            codes.push(self.code()?);
        }
        Ok(Suback {
            id,
            codes,
            properties,
            size: self.size,
        })
    }

    fn disconnect(&mut self) -> Result<Disconnect, String> {
        if self.version != Version::V5 {
            return Err("a server of 3.x never sends it".into());
        }
        let (code, properties) = self.code_and_properties()?;
        Ok(Disconnect {
            code,
            properties,
            size: self.size,
        })
    }

    fn auth(&mut self) -> Result<Auth, String> {
        if self.version != Version::V5 {
            return Err("3.x has no such packet".into());
        }
        let (code, properties) = self.code_and_properties()?;
        Ok(Auth {
            code,
            properties,
            size: self.size,
        })
    }
}
