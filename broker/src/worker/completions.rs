//! Outcomes of proposals come back to the connections that wait for them.

use std::rc::Rc;
use std::sync::Arc;

use quorate_cluster::node::{Completion, Location};
use quorate_cluster::state::{Command, Epoch, Outcome, RefusedReason, SessionId};
use quorate_proto::codec::{PacketId, ReasonCode};
use quorate_proto::session::{Close, PublishOutcome, PublishToken};

use super::connection::Conn;
use super::publish::Published;
use super::subscribe::fenced;
use super::ticket::{Answer, ExactlyOnce, LivePublish, TakenLive, WaitsFor};
use super::{Ticket, Worker};
use crate::metrics::DropReason;
use crate::peers::Joint;

impl Worker {
    pub(super) fn handle_completions(self: &Rc<Self>, completions: Vec<(Ticket, Completion)>) {
        for (ticket, completion) in completions {
            if let Some(ticket) = self.deliver_committed(ticket, &completion)
                && let Some((ticket, completion)) = self.reach_late(ticket, completion)
            {
                self.hand_over(ticket, completion);
            }
        }
    }

    /// A proposal's outcome, and everything else that its ticket has to wait for, is there.
    pub(super) fn hand_over(self: &Rc<Self>, mut ticket: Ticket, completion: Completion) {
        if let WaitsFor::Forgotten(refused) = ticket.waits_for {
            let completion = match completion {
                Completion::Applied(Outcome::Released(_)) => {
                    Completion::Applied(Outcome::Refused(RefusedReason::LimitReached))
                }
                other => other,
            };
            return self.hand_over(*refused, completion);
        }
        if let WaitsFor::Publish { forwarded, .. } = &mut ticket.waits_for
            && let Some(forwarded) = forwarded.take()
        {
            forwarded.hand_over(ticket, completion);
            return;
        }
        let Ticket { location, waits_for } = ticket;
        if let WaitsFor::Publish { ack: Some(ack), .. } = &waits_for {
            self.ack_wait_over(ack.wait);
        }
        if let WaitsFor::Subscribed(subscribing) = &waits_for {
            self.correct_routes(subscribing, &completion);
        }
        match self.connection(location) {
            Some(conn) => {
                if let Err(close) = self.complete(&conn, waits_for, completion) {
                    self.close(&conn, &close);
                }
                self.after_completion(&conn);
            }
            None => self.complete_without_connection(location, waits_for, &completion),
        }
    }

    /// Output may have come, and input that was held back may go on.
    pub(super) fn after_completion(self: &Rc<Self>, conn: &Rc<Conn>) {
        let (output, input) = {
            let state = conn.state.borrow();
            (
                !state.out.is_empty(),
                state.has_partial() && state.protocol.ready_for_frames(),
            )
        };
        if output {
            self.mark_dirty(conn);
        }
        if input {
            conn.update(|flags| flags.resume = true);
        }
        // Its task may be waiting for the protocol to take input again.
        conn.wake();
    }

    fn complete(
        self: &Rc<Self>,
        conn: &Rc<Conn>,
        waits_for: WaitsFor,
        completion: Completion,
    ) -> Result<(), Close> {
        match waits_for {
            WaitsFor::Publish { ack: None, .. } => Ok(()),
            WaitsFor::Publish {
                ack: Some(ack),
                matched,
                answer,
                ..
            } => self.published(conn, ack.token, (matched, answer), &completion),
            WaitsFor::ExactlyOnce(_) | WaitsFor::DeliverLive(..) | WaitsFor::Forgotten(_) => {
                unreachable!("another ticket goes on")
            }
            WaitsFor::Release(packet_id) => {
                let Completion::Applied(Outcome::Released(found)) = completion else {
                    return Err(fenced());
                };
                let state = &mut *conn.state.borrow_mut();
                self.lend_buffer(&mut state.out);
                state.protocol.handle_released(packet_id, found, &mut state.out);
                Ok(())
            }
            WaitsFor::Received { packet_id, token } => {
                if token.is_some() || self.is_in_no_queue(conn, packet_id) {
                    self.release_delivery(conn, packet_id);
                }
                Ok(())
            }
            WaitsFor::OtherSessionEnded(request) => {
                self.open_session(conn, request);
                Ok(())
            }
            WaitsFor::OtherEndedAfter(opened) => self.finish_open(conn, *opened),
            WaitsFor::Opened { request, closed_at } => self.opened(conn, request, closed_at, completion),
            WaitsFor::Subscribed(subscribing) => self.subscribed(conn, *subscribing, &completion),
            WaitsFor::Unsubscribed(unsubscribing) => self.unsubscribed(conn, *unsubscribing, &completion),
            WaitsFor::RetainedAppended(late) => {
                let is_stored = self.retained_is_stored(late, &completion);
                if !conn.flags.get().ending {
                    conn.state.borrow_mut().rare().replays.value_appended(is_stored);
                    self.replay(conn);
                }
                Ok(())
            }
            WaitsFor::Replayed { serial, is_value } => {
                self.replayed(conn, (serial, is_value), &completion);
                Ok(())
            }
            WaitsFor::Moved(shared) => {
                self.moved(Some(conn), &shared, &completion);
                Ok(())
            }
            WaitsFor::LateStored(_) => unreachable!("no connection has its place"),
        }
    }

    fn published(
        &self,
        conn: &Rc<Conn>,
        token: PublishToken,
        (matched, answer): (bool, Answer),
        completion: &Completion,
    ) -> Result<(), Close> {
        let outcome = publish_outcome(completion, matched, answer)?;
        let state = &mut *conn.state.borrow_mut();
        self.lend_buffer(&mut state.out);
        state
            .protocol
            .handle_publish_outcome(token, outcome, &mut state.out)
    }

    /// A QoS 2 publish of a durable session is committed: live subscribers get it now, unless it was a repeat (R11),
    /// and whether or not its publisher is still there. What is left to wait for is its acknowledgement; nothing where
    /// that has a ticket of its own.
    fn deliver_committed(self: &Rc<Self>, ticket: Ticket, completion: &Completion) -> Option<Ticket> {
        let ExactlyOnce {
            ack,
            live,
            epoch,
            publish,
            live_delivery,
        } = match ticket.waits_for {
            WaitsFor::ExactlyOnce(waits) => waits,
            WaitsFor::DeliverLive(publish, live_delivery) => {
                // It is told once.
                let _ = live_delivery.set(self.deliver_live_now(&publish));
                return None;
            }
            _ => return Some(ticket),
        };
        // Its retained message may have found no room after the identifier was recorded.
        let not_retained = matches!(
            completion,
            Completion::Applied(Outcome::Refused(RefusedReason::LimitReached))
        );
        let is_first = !ack.token.is_repeat();
        let taken = match live_delivery {
            Some(delivered) => delivered.get().cloned().unwrap_or_default(),
            None if (not_retained && is_first) || is_stored(completion) => self.deliver_live_now(&publish),
            None => TakenLive::default(),
        };
        // Who was there when it was proposed counts: the identifier is recorded, so there is no refusal any more.
        let matched = live || taken.any;
        let packet_id = ack.token.packet_id();
        let ticket = Ticket {
            location: ticket.location,
            waits_for: WaitsFor::Publish {
                ack: Some(ack),
                matched,
                late: publish.late,
                answer: Answer::of(publish.message.retain),
                forwarded: taken.forwarded,
            },
        };
        if not_retained && !matched {
            self.forget_received(publish.publisher, packet_id, epoch, ticket);
            return None;
        }
        Some(ticket)
    }

    fn deliver_live_now(self: &Rc<Self>, publish: &LivePublish) -> TakenLive {
        let published = Published::of(&publish.message, Some(publish.publisher));
        let plan = self.plan(publish.message.topic());
        let taken = self.deliver_live_here(&plan, &published);
        if let Some(late) = publish.late {
            self.delivered_by(late, &plan);
        }
        TakenLive {
            any: taken.any,
            // A member of a share may be at another node.
            forwarded: self.wait_until_taken(&taken.nodes),
        }
    }

    /// Whether a retained message for a session is in its queue; counts where it is not.
    fn retained_is_stored(&self, late: Option<Arc<Joint>>, completion: &Completion) -> bool {
        if let Some(late) = late {
            late.stored(completion);
        }
        let is_stored = matches!(
            completion,
            Completion::Applied(Outcome::Published { stored: 1.., .. })
        );
        if !is_stored {
            self.counters
                .messages_dropped
                .of(DropReason::QueueFull)
                .increment();
        }
        is_stored
    }

    /// A QoS 2 message that a session sent is not stored after all. Its client takes the identifier for another message
    /// as soon as it is told: so it is told when the identifier is forgotten, or not at all.
    fn forget_received(&self, session: SessionId, packet_id: PacketId, epoch: Epoch, ticket: Ticket) {
        let release = Command::Release {
            session,
            epoch,
            packet_id,
        };
        let ticket = Ticket {
            location: ticket.location,
            waits_for: WaitsFor::Forgotten(Box::new(ticket)),
        };
        self.shared.node().home(session).propose(&release, Some(ticket));
    }

    /// The connection is gone; what its session has to see of the outcome still happens.
    fn complete_without_connection(
        self: &Rc<Self>,
        location: Location,
        waits_for: WaitsFor,
        completion: &Completion,
    ) {
        match (waits_for, completion) {
            (
                WaitsFor::Opened { request, .. },
                Completion::Applied(Outcome::Opened { session, epoch, .. }),
            ) => {
                self.close_opened(&request, *session, *epoch);
            }
            (WaitsFor::RetainedAppended(late), completion) => {
                self.retained_is_stored(late, completion);
            }
            (WaitsFor::Replayed { .. }, completion) => {
                self.is_value_stored(completion);
            }
            (WaitsFor::LateStored(late), completion) => late.stored(completion),
            (WaitsFor::Moved(shared), completion) => self.moved(None, &shared, completion),
            (WaitsFor::OtherEndedAfter(opened), _) => {
                self.close_opened(&opened.request, opened.session, opened.epoch);
            }
            // Nobody opens the session any more: the next connection with this client identifier may.
            (WaitsFor::Opened { request, .. } | WaitsFor::OtherSessionEnded(request), _) => {
                self.shared.gate_next(&request.client_id);
            }
            _ => tracing::trace!(?location, "an outcome came after its connection had gone"),
        }
    }

    /// Whether no pulled or waiting reference stands for a packet identifier of an earlier connection; those are
    /// answered with PUBREL when their turn comes.
    fn is_in_no_queue(&self, conn: &Conn, packet_id: PacketId) -> bool {
        let mut state = conn.state.borrow_mut();
        state.queue.as_mut().is_none_or(|queue| !queue.expects(packet_id))
    }
}

fn publish_outcome(completion: &Completion, live: bool, answer: Answer) -> Result<PublishOutcome, Close> {
    if answer == Answer::Accepted {
        return Ok(PublishOutcome::Accepted { matched: live });
    }
    match completion {
        Completion::Applied(Outcome::Published { duplicate: true, .. } | Outcome::Repeated { .. }) => {
            Ok(PublishOutcome::Accepted { matched: true })
        }
        Completion::Applied(Outcome::Published { stored, refused, .. }) => {
            let matched = live || *stored > 0;
            // What is retained is stored, whatever the queues said (R13).
            Ok(if *refused > 0 && !matched && answer == Answer::AsStored {
                PublishOutcome::Refused(ReasonCode::QUOTA_EXCEEDED)
            } else {
                PublishOutcome::Accepted { matched }
            })
        }
        Completion::Applied(Outcome::Refused(RefusedReason::LimitReached)) => Ok(if live {
            PublishOutcome::Accepted { matched: true }
        } else {
            PublishOutcome::Refused(ReasonCode::QUOTA_EXCEEDED)
        }),
        // Whoever had it live keeps it: what counts is that its durable subscribers will not get it.
        Completion::TooLarge | Completion::Applied(Outcome::Refused(RefusedReason::OutboxFull)) => {
            Ok(PublishOutcome::Refused(ReasonCode::QUOTA_EXCEEDED))
        }
        // Fenced, or the group refused: a later connection has the session.
        _ => Err(fenced()),
    }
}

/// Whether a publish was not known before.
fn is_stored(completion: &Completion) -> bool {
    matches!(
        completion,
        Completion::Applied(Outcome::Published { duplicate: false, .. })
    )
}
