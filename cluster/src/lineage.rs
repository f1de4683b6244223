//! Whether a start of a node runs on the volume that the node's last start ran on (R46).
//!
//! A volume that was restored from a backup, or copied, has an older log and older votes than the node has shown to the
//! others. Each start has a number, one above the last on its volume, and a random identifier; it names the
//! identifiers of the starts before it on the volume. The cluster keeps number and identifier of the start that it took
//! last. A volume that knows nothing of that one is a copy, however often it was started since.

use crate::state::NodeIncarnation;
use quorate_storage::volume::{OFFERED_STARTS_MAX, StartsFile};

/// Random identifier of a start.
pub type StartId = [u8; 16];

/// A start of a node with those before it on its volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// Number of this start.
    pub incarnation: NodeIncarnation,
    /// Its identifier.
    pub start: StartId,
    /// The last start that the cluster is known to have taken.
    pub accepted: Option<(NodeIncarnation, StartId)>,
    /// Starts behind that one which it may have taken; [`OFFERED_STARTS_MAX`] at most.
    pub offered: Vec<StartId>,
}

impl Lineage {
    /// As the volume has it.
    pub fn of(incarnation: NodeIncarnation, starts: &StartsFile) -> Self {
        let accepted = starts.accepted();
        Self {
            incarnation,
            start: starts.start(),
            accepted: accepted.map(|(incarnation, start)| (NodeIncarnation(incarnation), start)),
            offered: starts.offered().to_vec(),
        }
    }

    /// As a message names it; `None` where that is malformed.
    pub(crate) fn read(
        incarnation: u64,
        start: &[u8],
        accepted: (u64, &[u8]),
        offered: &[impl AsRef<[u8]>],
    ) -> Option<Self> {
        if offered.len() > OFFERED_STARTS_MAX {
            return None;
        }
        let accepted = match accepted {
            (_, []) => None,
            (incarnation, start) => Some((NodeIncarnation(incarnation), start.try_into().ok()?)),
        };
        let offered = offered.iter().map(|start| start.as_ref().try_into().ok());
        Some(Self {
            incarnation: NodeIncarnation(incarnation),
            start: start.try_into().ok()?,
            accepted,
            offered: offered.collect::<Option<_>>()?,
        })
    }

    /// Whether the node was started elsewhere, since or beside this one, as the start shows that the cluster took last:
    /// this volume is a copy of another, or was restored from one.
    ///
    /// What somebody knows of the cluster may be older than what this volume knows, and shows nothing then.
    pub fn is_of_a_copy(&self, last: NodeIncarnation, last_start: StartId) -> bool {
        if last == NodeIncarnation(0) {
            return false;
        }
        if last >= self.incarnation {
            return last > self.incarnation || last_start != self.start;
        }
        let accepted = self.accepted.map(|(_, start)| start);
        let is_known =
            self.offered.contains(&last_start) || accepted == Some(last_start) || last_start == self.start;
        let since = self
            .accepted
            .map_or(NodeIncarnation(0), |(incarnation, _)| incarnation);
        !is_known && last >= since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(incarnation: u64, accepted: Option<(u64, u8)>, offered: &[u8]) -> Lineage {
        Lineage {
            incarnation: NodeIncarnation(incarnation),
            start: [u8::MAX; 16],
            accepted: accepted.map(|(incarnation, start)| (NodeIncarnation(incarnation), [start; 16])),
            offered: offered.iter().map(|start| [*start; 16]).collect(),
        }
    }

    #[test]
    fn r46_a_copy_is_told_from_the_volume_that_went_on() {
        for (lineage, last, is_copy, why) in [
            (lineage(1, None, &[]), (0, 0), false, "the first start"),
            (lineage(3, None, &[1, 2]), (0, 0), false, "none was taken yet"),
            (lineage(6, Some((5, 5)), &[]), (5, 5), false, "the next one"),
            (lineage(6, Some((5, 5)), &[]), (6, 255), false, "repeated"),
            (
                lineage(9, Some((5, 5)), &[6, 7]),
                (6, 6),
                false,
                "the answer was lost",
            ),
            (
                lineage(9, Some((5, 5)), &[6, 7]),
                (7, 7),
                false,
                "the answer was lost",
            ),
            (
                lineage(99, Some((5, 5)), &[255]),
                (80, 255),
                false,
                "offered again",
            ),
            (lineage(9, Some((5, 5)), &[6]), (4, 4), false, "old news"),
            (
                lineage(6, Some((5, 5)), &[]),
                (6, 6),
                true,
                "the same number elsewhere",
            ),
            (lineage(6, Some((5, 5)), &[]), (7, 7), true, "a later start"),
            (
                lineage(8, Some((5, 5)), &[66, 77]),
                (6, 6),
                true,
                "tried again and again",
            ),
            (
                lineage(99, Some((5, 5)), &[66]),
                (6, 6),
                true,
                "tried again and again",
            ),
            (
                lineage(6, Some((5, 5)), &[]),
                (5, 50),
                true,
                "another one of that number",
            ),
            (
                lineage(2, None, &[]),
                (1, 1),
                true,
                "a copy from before the first",
            ),
        ] {
            let (incarnation, start) = (NodeIncarnation(last.0), [last.1; 16]);
            assert_eq!(lineage.is_of_a_copy(incarnation, start), is_copy, "{why}");
        }
    }

    #[test]
    fn a_lineage_that_names_too_much_is_not_read() {
        let starts = vec![[7_u8; 16]; OFFERED_STARTS_MAX + 1];
        let read = |start: &[u8], offered: &[[u8; 16]]| Lineage::read(6, start, (5, &[5; 16]), offered);
        assert_eq!(read(&[255; 16], &[[7; 16]]), Some(lineage(6, Some((5, 5)), &[7])));
        assert!(read(&[255; 16], &starts[1..]).is_some());
        assert_eq!(read(&[255; 16], &starts), None);
        assert_eq!(read(&[255; 15], &[]), None);
        assert_eq!(Lineage::read(6, &[1; 16], (5, &[5]), &starts[..0]), None);
    }
}
