//! Plans of the topics that were published to lately, as long as the routes do not change.

use std::rc::Rc;

use hashbrown::HashMap;

use crate::router::{Plan, Router};

/// Plans kept; all are dropped when there are more.
const PLANS_MAX: usize = 16 * 1024;
/// Targets in all plans kept, about 100 bytes each.
const TARGETS_MAX: usize = 256 * 1024;

/// A worker's plans.
#[derive(Debug, Default)]
pub(super) struct Plans {
    by_topic: HashMap<Box<str>, Rc<Plan>, foldhash::fast::RandomState>,
    targets: usize,
}

impl Plans {
    /// The plan for a topic, from the cache while the routes have not changed.
    pub(super) fn get(&mut self, topic: &str, router: &Router) -> Rc<Plan> {
        let epoch = router.epoch();
        if let Some(plan) = self.by_topic.get(topic)
            && plan.epoch == epoch
        {
            return plan.clone();
        }
        let plan = Rc::new(router.plan(topic));
        self.keep(topic, plan.clone());
        plan
    }

    fn keep(&mut self, topic: &str, plan: Rc<Plan>) {
        let added = targets(&plan);
        if let Some(old) = self.by_topic.get_mut(topic) {
            self.targets = self.targets - targets(old) + added;
            *old = plan;
        } else if added <= TARGETS_MAX {
            self.targets += added;
            self.by_topic.insert(topic.into(), plan);
        }
        if self.by_topic.len() > PLANS_MAX || self.targets > TARGETS_MAX {
            *self = Self::default();
        }
    }
}

fn targets(plan: &Plan) -> usize {
    let members: usize = plan.shares.iter().map(|share| share.members.len()).sum();
    plan.targets.len() + members
}

#[cfg(test)]
mod tests {
    use quorate_cluster::node::{Location, Placement};
    use quorate_cluster::state::{Epoch, NodeId, NodeIncarnation, Owner, SessionId, Subscription};
    use quorate_proto::codec::{QoS, SubscriptionOptions};

    use super::*;

    /// A router with so many subscribers of everything.
    fn router(subscribers: u64) -> Router {
        let router = Router::default();
        let live = Placement::live_of_client("someone");
        router.write(|table| {
            for number in 0..subscribers {
                let session = SessionId::new(live, number + 1, 0);
                let owner = Owner {
                    node: NodeId(1),
                    incarnation: NodeIncarnation(1),
                    epoch: Epoch(1),
                };
                table.set_this(owner.node, owner.incarnation);
                table.set_owner(session, Some(owner));
                let location = Location {
                    worker: 0,
                    slot: number as u32,
                    generation: 0,
                };
                table.attach(session, Epoch(1), location).expect("it was created");
                table.subscribe(
                    session,
                    &Subscription {
                        filter: "#".into(),
                        options: SubscriptionOptions::new(QoS::AtMostOnce),
                        subscription_id: None,
                    },
                );
            }
            ((), true)
        });
        router
    }

    #[test]
    fn plans_are_kept_while_the_routes_hold() {
        let router = router(1);
        let mut plans = Plans::default();
        let first = plans.get("a", &router);
        assert!(Rc::ptr_eq(&first, &plans.get("a", &router)));
        router.write(|_| ((), true));
        assert!(!Rc::ptr_eq(&first, &plans.get("a", &router)));
        assert_eq!((plans.by_topic.len(), plans.targets), (1, 1));
    }

    #[test]
    fn what_is_kept_is_bounded_in_targets() {
        let router = router(1_000);
        let mut plans = Plans::default();
        for number in 0..1_000 {
            plans.get(&format!("topic/{number}"), &router);
            let kept: usize = plans.by_topic.values().map(|plan| targets(plan)).sum();
            assert_eq!(kept, plans.targets);
            assert!(kept <= TARGETS_MAX, "{kept} targets");
        }
    }
}
