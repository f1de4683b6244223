//! What the groups tell, and what becomes of the routes.

use std::time::Duration;

use quorate_cluster::state::{Epoch, NodeIncarnation, Owner, SessionLimits, Subscription};
use quorate_proto::codec::SubscriptionOptions;

use super::*;
use crate::auth::{Authentication, AuthenticationRequest, Authenticator, EnhancedMethod, Refusal, Verdict};
use crate::node::SharedSettings;

const GROUP: GroupId = GroupId(3);
const OTHER: GroupId = GroupId(4);
const EPOCH: Epoch = Epoch(1);

#[derive(Debug)]
struct Nobody;

impl Authenticator for Nobody {
    fn authenticate(&self, _: AuthenticationRequest<'_>) -> Authentication {
        Authentication::Ready(Verdict::Refuse(Refusal::NotAuthorized))
    }

    fn enhanced_method(&self, _: &str) -> Option<&dyn EnhancedMethod> {
        None
    }
}

/// A node with one worker, whose groups are what the test says.
fn node() -> Shared {
    let settings = SharedSettings {
        session_limits: SessionLimits {
            sessions_max: 10,
            subscriptions_max: 10,
        },
        sessions_max: 10,
        retained_messages_max: 10,
        retained_bytes_max: 1 << 20,
        queue_messages_max: 10,
        queue_bytes_max: 1 << 20,
        drain_will_delay_secs: 0,
        durability: Vec::new(),
        publish_wait_max: Duration::from_secs(10),
        refused_subscription: ReasonCode::NOT_AUTHORIZED,
        node: NodeId(1),
        incarnation: NodeIncarnation(1),
    };
    let control = tokio::runtime::Handle::current();
    let shared = Shared::new(settings, 1, Box::new(Nobody), None, control);
    let write =
        |table: &mut crate::router::RouteTable| (table.set_this(NodeId(1), NodeIncarnation(1)), false);
    shared.router.write(write);
    shared
}

fn session(group: GroupId, number: u16) -> SessionId {
    SessionId::new(group, 1, number)
}

/// A session that is connected to a node.
fn owned(session: SessionId, node: u64) -> Event {
    Event::SessionOwner {
        client_id: format!("{session:?}").into(),
        session,
        owner: Some(Owner {
            node: NodeId(node),
            incarnation: NodeIncarnation(1),
            epoch: EPOCH,
        }),
        fenced: None,
    }
}

fn subscription(filter: &str) -> Subscription {
    Subscription {
        filter: filter.into(),
        options: SubscriptionOptions::new(QoS::AtLeastOnce),
        subscription_id: None,
    }
}

fn subscribed(session: SessionId, filter: &str) -> Event {
    Event::Subscribed {
        session,
        subscription: subscription(filter),
    }
}

fn attach(node: &Shared, session: SessionId, slot: u32) -> Location {
    let location = Location {
        worker: 0,
        slot,
        generation: 1,
    };
    let attached = node
        .router
        .write(|table| (table.attach(session, EPOCH, location), true));
    assert_eq!(attached, Ok(true));
    location
}

/// Who gets a message, and the members of the shares that do.
fn plan(node: &Shared, topic: &str) -> (Vec<SessionId>, Vec<SessionId>) {
    let plan = node.router.plan(topic);
    let mut targets: Vec<_> = plan.targets.iter().map(|target| target.session).collect();
    targets.sort();
    let members = plan.shares.iter().flat_map(|share| &share.members);
    (targets, members.map(|member| member.session).collect())
}

/// Locations of the connections that the node has closed.
async fn kicked(node: &Shared) -> Vec<Location> {
    // So that there is mail.
    node.kick(
        Location {
            worker: 0,
            slot: u32::MAX,
            generation: 1,
        },
        ReasonCode::SUCCESS,
        "last",
    );
    let mut mail = Vec::new();
    node.mailboxes[0].receive(&mut mail).await;
    let locations = mail.into_iter().filter_map(|mail| match mail {
        Mail::Kick { location, .. } if location.slot != u32::MAX => Some(location),
        _ => None,
    });
    locations.collect()
}

/// R6: a snapshot, or a feed that begins again, replaces a group's share of the routes as a whole, and nobody else's: what it
/// does not tell any more is gone, also from shared subscriptions, and what it tells twice is there once.
#[tokio::test]
async fn r6_what_replaces_a_group_replaces_its_routes_as_a_whole() {
    let node = node();
    let [gone, away, stays] = [1, 2, 3].map(|number| session(GROUP, number));
    let other = session(OTHER, 1);
    node.handle_events(
        GROUP,
        &[
            owned(gone, 1),
            subscribed(gone, "a/+"),
            subscribed(gone, "$share/s/a/+"),
            owned(away, 2),
            subscribed(away, "a/#"),
            subscribed(away, "$share/s/a/+"),
            owned(stays, 1),
            subscribed(stays, "a/#"),
            subscribed(stays, "old"),
        ],
    );
    node.handle_events(OTHER, &[owned(other, 2), subscribed(other, "a/#")]);
    let location = attach(&node, gone, 1);
    attach(&node, stays, 2);
    assert_eq!(
        plan(&node, "a/b"),
        (vec![gone, away, stays, other], vec![gone, away])
    );
    assert_eq!(kicked(&node).await, []);

    let epoch = node.router.epoch();
    node.handle_reload(GROUP, &|session| session == stays);
    assert_ne!(
        node.router.epoch(),
        epoch,
        "plans that were made before are stale"
    );
    assert_eq!(plan(&node, "a/b"), (vec![stays, other], vec![]));
    assert_eq!(
        node.router.read(|table| (table.sessions(), table.shares())),
        (2, 0)
    );
    assert_eq!(kicked(&node).await, [location], "its client is told");

    // What is left is told again, with what has changed meanwhile; a part of it twice.
    let subscriptions = ["a/#", "new"].map(subscription).to_vec();
    let again = [
        owned(stays, 1),
        Event::Subscriptions {
            session: stays,
            subscriptions,
        },
        subscribed(stays, "new"),
    ];
    for _ in 0..2 {
        node.handle_events(GROUP, &again);
        assert_eq!(plan(&node, "a/b"), (vec![stays, other], vec![]));
        assert_eq!(plan(&node, "new"), (vec![stays], vec![]));
        assert_eq!(plan(&node, "old"), (vec![], vec![]));
    }
    assert_eq!(kicked(&node).await, [], "its connection stays");

    let epoch = node.router.epoch();
    node.handle_reload(GROUP, &|session| session == stays);
    assert_eq!(node.router.epoch(), epoch, "nothing has changed");
    node.handle_reload(GROUP, &|_| false);
    assert_eq!(plan(&node, "a/b"), (vec![other], vec![]));
}
