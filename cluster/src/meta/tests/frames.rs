//! Samples of what `meta` logs and stores, and that it is read.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;

use super::super::proto::{self, command, record};
use super::*;
use crate::frames::{Kind, kind};
use crate::lineage::Lineage;

fn volume_of(number: u8) -> Bytes {
    Bytes::copy_from_slice(&volume(number))
}

fn settings() -> proto::Settings {
    proto::Settings {
        replication_factor: 3,
        bootstrap_expect: 5,
        next_node: 300,
        feature_level: 1,
        time_by_wall: 1_700_000_000_000,
    }
}

fn join(number: u8) -> proto::Join {
    proto::Join {
        volume: volume_of(number),
        name: "name".to_owned(),
        address: "address:1".to_owned(),
    }
}

fn stall() -> proto::Stall {
    proto::Stall {
        node: 1,
        incarnation: 300,
        peer: 2,
        peer_incarnation: 301,
        number: 302,
        stalled: true,
    }
}

fn commands() -> Vec<(&'static str, command::Body)> {
    use command::Body;
    let register = proto::Register {
        node: 1,
        incarnation: 300,
        address: "address:2".to_owned(),
        lost_groups: vec![proto::LostGroup {
            group: 3,
            beginning: 4,
        }],
        feature_level: 2,
        time_by_wall: 1_700_000_000_001,
        start: volume_of(6),
        accepted_incarnation: 299,
        accepted: volume_of(7),
        offered: vec![volume_of(8), volume_of(9)],
    };
    let place = proto::Place {
        group: 3,
        replicas: vec![1, 2, 300],
        after: 301,
    };
    let beginning = proto::Beginning {
        group: 3,
        node: 300,
        after: 301,
    };
    let set_draining = |draining, leaving| {
        Body::SetDraining(proto::SetDraining {
            node: 300,
            draining,
            leaving,
        })
    };
    let (node, incarnation) = (300, 301);
    vec![
        (
            "found",
            Body::Found(proto::Found {
                settings: Some(settings()),
                founder: Some(join(1)),
            }),
        ),
        ("join", Body::Join(join(2))),
        ("register", Body::Register(register)),
        ("enter", Body::Enter(proto::Enter { node, incarnation })),
        ("leave", Body::Leave(proto::Leave { node, incarnation })),
        ("place", Body::Place(place)),
        ("set_draining", set_draining(true, false)),
        ("set_leaving", set_draining(false, true)),
        ("remove", Body::Remove(proto::Remove { node })),
        ("activate", Body::Activate(proto::Activate { node, incarnation })),
        (
            "begin",
            Body::Begin(proto::Begin {
                groups: vec![beginning],
            }),
        ),
        ("set_stalled", Body::SetStalled(stall())),
        ("recover", Body::Recover(proto::Recover { node })),
    ]
}

fn records() -> Vec<(&'static str, record::Body)> {
    use record::Body;
    let node = |number: u8| proto::Node {
        node: u64::from(number),
        volume: volume_of(number),
        ..proto::Node::default()
    };
    let full = proto::Node {
        name: "name".to_owned(),
        address: "address:1".to_owned(),
        incarnation: 300,
        lost_groups: vec![3, 4],
        feature_level: 2,
        time_by_wall: 1_700_000_000_002,
        start: volume_of(6),
        ..node(1)
    };
    // Each of them alone: they are told apart by their numbers only.
    let draining = proto::Node {
        draining: true,
        ..node(2)
    };
    let removed = proto::Node {
        removed: true,
        ..node(3)
    };
    let ended = proto::Node {
        ended: true,
        ..node(4)
    };
    let leaving = proto::Node {
        leaving: true,
        ..node(5)
    };
    let serving = proto::Serving {
        node: 1,
        incarnation: 300,
        entered: 301,
        active: true,
        missed: 302,
    };
    let group = proto::Group {
        group: 3,
        replicas: vec![1, 2, 300],
        version: 301,
        begun: 302,
    };
    vec![
        ("settings", Body::Settings(settings())),
        ("node", Body::Node(full)),
        ("node_draining", Body::Node(draining)),
        ("node_removed", Body::Node(removed)),
        ("node_ended", Body::Node(ended)),
        ("node_leaving", Body::Node(leaving)),
        (
            "view",
            Body::View(proto::View {
                number: 303,
                serving: vec![serving],
            }),
        ),
        ("group", Body::Group(group)),
        ("stall", Body::Stall(stall())),
    ]
}

pub(crate) fn kinds() -> Vec<Kind> {
    let command = |(case, body)| (case, proto::Command { body: Some(body) });
    let record = |(case, body)| (case, proto::Record { body: Some(body) });
    vec![
        kind(
            "quorate.meta.v1.Command",
            commands().into_iter().map(command).collect(),
        ),
        kind(
            "quorate.meta.v1.Record",
            records().into_iter().map(record).collect(),
        ),
    ]
}

/// What nodes send is made up as the samples are.
#[test]
fn sampled_commands_are_what_is_sent() {
    let (node, incarnation) = (NodeId(300), NodeIncarnation(301));
    let stall = Stall {
        incarnation: NodeIncarnation(300),
        peer_incarnation: NodeIncarnation(301),
        number: 302,
        stalled: true,
    };
    let lost_groups = [(GroupId(3), 4)].into();
    let lineage = Lineage {
        incarnation: NodeIncarnation(300),
        start: volume(6),
        accepted: Some((NodeIncarnation(299), volume(7))),
        offered: vec![volume(8), volume(9)],
    };
    let register = MetaCommand::register(NodeId(1), NodeIncarnation(300), "address:2", &lost_groups, 2);
    let register = register.with_lineage(&lineage);
    for (case, body) in commands() {
        let sent = match case {
            "found" => {
                let mut state = MetaState::default();
                let found = proto::Command { body: Some(body) };
                assert_eq!(state.apply(&found.encode_to_vec()), Ok(()));
                assert!(state.node(NodeId(300)).is_some());
                continue;
            }
            "join" => MetaCommand::join(volume(2), "name", "address:1"),
            "register" => register.clone().with_time_by_wall(GroupTime(1_700_000_000_001)),
            "enter" => MetaCommand::enter(node, incarnation),
            "leave" => MetaCommand::leave(node, incarnation),
            "place" => MetaCommand::place(GroupId(3), &[NodeId(1), NodeId(2), NodeId(300)], 301),
            "set_draining" => MetaCommand::set_draining(node, true, false),
            "set_leaving" => MetaCommand::set_draining(node, false, true),
            "remove" => MetaCommand::remove(node),
            "activate" => MetaCommand::activate(node, incarnation),
            "begin" => MetaCommand::begin(&[(GroupId(3), node, 301)]),
            "set_stalled" => MetaCommand::set_stalled((NodeId(1), NodeId(2)), &stall),
            "recover" => MetaCommand::recover(node),
            _ => panic!("{case} is not sent"),
        };
        let sampled = proto::Command { body: Some(body) };
        assert_eq!(sent.encode(), sampled.encode_to_vec(), "{case}");
    }
}

#[test]
fn sampled_records_are_loaded_and_stored_again() {
    let records = records().into_iter();
    let records = records.map(|(_, body)| proto::Record { body: Some(body) }.encode_to_vec());
    let records: BTreeSet<Vec<u8>> = records.collect();
    let mut state = MetaState::default();
    for record in &records {
        state.load(record).unwrap();
    }
    assert_eq!(state.records().into_values().collect::<BTreeSet<_>>(), records);
}
