//! What applying a batch answers to its proposer.

use quorate_proto::codec::PacketId;

use super::{Epoch, Owner, SessionId};

/// Answer to a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum BatchOutcome {
    /// Applied (or a repeat of the last batch): one outcome per command, in order.
    Applied(Vec<Outcome>),
    /// Not applied: its number is below the last one of its proposer (R10), or the proposer was removed (R1).
    Refused,
}

/// Answer to a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Done, or had been done before.
    Done,
    /// Answer to `OpenSession`.
    Opened {
        /// The session.
        session: SessionId,
        /// The new connection.
        epoch: Epoch,
        /// Session present.
        present: bool,
        /// Who held the session's connection until now, if anybody.
        previous: Option<Owner>,
        /// Inbound QoS 2 packet identifiers received and not released.
        inbound: Vec<PacketId>,
        /// Retained messages are still to come for its subscriptions (R24).
        replaying: bool,
    },
    /// Answer to `Subscribe`, one per subscription.
    Subscribed(Vec<SubscribeResult>),
    /// Answer to `Unsubscribe`: whether each subscription existed.
    Unsubscribed(Vec<bool>),
    /// Answer to `Publish`, and to the last part of a publish in parts, summed up over all of them.
    Published {
        /// The inbound QoS 2 identifier was known: nothing was stored again.
        duplicate: bool,
        /// Targets that hold a reference now.
        stored: u32,
        /// Targets whose queue was full.
        refused: u32,
    },
    /// Answer to `Publish`, and to the parts of one: the inbound QoS 2 identifier was known, and its retained write is on its
    /// way. Nothing was stored again.
    Repeated {
        /// Index of the entry that brought the message: its retained write stands there.
        index: u64,
        /// Position of its command in the batch.
        position: u32,
        /// Others have the message, whatever becomes of the write.
        kept: bool,
    },
    /// Answer to `PublishFirst`: the message is held for the parts to come.
    Begun {
        /// Index of the entry that brought the message: of an earlier attempt where this one goes on with it.
        index: u64,
        /// Position of its command in the batch.
        position: u32,
    },
    /// Answer to `Release`: whether the identifier was known.
    Released(bool),
    /// The command was not carried out and will not be.
    Refused(RefusedReason),
}

/// What became of one subscription of a SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscribeResult {
    /// New.
    Added,
    /// Replaced one with the same filter.
    Replaced,
    /// The session has too many.
    LimitReached,
}

/// Why a command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedReason {
    /// (session, epoch) is not the current connection (R9); the will is not due or was published (R31); the start of the
    /// node is lost; a part of the publish is missing (R7); what became of a retained write is not remembered; a step of a
    /// replay has not its turn, or not any more (R24).
    Fenced,
    /// A limit on sessions or retained messages is reached (R30).
    LimitReached,
    /// Too many retained messages wait for their topics' groups: nothing of this one is stored, for nobody.
    OutboxFull,
}
