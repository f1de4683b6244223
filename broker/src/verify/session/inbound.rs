//! Messages a client gets: acknowledges them, and knows those of QoS 2 that come again ("method B" of the standard:
//! the application gets a message with its first PUBLISH, the identifier is remembered until PUBREL) [MQTT-4.3.3-8 to
//! -12].

use std::collections::HashMap;

use quorate_proto::codec::{Ack, PacketId, PacketType, ProtocolVersion, Publish, QoS, ReasonCode};

/// The receiving half of a session.
#[derive(Debug)]
pub(crate) struct Inbound {
    version: ProtocolVersion,
    /// Identifiers of QoS 2 that have no PUBREL yet, each with the checksum of its message. There are no more of them
    /// than identifiers.
    unreleased: HashMap<PacketId, u32>,
}

/// What a PUBLISH is to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It gets this message.
    New,
    /// It has it already.
    Again,
    /// Another message under an identifier that has no PUBREL yet: the standard has the client take it for the first,
    /// so it is lost.
    Swallowed,
}

impl Inbound {
    pub(crate) fn new(version: ProtocolVersion) -> Self {
        Self {
            version,
            unreleased: HashMap::new(),
        }
    }

    /// A connection begins.
    pub(crate) fn handle_connected(&mut self, is_session_present: bool) {
        if !is_session_present {
            self.unreleased.clear();
        }
    }

    /// Takes a PUBLISH, and appends the answer.
    pub(crate) fn handle_publish(&mut self, publish: &Publish<'_>, output: &mut Vec<u8>) -> Taken {
        let Some(packet_id) = publish.packet_id else {
            return Taken::New;
        };
        if publish.qos != QoS::ExactlyOnce {
            self.answer(PacketType::Puback, packet_id, ReasonCode::SUCCESS, output);
            return Taken::New;
        }
        self.answer(PacketType::Pubrec, packet_id, ReasonCode::SUCCESS, output);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(publish.topic.as_bytes()), publish.payload);
        match self.unreleased.get(&packet_id) {
            Some(first) if *first == checksum => Taken::Again,
            Some(_) => Taken::Swallowed,
            None => {
                self.unreleased.insert(packet_id, checksum);
                Taken::New
            }
        }
    }

    /// Takes a PUBREL, and appends the answer. One that is not known is no error: the answer to an earlier one may have
    /// been lost with its connection.
    pub(crate) fn handle_pubrel(&mut self, packet_id: PacketId, output: &mut Vec<u8>) {
        let reason = match self.unreleased.remove(&packet_id) {
            Some(_) => ReasonCode::SUCCESS,
            None => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
        };
        self.answer(PacketType::Pubcomp, packet_id, reason, output);
    }

    fn answer(&self, packet_type: PacketType, packet_id: PacketId, reason: ReasonCode, output: &mut Vec<u8>) {
        Ack::new(packet_id, reason).encode(packet_type, self.version, output);
    }
}

#[cfg(test)]
mod tests {
    use quorate_proto::codec::{Frame, OutboundPublish, PACKET_SIZE_MAX, Packet};

    use super::*;

    const VERSION: ProtocolVersion = ProtocolVersion::V5;

    struct Client {
        inbound: Inbound,
        output: Vec<u8>,
    }

    impl Client {
        fn new() -> Self {
            Self {
                inbound: Inbound::new(VERSION),
                output: Vec::new(),
            }
        }

        fn publish(&mut self, qos: QoS, packet_id: u16, payload: &[u8]) -> Taken {
            let publish = OutboundPublish {
                topic: "t",
                payload,
                forwardable: &[],
                qos,
                dup: false,
                retain: false,
                packet_id: PacketId::new(packet_id),
                message_expiry_secs: None,
                topic_alias: None,
                subscription_ids: &[],
            };
            let mut bytes = Vec::new();
            publish.encode(VERSION, &mut bytes);
            let frame = Frame::parse(&bytes, PACKET_SIZE_MAX).unwrap().unwrap();
            let publish = Publish::decode(frame, VERSION).unwrap();
            self.inbound.handle_publish(&publish, &mut self.output)
        }

        fn pubrel(&mut self, packet_id: u16) {
            let packet_id = PacketId::new(packet_id).unwrap();
            self.inbound.handle_pubrel(packet_id, &mut self.output);
        }

        /// Type, identifier and reason of all answers since the last call.
        fn answers(&mut self) -> Vec<(PacketType, u16, u8)> {
            let bytes = std::mem::take(&mut self.output);
            let mut rest = &bytes[..];
            let mut answers = Vec::new();
            while let Some(frame) = Frame::parse(rest, PACKET_SIZE_MAX).unwrap() {
                rest = &rest[frame.size..];
                let packet = Packet::decode(frame, VERSION).unwrap();
                let packet_type = packet.packet_type();
                let (Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubcomp(ack)) = packet else {
                    panic!("{packet:?}");
                };
                answers.push((packet_type, ack.packet_id.get(), ack.reason.0));
            }
            answers
        }
    }

    #[test]
    fn at_qos_1_every_publish_is_a_message() {
        let mut client = Client::new();
        assert_eq!(client.publish(QoS::AtLeastOnce, 5, b"a"), Taken::New);
        assert_eq!(client.publish(QoS::AtLeastOnce, 5, b"a"), Taken::New);
        assert_eq!(client.answers(), [(PacketType::Puback, 5, 0); 2]);
    }

    #[test]
    fn at_qos_2_an_identifier_is_one_message_until_pubrel() {
        let mut client = Client::new();
        assert_eq!(client.publish(QoS::ExactlyOnce, 5, b"a"), Taken::New);
        client.inbound.handle_connected(true);
        assert_eq!(client.publish(QoS::ExactlyOnce, 5, b"a"), Taken::Again);
        assert_eq!(client.publish(QoS::ExactlyOnce, 5, b"b"), Taken::Swallowed);
        assert_eq!(client.answers(), [(PacketType::Pubrec, 5, 0); 3]);
        client.pubrel(5);
        client.pubrel(5);
        let expected = [(PacketType::Pubcomp, 5, 0), (PacketType::Pubcomp, 5, 0x92)];
        assert_eq!(client.answers(), expected);
        assert_eq!(client.publish(QoS::ExactlyOnce, 5, b"a"), Taken::New);
    }

    #[test]
    fn a_new_session_knows_no_identifier() {
        let mut client = Client::new();
        client.publish(QoS::ExactlyOnce, 5, b"a");
        client.inbound.handle_connected(false);
        assert_eq!(client.publish(QoS::ExactlyOnce, 5, b"a"), Taken::New);
    }
}
