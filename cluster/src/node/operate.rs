//! What an operator asks of the cluster: drain a node, remove it. Unsafe requests are refused with the reason.

use std::time::{Duration, Instant};

use super::report::Hold;
use super::{Host, Node};
use crate::meta::MetaCommand;
use crate::state::NodeId;

/// How long the cluster may take to carry a command out.
const CARRY_OUT_MAX: Duration = Duration::from_secs(5);
/// How long a group may be without leader, or short of members that answer, before that counts.
const SETTLE_MAX: Duration = Duration::from_secs(3);
/// Time between looks meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Why the cluster does not do what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperationRefused {
    /// There is no such node.
    #[error("the cluster has no node {}", .0.0)]
    UnknownNode(NodeId),
    /// It was removed before.
    #[error("the node was removed from the cluster already")]
    Removed,
    /// It is up.
    #[error("the node serves; drain it first: quorate ctl node drain NODE --remove")]
    Serves,
    /// It is up and does not serve.
    #[error("the node does not serve, but it is up; stop it first, or force its removal")]
    Up,
    /// No other node serves.
    #[error("no other node serves that its clients could go to")]
    NobodyElse,
    /// It is the last one.
    #[error("it is the last node of the cluster")]
    LastNode,
    /// A group would be without a majority.
    #[error("{0}")]
    Held(Hold),
    /// The cluster did not carry it out in time.
    #[error("the cluster's membership group did not carry it out in time; it may yet")]
    Unknown,
}

impl<H: Host> Node<H> {
    /// Has a node lose its clients, and where it `leaves` also its place in the cluster, for good.
    ///
    /// # Errors
    /// See [`OperationRefused`]; only `Unknown` leaves open whether it happens.
    pub async fn drain_node(&self, node: NodeId, leaves: bool) -> Result<(), OperationRefused> {
        self.check_member(node)?;
        {
            let state = self.directory().read();
            let stays =
                |other: &NodeId| *other != node && state.node(*other).is_some_and(|record| !record.draining);
            let active = state.view().serving.iter().filter(|(_, serving)| serving.active);
            let somebody_serves = active.map(|(other, _)| other).any(stays);
            if leaves && state.members().count() == 1 {
                return Err(OperationRefused::LastNode);
            }
            if !somebody_serves {
                return Err(OperationRefused::NobodyElse);
            }
        }
        if leaves {
            self.check_goes_on_without(node, false).await?;
        }
        let command = MetaCommand::set_draining(node, true, leaves);
        self.carry_out(
            &command,
            move |node_is| node_is.draining && node_is.leaving == leaves,
            node,
        )
        .await
    }

    /// Takes a drain back.
    ///
    /// # Errors
    /// See [`OperationRefused`].
    pub async fn cancel_drain(&self, node: NodeId) -> Result<(), OperationRefused> {
        self.check_member(node)?;
        let command = MetaCommand::set_draining(node, false, false);
        self.carry_out(&command, |node_is| !node_is.draining, node).await
    }

    /// Removes a node that is down, for good. `force` is for one that is up and does not serve; no acknowledged message
    /// can be lost by either.
    ///
    /// # Errors
    /// See [`OperationRefused`].
    pub async fn remove_node(&self, node: NodeId, force: bool) -> Result<(), OperationRefused> {
        self.check_member(node)?;
        {
            let state = self.directory().read();
            if state.members().count() == 1 {
                return Err(OperationRefused::LastNode);
            }
            if state.view().serving.contains_key(&node) {
                return Err(OperationRefused::Serves);
            }
        }
        self.check_goes_on_without(node, !force).await?;
        self.carry_out(&MetaCommand::remove(node), |record| record.removed, node)
            .await
    }

    /// Whether every group goes on without a node; where it `has_to_be_down`, also whether it is. A group that is about to
    /// elect, and a node that has not answered for a moment, get the time that takes.
    async fn check_goes_on_without(
        &self,
        node: NodeId,
        has_to_be_down: bool,
    ) -> Result<(), OperationRefused> {
        let since = Instant::now();
        loop {
            let report = self.cluster_report().await;
            if has_to_be_down && report.nodes.contains_key(&node) {
                return Err(OperationRefused::Up);
            }
            match report.hold_without(node) {
                None => return Ok(()),
                Some(hold) if since.elapsed() >= SETTLE_MAX => return Err(OperationRefused::Held(hold)),
                Some(_) => tokio::time::sleep(LOOK_INTERVAL).await,
            }
        }
    }

    fn check_member(&self, node: NodeId) -> Result<(), OperationRefused> {
        match self.directory().read().node(node) {
            None => Err(OperationRefused::UnknownNode(node)),
            Some(record) if record.removed => Err(OperationRefused::Removed),
            Some(_) => Ok(()),
        }
    }

    async fn carry_out(
        &self,
        command: &MetaCommand,
        is_done: impl Fn(&crate::meta::NodeRecord) -> bool,
        node: NodeId,
    ) -> Result<(), OperationRefused> {
        let done = self.bring_about(command, |state| {
            state.node(node).is_some_and(&is_done).then_some(())
        });
        let done = tokio::time::timeout(CARRY_OUT_MAX, done).await;
        done.map_err(|_| OperationRefused::Unknown)
    }
}
