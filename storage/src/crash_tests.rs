//! Power cuts at every disk operation: what was acknowledged is there afterwards, nothing else is, and the tests
//! themselves fail when syncs have no effect.

mod log;
mod node;
