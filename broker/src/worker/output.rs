//! Output: appended to connections during a turn, written once by the flusher.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::connection::{Conn, ConnState, Writer};
use super::{Mail, Worker};

/// Emptied buffers kept for the next output.
const POOL_MAX: usize = 256;
/// Capacity beyond which a buffer is not kept.
const POOLED_BYTES_MAX: usize = 256 * 1024;

/// Connections with output, and the flusher's waker.
#[derive(Debug, Default)]
pub(super) struct DirtyList {
    connections: RefCell<Vec<Rc<Conn>>>,
    batches: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    pool: RefCell<Vec<Vec<u8>>>,
}

impl DirtyList {
    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

impl Worker {
    /// Notes that a connection has output; it is written when the tasks that are ready now have run.
    pub(super) fn mark_dirty(&self, conn: &Rc<Conn>) {
        let flags = conn.flags.get();
        if flags.dirty || flags.ended {
            return;
        }
        conn.update(|flags| flags.dirty = true);
        self.dirty.connections.borrow_mut().push(conn.clone());
        self.dirty.wake();
    }

    /// Notes that batches for other workers have filled.
    pub(super) fn mark_batches(&self) {
        if !self.dirty.batches.replace(true) {
            self.dirty.wake();
        }
    }

    pub(super) async fn run_flusher(self: Rc<Self>) {
        let mut turn = Vec::new();
        loop {
            poll_fn(|cx| {
                if !self.dirty.connections.borrow().is_empty() || self.dirty.batches.get() {
                    return Poll::Ready(());
                }
                *self.dirty.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
            // First, so that what is acknowledged below has reached its subscribers' workers.
            if self.dirty.batches.replace(false) {
                self.send_batches();
            }
            std::mem::swap(&mut turn, &mut *self.dirty.connections.borrow_mut());
            for conn in turn.drain(..) {
                conn.update(|flags| flags.dirty = false);
                if self.flush(&conn).is_err() {
                    self.lose(&conn);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn send_batches(&self) {
        let mut outgoing = self.outgoing.borrow_mut();
        for (index, batch) in outgoing.iter_mut().enumerate() {
            if !batch.is_empty() {
                self.shared.mailboxes[index].send(Mail::Live(std::mem::take(batch)));
            }
        }
        drop(outgoing);
        self.send_to_peers();
    }

    /// Writes what the socket takes.
    pub(super) fn flush(self: &Rc<Self>, conn: &Rc<Conn>) -> io::Result<()> {
        let Writer::Tcp(writer) = &conn.writer else {
            conn.wake();
            return Ok(());
        };
        let flags = conn.flags.get();
        if flags.blocked || flags.ended || !self.may_write(conn) {
            return Ok(());
        }
        let mut state = conn.state.borrow_mut();
        while !state.out.is_empty() {
            match writer.try_write(&state.out) {
                Ok(written) => {
                    self.written(&mut state, written);
                    conn.note_taken();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    drop(state);
                    conn.update(|flags| flags.blocked = true);
                    // Its task waits for the socket.
                    conn.wake();
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        drop(state);
        if flags.ending {
            self.finish_output(conn);
        } else {
            self.output_left(conn);
        }
        Ok(())
    }

    /// Everything was written: what waited for room in the output may follow, and input.
    pub(super) fn output_left(self: &Rc<Self>, conn: &Rc<Conn>) {
        let waits = {
            let mut state = conn.state.borrow_mut();
            let state = &mut *state;
            if state.protocol.queued().0 > 0 {
                state.protocol.output_written(self.now(), &mut state.out);
            }
            let rare = state.rare.as_ref();
            rare.is_some_and(|rare| !rare.replays.is_empty() || !rare.shared.is_empty())
                || state.queue.as_ref().is_some_and(|queue| queue.holds_some())
        };
        if waits {
            self.window_moved(conn);
        }
        if !conn.state.borrow().out.is_empty() {
            self.mark_dirty(conn);
        }
        if conn.flags.get().paused {
            conn.update(|flags| flags.paused = false);
            conn.wake();
        }
    }

    /// Takes written bytes off the output; an emptied buffer goes back to the pool.
    pub(super) fn written(&self, state: &mut ConnState, written: usize) {
        self.counters.bytes_sent.add(written as u64);
        if written < state.out.len() {
            state.out.drain(..written);
            state.note_written(written);
            return;
        }
        let mut buffer = std::mem::take(&mut state.out);
        state.note_written(written);
        let mut pool = self.dirty.pool.borrow_mut();
        if pool.len() < POOL_MAX && buffer.capacity() <= POOLED_BYTES_MAX {
            buffer.clear();
            pool.push(buffer);
        }
    }

    /// Gives a connection that is about to write a buffer.
    pub(super) fn lend_buffer(&self, out: &mut Vec<u8>) {
        if out.capacity() == 0
            && let Some(buffer) = self.dirty.pool.borrow_mut().pop()
        {
            *out = buffer;
        }
    }
}
