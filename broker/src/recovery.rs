//! `quorate recover`: a node whose cluster has lost its majority for good goes on alone, as a cluster of another number.
//!
//! Order: the volume notes that a recovery begins; each group's log gets the membership that says "this node alone"; the
//! volume gets the new number and forgets the note. A node does not start between the note and its end, and a recovery
//! that was cut off is done again from its beginning, so there is no state in which a node serves with half of it done.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use quorate_cluster::node::{HeldCluster, Placement, StateCheckpoints};
use quorate_cluster::state::NodeId;
use quorate_storage::disk::{Disk, RealDisk};
use quorate_storage::state::{Checkpointer, SledOptions, SledStore};
use quorate_storage::volume::{ClusterId, Membership, Volume};
use quorate_storage::wal::{Wal, WalOptions};

use crate::store::StoreError;

/// The volume of a stopped node, open and locked.
pub(crate) struct StoppedNode {
    volume: Volume,
    log: Wal,
    store: StateCheckpoints,
    membership: Membership,
    held: HeldCluster,
    was_begun: bool,
}

/// Nothing can be recovered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoverError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What it holds is damaged.
    #[error("nothing can be recovered from {dir}: {error}; restore the directory from a backup")]
    Damaged {
        dir: String,
        error: quorate_cluster::raft::StateError,
    },
    /// There is nothing in it.
    #[error("there is no node's data in {0}")]
    NoNode(String),
    /// It does not need it.
    #[error("the node is the only one of its cluster already: it needs no recovery, start it")]
    Alone,
    /// The log failed.
    #[error("the recovery was not finished; run it again: {0}")]
    Io(std::io::Error),
}

impl StoppedNode {
    /// Opens the volume and reads everything in it. Nothing of it is changed but its count of starts.
    pub(crate) fn open(dir: &Path) -> Result<Self, RecoverError> {
        // Opening makes a directory where there is none.
        if !dir.join("identity").exists() {
            return Err(RecoverError::NoNode(dir.display().to_string()));
        }
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let volume = Volume::open(disk.clone(), dir).map_err(StoreError::from)?;
        let was_begun = volume.is_recovering().map_err(StoreError::from)?;
        let membership = volume.membership();
        let membership = membership.ok_or_else(|| RecoverError::NoNode(dir.display().to_string()))?;
        let options = WalOptions {
            mark: Some(volume.log_mark_file()),
            ..WalOptions::default()
        };
        let log =
            Wal::open(disk.clone(), &volume.wal_dir(), volume.id(), options).map_err(StoreError::from)?;
        let sled = SledStore::open(&volume.sled_dir(), &SledOptions::default()).map_err(StoreError::from)?;
        let stored =
            Checkpointer::open(disk, &volume.state_dir(), Arc::new(sled)).map_err(StoreError::from)?;
        let store = StateCheckpoints::new(stored);
        let held = HeldCluster::read(NodeId(membership.node), &log, &store);
        let held = held.map_err(|error| RecoverError::Damaged {
            dir: dir.display().to_string(),
            error,
        })?;
        Ok(Self {
            volume,
            log,
            store,
            membership,
            held,
            was_begun,
        })
    }

    /// Whether a recovery makes sense.
    pub(crate) fn check(&self) -> Result<(), RecoverError> {
        match self.held.is_alone() && !self.was_begun {
            true => Err(RecoverError::Alone),
            false => Ok(()),
        }
    }

    /// What there is, and what may be missing.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        let node = NodeId(self.membership.node);
        let name = self
            .held
            .meta
            .node(node)
            .map_or("", |record| record.name.as_str());
        let _ = writeln!(
            text,
            "cluster {}, node {} ({name})",
            self.membership.cluster, node.0
        );
        if self.was_begun {
            let _ = writeln!(
                text,
                "a recovery was begun before and not finished; it is done again"
            );
        }
        let _ = writeln!(text, "\nmembers of the cluster, as far as this node knows:");
        for (id, record) in self.held.meta.members() {
            let this = if id == node {
                "  <- stays"
            } else {
                "  <- is given up, and refused for ever"
            };
            let _ = writeln!(text, "  {} {} at {}{this}", id.0, record.name, record.address);
        }
        let _ = writeln!(
            text,
            "\n{:<10} {:>12} {:>12} {:>12} {:>8} {:>8}  voters",
            "group", "last entry", "committed", "checkpoint", "term", "vote"
        );
        let cell = |index: Option<u64>| index.map_or_else(|| "-".to_owned(), |index| index.to_string());
        for held in &self.held.groups {
            let voters: Vec<String> = held.voters.iter().map(|voter| voter.0.to_string()).collect();
            let _ = writeln!(
                text,
                "{:<10} {:>12} {:>12} {:>12} {:>8} {:>8}  {}",
                Placement::name(held.group),
                cell(held.last.map(|last| last.index)),
                cell(held.committed.map(|committed| committed.index)),
                cell(held.checkpoint.map(|checkpoint| checkpoint.index)),
                cell(held.last.map(|last| last.term)),
                cell(held.vote.map(|(term, _)| term)),
                voters.join(" ")
            );
        }
        let _ = writeln!(
            text,
            "\nKept: all sessions, subscriptions, queued and retained messages up to the last entry of each group.\n\
             What may be missing: whatever was acknowledged behind these entries. A majority without this node may have\n\
             acknowledged messages, subscriptions and deliveries that this node has never heard of; what was delivered\n\
             behind them may be delivered again. Entries behind the last committed one were perhaps never acknowledged;\n\
             they are kept too."
        );
        let missing: Vec<String> = self.held.missing().map(Placement::name).collect();
        if !missing.is_empty() {
            let _ = writeln!(
                text,
                "LOST: this node holds nothing of {}; they begin empty.",
                missing.join(", ")
            );
        }
        if self.volume.machine_restarted() {
            let _ = writeln!(
                text,
                "The machine stopped uncleanly: sessions of expiry 0 are not kept, as after every such stop of all nodes."
            );
        }
        text
    }

    /// Goes on alone; durable when it returns. Answers the number of the new cluster.
    pub(crate) fn recover(self) -> Result<ClusterId, RecoverError> {
        let membership = Membership {
            cluster: ClusterId::random(),
            node: self.membership.node,
        };
        self.volume.begin_recovery().map_err(StoreError::from)?;
        crash_point("begun");
        let taken_over = self.held.take_over(&self.log, &self.store);
        taken_over.map_err(RecoverError::Io)?;
        crash_point("rewritten");
        self.log.close().map_err(RecoverError::Io)?;
        self.volume.end_recovery(membership).map_err(StoreError::from)?;
        self.volume.close_clean().map_err(StoreError::from)?;
        Ok(membership.cluster)
    }
}

/// Where a test has the process die.
fn crash_point(name: &str) {
    if cfg!(debug_assertions) && std::env::var("QUORATE_TEST_CRASH_AT").is_ok_and(|at| at == name) {
        std::process::abort();
    }
}
