//! What a lender makes of what it hears of its messages, and of what it does not.

use quorate_cluster::node::{Location, Placement};
use quorate_cluster::state::{Epoch, Owner, Subscription};
use quorate_proto::codec::SubscriptionOptions;

use super::*;
use crate::peers::DroppedLoan;
use crate::worker::Mail;
use crate::worker::testing::{THIS, worker};

/// The node of the members that are not here, and its start.
const THERE: (NodeId, NodeIncarnation) = (NodeId(2), NodeIncarnation(5));

fn live(number: u64) -> SessionId {
    SessionId::new(Placement::live_of_client("c"), number, 0)
}

/// A member at the other node.
fn there() -> SessionId {
    live(1)
}

/// A member of the other worker here.
fn here() -> SessionId {
    live(2)
}

fn share() -> ShareKey {
    ShareKey {
        name: "g".into(),
        filter: "jobs".into(),
    }
}

/// A worker of a node where [`here`] is the only member that may be chosen.
fn lender() -> Rc<Worker> {
    let worker = worker();
    worker.shared.router.write(|table| {
        let owner = Owner {
            node: THIS.0,
            incarnation: THIS.1,
            epoch: Epoch(1),
        };
        let location = Location {
            worker: 1,
            slot: 0,
            generation: 0,
        };
        table.set_owner(here(), Some(owner));
        table.attach(here(), Epoch(1), location).unwrap();
        let subscription = Subscription {
            filter: "$share/g/jobs".into(),
            options: SubscriptionOptions::new(QoS::ExactlyOnce),
            subscription_id: None,
        };
        table.subscribe(here(), &subscription);
        ((), true)
    });
    worker
}

/// Lends a message to [`there`]; answers its number.
fn lend(worker: &Worker, payload: &str, is_final: bool) -> u64 {
    let message = Message::new("jobs", &[], payload.as_bytes(), QoS::ExactlyOnce, false, None);
    let held = HeldMessage {
        share: share(),
        message: Arc::new(message),
        expires_at: None,
        with: None,
    };
    let number = worker.insert_held(held).unwrap();
    let borrower = Borrower {
        session: there(),
        node: THERE.0,
        incarnation: THERE.1,
        is_final,
    };
    worker.held.borrow_mut().lend(number, borrower).unwrap()
}

/// What [`here`] was given since this was asked last: payload and number.
async fn given(worker: &Worker) -> Vec<(String, u64)> {
    let mails = worker.mail_of(1).await;
    let given = mails.into_iter().map(|mail| match mail {
        Mail::Shared(shared) => {
            assert_eq!(shared.session, here());
            let payload = String::from_utf8(shared.message.payload().to_vec()).unwrap();
            (payload, shared.number)
        }
        other => panic!("{other:?}"),
    });
    given.collect()
}

async fn payloads_given(worker: &Worker) -> Vec<String> {
    let given = given(worker).await;
    given.into_iter().map(|(payload, _)| payload).collect()
}

fn dropped(number: u64, may_be_taken: bool) -> DroppedLoan {
    DroppedLoan {
        worker: 0,
        number,
        may_be_taken,
    }
}

fn ended(worker: &Worker) -> u64 {
    let dropped = &worker.counters.messages_dropped;
    dropped.of(DropReason::SessionEnded).value()
}

/// The member's node closes those that lost something (R4); of what it had taken before it alone knows what becomes.
#[tokio::test]
async fn r40_what_a_node_has_accepted_stays_lent_when_other_messages_to_it_are_dropped() {
    let worker = lender();
    let accepted = lend(&worker, "accepted", true);
    let sent = lend(&worker, "sent", true);
    let unsent = lend(&worker, "unsent", true);
    let at_qos_1 = lend(&worker, "sent at QoS 1", false);
    worker.loans_dropped(&[
        dropped(sent, true),
        dropped(unsent, false),
        dropped(at_qos_1, true),
    ]);
    assert_eq!(
        payloads_given(&worker).await,
        ["unsent", "sent at QoS 1"],
        "in order"
    );
    assert_eq!(ended(&worker), 1, "the member may have been sent it");

    // Whatever of it is said now comes too late.
    for late in [sent, unsent, at_qos_1] {
        worker.handle_lender_news(&LenderNews::Returned(late, there(), Returned::Back));
    }
    assert!(given(&worker).await.is_empty());
    // The member had no room for what came before.
    worker.handle_lender_news(&LenderNews::Returned(accepted, there(), Returned::Full));
    assert_eq!(payloads_given(&worker).await, ["accepted"]);
}

#[tokio::test]
async fn r40_what_a_lost_node_may_have_sent_at_qos_2_is_over_and_the_rest_goes_to_others() {
    let worker = lender();
    for (payload, is_final) in [("first", true), ("second", false), ("third", false)] {
        lend(&worker, payload, is_final);
    }
    worker.borrowers_lost(THERE.0, NodeIncarnation(THERE.1.0 - 1));
    assert!(given(&worker).await.is_empty(), "an earlier start");
    worker.borrowers_lost(THERE.0, THERE.1);
    assert_eq!(payloads_given(&worker).await, ["second", "third"]);
    assert_eq!(ended(&worker), 1);
}

/// Behind a gap news come again that may have been taken before (R4).
#[tokio::test]
async fn r40_news_that_come_twice_are_of_one_loan() {
    let worker = lender();
    let number = lend(&worker, "once", true);
    worker.handle_lender_news(&LenderNews::Returned(number, there(), Returned::Back));
    let [(_, first)] = given(&worker).await[..] else {
        panic!("it was given once");
    };
    let is_full = LenderNews::Returned(first, here(), Returned::Full);
    worker.handle_lender_news(&is_full);
    assert!(given(&worker).await.is_empty());
    worker.handle_lender_news(&LenderNews::HasRoom(here()));
    let [(_, second)] = given(&worker).await[..] else {
        panic!("it was given again");
    };
    worker.handle_lender_news(&is_full);
    worker.handle_lender_news(&LenderNews::HasRoom(here()));
    assert!(given(&worker).await.is_empty(), "the member has it");
    worker.handle_lender_news(&LenderNews::Returned(second, here(), Returned::Done));
    let held = worker.held.borrow();
    assert!(held.messages.is_empty() && held.shares.is_empty());
    assert_eq!(worker.shared.held_bytes.bytes(), 0);
}
