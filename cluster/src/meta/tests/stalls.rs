//! Notes of what a slow node has not accepted (R4).

use super::*;

const SENDER: NodeId = NodeId(1);
const SLOW: NodeId = NodeId(2);

/// Two nodes that serve.
fn serving() -> MetaState {
    let mut state = two();
    for node in [SENDER, SLOW] {
        apply(&mut state, &MetaCommand::enter(node, NodeIncarnation(1))).unwrap();
    }
    state
}

/// The first start of one node says of the first of the other that it is stalled, or not.
fn say(state: &mut MetaState, number: u64, stalled: bool) -> Result<(), Rejected> {
    let stall = Stall {
        incarnation: NodeIncarnation(1),
        peer_incarnation: NodeIncarnation(1),
        number,
        stalled,
    };
    apply(state, &MetaCommand::set_stalled((SENDER, SLOW), &stall))
}

fn missed(state: &MetaState, node: NodeId) -> u64 {
    state.view().serving[&node].missed
}

fn restart(state: &mut MetaState, node: NodeId, address: &str, incarnation: u64) {
    let start = NodeIncarnation(incarnation);
    let register = MetaCommand::register(node, start, address, &BTreeMap::new(), FEATURE_LEVEL);
    apply(state, &register).unwrap();
    apply(state, &MetaCommand::enter(node, start)).unwrap();
}

#[test]
fn r4_a_start_that_ends_while_another_is_noted_leaves_that_word() {
    for newer in [false, true] {
        let mut state = serving();
        say(&mut state, 1, true).unwrap();
        say(&mut state, 1, true).unwrap();
        assert_eq!(missed(&state, SLOW), 0);
        match newer {
            false => apply(&mut state, &MetaCommand::leave(SENDER, NodeIncarnation(1))).unwrap(),
            true => restart(&mut state, SENDER, "a:1", 2),
        }
        let first = missed(&state, SLOW);
        assert!(first > 0, "and it stays, for who learns of it later");
        assert_eq!(state.stall(SENDER, SLOW), None);
        assert_eq!(say(&mut state, 2, false), Err(Rejected::Outdated), "it is over");
        if newer {
            assert_eq!(missed(&state, SENDER), 0);
            // Once more, which is told from the first time.
            let stall = Stall {
                incarnation: NodeIncarnation(2),
                peer_incarnation: NodeIncarnation(1),
                number: 1,
                stalled: true,
            };
            apply(&mut state, &MetaCommand::set_stalled((SENDER, SLOW), &stall)).unwrap();
            apply(&mut state, &MetaCommand::leave(SENDER, NodeIncarnation(2))).unwrap();
            assert!(missed(&state, SLOW) > first);
        }
    }
}

#[test]
fn r4_a_note_that_is_taken_back_means_nothing_and_late_words_undo_no_later_one() {
    let mut state = serving();
    say(&mut state, 1, true).unwrap();
    say(&mut state, 2, false).unwrap();
    assert_eq!(say(&mut state, 1, true), Err(Rejected::Outdated), "it comes late");
    assert!(!state.stall(SENDER, SLOW).unwrap().stalled);
    let mut taken_back = state.clone();
    apply(&mut taken_back, &MetaCommand::leave(SENDER, NodeIncarnation(1))).unwrap();
    assert_eq!(missed(&taken_back, SLOW), 0);
    say(&mut state, 3, true).unwrap();
    assert_eq!(say(&mut state, 2, false), Err(Rejected::Outdated));
    assert_eq!(
        say(&mut state, 3, false),
        Err(Rejected::Outdated),
        "one number means one thing"
    );
    apply(&mut state, &MetaCommand::leave(SENDER, NodeIncarnation(1))).unwrap();
    assert!(missed(&state, SLOW) > 0);
}

#[test]
fn r4_a_note_goes_with_the_start_it_is_about() {
    let mut state = serving();
    say(&mut state, 1, true).unwrap();
    restart(&mut state, SLOW, "b:1", 2);
    assert_eq!(state.stall(SENDER, SLOW), None);
    assert_eq!(
        say(&mut state, 2, true),
        Err(Rejected::Outdated),
        "of a start that is over"
    );
    apply(&mut state, &MetaCommand::leave(SENDER, NodeIncarnation(1))).unwrap();
    assert_eq!(missed(&state, SLOW), 0, "all its clients are new");
    let mut state = serving();
    say(&mut state, 1, true).unwrap();
    apply(&mut state, &MetaCommand::recover(SLOW)).unwrap();
    assert_eq!(state.stall(SENDER, SLOW), None);
}

#[test]
fn r4_nothing_is_noted_of_who_does_not_serve() {
    let mut state = two();
    assert_eq!(say(&mut state, 1, true), Err(Rejected::Outdated));
    apply(&mut state, &MetaCommand::enter(SENDER, NodeIncarnation(1))).unwrap();
    assert_eq!(say(&mut state, 1, true), Err(Rejected::Outdated));
    let stall = Stall {
        incarnation: NodeIncarnation(1),
        peer_incarnation: NodeIncarnation(1),
        number: 1,
        stalled: true,
    };
    let of_itself = MetaCommand::set_stalled((SENDER, SENDER), &stall);
    assert_eq!(apply(&mut state, &of_itself), Err(Rejected::Outdated));
}
