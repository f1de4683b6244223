//! Groups that begin anew because a majority has lost their unsynced logs (R41).
//!
//! A replica whose machine lost its power neither votes nor leads before a leader has brought it up to date. Where that
//! befell a majority nobody can be elected: the leader of `meta` places such a group at one node alone, best one that
//! still has its log, and the group goes on with what that one has, or empty. All nodes start anew then: what they know
//! of the group is of its last beginning. Replicas of different beginnings do not talk to each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::RwLock;
use quorate_storage::log::GroupId;
use quorate_storage::volume::VolumeError;

use super::start::{StartError, stopped};
use super::{Group, Host, Node, Placement};
use crate::meta::{GroupPlacement, MetaCommand, MetaState};
use crate::raft::{self, HeldGroup, RaftGroup};
use crate::state::NodeId;

/// Time between looks of the leader of `meta`.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// A group without leader for so long, of which a majority is lost, will not get one by itself.
const LEADERLESS_MIN: Duration = Duration::from_secs(3);
/// Time for a leader to show that it leads.
const PROOF_MAX: Duration = Duration::from_secs(1);
/// A node that may have a log, and does not serve, is not waited for any longer.
const ABSENT_MAX: Duration = Duration::from_secs(10);
/// A node that has not answered for so long is not where a group can begin.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// The beginnings of the groups that this start of the node belongs to; empty before it knows.
#[derive(Debug, Default)]
pub(super) struct Beginnings(RwLock<BTreeMap<GroupId, u64>>);

impl Beginnings {
    /// Which beginning of a group this start belongs to; 0 where that is not known yet.
    pub(super) fn of(&self, group: GroupId) -> u64 {
        self.0.read().get(&group).copied().unwrap_or_default()
    }

    fn are_known(&self) -> bool {
        !self.0.read().is_empty()
    }
}

/// What the leader of `meta` sees of a node.
#[derive(Clone, Copy, Debug)]
struct Sight {
    answers: bool,
    serves: bool,
    absent: Option<Duration>,
}

/// Where a group is to begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Begin {
    node: NodeId,
    /// Nobody can have any of its log.
    is_empty: bool,
}

impl<H: Host> Node<H> {
    /// From now on this start of the node belongs to the beginnings that `meta` tells of.
    pub(super) fn take_beginnings(&self) {
        let beginnings = beginnings(&self.directory().read());
        *self.membership.beginnings.0.write() = beginnings;
    }

    /// Whether this start of the node and one that asks belong to the same beginning of a group.
    pub(super) fn is_at_beginning(&self, group: GroupId, beginning: u64) -> bool {
        self.membership.beginnings.of(group) == beginning
    }

    /// Whether a group has begun anew since this node started.
    pub(super) fn is_of_the_past(&self, state: &MetaState) -> bool {
        let taken = self.membership.beginnings.0.read();
        !taken.is_empty() && beginnings(state) != *taken
    }

    /// Whether what this node sees of the groups is of their last beginnings.
    pub(super) fn is_of_now(&self) -> bool {
        self.membership.beginnings.are_known() && !self.is_of_the_past(&self.directory().read())
    }

    /// Waits until a group has begun anew since this node started.
    pub(super) async fn until_of_the_past(&self) {
        self.directory()
            .wait_for(|state| self.is_of_the_past(state).then_some(()))
            .await;
        tracing::warn!("a group that a majority has lost begins anew, and so does this node");
    }

    /// Groups of which this volume may lack the end of the log, with the beginnings that it has them of: those that are not
    /// synced, where the machine stopped uncleanly, unless what is stored is from after that.
    pub(super) fn lost_groups(&self) -> Result<BTreeMap<GroupId, u64>, StartError> {
        let mut lost = BTreeMap::new();
        if self.settings().machine_restarted {
            let file = &self.settings().beginnings;
            for group in Placement::groups().filter(|group| !Placement::is_synced(*group)) {
                let error = |error: VolumeError| stopped(group, &error);
                if !file.is_trusted(group).map_err(error)? {
                    lost.insert(group, file.read(group).map_err(error)?);
                }
            }
        }
        Ok(lost)
    }

    /// Brings what is stored of a group to the beginning that this start belongs to; what is of another one is of no use,
    /// except where the group is to go on from it.
    pub(super) async fn adopt_beginning(&self, group: GroupId) -> Result<(), StartError> {
        let file = &self.settings().beginnings;
        let beginning = self.membership.beginnings.of(group);
        let noted = file.read(group).map_err(|error| stopped(group, &error))?;
        if noted == beginning {
            return Ok(());
        }
        let begins_here = {
            let state = self.directory().read();
            let placed = state.placement(group);
            placed.is_some_and(|placed| placed.is_beginning() && placed.replicas == [self.this_node()])
        };
        if begins_here && self.has_stored(group) && !self.lost_groups()?.contains_key(&group) {
            tracing::warn!(
                group = Placement::name(group),
                "a majority has lost this group; it goes on with what this node has"
            );
            self.go_on_alone(group)
                .await
                .map_err(|error| stopped(group, &error))?;
        } else {
            self.forget(group).await.map_err(|error| stopped(group, &error))?;
        }
        file.write(group, beginning)
            .map_err(|error| stopped(group, &error))
    }

    /// Makes this node the only member of a group, whose replica does not run.
    async fn go_on_alone(&self, group: GroupId) -> std::io::Result<()> {
        let held = self.inspect(group).await?;
        let (log, address) = (self.parts().log.clone(), self.settings().address.clone());
        let node = self.this_node();
        let rewriting =
            tokio::task::spawn_blocking(move || raft::take_over(&*log, &held, node, &address, &[]));
        rewriting.await.map_err(std::io::Error::other)?
    }

    /// Lets groups begin anew that were here alone and whose log this node has lost: nobody else can.
    pub(super) async fn begin_own_lost_groups(&self) -> Result<(), StartError> {
        for group in self.lost_groups()?.into_keys() {
            let placed = self.directory().read().placement(group).cloned();
            let is_only = |placed: &GroupPlacement| placed.replicas == [self.this_node()];
            let Some(placed) = placed.filter(is_only) else {
                continue;
            };
            let held = match self.inspect(group).await {
                Ok(held) => held,
                Err(error) => {
                    // It is of no use anyway; whether others had it the leader of `meta` finds out.
                    let group = Placement::name(group);
                    tracing::warn!(group, %error, "what is stored of a group that was not synced cannot be read");
                    continue;
                }
            };
            if held.voters == BTreeSet::from([self.this_node()]) {
                let begin = MetaCommand::begin(&[(group, self.this_node(), placed.version)]);
                self.bring_about(&begin, |state| {
                    let now = state.placement(group)?;
                    (now.version > placed.version).then_some(())
                })
                .await;
            }
        }
        Ok(())
    }

    async fn inspect(&self, group: GroupId) -> std::io::Result<HeldGroup> {
        let parts = self.parts().clone();
        let inspecting = tokio::task::spawn_blocking(move || {
            let store = parts.checkpoints.store();
            raft::inspect(group, &*parts.log, &**store, &mut |_| ()).map_err(std::io::Error::other)
        });
        inspecting.await.map_err(std::io::Error::other)?
    }

    /// As the leader of `meta`: lets groups that cannot get a leader any more begin anew.
    pub(super) async fn run_beginnings(node: Weak<Self>) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Since when groups have no leader.
        let mut leaderless: BTreeMap<GroupId, Instant> = BTreeMap::new();
        loop {
            ticks.tick().await;
            let Some(node) = node.upgrade() else { return };
            match node.meta().filter(|meta| meta.is_leader()) {
                Some(meta) if node.is_of_now() => {
                    node.begin_lost_groups(meta, &mut leaderless).await;
                }
                _ => leaderless.clear(),
            }
        }
    }

    async fn begin_lost_groups(&self, meta: &RaftGroup, leaderless: &mut BTreeMap<GroupId, Instant>) {
        let unsynced = self.groups().filter(|group| !Placement::is_synced(group.id()));
        let lost = unsynced.filter(|group| self.begins_at(meta, group.id()).is_some());
        let lost = join_all(lost.map(|group| async { (group.id(), has_leader(group).await) }));
        let lost: BTreeMap<GroupId, bool> = lost.await.into_iter().collect();
        leaderless.retain(|group, _| lost.get(group) == Some(&false));
        let mut is_due = false;
        let mut begins = Vec::new();
        for (group, has_leader) in lost {
            let Some((begin, version)) = self.begins_at(meta, group) else {
                continue;
            };
            if !has_leader {
                let since = *leaderless.entry(group).or_insert_with(Instant::now);
                is_due |= begin.is_empty || since.elapsed() >= LEADERLESS_MIN;
            }
            begins.push((group, begin.node, version));
        }
        if !is_due {
            return;
        }
        // All at once: every node starts anew for it, also the leader of a group whose other replicas cannot vote yet.
        for (group, node, _) in &begins {
            tracing::error!(
                group = Placement::name(*group),
                node = node.0,
                "a majority of a group's replicas lost what was not synced; it begins anew"
            );
        }
        // What fails is found again in the next look.
        let _ = meta.propose(&MetaCommand::begin(&begins).encode()).await;
    }

    /// Where a group is to begin anew, should it have no leader, and the version of its placement.
    fn begins_at(&self, meta: &RaftGroup, group: GroupId) -> Option<(Begin, u64)> {
        let members = meta.status().members;
        let state = self.directory().read();
        let sight = |node: NodeId| {
            let heard = members.get(&node).and_then(|member| member.heard);
            Sight {
                answers: node == self.this_node() || heard.is_some_and(|heard| heard < SILENCE_MAX),
                serves: state.view().serving.contains_key(&node),
                absent: self.membership.absences.absent(node),
            }
        };
        let placed = state.placement(group)?;
        let leader = self.leader_of(group);
        let absent_max = ABSENT_MAX.min(self.replace_after());
        Some((
            begins_at(&state, group, placed, leader, absent_max, sight)?,
            placed.version,
        ))
    }

    /// Whether a group may get other places: not one that is about to begin anew, whose members nobody could change.
    pub(super) fn may_be_placed(&self, meta: &RaftGroup, group: GroupId) -> bool {
        Placement::is_synced(group) || self.begins_at(meta, group).is_none()
    }
}

/// Whether a group has a leader that shows it. A node that was voted for once is not known to live.
async fn has_leader<H: Host>(group: &Group<H>) -> bool {
    tokio::time::timeout(PROOF_MAX, group.ask_leader_for_index())
        .await
        .is_ok_and(|index| index.is_some())
}

fn beginnings(state: &MetaState) -> BTreeMap<GroupId, u64> {
    let begun = |group| Some((group, state.placement(group)?.begun));
    Placement::groups().filter_map(begun).collect()
}

/// Where a group is to begin anew, should it have no leader; `None` where it can get one by itself, or nobody answers.
fn begins_at(
    state: &MetaState,
    group: GroupId,
    placed: &GroupPlacement,
    leader: Option<NodeId>,
    absent_max: Duration,
    sight: impl Fn(NodeId) -> Sight,
) -> Option<Begin> {
    let is_member = |node: &NodeId| state.node(*node).is_some_and(|record| !record.removed);
    let has_lost = |node: &NodeId| {
        let record = state.node(*node);
        record.is_none_or(|record| record.removed || record.lost_groups.contains(&group))
    };
    let (lost, kept): (Vec<NodeId>, Vec<NodeId>) = placed.replicas.iter().copied().partition(has_lost);
    let may_come = |node: &&NodeId| {
        let sight = sight(**node);
        sight.answers || sight.absent.is_none_or(|absent| absent < absent_max)
    };
    let can_vote = kept.iter().filter(may_come).count();
    if lost.is_empty() || can_vote > placed.replicas.len() / 2 {
        return None;
    }
    let is_able = |node: &NodeId| is_member(node) && sight(*node).answers;
    let serving_first = |nodes: &mut dyn Iterator<Item = NodeId>| {
        let able: Vec<NodeId> = nodes.filter(is_able).collect();
        let serving = able.iter().find(|node| sight(**node).serves);
        serving.or(able.first()).copied()
    };
    let node = leader
        .filter(|leader| kept.contains(leader) && is_able(leader))
        .or_else(|| serving_first(&mut kept.iter().copied()))
        .or_else(|| serving_first(&mut lost.iter().copied()))
        .or_else(|| serving_first(&mut state.members().map(|(node, _)| node)))?;
    Some(Begin {
        node,
        is_empty: kept.is_empty(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::NodeIncarnation;

    const GROUP: GroupId = GroupId(17);

    /// How a node stands: what it says of its log, and what is seen of it.
    #[derive(Clone, Copy)]
    enum Stands {
        Kept,
        KeptAway(u64),
        Lost,
        LostAway,
        Removed,
    }
    use Stands::{Kept, KeptAway, Lost, LostAway, Removed};

    fn begins(nodes: &[Stands], serving: Option<u64>) -> Option<Begin> {
        let mut state = MetaState::default();
        let mut apply = |command: MetaCommand| state.apply(&command.encode()).unwrap();
        let numbered = || (1_u64..).zip(nodes);
        for (number, stands) in numbered() {
            let (volume, name) = ([u8::try_from(number).unwrap(); 16], format!("n{number}"));
            match number {
                1 => apply(MetaCommand::found(3, 1, volume, &name, "a")),
                _ => apply(MetaCommand::join(volume, &name, "a")),
            }
            let lost = match stands {
                Lost | LostAway => BTreeMap::from([(GROUP, 1)]),
                Kept | KeptAway(_) | Removed => BTreeMap::new(),
            };
            apply(MetaCommand::register(
                NodeId(number),
                NodeIncarnation(1),
                "a",
                &lost,
                crate::meta::FEATURE_LEVEL,
            ));
        }
        let replicas: Vec<NodeId> = numbered().take(3).map(|(number, _)| NodeId(number)).collect();
        apply(MetaCommand::place(GROUP, &replicas, 0));
        for (number, _) in numbered().filter(|(_, stands)| matches!(stands, Removed)) {
            apply(MetaCommand::remove(NodeId(number)));
        }
        let placed = state.placement(GROUP).unwrap();
        begins_at(&state, GROUP, placed, None, ABSENT_MAX, |node| {
            let stands = nodes[usize::try_from(node.0).unwrap() - 1];
            let serves = serving == Some(node.0);
            Sight {
                answers: matches!(stands, Kept | Lost),
                serves,
                absent: match stands {
                    KeptAway(secs) => Some(Duration::from_secs(secs)),
                    _ => (!serves).then_some(Duration::from_secs(60)),
                },
            }
        })
    }

    fn at(node: u64) -> Option<Begin> {
        let node = NodeId(node);
        Some(Begin {
            node,
            is_empty: false,
        })
    }

    fn empty_at(node: u64) -> Option<Begin> {
        let node = NodeId(node);
        Some(Begin { node, is_empty: true })
    }

    #[test]
    fn r41_a_group_begins_anew_where_a_majority_cannot_vote_any_more() {
        assert_eq!(begins(&[Kept, Kept, Kept], None), None);
        assert_eq!(begins(&[Lost, Kept, Kept], None), None);
        assert_eq!(begins(&[Lost, Lost, Lost], None), empty_at(1));
        assert_eq!(begins(&[Lost, Lost], None), empty_at(1));
        // Who kept its log goes on with it.
        assert_eq!(begins(&[Lost, Lost, Kept], Some(1)), at(3));
        assert_eq!(begins(&[Lost, Kept], None), at(2));
        // Of those who lost it, one that serves.
        assert_eq!(begins(&[LostAway, Lost, Lost], Some(3)), empty_at(3));
    }

    #[test]
    fn r41_a_node_that_may_come_back_with_its_log_is_waited_for() {
        assert_eq!(begins(&[Lost, Kept, KeptAway(9)], None), None);
        assert_eq!(begins(&[Lost, Kept, KeptAway(11)], None), at(2));
        // It could not be elected with them.
        assert_eq!(begins(&[Lost, Lost, KeptAway(0)], None), at(1));
        // Where nobody lost anything that was not synced, a majority comes back in time.
        assert_eq!(begins(&[Kept, KeptAway(60), KeptAway(60)], None), None);
        assert_eq!(begins(&[Lost, Removed, Kept], None), at(3));
    }

    #[test]
    fn r41_where_no_replica_answers_the_group_begins_at_another_node() {
        assert_eq!(begins(&[LostAway, LostAway, LostAway, Kept], None), empty_at(4));
        assert_eq!(begins(&[LostAway, LostAway, LostAway], None), None);
    }
}
