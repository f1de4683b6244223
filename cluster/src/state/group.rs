//! The state of one group, and how an entry is applied to it.

use quorate_storage::log::{GroupId, LogPosition};

use super::inbound::Inbound;
use super::live_wills::LiveWills;
use super::messages::{MessageKey, Messages};
use super::outbox::Outbox;
use super::parts::{Parts, PartsKey};
use super::proposers::{Admission, Proposers};
use super::queues::Queues;
use super::replays::{ReplayId, Replays};
use super::retained::RetainedStore;
use super::sessions::Sessions;
use super::subscriptions::Subscriptions;
use super::timers::{Timer, Timers};
use super::wills::Wills;
use super::{
    Batch, BatchOutcome, Command, Epoch, Event, GroupTime, Outcome, RefusedReason, Sequence, SessionId,
    TargetQueue,
};

/// The replicated state of one group.
///
/// [`apply`](Self::apply) is called with the entries of the log in order, each once since the index that
/// [`load`](Self::load)ed records stand for; [`take_changes`](Self::take_changes) between two of them. Everything
/// else reads.
#[derive(Debug)]
pub struct GroupState {
    pub(super) group: GroupId,
    pub(super) time: GroupTime,
    /// Index of the last batch; not part of what is replicated.
    pub(super) applied: u64,
    pub(super) proposers: Proposers,
    pub(super) sessions: Sessions,
    pub(super) subscriptions: Subscriptions,
    pub(super) replays: Replays,
    pub(super) inbound: Inbound,
    pub(super) wills: Wills,
    pub(super) live_wills: LiveWills,
    pub(super) messages: Messages,
    pub(super) parts: Parts,
    pub(super) queues: Queues,
    pub(super) outbox: Outbox,
    pub(super) retained: RetainedStore,
    pub(super) timers: Timers,
}

/// Where a command stands: it is the identity of what the command creates.
pub(super) type Place = MessageKey;

impl GroupState {
    /// A group that no entry was applied to.
    pub fn new(group: GroupId) -> Self {
        Self {
            group,
            time: GroupTime::default(),
            applied: 0,
            proposers: Proposers::default(),
            sessions: Sessions::default(),
            subscriptions: Subscriptions::default(),
            replays: Replays::default(),
            inbound: Inbound::default(),
            wills: Wills::default(),
            live_wills: LiveWills::default(),
            messages: Messages::default(),
            parts: Parts::default(),
            queues: Queues::default(),
            outbox: Outbox::default(),
            retained: RetainedStore::default(),
            timers: Timers::default(),
        }
    }

    /// Applies the entry at `index` and appends what it did to `events`.
    ///
    /// A repeat of its proposer's last batch gets the same outcome, an older batch and one of a lost start is refused
    /// (R10); neither has any effect, not even on group time. Else group time advances to the stamp, timers due then
    /// act, then the commands do.
    pub fn apply(&mut self, at: LogPosition, batch: &Batch, events: &mut Vec<Event>) -> BatchOutcome {
        let LogPosition { term, index, .. } = at;
        self.applied = index;
        match self.proposers.admit(batch) {
            Admission::New => {}
            Admission::Refused => return BatchOutcome::Refused,
            Admission::Repeated(outcomes) => return BatchOutcome::Applied(self.completed(outcomes)),
        }
        let mut events = Events::new(events);
        let deadline = self.next_deadline();
        self.time = self.time.max(batch.stamp);
        self.fire_timers(&mut events);
        let mut outcomes = Vec::with_capacity(batch.commands.len());
        for (position, command) in batch.commands.iter().enumerate() {
            let place = Place {
                index,
                position: position as u32,
            };
            outcomes.push(match command.is_of_term(term) {
                true => self.command(place, batch, command, &mut events),
                false => Outcome::Refused(RefusedReason::Fenced),
            });
        }
        self.proposers.record(index, batch, &outcomes);
        let deadline_now = self.next_deadline();
        if deadline_now.is_some() && deadline_now != deadline {
            events.push(Event::DeadlineChanged);
        }
        BatchOutcome::Applied(outcomes)
    }

    /// Index of the entry with which the batch that was given to [`apply`](Self::apply) last had its effect: an earlier
    /// one where it was a repeat, none where that is not known.
    pub fn applied_at(&self, batch: &Batch) -> Option<u64> {
        match batch.number {
            0 => Some(self.applied),
            _ => self.proposers.applied_at(batch),
        }
    }

    /// Remembered outcomes with what the sessions know.
    fn completed(&self, mut outcomes: Vec<Outcome>) -> Vec<Outcome> {
        for outcome in &mut outcomes {
            if let Outcome::Opened { session, inbound, .. } = outcome {
                *inbound = self.inbound.of(*session).to_vec();
            }
        }
        outcomes
    }

    /// When the leader has to propose a batch, of no commands if there are none, for timers to act. A deadline that
    /// has come nearer is told with [`Event::DeadlineChanged`].
    pub fn next_deadline(&self) -> Option<GroupTime> {
        self.timers.next()
    }

    fn fire_timers(&mut self, events: &mut Events<'_>) {
        while let Some(timer) = self.timers.pop_due(self.time) {
            match timer {
                Timer::WillDelay(session) => {
                    if let Some(will) = self.wills.take(session) {
                        self.will_due(session, will, events);
                    }
                }
                Timer::SessionExpiry(session) => self.end_session(session, true, false, events),
                Timer::RetainedExpiry(topic) => {
                    self.retained.remove(&topic);
                }
            }
        }
    }

    fn command(
        &mut self,
        place: Place,
        batch: &Batch,
        command: &Command,
        events: &mut Events<'_>,
    ) -> Outcome {
        match command {
            Command::Publish(publish) => self.publish(place, batch, publish, None, events),
            Command::PublishFirst { number, publish } => {
                self.publish(place, batch, publish, Some(*number), events)
            }
            Command::PublishMore(part) => self.publish_more(batch, part, events),
            Command::Replay(step) => self.replay_step(place, batch, step, events),
            Command::Settle { queue, sequences } => self.settle(queue, sequences, events),
            Command::Received { session, sequences } => self.received(*session, sequences),
            Command::Assign {
                share,
                sequence,
                session,
                qos,
                subscription_ids,
                retain,
                ..
            } => {
                let delivery = super::queue::Delivery::new(*qos, *retain, subscription_ids).shared();
                self.assign(share, *sequence, *session, delivery, events)
            }
            Command::Hold {
                share,
                sequence,
                holder,
            } => self.hold(share, *sequence, *holder),
            Command::Unhold {
                share,
                sequence,
                give,
            } => self.unhold(share, *sequence, *give, events),
            Command::SetRetained {
                source,
                message,
                messages_max,
                bytes_max,
            } => {
                let limits = super::retained::RetainedLimits {
                    messages_max: *messages_max,
                    bytes_max: *bytes_max,
                };
                self.set_retained(source, message, limits)
            }
            Command::RetainedTaken { up_to, refused } => self.retained_taken(up_to, refused, events),
            Command::RetainedCarried {
                topics,
                writes,
                refused,
            } => self.retained_carried(*topics, writes, refused, events),
            Command::DropQueues { queues } => self.drop_queues(queues, events),
            Command::WillPublished { session, epoch } => self.will_published(*session, *epoch),
            Command::ForgetLiveWills { wills } => self.forget_live_wills(wills),
            Command::NodeLost { node, incarnation } => self.node_lost(*node, *incarnation, events),
            session_command => self.session_command(place, batch, session_command, events),
        }
    }

    /// The commands of one client.
    fn session_command(
        &mut self,
        place: Place,
        batch: &Batch,
        command: &Command,
        events: &mut Events<'_>,
    ) -> Outcome {
        match command {
            Command::OpenSession {
                client_id,
                clean_start,
                expiry_secs,
                will,
                limits,
            } => {
                let request = super::lifecycle::OpenRequest {
                    client_id,
                    clean_start: *clean_start,
                    expiry_secs: *expiry_secs,
                    will: will.as_deref(),
                    sessions_max: limits.sessions_max,
                };
                self.open_session(place, batch, &request, events)
            }
            Command::CloseConnection {
                session,
                epoch,
                publish_will,
                expiry_secs,
            } => self.close_connection(*session, *epoch, *publish_will, *expiry_secs, events),
            Command::DrainConnection {
                session,
                epoch,
                will_delay_secs,
            } => self.drain_connection(*session, *epoch, *will_delay_secs, events),
            Command::EndSession {
                session,
                publish_will,
            } => {
                let publish_will = *publish_will && !self.sessions.waits_for_return(*session);
                self.end_session(*session, publish_will, true, events);
                Outcome::Done
            }
            Command::Subscribe {
                session,
                epoch,
                subscriptions,
                limits,
                replay,
            } => {
                let replay = replay.map(|number| ReplayId {
                    epoch: *epoch,
                    number,
                });
                let max = limits.subscriptions_max;
                self.subscribe((*session, *epoch), subscriptions, max, replay, events)
            }
            Command::Unsubscribe {
                session,
                epoch,
                filters,
            } => self.unsubscribe(*session, *epoch, filters, events),
            Command::Release {
                session,
                epoch,
                packet_id,
            } => self.release(*session, *epoch, *packet_id),
            other => unreachable!("{other:?} is carried out by its caller"),
        }
    }

    /// The refusal of a command whose connection is not the session's current one (R9).
    pub(super) fn fence(&self, session: SessionId, epoch: Epoch) -> Option<Outcome> {
        match self.sessions.is_current(session, epoch) {
            true => None,
            false => Some(Outcome::Refused(RefusedReason::Fenced)),
        }
    }

    /// Whether a session is known to have ended: this group is its home and has no record of it (R17).
    pub(super) fn has_ended(&self, session: SessionId) -> bool {
        session.home() == self.group && !self.sessions.contains(session)
    }

    /// Checks everything that the sub-states say of themselves and of each other.
    ///
    /// # Errors
    ///
    /// The first invariant that does not hold: a defect of ours.
    pub fn check_invariants(&self) -> Result<(), String> {
        let exists = |session: SessionId| self.sessions.contains(session);
        self.sessions.check_invariants()?;
        self.subscriptions.check_invariants(exists)?;
        self.replays
            .check_invariants(|session, filter| self.subscriptions.get(session, filter))?;
        let is_under_way = |session, packet_id| self.parts.contains(PartsKey::Received(session, packet_id));
        let is_to_leave = |key| self.outbox.get(key).is_some();
        self.inbound.check_invariants(exists, is_under_way, is_to_leave)?;
        self.queues
            .check_invariants(&self.messages, |session| !self.has_ended(session))?;
        let queued = self
            .queues
            .iter()
            .flat_map(|(_, queue)| queue.iter_from(0).map(|reference| reference.slot));
        self.outbox.check_invariants(&self.messages)?;
        let in_outbox = self.outbox.after(None).map(|(_, slot)| slot);
        let held = self.parts.iter().map(|(_, under_way)| under_way.slot);
        self.messages
            .check_invariants(queued.chain(in_outbox).chain(held))?;
        self.check_parts()?;
        self.retained.check_invariants()?;
        if let Some((node, incarnation)) = self
            .connected_starts()
            .find(|(node, incarnation)| self.proposers.was_declared_lost(*node, *incarnation))
        {
            return Err(format!(
                "proposers: {node:?} with {incarnation:?} is lost and holds something"
            ));
        }
        for (session, will) in self.wills.all_stored() {
            let Some(record) = self.sessions.get(session) else {
                return Err(format!("wills: {session:?} does not exist"));
            };
            if record.epoch != will.epoch || record.connection.is_some() == will.fires_at.is_some() {
                return Err(format!("wills: {session:?} and its will are at odds"));
            }
        }
        match self.timers == self.derived_timers() {
            true => Ok(()),
            false => Err("timers: not what sessions, wills and retained messages say".into()),
        }
    }

    fn check_parts(&self) -> Result<(), String> {
        let is_justified = |key: &PartsKey| match *key {
            PartsKey::Received(session, packet_id) => {
                self.sessions.contains(session) && !self.inbound.contains(session, packet_id)
            }
            PartsKey::Will(session, epoch) => self.wills.is_due(session, epoch),
            PartsKey::LiveWill(session, epoch) => !self.live_wills.contains(session, epoch),
            // With all that starts hold.
            PartsKey::Proposed(..) => true,
        };
        let mut keys = self.parts.iter().map(|(key, _)| key);
        match keys.find(|key| !is_justified(key)) {
            Some(key) => Err(format!("parts: {key:?} is not under way any more")),
            None => Ok(()),
        }
    }

    /// The timers that sessions, wills and retained messages ask for.
    pub(super) fn derived_timers(&self) -> Timers {
        let mut timers = Timers::default();
        for (id, session) in self.sessions.after(None) {
            if let Some(at) = session.expires_at {
                timers.schedule(at, Timer::SessionExpiry(id));
            }
        }
        for (id, will) in self.wills.all_stored() {
            if let Some(at) = will.fires_at {
                timers.schedule(at, Timer::WillDelay(id));
            }
        }
        for (topic, retained) in self.retained.iter() {
            if let Some(at) = retained.stored.expires_at {
                timers.schedule(at, Timer::RetainedExpiry(topic.into()));
            }
        }
        timers
    }
}

/// The events of one entry. References that follow each other in one queue make one event.
#[derive(Debug)]
pub(super) struct Events<'a> {
    list: &'a mut Vec<Event>,
    /// Events before this belong to other entries.
    start: usize,
}

impl<'a> Events<'a> {
    fn new(list: &'a mut Vec<Event>) -> Self {
        let start = list.len();
        Self { list, start }
    }

    pub(super) fn push(&mut self, event: Event) {
        self.list.push(event);
    }

    pub(super) fn queued(&mut self, queue: &TargetQueue, sequence: u64, size: u64) {
        if let Some(Event::Queued {
            queue: last,
            first,
            count,
            bytes,
        }) = self.list[self.start..].last_mut()
            && last == queue
        {
            debug_assert_eq!(
                first.0 + u64::from(*count),
                sequence,
                "nothing happened to the queue in between"
            );
            *count += 1;
            *bytes += size;
            return;
        }
        self.push(Event::Queued {
            queue: queue.clone(),
            first: Sequence(sequence),
            count: 1,
            bytes: size,
        });
    }

    pub(super) fn removed(&mut self, queue: &TargetQueue, count: u32, bytes: u64) {
        if count > 0 {
            self.push(Event::Removed {
                queue: queue.clone(),
                count,
                bytes,
            });
        }
    }
}
