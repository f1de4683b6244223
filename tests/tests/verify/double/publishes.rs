//! Tricks on what publishers send.

use std::collections::HashSet;

use quorate_proto::codec::{Packet, PacketId, PacketType, QoS};

use super::{Link, Trick, is_of_kind};

/// Swallows some messages of a kind, and acknowledges them all the same.
pub(crate) struct Lose {
    kind: &'static str,
    /// One of so many is swallowed.
    one_of: u64,
    seen: u64,
    /// Exchanges of QoS 2 that the broker knows nothing of, by connection.
    pretended: HashSet<(u64, PacketId)>,
}

impl Lose {
    pub(crate) fn new(kind: &'static str, one_of: u64) -> Self {
        Self {
            kind,
            one_of,
            seen: 0,
            pretended: HashSet::new(),
        }
    }
}

impl Trick for Lose {
    fn take_from_client(&mut self, link: &mut Link, packet: &Packet<'_>, bytes: &[u8]) {
        match packet {
            Packet::Publish(publish) if is_of_kind(publish.topic, self.kind) => {
                self.seen += 1;
                match (publish.packet_id, publish.qos) {
                    (Some(packet_id), QoS::AtLeastOnce) if self.seen.is_multiple_of(self.one_of) => {
                        link.answer_client(PacketType::Puback, packet_id);
                    }
                    (Some(packet_id), QoS::ExactlyOnce) if self.seen.is_multiple_of(self.one_of) => {
                        self.pretended.insert((link.number, packet_id));
                        link.answer_client(PacketType::Pubrec, packet_id);
                    }
                    _ => link.to_broker.extend_from_slice(bytes),
                }
            }
            Packet::Pubrel(ack) if self.pretended.remove(&(link.number, ack.packet_id)) => {
                link.answer_client(PacketType::Pubcomp, ack.packet_id);
            }
            _ => link.to_broker.extend_from_slice(bytes),
        }
    }
}

/// Keeps acknowledgements from publishers, or messages from subscribers.
pub(crate) enum Deny {
    Acknowledgements,
    Messages,
}

impl Trick for Deny {
    fn take_from_broker(&mut self, link: &mut Link, packet: &Packet<'_>, bytes: &[u8]) {
        let is_denied = match self {
            Self::Acknowledgements => matches!(packet, Packet::Puback(_) | Packet::Pubrec(_)),
            Self::Messages => matches!(packet, Packet::Publish(_)),
        };
        if !is_denied {
            link.to_client.extend_from_slice(bytes);
        }
    }
}
