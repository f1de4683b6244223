//! A node of this crate alone: its groups over a log and a state store in memory, and a broker that notes what it is
//! told.

pub(super) mod duties;
pub(crate) mod frames;
mod live;
mod members;
mod on_disk;
mod parts;
mod proposals;
mod pulls;
mod recall;
mod replicas;
mod retained;
mod several;
mod shares;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_proto::codec::QoS;
use quorate_proto::message::Message;
use quorate_storage::disk::RealDisk;
use quorate_storage::log::GroupId;
use quorate_storage::volume::Volume;

use super::*;
use crate::raft::tests::{Disk, within};
use crate::state::*;

const LIMITS: SessionLimits = SessionLimits {
    sessions_max: 1_000,
    subscriptions_max: 10,
};
/// Where the node's only client and the messages it publishes are at home.
pub(super) const CLIENT: &str = "client";

/// What the node told the broker, and what the broker answers.
#[derive(Default)]
pub(super) struct Told {
    completions: Mutex<BTreeMap<u32, Completion>>,
    pub(super) references: Mutex<Vec<References>>,
    pending: Mutex<Vec<(GroupId, SessionId)>>,
    shared: Mutex<Vec<SharedReference>>,
    wills: Mutex<Vec<String>>,
    members: Mutex<BTreeMap<ShareKey, Vec<ShareMember>>>,
    targets: Mutex<Vec<Target>>,
    unknown: Mutex<BTreeSet<TargetQueue>>,
    node_messages: Mutex<Vec<String>>,
}

impl Host for Told {
    type Ticket = u32;

    fn complete(&self, completions: Vec<(u32, Completion)>) {
        self.completions.lock().extend(completions);
    }

    fn handle_events(&self, _: GroupId, _: &[Event]) {}

    fn handle_references(&self, references: References) {
        self.references.lock().push(references);
    }

    fn handle_pending(&self, group: GroupId, session: SessionId) {
        self.pending.lock().push((group, session));
    }

    fn handle_shared(&self, references: Vec<SharedReference>) {
        self.shared.lock().extend(references);
    }

    fn will_targets(&self, _: SessionId, _: &Message) -> Vec<Target> {
        self.targets.lock().clone()
    }

    fn deliver_will(&self, _: SessionId, message: &Arc<Message>) {
        self.wills.lock().push(text(message));
    }

    fn share_members(&self, share: &ShareKey) -> Vec<ShareMember> {
        self.members.lock().get(share).cloned().unwrap_or_default()
    }

    fn queue_is_known(&self, queue: &TargetQueue) -> bool {
        !self.unknown.lock().contains(queue)
    }

    fn handle_reload(&self, _: GroupId, _: &dyn Fn(SessionId) -> bool) {}

    fn handle_node_messages(&self, messages: Vec<PulledReference>) {
        let texts = messages.iter().map(|reference| text(&reference.message));
        self.node_messages.lock().extend(texts);
    }

    fn handle_peer(&self, _: crate::raft::PeerStart, _: bytes::Bytes, _: BrokerReply) {}

    fn clients(&self) -> u64 {
        0
    }

    fn left(&self) {
        unreachable!("nothing asks this node to leave");
    }

    fn deliveries_missed(&self) {}

    fn removed(&self) {
        panic!("a node alone was removed");
    }

    fn fatal(&self, what: String) {
        panic!("{what}");
    }
}

/// A node that can be stopped and started again.
pub(super) struct TestNode {
    disk: Disk,
    pub(super) told: Arc<Told>,
    node: Arc<Node<Told>>,
    settings: NodeSettings,
    /// Only for its clock.
    volume: (Volume, tempfile::TempDir),
}

impl TestNode {
    pub(super) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut NodeSettings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(Arc::new(RealDisk), &dir.path().join("data")).unwrap();
        let mut settings = NodeSettings {
            node: NodeId(1),
            incarnation: NodeIncarnation(1),
            name: "node".to_owned(),
            volume: [1; 16],
            address: crate::raft::NodeAddress::default(),
            known: Vec::new(),
            replication_factor: 3,
            replace_after: Duration::from_secs(300),
            bootstrap_expect: 1,
            machine_restarted: false,
            beginnings: volume.beginnings_file(),
            clock: volume.clock_file(),
            starts: volume.starts_file().unwrap(),
            queue_limits: QueueLimits {
                messages_max: 100_000,
                bytes_max: 1 << 30,
            },
            entry_bytes_max: 64 * 1024,
            retained_messages_max: 1_000,
            retained_bytes_max: 1 << 30,
            checkpoint_interval: Duration::from_secs(3_600),
            log_entries_to_keep: 1_000,
        };
        change(&mut settings);
        let (disk, told) = (Disk::new(), Arc::new(Told::default()));
        let node = start_node(&settings, &disk, &told).await;
        Self {
            disk,
            told,
            node,
            settings,
            volume: (volume, dir),
        }
    }

    /// Stops the node in order and starts it again.
    async fn restart(self, change: impl FnOnce(&mut NodeSettings)) -> Self {
        within(self.node.shutdown()).await;
        let (disk, mut settings, volume) = (self.disk, self.settings, self.volume);
        settings.incarnation.0 += 1;
        change(&mut settings);
        let told = Arc::new(Told::default());
        let node = start_node(&settings, &disk, &told).await;
        Self {
            disk,
            told,
            node,
            settings,
            volume,
        }
    }

    /// The home group of [`CLIENT`].
    pub(super) fn home(&self) -> &Arc<Group<Told>> {
        self.node.group(Placement::data_of_client(CLIENT))
    }

    pub(super) async fn completion(&self, ticket: u32) -> Completion {
        eventually(|| self.told.completions.lock().remove(&ticket)).await
    }

    /// Answers to pulls and dispatches until now.
    async fn references(&self) -> References {
        eventually(|| self.told.references.lock().pop()).await
    }
}

/// Opens the session of [`CLIENT`] in its home group, anew or again.
async fn open_session(home: &Group<Told>, clean_start: bool, expiry_secs: u32) -> (SessionId, Epoch) {
    let open = Command::OpenSession {
        client_id: CLIENT.into(),
        clean_start,
        expiry_secs,
        will: None,
        limits: LIMITS,
    };
    match within(home.propose_and_wait(&open)).await {
        Completion::Applied(Outcome::Opened { session, epoch, .. }) => (session, epoch),
        other => panic!("not opened: {other:?}"),
    }
}

async fn start_node(settings: &NodeSettings, disk: &Disk, told: &Arc<Told>) -> Arc<Node<Told>> {
    let node = Node::new(settings.clone(), disk.parts(1), told.clone());
    within(node.start()).await.unwrap();
    node
}

/// Waits for an answer.
pub(super) async fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    within(async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
}

fn location(slot: u32) -> Location {
    Location {
        worker: 0,
        slot,
        generation: 1,
    }
}

pub(super) fn message(payload: &str) -> Message {
    message_to("topic", payload.as_bytes())
}

fn message_to(topic: &str, payload: &[u8]) -> Message {
    Message::new(topic, &[], payload, QoS::AtLeastOnce, false, None)
}

fn text(message: &Message) -> String {
    String::from_utf8(message.payload().to_vec()).unwrap()
}

pub(super) fn target(queue: TargetQueue, qos: QoS) -> Target {
    Target {
        queue,
        qos,
        retain: false,
        replayed: false,
        subscription_ids: vec![],
    }
}

pub(super) fn publish(message: Message, targets: Vec<Target>) -> Command {
    Command::Publish(PublishCommand {
        origin: Origin::Server,
        message,
        targets,
        set_retained: false,
        taken_live: false,
    })
}

const fn stored(count: u32) -> Completion {
    Completion::Applied(Outcome::Published {
        duplicate: false,
        stored: count,
        refused: 0,
    })
}

/// Proposes a publish whose ticket waits for the topic's group.
fn propose_retained(home: &Group<Told>, command: &Command, ticket: u32) {
    use super::proposer::{Due, Waiter};
    let Command::Publish(publish) = command else {
        panic!("{command:?} is no publish")
    };
    let topics = Placement::data_of_topic(publish.message.topic());
    home.push(
        |buffer| command.encode(buffer),
        Waiter::Ticket(ticket),
        Due::Retained(topics),
    );
}

/// A session whose home is not here: nothing of it is checked.
fn elsewhere(number: u16) -> SessionId {
    SessionId::new(GroupId(200), 1, number)
}
