//! Which group is home to what: a stable function of names, the same on every node and in every version.

use quorate_storage::log::GroupId;
use xxhash_rust::xxh3::xxh3_64;

use crate::state::SessionId;

/// Groups whose log is synced: durable sessions, their queues, retained messages.
pub const DATA_GROUPS: u16 = 16;

/// Groups whose log is written and not synced: sessions of expiry 0 (R3, R41). Each takes about
/// 2.5 MB of memory.
pub const LIVE_GROUPS: u16 = 1;

/// Groups whose log is written and not synced, for the queued messages of the durability class `quorum-memory` (R41).
pub const MEMORY_GROUPS: u16 = 1;

/// The group of the nodes themselves.
pub const META: GroupId = GroupId(0);
const DATA_FIRST: u16 = 1;
const LIVE_FIRST: u16 = DATA_FIRST + DATA_GROUPS;
/// With room for more live groups before.
const MEMORY_FIRST: u16 = 32;

/// What a group holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupKind {
    /// Synced: the nodes, the view, where the groups are.
    Meta,
    /// Synced: durable sessions, queues, retained messages.
    Data,
    /// Not synced: sessions of expiry 0.
    Live,
    /// Not synced: queues of messages of a weaker class.
    Memory,
}

/// The placement function.
#[derive(Clone, Copy, Debug)]
pub struct Placement;

impl Placement {
    /// Home of a client's durable session, and of the messages it publishes to durable sessions.
    pub fn data_of_client(client_id: &str) -> GroupId {
        GroupId(DATA_FIRST + Self::slot(client_id, DATA_GROUPS))
    }

    /// Home of a client's session of expiry 0.
    pub fn live_of_client(client_id: &str) -> GroupId {
        GroupId(LIVE_FIRST + Self::slot(client_id, LIVE_GROUPS))
    }

    /// Home of a topic's retained message.
    pub fn data_of_topic(topic: &str) -> GroupId {
        GroupId(DATA_FIRST + Self::slot(topic, DATA_GROUPS))
    }

    /// Home of a client's messages of the class `quorum-memory`.
    pub fn memory_of_client(client_id: &str) -> GroupId {
        GroupId(MEMORY_FIRST + Self::slot(client_id, MEMORY_GROUPS))
    }

    /// Every group beside `meta`, data groups first.
    pub fn groups() -> impl Iterator<Item = GroupId> {
        (DATA_FIRST..LIVE_FIRST + LIVE_GROUPS)
            .chain(MEMORY_FIRST..MEMORY_FIRST + MEMORY_GROUPS)
            .map(GroupId)
    }

    /// Groups that hold queues.
    pub fn queue_groups() -> impl Iterator<Item = GroupId> {
        Self::groups().filter(|group| matches!(Self::kind(*group), GroupKind::Data | GroupKind::Memory))
    }

    /// Whether sessions are at home in a group.
    pub fn has_sessions(group: GroupId) -> bool {
        matches!(Self::kind(group), GroupKind::Data | GroupKind::Live)
    }

    /// Whether a group's log is synced before it counts.
    pub fn is_synced(group: GroupId) -> bool {
        matches!(Self::kind(group), GroupKind::Meta | GroupKind::Data)
    }

    /// The data groups.
    pub fn data_groups() -> impl Iterator<Item = GroupId> {
        (DATA_FIRST..LIVE_FIRST).map(GroupId)
    }

    /// What `group` holds.
    pub fn kind(group: GroupId) -> GroupKind {
        if group == META {
            GroupKind::Meta
        } else if group.0 < LIVE_FIRST {
            GroupKind::Data
        } else if group.0 < MEMORY_FIRST {
            GroupKind::Live
        } else {
            GroupKind::Memory
        }
    }

    /// The packet identifier slot of a group that holds queues (R24): 0 to 15 are those of the data groups.
    pub fn packet_id_slot(group: GroupId) -> u8 {
        let slot = match Self::kind(group) {
            GroupKind::Memory => DATA_GROUPS + group.0 - MEMORY_FIRST,
            _ => group.0 - DATA_FIRST,
        };
        u8::try_from(slot).expect("a group that holds queues has a slot")
    }

    /// The group of a packet identifier slot.
    pub fn group_of_slot(slot: u8) -> GroupId {
        match u16::from(slot) {
            data if data < DATA_GROUPS => GroupId(DATA_FIRST + data),
            memory => GroupId(MEMORY_FIRST + memory - DATA_GROUPS),
        }
    }

    /// Name of a group, for logs and metrics.
    pub fn name(group: GroupId) -> String {
        match Self::kind(group) {
            GroupKind::Meta => "meta".to_owned(),
            GroupKind::Data => format!("data-{}", group.0 - DATA_FIRST),
            GroupKind::Live => format!("live-{}", group.0 - LIVE_FIRST),
            GroupKind::Memory => format!("memory-{}", group.0 - MEMORY_FIRST),
        }
    }

    /// The home group of a session, which its identifier names.
    pub fn home_of(session: SessionId) -> GroupId {
        GroupId(u16::try_from(session.0 >> 56).expect("8 bits"))
    }

    /// Whether a session outlives its connection.
    pub fn is_durable(session: SessionId) -> bool {
        Self::kind(Self::home_of(session)) == GroupKind::Data
    }

    fn slot(name: &str, count: u16) -> u16 {
        u16::try_from(xxh3_64(name.as_bytes()) % u64::from(count)).expect("below a u16")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data directories outlive versions: these homes must never change.
    #[test]
    fn homes_are_frozen() {
        assert_eq!(
            Placement::data_of_client("device-1"),
            GroupId(DATA_FIRST + Placement::slot("device-1", 16))
        );
        let homes: Vec<u16> = ["", "a", "device-1", "sensor/42"]
            .map(|name| Placement::slot(name, 16))
            .to_vec();
        assert_eq!(homes, vec![2, 15, 5, 10]);
    }

    #[test]
    fn slots_and_groups_are_inverse() {
        for (slot, group) in (0..).zip(Placement::queue_groups()) {
            assert_eq!(Placement::packet_id_slot(group), slot);
            assert_eq!(Placement::group_of_slot(slot), group);
            assert_eq!(Placement::is_synced(group), slot < 16);
        }
        assert_eq!(Placement::groups().count(), 18);
    }
}
