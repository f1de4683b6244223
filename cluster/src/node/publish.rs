//! Proposes publishes, as a whole or in parts (R7).
//!
//! A target list that would fill an entry of its own is sorted by queue and cut; how the parts go together stands in
//! [`state/parts.rs`](crate::state). All of them are proposed at once: they leave in entries that follow each other, and
//! what the publisher sends next stands behind them. The last part's outcome is that of the publish, so one waiter is told
//! once. An entry whose outcome is not known is repeated under its number (R10), at whichever node leads, so no part is
//! skipped and none counts twice. Where this node ends in between, whoever has the publish next proposes all parts again, and
//! apply passes over the targets that have had their turn.

use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::proposer::{Due, Waiter};
use super::{Completion, Group, Host, Placement};
use crate::state::{
    MessageParts, Origin, Target, TargetQueue, encode_publish, encode_publish_first, encode_publish_more,
};

/// Lists up to this length are not measured.
const TARGETS_FEW: usize = 16;

/// A publish as its proposer has it.
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a> {
    /// Where it comes from.
    pub origin: &'a Origin,
    /// The message.
    pub message: MessageParts<'a>,
    /// Queues that get a reference, each once.
    pub targets: &'a [Target],
    /// Put it into the retained outbox as well; its publisher is told when the topic's group has it.
    pub set_retained: bool,
    /// Somebody gets it live, so it is not turned away where all queues are full.
    pub taken_live: bool,
}

impl Publish<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        let targets = self.targets.iter().map(Target::borrowed);
        encode_publish(
            out,
            self.origin,
            &self.message,
            targets,
            self.set_retained,
            self.taken_live,
        );
    }

    fn encode_first(&self, number: u64, targets: &[&Target], out: &mut Vec<u8>) {
        encode_publish_first(
            out,
            number,
            self.origin,
            &self.message,
            targets.iter().map(|target| target.borrowed()),
            self.set_retained,
            self.taken_live,
        );
    }

    /// The targets in the order of their queues, cut into what one command holds each; `None` where one holds all.
    fn cut(&self, bytes_max: usize) -> Option<Cut<'_>> {
        if self.targets.len() <= TARGETS_FEW {
            return None;
        }
        let bytes: usize = self
            .targets
            .iter()
            .map(|target| target.borrowed().bytes_max())
            .sum();
        if bytes <= bytes_max {
            return None;
        }
        let mut targets: Vec<&Target> = self.targets.iter().collect();
        targets.sort_by(|one, other| one.queue.cmp(&other.queue));
        let mut ends = Vec::new();
        let mut bytes = 0;
        // A large message goes alone, so that the first part fits whatever the message itself fits into.
        if self.message.bytes() + targets[0].borrowed().bytes_max() > bytes_max {
            ends.push(0);
        } else {
            bytes = self.message.bytes();
        }
        for (at, target) in targets.iter().enumerate() {
            let size = target.borrowed().bytes_max();
            if bytes > 0 && bytes + size > bytes_max {
                ends.push(at);
                bytes = 0;
            }
            bytes += size;
        }
        ends.push(targets.len());
        Some(Cut { targets, ends })
    }
}

/// Sorted targets, and where each part ends.
struct Cut<'a> {
    targets: Vec<&'a Target>,
    ends: Vec<usize>,
}

impl<H: Host> Group<H> {
    /// Proposes a publish; `ticket` is completed when it is committed and, where it is retained, the topic's group has it.
    pub fn propose_publish(&self, publish: &Publish<'_>, ticket: Option<H::Ticket>) {
        let waiter = ticket.map_or(Waiter::Nobody, Waiter::Ticket);
        let due = match publish.set_retained {
            true => Due::Retained(Placement::data_of_topic(publish.message.topic)),
            false => Due::Committed,
        };
        self.push_publish(publish, waiter, due);
    }

    /// Proposes a will. The first receiver gets its outcome when this node has applied it, the second one is told when the
    /// group of its topic has what is retained of it.
    pub(super) fn submit_will_publish(
        &self,
        publish: &Publish<'_>,
    ) -> (oneshot::Receiver<Completion>, oneshot::Receiver<Completion>) {
        let (applied, is_applied) = oneshot::channel();
        let (carried, is_carried) = oneshot::channel();
        let due = match publish.set_retained {
            true => Due::Retained(Placement::data_of_topic(publish.message.topic)),
            false => Due::Applied,
        };
        self.push_publish(publish, Waiter::Will { applied, carried }, due);
        (is_applied, is_carried)
    }

    fn push_publish(&self, publish: &Publish<'_>, waiter: Waiter<H::Ticket>, due: Due) {
        let Some(cut) = publish.cut(self.settings.entry_bytes_max) else {
            self.push(|out| publish.encode(out), waiter, due);
            return;
        };
        let number = self.proposals.publishes.fetch_add(1, Ordering::Relaxed) + 1;
        // The message's place, by which its retained write is known, is that of the first part.
        let (first_due, last_due) = match due {
            Due::Retained(topics) => (Due::Begun(number), Due::BegunRetained(number, topics)),
            due => (Due::Committed, due),
        };
        let mut begin = cut.ends[0];
        let first = &cut.targets[..begin];
        let pushed = self.proposals.push(
            |out| publish.encode_first(number, first, out),
            Waiter::Nobody,
            first_due,
        );
        if pushed.is_err() {
            self.refuse_as_too_large(waiter);
            return;
        }
        let mut last = Some(waiter);
        for (part, end) in cut.ends.iter().enumerate().skip(1) {
            let is_last = part + 1 == cut.ends.len();
            let after: Option<&TargetQueue> = begin.checked_sub(1).map(|before| &cut.targets[before].queue);
            let targets = &cut.targets[begin..*end];
            let (waiter, due) = match is_last {
                true => (last.take().unwrap_or(Waiter::Nobody), last_due),
                false => (Waiter::Nobody, Due::Committed),
            };
            let encode = |out: &mut Vec<u8>| {
                let targets = targets.iter().map(|target| target.borrowed());
                encode_publish_more(out, number, publish.origin, after, targets, is_last);
            };
            self.push(encode, waiter, due);
            begin = *end;
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_proto::codec::QoS;
    use quorate_storage::log::GroupId;

    use super::*;
    use crate::state::SessionId;

    fn targets(count: u16) -> Vec<Target> {
        let target = |number| Target {
            queue: TargetQueue::Session(SessionId::new(GroupId(3), 1, number)),
            qos: QoS::AtLeastOnce,
            retain: false,
            replayed: false,
            subscription_ids: vec![1; usize::from(number % 3)],
        };
        (0..count).rev().map(target).collect()
    }

    fn cut(count: u16, payload: usize, bytes_max: usize) -> Option<(Vec<usize>, bool)> {
        let (targets, payload) = (targets(count), vec![0; payload]);
        let publish = Publish {
            origin: &Origin::Server,
            message: MessageParts {
                topic: "t",
                forwardable: &[],
                payload: &payload,
                qos: QoS::AtLeastOnce,
                retain: false,
                expiry_secs: None,
            },
            targets: &targets,
            set_retained: false,
            taken_live: false,
        };
        let cut = publish.cut(bytes_max)?;
        let sorted = cut.targets.is_sorted_by(|one, other| one.queue < other.queue);
        assert_eq!(cut.targets.len(), usize::from(count));
        Some((cut.ends, sorted))
    }

    #[test]
    fn r7_lists_are_cut_in_the_order_of_their_queues_and_large_messages_go_alone() {
        assert_eq!(cut(16, 0, 1), None, "few targets are not cut");
        assert_eq!(cut(17, 0, 1 << 20), None, "what fits is not cut");
        let (ends, sorted) = cut(100, 10, 200).unwrap();
        assert!(sorted && ends.len() > 5 && ends[0] > 0, "{ends:?}");
        assert!(ends.is_sorted_by(|one, other| one < other) && ends.last() == Some(&100));
        // However little fits, each part has one.
        let (ends, _) = cut(20, 0, 1).unwrap();
        assert_eq!(ends, (0..=20).collect::<Vec<_>>());
        let (ends, _) = cut(100, 5_000, 200).unwrap();
        assert_eq!(ends[0], 0);
        assert!(ends[1] > 0);
    }

    #[test]
    fn no_target_is_larger_than_it_is_taken_for() {
        let share = TargetQueue::Share(crate::state::ShareKey {
            name: "n".repeat(200).into(),
            filter: "f".repeat(1_000).into(),
        });
        let node = TargetQueue::Node(
            crate::state::NodeId(u64::MAX),
            crate::state::NodeIncarnation(u64::MAX),
        );
        let session = TargetQueue::Session(SessionId(u64::MAX));
        for queue in [share, node, session] {
            for ids in [vec![], vec![u32::MAX; 300]] {
                let target = Target {
                    queue: queue.clone(),
                    qos: QoS::ExactlyOnce,
                    retain: true,
                    replayed: true,
                    subscription_ids: ids,
                };
                let mut encoded = Vec::new();
                let parts = MessageParts {
                    topic: "",
                    forwardable: &[],
                    payload: &[],
                    qos: QoS::ExactlyOnce,
                    retain: true,
                    expiry_secs: Some(u32::MAX),
                };
                let one = std::iter::once(target.borrowed());
                encode_publish(&mut encoded, &Origin::Server, &parts, one, true, true);
                assert!(encoded.len() <= target.borrowed().bytes_max() + parts.bytes());
            }
        }
    }
}
