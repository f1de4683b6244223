//! Connections between nodes, below gRPC: what lies between two nodes is a stream of bytes, however it comes about.
//!
//! ```text
//! dial:    TCP -> TLS -> [relay request -> TLS to the node behind the relay] -> HTTP/2 -> hello
//! accept:  TCP -> TLS -> first bytes: a relay request is carried out, everything else is HTTP/2
//! ```
//!
//! - `dial`: the direct way, and the way through another member where that does not come about (R5).
//! - `relay`: the request to be passed on, and who carries it out. What passes a relay is encrypted between the two
//!   ends, where the cluster uses TLS; the relay sees nothing of it.
//! - `accept`: the listening side.
//! - `ways`: which nodes are reached through a relay, when to try directly again, and the counts of connections.
//! - `tls`: certificates of both sides.

mod accept;
mod dial;
mod relay;
pub(crate) mod tls;
mod ways;

use std::fmt::Display;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

pub use accept::{Accepted, PeerListener};
pub(super) use dial::{DialError, Dialed, dial, directly, is_gone};
pub(crate) use dial::{host_of, open};
pub(super) use relay::Relays;
pub(super) use tls::PeerTls;
pub use ways::{ConnectionCount, ConnectionUse};
pub(super) use ways::{Counted, Way, Ways};

/// What was sent and is not acknowledged by the other machine after this time ends the connection. HTTP/2 notices
/// sooner; this is for relays, which do not look inside.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(5);
/// A connection on which nothing is sent is looked after by the system.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Time between log lines about who was refused.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// Who was refused, told now and then: whoever is refused tries again at once.
#[derive(Default)]
pub(super) struct Refusals {
    told: Mutex<Option<Instant>>,
    untold: AtomicU64,
}

impl Refusals {
    /// `from` is a node or an address.
    pub(super) fn tell(&self, from: &dyn Display, reason: &str) {
        let mut told = self.told.lock();
        if told.is_some_and(|at| at.elapsed() < TELL_INTERVAL) {
            self.untold.fetch_add(1, Ordering::Relaxed);
            return;
        }
        *told = Some(Instant::now());
        let untold = self.untold.swap(0, Ordering::Relaxed);
        tracing::warn!(%from, reason, untold, "a connection on the port for other nodes is refused");
    }
}

/// A stream of bytes to or from a node.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Any of them.
pub(crate) type Wire = Box<dyn Stream>;

/// What every socket between nodes needs.
fn set_up(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    let keep_alive = TcpKeepalive::new()
        .with_time(KEEP_ALIVE)
        .with_interval(KEEP_ALIVE / 5);
    socket.set_tcp_keepalive(&keep_alive)
}

/// HTTP/2 over a stream that stands. A channel that breaks is not made again: who uses it dials anew.
pub(crate) async fn channel(endpoint: Endpoint, wire: Wire) -> Result<Channel, String> {
    let mut wire = Some(TokioIo::new(wire));
    let connector = tower::service_fn(move |_| {
        let wire = wire.take();
        std::future::ready(wire.ok_or_else(|| io::Error::other("the connection is over")))
    });
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|error| with_sources(&error))
}

/// An error with what caused it: tonic's own words are "transport error".
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// A stream of which the first bytes have been read already.
struct Rewound {
    first: io::Cursor<Vec<u8>>,
    rest: Wire,
}

impl AsyncRead for Rewound {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let position = usize::try_from(this.first.position()).unwrap_or(usize::MAX);
        let left = this.first.get_ref().get(position..).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut this.rest).poll_read(context, buffer);
        }
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..count]);
        this.first.set_position((position + count) as u64);
        Poll::Ready(Ok(()))
    }
}

/// What is written goes straight to the stream below.
macro_rules! write_through {
    ($type:ty, $field:ident) => {
        impl AsyncWrite for $type {
            fn poll_write(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.get_mut().$field).poll_write(context, bytes)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                slices: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.get_mut().$field).poll_write_vectored(context, slices)
            }

            fn is_write_vectored(&self) -> bool {
                self.$field.is_write_vectored()
            }

            fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.get_mut().$field).poll_flush(context)
            }

            fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.get_mut().$field).poll_shutdown(context)
            }
        }
    };
}

write_through!(Rewound, rest);

/// A stream without TLS, which says so where the other end answers with TLS.
struct Plain {
    wire: Wire,
    begun: bool,
}

impl AsyncRead for Plain {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.wire).poll_read(context, buffer);
        if !this.begun
            && let Some(first) = buffer.filled().get(before)
        {
            this.begun = true;
            if tls::is_record(*first) {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it wants TLS, and this node has no cluster.tls",
                )));
            }
        }
        read
    }
}

write_through!(Plain, wire);
