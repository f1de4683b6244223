//! The subscriptions of a home group's sessions, by session and filter.
//!
//! One ordered map for the whole group: a session with one subscription costs one entry, and a session's
//! subscriptions are one range.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use quorate_proto::codec::SubscriptionOptions;

use super::codec::{CodecError, Reader, options_byte, put_option, read_options};
use super::records::{Dirty, Key, Kind, RecordSink};
use super::{HashMap, SessionId, SubscribeResult, Subscription};

/// What a subscription says beside its filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    options: SubscriptionOptions,
    subscription_id: Option<u32>,
}

impl Terms {
    fn of(subscription: &Subscription) -> Self {
        Self {
            options: subscription.options,
            subscription_id: subscription.subscription_id,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(options_byte(&self.options));
        put_option(out, self.subscription_id);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            options: read_options(reader.u8("subscription options")?)?,
            subscription_id: reader.option("subscription identifier")?,
        })
    }
}

/// All subscriptions of a group.
#[derive(Debug)]
pub(super) struct Subscriptions {
    entries: BTreeMap<(SessionId, Arc<str>), Terms>,
    counts: HashMap<SessionId, u32>,
    dirty: Dirty<(SessionId, Arc<str>)>,
    /// Smallest filter, where a session's range starts.
    start: Arc<str>,
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            counts: HashMap::default(),
            dirty: Dirty::default(),
            start: Arc::from(""),
        }
    }
}

impl Subscriptions {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Number of a session's subscriptions.
    pub(super) fn count(&self, session: SessionId) -> u32 {
        self.counts.get(&session).copied().unwrap_or(0)
    }

    /// A session's subscriptions by filter.
    pub(super) fn of(&self, session: SessionId) -> impl Iterator<Item = Subscription> {
        self.entries
            .range((session, self.start.clone())..)
            .take_while(move |((of, _), _)| *of == session)
            .map(|((_, filter), terms)| Subscription {
                filter: filter.clone(),
                options: terms.options,
                subscription_id: terms.subscription_id,
            })
    }

    pub(super) fn get(&self, session: SessionId, filter: &Arc<str>) -> Option<Subscription> {
        let (key, terms) = self.entries.get_key_value(&(session, filter.clone()))?;
        Some(Subscription {
            filter: key.1.clone(),
            options: terms.options,
            subscription_id: terms.subscription_id,
        })
    }

    /// Adds a subscription, or replaces the one with the same filter [MQTT-3.8.4-3].
    pub(super) fn insert(
        &mut self,
        session: SessionId,
        subscription: &Subscription,
        subscriptions_max: u32,
    ) -> SubscribeResult {
        let count = self.counts.get(&session).copied().unwrap_or(0);
        let key = (session, subscription.filter.clone());
        let result = match self.entries.entry(key.clone()) {
            Entry::Occupied(mut entry) => {
                entry.insert(Terms::of(subscription));
                SubscribeResult::Replaced
            }
            Entry::Vacant(_) if count >= subscriptions_max => return SubscribeResult::LimitReached,
            Entry::Vacant(entry) => {
                entry.insert(Terms::of(subscription));
                self.counts.insert(session, count + 1);
                SubscribeResult::Added
            }
        };
        self.dirty.insert(key);
        result
    }

    /// Removes a subscription; whether there was one.
    pub(super) fn remove(&mut self, session: SessionId, filter: &Arc<str>) -> bool {
        let key = (session, filter.clone());
        if self.entries.remove(&key).is_none() {
            return false;
        }
        match self.counts.get_mut(&session) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.counts.remove(&session);
            }
        }
        self.dirty.insert(key);
        true
    }

    /// Removes all subscriptions of a session.
    pub(super) fn remove_session(&mut self, session: SessionId) {
        if self.counts.remove(&session).is_none() {
            return;
        }
        let filters: Vec<_> = self.of(session).map(|subscription| subscription.filter).collect();
        for filter in filters {
            let key = (session, filter);
            self.entries.remove(&key);
            self.dirty.insert(key);
        }
    }

    pub(super) fn drain(&mut self, sink: &mut impl RecordSink) {
        for entry in self.dirty.take() {
            let key = Self::key(entry.0, &entry.1);
            match self.entries.get(&entry) {
                Some(terms) => sink.put(key, |out| terms.write(out)),
                None => sink.delete(key),
            }
        }
    }

    pub(super) fn write_all(&self, sink: &mut impl RecordSink) {
        for ((session, filter), terms) in &self.entries {
            sink.put(Self::key(*session, filter), |out| terms.write(out));
        }
    }

    pub(super) fn load(&mut self, session: SessionId, filter: &str, terms: Terms) {
        self.entries.insert((session, Arc::from(filter)), terms);
        *self.counts.entry(session).or_insert(0) += 1;
    }

    fn key(session: SessionId, filter: &str) -> Key {
        Key::new(Kind::Subscription).session(session).rest(filter)
    }

    /// `exists` tells which sessions there are.
    pub(super) fn check_invariants(&self, exists: impl Fn(SessionId) -> bool) -> Result<(), String> {
        let mut counts: HashMap<SessionId, u32> = HashMap::default();
        for (session, _) in self.entries.keys() {
            *counts.entry(*session).or_insert(0) += 1;
        }
        if counts != self.counts {
            return Err("subscriptions: counts are wrong".into());
        }
        match counts.keys().find(|session| !exists(**session)) {
            Some(session) => Err(format!("subscriptions: {session:?} does not exist")),
            None => Ok(()),
        }
    }
}
