//! Arbitrary packets: the parts that packets borrow, and from them one packet of every type for every version.

use std::borrow::Cow;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

/// What the packets of one case are made of.
#[derive(Debug)]
pub(super) struct Parts {
    texts: Vec<Option<String>>,
    binaries: Vec<Option<Vec<u8>>>,
    integers: Vec<Option<u32>>,
    shorts: Vec<u16>,
    flags: Vec<bool>,
    qos: QoS,
    topic: String,
    pub(super) payload: Vec<u8>,
    user_block: Vec<u8>,
    pub(super) forwardable: Vec<u8>,
    payload_is_utf8: Option<bool>,
    response_topic: Option<String>,
    pub(super) subscription_ids: Vec<u32>,
    ids_block: Vec<u8>,
    requests: Vec<u8>,
    requests_before_5: Vec<u8>,
    filters: Vec<u8>,
    suback_codes: Vec<ReasonCode>,
    suback_codes_before_5: Vec<ReasonCode>,
    unsuback_codes: Vec<ReasonCode>,
    pick: usize,
}

const TEXT: &str = "[^\\x00]{0,12}";
const TOPIC: &str = "[^+#\\x00]{1,24}";

/// Arbitrary parts.
pub(super) fn parts() -> impl Strategy<Value = Parts> {
    let scalars = (
        vec(option::of(TEXT), 7),
        vec(option::of(vec(any::<u8>(), 0..12)), 2),
        vec(option::of(any::<u32>()), 3),
        vec(1..=u16::MAX, 4),
        vec(any::<bool>(), 8),
        prop_oneof![
            Just(QoS::AtMostOnce),
            Just(QoS::AtLeastOnce),
            Just(QoS::ExactlyOnce)
        ],
        any::<usize>(),
    );
    let publish = (
        TOPIC,
        vec(any::<u8>(), 0..200),
        option::of(any::<bool>()),
        option::of(TOPIC),
        option::of(TEXT),
        option::of(vec(any::<u8>(), 0..12)),
        vec(1..=268_435_455u32, 0..4),
    );
    let lists = (
        vec((TEXT, TEXT), 0..4),
        vec((TEXT, options()), 1..5),
        vec(TEXT, 1..5),
        vec(proptest::sample::select(SUBACK_CODES.to_vec()), 1..5),
        vec(proptest::sample::select(UNSUBACK_CODES.to_vec()), 1..5),
    );
    (scalars, publish, lists).prop_map(|(scalars, publish, lists)| {
        let (texts, binaries, integers, shorts, flags, qos, pick) = scalars;
        let (topic, payload, payload_is_utf8, response_topic, content_type, correlation, subscription_ids) =
            publish;
        let (pairs, requests, filters, suback_codes, unsuback_codes) = lists;
        let mut user_block = Vec::new();
        UserProperties::encode_into(
            pairs.iter().map(|(name, value)| (&name[..], &value[..])),
            &mut user_block,
        );
        let mut forwardable = user_block.clone();
        forwardable.extend(
            content_type
                .iter()
                .flat_map(|content| [vec![0x03], text(content)].concat()),
        );
        forwardable.extend(payload_is_utf8.iter().flat_map(|flag| [0x01, u8::from(*flag)]));
        forwardable.extend(
            response_topic
                .iter()
                .flat_map(|topic| [vec![0x08], text(topic)].concat()),
        );
        forwardable.extend(
            correlation
                .iter()
                .flat_map(|data| [vec![0x09], text(data)].concat()),
        );
        let mut ids_block = Vec::new();
        SubscriptionIds::encode_into(subscription_ids.iter().copied(), &mut ids_block);
        let at_5 = requests.iter().map(|(filter, options)| (&filter[..], *options));
        let before_5 = at_5
            .clone()
            .map(|(filter, options)| (filter, SubscriptionOptions::new(options.qos)));
        let (mut requests_at_5, mut requests_before_5, mut filters_payload) =
            (Vec::new(), Vec::new(), Vec::new());
        SubscriptionRequests::encode_into(at_5, &mut requests_at_5);
        SubscriptionRequests::encode_into(before_5, &mut requests_before_5);
        TopicFilters::encode_into(filters.iter().map(String::as_str), &mut filters_payload);
        let failure_or = |code: &ReasonCode| if code.0 > 2 { ReasonCode(0x80) } else { *code };
        Parts {
            texts,
            binaries,
            integers,
            shorts,
            flags,
            qos,
            topic,
            payload,
            user_block,
            forwardable,
            payload_is_utf8,
            response_topic,
            subscription_ids,
            ids_block,
            requests: requests_at_5,
            requests_before_5,
            filters: filters_payload,
            suback_codes_before_5: suback_codes.iter().map(failure_or).collect(),
            suback_codes,
            unsuback_codes,
            pick,
        }
    })
}

fn options() -> impl Strategy<Value = SubscriptionOptions> {
    (0..3u8, any::<bool>(), any::<bool>(), 0..3u8).prop_map(
        |(qos, no_local, retain_as_published, handling)| SubscriptionOptions {
            qos: QoS::from_bits(qos).unwrap(),
            no_local,
            retain_as_published,
            retain_handling: [
                RetainHandling::Send,
                RetainHandling::SendIfNew,
                RetainHandling::DoNotSend,
            ][usize::from(handling)],
        },
    )
}

const SUBACK_CODES: [ReasonCode; 6] = [
    ReasonCode(0),
    ReasonCode(1),
    ReasonCode(2),
    ReasonCode(0x80),
    ReasonCode(0x87),
    ReasonCode(0xA2),
];
const UNSUBACK_CODES: [ReasonCode; 3] = [ReasonCode(0), ReasonCode(0x11), ReasonCode(0x87)];

/// Reasons to refuse a connection, and what 3.x leaves of them.
const REFUSALS: [(u8, u8); 6] = [
    (0x84, 0x84),
    (0x85, 0x85),
    (0x86, 0x86),
    (0x87, 0x87),
    (0x89, 0x88),
    (0x8C, 0x86),
];

impl Parts {
    fn text(&self, index: usize) -> Option<&str> {
        self.texts[index].as_deref()
    }

    fn binary(&self, index: usize) -> Option<&[u8]> {
        self.binaries[index].as_deref()
    }

    fn one_of<T: Copy>(&self, choices: &[T]) -> T {
        choices[self.pick % choices.len()]
    }

    fn user_properties(&self) -> UserProperties<'_> {
        UserProperties::from_block(&self.user_block).unwrap()
    }

    fn packet_id(&self) -> PacketId {
        id(self.shorts[0])
    }

    /// One packet of every type that the version has, and what arrives of it at the other end.
    pub(super) fn packets(&self, version: ProtocolVersion) -> Vec<(Packet<'_>, Packet<'_>)> {
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
        if version == V5 {
            packets.push(self.auth());
        }
        packets
    }

    fn connect(&self, version: ProtocolVersion) -> (Packet<'_>, Packet<'_>) {
        let user_name = self.text(2);
        let bare = Connect {
            bridge: self.flags[0] && version < V5,
            clean_start: self.flags[1],
            keep_alive_secs: self.shorts[1],
            user_name,
            password: self.binary(0).filter(|_| version == V5 || user_name.is_some()),
            will: self
                .text(1)
                .map(|topic| Will::new(topic, &self.payload, self.qos, self.flags[2])),
            ..Connect::new(version, self.text(0).unwrap_or_default())
        };
        let will = bare.will.clone().map(|will| Will {
            delay_secs: self.integers[0].unwrap_or(0),
            message_expiry_secs: self.integers[1],
            payload_is_utf8: self.payload_is_utf8 == Some(true),
            forwardable: Cow::Borrowed(&self.forwardable),
            ..will
        });
        let full = Connect {
            will,
            session_expiry_secs: self.integers[2],
            receive_maximum: self.shorts[2],
            maximum_packet_size: self.integers[0].filter(|size| *size > 0),
            topic_alias_maximum: self.shorts[3] - 1,
            request_response_information: self.flags[3],
            request_problem_information: self.flags[4],
            user_properties: self.user_properties(),
            authentication_method: self.text(3),
            authentication_data: self.binary(1).filter(|_| self.text(3).is_some()),
            ..bare.clone()
        };
        let arrives = if version == V5 { full.clone() } else { bare };
        (Packet::Connect(full), Packet::Connect(arrives))
    }

    fn connack(&self, version: ProtocolVersion) -> (Packet<'_>, Packet<'_>) {
        let (reason, before_5) = if self.flags[0] {
            (0, 0)
        } else {
            self.one_of(&REFUSALS)
        };
        let full = Connack {
            session_present: self.flags[0] && self.flags[1],
            reason: ReasonCode(reason),
            session_expiry_secs: self.integers[0],
            receive_maximum: self.flags[2].then_some(self.shorts[0]),
            maximum_qos: Some(self.qos).filter(|qos| *qos != QoS::ExactlyOnce),
            retain_available: self.flags[3],
            maximum_packet_size: self.integers[1].filter(|size| *size > 0),
            assigned_client_id: self.text(0),
            topic_alias_maximum: self.shorts[1] - 1,
            reason_string: self.text(1),
            user_properties: self.user_properties(),
            wildcard_available: self.flags[4],
            subscription_ids_available: self.flags[5],
            shared_available: self.flags[6],
            server_keep_alive_secs: self.flags[7].then_some(self.shorts[2]),
            response_information: self.text(2),
            server_reference: self.text(3),
            authentication_method: self.text(4),
            authentication_data: self.binary(0),
        };
        let bare = Connack {
            session_present: full.session_present && version == V3_1_1,
            ..Connack::new(ReasonCode(before_5))
        };
        let arrives = if version == V5 { full.clone() } else { bare };
        (Packet::Connack(full), Packet::Connack(arrives))
    }

    fn publish(&self, version: ProtocolVersion) -> (Packet<'_>, Packet<'_>) {
        let with_id = self.qos != QoS::AtMostOnce;
        let topic_alias = self.flags[2].then_some(self.shorts[1]);
        let by_alias = version == V5 && topic_alias.is_some() && self.flags[3];
        let bare = Publish {
            dup: self.flags[0] && with_id,
            qos: self.qos,
            retain: self.flags[1],
            topic: if by_alias { "" } else { &self.topic },
            packet_id: with_id.then(|| self.packet_id()),
            topic_alias: None,
            message_expiry_secs: None,
            payload_is_utf8: false,
            subscription_ids: SubscriptionIds::default(),
            response_topic: None,
            forwardable: Cow::Borrowed(&[]),
            payload: &self.payload,
        };
        let full = Publish {
            topic_alias,
            message_expiry_secs: self.integers[0],
            payload_is_utf8: self.payload_is_utf8 == Some(true),
            subscription_ids: SubscriptionIds::from_block(&self.ids_block).unwrap(),
            response_topic: self.response_topic.as_deref(),
            forwardable: Cow::Borrowed(&self.forwardable),
            ..bare.clone()
        };
        let arrives = if version == V5 { full.clone() } else { bare };
        (Packet::Publish(full), Packet::Publish(arrives))
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
        (make(full), make(if version == V5 { full } else { bare }))
    }

    fn subscribe(&self, version: ProtocolVersion) -> (Packet<'_>, Packet<'_>) {
        let full = Subscribe {
            packet_id: self.packet_id(),
            subscription_id: self.subscription_ids.first().copied(),
            user_properties: self.user_properties(),
            requests: SubscriptionRequests::from_payload(&self.requests).unwrap(),
        };
        let bare = Subscribe {
            packet_id: self.packet_id(),
            subscription_id: None,
            user_properties: UserProperties::default(),
            requests: SubscriptionRequests::from_payload(&self.requests_before_5).unwrap(),
        };
        (
            Packet::Subscribe(full),
            Packet::Subscribe(if version == V5 { full } else { bare }),
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
            Packet::Suback(if version == V5 { full } else { bare }),
        )
    }

    fn unsubscribe(&self, version: ProtocolVersion) -> (Packet<'_>, Packet<'_>) {
        let full = Unsubscribe {
            packet_id: self.packet_id(),
            user_properties: self.user_properties(),
            filters: TopicFilters::from_payload(&self.filters).unwrap(),
        };
        let bare = Unsubscribe {
            user_properties: UserProperties::default(),
            ..full
        };
        (
            Packet::Unsubscribe(full),
            Packet::Unsubscribe(if version == V5 { full } else { bare }),
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
            Packet::Unsuback(if version == V5 { full } else { bare }),
        )
    }

    fn disconnect(&self, version: ProtocolVersion) -> (Packet<'_>, Packet<'_>) {
        let full = Disconnect {
            reason: ReasonCode(self.one_of(&[0x00, 0x04, 0x81, 0x8E, 0xA2])),
            session_expiry_secs: self.integers[0],
            reason_string: self.text(0),
            user_properties: self.user_properties(),
            server_reference: self.text(1),
        };
        let bare = Disconnect::new(ReasonCode::SUCCESS);
        (
            Packet::Disconnect(full),
            Packet::Disconnect(if version == V5 { full } else { bare }),
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
