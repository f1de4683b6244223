//! How a node without a cluster finds one.
//!
//! It asks its seeds again and again. One that belongs to a cluster takes it in. As long as none does, nodes that ask
//! each other learn of each other; when one with the smallest name sees as many as are expected, all of whom belong to
//! no cluster, it founds one alone, and the others find it. So there is one way in, for the second node as for the
//! hundredth. A node that has belonged to a cluster never founds another.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::peers::proto::seed_client::SeedClient;
use super::peers::proto::seed_server::{Seed, SeedServer};
use super::peers::proto::{self, DiscoverAnswer, DiscoverRequest, JoinAnswer, JoinRequest};
use super::{Host, Node};
use crate::meta::MetaCommand;
use crate::raft::{self, NodeAddress, PeerTls};
use crate::state::NodeId;

/// Time between rounds of questions.
const ROUND_INTERVAL: Duration = Duration::from_millis(250);
/// Time for one question.
const ASK_MAX: Duration = Duration::from_secs(2);
/// Time for a cluster to take a node in.
const JOIN_MAX: Duration = Duration::from_secs(10);
/// A candidate that was not heard of for so long does not count.
const CANDIDATE_MAX: Duration = Duration::from_secs(3);
/// Time between lines in the log while nothing is found.
const TELL_INTERVAL: Duration = Duration::from_secs(10);
/// Time before the first of them.
const FIRST_TELL: Duration = Duration::from_secs(2);

/// Who a node is to its seeds.
#[derive(Clone, Debug)]
pub struct SeedSettings {
    /// Name of the cluster.
    pub cluster_name: String,
    /// Name of the node.
    pub node_name: String,
    /// Number of its volume.
    pub volume: [u8; 16],
    /// Where the other nodes reach it.
    pub address: String,
    /// Whom to ask: `host:port`, resolved anew in every round.
    pub seeds: Vec<String>,
    /// Nodes that have to see each other before one founds a cluster; `None` never founds one.
    pub bootstrap_expect: Option<u32>,
}

/// What a node without a cluster has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nobody has one: this node founds it.
    Nothing,
    /// A cluster has taken it in.
    Cluster {
        /// Number of the cluster.
        cluster: [u8; 16],
        /// This node's identifier.
        node: NodeId,
        /// Where its nodes are.
        members: Vec<(NodeId, NodeAddress)>,
    },
}

/// No cluster can be found or founded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// A seed belongs to a cluster of another name.
    #[error(
        "{seed} belongs to the cluster {theirs:?}, this node to {ours:?}; check cluster.name and cluster.join"
    )]
    OtherCluster {
        /// The seed.
        seed: String,
        /// Its cluster's name.
        theirs: String,
        /// The name in this node's configuration.
        ours: String,
    },
    /// A cluster does not take this node in.
    #[error("{seed} does not take this node in: {reason}")]
    Refused {
        /// Who was asked.
        seed: String,
        /// Why not.
        reason: String,
    },
}

type Candidates = BTreeMap<Vec<u8>, (proto::Candidate, Instant)>;

/// Answers nodes that look for a cluster.
pub struct SeedService {
    settings: SeedSettings,
    candidates: Mutex<Candidates>,
    cluster: OnceLock<Arc<dyn Gatekeeper>>,
    tls: Option<Arc<PeerTls>>,
}

impl std::fmt::Debug for SeedService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SeedService")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// A cluster that can take nodes in.
#[tonic::async_trait]
trait Gatekeeper: Send + Sync + 'static {
    fn cluster(&self) -> [u8; 16];
    fn this(&self) -> proto::Member;
    fn members(&self) -> Vec<proto::Member>;
    /// A member of a cluster has asked.
    fn asked_by(&self, cluster: &[u8], member: &proto::Member);
    /// The identifier of the node of a volume.
    async fn take_in(&self, volume: [u8; 16], name: &str, address: &str) -> Option<NodeId>;
}

#[tonic::async_trait]
impl<H: Host> Gatekeeper for Node<H> {
    fn cluster(&self) -> [u8; 16] {
        self.transport().identity().cluster.to_be_bytes()
    }

    fn members(&self) -> Vec<proto::Member> {
        let state = self.directory().read();
        let members = state.members().map(|(node, record)| proto::Member {
            node: node.0,
            incarnation: record.incarnation.0,
            address: record.address.clone(),
            name: record.name.clone(),
        });
        members.collect()
    }

    fn this(&self) -> proto::Member {
        self.this_member()
    }

    fn asked_by(&self, cluster: &[u8], member: &proto::Member) {
        Node::asked_by(self, cluster, member);
    }

    async fn take_in(&self, volume: [u8; 16], name: &str, address: &str) -> Option<NodeId> {
        let join = MetaCommand::join(volume, name, address);
        let known = {
            let state = self.directory().read();
            let mut members = state.members();
            let known = members.find(|(_, record)| record.name == name && record.volume != volume);
            known.map(|(node, _)| node)
        };
        let taken = self.bring_about(&join, |state| state.node_of_volume(volume));
        let node = tokio::time::timeout(JOIN_MAX, taken).await.ok()?;
        if let Some(replaced) = known {
            tracing::warn!(
                name,
                address,
                node = node.0,
                replaced = replaced.0,
                "a node has come with an empty data directory under the name of one that does not serve; it replaces that \
                 one for good, and gets everything from the others"
            );
        }
        Some(node)
    }
}

impl SeedService {
    /// A service that belongs to no cluster; with `tls` it asks others only over TLS.
    pub fn new(settings: SeedSettings, tls: Option<Arc<PeerTls>>) -> Arc<Self> {
        Arc::new(Self {
            tls,
            settings,
            candidates: Mutex::default(),
            cluster: OnceLock::new(),
        })
    }

    /// The node belongs to a cluster from now on.
    pub fn belongs_to<H: Host>(&self, node: &Arc<Node<H>>) {
        let gatekeeper: Arc<dyn Gatekeeper> = node.clone();
        assert!(self.cluster.set(gatekeeper).is_ok(), "a node has one cluster");
    }

    /// As a service of a server.
    pub fn server(self: &Arc<Self>) -> SeedServer<Seeds> {
        SeedServer::new(Seeds(Arc::clone(self)))
    }

    fn this(&self) -> proto::Candidate {
        proto::Candidate {
            volume: self.settings.volume.to_vec().into(),
            name: self.settings.node_name.clone(),
            address: self.settings.address.clone(),
        }
    }

    fn note(&self, candidate: proto::Candidate) {
        let mut candidates = self.candidates.lock();
        candidates.insert(candidate.volume.to_vec(), (candidate, Instant::now()));
        candidates.retain(|_, (_, heard)| heard.elapsed() < CANDIDATE_MAX);
    }

    /// Whether this node is the one to found the cluster: enough see each other, and it comes first.
    fn is_founder(&self) -> bool {
        let Some(expected) = self.settings.bootstrap_expect else {
            return false;
        };
        let candidates = self.candidates.lock();
        let others: Vec<_> = candidates
            .values()
            .filter(|(candidate, heard)| {
                heard.elapsed() < CANDIDATE_MAX && candidate.volume[..] != self.settings.volume
            })
            .map(|(candidate, _)| (&candidate.name, &candidate.volume[..]))
            .collect();
        let this = (&self.settings.node_name, &self.settings.volume[..]);
        others.len() + 1 >= expected as usize && others.iter().all(|other| this < *other)
    }
}

/// The service as a server has it.
#[derive(Debug)]
pub struct Seeds(Arc<SeedService>);

#[tonic::async_trait]
impl Seed for Seeds {
    async fn discover(&self, request: Request<DiscoverRequest>) -> Result<Response<DiscoverAnswer>, Status> {
        let request = request.into_inner();
        let ours = &self.0.settings.cluster_name;
        let mut answer = DiscoverAnswer {
            cluster_name: ours.clone(),
            ..DiscoverAnswer::default()
        };
        if request.cluster_name != *ours {
            return Ok(Response::new(answer));
        }
        match self.0.cluster.get() {
            Some(cluster) => {
                if let Some(member) = &request.member {
                    cluster.asked_by(&request.cluster, member);
                }
                answer.answering = Some(cluster.this());
                answer.cluster = cluster.cluster().to_vec().into();
                answer.members = cluster.members();
            }
            None => {
                if let Some(candidate) = request.candidate {
                    self.0.note(candidate);
                }
                let candidates = self.0.candidates.lock();
                let fresh = candidates
                    .values()
                    .filter(|(_, heard)| heard.elapsed() < CANDIDATE_MAX);
                answer.candidates = fresh.map(|(candidate, _)| candidate.clone()).collect();
                answer.candidates.push(self.0.this());
            }
        }
        Ok(Response::new(answer))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinAnswer>, Status> {
        let request = request.into_inner();
        if request.cluster_name != self.0.settings.cluster_name {
            return Err(Status::failed_precondition("this is a cluster of another name"));
        }
        let cluster = self.0.cluster.get();
        let cluster = cluster.ok_or_else(|| Status::unavailable("this node belongs to no cluster yet"))?;
        let candidate = request.candidate.unwrap_or_default();
        let volume = candidate.volume[..]
            .try_into()
            .map_err(|_| Status::invalid_argument("a volume has a number of 16 bytes"))?;
        let taken = cluster.take_in(volume, &candidate.name, &candidate.address).await;
        let node = taken.ok_or_else(|| {
            Status::unavailable("the cluster has no leader, or a node that serves has this name")
        })?;
        Ok(Response::new(JoinAnswer {
            cluster: cluster.cluster().to_vec().into(),
            node: node.0,
            members: cluster.members(),
        }))
    }
}

/// One address of a seed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SeedAddress {
    pub(super) address: String,
    /// What its certificate has to name.
    host: String,
}

impl SeedService {
    async fn client(&self, seed: &SeedAddress) -> Result<SeedClient<Channel>, String> {
        let wire = raft::open(&seed.address, &seed.host, self.tls.as_deref()).await?;
        let endpoint = Endpoint::from_static("http://seed");
        raft::channel(endpoint, wire).await.map(SeedClient::new)
    }

    pub(super) fn settings(&self) -> &SeedSettings {
        &self.settings
    }

    pub(super) async fn ask(
        &self,
        seed: &SeedAddress,
        request: DiscoverRequest,
    ) -> Result<DiscoverAnswer, String> {
        let asking = async {
            let answer = self.client(seed).await?.discover(request).await;
            answer
                .map(Response::into_inner)
                .map_err(|status| raft::with_sources(&status))
        };
        let answer = tokio::time::timeout(ASK_MAX, asking).await;
        answer.unwrap_or_else(|_| Err("no answer".to_owned()))
    }
}

/// All addresses of the seeds now: a name may stand for several nodes. Those that have none come second.
pub(super) async fn resolve(seeds: &[String]) -> (Vec<SeedAddress>, Vec<(String, String)>) {
    let mut addresses = Vec::new();
    let mut unresolved = Vec::new();
    for seed in seeds {
        let host = raft::host_of(seed).to_owned();
        match tokio::net::lookup_host(seed.as_str()).await {
            Ok(found) => addresses.extend(found.map(|address| SeedAddress {
                address: address.to_string(),
                host: host.clone(),
            })),
            Err(error) => unresolved.push((seed.clone(), error.to_string())),
        }
    }
    addresses.sort();
    addresses.dedup();
    (addresses, unresolved)
}

/// Looks for a cluster until one has taken this node in, or it has to found one.
///
/// # Errors
/// Waiting does not help: see [`SeedError`].
pub async fn find_cluster(service: &SeedService) -> Result<Found, SeedError> {
    let settings = &service.settings;
    // The first line comes soon: whoever has just written the seeds wrong looks at the log now.
    let mut tell_at = Instant::now() + FIRST_TELL;
    tracing::info!(seeds = ?settings.seeds, expect = ?settings.bootstrap_expect, "looking for the cluster");
    loop {
        let (addresses, mut unreachable) = resolve(&settings.seeds).await;
        for seed in addresses {
            let address = seed.address.clone();
            let request = DiscoverRequest {
                cluster_name: settings.cluster_name.clone(),
                candidate: Some(service.this()),
                ..DiscoverRequest::default()
            };
            match service.ask(&seed, request).await {
                Ok(answer) if answer.cluster_name != settings.cluster_name => {
                    return Err(SeedError::OtherCluster {
                        seed: address,
                        theirs: answer.cluster_name,
                        ours: settings.cluster_name.clone(),
                    });
                }
                Ok(answer) if answer.cluster.is_empty() => {
                    answer
                        .candidates
                        .into_iter()
                        .for_each(|candidate| service.note(candidate));
                }
                Ok(_) => match join(service, &seed).await {
                    Ok(found) => return Ok(found),
                    Err(reason) => {
                        tracing::warn!(
                            seed = address,
                            reason,
                            "the cluster has not taken this node in yet"
                        );
                    }
                },
                Err(reason) => unreachable.push((address, reason)),
            }
        }
        if service.is_founder() {
            return Ok(Found::Nothing);
        }
        if Instant::now() >= tell_at {
            tell_at = Instant::now() + TELL_INTERVAL;
            let seen = service.candidates.lock().len();
            tracing::warn!(
                ?unreachable,
                seen,
                expect = ?settings.bootstrap_expect,
                "still looking for the cluster"
            );
        }
        tokio::time::sleep(ROUND_INTERVAL).await;
    }
}

async fn join(service: &SeedService, seed: &SeedAddress) -> Result<Found, String> {
    let request = JoinRequest {
        cluster_name: service.settings.cluster_name.clone(),
        candidate: Some(service.this()),
    };
    let joining = async {
        let answer = service.client(seed).await?.join(request).await;
        answer
            .map(Response::into_inner)
            .map_err(|status| status.message().to_owned())
    };
    let answer = tokio::time::timeout(2 * JOIN_MAX, joining)
        .await
        .unwrap_or_else(|_| Err("no answer".to_owned()))?;
    let cluster = answer.cluster[..]
        .try_into()
        .map_err(|_| "the answer names no cluster".to_owned())?;
    let members = answer.members.into_iter();
    Ok(Found::Cluster {
        cluster,
        node: NodeId(answer.node),
        members: members
            .filter(|member| member.node != answer.node)
            .map(|member| (NodeId(member.node), NodeAddress(member.address)))
            .collect(),
    })
}
