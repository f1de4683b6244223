//! The session state machine of the server's side of one network connection, pure: no socket, clock, task or random
//! source.
//!
//! ```text
//!   frame ──> Connection::handle_frame ──> bytes in `out` + one Action (or a Close)
//!                                            │
//!   host does it: authenticate, open, route, commit
//!                                            │
//!   outcome ─> Connection::handle_* ───────> bytes in `out`
//!   message ─> Connection::deliver* ───────> bytes in `out`, or queued, or dropped with the reason
//! ```
//!
//! [`Connection`] is what lives as long as one network connection and no longer: aliases, windows, keep alive, the
//! order of acknowledgements. What survives a reconnect (subscriptions, undelivered messages, inbound QoS 2
//! identifiers) belongs to the host, which hands it in with [`Opened`] and [`Connection::deliver_tracked`].
//!
//! Whatever is slow leaves as an [`Action`], which borrows from the frame alone, and comes back by its token. Order
//! of calls:
//!
//! 1. [`Connection::handle_frame`] with CONNECT gives [`Action::Authenticate`]; until the decision is in,
//!    [`Connection::ready_for_frames`] is false and the host keeps bytes unread.
//! 2. [`Connection::handle_authenticated`]: accepted, it gives [`Action::Open`].
//! 3. [`Connection::handle_opened`] (or [`Connection::handle_refused`]) answers with CONNACK.
//! 4. Frames, outcomes and deliveries in any order, while [`Connection::ready_for_frames`].
//! 5. On an `Err(Close)` of any call: [`Connection::close`], flush, close the socket, [`Connection::farewell`].

mod acknowledgements;
mod action;
mod aliases;
mod authentication;
mod close;
mod connection;
mod delivery;
mod exchanges;
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod in_flight;
mod inbound;
mod instant;
mod keep_alive;
mod lifecycle;
mod local_ids;
mod outbound;
mod packet_id_map;
mod peer;
mod queue;
mod settings;
mod subscribe;

#[cfg(test)]
mod tests;

pub use action::{
    Action, AuthenticationRequest, Credentials, Decision, OpenRequest, Opened, PublishOutcome,
    PublishRequest, PublishToken, SessionWill, Share, SubscribeEntry, SubscribeRequest, TopicRef,
    UnsubscribeEntry, UnsubscribeRequest,
};
pub use close::{Close, Farewell};
pub use connection::Connection;
pub use delivery::{
    DeliverResult, Delivery, DeliveryPhase, DeliveryToken, DropReason, PacketIdSource, QueueDrops,
    TrackedDelivery,
};
pub use instant::Instant;
pub use settings::ConnectionSettings;
