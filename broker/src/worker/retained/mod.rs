//! Retained messages for new subscriptions: read from the topics' groups in pieces, as fast as the client takes them.
//!
//! A value whose topic had a live message since the subscription is skipped (R34). For a durable session values at
//! QoS 1 and 2 are appended to its home group (R24), one piece at a time; all others are delivered here.

mod append;
mod place;
mod replays;

use std::rc::Rc;
use std::sync::Arc;

use quorate_cluster::node::Placement;
use quorate_cluster::state::ReplayId;
use quorate_proto::codec::{QoS, SubscriptionOptions};
use quorate_proto::session::{DeliverResult, Delivery};

pub(super) use replays::Replays;

use self::place::{Crosser, Found, PIECE, Place, Value};
use self::replays::{ReadingTask, Replay};
use super::Worker;
use super::connection::Conn;
use super::counting::drop_reason;
use super::queue::translate;

/// Output beyond which the next piece waits until it has been written.
const OUTPUT_MAX: usize = 64 * 1024;
/// Pages of the index read in one turn; each looks at about a thousand topics at most.
const PAGES_PER_TURN: usize = 32;
/// Pieces of which nothing was appended, after which the session's state is told how far its replay is. The next connection
/// reads them again.
const UNNOTED_MAX: u8 = 16;
/// Moves of cursors under way, for which nobody else waits.
const MOVING_MAX: usize = 1_024;

impl Worker {
    /// Sends the last values of the broker's own topics.
    pub(super) fn send_sys_topics(&self, conn: &Rc<Conn>, filter: &str, subscription_id: Option<u32>) {
        for message in self.shared.sys_topics.matching(filter) {
            let mut delivery = Delivery::of(&message, QoS::AtMostOnce);
            delivery.retain = true;
            delivery.subscription_ids = subscription_id.as_slice();
            self.deliver(conn, &delivery);
        }
    }

    /// Starts sending the retained messages of a new subscription of SUBSCRIBE `number`. Those at QoS 1 and 2 to a durable
    /// session are in its state from here on.
    pub(super) fn begin_replay(
        &self,
        conn: &Conn,
        number: u32,
        (filter, options): (Arc<str>, SubscriptionOptions),
        subscription_id: Option<u32>,
    ) {
        let Some((session, epoch)) = conn.session() else {
            return;
        };
        let is_kept = Placement::is_durable(session) && options.qos > QoS::AtMostOnce;
        let id = is_kept.then_some(ReplayId { epoch, number });
        let mut state = conn.state.borrow_mut();
        let replays = &mut state.rare().replays;
        replays.begin(number, filter, (options.qos, subscription_id), id);
    }

    /// Goes on with retained messages as far as the client takes them.
    pub(super) fn replay(self: &Rc<Self>, conn: &Rc<Conn>) {
        let mut pages = PAGES_PER_TURN;
        loop {
            let (replay, values) = {
                let mut state = conn.state.borrow_mut();
                let (queued, _) = state.protocol.queued();
                let room = state.out.len() < OUTPUT_MAX && queued < PIECE;
                let Some((session, _)) = state.session() else {
                    return;
                };
                let home = Placement::packet_id_slot(Placement::home_of(session));
                let drained = state.queue.as_ref().is_none_or(|queue| queue.is_drained(home));
                let Some(rare) = &mut state.rare else { return };
                let replays = &mut rare.replays;
                if replays.earlier.is_some() && !drained {
                    return;
                }
                replays.earlier = None;
                // A piece for a durable session waits until the one before has been sent (R24), or has expired.
                let is_sent = replays.appended.is_none() || replays.unsent == 0 || drained;
                let is_busy =
                    replays.appending > 0 || replays.moving >= MOVING_MAX || replays.reading.is_some();
                if is_busy || !room || !is_sent {
                    return;
                }
                replays.appended = None;
                replays.unsent = 0;
                if replays.is_empty() {
                    if replays.is_idle() {
                        replays.forget_live();
                        state.trim_rare();
                    }
                    return;
                }
                if replays.is_held() {
                    return;
                }
                if replays.proposes() && self.full_log().is_some() {
                    self.replay_later(conn, replays);
                    return;
                }
                if !self.shared.node().is_alone() {
                    if let Some((place, crosser)) = replays.read_first(session) {
                        self.read_behind_barrier(conn, replays, place, crosser);
                    }
                    return;
                }
                if pages == 0 {
                    self.replay_later(conn, replays);
                    return;
                }
                let Some(mut replay) = replays.take_first() else {
                    return;
                };
                let crosser = replay.crosser(session);
                let values = replay.place.read_here(self.shared.node(), &mut pages, crosser);
                (replay, values)
            };
            self.send_piece(conn, replay, &values);
        }
    }

    /// Reading takes long: others get their turn. What is appended waits until the log has room.
    fn replay_later(self: &Rc<Self>, conn: &Rc<Conn>, replays: &mut Replays) {
        if replays.scheduled {
            return;
        }
        replays.scheduled = true;
        let proposes = replays.proposes();
        let (worker, location) = (self.clone(), conn.location);
        tokio::task::spawn_local(async move {
            tokio::task::yield_now().await;
            while let Some(backlog) = worker.full_log().filter(|_| proposes) {
                backlog.room().await;
            }
            if let Some(conn) = worker.open_connection(location) {
                if let Some(rare) = &mut conn.state.borrow_mut().rare {
                    rare.replays.scheduled = false;
                }
                worker.replay(&conn);
            }
        });
    }

    /// Reads the next piece where other nodes may know more, or have it.
    fn read_behind_barrier(
        self: &Rc<Self>,
        conn: &Conn,
        replays: &mut Replays,
        place: Place,
        crosser: Option<Crosser>,
    ) {
        let (worker, location) = (self.clone(), conn.location);
        let node = self.shared.node().clone();
        let reading = self
            .shared
            .control
            .spawn(async move { place.read(&node, crosser).await });
        replays.reading_task = Some(ReadingTask(reading.abort_handle()));
        tokio::task::spawn_local(async move {
            // The connection is gone, or the runtime is, and the node stops.
            let Ok((place, found)) = reading.await else {
                return;
            };
            let Some(conn) = worker.open_connection(location) else {
                return;
            };
            let replay = conn.state.borrow_mut().rare().replays.was_read();
            match (replay, found) {
                (Some(mut replay), Found::Held) => {
                    replay.place = place;
                    worker.hold_replay(&conn, replay);
                }
                // Others were faster. It is read again when there is room: what waits would be held by all who do.
                (Some(replay), _) if replay.kept.is_some() && worker.full_log().is_some() => {
                    conn.state.borrow_mut().rare().replays.waiting.push_front(replay);
                }
                // A newer value came by another way meanwhile.
                (Some(replay), Found::Values(values)) if may_be_older(&conn, &replay, &values) => {
                    conn.state.borrow_mut().rare().replays.waiting.push_front(replay);
                }
                (Some(mut replay), Found::Values(values)) => {
                    replay.place = place;
                    worker.send_piece(&conn, replay, &values);
                }
                (None, _) => {}
            }
            worker.replay(&conn);
            worker.after_completion(&conn);
        });
    }

    /// Lets others go on while none of the groups can be read that a replay has left.
    fn hold_replay(self: &Rc<Self>, conn: &Conn, replay: Replay) {
        let (worker, location) = (self.clone(), conn.location);
        let (serial, place) = (replay.serial(), replay.place.clone());
        let node = self.shared.node().clone();
        let waiting = self
            .shared
            .control
            .spawn(async move { place.any_passed(&node).await });
        let task = ReadingTask(waiting.abort_handle());
        conn.state.borrow_mut().rare().replays.hold(replay, task);
        tokio::task::spawn_local(async move {
            // The replay has ended, or the connection, or the runtime has, and the node stops.
            if waiting.await.is_err() {
                return;
            }
            if let Some(conn) = worker.open_connection(location) {
                conn.state.borrow_mut().rare().replays.release(serial);
                worker.replay(&conn);
                worker.after_completion(&conn);
            }
        });
    }

    /// Sends what was read last for a replay, or has it appended, and puts the replay back unless that was all.
    fn send_piece(&self, conn: &Rc<Conn>, mut replay: Replay, values: &[Value]) {
        // Whether the state has it that the replay came so far, and otherwise is to be told.
        let (mut is_noted, mut is_overtaken) = (values.is_empty() && !replay.place.is_end(), false);
        for (at, value) in values.iter().enumerate() {
            let had_live = {
                let mut state = conn.state.borrow_mut();
                let queue = state.queue.as_ref().zip(value.queued);
                let comes_live = queue.is_some_and(|(queue, (slot, at))| queue.is_unsent(slot, at));
                let replays = &state.rare().replays;
                comes_live || replays.had(&value.message, replay.number)
            };
            if had_live {
                (is_noted, is_overtaken) = (false, true);
                continue;
            }
            is_noted = self.send_retained(conn, &mut replay, value, at + 1 == values.len());
            is_overtaken &= !is_noted;
        }
        if !is_noted {
            replay.unnoted = replay.unnoted.saturating_add(1);
            if is_overtaken || replay.unnoted >= UNNOTED_MAX || replay.place.is_end() {
                let cursor = replay.place.cursor();
                self.propose_step(conn, &mut replay, None, cursor);
            }
        }
        if !replay.place.is_end() {
            conn.state.borrow_mut().rare().replays.waiting.push_front(replay);
        }
    }

    /// Sends a value, or has it appended. True when the session's state will say that the replay is behind it.
    fn send_retained(&self, conn: &Rc<Conn>, replay: &mut Replay, value: &Value, is_last: bool) -> bool {
        let message = &value.message;
        let qos = message.qos.min(replay.qos);
        if let Some(kept) = &replay.kept {
            if qos > QoS::AtMostOnce {
                self.append_value(conn, replay, value, is_last);
                return true;
            }
            // The earlier connection may have been sent it, and at QoS 0 nothing comes twice.
            if kept.is_resumed {
                return false;
            }
        }
        let now = self.now();
        let delivery = Delivery {
            qos,
            retain: true,
            subscription_ids: replay.subscription_id.as_slice(),
            expires_at: value.expires_at.map(|at| translate(at, value.now, now)),
            ..Delivery::of(message, qos)
        };
        let result = {
            let state = &mut *conn.state.borrow_mut();
            self.lend_buffer(&mut state.out);
            let result = state
                .protocol
                .deliver(&delivery, &mut || message.clone(), now, &mut state.out);
            if matches!(result, DeliverResult::Sent | DeliverResult::Queued) {
                self.note_sent(state, &delivery);
            }
            result
        };
        match result {
            DeliverResult::Sent => {
                self.counters.retained_sent.increment();
                self.counters.messages_delivered.of(qos).increment();
                self.mark_dirty(conn);
            }
            DeliverResult::Dropped(reason) => {
                self.counters.messages_dropped.of(drop_reason(reason)).increment()
            }
            DeliverResult::Queued => self.counters.retained_sent.increment(),
            DeliverResult::Busy => {}
        }
        false
    }
}

/// Whether a value that was read for a durable session is to be read again: it would be appended behind a newer one.
fn may_be_older(conn: &Conn, replay: &Replay, values: &[Value]) -> bool {
    let mut state = conn.state.borrow_mut();
    let replays = &state.rare().replays;
    replay.kept.is_some() && values.iter().any(|value| replays.may_be_older(&value.message))
}
