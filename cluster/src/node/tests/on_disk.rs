//! A whole node over a data directory, without a broker: what it keeps over restarts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quorate_proto::codec::{QoS, RetainHandling, SubscriptionOptions};
use quorate_proto::message::Message;
use quorate_storage::disk::RealDisk;
use quorate_storage::log::GroupId;
use quorate_storage::state::{Checkpointer, SledOptions, SledStore};
use quorate_storage::volume::{ClockNote, Volume};
use quorate_storage::wal::{Wal, WalOptions};

use crate::node::*;
use crate::raft::{CheckpointService, CheckpointSettings, NodeIdentity, NodeParts, Transport};
use crate::state::{
    Command, Event, NodeId, NodeIncarnation, Origin, Outcome, PublishCommand, QueueLimits, RetainedSource,
    Sequence, SessionId, SessionLimits, ShareKey, Subscription, Target, TargetQueue,
};

const HOUR: u64 = 3_600_000;

/// A broker that nobody is connected to.
#[derive(Debug)]
struct Nobody;

impl Host for Nobody {
    type Ticket = ();

    fn complete(&self, _completions: Vec<((), Completion)>) {}

    fn handle_events(&self, _group: GroupId, _events: &[Event]) {}

    fn handle_references(&self, _references: References) {}

    fn handle_pending(&self, _group: GroupId, _session: SessionId) {}

    fn handle_shared(&self, _references: Vec<SharedReference>) {}

    fn will_targets(&self, _session: SessionId, _message: &Message) -> Vec<Target> {
        Vec::new()
    }

    fn deliver_will(&self, _session: SessionId, _message: &Arc<Message>) {}

    fn share_members(&self, _share: &ShareKey) -> Vec<ShareMember> {
        Vec::new()
    }

    fn queue_is_known(&self, _queue: &TargetQueue) -> bool {
        true
    }

    fn handle_reload(&self, _: GroupId, _: &dyn Fn(SessionId) -> bool) {}

    fn handle_node_messages(&self, _: Vec<crate::state::PulledReference>) {}

    fn handle_peer(&self, _: crate::raft::PeerStart, _: bytes::Bytes, _: BrokerReply) {}

    fn deliveries_missed(&self) {}

    fn removed(&self) {}
    fn clients(&self) -> u64 {
        0
    }
    fn left(&self) {}

    fn fatal(&self, what: String) {
        panic!("the node stops: {what}");
    }
}

/// A data directory, and a node on it while it runs.
struct Running {
    node: Arc<Node<Nobody>>,
    checkpoints: Arc<CheckpointService>,
    log: Arc<Wal>,
    volume: Volume,
}

impl Running {
    async fn start(dir: &Path) -> Result<Self, StartError> {
        let disk = Arc::new(RealDisk);
        let volume = Volume::open(disk.clone(), dir).unwrap();
        let options = WalOptions {
            mark: Some(volume.log_mark_file()),
            ..WalOptions::default()
        };
        let log = Arc::new(Wal::open(disk.clone(), &volume.wal_dir(), volume.id(), options).unwrap());
        let sled = Arc::new(SledStore::open(&volume.sled_dir(), &SledOptions::default()).unwrap());
        let checkpointer = Checkpointer::open(disk, &volume.state_dir(), sled).unwrap();
        let spool = CheckpointSettings::new(dir.join("spool"));
        let store = Arc::new(StateCheckpoints::new(checkpointer));
        let checkpoints = CheckpointService::start(store, log.clone(), spool).unwrap();
        let incarnation = NodeIncarnation(volume.incarnation());
        let identity = NodeIdentity {
            cluster: 1,
            node: NodeId(1),
            incarnation,
        };
        let parts = NodeParts {
            log: log.clone(),
            checkpoints: checkpoints.clone(),
            transport: Transport::new(identity),
        };
        let settings = NodeSettings {
            node: NodeId(1),
            incarnation,
            name: "node".to_owned(),
            volume: volume.id().0,
            address: crate::raft::NodeAddress::default(),
            known: Vec::new(),
            replication_factor: 3,
            replace_after: Duration::from_secs(300),
            bootstrap_expect: 1,
            machine_restarted: volume.machine_restarted(),
            beginnings: volume.beginnings_file(),
            clock: volume.clock_file(),
            starts: volume.starts_file().unwrap(),
            queue_limits: QueueLimits {
                messages_max: 1000,
                bytes_max: 1 << 20,
            },
            entry_bytes_max: 64 * 1024,
            retained_messages_max: 1000,
            retained_bytes_max: 1 << 20,
            checkpoint_interval: Duration::from_millis(100),
            log_entries_to_keep: 0,
        };
        let node = Node::new(settings, parts, Arc::new(Nobody));
        node.start().await?;
        Ok(Self {
            node,
            checkpoints,
            log,
            volume,
        })
    }

    /// Stops in order.
    async fn stop(self) {
        self.node.shutdown().await;
        self.checkpoints.shutdown();
        self.log.close().unwrap();
        self.volume.close_clean().unwrap();
    }

    fn noted(&self) -> ClockNote {
        self.volume.clock_file().read().unwrap().unwrap()
    }
}

fn data_dir(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("data")
}

fn wall_now() -> u64 {
    ClockNote::new(0, SystemTime::now()).wall_millis
}

#[tokio::test(flavor = "multi_thread")]
async fn r32_the_clocks_are_noted_while_a_node_runs_and_when_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(&data_dir(&dir)).await.unwrap();
    let first = running.noted();
    while running.noted() == first {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (file, group) = (
        running.volume.clock_file(),
        running.node.groups().next().unwrap().clone(),
    );
    running.stop().await;
    let last = file.read().unwrap().unwrap();
    assert!(last.group_millis.abs_diff(group.now().0) < 5_000, "{last:?}");
    assert!(last.wall_millis.abs_diff(wall_now()) < 5_000, "{last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r32_a_stop_counts_and_all_groups_agree_on_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(&data_dir(&dir)).await.unwrap();
    let file = running.volume.clock_file();
    running.stop().await;
    // As if the node had stopped two hours ago.
    let stopped = ClockNote {
        group_millis: 5 * HOUR,
        wall_millis: wall_now() - 2 * HOUR,
    };
    file.write(stopped).unwrap();
    let running = Running::start(&data_dir(&dir)).await.unwrap();
    let times: Vec<u64> = running.node.groups().map(|group| group.now().0).collect();
    for time in &times {
        assert!((7 * HOUR..7 * HOUR + 60_000).contains(time), "{times:?}");
    }
    let starts: std::collections::BTreeSet<_> = running
        .node
        .groups()
        .map(|group| group.clock().started())
        .collect();
    assert_eq!(starts.len(), 1);
    running.stop().await;
}

async fn applied(group: &Group<Nobody>, command: Command) -> Outcome {
    match group.propose_and_wait(&command).await {
        Completion::Applied(outcome) => outcome,
        Completion::Refused | Completion::TooLarge => panic!("refused: {command:?}"),
    }
}

/// What MQTT's strings allow, settings do too; and a state that no checkpoint takes stops the node at every start.
#[tokio::test(flavor = "multi_thread")]
async fn the_longest_strings_of_mqtt_fit_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(&data_dir(&dir)).await.unwrap();
    let longest: Arc<str> = "x".repeat(65_535).into();
    let share = ShareKey {
        name: longest.clone(),
        filter: longest.clone(),
    };
    let group = running.node.group(Placement::data_of_client("c")).clone();
    let limits = SessionLimits {
        sessions_max: 10,
        subscriptions_max: 10,
    };
    let open = Command::OpenSession {
        client_id: "c".into(),
        clean_start: false,
        expiry_secs: 60,
        will: None,
        limits,
    };
    let Outcome::Opened { session, epoch, .. } = applied(&group, open).await else {
        panic!("not opened")
    };
    let options = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    };
    let subscription = Subscription {
        filter: longest.clone(),
        options,
        subscription_id: None,
    };
    let subscribe = Command::Subscribe {
        session,
        epoch,
        subscriptions: vec![subscription],
        limits,
        replay: None,
    };
    applied(&group, subscribe).await;
    let message = Message::new(&longest, &[], b"m", QoS::AtLeastOnce, true, None);
    let publish = PublishCommand {
        origin: Origin::Server,
        message: message.clone(),
        targets: vec![Target {
            queue: TargetQueue::Share(share.clone()),
            qos: QoS::AtLeastOnce,
            retain: false,
            replayed: false,
            subscription_ids: Vec::new(),
        }],
        set_retained: false,
        taken_live: false,
    };
    applied(&group, Command::Publish(publish)).await;
    let retain = Command::SetRetained {
        source: RetainedSource {
            group: GroupId(1),
            index: 1,
            position: 0,
        },
        message,
        messages_max: 10,
        bytes_max: 1 << 20,
    };
    applied(&group, retain).await;
    let stored = group.replica().unwrap().checkpoint().await.unwrap();
    assert!(stored.is_some() && stored == group.replica().unwrap().applied_index());
    drop(group);
    running.stop().await;

    let running = Running::start(&data_dir(&dir)).await.unwrap();
    let group = running.node.group(Placement::data_of_client("c")).clone();
    assert_eq!(group.state().subscriptions(session).count(), 1);
    assert_eq!(
        group.state().next_sequence(&TargetQueue::Share(share)),
        Some(Sequence(1))
    );
    assert_eq!(group.state().counts().retained, 1);
    running.stop().await;
}
