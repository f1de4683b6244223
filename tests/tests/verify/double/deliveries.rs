//! Tricks on what subscribers get.

use std::collections::{HashMap, HashSet};

use quorate_proto::codec::{Packet, PacketId, PacketType, Publish, QoS};

use super::{Link, Trick, is_of_kind};

/// Delivers some messages a second time, as another message: under a packet identifier of its own.
pub(crate) struct Double {
    kind: &'static str,
    qos: QoS,
    one_of: u64,
    seen: u64,
    /// Exchanges that the broker knows nothing of, by connection.
    forged: HashSet<(u64, PacketId)>,
}

impl Double {
    pub(crate) fn new(kind: &'static str, qos: QoS, one_of: u64) -> Self {
        Self {
            kind,
            qos,
            one_of,
            seen: 0,
            forged: HashSet::new(),
        }
    }

    /// Identifiers from the upper end, which the broker does not get to in a short run.
    fn forged_id(&self) -> PacketId {
        let id = u16::MAX - u16::try_from(self.forged.len()).expect("few are forged");
        PacketId::new(id).expect("few are forged")
    }
}

impl Trick for Double {
    fn take_from_broker(&mut self, link: &mut Link, packet: &Packet<'_>, bytes: &[u8]) {
        link.to_client.extend_from_slice(bytes);
        if let Packet::Publish(publish) = packet
            && is_of_kind(publish.topic, self.kind)
            && publish.qos == self.qos
        {
            self.seen += 1;
            if self.seen.is_multiple_of(self.one_of) {
                let packet_id = self.forged_id();
                self.forged.insert((link.number, packet_id));
                link.forge(publish, packet_id);
            }
        }
    }

    fn take_from_client(&mut self, link: &mut Link, packet: &Packet<'_>, bytes: &[u8]) {
        let is_forged = |packet_id: PacketId| self.forged.contains(&(link.number, packet_id));
        match packet {
            Packet::Pubrec(ack) if is_forged(ack.packet_id) => {
                link.answer_client(PacketType::Pubrel, ack.packet_id)
            }
            Packet::Puback(ack) | Packet::Pubcomp(ack) if is_forged(ack.packet_id) => {}
            _ => link.to_broker.extend_from_slice(bytes),
        }
    }
}

/// Swaps some messages of the main stream with the next one of the same topic and connection.
#[derive(Default)]
pub(crate) struct Swap {
    seen: u64,
    /// The message held back, by connection and topic.
    held: HashMap<(u64, String), Vec<u8>>,
}

impl Trick for Swap {
    fn take_from_broker(&mut self, link: &mut Link, packet: &Packet<'_>, bytes: &[u8]) {
        let Packet::Publish(publish) = packet else {
            return link.to_client.extend_from_slice(bytes);
        };
        if !is_of_kind(publish.topic, "stream") {
            return link.to_client.extend_from_slice(bytes);
        }
        self.seen += 1;
        let place = (link.number, publish.topic.to_owned());
        match self.held.remove(&place) {
            Some(held) => link.to_client.extend([bytes, &held].concat()),
            None if self.seen.is_multiple_of(50) => drop(self.held.insert(place, bytes.to_vec())),
            None => link.to_client.extend_from_slice(bytes),
        }
    }
}

/// Serves the first value of each retained topic instead of the retained one.
#[derive(Default)]
pub(crate) struct OldValue(HashMap<String, Vec<u8>>);

impl Trick for OldValue {
    fn take_from_client(&mut self, link: &mut Link, packet: &Packet<'_>, bytes: &[u8]) {
        if let Packet::Publish(publish) = packet
            && publish.retain
        {
            let first = self.0.entry(publish.topic.to_owned());
            first.or_insert_with(|| publish.payload.to_vec());
        }
        link.to_broker.extend_from_slice(bytes);
    }

    fn take_from_broker(&mut self, link: &mut Link, packet: &Packet<'_>, bytes: &[u8]) {
        match packet {
            Packet::Publish(publish) if publish.retain => {
                let old = Publish {
                    payload: &self.0[publish.topic],
                    ..publish.clone()
                };
                old.encode(link.version, &mut link.to_client);
            }
            _ => link.to_client.extend_from_slice(bytes),
        }
    }
}

/// Keeps messages from subscribers and acknowledges them itself.
pub(crate) enum Hide {
    /// What is sent as retained.
    Retained,
    /// Wills.
    Wills,
}

impl Hide {
    fn is_hidden(&self, publish: &Publish<'_>) -> bool {
        match self {
            Self::Retained => publish.retain,
            Self::Wills => is_of_kind(publish.topic, "will"),
        }
    }
}

impl Trick for Hide {
    fn take_from_broker(&mut self, link: &mut Link, packet: &Packet<'_>, bytes: &[u8]) {
        match packet {
            Packet::Publish(publish) if self.is_hidden(publish) => match (publish.qos, publish.packet_id) {
                (QoS::AtLeastOnce, Some(packet_id)) => link.answer_broker(PacketType::Puback, packet_id),
                (QoS::ExactlyOnce, Some(packet_id)) => link.answer_broker(PacketType::Pubrec, packet_id),
                _ => {}
            },
            // The subscriber of wills gets nothing else that would have a PUBREL.
            Packet::Pubrel(ack) if matches!(self, Self::Wills) && link.is_of("d") => {
                link.answer_broker(PacketType::Pubcomp, ack.packet_id);
            }
            _ => link.to_client.extend_from_slice(bytes),
        }
    }
}

/// Changes a byte of some messages.
#[derive(Default)]
pub(crate) struct Corrupt(u64);

impl Trick for Corrupt {
    fn take_from_broker(&mut self, link: &mut Link, packet: &Packet<'_>, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        if let Packet::Publish(publish) = packet
            && is_of_kind(publish.topic, "stream")
        {
            self.0 += 1;
            if self.0.is_multiple_of(50)
                && let Some(last) = bytes.last_mut()
            {
                *last ^= 1;
            }
        }
        link.to_client.extend(bytes);
    }
}
