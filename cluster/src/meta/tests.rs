//! The state of `meta`, command by command.

mod copies;
pub(crate) mod frames;
mod stalls;

use std::collections::BTreeMap;

use quorate_storage::log::GroupId;

use super::{FEATURE_LEVEL, MetaCommand, MetaState, Rejected, Stall};
use crate::state::{GroupTime, NodeId, NodeIncarnation};

fn volume(number: u8) -> [u8; 16] {
    [number; 16]
}

fn apply(state: &mut MetaState, command: &MetaCommand) -> Result<(), Rejected> {
    let result = state.apply(&command.encode());
    check(state);
    result
}

/// What is stored gives the same state again, and the view holds what it may.
fn check(state: &MetaState) {
    let mut loaded = MetaState::default();
    for record in state.records().values() {
        loaded.load(record).unwrap();
    }
    assert_eq!(loaded, *state);
    for (node, serving) in &state.view().serving {
        let record = state.node(*node).unwrap();
        assert!(!record.removed && !record.ended && record.incarnation == serving.incarnation);
    }
}

/// A cluster of the nodes 1 and 2, both of which have started once.
fn two() -> MetaState {
    let mut state = MetaState::default();
    let found = MetaCommand::found(3, 1, volume(1), "a", "a:1");
    apply(&mut state, &found).unwrap();
    apply(&mut state, &MetaCommand::join(volume(2), "b", "b:1")).unwrap();
    for (node, address) in [(NodeId(1), "a:1"), (NodeId(2), "b:1")] {
        apply(
            &mut state,
            &MetaCommand::register(node, NodeIncarnation(1), address, &BTreeMap::new(), FEATURE_LEVEL),
        )
        .unwrap();
    }
    state
}

#[test]
fn a_cluster_is_founded_once_and_gives_each_volume_one_node() {
    let mut state = MetaState::default();
    let join = MetaCommand::join(volume(2), "b", "b:1");
    assert_eq!(
        apply(&mut state, &join),
        Err(Rejected::Outdated),
        "there is no cluster yet"
    );
    let mut state = two();
    let again = MetaCommand::found(3, 1, volume(9), "z", "z:1");
    assert_eq!(apply(&mut state, &again), Err(Rejected::Outdated));
    assert_eq!(state.node_of_volume(volume(1)), Some(NodeId(1)));
    assert_eq!(state.node_of_volume(volume(2)), Some(NodeId(2)));
    assert_eq!(apply(&mut state, &join), Ok(()), "repeated");
    assert_eq!(state.members().count(), 2);
    assert_eq!(state.apply(b"\xff"), Err(Rejected::Malformed));
}

#[test]
fn r46_a_start_that_is_not_newer_is_refused() {
    let mut state = two();
    let node = NodeId(1);
    let register = |incarnation, address| {
        MetaCommand::register(
            node,
            NodeIncarnation(incarnation),
            address,
            &BTreeMap::new(),
            FEATURE_LEVEL,
        )
    };
    assert_eq!(apply(&mut state, &register(5, "a:2")), Ok(()));
    assert_eq!(apply(&mut state, &register(5, "a:2")), Ok(()), "repeated");
    assert_eq!(
        apply(&mut state, &register(4, "a:2")),
        Err(Rejected::OldIncarnation)
    );
    assert_eq!(
        apply(&mut state, &register(5, "copy:1")),
        Err(Rejected::OldIncarnation),
        "a copy of the volume runs elsewhere"
    );
    assert_eq!(state.node(node).unwrap().address, "a:2");
}

#[test]
fn r2_a_start_enters_then_is_active_and_a_later_one_takes_its_place() {
    let mut state = two();
    let (node, start) = (NodeId(1), NodeIncarnation(1));
    assert_eq!(
        apply(&mut state, &MetaCommand::activate(node, start)),
        Err(Rejected::Outdated),
        "it has not entered"
    );
    apply(&mut state, &MetaCommand::enter(node, start)).unwrap();
    let entered = state.view().serving[&node].entered;
    assert_eq!((entered, state.view().serving[&node].active), (1, false));
    apply(&mut state, &MetaCommand::enter(node, start)).unwrap();
    assert_eq!(state.view().number, 1, "repeated");
    apply(&mut state, &MetaCommand::activate(node, start)).unwrap();
    assert_eq!(state.view().number, 2);
    apply(
        &mut state,
        &MetaCommand::register(node, NodeIncarnation(2), "a:1", &BTreeMap::new(), FEATURE_LEVEL),
    )
    .unwrap();
    assert!(
        !state.view().serving.contains_key(&node),
        "its first start is over"
    );
    assert_eq!(state.node(node).unwrap().last_ended(), Some(NodeIncarnation(1)));
    assert_eq!(
        apply(&mut state, &MetaCommand::enter(node, start)),
        Err(Rejected::OldIncarnation)
    );
}

#[test]
fn r1_a_start_that_left_does_not_come_back() {
    let mut state = two();
    let (node, start) = (NodeId(2), NodeIncarnation(1));
    apply(&mut state, &MetaCommand::enter(node, start)).unwrap();
    apply(&mut state, &MetaCommand::leave(node, start)).unwrap();
    apply(&mut state, &MetaCommand::leave(node, start)).unwrap();
    assert!(state.view().serving.is_empty());
    assert_eq!(state.node(node).unwrap().last_ended(), Some(start));
    assert_eq!(
        apply(&mut state, &MetaCommand::enter(node, start)),
        Err(Rejected::OldIncarnation)
    );
    assert_eq!(
        apply(
            &mut state,
            &MetaCommand::register(node, start, "b:1", &BTreeMap::new(), FEATURE_LEVEL)
        ),
        Err(Rejected::OldIncarnation)
    );
    let next = NodeIncarnation(2);
    // With another address than the first, as when the port is given by the system.
    apply(
        &mut state,
        &MetaCommand::register(node, next, "b:9", &BTreeMap::new(), FEATURE_LEVEL),
    )
    .unwrap();
    apply(&mut state, &MetaCommand::enter(node, next)).unwrap();
    assert_eq!(state.node(node).unwrap().last_ended(), Some(start));
    // What an older start is told does not concern the newer one.
    apply(&mut state, &MetaCommand::leave(node, start)).unwrap();
    assert!(state.view().holds(node, next));
}

#[test]
fn a_volume_that_comes_under_the_name_of_a_lost_one_replaces_it() {
    let mut state = two();
    apply(&mut state, &MetaCommand::enter(NodeId(2), NodeIncarnation(1))).unwrap();
    let replace = MetaCommand::join(volume(3), "b", "b:2");
    assert_eq!(apply(&mut state, &replace), Err(Rejected::NameInUse), "b serves");
    apply(&mut state, &MetaCommand::leave(NodeId(2), NodeIncarnation(1))).unwrap();
    apply(&mut state, &replace).unwrap();
    assert!(state.node(NodeId(2)).unwrap().removed);
    assert_eq!(
        state.node_of_volume(volume(3)),
        Some(NodeId(3)),
        "identifiers are never used again"
    );
    assert_eq!(
        apply(&mut state, &MetaCommand::join(volume(2), "b", "b:1")),
        Err(Rejected::UnknownNode),
        "what was replaced does not come back"
    );
    let late = MetaCommand::register(
        NodeId(2),
        NodeIncarnation(2),
        "b:1",
        &BTreeMap::new(),
        FEATURE_LEVEL,
    );
    assert_eq!(apply(&mut state, &late), Err(Rejected::UnknownNode));
}

#[test]
fn r47_placements_follow_each_other() {
    let mut state = two();
    let group = GroupId(3);
    let place = |replicas: &[u64], after| {
        let replicas: Vec<NodeId> = replicas.iter().map(|node| NodeId(*node)).collect();
        MetaCommand::place(group, &replicas, after)
    };
    apply(&mut state, &place(&[1], 0)).unwrap();
    apply(&mut state, &place(&[2, 1], 1)).unwrap();
    assert_eq!(state.placement(group).unwrap().replicas, [NodeId(2), NodeId(1)]);
    for (command, rejected) in [
        (place(&[1], 1), Rejected::Outdated),
        (place(&[], 2), Rejected::UnknownNode),
        (place(&[1, 1], 2), Rejected::UnknownNode),
        (place(&[1, 7], 2), Rejected::UnknownNode),
    ] {
        let before = state.clone();
        assert_eq!(apply(&mut state, &command), Err(rejected));
        assert_eq!(state, before, "a void command changes nothing");
    }
}

#[test]
fn a_node_leaves_only_where_another_stays() {
    let mut state = two();
    let (first, second) = (NodeId(1), NodeId(2));
    let drain = |node, leaving| MetaCommand::set_draining(node, true, leaving);
    apply(&mut state, &drain(first, true)).unwrap();
    assert!(state.node(first).unwrap().draining && state.node(first).unwrap().leaving);
    let before = state.clone();
    assert_eq!(apply(&mut state, &drain(second, true)), Err(Rejected::LastNode));
    assert_eq!(state, before);
    // Without clients it may be, and still counts.
    apply(&mut state, &drain(second, false)).unwrap();
    assert!(!state.node(second).unwrap().leaving);
    apply(&mut state, &MetaCommand::set_draining(first, false, true)).unwrap();
    assert!(
        !state.node(first).unwrap().leaving,
        "who does not drain does not leave"
    );
    let unknown = MetaCommand::set_draining(NodeId(9), true, false);
    assert_eq!(apply(&mut state, &unknown), Err(Rejected::UnknownNode));
}

#[test]
fn a_node_is_removed_when_it_does_not_serve_and_is_not_the_last() {
    let mut state = two();
    let (node, start) = (NodeId(2), NodeIncarnation(1));
    apply(&mut state, &MetaCommand::enter(node, start)).unwrap();
    let remove = MetaCommand::remove(node);
    assert_eq!(apply(&mut state, &remove), Err(Rejected::Serves));
    apply(&mut state, &MetaCommand::leave(node, start)).unwrap();
    apply(&mut state, &remove).unwrap();
    apply(&mut state, &remove).unwrap();
    assert_eq!(
        state.node(node).unwrap().last_ended(),
        Some(start),
        "its connections end"
    );
    assert_eq!(
        apply(
            &mut state,
            &MetaCommand::register(node, NodeIncarnation(2), "b:1", &BTreeMap::new(), FEATURE_LEVEL)
        ),
        Err(Rejected::UnknownNode)
    );
    assert_eq!(
        apply(&mut state, &MetaCommand::remove(NodeId(1))),
        Err(Rejected::LastNode)
    );
    assert_eq!(
        apply(&mut state, &MetaCommand::remove(NodeId(9))),
        Err(Rejected::UnknownNode)
    );
}

#[test]
fn a_node_that_is_recovered_has_everything_and_the_others_are_gone() {
    let mut state = two();
    let (first, second) = (NodeId(1), NodeId(2));
    for node in [first, second] {
        apply(&mut state, &MetaCommand::enter(node, NodeIncarnation(1))).unwrap();
    }
    let group = GroupId(3);
    apply(&mut state, &MetaCommand::place(group, &[first], 0)).unwrap();
    apply(&mut state, &MetaCommand::place(group, &[first, second], 1)).unwrap();
    apply(&mut state, &MetaCommand::set_draining(second, true, true)).unwrap();
    let view = state.view().number;
    let recover = MetaCommand::recover(second);
    apply(&mut state, &recover).unwrap();
    assert!(state.view().serving.is_empty() && state.view().number > view);
    assert_eq!(state.placement(group).unwrap().replicas, [second]);
    assert!(
        state.placement(group).unwrap().version > 2,
        "it is not created once more"
    );
    let members: Vec<NodeId> = state.members().map(|(node, _)| node).collect();
    assert_eq!(members, [second]);
    assert!(!state.node(second).unwrap().draining);
    for node in [first, second] {
        assert_eq!(state.node(node).unwrap().last_ended(), Some(NodeIncarnation(1)));
    }
    apply(&mut state, &recover).unwrap();
    let again = MetaCommand::register(second, NodeIncarnation(2), "b:1", &BTreeMap::new(), FEATURE_LEVEL);
    apply(&mut state, &again).unwrap();
    apply(&mut state, &MetaCommand::enter(second, NodeIncarnation(2))).unwrap();
    apply(&mut state, &MetaCommand::join(volume(3), "c", "c:1")).unwrap();
    assert_eq!(
        state.node_of_volume(volume(3)),
        Some(NodeId(3)),
        "identifiers are not used again"
    );
    assert_eq!(
        apply(&mut state, &MetaCommand::recover(first)),
        Err(Rejected::UnknownNode)
    );
}

#[test]
fn r41_a_group_begins_anew_with_one_node_and_goes_on_from_there() {
    let group = GroupId(17);
    let mut state = two();
    let both = [NodeId(1), NodeId(2)];
    apply(&mut state, &MetaCommand::place(group, &[NodeId(1)], 0)).unwrap();
    apply(&mut state, &MetaCommand::place(group, &both, 1)).unwrap();
    let begun = |state: &MetaState| {
        let placed = state.placement(group).unwrap();
        (placed.replicas.clone(), placed.version, placed.begun)
    };
    assert_eq!(begun(&state), (both.to_vec(), 2, 1));
    let begin = |after| MetaCommand::begin(&[(group, NodeId(2), after)]);
    assert_eq!(apply(&mut state, &begin(1)), Err(Rejected::Outdated));
    apply(&mut state, &begin(2)).unwrap();
    assert_eq!(begun(&state), (vec![NodeId(2)], 3, 3));
    assert!(state.placement(group).unwrap().is_beginning());
    apply(&mut state, &MetaCommand::place(group, &both, 3)).unwrap();
    assert_eq!(begun(&state), (both.to_vec(), 4, 3));
    // All of them or none.
    let before = state.clone();
    let nobody = MetaCommand::begin(&[(group, NodeId(1), 4), (GroupId(32), NodeId(9), 0)]);
    assert_eq!(apply(&mut state, &nobody), Err(Rejected::UnknownNode));
    assert_eq!(state, before);
}

#[test]
fn r41_a_node_has_lost_its_groups_until_it_enters() {
    let (mut state, node, start) = (two(), NodeId(2), NodeIncarnation(2));
    let (live, memory) = (GroupId(17), GroupId(32));
    let both = BTreeMap::from([(live, 1), (memory, 1)]);
    apply(
        &mut state,
        &MetaCommand::register(node, start, "b:1", &both, FEATURE_LEVEL),
    )
    .unwrap();
    let lost = |state: &MetaState| Vec::from_iter(state.node(node).unwrap().lost_groups.clone());
    assert_eq!(lost(&state), [live, memory]);
    apply(&mut state, &MetaCommand::place(live, &[node], 0)).unwrap();
    apply(&mut state, &MetaCommand::begin(&[(live, NodeId(1), 1)])).unwrap();
    assert_eq!(lost(&state), [memory]);
    // What it lost is of the last beginning.
    let next = NodeIncarnation(3);
    apply(
        &mut state,
        &MetaCommand::register(node, next, "b:1", &both, FEATURE_LEVEL),
    )
    .unwrap();
    assert_eq!(lost(&state), [memory]);
    apply(&mut state, &MetaCommand::enter(node, next)).unwrap();
    assert_eq!(lost(&state), []);
}

/// R50: the cluster uses what all of its members know, and takes in nobody any more who does not.
#[test]
fn r50_the_feature_level_is_what_all_members_know_and_never_falls() {
    let mut state = two();
    assert_eq!(state.feature_level(), FEATURE_LEVEL);
    let [first, second] = [NodeId(1), NodeId(2)];
    let start = |node, incarnation, level| {
        let address = if node == first { "a:1" } else { "b:1" };
        MetaCommand::register(
            node,
            NodeIncarnation(incarnation),
            address,
            &BTreeMap::new(),
            level,
        )
    };
    let (next, last) = (FEATURE_LEVEL + 1, FEATURE_LEVEL + 2);
    apply(&mut state, &start(first, 2, last)).unwrap();
    assert_eq!(
        state.feature_level(),
        FEATURE_LEVEL,
        "the other one does not know it"
    );
    apply(&mut state, &start(first, 3, next)).unwrap();
    apply(&mut state, &start(second, 2, last)).unwrap();
    assert_eq!(state.feature_level(), next, "the lower one of two");
    let old = start(second, 3, FEATURE_LEVEL);
    assert_eq!(apply(&mut state, &old), Err(Rejected::OldVersion));
    assert_eq!(state.node(second).unwrap().incarnation, NodeIncarnation(2));
    apply(&mut state, &MetaCommand::join(volume(3), "c", "c:1")).unwrap();
    apply(&mut state, &start(first, 4, last)).unwrap();
    assert_eq!(
        state.feature_level(),
        next,
        "who has joined has not said what it knows"
    );
    apply(&mut state, &MetaCommand::remove(NodeId(3))).unwrap();
    assert_eq!(state.feature_level(), last, "only members count");
}

/// Two nodes that have said what their wall clocks show, start by start.
fn starts(state: &mut MetaState, incarnation: u64, times: [u64; 2]) {
    for (node, address, time) in [(1, "a:1", times[0]), (2, "b:1", times[1])] {
        let (node, start) = (NodeId(node), NodeIncarnation(incarnation));
        let register = MetaCommand::register(node, start, address, &BTreeMap::new(), FEATURE_LEVEL);
        apply(state, &register.with_time_by_wall(GroupTime(time))).unwrap();
    }
}

#[test]
fn r32_a_stop_of_all_counts_as_a_majority_has_it_and_time_never_goes_back() {
    let mut state = two();
    starts(&mut state, 2, [9_000, 500]);
    assert_eq!(state.time_by_wall(), GroupTime(500), "one clock alone says more");
    starts(&mut state, 3, [0, 600]);
    assert_eq!(state.time_by_wall(), GroupTime(500), "one noted nothing");
    starts(&mut state, 4, [800, 700]);
    assert_eq!(state.time_by_wall(), GroupTime(700));
    apply(&mut state, &MetaCommand::join(volume(3), "c", "c:1")).unwrap();
    starts(&mut state, 5, [1_000, 0]);
    assert_eq!(state.time_by_wall(), GroupTime(700), "one of three");
    starts(&mut state, 6, [900, 1_000]);
    assert_eq!(state.time_by_wall(), GroupTime(900), "two of three");
}

#[test]
fn r32_the_clock_of_a_start_that_serves_does_not_count() {
    let mut state = two();
    let (node, start) = (NodeId(1), NodeIncarnation(2));
    let register = MetaCommand::register(node, start, "a:1", &BTreeMap::new(), FEATURE_LEVEL);
    let register = register.with_time_by_wall(GroupTime(9_000));
    apply(&mut state, &register).unwrap();
    apply(&mut state, &MetaCommand::enter(node, start)).unwrap();
    apply(&mut state, &register).unwrap();
    let other = MetaCommand::register(NodeId(2), start, "b:1", &BTreeMap::new(), FEATURE_LEVEL);
    apply(&mut state, &other.with_time_by_wall(GroupTime(9_000))).unwrap();
    assert_eq!(state.time_by_wall(), GroupTime(0), "the cluster ran on");
    apply(&mut state, &MetaCommand::leave(node, start)).unwrap();
    let again = MetaCommand::register(node, NodeIncarnation(3), "a:1", &BTreeMap::new(), FEATURE_LEVEL);
    apply(&mut state, &again.with_time_by_wall(GroupTime(8_000))).unwrap();
    assert_eq!(state.time_by_wall(), GroupTime(8_000));
}
