//! Packets of every type and version from one set of parts.

use std::borrow::Cow;

use super::super::*;
use super::content::Content;
use crate::fuzz_input::Input;

/// The content, and the encoded parts of it that packets borrow.
#[derive(Debug)]
pub(in crate::codec) struct Parts {
    content: Content,
    user_block: Vec<u8>,
    forwardable: Vec<u8>,
    ids_block: Vec<u8>,
    requests: Vec<u8>,
    requests_before_5: Vec<u8>,
    filters: Vec<u8>,
    suback_codes: Vec<ReasonCode>,
    suback_codes_before_5: Vec<ReasonCode>,
    unsuback_codes: Vec<ReasonCode>,
}

const SUBACK_CODES: [u8; 12] = [0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2];
const UNSUBACK_CODES: [u8; 7] = [0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];

/// Reasons to refuse a connection, and what 3.x leaves of them.
const REFUSALS: [(u8, u8); 6] = [
    (0x84, 0x84),
    (0x85, 0x85),
    (0x86, 0x86),
    (0x87, 0x87),
    (0x89, 0x88),
    (0x8C, 0x86),
];

/// A string or binary data with its length of two bytes.
fn sized(content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [&(content.len() as u16).to_be_bytes()[..], content].concat()
}

/// A property as it stands on the wire.
struct Encoded {
    bytes: Vec<u8>,
    /// A subscriber gets it unaltered.
    is_forwarded: bool,
    /// Its subscription identifier, where it is one.
    subscription_id: Option<u32>,
}

/// The properties of the PUBLISH.
fn publish_properties(content: &Content, topic_alias: Option<u16>) -> Vec<Encoded> {
    let mut properties = Vec::new();
    let mut put = |identifier: u8, is_forwarded: bool, value: Option<Vec<u8>>| {
        if let Some(value) = value {
            properties.push(Encoded {
                bytes: [&[identifier], &value[..]].concat(),
                is_forwarded,
                subscription_id: None,
            });
        }
    };
    for (name, value) in &content.user_properties {
        put(0x26, true, Some([sized(name), sized(value)].concat()));
    }
    put(0x03, true, content.content_type.as_ref().map(sized));
    put(
        0x01,
        true,
        content.payload_is_utf8.map(|flag| vec![u8::from(flag)]),
    );
    put(0x08, true, content.response_topic.as_ref().map(sized));
    put(0x09, true, content.correlation.as_ref().map(sized));
    let expiry = content.integers[0].map(|secs| secs.to_be_bytes().to_vec());
    put(0x02, false, expiry);
    put(0x23, false, topic_alias.map(|alias| alias.to_be_bytes().to_vec()));
    properties.extend(content.subscription_ids.iter().map(|id| Encoded {
        bytes: [vec![0x0B], variable(*id)].concat(),
        is_forwarded: false,
        subscription_id: Some(*id),
    }));
    properties
}

/// Everything a subscriber gets unaltered, in the order of `properties`.
fn forwardable(properties: &[Encoded]) -> Vec<u8> {
    let forwarded = properties.iter().filter(|property| property.is_forwarded);
    forwarded.flat_map(|property| property.bytes.clone()).collect()
}

/// A variable byte integer.
fn variable(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn pick_codes(picks: &[u8], codes: &[u8]) -> Vec<ReasonCode> {
    picks
        .iter()
        .map(|pick| ReasonCode(codes[usize::from(*pick) % codes.len()]))
        .collect()
}

impl Parts {
    /// The parts that the input draws.
    pub(super) fn draw(input: &mut Input<'_>) -> Self {
        Self::new(Content::draw(input))
    }

    /// Encodes what packets borrow.
    pub(in crate::codec) fn new(content: Content) -> Self {
        let (mut user_block, mut ids_block) = (Vec::new(), Vec::new());
        let pairs = content.user_properties.iter();
        UserProperties::encode_into(
            pairs.map(|(name, value)| (&name[..], &value[..])),
            &mut user_block,
        );
        SubscriptionIds::encode_into(content.subscription_ids.iter().copied(), &mut ids_block);
        // No Local on a shared subscription is an error of its own.
        let allowed = |filter: &str, options: SubscriptionOptions| SubscriptionOptions {
            no_local: options.no_local && !filter.starts_with("$share/"),
            ..options
        };
        let (mut requests, mut requests_before_5, mut filters) = (Vec::new(), Vec::new(), Vec::new());
        let at_5 = content.requests.iter();
        let at_5 = at_5.map(|(filter, options)| (&filter[..], allowed(filter, *options)));
        let before_5 = at_5.clone();
        let before_5 = before_5.map(|(filter, options)| (filter, SubscriptionOptions::new(options.qos)));
        SubscriptionRequests::encode_into(at_5, &mut requests);
        SubscriptionRequests::encode_into(before_5, &mut requests_before_5);
        TopicFilters::encode_into(content.filters.iter().map(String::as_str), &mut filters);
        let suback_codes = pick_codes(&content.suback_picks, &SUBACK_CODES);
        let failure_or = |code: &ReasonCode| if code.0 > 2 { ReasonCode(0x80) } else { *code };
        Self {
            forwardable: forwardable(&publish_properties(&content, None)),
            user_block,
            ids_block,
            requests,
            requests_before_5,
            filters,
            suback_codes_before_5: suback_codes.iter().map(failure_or).collect(),
            suback_codes,
            unsuback_codes: pick_codes(&content.unsuback_picks, &UNSUBACK_CODES),
            content,
        }
    }

    #[cfg(test)]
    pub(in crate::codec) fn payload(&self) -> &[u8] {
        &self.content.payload
    }

    #[cfg(test)]
    pub(in crate::codec) fn forwardable(&self) -> &[u8] {
        &self.forwardable
    }

    #[cfg(test)]
    pub(in crate::codec) fn subscription_ids(&self) -> &[u32] {
        &self.content.subscription_ids
    }

    fn text(&self, index: usize) -> Option<&str> {
        self.content.texts[index].as_deref()
    }

    fn binary(&self, index: usize) -> Option<&[u8]> {
        self.content.binaries[index].as_deref()
    }

    fn one_of<T: Copy>(&self, choices: &[T]) -> T {
        choices[self.content.pick % choices.len()]
    }

    fn user_properties(&self) -> UserProperties<'_> {
        UserProperties::from_checked(&self.user_block)
    }

    fn packet_id(&self) -> PacketId {
        PacketId::new(self.content.shorts[0]).unwrap_or(PacketId::MIN)
    }

    /// One packet of every type that the version has, and what arrives of it at the other end.
    pub(in crate::codec) fn packets(&self, version: ProtocolVersion) -> Vec<(Packet<'_>, Packet<'_>)> {
        let mut packets = vec![
            self.connect(version),
            self.connack(version),
            self.publish(version),
            self.subscribe(version),
            self.suback(version),
            self.unsubscribe(version),
            self.unsuback(version),
            self.disconnect(version),
            (Packet::Pingreq, Packet::Pingreq),
            (Packet::Pingresp, Packet::Pingresp),
        ];
        let received = [0x00, 0x10, 0x80, 0x97];
        let exchanged = [0x00, 0x92];
        packets.push(self.ack(version, &received, Packet::Puback));
        packets.push(self.ack(version, &received, Packet::Pubrec));
        packets.push(self.ack(version, &exchanged, Packet::Pubrel));
        packets.push(self.ack(version, &exchanged, Packet::Pubcomp));
        if version == ProtocolVersion::V5 {
            packets.push(self.auth());
        }
        packets
    }

    fn connect(&self, version: ProtocolVersion) -> (Packet<'_>, Packet<'_>) {
        let user_name = self.text(2);
        let bare = Connect {
            bridge: self.content.flags[0] && version < ProtocolVersion::V5,
            clean_start: self.content.flags[1],
            keep_alive_secs: self.content.shorts[1],
            user_name,
            password: self
                .binary(0)
                .filter(|_| version == ProtocolVersion::V5 || user_name.is_some()),
            will: self.text(1).map(|topic| {
                Will::new(
                    topic,
                    &self.content.payload,
                    self.content.qos,
                    self.content.flags[2],
                )
            }),
            ..Connect::new(version, self.text(0).unwrap_or_default())
        };
        let will = bare.will.clone().map(|will| Will {
            delay_secs: self.content.integers[0].unwrap_or(0),
            message_expiry_secs: self.content.integers[1],
            payload_is_utf8: self.content.payload_is_utf8 == Some(true),
            forwardable: Cow::Borrowed(&self.forwardable),
            ..will
        });
        let full = Connect {
            will,
            session_expiry_secs: self.content.integers[2],
            receive_maximum: self.content.shorts[2],
            maximum_packet_size: self.content.integers[0].filter(|size| *size > 0),
            topic_alias_maximum: self.content.shorts[3] - 1,
            request_response_information: self.content.flags[3],
            request_problem_information: self.content.flags[4],
            user_properties: self.user_properties(),
            authentication_method: self.text(3),
            authentication_data: self.binary(1).filter(|_| self.text(3).is_some()),
            ..bare.clone()
        };
        let arrives = if version == ProtocolVersion::V5 {
            full.clone()
        } else {
            bare
        };
        (Packet::Connect(full), Packet::Connect(arrives))
    }

    fn connack(&self, version: ProtocolVersion) -> (Packet<'_>, Packet<'_>) {
        let (reason, before_5) = if self.content.flags[0] {
            (0, 0)
        } else {
            self.one_of(&REFUSALS)
        };
        let full = Connack {
            session_present: self.content.flags[0] && self.content.flags[1],
            reason: ReasonCode(reason),
            session_expiry_secs: self.content.integers[0],
            receive_maximum: self.content.flags[2].then_some(self.content.shorts[0]),
            maximum_qos: Some(self.content.qos).filter(|qos| *qos != QoS::ExactlyOnce),
            retain_available: self.content.flags[3],
            maximum_packet_size: self.content.integers[1].filter(|size| *size > 0),
            assigned_client_id: self.text(0),
            topic_alias_maximum: self.content.shorts[1] - 1,
            reason_string: self.text(1),
            user_properties: self.user_properties(),
            wildcard_available: self.content.flags[4],
            subscription_ids_available: self.content.flags[5],
            shared_available: self.content.flags[6],
            server_keep_alive_secs: self.content.flags[7].then_some(self.content.shorts[2]),
            response_information: self.text(2),
            server_reference: self.text(3),
            authentication_method: self.text(4),
            authentication_data: self.binary(0),
        };
        let bare = Connack {
            session_present: full.session_present && version == ProtocolVersion::V3_1_1,
            ..Connack::new(ReasonCode(before_5))
        };
        let arrives = if version == ProtocolVersion::V5 {
            full.clone()
        } else {
            bare
        };
        (Packet::Connack(full), Packet::Connack(arrives))
    }

    fn publish(&self, version: ProtocolVersion) -> (Packet<'_>, Packet<'_>) {
        let with_id = self.content.qos != QoS::AtMostOnce;
        let topic_alias = self.content.flags[2].then_some(self.content.shorts[1]);
        let by_alias = version == ProtocolVersion::V5 && topic_alias.is_some() && self.content.flags[3];
        let bare = Publish {
            dup: self.content.flags[0] && with_id,
            qos: self.content.qos,
            retain: self.content.flags[1],
            topic: if by_alias { "" } else { &self.content.topic },
            packet_id: with_id.then(|| self.packet_id()),
            topic_alias: None,
            message_expiry_secs: None,
            payload_is_utf8: false,
            subscription_ids: SubscriptionIds::default(),
            response_topic: None,
            forwardable: Cow::Borrowed(&[]),
            payload: &self.content.payload,
        };
        let full = Publish {
            topic_alias,
            message_expiry_secs: self.content.integers[0],
            payload_is_utf8: self.content.payload_is_utf8 == Some(true),
            subscription_ids: SubscriptionIds::from_checked(&self.ids_block),
            response_topic: self.content.response_topic.as_deref(),
            forwardable: Cow::Borrowed(&self.forwardable),
            ..bare.clone()
        };
        let arrives = if version == ProtocolVersion::V5 {
            full.clone()
        } else {
            bare
        };
        (Packet::Publish(full), Packet::Publish(arrives))
    }

    /// The PUBLISH of MQTT 5 with its properties in an order that the input draws, as another encoder might write it,
    /// and a check of what decodes from it.
    pub(super) fn assert_any_order_decodes(&self, input: &mut Input<'_>) {
        let (Packet::Publish(expected), _) = self.publish(ProtocolVersion::V5) else {
            return;
        };
        let mut left = publish_properties(&self.content, expected.topic_alias);
        let mut properties = Vec::new();
        while !left.is_empty() {
            properties.push(left.swap_remove(usize::from(input.byte()) % left.len()));
        }
        let block: Vec<u8> = properties
            .iter()
            .flat_map(|property| property.bytes.clone())
            .collect();
        let packet_id = expected.packet_id.iter().flat_map(|id| id.get().to_be_bytes());
        let mut body = sized(expected.topic);
        body.extend(packet_id);
        body.extend(variable(block.len() as u32));
        body.extend(block);
        body.extend(expected.payload);
        let qos = expected.qos as u8;
        let first_byte = 0x30 | u8::from(expected.dup) << 3 | qos << 1 | u8::from(expected.retain);
        let bytes = [vec![first_byte], variable(body.len() as u32), body].concat();

        let frame = Frame::parse(&bytes, u32::MAX).expect("a frame").expect("whole");
        let publish = Publish::decode(frame, ProtocolVersion::V5).expect("properties may stand in any order");
        let ids = properties.iter().filter_map(|property| property.subscription_id);
        assert!(
            publish.subscription_ids.iter().eq(ids),
            "identifiers of {publish:?}"
        );
        let forwardable = forwardable(&properties);
        let expected = Publish {
            forwardable: Cow::Borrowed(&forwardable),
            subscription_ids: publish.subscription_ids,
            ..expected
        };
        assert_eq!(publish, expected);
    }

    fn ack<'a>(
        &'a self,
        version: ProtocolVersion,
        reasons: &[u8],
        make: fn(Ack<'a>) -> Packet<'a>,
    ) -> (Packet<'a>, Packet<'a>) {
        let full = Ack {
            packet_id: self.packet_id(),
            reason: ReasonCode(self.one_of(reasons)),
            reason_string: self.text(0),
            user_properties: self.user_properties(),
        };
        let bare = Ack::new(self.packet_id(), ReasonCode::SUCCESS);
        (
            make(full),
            make(if version == ProtocolVersion::V5 {
                full
            } else {
                bare
            }),
        )
    }

    fn subscribe(&self, version: ProtocolVersion) -> (Packet<'_>, Packet<'_>) {
        let full = Subscribe {
            packet_id: self.packet_id(),
            subscription_id: self.content.subscription_ids.first().copied(),
            user_properties: self.user_properties(),
            requests: SubscriptionRequests::from_payload(&self.requests).expect("encoded above"),
        };
        let bare = Subscribe {
            packet_id: self.packet_id(),
            subscription_id: None,
            user_properties: UserProperties::default(),
            requests: SubscriptionRequests::from_payload(&self.requests_before_5).expect("encoded above"),
        };
        (
            Packet::Subscribe(full),
            Packet::Subscribe(if version == ProtocolVersion::V5 {
                full
            } else {
                bare
            }),
        )
    }

    fn suback(&self, version: ProtocolVersion) -> (Packet<'_>, Packet<'_>) {
        let full = Suback {
            packet_id: self.packet_id(),
            reason_string: self.text(0),
            user_properties: self.user_properties(),
            reasons: (&self.suback_codes).into(),
        };
        let bare = Suback::new(self.packet_id(), &self.suback_codes_before_5);
        (
            Packet::Suback(full),
            Packet::Suback(if version == ProtocolVersion::V5 {
                full
            } else {
                bare
            }),
        )
    }

    fn unsubscribe(&self, version: ProtocolVersion) -> (Packet<'_>, Packet<'_>) {
        let full = Unsubscribe {
            packet_id: self.packet_id(),
            user_properties: self.user_properties(),
            filters: TopicFilters::from_payload(&self.filters).expect("encoded above"),
        };
        let bare = Unsubscribe {
            user_properties: UserProperties::default(),
            ..full
        };
        (
            Packet::Unsubscribe(full),
            Packet::Unsubscribe(if version == ProtocolVersion::V5 {
                full
            } else {
                bare
            }),
        )
    }

    fn unsuback(&self, version: ProtocolVersion) -> (Packet<'_>, Packet<'_>) {
        let full = Unsuback {
            packet_id: self.packet_id(),
            reason_string: self.text(0),
            user_properties: self.user_properties(),
            reasons: (&self.unsuback_codes).into(),
        };
        let bare = Unsuback::new(self.packet_id(), ReasonCodes::EMPTY);
        (
            Packet::Unsuback(full),
            Packet::Unsuback(if version == ProtocolVersion::V5 {
                full
            } else {
                bare
            }),
        )
    }

    fn disconnect(&self, version: ProtocolVersion) -> (Packet<'_>, Packet<'_>) {
        let full = Disconnect {
            reason: ReasonCode(self.one_of(&[0x00, 0x04, 0x81, 0x8E, 0xA2])),
            session_expiry_secs: self.content.integers[0],
            reason_string: self.text(0),
            user_properties: self.user_properties(),
            server_reference: self.text(1),
        };
        let bare = Disconnect::new(ReasonCode::SUCCESS);
        (
            Packet::Disconnect(full),
            Packet::Disconnect(if version == ProtocolVersion::V5 {
                full
            } else {
                bare
            }),
        )
    }

    fn auth(&self) -> (Packet<'_>, Packet<'_>) {
        let auth = Auth {
            reason: ReasonCode(self.one_of(&[0x00, 0x18, 0x19])),
            authentication_method: Some(self.text(0).unwrap_or("method")),
            authentication_data: self.binary(0),
            reason_string: self.text(1),
            user_properties: self.user_properties(),
        };
        (Packet::Auth(auth), Packet::Auth(auth))
    }
}
