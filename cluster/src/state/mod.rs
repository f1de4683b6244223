//! The replicated state of one Raft group: a pure function of the entries of its log.

mod command;
mod event;
mod outcome;

pub use command::{
    Batch, ClientId, Command, Epoch, GroupTime, NodeId, NodeIncarnation, Origin, Owner, PublishCommand, QueueLimits,
    RetainedSource, Sequence, SessionId, SessionLimits, ShareKey, Subscription, Target, TargetQueue, WillMessage,
};
pub use event::Event;
pub use outcome::{BatchOutcome, Outcome, RefusedReason, SubscribeResult};
