//! The last batch of each node, so that a repeated proposal has no effect (R10).
//!
//! Invariants: one record per node, of its newest start; a start that was declared lost stays recorded as such, since
//! its proposals may still be on their way; a record holds some bytes for each command of the batch and nothing that
//! grows with what its sessions hold, so that it fits a checkpoint whatever came.

use std::collections::BTreeMap;

use super::codec::{CodecError, Reader, put_bool, put_outcomes, put_varint, read_outcomes};
use super::records::{Dirty, Key, Kind, RecordSink};
use super::{Batch, NodeId, NodeIncarnation, Outcome};

/// What is known of a node's newest start.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Proposer {
    incarnation: NodeIncarnation,
    /// This start is over: nothing of it is accepted.
    lost: bool,
    /// Last number, 0 for none.
    number: u64,
    /// What that batch was answered, without what the sessions still tell ([`remembered`]).
    outcomes: Vec<Outcome>,
    /// Index of the entry that it came with; none where that was before the state was loaded. Not part of what is
    /// replicated.
    index: Option<u64>,
}

/// What is kept of an outcome. The packet identifiers of an opened session are still in the session when the answer is
/// repeated: until then its client cannot release one. Where the session has ended by then, so has the connection that
/// would need them.
fn remembered(outcome: &Outcome) -> Outcome {
    match outcome {
        Outcome::Opened {
            session,
            epoch,
            present,
            previous,
            inbound: _,
            replaying,
        } => Outcome::Opened {
            session: *session,
            epoch: *epoch,
            present: *present,
            previous: *previous,
            inbound: Vec::new(),
            replaying: *replaying,
        },
        other => other.clone(),
    }
}

impl Proposer {
    fn write(&self, out: &mut Vec<u8>) {
        put_varint(out, self.incarnation.0);
        put_bool(out, self.lost);
        put_varint(out, self.number);
        put_outcomes(out, &self.outcomes);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            incarnation: NodeIncarnation(reader.varint("node incarnation")?),
            lost: reader.bool("lost")?,
            number: reader.varint("batch number")?,
            outcomes: read_outcomes(reader)?,
            index: None,
        })
    }
}

/// Whether a batch is to be applied.
#[derive(Debug, PartialEq)]
pub(super) enum Admission {
    New,
    /// It must not be.
    Refused,
    /// It was: this is what is [`remembered`] of the answer.
    Repeated(Vec<Outcome>),
}

/// All proposers of a group.
#[derive(Debug, Default)]
pub(super) struct Proposers {
    by_node: BTreeMap<NodeId, Proposer>,
    dirty: Dirty<NodeId>,
}

impl Proposers {
    /// Judges a batch by its number.
    ///
    /// Batches without number are the group leader's own and always admitted: a leader whose start was declared lost
    /// still has to let time pass and declare others lost until it is replaced.
    pub(super) fn admit(&self, batch: &Batch) -> Admission {
        let Some(last) = self.by_node.get(&batch.node) else {
            return Admission::New;
        };
        if batch.number == 0 || batch.incarnation > last.incarnation {
            return Admission::New;
        }
        if batch.incarnation < last.incarnation || last.lost || batch.number < last.number {
            return Admission::Refused;
        }
        if batch.number == last.number {
            return Admission::Repeated(last.outcomes.clone());
        }
        Admission::New
    }

    /// Notes what an admitted batch, of the entry at `index`, was answered.
    pub(super) fn record(&mut self, index: u64, batch: &Batch, outcomes: &[Outcome]) {
        if batch.number == 0 || self.is_lost(batch.node, batch.incarnation) {
            return;
        }
        let record = self.by_node.entry(batch.node).or_insert_with(|| Proposer {
            incarnation: batch.incarnation,
            lost: false,
            number: 0,
            outcomes: Vec::new(),
            index: None,
        });
        record.incarnation = batch.incarnation;
        record.lost = false;
        record.number = batch.number;
        record.index = Some(index);
        record.outcomes.clear();
        record.outcomes.extend(outcomes.iter().map(remembered));
        self.dirty.insert(batch.node);
    }

    /// Index of the entry that a batch was applied with, if it is its proposer's last one.
    pub(super) fn applied_at(&self, batch: &Batch) -> Option<u64> {
        let last = self.by_node.get(&batch.node)?;
        let is_last = (last.incarnation, last.number) == (batch.incarnation, batch.number);
        last.index.filter(|_| is_last && batch.number > 0)
    }

    /// Whether this start of the node was declared lost, or a newer one is known.
    pub(super) fn is_lost(&self, node: NodeId, incarnation: NodeIncarnation) -> bool {
        self.by_node.get(&node).is_some_and(|last| {
            incarnation < last.incarnation || (incarnation == last.incarnation && last.lost)
        })
    }

    /// Whether this start of the node, or one after it, was declared lost and no newer one is known: then nothing in the
    /// group may speak of its connections any more.
    pub(super) fn was_declared_lost(&self, node: NodeId, incarnation: NodeIncarnation) -> bool {
        self.by_node
            .get(&node)
            .is_some_and(|last| last.lost && incarnation <= last.incarnation)
    }

    /// The newest start of each node, and whether it was declared lost.
    pub(super) fn starts(&self) -> impl Iterator<Item = (NodeId, NodeIncarnation, bool)> {
        self.by_node
            .iter()
            .map(|(node, last)| (*node, last.incarnation, last.lost))
    }

    /// Declares the starts of a node up to this one lost.
    pub(super) fn lose(&mut self, node: NodeId, incarnation: NodeIncarnation) {
        if self
            .by_node
            .get(&node)
            .is_some_and(|last| last.incarnation > incarnation)
        {
            return;
        }
        self.by_node.insert(
            node,
            Proposer {
                incarnation,
                lost: true,
                number: 0,
                outcomes: Vec::new(),
                index: None,
            },
        );
        self.dirty.insert(node);
    }

    pub(super) fn drain(&mut self, sink: &mut impl RecordSink) {
        for node in self.dirty.take() {
            if let Some(proposer) = self.by_node.get(&node) {
                sink.put(Key::new(Kind::Proposer).u64(node.0), |out| proposer.write(out));
            }
        }
    }

    pub(super) fn write_all(&self, sink: &mut impl RecordSink) {
        for (node, proposer) in &self.by_node {
            sink.put(Key::new(Kind::Proposer).u64(node.0), |out| proposer.write(out));
        }
    }

    pub(super) fn load(&mut self, node: NodeId, proposer: Proposer) {
        self.by_node.insert(node, proposer);
    }
}
