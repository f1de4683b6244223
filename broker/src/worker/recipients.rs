//! Who gets a message: the durable queues it goes to, and everybody who is sent it without replication.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use quorate_cluster::node::Location;
use quorate_cluster::state::{NodeId, Target, TargetQueue};
use quorate_proto::codec::QoS;
use quorate_proto::session::{Delivery, Instant};
use smallvec::SmallVec;

use super::batch::FULL_BYTES;
use super::held::Lent;
use super::publish::{Published, Targets};
use super::{LiveShared, Mail, Worker};
use crate::metrics::DropReason;
use crate::peers::Recipients;
use crate::router::{Plan, PlannedShare, PlannedTarget, Terms};

/// Which shares get a message by their queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shares {
    /// Those with a durable member.
    Durable,
    /// Those with any member.
    All,
}

/// Who took a message without replication.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Somebody did.
    pub(super) any: bool,
    /// Too much waits for a share.
    pub(super) refused: bool,
    /// Other nodes that are to accept it.
    pub(super) nodes: SmallVec<[NodeId; 2]>,
}

impl Taken {
    fn add(&mut self, node: NodeId) {
        self.any = true;
        if !self.nodes.contains(&node) {
            self.nodes.push(node);
        }
    }
}

/// What matching found.
#[derive(Debug, Default)]
pub(super) struct Matched {
    /// Some subscription matched.
    pub(super) any: bool,
    /// Somebody gets it live.
    pub(super) live: bool,
    /// Some queue was full.
    pub(super) refused: bool,
    /// Durable queues that get it.
    pub(super) durable: Targets,
}

impl Worker {
    /// The durable queues a message goes to; full ones refuse it (before the acknowledgement, as promised).
    pub(super) fn match_durable(&self, plan: &Plan, published: &Published<'_>, shares: Shares) -> Matched {
        let mut matched = Matched::default();
        for target in &plan.targets {
            let Some(terms) = target.terms_for(published.publisher) else {
                continue;
            };
            let qos = published.qos.min(terms.qos);
            let (Some(queue), true) = (&target.queue, qos > QoS::AtMostOnce) else {
                continue;
            };
            if self.shared.queue_is_full(queue) {
                matched.refused = true;
                self.counters
                    .messages_dropped
                    .of(DropReason::QueueFull)
                    .increment();
                continue;
            }
            matched.any = true;
            matched.durable.push(Target {
                queue: TargetQueue::Session(target.session),
                qos,
                retain: published.retain && terms.retain_as_published,
                replayed: false,
                subscription_ids: terms.subscription_ids.to_vec(),
            });
        }
        for share in &plan.shares {
            let is_meant = match shares {
                Shares::Durable => share.durable,
                Shares::All => share.durable || !share.members.is_empty(),
            };
            if is_meant && published.qos > QoS::AtMostOnce {
                matched.any = true;
                matched.durable.push(Target {
                    queue: TargetQueue::Share(share.key.clone()),
                    qos: published.qos,
                    retain: published.retain,
                    replayed: false,
                    subscription_ids: Vec::new(),
                });
            }
        }
        matched
    }

    /// Delivers to everybody who is connected and gets the message without replication. Whether there was anybody.
    pub(super) fn deliver_live(self: &Rc<Self>, plan: &Plan, published: &Published<'_>) -> Taken {
        let mut taken = self.deliver_live_here(plan, published);
        self.deliver_to_shares(plan, published, &mut taken);
        for node in plan.live_remotes(published.qos) {
            self.forward(node, &Recipients::Matching, published);
            taken.add(node);
        }
        taken
    }

    /// As [`Self::deliver_live`], to connections of this node, and to no shares.
    pub(super) fn deliver_live_here(self: &Rc<Self>, plan: &Plan, published: &Published<'_>) -> Taken {
        let expires_at = published.expiry_secs.map(|secs| self.now().plus_secs(secs));
        let mut taken = Taken::default();
        let mut any = false;
        let mut begun: Option<u16> = None;
        for target in &plan.targets {
            let Some(terms) = target.terms_for(published.publisher) else {
                continue;
            };
            let qos = published.qos.min(terms.qos);
            if target.queue.is_some() && qos > QoS::AtMostOnce {
                continue;
            }
            any = true;
            let Some(location) = target.location else { continue };
            self.deliver_to(location, published, terms, expires_at, &mut begun);
        }
        taken.any = any;
        taken
    }

    /// Gives a message to one member of each share without durable member, wherever it is; at QoS 0 of each share.
    fn deliver_to_shares(self: &Rc<Self>, plan: &Plan, published: &Published<'_>, taken: &mut Taken) {
        let expires_at = published.expiry_secs.map(|secs| self.now().plus_secs(secs));
        for share in &plan.shares {
            if published.qos == QoS::AtMostOnce {
                self.deliver_to_member(share, published, expires_at, taken);
                continue;
            }
            if share.durable {
                continue;
            }
            match self.hold_for_share(share, published, expires_at) {
                Lent::Nobody => {}
                Lent::Here => taken.any = true,
                Lent::There(node) => taken.add(node),
                Lent::Full => {
                    taken.refused = true;
                    self.counters
                        .messages_dropped
                        .of(DropReason::QueueFull)
                        .increment();
                }
            }
        }
    }

    pub(super) fn deliver_to(
        &self,
        location: Location,
        published: &Published<'_>,
        terms: &Terms,
        expires_at: Option<Instant>,
        begun: &mut Option<u16>,
    ) {
        let qos = published.qos.min(terms.qos);
        let retain = published.retain && terms.retain_as_published;
        if location.worker == self.index {
            let Some(conn) = self.connection(location) else {
                return;
            };
            let delivery = Delivery {
                topic: published.topic,
                forwardable: published.forwardable,
                payload: published.payload,
                qos,
                retain,
                subscription_ids: &terms.subscription_ids,
                expires_at,
            };
            self.deliver(&conn, &delivery);
            return;
        }
        let mut outgoing = self.outgoing.borrow_mut();
        let batch = &mut outgoing[usize::from(location.worker)];
        if *begun != Some(location.worker) {
            if batch.weight() >= FULL_BYTES {
                // Not to grow with what one turn publishes, and so that what waits is known. Between messages: a large
                // one is copied once, however many targets it has.
                self.shared.mailboxes[usize::from(location.worker)].send(Mail::Live(std::mem::take(batch)));
            }
            batch.begin(
                published.topic,
                published.forwardable,
                published.payload,
                expires_at,
            );
            *begun = Some(location.worker);
        }
        batch.target(
            location.slot,
            location.generation,
            qos,
            retain,
            &terms.subscription_ids,
        );
        drop(outgoing);
        self.mark_batches();
    }

    /// Delivers at QoS 0 to the next member of a shared subscription.
    fn deliver_to_member(
        self: &Rc<Self>,
        share: &PlannedShare,
        published: &Published<'_>,
        expires_at: Option<Instant>,
        taken: &mut Taken,
    ) {
        let Some(member) = next_member(share) else { return };
        if let Some(location) = member.location {
            // Another target of this message may share the worker: a message of its own keeps batches in order.
            self.deliver_to(location, published, &member.terms, expires_at, &mut None);
            taken.any = true;
        } else if let Some(node) = member.remote {
            let recipient = Recipients::Member {
                session: member.session,
                share: share.key.clone(),
            };
            self.forward(node, &recipient, published);
            taken.add(node);
        }
    }

    /// Hands a message of a shared subscription to its member's worker.
    pub(super) fn send_live_shared(self: &Rc<Self>, shared: LiveShared) {
        if shared.location.worker == self.index {
            self.deliver_live_shared(shared);
        } else {
            let mailbox = &self.shared.mailboxes[usize::from(shared.location.worker)];
            mailbox.send(Mail::Shared(Box::new(shared)));
        }
    }
}

/// Whether [`Worker::deliver_live_here`] would find anybody.
pub(super) fn has_live_taker(plan: &Plan, published: &Published<'_>) -> bool {
    let is_live = |target: &PlannedTarget| {
        let terms = target.terms_for(published.publisher);
        terms.is_some_and(|terms| target.queue.is_none() || published.qos.min(terms.qos) == QoS::AtMostOnce)
            && target.remote.is_none()
    };
    plan.targets.iter().any(is_live)
}

/// Round robin over the connected members.
fn next_member(share: &PlannedShare) -> Option<&PlannedTarget> {
    if share.members.is_empty() {
        return None;
    }
    let turn = share.turn.fetch_add(1, Ordering::Relaxed) as usize;
    share.members.get(turn % share.members.len())
}
