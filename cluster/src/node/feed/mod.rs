//! A group as a node knows it that has no replica of it.
//!
//! Every node routes by all sessions and subscriptions (R1), and gives out what waits for the sessions that are
//! connected to it. Where it has no replica of a group it follows one: the replica's node tells it what the group does
//! that it has to know, in the words of events, and it goes on from there as if it had applied the entries itself.
//!
//! - [`Feeds`] is the side of the replica: one buffer of items for each node that follows.
//! - [`Following`] is the side of the node without: what it was told, and how far.
//! - `run_follower` keeps a feed going, from one replica or another.
//!
//! Invariants: a feed begins with everything that the group holds of sessions and subscriptions, and what was known of
//! them before is replaced as a whole before anything is confirmed (R6). It never goes back: a new feed begins at an
//! index that is not below the one reached. Items come in the order of the log, and "applied up to" is said with or
//! after the items of that entry. A queue is told of exactly to the node that its session is connected to, and to
//! others roughly how long it is.

mod attached;
mod follower;
mod items;
mod lengths;
mod passing;
mod source;
#[cfg(test)]
mod tests;
mod told;

pub(super) use attached::Attached;
pub(super) use follower::Following;
pub(super) use source::Feeds;

use std::time::Duration;

/// A source answers after this time, also where it has nothing to tell.
const ANSWER_INTERVAL: Duration = Duration::from_millis(200);
/// A source that is silent for so long is left for another.
const SILENCE_MAX: Duration = Duration::from_millis(600);
