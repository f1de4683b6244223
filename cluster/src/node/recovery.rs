//! A node that goes on alone when the majority of its cluster is lost for good.

use std::collections::BTreeSet;
use std::io;

use quorate_storage::log::{GroupId, Log};

use super::{META, Placement};
use crate::meta::{MetaCommand, MetaState};
use crate::raft::{CheckpointStore, HeldGroup, NodeAddress, StateError, begin_empty, inspect, take_over};
use crate::state::NodeId;

/// Entries that no group is ahead of another one. The index of a session's first entry has 40 bits (R17).
const FAR: u64 = 1 << 32;

/// What a stopped node's volume holds of its cluster.
#[derive(Debug)]
pub struct HeldCluster {
    /// The node.
    pub node: NodeId,
    /// The nodes, the view and the places, as of the end of the log.
    pub meta: MetaState,
    /// The groups, `meta` first.
    pub groups: Vec<HeldGroup>,
}

impl HeldCluster {
    /// Reads everything there is.
    ///
    /// # Errors
    /// Something is damaged or missing: nothing can be recovered from it.
    pub fn read(node: NodeId, log: &dyn Log, store: &dyn CheckpointStore) -> Result<Self, StateError> {
        let mut meta = MetaState::default();
        let mut unreadable = None;
        store.entries(META, &mut |_, value| {
            if let Err(error) = meta.load(value) {
                unreadable = Some(error);
            }
            Ok(())
        })?;
        if let Some(error) = unreadable {
            return Err(StateError::Corrupt(format!("a record of meta: {error}")));
        }
        let mut groups = Vec::new();
        // Void commands stand in the log too.
        groups.push(inspect(META, log, store, &mut |batch| _ = meta.apply(batch))?);
        for group in Placement::groups() {
            groups.push(inspect(group, log, store, &mut |_| ())?);
        }
        Ok(Self { node, meta, groups })
    }

    /// Whether the node is the only voter everywhere: then it needs no recovery.
    pub fn is_alone(&self) -> bool {
        self.groups
            .iter()
            .all(|held| held.voters == BTreeSet::from([self.node]))
    }

    /// Groups of which nothing is here: what they held is lost.
    pub fn missing(&self) -> impl Iterator<Item = GroupId> {
        self.groups
            .iter()
            .filter(|held| held.last.is_none())
            .map(|held| held.group)
    }

    /// Makes this node the only member of all groups, and tells `meta` that the others are gone for good; durable when it
    /// returns. Groups of which nothing is here begin empty, far behind where they can have been: what other groups remember
    /// of their entries and sessions must not meet new ones.
    ///
    /// # Errors
    /// The log failed, or `meta` knows nothing of this node.
    pub fn take_over(&self, log: &dyn Log, store: &dyn CheckpointStore) -> io::Result<()> {
        let record = self.meta.node(self.node);
        let record = record.ok_or_else(|| io::Error::other("the volume's cluster does not know its node"))?;
        let address = NodeAddress(record.address.clone());
        let last = self.groups.iter().filter_map(|held| Some(held.last?.index)).max();
        let beyond_all = last.unwrap_or(0) + FAR;
        for held in &self.groups {
            let batches = match held.group {
                META => vec![MetaCommand::recover(self.node).encode()],
                _ => Vec::new(),
            };
            let held = match held.last {
                Some(_) => held.clone(),
                None => begin_empty(store, held, self.node, beyond_all)?,
            };
            take_over(log, &held, self.node, &address, &batches)?;
        }
        Ok(())
    }
}
