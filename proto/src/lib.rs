//! MQTT wire formats and rules, pure: no socket, no clock, no task, no random source.
//!
//! - [`codec`]: the packets of MQTT 3.1, 3.1.1 and 5 as one 5-shaped model; bytes in, packets out, and back.
//! - [`message`]: a published message as the router, the queues and the log hold it.
//! - [`topic`]: topic names, filters, shared subscriptions, the subscription trie.
//! - [`session`]: the session state machine of the server's side of one client.

pub mod codec;
mod fuzz_input;
pub mod message;
pub mod session;
pub mod topic;
