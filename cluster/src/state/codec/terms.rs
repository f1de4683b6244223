//! The terms that commands, outcomes and stored values are made of.

use std::num::NonZeroU16;

use quorate_proto::codec::{PacketId, QoS, RetainHandling, SubscriptionOptions};
use quorate_proto::message::Message;
use quorate_storage::log::GroupId;

use super::primitive::{CodecError, Reader, put_bool, put_option, put_str, put_varint};
use crate::state::{
    Epoch, GiveId, NodeId, NodeIncarnation, Owner, RetainedSource, Sequence, SessionId, ShareHolder,
    ShareKey, Subscription, Target, TargetQueue, WillMessage,
};

const QOS_BITS: u8 = 0b11;
const RETAIN_BIT: u8 = 1 << 2;

/// The parts of a message, as the front end has them before a [`Message`] exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageParts<'a> {
    /// Topic, at most 65,535 bytes.
    pub topic: &'a str,
    /// Encoded MQTT 5 properties a subscriber gets unaltered.
    pub forwardable: &'a [u8],
    /// Payload.
    pub payload: &'a [u8],
    /// Quality of service it was published with.
    pub qos: QoS,
    /// The publisher's RETAIN flag.
    pub retain: bool,
    /// Message expiry interval in seconds.
    pub expiry_secs: Option<u32>,
}

/// One target of a message, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetRef<'a> {
    /// Its queue.
    pub queue: &'a TargetQueue,
    /// QoS to deliver with; for a share the QoS of the message.
    pub qos: QoS,
    /// RETAIN flag to send.
    pub retain: bool,
    /// Whether it is the retained message of a new subscription.
    pub replayed: bool,
    /// Subscription identifiers to send.
    pub subscription_ids: &'a [u32],
}

impl TargetRef<'_> {
    /// Bytes that it takes in a command, at most.
    pub(crate) fn bytes_max(&self) -> usize {
        const NUMBER: usize = 10;
        let queue = match self.queue {
            TargetQueue::Session(_) => 8,
            TargetQueue::Share(share) => share.name.len() + share.filter.len() + 2 * NUMBER,
            TargetQueue::Node(..) => 2 * NUMBER,
        };
        let ids = match self.subscription_ids.len() {
            0 => 0,
            count => NUMBER + 5 * count,
        };
        1 + queue + ids
    }
}

impl Target {
    /// Borrows the target, as [`encode_publish`](super::encode_publish) takes it.
    pub fn borrowed(&self) -> TargetRef<'_> {
        TargetRef {
            queue: &self.queue,
            qos: self.qos,
            retain: self.retain,
            replayed: self.replayed,
            subscription_ids: &self.subscription_ids,
        }
    }
}

pub(in crate::state) fn read_qos(bits: u8) -> Result<QoS, CodecError> {
    match bits & QOS_BITS {
        0 => Ok(QoS::AtMostOnce),
        1 => Ok(QoS::AtLeastOnce),
        2 => Ok(QoS::ExactlyOnce),
        _ => Err(CodecError::Invalid("QoS")),
    }
}

impl<'a> From<&'a Message> for MessageParts<'a> {
    fn from(message: &'a Message) -> Self {
        Self {
            topic: message.topic(),
            forwardable: message.forwardable(),
            payload: message.payload(),
            qos: message.qos,
            retain: message.retain,
            expiry_secs: message.expiry_secs,
        }
    }
}

impl MessageParts<'_> {
    /// Bytes that its command takes without targets, at most: the message, what says how long its parts are, an origin,
    /// and numbers.
    pub(crate) fn bytes(&self) -> usize {
        const NUMBERS: usize = 64;
        self.topic.len() + self.forwardable.len() + self.payload.len() + NUMBERS
    }

    const EXPIRY_BIT: u8 = 1 << 3;

    pub(in crate::state) fn encode(&self, out: &mut Vec<u8>) {
        put_message_head(
            out,
            (self.qos, self.retain, self.expiry_secs),
            [self.topic.len(), self.forwardable.len(), self.payload.len()],
        );
        out.extend_from_slice(self.topic.as_bytes());
        out.extend_from_slice(self.forwardable);
        out.extend_from_slice(self.payload);
    }
}

fn put_message_head(
    out: &mut Vec<u8>,
    (qos, retain, expiry_secs): (QoS, bool, Option<u32>),
    [topic_len, properties_len, payload_len]: [usize; 3],
) {
    let mut flags = qos as u8;
    if retain {
        flags |= RETAIN_BIT;
    }
    if expiry_secs.is_some() {
        flags |= MessageParts::EXPIRY_BIT;
    }
    out.push(flags);
    if let Some(secs) = expiry_secs {
        put_varint(out, u64::from(secs));
    }
    put_varint(out, topic_len as u64);
    put_varint(out, properties_len as u64);
    put_varint(out, payload_len as u64);
}

pub(in crate::state) fn put_message(out: &mut Vec<u8>, message: &Message) {
    let (properties_len, payload_len) = (message.forwardable().len(), message.payload().len());
    // Not by way of `topic()`, which would check the text again.
    let topic_len = message.data().len() - properties_len - payload_len;
    put_message_head(
        out,
        (message.qos, message.retain, message.expiry_secs),
        [topic_len, properties_len, payload_len],
    );
    out.extend_from_slice(message.data());
}

/// The message shares the bytes it is read from.
pub(in crate::state) fn read_message(reader: &mut Reader<'_>) -> Result<Message, CodecError> {
    let flags = reader.u8("message flags")?;
    if flags & !(QOS_BITS | RETAIN_BIT | MessageParts::EXPIRY_BIT) != 0 {
        return Err(CodecError::Invalid("message flags"));
    }
    let qos = read_qos(flags)?;
    let expiry_secs = match flags & MessageParts::EXPIRY_BIT {
        0 => None,
        _ => Some(reader.varint_u32("message expiry")?),
    };
    let topic_len = reader.length("topic length")?;
    let properties_len = reader.length("properties length")?;
    let payload_len = reader.length("payload length")?;
    let len = topic_len
        .checked_add(properties_len)
        .and_then(|len| len.checked_add(payload_len))
        .ok_or(CodecError::Invalid("message length"))?;
    let data = reader.take_shared(len, "message")?;
    Message::from_parts(
        data,
        topic_len,
        properties_len,
        qos,
        flags & RETAIN_BIT != 0,
        expiry_secs,
    )
    .ok_or(CodecError::Invalid("message"))
}

pub(in crate::state) fn put_session(out: &mut Vec<u8>, session: SessionId) {
    out.extend_from_slice(&session.0.to_le_bytes());
}

pub(in crate::state) fn read_session(reader: &mut Reader<'_>) -> Result<SessionId, CodecError> {
    reader.u64_fixed("session").map(SessionId)
}

pub(in crate::state) fn put_optional_session(out: &mut Vec<u8>, session: Option<SessionId>) {
    put_bool(out, session.is_some());
    if let Some(session) = session {
        put_session(out, session);
    }
}

pub(in crate::state) fn read_optional_session(
    reader: &mut Reader<'_>,
) -> Result<Option<SessionId>, CodecError> {
    match reader.bool("whether there is a session")? {
        false => Ok(None),
        true => read_session(reader).map(Some),
    }
}

pub(in crate::state) fn put_epoch(out: &mut Vec<u8>, epoch: Epoch) {
    put_varint(out, u64::from(epoch.0));
}

pub(in crate::state) fn read_epoch(reader: &mut Reader<'_>) -> Result<Epoch, CodecError> {
    reader.varint_u32("epoch").map(Epoch)
}

/// A session, and an epoch of one byte.
pub(super) const CONNECTION_BYTES_MIN: usize = 9;

/// A connection of a session.
pub(in crate::state) fn put_connection(out: &mut Vec<u8>, session: SessionId, epoch: Epoch) {
    put_session(out, session);
    put_epoch(out, epoch);
}

pub(in crate::state) fn read_connection(reader: &mut Reader<'_>) -> Result<(SessionId, Epoch), CodecError> {
    Ok((read_session(reader)?, read_epoch(reader)?))
}

pub(in crate::state) fn put_packet_id(out: &mut Vec<u8>, packet_id: PacketId) {
    out.extend_from_slice(&packet_id.get().to_le_bytes());
}

pub(in crate::state) fn read_packet_id(reader: &mut Reader<'_>) -> Result<PacketId, CodecError> {
    let low = reader.u8("packet identifier")?;
    let high = reader.u8("packet identifier")?;
    NonZeroU16::new(u16::from_le_bytes([low, high])).ok_or(CodecError::Invalid("packet identifier"))
}

pub(in crate::state) fn put_start(out: &mut Vec<u8>, node: NodeId, incarnation: NodeIncarnation) {
    put_varint(out, node.0);
    put_varint(out, incarnation.0);
}

pub(in crate::state) fn read_start(reader: &mut Reader<'_>) -> Result<(NodeId, NodeIncarnation), CodecError> {
    let node = NodeId(reader.varint("node")?);
    Ok((node, NodeIncarnation(reader.varint("node incarnation")?)))
}

pub(in crate::state) fn put_share_holder(out: &mut Vec<u8>, holder: &ShareHolder) {
    put_session(out, holder.session);
    put_start(out, holder.node, holder.incarnation);
    put_varint(out, holder.give.0);
}

pub(in crate::state) fn read_share_holder(reader: &mut Reader<'_>) -> Result<ShareHolder, CodecError> {
    let session = read_session(reader)?;
    let (node, incarnation) = read_start(reader)?;
    Ok(ShareHolder {
        session,
        node,
        incarnation,
        give: read_give(reader)?,
    })
}

pub(in crate::state) fn read_give(reader: &mut Reader<'_>) -> Result<GiveId, CodecError> {
    reader.varint("number of a giving").map(GiveId)
}

pub(in crate::state) fn put_owner(out: &mut Vec<u8>, owner: &Owner) {
    put_start(out, owner.node, owner.incarnation);
    put_epoch(out, owner.epoch);
}

pub(in crate::state) fn read_owner(reader: &mut Reader<'_>) -> Result<Owner, CodecError> {
    let (node, incarnation) = read_start(reader)?;
    Ok(Owner {
        node,
        incarnation,
        epoch: read_epoch(reader)?,
    })
}

/// Positions as differences to the one before, since they mostly follow each other.
pub(in crate::state) fn put_sequences(out: &mut Vec<u8>, sequences: &[Sequence]) {
    put_varint(out, sequences.len() as u64);
    let mut last = 0u64;
    for sequence in sequences {
        let step = sequence.0.wrapping_sub(last) as i64;
        put_varint(out, ((step << 1) ^ (step >> 63)) as u64);
        last = sequence.0;
    }
}

pub(in crate::state) fn read_sequences(reader: &mut Reader<'_>) -> Result<Vec<Sequence>, CodecError> {
    let count = reader.count(1, "sequences")?;
    let mut sequences = Vec::with_capacity(count);
    let mut last = 0u64;
    for _ in 0..count {
        let folded = reader.varint("sequence")?;
        let step = (folded >> 1) as i64 ^ -((folded & 1) as i64);
        last = last.wrapping_add(step as u64);
        sequences.push(Sequence(last));
    }
    Ok(sequences)
}

pub(in crate::state) fn put_ids(out: &mut Vec<u8>, ids: &[u32]) {
    put_varint(out, ids.len() as u64);
    for id in ids {
        put_varint(out, u64::from(*id));
    }
}

pub(in crate::state) fn read_ids(reader: &mut Reader<'_>) -> Result<Vec<u32>, CodecError> {
    let count = reader.count(1, "subscription identifiers")?;
    (0..count)
        .map(|_| reader.varint_u32("subscription identifier"))
        .collect()
}

pub(in crate::state) fn put_share(out: &mut Vec<u8>, share: &ShareKey) {
    put_str(out, &share.name);
    put_str(out, &share.filter);
}

pub(in crate::state) fn read_share(reader: &mut Reader<'_>) -> Result<ShareKey, CodecError> {
    Ok(ShareKey {
        name: reader.str("share name")?,
        filter: reader.str("share filter")?,
    })
}

pub(in crate::state) fn put_queue(out: &mut Vec<u8>, queue: &TargetQueue) {
    match queue {
        TargetQueue::Session(session) => {
            out.push(0);
            put_session(out, *session);
        }
        TargetQueue::Share(share) => {
            out.push(1);
            put_share(out, share);
        }
        TargetQueue::Node(node, incarnation) => {
            out.push(2);
            put_start(out, *node, *incarnation);
        }
    }
}

pub(in crate::state) fn read_queue(reader: &mut Reader<'_>) -> Result<TargetQueue, CodecError> {
    match reader.u8("queue kind")? {
        0 => read_session(reader).map(TargetQueue::Session),
        1 => read_share(reader).map(TargetQueue::Share),
        2 => read_start(reader).map(|(node, incarnation)| TargetQueue::Node(node, incarnation)),
        tag => Err(CodecError::Tag {
            what: "queue kind",
            tag,
        }),
    }
}

const TARGET_SHARE_BIT: u8 = 1 << 3;
const TARGET_IDS_BIT: u8 = 1 << 4;
const TARGET_REPLAYED_BIT: u8 = 1 << 5;
const TARGET_NODE_BIT: u8 = 1 << 6;
const TARGET_BITS: u8 =
    QOS_BITS | RETAIN_BIT | TARGET_SHARE_BIT | TARGET_IDS_BIT | TARGET_REPLAYED_BIT | TARGET_NODE_BIT;
/// Flags, and a share key of two empty strings or a node's start.
pub(super) const TARGET_BYTES_MIN: usize = 3;

pub(in crate::state) fn put_target(out: &mut Vec<u8>, target: TargetRef<'_>) {
    let mut flags = target.qos as u8;
    if target.retain {
        flags |= RETAIN_BIT;
    }
    if !target.subscription_ids.is_empty() {
        flags |= TARGET_IDS_BIT;
    }
    if target.replayed {
        flags |= TARGET_REPLAYED_BIT;
    }
    match target.queue {
        TargetQueue::Session(session) => {
            out.push(flags);
            put_session(out, *session);
        }
        TargetQueue::Share(share) => {
            out.push(flags | TARGET_SHARE_BIT);
            put_share(out, share);
        }
        TargetQueue::Node(node, incarnation) => {
            out.push(flags | TARGET_NODE_BIT);
            put_start(out, *node, *incarnation);
        }
    }
    if !target.subscription_ids.is_empty() {
        put_ids(out, target.subscription_ids);
    }
}

pub(in crate::state) fn read_target(reader: &mut Reader<'_>) -> Result<Target, CodecError> {
    let flags = reader.u8("target flags")?;
    if flags & !TARGET_BITS != 0 {
        return Err(CodecError::Invalid("target flags"));
    }
    let queue = match flags & (TARGET_SHARE_BIT | TARGET_NODE_BIT) {
        0 => TargetQueue::Session(read_session(reader)?),
        TARGET_SHARE_BIT => TargetQueue::Share(read_share(reader)?),
        TARGET_NODE_BIT => {
            let (node, incarnation) = read_start(reader)?;
            TargetQueue::Node(node, incarnation)
        }
        _ => return Err(CodecError::Invalid("target flags")),
    };
    let subscription_ids = match flags & TARGET_IDS_BIT {
        0 => Vec::new(),
        _ => read_ids(reader)?,
    };
    Ok(Target {
        queue,
        qos: read_qos(flags)?,
        retain: flags & RETAIN_BIT != 0,
        replayed: flags & TARGET_REPLAYED_BIT != 0,
        subscription_ids,
    })
}

const NO_LOCAL_BIT: u8 = 1 << 2;
const RETAIN_AS_PUBLISHED_BIT: u8 = 1 << 3;
const RETAIN_HANDLING_SHIFT: u8 = 4;

/// The byte of the SUBSCRIBE packet [MQTT-3.8.3.1].
pub(crate) fn options_byte(options: &SubscriptionOptions) -> u8 {
    let mut byte = options.qos as u8 | (options.retain_handling as u8) << RETAIN_HANDLING_SHIFT;
    if options.no_local {
        byte |= NO_LOCAL_BIT;
    }
    if options.retain_as_published {
        byte |= RETAIN_AS_PUBLISHED_BIT;
    }
    byte
}

pub(crate) fn read_options(byte: u8) -> Result<SubscriptionOptions, CodecError> {
    let retain_handling = match byte >> RETAIN_HANDLING_SHIFT {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(CodecError::Invalid("subscription options")),
    };
    Ok(SubscriptionOptions {
        qos: read_qos(byte)?,
        no_local: byte & NO_LOCAL_BIT != 0,
        retain_as_published: byte & RETAIN_AS_PUBLISHED_BIT != 0,
        retain_handling,
    })
}

/// An empty filter, options, no identifier.
pub(in crate::state) const SUBSCRIPTION_BYTES_MIN: usize = 3;

fn put_subscription(out: &mut Vec<u8>, subscription: &Subscription) {
    put_str(out, &subscription.filter);
    out.push(options_byte(&subscription.options));
    put_option(out, subscription.subscription_id);
}

pub(in crate::state) fn put_subscriptions(out: &mut Vec<u8>, subscriptions: &[Subscription]) {
    put_varint(out, subscriptions.len() as u64);
    for subscription in subscriptions {
        put_subscription(out, subscription);
    }
}

pub(in crate::state) fn read_subscription(reader: &mut Reader<'_>) -> Result<Subscription, CodecError> {
    Ok(Subscription {
        filter: reader.str("filter")?,
        options: read_options(reader.u8("subscription options")?)?,
        subscription_id: reader.option("subscription identifier")?,
    })
}

pub(in crate::state) fn put_source(out: &mut Vec<u8>, source: &RetainedSource) {
    put_varint(out, u64::from(source.group.0));
    put_varint(out, source.index);
    put_varint(out, u64::from(source.position));
}

pub(in crate::state) fn read_source(reader: &mut Reader<'_>) -> Result<RetainedSource, CodecError> {
    Ok(RetainedSource {
        group: GroupId(reader.varint_u16("group")?),
        index: reader.varint("index")?,
        position: reader.varint_u32("position")?,
    })
}

pub(in crate::state) fn put_will(out: &mut Vec<u8>, will: &WillMessage) {
    put_varint(out, u64::from(will.delay_secs));
    put_message(out, &will.message);
}

pub(in crate::state) fn read_will(reader: &mut Reader<'_>) -> Result<WillMessage, CodecError> {
    let delay_secs = reader.varint_u32("will delay")?;
    Ok(WillMessage {
        message: read_message(reader)?,
        delay_secs,
    })
}
