//! The port for other nodes: who connects is checked (`tls`), and either asks for a connection to be passed on
//! (`relay`) or speaks HTTP/2, which goes on to the server.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream as FuturesStream;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::server::Connected;

use super::tls::{self, PeerTls};
use super::{Refusals, Rewound, Wire, relay, set_up};
use crate::raft::transport::Transport;

/// Connections of which nothing is known yet.
const UNKNOWN_MAX: usize = 128;
/// Time for the first byte: a node sends it at once.
const FIRST_BYTE_MAX: Duration = Duration::from_secs(1);
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
    let unknown = Arc::new(Unknown::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        let (socket, from) =
            match accepted.and_then(|(socket, from)| set_up(&socket).map(|()| (socket, from))) {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection of another node could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
        let door = Arc::clone(&door);
        let (stay, displaced) = unknown.enter(from.ip());
        connections.spawn(async move {
            let begun = tokio::select! {
                begun = timeout(BEGIN_MAX, door.begin(socket)) => begun,
                _ = displaced => {
                    door.refusals.tell(&from, "too many connections say nothing");
                    return;
                }
            };
            drop(stay);
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

/// Connections of which nothing is known yet, at most [`UNKNOWN_MAX`]. Where one comes that is too many, the oldest of
/// the address with the most of them has to go: who opens connections and says nothing keeps nobody out but itself.
#[derive(Default)]
struct Unknown(Mutex<Entered>);

#[derive(Default)]
struct Entered {
    next: u64,
    waiting: BTreeMap<u64, (IpAddr, oneshot::Sender<()>)>,
}

/// A connection is unknown for as long as this exists.
struct Stay {
    unknown: Arc<Unknown>,
    number: u64,
}

impl Unknown {
    /// A connection has come; what is received is that it has to go.
    fn enter(self: &Arc<Self>, from: IpAddr) -> (Stay, oneshot::Receiver<()>) {
        let (displace, displaced) = oneshot::channel();
        let mut entered = self.0.lock();
        if entered.waiting.len() >= UNKNOWN_MAX {
            entered.displace_one();
        }
        let number = entered.next;
        entered.next += 1;
        entered.waiting.insert(number, (from, displace));
        let unknown = Arc::clone(self);
        (Stay { unknown, number }, displaced)
    }
}

impl Entered {
    fn displace_one(&mut self) {
        let mut counts = HashMap::<IpAddr, usize>::new();
        for (from, _) in self.waiting.values() {
            *counts.entry(*from).or_default() += 1;
        }
        let most = counts.values().max().copied();
        let oldest = self
            .waiting
            .iter()
            .find(|(_, (from, _))| counts.get(from).copied() == most);
        let oldest = oldest.map(|(number, _)| *number);
        if let Some((_, displace)) = oldest.and_then(|number| self.waiting.remove(&number)) {
            // Where nobody receives it, it has just become known.
            let _ = displace.send(());
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.unknown.0.lock().waiting.remove(&self.number);
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
        match timeout(FIRST_BYTE_MAX, socket.peek(&mut first)).await {
            Ok(Ok(0) | Err(_)) => return Ok(None),
            Ok(Ok(_)) => {}
            Err(_) => return Err("nothing came".to_owned()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_most_connections_without_a_word_loses_one() {
        let unknown = Arc::new(Unknown::default());
        let address = |last| IpAddr::from([127, 0, 0, last]);
        let (first, mut first_displaced) = unknown.enter(address(1));
        let mut crowd: Vec<_> = (0..UNKNOWN_MAX).map(|_| unknown.enter(address(2))).collect();
        assert!(first_displaced.try_recv().is_err(), "the oldest of all stays");
        assert!(crowd[0].1.try_recv().is_ok());
        assert!(crowd[1].1.try_recv().is_err());
        // Where each has one it is the oldest.
        crowd.clear();
        assert_eq!(unknown.0.lock().waiting.len(), 1);
        let others = u8::try_from(UNKNOWN_MAX).unwrap();
        let _others: Vec<_> = (0..others)
            .map(|from| unknown.enter(address(10 + from)))
            .collect();
        assert!(first_displaced.try_recv().is_ok());
        drop(first);
        assert_eq!(unknown.0.lock().waiting.len(), UNKNOWN_MAX);
    }
}
