//! What the client publishes: receive maximum, QoS 2 identifiers, the way of an outcome to its acknowledgement.
//!
//! ```text
//!   PUBLISH ─> features, topic, payload ─> quota, identifier ─> host ─ outcome ─> order ─> PUBACK, PUBREC
//! ```

use super::acknowledgements::{Answer, Lane};
use super::aliases::InboundAliases;
use super::exchanges::{Admitted, Exchanges};
use super::peer::Peer;
use super::{Action, Close, ConnectionSettings, PublishOutcome, PublishRequest, PublishToken, TopicRef};
use crate::codec::{PacketId, PacketType, Publish, QoS, ReasonCode};
use crate::topic::validate_topic_name;

const SUBSCRIPTION_ID: Close = Close::new(
    ReasonCode::PROTOCOL_ERROR,
    "PUBLISH of a client has a subscription identifier [MQTT-3.3.4-6]",
);
const QOS: Close = Close::new(
    ReasonCode::QOS_NOT_SUPPORTED,
    "PUBLISH is above the maximum QoS [MQTT-3.2.2-11]",
);
const RETAIN: Close = Close::new(
    ReasonCode::RETAIN_NOT_SUPPORTED,
    "PUBLISH with RETAIN, which is not available [MQTT-3.2.2-14]",
);
const NO_NEGATIVE: &str = "publish refused, which this protocol version cannot express";

const TOPIC_LIMIT: Fault = Fault {
    reason: ReasonCode::TOPIC_NAME_INVALID,
    what: "topic name is longer or has more levels than allowed",
};
const NOT_UTF8: Fault = Fault {
    reason: ReasonCode::PAYLOAD_FORMAT_INVALID,
    what: "payload is marked as UTF-8 and is not [MQTT5 3.3.2.3.2]",
};

/// Why one publish is refused, while the connection may go on.
#[derive(Clone, Copy, Debug)]
struct Fault {
    reason: ReasonCode,
    what: &'static str,
}

/// The inbound half of a connection.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    at_least_once: Lane,
    exactly_once: Lane,
    exchanges: Exchanges,
    aliases: Option<Box<InboundAliases>>,
}

impl Inbound {
    /// Takes over the identifiers of a continued session.
    pub(super) fn restore(&mut self, identifiers: &[PacketId]) {
        self.exchanges.restore(identifiers);
    }

    /// Publishes that wait for their outcome.
    pub(super) fn outstanding(&self) -> u32 {
        self.at_least_once.outstanding() + self.exactly_once.outstanding()
    }

    pub(super) fn handle_publish<'a>(
        &mut self,
        publish: Publish<'a>,
        settings: &ConnectionSettings,
        peer: &Peer,
        out: &mut Vec<u8>,
    ) -> Result<Action<'a>, Close> {
        check_features(&publish, settings)?;
        let topic = self.resolve_topic(&publish, settings)?;
        let checked = topic.and_then(|topic| check_payload(&publish, settings).map(|()| topic));
        let topic = match (checked, publish.packet_id) {
            (Ok(topic), None) => {
                return Ok(Action::Publish(PublishRequest {
                    publish,
                    topic,
                    token: None,
                }));
            }
            (Ok(topic), Some(_)) => Ok(topic),
            (Err(fault), Some(_)) if peer.reads_reasons() => Err(fault),
            (Err(fault), _) => return Err(Close::new(fault.reason, fault.what)),
        };
        // A fault of what is known already was none when it came first.
        let asks = publish.retain && topic.is_ok();
        let Some(token) = self.admit(&publish, asks, settings, peer, out)? else {
            return Ok(Action::None);
        };
        match topic {
            Ok(topic) => Ok(Action::Publish(PublishRequest {
                publish,
                topic,
                token: Some(token),
            })),
            Err(fault) => {
                self.answer(token, fault.reason, Some(fault.what), false, peer, out);
                Ok(Action::None)
            }
        }
    }

    /// The topic, its alias resolved or set. A topic beyond the limits is the outer `Ok`, for the alias it may set is
    /// set nevertheless.
    fn resolve_topic<'a>(
        &mut self,
        publish: &Publish<'a>,
        settings: &ConnectionSettings,
    ) -> Result<Result<TopicRef<'a>, Fault>, Close> {
        let max = settings.topic_alias_max_in;
        if publish.topic.is_empty() {
            let alias = publish.topic_alias.unwrap_or(0);
            let aliases = self.aliases.get_or_insert_default();
            return Ok(aliases.resolve(alias, max)?.ok_or(TOPIC_LIMIT));
        }
        let within = within_limits(publish.topic, settings);
        if let Some(alias) = publish.topic_alias {
            let topic = within.then_some(publish.topic);
            self.aliases.get_or_insert_default().set(alias, topic, max)?;
        }
        Ok(if within {
            Ok(TopicRef::Frame(publish.topic))
        } else {
            Err(TOPIC_LIMIT)
        })
    }

    /// Counts a publish at QoS 1 or 2; `None` for one that is known already, unless `asks`: where an earlier connection
    /// left it the host may have more to wait for.
    fn admit(
        &mut self,
        publish: &Publish<'_>,
        asks: bool,
        settings: &ConnectionSettings,
        peer: &Peer,
        out: &mut Vec<u8>,
    ) -> Result<Option<PublishToken>, Close> {
        let Some(packet_id) = publish.packet_id else {
            return Ok(None);
        };
        let quota = if peer.reads_reasons() {
            u32::from(settings.receive_maximum_in)
        } else {
            u32::MAX
        };
        if publish.qos != QoS::ExactlyOnce {
            self.exchanges.begin_at_least_once(quota)?;
            let sequence = self.at_least_once.issue();
            return Ok(Some(PublishToken {
                packet_id,
                sequence,
                exactly_once: false,
                repeated: false,
            }));
        }
        let admitted = self
            .exchanges
            .begin_exactly_once(packet_id, asks, quota, peer, out)?;
        if admitted == Admitted::Known {
            return Ok(None);
        }
        let sequence = self.exactly_once.issue();
        Ok(Some(PublishToken {
            packet_id,
            sequence,
            exactly_once: true,
            repeated: admitted == Admitted::Again,
        }))
    }

    pub(super) fn handle_outcome(
        &mut self,
        token: PublishToken,
        outcome: PublishOutcome,
        peer: &Peer,
        out: &mut Vec<u8>,
    ) -> Result<(), Close> {
        let (reason, recorded) = match outcome {
            PublishOutcome::Accepted { matched: false } if peer.reads_reasons() => {
                (ReasonCode::NO_MATCHING_SUBSCRIBERS, true)
            }
            PublishOutcome::Accepted { .. } => (ReasonCode::SUCCESS, true),
            PublishOutcome::Refused(reason) if peer.reads_reasons() => (for_ack(reason), false),
            PublishOutcome::Refused(ReasonCode::NOT_AUTHORIZED) => (ReasonCode::SUCCESS, false),
            PublishOutcome::Refused(reason) => return Err(Close::new(reason, NO_NEGATIVE)),
        };
        self.answer(token, reason, None, recorded, peer, out);
        Ok(())
    }

    fn answer(
        &mut self,
        token: PublishToken,
        reason: ReasonCode,
        why: Option<&'static str>,
        recorded: bool,
        peer: &Peer,
        out: &mut Vec<u8>,
    ) {
        let PublishToken {
            packet_id,
            sequence,
            exactly_once,
            repeated: _,
        } = token;
        let lane = if exactly_once {
            &mut self.exactly_once
        } else {
            &mut self.at_least_once
        };
        let mut next = lane.answer(
            sequence,
            Answer {
                packet_id,
                reason,
                why,
                recorded,
            },
        );
        while let Some(answer) = next {
            let packet_type = if exactly_once {
                self.exchanges.received(&answer);
                PacketType::Pubrec
            } else {
                self.exchanges.end_at_least_once();
                PacketType::Puback
            };
            match answer.why {
                None => peer.write_ack(packet_type, answer.packet_id, answer.reason, out),
                Some(why) => peer.write_ack_because(packet_type, answer.packet_id, answer.reason, why, out),
            }
            next = lane.next();
        }
    }

    pub(super) fn handle_pubrel(
        &mut self,
        packet_id: PacketId,
        durable: bool,
        peer: &Peer,
        out: &mut Vec<u8>,
    ) -> Result<Action<'static>, Close> {
        self.exchanges.handle_pubrel(packet_id, durable, peer, out)
    }

    pub(super) fn handle_released(
        &mut self,
        packet_id: PacketId,
        found: bool,
        peer: &Peer,
        out: &mut Vec<u8>,
    ) {
        self.exchanges.handle_released(packet_id, found, peer, out);
    }

    pub(super) fn trim(&mut self) {
        self.at_least_once.trim();
        self.exactly_once.trim();
        self.exchanges.trim();
    }

    pub(super) fn check_invariants(&self, settings: &ConnectionSettings, peer: &Peer) {
        self.at_least_once.check_invariants();
        self.exactly_once.check_invariants();
        let answers = (self.at_least_once.outstanding(), self.exactly_once.outstanding());
        let quota = peer.reads_reasons().then_some(settings.receive_maximum_in);
        self.exchanges.check_invariants(answers, quota);
        let aliases = self.aliases.as_ref().map_or(0, |aliases| aliases.len());
        assert!(
            aliases <= usize::from(settings.topic_alias_max_in),
            "more aliases than allowed"
        );
    }
}

/// What the listener does not offer ends the connection, as CONNACK has told the client.
fn check_features(publish: &Publish<'_>, settings: &ConnectionSettings) -> Result<(), Close> {
    if publish.qos > settings.maximum_qos {
        return Err(QOS);
    }
    if publish.retain && !settings.retain_available {
        return Err(RETAIN);
    }
    if !publish.subscription_ids.is_empty() {
        return Err(SUBSCRIPTION_ID);
    }
    Ok(())
}

/// Whether a topic that decoded (so it is not empty and has no wildcard) is within the limits. A topic has at most
/// one level more than it has bytes, so short ones need not be searched.
fn within_limits(topic: &str, settings: &ConnectionSettings) -> bool {
    let limits = settings.topic_limits();
    topic.len() < usize::from(limits.levels_max.min(limits.bytes_max))
        || validate_topic_name(topic, &limits).is_ok()
}

fn check_payload(publish: &Publish<'_>, settings: &ConnectionSettings) -> Result<(), Fault> {
    if settings.validate_payload_format
        && publish.payload_is_utf8
        && std::str::from_utf8(publish.payload).is_err()
    {
        return Err(NOT_UTF8);
    }
    Ok(())
}

/// The reason as PUBACK and PUBREC may carry it [MQTT5 2.4].
fn for_ack(reason: ReasonCode) -> ReasonCode {
    match reason.0 {
        0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99 => reason,
        _ => ReasonCode::UNSPECIFIED_ERROR,
    }
}
