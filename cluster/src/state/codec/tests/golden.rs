//! Version 1 as it is written in logs.

use std::num::NonZeroU16;

use quorate_proto::codec::{QoS, RetainHandling, SubscriptionOptions};
use quorate_proto::message::Message;
use quorate_storage::log::GroupId;

use super::*;
use crate::state::{
    BatchOutcome, Epoch, GiveId, NodeId, NodeIncarnation, Origin, Outcome, Owner, PendingReplay,
    PublishCommand, PublishPart, RefusedReason, ReplayCursor, ReplayId, ReplayStep, RetainedSource, Sequence,
    SessionId, SessionLimits, ShareHolder, ShareKey, SubscribeResult, Subscription, Target, TargetQueue,
    WillMessage,
};

/// Every command, some in several forms, and what comes behind the header.
fn golden_commands() -> Vec<(&'static str, Command)> {
    let session = SessionId(0x0102_0304_0506_0708);
    let epoch = Epoch(300);
    let message = Message::new("a/b", &[1, 1], b"hi", QoS::ExactlyOnce, true, Some(60));
    let plain = Message::new("t", &[], b"", QoS::AtMostOnce, false, None);
    let share = ShareKey {
        name: "g".into(),
        filter: "t/#".into(),
    };
    let limits = SessionLimits {
        sessions_max: 1000,
        subscriptions_max: 10,
    };
    let options = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let packet_id = NonZeroU16::new(0x0a0b).unwrap();
    let queue = TargetQueue::Session(session);
    let source = RetainedSource {
        group: GroupId(3),
        index: 129,
        position: 2,
    };
    let targets = vec![
        Target {
            queue: queue.clone(),
            qos: QoS::ExactlyOnce,
            retain: false,
            replayed: false,
            subscription_ids: vec![5, 200],
        },
        Target {
            queue: TargetQueue::Share(share.clone()),
            qos: QoS::AtLeastOnce,
            retain: true,
            replayed: false,
            subscription_ids: vec![],
        },
    ];
    let node_queue = TargetQueue::Node(NodeId(3), NodeIncarnation(300));
    let node = Target {
        queue: node_queue.clone(),
        qos: QoS::ExactlyOnce,
        retain: false,
        replayed: false,
        subscription_ids: vec![],
    };
    let publish = |origin, message: &Message, targets| {
        Command::Publish(PublishCommand {
            origin,
            message: message.clone(),
            targets,
            set_retained: true,
            taken_live: false,
        })
    };
    let will = Some(Box::new(WillMessage {
        message: plain.clone(),
        delay_secs: 9,
    }));
    let subscriptions = vec![Subscription {
        filter: "$share/g/t/#".into(),
        options,
        subscription_id: Some(77),
    }];
    let sequences = vec![Sequence(4), Sequence(5), Sequence(2)];
    vec![
        (
            "01 0163 01 ffffffff0f 01 09 00 01 00 00 74 e807 0a",
            Command::OpenSession {
                client_id: "c".into(),
                clean_start: true,
                expiry_secs: u32::MAX,
                will,
                limits,
            },
        ),
        (
            "02 0807060504030201 ac02 01 01",
            Command::CloseConnection {
                session,
                epoch,
                publish_will: true,
                expiry_secs: Some(0),
            },
        ),
        (
            "20 0807060504030201 ac02 1e",
            Command::DrainConnection {
                session,
                epoch,
                will_delay_secs: 30,
            },
        ),
        (
            "03 0807060504030201 00",
            Command::EndSession {
                session,
                publish_will: false,
            },
        ),
        (
            "04 0807060504030201 ac02 01 0c 2473686172652f672f742f23 2d 4e e807 0a",
            Command::Subscribe {
                session,
                epoch,
                subscriptions: subscriptions.clone(),
                limits,
                replay: None,
            },
        ),
        (
            "30 0807060504030201 ac02 05 01 0c 2473686172652f672f742f23 2d 4e e807 0a",
            Command::Subscribe {
                session,
                epoch,
                subscriptions: subscriptions.clone(),
                limits,
                replay: Some(5),
            },
        ),
        (
            "31 0807060504030201 ac02 03 612f2b 02 05 8001 01 0e 3c 03 02 02 612f62 0101 6869 01 07 01 03 612f62 808102",
            Command::Replay(ReplayStep {
                session,
                epoch,
                filter: "a/+".into(),
                id: ReplayId {
                    epoch: Epoch(2),
                    number: 5,
                },
                step: 128,
                value: Some(message.clone()),
                cursor: Some(ReplayCursor {
                    slot: 7,
                    after: Some("a/b".into()),
                    left: 0x8080,
                }),
            }),
        ),
        (
            "31 0807060504030201 ac02 01 23 02 05 00 00 00",
            Command::Replay(ReplayStep {
                session,
                epoch,
                filter: "#".into(),
                id: ReplayId {
                    epoch: Epoch(2),
                    number: 5,
                },
                step: 0,
                value: None,
                cursor: None,
            }),
        ),
        (
            "05 0807060504030201 ac02 02 01 61 00",
            Command::Unsubscribe {
                session,
                epoch,
                filters: vec!["a".into(), "".into()],
            },
        ),
        (
            "06 01 0807060504030201 ac02 0b0a 01 0e 3c 03 02 02 612f62 0101 6869 \
             02 12 0807060504030201 02 05 c801 0d 01 67 03 742f23",
            publish(
                Origin::Session {
                    session,
                    epoch,
                    packet_id: Some(packet_id),
                },
                &message,
                targets,
            ),
        ),
        (
            "06 00 0807060504030201 ac02 01 00 01 00 00 74 00",
            publish(
                Origin::Session {
                    session,
                    epoch,
                    packet_id: None,
                },
                &plain,
                vec![],
            ),
        ),
        (
            "06 02 00 01 00 01 00 00 74 00",
            publish(Origin::Live { session: None }, &plain, vec![]),
        ),
        (
            "06 02 01 0807060504030201 01 00 01 00 00 74 00",
            publish(
                Origin::Live {
                    session: Some(session),
                },
                &plain,
                vec![],
            ),
        ),
        (
            "06 03 0807060504030201 ac02 01 00 01 00 00 74 00",
            publish(Origin::Will { session, epoch }, &plain, vec![]),
        ),
        (
            "06 04 01 00 01 00 00 74 01 42 03 ac02",
            publish(Origin::Server, &plain, vec![node.clone()]),
        ),
        (
            "06 05 0807060504030201 ac02 01 00 01 00 00 74 00",
            publish(Origin::LiveWill { session, epoch }, &plain, vec![]),
        ),
        (
            "07 0807060504030201 ac02 0b0a",
            Command::Release {
                session,
                epoch,
                packet_id,
            },
        ),
        (
            "08 01 01 67 03 742f23 03 08 02 05",
            Command::Settle {
                queue: TargetQueue::Share(share.clone()),
                sequences: sequences.clone(),
            },
        ),
        (
            "08 02 03 ac02 01 08",
            Command::Settle {
                queue: node_queue.clone(),
                sequences: vec![Sequence(4)],
            },
        ),
        (
            "09 0807060504030201 03 08 02 05",
            Command::Received { session, sequences },
        ),
        (
            "0a 01 67 03 742f23 80 01 0807060504030201 02 01 05 00 8101",
            Command::Assign {
                share: share.clone(),
                sequence: Sequence(128),
                session,
                qos: QoS::ExactlyOnce,
                subscription_ids: vec![5],
                retain: false,
                give: GiveId(129),
            },
        ),
        (
            "28 01 67 03 742f23 80 01 0807060504030201 03 ac02 8101",
            Command::Hold {
                share: share.clone(),
                sequence: Sequence(128),
                holder: ShareHolder {
                    session,
                    node: NodeId(3),
                    incarnation: NodeIncarnation(300),
                    give: GiveId(129),
                },
            },
        ),
        (
            "29 01 67 03 742f23 80 01 8101",
            Command::Unhold {
                share,
                sequence: Sequence(128),
                give: GiveId(129),
            },
        ),
        (
            "0b 01 00 0807060504030201 8001",
            Command::DropQueues {
                queues: vec![(queue, Sequence(128))],
            },
        ),
        (
            "0c 03 8101 02 00 01 00 00 74 e807 90 4e",
            Command::SetRetained {
                source,
                message: plain.clone(),
                messages_max: 1000,
                bytes_max: 10_000,
            },
        ),
        (
            "0d 03 8101 02 01 03 8101 02",
            Command::RetainedTaken {
                up_to: source,
                refused: vec![source],
            },
        ),
        (
            "21 07 02 03 8101 02 03 8101 02 01 03 8101 02",
            Command::RetainedCarried {
                topics: GroupId(7),
                writes: vec![source, source],
                refused: vec![source],
            },
        ),
        (
            "0e 0807060504030201 ac02",
            Command::WillPublished { session, epoch },
        ),
        (
            "0f 03 04",
            Command::NodeLost {
                node: NodeId(3),
                incarnation: NodeIncarnation(4),
            },
        ),
        (
            "10 02 0807060504030201 ac02 0100000000000011 01",
            Command::ForgetLiveWills {
                wills: vec![(session, epoch), (SessionId(0x1100_0000_0000_0001), Epoch(1))],
            },
        ),
        (
            "11 ac02 04 01 00 01 00 00 74 01 42 03 ac02",
            Command::PublishFirst {
                number: 300,
                publish: PublishCommand {
                    origin: Origin::Server,
                    message: plain,
                    targets: vec![node.clone()],
                    set_retained: true,
                    taken_live: false,
                },
            },
        ),
        (
            "12 ac02 04 01 02 03 ac02 01 42 03 ac02 00",
            Command::PublishMore(PublishPart {
                number: 300,
                origin: Origin::Server,
                after: Some(node_queue),
                targets: vec![node],
                last: false,
            }),
        ),
        (
            "12 00 03 0807060504030201 ac02 00 00 01",
            Command::PublishMore(PublishPart {
                number: 0,
                origin: Origin::Will { session, epoch },
                after: None,
                targets: vec![],
                last: true,
            }),
        ),
    ]
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

/// Version 1 as it is written in logs: these bytes never change.
#[test]
fn version_1_is_frozen() {
    let tags: std::collections::BTreeSet<u8> =
        golden_commands().iter().map(|(bytes, _)| hex(bytes)[0]).collect();
    assert_eq!(
        tags,
        (1..=18).chain([32, 33, 40, 41, 48, 49]).collect(),
        "every command is frozen"
    );
    for (bytes, command) in golden_commands() {
        let golden = [&HEADER[..], &[1], &hex(bytes)].concat();
        let batch = plain(vec![command]);
        assert_eq!(encoded(&batch), golden, "{:?}", batch.commands);
        assert_eq!(Batch::decode(&golden.into()), Ok(batch));
    }
}

/// Every outcome, which goes to other nodes and is kept with its proposer.
fn golden_outcomes() -> Vec<(&'static str, Outcome)> {
    let session = SessionId(0x0102_0304_0506_0708);
    let opened = |previous, replaying| Outcome::Opened {
        session,
        epoch: Epoch(3),
        present: true,
        previous,
        inbound: vec![NonZeroU16::new(7).unwrap()],
        replaying,
    };
    let owner = Owner {
        node: NodeId(2),
        incarnation: NodeIncarnation(300),
        epoch: Epoch(2),
    };
    vec![
        ("01", Outcome::Done),
        ("08 0807060504030201 03 01 00 01 0700", opened(None, false)),
        (
            "08 0807060504030201 03 01 01 02 ac02 02 01 0700",
            opened(Some(owner), false),
        ),
        ("0b 0807060504030201 03 01 00 01 0700", opened(None, true)),
        (
            "03 03 00 01 02",
            Outcome::Subscribed(vec![
                SubscribeResult::Added,
                SubscribeResult::Replaced,
                SubscribeResult::LimitReached,
            ]),
        ),
        ("04 02 00 01", Outcome::Unsubscribed(vec![false, true])),
        (
            "05 01 ac02 ad02",
            Outcome::Published {
                duplicate: true,
                stored: 300,
                refused: 301,
            },
        ),
        ("06 01", Outcome::Released(true)),
        ("07 00", Outcome::Refused(RefusedReason::Fenced)),
        ("07 01", Outcome::Refused(RefusedReason::LimitReached)),
        ("07 02", Outcome::Refused(RefusedReason::OutboxFull)),
        (
            "09 ac02 ad02",
            Outcome::Begun {
                index: 300,
                position: 301,
            },
        ),
        (
            "0a ac02 ad02 01",
            Outcome::Repeated {
                index: 300,
                position: 301,
                kept: true,
            },
        ),
    ]
}

#[test]
fn outcomes_of_version_1_are_frozen() {
    let tags: std::collections::BTreeSet<u8> =
        golden_outcomes().iter().map(|(bytes, _)| hex(bytes)[0]).collect();
    assert_eq!(
        tags,
        [1, 3, 4, 5, 6, 7, 8, 9, 10, 11].into(),
        "every outcome is frozen"
    );
    for (bytes, outcome) in golden_outcomes() {
        let golden = [&[1], &hex(bytes)[..]].concat();
        let batch = BatchOutcome::Applied(vec![outcome]);
        let mut encoded = Vec::new();
        batch.encode(&mut encoded);
        assert_eq!(encoded, golden, "{batch:?}");
        assert_eq!(BatchOutcome::decode(&golden), Ok(batch));
    }
}

/// What nodes tell each other of a replay that goes on elsewhere (R24).
#[test]
fn a_pending_replay_of_version_1_is_frozen() {
    let of = |cursor| PendingReplay {
        filter: "a/+".into(),
        id: ReplayId {
            epoch: Epoch(2),
            number: 5,
        },
        qos: QoS::ExactlyOnce,
        subscription_id: Some(300),
        step: 301,
        cursor,
    };
    let cursor = ReplayCursor {
        slot: 7,
        after: Some("a/b".into()),
        left: 0x8080,
    };
    let golden = [
        ("03 612f2b 02 05 02 ad02 ad02 00", of(None)),
        (
            "03 612f2b 02 05 02 ad02 ad02 01 07 01 03 612f62 808102",
            of(Some(cursor)),
        ),
    ];
    for (bytes, replay) in golden {
        let mut encoded = Vec::new();
        replay.encode(&mut encoded);
        assert_eq!(encoded, hex(bytes), "{replay:?}");
        assert_eq!(PendingReplay::decode(&encoded), Ok(replay));
    }
}
