//! Nodes in one process that talk over loopback TCP. Each has a runtime of its own, so that it can be killed: its tasks
//! stop wherever they are and its sockets close.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_storage::faulty::{CrashMode, FaultyDisk};
use quorate_storage::log::Log;
use quorate_storage::wal::Wal;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::table::Table;
use super::{Disk, PATIENCE, outcome, within};
use crate::raft::{
    CheckpointService, GroupRole, GroupSettings, NodeAddress, NodeIdentity, NodeParts, PeerListener,
    ProposeError, RaftGroup, Transport, server_builder,
};
use crate::state::{NodeId, NodeIncarnation};

/// A node and what survives it.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) table: Table,
    pub(super) disk: Disk,
    pub(super) address: SocketAddr,
    pub(super) settings: GroupSettings,
    cluster: u128,
    incarnation: u64,
    wal: Option<PowerCutWal>,
    running: Option<(Runtime, RaftGroup)>,
}

/// A write-ahead log on a disk that loses what was not synced.
struct PowerCutWal {
    disk: FaultyDisk,
    open: Option<Arc<Wal>>,
}

impl PowerCutWal {
    fn open(&mut self) -> Arc<Wal> {
        let wal = Arc::new(super::wal::open(Arc::new(self.disk.clone()), Path::new("/wal")));
        self.open = Some(Arc::clone(&wal));
        wal
    }
}

impl Node {
    /// A node that does not run yet.
    pub(super) async fn new(id: u64, settings: &GroupSettings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            id: NodeId(id),
            table: Table::default(),
            disk: Disk::new(),
            address: listener.local_addr().unwrap(),
            settings: settings.clone(),
            cluster: 7,
            incarnation: 0,
            wal: None,
            running: None,
        }
    }

    /// A node of another cluster.
    pub(super) fn in_cluster(mut self, cluster: u128) -> Self {
        self.cluster = cluster;
        self
    }

    /// A node whose log is a write-ahead log; `seed` decides what is lost when the power goes.
    pub(super) fn with_wal(mut self, seed: u64) -> Self {
        let disk = FaultyDisk::new(seed);
        disk.set_crash_mode(CrashMode::Any);
        self.wal = Some(PowerCutWal { disk, open: None });
        self
    }

    pub(super) fn node_address(&self) -> NodeAddress {
        NodeAddress(self.address.to_string())
    }

    pub(super) fn group(&self) -> &RaftGroup {
        &self.running.as_ref().expect("the node runs").1
    }

    /// Starts the node with what its disk holds.
    pub(super) async fn start(&mut self) {
        assert!(self.running.is_none());
        self.incarnation += 1;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let identity = NodeIdentity {
            cluster: self.cluster,
            node: self.id,
            incarnation: NodeIncarnation(self.incarnation),
        };
        let transport = Transport::new(identity);
        let checkpoints = self.disk.checkpoint_settings();
        let log: Arc<dyn Log> = match &mut self.wal {
            Some(wal) => wal.open(),
            None => self.disk.log.clone(),
        };
        let parts = NodeParts {
            log: log.clone(),
            checkpoints: CheckpointService::start(self.disk.store.clone(), log, checkpoints).unwrap(),
            transport: Arc::clone(&transport),
        };
        let (settings, state, address) = (self.settings.clone(), self.table.state(), self.address);
        let starting = runtime.spawn(async move {
            // Between a stop and the next start another test's client may have been given the port for a moment.
            let mut tries = 0;
            let listener = loop {
                match TcpListener::bind(address).await {
                    Ok(listener) => break listener,
                    Err(error) if tries == 100 => panic!("{address}: {error}"),
                    Err(_) => tries += 1,
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            };
            let incoming = PeerListener::new(listener, Some(Arc::clone(&transport)), None);
            let service = transport.service();
            tokio::spawn(
                server_builder()
                    .add_service(service)
                    .serve_with_incoming(incoming),
            );
            RaftGroup::start(&settings, &parts, state).await.unwrap()
        });
        let group = within(starting).await.unwrap();
        self.running = Some((runtime, group));
    }

    /// Stops everything where it is.
    pub(super) async fn kill(&mut self) {
        let (runtime, group) = self.running.take().expect("the node runs");
        drop(group);
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(5)))
            .await
            .unwrap();
    }

    /// Cuts the power: what the log's disk has not synced is lost.
    pub(super) async fn cut_power(&mut self) {
        let wal = self.wal.as_mut().expect("a node with a log on a disk");
        let open = wal.open.take().expect("the node runs");
        tokio::task::spawn_blocking(move || open.abandon()).await.unwrap();
        wal.disk.crash();
        self.kill().await;
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }
}

/// Nodes of one group.
pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
}

impl Cluster {
    /// Starts `count` nodes, numbered from 1, as voters of one group that has a leader.
    pub(super) async fn start(count: u64, settings: &GroupSettings) -> Self {
        let mut nodes = Vec::new();
        for id in 1..=count {
            nodes.push(Node::new(id, settings).await);
        }
        Self::of(nodes).await
    }

    /// Starts these nodes as voters of one group that has a leader.
    pub(super) async fn of(nodes: Vec<Node>) -> Self {
        let mut cluster = Self { nodes };
        for node in &mut cluster.nodes {
            node.start().await;
        }
        let members: BTreeMap<_, _> = cluster
            .nodes
            .iter()
            .map(|node| (node.id, node.node_address()))
            .collect();
        assert!(cluster.nodes[0].group().initialize(members).await.unwrap());
        cluster.leader().await;
        cluster
    }

    /// Position of the leader, once there is one that leads and knows it.
    pub(super) async fn leader(&self) -> usize {
        within(async {
            loop {
                let leading = self
                    .nodes
                    .iter()
                    .position(|node| node.is_running() && node.group().is_leader());
                if let Some(leader) = leading
                    && self.nodes[leader].group().ensure_linearizable().await.is_ok()
                {
                    return leader;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
    }

    /// Position of a node that runs and does not lead.
    pub(super) async fn follower(&self) -> usize {
        let leader = self.leader().await;
        (0..self.nodes.len())
            .find(|node| *node != leader && self.nodes[*node].is_running())
            .unwrap()
    }

    /// Carries the command out at whoever leads; repeats it when nobody does. Returns the number of commands carried
    /// out.
    pub(super) async fn propose(&self, command: &str) -> u32 {
        let batch = Bytes::copy_from_slice(command.as_bytes());
        within(async {
            loop {
                let leader = self.leader().await;
                match self.nodes[leader].group().propose(&batch).await {
                    Ok(answer) => return outcome(answer),
                    Err(ProposeError::NotLeader { .. } | ProposeError::Unknown) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await
    }

    /// Carries out `count` commands `prefix-number=number`, many at a time.
    pub(super) async fn propose_many(&self, prefix: &str, count: usize) {
        let leader = self.nodes[self.leader().await].group().clone();
        let running: Vec<_> = (0..64)
            .map(|client| {
                let (leader, prefix) = (leader.clone(), prefix.to_owned());
                tokio::spawn(async move {
                    for number in (client..count).step_by(64) {
                        let command = format!("{prefix}-{number}={number}");
                        leader.propose(&Bytes::from(command)).await.unwrap();
                    }
                })
            })
            .collect();
        for running in running {
            within(running).await.unwrap();
        }
    }

    /// Waits until all nodes that run have applied everything the leader has.
    pub(super) async fn settled(&self) {
        let index = self.nodes[self.leader().await]
            .group()
            .ensure_linearizable()
            .await
            .unwrap();
        let began = std::time::Instant::now();
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            while node.group().applied_index() < Some(index) {
                assert!(
                    began.elapsed() < PATIENCE,
                    "{:?} is at {:?}",
                    node.id,
                    node.group().status()
                );
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }

    /// Checks that all nodes that run hold the same table.
    pub(super) async fn check_same(&self) {
        self.settled().await;
        let mut running = self.nodes.iter().filter(|node| node.is_running());
        let first = running.next().unwrap();
        for other in running {
            assert!(
                first.table.same_as(&other.table),
                "{:?} and {:?} differ",
                first.id,
                other.id
            );
        }
    }

    /// Waits until the group's voters are these.
    pub(super) async fn voters(&self) -> BTreeSet<NodeId> {
        let status = self.nodes[self.leader().await].group().status();
        assert_eq!(status.role, GroupRole::Leader);
        status
            .members
            .into_iter()
            .filter(|(_, member)| member.voter)
            .map(|(node, _)| node)
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some((runtime, _)) = node.running.take() {
                runtime.shutdown_background();
            }
        }
    }
}
