//! Publishes whose targets come in several commands (R7).
//!
//! One entry that names a hundred thousand queues would hold up all that waits behind it. Its proposer sorts the targets
//! by their queues and cuts the list:
//!
//! ```text
//!   PublishFirst  message, targets              ──>  Begun
//!   PublishMore   after: last target before     ──>  Done
//!   PublishMore   after: last target before, last ──>  Published, summed up over all parts
//! ```
//!
//! All parts may be proposed at once, in order. A part names its publish by the origin, and where the origin does not
//! tell publishes apart by the number that its proposer gave to the first part. It also names the target that the one
//! before it ended with: where that was not reached, a part has got lost, and this one is refused. So the last part
//! concludes a publish only if all went well.
//!
//! Until then the group remembers up to which target the publish has come, and holds the message. A publish of QoS 2 is
//! sent again by its client until it is answered, a will is published by leader after leader: each sends all parts again,
//! cut as it likes or as a whole, and targets up to that one are passed over. The packet identifier counts as received,
//! and the will as published, with the last part, so that neither is taken for done before. Any other publish belongs to
//! the start of the node that proposes it, and to nobody after.
//!
//! What is under way ends without a last part: at QoS 2 with its session or the release of the identifier; a will when
//! its group forgets it; any other with the loss of its start, or with the first part that is refused, as all are once
//! the connection is not the current one (R9).
//!
//! Invariants: what is under way holds one reference to its message; the session of an identifier exists and has not
//! received it, a will is still to be published, a start was not declared lost.

use std::collections::BTreeMap;
use std::ops::Bound;

use quorate_proto::codec::PacketId;

use super::codec::{CodecError, Reader, put_bool, put_queue, put_varint, read_queue};
use super::messages::{MessageKey, Messages, Slot};
use super::records::{Dirty, Key, KeyReader, Kind, RecordSink};
use super::{Batch, Epoch, NodeId, NodeIncarnation, Origin, SessionId, Target, TargetQueue};

/// Names a publish under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum PartsKey {
    /// A QoS 2 message of a session, from whichever connection.
    Received(SessionId, PacketId),
    /// A will of this group.
    Will(SessionId, Epoch),
    /// A will of a live group.
    LiveWill(SessionId, Epoch),
    /// Any other, by who proposes it.
    Proposed(NodeId, NodeIncarnation, u64),
}

impl PartsKey {
    pub(super) fn new(origin: &Origin, batch: &Batch, number: u64) -> Self {
        Self::lasting(origin).unwrap_or(Self::Proposed(batch.node, batch.incarnation, number))
    }

    /// The name of what others than its proposer may go on with.
    pub(super) fn lasting(origin: &Origin) -> Option<Self> {
        match *origin {
            Origin::Session {
                session, packet_id, ..
            } => packet_id.map(|packet_id| Self::Received(session, packet_id)),
            Origin::Will { session, epoch } => Some(Self::Will(session, epoch)),
            Origin::LiveWill { session, epoch } => Some(Self::LiveWill(session, epoch)),
            Origin::Live { .. } | Origin::Server => None,
        }
    }

    fn record(self) -> Key {
        let key = Key::new(Kind::Parts);
        match self {
            Self::Received(session, packet_id) => key.u8(0).session(session).u16(packet_id.get()),
            Self::Will(session, epoch) => key.u8(1).session(session).u32(epoch.0),
            Self::LiveWill(session, epoch) => key.u8(2).session(session).u32(epoch.0),
            Self::Proposed(node, incarnation, number) => key.u8(3).u64(node.0).u64(incarnation.0).u64(number),
        }
    }

    pub(super) fn read(key: &mut KeyReader<'_>) -> Result<Self, CodecError> {
        match key.u8()? {
            0 => {
                let (session, packet_id) = (key.session()?, key.u16()?);
                let packet_id = PacketId::new(packet_id).ok_or(CodecError::Invalid("packet identifier"))?;
                Ok(Self::Received(session, packet_id))
            }
            1 => Ok(Self::Will(key.session()?, Epoch(key.u32()?))),
            2 => Ok(Self::LiveWill(key.session()?, Epoch(key.u32()?))),
            3 => {
                let start = (NodeId(key.u64()?), NodeIncarnation(key.u64()?));
                Ok(Self::Proposed(start.0, start.1, key.u64()?))
            }
            tag => Err(CodecError::Tag {
                what: "publish under way",
                tag,
            }),
        }
    }
}

/// How far a publish has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Progress {
    /// Targets up to this one have had their turn.
    up_to: Option<TargetQueue>,
    /// Targets that got a reference.
    pub(super) stored: u32,
    /// Targets whose queue was full.
    pub(super) refused: u32,
    /// Others than the targets take the message, so it is not turned away where all queues are full.
    pub(super) taken: bool,
}

impl Progress {
    /// Whether a target had its turn in a part before.
    pub(super) fn has_passed(&self, queue: &TargetQueue) -> bool {
        self.up_to.as_ref().is_some_and(|up_to| queue <= up_to)
    }

    /// These targets have had their turn.
    pub(super) fn advance(&mut self, targets: &[Target]) {
        let last = targets.iter().map(|target| &target.queue).max();
        if self.up_to.as_ref() < last {
            self.up_to = last.cloned();
        }
    }

    pub(super) fn is_turned_away(&self) -> bool {
        self.refused > 0 && self.stored == 0 && !self.taken
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_varint(out, u64::from(self.stored));
        put_varint(out, u64::from(self.refused));
        put_bool(out, self.taken);
        put_bool(out, self.up_to.is_some());
        if let Some(up_to) = &self.up_to {
            put_queue(out, up_to);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            stored: reader.varint_u32("stored")?,
            refused: reader.varint_u32("refused")?,
            taken: reader.bool("taken")?,
            up_to: match reader.bool("whether there is a target")? {
                false => None,
                true => Some(read_queue(reader)?),
            },
        })
    }
}

/// A publish of which parts are missing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct UnderWay {
    /// The message, with the reference that holds it.
    pub(super) slot: Slot,
    pub(super) progress: Progress,
}

/// All publishes under way.
#[derive(Debug, Default)]
pub(super) struct Parts {
    under_way: BTreeMap<PartsKey, UnderWay>,
    dirty: Dirty<PartsKey>,
}

impl Parts {
    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }

    /// Whether a publish is under way.
    pub(super) fn contains(&self, key: PartsKey) -> bool {
        self.under_way.contains_key(&key)
    }

    /// Whether a publish is under way, and has come as far as to `last`.
    pub(super) fn has_reached(&self, key: PartsKey, last: Option<&TargetQueue>) -> bool {
        self.under_way
            .get(&key)
            .is_some_and(|under_way| under_way.progress.up_to.as_ref() >= last)
    }

    /// Wills of live groups, behind `after`, in order.
    pub(super) fn live_wills(
        &self,
        after: Option<(SessionId, Epoch)>,
    ) -> impl Iterator<Item = (SessionId, Epoch)> {
        let first = PartsKey::LiveWill(SessionId(0), Epoch(0));
        let start = after.map_or(Bound::Included(first), |(session, epoch)| {
            Bound::Excluded(PartsKey::LiveWill(session, epoch))
        });
        let wills = self.under_way.range((start, Bound::Unbounded));
        wills.map_while(|(key, _)| match key {
            PartsKey::LiveWill(session, epoch) => Some((*session, *epoch)),
            _ => None,
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PartsKey, &UnderWay)> {
        self.under_way.iter().map(|(key, under_way)| (*key, under_way))
    }

    pub(super) fn insert(&mut self, key: PartsKey, under_way: UnderWay) {
        self.under_way.insert(key, under_way);
        self.dirty.insert(key);
    }

    /// Hands a publish over to whoever goes on with it, or ends it.
    pub(super) fn take(&mut self, key: PartsKey) -> Option<UnderWay> {
        let under_way = self.under_way.remove(&key)?;
        self.dirty.insert(key);
        Some(under_way)
    }

    /// Ends a publish before its last part; whether it was under way.
    pub(super) fn abandon(&mut self, key: PartsKey, messages: &mut Messages) -> bool {
        let under_way = self.take(key);
        if let Some(UnderWay { slot, .. }) = under_way {
            messages.release(slot);
        }
        under_way.is_some()
    }

    /// Ends what has come from a session at QoS 2.
    pub(super) fn abandon_session(&mut self, session: SessionId, messages: &mut Messages) {
        let of_session = [PacketId::MIN, PacketId::MAX].map(|id| PartsKey::Received(session, id));
        self.abandon_range(of_session, messages);
    }

    /// Ends what the starts of a node up to `incarnation` have begun and nobody else goes on with.
    pub(super) fn abandon_node(
        &mut self,
        node: NodeId,
        incarnation: NodeIncarnation,
        messages: &mut Messages,
    ) {
        let first = PartsKey::Proposed(node, NodeIncarnation(0), 0);
        let last = PartsKey::Proposed(node, incarnation, u64::MAX);
        self.abandon_range([first, last], messages);
    }

    fn abandon_range(&mut self, [first, last]: [PartsKey; 2], messages: &mut Messages) {
        while let Some((key, _)) = self.under_way.range(first..=last).next() {
            self.abandon(*key, messages);
        }
    }

    /// The starts of nodes that something under way belongs to.
    pub(super) fn starts(&self) -> impl Iterator<Item = (NodeId, NodeIncarnation)> {
        let first = PartsKey::Proposed(NodeId(0), NodeIncarnation(0), 0);
        self.under_way.range(first..).filter_map(|(key, _)| match key {
            PartsKey::Proposed(node, incarnation, _) => Some((*node, *incarnation)),
            _ => None,
        })
    }

    pub(super) fn drain(&mut self, messages: &Messages, sink: &mut impl RecordSink) {
        for key in self.dirty.take() {
            match self.under_way.get(&key) {
                Some(under_way) => sink.put(key.record(), |out| under_way.write(messages, out)),
                None => sink.delete(key.record()),
            }
        }
    }

    pub(super) fn write_all(&self, messages: &Messages, sink: &mut impl RecordSink) {
        for (key, under_way) in &self.under_way {
            sink.put(key.record(), |out| under_way.write(messages, out));
        }
    }

    /// Adds a stored publish, whose message has the reference for it.
    pub(super) fn load(&mut self, key: PartsKey, slot: Slot, progress: Progress) {
        self.under_way.insert(key, UnderWay { slot, progress });
    }
}

impl UnderWay {
    fn write(&self, messages: &Messages, out: &mut Vec<u8>) {
        messages.key(self.slot).write(out);
        self.progress.write(out);
    }
}

/// Which message a stored publish has, and how far it has come.
pub(super) fn read(reader: &mut Reader<'_>) -> Result<(MessageKey, Progress), CodecError> {
    Ok((MessageKey::read(reader)?, Progress::read(reader)?))
}
