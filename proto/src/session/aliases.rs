//! Topic aliases, both ways; they live and die with the connection [MQTT-3.3.2-7].

use std::sync::Arc;

use super::{Close, TopicRef};
use crate::codec::ReasonCode;

/// More aliases than these are not used towards a client: they are searched one by one for every delivery.
const OUT_MAX: u16 = 256;

const ABOVE_MAXIMUM: Close = Close::new(
    ReasonCode::TOPIC_ALIAS_INVALID,
    "topic alias is above the topic alias maximum [MQTT-3.3.2-9]",
);
const UNKNOWN: Close = Close::new(
    ReasonCode::PROTOCOL_ERROR,
    "topic alias stands for no topic [MQTT5 3.3.2.3.4]",
);

/// What a client's alias stands for.
#[derive(Clone, Debug)]
pub(super) enum Alias {
    Topic(Arc<str>),
    /// A topic beyond the limits, which was refused and is refused again; it is not worth the memory.
    Refused,
}

/// The aliases a client has set.
#[derive(Debug, Default)]
pub(super) struct InboundAliases {
    /// The alias `n` is at `n - 1`.
    aliases: Vec<Option<Alias>>,
}

impl InboundAliases {
    pub(super) fn len(&self) -> usize {
        self.aliases.len()
    }

    /// Sets an alias; `topic` is `None` where the topic is refused.
    pub(super) fn set(&mut self, alias: u16, topic: Option<&str>, max: u16) -> Result<(), Close> {
        if alias > max {
            return Err(ABOVE_MAXIMUM);
        }
        let index = usize::from(alias).saturating_sub(1);
        if self.aliases.len() <= index {
            self.aliases.resize(index + 1, None);
        }
        let slot = &mut self.aliases[index];
        match (&slot, topic) {
            (Some(Alias::Topic(known)), Some(topic)) if **known == *topic => {}
            (_, Some(topic)) => *slot = Some(Alias::Topic(topic.into())),
            (_, None) => *slot = Some(Alias::Refused),
        }
        Ok(())
    }

    /// The topic an alias stands for; `None` for one that was refused.
    pub(super) fn resolve(&self, alias: u16, max: u16) -> Result<Option<TopicRef<'static>>, Close> {
        if alias > max {
            return Err(ABOVE_MAXIMUM);
        }
        match self.aliases.get(usize::from(alias).wrapping_sub(1)) {
            Some(Some(Alias::Topic(topic))) => Ok(Some(TopicRef::Alias(topic.clone()))),
            Some(Some(Alias::Refused)) => Ok(None),
            _ => Err(UNKNOWN),
        }
    }
}

/// The aliases set towards a client: those of the topics used last. Replacing one reuses its memory, so a changing
/// set of topics costs no allocation.
#[derive(Debug)]
pub(super) struct OutboundAliases {
    slots: Vec<Slot>,
    max: u16,
    /// Counts uses; the slot with the smallest value was used longest ago.
    clock: u64,
}

#[derive(Debug, Default)]
struct Slot {
    hash: u64,
    used: u64,
    topic: String,
}

/// How to send a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AliasUse {
    /// By the alias alone.
    Known(u16),
    /// In full, setting the alias, which [`OutboundAliases::commit`] then has to be told.
    Set(u16),
}

impl OutboundAliases {
    /// As many as the client and the listener allow; `None` for none.
    pub(super) fn new(max_client: u16, max_listener: u16) -> Option<Self> {
        let max = max_client.min(max_listener).min(OUT_MAX);
        (max > 0).then_some(Self {
            slots: Vec::new(),
            max,
            clock: 0,
        })
    }

    /// Looks for the alias of a topic, or the one to set for it.
    pub(super) fn find(&mut self, topic: &str) -> AliasUse {
        let hash = hash(topic);
        self.clock += 1;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.hash == hash && slot.topic == topic {
                slot.used = self.clock;
                return AliasUse::Known(index as u16 + 1);
            }
        }
        if self.slots.len() < usize::from(self.max) {
            return AliasUse::Set(self.slots.len() as u16 + 1);
        }
        let oldest = (0..self.slots.len())
            .min_by_key(|index| self.slots[*index].used)
            .unwrap_or(0);
        AliasUse::Set(oldest as u16 + 1)
    }

    /// A packet that sets `alias` is on its way.
    pub(super) fn commit(&mut self, alias: u16, topic: &str) {
        let index = usize::from(alias - 1);
        if index == self.slots.len() {
            self.slots.push(Slot::default());
        }
        let slot = &mut self.slots[index];
        slot.hash = hash(topic);
        slot.used = self.clock;
        slot.topic.clear();
        slot.topic.push_str(topic);
    }

    pub(super) fn check_invariants(&self) {
        assert!(
            self.slots.len() <= usize::from(self.max),
            "more aliases than the client allows"
        );
        assert!(
            self.slots.iter().all(|slot| hash(&slot.topic) == slot.hash),
            "alias with a wrong hash"
        );
    }
}

fn hash(topic: &str) -> u64 {
    use std::hash::BuildHasher;
    foldhash::fast::FixedState::default().hash_one(topic)
}
