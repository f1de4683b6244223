//! Retained messages on their way into the queue of a durable session, in its home group, from where its client gets them.
//!
//! Those of a replay are steps: each moves the cursor in the session's state, so that the next connection goes on behind it
//! (R24).

use std::rc::Rc;
use std::sync::Arc;

use quorate_cluster::node::{Completion, Publish};
use quorate_cluster::state::{
    MessageParts, Origin, Outcome, ReplayCursor, ReplayStep, SessionId, Target, TargetQueue,
};
use quorate_proto::codec::QoS;
use quorate_proto::message::Message;

use super::place::Value;
use super::replays::{ReadingTask, Replay};
use crate::metrics::DropReason;
use crate::peers::Joint;
use crate::worker::connection::Conn;
use crate::worker::ticket::WaitsFor;
use crate::worker::{Ticket, Worker};

impl Worker {
    /// Has a value of a replay appended.
    pub(super) fn append_value(&self, conn: &Conn, replay: &mut Replay, value: &Value, is_last: bool) {
        self.counters.retained_sent.increment();
        if let Some((session, _)) = conn.session() {
            self.crossers.borrow_mut().note_found(session, &value.message);
        }
        let cursor = match is_last {
            // Behind everything that was looked at with it.
            true => replay.place.cursor(),
            false => Some(replay.place.cursor_behind(value.message.topic())),
        };
        self.propose_step(conn, replay, Some(value.to_append()), cursor);
    }

    /// Proposes the next step of a replay that the session's state has.
    pub(super) fn propose_step(
        &self,
        conn: &Conn,
        replay: &mut Replay,
        value: Option<Message>,
        cursor: Option<ReplayCursor>,
    ) {
        let Some((session, epoch)) = conn.session() else {
            return;
        };
        let Some(kept) = &mut replay.kept else { return };
        let step = ReplayStep {
            session,
            epoch,
            filter: replay.place.filter.clone(),
            id: kept.id,
            step: kept.step,
            value,
            cursor,
        };
        kept.step += 1;
        replay.unnoted = 0;
        let is_value = step.value.is_some();
        {
            let mut state = conn.state.borrow_mut();
            let replays = &mut state.rare().replays;
            match is_value {
                true => replays.append(replay.number),
                false => replays.move_alone(),
            }
        }
        let ticket = Ticket {
            location: conn.location,
            waits_for: WaitsFor::Replayed {
                serial: replay.serial(),
                is_value,
            },
        };
        self.shared.node().home(session).propose_replay(step, ticket);
    }

    /// A step is done, or was refused: then the session's state has the replay no more, or a later connection has it.
    pub(in crate::worker) fn replayed(
        self: &Rc<Self>,
        conn: &Rc<Conn>,
        (serial, is_value): (u32, bool),
        completion: &Completion,
    ) {
        let is_stored = self.is_value_stored(completion);
        if conn.flags.get().ending {
            return;
        }
        {
            let mut state = conn.state.borrow_mut();
            let replays = &mut state.rare().replays;
            match is_value {
                true => replays.value_appended(is_stored),
                false => replays.moved_alone(),
            }
            let is_done = matches!(
                completion,
                Completion::Applied(Outcome::Published { .. } | Outcome::Done)
            );
            if !is_done {
                replays.end(serial);
            }
        }
        self.replay(conn);
    }

    /// Whether a step has put its value into the queue; counts where the queue was full.
    pub(in crate::worker) fn is_value_stored(&self, completion: &Completion) -> bool {
        let Completion::Applied(Outcome::Published { stored, .. }) = completion else {
            return false;
        };
        if *stored == 0 {
            self.counters
                .messages_dropped
                .of(DropReason::QueueFull)
                .increment();
        }
        *stored > 0
    }

    /// Goes on with what earlier connections of the session have left of their replays (R24).
    pub(in crate::worker) fn resume_replays(self: &Rc<Self>, conn: &Conn) {
        let Some((session, epoch)) = conn.session() else {
            return;
        };
        conn.state.borrow_mut().rare().replays.is_resuming = true;
        let home = self.shared.node().home(session).clone();
        let (worker, location) = (self.clone(), conn.location);
        tokio::task::spawn_local(async move {
            let mut after: Option<Arc<str>> = None;
            loop {
                let (home, behind) = (home.clone(), after.clone());
                let reading = async move { home.read_replays(session, behind.as_deref()).await };
                let Some(conn) = worker.open_connection(location) else {
                    return;
                };
                let reading = worker.shared.control.spawn(reading);
                let task = ReadingTask(reading.abort_handle());
                conn.state.borrow_mut().rare().replays.resuming_task = Some(task);
                drop(conn);
                // The connection is gone, or the runtime is, and the node stops.
                let Ok(page) = reading.await else {
                    return;
                };
                let Some(conn) = worker.open_connection(location) else {
                    return;
                };
                let last = page.last().map(|replay| replay.filter.clone());
                if !conn.state.borrow_mut().rare().replays.resumed(page, epoch) {
                    continue;
                }
                if last.is_none() {
                    worker.replay(&conn);
                    worker.after_completion(&conn);
                    return;
                }
                after = last;
            }
        });
    }

    /// Appends a value that was found for a connection here, not by a replay of it.
    pub(in crate::worker) fn append_retained(
        &self,
        conn: &Conn,
        session: SessionId,
        message: &Message,
        terms: (QoS, Vec<u32>),
        late: Option<Arc<Joint>>,
    ) {
        {
            let mut state = conn.state.borrow_mut();
            self.crossers.borrow_mut().note_coming(session, message.topic());
            state.rare().replays.append_found(message);
        }
        let ticket = Ticket {
            location: conn.location,
            waits_for: WaitsFor::RetainedAppended(late),
        };
        self.propose_retained(session, message, terms, ticket);
    }

    /// Proposes a value for the queue in the session's home group.
    pub(in crate::worker) fn propose_retained(
        &self,
        session: SessionId,
        message: &Message,
        (qos, subscription_ids): (QoS, Vec<u32>),
        ticket: Ticket,
    ) {
        let target = Target {
            queue: TargetQueue::Session(session),
            qos,
            retain: true,
            replayed: true,
            subscription_ids,
        };
        let publish = Publish {
            origin: &Origin::Server,
            message: MessageParts::from(message),
            targets: &[target],
            set_retained: false,
            taken_live: false,
        };
        let home = self.shared.node().home(session);
        home.propose_publish(&publish, Some(ticket));
    }
}
