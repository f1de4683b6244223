//! A publish, whole or from borrowed parts, and where it comes from.

use quorate_proto::codec::PacketId;

use super::command::tag;
use super::primitive::{CodecError, Reader, put_bool, put_varint};
use super::terms::*;
use crate::state::{Origin, PublishCommand, PublishPart, Target, TargetQueue};

const ORIGIN_SESSION: u8 = 0;
const ORIGIN_SESSION_QOS2: u8 = 1;
const ORIGIN_LIVE: u8 = 2;
const ORIGIN_WILL: u8 = 3;
const ORIGIN_SERVER: u8 = 4;
const ORIGIN_LIVE_WILL: u8 = 5;

impl PublishCommand {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(tag::PUBLISH);
        self.encode_fields(out);
    }

    pub(super) fn encode_first(&self, number: u64, out: &mut Vec<u8>) {
        out.push(tag::PUBLISH_FIRST);
        put_varint(out, number);
        self.encode_fields(out);
    }

    fn encode_fields(&self, out: &mut Vec<u8>) {
        put_origin(out, &self.origin);
        out.push(publish_flags(self.set_retained, self.taken_live));
        put_message(out, &self.message);
        put_targets(out, self.targets.iter().map(Target::borrowed));
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let origin = read_origin(reader)?;
        let (set_retained, taken_live) = match reader.u8("publish flags")? {
            flags @ 0..=3 => (flags & SET_RETAINED != 0, flags & TAKEN_LIVE != 0),
            _ => return Err(CodecError::Invalid("publish flags")),
        };
        Ok(Self {
            origin,
            message: read_message(reader)?,
            targets: read_targets(reader)?,
            set_retained,
            taken_live,
        })
    }
}

impl PublishPart {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let targets = self.targets.iter().map(Target::borrowed);
        encode_publish_more(
            out,
            self.number,
            &self.origin,
            self.after.as_ref(),
            targets,
            self.last,
        );
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            number: reader.varint("number of a publish")?,
            origin: read_origin(reader)?,
            after: match reader.bool("whether there is a target")? {
                false => None,
                true => Some(read_queue(reader)?),
            },
            targets: read_targets(reader)?,
            last: reader.bool("last part")?,
        })
    }
}

/// Appends a [`Command::Publish`](crate::state::Command::Publish) from borrowed parts, so that a front end packs a
/// PUBLISH straight from its read buffer into the entry. The result is what encoding the command itself gives.
pub fn encode_publish<'a>(
    out: &mut Vec<u8>,
    origin: &Origin,
    message: &MessageParts<'_>,
    targets: impl ExactSizeIterator<Item = TargetRef<'a>>,
    set_retained: bool,
    taken_live: bool,
) {
    out.push(tag::PUBLISH);
    put_publish(out, origin, message, targets, set_retained, taken_live);
}

/// Appends a [`Command::PublishFirst`](crate::state::Command::PublishFirst) likewise.
pub fn encode_publish_first<'a>(
    out: &mut Vec<u8>,
    number: u64,
    origin: &Origin,
    message: &MessageParts<'_>,
    targets: impl ExactSizeIterator<Item = TargetRef<'a>>,
    set_retained: bool,
    taken_live: bool,
) {
    out.push(tag::PUBLISH_FIRST);
    put_varint(out, number);
    put_publish(out, origin, message, targets, set_retained, taken_live);
}

/// Appends a [`Command::PublishMore`](crate::state::Command::PublishMore) likewise.
pub fn encode_publish_more<'a>(
    out: &mut Vec<u8>,
    number: u64,
    origin: &Origin,
    after: Option<&TargetQueue>,
    targets: impl ExactSizeIterator<Item = TargetRef<'a>>,
    last: bool,
) {
    out.push(tag::PUBLISH_MORE);
    put_varint(out, number);
    put_origin(out, origin);
    put_bool(out, after.is_some());
    if let Some(after) = after {
        put_queue(out, after);
    }
    put_targets(out, targets);
    put_bool(out, last);
}

fn put_publish<'a>(
    out: &mut Vec<u8>,
    origin: &Origin,
    message: &MessageParts<'_>,
    targets: impl ExactSizeIterator<Item = TargetRef<'a>>,
    set_retained: bool,
    taken_live: bool,
) {
    /// Origin, flags, lengths and a few targets.
    const BESIDE_BYTES: usize = 256;
    // At once: a buffer that grows for the last bytes of a large message is twice as long as that.
    out.reserve(message.topic.len() + message.forwardable.len() + message.payload.len() + BESIDE_BYTES);
    put_origin(out, origin);
    out.push(publish_flags(set_retained, taken_live));
    message.encode(out);
    put_targets(out, targets);
}

const SET_RETAINED: u8 = 1;
const TAKEN_LIVE: u8 = 2;

fn publish_flags(set_retained: bool, taken_live: bool) -> u8 {
    (u8::from(set_retained) * SET_RETAINED) | (u8::from(taken_live) * TAKEN_LIVE)
}

fn put_targets<'a>(out: &mut Vec<u8>, targets: impl ExactSizeIterator<Item = TargetRef<'a>>) {
    put_varint(out, targets.len() as u64);
    for target in targets {
        put_target(out, target);
    }
}

fn read_targets(reader: &mut Reader<'_>) -> Result<Vec<Target>, CodecError> {
    let count = reader.count(TARGET_BYTES_MIN, "targets")?;
    let mut targets = Vec::with_capacity(count);
    for _ in 0..count {
        targets.push(read_target(reader)?);
    }
    Ok(targets)
}

fn put_origin(out: &mut Vec<u8>, origin: &Origin) {
    match origin {
        Origin::Session {
            session,
            epoch,
            packet_id,
        } => {
            out.push(if packet_id.is_some() {
                ORIGIN_SESSION_QOS2
            } else {
                ORIGIN_SESSION
            });
            put_connection(out, *session, *epoch);
            if let Some(packet_id) = packet_id {
                put_packet_id(out, *packet_id);
            }
        }
        Origin::Live { session } => {
            out.push(ORIGIN_LIVE);
            put_optional_session(out, *session);
        }
        Origin::Will { session, epoch } => {
            out.push(ORIGIN_WILL);
            put_connection(out, *session, *epoch);
        }
        Origin::LiveWill { session, epoch } => {
            out.push(ORIGIN_LIVE_WILL);
            put_connection(out, *session, *epoch);
        }
        Origin::Server => out.push(ORIGIN_SERVER),
    }
}

fn read_origin(reader: &mut Reader<'_>) -> Result<Origin, CodecError> {
    match reader.u8("origin")? {
        kind @ (ORIGIN_SESSION | ORIGIN_SESSION_QOS2) => {
            let (session, epoch) = read_connection(reader)?;
            let packet_id: Option<PacketId> = match kind {
                ORIGIN_SESSION => None,
                _ => Some(read_packet_id(reader)?),
            };
            Ok(Origin::Session {
                session,
                epoch,
                packet_id,
            })
        }
        ORIGIN_LIVE => Ok(Origin::Live {
            session: read_optional_session(reader)?,
        }),
        ORIGIN_WILL => {
            let (session, epoch) = read_connection(reader)?;
            Ok(Origin::Will { session, epoch })
        }
        ORIGIN_LIVE_WILL => {
            let (session, epoch) = read_connection(reader)?;
            Ok(Origin::LiveWill { session, epoch })
        }
        ORIGIN_SERVER => Ok(Origin::Server),
        tag => Err(CodecError::Tag { what: "origin", tag }),
    }
}
