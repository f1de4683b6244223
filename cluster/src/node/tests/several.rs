//! Three nodes in one process that talk over loopback TCP, with brokers that can be made to stand still: a group whose
//! events its broker does not take applies nothing any more, while its node goes on.

mod barriers;
mod leaders;
mod trials;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use quorate_proto::message::Message;
use quorate_storage::disk::RealDisk;
use quorate_storage::log::GroupId;
use quorate_storage::volume::Volume;
use tokio::runtime::Runtime;

use super::LIMITS;
use crate::meta::MetaCommand;
use crate::node::*;
use crate::raft::tests::Disk;
use crate::raft::{NodeAddress, PeerListener, PeerStart, server_builder};
use crate::state::*;

/// Longer than anything here takes, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker whose groups can be held.
#[derive(Default)]
struct Holding {
    completed: Mutex<BTreeMap<u32, Completion>>,
    references: Mutex<Vec<References>>,
    held: Mutex<Option<GroupId>>,
    let_go: Condvar,
    is_removed: AtomicBool,
    fatal: Mutex<Option<String>>,
}

impl Holding {
    fn hold(&self, group: GroupId) {
        *self.held.lock() = Some(group);
    }

    fn let_go(&self) {
        *self.held.lock() = None;
        self.let_go.notify_all();
    }
}

impl Host for Holding {
    type Ticket = u32;

    fn complete(&self, completions: Vec<(u32, Completion)>) {
        self.completed.lock().extend(completions);
    }

    fn handle_events(&self, group: GroupId, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        let mut held = self.held.lock();
        while *held == Some(group) {
            self.let_go.wait(&mut held);
        }
    }

    fn handle_references(&self, references: References) {
        self.references.lock().push(references);
    }

    fn handle_pending(&self, _: GroupId, _: SessionId) {}

    fn handle_shared(&self, _: Vec<SharedReference>) {}

    fn will_targets(&self, _: SessionId, _: &Message) -> Vec<Target> {
        Vec::new()
    }

    fn deliver_will(&self, _: SessionId, _: &Arc<Message>) {}

    fn share_members(&self, _: &ShareKey) -> Vec<ShareMember> {
        Vec::new()
    }

    fn queue_is_known(&self, _: &TargetQueue) -> bool {
        true
    }

    fn handle_reload(&self, _: GroupId, _: &dyn Fn(SessionId) -> bool) {}

    fn handle_node_messages(&self, _: Vec<PulledReference>) {}

    fn handle_peer(&self, _: PeerStart, _: bytes::Bytes, _: BrokerReply) {}

    fn clients(&self) -> u64 {
        0
    }

    fn left(&self) {
        unreachable!("nothing asks a node to leave");
    }

    fn deliveries_missed(&self) {}

    fn removed(&self) {
        self.is_removed.store(true, Ordering::SeqCst);
    }

    fn fatal(&self, what: String) {
        *self.fatal.lock() = Some(what);
    }
}

/// A node with a runtime of its own.
struct Member {
    host: Arc<Holding>,
    disk: Disk,
    node: Arc<Node<Holding>>,
    runtime: Runtime,
    _volume: (Volume, tempfile::TempDir),
}

struct Several {
    members: Vec<Member>,
}

/// Waits for a condition.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn volume_of(number: u64) -> [u8; 16] {
    [u8::try_from(number).unwrap(); 16]
}

fn listener() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

impl Member {
    fn new(number: u64, listener: TcpListener, known: Vec<(NodeId, NodeAddress)>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .build()
            .unwrap();
        let entered = runtime.enter();
        let directory = tempfile::tempdir().unwrap();
        let volume = Volume::open(Arc::new(RealDisk), &directory.path().join("data")).unwrap();
        let settings = NodeSettings {
            node: NodeId(number),
            incarnation: NodeIncarnation(1),
            name: format!("node-{number}"),
            volume: volume_of(number),
            address: NodeAddress(listener.local_addr().unwrap().to_string()),
            known,
            replication_factor: 3,
            replace_after: Duration::from_secs(300),
            bootstrap_expect: 3,
            machine_restarted: false,
            beginnings: volume.beginnings_file(),
            clock: volume.clock_file(),
            starts: volume.starts_file().unwrap(),
            queue_limits: QueueLimits {
                messages_max: 1_000,
                bytes_max: 1 << 20,
            },
            entry_bytes_max: 64 * 1024,
            retained_messages_max: 1_000,
            retained_bytes_max: 1 << 20,
            checkpoint_interval: Duration::from_secs(3_600),
            log_entries_to_keep: 1_000,
        };
        let (disk, host) = (Disk::new(), Arc::new(Holding::default()));
        let parts = disk.parts(number);
        let transport = parts.transport.clone();
        let node = Node::new(settings, parts, host.clone());
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let incoming = PeerListener::new(listener, Some(transport.clone()), None);
        let server = server_builder().add_service(transport.service());
        runtime.spawn(server.serve_with_incoming(incoming));
        let starting = node.clone();
        runtime.spawn(async move { starting.start().await.unwrap() });
        drop(entered);
        Self {
            host,
            disk,
            node,
            runtime,
            _volume: (volume, directory),
        }
    }

    fn id(&self) -> NodeId {
        self.node.this_node()
    }

    fn address(&self) -> NodeAddress {
        self.node.settings().address.clone()
    }

    fn leads(&self, group: GroupId) -> bool {
        match group {
            META => self.node.meta().is_some_and(crate::raft::RaftGroup::is_leader),
            group => self.node.group(group).leads(),
        }
    }
}

impl Several {
    /// Three nodes that serve, each of which leads some groups.
    fn start() -> Self {
        let founder = Member::new(1, listener(), Vec::new());
        let known = vec![(founder.id(), founder.address())];
        until("the first node leads", || founder.leads(META).then_some(()));
        let mut members = vec![founder];
        for number in 2..=3 {
            let (listener, first) = (listener(), &members[0]);
            let address = listener.local_addr().unwrap().to_string();
            let join = MetaCommand::join(volume_of(number), &format!("node-{number}"), &address);
            let joined = first
                .node
                .bring_about(&join, |state| state.node_of_volume(volume_of(number)));
            assert_eq!(first.runtime.block_on(joined), NodeId(number));
            members.push(Member::new(number, listener, known.clone()));
        }
        let cluster = Self { members };
        until("all serve", || {
            let all = |member: &Member| {
                let state = member.node.directory().read();
                let active = state.view().serving.values().filter(|serving| serving.active);
                active.count() == 3
            };
            cluster.members.iter().all(all).then_some(())
        });
        until("each group is led by who is to lead it", || {
            let is_led = |group: GroupId| {
                let state = cluster.members[0].node.directory().read();
                let replicas = &state.placement(group)?.replicas;
                let leads = |member: &&Member| member.leads(group) && replicas.first() == Some(&member.id());
                let is_whole = replicas.len() == 3;
                cluster.members.iter().find(leads).filter(|_| is_whole).map(drop)
            };
            Placement::data_groups()
                .all(|group| is_led(group).is_some())
                .then_some(())
        });
        cluster
    }

    fn leader(&self, group: GroupId) -> usize {
        until("the group has a leader", || {
            self.members.iter().position(|member| member.leads(group))
        })
    }

    /// Opens a session in a data group; the ticket completes when all nodes route by it.
    fn open(&self, at: usize, group: GroupId, name: &str, ticket: u32) {
        let mut names = (0..).map(|number| format!("{name}-{number}"));
        let client_id = names.find(|name| Placement::data_of_client(name) == group);
        let open = Command::OpenSession {
            client_id: client_id.unwrap().into(),
            clean_start: true,
            expiry_secs: 60,
            will: None,
            limits: LIMITS,
        };
        self.members[at]
            .node
            .group(group)
            .propose_routes(&open, Some(ticket));
    }

    fn completed(&self, at: usize, ticket: u32) {
        until("it completes", || {
            self.members[at].host.completed.lock().remove(&ticket)
        });
    }

    fn is_removed(&self, at: usize) -> bool {
        self.members[at].host.is_removed.load(Ordering::SeqCst)
    }
}

impl Drop for Several {
    fn drop(&mut self) {
        let fatal = |member: &Member| member.host.fatal.lock().clone();
        let fatal = self.members.iter().find_map(fatal);
        for member in self.members.drain(..) {
            member.host.let_go();
            member.runtime.shutdown_background();
        }
        if !std::thread::panicking() {
            assert_eq!(fatal, None, "a node could not go on");
        }
    }
}
