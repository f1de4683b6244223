//! R1: starts that serve and do not confirm changes of routes.

use super::*;

/// R1: a node that renews its lease and does not apply one group does not hold up subscriptions for ever: the leader of
/// `meta` asks it, and grants it no more leases.
#[test]
fn r1_a_start_that_serves_and_does_not_confirm_is_removed() {
    let cluster = Several::start();
    let judge = cluster.leader(META);
    let (lagging, near) = ((judge + 1) % 3, (judge + 2) % 3);
    let group = Placement::data_groups()
        .find(|group| cluster.leader(*group) != lagging)
        .unwrap();
    cluster.open(near, group, "before", 1);
    cluster.completed(near, 1);
    cluster.members[lagging].host.hold(group);
    cluster.open(near, group, "while", 2);
    cluster.completed(near, 2);
    assert!(
        cluster.is_removed(lagging) || {
            let state = cluster.members[near].node.directory().read();
            !state.view().serving.contains_key(&cluster.members[lagging].id())
        }
    );
    until("the node knows", || cluster.is_removed(lagging).then_some(()));
    let condemned = |at: usize| cluster.members[at].node.starts_condemned();
    assert_eq!((condemned(judge), condemned(near)), (1, 0));
    assert!(!cluster.is_removed(judge) && !cluster.is_removed(near));
}

/// R1: who is merely accused is asked, and stays; and a node of two is not thrown out by the other.
#[test]
fn r1_a_healthy_start_that_is_accused_stays() {
    let cluster = Several::start();
    let judge = cluster.leader(META);
    let (accused, accuser) = ((judge + 1) % 3, (judge + 2) % 3);
    let group = Placement::data_groups().next().unwrap();
    let accuse = |index| judge::Accusation {
        node: cluster.members[accused].id(),
        incarnation: NodeIncarnation(1),
        group,
        index,
    };
    let node = &cluster.members[accuser].node;
    // The second one is of an entry that does not exist: nobody confirms it.
    for index in [1, u64::MAX] {
        cluster.members[accuser]
            .runtime
            .block_on(node.accuse(accuse(index)));
        until("the trial ends", || {
            cluster.members[judge].node.trials.is_idle().then_some(())
        });
    }
    let condemned = |member: &Member| member.node.starts_condemned();
    assert_eq!(cluster.members.iter().map(condemned).sum::<u64>(), 0);
    assert!((0..3).all(|at| !cluster.is_removed(at)));
}
