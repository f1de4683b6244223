//! MQTT over WebSocket (MQTT 5, section 6): a transport that reads and writes like a TCP connection.
//!
//! [`accept`] performs the handshake ([`handshake`]); what comes of it is a [`WebSocketTransport`], which the task of a
//! connection drives by readiness as it would a socket. Frames are taken apart where they were read ([`frames`]) and
//! their payload is a stream of bytes: packets may span frames, and a frame may hold several [MQTT-6.0.0-2].
//!
//! The library does the handshake's parsing and the frame headers; its message stream is not used, because it gathers
//! whole messages, copies what it sends twice, and keeps a read and a write buffer for each connection for ever, which
//! for idle connections is most of their memory. Here an idle connection has no buffer at all.
//!
//! Invariants:
//!
//! 1. `unsent` holds at most one data frame of `write_buffer_bytes_max`, or one control frame.
//! 2. A frame that was begun is sent to its end before another begins; nothing follows a close frame.
//! 3. Only the latest ping waits for its answer (RFC 6455, section 5.5.3), so a peer that only pings costs no memory.

mod frames;
mod handshake;
#[cfg(test)]
mod tests;

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use self::frames::{CONTROL_BYTES_MAX, Decoder, Event, Violation};
pub use self::handshake::{AcceptError, accept};

/// Room that is made for a read into a buffer that has less.
const READ_BYTES: usize = 4 * 1024;
/// Longest header that is sent: two bytes and eight of length.
const HEADER_BYTES_MAX: usize = 10;

/// What a listener allows its WebSockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketSettings {
    /// The path served; any other is answered with 404. A query behind it is ignored.
    pub path: String,
    /// Longest head of the request that opens a WebSocket.
    pub head_bytes_max: usize,
    /// Longest message that is taken, in one frame or in several. A client may put several packets into one, so this
    /// should be larger than the largest packet.
    pub message_bytes_max: usize,
    /// Longest frame that is sent, and so what is held for a peer that does not read. Longer data is sent in several
    /// frames.
    pub write_buffer_bytes_max: usize,
}

impl Default for WebSocketSettings {
    fn default() -> Self {
        Self {
            path: "/mqtt".to_owned(),
            head_bytes_max: 8 * 1024,
            message_bytes_max: 16 * 1024 * 1024,
            write_buffer_bytes_max: 64 * 1024,
        }
    }
}

/// The server's side of an open WebSocket. All calls must come from one task.
#[derive(Debug)]
pub struct WebSocketTransport<S> {
    stream: S,
    decoder: Decoder,
    write_buffer_bytes_max: usize,
    /// The rest of a frame that the socket did not take whole, from `sent` on.
    unsent: Vec<u8>,
    sent: usize,
    /// What the latest ping wants to have back.
    pong: Option<Vec<u8>>,
    outgoing: Outgoing,
    /// The peer has sent a close frame, or broken a rule: nothing more is read.
    input_ended: bool,
}

/// What may still be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outgoing {
    Open,
    /// A close frame follows the frame that is being sent.
    Closing(Option<CloseCode>),
    /// The close frame is sent, or what is left of it is in `unsent`.
    Closed,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocketTransport<S> {
    /// Takes over a stream on which the handshake is done.
    fn new(stream: S, settings: &WebSocketSettings) -> Self {
        Self {
            stream,
            decoder: Decoder::new(settings.message_bytes_max),
            write_buffer_bytes_max: settings.write_buffer_bytes_max.max(1),
            unsent: Vec::new(),
            sent: 0,
            pong: None,
            outgoing: Outgoing::Open,
            input_ended: false,
        }
    }

    /// The stream below, for its addresses and options.
    pub const fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Reads payload and appends it to `buf`; its length is returned, 0 once the peer has closed. A read takes no more
    /// than the spare capacity of `buf` (some is made if there is none), so that bounds a turn.
    ///
    /// Pings are answered and a closing peer is told goodbye on the way.
    ///
    /// # Errors
    ///
    /// Those of the socket, and `InvalidData` when the peer breaks a rule: a text frame [MQTT-6.0.0-1], a message over
    /// the limit, or a violation of RFC 6455. A close frame that says so is then on its way.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        loop {
            // Answers to earlier reads. Whether they get through is no reason not to read.
            if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
            if self.input_ended {
                return Poll::Ready(Ok(0));
            }
            let start = buf.len();
            if buf.capacity() == start {
                buf.reserve(READ_BYTES);
            }
            // Nothing is lost with the future: it holds no data while it waits.
            if ready!(pin!(self.stream.read_buf(buf)).poll(cx))? == 0 {
                return Poll::Ready(Ok(0));
            }
            if let Err(violation) = self.take_frames(buf, start) {
                buf.truncate(start);
                // If the socket does not take the close frame now, `poll_close` goes on with it.
                let _ = self.poll_send(cx);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
            }
            if buf.len() > start {
                // The peer should not wait for its answer until the next read.
                let _ = self.poll_send(cx);
                return Poll::Ready(Ok(buf.len() - start));
            }
        }
    }

    fn take_frames(&mut self, buf: &mut Vec<u8>, start: usize) -> Result<(), Violation> {
        let (pong, outgoing, input_ended) = (&mut self.pong, &mut self.outgoing, &mut self.input_ended);
        let mut close = |code| {
            *input_ended = true;
            if *outgoing == Outgoing::Open {
                *outgoing = Outgoing::Closing(code);
            }
        };
        let decoded = self.decoder.decode(buf, start, |event| match event {
            Event::Ping(payload) => *pong = Some(payload),
            Event::Close(code) => close(code),
        });
        decoded.inspect_err(|violation| close(Some(violation.code)))
    }

    /// Sends `data`, or the beginning of it, as one binary frame; returns how much was taken. What the socket did not
    /// take of the frame is kept (at most [`WebSocketSettings::write_buffer_bytes_max`]) and goes out before anything
    /// else; until then the answer is `Pending`. All is on its way when [`Self::poll_flush`] is ready.
    ///
    /// # Errors
    ///
    /// Those of the socket, and `BrokenPipe` after the connection was closed, by whichever side.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        if self.outgoing != Outgoing::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let data = &data[..data.len().min(self.write_buffer_bytes_max)];
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let (header, header_bytes) = header_of(OpCode::Data(Data::Binary), data.len());
        let header = &header[..header_bytes];
        if !self.stream.is_write_vectored() {
            self.unsent.reserve_exact(header.len() + data.len());
            self.unsent.extend_from_slice(header);
            self.unsent.extend_from_slice(data);
            if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
            return Poll::Ready(Ok(data.len()));
        }
        // Mostly the socket takes all of it: then nothing is copied.
        let parts = [IoSlice::new(header), IoSlice::new(data)];
        let taken = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &parts))?;
        if taken == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        if taken < header.len() + data.len() {
            self.unsent.extend_from_slice(&header[taken.min(header.len())..]);
            self.unsent
                .extend_from_slice(&data[taken.saturating_sub(header.len())..]);
        }
        Poll::Ready(Ok(data.len()))
    }

    /// Ready when all that was written, and all answers to the peer, have been handed to the socket.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Sends a close frame if none was sent yet, then shuts the socket down for writing. The peer's close frame is not
    /// waited for: MQTT has said goodbye by then, and a server may close first (RFC 6455, section 7.1.1).
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outgoing == Outgoing::Open {
            self.outgoing = Outgoing::Closing(Some(CloseCode::Normal));
        }
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// Sends what is left of a frame, then the pong and the close frame that wait behind it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.sent < self.unsent.len() {
                let taken = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.unsent[self.sent..]))?;
                if taken == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.sent += taken;
            }
            self.unsent = match (self.outgoing, self.pong.take()) {
                (Outgoing::Open, Some(payload)) => control_frame(Control::Pong, &payload),
                (Outgoing::Closing(code), _) => {
                    self.outgoing = Outgoing::Closed;
                    let code = code.map(|code| u16::from(code).to_be_bytes());
                    control_frame(Control::Close, code.as_ref().map_or(&[], |code| &code[..]))
                }
                (Outgoing::Open | Outgoing::Closed, _) => Vec::new(),
            };
            self.sent = 0;
            if self.unsent.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

fn control_frame(kind: Control, payload: &[u8]) -> Vec<u8> {
    debug_assert!(
        payload.len() <= CONTROL_BYTES_MAX,
        "a control frame of {} bytes",
        payload.len()
    );
    let mut frame = Vec::with_capacity(2 + payload.len());
    let (header, header_bytes) = header_of(OpCode::Control(kind), payload.len());
    frame.extend_from_slice(&header[..header_bytes]);
    frame.extend_from_slice(payload);
    frame
}

/// The header of a whole, unmasked frame, and its length.
fn header_of(opcode: OpCode, payload_bytes: usize) -> ([u8; HEADER_BYTES_MAX], usize) {
    let mut bytes = [0; HEADER_BYTES_MAX];
    let mut rest = &mut bytes[..];
    let header = FrameHeader {
        opcode,
        ..FrameHeader::default()
    };
    header
        .format(payload_bytes as u64, &mut rest)
        .expect("a header without mask fits into ten bytes");
    let length = HEADER_BYTES_MAX - rest.len();
    (bytes, length)
}
