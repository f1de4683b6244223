//! Packet identifiers of the server's own choice, and those that are derived (R24).
//!
//! A session that ends with its connection has the whole space for them, in a cycle. A durable session has the last of
//! 18 slots: the others belong to the sequences of the replication groups, so that whoever owns the session next
//! derives the same identifiers again.

use super::PacketIdSource;
use crate::codec::PacketId;

/// Identifiers of one slot.
const SLOT: u16 = 3_640;
/// Slots that belong to replication groups.
const GROUPS: u16 = 17;
/// The first identifier of the slot for deliveries without replication.
const LOCAL_FIRST: u16 = GROUPS * SLOT + 1;

/// The cycle of identifiers for deliveries without replication.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalIds {
    first: u16,
    next: u16,
}

impl Default for LocalIds {
    fn default() -> Self {
        Self { first: 1, next: 1 }
    }
}

impl LocalIds {
    /// The cycle of a session, entered at the place that `start` gives.
    pub(super) fn new(durable: bool, start: u64) -> Self {
        let first = if durable { LOCAL_FIRST } else { 1 };
        let count = u64::from(u16::MAX - first) + 1;
        Self {
            first,
            next: first + (start % count) as u16,
        }
    }

    /// The next identifier that is free; `None` if none of the cycle is.
    pub(super) fn next_free(&mut self, in_use: impl Fn(PacketId) -> bool) -> Option<PacketId> {
        for _ in self.first..=u16::MAX {
            let candidate = PacketId::new(self.next)?;
            self.next = if self.next == u16::MAX {
                self.first
            } else {
                self.next + 1
            };
            if !in_use(candidate) {
                return Some(candidate);
            }
        }
        None
    }
}

/// The identifier of the reference with this number in the sequence of a group.
pub(super) fn derived(group: u8, sequence: u64) -> PacketId {
    let group = u16::from(group);
    assert!(
        group < GROUPS,
        "replication group {group} has no slot of identifiers"
    );
    let offset = (sequence % u64::from(SLOT)) as u16;
    PacketId::MIN.saturating_add(group * SLOT + offset)
}

/// Whether an identifier is derived, where the session is durable.
pub(super) fn is_derived(packet_id: PacketId) -> bool {
    packet_id.get() < LOCAL_FIRST
}

impl PacketIdSource {
    /// The packet identifier a derived source stands for; `None` for a local one.
    pub fn derived_id(self) -> Option<PacketId> {
        match self {
            Self::Derived { group, sequence } => Some(derived(group, sequence)),
            Self::Local => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_share_the_space_without_overlap() {
        assert_eq!(LOCAL_FIRST, 61_881);
        const { assert!(u16::MAX - LOCAL_FIRST + 1 >= SLOT) };
        assert_eq!(derived(0, 0).get(), 1);
        assert_eq!(derived(0, 3_639).get(), 3_640);
        assert_eq!(derived(0, 3_640).get(), 1, "the sequence wraps within its slot");
        assert_eq!(derived(1, 0).get(), 3_641);
        assert_eq!(derived(16, 3_639).get(), 61_880);
        assert_eq!(
            derived(15, u64::MAX).get(),
            54_600 + (u64::MAX % 3_640) as u16 + 1
        );
        assert!(is_derived(derived(16, 3_639)) && !is_derived(PacketId::new(61_881).unwrap()));
    }

    #[test]
    #[should_panic(expected = "has no slot")]
    fn no_slot_for_an_eighteenth_group() {
        derived(17, 0);
    }

    #[test]
    fn cycle_comes_round_and_skips_what_is_in_use() {
        for (durable, first) in [(true, 61_881), (false, 1)] {
            let mut ids = LocalIds::new(durable, 0);
            let busy = PacketId::new(first + 1).unwrap();
            let round: Vec<u16> = (first..u16::MAX)
                .map(|_| ids.next_free(|id| id == busy).unwrap().get())
                .collect();
            assert_eq!(round[0], first);
            assert_eq!(round[1], first + 2);
            assert_eq!(round.last(), Some(&u16::MAX));
            assert_eq!(ids.next_free(|id| id == busy).unwrap().get(), first);
            assert_eq!(ids.next_free(|_| true), None);
        }
    }

    #[test]
    fn cycle_begins_where_the_host_says() {
        assert_eq!(
            LocalIds::new(true, 3_654).next_free(|_| false).unwrap().get(),
            65_535
        );
        assert_eq!(
            LocalIds::new(true, 3_655).next_free(|_| false).unwrap().get(),
            61_881
        );
        assert_eq!(
            LocalIds::new(false, 65_535).next_free(|_| false).unwrap().get(),
            1
        );
        assert_eq!(
            LocalIds::new(false, u64::MAX).next_free(|_| false).unwrap().get(),
            1
        );
    }
}
