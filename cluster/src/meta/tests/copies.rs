//! Starts on volumes that are copies of others, or were restored (R46).

use super::*;
use crate::lineage::Lineage;

const NODE: NodeId = NodeId(2);

/// A start with those before it on its volume: the accepted one, and those offered since.
fn lineage(number: u64, start: u8, accepted: (u64, u8), offered: &[u8]) -> Lineage {
    Lineage {
        incarnation: NodeIncarnation(number),
        start: [start; 16],
        accepted: (accepted.0 > 0).then_some((NodeIncarnation(accepted.0), [accepted.1; 16])),
        offered: offered.iter().map(|start| [*start; 16]).collect(),
    }
}

fn register_at(lineage: &Lineage, address: &str) -> MetaCommand {
    let number = lineage.incarnation;
    MetaCommand::register(NODE, number, address, &BTreeMap::new(), FEATURE_LEVEL).with_lineage(lineage)
}

fn register(state: &mut MetaState, lineage: &Lineage) -> Result<(), Rejected> {
    let before = state.clone();
    let result = apply(state, &register_at(lineage, "b:1"));
    assert!(
        result.is_ok() || *state == before,
        "a refused start changes nothing"
    );
    result
}

/// A node whose starts 1, 2 and 3, which go by these identifiers, were taken.
fn started() -> MetaState {
    let mut state = MetaState::default();
    let found = MetaCommand::found(3, 1, volume(1), "a", "a:1");
    apply(&mut state, &found).unwrap();
    apply(&mut state, &MetaCommand::join(volume(2), "b", "b:1")).unwrap();
    for number in 1..=3 {
        let start = lineage(number.into(), number, (u64::from(number) - 1, number - 1), &[]);
        assert_eq!(register(&mut state, &start), Ok(()));
        assert_eq!(register(&mut state, &start), Ok(()), "repeated");
    }
    state
}

#[test]
fn r46_a_volume_from_before_the_last_start_is_refused_at_every_try() {
    for ended in [false, true] {
        let mut state = started();
        if ended {
            apply(&mut state, &MetaCommand::leave(NODE, NodeIncarnation(3))).unwrap();
        }
        // Put back as it was when the second start had ended. What it offers it notes on itself.
        let mut offered = Vec::new();
        for number in 3..30 {
            let again = lineage(number, 100 + offered.len() as u8, (2, 2), &offered);
            assert!(register(&mut state, &again).is_err(), "start {number}");
            offered.push(100 + offered.len() as u8);
            offered.truncate(16);
        }
        let next = lineage(4, 4, (3, 3), &[]);
        assert_eq!(register(&mut state, &next), Ok(()), "the volume that went on");
    }
}

#[test]
fn r46_a_copy_with_the_number_of_its_original_is_refused_wherever_it_is() {
    let mut state = started();
    apply(&mut state, &MetaCommand::enter(NODE, NodeIncarnation(3))).unwrap();
    let copy = lineage(3, 30, (2, 2), &[]);
    for address in ["b:1", "elsewhere:1"] {
        assert!(
            apply(&mut state, &register_at(&copy, address)).is_err(),
            "{address}"
        );
    }
    assert_eq!(register(&mut state, &copy), Err(Rejected::CopiedVolume));
    assert!(
        state.view().holds(NODE, NodeIncarnation(3)),
        "its original serves on"
    );
}

#[test]
fn r46_a_start_whose_acceptance_its_volume_never_heard_of_is_no_copy() {
    // Start 4 was taken and died before it knew; 5 died before it was taken.
    for taken in [&[4][..], &[5], &[4, 5], &[]] {
        let mut state = started();
        for number in taken {
            let offered: Vec<u8> = (4..*number).collect();
            let start = lineage((*number).into(), *number, (3, 3), &offered);
            assert_eq!(register(&mut state, &start), Ok(()), "{taken:?}");
        }
        let next = lineage(6, 6, (3, 3), &[4, 5]);
        assert_eq!(register(&mut state, &next), Ok(()), "{taken:?}");
        assert_eq!(state.node(NODE).unwrap().start, Some([6; 16]));
    }
}

#[test]
fn r46_a_start_that_names_nothing_or_nonsense_is_refused_behind_one_that_did() {
    let mut state = started();
    let bare = MetaCommand::register(NODE, NodeIncarnation(4), "b:1", &BTreeMap::new(), FEATURE_LEVEL);
    assert_eq!(apply(&mut state, &bare), Err(Rejected::CopiedVolume));
    let offered: Vec<u8> = (0..17).collect();
    let long = lineage(4, 4, (3, 3), &offered);
    assert_eq!(register(&mut state, &long), Err(Rejected::CopiedVolume));
}
