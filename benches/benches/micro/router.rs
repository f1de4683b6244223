//! Plans of the router: who gets a message on a topic. Workers keep them until routes change, so this is the cost of a
//! topic that nobody published to since.

use std::hint::black_box;

use divan::Bencher;
use quorate::router::Router;
use quorate_cluster::node::{Location, Placement};
use quorate_cluster::state::{ClientId, Epoch, NodeId, NodeIncarnation, Owner, SessionId, Subscription};
use quorate_proto::codec::{QoS, SubscriptionOptions};

use crate::codec::TOPIC;

/// Sessions with a topic of their own, beside those that subscribe to [`TOPIC`].
const OTHERS: u32 = 100_000;

/// Adds a connected session with one subscription.
fn subscribe(router: &Router, number: u32, filter: &str) {
    let client_id: ClientId = format!("device-{number}").into();
    let session = SessionId::new(Placement::live_of_client(&client_id), u64::from(number), 0);
    let location = Location {
        worker: (number % 4) as u16,
        slot: number / 4,
        generation: 0,
    };
    let subscription = Subscription {
        filter: filter.into(),
        options: SubscriptionOptions::new(QoS::AtLeastOnce),
        subscription_id: None,
    };
    router.write(|table| {
        let owner = Owner {
            node: NodeId(1),
            incarnation: NodeIncarnation(1),
            epoch: Epoch(1),
        };
        table.set_this(owner.node, owner.incarnation);
        table.set_owner(session, Some(owner));
        let attached = table.attach(session, Epoch(1), location);
        attached.expect("a session that was just created");
        table.subscribe(session, &subscription);
        ((), true)
    });
}

fn router(subscribers: u32) -> Router {
    let router = Router::default();
    for number in 0..OTHERS {
        subscribe(
            &router,
            number,
            &format!("fleet/{}/device/{number}/command", number % 1000),
        );
    }
    for number in 0..subscribers {
        subscribe(&router, OTHERS + number, TOPIC);
    }
    router
}

#[divan::bench(args = [0, 1, 10, 1000], sample_size = 100)]
fn plan(bencher: Bencher<'_, '_>, subscribers: u32) {
    let router = router(subscribers);
    assert_eq!(router.plan(TOPIC).targets.len(), subscribers as usize);
    bencher.bench_local(|| router.plan(black_box(TOPIC)));
}
