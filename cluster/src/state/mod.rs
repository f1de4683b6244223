//! The replicated state of one Raft group: a pure function of the entries of its log.
//!
//! A log entry is a [`Batch`] of commands ([`codec`]). [`GroupState::apply`] carries it out, answers its proposer with
//! a [`BatchOutcome`], and tells the node what changed with [`Event`]s. What the group holds is cut by subject, one
//! file and one struct each, which know nothing of each other:
//!
//! ```text
//!              entry ── Batch::decode ──> GroupState::apply ──> BatchOutcome, events
//!                                              │
//!   lifecycle: sessions, subscriptions,  <─────┼─────>  publish: parts, live_wills
//!              replays, inbound, wills,        │        delivery: messages, queues (queue),
//!              proposers                    timers               outbox, retained
//!                                              │
//!   read: views for the node            persist: take_changes ──> store ──> load
//! ```
//!
//! Invariants: apply reads nothing but the state and the entry (R28), so all replicas go the same way, whatever hash
//! seeds and memory layouts they have; a checkpoint and the log behind it give the same state as the whole log.

pub mod codec;
mod command;
mod delivery;
mod event;
mod group;
mod inbound;
mod lifecycle;
mod live_wills;
mod messages;
mod outbox;
mod outcome;
mod parts;
mod persist;
mod proposers;
mod publish;
mod queue;
mod queues;
mod read;
mod records;
mod replays;
mod retained;
mod sessions;
mod subscriptions;
#[cfg(test)]
mod tests;
mod timers;
mod wills;

pub use codec::{
    BatchHeader, CodecError, MessageParts, TargetRef, batch_proposer, encode_publish, encode_publish_first,
    encode_publish_more, stamp_batch,
};
pub use command::{
    Batch, ClientId, Command, Epoch, GiveId, GroupTime, NodeId, NodeIncarnation, Origin, Owner,
    PublishCommand, PublishPart, QueueLimits, RetainedSource, Sequence, SessionId, SessionLimits,
    ShareHolder, ShareKey, Subscription, Target, TargetQueue, WillMessage,
};
pub use event::{Event, RetainedTaken};
pub use group::GroupState;
pub use messages::{StoredMessage, counted_bytes};
pub use outcome::{BatchOutcome, Outcome, RefusedReason, SubscribeResult};
pub use persist::StateError;
pub use read::{
    Counts, DueWill, OutboxWrite, PulledReference, QueueView, RetainedPage, RetainedView, SessionView,
};
pub use replays::{PendingReplay, ReplayCursor, ReplayId, ReplayStep, wants_retained};

/// For lookups only: whatever iterates sorts, or does not care, so that replicas agree. Seeded at random because
/// clients choose some of the keys.
type HashMap<K, V> = hashbrown::HashMap<K, V, foldhash::fast::RandomState>;
type HashSet<K> = hashbrown::HashSet<K, foldhash::fast::RandomState>;
