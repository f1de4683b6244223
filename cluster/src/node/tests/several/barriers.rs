//! R18: what a node reads that lags.

use super::*;
use quorate_proto::codec::QoS;

const TOPIC: &str = "kept";

fn message(topic: &str, payload: &str) -> Message {
    Message::new(topic, &[], payload.as_bytes(), QoS::AtLeastOnce, false, None)
}

impl Several {
    fn publish(&self, at: usize, group: GroupId, message: Message, queues: Vec<TargetQueue>, ticket: u32) {
        let target = |queue| Target {
            queue,
            qos: QoS::AtLeastOnce,
            retain: false,
            replayed: false,
            subscription_ids: vec![],
        };
        let command = Command::Publish(PublishCommand {
            origin: Origin::Server,
            set_retained: queues.is_empty(),
            message,
            targets: queues.into_iter().map(target).collect(),
            taken_live: false,
        });
        self.members[at].node.group(group).propose(&command, Some(ticket));
        self.completed(at, ticket);
    }

    fn pull(&self, at: usize, group: GroupId, session: SessionId) {
        self.members[at].node.group(group).pull(PullRequest {
            session,
            location: Location {
                worker: 0,
                slot: 1,
                generation: 1,
            },
            from: Sequence(0),
            count_max: 100,
        });
    }

    fn pulled(&self, at: usize) -> References {
        until("it is pulled", || self.members[at].host.references.lock().pop())
    }
}

/// R18: a session is taken up at a node that does not apply what was acknowledged elsewhere: its first pull there is answered
/// with all of it, as soon as the node has it, and a look for retained messages finds what was acknowledged before.
#[test]
fn r18_what_was_acknowledged_is_found_at_a_node_that_lags() {
    let cluster = Several::start();
    let (near, lagging) = (0, 1);
    let mut groups = Placement::data_groups().filter(|group| cluster.leader(*group) != lagging);
    let (group, other) = (groups.next().unwrap(), groups.next().unwrap());
    let session = SessionId::new(GroupId(200), 1, 1);
    let queue = || vec![TargetQueue::Session(session)];
    cluster.publish(near, group, message("a", "first"), queue(), 1);
    let lags = &cluster.members[lagging];
    lags.host.hold(group);
    for ticket in 2..12 {
        cluster.publish(near, group, message("a", "later"), queue(), ticket);
    }
    let topic = (0..).map(|number| format!("{TOPIC}/{number}"));
    let topic = topic
        .into_iter()
        .find(|topic| Placement::data_of_topic(topic) == group)
        .unwrap();
    cluster.publish(near, group, message(&topic, "kept"), vec![], 12);

    cluster.pull(lagging, group, session);
    let of_group = lags.node.group(group).clone();
    let (filter, turn) = (topic.clone(), of_group.enter_barrier());
    let reading = lags.runtime.spawn({
        let group = of_group.clone();
        async move {
            group.barrier_passed(turn).await;
            group.read_retained(&filter, None, 10).await
        }
    });
    // The node goes on: what another group is asked meanwhile is answered.
    cluster.publish(near, other, message("a", "other"), queue(), 13);
    cluster.pull(lagging, other, session);
    let answered = cluster.pulled(lagging);
    assert_eq!((answered.group, answered.references.len()), (other, 1));
    lags.runtime.block_on(lags.node.group(other).pass_barrier());
    assert!(
        lags.host.references.lock().is_empty() && !reading.is_finished(),
        "it lags"
    );

    lags.host.let_go();
    let answered = cluster.pulled(lagging);
    assert_eq!((answered.group, answered.references.len()), (group, 11));
    let page = lags.runtime.block_on(reading).unwrap();
    assert_eq!(page.matches.len(), 1);
}
