//! Reads of a group's state that a node without a replica has another node do: queues, retained messages, wills; those
//! of replays are in [`replays`](super::replays).
//!
//! Each names the index up to which the asking node knows the group, and is answered as of that index or a later one:
//! whoever was told that something is there finds it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_proto::codec::QoS;
use quorate_storage::log::GroupId;

use super::group::Standing;
use super::peers::{AnswerBody, AskError, RequestBody, proto};
use super::puller::{NODE_PULL_COUNT, PulledPart, SLOT_SIZE, WaitingPull};
use super::{Group, Host, Placement, PullRequest};
use crate::raft::{LargeAnswer, PeerStart, Reply};
use crate::state::codec::{decode_message, encode_message};
use crate::state::{
    CodecError, Epoch, GroupTime, PulledReference, RetainedPage, RetainedSource, RetainedView, Sequence,
    SessionId, TargetQueue,
};

/// How long a read may take before another replica is asked.
const READ_MAX: Duration = Duration::from_secs(1);
/// Pause after a replica that could not be read.
const RETRY: Duration = Duration::from_millis(20);
/// Retained messages in one answer, at most.
const RETAINED_COUNT_MAX: u32 = 1_024;
/// Reads of one group that are asked elsewhere at once; the others wait here, where they cost least.
pub(super) const READS_MAX: usize = 8;
/// References in one answer, at most.
const PULL_COUNT_MAX: u32 = 65_535;

const QOS_BITS: u32 = 3;
const RETAIN_BIT: u32 = 1 << 2;
const REPLAYED_BIT: u32 = 1 << 3;
const RECEIVED_BIT: u32 = 1 << 4;
const SHARED_BIT: u32 = 1 << 5;

impl<H: Host> Group<H> {
    /// As [`Self::read_elsewhere`], where answers may be large: only a few are asked for at once.
    pub(super) async fn read_much_elsewhere<T>(
        &self,
        ask: impl Fn(u64) -> RequestBody,
        read: impl Fn(AnswerBody) -> Result<T, AskError>,
    ) -> Option<T> {
        let turn = self.reads_elsewhere.acquire().await;
        let _turn = turn.expect("the semaphore is never closed");
        self.read_elsewhere(ask, read).await
    }

    /// Asks the replica that feeds this node, or the next one, until there is an answer, or a replica here: `None`.
    async fn read_elsewhere<T>(
        &self,
        ask: impl Fn(u64) -> RequestBody,
        read: impl Fn(AnswerBody) -> Result<T, AskError>,
    ) -> Option<T> {
        let mut is_told = false;
        loop {
            let source = tokio::select! {
                source = self.following.wait_for_source() => source,
                () = self.stands_on(Standing::Replica) => return None,
            };
            let asked = self.peers.ask(source, ask(self.known_index().unwrap_or(0)));
            if let Ok(Ok(answer)) = tokio::time::timeout(READ_MAX, asked).await {
                // It says so where it does not know enough yet.
                let is_refused = matches!(answer, AnswerBody::NotHere(_));
                match read(answer) {
                    Ok(read) => return Some(read),
                    Err(error) if !is_refused && !is_told => {
                        is_told = true;
                        tracing::warn!(
                            group = self.number(),
                            node = source.0,
                            %error,
                            "what another node reads for this one cannot be understood; it is asked again"
                        );
                    }
                    Err(_) => {}
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn number(&self) -> u32 {
        u32::from(self.id().0)
    }

    /// Pulls for a connection here from another node's replica.
    pub(super) async fn pull_elsewhere(self: Arc<Self>, request: PullRequest) {
        let ask = |after| {
            RequestBody::Pull(proto::Pull {
                group: self.number(),
                after,
                session: request.session.0,
                from: request.from.0,
                count_max: request.count_max,
            })
        };
        match self.read_much_elsewhere(ask, read_pulled).await {
            Some((part, as_of)) => {
                let stopped = part.stopped_at.is_some();
                if let Some(oldest) = part.stopped_at {
                    self.stopped.lock().insert(request.session, oldest);
                }
                let references = self.finish_pull(&request, part);
                self.host.handle_references(references);
                // What moved the window may have been told before this was known to wait for it.
                if stopped && self.known_index() > Some(as_of) {
                    self.stopped.lock().remove(&request.session);
                    self.host.handle_pending(self.id(), request.session);
                }
            }
            None => {
                self.pulls.lock().push(WaitingPull {
                    request,
                    after: 0,
                    is_first: false,
                });
                self.attend.notify_one();
            }
        }
    }

    /// Takes what came to this node's own queue from another node's replica, piece by piece.
    pub(super) async fn take_node_messages_elsewhere(&self) {
        loop {
            let from = *self.node_taken.lock();
            let ask = |after| {
                RequestBody::Pull(proto::Pull {
                    group: self.number(),
                    after,
                    session: 0,
                    from: from.0,
                    count_max: u32::try_from(NODE_PULL_COUNT).unwrap_or(u32::MAX),
                })
            };
            match self.read_much_elsewhere(ask, read_pulled).await {
                Some((part, _)) if part.references.is_empty() => return,
                Some((part, _)) => self.hand_on_node_messages(part.references),
                // Taken from here from now on.
                None => return self.attend.notify_one(),
            }
        }
    }

    /// A page of the retained messages that a filter matches, see [`GroupState::retained_page`]. Behind the group's barrier
    /// everything is found that was acknowledged before (R36).
    ///
    /// [`GroupState::retained_page`]: crate::state::GroupState::retained_page
    pub async fn read_retained(&self, filter: &str, after: Option<&str>, count_max: usize) -> RetainedPage {
        loop {
            if self.standing() == Standing::Replica {
                return self.state().retained_page(filter, after, count_max);
            }
            let ask = |after_index| {
                RequestBody::ReadRetained(proto::ReadRetained {
                    group: self.number(),
                    after_index,
                    filter: filter.to_owned(),
                    after: after.map(str::to_owned),
                    count_max: u32::try_from(count_max).unwrap_or(u32::MAX),
                })
            };
            if let Some(page) = self.read_much_elsewhere(ask, read_page).await {
                return page;
            }
        }
    }

    /// The unsettled reference of a session's queue that stands for number `number` of the group's slot of identifiers.
    pub async fn locate(&self, session: SessionId, number: u64) -> Option<Sequence> {
        loop {
            if self.standing() == Standing::Replica {
                return self.locate_here(session, number);
            }
            let ask = |after| {
                RequestBody::Locate(proto::Locate {
                    group: self.number(),
                    after,
                    session: session.0,
                    number: u32::try_from(number).unwrap_or(u32::MAX),
                })
            };
            let read = |answer| match answer {
                AnswerBody::Located(located) => Ok(located.sequence.map(Sequence)),
                _ => Err(AskError::Malformed),
            };
            if let Some(located) = self.read_elsewhere(ask, read).await {
                return located;
            }
        }
    }

    /// As [`GroupState::crossing`], of a session's queue and a message of this group, as of when the message came, or later.
    /// `None`, too, where that cannot be told. It may take long.
    ///
    /// [`GroupState::crossing`]: crate::state::GroupState::crossing
    pub async fn find_crossing(&self, session: SessionId, source: RetainedSource) -> Option<Sequence> {
        if self.standing() == Standing::Replica {
            self.reach_here(source.index).await?;
            return self.state().crossing(&TargetQueue::Session(session), source);
        }
        let ask = |after: u64| {
            RequestBody::FindCrossing(proto::FindCrossing {
                group: self.number(),
                after: after.max(source.index),
                session: session.0,
                index: source.index,
                position: source.position,
            })
        };
        let read = |answer| match answer {
            AnswerBody::CrossingFound(found) => Ok(found.sequence.map(Sequence)),
            _ => Err(AskError::Malformed),
        };
        self.read_much_elsewhere(ask, read).await?
    }

    /// As [`Self::locate`], where this node has a replica.
    pub fn locate_here(&self, session: SessionId, number: u64) -> Option<Sequence> {
        let queue = TargetQueue::Session(session);
        let state = self.state();
        let oldest = state.oldest_unsettled(&queue)?.0;
        let ahead = (number % SLOT_SIZE + SLOT_SIZE - oldest % SLOT_SIZE) % SLOT_SIZE;
        let sequence = Sequence(oldest + ahead);
        state.holds(&queue, sequence).then_some(sequence)
    }

    /// The wills that wait to be published, as of now.
    pub(super) async fn read_due_wills(&self) -> Vec<(SessionId, Epoch)> {
        self.pass_barrier().await;
        loop {
            if self.standing() == Standing::Replica {
                return self.due_wills_here();
            }
            let ask = |after| {
                RequestBody::ReadDueWills(proto::ReadDueWills {
                    group: self.number(),
                    after,
                })
            };
            let read = |answer| match answer {
                AnswerBody::DueWillsRead(read) => {
                    let sessions = read.sessions.into_iter().map(SessionId);
                    Ok(sessions.zip(read.epochs.into_iter().map(Epoch)).collect())
                }
                _ => Err(AskError::Malformed),
            };
            if let Some(due) = self.read_elsewhere(ask, read).await {
                return due;
            }
        }
    }

    fn due_wills_here(&self) -> Vec<(SessionId, Epoch)> {
        self.state()
            .due_wills()
            .map(|will| (will.session, will.epoch))
            .collect()
    }

    /// Waits until this node's replica has applied everything up to `index`; `None` where it does not serve, or has not
    /// in time.
    pub(super) async fn reach_here(&self, index: u64) -> Option<()> {
        let replica = self.replica()?;
        tokio::time::timeout(READ_MAX, replica.reached(index))
            .await
            .ok()?;
        (self.standing() == Standing::Replica).then_some(())
    }

    pub(super) async fn answer_pull(
        self: &Arc<Self>,
        from: PeerStart,
        ask: proto::Pull,
        reply: &mut Reply,
    ) -> Option<proto::Pulled> {
        let asked = Instant::now();
        self.reach_here(ask.after).await?;
        let queue = match ask.session {
            0 => TargetQueue::Node(from.node, from.incarnation),
            session => TargetQueue::Session(SessionId(session)),
        };
        let count_max = ask.count_max.min(PULL_COUNT_MAX) as usize;
        // Before the look: the window may move right after it.
        let applied = self.known_index().unwrap_or(0);
        let mut part = self.pull_part(&queue, Sequence(ask.from), count_max, false);
        make_room(reply, part.bytes, asked).await?;
        if part.references.iter().any(|reference| reference.stored.is_some()) {
            let group = self.clone();
            let recalling = tokio::task::spawn_blocking(move || {
                for reference in &mut part.references {
                    group.complete_reference(reference)?;
                }
                // What is gone was settled.
                part.references.retain(|reference| reference.stored.is_none());
                Ok::<_, crate::raft::StateError>(part)
            });
            part = match recalling.await.ok()? {
                Ok(part) => part,
                Err(error) => {
                    self.host
                        .fatal(format!("a queued message of group {}: {error}", self.id().0));
                    return None;
                }
            };
        }
        Some(proto::Pulled {
            references: part.references.iter().map(put_reference).collect(),
            end: part.end.0,
            stopped_at: part.stopped_at.map(|at| at.0),
            applied,
        })
    }

    pub(super) async fn answer_read_retained(
        &self,
        ask: proto::ReadRetained,
        reply: &mut Reply,
    ) -> Option<proto::RetainedRead> {
        let asked = Instant::now();
        self.reach_here(ask.after_index).await?;
        let count_max = ask.count_max.min(RETAINED_COUNT_MAX) as usize;
        let page = self
            .state()
            .retained_page(&ask.filter, ask.after.as_deref(), count_max);
        let bytes = page.matches.iter().map(|value| value.message.size() as u64).sum();
        make_room(reply, bytes, asked).await?;
        let values = page.matches.iter().map(|value| proto::RetainedValue {
            message: encode_message(&value.message),
            received_at: value.received_at.0,
            expires_at: value.expires_at.map(|at| at.0),
            source: value.source.map(put_source),
        });
        Some(proto::RetainedRead {
            values: values.collect(),
            resume_after: page.resume_after,
        })
    }

    pub(super) async fn answer_locate(&self, ask: proto::Locate) -> Option<proto::Located> {
        self.reach_here(ask.after).await?;
        let sequence = self.locate_here(SessionId(ask.session), u64::from(ask.number));
        Some(proto::Located {
            sequence: sequence.map(|sequence| sequence.0),
        })
    }

    pub(super) async fn answer_find_crossing(
        &self,
        ask: proto::FindCrossing,
    ) -> Option<proto::CrossingFound> {
        self.reach_here(ask.after).await?;
        let source = RetainedSource {
            group: self.id(),
            index: ask.index,
            position: ask.position,
        };
        let queue = TargetQueue::Session(SessionId(ask.session));
        let sequence = self.state().crossing(&queue, source);
        Some(proto::CrossingFound {
            sequence: sequence.map(|sequence| sequence.0),
        })
    }

    pub(super) async fn answer_due_wills(&self, ask: proto::ReadDueWills) -> Option<proto::DueWillsRead> {
        self.reach_here(ask.after).await?;
        let (sessions, epochs) = self
            .due_wills_here()
            .into_iter()
            .map(|(session, epoch)| (session.0, epoch.0))
            .unzip();
        Some(proto::DueWillsRead { sessions, epochs })
    }
}

/// Waits until an answer of so many bytes may be made; `None` where the peer has given up since it asked.
pub(super) async fn make_room(reply: &mut Reply, bytes: u64, asked: Instant) -> Option<()> {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    reply.make_room(LargeAnswer::Read, bytes).await?;
    (asked.elapsed() < READ_MAX).then_some(())
}

fn put_reference(reference: &PulledReference) -> proto::PulledReference {
    let flag = |is_set, bit| if is_set { bit } else { 0 };
    proto::PulledReference {
        sequence: reference.sequence.0,
        message: encode_message(&reference.message),
        publisher: reference.publisher.map_or(0, |publisher| publisher.0),
        flags: reference.qos as u32
            | flag(reference.retain, RETAIN_BIT)
            | flag(reference.replayed, REPLAYED_BIT)
            | flag(reference.received, RECEIVED_BIT)
            | flag(reference.shared, SHARED_BIT),
        subscription_ids: reference.subscription_ids.clone(),
        expires_at: reference.expires_at.map(|at| at.0),
        received_at: reference.received_at.0,
    }
}

fn read_reference(told: proto::PulledReference) -> Result<PulledReference, CodecError> {
    let qos = u8::try_from(told.flags & QOS_BITS).ok().and_then(QoS::from_bits);
    Ok(PulledReference {
        sequence: Sequence(told.sequence),
        message: decode_message(&told.message)?,
        stored: None,
        publisher: (told.publisher != 0).then_some(SessionId(told.publisher)),
        qos: qos.ok_or(CodecError::Invalid("QoS"))?,
        retain: told.flags & RETAIN_BIT != 0,
        replayed: told.flags & REPLAYED_BIT != 0,
        shared: told.flags & SHARED_BIT != 0,
        subscription_ids: told.subscription_ids,
        received: told.flags & RECEIVED_BIT != 0,
        expires_at: told.expires_at.map(GroupTime),
        received_at: GroupTime(told.received_at),
    })
}

fn read_pulled(answer: AnswerBody) -> Result<(PulledPart, u64), AskError> {
    let AnswerBody::Pulled(pulled) = answer else {
        return Err(AskError::Malformed);
    };
    let references = pulled.references.into_iter().map(read_reference);
    let part = PulledPart {
        references: references
            .collect::<Result<_, _>>()
            .map_err(|_| AskError::Malformed)?,
        // Counted where it was read.
        bytes: 0,
        end: Sequence(pulled.end),
        stopped_at: pulled.stopped_at.map(Sequence),
    };
    Ok((part, pulled.applied))
}

fn put_source(source: RetainedSource) -> proto::RetainedSource {
    proto::RetainedSource {
        group: u32::from(source.group.0),
        index: source.index,
        position: source.position,
    }
}

/// `None` where no message can stand.
fn read_source(source: proto::RetainedSource) -> Option<RetainedSource> {
    let group = u16::try_from(source.group).ok().map(GroupId);
    let is_data = |group: &GroupId| Placement::data_groups().any(|data| data == *group);
    Some(RetainedSource {
        group: group.filter(is_data)?,
        index: source.index,
        position: source.position,
    })
}

fn read_page(answer: AnswerBody) -> Result<RetainedPage, AskError> {
    let AnswerBody::RetainedRead(read) = answer else {
        return Err(AskError::Malformed);
    };
    let values = read.values.into_iter().map(|value| {
        Ok(RetainedView {
            message: decode_message(&value.message).map_err(|_| AskError::Malformed)?,
            received_at: GroupTime(value.received_at),
            expires_at: value.expires_at.map(GroupTime),
            source: value.source.and_then(read_source),
        })
    });
    Ok(RetainedPage {
        matches: values.collect::<Result<_, AskError>>()?,
        resume_after: read.resume_after,
    })
}

#[cfg(test)]
mod tests {
    use quorate_proto::message::Message;

    use super::*;

    #[test]
    fn a_reference_comes_back_as_it_was() {
        let mut reference = PulledReference {
            sequence: Sequence(7),
            message: Message::new("a/b", &[], b"payload", QoS::ExactlyOnce, true, Some(60)),
            stored: None,
            publisher: Some(SessionId(3)),
            qos: QoS::AtLeastOnce,
            retain: true,
            replayed: false,
            shared: true,
            subscription_ids: vec![1, 268_435_455],
            received: true,
            expires_at: Some(GroupTime(9)),
            received_at: GroupTime(8),
        };
        assert_eq!(read_reference(put_reference(&reference)).unwrap(), reference);
        reference.publisher = None;
        (reference.retain, reference.replayed, reference.received) = (false, true, false);
        reference.shared = false;
        reference.expires_at = None;
        let mut told = put_reference(&reference);
        assert_eq!(read_reference(told.clone()).unwrap(), reference);
        told.flags |= 3;
        assert!(read_reference(told.clone()).is_err(), "there is no QoS 3");
        told.flags = 0;
        told.message = told.message.slice(1..);
        assert!(read_reference(told).is_err());
    }
}
