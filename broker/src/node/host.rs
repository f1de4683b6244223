//! The broker as the node's groups see it: what they tell it, and what they ask.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use quorate_cluster::node::{
    BrokerReply, Completion, Giving, Host, Location, MemberAt, References, ShareMember, SharedReference,
};
use quorate_cluster::raft::PeerStart;
use quorate_cluster::state::{Event, NodeId, PulledReference, SessionId, ShareKey, Target, TargetQueue};
use quorate_proto::codec::{QoS, ReasonCode};
use quorate_proto::message::Message;
use quorate_storage::log::GroupId;

use super::{Failure, Shared, TAKEN_OVER};
use crate::peers::{ForwardedMessage, PeerBatch, Peers, Recipients, put_item};
use crate::worker::{Mail, NodeMessage, Ticket};

/// A reference of a shared queue for a member at another node.
fn put_shared(items: &mut Vec<u8>, reference: &SharedReference) {
    let pulled = &reference.reference;
    let left = pulled
        .expires_at
        .map(|at| at.0.saturating_sub(reference.now.0) / 1000);
    let recipients = Recipients::Holder {
        session: reference.session,
        share: reference.share.clone(),
        group: reference.group,
        sequence: pulled.sequence,
        give: reference.give,
        giving: reference.giving,
    };
    // Its node has it, or reads it, when it is in the member's queue.
    let content = match reference.giving {
        Giving::Offered => ("", &[][..], &[][..]),
        _ => (
            pulled.message.topic(),
            pulled.message.forwardable(),
            pulled.message.payload(),
        ),
    };
    let (topic, forwardable, payload) = content;
    let message = ForwardedMessage {
        topic,
        forwardable,
        payload,
        qos: pulled.qos,
        retain: pulled.message.retain,
        expiry_secs: left.map(|left| u32::try_from(left).unwrap_or(u32::MAX)),
        publisher: pulled.publisher,
    };
    put_item(items, &recipients, &message);
}

impl Host for Shared {
    type Ticket = Ticket;

    fn complete(&self, completions: Vec<(Ticket, Completion)>) {
        let mut by_worker: Vec<Vec<(Ticket, Completion)>> =
            (0..self.mailboxes.len()).map(|_| Vec::new()).collect();
        for (ticket, completion) in completions {
            by_worker[usize::from(ticket.location.worker)].push((ticket, completion));
        }
        for (mailbox, completions) in self.mailboxes.iter().zip(by_worker) {
            if !completions.is_empty() {
                mailbox.send(Mail::Completions(completions));
            }
        }
    }

    fn split(&self, ticket: Ticket) -> Result<(Ticket, Ticket), Ticket> {
        ticket.split()
    }

    fn handle_events(&self, group: GroupId, events: &[Event]) {
        let routes = |event: &&Event| {
            matches!(
                event,
                Event::SessionOwner { .. }
                    | Event::SessionEnded { .. }
                    | Event::Subscribed { .. }
                    | Event::Subscriptions { .. }
                    | Event::Unsubscribed { .. }
            )
        };
        let mut moved = Vec::new();
        if events.iter().any(|event| routes(&event)) {
            self.router.write(|table| {
                let mut changed = false;
                for event in events {
                    changed |= self.route_event(table, event, &mut moved);
                }
                ((), changed)
            });
        }
        for (session, is_connected) in moved {
            self.member_moved(session, is_connected);
        }
        for event in events {
            self.queue_event(group, event);
            self.share_event(event);
        }
    }

    fn handle_reload(&self, group: GroupId, known: &dyn Fn(SessionId) -> bool) {
        let gone = self.router.write(|table| {
            let gone = table.sessions_of_group_beside(group, known);
            let changed = !gone.is_empty();
            let with_location = |session| (session, table.remove_session(session).0);
            let gone: Vec<(SessionId, Option<Location>)> = gone.into_iter().map(with_location).collect();
            (gone, changed)
        });
        for (session, location) in gone {
            if let Some(location) = location {
                self.kick(location, ReasonCode::SESSION_TAKEN_OVER, TAKEN_OVER);
            }
            // Nobody says any more that it has ended.
            self.share_member_lost(session);
        }
    }

    fn handle_references(&self, references: References) {
        self.mail(references.location, Mail::References(references));
    }

    fn handle_pending(&self, group: GroupId, session: SessionId) {
        self.router.read(|table| {
            if let Some(route) = table.session(session) {
                self.tell_pending(group, route);
            }
        });
    }

    fn handle_shared(&self, references: Vec<SharedReference>) {
        let mut by_worker: Vec<Vec<SharedReference>> =
            (0..self.mailboxes.len()).map(|_| Vec::new()).collect();
        let mut by_node: BTreeMap<NodeId, PeerBatch> = BTreeMap::new();
        for reference in references {
            match reference.at {
                MemberAt::Here(location) => by_worker[usize::from(location.worker)].push(reference),
                MemberAt::There(node) => put_shared(&mut by_node.entry(node).or_default().items, &reference),
            }
        }
        if let Some(shared) = self.this.get().and_then(Weak::upgrade) {
            for (node, batch) in by_node {
                self.peers.send(&shared, node, batch);
            }
        }
        for (mailbox, references) in self.mailboxes.iter().zip(by_worker) {
            if !references.is_empty() {
                mailbox.send(Mail::SharedReferences(references));
            }
        }
    }

    fn will_targets(&self, session: SessionId, message: &Message) -> Vec<Target> {
        let plan = self.router.plan(message.topic());
        let mut targets = Vec::new();
        let mut nodes: BTreeSet<NodeId> = plan.live_remotes(message.qos).collect();
        for target in &plan.targets {
            // A will is the client's own message: No Local holds for it [MQTT-3.8.3-3].
            let Some(terms) = target.terms_for(Some(session)) else {
                continue;
            };
            let qos = message.qos.min(terms.qos);
            match &target.queue {
                Some(queue) if qos > QoS::AtMostOnce && self.queue_is_full(queue) => {}
                Some(_) if qos > QoS::AtMostOnce => targets.push(Target {
                    queue: TargetQueue::Session(target.session),
                    qos,
                    retain: message.retain && terms.retain_as_published,
                    replayed: false,
                    subscription_ids: terms.subscription_ids.to_vec(),
                }),
                _ if target.location.is_some() => drop(nodes.insert(self.settings.node)),
                _ => {}
            }
        }
        let directory = self.node().directory().read();
        let serving = &directory.view().serving;
        targets.extend(nodes.into_iter().filter_map(|node| {
            Some(Target {
                queue: TargetQueue::Node(node, serving.get(&node)?.incarnation),
                qos: message.qos,
                retain: message.retain,
                replayed: false,
                subscription_ids: Vec::new(),
            })
        }));
        drop(directory);
        for share in plan
            .shares
            .iter()
            .filter(|share| message.qos > QoS::AtMostOnce && (share.durable || !share.members.is_empty()))
        {
            targets.push(Target {
                queue: TargetQueue::Share(share.key.clone()),
                qos: message.qos,
                retain: message.retain,
                replayed: false,
                subscription_ids: Vec::new(),
            });
        }
        targets
    }

    fn deliver_will(&self, _session: SessionId, message: &Arc<Message>) {
        self.wills_published.fetch_add(1, Ordering::Relaxed);
        // What is above QoS 0 is in the queues of the shares.
        if message.qos == QoS::AtMostOnce {
            let plan = self.router.plan(message.topic());
            self.deliver_to_live_shares(&plan, message);
        }
    }

    fn share_members(&self, share: &ShareKey) -> Vec<ShareMember> {
        self.router.read(|table| table.share_members(share))
    }

    fn queue_is_known(&self, queue: &TargetQueue) -> bool {
        self.router.read(|table| match queue {
            TargetQueue::Session(session) => table.session(*session).is_some(),
            // The loss of its node drops it.
            TargetQueue::Node(..) => true,
            // What waits for a share goes to any member, as long as it has one that is there or can come back.
            TargetQueue::Share(share) => {
                table.share_is_durable(share) || !table.share_members(share).is_empty()
            }
        })
    }

    fn handle_node_messages(&self, messages: Vec<PulledReference>) {
        let messages = messages.into_iter().map(|reference| NodeMessage {
            message: reference.message,
            publisher: reference.publisher,
        });
        let messages = Arc::new(messages.collect());
        for mailbox in &self.mailboxes {
            mailbox.send(Mail::NodeMessages(Arc::clone(&messages)));
        }
    }

    fn handle_peer(&self, from: PeerStart, request: Bytes, reply: BrokerReply) {
        if let Some(shared) = self.this.get().and_then(Weak::upgrade) {
            self.peers.inbox.receive(&shared, from, request, reply);
        }
    }

    fn deliveries_missed(&self) {
        Peers::missed(self);
    }

    fn removed(&self) {
        self.ready.store(false, Ordering::Release);
        self.failure.send_replace(Some(Failure::Removed));
    }

    fn clients(&self) -> u64 {
        Self::clients(self)
    }

    fn left(&self) {
        self.ready.store(false, Ordering::Release);
        self.failure.send_replace(Some(Failure::Left));
    }

    fn fatal(&self, what: String) {
        self.failure.send_replace(Some(Failure::Fatal(what)));
    }
}

#[cfg(test)]
mod tests;
