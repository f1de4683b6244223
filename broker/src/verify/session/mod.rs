//! What a client has to remember of a session, without socket, clock or task: messages it sends ([`Outbound`]) and
//! messages it gets ([`Inbound`]), from one connection to the next.

mod inbound;
mod outbound;

pub(super) use inbound::{Inbound, Taken};
pub(super) use outbound::{Answer, Outbound, Transmission};
