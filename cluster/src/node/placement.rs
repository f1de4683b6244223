//! Which group is home to what: a stable function of names, the same on every node and in every version.

use quorate_storage::log::GroupId;
use xxhash_rust::xxh3::xxh3_64;

use crate::state::SessionId;

/// Groups whose log is synced: durable sessions, their queues, retained messages.
pub const DATA_GROUPS: u16 = 16;

/// Groups whose log is written and not synced: sessions of expiry 0 (R3, R41). Each takes about
/// 2.5 MB of memory.
pub const LIVE_GROUPS: u16 = 1;

/// The group of the nodes themselves.
pub const META: GroupId = GroupId(0);
const DATA_FIRST: u16 = 1;
const LIVE_FIRST: u16 = DATA_FIRST + DATA_GROUPS;

/// What a group holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupKind {
    /// Synced: the nodes, the view, where the groups are.
    Meta,
    /// Synced: durable sessions, queues, retained messages.
    Data,
    /// Not synced: sessions of expiry 0.
    Live,
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

    /// Every group beside `meta`, data groups first.
    pub fn groups() -> impl Iterator<Item = GroupId> {
        (DATA_FIRST..LIVE_FIRST + LIVE_GROUPS).map(GroupId)
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
        } else {
            GroupKind::Live
        }
    }

    /// The packet identifier slot of a data group (R24), 0 to 15.
    pub fn packet_id_slot(group: GroupId) -> u8 {
        u8::try_from(group.0 - DATA_FIRST).expect("a data group has a slot")
    }

    /// The data group of a packet identifier slot.
    pub fn data_of_slot(slot: u8) -> GroupId {
        GroupId(DATA_FIRST + u16::from(slot))
    }

    /// Name of a group, for logs and metrics.
    pub fn name(group: GroupId) -> String {
        match Self::kind(group) {
            GroupKind::Meta => "meta".to_owned(),
            GroupKind::Data => format!("data-{}", group.0 - DATA_FIRST),
            GroupKind::Live => format!("live-{}", group.0 - LIVE_FIRST),
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
        for group in Placement::data_groups() {
            assert_eq!(Placement::data_of_slot(Placement::packet_id_slot(group)), group);
            assert_eq!(Placement::kind(group), GroupKind::Data);
        }
        assert_eq!(Placement::groups().count(), 17);
    }
}
