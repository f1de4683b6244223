//! The node's volume: data directory, log and state store, opened in the order that keeps their promises.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_cluster::node::{Placement, StateCheckpoints};
use quorate_cluster::raft::{CheckpointService, CheckpointSettings, NodeParts, RaftGroup, Transport};
use quorate_cluster::state::{Counts, NodeIncarnation};
use quorate_storage::disk::{Disk, RealDisk};
use quorate_storage::state::{Checkpointer, SledOptions, SledStore, StateError};
use quorate_storage::volume::{
    BeginningsFile, ClockFile, Membership, PreviousRun, StartsFile, Volume, VolumeError,
};
use quorate_storage::wal::{Wal, WalError, WalOptions};

use crate::config::NodeConfig;
use crate::metrics::{Metrics, Scope};
use crate::node::Shared;

/// Bounds of the buckets of sync durations, in seconds.
const SYNC_BUCKETS: [f64; 12] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 1.0,
];

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
    /// A recovery was not finished.
    #[error("a recovery of the data directory {} was begun and not finished; run `quorate recover` again", .0.display())]
    Recovering(std::path::PathBuf),
    /// Anything else of the file system.
    #[error("the data directory cannot be used: {0}")]
    Io(#[from] std::io::Error),
}

impl StoreError {
    /// Whether another directory is needed, from a backup or an empty one.
    pub(crate) fn needs_other(&self) -> bool {
        self.is_loss() && !matches!(self, Self::Recovering(_))
    }

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
            Self::Recovering(_) => true,
            Self::Io(_) => false,
        }
    }
}

/// The open volume.
pub(crate) struct Store {
    pub(crate) incarnation: NodeIncarnation,
    /// Number of the volume.
    pub(crate) volume_id: [u8; 16],
    /// Where it is noted which groups began anew.
    pub(crate) beginnings: BeginningsFile,
    /// Where group time and wall clock are noted.
    pub(crate) clock: ClockFile,
    /// This start's identifier, and where starts are noted.
    pub(crate) starts: StartsFile,
    /// Whether what was written and not synced may be lost.
    pub(crate) machine_restarted: bool,
    checkpoints: Arc<CheckpointService>,
    log: Arc<Wal>,
    volume: Mutex<Option<Volume>>,
}

impl Store {
    /// Whose data the volume holds, if that is decided.
    pub(crate) fn membership(&self) -> Option<Membership> {
        self.volume.lock().as_ref().and_then(Volume::membership)
    }

    /// Decides whose data the volume holds: for good.
    pub(crate) fn set_membership(&self, membership: Membership) -> Result<(), StoreError> {
        match &*self.volume.lock() {
            Some(volume) => Ok(volume.set_membership(membership)?),
            None => Ok(()),
        }
    }

    /// All groups that are not synced are up to date again.
    pub(crate) fn restart_recovered(&self) {
        if let Some(volume) = &*self.volume.lock()
            && let Err(error) = volume.handle_restart_recovered()
        {
            tracing::warn!(%error, "that the machine's restart was dealt with could not be noted");
        }
    }

    /// What the groups run on.
    pub(crate) fn parts(&self, transport: Arc<Transport>) -> NodeParts {
        NodeParts {
            log: self.log.clone(),
            checkpoints: self.checkpoints.clone(),
            transport,
        }
    }

    /// Ends in order: nothing is written any more, and the next start knows it.
    pub(crate) fn close(&self) {
        self.checkpoints.shutdown();
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
    if volume.is_recovering()? {
        return Err(StoreError::Recovering(config.data_dir.clone()));
    }
    if volume.previous_run() == PreviousRun::Unclean {
        tracing::info!(data_dir = %config.data_dir.display(), "the last run did not stop in order; its log is replayed");
    }
    if volume.previous_run() == PreviousRun::None {
        tracing::info!(data_dir = %config.data_dir.display(), "the data directory is new: this node begins empty");
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
    tracing::info!(
        data_dir = %config.data_dir.display(),
        incarnation = volume.incarnation(),
        "data directory opened"
    );
    Ok(Store {
        incarnation: NodeIncarnation(volume.incarnation()),
        volume_id: volume.id().0,
        beginnings: volume.beginnings_file(),
        clock: volume.clock_file(),
        starts: volume.starts_file()?,
        machine_restarted: volume.machine_restarted(),
        checkpoints,
        log,
        volume: Mutex::new(Some(volume)),
    })
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
            let leads = replicas(&groups).map(|replica| {
                let leads = f64::from(u8::from(replica.is_leader()));
                (vec![Placement::name(replica.group())], leads)
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
            let lags = replicas(&groups).map(|replica| {
                let status = replica.status();
                let lag = status
                    .last_log
                    .unwrap_or(0)
                    .saturating_sub(status.last_applied.unwrap_or(0));
                (vec![Placement::name(replica.group())], lag as f64)
            });
            lags.collect()
        },
    );
}

/// This node's replicas.
fn replicas(shared: &Shared) -> impl Iterator<Item = RaftGroup> {
    shared.node().replicas().into_iter()
}
