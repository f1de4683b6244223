//! Where the groups are to be (R47): a pure function of what the leader of `meta` sees of the nodes.
//!
//! Rendezvous hashing proposes: each node has a stable score for each group, the same on every node and in every version.
//! What is there already stays as long as it is of use, so little moves when nodes come and go; what has to be placed
//! goes to the nodes that hold least, by score; then replicas move from those that hold most to those that hold least
//! until no two nodes differ by more than one. The same is done with first places: who is first in a group leads it.
//!
//! A table may be several steps ahead of a group's members: [`steps`](super::steps) takes one at a time, and none that
//! a majority would not survive.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use quorate_storage::log::GroupId;
use xxhash_rust::xxh3::xxh3_64;

use crate::state::NodeId;

/// A member of the cluster as the leader of `meta` sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) node: NodeId,
    /// For how long it has not served; `None` where it does.
    pub(super) absent: Option<Duration>,
    /// It is to have no clients, and no groups where others can have them.
    pub(super) draining: bool,
    /// It is to have no groups, so that it can go for good.
    pub(super) leaving: bool,
}

/// How many replicas there are to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    /// Replicas of a group, as far as there are nodes.
    pub(super) factor: usize,
    /// A node that does not serve for so long is replaced where another can take its place.
    pub(super) replace_after: Duration,
}

impl Policy {
    /// Whether a node is to have new replicas, and to lead.
    fn prefers(&self, candidate: &Candidate) -> bool {
        let is_there = candidate.absent.is_none_or(|absent| absent < self.replace_after);
        is_there && !candidate.draining && !candidate.leaving
    }
}

/// The replicas of each group, best leader first.
pub(super) type Table = BTreeMap<GroupId, Vec<NodeId>>;

/// What the table is to be; `present` is what it is. Groups that are not in it have no replicas yet.
pub(super) fn wanted(
    groups: &[GroupId],
    candidates: &[Candidate],
    present: &Table,
    policy: &Policy,
) -> Table {
    let staying: Vec<&Candidate> = candidates.iter().filter(|candidate| !candidate.leaving).collect();
    if staying.is_empty() {
        return present.clone();
    }
    let mut preferred: BTreeSet<NodeId> = staying
        .iter()
        .filter(|candidate| policy.prefers(candidate))
        .map(|candidate| candidate.node)
        .collect();
    if preferred.is_empty() {
        preferred = staying.iter().map(|candidate| candidate.node).collect();
    }
    let staying: BTreeSet<NodeId> = staying.iter().map(|candidate| candidate.node).collect();
    let replicas = spread(groups, &staying, &preferred, present, policy.factor.max(1));
    let firsts = first_places(&replicas, &preferred, present);
    let order = |(group, nodes): (&GroupId, &BTreeSet<NodeId>)| {
        let mut order: Vec<NodeId> = nodes.iter().copied().collect();
        // Who leads when the first cannot differs from group to group.
        order.sort_by_key(|node| {
            let is_first = firsts.get(group) == Some(node);
            (
                !is_first,
                !preferred.contains(node),
                std::cmp::Reverse(score(*group, *node)),
                *node,
            )
        });
        (*group, order)
    };
    replicas.iter().map(order).collect()
}

/// Who is to vote in `meta`, best leader first: the voters there are as long as they are of use, and no more than
/// `voters_max`. The other members learn.
pub(super) fn meta_voters(
    candidates: &[Candidate],
    present: &BTreeSet<NodeId>,
    voters_max: usize,
    policy: &Policy,
) -> Vec<NodeId> {
    let mut order: Vec<&Candidate> = candidates.iter().filter(|candidate| !candidate.leaving).collect();
    if order.is_empty() {
        return present.iter().copied().collect();
    }
    let is_gone = |candidate: &Candidate| {
        candidate
            .absent
            .is_some_and(|absent| absent >= policy.replace_after)
    };
    // A draining node votes as well as any other; it only is not to lead.
    order.sort_by_key(|candidate| {
        (
            is_gone(candidate),
            !present.contains(&candidate.node),
            candidate.node,
        )
    });
    order.truncate(voters_max);
    order.sort_by_key(|candidate| (!policy.prefers(candidate), candidate.node));
    order.into_iter().map(|candidate| candidate.node).collect()
}

/// How much a group would like to be at a node.
fn score(group: GroupId, node: NodeId) -> u64 {
    let mut key = [0; 10];
    key[..2].copy_from_slice(&group.0.to_be_bytes());
    key[2..].copy_from_slice(&node.0.to_be_bytes());
    xxh3_64(&key)
}

type Replicas = BTreeMap<GroupId, BTreeSet<NodeId>>;

/// Spreads `factor` replicas of each group over the preferred nodes. Where there are too few of those, replicas at others
/// that stay are kept: they count for as much as they ever did.
fn spread(
    groups: &[GroupId],
    staying: &BTreeSet<NodeId>,
    preferred: &BTreeSet<NodeId>,
    present: &Table,
    factor: usize,
) -> Replicas {
    let mut replicas = Replicas::new();
    for group in groups {
        let held = present.get(group).map_or(&[][..], Vec::as_slice);
        let keep = held.iter().filter(|node| preferred.contains(node));
        replicas.insert(*group, keep.copied().take(factor).collect());
    }
    let mut loads = loads(&replicas, preferred);
    for group in groups {
        let nodes = replicas.entry(*group).or_default();
        while nodes.len() < factor.min(preferred.len()) {
            let best = preferred
                .iter()
                .filter(|node| !nodes.contains(node))
                .min_by_key(|node| (loads[node], std::cmp::Reverse(score(*group, **node))));
            let Some(best) = best.copied() else { break };
            nodes.insert(best);
            *loads.entry(best).or_default() += 1;
        }
    }
    while let Some((group, from, to)) = next_move(&replicas, &loads) {
        let nodes = replicas.entry(group).or_default();
        nodes.remove(&from);
        nodes.insert(to);
        *loads.entry(from).or_default() -= 1;
        *loads.entry(to).or_default() += 1;
    }
    for group in groups {
        let nodes = replicas.entry(*group).or_default();
        let held = present.get(group).map_or(&[][..], Vec::as_slice);
        let rest = held
            .iter()
            .filter(|node| staying.contains(node) && !preferred.contains(node));
        let missing = factor.saturating_sub(nodes.len());
        nodes.extend(rest.take(missing));
    }
    replicas
}

fn loads(replicas: &Replicas, nodes: &BTreeSet<NodeId>) -> BTreeMap<NodeId, usize> {
    let count = |node: &NodeId| replicas.values().filter(|held| held.contains(node)).count();
    nodes.iter().map(|node| (*node, count(node))).collect()
}

/// The move that makes the loads more even by the group that would like it most; `None` where they are even.
fn next_move(replicas: &Replicas, loads: &BTreeMap<NodeId, usize>) -> Option<(GroupId, NodeId, NodeId)> {
    let (to, least) = loads.iter().min_by_key(|(node, load)| (**load, **node))?;
    let (from, most) = loads.iter().max_by_key(|(node, load)| (**load, **node))?;
    if most - least < 2 {
        return None;
    }
    let movable = replicas
        .iter()
        .filter(|(_, nodes)| nodes.contains(from) && !nodes.contains(to));
    let (group, _) = movable.max_by_key(|(group, _)| score(**group, *to))?;
    Some((*group, *from, *to))
}

/// Who is first in each group: as it is where that is of use, evenly over the preferred nodes.
fn first_places(
    replicas: &Replicas,
    preferred: &BTreeSet<NodeId>,
    present: &Table,
) -> BTreeMap<GroupId, NodeId> {
    let may_lead =
        |group: &GroupId, node: &NodeId| preferred.contains(node) && replicas[group].contains(node);
    let mut firsts = BTreeMap::new();
    let mut leads: BTreeMap<NodeId, usize> = preferred.iter().map(|node| (*node, 0)).collect();
    for group in replicas.keys() {
        let held = present.get(group).and_then(|nodes| nodes.first());
        if let Some(first) = held.filter(|node| may_lead(group, node)) {
            firsts.insert(*group, *first);
            *leads.entry(*first).or_default() += 1;
        }
    }
    for (group, nodes) in replicas {
        if firsts.contains_key(group) {
            continue;
        }
        let able = nodes.iter().filter(|node| preferred.contains(node));
        let best = able.min_by_key(|node| (leads[node], std::cmp::Reverse(score(*group, **node))));
        if let Some(best) = best {
            firsts.insert(*group, *best);
            *leads.entry(*best).or_default() += 1;
        }
    }
    while let Some(path) = next_relief(replicas, &firsts, &leads) {
        for (group, from, to) in path {
            firsts.insert(group, to);
            *leads.entry(from).or_default() -= 1;
            *leads.entry(to).or_default() += 1;
        }
    }
    firsts
}

/// The shortest chain of groups that pass their first place on, from a node that leads more to one that leads at least
/// two less: not every node has every group.
fn next_relief(
    replicas: &Replicas,
    firsts: &BTreeMap<GroupId, NodeId>,
    leads: &BTreeMap<NodeId, usize>,
) -> Option<Vec<(GroupId, NodeId, NodeId)>> {
    let mut starts: Vec<NodeId> = leads.keys().copied().collect();
    starts.sort_by_key(|node| (std::cmp::Reverse(leads[node]), *node));
    for start in starts {
        let mut came: BTreeMap<NodeId, (GroupId, NodeId)> = BTreeMap::new();
        let mut open = VecDeque::from([start]);
        while let Some(from) = open.pop_front() {
            if leads[&from] + 2 <= leads[&start] {
                let mut path = Vec::new();
                let mut node = from;
                while let Some((group, before)) = came.get(&node) {
                    path.push((*group, *before, node));
                    node = *before;
                }
                return Some(path);
            }
            for (group, _) in firsts.iter().filter(|(_, first)| **first == from) {
                for to in replicas[group].iter().filter(|node| leads.contains_key(node)) {
                    if *to != start && !came.contains_key(to) {
                        came.insert(*to, (*group, from));
                        open.push_back(*to);
                    }
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests;
