//! Random logs: every replica goes the same way, through checkpoints and restarts as well; repeats have no effect;
//! events and state tell the same story.

mod parts;
mod replays;
mod steps;
mod story;

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::persistence::Store;
use super::*;
use replays::{Replays, step_of};
use steps::{Step, Turn, turn};
use story::Story;

/// Three replicas: one applies, one applies what it decodes from the log, one is restarted from checkpoints.
struct World {
    first: GroupState,
    second: GroupState,
    restarted: GroupState,
    store: Store,
    index: u64,
    now: u64,
    numbers: BTreeMap<u64, u64>,
    /// All sessions there ever were, by client.
    sessions: BTreeMap<u8, Vec<(SessionId, Epoch)>>,
    story: Story,
    replays: Replays,
}

impl World {
    fn new() -> Self {
        Self {
            first: GroupState::new(GROUP),
            second: GroupState::new(GROUP),
            restarted: GroupState::new(GROUP),
            store: Store::default(),
            index: 0,
            now: 0,
            numbers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            story: Story::default(),
            replays: Replays::default(),
        }
    }

    fn turn(&mut self, turn: &Turn) {
        self.now += turn.elapsed;
        let number = self.numbers.entry(turn.node).or_insert(0);
        *number += turn.ahead;
        let batch = Batch {
            view: 1,
            node: NodeId(turn.node),
            incarnation: NodeIncarnation(turn.incarnation),
            number: if turn.unnumbered { 0 } else { *number },
            stamp: GroupTime(self.now),
            queue_limits: QueueLimits {
                messages_max: 6,
                bytes_max: 5 * 60,
            },
            commands: turn.steps.iter().map(|step| self.command(step)).collect(),
        };
        self.entry(&batch);
        if turn.checkpoint {
            self.checkpoint(turn.restart);
        }
    }

    fn entry(&mut self, batch: &Batch) {
        self.index += 1;
        let deadline = self.first.next_deadline();
        let is_repeat = batch.number > 0 && self.first.applied_at(batch).is_some();
        let mut events = Vec::new();
        let outcome = self.first.apply(at(self.index), batch, &mut events);
        self.first.check_invariants().unwrap();

        let mut entry = Vec::new();
        batch.encode(&mut entry);
        let decoded = Batch::decode(&Bytes::from(entry)).unwrap();
        for replica in [&mut self.second, &mut self.restarted] {
            // Events are appended and never mixed with those of the entry before.
            let before = vec![Event::RetainedQueued, queued_by_nobody()];
            let mut replica_events = before.clone();
            assert_eq!(
                replica.apply(at(self.index), &decoded, &mut replica_events),
                outcome
            );
            assert_eq!(replica_events, [before, events.clone()].concat());
            replica.check_invariants().unwrap();
            assert_eq!(replica.digest(), self.first.digest());
            assert_eq!(replica.next_deadline(), self.first.next_deadline());
        }
        self.repeat(batch, &outcome);
        let nearer = self.first.next_deadline().is_some() && self.first.next_deadline() != deadline;
        assert_eq!(events.contains(&Event::DeadlineChanged), nearer);
        self.story.go_on(&events);
        self.story.check(&self.first);
        if let (BatchOutcome::Applied(outcomes), false) = (&outcome, is_repeat) {
            self.replays.go_on(batch, outcomes);
        }
        self.replays.check(&self.first);
        self.remember(batch, &outcome);
    }

    fn repeat(&mut self, batch: &Batch, outcome: &BatchOutcome) {
        if batch.number == 0 || *outcome == BatchOutcome::Refused {
            return;
        }
        let digest = self.first.digest();
        let mut events = Vec::new();
        let again = self.first.apply(at(self.index + 1000), batch, &mut events);
        // A start that this very batch has declared lost is not listened to any more.
        let lost = self.first.proposers.is_lost(batch.node, batch.incarnation);
        let mut expected = if lost {
            BatchOutcome::Refused
        } else {
            outcome.clone()
        };
        if let BatchOutcome::Applied(outcomes) = &mut expected {
            outcomes.iter_mut().for_each(|outcome| self.forget_ended(outcome));
        }
        assert_eq!(again, expected);
        assert_eq!((events, self.first.digest()), (vec![], digest));
    }

    /// A session that was opened and has ended since has no identifiers to tell, nor anybody to tell them to.
    fn forget_ended(&self, outcome: &mut Outcome) {
        if let Outcome::Opened { session, inbound, .. } = outcome
            && !self.first.session_exists(*session)
        {
            inbound.clear();
        }
    }

    fn checkpoint(&mut self, restart: bool) {
        let digest = self.first.digest();
        let changes = self.restarted.take_changes();
        self.store.write(changes);
        assert_eq!(self.restarted.digest(), digest, "a checkpoint changes nothing");
        let loaded = self.store.load().unwrap();
        assert_eq!(loaded.digest(), digest);
        assert_eq!(
            self.store.0.clone().into_iter().collect::<Vec<_>>(),
            self.first.records()
        );
        if restart {
            self.restarted = loaded;
        }
    }

    fn remember(&mut self, batch: &Batch, outcome: &BatchOutcome) {
        let BatchOutcome::Applied(outcomes) = outcome else {
            return;
        };
        for (command, outcome) in batch.commands.iter().zip(outcomes) {
            if let (Command::OpenSession { client_id, .. }, Outcome::Opened { session, epoch, .. }) =
                (command, outcome)
            {
                let client = client_id.as_bytes()[1] - b'0';
                self.sessions.entry(client).or_default().push((*session, *epoch));
            }
        }
    }

    /// The connection of a client, its last one or one before.
    fn connection(&self, client: u8, stale: bool) -> (SessionId, Epoch) {
        let unknown = (SessionId::new(GROUP, 1 << 30, u16::from(client)), Epoch(1));
        let Some(all) = self.sessions.get(&client) else {
            return unknown;
        };
        let at = if stale { all.len() / 2 } else { all.len() - 1 };
        all[at]
    }

    fn queue(&self, queue: u8) -> TargetQueue {
        match queue {
            0..5 => TargetQueue::Session(self.connection(queue, false).0),
            5..7 => TargetQueue::Session(SessionId::new(GroupId(9), 1, u16::from(queue))),
            share @ 7..9 => TargetQueue::Share(share_of(share)),
            9..11 => TargetQueue::Node(NodeId(u64::from(queue - 8)), NodeIncarnation(10)),
            _ => TargetQueue::Node(NodeId(2), NodeIncarnation(11)),
        }
    }

    /// Positions around those that the queue has.
    fn sequence(&self, queue: &TargetQueue, offset: u8) -> Sequence {
        let oldest = self
            .first
            .oldest_unsettled(queue)
            .or_else(|| self.first.next_sequence(queue));
        Sequence((oldest.unwrap_or_default().0 + u64::from(offset)).saturating_sub(2))
    }

    fn sequences(&self, queue: &TargetQueue, offsets: &[u8]) -> Vec<Sequence> {
        offsets
            .iter()
            .map(|offset| self.sequence(queue, *offset))
            .collect()
    }

    fn command(&self, step: &Step) -> Command {
        match step.clone() {
            Step::Open {
                client,
                clean_start,
                expiry_secs,
                will: delay,
            } => Command::OpenSession {
                client_id: format!("c{client}").into(),
                clean_start,
                expiry_secs,
                will: delay.map(|delay_secs| Box::new(will("w", delay_secs))),
                limits: SessionLimits {
                    sessions_max: 4,
                    subscriptions_max: 3,
                },
            },
            Step::Close {
                client,
                stale,
                publish_will,
                expiry_secs,
            } => {
                let (session, epoch) = self.connection(client, stale);
                Command::CloseConnection {
                    session,
                    epoch,
                    publish_will,
                    expiry_secs,
                }
            }
            Step::End { client, publish_will } => Command::EndSession {
                session: self.connection(client, false).0,
                publish_will,
            },
            Step::Subscribe {
                client,
                stale,
                filters,
                replay,
            } => {
                let (session, epoch) = self.connection(client, stale);
                let qos = if stale { QoS::AtMostOnce } else { QoS::ExactlyOnce };
                let subscriptions = filters
                    .iter()
                    .map(|filter| subscription(&format!("f/{filter}"), qos))
                    .collect();
                let limits = SessionLimits {
                    sessions_max: 4,
                    subscriptions_max: 3,
                };
                Command::Subscribe {
                    session,
                    epoch,
                    subscriptions,
                    limits,
                    replay,
                }
            }
            Step::Unsubscribe { client, filters } => {
                let (session, epoch) = self.connection(client, false);
                let filters = filters
                    .iter()
                    .map(|filter| format!("f/{filter}").into())
                    .collect();
                Command::Unsubscribe {
                    session,
                    epoch,
                    filters,
                }
            }
            Step::Replay {
                client,
                stale,
                filter,
                step,
            } => step_of(
                &self.first,
                self.connection(client, stale),
                &format!("f/{filter}"),
                step,
            ),
            Step::Part(part) => self.part_command(&part),
            Step::PublishWill { nth, published } => self.will_command(nth, published),
            Step::LiveWill { session, forget } => live_will_command(session, forget, self.queue(0)),
            Step::Release { client, packet_id } => {
                let (session, epoch) = self.connection(client, false);
                Command::Release {
                    session,
                    epoch,
                    packet_id: id(packet_id),
                }
            }
            Step::Lost { node, incarnation } => Command::NodeLost {
                node: NodeId(node),
                incarnation: NodeIncarnation(incarnation),
            },
            step => self.message_command(step),
        }
    }

    fn message_command(&self, step: Step) -> Command {
        match step {
            Step::Publish {
                client,
                stale,
                packet_id,
                expiry,
                targets,
                set_retained,
            } => {
                let (session, epoch) = self.connection(client, stale);
                let packet_id = NonZeroU16::new(packet_id);
                let message = Message::new(
                    "t",
                    &[],
                    &[client; 9],
                    QoS::ExactlyOnce,
                    false,
                    expiry.checked_sub(1),
                );
                let target = |queue: &u8| Target {
                    queue: self.queue(*queue),
                    qos: QoS::ExactlyOnce,
                    retain: stale,
                    replayed: false,
                    subscription_ids: (0..u32::from(*queue % 3)).collect(),
                };
                Command::Publish(PublishCommand {
                    origin: if expiry == 2 {
                        Origin::Live {
                            session: stale.then_some(session),
                        }
                    } else {
                        Origin::Session {
                            session,
                            epoch,
                            packet_id,
                        }
                    },
                    message,
                    targets: targets.iter().map(target).collect(),
                    set_retained,
                    taken_live: stale,
                })
            }
            Step::Settle { queue, sequences } => {
                let queue = self.queue(queue);
                Command::Settle {
                    sequences: self.sequences(&queue, &sequences),
                    queue,
                }
            }
            Step::Received { client, sequences } => {
                let session = self.connection(client, false).0;
                let sequences = self.sequences(&TargetQueue::Session(session), &sequences);
                Command::Received { session, sequences }
            }
            Step::Assign {
                queue,
                sequence,
                client,
            } => {
                let share = share_of(7 + queue % 2);
                let sequence = self.sequence(&TargetQueue::Share(share.clone()), sequence);
                let session = self.connection(client, false).0;
                let (qos, subscription_ids) = (QoS::ExactlyOnce, vec![u32::from(client)]);
                Command::Assign {
                    share,
                    sequence,
                    session,
                    qos,
                    subscription_ids,
                    retain: false,
                    give: GiveId(1),
                }
            }
            Step::Hold {
                queue,
                sequence,
                client,
                give,
            } => {
                let share = share_of(7 + queue % 2);
                let sequence = self.sequence(&TargetQueue::Share(share.clone()), sequence);
                Command::Hold {
                    share,
                    sequence,
                    holder: ShareHolder {
                        session: self.connection(client, false).0,
                        node: NodeId(1),
                        incarnation: NodeIncarnation(10),
                        give: GiveId(give.into()),
                    },
                }
            }
            Step::Unhold {
                queue,
                sequence,
                give,
            } => {
                let share = share_of(7 + queue % 2);
                let sequence = self.sequence(&TargetQueue::Share(share.clone()), sequence);
                let give = GiveId(give.into());
                Command::Unhold {
                    share,
                    sequence,
                    give,
                }
            }
            Step::Drop { queue } => {
                let queue = self.queue(queue);
                let next = self.first.next_sequence(&queue).unwrap_or_default();
                Command::DropQueues {
                    queues: vec![(queue, next)],
                }
            }
            Step::SetRetained {
                group,
                index,
                topic,
                payload,
                expiry,
            } => Command::SetRetained {
                source: RetainedSource {
                    group: GroupId(group),
                    index: u64::from(index),
                    position: 0,
                },
                message: Message::new(
                    &format!("r/{topic}"),
                    &[],
                    &vec![b'x'; usize::from(payload)],
                    QoS::AtLeastOnce,
                    true,
                    expiry.checked_sub(1),
                ),
                messages_max: 3,
                bytes_max: 3 * 55,
            },
            Step::Taken { nth } => {
                let write = self
                    .first
                    .outbox(None, 9)
                    .get(usize::from(nth))
                    .map(|write| write.source);
                let none = RetainedSource {
                    group: GROUP,
                    index: 0,
                    position: 0,
                };
                Command::RetainedTaken {
                    up_to: write.unwrap_or(none),
                    refused: vec![],
                }
            }
            step => unreachable!("{step:?} is not about messages"),
        }
    }

    fn will_command(&self, nth: u8, published: bool) -> Command {
        let due = self.first.due_wills().nth(usize::from(nth));
        let (session, epoch) = due.map_or((SessionId(0), Epoch(0)), |due| (due.session, due.epoch));
        match published {
            true => Command::WillPublished { session, epoch },
            false => publish(
                Origin::Will { session, epoch },
                message("w"),
                vec![to(self.queue(0))],
            ),
        }
    }
}

fn live_will_command(session: u64, forget: bool, queue: TargetQueue) -> Command {
    match forget {
        true => Command::ForgetLiveWills {
            wills: vec![(live_session(session), Epoch(7))],
        },
        false => publish(live_will(session), message("w"), vec![to(queue)]),
    }
}

fn share_of(number: u8) -> ShareKey {
    ShareKey {
        name: format!("g{number}").into(),
        filter: "t".into(),
    }
}

/// An event that a following one must not be merged into.
fn queued_by_nobody() -> Event {
    Event::Queued {
        queue: TargetQueue::Share(share_of(7)),
        first: Sequence(0),
        count: 0,
        bytes: 0,
    }
}

proptest! {
    #[test]
    fn r28_r42_replicas_agree_through_checkpoints_restarts_and_repeats(turns in vec(turn(), 1..40)) {
        let mut world = World::new();
        for turn in &turns {
            world.turn(turn);
        }
        world.checkpoint(true);
    }
}
