//! The port for other nodes: who connects is checked (`tls`), and either asks for a connection to be passed on
//! (`relay`) or speaks HTTP/2, which goes on to the server.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream as FuturesStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::server::Connected;

use super::tls::{self, PeerTls};
use super::{Refusals, Rewound, Wire, relay, set_up};
use crate::raft::transport::Transport;

/// Connections of which nothing is known yet.
const UNKNOWN_MAX: usize = 128;
/// Time for a handshake and the first bytes.
const BEGIN_MAX: Duration = Duration::from_secs(5);
/// Pause after the system could not accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections on their way to the server.
const WAITING_MAX: usize = 16;

/// A node's connection, as the gRPC server takes it.
pub struct Accepted(Wire);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(context)
    }
}

/// Accepts the connections of nodes; a stream of those that are for the server. Dropped, it stops accepting, and what
/// it passes on for others ends.
pub struct PeerListener {
    accepted: mpsc::Receiver<Accepted>,
    _tasks: JoinSet<()>,
}

/// What every connection is checked against.
struct Door {
    /// Not before this node belongs to a cluster; without, nothing is passed on.
    transport: Option<Arc<Transport>>,
    tls: Option<Arc<PeerTls>>,
    refusals: Refusals,
    accepted: mpsc::Sender<Accepted>,
}

impl PeerListener {
    /// Accepts from a socket, within a runtime. Where `transport` is given, connections are passed on to its members.
    pub fn new(listener: TcpListener, transport: Option<Arc<Transport>>, tls: Option<Arc<PeerTls>>) -> Self {
        let (sender, accepted) = mpsc::channel(WAITING_MAX);
        let door = Door {
            transport,
            tls,
            refusals: Refusals::default(),
            accepted: sender,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::new(door)));
        let _tasks = tasks;
        Self { accepted, _tasks }
    }
}

impl FuturesStream for PeerListener {
    type Item = io::Result<Accepted>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.accepted.poll_recv(context).map(|accepted| accepted.map(Ok))
    }
}

async fn accept(listener: TcpListener, door: Arc<Door>) {
    let unknown = Arc::new(Semaphore::new(UNKNOWN_MAX));
    let mut connections = JoinSet::new();
    loop {
        let permit = Arc::clone(&unknown).acquire_owned().await;
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        let socket = match accepted.and_then(|(socket, from)| set_up(&socket).map(|()| (socket, from))) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "a connection of another node could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let door = Arc::clone(&door);
        connections.spawn(async move {
            let (socket, from) = socket;
            let begun = timeout(BEGIN_MAX, door.begin(socket)).await;
            drop(permit);
            match begun {
                Ok(Ok(Some(Begun::Server(wire)))) => drop(door.accepted.send(Accepted(wire)).await),
                Ok(Ok(Some(Begun::Relay(transport, wire)))) => relay::serve(&transport, wire).await,
                Ok(Ok(None)) => {}
                Ok(Err(reason)) => door.refusals.tell(&from, &reason),
                Err(_) => door.refusals.tell(&from, "nothing came"),
            }
        });
    }
}

/// What a connection turned out to be.
enum Begun {
    Server(Wire),
    Relay(Arc<Transport>, Wire),
}

impl Door {
    /// Finds out what a connection is for. `None` where it was closed before it said anything, as a look whether
    /// anybody listens is.
    async fn begin(&self, socket: TcpStream) -> Result<Option<Begun>, String> {
        let mut first = [0];
        match socket.peek(&mut first).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(_) => {}
        }
        let mut wire: Wire = match &self.tls {
            // Who does not speak TLS gets an alert, by which it knows.
            Some(tls) => tls.accept(Box::new(socket)).await?,
            None if tls::is_record(first[0]) => {
                return Err("it speaks TLS, and this node has no cluster.tls".to_owned());
            }
            None => Box::new(socket),
        };
        let mut first = vec![0; relay::MAGIC.len()];
        let read = wire.read_exact(&mut first).await;
        read.map_err(|error| error.to_string())?;
        if first != relay::MAGIC {
            let first = io::Cursor::new(first);
            return Ok(Some(Begun::Server(Box::new(Rewound { first, rest: wire }))));
        }
        match &self.transport {
            Some(transport) => Ok(Some(Begun::Relay(Arc::clone(transport), wire))),
            None => Err("it wants to be passed on, and this node belongs to no cluster yet".to_owned()),
        }
    }
}
