//! Back pressure: a connection is not read while what it would add has nowhere to go.
//!
//! Four things can fall behind what clients send: another worker, whose mailbox fills with live deliveries, another
//! node, the log, for which commands wait, and checkpoints, for which large payloads wait. All count their bytes in a [`Backlog`]; connections look before every read and,
//! where one is full, wait here until there is room. Nobody who empties a backlog ever waits here: mail and commits
//! are handled by tasks of their own. Retained messages on their way to queues wait as well, before they are read.

use std::cell::RefCell;
use std::rc::Rc;

use quorate_cluster::node::Backlog;
use tokio::sync::Notify;

use super::Worker;
use super::connection::Conn;
use crate::metrics::PauseReason;

/// Connections that wait for room.
#[derive(Debug, Default)]
pub(super) struct Pressed {
    connections: RefCell<Vec<Rc<Conn>>>,
    some: Notify,
}

impl Worker {
    /// What this worker's connections add to, where it has fallen behind.
    fn full_backlog(&self) -> Option<&Backlog> {
        let log = self.full_log();
        if log.is_some() {
            return log;
        }
        let peers = &*self.shared.peers.backlog;
        if peers.is_full() {
            return Some(peers);
        }
        let mailboxes = self.shared.mailboxes.iter();
        mailboxes
            .map(|mailbox| &mailbox.deliveries)
            .find(|backlog| backlog.is_full())
    }

    /// What whoever proposes messages adds to, where it has fallen behind.
    pub(super) fn full_log(&self) -> Option<&Backlog> {
        let node = self.shared.node();
        [node.backlog(), node.unstored()]
            .into_iter()
            .find(|backlog| backlog.is_full())
    }

    /// Holds a connection back where something it adds to has fallen behind; answers whether it did.
    pub(super) fn hold_back(&self, conn: &Rc<Conn>) -> bool {
        if conn.flags.get().pressed {
            return true;
        }
        if self.full_backlog().is_none() {
            return false;
        }
        conn.update(|flags| flags.pressed = true);
        self.counters.reads_paused.of(PauseReason::Backlog).increment();
        self.pressed.connections.borrow_mut().push(conn.clone());
        self.pressed.some.notify_one();
        true
    }

    /// Lets connections go on when there is room.
    pub(super) async fn run_pressure(self: Rc<Self>) {
        loop {
            self.pressed.some.notified().await;
            while let Some(backlog) = self.full_backlog() {
                backlog.room().await;
            }
            let connections = self.pressed.connections.take();
            for conn in connections {
                conn.update(|flags| flags.pressed = false);
                conn.state.borrow_mut().protocol.record_activity(self.now());
                conn.wake();
            }
        }
    }
}
