//! Samples of what nodes ask each other beside Raft, and of how a new node finds its cluster.

use bytes::Bytes;

use super::super::peers::proto::{self, answer, feed_item, request};
use crate::frames::{Kind, kind};

const SESSION: u64 = 0x0102_0304_0506_0708;

fn requests() -> Vec<(&'static str, request::Body)> {
    use request::Body;
    let (group, after) = (3, 300);
    vec![
        (
            "propose",
            Body::Propose(proto::Propose {
                group,
                batch: Bytes::from_static(b"batch"),
            }),
        ),
        ("read_index", Body::ReadIndex(proto::ReadIndex { group })),
        (
            "renew",
            Body::Renew(proto::Renew {
                incarnation: 301,
                view: 302,
            }),
        ),
        (
            "confirm",
            Body::Confirm(proto::Confirm {
                watermarks: vec![proto::Watermark { group, index: 303 }],
            }),
        ),
        ("broker", Body::Broker(Bytes::from_static(b"frame"))),
        (
            "follow",
            Body::Follow(proto::Follow {
                group,
                feed: 304,
                have: 305,
                after,
                refresh: vec![SESSION, 1],
                attached: vec![SESSION, 2],
            }),
        ),
        (
            "attach",
            Body::Attach(proto::Attach {
                group,
                feed: 304,
                attached: vec![SESSION, 1],
                detached: vec![SESSION, 2],
                wanted: 306,
            }),
        ),
        (
            "pull",
            Body::Pull(proto::Pull {
                group,
                after,
                session: SESSION,
                from: 307,
                count_max: 308,
            }),
        ),
        (
            "read_retained",
            Body::ReadRetained(proto::ReadRetained {
                group,
                after_index: after,
                filter: "a/#".to_owned(),
                after: Some("a/b".to_owned()),
                count_max: 308,
            }),
        ),
        (
            "locate",
            Body::Locate(proto::Locate {
                group,
                after,
                session: SESSION,
                number: 309,
            }),
        ),
        (
            "read_due_wills",
            Body::ReadDueWills(proto::ReadDueWills { group, after }),
        ),
        ("report", Body::Report(proto::Report {})),
        (
            "accuse",
            Body::Accuse(proto::Accuse {
                node: 2,
                incarnation: 310,
                group,
                index: 311,
            }),
        ),
        ("ask_fitness", Body::AskFitness(proto::AskFitness {})),
        (
            "report_shared",
            Body::ReportShared(proto::ReportShared { group, fence: 312 }),
        ),
        (
            "read_replays",
            Body::ReadReplays(proto::ReadReplays {
                group,
                after_index: after,
                session: SESSION,
                after: Some("a/+".to_owned()),
            }),
        ),
        (
            "find_crossing",
            Body::FindCrossing(proto::FindCrossing {
                group,
                after,
                session: SESSION,
                index: 313,
                position: 1,
            }),
        ),
    ]
}

fn subscription(session: u64) -> proto::FeedSubscription {
    proto::FeedSubscription {
        session,
        filter: "$share/g/a/#".to_owned(),
        options: 0x2d,
        subscription_id: 200,
    }
}

fn queue(first: u64) -> proto::FeedQueue {
    proto::FeedQueue {
        session: SESSION,
        first,
        count: 2,
        bytes: 300,
    }
}

fn items() -> Vec<feed_item::Body> {
    use feed_item::Body;
    let client_id = || "client".to_owned();
    vec![
        Body::Session(proto::FeedSession {
            client_id: client_id(),
            session: SESSION,
            epoch: 300,
            node: 2,
            incarnation: 301,
            expiry_secs: 302,
            expires_at: Some(303),
            whole: true,
            subscriptions: vec![subscription(0)],
        }),
        Body::Ended(proto::FeedSessionEnded {
            client_id: client_id(),
            session: SESSION,
        }),
        Body::Subscribed(subscription(SESSION)),
        Body::Unsubscribed(proto::FeedUnsubscribed {
            session: SESSION,
            filter: "a/#".to_owned(),
        }),
        Body::Queued(queue(304)),
        Body::Removed(queue(305)),
        Body::RetainedTaken(proto::FeedRetainedTaken {
            up_to_index: 306,
            up_to_position: 307,
            refused_indexes: vec![308, 309],
            refused_positions: vec![310, 311],
            topics: 4,
            forgotten_index: 312,
            forgotten_position: 313,
        }),
        Body::Batch(proto::FeedBatch {
            number: 314,
            index: 315,
        }),
        Body::Queue(queue(316)),
        Body::Length(queue(317)),
    ]
}

fn followed() -> proto::Followed {
    proto::Followed {
        feed: 304,
        frame: 305,
        items: items()
            .into_iter()
            .map(|body| proto::FeedItem { body: Some(body) })
            .collect(),
        applied: 306,
        stamp: 307,
        leader: 2,
        members: vec![1, 2, 300],
        retained_messages: 308,
        retained_bytes: 309,
    }
}

fn pulled() -> proto::Pulled {
    let reference = proto::PulledReference {
        sequence: 307,
        message: Bytes::from_static(b"message"),
        publisher: SESSION,
        flags: 0x16,
        subscription_ids: vec![5, 200],
        expires_at: Some(308),
        received_at: 309,
    };
    proto::Pulled {
        references: vec![reference],
        end: 310,
        stopped_at: Some(311),
        applied: 312,
    }
}

fn reported() -> proto::Reported {
    let member = proto::ReportedMember {
        node: 2,
        voter: true,
        matched: Some(305),
        alive: false,
    };
    let lagging = proto::ReportedMember {
        node: 4,
        voter: false,
        matched: None,
        alive: true,
    };
    let group = proto::ReportedGroup {
        group: 3,
        role: 2,
        term: 306,
        leader: 4,
        last_log: 307,
        committed: 308,
        applied: 309,
        has_majority: true,
        members: vec![member, lagging],
    };
    proto::Reported {
        incarnation: 310,
        clients: 311,
        groups: vec![group],
        asker_removed: true,
    }
}

fn answers() -> Vec<(&'static str, answer::Body)> {
    use answer::Body;
    let lease = |granted, in_view| {
        Body::Lease(proto::Lease {
            granted,
            in_view,
            view: 302,
        })
    };
    let value = proto::RetainedValue {
        message: Bytes::from_static(b"message"),
        received_at: 303,
        expires_at: Some(304),
        source: Some(proto::RetainedSource {
            group: 16,
            index: 305,
            position: 1,
        }),
    };
    let shared = proto::SharedReference {
        name: "g".to_owned(),
        filter: "a/#".to_owned(),
        sequence: 305,
        session: SESSION,
        give: 306,
    };
    vec![
        (
            "proposed",
            Body::Proposed(proto::Proposed {
                index: 300,
                refused: true,
                outcomes: Bytes::from_static(b"outcomes"),
                first_index: 301,
            }),
        ),
        ("not_leader", Body::NotLeader(proto::NotLeader { leader: 2 })),
        ("unknown", Body::Unknown(proto::Unknown {})),
        ("too_large", Body::TooLarge(proto::TooLarge {})),
        ("index_read", Body::IndexRead(proto::IndexRead { index: 300 })),
        ("lease_granted", lease(true, false)),
        ("lease_in_view", lease(false, true)),
        ("confirmed", Body::Confirmed(proto::Confirmed {})),
        ("broker", Body::Broker(Bytes::from_static(b"taken"))),
        ("followed", Body::Followed(followed())),
        ("attached", Body::Attached(proto::Attached {})),
        ("pulled", Body::Pulled(pulled())),
        (
            "retained_read",
            Body::RetainedRead(proto::RetainedRead {
                values: vec![value],
                resume_after: Some("a/b".to_owned()),
            }),
        ),
        ("located", Body::Located(proto::Located { sequence: Some(307) })),
        (
            "due_wills_read",
            Body::DueWillsRead(proto::DueWillsRead {
                sessions: vec![SESSION, 1],
                epochs: vec![2, 300],
            }),
        ),
        ("not_here", Body::NotHere(proto::NotHere {})),
        ("reported", Body::Reported(reported())),
        ("accused", Body::Accused(proto::Accused {})),
        ("fitness", Body::Fitness(proto::Fitness { fit: true })),
        (
            "shared_reported",
            Body::SharedReported(proto::SharedReported {
                references: vec![shared],
            }),
        ),
        (
            "replays_read",
            Body::ReplaysRead(proto::ReplaysRead {
                replays: vec![Bytes::from_static(b"replay")],
            }),
        ),
        (
            "crossing_found",
            Body::CrossingFound(proto::CrossingFound { sequence: Some(307) }),
        ),
    ]
}

fn candidate() -> proto::Candidate {
    proto::Candidate {
        volume: Bytes::from_static(b"0123456789abcdef"),
        name: "name".to_owned(),
        address: "address:1".to_owned(),
    }
}

fn member(node: u64) -> proto::Member {
    proto::Member {
        node,
        incarnation: 300,
        address: "address:2".to_owned(),
        name: "member".to_owned(),
    }
}

fn seeds() -> Vec<Kind> {
    let cluster = || Bytes::from_static(b"fedcba9876543210");
    let cluster_name = || "cluster".to_owned();
    let discover = proto::DiscoverRequest {
        cluster_name: cluster_name(),
        candidate: Some(candidate()),
        cluster: cluster(),
        member: Some(member(1)),
    };
    let discovered = proto::DiscoverAnswer {
        cluster_name: cluster_name(),
        cluster: cluster(),
        candidates: vec![candidate()],
        members: vec![member(1), member(2)],
        answering: Some(member(3)),
    };
    let join = proto::JoinRequest {
        cluster_name: cluster_name(),
        candidate: Some(candidate()),
    };
    let joined = proto::JoinAnswer {
        cluster: cluster(),
        node: 3,
        members: vec![member(1), member(3)],
    };
    vec![
        kind("quorate.node.v1.DiscoverRequest", vec![("full", discover)]),
        kind("quorate.node.v1.DiscoverAnswer", vec![("full", discovered)]),
        kind("quorate.node.v1.JoinRequest", vec![("full", join)]),
        kind("quorate.node.v1.JoinAnswer", vec![("full", joined)]),
    ]
}

pub(crate) fn kinds() -> Vec<Kind> {
    let request = |(case, body)| {
        let request = proto::Request {
            body: Some(body),
            beginning: 2,
        };
        (case, request)
    };
    let answer = |(case, body)| (case, proto::Answer { body: Some(body) });
    let mut kinds = vec![
        kind(
            "quorate.node.v1.Request",
            requests().into_iter().map(request).collect(),
        ),
        kind(
            "quorate.node.v1.Answer",
            answers().into_iter().map(answer).collect(),
        ),
    ];
    kinds.extend(seeds());
    kinds
}
