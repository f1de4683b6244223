//! This node among others: its socket for them, the search for the cluster, and the start of its groups.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use quorate_cluster::node::{
    Found, Node, NodeSettings, SeedError, SeedService, SeedSettings, StartError, find_cluster,
};
use quorate_cluster::raft::{
    NodeAddress, NodeIdentity, PeerListener, PeerTls, TlsFiles, Transport, server_builder,
};
use quorate_cluster::state::{NodeId, QueueLimits};
use quorate_storage::volume::{ClusterId, Membership};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::config::Config;
use crate::metrics::Scope;
use crate::node::Shared;
use crate::serve::ServeError;
use crate::store::Store;

/// Time between checkpoints of the state.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);
/// Entries kept in the log behind a checkpoint, for replicas that are a little late.
const LOG_ENTRIES_TO_KEEP: u64 = 1_000;
/// A node that has others keeps more, so that one that was away for a moment needs no snapshot.
const LOG_ENTRIES_TO_KEEP_FOR_OTHERS: u64 = 20_000;
/// The node that founds a cluster has this identifier.
const FOUNDER: u64 = 1;

/// Who this node is, and whom it knows.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) membership: Membership,
    known: Vec<(NodeId, NodeAddress)>,
}

/// This node's socket for the others.
pub(crate) struct ClusterSocket {
    listener: Option<TcpListener>,
    seeds: Arc<SeedService>,
    tls: Option<Arc<PeerTls>>,
}

impl ClusterSocket {
    /// The socket that was bound, if the node is to have one.
    pub(crate) fn new(
        config: &Config,
        store: &Store,
        listener: Option<TcpListener>,
        tls: Option<Arc<PeerTls>>,
    ) -> Self {
        let settings = SeedSettings {
            cluster_name: config.cluster.name.clone(),
            node_name: config.node.name.clone(),
            volume: store.volume_id,
            address: advertised(config, listener.as_ref()),
            seeds: config
                .cluster
                .join
                .iter()
                .map(|seed| seed.as_str().to_owned())
                .collect(),
            bootstrap_expect: config.cluster.bootstrap_expected(),
        };
        Self {
            listener,
            seeds: SeedService::new(settings, tls.clone()),
            tls,
        }
    }

    /// The connections of other nodes; with a transport some are passed on between them.
    fn incoming(&self, transport: Option<Arc<Transport>>) -> std::io::Result<Option<PeerListener>> {
        let Some(listener) = &self.listener else {
            return Ok(None);
        };
        let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
        Ok(Some(PeerListener::new(listener, transport, self.tls.clone())))
    }

    /// Who this node is: as its volume says, or as a cluster says that takes it in.
    pub(crate) async fn identify(&self, store: &Store) -> Result<Identity, ServeError> {
        if let Some(membership) = store.membership() {
            let known = Vec::new();
            return Ok(Identity { membership, known });
        }
        let (stop, stopped) = oneshot::channel::<()>();
        let answering = match self.incoming(None)? {
            Some(incoming) => {
                let server = server_builder().add_service(self.seeds.server());
                let ended = async { drop(stopped.await) };
                Some(tokio::spawn(server.serve_with_incoming_shutdown(incoming, ended)))
            }
            None => None,
        };
        let found = find_cluster(&self.seeds).await;
        drop(stop);
        if let Some(answering) = answering {
            // Connections of those who still ask may take their time to end.
            let _ = tokio::time::timeout(Duration::from_millis(500), answering).await;
        }
        let identity = match found.map_err(|error: SeedError| ServeError::Cluster(error.to_string()))? {
            Found::Nothing => Identity {
                membership: Membership {
                    cluster: ClusterId::random(),
                    node: FOUNDER,
                },
                known: Vec::new(),
            },
            Found::Cluster {
                cluster,
                node,
                members,
            } => Identity {
                membership: Membership {
                    cluster: ClusterId(cluster),
                    node: node.0,
                },
                known: members,
            },
        };
        store.set_membership(identity.membership)?;
        Ok(identity)
    }

    /// Answers the other nodes.
    fn serve(&self, transport: &Arc<Transport>, shared: &Arc<Shared>) -> std::io::Result<()> {
        let Some(incoming) = self.incoming(Some(transport.clone()))? else {
            return Ok(());
        };
        let server = server_builder()
            .add_service(self.seeds.server())
            .add_service(transport.service());
        let shared = Arc::downgrade(shared);
        tokio::spawn(async move {
            if let Err(error) = server.serve_with_incoming(incoming).await
                && let Some(shared) = shared.upgrade()
            {
                let what = format!("the socket for other nodes failed: {error}");
                quorate_cluster::node::Host::fatal(&*shared, what);
            }
        });
        Ok(())
    }
}

/// Reads the certificates of the connections between nodes, and again whenever they change.
///
/// # Errors
/// They cannot be used.
pub(crate) fn load_tls(config: &Config, runtime: &Runtime) -> Result<Option<Arc<PeerTls>>, ServeError> {
    let Some(tls) = &config.cluster.tls else {
        return Ok(None);
    };
    let files = TlsFiles {
        cert: tls.cert.clone(),
        key: tls.key.clone(),
        ca: tls.ca.clone(),
        server_name: tls.server_name.clone(),
    };
    let tls = PeerTls::load(files).map_err(|error| ServeError::Cluster(error.to_string()))?;
    runtime.spawn(PeerTls::watch(Arc::downgrade(&tls)));
    Ok(Some(tls))
}

/// What other nodes are told to connect to.
fn advertised(config: &Config, listener: Option<&TcpListener>) -> String {
    if let Some(address) = &config.cluster.advertise {
        return address.as_str().to_owned();
    }
    let bound = listener.and_then(|listener| listener.local_addr().ok());
    bound.map_or_else(String::new, |address| address.to_string())
}

/// Declares what the connections between nodes count.
pub(crate) fn declare_metrics(scope: &Scope, shared: &Arc<Shared>) {
    let of = shared.clone();
    scope.gauge_by(
        "peer_connections",
        "Connections to other nodes, by what for and by whether they reach it directly or through a third node.",
        &["use", "way"],
        move || {
            let counts = of.node().connection_counts().into_iter();
            let samples = counts.map(|count| {
                let way = if count.relayed { "relayed" } else { "direct" };
                let labels = vec![count.used_for.as_str().to_owned(), way.to_owned()];
                (labels, count.count as f64)
            });
            samples.collect()
        },
    );
    let of = shared.clone();
    scope.gauge(
        "peer_connections_passed_on",
        "Connections between other nodes that this one passes on, because they do not reach each other.",
        move || of.node().passed_on() as f64,
    );
    let of = shared.clone();
    scope.counter(
        "starts_condemned_total",
        "Starts of nodes that served without confirming changes of routes, and got no more leases from this node, which \
         led the membership.",
        move || of.node().starts_condemned(),
    );
    let of = shared.clone();
    scope.counter(
        "leaderships_handed_over_total",
        "Groups that this node handed over because it did not apply what was committed.",
        move || of.node().handed_over_stalled(),
    );
}

/// Makes the node and starts it; it is known to `shared` before its groups run.
pub(crate) async fn start_node(
    config: &Config,
    store: &Store,
    socket: &ClusterSocket,
    identity: Identity,
    shared: &Arc<Shared>,
) -> Result<Arc<Node<Shared>>, ServeError> {
    let limits = &config.limits;
    let node = NodeId(identity.membership.node);
    let this = NodeIdentity {
        cluster: u128::from_be_bytes(identity.membership.cluster.0),
        node,
        incarnation: store.incarnation,
    };
    let transport = Transport::with_tls(this, socket.tls.clone());
    tracing::info!(cluster = %identity.membership.cluster, node = node.0, "this node belongs to a cluster");
    let has_others = socket.listener.is_some();
    let settings = NodeSettings {
        node,
        incarnation: store.incarnation,
        name: config.node.name.clone(),
        volume: store.volume_id,
        address: NodeAddress(advertised(config, socket.listener.as_ref())),
        known: identity.known,
        replication_factor: config.cluster.replication_factor.into(),
        replace_after: Duration::from_secs(config.cluster.replace_after_secs.into()),
        bootstrap_expect: config.cluster.bootstrap_expected().unwrap_or(1),
        machine_restarted: store.machine_restarted,
        beginnings: store.beginnings.clone(),
        clock: store.clock.clone(),
        starts: store.starts.clone(),
        queue_limits: QueueLimits {
            messages_max: config.session.queue_messages_max,
            bytes_max: config.session.queue_bytes_max,
        },
        entry_bytes_max: config.cluster.entry_bytes_max as usize,
        retained_messages_max: u32::try_from(limits.retained_messages_max).unwrap_or(u32::MAX),
        retained_bytes_max: limits.retained_bytes_max,
        checkpoint_interval: CHECKPOINT_INTERVAL,
        log_entries_to_keep: match has_others {
            true => LOG_ENTRIES_TO_KEEP_FOR_OTHERS,
            false => LOG_ENTRIES_TO_KEEP,
        },
    };
    let node = Node::new(settings, store.parts(transport.clone()), shared.clone());
    shared.node_made(node.clone());
    socket.seeds.belongs_to(&node);
    socket.serve(&transport, shared)?;
    tokio::spawn(socket.seeds.clone().keep_in_touch(Arc::downgrade(&node)));
    node.start().await.map_err(|error| match error {
        StartError::Ended => ServeError::Removed,
        error => ServeError::Groups {
            dir: config.node.data_dir.clone(),
            error,
        },
    })?;
    store.restart_recovered();
    let configured = u32::from(config.cluster.replication_factor);
    let counts = node.directory().read().replication_factor();
    if configured != counts {
        tracing::warn!(
            configured,
            counts,
            "cluster.replication_factor is not the one that the cluster was created with, which counts"
        );
    }
    Ok(node)
}
