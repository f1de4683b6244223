//! `/api/v1`: the cluster, its nodes and its groups, and what an operator asks of them.
//!
//! Any node answers: what concerns the others it asks them, what changes the cluster it has the leader of `meta` propose.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use quorate_cluster::meta::NodeRecord;
use quorate_cluster::node::{ClusterReport, META, Node, OperationRefused, Placement};
use quorate_cluster::raft::GroupRole;
use quorate_cluster::state::NodeId;

use super::AdminState;
use super::problem::Problem;
use crate::node::Shared;

/// Largest body of a request, in bytes.
pub(super) const BODY_BYTES_MAX: usize = 4 * 1024;

/// What changes something is not taken from pages that a browser shows: they name where they come from, and could reach
/// loopback.
pub(super) async fn refuse_pages(request: Request, next: Next) -> Response {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    if changes && request.headers().contains_key(header::ORIGIN) {
        let detail = "requests of web pages that change something are not taken";
        return Problem::new(StatusCode::FORBIDDEN, detail).into_response();
    }
    next.run(request).await
}

/// A list; `cursor` will say where the next page begins, where there is one.
#[derive(serde::Serialize)]
struct Page<T> {
    items: Vec<T>,
    cursor: Option<String>,
}

impl<T> Page<T> {
    fn whole(items: Vec<T>) -> Json<Self> {
        Json(Self { items, cursor: None })
    }
}

/// What this node says of the cluster.
#[derive(serde::Serialize)]
pub(super) struct ClusterStatus {
    id: String,
    node_id: u64,
    incarnation: u64,
    nodes: usize,
    serving: usize,
    view: u64,
    meta_leader: Option<String>,
    has_lease: bool,
    /// What all members know and the cluster uses.
    feature_level: u32,
    draining: bool,
}

/// A member of the cluster.
#[derive(serde::Serialize)]
struct NodeView {
    node: String,
    id: u64,
    address: String,
    /// `serving`, `starting` (up, and does not serve), or `down` (does not answer).
    state: &'static str,
    draining: bool,
    leaving: bool,
    incarnation: u64,
    /// Connections of clients, where it answers.
    clients: Option<u64>,
    /// Groups in which it votes.
    votes: usize,
    /// Groups that it leads.
    leads: usize,
}

/// A group, as its leader says; as any replica says where nobody leads it.
#[derive(serde::Serialize)]
struct GroupView {
    group: String,
    leader: Option<String>,
    term: u64,
    has_majority: bool,
    committed: u64,
    placed: Vec<String>,
    replicas: Vec<ReplicaView>,
}

#[derive(serde::Serialize)]
struct ReplicaView {
    node: String,
    role: &'static str,
    voter: bool,
    alive: bool,
    /// Indexes are known of nodes that answer.
    last_log: Option<u64>,
    applied: Option<u64>,
    /// Entries of the leader that it has not applied.
    lag: Option<u64>,
}

fn starting() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "the node is starting, and knows no cluster yet",
    )
}

fn node_of(state: &AdminState) -> Result<Arc<Node<Shared>>, Problem> {
    let shared = state.0.shared.get().ok_or_else(starting)?;
    shared.try_node().cloned().ok_or_else(starting)
}

/// Names of the nodes there ever were.
fn names(node: &Node<Shared>) -> BTreeMap<NodeId, String> {
    let state = node.directory().read();
    state
        .nodes()
        .map(|(id, record)| (id, record.name.clone()))
        .collect()
}

fn name_of(names: &BTreeMap<NodeId, String>, node: NodeId) -> String {
    names.get(&node).cloned().unwrap_or_else(|| node.0.to_string())
}

impl ClusterStatus {
    pub(super) fn of(shared: &Shared) -> Option<Self> {
        let node = shared.try_node()?;
        let leader = node.meta().and_then(quorate_cluster::raft::RaftGroup::leader);
        let names = names(node);
        let state = node.directory().read();
        Some(Self {
            id: format!("{:032x}", node.cluster()),
            node_id: node.this_node().0,
            incarnation: node.incarnation().0,
            nodes: state.members().count(),
            serving: state
                .view()
                .serving
                .values()
                .filter(|serving| serving.active)
                .count(),
            view: state.view().number,
            meta_leader: leader.map(|leader| name_of(&names, leader)),
            has_lease: shared.may_answer(),
            feature_level: state.feature_level(),
            draining: state.node(node.this_node()).is_some_and(|record| record.draining),
        })
    }
}

pub(super) async fn nodes(State(state): State<AdminState>) -> Result<Response, Problem> {
    let node = node_of(&state)?;
    let report = node.cluster_report().await;
    Ok(Page::whole(node_views(&node, &report)).into_response())
}

pub(super) async fn node(
    State(state): State<AdminState>,
    wanted: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let wanted = read_path(wanted)?;
    let node = node_of(&state)?;
    let id = find(&node, &wanted)?;
    let report = node.cluster_report().await;
    let view = node_views(&node, &report)
        .into_iter()
        .find(|view| view.id == id.0);
    view.map(|view| Json(view).into_response())
        .ok_or_else(|| Problem::new(StatusCode::GONE, "the node was removed from the cluster"))
}

fn node_views(node: &Node<Shared>, report: &ClusterReport) -> Vec<NodeView> {
    let (mut votes, mut leads) = (BTreeMap::<NodeId, usize>::new(), BTreeMap::<NodeId, usize>::new());
    for group in std::iter::once(META).chain(Placement::groups()) {
        if let Some((leader, led)) = report.leader(group) {
            *leads.entry(leader).or_default() += 1;
            for member in led.members.iter().filter(|member| member.voter) {
                *votes.entry(member.node).or_default() += 1;
            }
        }
    }
    let state = node.directory().read();
    let view = |(id, record): (NodeId, &NodeRecord)| {
        let answers = report.nodes.get(&id);
        let serving = state.view().serving.get(&id);
        NodeView {
            node: record.name.clone(),
            id: id.0,
            address: record.address.clone(),
            state: match (serving.is_some_and(|serving| serving.active), answers) {
                (true, Some(_)) => "serving",
                (false, Some(_)) => "starting",
                (_, None) => "down",
            },
            draining: record.draining,
            leaving: record.leaving,
            incarnation: record.incarnation.0,
            clients: answers.map(|answers| answers.clients),
            votes: votes.get(&id).copied().unwrap_or_default(),
            leads: leads.get(&id).copied().unwrap_or_default(),
        }
    };
    state.members().map(view).collect()
}

pub(super) async fn raft_groups(State(state): State<AdminState>) -> Result<Response, Problem> {
    let node = node_of(&state)?;
    let report = node.cluster_report().await;
    let names = names(&node);
    let groups = std::iter::once(META).chain(Placement::groups());
    let views = groups.map(|group| {
        let led = report.leader(group);
        // Without a leader the replica that has seen the newest one knows most.
        let known = report.nodes.values().flat_map(|report| &report.groups);
        let known = known
            .filter(|replica| replica.group == group)
            .max_by_key(|replica| replica.term);
        let best = led.map(|(_, led)| led).or(known);
        let placed = node
            .directory()
            .read()
            .placement(group)
            .cloned()
            .unwrap_or_default();
        let last = led.map(|(_, led)| led.last_log);
        let replica = |member: &quorate_cluster::node::MemberReport| {
            let own = report.nodes.get(&member.node);
            let own = own.and_then(|own| own.groups.iter().find(|replica| replica.group == group));
            ReplicaView {
                node: name_of(&names, member.node),
                role: own.map_or("unknown", |own| role(own.role)),
                voter: member.voter,
                alive: member.alive,
                last_log: own.map(|own| own.last_log).or(member.matched),
                applied: own.map(|own| own.applied),
                lag: own.and_then(|own| Some(last?.saturating_sub(own.applied))),
            }
        };
        GroupView {
            group: Placement::name(group),
            leader: led.map(|(leader, _)| name_of(&names, leader)),
            term: best.map_or(0, |best| best.term),
            has_majority: led.is_some(),
            committed: best.map_or(0, |best| best.committed),
            placed: placed
                .replicas
                .iter()
                .map(|node| name_of(&names, *node))
                .collect(),
            replicas: best.map_or_else(Vec::new, |best| best.members.iter().map(replica).collect()),
        }
    });
    Ok(Page::whole(views.collect()).into_response())
}

const fn role(role: GroupRole) -> &'static str {
    match role {
        GroupRole::Learner => "learner",
        GroupRole::Follower => "follower",
        GroupRole::Candidate => "candidate",
        GroupRole::Leader => "leader",
        GroupRole::Stopped => "stopped",
    }
}

fn read_path(wanted: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let Path(wanted) = wanted.map_err(|error| Problem::new(error.status(), error.body_text()))?;
    Ok(wanted)
}

/// What a node's number is written with, where it must not be taken for a name: no name has a colon.
const NUMBERED: &str = "id:";

/// A node by its name, else by its number: of those that were not removed first. After `id:` it is the number.
fn find(node: &Node<Shared>, wanted: &str) -> Result<NodeId, Problem> {
    let state = node.directory().read();
    let (wanted, is_number) = match wanted.strip_prefix(NUMBERED) {
        Some(number) => (number, true),
        None => (wanted, false),
    };
    let named = |(_, record): &(NodeId, &NodeRecord)| !is_number && record.name == wanted;
    let member = state.members().find(named).map(|(id, _)| id);
    let number = || {
        let id = NodeId(wanted.parse().ok()?);
        state.node(id).map(|_| id)
    };
    let removed = || state.nodes().filter(named).map(|(id, _)| id).last();
    member.or_else(number).or_else(removed).ok_or_else(|| {
        let known: Vec<&str> = state.members().map(|(_, record)| record.name.as_str()).collect();
        let detail = format!("there is no node {wanted:?}; the nodes are {}", known.join(", "));
        Problem::new(StatusCode::NOT_FOUND, detail)
    })
}

fn refused(refused: &OperationRefused) -> Problem {
    let status = match refused {
        OperationRefused::UnknownNode(_) => StatusCode::NOT_FOUND,
        OperationRefused::Removed => StatusCode::GONE,
        OperationRefused::Unknown => StatusCode::SERVICE_UNAVAILABLE,
        OperationRefused::Serves
        | OperationRefused::Up
        | OperationRefused::NobodyElse
        | OperationRefused::LastNode
        | OperationRefused::Held(_) => StatusCode::CONFLICT,
    };
    Problem::new(status, refused.to_string())
}

/// Body of a drain; an empty one drains.
#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Drain {
    /// The node leaves the cluster for good.
    remove: bool,
    /// A drain is taken back.
    cancel: bool,
}

pub(super) async fn drain(
    State(state): State<AdminState>,
    wanted: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|error| Problem::new(error.status(), error.body_text()))?;
    let asked: Drain = match body.is_empty() {
        true => Drain::default(),
        false => serde_json::from_slice(&body)
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body: {error}")))?,
    };
    if asked.remove && asked.cancel {
        let detail = "a drain is either for a removal or taken back";
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    let wanted = read_path(wanted)?;
    let node = node_of(&state)?;
    let id = find(&node, &wanted)?;
    tracing::info!(
        node = id.0,
        remove = asked.remove,
        cancel = asked.cancel,
        "an operator asks for a drain"
    );
    let done = match asked.cancel {
        true => node.cancel_drain(id).await,
        false => node.drain_node(id, asked.remove).await,
    };
    done.map_err(|error| told(&error))?;
    Ok((
        StatusCode::ACCEPTED,
        Json(serde_json::json!({ "node": wanted, "id": id.0 })),
    )
        .into_response())
}

fn told(error: &OperationRefused) -> Problem {
    tracing::warn!(%error, "an operator's request is refused");
    refused(error)
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Removal {
    force: bool,
}

pub(super) async fn remove(
    State(state): State<AdminState>,
    wanted: Result<Path<String>, PathRejection>,
    removal: Result<Query<Removal>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(removal) = removal.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let wanted = read_path(wanted)?;
    let node = node_of(&state)?;
    let id = find(&node, &wanted)?;
    tracing::info!(
        node = id.0,
        force = removal.force,
        "an operator asks for a removal"
    );
    node.remove_node(id, removal.force)
        .await
        .map_err(|error| told(&error))?;
    Ok(Json(serde_json::json!({ "node": wanted, "id": id.0 })).into_response())
}
