//! What one publisher sent, and what the broker said to it.

use quorate_proto::codec::QoS;

use super::numbers::Numbers;

/// A publisher stops when its acknowledged messages have this many gaps, left by messages that were refused or whose
/// fate is unknown: what is kept in memory stays bounded.
const GAPS_MAX: usize = 100_000;

/// The messages of one publisher, numbered from 1.
///
/// Each number is open from its first sending until exactly one of [`Outgoing::acknowledge`], [`Outgoing::refuse`] and
/// [`Outgoing::give_up`] was called for it.
#[derive(Debug)]
pub(crate) struct Outgoing {
    qos: QoS,
    last_sent: u64,
    last_resent: u64,
    acknowledged: Numbers,
    /// Messages of QoS 2 that were under way when the publisher lost its session. They may arrive once or never, as
    /// they are not sent again.
    unknown: Numbers,
    refused: u64,
    open: u64,
}

impl Outgoing {
    pub(super) fn new(qos: QoS) -> Self {
        Self {
            qos,
            last_sent: 0,
            last_resent: 0,
            acknowledged: Numbers::default(),
            unknown: Numbers::default(),
            refused: 0,
            open: 0,
        }
    }

    /// The number of the next message.
    pub(super) const fn send(&mut self) -> u64 {
        self.last_sent += 1;
        self.open += 1;
        self.last_sent
    }

    pub(super) fn resend(&mut self, number: u64) {
        self.last_resent = self.last_resent.max(number);
    }

    pub(super) fn acknowledge(&mut self, number: u64) {
        if self.acknowledged.insert(number) {
            self.close();
        }
    }

    pub(super) fn refuse(&mut self) {
        self.refused += 1;
        self.close();
    }

    pub(super) fn give_up(&mut self, number: u64) {
        if self.unknown.insert(number) {
            self.close();
        }
    }

    fn close(&mut self) {
        debug_assert!(self.open > 0, "a message is answered that is not open: {self:?}");
        self.open = self.open.saturating_sub(1);
    }

    /// Whether another message can be kept account of.
    pub(super) fn has_room(&self) -> bool {
        self.acknowledged.range_count() < GAPS_MAX && self.unknown.range_count() < GAPS_MAX
    }

    pub(crate) const fn qos(&self) -> QoS {
        self.qos
    }

    pub(super) const fn last_sent(&self) -> u64 {
        self.last_sent
    }

    /// Whether a message of this number may have been sent more than once.
    pub(super) const fn may_be_resent(&self, number: u64) -> bool {
        number <= self.last_resent
    }

    pub(super) const fn acknowledged(&self) -> &Numbers {
        &self.acknowledged
    }

    pub(super) fn is_unknown(&self, number: u64) -> bool {
        self.unknown.contains(number)
    }

    pub(super) const fn unknown(&self) -> u64 {
        self.unknown.len()
    }

    pub(super) const fn refused(&self) -> u64 {
        self.refused
    }

    /// Messages that wait for an answer.
    pub(super) const fn open(&self) -> u64 {
        self.open
    }
}
