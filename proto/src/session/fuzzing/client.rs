//! The client's view: what it sent, what it was told, and so what it may be sent next. It panics where the server
//! breaks a promise.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::codec::{Ack, Frame, Packet, PacketId, PacketType, ProtocolVersion, Publish, QoS, ReasonCode};
use crate::session::Instant;

/// How far one of the client's QoS 2 publishes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    AwaitingPubrec,
    Received,
    Released,
}

/// How far one of the server's publishes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Got {
    AtLeastOnce,
    ExactlyOnce,
    /// PUBREC went out.
    Received,
    /// PUBREL came in.
    Released,
}

/// A message on its way to the client, by the number in its payload.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) topic: String,
    pub(super) qos: QoS,
    pub(super) expires_at: Option<Instant>,
    /// Without replication, so in order.
    pub(super) local: bool,
    pub(super) dup: bool,
}

/// The client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) version: ProtocolVersion,
    pub(super) maximum_packet_size: u32,
    pub(super) alias_maximum: u16,
    pub(super) window: usize,
    pub(super) connected: bool,
    /// CONNACK refused or DISCONNECT came: nothing may follow.
    pub(super) over: bool,
    pubacks: VecDeque<PacketId>,
    pubrecs: VecDeque<PacketId>,
    repeated_pubrecs: BTreeMap<PacketId, u32>,
    sent: BTreeMap<PacketId, Sent>,
    /// Those of an earlier connection that were not sent on this one as retained messages: the host looks then.
    restored: BTreeSet<PacketId>,
    pubcomps: BTreeMap<PacketId, u32>,
    got: BTreeMap<PacketId, Got>,
    aliases: BTreeMap<u16, String>,
    pub(super) expected: BTreeMap<u32, Expected>,
    /// Numbers of the last local deliveries, at QoS 0 and above it.
    last: [Option<u32>; 2],
    pub(super) publishes_seen: u64,
    /// A PUBREC for what was not in flight, answered with PUBREL.
    stray_pubrecs: BTreeMap<PacketId, u32>,
    /// Identifiers that were in flight later: a stray PUBREC of one may stay without an answer.
    used_later: BTreeSet<PacketId>,
    /// A PUBREL is due for what an earlier connection sent.
    pub(super) release_due: Option<PacketId>,
    requests: u32,
    pings: u32,
    /// Aliases it has set, and what they stand for.
    set_aliases: BTreeMap<u16, String>,
}

impl Client {
    pub(super) fn new(version: ProtocolVersion) -> Self {
        Self {
            version,
            maximum_packet_size: u32::MAX,
            alias_maximum: 0,
            window: 0,
            connected: false,
            over: false,
            pubacks: VecDeque::new(),
            pubrecs: VecDeque::new(),
            repeated_pubrecs: BTreeMap::new(),
            sent: BTreeMap::new(),
            restored: BTreeSet::new(),
            pubcomps: BTreeMap::new(),
            got: BTreeMap::new(),
            aliases: BTreeMap::new(),
            expected: BTreeMap::new(),
            last: [None; 2],
            publishes_seen: 0,
            stray_pubrecs: BTreeMap::new(),
            used_later: BTreeSet::new(),
            release_due: None,
            requests: 0,
            pings: 0,
            set_aliases: BTreeMap::new(),
        }
    }

    /// What is left from the previous connection.
    pub(super) fn restore(&mut self, packet_id: PacketId) {
        self.sent.insert(packet_id, Sent::Received);
        self.restored.insert(packet_id);
    }

    /// Unfinished publishes of the server.
    pub(super) fn in_flight(&self) -> usize {
        self.got.len()
    }

    /// What fits an unfinished publish of the server, or one of its own.
    pub(super) fn fitting_ack(&self, choice: u8) -> Option<(PacketType, PacketId)> {
        let answers = self.got.iter().filter_map(|(packet_id, stage)| {
            let packet_type = match stage {
                Got::AtLeastOnce => PacketType::Puback,
                Got::ExactlyOnce => PacketType::Pubrec,
                Got::Received => return None,
                Got::Released => PacketType::Pubcomp,
            };
            Some((packet_type, *packet_id))
        });
        let received = self.sent.iter().filter(|(_, stage)| **stage == Sent::Received);
        let releases = received.map(|(packet_id, _)| (PacketType::Pubrel, *packet_id));
        let fitting: Vec<_> = answers.chain(releases).collect();
        fitting.get(usize::from(choice) % fitting.len().max(1)).copied()
    }

    /// Whether the client may send a QoS 1 or 2 publish with this identifier.
    pub(super) fn may_publish(&self, packet_id: PacketId, receive_maximum: u16) -> bool {
        let unfinished = self.pubacks.len() + self.sent.len();
        !self.sent.contains_key(&packet_id) && unfinished < usize::from(receive_maximum)
    }

    /// One of its QoS 2 publishes that got a PUBREC, to be sent once more.
    pub(super) fn received(&self, choice: u8) -> Option<PacketId> {
        let received = self.sent.iter().filter(|(_, stage)| **stage == Sent::Received);
        let received: Vec<PacketId> = received.map(|(packet_id, _)| *packet_id).collect();
        received.get(usize::from(choice) % received.len().max(1)).copied()
    }

    /// The topic that a publish of it means.
    pub(super) fn topic_of<'a>(&'a self, publish: &Publish<'a>) -> Option<&'a str> {
        match publish.topic_alias {
            Some(alias) if publish.topic.is_empty() => self.set_aliases.get(&alias).map(String::as_str),
            _ => Some(publish.topic),
        }
    }

    /// Whether a publish of it, without fault or not, is one that it has sent and not completed [MQTT-4.3.3-10], so that it
    /// is not handed on.
    pub(super) fn is_repeated(&self, publish: &Publish<'_>, is_valid: bool) -> bool {
        let is_known = |id| {
            let is_asked = publish.retain && is_valid && self.restored.contains(&id);
            self.sent.contains_key(&id) && !is_asked
        };
        publish.qos == QoS::ExactlyOnce && publish.packet_id.is_some_and(is_known)
    }

    /// Whether it has set an alias.
    pub(super) fn has_set(&self, alias: u16) -> bool {
        self.set_aliases.contains_key(&alias)
    }

    /// A packet the server took without complaint, and handed on or not.
    pub(super) fn sent(&mut self, packet: &Packet<'_>, handed_on: bool) {
        if let Packet::Publish(Publish {
            topic_alias: Some(alias),
            topic,
            ..
        }) = packet
            && !topic.is_empty()
        {
            self.set_aliases.insert(*alias, (*topic).to_owned());
        }
        match packet {
            Packet::Publish(Publish {
                qos: QoS::AtLeastOnce,
                packet_id: Some(packet_id),
                ..
            }) => {
                self.pubacks.push_back(*packet_id);
            }
            Packet::Publish(Publish {
                qos: QoS::ExactlyOnce,
                packet_id: Some(packet_id),
                ..
            }) => {
                if handed_on && self.restored.remove(packet_id) {
                    self.sent.remove(packet_id);
                }
                self.sent_exactly_once(*packet_id);
            }
            Packet::Pubrel(pubrel) => self.sent_pubrel(pubrel.packet_id),
            Packet::Puback(puback) => {
                self.got.remove(&puback.packet_id);
            }
            Packet::Pubcomp(pubcomp) => {
                self.got.remove(&pubcomp.packet_id);
            }
            Packet::Pubrec(pubrec) => self.sent_pubrec(pubrec),
            Packet::Subscribe(_) | Packet::Unsubscribe(_) => self.requests += 1,
            Packet::Pingreq => self.pings += 1,
            _ => {}
        }
    }

    fn sent_exactly_once(&mut self, packet_id: PacketId) {
        match self.sent.get(&packet_id) {
            None => {
                self.sent.insert(packet_id, Sent::AwaitingPubrec);
                self.pubrecs.push_back(packet_id);
            }
            Some(Sent::AwaitingPubrec) => {}
            Some(Sent::Received) => *self.repeated_pubrecs.entry(packet_id).or_default() += 1,
            Some(Sent::Released) => panic!("{packet_id} was taken again before its PUBCOMP"),
        }
    }

    fn sent_pubrel(&mut self, packet_id: PacketId) {
        self.restored.remove(&packet_id);
        match self.sent.get(&packet_id) {
            Some(Sent::AwaitingPubrec) => panic!("PUBREL of {packet_id} was taken before its PUBREC"),
            Some(Sent::Released) => {}
            Some(Sent::Received) => {
                self.sent.insert(packet_id, Sent::Released);
                *self.pubcomps.entry(packet_id).or_default() += 1;
            }
            None => *self.pubcomps.entry(packet_id).or_default() += 1,
        }
    }

    fn sent_pubrec(&mut self, pubrec: &Ack<'_>) {
        match self.got.get(&pubrec.packet_id) {
            Some(Got::AtLeastOnce) => panic!("PUBREC was taken for a QoS 1 publish"),
            Some(Got::ExactlyOnce) if pubrec.reason.is_error() => {
                self.got.remove(&pubrec.packet_id);
            }
            Some(Got::ExactlyOnce) => {
                self.got.insert(pubrec.packet_id, Got::Received);
            }
            Some(Got::Received | Got::Released) => {}
            None if pubrec.reason.is_error() => {}
            None => *self.stray_pubrecs.entry(pubrec.packet_id).or_default() += 1,
        }
    }

    /// Reads all that the server wrote; whether there was a PUBLISH.
    pub(super) fn read(&mut self, mut bytes: &[u8], now: Instant) {
        while !bytes.is_empty() {
            let frame = Frame::parse(bytes, u32::MAX)
                .expect("well-formed frame")
                .expect("whole frame");
            assert!(!self.over, "bytes after the end");
            let packet = Packet::decode(frame, self.version).expect("packet of the client's version");
            assert!(
                frame.size <= self.maximum_packet_size as usize,
                "larger than the client takes: {packet:?}"
            );
            self.receive(&packet, now);
            bytes = &bytes[frame.size..];
        }
    }

    fn receive(&mut self, packet: &Packet<'_>, now: Instant) {
        let before_connack = matches!(packet, Packet::Connack(_) | Packet::Auth(_));
        assert!(self.connected || before_connack, "before CONNACK: {packet:?}");
        match packet {
            Packet::Connack(connack) => {
                assert!(!self.connected, "second CONNACK");
                self.connected = connack.reason == ReasonCode::SUCCESS;
                self.over = !self.connected;
            }
            Packet::Disconnect(_) => self.over = true,
            Packet::Publish(publish) => self.receive_publish(publish, now),
            Packet::Puback(puback) => assert_eq!(
                self.pubacks.pop_front(),
                Some(puback.packet_id),
                "PUBACK out of order"
            ),
            Packet::Pubrec(pubrec) => self.receive_pubrec(pubrec),
            Packet::Pubrel(pubrel) => self.receive_pubrel(pubrel),
            Packet::Pubcomp(pubcomp) => self.receive_pubcomp(pubcomp.packet_id),
            Packet::Suback(_) | Packet::Unsuback(_) => {
                self.requests = self.requests.checked_sub(1).expect("an answer to no request");
            }
            Packet::Pingresp => self.pings = self.pings.checked_sub(1).expect("an answer to no PINGREQ"),
            Packet::Auth(_) => assert_eq!(self.version, ProtocolVersion::V5),
            other => panic!("a server never sends {:?}", other.packet_type()),
        }
    }

    fn receive_publish(&mut self, publish: &Publish<'_>, now: Instant) {
        self.publishes_seen += 1;
        if let Some(alias) = publish.topic_alias {
            assert!(alias <= self.alias_maximum, "alias above the client's maximum");
            if !publish.topic.is_empty() {
                self.aliases.insert(alias, publish.topic.to_owned());
            }
        }
        let topic = match publish.topic_alias {
            Some(alias) if publish.topic.is_empty() => {
                self.aliases.get(&alias).expect("alias that was set").as_str()
            }
            _ => publish.topic,
        };
        let number = *publish.payload.first_chunk::<4>().expect("numbered payload");
        let number = u32::from_be_bytes(number);
        let expected = self.expected.get(&number).expect("a message that was delivered");
        assert_eq!(topic, expected.topic, "topic of message {number}");
        assert_eq!(publish.qos, expected.qos);
        assert_eq!(publish.dup, expected.dup);
        if let Some(expires_at) = expected.expires_at.filter(|_| !publish.dup) {
            assert!(expires_at > now, "message {number} has expired");
            let left = expires_at.millis_since(now).div_ceil(1000);
            let told = publish.message_expiry_secs.map(u64::from);
            assert!(
                self.version < ProtocolVersion::V5 || told == Some(left),
                "{told:?} is not {left}"
            );
        }
        if expected.local {
            let last = &mut self.last[usize::from(publish.qos != QoS::AtMostOnce)];
            assert!(
                last.is_none_or(|last| last < number),
                "message {number} after {last:?}"
            );
            *last = Some(number);
        }
        let Some(packet_id) = publish.packet_id else {
            return;
        };
        let stage = if publish.qos == QoS::ExactlyOnce {
            Got::ExactlyOnce
        } else {
            Got::AtLeastOnce
        };
        self.used_later.insert(packet_id);
        assert!(
            self.got.insert(packet_id, stage).is_none(),
            "{packet_id} is in use"
        );
        assert!(
            self.got.len() <= self.window,
            "{} in flight, window {}",
            self.got.len(),
            self.window
        );
    }

    fn receive_pubrec(&mut self, pubrec: &Ack<'_>) {
        let packet_id = pubrec.packet_id;
        match self.sent.get(&packet_id) {
            Some(Sent::AwaitingPubrec) => {
                assert_eq!(self.pubrecs.pop_front(), Some(packet_id), "PUBREC out of order");
                if pubrec.reason.is_error() {
                    self.sent.remove(&packet_id);
                } else {
                    self.sent.insert(packet_id, Sent::Received);
                }
            }
            Some(Sent::Received) => {
                let repeated = self
                    .repeated_pubrecs
                    .get_mut(&packet_id)
                    .expect("a PUBREC too many");
                *repeated = repeated.checked_sub(1).expect("a PUBREC too many");
            }
            other => panic!("PUBREC for {packet_id}, which is {other:?}"),
        }
    }

    fn receive_pubrel(&mut self, pubrel: &Ack<'_>) {
        let packet_id = pubrel.packet_id;
        if self.release_due == Some(packet_id) {
            self.release_due = None;
            self.used_later.insert(packet_id);
            assert!(
                self.got.insert(packet_id, Got::Released).is_none(),
                "{packet_id} is in use"
            );
            return;
        }
        match self.got.get_mut(&packet_id) {
            Some(stage @ (Got::Received | Got::Released)) => *stage = Got::Released,
            Some(stage) => panic!("PUBREL for {packet_id}, which is {stage:?}"),
            None => {
                let strays = self
                    .stray_pubrecs
                    .get_mut(&packet_id)
                    .expect("a PUBREL for nothing");
                *strays = strays.checked_sub(1).expect("a PUBREL for nothing");
                let expected = ReasonCode::PACKET_IDENTIFIER_NOT_FOUND;
                assert!(self.version < ProtocolVersion::V5 || pubrel.reason == expected);
            }
        }
    }

    fn receive_pubcomp(&mut self, packet_id: PacketId) {
        let due = self.pubcomps.get_mut(&packet_id).expect("a PUBCOMP for nothing");
        *due = due.checked_sub(1).expect("a PUBCOMP too many");
        if self.sent.get(&packet_id) == Some(&Sent::Released) {
            self.sent.remove(&packet_id);
        }
    }

    /// All that was asked is answered, once the host has answered all.
    pub(super) fn check_answered(&self) {
        assert!(
            self.pubacks.is_empty() && self.pubrecs.is_empty(),
            "publishes without acknowledgement: {self:?}"
        );
        assert!(
            self.pubcomps.values().all(|due| *due == 0),
            "PUBREL without PUBCOMP: {self:?}"
        );
        assert!(
            self.stray_pubrecs
                .iter()
                .all(|(id, due)| *due == 0 || self.used_later.contains(id))
                && !self.got.values().any(|stage| *stage == Got::Received),
            "PUBREC without PUBREL: {self:?}"
        );
        assert_eq!((self.requests, self.pings), (0, 0), "requests without answer");
    }
}
