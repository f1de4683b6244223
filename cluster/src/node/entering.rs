//! How a start of a node comes into the cluster: it registers, waits for as many members as are asked for, catches up
//! with every group, and enters the view.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use quorate_storage::volume::{StartsFile, VolumeError};

use super::placement::META;
use super::start::{StartError, stopped};
use super::{Host, Node};
use crate::meta::{FEATURE_LEVEL, MetaCommand};
use crate::state::{Command, NodeIncarnation};

impl<H: Host> Node<H> {
    /// Tells the cluster that this start of the node has begun (R25, R46).
    pub(super) async fn register(&self) -> Result<(), StartError> {
        let (node, incarnation) = (self.settings().node, self.settings().incarnation);
        let address = &self.settings().address.0;
        let lost = self.lost_groups()?;
        let lineage = self.lineage();
        let command = MetaCommand::register(node, incarnation, address, &lost, FEATURE_LEVEL);
        let command = command.with_lineage(&lineage);
        // First: whether it was taken is known only when somebody says so.
        self.note_start(|starts| starts.note_offered()).await?;
        // It may take hours until enough others are there.
        let command = || {
            command
                .clone()
                .with_time_by_wall(self.noted_clock().time_by_wall())
        };
        let removed = Err(StartError::Refused("it was removed from the cluster for good"));
        let registered = self.bring_about_as_of(command, |state| {
            let record = state.node(node)?;
            if state.feature_level() > FEATURE_LEVEL {
                return Some(Err(StartError::Refused(
                    "the cluster uses features of a later version than this program's: install that version",
                )));
            }
            if record.removed {
                return Some(Err(StartError::Refused(
                    "it was removed from the cluster for good",
                )));
            }
            if record.shows_a_copy(&lineage) {
                return Some(Err(StartError::CopiedVolume));
            }
            if record.incarnation == incarnation && record.ended {
                return Some(Err(StartError::Ended));
            }
            (record.incarnation == incarnation && record.address == *address).then_some(Ok(()))
        });
        // A node that was removed is a member of no group any more, so its own replica of meta never says so; nor does that
        // of a copy, with which nobody talks.
        tokio::select! {
            registered = registered => registered,
            () = self.until_others_have_removed_it() => removed,
            () = self.transport().until_called_a_copy() => Err(StartError::CopiedVolume),
        }?;
        let incarnation = incarnation.0;
        self.note_start(move |starts| starts.note_accepted(incarnation))
            .await
    }

    /// Notes something of this start on the volume.
    async fn note_start(
        &self,
        note: impl FnOnce(&StartsFile) -> Result<(), VolumeError> + Send + 'static,
    ) -> Result<(), StartError> {
        let starts = self.settings().starts.clone();
        let noted = tokio::task::spawn_blocking(move || note(&starts)).await;
        noted
            .map_err(|error| stopped(META, &error))?
            .map_err(StartError::Volume)
    }

    /// A new cluster does not serve before as many nodes have come as were asked for.
    pub(super) async fn wait_for_members(&self) {
        self.directory()
            .wait_for(|state| {
                let ever_served = state.view().number > 0;
                let members = state.members().filter(|(_, record)| record.incarnation.0 > 0);
                (ever_served || members.count() >= state.bootstrap_expect() as usize).then_some(())
            })
            .await;
        let wanted = {
            let state = self.directory().read();
            match state.view().number {
                0 => state.bootstrap_expect().min(state.replication_factor()) as usize,
                _ => 1,
            }
        };
        // This node is one of those whose disks count, and at first there are enough of them.
        for group in self.groups() {
            let is_voter = || {
                let Some(replica) = group.replica() else {
                    // Others have it.
                    return (!self.is_placed_here(group.id())).then_some(());
                };
                if !self.is_placed_here(group.id()) {
                    return Some(());
                }
                let members = replica.status().members;
                let voters = members.values().filter(|member| member.voter).count();
                let votes = members.get(&self.settings().node)?.voter;
                (votes && voters >= wanted).then_some(())
            };
            while is_voter().is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Applies everything that is committed now, in every group; the end of this node's last start among it (R25).
    pub(super) async fn catch_up(&self) {
        let last = self
            .settings()
            .incarnation
            .0
            .checked_sub(1)
            .filter(|last| *last > 0);
        let lost = last.map(|last| Command::NodeLost {
            node: self.settings().node,
            incarnation: NodeIncarnation(last),
        });
        let lost = &lost;
        let ends = self.groups().map(|group| async move {
            group.pass_barrier().await;
            if let Some(lost @ Command::NodeLost { node, incarnation }) = lost
                && !group.state().is_lost(*node, *incarnation)
            {
                group.propose_and_wait(lost).await;
            }
        });
        join_all(ends).await;
    }

    /// Comes into the view and waits for the first lease.
    pub(super) async fn enter(self: &Arc<Self>) -> Result<(), StartError> {
        let (node, incarnation) = (self.settings().node, self.settings().incarnation);
        let command = MetaCommand::enter(node, incarnation);
        let entered = self.bring_about(&command, |state| {
            let record = state.node(node)?;
            if record.incarnation > incarnation || record.ended {
                return Some(Err(StartError::Ended));
            }
            state.view().holds(node, incarnation).then_some(Ok(()))
        });
        entered.await?;
        // At once: a start in the view that asks for no lease is taken for lost, however slow its disk is.
        self.spawn(Self::run_lease(Arc::downgrade(self)));
        self.noted_clock().begin();
        self.noted_clock().note(false).await;
        let lease = self.serving_lease();
        while !lease.is_held() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}
