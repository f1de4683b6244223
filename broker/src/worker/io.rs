//! The task of a connection: reads what the socket has, hands it to the worker, writes what the flusher could not.
//!
//! Hand-written as one small future, because ten thousand idle connections hold ten thousand of them.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use super::Worker;
use super::connection::{Conn, Writer};
use crate::metrics::PauseReason;
use crate::transport::websocket::WebSocketTransport;

/// Bytes of answers beyond which a client that does not read them is not read from either. What it subscribed to does
/// not count: that has limits of its own, and a client that takes it slowly may still say that it is alive.
const ANSWERS_MAX: usize = 256 * 1024;
/// Reads in one turn, before others get theirs.
const READS_PER_TURN: usize = 4;

/// Where input comes from.
pub(super) enum Source {
    Tcp(OwnedReadHalf),
    WebSocket(Box<WebSocketTransport<TcpStream>>),
}

/// The task of one connection.
pub(super) struct ConnectionTask {
    pub(super) worker: Rc<Worker>,
    pub(super) conn: Rc<Conn>,
    pub(super) source: Source,
}

impl Future for ConnectionTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.keep_waker(cx);
        for _ in 0..READS_PER_TURN {
            if this.poll_output(cx).is_err() {
                this.worker.lose(&this.conn);
            }
            let flags = this.conn.flags.get();
            if flags.ended {
                this.worker.forget(&this.conn);
                return Poll::Ready(());
            }
            if flags.resume {
                this.conn.update(|flags| flags.resume = false);
                this.worker.take_up_input(&this.conn);
                continue;
            }
            if !flags.ending && this.is_held_back() {
                return Poll::Pending;
            }
            match ready!(this.poll_input(cx)) {
                Ok(0) | Err(_) => this.worker.lose(&this.conn),
                Ok(_) => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl ConnectionTask {
    fn keep_waker(&self, cx: &Context<'_>) {
        let known = self.conn.waker.take().filter(|known| known.will_wake(cx.waker()));
        self.conn
            .waker
            .set(Some(known.unwrap_or_else(|| cx.waker().clone())));
    }

    fn is_held_back(&self) -> bool {
        let (full, ready) = {
            let state = self.conn.state.borrow();
            (state.answers() > ANSWERS_MAX, state.protocol.ready_for_frames())
        };
        if full {
            self.conn.update(|flags| flags.paused = true);
            self.worker
                .counters
                .reads_paused
                .of(PauseReason::OutputFull)
                .increment();
        }
        full || !ready || self.worker.hold_back(&self.conn)
    }

    /// Reads once into the worker's scratch space and hands it on.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let mut scratch = self.worker.scratch.take();
        let result = match &mut self.source {
            Source::Tcp(reader) => {
                let mut buffer = ReadBuf::new(&mut scratch);
                Pin::new(reader)
                    .poll_read(cx, &mut buffer)
                    .map_ok(|()| buffer.filled().len())
            }
            Source::WebSocket(socket) => {
                scratch.clear();
                let result = socket.poll_read(cx, &mut scratch);
                let length = scratch.len();
                result.map_ok(|_| length)
            }
        };
        if let Poll::Ready(Ok(length)) = result
            && length > 0
        {
            self.worker.take_input(&self.conn, &scratch[..length]);
        }
        self.worker.return_scratch(scratch);
        result
    }

    /// Writes what the socket refused before, or what only this task can write.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        match (&mut self.source, &self.conn.writer) {
            (Source::WebSocket(socket), _) => {
                Self::poll_web_socket_output(&self.worker, &self.conn, socket, cx)
            }
            (Source::Tcp(_), Writer::Tcp(writer)) => {
                while self.conn.flags.get().blocked {
                    match writer.as_ref().poll_write_ready(cx) {
                        Poll::Pending => return Ok(()),
                        Poll::Ready(result) => result?,
                    }
                    self.conn.update(|flags| flags.blocked = false);
                    self.worker.flush(&self.conn)?;
                }
                Ok(())
            }
            (Source::Tcp(_), Writer::Task) => unreachable!("a TCP connection writes by itself"),
        }
    }

    fn poll_web_socket_output(
        worker: &Rc<Worker>,
        conn: &Rc<Conn>,
        socket: &mut WebSocketTransport<TcpStream>,
        cx: &mut Context<'_>,
    ) -> std::io::Result<()> {
        while worker.may_write(conn) {
            let mut state = conn.state.borrow_mut();
            if state.out.is_empty() {
                break;
            }
            match socket.poll_write(cx, &state.out) {
                Poll::Pending => break,
                Poll::Ready(written) => {
                    let written = written?;
                    worker.written(&mut state, written);
                    conn.note_taken();
                }
            }
        }
        let flushed = match socket.poll_flush(cx) {
            Poll::Pending => false,
            Poll::Ready(result) => {
                result?;
                true
            }
        };
        if flushed && conn.state.borrow().out.is_empty() {
            if conn.flags.get().ending {
                if let Poll::Ready(result) = socket.poll_close(cx) {
                    result?;
                    conn.update(|flags| flags.ended = true);
                }
            } else {
                worker.output_left(conn);
            }
        }
        Ok(())
    }
}
