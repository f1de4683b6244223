//! How a [`Batch`] is written into a log entry, and the terms that stored values share with it.
//!
//! An entry is a version byte, the stamp in eight bytes, the rest of the header, the number of commands, the commands.
//! A front end appends commands to a growing buffer as they come ([`Command::encode`], [`encode_publish`]) and puts the
//! header in front when it proposes ([`BatchHeader::encode_with`]). The leader of the group, which may be another node,
//! writes its own stamp over that of the proposer ([`stamp_batch`], R32) and tells batches apart by their proposer
//! ([`batch_proposer`]); neither looks at what comes behind.
//!
//! Invariants: version 1 never changes (the golden test holds its bytes); a reader refuses what it does not know;
//! no input makes it panic or reserve more memory than a small multiple of the input's size. Messages of a decoded
//! batch share the entry's bytes.

mod command;
mod outcome;
mod primitive;
mod publish;
mod terms;
#[cfg(test)]
mod tests;

use std::ops::Range;

use bytes::Bytes;
use quorate_proto::message::Message;

pub(super) use outcome::{put_outcomes, read_outcomes};
pub use primitive::CodecError;
use primitive::take_varint;
pub(super) use primitive::{
    Reader, put_bool, put_option, put_option_u64, put_str, put_varint, read_option_u64,
};
pub use publish::{encode_publish, encode_publish_first, encode_publish_more};
pub(super) use terms::*;
pub use terms::{MessageParts, TargetRef};
pub(crate) use terms::{options_byte, read_options};

use super::{Batch, Command, GroupTime, NodeId, NodeIncarnation, QueueLimits};

/// Version of the entry format.
const BATCH_VERSION: u8 = 1;
/// Where the stamp stands, highest byte first.
const STAMP_BYTES: Range<usize> = 1..9;
/// A command's position in its batch is part of the identity of what it creates, with 16 bits.
pub const BATCH_COMMANDS_MAX: usize = 1 << 16;
/// Room reserved before the first command is read; batches are seldom larger.
const COMMANDS_RESERVED_MAX: usize = 512;

/// A batch without its commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// See [`Batch::view`].
    pub view: u64,
    /// See [`Batch::node`].
    pub node: NodeId,
    /// See [`Batch::incarnation`].
    pub incarnation: NodeIncarnation,
    /// See [`Batch::number`].
    pub number: u64,
    /// See [`Batch::stamp`].
    pub stamp: GroupTime,
    /// See [`Batch::queue_limits`].
    pub queue_limits: QueueLimits,
}

impl BatchHeader {
    /// Appends a whole batch whose `count` commands were encoded one after the other into `commands`; at most
    /// [`BATCH_COMMANDS_MAX`].
    pub fn encode_with(&self, out: &mut Vec<u8>, commands: &[u8], count: usize) {
        out.reserve(commands.len() + 64);
        self.encode(out, count);
        out.extend_from_slice(commands);
    }

    fn encode(&self, out: &mut Vec<u8>, count: usize) {
        out.push(BATCH_VERSION);
        out.extend_from_slice(&self.stamp.0.to_be_bytes());
        put_varint(out, self.view);
        put_varint(out, self.node.0);
        put_varint(out, self.incarnation.0);
        put_varint(out, self.number);
        put_varint(out, u64::from(self.queue_limits.messages_max));
        put_varint(out, self.queue_limits.bytes_max);
        put_varint(out, count as u64);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        check_version(reader.u8("format version")?)?;
        let stamp = GroupTime(reader.u64_big_endian("stamp")?);
        Ok(Self {
            view: reader.varint("view")?,
            node: NodeId(reader.varint("node")?),
            incarnation: NodeIncarnation(reader.varint("node incarnation")?),
            number: reader.varint("batch number")?,
            stamp,
            queue_limits: QueueLimits {
                messages_max: reader.varint_u32("queue limit")?,
                bytes_max: reader.varint("queue limit")?,
            },
        })
    }
}

fn check_version(version: u8) -> Result<(), CodecError> {
    match version {
        BATCH_VERSION => Ok(()),
        version => Err(CodecError::Version(version)),
    }
}

/// Replaces the stamp of an encoded batch: group time is that of the leader that proposes the entry (R32), whichever
/// node packed it.
///
/// # Errors
///
/// The bytes do not begin like a batch of a version this node knows.
pub fn stamp_batch(encoded: &mut [u8], stamp: GroupTime) -> Result<(), CodecError> {
    check_version(*encoded.first().ok_or(CodecError::Truncated("format version"))?)?;
    let field = encoded
        .get_mut(STAMP_BYTES)
        .ok_or(CodecError::Truncated("stamp"))?;
    field.copy_from_slice(&stamp.0.to_be_bytes());
    Ok(())
}

/// A message as entries and records have it.
pub(crate) fn encode_message(message: &Message) -> Bytes {
    let mut out = Vec::with_capacity(message.size() + 16);
    put_message(&mut out, message);
    out.into()
}

/// A message that [`encode_message`] wrote; it shares the bytes.
pub(crate) fn decode_message(encoded: &Bytes) -> Result<Message, CodecError> {
    let mut reader = Reader::new(encoded);
    let message = read_message(&mut reader)?;
    reader.finish()?;
    Ok(message)
}

/// Who packed an encoded batch: node, its start, and the number of the batch ([`Batch::number`]). Looks at the first
/// bytes and at nothing behind them.
///
/// # Errors
///
/// The bytes do not begin like a batch of a version this node knows.
pub fn batch_proposer(encoded: &[u8]) -> Result<(NodeId, NodeIncarnation, u64), CodecError> {
    check_version(*encoded.first().ok_or(CodecError::Truncated("format version"))?)?;
    let mut at = STAMP_BYTES.end;
    take_varint(encoded, &mut at, "view")?;
    let node = NodeId(take_varint(encoded, &mut at, "node")?);
    let incarnation = NodeIncarnation(take_varint(encoded, &mut at, "node incarnation")?);
    Ok((node, incarnation, take_varint(encoded, &mut at, "batch number")?))
}

impl Batch {
    /// The batch without its commands.
    pub fn header(&self) -> BatchHeader {
        BatchHeader {
            view: self.view,
            node: self.node,
            incarnation: self.incarnation,
            number: self.number,
            stamp: self.stamp,
            queue_limits: self.queue_limits,
        }
    }

    /// Appends the batch as a log entry's payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.header().encode(out, self.commands.len());
        self.commands.iter().for_each(|command| command.encode(out));
    }

    /// Reads a log entry's payload; its messages share the bytes.
    ///
    /// # Errors
    ///
    /// What makes the bytes no batch of a version this node knows.
    pub fn decode(entry: &Bytes) -> Result<Self, CodecError> {
        let mut reader = Reader::new(entry);
        let header = BatchHeader::decode(&mut reader)?;
        let count = reader.count(1, "commands")?;
        if count > BATCH_COMMANDS_MAX {
            return Err(CodecError::Invalid("number of commands"));
        }
        let mut commands = Vec::with_capacity(count.min(COMMANDS_RESERVED_MAX));
        for _ in 0..count {
            commands.push(Command::decode(&mut reader)?);
        }
        reader.finish()?;
        Ok(Self {
            view: header.view,
            node: header.node,
            incarnation: header.incarnation,
            number: header.number,
            stamp: header.stamp,
            queue_limits: header.queue_limits,
            commands,
        })
    }
}
