//! Behaviour tests, by clause; one body runs for every version it applies to.

mod sequences;
