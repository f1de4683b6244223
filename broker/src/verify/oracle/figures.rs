//! The figures of a run, as they stand in the report.

use std::collections::BTreeMap;

use serde::Serialize;

/// What was counted. The first group is fixed: scripts read these names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Figures {
    /// Messages of the main stream that got PUBACK or PUBREC.
    pub(crate) acknowledged: u64,
    /// First arrivals of messages of the main stream, over all their subscribers.
    pub(crate) delivered: u64,
    /// Acknowledged messages that did not arrive, over all their subscribers, without those dropped by policy.
    pub(crate) lost: u64,
    /// Messages of QoS 2 that arrived after they had arrived.
    pub(crate) duplicates_qos2: u64,
    /// First arrivals behind a later message of the same publisher.
    pub(crate) order_violations: u64,
    /// Readers of retained topics that got an older value than promised, or none.
    pub(crate) stale_retained: u64,
    /// Wills that did not come.
    pub(crate) wills_missing: u64,
    /// Wills that came once more than they should.
    pub(crate) wills_doubled: u64,
    /// Acknowledged messages that did not arrive because the broker dropped them by a stated policy, by its metrics.
    pub(crate) dropped_by_policy: u64,
    /// The longest time from the first sending of a message of the main stream to its acknowledgement.
    pub(crate) longest_wait_ms: u64,

    /// When the message of the longest wait was first sent.
    pub(crate) longest_wait_at_ms: u64,
    /// Sessions that the broker had, and did not have when their client came back.
    pub(crate) sessions_lost: u64,
    /// Wills that came although their client had left in order or come back in time.
    pub(crate) wills_unwanted: u64,
    /// Acknowledged messages to a shared group that reached no member.
    pub(crate) shared_lost: u64,
    /// Messages of QoS 2 to a shared group that arrived after they had arrived at a member.
    pub(crate) shared_duplicates_qos2: u64,
    /// Messages that arrived damaged, at the wrong place, or that nobody sent.
    pub(crate) corrupted: u64,
    /// Packets that the standard does not allow the broker to send.
    pub(crate) protocol_errors: u64,

    /// Messages of the main stream that were sent, however often.
    pub(crate) sent: u64,
    /// Messages, of whatever kind, that got a reason code of 0x80 or above.
    pub(crate) refused: u64,
    /// The same by reason code.
    pub(crate) refused_by_reason: BTreeMap<String, u64>,
    /// Messages of QoS 2 that were under way when a publisher lost its session.
    pub(crate) unknown: u64,
    /// Messages of the main stream that had no answer at the end.
    pub(crate) unacknowledged: u64,
    /// Messages of QoS 1 that arrived again, which is allowed.
    pub(crate) duplicates_qos1: u64,
    /// Arrivals out of order that may be due to a refusal.
    pub(crate) order_unjudged: u64,
    /// Values of retained topics that were acknowledged.
    pub(crate) retained_acknowledged: u64,
    /// Readers of retained topics that were judged.
    pub(crate) retained_reads: u64,
    /// Wills that had to come.
    pub(crate) wills_due: u64,
    /// Wills that came.
    pub(crate) wills_delivered: u64,
    /// Messages to shared groups that were acknowledged.
    pub(crate) shared_acknowledged: u64,
    /// Messages to shared groups that arrived at a member.
    pub(crate) shared_delivered: u64,
    /// Messages of QoS 1 to a shared group that arrived again, which is allowed.
    pub(crate) shared_duplicates_qos1: u64,
    /// Connections opened after the first of each durable client.
    pub(crate) reconnects: u64,
}

impl Figures {
    /// What breaks the promise, by name.
    pub(crate) fn violations(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = [
            ("lost", self.lost),
            ("duplicates_qos2", self.duplicates_qos2),
            ("order_violations", self.order_violations),
            ("stale_retained", self.stale_retained),
            ("wills_missing", self.wills_missing),
            ("wills_doubled", self.wills_doubled),
            ("sessions_lost", self.sessions_lost),
            ("wills_unwanted", self.wills_unwanted),
            ("shared_lost", self.shared_lost),
            ("shared_duplicates_qos2", self.shared_duplicates_qos2),
            ("corrupted", self.corrupted),
            ("protocol_errors", self.protocol_errors),
        ];
        counts.into_iter().filter(|(_, count)| *count > 0)
    }

    /// Moves what the broker dropped by its policy out of what was lost.
    pub(crate) fn excuse(&mut self, dropped: u64) {
        let of_stream = dropped.min(self.lost);
        let of_shared = (dropped - of_stream).min(self.shared_lost);
        self.lost -= of_stream;
        self.shared_lost -= of_shared;
        self.dropped_by_policy += of_stream + of_shared;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_excuses_no_more_than_it_dropped() {
        let mut figures = Figures {
            lost: 5,
            shared_lost: 2,
            ..Figures::default()
        };
        figures.excuse(6);
        assert_eq!(
            (figures.lost, figures.shared_lost, figures.dropped_by_policy),
            (0, 1, 6)
        );
        figures.excuse(6);
        assert_eq!((figures.shared_lost, figures.dropped_by_policy), (0, 7));
        assert_eq!(figures.violations().count(), 0);
    }
}
