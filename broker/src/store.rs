//! The node's volume: data directory, log and state store, opened in the order that keeps their promises.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_cluster::node::{Placement, StateCheckpoints};
use quorate_cluster::raft::{CheckpointService, CheckpointSettings, NodeIdentity, NodeParts, Transport};
use quorate_cluster::state::{Counts, NodeId, NodeIncarnation};
use quorate_storage::disk::{Disk, RealDisk};
use quorate_storage::state::{Checkpointer, SledOptions, SledStore, StateError};
use quorate_storage::volume::{ClockFile, ClusterId, Membership, PreviousRun, Volume, VolumeError};
use quorate_storage::wal::{Wal, WalError, WalOptions};

use crate::config::NodeConfig;
use crate::metrics::{Metrics, Scope};
use crate::node::Shared;

/// Bounds of the buckets of sync durations, in seconds.
const SYNC_BUCKETS: [f64; 12] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 1.0,
];
/// A single node has this identifier until it joins others.
const FIRST_NODE: u64 = 1;

/// The data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The log.
    #[error("the log in the data directory cannot be used: {0}")]
    Log(#[from] WalError),
    /// The state store.
    #[error("{0}")]
    State(#[from] StateError),
    /// Anything else of the file system.
    #[error("the data directory cannot be used: {0}")]
    Io(#[from] std::io::Error),
}

impl StoreError {
    /// Whether something that the node had stored is damaged or gone. Starting again does not help then.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Volume(error) | Self::Log(WalError::Mark(error)) => {
                matches!(error, VolumeError::Corrupt { .. })
            }
            Self::Log(error) => matches!(error, WalError::Corrupt { .. } | WalError::Lost { .. }),
            Self::State(error) => matches!(
                error,
                StateError::StateLost { .. } | StateError::CorruptValue { .. }
            ),
            Self::Io(_) => false,
        }
    }
}

/// The open volume.
pub(crate) struct Store {
    pub(crate) node: NodeId,
    pub(crate) incarnation: NodeIncarnation,
    /// Where group time and wall clock are noted.
    pub(crate) clock: ClockFile,
    parts: NodeParts,
    log: Arc<Wal>,
    volume: Mutex<Option<Volume>>,
}

impl Store {
    /// What the groups run on.
    pub(crate) fn parts(&self) -> NodeParts {
        self.parts.clone()
    }

    /// Ends in order: nothing is written any more, and the next start knows it.
    pub(crate) fn close(&self) {
        self.parts.checkpoints.shutdown();
        let volume = self.volume.lock().take();
        let closed = self
            .log
            .close()
            .map_err(StoreError::from)
            .and_then(|()| Ok(volume.map_or(Ok(()), Volume::close_clean)?));
        if let Err(error) = closed {
            tracing::error!(%error, "the data directory was not closed in order; the next start checks it");
        }
    }
}

/// Opens the volume that the configuration names, or creates it.
pub(crate) fn open(config: &NodeConfig, metrics: &Metrics) -> Result<Store, StoreError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let volume = Volume::open(disk.clone(), &config.data_dir)?;
    let membership = membership(&volume)?;
    if volume.previous_run() == PreviousRun::Unclean {
        tracing::info!(data_dir = %config.data_dir.display(), "the last run did not stop in order; its log is replayed");
    }
    let syncs = metrics.scope("log").histogram(
        "sync_seconds",
        "Duration of each fdatasync of the log.",
        &SYNC_BUCKETS,
    );
    let options = WalOptions {
        mark: Some(volume.log_mark_file()),
        sync_observer: Some(Arc::new(move |duration: Duration| {
            syncs.observe(duration.as_secs_f64())
        })),
        ..WalOptions::default()
    };
    let log = Arc::new(Wal::open(disk.clone(), &volume.wal_dir(), volume.id(), options)?);
    if let Some(torn) = &log.recovery().torn {
        tracing::warn!(
            ?torn,
            "the end of the log was half written and is cut off; nothing in it was acknowledged"
        );
    }
    let sled = Arc::new(SledStore::open(&volume.sled_dir(), &SledOptions::default())?);
    let checkpointer = Checkpointer::open(disk, &volume.state_dir(), sled)?;
    let spool = CheckpointSettings::new(volume.dir().join("spool"));
    let checkpoints =
        CheckpointService::start(Arc::new(StateCheckpoints::new(checkpointer)), log.clone(), spool)?;
    let (node, incarnation) = (NodeId(membership.node), NodeIncarnation(volume.incarnation()));
    let cluster = u128::from_be_bytes(membership.cluster.0);
    let transport = Transport::new(NodeIdentity {
        cluster,
        node,
        incarnation,
    });
    tracing::info!(
        data_dir = %config.data_dir.display(),
        cluster = %membership.cluster,
        node = node.0,
        incarnation = incarnation.0,
        "data directory opened"
    );
    let parts = NodeParts {
        log: log.clone(),
        checkpoints,
        transport,
    };
    Ok(Store {
        node,
        incarnation,
        clock: volume.clock_file(),
        parts,
        log,
        volume: Mutex::new(Some(volume)),
    })
}

/// Who this node is; a new volume becomes the first node of a new cluster.
fn membership(volume: &Volume) -> Result<Membership, StoreError> {
    if let Some(membership) = volume.membership() {
        return Ok(membership);
    }
    let membership = Membership {
        cluster: ClusterId::random(),
        node: FIRST_NODE,
    };
    volume.set_membership(membership)?;
    Ok(membership)
}

/// Declares what the groups hold.
pub(crate) fn declare_state_metrics(scope: &Scope, shared: &Arc<Shared>) {
    type Pick = fn(&Counts) -> u64;
    let gauges: [(&str, &str, Pick); 6] = [
        ("sessions", "Sessions, connected or not.", |counts| {
            counts.sessions
        }),
        ("subscriptions", "Subscriptions of all sessions.", |counts| {
            counts.subscriptions
        }),
        (
            "session_queue_messages",
            "Messages that wait for durable sessions.",
            |counts| counts.queued_references,
        ),
        (
            "session_queue_bytes",
            "Bytes of the messages that wait for durable sessions.",
            |counts| counts.queued_bytes,
        ),
        ("retained_messages", "Retained messages.", |counts| {
            counts.retained
        }),
        ("retained_bytes", "Bytes of the retained messages.", |counts| {
            counts.retained_bytes
        }),
    ];
    for (name, help, pick) in gauges {
        let shared = shared.clone();
        scope.gauge(name, help, move || {
            shared
                .node()
                .groups()
                .map(|group| pick(&group.state().counts()))
                .sum::<u64>() as f64
        });
    }
    let groups = shared.clone();
    scope.gauge_by(
        "raft_is_leader",
        "Whether this node leads the group.",
        &["group"],
        move || {
            let leads = groups.node().groups().map(|group| {
                let leads = f64::from(u8::from(group.raft().is_leader()));
                (vec![Placement::name(group.id())], leads)
            });
            leads.collect()
        },
    );
    let groups = shared.clone();
    scope.gauge_by(
        "raft_apply_lag_entries",
        "Entries in the group's log that this node has not applied.",
        &["group"],
        move || {
            let lags = groups.node().groups().map(|group| {
                let status = group.raft().status();
                let lag = status
                    .last_log
                    .unwrap_or(0)
                    .saturating_sub(status.last_applied.unwrap_or(0));
                (vec![Placement::name(group.id())], lag as f64)
            });
            lags.collect()
        },
    );
}
