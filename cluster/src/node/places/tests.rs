//! Placement: spread, stability, and who is not placed.

use proptest::prelude::*;

use super::*;

const GROUPS: u16 = 17;

fn groups() -> Vec<GroupId> {
    (1..=GROUPS).map(GroupId).collect()
}

fn serving(node: u64) -> Candidate {
    Candidate {
        node: NodeId(node),
        absent: None,
        draining: false,
        leaving: false,
    }
}

fn policy(factor: usize) -> Policy {
    Policy {
        factor,
        replace_after: Duration::from_secs(60),
    }
}

/// How many replicas, and first places, the nodes have: the least and the most of each.
fn evenness(table: &Table, nodes: &[u64]) -> [(usize, usize); 2] {
    let range = |count: &dyn Fn(NodeId) -> usize| {
        let counts: Vec<usize> = nodes.iter().map(|node| count(NodeId(*node))).collect();
        (*counts.iter().min().unwrap(), *counts.iter().max().unwrap())
    };
    [
        range(&|node| table.values().filter(|held| held.contains(&node)).count()),
        range(&|node| table.values().filter(|held| held.first() == Some(&node)).count()),
    ]
}

/// Replicas that are in `after` and not in `before`.
fn moved(before: &Table, after: &Table) -> usize {
    let new = |(group, nodes): (&GroupId, &Vec<NodeId>)| {
        nodes.iter().filter(|node| !before[group].contains(node)).count()
    };
    after.iter().map(new).sum()
}

fn place(nodes: &[Candidate], present: &Table, policy: &Policy) -> Table {
    let table = wanted(&groups(), nodes, present, policy);
    assert_eq!(table.len(), groups().len());
    for nodes in table.values() {
        let distinct: BTreeSet<&NodeId> = nodes.iter().collect();
        assert_eq!(distinct.len(), nodes.len());
        assert!(!nodes.is_empty());
    }
    assert_eq!(
        wanted(&groups(), nodes, &table, policy),
        table,
        "a table that is as wanted stays"
    );
    table
}

fn assert_even(table: &Table, nodes: &[u64], factor: usize) {
    for held in table.values() {
        assert_eq!(held.len(), factor.min(nodes.len()));
    }
    for (least, most) in evenness(table, nodes) {
        assert!(most - least <= 1, "{least} to {most} over {nodes:?}: {table:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// R47: from one node to nine and back, whoever comes and goes, replicas and first places stay even, and little
    /// moves.
    #[test]
    fn r47_replicas_stay_even_and_move_little_as_nodes_come_and_go(
        factor in 1_usize..=5,
        changes in proptest::collection::vec((any::<bool>(), any::<bool>(), 0_usize..9), 1..24),
    ) {
        let policy = policy(factor);
        let mut nodes = vec![1_u64];
        let mut next = 2;
        let mut table = place(&[serving(1)], &Table::new(), &policy);
        for (grows, drains, which) in changes {
            let mut candidates: Vec<Candidate> = nodes.iter().copied().map(serving).collect();
            let before = table.clone();
            if (grows && nodes.len() < 9) || nodes.len() == 1 {
                nodes.push(next);
                candidates.push(serving(next));
                next += 1;
                table = place(&candidates, &table, &policy);
                let share = table.values().filter(|held| held.contains(&NodeId(next - 1))).count();
                prop_assert_eq!(moved(&before, &table), share, "only the newcomer gets anything");
            } else {
                let goes = nodes.remove(which % nodes.len());
                let had = before.values().filter(|held| held.contains(&NodeId(goes))).count();
                if drains {
                    for candidate in &mut candidates {
                        candidate.leaving = candidate.node == NodeId(goes);
                    }
                } else {
                    candidates.retain(|candidate| candidate.node != NodeId(goes));
                }
                table = place(&candidates, &table, &policy);
                // What the leaver had, and at most one more for each node that has to even out.
                prop_assert!(moved(&before, &table) <= had + nodes.len(), "little moves");
            }
            assert_even(&table, &nodes, factor);
        }
    }

    /// R47: a dead node keeps its places for a while, then loses them where others can take them, and gets its share again.
    #[test]
    fn r47_the_dead_are_replaced_after_a_while_where_others_can(
        count in 2_u64..=9,
        factor in 1_usize..=5,
        dead in 1_u64..=9,
    ) {
        let policy = policy(factor);
        let dead = (dead - 1) % count + 1;
        let mut candidates: Vec<Candidate> = (1..=count).map(serving).collect();
        let table = place(&candidates, &Table::new(), &policy);
        let at = usize::try_from(dead - 1).unwrap();
        candidates[at].absent = Some(policy.replace_after - Duration::from_millis(1));
        prop_assert_eq!(&place(&candidates, &table, &policy), &table, "it may come back");
        candidates[at].absent = Some(policy.replace_after);
        let without = place(&candidates, &table, &policy);
        let others: Vec<u64> = (1..=count).filter(|node| *node != dead).collect();
        for (group, held) in &without {
            prop_assert_eq!(held.len(), factor.min(usize::try_from(count).unwrap()));
            prop_assert!(held[0] != NodeId(dead), "it leads nothing");
            if others.len() >= factor {
                prop_assert!(!held.contains(&NodeId(dead)));
            } else {
                prop_assert_eq!(held.len(), table[group].len(), "nobody can take its place");
            }
        }
        let [_, (least, most)] = evenness(&without, &others);
        prop_assert!(most - least <= 1);
        candidates[at].absent = None;
        assert_even(&place(&candidates, &without, &policy), &(1..=count).collect::<Vec<u64>>(), factor);
    }
}

#[test]
fn where_nobody_stays_nothing_changes() {
    let table = place(&[serving(1), serving(2)], &Table::new(), &policy(3));
    let leaving = |node| Candidate {
        leaving: true,
        ..serving(node)
    };
    assert_eq!(
        wanted(&groups(), &[leaving(1), leaving(2)], &table, &policy(3)),
        table
    );
}

/// Places are a function of names and numbers alone: another version proposes the same.
#[test]
fn r47_scores_never_change() {
    assert_eq!(score(GroupId(1), NodeId(1)), 17_583_613_848_452_830_297);
    assert_eq!(score(GroupId(17), NodeId(1 << 40)), 11_593_508_897_956_765_274);
}

#[test]
fn meta_has_at_most_so_many_voters_and_replaces_the_dead() {
    let policy = policy(3);
    let mut candidates: Vec<Candidate> = (1..=7).map(serving).collect();
    let ids = |nodes: &[u64]| nodes.iter().map(|node| NodeId(*node)).collect::<Vec<_>>();
    let set = |nodes: &[u64]| nodes.iter().map(|node| NodeId(*node)).collect::<BTreeSet<_>>();
    assert_eq!(
        meta_voters(&candidates, &set(&[1]), 5, &policy),
        ids(&[1, 2, 3, 4, 5])
    );
    assert_eq!(
        meta_voters(&candidates, &set(&[3, 4, 5, 6, 7]), 5, &policy),
        ids(&[3, 4, 5, 6, 7]),
        "who votes goes on"
    );
    candidates[3].absent = Some(Duration::from_secs(59));
    candidates[4].draining = true;
    assert_eq!(
        meta_voters(&candidates, &set(&[3, 4, 5, 6, 7]), 5, &policy),
        ids(&[3, 4, 6, 7, 5]),
        "who drains does not lead"
    );
    candidates[3].absent = Some(Duration::from_secs(60));
    candidates[5].leaving = true;
    assert_eq!(
        meta_voters(&candidates, &set(&[3, 4, 5, 6, 7]), 5, &policy),
        ids(&[1, 2, 3, 7, 5])
    );
    let few = &candidates[2..4];
    assert_eq!(
        meta_voters(few, &set(&[3, 4]), 5, &policy),
        ids(&[3, 4]),
        "nobody can take its place"
    );
}
