//! Which replicas this node has: begins and ends them as `meta` places the groups.
//!
//! A replica that comes to a running node catches up while the node still follows another one, and takes over when it
//! knows as much. One that goes serves until the group has let it go and another one is followed; then what it had is
//! deleted. So what the node routes by never goes back.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use quorate_storage::log::{GroupId, SyncPolicy};

use super::group::Standing;
use super::replica::Replica;
use super::start::{StartError, stopped};
use super::{Group, GroupKind, Host, Node, Placement};
use crate::meta::GroupPlacement;
use crate::raft::{self, GroupRole, RaftGroup};

/// Time between looks at where the groups are to be.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long one step of a replica's coming may take before it is tried again.
const STEP_MAX: Duration = Duration::from_secs(2);

impl<H: Host> Node<H> {
    /// Starts this node's replicas, as soon as it is said where they are, and follows those of the other groups.
    pub(super) async fn start_groups(self: &Arc<Self>) -> Result<(), StartError> {
        self.directory()
            .wait_for(|state| {
                let mut placements = Placement::groups().map(|group| state.placement(group));
                placements.all(|placed| placed.is_some()).then_some(())
            })
            .await;
        self.begin_own_lost_groups().await?;
        self.take_beginnings();
        let starts = self.groups().map(|group| async {
            self.prepare_replica(group.id()).await?;
            // What is no longer placed here has to leave its group first.
            if self.is_placed_here(group.id()) || self.has_stored(group.id()) {
                group.stand_on(Standing::Replica);
                self.start_replica(group).await
            } else {
                group.following.want(true);
                Ok(false)
            }
        });
        let mut alone = true;
        for started in join_all(starts).await {
            alone &= started?;
        }
        let times = self.groups().map(|group| group.state().group_time());
        let last = times.max().unwrap_or_default();
        self.noted_clock().resume(last, alone);
        for group in self.groups() {
            self.spawn(group.clone().run_proposer());
            self.spawn(group.clone().run_barrier());
            self.spawn(group.clone().run_attendant());
            self.spawn(group.clone().run_recalls());
            self.spawn(group.clone().run_timers());
            self.spawn(group.clone().run_wills(Arc::downgrade(self)));
            self.spawn(group.clone().run_outbox(Arc::downgrade(self)));
            self.spawn(group.clone().run_follower(self.directory().clone()));
            self.spawn_leadership(group);
            if Placement::kind(group.id()) == GroupKind::Data {
                // A task of its own: it waits for other groups.
                self.spawn(group.clone().run_live_wills(Arc::downgrade(self)));
            }
        }
        self.spawn(Self::run_replicas(Arc::downgrade(self)));
        self.spawn(Self::run_filled(Arc::downgrade(self), self.unstored.clone()));
        Ok(())
    }

    /// Once for each replica: two tasks would begin the leader's duties twice.
    fn spawn_leadership(&self, group: &Arc<Group<H>>) {
        if let Some(replica) = group.replica() {
            self.spawn(group.clone().run_leadership(replica));
        }
    }

    /// Whether this node is to have a replica of the group.
    pub(super) fn is_placed_here(&self, group: GroupId) -> bool {
        let state = self.directory().read();
        let placed = state.placement(group);
        placed.is_some_and(|placed| placed.replicas.contains(&self.this_node()))
    }

    pub(super) fn has_stored(&self, group: GroupId) -> bool {
        let stored = self.parts().log.state(group);
        stored.last.is_some() || stored.purged.is_some()
    }

    /// Starts a group's replica; whether this node is its only member, and it is up to date then.
    async fn start_replica(&self, group: &Arc<Group<H>>) -> Result<bool, StartError> {
        let id = group.id();
        let at_start = group.standing() == Standing::Replica;
        let had_stored = self.has_stored(id);
        let (is_only, is_first) = {
            let state = self.directory().read();
            let placed = state.placement(id);
            let is_only = placed.is_some_and(|placed| placed.replicas == [self.this_node()]);
            (is_only, placed.is_some_and(GroupPlacement::is_beginning))
        };
        let mut settings = raft::GroupSettings {
            log_entries_to_keep: self.settings().log_entries_to_keep,
            beginning: self.membership.beginnings.of(id),
            ..raft::GroupSettings::new(id)
        };
        // Where it is placed here alone and never was elsewhere there is nobody to get it from.
        let creates = at_start && is_only && is_first;
        if !Placement::is_synced(id) {
            settings.sync = SyncPolicy::Written;
            // What a replica that came later has is of this run of the machine.
            if at_start && self.lost_groups()?.contains_key(&id) {
                settings.distrust_log = !creates;
                self.forget(id).await.map_err(|error| stopped(id, &error))?;
            }
        }
        if Placement::kind(id) == GroupKind::Live && at_start && is_only && (is_first || had_stored) {
            group.store_nothing().map_err(|error| stopped(id, &error))?;
        }
        let stored = self.parts().checkpoints.store().load(id);
        let stored = stored.map_err(|error| stopped(id, &error))?;
        let raft = RaftGroup::start(&settings, self.parts(), Replica::new(group.clone()))
            .await
            .map_err(|error| StartError::Group { group: id.0, error })?;
        self.watch_replica(&raft);
        if let Some((position, _)) = stored
            && group.is_stored_in_part()
        {
            // The state begins there: no other replica is to have what is before it from the log.
            raft.purge(position.index)
                .await
                .map_err(|error| stopped(id, &error))?;
        }
        if creates {
            raft.initialize_single(self.settings().address.clone())
                .await
                .map_err(|error| stopped(id, &error))?;
        }
        let members = raft.status().members;
        let mut voters = members.iter().filter(|(_, member)| member.voter);
        let is_alone =
            voters.next().is_some_and(|(node, _)| *node == self.this_node()) && voters.next().is_none();
        if is_alone {
            raft.wait_for_leader()
                .await
                .map_err(|error| stopped(id, &error))?;
            // Everything in the log is applied: group time goes on from its last stamp.
            raft.ensure_linearizable()
                .await
                .map_err(|error| stopped(id, &error))?;
        }
        group.set_replica(Some(raft));
        Ok(is_alone)
    }

    /// Deletes what this node has stored of a group: of one that is not synced, after the machine stopped uncleanly
    /// (R41), or of one that is placed elsewhere.
    pub(super) async fn forget(&self, group: GroupId) -> std::io::Result<()> {
        let (done, result) = tokio::sync::oneshot::channel();
        self.parts()
            .log
            .reset(group, Box::new(move |result| drop(done.send(result))));
        result
            .await
            .unwrap_or_else(|_| Err(std::io::Error::other("the log has stopped")))?;
        self.parts().checkpoints.forget(group)
    }

    /// Deletes what is stored of a group and is of no use to its replica here.
    async fn prepare_replica(&self, group: GroupId) -> Result<(), StartError> {
        self.forget_remains(group).await?;
        self.adopt_beginning(group).await
    }

    /// Deletes the state of a replica that has gone and whose log was deleted before the node stopped: a replica that
    /// began with it would miss its log.
    pub(super) async fn forget_remains(&self, group: GroupId) -> Result<(), StartError> {
        let remains =
            || Ok(!self.has_stored(group) && self.parts().checkpoints.store().load(group)?.is_some());
        let result: std::io::Result<()> = match remains() {
            Ok(true) => self.forget(group).await,
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        result.map_err(|error| stopped(group, &error))
    }

    /// The task that brings the replicas of a running node to where the groups are placed.
    async fn run_replicas(node: Weak<Self>) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(node) = node.upgrade() else { return };
            join_all(node.groups().map(|group| node.settle_replica(group))).await;
        }
    }

    /// One step towards the replica that this node is to have of a group, or none.
    async fn settle_replica(self: &Arc<Self>, group: &Arc<Group<H>>) {
        match (self.is_placed_here(group.id()), group.replica(), group.standing()) {
            (true, None, Standing::Feed | Standing::Nothing) => {
                let name = Placement::name(group.id());
                let started = match self.prepare_replica(group.id()).await {
                    Ok(()) => self.start_replica(group).await,
                    Err(error) => Err(error),
                };
                match started {
                    Ok(_) => {
                        tracing::info!(group = name, "this node gets a replica");
                        self.spawn_leadership(group);
                    }
                    Err(error) => self.host().fatal(error.to_string()),
                }
            }
            (true, Some(replica), Standing::Feed | Standing::Nothing) => {
                let catching_up = group.catch_up_replica(&replica);
                let has_caught_up = tokio::time::timeout(STEP_MAX, catching_up).await == Ok(true);
                if has_caught_up && group.take_over(&replica) {
                    tracing::info!(
                        group = Placement::name(group.id()),
                        "this node's replica has caught up"
                    );
                }
            }
            // A group that placed its replica here again goes on with it.
            (true, Some(_), Standing::Replica) => group.following.want(false),
            (false, Some(replica), Standing::Replica) => group.following.want(!replica.is_leader()),
            (false, Some(replica), Standing::Feed) if group.following.excludes(self.this_node()) => {
                let asked = tokio::time::timeout(STEP_MAX, self.is_let_go(group));
                if asked.await == Ok(true) {
                    self.end_replica(group, &replica).await;
                }
            }
            _ => {}
        }
    }

    /// Whether the group has no use for this node's replica any more: its leader says so, and led all the time between two
    /// answers, so no vote of this node can count in either of two configurations.
    async fn is_let_go(&self, group: &Group<H>) -> bool {
        let this = self.this_node();
        let Some(leader) = group.known_leader().filter(|leader| *leader != this) else {
            return false;
        };
        let ask = || async {
            let report = self.ask_report(leader).await.ok()?;
            let replica = report.groups.into_iter().find(|of| of.group == group.id())?;
            let is_member = replica.members.iter().any(|member| member.node == this);
            (replica.role == GroupRole::Leader && !is_member).then_some(replica.term)
        };
        let Some(term) = ask().await else {
            return false;
        };
        let shows_that_it_leads = self.peers().read_index(leader, group.id()).await.is_ok();
        shows_that_it_leads && ask().await == Some(term)
    }

    /// The group goes on without this node's replica.
    async fn end_replica(&self, group: &Group<H>, replica: &RaftGroup) {
        replica.shutdown().await;
        group.set_replica(None);
        if let Err(error) = self.forget(group.id()).await {
            self.host()
                .fatal(format!("{}: {error}", Placement::name(group.id())));
            return;
        }
        group.forget_state();
        group.stores_all();
        tracing::info!(
            group = Placement::name(group.id()),
            "this node's replica has gone elsewhere"
        );
    }
}

impl<H: Host> Group<H> {
    /// Waits until a new replica knows what the group has committed by now; false where that cannot be known.
    async fn catch_up_replica(&self, replica: &RaftGroup) -> bool {
        let Ok(leader) = self.leader().await else {
            return false;
        };
        let index = match leader == self.settings.node {
            true => self.read_index().await,
            false => self.peers.read_index(leader, self.id()).await.ok(),
        };
        let Some(index) = index else { return false };
        replica.reached(index).await;
        true
    }

    /// This node goes on with its own replica, if that knows as much as it was told.
    fn take_over(&self, replica: &RaftGroup) -> bool {
        let _nothing_is_applied = self.applying.lock();
        if self.standing() == Standing::Replica || replica.applied_index() < self.known_index() {
            return false;
        }
        let withdrawn = self.following.end();
        self.host.handle_events(self.id(), &withdrawn);
        self.stand_on(Standing::Replica);
        self.announce();
        self.following.want(false);
        self.complete_loaded();
        self.attend.notify_one();
        true
    }
}
