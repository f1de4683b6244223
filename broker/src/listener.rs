//! Listeners: bound once at the start, accepted from on the control runtime, handed to the workers in turn.
//!
//! One socket per listener, so that a port that is taken is an error at the start and connections spread evenly.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use quorate_proto::session::ConnectionSettings;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::config::{DurabilityClass, ListenerKind};
use crate::node::Shared;
use crate::transport::proxy_protocol;
use crate::transport::websocket::{self, WebSocketSettings, WebSocketTransport};
use crate::worker::{Accepted, Mail};

/// Connections the kernel may hold before they are accepted.
const BACKLOG: i32 = 4_096;
/// Pause when the process has no file descriptor left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// What the connections of a listener need to know of it.
#[derive(Debug)]
pub(crate) struct ListenerContext {
    pub(crate) name: String,
    pub(crate) kind: ListenerKind,
    pub(crate) settings: Arc<ConnectionSettings>,
    pub(crate) web_socket: WebSocketSettings,
    pub(crate) proxy_protocol: bool,
    /// Of what is published here, where no rule says otherwise.
    pub(crate) durability: DurabilityClass,
    pub(crate) anonymous_allowed: bool,
    pub(crate) connect_timeout_ms: u64,
    /// Connections of all listeners, and how many there may be.
    pub(crate) open: Arc<AtomicU32>,
    pub(crate) open_max: u32,
    /// Connections refused because there were too many.
    pub(crate) refused: Arc<AtomicU64>,
    /// Whether anybody asks for the peer's address later.
    pub(crate) keeps_peer: bool,
}

impl ListenerContext {
    /// Whether a connection can be served as it was accepted.
    pub(crate) fn is_plain(&self) -> bool {
        self.kind == ListenerKind::Mqtt && !self.proxy_protocol
    }

    /// Whether connections remember their peer.
    pub(crate) fn wants_peer(&self) -> bool {
        self.keeps_peer
    }

    fn admit(&self) -> bool {
        let admitted = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
                (open < self.open_max).then_some(open + 1)
            });
        admitted.is_ok()
    }

    /// A connection is gone.
    pub(crate) fn released(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection whose first bytes, before MQTT, have been dealt with.
pub(crate) enum Prepared {
    Tcp(TcpStream, SocketAddr),
    WebSocket(Box<WebSocketTransport<TcpStream>>, SocketAddr),
}

/// Reads the PROXY header and does the WebSocket handshake, where the listener wants them.
pub(crate) async fn prepare(
    mut stream: TcpStream,
    mut peer: SocketAddr,
    listener: &ListenerContext,
) -> io::Result<Prepared> {
    let timeout = Duration::from_millis(listener.connect_timeout_ms);
    if listener.proxy_protocol {
        let header = proxy_protocol::read_header(&mut stream, timeout)
            .await
            .map_err(io::Error::other)?;
        peer = header.source.unwrap_or(peer);
    }
    if listener.kind == ListenerKind::Ws {
        let socket = websocket::accept(stream, &listener.web_socket, timeout)
            .await
            .map_err(io::Error::other)?;
        return Ok(Prepared::WebSocket(Box::new(socket), peer));
    }
    Ok(Prepared::Tcp(stream, peer))
}

/// Binds an address for listening.
///
/// # Errors
/// The address is taken, not ours, or not permitted.
pub(crate) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // An IPv6 wildcard serves IPv4 as well, as people expect of `[::]`.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Accepts connections until the process stops.
pub(crate) async fn accept(
    socket: std::net::TcpListener,
    listener: Arc<ListenerContext>,
    shared: Arc<Shared>,
    turn: Arc<AtomicUsize>,
) -> io::Result<()> {
    let socket = TcpListener::from_std(socket)?;
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => hand_over(stream, peer, &listener, &shared, &turn),
            Err(error) if is_connection_error(&error) => {}
            Err(error) => {
                tracing::warn!(listener = %listener.name, %error, "cannot accept connections for now");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

/// Errors of the connection that was to be accepted, not of the listener.
fn is_connection_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

fn hand_over(
    stream: TcpStream,
    peer: SocketAddr,
    listener: &Arc<ListenerContext>,
    shared: &Shared,
    turn: &AtomicUsize,
) {
    if !listener.admit() {
        listener.refused.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%peer, listener = %listener.name, "refused: too many connections");
        return;
    }
    // The worker's own runtime watches it from now on.
    let Ok(socket) = stream.set_nodelay(true).and_then(|()| stream.into_std()) else {
        // The client has gone already.
        listener.released();
        return;
    };
    let worker = turn.fetch_add(1, Ordering::Relaxed) % shared.mailboxes.len();
    let accepted = Accepted {
        socket,
        peer,
        listener: listener.clone(),
    };
    shared.mailboxes[worker].send(Mail::Accept(Box::new(accepted)));
}
