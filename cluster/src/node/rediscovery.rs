//! How a node that belongs to a cluster finds the others again, when they have all moved.
//!
//! Where a whole cluster starts anew its nodes may have other addresses than the ones that each has stored, and without
//! a leader nobody can store new ones. A node that knows no leader of `meta` asks its seeds, which are resolved anew
//! each time, who they are. Cluster and node have to be the same; where the node is reached from then on is what it says
//! itself, and the hello of each connection still decides whether it is the one.
//!
//! A node that is fine asks too, now and then: a seed of another cluster under the same name is a mistake that an
//! operator wants to know of. Nothing comes of it but a line in the log: clusters do not merge.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::peers::proto::{self, DiscoverAnswer, DiscoverRequest};
use super::placement::META;
use super::seeds::{SeedAddress, SeedService, resolve};
use super::{Host, Node};
use crate::raft::{NodeAddress, Transport};
use crate::state::{NodeId, NodeIncarnation};

/// Time between looks, and between questions while no leader is known.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Without a leader for so long a node asks its seeds: longer than an election takes.
const LEADERLESS_MAX: Duration = Duration::from_secs(2);
/// Time between questions of a node that is fine.
const FINE_INTERVAL: Duration = Duration::from_secs(60);

/// What seeds have been told of in the log.
#[derive(Default)]
struct Told(BTreeSet<(String, String)>);

impl Told {
    /// Once for each seed and reason; seeds are few, and their addresses may change.
    fn warn(&mut self, seed: &SeedAddress, reason: String) {
        const TOLD_MAX: usize = 100;
        if self.0.len() >= TOLD_MAX {
            self.0.clear();
        }
        if self.0.insert((seed.address.clone(), reason.clone())) {
            tracing::warn!(seed = seed.address, reason, "a seed is not of this cluster");
        }
    }
}

impl SeedService {
    /// Asks the seeds for as long as the node runs.
    pub async fn keep_in_touch<H: Host>(self: Arc<Self>, node: Weak<Node<H>>) {
        let mut told = Told::default();
        let mut led = Instant::now();
        let mut asked: Option<Instant> = None;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let Some(node) = node.upgrade() else { return };
            if node.leader_of(META).is_some() {
                led = Instant::now();
            }
            let lost = led.elapsed() >= LEADERLESS_MAX;
            if !lost && asked.is_some_and(|at| at.elapsed() < FINE_INTERVAL) {
                continue;
            }
            asked = Some(Instant::now());
            for (seed, answer) in self.ask_all(node.membership_question()).await {
                match answer {
                    Ok(answer) => {
                        if let Err(reason) = node.heard(&answer, lost) {
                            told.warn(&seed, reason);
                        }
                    }
                    Err(reason) => tracing::debug!(seed = seed.address, reason, "a seed does not answer"),
                }
            }
        }
    }

    async fn ask_all(
        &self,
        mut request: DiscoverRequest,
    ) -> Vec<(SeedAddress, Result<DiscoverAnswer, String>)> {
        request.cluster_name.clone_from(&self.settings().cluster_name);
        let (seeds, unresolved) = resolve(&self.settings().seeds).await;
        for (seed, reason) in unresolved {
            tracing::debug!(seed, reason, "a seed cannot be resolved");
        }
        let asking = seeds.into_iter().map(|seed| {
            let request = request.clone();
            async move {
                let answer = self.ask(&seed, request).await;
                (seed, answer)
            }
        });
        futures_util::future::join_all(asking).await
    }
}

impl<H: Host> Node<H> {
    /// Asks who is there, saying who this is.
    fn membership_question(&self) -> DiscoverRequest {
        DiscoverRequest {
            cluster: self.transport().identity().cluster.to_be_bytes().to_vec().into(),
            member: Some(self.this_member()),
            ..DiscoverRequest::default()
        }
    }

    /// This node as it describes itself.
    pub(super) fn this_member(&self) -> proto::Member {
        let settings = self.settings();
        proto::Member {
            node: settings.node.0,
            incarnation: settings.incarnation.0,
            address: settings.address.0.clone(),
            name: settings.name.clone(),
        }
    }

    /// What a seed says. Addresses are taken from it while no leader is known; an error is worth telling.
    fn heard(&self, answer: &DiscoverAnswer, lost: bool) -> Result<(), String> {
        let ours = self.transport().identity().cluster.to_be_bytes();
        if answer.cluster.is_empty() && answer.candidates.is_empty() {
            return Err(format!("it is of the cluster {:?}", answer.cluster_name));
        }
        if !answer.cluster.is_empty() && answer.cluster[..] != ours {
            return Err(
                "it belongs to another cluster of the same name; clusters do not merge: check cluster.join"
                    .to_owned(),
            );
        }
        if lost {
            for member in answer.answering.iter().chain(&answer.members) {
                self.learn(member);
            }
        }
        Ok(())
    }

    /// A member that asks says where it is; that counts where nothing better is known.
    pub(super) fn asked_by(&self, cluster: &[u8], member: &proto::Member) {
        let ours = self.transport().identity().cluster.to_be_bytes();
        if *cluster == ours && self.leader_of(META).is_none() {
            self.learn(member);
        }
    }

    pub(super) fn learn(&self, member: &proto::Member) {
        let node = NodeId(member.node);
        let transport: &Arc<Transport> = self.transport();
        let incarnation = NodeIncarnation(member.incarnation);
        let recorded = self
            .directory()
            .read()
            .node(node)
            .map(|record| (record.removed, record.incarnation, record.start));
        let is_member = match recorded {
            Some((removed, ..)) => !removed,
            None => self.membership.known.contains(&node),
        };
        if node == self.this_node() || !is_member || member.address.is_empty() {
            return;
        }
        if let Some((_, recorded, start)) = recorded {
            transport.record_start(node, recorded, start);
        }
        if !transport.may_be_at(node, incarnation) {
            tracing::debug!(
                node = node.0,
                start = incarnation.0,
                "a node cannot be at that start"
            );
            return;
        }
        let address = NodeAddress(member.address.clone());
        if transport.set_address(node, incarnation, &address) {
            tracing::info!(node = node.0, address = address.0, "a node is at another address");
        }
    }
}
