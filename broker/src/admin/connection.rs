//! Connections of the HTTP interface, bounded in number and in the time they may take.
//!
//! The interface may be reachable by more than its users; whoever opens connections and says nothing, or very little at a
//! time, must not keep Prometheus and the probes out. Where there are too many, the oldest one is closed: a probe is
//! quick, and comes again.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

/// Open connections.
const CONNECTIONS_MAX: usize = 256;

/// Time for the head of a request, from its first byte; of the first one, from the connection.
const HEAD_MAX: Duration = Duration::from_secs(5);

/// Time for the body of a request and until its answer begins.
const REQUEST_MAX: Duration = Duration::from_secs(60);

/// Time a connection may wait for its peer to take an answer, or to ask again.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Pause after an error of the operating system, such as too many open files.
const ERROR_PAUSE: Duration = Duration::from_millis(500);

/// Accepts, and closes the oldest connection where there are too many.
pub(super) struct BoundedListener {
    listener: TcpListener,
    open: Arc<Open>,
    max: usize,
}

/// The open connections, in the order in which they came; the sender's end closes one.
#[derive(Default)]
struct Open(Mutex<(u64, BTreeMap<u64, oneshot::Sender<()>>)>);

impl Open {
    fn enter(self: &Arc<Self>, max: usize) -> Entry {
        let (close, closed) = oneshot::channel();
        let mut open = self.0.lock();
        let (next, connections) = &mut *open;
        if connections.len() >= max {
            connections.pop_first();
        }
        let number = *next;
        *next += 1;
        connections.insert(number, close);
        let open = Arc::clone(self);
        Entry { open, number, closed }
    }
}

/// A connection among the open ones.
struct Entry {
    open: Arc<Open>,
    number: u64,
    closed: oneshot::Receiver<()>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.open.0.lock().1.remove(&self.number);
    }
}

impl BoundedListener {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            open: Arc::default(),
            max: CONNECTIONS_MAX,
        }
    }
}

impl axum::serve::Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    return (BoundedStream::new(stream, self.open.enter(self.max)), address);
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin interface cannot accept a connection");
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Where a connection is in its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// In the head; so many bytes of the empty line at its end have come.
    Head(usize),
    /// Behind the head; nothing is answered yet.
    Request,
    /// The answer is being written, or was.
    Answer,
}

/// The stage behind these bytes of a head.
fn behind(bytes: &[u8], mut matched: usize) -> Stage {
    for byte in bytes {
        // A line feed alone ends a line too.
        matched = match (byte, matched) {
            (b'\n', 1) => 2,
            (b'\n', 2 | 3) => return Stage::Request,
            (b'\n', _) => 2,
            (b'\r', 2) => 3,
            (b'\r', _) => 1,
            _ => 0,
        };
    }
    Stage::Head(matched)
}

/// A connection that ends with an error when its peer takes too long, or another one needs its place.
pub(super) struct BoundedStream {
    stream: TcpStream,
    stage: Stage,
    /// The end of the stage.
    deadline: Pin<Box<Sleep>>,
    entry: Entry,
}

impl BoundedStream {
    fn new(stream: TcpStream, entry: Entry) -> Self {
        Self {
            stream,
            stage: Stage::Head(0),
            deadline: Box::pin(tokio::time::sleep(HEAD_MAX)),
            entry,
        }
    }

    fn enter(&mut self, stage: Stage, longest: Duration) {
        self.stage = stage;
        self.deadline.as_mut().reset(Instant::now() + longest);
    }

    /// These bytes have come.
    fn note_read(&mut self, bytes: &[u8]) {
        let matched = match self.stage {
            Stage::Head(matched) => matched,
            Stage::Request => return,
            Stage::Answer => {
                self.enter(Stage::Head(0), HEAD_MAX);
                0
            }
        };
        match behind(bytes, matched) {
            Stage::Head(matched) => self.stage = Stage::Head(matched),
            stage => self.enter(stage, REQUEST_MAX),
        }
    }

    /// The end of patience, or of the place.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if Pin::new(&mut self.entry.closed).poll(context).is_ready() {
            return Poll::Ready(io::ErrorKind::ConnectionAborted.into());
        }
        let late = self.deadline.as_mut().poll(context);
        late.map(|()| io::ErrorKind::TimedOut.into())
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_end(context) {
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(bytes) = buffer.filled().get(before..).filter(|bytes| !bytes.is_empty()) {
            self.note_read(bytes);
        }
        poll
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(error) = self.poll_end(context) {
            return Poll::Ready(Err(error));
        }
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        if poll.is_ready() {
            self.enter(Stage::Answer, IDLE_MAX);
        }
        poll
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::serve::Listener;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Takes one connection at a time.
    async fn listener() -> BoundedListener {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (open, max) = (Arc::default(), 1);
        BoundedListener { listener, open, max }
    }

    #[tokio::test]
    async fn a_new_connection_takes_the_place_of_the_oldest() {
        let mut listener = listener().await;
        let address = listener.local_addr().unwrap();
        let _silent = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        let (mut oldest, _) = listener.accept().await;
        let (mut newer, _) = listener.accept().await;
        let error = oldest.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        drop(oldest);
        second.write_all(b"a").await.unwrap();
        assert_eq!(newer.read(&mut [0; 1]).await.unwrap(), 1);
        drop(newer);
        assert!(listener.open.0.lock().1.is_empty());
    }

    #[tokio::test]
    async fn a_head_that_comes_byte_by_byte_ends_in_time() {
        let mut listener = listener().await;
        let mut slow = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await;
        let end = Instant::now() + Duration::from_millis(100);
        stream.deadline.as_mut().reset(end);
        let error = loop {
            slow.write_all(b"G").await.unwrap();
            if let Err(error) = stream.read(&mut [0; 8]).await {
                break error;
            }
            assert!(end.elapsed() < Duration::from_secs(10), "it is still read");
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn each_stage_of_a_request_has_its_time() {
        let mut listener = listener().await;
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await;
        let mut ends_in = async |sent: &str| {
            peer.write_all(sent.as_bytes()).await.unwrap();
            stream.read_exact(&mut vec![0; sent.len()]).await.unwrap();
            let deadline = stream.deadline.deadline();
            let read = (stream.stage, deadline, deadline - Instant::now());
            if sent == "more" {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                assert_eq!(stream.stage, Stage::Answer);
            }
            read
        };
        for _ in 0..2 {
            let (stage, began, left) = ends_in("GET / HTTP/1.1\r\n").await;
            assert_eq!(stage, Stage::Head(2));
            assert!(left <= HEAD_MAX);
            let (stage, deadline, _) = ends_in("host: a").await;
            assert_eq!((stage, deadline), (Stage::Head(0), began), "bytes win no time");
            let (stage, began, left) = ends_in("\r\n\r\nbody").await;
            assert_eq!(stage, Stage::Request);
            assert!(left > IDLE_MAX && left <= REQUEST_MAX);
            let (stage, deadline, _) = ends_in("more").await;
            assert_eq!((stage, deadline), (Stage::Request, began), "bytes win no time");
        }
    }

    #[test]
    fn the_end_of_a_head_is_found_however_it_comes() {
        for head in [
            "GET / HTTP/1.1\r\na: b\r\n\r\n",
            "GET / HTTP/1.1\na: b\n\n",
            "a\r\n\n",
        ] {
            for split in 0..head.len() {
                let (first, second) = head.split_at(split);
                let Stage::Head(matched) = behind(first.as_bytes(), 0) else {
                    panic!("{head:?} does not end at {split}");
                };
                assert_eq!(behind(second.as_bytes(), matched), Stage::Request, "{head:?}");
            }
        }
        for no_end in ["\r\n\r", "\r\r\r\r", "a\r\nb\r\n", "\r\na\r\n"] {
            assert!(
                matches!(behind(no_end.as_bytes(), 0), Stage::Head(_)),
                "{no_end:?}"
            );
        }
    }
}
