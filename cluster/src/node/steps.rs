//! The next step of a group's members towards what the table says: a pure function of what the group's leader sees.
//!
//! Invariants: one voter comes and one goes at a time; a voter goes only when who takes its place has caught up; the
//! voters that are alive are a majority before the step and after it.

use std::collections::{BTreeMap, BTreeSet};

use crate::state::NodeId;

/// A member of the group as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) voter: bool,
    /// It has, or almost has, what the leader has.
    pub(super) caught_up: bool,
    /// It has answered a moment ago.
    pub(super) alive: bool,
}

/// Where the group is to come.
#[derive(Clone, Debug, Default)]
pub(super) struct Aim {
    /// Who is to vote, best leader first.
    pub(super) voters: Vec<NodeId>,
    /// Who is to learn.
    pub(super) learners: BTreeSet<NodeId>,
    /// Nodes that serve: one of them is to lead.
    pub(super) serving: BTreeSet<NodeId>,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    AddLearner(NodeId),
    SetVoters(BTreeSet<NodeId>),
    RemoveLearner(NodeId),
    /// Hand leadership over.
    Lead(NodeId),
}

/// The next step for the group that `this` node leads.
pub(super) fn next(this: NodeId, members: &BTreeMap<NodeId, Seen>, aim: &Aim) -> Option<Step> {
    if aim.voters.is_empty() {
        return None;
    }
    let mut wanted = aim.voters.iter().chain(&aim.learners);
    if let Some(new) = wanted.find(|node| !members.contains_key(node)) {
        return Some(Step::AddLearner(*new));
    }
    if let Some(step) = change_of_voters(this, members, aim) {
        return Some(step);
    }
    let is_wanted = |node: &NodeId| aim.voters.contains(node) || aim.learners.contains(node);
    let idle = members
        .iter()
        .find(|(node, seen)| !seen.voter && !is_wanted(node));
    if let Some((node, _)) = idle {
        return Some(Step::RemoveLearner(*node));
    }
    // A majority has caught up with every entry; those that have not cannot be elected.
    let leads = best_leader(members, aim)?;
    (leads != this).then_some(Step::Lead(leads))
}

/// The first of the wanted voters that could lead now.
fn best_leader(members: &BTreeMap<NodeId, Seen>, aim: &Aim) -> Option<NodeId> {
    let could = |node: &&NodeId| {
        let seen = members.get(node);
        seen.is_some_and(|seen| seen.voter && seen.alive && seen.caught_up) && aim.serving.contains(node)
    };
    aim.voters.iter().find(could).copied()
}

fn change_of_voters(this: NodeId, members: &BTreeMap<NodeId, Seen>, aim: &Aim) -> Option<Step> {
    let voters: BTreeSet<NodeId> = members
        .iter()
        .filter(|(_, seen)| seen.voter)
        .map(|(node, _)| *node)
        .collect();
    let is_alive = |node: &NodeId| *node == this || members.get(node).is_some_and(|seen| seen.alive);
    let comes = aim.voters.iter().find(|node| {
        let seen = members.get(node);
        seen.is_some_and(|seen| !seen.voter && seen.caught_up) && is_alive(node)
    });
    let are_complete = aim.voters.iter().all(|node| voters.contains(node));
    let mut surplus: Vec<&NodeId> = voters.iter().filter(|node| !aim.voters.contains(node)).collect();
    // Who is dead goes first, who leads last.
    surplus.sort_by_key(|node| (**node == this, is_alive(node), **node));
    let goes = surplus
        .first()
        .copied()
        .filter(|_| comes.is_some() || are_complete);
    let with = |comes: Option<&NodeId>, goes: Option<&NodeId>| -> BTreeSet<NodeId> {
        let stay = voters.iter().filter(|node| Some(*node) != goes);
        stay.chain(comes).copied().collect()
    };
    let survives = |voters: &BTreeSet<NodeId>| {
        let alive = voters.iter().filter(|node| is_alive(node)).count();
        alive * 2 > voters.len()
    };
    if goes == Some(&this) {
        // Its successor takes it out.
        let others = members.iter().find(|(node, seen)| {
            **node != this && seen.voter && seen.alive && seen.caught_up && aim.voters.contains(node)
        });
        let leads = best_leader(members, aim).or(others.map(|(node, _)| *node));
        if let Some(leads) = leads {
            return Some(Step::Lead(leads));
        }
    }
    // Where both at once would be too much, the new one alone may do no harm.
    [with(comes, goes.filter(|goes| **goes != this)), with(comes, None)]
        .into_iter()
        .find(|next| *next != voters && !next.is_empty() && survives(&voters) && survives(next))
        .map(Step::SetVoters)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALIVE: Seen = Seen {
        voter: true,
        caught_up: true,
        alive: true,
    };
    const DEAD: Seen = Seen {
        alive: false,
        ..ALIVE
    };
    const LEARNER: Seen = Seen {
        voter: false,
        ..ALIVE
    };
    const LATE: Seen = Seen {
        voter: false,
        caught_up: false,
        alive: true,
    };

    fn ids(nodes: &[u64]) -> Vec<NodeId> {
        nodes.iter().map(|node| NodeId(*node)).collect()
    }

    /// The next step of a group that node 1 leads.
    fn step(members: &[(u64, Seen)], voters: &[u64]) -> Option<Step> {
        let members: BTreeMap<NodeId, Seen> = members
            .iter()
            .map(|(node, seen)| (NodeId(*node), *seen))
            .collect();
        let serving = members.iter().filter(|(_, seen)| seen.alive);
        let aim = Aim {
            voters: ids(voters),
            learners: BTreeSet::new(),
            serving: serving.map(|(node, _)| *node).collect(),
        };
        next(NodeId(1), &members, &aim)
    }

    fn set(nodes: &[u64]) -> Option<Step> {
        Some(Step::SetVoters(ids(nodes).into_iter().collect()))
    }

    #[test]
    fn r47_a_group_grows_one_voter_at_a_time() {
        assert_eq!(step(&[(1, ALIVE)], &[1, 2, 3]), Some(Step::AddLearner(NodeId(2))));
        assert_eq!(step(&[(1, ALIVE), (2, LATE), (3, LATE)], &[1, 2, 3]), None);
        assert_eq!(
            step(&[(1, ALIVE), (2, LATE), (3, LEARNER)], &[1, 2, 3]),
            set(&[1, 3])
        );
        assert_eq!(
            step(&[(1, ALIVE), (2, LEARNER), (3, LEARNER)], &[1, 2, 3]),
            set(&[1, 2])
        );
        assert_eq!(
            step(&[(1, ALIVE), (2, ALIVE), (3, LEARNER)], &[1, 2, 3]),
            set(&[1, 2, 3])
        );
        assert_eq!(step(&[(1, ALIVE), (2, ALIVE), (3, ALIVE)], &[1, 2, 3]), None);
    }

    #[test]
    fn r47_a_voter_goes_when_who_takes_its_place_has_caught_up() {
        let three = [(1, ALIVE), (2, ALIVE), (3, DEAD)];
        let with = |four| [three[0], three[1], three[2], (4, four)];
        assert_eq!(step(&with(LATE), &[1, 2, 4]), None);
        assert_eq!(step(&with(LEARNER), &[1, 2, 4]), set(&[1, 2, 4]));
        assert_eq!(
            step(
                &with(Seen {
                    alive: false,
                    ..LEARNER
                }),
                &[1, 2, 4]
            ),
            None
        );
        // Nobody takes its place: it goes alone.
        assert_eq!(step(&three, &[1, 2]), set(&[1, 2]));
    }

    #[test]
    fn r47_no_step_loses_the_majority_that_is_alive() {
        // Of two that would be left one is dead.
        assert_eq!(step(&[(1, ALIVE), (2, ALIVE), (3, DEAD)], &[1, 3]), None);
        // There is no majority now: nothing could be committed.
        assert_eq!(step(&[(1, ALIVE), (2, DEAD), (3, DEAD)], &[1]), None);
        assert_eq!(step(&[(1, ALIVE), (2, DEAD)], &[1]), None);
        // The swap would leave two of four alive, and so would the new one alone.
        let members = [
            (1, ALIVE),
            (2, ALIVE),
            (3, DEAD),
            (4, DEAD),
            (5, ALIVE),
            (6, LEARNER),
        ];
        assert_eq!(step(&members, &[1, 2, 5, 6]), set(&[1, 2, 4, 5, 6]));
    }

    #[test]
    fn r47_a_leader_that_is_to_go_hands_over_first() {
        let members = [(1, ALIVE), (2, ALIVE), (3, ALIVE)];
        assert_eq!(step(&members, &[3, 2]), Some(Step::Lead(NodeId(3))));
        assert_eq!(
            step(&[(1, ALIVE), (2, DEAD)], &[2]),
            None,
            "nobody could take over"
        );
    }

    #[test]
    fn the_first_place_that_serves_leads_and_those_who_are_not_meant_go() {
        assert_eq!(
            step(&[(1, ALIVE), (2, ALIVE)], &[2, 1]),
            Some(Step::Lead(NodeId(2)))
        );
        assert_eq!(step(&[(1, ALIVE), (2, DEAD), (3, ALIVE)], &[2, 1, 3]), None);
        assert_eq!(
            step(&[(1, ALIVE), (2, ALIVE), (3, LATE)], &[1, 2]),
            Some(Step::RemoveLearner(NodeId(3)))
        );
    }

    /// From any members to any aim, whoever is dead: every step keeps the rules, and all end where the aim is, as far as
    /// a majority goes on.
    #[test]
    fn r47_steps_lead_to_the_aim_and_never_over_a_minority() {
        for pattern in 0_u32..1 << 15 {
            let bit = |at: u32| pattern & (1 << at) != 0;
            let mut members = BTreeMap::from([(NodeId(1), ALIVE)]);
            let (mut voters, mut dead) = (Vec::new(), BTreeSet::new());
            for node in 1..=5_u64 {
                let at = u32::try_from(node).expect("small") * 3 - 3;
                if bit(at) && node > 1 {
                    members.insert(NodeId(node), ALIVE);
                }
                if bit(at + 1) && node > 1 {
                    dead.insert(NodeId(node));
                }
                if bit(at + 2) {
                    voters.push(NodeId(node));
                }
            }
            for (node, seen) in &mut members {
                seen.alive = !dead.contains(node);
            }
            let had_majority = majority(&members);
            let (mut this, mut steps) = (NodeId(1), 0);
            let aim = Aim {
                serving: ids(&[1, 2, 3, 4, 5])
                    .into_iter()
                    .filter(|node| !dead.contains(node))
                    .collect(),
                voters,
                learners: BTreeSet::new(),
            };
            while let Some(step) = next(this, &members, &aim) {
                steps += 1;
                assert!(steps < 40, "{pattern}: no end");
                match step {
                    Step::AddLearner(node) => {
                        let alive = !dead.contains(&node);
                        // Who is alive catches up before the next look.
                        members.insert(
                            node,
                            Seen {
                                voter: false,
                                caught_up: alive,
                                alive,
                            },
                        );
                    }
                    Step::SetVoters(voters) => {
                        let before: BTreeSet<NodeId> = voters_of(&members);
                        assert!(
                            voters.difference(&before).count() <= 1
                                && before.difference(&voters).count() <= 1
                        );
                        assert!(majority(&members), "{pattern}: nothing could be committed");
                        for (node, seen) in &mut members {
                            seen.voter = voters.contains(node);
                        }
                        assert!(majority(&members), "{pattern}: the majority is lost");
                    }
                    Step::RemoveLearner(node) => assert!(!members.remove(&node).expect("a member").voter),
                    Step::Lead(node) => {
                        assert!(members[&node].voter && members[&node].alive);
                        this = node;
                    }
                }
            }
            let all_alive = aim.voters.iter().all(|node| !dead.contains(node));
            if had_majority && all_alive && !aim.voters.is_empty() {
                let aimed: BTreeSet<NodeId> = aim.voters.iter().copied().collect();
                assert_eq!(voters_of(&members), aimed, "{pattern:b}: {members:?}");
                assert_eq!(this, aim.voters[0]);
            }
        }
    }

    fn voters_of(members: &BTreeMap<NodeId, Seen>) -> BTreeSet<NodeId> {
        let voters = members.iter().filter(|(_, seen)| seen.voter);
        voters.map(|(node, _)| *node).collect()
    }

    fn majority(members: &BTreeMap<NodeId, Seen>) -> bool {
        let voters: Vec<&Seen> = members.values().filter(|seen| seen.voter).collect();
        voters.iter().filter(|seen| seen.alive).count() * 2 > voters.len()
    }
}
