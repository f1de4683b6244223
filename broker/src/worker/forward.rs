//! Live deliveries to other nodes, and those that came from them.

use std::rc::Rc;
use std::sync::Arc;

use quorate_cluster::node::ShareHold;
use quorate_cluster::state::{NodeId, SessionId, ShareKey, Target, TargetQueue};
use quorate_proto::codec::QoS;
use quorate_proto::session::PublishToken;

use super::connection::Conn;
use super::held::Lender;
use super::publish::Published;
use super::ticket::{Answer, WaitsFor};
use super::{NodeMessage, Ticket, Worker};
use crate::peers::{self, ForwardedFrame, ForwardedMessage, Joint, PeerBatch, Recipients, Waiting};
use crate::router::{Plan, Terms};

/// Bytes from which a batch leaves before the end of the turn.
const FULL_BYTES: usize = 256 * 1024;

impl<'a> Published<'a> {
    fn of_forwarded(message: &ForwardedMessage<'a>) -> Self {
        Self {
            topic: message.topic,
            forwardable: message.forwardable,
            payload: message.payload,
            qos: message.qos,
            retain: message.retain,
            expiry_secs: message.expiry_secs,
            publisher: message.publisher,
        }
    }

    fn forwarded(&self) -> ForwardedMessage<'a> {
        ForwardedMessage {
            topic: self.topic,
            forwardable: self.forwardable,
            payload: self.payload,
            qos: self.qos,
            retain: self.retain,
            expiry_secs: self.expiry_secs,
            publisher: self.publisher,
        }
    }
}

impl Worker {
    /// Appends a message to what this turn has for another node.
    pub(super) fn forward(&self, node: NodeId, recipients: &Recipients, published: &Published<'_>) {
        let mut outgoing = self.outgoing_peers.borrow_mut();
        let place = outgoing.iter().position(|(peer, _)| *peer == node);
        let place = place.unwrap_or_else(|| {
            outgoing.push((node, PeerBatch::default()));
            outgoing.len() - 1
        });
        let batch = &mut outgoing[place].1;
        if batch.items.len() >= FULL_BYTES {
            let full = std::mem::take(batch);
            self.shared.peers.send(&self.shared, node, full);
        }
        peers::put_item(&mut outgoing[place].1.items, recipients, &published.forwarded());
        drop(outgoing);
        self.mark_batches();
    }

    /// Hands over what this turn has for other nodes.
    pub(super) fn send_to_peers(&self) {
        for (node, batch) in self.outgoing_peers.borrow_mut().drain(..) {
            self.shared.peers.send(&self.shared, node, batch);
        }
    }

    /// Answers a publish that nobody but other nodes has to take, when they have.
    pub(super) fn answer_when_taken(&self, conn: &Conn, token: Option<PublishToken>, nodes: &[NodeId]) {
        let Some(token) = token else { return };
        let ticket = Ticket {
            location: conn.location,
            waits_for: WaitsFor::Publish {
                ack: Some(self.wait_for_ack(conn, token)),
                matched: true,
                late: None,
                answer: Answer::Accepted,
                forwarded: None,
            },
        };
        if let [node] = nodes {
            return self.wait_for_peer(*node, Waiting::Ticket(ticket));
        }
        let done = quorate_cluster::node::Completion::Applied(quorate_cluster::state::Outcome::Done);
        let joint = Joint::new(self.shared.clone(), nodes.len(), Some((ticket, done)));
        for node in nodes {
            self.wait_for_peer(*node, Waiting::Joint(joint.clone()));
        }
    }

    /// What a publish that is committed as well has to wait for.
    pub(super) fn wait_until_taken(&self, nodes: &[NodeId]) -> Option<Arc<Joint>> {
        if nodes.is_empty() {
            return None;
        }
        let joint = Joint::new(self.shared.clone(), nodes.len() + 1, None);
        for node in nodes {
            self.wait_for_peer(*node, Waiting::Joint(joint.clone()));
        }
        Some(joint)
    }

    /// Waits for the batch that the last message to this node is in.
    pub(super) fn wait_for_peer(&self, node: NodeId, waiting: Waiting) {
        let mut outgoing = self.outgoing_peers.borrow_mut();
        let batch = outgoing.iter_mut().find(|(peer, _)| *peer == node);
        let (_, batch) = batch.expect("a message was appended in this turn");
        batch.waiting.push(waiting);
    }

    /// The other nodes whose live subscribers get a message from its group (R11).
    pub(super) fn node_targets(&self, plan: &Plan, published: &Published<'_>) -> Vec<Target> {
        if plan.remotes.is_empty() {
            return Vec::new();
        }
        let directory = self.shared.node().directory().read();
        let serving = &directory.view().serving;
        let nodes = plan.live_remotes(published.qos);
        nodes
            .filter_map(|node| {
                // One that is not in the view has no connections any more.
                let serving = serving.get(&node)?;
                Some(Target {
                    queue: TargetQueue::Node(node, serving.incarnation),
                    qos: published.qos,
                    retain: published.retain,
                    replayed: false,
                    subscription_ids: Vec::new(),
                })
            })
            .collect()
    }

    /// Live deliveries of another node, for this worker's connections.
    pub(super) fn deliver_forwarded(self: &Rc<Self>, frame: &ForwardedFrame) {
        let read = peers::visit(frame.items(), |recipients, message| {
            let published = Published::of_forwarded(message);
            match recipients {
                Recipients::Matching => {
                    let plan = self.plan(message.topic);
                    self.deliver_matching(&plan, &published);
                }
                Recipients::Late(sessions) => self.deliver_to_sessions(sessions, &published),
                Recipients::Member { session, share } => {
                    self.deliver_to_forwarded_member(*session, share, &published);
                }
                Recipients::Borrower {
                    session,
                    share,
                    incarnation,
                    worker,
                    number,
                    is_final,
                } => {
                    let lender = Lender {
                        node: frame.from,
                        incarnation: *incarnation,
                        worker: *worker,
                    };
                    self.borrow_forwarded(*session, share, (lender, *number, *is_final), &published);
                }
                Recipients::Lender { lender, news } => {
                    let is_of_now = lender.incarnation == self.shared.settings.incarnation;
                    if lender.worker == self.index && is_of_now {
                        self.handle_lender_news(news);
                    }
                }
                Recipients::Holder {
                    session,
                    share,
                    group,
                    sequence,
                    give,
                    giving,
                } => {
                    let hold = ShareHold {
                        share: share.clone(),
                        sequence: *sequence,
                        give: *give,
                        giving: *giving,
                        from: frame.from,
                    };
                    self.hold_forwarded(*session, (*group, hold), &published);
                }
                // Once for all workers.
                Recipients::Dispatch { .. } | Recipients::Dispatches { .. } if self.index != 0 => {}
                Recipients::Dispatch {
                    session,
                    share,
                    group,
                    sequence,
                    give,
                    is_full,
                    is_back,
                } => {
                    let group = self.shared.node().group(*group);
                    if *is_full {
                        group.share_member_full(*session, share, *sequence, *give);
                    }
                    if *is_back {
                        group.share_returned(share, *sequence, *give);
                    }
                }
                Recipients::Dispatches { session, groups } => {
                    for group in groups {
                        self.shared.node().group(*group).share_member_has_room(*session);
                    }
                }
            }
        });
        if !read {
            tracing::error!("a frame of another node could not be read to its end");
        }
    }

    /// Messages that a group holds for live subscribers of this node.
    pub(super) fn deliver_node_messages(self: &Rc<Self>, messages: &[NodeMessage]) {
        for NodeMessage { message, publisher } in messages {
            let plan = self.plan(message.topic());
            self.deliver_matching(&plan, &Published::of(message, *publisher));
        }
    }

    /// Delivers to this worker's connections whose subscriptions match and who get the message without replication.
    fn deliver_matching(&self, plan: &Plan, published: &Published<'_>) {
        let expires_at = published.expiry_secs.map(|secs| self.now().plus_secs(secs));
        let mut begun = None;
        let here = |target: &&crate::router::PlannedTarget| {
            target
                .location
                .is_some_and(|location| location.worker == self.index)
        };
        for target in plan.targets.iter().filter(here) {
            let Some(terms) = target.terms_for(published.publisher) else {
                continue;
            };
            let qos = published.qos.min(terms.qos);
            if let (Some(location), true) =
                (target.location, target.queue.is_none() || qos == QoS::AtMostOnce)
            {
                self.deliver_to(location, published, terms, expires_at, &mut begun);
            }
        }
    }

    /// A retained message for sessions that subscribed while it was published (R33).
    fn deliver_to_sessions(self: &Rc<Self>, sessions: &[SessionId], published: &Published<'_>) {
        let plan = self.plan(published.topic);
        for target in plan
            .targets
            .iter()
            .filter(|target| sessions.contains(&target.session))
        {
            let Some(location) = target.location.filter(|location| location.worker == self.index) else {
                continue;
            };
            self.deliver_late_here(location, &published.to_message(), &target.terms);
        }
    }

    /// A message at QoS 0 for a member of a share.
    fn deliver_to_forwarded_member(
        self: &Rc<Self>,
        session: SessionId,
        share: &ShareKey,
        published: &Published<'_>,
    ) {
        let plan = self.plan(published.topic);
        let planned = plan.shares.iter().find(|planned| planned.key == *share);
        let member =
            planned.and_then(|planned| planned.members.iter().find(|member| member.session == session));
        let Some(member) = member else { return };
        let here = member.location.filter(|location| location.worker == self.index);
        if let Some(location) = here {
            let expires_at = published.expiry_secs.map(|secs| self.now().plus_secs(secs));
            let terms = Terms {
                qos: QoS::AtMostOnce,
                ..member.terms.clone()
            };
            self.deliver_to(location, published, &terms, expires_at, &mut None);
        }
    }
}
