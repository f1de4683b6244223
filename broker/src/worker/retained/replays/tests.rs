use std::time::Duration;

use super::*;

const EPOCH: Epoch = Epoch(7);
const SESSION: SessionId = SessionId(1);

/// Replays that were subscribed to in this order; at QoS 1, of a durable session.
fn of(filters: &[&str]) -> Replays {
    let mut replays = Replays::default();
    for filter in filters {
        subscribe(&mut replays, filter);
    }
    replays
}

fn subscribe(replays: &mut Replays, filter: &str) {
    let filter: Arc<str> = filter.into();
    let number = replays.expect(vec![filter.clone()]);
    let id = ReplayId { epoch: EPOCH, number };
    replays.begin(number, filter, (QoS::AtLeastOnce, None), Some(id));
    replays.answered(number);
}

fn left(replays: &Replays) -> Vec<(&str, u32)> {
    let waiting = replays.waiting.iter();
    waiting
        .map(|replay| (&*replay.place.filter, replay.number))
        .collect()
}

fn pending(filter: &str) -> PendingReplay {
    PendingReplay {
        filter: filter.into(),
        id: ReplayId {
            epoch: Epoch(1),
            number: 1,
        },
        qos: QoS::AtLeastOnce,
        subscription_id: None,
        step: 3,
        cursor: None,
    }
}

/// R33: a copy of an older value says nothing of the one that a later replay finds.
#[test]
fn r33_a_value_that_came_by_another_way_is_left_out_and_no_other() {
    let mut replays = of(&["#"]);
    let message = |payload: &[u8]| Message::new("a", &[], payload, QoS::AtLeastOnce, true, None);
    assert!(!replays.had(&message(b"old"), 1));
    replays.note_given(&message(b"old"));
    assert!(replays.had(&message(b"old"), 1) && !replays.had(&message(b"new"), 1));
    // What was read before it came may be older than it.
    assert!(replays.may_be_older(&message(b"new")) && !replays.may_be_older(&message(b"old")));
    assert!(replays.read_first(SESSION).is_some());
    assert!(!replays.may_be_older(&message(b"new")));
    subscribe(&mut replays, "a");
    assert!(!replays.had(&message(b"old"), 2), "it is asked for once more");
    replays.note_live("a");
    assert!(replays.had(&message(b"new"), 2));
}

/// [MQTT-3.10.4-2]; and a value that is on its way to its topic's group is not left to one that looks for nothing (R33).
#[test]
fn r24_r33_what_is_not_subscribed_to_any_more_finds_nothing() {
    let mut replays = of(&["c", "#"]);
    assert!(replays.will_find("a/b"));
    replays.unsubscribed(&["#".into()]);
    assert!(!replays.will_find("a/b"));
    assert_eq!(left(&replays), [("c", 1)]);
}

#[test]
fn r24_a_renewed_subscription_begins_again_in_place_of_its_earlier_replay() {
    let mut replays = of(&["a", "b", "a"]);
    assert_eq!(left(&replays), [("b", 2), ("a", 3)]);
    // Where it asks for none, the one that is there goes on, on the new terms.
    replays.renewed("a", (QoS::AtMostOnce, Some(9)), true);
    let renewed = &replays.waiting[1];
    assert_eq!((renewed.qos, renewed.subscription_id), (QoS::AtMostOnce, Some(9)));
    replays.waiting[1].kept = None;
    replays.renewed("a", (QoS::ExactlyOnce, None), true);
    assert_eq!(replays.waiting[1].qos, QoS::AtMostOnce, "it is in no state");
    replays.renewed("a", (QoS::ExactlyOnce, None), false);
    assert_eq!(replays.waiting[1].qos, QoS::ExactlyOnce);
}

/// Whoever comes back with what belongs to a replay that has ended finds no other under its number.
#[test]
fn r24_numbers_begin_again_only_when_nobody_comes_back_with_an_old_one() {
    let mut replays = of(&["#"]);
    assert!(replays.read_first(SESSION).is_some());
    replays.unsubscribed(&["#".into()]);
    assert!(!replays.is_idle(), "it is being read");
    subscribe(&mut replays, "a");
    assert!(replays.will_find("a"), "that is not what is being read");
    assert!(replays.was_read().is_none(), "the values are of another filter");
    assert_eq!(left(&replays), [("a", 2)]);
    replays.unsubscribed(&["a".into()]);
    assert!(replays.is_idle());
    replays.move_alone();
    assert!(!replays.is_idle(), "a step is on its way");
    replays.moved_alone();
    assert!(replays.is_idle());
}

/// A read waits as long as the group of its topics has no leader: not for connections that are gone.
#[tokio::test]
async fn r36_what_is_being_read_ends_with_the_connection() {
    let mut replays = of(&["#"]);
    let first = tokio::spawn(std::future::pending::<()>());
    let second = tokio::spawn(std::future::pending::<()>());
    replays.reading_task = Some(ReadingTask(first.abort_handle()));
    replays.resuming_task = Some(ReadingTask(second.abort_handle()));
    drop(replays);
    for task in [first, second] {
        let ended = tokio::time::timeout(Duration::from_secs(10), task).await;
        assert!(ended.is_ok_and(|ended| ended.is_err_and(|error| error.is_cancelled())));
    }
}

#[test]
fn r24_what_earlier_connections_left_is_asked_for_again_where_subscriptions_have_changed() {
    let mut replays = Replays {
        is_resuming: true,
        ..Replays::default()
    };
    replays.unsubscribed(&["a".into()]);
    assert!(!replays.resumed(vec![pending("a"), pending("b")], EPOCH));
    assert_eq!(left(&replays), []);
    assert!(replays.resumed(vec![pending("b")], EPOCH) && replays.is_resuming);
    subscribe(&mut replays, "b");
    assert!(!replays.resumed(vec![], EPOCH));
    assert!(replays.resumed(vec![], EPOCH) && !replays.is_resuming);
    assert_eq!(left(&replays), [("b", 1)]);
}

/// R36: what waits aside holds up nothing that comes later, and ends with its subscription.
#[tokio::test]
async fn r36_a_replay_that_nothing_can_be_read_for_lets_others_go_on() {
    let mut replays = of(&["a", "b", "c"]);
    let mut waiting = Vec::new();
    for filter in ["a", "b"] {
        let place = replays.read_first(SESSION);
        assert_eq!(place.map(|(place, _)| place.filter).as_deref(), Some(filter));
        let replay = replays.was_read().unwrap();
        let task = tokio::spawn(std::future::pending::<()>());
        replays.hold(replay, ReadingTask(task.abort_handle()));
        waiting.push(task);
    }
    assert_eq!(left(&replays), [("c", 3), ("a", 1), ("b", 2)]);
    assert_eq!(replays.take_first().map(|replay| replay.number), Some(3));
    assert!(replays.is_held() && !replays.is_empty() && !replays.is_idle());
    assert!(replays.read_first(SESSION).is_none() && !replays.proposes());
    let [held, ended] = [0, 1].map(|at| replays.waiting[at].serial());
    replays.unsubscribed(&["b".into()]);
    let ended_wait = tokio::time::timeout(Duration::from_secs(10), waiting.remove(1)).await;
    assert!(ended_wait.is_ok_and(|ended| ended.is_err_and(|error| error.is_cancelled())));
    assert!(!waiting[0].is_finished());
    for serial in [ended, held] {
        replays.release(serial);
    }
    assert_eq!(
        replays
            .read_first(SESSION)
            .map(|(place, _)| place.filter)
            .as_deref(),
        Some("a")
    );
}

/// What the session's queue has of this connection's replays counts as sent also where the group's time cannot tell it
/// from what an earlier one may have been sent.
#[test]
fn r24_r34_values_are_this_connections_once_the_queue_it_found_was_sent() {
    let mut replays = of(&["#"]);
    replays.resume(GroupTime(1_000));
    assert!(replays.is_own(true, true) && !replays.is_own(false, true));
    replays.reached(GroupTime(1_000));
    assert!(!replays.is_own(false, true), "it may have been there before");
    replays.earlier = None;
    assert!(replays.is_own(false, true));
    assert!(!replays.is_own(false, false), "another group's queue");
}
