//! A map from packet identifiers, for the few that are in use at a time.
//!
//! A deque indexed by identifier would stretch over the whole range as soon as one exchange lags behind, and the
//! identifiers of a durable session are spread over 17 slots anyway. This map takes memory for what is in use, none
//! while empty from the start, and nothing is allocated per message once it has grown to the window.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::codec::PacketId;

/// Values by packet identifier.
#[derive(Debug)]
pub(super) struct PacketIdMap<T> {
    table: HashTable<(PacketId, T)>,
}

impl<T> Default for PacketIdMap<T> {
    fn default() -> Self {
        Self {
            table: HashTable::new(),
        }
    }
}

impl<T: Copy> PacketIdMap<T> {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    #[inline]
    pub(super) fn contains(&self, packet_id: PacketId) -> bool {
        self.table
            .find(hash(packet_id), |(id, _)| *id == packet_id)
            .is_some()
    }

    #[inline]
    pub(super) fn find_mut(&mut self, packet_id: PacketId) -> Option<&mut T> {
        self.table
            .find_mut(hash(packet_id), |(id, _)| *id == packet_id)
            .map(|(_, value)| value)
    }

    /// Sets the value, whatever it was.
    #[inline]
    pub(super) fn insert(&mut self, packet_id: PacketId, value: T) {
        match self
            .table
            .entry(hash(packet_id), |(id, _)| *id == packet_id, |(id, _)| hash(*id))
        {
            Entry::Occupied(mut occupied) => occupied.get_mut().1 = value,
            Entry::Vacant(vacant) => {
                vacant.insert((packet_id, value));
            }
        }
    }

    #[inline]
    pub(super) fn remove(&mut self, packet_id: PacketId) -> Option<T> {
        let entry = self
            .table
            .find_entry(hash(packet_id), |(id, _)| *id == packet_id)
            .ok()?;
        Some(entry.remove().0.1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PacketId, T)> + '_ {
        self.table.iter().copied()
    }

    /// Gives back the memory of an empty map.
    pub(super) fn trim(&mut self) {
        if self.table.is_empty() {
            self.table = HashTable::new();
        }
    }
}

/// Spreads identifiers over buckets (low bits) and tags (high bits). They are 16 bits, so whoever chooses them cannot
/// make many of them collide.
#[inline]
fn hash(packet_id: PacketId) -> u64 {
    let product = u64::from(packet_id.get()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    product ^ product >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_every_identifier_at_once() {
        let mut map = PacketIdMap::default();
        for number in 1..=u16::MAX {
            map.insert(PacketId::new(number).unwrap(), number);
            map.insert(PacketId::new(number).unwrap(), number ^ 1);
        }
        assert_eq!(map.len(), 65_535);
        for number in 1..=u16::MAX {
            let id = PacketId::new(number).unwrap();
            assert!(map.contains(id));
            assert_eq!(map.find_mut(id), Some(&mut (number ^ 1)));
            assert_eq!(map.remove(id), Some(number ^ 1));
            assert_eq!(map.remove(id), None);
        }
        assert_eq!(map.len(), 0);
    }

    #[test]
    fn identifiers_spread_over_the_buckets() {
        for (step, count) in [(1, 128), (2, 128), (16, 128), (256, 128), (3855, 17)] {
            let identifiers = (0..count).map(|index| PacketId::new(index * step % 65_535 + 1).unwrap());
            let buckets: std::collections::BTreeSet<u64> = identifiers.map(|id| hash(id) % 256).collect();
            assert!(
                buckets.len() >= usize::from(count) / 2,
                "step {step}: {} buckets for {count}",
                buckets.len()
            );
        }
    }
}
