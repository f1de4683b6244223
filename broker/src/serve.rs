//! The process: starts everything in order, waits for a signal or a failure, stops everything in order.
//!
//! Order of the start: sockets are bound (so that a taken port is told before anything is written), the volume is
//! opened, the cluster is found, the groups start and catch up, the workers start, the sockets are accepted from. The
//! admin interface answers from the beginning, so that probes can say what a start waits for.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use quorate_cluster::node::{DATA_GROUPS, LIVE_GROUPS, Node, Placement, StartError};
use quorate_cluster::state::{NodeId, SessionLimits};
use quorate_proto::codec::ReasonCode;
use quorate_proto::session::ConnectionSettings;
use tokio::runtime::Runtime;

use crate::admin::{self, AdminState, Readiness};
use crate::auth::{AclRules, Authenticator, Authorizer, ConfiguredAuthenticator};
use crate::cli;
use crate::clustering::{self, ClusterSocket};
use crate::config::{Config, ListenerConfig};
use crate::drain;
use crate::listener::{self, ListenerContext};
use crate::metrics::Metrics;
use crate::node::{Failure, Shared, SharedSettings};
use crate::store::{self, Store, StoreError};
use crate::sys_topics;
use crate::transport::websocket::WebSocketSettings;
use crate::worker::{Mail, Worker};
use crate::{COMMIT, VERSION};

/// Packets a WebSocket message may hold beside the largest one.
const WEB_SOCKET_SLACK: usize = 64 * 1024;
/// How long a stop may take before the process gives up on an orderly end.
const STOP_WAIT: Duration = Duration::from_secs(20);

/// The process could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address could not be bound.
    #[error("cannot listen on {address} for {what}: {error}{}", hint(.error))]
    Bind {
        /// What for.
        what: String,
        /// The address.
        address: SocketAddr,
        /// Why not.
        error: std::io::Error,
    },
    /// The configuration asks for something this version does not have.
    #[error("{0}")]
    Unsupported(String),
    /// The data directory cannot be used.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A group did not start.
    #[error("cannot start from what the data directory {} holds: {error}", dir.display())]
    Groups {
        /// The data directory.
        dir: PathBuf,
        /// Why not.
        error: StartError,
    },
    /// The cluster has gone on without this node while it started.
    #[error("the cluster has gone on without this node")]
    Removed,
    /// The node has left the cluster for good while it started.
    #[error("the node has left the cluster")]
    Left,
    /// There is no way into a cluster.
    #[error("no cluster: {0}")]
    Cluster(String),
    /// The system refused a thread or a runtime.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
    /// The node cannot go on.
    #[error("the node stops: {0}")]
    Fatal(String),
}

impl ServeError {
    /// Whether something that the node had stored is damaged or gone.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Store(error) => error.is_loss(),
            Self::Groups { error, .. } => error.is_loss(),
            _ => false,
        }
    }

    /// What to do where starting again does not help. A node that has others is refused with a backup of its directory
    /// (R46), and gets everything from them.
    pub fn advice(&self, config: &Config) -> Option<&'static str> {
        let needs_other = match self {
            Self::Store(error) => error.needs_other(),
            Self::Groups { error, .. } => error.is_loss() && !matches!(error, StartError::CopiedVolume),
            _ => false,
        };
        needs_other.then(|| match config.cluster.listen_address() {
            Some(_) => {
                "start with an empty data directory: the node gets everything from the others of its cluster, which \
                 refuse a restored one"
            }
            None => "restore the whole data directory from a backup, or start with an empty one",
        })
    }
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "; another program, or another quorate, uses this port",
        std::io::ErrorKind::PermissionDenied => "; ports below 1024 need privileges",
        std::io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        _ => "",
    }
}

/// What SIGHUP reads again.
struct Reloadable {
    users: ConfiguredAuthenticator,
    rules: AclRules,
}

/// A bound listener.
struct Bound {
    socket: std::net::TcpListener,
    context: Arc<ListenerContext>,
}

/// Why serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The process was told to stop.
    Stopped,
    /// The cluster went on without this node, which has to start anew.
    Removed,
    /// The node has left the cluster for good.
    Left,
}

/// Serves until the process is told to stop, or the cluster has gone on without this node.
///
/// # Errors
/// See [`ServeError`].
pub fn run(config: &Config) -> Result<Ended, ServeError> {
    refuse_unsupported(config)?;
    tracing::info!(version = VERSION, commit = COMMIT, node = %config.node.name, "quorate starts");
    let open = Arc::new(AtomicU32::new(0));
    let refused = Arc::new(AtomicU64::new(0));
    let mut bound = Vec::new();
    for listener in &config.listener {
        bound.push(bind_listener(config, listener, &open, &refused)?);
    }
    let admin_socket = bind("the admin interface", config.admin.bind)?;
    let cluster_address = config.cluster.listen_address();
    let cluster_socket = cluster_address.map(|address| bind("the other nodes", address));
    let cluster_socket = cluster_socket.transpose()?;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()?;
    let metrics = Metrics::new();
    let store = store::open(&config.node, &metrics)?;
    crate::logging::register(&metrics);
    let reloadable = Reloadable {
        users: ConfiguredAuthenticator::start(&config.auth)?,
        rules: AclRules::new(&config.acl),
    };
    reloadable.users.register(&metrics);
    let readiness = Readiness::default();
    readiness.set("groups", Some("the groups are starting".to_owned()));
    let stuck = Arc::new(OnceLock::new());
    start_admin(
        &runtime,
        admin_socket,
        config,
        &metrics,
        &readiness,
        stuck.clone(),
    )?;

    let tls = clustering::load_tls(config, &runtime)?;
    let socket = ClusterSocket::new(config, &store, cluster_socket, tls);
    let Some(identity) = runtime.block_on(unless_stopped(socket.identify(&store)))? else {
        store.close();
        return Ok(Ended::Stopped);
    };
    let node = NodeId(identity.membership.node);
    let shared = Arc::new(shared_state(config, &store, node, &runtime, &reloadable));
    let _ = stuck.set(shared.clone());
    shared
        .router
        .write(|table| (table.set_copies(config.session.overlapping_copies), true));
    let starting = unless_failed(
        &shared,
        clustering::start_node(config, &store, &socket, identity, &shared),
    );
    let node = match runtime.block_on(unless_stopped(starting)) {
        Ok(Some(node)) => node,
        Ok(None) => return Ok(Ended::Stopped),
        Err(ServeError::Removed) => return Ok(Ended::Removed),
        Err(ServeError::Left) => return Ok(tell_left()),
        Err(error) => return Err(error),
    };
    shared.node_started();
    declare_metrics(&metrics, &shared, &open, &refused);

    let workers = start_workers(config, &shared, &metrics)?;
    start_listeners(&runtime, bound, &shared);
    if config.node.sys_interval_secs > 0 {
        let interval = Duration::from_secs(config.node.sys_interval_secs.into());
        runtime.spawn(sys_topics::run(
            Arc::downgrade(&shared),
            metrics.clone(),
            interval,
        ));
    }
    readiness.set("groups", None);
    runtime.spawn(watch_readiness(Arc::downgrade(&shared), readiness.clone()));
    let drain_over = Duration::from_secs(config.node.drain_secs.into());
    runtime.spawn(drain::follow(
        Arc::downgrade(&shared),
        readiness.clone(),
        drain_over,
    ));
    tracing::info!(
        groups = DATA_GROUPS + LIVE_GROUPS,
        workers = workers.len(),
        "ready"
    );

    let ended = runtime.block_on(wait_for_end(config, &shared, &reloadable));
    readiness.set("stopping", Some("the node is stopping".to_owned()));
    if matches!(ended, Ok(Ended::Stopped)) {
        runtime.block_on(drain::before_stop(&shared, drain_over));
    }
    stop(&runtime, &shared, workers, &node, &store);
    if matches!(ended, Ok(Ended::Left)) {
        tell_left();
    }
    ended
}

fn tell_left() -> Ended {
    tracing::info!("this node has left the cluster for good; its data directory is of no more use");
    Ended::Left
}

/// Waits for what a start takes, unless the node cannot go on meanwhile.
async fn unless_failed<T>(
    shared: &Shared,
    starting: impl Future<Output = Result<T, ServeError>>,
) -> Result<T, ServeError> {
    let mut failure = shared.watch_fatal();
    tokio::select! {
        started = starting => started,
        failed = failure.wait_for(Option::is_some) => Err(match failed.ok().and_then(|failed| failed.clone()) {
            Some(Failure::Fatal(what)) => ServeError::Fatal(what),
            Some(Failure::Left) => ServeError::Left,
            Some(Failure::Removed) | None => ServeError::Removed,
        }),
    }
}

/// Waits for what a start takes, unless the process is told to stop meanwhile.
async fn unless_stopped<T>(
    starting: impl Future<Output = Result<T, ServeError>>,
) -> Result<Option<T>, ServeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        started = starting => started.map(Some),
        _ = terminate.recv() => Ok(None),
        _ = interrupt.recv() => Ok(None),
    }
}

/// Tells the probes which groups have no leader, and whether the node may answer clients.
async fn watch_readiness(shared: std::sync::Weak<Shared>, readiness: Readiness) {
    const LOOK_INTERVAL: Duration = Duration::from_millis(200);
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        ticks.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        let node = shared.node();
        let leaderless: Vec<String> = node
            .groups()
            .filter(|group| group.known_leader().is_none())
            .map(|group| Placement::name(group.id()))
            .collect();
        let groups = (!leaderless.is_empty()).then(|| format!("without leader: {}", leaderless.join(", ")));
        readiness.set("groups", groups);
        let lease = (!shared.may_answer()).then(|| {
            "the node has no lease: it cannot reach a majority of the cluster's membership group".to_owned()
        });
        readiness.set("lease", lease);
    }
}

fn refuse_unsupported(config: &Config) -> Result<(), ServeError> {
    let unsupported = |what: String| Err(ServeError::Unsupported(what));
    if let Some(listener) = config.listener.iter().find(|listener| listener.kind.is_tls()) {
        return unsupported(format!(
            "listener {:?} has kind {:?}: TLS is not part of this version; put a TLS proxy before a plain listener",
            listener.name,
            listener.kind.as_str()
        ));
    }
    Ok(())
}

fn bind(what: &str, address: SocketAddr) -> Result<std::net::TcpListener, ServeError> {
    listener::bind(address).map_err(|error| ServeError::Bind {
        what: what.to_owned(),
        address,
        error,
    })
}

fn bind_listener(
    config: &Config,
    listener: &ListenerConfig,
    open: &Arc<AtomicU32>,
    refused: &Arc<AtomicU64>,
) -> Result<Bound, ServeError> {
    let socket = bind(&format!("listener {:?}", listener.name), listener.bind)?;
    let settings = Arc::new(connection_settings(config, listener));
    let context = ListenerContext {
        durability: listener.durability,
        name: listener.name.clone(),
        kind: listener.kind,
        web_socket: WebSocketSettings {
            path: listener.path.clone(),
            message_bytes_max: settings.maximum_packet_size as usize + WEB_SOCKET_SLACK,
            ..WebSocketSettings::default()
        },
        settings,
        proxy_protocol: listener.proxy_protocol,
        anonymous_allowed: config.allows_anonymous(listener),
        connect_timeout_ms: u64::from(config.limits.connect_timeout_secs) * 1000,
        open: open.clone(),
        open_max: config.limits.connections_max,
        refused: refused.clone(),
        keeps_peer: listener.proxy_protocol
            || listener.kind.is_websocket()
            || !config.auth.user.is_empty()
            || !config.acl.rule.is_empty(),
    };
    Ok(Bound {
        socket,
        context: Arc::new(context),
    })
}

fn connection_settings(config: &Config, listener: &ListenerConfig) -> ConnectionSettings {
    let offered = config.capabilities(listener);
    let limits = &config.limits;
    ConnectionSettings {
        receive_maximum_in: offered.receive_maximum,
        window_out_max: limits.inflight_max,
        maximum_packet_size: offered.maximum_packet_size,
        topic_alias_max_in: offered.topic_alias_maximum,
        topic_alias_max_out: limits.topic_alias_outbound_max,
        session_expiry_secs_max: config.session.expiry_secs_max,
        server_keep_alive_secs: offered.server_keep_alive_secs,
        keep_alive_secs_max: offered.keep_alive_secs_max,
        maximum_qos: offered.maximum_qos,
        retain_available: offered.retain_available,
        wildcard_available: offered.wildcard_available,
        shared_available: offered.shared_available,
        subscription_ids_available: offered.subscription_ids_available,
        response_information: limits.response_information.as_deref().map(Arc::from),
        client_id_bytes_max: limits.client_id_bytes_max,
        topic_levels_max: limits.topic_levels_max,
        topic_bytes_max: limits.topic_bytes_max,
        queue_messages_max: config.session.queue_messages_max,
        queue_bytes_max: u32::try_from(config.session.queue_bytes_max).unwrap_or(u32::MAX),
        output_bytes_max: limits.connection_output_bytes_max,
        validate_payload_format: true,
        ..ConnectionSettings::default()
    }
}

fn shared_state(
    config: &Config,
    store: &Store,
    node: NodeId,
    runtime: &Runtime,
    reloadable: &Reloadable,
) -> Shared {
    let limits = &config.limits;
    let settings = SharedSettings {
        // The node's limit is checked before anything is proposed; this one bounds what a group can be made to hold.
        session_limits: SessionLimits {
            sessions_max: u32::try_from(limits.sessions_max).unwrap_or(u32::MAX),
            subscriptions_max: limits.subscriptions_per_session_max,
        },
        sessions_max: limits.sessions_max,
        retained_messages_max: limits.retained_messages_max,
        retained_bytes_max: limits.retained_bytes_max,
        queue_messages_max: config.session.queue_messages_max,
        queue_bytes_max: config.session.queue_bytes_max,
        drain_will_delay_secs: config.session.drain_will_delay_secs,
        durability: config
            .durability
            .iter()
            .map(|rule| (rule.filter.clone(), rule.class))
            .collect(),
        publish_wait_max: Duration::from_secs(limits.publish_wait_secs_max.into()),
        refused_subscription: match config.acl.tell_not_authorized {
            true => ReasonCode::NOT_AUTHORIZED,
            false => ReasonCode::UNSPECIFIED_ERROR,
        },
        node,
        incarnation: store.incarnation,
    };
    let authenticator: Box<dyn Authenticator> = Box::new(reloadable.users.clone());
    // Without rules nobody is asked, on the publish path least of all; the first rules need a restart.
    let rules = &reloadable.rules;
    let authorizer = (!rules.allows_everything()).then(|| Box::new(rules.clone()) as Box<dyn Authorizer>);
    Shared::new(
        settings,
        config.workers(),
        authenticator,
        authorizer,
        runtime.handle().clone(),
    )
}

fn start_workers(
    config: &Config,
    shared: &Arc<Shared>,
    metrics: &Metrics,
) -> Result<Vec<JoinHandle<()>>, ServeError> {
    let mut workers = Vec::new();
    for index in 0..config.workers() {
        let index = u16::try_from(index).expect("the configuration bounds the number of workers");
        workers.push(Worker::spawn(index, shared.clone(), metrics.add_worker())?);
    }
    Ok(workers)
}

fn start_listeners(runtime: &Runtime, bound: Vec<Bound>, shared: &Arc<Shared>) {
    let turn = Arc::new(AtomicUsize::new(0));
    for Bound { socket, context } in bound {
        if let Ok(address) = socket.local_addr() {
            tracing::info!(name = %context.name, kind = context.kind.as_str(), %address, "listening");
        }
        let shared = shared.clone();
        let turn = turn.clone();
        runtime.spawn(async move {
            if let Err(error) = listener::accept(socket, context.clone(), shared.clone(), turn).await {
                quorate_cluster::node::Host::fatal(
                    &*shared,
                    format!("listener {:?} failed: {error}", context.name),
                );
            }
        });
    }
}

fn start_admin(
    runtime: &Runtime,
    socket: std::net::TcpListener,
    config: &Config,
    metrics: &Metrics,
    readiness: &Readiness,
    shared: Arc<OnceLock<Arc<Shared>>>,
) -> Result<(), ServeError> {
    let address = socket.local_addr()?;
    let _entered = runtime.enter();
    let socket = tokio::net::TcpListener::from_std(socket)?;
    let known = shared.clone();
    let state = AdminState::new(
        &config.node.name,
        metrics.clone(),
        readiness.clone(),
        shared,
        move || known.get()?.stuck_worker(),
    );
    runtime.spawn(async move {
        if let Err(error) = admin::serve(socket, state, std::future::pending()).await {
            tracing::error!(%error, "the admin interface failed");
        }
    });
    tracing::info!(name = "admin", kind = "http", %address, "listening");
    Ok(())
}

fn declare_metrics(metrics: &Metrics, shared: &Arc<Shared>, open: &Arc<AtomicU32>, refused: &Arc<AtomicU64>) {
    let scope = metrics.scope("");
    let connections = open.clone();
    scope.gauge(
        "sockets_open",
        "Connections accepted and not closed, of all listeners.",
        move || f64::from(connections.load(Ordering::Relaxed)),
    );
    let connections = refused.clone();
    scope.counter(
        "connections_refused_total",
        "Connections refused because there were too many.",
        move || connections.load(Ordering::Relaxed),
    );
    let wills = shared.clone();
    scope.counter("wills_published_total", "Wills published.", move || {
        wills.wills_published()
    });
    let waiting = shared.clone();
    scope.gauge(
        "commit_backlog_bytes",
        "Commands that wait to be on disk; clients are not read while there are too many.",
        move || waiting.commit_backlog_bytes() as f64,
    );
    let waiting = shared.clone();
    scope.gauge(
        "unstored_payload_bytes",
        "Large payloads of queues that no checkpoint holds; clients are not read while there are too many.",
        move || waiting.unstored_payload_bytes() as f64,
    );
    let waiting = shared.clone();
    scope.gauge(
        "delivery_backlog_bytes",
        "Deliveries on their way between workers; clients are not read while there are too many for one worker.",
        move || waiting.delivery_backlog_bytes() as f64,
    );
    clustering::declare_metrics(&scope, shared);
    store::declare_state_metrics(&scope, shared);
}

async fn wait_for_end(
    config: &Config,
    shared: &Shared,
    reloadable: &Reloadable,
) -> Result<Ended, ServeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut fatal = shared.watch_fatal();
    loop {
        tokio::select! {
            _ = terminate.recv() => {
                tracing::info!(signal = "SIGTERM", "stopping");
                return Ok(Ended::Stopped);
            }
            _ = interrupt.recv() => {
                tracing::info!(signal = "SIGINT", "stopping");
                return Ok(Ended::Stopped);
            }
            _ = hangup.recv() => cli::reload(config, &reloadable.users, &reloadable.rules),
            failed = fatal.wait_for(Option::is_some) => {
                let failed = failed.ok().and_then(|failed| failed.clone());
                return match failed {
                    Some(Failure::Removed) => {
                        tracing::warn!("the cluster has gone on without this node; it closes its clients and starts anew");
                        Ok(Ended::Removed)
                    }
                    Some(Failure::Left) => Ok(Ended::Left),
                    Some(Failure::Fatal(what)) => Err(ServeError::Fatal(what)),
                    None => Ok(Ended::Stopped),
                };
            }
        }
    }
}

/// Clients first, so that what they were told is in the groups; then the groups, with a last checkpoint; then the log.
fn stop(
    runtime: &Runtime,
    shared: &Shared,
    workers: Vec<JoinHandle<()>>,
    node: &Node<Shared>,
    store: &Store,
) {
    shared.set_stopping();
    for mailbox in &shared.mailboxes {
        mailbox.send(Mail::Stop);
    }
    for worker in workers {
        if worker.join().is_err() {
            tracing::error!("a worker panicked");
        }
    }
    let stopped = runtime.block_on(async { tokio::time::timeout(STOP_WAIT, node.shutdown()).await });
    if stopped.is_err() {
        tracing::warn!("the groups did not stop in time; the log will be replayed at the next start");
        return;
    }
    store.close();
    tracing::info!("stopped");
}
