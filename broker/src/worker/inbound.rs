//! Input: cuts it into frames, feeds the protocol, does what the protocol asks.

use std::rc::Rc;

use quorate_cluster::node::SLOT_SIZE;
use quorate_cluster::state::{Command, Sequence, TargetQueue};
use quorate_proto::codec::{Frame, PacketId, PacketType, ReasonCode};
use quorate_proto::session::{Action, Close, DeliveryToken};

use super::connection::Conn;
use super::queue::{SLOTS, token_parts};
use super::ticket::WaitsFor;
use super::{Ticket, Worker};
use crate::metrics::{CloseReason, DropReason};

/// Input that shows a client to be alive although its packet is not whole yet: a large packet on a slow link may take
/// longer than the keep alive. Less would let a client stay with a byte now and then.
const PROGRESS_MIN: usize = 1024;

/// About how long the answer to a packet is.
fn answer_bytes(frame: &Frame<'_>) -> usize {
    match frame.packet_type {
        PacketType::Publish if frame.flags & 0b0110 == 0 => 0,
        PacketType::Publish | PacketType::Pubrec | PacketType::Pubrel => 8,
        PacketType::Pingreq => 2,
        // A code for each filter.
        PacketType::Subscribe | PacketType::Unsubscribe => frame.size,
        _ => 0,
    }
}

impl Worker {
    /// Takes what a socket gave.
    pub(super) fn take_input(self: &Rc<Self>, conn: &Rc<Conn>, input: &[u8]) {
        self.counters.bytes_received.add(input.len() as u64);
        if conn.flags.get().ending {
            return;
        }
        let mut partial = {
            let mut state = conn.state.borrow_mut();
            if input.len() >= PROGRESS_MIN {
                state.protocol.record_activity(self.now());
            }
            state.take_partial()
        };
        if partial.is_empty() {
            let consumed = self.take_frames(conn, input);
            if consumed < input.len() && !conn.flags.get().ending {
                conn.state.borrow_mut().rare().partial = input[consumed..].to_vec();
            }
        } else {
            partial.extend_from_slice(input);
            self.take_partial(conn, partial);
        }
    }

    /// Goes on with input that was held back.
    pub(super) fn take_up_input(self: &Rc<Self>, conn: &Rc<Conn>) {
        if conn.flags.get().ending {
            return;
        }
        let partial = conn.state.borrow_mut().take_partial();
        if !partial.is_empty() {
            self.take_partial(conn, partial);
        }
    }

    fn take_partial(self: &Rc<Self>, conn: &Rc<Conn>, mut partial: Vec<u8>) {
        let consumed = self.take_frames(conn, &partial);
        if consumed < partial.len() && !conn.flags.get().ending {
            partial.drain(..consumed);
            conn.state.borrow_mut().rare().partial = partial;
        } else {
            conn.state.borrow_mut().trim_rare();
        }
    }

    /// Handles whole frames while the protocol takes them; answers how many bytes they were.
    fn take_frames(self: &Rc<Self>, conn: &Rc<Conn>, input: &[u8]) -> usize {
        let size_max = conn.listener.settings.maximum_packet_size;
        let mut consumed = 0;
        while consumed < input.len() && self.takes_frames(conn) {
            let result = match Frame::parse(&input[consumed..], size_max) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    consumed += frame.size;
                    self.handle_frame(conn, frame)
                }
                Err(error) => Err(error.into()),
            };
            if let Err(close) = result {
                self.close(conn, &close);
                return consumed;
            }
        }
        if !conn.state.borrow().out.is_empty() {
            self.mark_dirty(conn);
        }
        consumed
    }

    fn takes_frames(&self, conn: &Conn) -> bool {
        !conn.flags.get().ending && conn.state.borrow().protocol.ready_for_frames()
    }

    fn handle_frame(self: &Rc<Self>, conn: &Rc<Conn>, frame: Frame<'_>) -> Result<(), Close> {
        self.counters.packets_received.of(frame.packet_type).increment();
        let action = {
            let state = &mut *conn.state.borrow_mut();
            self.lend_buffer(&mut state.out);
            state.note_answer(answer_bytes(&frame));
            state.protocol.handle_frame(frame, self.now(), &mut state.out)?
        };
        self.act(conn, action)
    }

    pub(super) fn act(self: &Rc<Self>, conn: &Rc<Conn>, action: Action<'_>) -> Result<(), Close> {
        match action {
            Action::None => {
                // A PINGREQ, or an acknowledgement of a delivery that is not tracked: room for more.
                self.window_moved(conn);
                Ok(())
            }
            Action::Authenticate(request) => self.authenticate(conn, request),
            Action::Open(request) => {
                self.open(conn, request);
                Ok(())
            }
            Action::Publish(request) => self.handle_publish(conn, request),
            Action::Release { packet_id } => {
                self.release(conn, packet_id);
                Ok(())
            }
            Action::Subscribe(request) => self.subscribe(conn, &request),
            Action::Unsubscribe(request) => self.unsubscribe(conn, &request),
            Action::Settled { token, reason } => {
                self.settle(conn, token, reason);
                self.window_moved(conn);
                Ok(())
            }
            Action::Received { packet_id, token } => {
                self.received(conn, packet_id, token);
                Ok(())
            }
            Action::Disconnected => {
                self.count_closed(CloseReason::Disconnect);
                self.end(conn);
                Ok(())
            }
        }
    }

    /// PUBREL of a durable session: PUBCOMP leaves only when the release is committed (R8).
    fn release(&self, conn: &Conn, packet_id: PacketId) {
        let Some((session, epoch)) = conn.session() else {
            return;
        };
        let group = self.shared.node().home(session);
        let ticket = Ticket {
            location: conn.location,
            waits_for: WaitsFor::Release(packet_id),
        };
        group.propose(
            &Command::Release {
                session,
                epoch,
                packet_id,
            },
            Some(ticket),
        );
    }

    /// The client is done with a delivery.
    pub(super) fn settle(self: &Rc<Self>, conn: &Rc<Conn>, token: DeliveryToken, reason: ReasonCode) {
        if reason.is_error() {
            self.counters
                .messages_dropped
                .of(DropReason::RefusedBySubscriber)
                .increment();
        }
        let Some((slot, sequence)) = token_parts(token) else {
            self.settle_shared(conn, token);
            return;
        };
        let Some((session, _)) = conn.session() else {
            return;
        };
        self.propose_settled(session, slot, sequence);
    }

    pub(super) fn propose_settled(
        &self,
        session: quorate_cluster::state::SessionId,
        slot: u8,
        sequence: Sequence,
    ) {
        let queue = TargetQueue::Session(session);
        let settle = Command::Settle {
            queue,
            sequences: vec![sequence],
        };
        self.shared.node().group_of_slot(slot).propose(&settle, None);
    }

    /// PUBREC: committed before PUBREL is sent.
    fn received(self: &Rc<Self>, conn: &Rc<Conn>, packet_id: PacketId, token: Option<DeliveryToken>) {
        let place = match token {
            Some(token) => token_parts(token),
            None => match slot_of(packet_id) {
                Some((slot, number)) => return self.find_received(conn, packet_id, slot, number),
                None => None,
            },
        };
        self.received_at(conn, packet_id, token, place);
    }

    /// PUBREC for a delivery of an earlier connection: the unsettled QoS 2 reference that it stands for is looked for.
    fn find_received(self: &Rc<Self>, conn: &Rc<Conn>, packet_id: PacketId, slot: u8, number: u64) {
        let Some((session, _)) = conn.session() else {
            return;
        };
        let group = self.shared.node().group_of_slot(slot).clone();
        if group.is_here() {
            let found = group.locate_here(session, number);
            return self.received_at(conn, packet_id, None, found.map(|sequence| (slot, sequence)));
        }
        let (worker, location) = (self.clone(), conn.location);
        tokio::task::spawn_local(async move {
            let finding = async move { group.locate(session, number).await };
            let Ok(found) = worker.shared.control.spawn(finding).await else {
                return;
            };
            if let Some(conn) = worker.open_connection(location) {
                worker.received_at(&conn, packet_id, None, found.map(|sequence| (slot, sequence)));
                worker.after_completion(&conn);
            }
        });
    }

    fn received_at(
        &self,
        conn: &Rc<Conn>,
        packet_id: PacketId,
        token: Option<DeliveryToken>,
        place: Option<(u8, Sequence)>,
    ) {
        let Some((session, _)) = conn.session() else {
            return;
        };
        let Some((slot, sequence)) = place else {
            return self.release_delivery(conn, packet_id);
        };
        let received = Command::Received {
            session,
            sequences: vec![sequence],
        };
        let ticket = Ticket {
            location: conn.location,
            waits_for: WaitsFor::Received { packet_id, token },
        };
        self.shared
            .node()
            .group_of_slot(slot)
            .propose(&received, Some(ticket));
    }

    /// Sends PUBREL.
    pub(super) fn release_delivery(&self, conn: &Rc<Conn>, packet_id: PacketId) {
        {
            let state = &mut *conn.state.borrow_mut();
            self.lend_buffer(&mut state.out);
            state
                .protocol
                .handle_received_committed(packet_id, &mut state.out);
        }
        self.mark_dirty(conn);
    }
}

/// The slot of a packet identifier, and its number in it, where it is one of a group's.
fn slot_of(packet_id: PacketId) -> Option<(u8, u64)> {
    let number = u64::from(packet_id.get()) - 1;
    let slot = u8::try_from(number / SLOT_SIZE)
        .ok()
        .filter(|slot| usize::from(*slot) < SLOTS)?;
    Some((slot, number % SLOT_SIZE))
}
