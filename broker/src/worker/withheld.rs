//! Nobody is answered while this node has no lease (R1): its routes may be old, and what it would acknowledge, others may
//! not see delivered.
//!
//! Output of connections that have a session waits, with every acknowledgement in it, until the node has a lease again.
//! It begins to wait a little before the lease runs out, so that clients of a node that is cut off notice its silence.
//! Where that takes longer than a publisher waits, the connections are closed without it. When the cluster has gone on
//! without this node it is thrown away.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use quorate_proto::codec::ReasonCode;
use quorate_proto::session::Close;
use tokio::sync::Notify;

use super::Worker;
use super::connection::Conn;

/// Time between looks at the lease.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Connections whose output waits for a lease.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    connections: RefCell<Vec<Rc<Conn>>>,
    some: Notify,
}

impl Worker {
    /// Whether output of a connection may leave now; if not, it is looked at again. Who has no session is only told
    /// that there is none.
    pub(super) fn may_write(&self, conn: &Rc<Conn>) -> bool {
        if self.shared.may_speak() || conn.flags.get().ending || conn.session().is_none() {
            return true;
        }
        if !conn.flags.get().withheld {
            conn.update(|flags| flags.withheld = true);
            self.withheld.connections.borrow_mut().push(conn.clone());
            self.withheld.some.notify_one();
        }
        false
    }

    /// Lets output leave when there is a lease, and gives up on who has waited too long.
    pub(super) async fn run_withheld(self: Rc<Self>) {
        loop {
            self.withheld.some.notified().await;
            let since = Instant::now();
            while !self.shared.may_speak() {
                tokio::time::sleep(LOOK_INTERVAL).await;
                if since.elapsed() >= self.shared.settings.publish_wait_max {
                    self.close_withheld();
                    break;
                }
            }
            for conn in self.withheld.connections.take() {
                conn.update(|flags| flags.withheld = false);
                self.mark_dirty(&conn);
                conn.wake();
            }
        }
    }

    fn close_withheld(self: &Rc<Self>) {
        let close = Close::new(
            ReasonCode::SERVER_BUSY,
            "the node cannot reach a majority of the cluster",
        );
        for conn in self.withheld.connections.take() {
            conn.update(|flags| flags.withheld = false);
            self.close(&conn, &close);
        }
    }

    /// A connection is about to be closed: what nobody may be told is thrown away. Whether the reason can still be
    /// told, which it cannot behind half a packet.
    pub(super) fn drop_withheld(&self, conn: &Conn) -> bool {
        if self.shared.may_answer() || conn.session().is_none() {
            return true;
        }
        let mut state = conn.state.borrow_mut();
        let written = state.out.len();
        state.out = Vec::new();
        state.note_written(written);
        !conn.flags.get().blocked
    }
}
