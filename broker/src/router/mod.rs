//! Who gets a message: the routes of all sessions, and plans made from them.
//!
//! [`RouteTable`] is fed by what apply did ([`quorate_cluster::state::Event`]) and read by the workers, which keep
//! the [`Plan`] of a topic until the table's epoch changes. So the publish path takes no lock in the usual case.

mod early;
mod filters;
mod plan;
mod routes;
mod session;
mod share;

pub use plan::{Plan, PlannedRemote, PlannedShare, PlannedTarget, Terms};
pub use routes::{AttachError, RouteTable, Router};
pub use session::{QueueGauge, SessionRoute};
pub(crate) use share::split_share;
