//! Any batch and any outcome.

use std::num::NonZeroU16;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use quorate_proto::codec::{QoS, RetainHandling, SubscriptionOptions};
use quorate_proto::message::Message;
use quorate_storage::log::GroupId;

use super::super::*;
use crate::state::{
    Epoch, GiveId, Origin, Outcome, Owner, PublishCommand, PublishPart, RefusedReason, ReplayCursor,
    ReplayId, ReplayStep, RetainedSource, Sequence, SessionId, SessionLimits, ShareHolder, ShareKey,
    SubscribeResult, Subscription, Target, TargetQueue, WillMessage,
};

fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-zäß/+#$\u{10000}]{0,12}".prop_map(Arc::from)
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![
        Just(QoS::AtMostOnce),
        Just(QoS::AtLeastOnce),
        Just(QoS::ExactlyOnce)
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let bytes = || vec(any::<u8>(), 0..40);
    (
        text(),
        bytes(),
        bytes(),
        qos(),
        any::<bool>(),
        any::<Option<u32>>(),
    )
        .prop_map(|(topic, forwardable, payload, qos, retain, expiry_secs)| {
            Message::new(&topic, &forwardable, &payload, qos, retain, expiry_secs)
        })
}

fn session() -> impl Strategy<Value = SessionId> {
    any::<u64>().prop_map(SessionId)
}

fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u32>().prop_map(Epoch)
}

fn packet_id() -> impl Strategy<Value = NonZeroU16> {
    any::<NonZeroU16>()
}

fn share() -> impl Strategy<Value = ShareKey> {
    (text(), text()).prop_map(|(name, filter)| ShareKey { name, filter })
}

fn queue() -> impl Strategy<Value = TargetQueue> {
    prop_oneof![
        session().prop_map(TargetQueue::Session),
        share().prop_map(TargetQueue::Share),
        any::<(u64, u64)>().prop_map(|(node, incarnation)| {
            TargetQueue::Node(NodeId(node), NodeIncarnation(incarnation))
        }),
    ]
}

fn target() -> impl Strategy<Value = Target> {
    (
        queue(),
        qos(),
        any::<bool>(),
        any::<bool>(),
        vec(any::<u32>(), 0..4),
    )
        .prop_map(|(queue, qos, retain, replayed, subscription_ids)| Target {
            queue,
            qos,
            retain,
            replayed,
            subscription_ids,
        })
}

fn subscription() -> impl Strategy<Value = Subscription> {
    let handling = prop_oneof![
        Just(RetainHandling::Send),
        Just(RetainHandling::SendIfNew),
        Just(RetainHandling::DoNotSend)
    ];
    (
        text(),
        qos(),
        any::<bool>(),
        any::<bool>(),
        handling,
        any::<Option<u32>>(),
    )
        .prop_map(
            |(filter, qos, no_local, retain_as_published, retain_handling, subscription_id)| Subscription {
                filter,
                options: SubscriptionOptions {
                    qos,
                    no_local,
                    retain_as_published,
                    retain_handling,
                },
                subscription_id,
            },
        )
}

fn limits() -> impl Strategy<Value = SessionLimits> {
    any::<(u32, u32)>().prop_map(|(sessions_max, subscriptions_max)| SessionLimits {
        sessions_max,
        subscriptions_max,
    })
}

fn source() -> impl Strategy<Value = RetainedSource> {
    any::<(u16, u64, u32)>().prop_map(|(group, index, position)| RetainedSource {
        group: GroupId(group),
        index,
        position,
    })
}

fn origin() -> impl Strategy<Value = Origin> {
    prop_oneof![
        (session(), epoch(), proptest::option::of(packet_id())).prop_map(|(session, epoch, packet_id)| {
            Origin::Session {
                session,
                epoch,
                packet_id,
            }
        }),
        proptest::option::of(session()).prop_map(|session| Origin::Live { session }),
        (session(), epoch()).prop_map(|(session, epoch)| Origin::Will { session, epoch }),
        (session(), epoch()).prop_map(|(session, epoch)| Origin::LiveWill { session, epoch }),
        Just(Origin::Server),
    ]
}

fn will() -> impl Strategy<Value = WillMessage> {
    (message(), any::<u32>()).prop_map(|(message, delay_secs)| WillMessage { message, delay_secs })
}

fn sequences() -> impl Strategy<Value = Vec<Sequence>> {
    vec(any::<u64>().prop_map(Sequence), 0..6)
}

fn session_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        (
            text(),
            any::<bool>(),
            any::<u32>(),
            proptest::option::of(will().prop_map(Box::new)),
            limits()
        )
            .prop_map(
                |(client_id, clean_start, expiry_secs, will, limits)| Command::OpenSession {
                    client_id,
                    clean_start,
                    expiry_secs,
                    will,
                    limits
                }
            ),
        (session(), epoch(), any::<bool>(), any::<Option<u32>>()).prop_map(
            |(session, epoch, publish_will, expiry_secs)| Command::CloseConnection {
                session,
                epoch,
                publish_will,
                expiry_secs
            }
        ),
        (session(), epoch(), any::<u32>()).prop_map(|(session, epoch, will_delay_secs)| {
            Command::DrainConnection {
                session,
                epoch,
                will_delay_secs,
            }
        }),
        (session(), any::<bool>()).prop_map(|(session, publish_will)| Command::EndSession {
            session,
            publish_will
        }),
        (
            session(),
            epoch(),
            vec(subscription(), 0..4),
            limits(),
            any::<Option<u32>>()
        )
            .prop_map(
                |(session, epoch, subscriptions, limits, replay)| Command::Subscribe {
                    session,
                    epoch,
                    subscriptions,
                    limits,
                    replay
                }
            ),
        replay_step().prop_map(Command::Replay),
        (session(), epoch(), vec(text(), 0..4)).prop_map(|(session, epoch, filters)| Command::Unsubscribe {
            session,
            epoch,
            filters
        }),
        (session(), epoch(), packet_id()).prop_map(|(session, epoch, packet_id)| Command::Release {
            session,
            epoch,
            packet_id
        }),
        (session(), epoch()).prop_map(|(session, epoch)| Command::WillPublished { session, epoch }),
        vec((session(), epoch()), 0..4).prop_map(|wills| Command::ForgetLiveWills { wills }),
        any::<(u64, u64)>().prop_map(|(node, incarnation)| Command::NodeLost {
            node: NodeId(node),
            incarnation: NodeIncarnation(incarnation)
        }),
    ]
}

fn replay_step() -> impl Strategy<Value = ReplayStep> {
    let cursor = (any::<u8>(), proptest::option::of(text()), any::<u16>())
        .prop_map(|(slot, after, left)| ReplayCursor { slot, after, left });
    (
        (session(), epoch(), text(), any::<u64>()),
        (epoch(), any::<u32>()),
        proptest::option::of(message()),
        proptest::option::of(cursor),
    )
        .prop_map(
            |((session, epoch, filter, step), (begun, number), value, cursor)| ReplayStep {
                session,
                epoch,
                filter,
                id: ReplayId { epoch: begun, number },
                step,
                value,
                cursor,
            },
        )
}

fn publish() -> impl Strategy<Value = PublishCommand> {
    (origin(), message(), vec(target(), 0..5), any::<(bool, bool)>()).prop_map(
        |(origin, message, targets, (set_retained, taken_live))| PublishCommand {
            origin,
            message,
            targets,
            set_retained,
            taken_live,
        },
    )
}

fn message_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        publish().prop_map(Command::Publish),
        (any::<u64>(), publish()).prop_map(|(number, publish)| Command::PublishFirst { number, publish }),
        (
            any::<u64>(),
            origin(),
            proptest::option::of(queue()),
            vec(target(), 0..5),
            any::<bool>()
        )
            .prop_map(|(number, origin, after, targets, last)| {
                Command::PublishMore(PublishPart {
                    number,
                    origin,
                    after,
                    targets,
                    last,
                })
            }),
        (queue(), sequences()).prop_map(|(queue, sequences)| Command::Settle { queue, sequences }),
        (session(), sequences()).prop_map(|(session, sequences)| Command::Received { session, sequences }),
        (
            share(),
            any::<u64>(),
            session(),
            qos(),
            vec(any::<u32>(), 0..3),
            any::<(bool, u64)>()
        )
            .prop_map(
                |(share, sequence, session, qos, subscription_ids, (retain, give))| Command::Assign {
                    share,
                    sequence: Sequence(sequence),
                    session,
                    qos,
                    subscription_ids,
                    retain,
                    give: GiveId(give),
                }
            ),
        (share(), session(), any::<[u64; 4]>()).prop_map(
            |(share, session, [sequence, node, incarnation, give])| Command::Hold {
                share,
                sequence: Sequence(sequence),
                holder: ShareHolder {
                    session,
                    node: NodeId(node),
                    incarnation: NodeIncarnation(incarnation),
                    give: GiveId(give),
                },
            }
        ),
        (share(), any::<[u64; 2]>()).prop_map(|(share, [sequence, give])| Command::Unhold {
            share,
            sequence: Sequence(sequence),
            give: GiveId(give),
        }),
        vec((queue(), any::<u64>().prop_map(Sequence)), 0..4)
            .prop_map(|queues| Command::DropQueues { queues }),
        (source(), message(), any::<u32>(), any::<u64>()).prop_map(
            |(source, message, messages_max, bytes_max)| Command::SetRetained {
                source,
                message,
                messages_max,
                bytes_max
            }
        ),
        (source(), vec(source(), 0..3))
            .prop_map(|(up_to, refused)| Command::RetainedTaken { up_to, refused }),
        (any::<u16>(), vec(source(), 0..3), vec(source(), 0..3)).prop_map(|(topics, writes, refused)| {
            Command::RetainedCarried {
                topics: GroupId(topics),
                writes,
                refused,
            }
        }),
    ]
}

pub(super) fn batch() -> impl Strategy<Value = Batch> {
    let commands = vec(prop_oneof![session_command(), message_command()], 0..8);
    (any::<[u64; 5]>(), any::<(u32, u64)>(), commands).prop_map(
        |([view, node, incarnation, number, stamp], (messages_max, bytes_max), commands)| Batch {
            view,
            node: NodeId(node),
            incarnation: NodeIncarnation(incarnation),
            number,
            stamp: GroupTime(stamp),
            queue_limits: QueueLimits {
                messages_max,
                bytes_max,
            },
            commands,
        },
    )
}

pub(super) fn outcome() -> impl Strategy<Value = Outcome> {
    let result = prop_oneof![
        Just(SubscribeResult::Added),
        Just(SubscribeResult::Replaced),
        Just(SubscribeResult::LimitReached)
    ];
    let owner = (any::<[u64; 2]>(), epoch()).prop_map(|([node, incarnation], epoch)| Owner {
        node: NodeId(node),
        incarnation: NodeIncarnation(incarnation),
        epoch,
    });
    prop_oneof![
        Just(Outcome::Done),
        (
            session(),
            epoch(),
            any::<bool>(),
            proptest::option::of(owner),
            vec(packet_id(), 0..4),
            any::<bool>()
        )
            .prop_map(|(session, epoch, present, previous, inbound, replaying)| {
                Outcome::Opened {
                    session,
                    epoch,
                    present,
                    previous,
                    inbound,
                    replaying,
                }
            }),
        vec(result, 0..4).prop_map(Outcome::Subscribed),
        vec(any::<bool>(), 0..4).prop_map(Outcome::Unsubscribed),
        any::<(bool, u32, u32)>().prop_map(|(duplicate, stored, refused)| Outcome::Published {
            duplicate,
            stored,
            refused
        }),
        any::<bool>().prop_map(Outcome::Released),
        any::<(u64, u32)>().prop_map(|(index, position)| Outcome::Begun { index, position }),
        any::<(u64, u32, bool)>().prop_map(|(index, position, kept)| Outcome::Repeated {
            index,
            position,
            kept,
        }),
        Just(Outcome::Refused(RefusedReason::Fenced)),
        Just(Outcome::Refused(RefusedReason::LimitReached)),
        Just(Outcome::Refused(RefusedReason::OutboxFull)),
    ]
}
