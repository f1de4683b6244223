//! One command: a tag, then its fields in the order of their declaration.

use quorate_proto::message::Message;
use quorate_storage::log::GroupId;

use super::primitive::{CodecError, Reader, put_bool, put_option, put_str, put_varint};
use super::terms::*;
use crate::state::replays::{put_cursor, put_id, read_cursor, read_id};
use crate::state::{
    Command, PublishCommand, PublishPart, ReplayStep, RetainedSource, SessionLimits, WillMessage,
};

/// Tags are never reused.
pub(super) mod tag {
    pub(in crate::state::codec) const OPEN_SESSION: u8 = 1;
    pub(in crate::state::codec) const CLOSE_CONNECTION: u8 = 2;
    pub(in crate::state::codec) const END_SESSION: u8 = 3;
    pub(in crate::state::codec) const SUBSCRIBE: u8 = 4;
    pub(in crate::state::codec) const UNSUBSCRIBE: u8 = 5;
    pub(in crate::state::codec) const PUBLISH: u8 = 6;
    pub(in crate::state::codec) const RELEASE: u8 = 7;
    pub(in crate::state::codec) const SETTLE: u8 = 8;
    pub(in crate::state::codec) const RECEIVED: u8 = 9;
    pub(in crate::state::codec) const ASSIGN: u8 = 10;
    pub(in crate::state::codec) const DROP_QUEUES: u8 = 11;
    pub(in crate::state::codec) const SET_RETAINED: u8 = 12;
    pub(in crate::state::codec) const RETAINED_TAKEN: u8 = 13;
    pub(in crate::state::codec) const WILL_PUBLISHED: u8 = 14;
    pub(in crate::state::codec) const NODE_LOST: u8 = 15;
    pub(in crate::state::codec) const FORGET_LIVE_WILLS: u8 = 16;
    pub(in crate::state::codec) const PUBLISH_FIRST: u8 = 17;
    pub(in crate::state::codec) const PUBLISH_MORE: u8 = 18;
    pub(in crate::state::codec) const DRAIN_CONNECTION: u8 = 32;
    pub(in crate::state::codec) const RETAINED_CARRIED: u8 = 33;
    pub(in crate::state::codec) const HOLD: u8 = 40;
    pub(in crate::state::codec) const UNHOLD: u8 = 41;
    /// As [`SUBSCRIBE`], with the number of the SUBSCRIBE behind the connection.
    pub(in crate::state::codec) const SUBSCRIBE_REPLAYED: u8 = 48;
    pub(in crate::state::codec) const REPLAY: u8 = 49;
}

impl ReplayStep {
    fn encode(&self, out: &mut Vec<u8>) {
        /// Session, connection, replay, lengths and the cursor's slot.
        const BESIDE_BYTES: usize = 256;
        let after = self.cursor.as_ref().and_then(|cursor| cursor.after.as_ref());
        let topics = self.filter.len() + after.map_or(0, |after| after.len());
        let value = self.value.as_ref().map_or(0, Message::size);
        // At once: a buffer that grows for the cursor behind a large value is twice as long as that.
        out.reserve(topics + value + BESIDE_BYTES);
        out.push(tag::REPLAY);
        put_connection(out, self.session, self.epoch);
        put_str(out, &self.filter);
        put_id(out, self.id);
        put_varint(out, self.step);
        put_bool(out, self.value.is_some());
        if let Some(value) = &self.value {
            put_message(out, value);
        }
        put_cursor(out, self.cursor.as_ref());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let (session, epoch) = read_connection(reader)?;
        Ok(Self {
            session,
            epoch,
            filter: reader.str("filter")?,
            id: read_id(reader)?,
            step: reader.varint("step of a replay")?,
            value: match reader.bool("whether there is a value")? {
                false => None,
                true => Some(read_message(reader)?),
            },
            cursor: read_cursor(reader)?,
        })
    }
}

impl Command {
    /// Appends the command, as [`BatchHeader::encode_with`](super::BatchHeader::encode_with) takes it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Publish(publish) => publish.encode(out),
            Self::PublishFirst { number, publish } => publish.encode_first(*number, out),
            Self::PublishMore(part) => part.encode(out),
            Self::Replay(step) => step.encode(out),
            Self::Settle { queue, sequences } => {
                out.push(tag::SETTLE);
                put_queue(out, queue);
                put_sequences(out, sequences);
            }
            Self::Received { session, sequences } => {
                out.push(tag::RECEIVED);
                put_session(out, *session);
                put_sequences(out, sequences);
            }
            Self::Assign {
                share,
                sequence,
                session,
                qos,
                subscription_ids,
                retain,
                give,
            } => {
                out.push(tag::ASSIGN);
                put_share(out, share);
                put_varint(out, sequence.0);
                put_session(out, *session);
                out.push(*qos as u8);
                put_ids(out, subscription_ids);
                put_bool(out, *retain);
                put_varint(out, give.0);
            }
            Self::Hold {
                share,
                sequence,
                holder,
            } => {
                out.push(tag::HOLD);
                put_share(out, share);
                put_varint(out, sequence.0);
                put_share_holder(out, holder);
            }
            Self::Unhold {
                share,
                sequence,
                give,
            } => {
                out.push(tag::UNHOLD);
                put_share(out, share);
                put_varint(out, sequence.0);
                put_varint(out, give.0);
            }
            Self::DropQueues { .. }
            | Self::SetRetained { .. }
            | Self::RetainedTaken { .. }
            | Self::RetainedCarried { .. }
            | Self::WillPublished { .. }
            | Self::NodeLost { .. }
            | Self::ForgetLiveWills { .. } => self.encode_duty(out),
            session_command => session_command.encode_session_command(out),
        }
    }

    /// The commands that leaders propose by themselves.
    fn encode_duty(&self, out: &mut Vec<u8>) {
        match self {
            Self::DropQueues { queues } => {
                out.push(tag::DROP_QUEUES);
                put_varint(out, queues.len() as u64);
                for (queue, next) in queues {
                    put_queue(out, queue);
                    put_varint(out, next.0);
                }
            }
            Self::SetRetained {
                source,
                message,
                messages_max,
                bytes_max,
            } => {
                out.push(tag::SET_RETAINED);
                put_source(out, source);
                put_message(out, message);
                put_varint(out, u64::from(*messages_max));
                put_varint(out, *bytes_max);
            }
            Self::RetainedTaken { up_to, refused } => {
                out.push(tag::RETAINED_TAKEN);
                put_source(out, up_to);
                put_varint(out, refused.len() as u64);
                refused.iter().for_each(|source| put_source(out, source));
            }
            Self::RetainedCarried {
                topics,
                writes,
                refused,
            } => {
                out.push(tag::RETAINED_CARRIED);
                put_varint(out, u64::from(topics.0));
                for sources in [writes, refused] {
                    put_varint(out, sources.len() as u64);
                    sources.iter().for_each(|source| put_source(out, source));
                }
            }
            Self::NodeLost { node, incarnation } => {
                out.push(tag::NODE_LOST);
                put_start(out, *node, *incarnation);
            }
            Self::WillPublished { session, epoch } => {
                out.push(tag::WILL_PUBLISHED);
                put_connection(out, *session, *epoch);
            }
            Self::ForgetLiveWills { wills } => {
                out.push(tag::FORGET_LIVE_WILLS);
                put_varint(out, wills.len() as u64);
                for (session, epoch) in wills {
                    put_connection(out, *session, *epoch);
                }
            }
            other => unreachable!("{other:?} is encoded by its caller"),
        }
    }

    /// The commands of one client.
    fn encode_session_command(&self, out: &mut Vec<u8>) {
        match self {
            Self::OpenSession {
                client_id,
                clean_start,
                expiry_secs,
                will,
                limits,
            } => {
                out.push(tag::OPEN_SESSION);
                put_str(out, client_id);
                put_bool(out, *clean_start);
                put_varint(out, u64::from(*expiry_secs));
                put_optional_will(out, will.as_deref());
                put_limits(out, limits);
            }
            Self::CloseConnection {
                session,
                epoch,
                publish_will,
                expiry_secs,
            } => {
                out.push(tag::CLOSE_CONNECTION);
                put_connection(out, *session, *epoch);
                put_bool(out, *publish_will);
                put_option(out, *expiry_secs);
            }
            Self::DrainConnection {
                session,
                epoch,
                will_delay_secs,
            } => {
                out.push(tag::DRAIN_CONNECTION);
                put_connection(out, *session, *epoch);
                put_varint(out, u64::from(*will_delay_secs));
            }
            Self::EndSession {
                session,
                publish_will,
            } => {
                out.push(tag::END_SESSION);
                put_session(out, *session);
                put_bool(out, *publish_will);
            }
            Self::Subscribe {
                session,
                epoch,
                subscriptions,
                limits,
                replay,
            } => {
                out.push(match replay {
                    None => tag::SUBSCRIBE,
                    Some(_) => tag::SUBSCRIBE_REPLAYED,
                });
                put_connection(out, *session, *epoch);
                if let Some(number) = replay {
                    put_varint(out, u64::from(*number));
                }
                put_subscriptions(out, subscriptions);
                put_limits(out, limits);
            }
            Self::Unsubscribe {
                session,
                epoch,
                filters,
            } => {
                out.push(tag::UNSUBSCRIBE);
                put_connection(out, *session, *epoch);
                put_varint(out, filters.len() as u64);
                filters.iter().for_each(|filter| put_str(out, filter));
            }
            Self::Release {
                session,
                epoch,
                packet_id,
            } => {
                out.push(tag::RELEASE);
                put_connection(out, *session, *epoch);
                put_packet_id(out, *packet_id);
            }
            other => unreachable!("{other:?} is encoded by its caller"),
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        match reader.u8("command")? {
            tag::PUBLISH => PublishCommand::decode(reader).map(Self::Publish),
            tag::PUBLISH_FIRST => Ok(Self::PublishFirst {
                number: reader.varint("number of a publish")?,
                publish: PublishCommand::decode(reader)?,
            }),
            tag::PUBLISH_MORE => PublishPart::decode(reader).map(Self::PublishMore),
            tag::REPLAY => ReplayStep::decode(reader).map(Self::Replay),
            tag::SETTLE => Ok(Self::Settle {
                queue: read_queue(reader)?,
                sequences: read_sequences(reader)?,
            }),
            tag::RECEIVED => Ok(Self::Received {
                session: read_session(reader)?,
                sequences: read_sequences(reader)?,
            }),
            tag::ASSIGN => Ok(Self::Assign {
                share: read_share(reader)?,
                sequence: crate::state::Sequence(reader.varint("sequence")?),
                session: read_session(reader)?,
                qos: read_whole_qos(reader)?,
                subscription_ids: read_ids(reader)?,
                retain: reader.bool("retain")?,
                give: read_give(reader)?,
            }),
            tag::HOLD => Ok(Self::Hold {
                share: read_share(reader)?,
                sequence: crate::state::Sequence(reader.varint("sequence")?),
                holder: read_share_holder(reader)?,
            }),
            tag::UNHOLD => Ok(Self::Unhold {
                share: read_share(reader)?,
                sequence: crate::state::Sequence(reader.varint("sequence")?),
                give: read_give(reader)?,
            }),
            tag @ (tag::DROP_QUEUES..=tag::FORGET_LIVE_WILLS | tag::RETAINED_CARRIED) => {
                Self::decode_duty(tag, reader)
            }
            tag => Self::decode_session_command(tag, reader),
        }
    }

    fn decode_duty(tag: u8, reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        match tag {
            tag::DROP_QUEUES => {
                let count = reader.count(4, "queues")?;
                let mut queues = Vec::with_capacity(count);
                for _ in 0..count {
                    let queue = read_queue(reader)?;
                    let next = crate::state::Sequence(reader.varint("next sequence")?);
                    queues.push((queue, next));
                }
                Ok(Self::DropQueues { queues })
            }
            tag::SET_RETAINED => Ok(Self::SetRetained {
                source: read_source(reader)?,
                message: read_message(reader)?,
                messages_max: reader.varint_u32("retained limit")?,
                bytes_max: reader.varint("retained limit")?,
            }),
            tag::RETAINED_TAKEN => {
                let up_to = read_source(reader)?;
                let refused = read_sources(reader)?;
                Ok(Self::RetainedTaken { up_to, refused })
            }
            tag::RETAINED_CARRIED => Ok(Self::RetainedCarried {
                topics: GroupId(reader.varint_u16("group")?),
                writes: read_sources(reader)?,
                refused: read_sources(reader)?,
            }),
            tag::NODE_LOST => {
                let (node, incarnation) = read_start(reader)?;
                Ok(Self::NodeLost { node, incarnation })
            }
            tag::WILL_PUBLISHED => {
                let (session, epoch) = read_connection(reader)?;
                Ok(Self::WillPublished { session, epoch })
            }
            tag::FORGET_LIVE_WILLS => {
                let count = reader.count(CONNECTION_BYTES_MIN, "wills")?;
                let wills = (0..count)
                    .map(|_| read_connection(reader))
                    .collect::<Result<_, _>>()?;
                Ok(Self::ForgetLiveWills { wills })
            }
            tag => Err(CodecError::Tag { what: "command", tag }),
        }
    }

    fn decode_session_command(tag: u8, reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        if tag == tag::OPEN_SESSION {
            return Ok(Self::OpenSession {
                client_id: reader.str("client identifier")?,
                clean_start: reader.bool("clean start")?,
                expiry_secs: reader.varint_u32("session expiry")?,
                will: read_optional_will(reader)?.map(Box::new),
                limits: read_limits(reader)?,
            });
        }
        if !(tag::CLOSE_CONNECTION..=tag::RELEASE).contains(&tag)
            && ![tag::DRAIN_CONNECTION, tag::SUBSCRIBE_REPLAYED].contains(&tag)
        {
            return Err(CodecError::Tag { what: "command", tag });
        }
        let session = read_session(reader)?;
        if tag == tag::END_SESSION {
            return Ok(Self::EndSession {
                session,
                publish_will: reader.bool("publish will")?,
            });
        }
        let epoch = read_epoch(reader)?;
        match tag {
            tag::CLOSE_CONNECTION => Ok(Self::CloseConnection {
                session,
                epoch,
                publish_will: reader.bool("publish will")?,
                expiry_secs: reader.option("session expiry")?,
            }),
            tag::DRAIN_CONNECTION => Ok(Self::DrainConnection {
                session,
                epoch,
                will_delay_secs: reader.varint_u32("will delay")?,
            }),
            tag @ (tag::SUBSCRIBE | tag::SUBSCRIBE_REPLAYED) => {
                let replay = match tag {
                    tag::SUBSCRIBE => None,
                    _ => Some(reader.varint_u32("number of a SUBSCRIBE")?),
                };
                let count = reader.count(SUBSCRIPTION_BYTES_MIN, "subscriptions")?;
                let subscriptions = (0..count)
                    .map(|_| read_subscription(reader))
                    .collect::<Result<_, _>>()?;
                Ok(Self::Subscribe {
                    session,
                    epoch,
                    subscriptions,
                    limits: read_limits(reader)?,
                    replay,
                })
            }
            tag::UNSUBSCRIBE => {
                let count = reader.count(1, "filters")?;
                let filters = (0..count)
                    .map(|_| reader.str("filter"))
                    .collect::<Result<_, _>>()?;
                Ok(Self::Unsubscribe {
                    session,
                    epoch,
                    filters,
                })
            }
            tag::RELEASE => Ok(Self::Release {
                session,
                epoch,
                packet_id: read_packet_id(reader)?,
            }),
            tag => Err(CodecError::Tag { what: "command", tag }),
        }
    }
}

fn put_limits(out: &mut Vec<u8>, limits: &SessionLimits) {
    put_varint(out, u64::from(limits.sessions_max));
    put_varint(out, u64::from(limits.subscriptions_max));
}

fn read_limits(reader: &mut Reader<'_>) -> Result<SessionLimits, CodecError> {
    Ok(SessionLimits {
        sessions_max: reader.varint_u32("sessions limit")?,
        subscriptions_max: reader.varint_u32("subscriptions limit")?,
    })
}

fn put_optional_will(out: &mut Vec<u8>, will: Option<&WillMessage>) {
    put_bool(out, will.is_some());
    if let Some(will) = will {
        put_will(out, will);
    }
}

fn read_optional_will(reader: &mut Reader<'_>) -> Result<Option<WillMessage>, CodecError> {
    match reader.bool("will")? {
        false => Ok(None),
        true => read_will(reader).map(Some),
    }
}

fn read_whole_qos(reader: &mut Reader<'_>) -> Result<quorate_proto::codec::QoS, CodecError> {
    match reader.u8("QoS")? {
        bits @ 0..=2 => read_qos(bits),
        _ => Err(CodecError::Invalid("QoS")),
    }
}

fn read_sources(reader: &mut Reader<'_>) -> Result<Vec<RetainedSource>, CodecError> {
    let count = reader.count(3, "retained writes")?;
    (0..count).map(|_| read_source(reader)).collect()
}
