//! Live deliveries on their way to another worker: copied into one batch per destination and turn, so that a message
//! costs a copy and no allocation, and a turn one wake-up.

use quorate_proto::codec::QoS;
use quorate_proto::session::{Delivery, Instant};

/// Where one delivery of a batch goes, and how.
#[derive(Clone, Copy, Debug)]
struct Target {
    slot: u32,
    generation: u32,
    qos: QoS,
    retain: bool,
    ids_start: u32,
    ids_count: u32,
}

/// A message of a batch.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: usize,
    topic_len: u32,
    forwardable_len: u32,
    payload_len: u32,
    expires_at: Option<Instant>,
    targets_start: usize,
}

/// Messages for connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct LiveBatch {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    targets: Vec<Target>,
    ids: Vec<u32>,
}

/// Capacity beyond which an emptied batch is not kept.
const KEPT_BYTES_MAX: usize = 1024 * 1024;
/// Weight from which a batch leaves before the end of the turn.
pub(super) const FULL_BYTES: usize = 256 * 1024;

impl LiveBatch {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Starts a message; its targets follow.
    pub(super) fn begin(
        &mut self,
        topic: &str,
        forwardable: &[u8],
        payload: &[u8],
        expires_at: Option<Instant>,
    ) {
        let small = |length: usize| u32::try_from(length).expect("parts of a packet are below 256 MiB");
        self.entries.push(Entry {
            start: self.bytes.len(),
            topic_len: small(topic.len()),
            forwardable_len: small(forwardable.len()),
            payload_len: small(payload.len()),
            expires_at,
            targets_start: self.targets.len(),
        });
        self.bytes.extend_from_slice(topic.as_bytes());
        self.bytes.extend_from_slice(forwardable);
        self.bytes.extend_from_slice(payload);
    }

    /// Adds a target to the message begun last.
    pub(super) fn target(&mut self, slot: u32, generation: u32, qos: QoS, retain: bool, ids: &[u32]) {
        let ids_start = u32::try_from(self.ids.len()).expect("identifiers of a batch fit");
        self.ids.extend_from_slice(ids);
        let ids_count = u32::try_from(ids.len()).expect("identifiers of a batch fit");
        self.targets.push(Target {
            slot,
            generation,
            qos,
            retain,
            ids_start,
            ids_count,
        });
    }

    /// Visits every delivery in order: (slot, generation, delivery).
    pub(super) fn visit(&self, mut deliver: impl FnMut(u32, u32, &Delivery<'_>)) {
        for (index, entry) in self.entries.iter().enumerate() {
            let end = self
                .entries
                .get(index + 1)
                .map_or(self.targets.len(), |next| next.targets_start);
            let (topic, rest) = self.bytes[entry.start..].split_at(entry.topic_len as usize);
            let topic = std::str::from_utf8(topic).expect("copied from a str");
            let (forwardable, rest) = rest.split_at(entry.forwardable_len as usize);
            let payload = &rest[..entry.payload_len as usize];
            for target in &self.targets[entry.targets_start..end] {
                let ids = &self.ids[target.ids_start as usize..][..target.ids_count as usize];
                let delivery = Delivery {
                    topic,
                    forwardable,
                    payload,
                    qos: target.qos,
                    retain: target.retain,
                    subscription_ids: ids,
                    expires_at: entry.expires_at,
                };
                deliver(target.slot, target.generation, &delivery);
            }
        }
    }

    /// Bytes it counts for while it waits.
    pub(super) fn weight(&self) -> usize {
        self.bytes.len()
            + self.entries.len() * size_of::<Entry>()
            + self.targets.len() * size_of::<Target>()
            + self.ids.len() * size_of::<u32>()
    }

    /// Bytes it can hold without growing.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Empties it for the next turn.
    pub(super) fn clear(&mut self) {
        if self.bytes.capacity() > KEPT_BYTES_MAX {
            *self = Self::default();
        } else {
            self.bytes.clear();
            self.entries.clear();
            self.targets.clear();
            self.ids.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_come_out_as_they_went_in() {
        let mut batch = LiveBatch::default();
        batch.begin("a/b", b"\x01\x01", b"one", None);
        batch.target(1, 7, QoS::AtLeastOnce, false, &[5, 6]);
        batch.target(2, 8, QoS::AtMostOnce, true, &[]);
        batch.begin("c", b"", b"", Some(Instant(9)));
        batch.target(3, 9, QoS::ExactlyOnce, false, &[1]);
        let mut seen = Vec::new();
        batch.visit(|slot, generation, delivery| {
            let ids = delivery.subscription_ids.to_vec();
            seen.push((
                slot,
                generation,
                delivery.topic.to_owned(),
                delivery.payload.to_vec(),
                delivery.qos,
                ids,
            ));
        });
        assert_eq!(
            seen,
            vec![
                (1, 7, "a/b".into(), b"one".to_vec(), QoS::AtLeastOnce, vec![5, 6]),
                (2, 8, "a/b".into(), b"one".to_vec(), QoS::AtMostOnce, vec![]),
                (3, 9, "c".into(), vec![], QoS::ExactlyOnce, vec![1]),
            ]
        );
        batch.clear();
        assert!(batch.is_empty());
        batch.visit(|_, _, _| panic!("nothing is left"));
    }
}
