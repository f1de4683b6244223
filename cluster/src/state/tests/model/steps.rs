//! Random logs, in numbers so small that commands meet each other.

use proptest::collection::vec;
use proptest::prelude::*;

/// A command in small numbers, which [`World::command`] turns into one that means something.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Open {
        client: u8,
        clean_start: bool,
        expiry_secs: u32,
        will: Option<u32>,
    },
    Close {
        client: u8,
        stale: bool,
        publish_will: bool,
        expiry_secs: Option<u32>,
    },
    End {
        client: u8,
        publish_will: bool,
    },
    Subscribe {
        client: u8,
        stale: bool,
        filters: Vec<u8>,
        replay: Option<u32>,
    },
    /// Of a replay: whether it is not the next, the value's expiry, whether it is the last.
    Replay {
        client: u8,
        stale: bool,
        filter: u8,
        step: (bool, Option<u32>, bool),
    },
    Unsubscribe {
        client: u8,
        filters: Vec<u8>,
    },
    Publish {
        client: u8,
        stale: bool,
        packet_id: u16,
        expiry: u32,
        targets: Vec<u8>,
        set_retained: bool,
    },
    /// The first part of a publish, or another.
    Part(Part),
    PublishWill {
        nth: u8,
        published: bool,
    },
    LiveWill {
        session: u64,
        forget: bool,
    },
    Release {
        client: u8,
        packet_id: u16,
    },
    Settle {
        queue: u8,
        sequences: Vec<u8>,
    },
    Received {
        client: u8,
        sequences: Vec<u8>,
    },
    Assign {
        queue: u8,
        sequence: u8,
        client: u8,
    },
    Hold {
        queue: u8,
        sequence: u8,
        client: u8,
        give: u8,
    },
    Unhold {
        queue: u8,
        sequence: u8,
        give: u8,
    },
    Drop {
        queue: u8,
    },
    SetRetained {
        group: u16,
        index: u8,
        topic: u8,
        payload: u8,
        expiry: u32,
    },
    Taken {
        nth: u8,
    },
    Lost {
        node: u64,
        incarnation: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..5u8;
    let expiry = || prop_oneof![Just(0u32), 1..4u32, Just(u32::MAX)];
    let queue = 0..12u8;
    let sequences = || vec(0..12u8, 0..6);
    prop_oneof![
        4 => (client.clone(), any::<bool>(), expiry(), proptest::option::of(0..4u32)).prop_map(
            |(client, clean_start, expiry_secs, will)| Step::Open { client, clean_start, expiry_secs, will }),
        2 => (client.clone(), any::<bool>(), any::<bool>(), proptest::option::of(expiry())).prop_map(
            |(client, stale, publish_will, expiry_secs)| Step::Close { client, stale, publish_will, expiry_secs }),
        1 => (client.clone(), any::<bool>()).prop_map(|(client, publish_will)| Step::End { client, publish_will }),
        3 => (0..4u8, prop::bool::weighted(0.3), vec(0..4u8, 0..4), proptest::option::weighted(0.8, 0..3u32))
            .prop_map(|(client, stale, filters, replay)| Step::Subscribe { client, stale, filters, replay }),
        5 => (0..3u8, prop::bool::weighted(0.1), 0..3u8, replay_step()).prop_map(
            |(client, stale, filter, step)| Step::Replay { client, stale, filter, step }),
        1 => (client.clone(), vec(0..4u8, 0..2)).prop_map(|(client, filters)| Step::Unsubscribe { client, filters }),
        6 => (client.clone(), any::<bool>(), 0..4u16, 0..4u32, vec(queue.clone(), 0..4), any::<bool>()).prop_map(
            |(client, stale, packet_id, expiry, targets, set_retained)| Step::Publish {
                client, stale, packet_id, expiry, targets, set_retained }),
        4 => part().prop_map(Step::Part),
        1 => (0..3u8, any::<bool>()).prop_map(|(nth, published)| Step::PublishWill { nth, published }),
        1 => (0..4u64, any::<bool>()).prop_map(|(session, forget)| Step::LiveWill { session, forget }),
        1 => (client.clone(), 1..4u16).prop_map(|(client, packet_id)| Step::Release { client, packet_id }),
        4 => (queue.clone(), sequences()).prop_map(|(queue, sequences)| Step::Settle { queue, sequences }),
        1 => (client.clone(), sequences()).prop_map(|(client, sequences)| Step::Received { client, sequences }),
        2 => (queue.clone(), 0..12u8, client.clone()).prop_map(
            |(queue, sequence, client)| Step::Assign { queue, sequence, client }),
        2 => (queue.clone(), 0..12u8, client, 0..3u8).prop_map(
            |(queue, sequence, client, give)| Step::Hold { queue, sequence, client, give }),
        1 => (queue.clone(), 0..12u8, 0..3u8).prop_map(
            |(queue, sequence, give)| Step::Unhold { queue, sequence, give }),
        1 => queue.prop_map(|queue| Step::Drop { queue }),
        2 => (0..3u16, 0..20u8, 0..4u8, 0..3u8, 0..4u32).prop_map(
            |(group, index, topic, payload, expiry)| Step::SetRetained { group, index, topic, payload, expiry }),
        1 => (0..3u8).prop_map(|nth| Step::Taken { nth }),
        1 => (1..3u64, 10..13u64).prop_map(|(node, incarnation)| Step::Lost { node, incarnation }),
    ]
}

fn replay_step() -> impl Strategy<Value = (bool, Option<u32>, bool)> {
    let value = proptest::option::weighted(0.8, 0..4u32);
    (prop::bool::weighted(0.2), value, prop::bool::weighted(0.4))
}

/// A part of a publish, of a few origins, so that several come for one.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) client: u8,
    pub(super) stale: bool,
    pub(super) kind: u8,
    pub(super) first: bool,
    pub(super) last: bool,
    pub(super) after: Option<u8>,
    pub(super) targets: Vec<u8>,
}

fn part() -> impl Strategy<Value = Part> {
    let queue = 0..12u8;
    (
        (0..3u8, prop::bool::weighted(0.1), 0..6u8),
        any::<(bool, bool)>(),
        prop_oneof![2 => Just(None), 1 => queue.clone().prop_map(Some)],
        vec(queue, 0..4),
    )
        .prop_map(|((client, stale, kind), (first, last), after, targets)| Part {
            client,
            stale,
            kind,
            first,
            last,
            after,
            targets,
        })
}

/// One entry, and what happens around it.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) node: u64,
    pub(super) incarnation: u64,
    /// How far the batch number is ahead of the last one; 0 repeats it.
    pub(super) ahead: u64,
    pub(super) unnumbered: bool,
    pub(super) elapsed: u64,
    pub(super) steps: Vec<Step>,
    pub(super) checkpoint: bool,
    pub(super) restart: bool,
}

pub(super) fn turn() -> impl Strategy<Value = Turn> {
    let numbers = (
        1..3u64,
        prop_oneof![6 => Just(10u64), 1 => 11..13u64],
        prop_oneof![9 => Just(1u64), 1 => Just(0u64)],
    );
    let elapsed = prop_oneof![3 => Just(0u64), 2 => 1..2_500u64];
    (
        numbers,
        prop::bool::weighted(0.1),
        elapsed,
        vec(step(), 0..5),
        prop::bool::weighted(0.3),
        any::<bool>(),
    )
        .prop_map(
            |((node, incarnation, ahead), unnumbered, elapsed, steps, checkpoint, restart)| Turn {
                node,
                incarnation,
                ahead,
                unnumbered,
                elapsed,
                steps,
                checkpoint,
                restart,
            },
        )
}
