//! Checkpoints: the records that changed, and the state back from its records (R42).
//!
//! The layout of records stands in [`records`](super::records).

use bytes::Bytes;

use super::codec::{CodecError, put_varint, read_message};
use super::messages::{MessageKey, Slot, Stored};
use super::parts::PartsKey;
use super::proposers::Proposer;
use super::queue::read_reference;
use super::records::{Changes, Digest, Key, KeyReader, Kind, Nowhere, RecordSink, SealError, open, parse};
use super::replays::Replay;
use super::retained::{Mark, RetainedMessage};
use super::sessions::Session;
use super::subscriptions::Terms;
use super::wills::StoredWill;
use super::{Epoch, GroupState, GroupTime, HashMap, NodeId, inbound, parts};

/// Why stored records are not a state. The replica is rebuilt from another one (R49).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The value is not what was written.
    #[error("record {}: the checksum is wrong", hex(key))]
    Checksum {
        /// Key of the record.
        key: Vec<u8>,
    },
    /// The value was written by a version that this one does not know.
    #[error("record {}: version {version} is unknown", hex(key))]
    Version {
        /// Key of the record.
        key: Vec<u8>,
        /// Its version.
        version: u8,
    },
    /// Key or value are not of their kind's form.
    #[error("record {}: {error}", hex(key))]
    Form {
        /// Key of the record.
        key: Vec<u8>,
        /// What is wrong.
        error: CodecError,
    },
    /// The record does not come behind the one before it.
    #[error("record {}: out of order", hex(key))]
    Order {
        /// Key of the record.
        key: Vec<u8>,
    },
    /// The record contradicts the others.
    #[error("record {}: {what}", hex(key))]
    Contradiction {
        /// Key of the record.
        key: Vec<u8>,
        /// How.
        what: &'static str,
    },
    /// All records are good by themselves, and yet.
    #[error("the records are not a state: {0}")]
    Invariant(String),
}

fn hex(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl GroupState {
    /// The records that changed since the last call, by key and as of the last entry; none as value for one that is
    /// gone. Keys that never were stored may be among the latter.
    ///
    /// Costs nothing for messages that came and went in between.
    pub fn take_changes(&mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let mut changes = Changes::default();
        self.drain(&mut changes);
        changes.finish()
    }

    /// The key of a record that every stored state has.
    pub fn key_of_any_state() -> Vec<u8> {
        Key::new(Kind::Meta).finish()
    }

    /// The state store has the records of every change up to the entry at `index`: what is large leaves memory.
    pub fn stored_up_to(&mut self, index: u64) {
        self.messages.leave(index);
    }

    /// Forgets what changed since the last time, of a state that is never stored.
    pub fn forget_changes(&mut self) {
        self.drain(&mut Nowhere);
        self.messages.stay();
    }

    fn drain(&mut self, sink: &mut impl RecordSink) {
        self.write_meta(sink);
        self.proposers.drain(sink);
        self.sessions.drain(sink);
        self.subscriptions.drain(sink);
        self.inbound.drain(sink);
        self.wills.drain(sink);
        self.messages.drain(self.applied, sink);
        self.outbox.drain(sink);
        self.queues.drain(&self.messages, sink);
        self.retained.drain(sink);
        self.live_wills.drain(sink);
        self.parts.drain(&self.messages, sink);
        self.replays.drain(sink);
    }

    /// All records of the state, by key.
    pub fn records(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut all = Changes::default();
        self.write_all(&mut all);
        all.finish()
            .into_iter()
            .filter_map(|(key, value)| value.map(|value| (key, value)))
            .collect()
    }

    /// A number that is the same for the same replicated state, on every node and after every restart.
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::default();
        self.write_all(&mut digest);
        digest.sum
    }

    fn write_all(&self, sink: &mut impl RecordSink) {
        self.write_meta(sink);
        self.proposers.write_all(sink);
        self.sessions.write_all(sink);
        self.subscriptions.write_all(sink);
        self.inbound.write_all(sink);
        self.wills.write_all(sink);
        self.messages.write_all(sink);
        self.outbox.write_all(sink);
        self.queues.write_all(&self.messages, sink);
        self.retained.write_all(sink);
        self.live_wills.write_all(sink);
        self.parts.write_all(&self.messages, sink);
        self.replays.write_all(sink);
    }

    fn write_meta(&self, sink: &mut impl RecordSink) {
        sink.put(Key::new(Kind::Meta), |out| {
            put_varint(out, self.time.0);
            put_varint(out, self.queues.floor());
        });
    }

    /// Replaces the state by what the records say, which come in ascending order of their keys.
    ///
    /// # Errors
    ///
    /// The first record that is not what was written, or does not fit the others; the state is as before then.
    pub fn load<K, V>(&mut self, records: impl IntoIterator<Item = (K, V)>) -> Result<(), StateError>
    where
        K: AsRef<[u8]>,
        V: Into<Bytes>,
    {
        let mut loader = Loader {
            state: Self::new(self.group),
            slots: HashMap::default(),
        };
        let mut last: Option<Vec<u8>> = None;
        for (key, value) in records {
            let key = key.as_ref();
            if last.as_deref().is_some_and(|last| last >= key) {
                return Err(StateError::Order { key: key.to_vec() });
            }
            loader.record(key, &value.into())?;
            let last = last.get_or_insert_default();
            last.clear();
            last.extend_from_slice(key);
        }
        *self = loader.finish()?;
        Ok(())
    }
}

/// What is wrong with one record.
enum Fault {
    Form(CodecError),
    Contradiction(&'static str),
}

impl From<CodecError> for Fault {
    fn from(error: CodecError) -> Self {
        Self::Form(error)
    }
}

fn require(holds: bool, what: &'static str) -> Result<(), Fault> {
    if holds {
        Ok(())
    } else {
        Err(Fault::Contradiction(what))
    }
}

/// A state that is being loaded.
struct Loader {
    state: GroupState,
    /// Where the messages are that references name.
    slots: HashMap<MessageKey, Slot>,
}

impl Loader {
    fn record(&mut self, key: &[u8], value: &Bytes) -> Result<(), StateError> {
        let fields = open(key, value).map_err(|error| match error {
            SealError::Checksum => StateError::Checksum { key: key.to_vec() },
            SealError::Version(version) => StateError::Version {
                key: key.to_vec(),
                version,
            },
        })?;
        self.load(key, &fields).map_err(|fault| match fault {
            Fault::Form(error) => StateError::Form {
                key: key.to_vec(),
                error,
            },
            Fault::Contradiction(what) => StateError::Contradiction {
                key: key.to_vec(),
                what,
            },
        })
    }

    fn load(&mut self, key: &[u8], fields: &Bytes) -> Result<(), Fault> {
        let (kind, mut key) = KeyReader::new(key)?;
        let state = &mut self.state;
        match kind {
            Kind::Meta => {
                let (time, floor) = parse(fields, |reader| {
                    Ok((reader.varint("group time")?, reader.varint("sequence floor")?))
                })?;
                state.time = GroupTime(time);
                state.queues.load_floor(floor);
            }
            Kind::Proposer => state
                .proposers
                .load(NodeId(key.u64()?), parse(fields, Proposer::read)?),
            Kind::Session => {
                let loaded = state.sessions.load(key.session()?, parse(fields, Session::read)?);
                require(loaded, "the client identifier has another session")?;
            }
            Kind::Subscription => {
                let session = key.session()?;
                state
                    .subscriptions
                    .load(session, key.rest()?, parse(fields, Terms::read)?);
            }
            Kind::Inbound => state.inbound.load(key.session()?, parse(fields, inbound::read)?),
            Kind::Will => state.wills.load(key.session()?, parse(fields, StoredWill::read)?),
            Kind::DueWill => {
                let (session, epoch) = (key.session()?, Epoch(key.u32()?));
                state
                    .wills
                    .load_due(session, epoch, &parse(fields, read_message)?);
            }
            Kind::Message => {
                let message_key = read_message_key(&mut key)?;
                let slot = state.messages.load(message_key, parse(fields, Stored::read)?);
                self.slots.insert(message_key, slot);
            }
            Kind::Outbox => {
                let message_key = read_message_key(&mut key)?;
                parse(fields, |_| Ok(()))?;
                let slot = self.refer(message_key)?;
                self.state.outbox.load(message_key, slot, &self.state.messages);
            }
            Kind::Queue => {
                let queue = key.queue()?;
                state
                    .queues
                    .load_queue(queue, parse(fields, |reader| reader.varint("next sequence"))?);
            }
            Kind::Reference => self.load_reference(&mut key, fields)?,
            Kind::Retained => {
                let loaded = state
                    .retained
                    .load(key.rest()?, parse(fields, RetainedMessage::read)?);
                require(loaded, "the message is of another topic, or empty")?;
            }
            Kind::Mark => {
                let group = quorate_storage::log::GroupId(key.u16()?);
                state.retained.load_mark(group, parse(fields, Mark::read)?);
            }
            Kind::LiveWill => {
                parse(fields, |_| Ok(()))?;
                state.live_wills.load(key.session()?, Epoch(key.u32()?));
            }
            Kind::Parts => {
                let (message_key, progress) = parse(fields, parts::read)?;
                let slot = self.refer(message_key)?;
                self.state.parts.load(PartsKey::read(&mut key)?, slot, progress);
            }
            Kind::Replay => {
                let session = key.session()?;
                state
                    .replays
                    .load(session, key.rest()?, parse(fields, Replay::read)?);
            }
        }
        Ok(key.finish()?)
    }

    fn load_reference(&mut self, key: &mut KeyReader<'_>, fields: &Bytes) -> Result<(), Fault> {
        let (queue, sequence) = (key.queue()?, key.u64()?);
        let (message_key, delivery, holder) = parse(fields, read_reference)?;
        let slot = self.refer(message_key)?;
        let size = self.state.messages.size(slot);
        let loaded = self
            .state
            .queues
            .load_reference(&queue, sequence, (slot, size), (delivery, holder));
        require(loaded, "the queue has not given this sequence")
    }

    fn refer(&mut self, key: MessageKey) -> Result<Slot, Fault> {
        let slot = *self
            .slots
            .get(&key)
            .ok_or(Fault::Contradiction("the message is missing"))?;
        self.state.messages.add_reference(slot);
        Ok(slot)
    }

    fn finish(self) -> Result<GroupState, StateError> {
        let mut state = self.state;
        state.timers = state.derived_timers();
        state.check_invariants().map_err(StateError::Invariant)?;
        Ok(state)
    }
}

fn read_message_key(key: &mut KeyReader<'_>) -> Result<MessageKey, CodecError> {
    Ok(MessageKey {
        index: key.u64()?,
        position: key.u32()?,
    })
}
