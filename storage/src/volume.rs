//! A data directory: its lock, identity, incarnation and format.

/// Random number of a data directory, drawn when it is created. Mixed into the checksums of its log, so that no
/// other directory's records, and no client's payload, can pass for records of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(pub [u8; 16]);
