//! What the client sends: mostly what it may, now and then what it may not.

use super::host::{Run, TOPICS};
use crate::codec::{
    Ack, Auth, Disconnect, Packet, PacketId, PacketType, ProtocolVersion, Publish, QoS, ReasonCode,
    Subscribe, SubscriptionIds, SubscriptionOptions, SubscriptionRequests, TopicFilters, Unsubscribe,
    UserProperties,
};
use crate::fuzz_input::Input;

/// A payload format indicator of 1.
const IS_UTF8: &[u8] = &[1, 1];

impl Run {
    pub(super) fn send_publish(&mut self, input: &mut Input<'_>) {
        let is_5 = self.client.version == ProtocolVersion::V5;
        let settings = self.connection.settings();
        let mut qos = input.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
        let mut packet_id = PacketId::MIN.saturating_add(u16::from(input.below(8)));
        let quota = if is_5 {
            settings.receive_maximum_in
        } else {
            u16::MAX
        };
        let repeated = Some(input.byte()).filter(|choice| *choice < 32);
        let repeated = repeated.and_then(|choice| self.client.received(choice));
        match repeated {
            Some(known) => (qos, packet_id) = (QoS::ExactlyOnce, known),
            None if qos == QoS::AtMostOnce || self.client.may_publish(packet_id, quota) => {}
            None if input.rarely() => {}
            None => return,
        }
        let alias_max = if input.rarely() {
            settings.topic_alias_max_in + 1
        } else {
            settings.topic_alias_max_in
        };
        let alias = u16::from(input.below(8));
        let topic_alias = Some(alias).filter(|alias| is_5 && *alias > 0 && *alias <= alias_max);
        let by_alias =
            topic_alias.is_some_and(|alias| (self.client.has_set(alias) && input.flag()) || input.rarely());
        // A fault of the message itself has an answer only at MQTT 5 and above QoS 0.
        let may_fail = is_5 && qos > QoS::AtMostOnce || input.rarely();
        let topic = input.pick(if may_fail { &TOPICS } else { &TOPICS[..3] });
        let publish = Publish {
            dup: repeated.is_some(),
            qos,
            retain: input.flag(),
            topic: if by_alias { "" } else { topic },
            packet_id: Some(packet_id).filter(|_| qos > QoS::AtMostOnce),
            topic_alias,
            message_expiry_secs: None,
            payload_is_utf8: false,
            subscription_ids: SubscriptionIds::default(),
            response_topic: None,
            forwardable: IS_UTF8.into(),
            payload: if may_fail && input.below(8) == 0 {
                &[0xFF]
            } else {
                b"payload"
            },
        };
        self.send(&Packet::Publish(publish));
    }

    pub(super) fn send_ack(&mut self, input: &mut Input<'_>) {
        let any = (
            input.pick(&ACKS),
            PacketId::MIN.saturating_add(u16::from(input.below(8))),
        );
        let fitting = self.client.fitting_ack(input.byte());
        let Some((packet_type, packet_id)) = (if input.rarely() { Some(any) } else { fitting }) else {
            return;
        };
        let refuses = self.client.version == ProtocolVersion::V5 && input.below(8) == 0;
        let reason = if refuses {
            ReasonCode::UNSPECIFIED_ERROR
        } else {
            ReasonCode::SUCCESS
        };
        self.send(&match packet_type {
            PacketType::Puback => Packet::Puback(Ack::new(packet_id, reason)),
            PacketType::Pubrec => Packet::Pubrec(Ack::new(packet_id, reason)),
            PacketType::Pubrel => Packet::Pubrel(Ack::new(packet_id, ReasonCode::SUCCESS)),
            _ => Packet::Pubcomp(Ack::new(packet_id, ReasonCode::SUCCESS)),
        });
    }

    pub(super) fn send_other(&mut self, input: &mut Input<'_>) {
        match input.below(8) {
            0 | 1 => self.send_subscribe(input),
            2 | 3 => self.send_unsubscribe(input),
            4 => self.send(&Packet::Pingreq),
            5 if self.client.version == ProtocolVersion::V5 && (self.with_method || input.rarely()) => {
                let first = if self.client.connected {
                    ReasonCode::REAUTHENTICATE
                } else {
                    ReasonCode(0x18)
                };
                let mut auth = Auth::new(if input.flag() { first } else { ReasonCode(0x18) });
                auth.authentication_method = Some("method");
                self.send(&Packet::Auth(auth));
            }
            6 if input.rarely() => self.send(&Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS))),
            7 if input.rarely() => {
                let length = usize::from(input.below(32));
                let bytes = input.take(length);
                self.send_bytes(bytes, None);
            }
            _ => {}
        }
    }

    fn filter(&self, input: &mut Input<'_>) -> &'static str {
        const FILTERS: [&str; 5] = ["a/+", "$share/g/a", "#", "bad#", "$share//x"];
        let may_fail = self.client.version == ProtocolVersion::V5 || input.rarely();
        input.pick(if may_fail { &FILTERS } else { &FILTERS[..3] })
    }

    fn send_subscribe(&mut self, input: &mut Input<'_>) {
        let mut payload = Vec::new();
        SubscriptionRequests::encode_into(
            [(self.filter(input), SubscriptionOptions::default())],
            &mut payload,
        );
        let requests = SubscriptionRequests::from_payload(&payload).expect("a filter without No Local");
        let user_properties = UserProperties::default();
        let packet_id = PacketId::MIN;
        self.send(&Packet::Subscribe(Subscribe {
            packet_id,
            subscription_id: None,
            user_properties,
            requests,
        }));
    }

    fn send_unsubscribe(&mut self, input: &mut Input<'_>) {
        let mut payload = Vec::new();
        TopicFilters::encode_into([self.filter(input)], &mut payload);
        let filters = TopicFilters::from_payload(&payload).expect("a filter");
        let user_properties = UserProperties::default();
        self.send(&Packet::Unsubscribe(Unsubscribe {
            packet_id: PacketId::MIN,
            user_properties,
            filters,
        }));
    }
}

const ACKS: [PacketType; 4] = [
    PacketType::Puback,
    PacketType::Pubrec,
    PacketType::Pubrel,
    PacketType::Pubcomp,
];
