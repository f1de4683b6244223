//! What became of a batch: as the state says it, and as its proposer is told.

use crate::state::BatchOutcome;

/// What applying a batch did.
#[derive(Clone, Debug, PartialEq)]
pub struct AppliedBatch {
    /// Its outcome.
    pub outcome: BatchOutcome,
    /// Index of the entry with which it had its effect: an earlier one for a repeat, none where that is not known.
    pub first_index: Option<u64>,
}

/// A batch that was proposed and applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposed {
    /// Its outcome.
    pub outcome: BatchOutcome,
    /// Index of the entry that the outcome came with, which may be that of a repeat.
    pub index: u64,
    /// As [`AppliedBatch::first_index`].
    pub first_index: Option<u64>,
}
