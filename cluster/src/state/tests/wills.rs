//! Wills (R31): kept, cut short, due, published once.

use super::*;

/// Opens a session of `expiry_secs` with a will of `delay_secs`.
fn with_will(group: &mut Harness, expiry_secs: u32, delay_secs: u32) -> Opened {
    group.open_with("c", false, expiry_secs, Some(will("w", delay_secs)))
}

#[test]
fn r31_a_will_is_stored_with_its_connection() {
    let mut group = Harness::new();
    let client = with_will(&mut group, 60, 5);
    assert_eq!(group.state.stored_will(client.session), Some(&will("w", 5)));
    assert_eq!(group.due(), []);
}

#[test]
fn r31_a_will_without_delay_is_due_when_the_connection_is_lost() {
    let mut group = Harness::new();
    let client = with_will(&mut group, 60, 0);
    group.one(client.close());
    assert_eq!(group.due(), [(client.session, client.epoch, "w".into())]);
    assert!(group.has_event(&Event::WillDue {
        session: client.session,
        epoch: client.epoch
    }));
    assert_eq!(group.state.stored_will(client.session), None);
}

#[test]
fn r31_a_normal_disconnect_forgets_the_will() {
    for (expiry_secs, delay_secs) in [(0, 0), (60, 0), (60, 5)] {
        let mut group = Harness::new();
        let client = with_will(&mut group, expiry_secs, delay_secs);
        group.one(client.close_with(false, None));
        assert_eq!(group.state.stored_will(client.session), None);
        group.tick(1_000_000);
        assert_eq!(group.due(), []);
    }
}

#[test]
fn r31_a_delayed_will_is_due_after_its_delay() {
    let mut group = Harness::new();
    let client = with_will(&mut group, 60, 5);
    group.one(client.close());
    assert_eq!(group.state.next_deadline(), Some(GroupTime(6_000)));
    group.tick(5_999);
    assert_eq!(group.due(), []);
    group.tick(6_000);
    assert_eq!(group.due(), [(client.session, client.epoch, "w".into())]);
    assert_eq!(
        group.events[0],
        Event::WillDue {
            session: client.session,
            epoch: client.epoch
        }
    );
    assert!(group.state.session_exists(client.session));
}

#[test]
fn r31_the_end_of_the_session_cuts_the_delay_short() {
    let mut group = Harness::new();
    let client = with_will(&mut group, 3, 5);
    group.one(client.close());
    group.tick(3_999);
    assert_eq!(group.due(), []);
    group.tick(4_000);
    assert_eq!(group.due().len(), 1);
    assert!(!group.state.session_exists(client.session));

    let client = with_will(&mut group, 60, 5);
    group.one(client.close_with(true, Some(0)));
    assert_eq!(group.due().len(), 2);

    let client = with_will(&mut group, 60, 5);
    group.one(client.close());
    group.one(Command::EndSession {
        session: client.session,
        publish_will: true,
    });
    assert_eq!(group.due().len(), 3);
    assert_eq!(group.state.next_deadline(), None);
}

#[test]
fn r31_an_ended_session_may_take_its_will_along() {
    let mut group = Harness::new();
    let client = with_will(&mut group, 60, 0);
    group.one(Command::EndSession {
        session: client.session,
        publish_will: false,
    });
    assert_eq!(group.due(), []);
}

#[test]
fn r31_a_client_that_comes_back_in_time_cancels_its_will() {
    let mut group = Harness::new();
    let client = with_will(&mut group, 60, 5);
    group.one(client.close());
    group.now = 5_999;
    let again = group.open("c");
    assert!(again.present);
    group.tick(1_000_000);
    assert_eq!(group.due(), []);
    assert_eq!(group.state.stored_will(client.session), None);
}

#[test]
fn r31_a_clean_start_does_not_cancel_the_will() {
    let mut group = Harness::new();
    let client = with_will(&mut group, 60, 5);
    group.one(client.close());
    let again = group.open_with("c", true, 60, Some(will("new", 0)));
    assert_eq!(group.due(), [(client.session, client.epoch, "w".into())]);
    assert_eq!(group.state.stored_will(again.session), Some(&will("new", 0)));
}

#[test]
fn r31_a_takeover_decides_the_will_of_the_connection_before() {
    // (clean start, delay, whether the will is due)
    for (clean_start, delay_secs, due) in [
        (false, 0, true),
        (false, 5, false),
        (true, 0, true),
        (true, 5, true),
    ] {
        let mut group = Harness::new();
        let client = with_will(&mut group, 60, delay_secs);
        let again = group.open_with("c", clean_start, 60, Some(will("new", 5)));
        let expected = [(client.session, client.epoch, "w".to_string())];
        assert_eq!(
            group.due(),
            if due { &expected[..] } else { &[] },
            "{clean_start} {delay_secs}"
        );
        assert_eq!(group.state.stored_will(again.session), Some(&will("new", 5)));
        group.tick(1_000_000);
        assert_eq!(group.due().len(), usize::from(due));
    }
}

#[test]
fn r31_a_due_will_is_published_once() {
    let mut group = Harness::new();
    let client = with_will(&mut group, 60, 0);
    group.one(client.close());
    let subscriber = group.open("subscriber");
    let origin = Origin::Will {
        session: client.session,
        epoch: client.epoch,
    };
    let fire = publish(origin, message("w"), vec![subscriber.target()]);
    assert_eq!(group.one(fire.clone()), published(1, 0));
    assert_eq!(group.due(), []);
    assert_eq!(group.one(fire), FENCED);
    assert_eq!(group.payloads(&subscriber.queue()), ["w"]);
}

#[test]
fn r31_a_will_that_is_not_due_cannot_be_published() {
    let mut group = Harness::new();
    let client = with_will(&mut group, 60, 5);
    group.one(client.close());
    let origin = Origin::Will {
        session: client.session,
        epoch: client.epoch,
    };
    assert_eq!(group.one(publish(origin, message("w"), vec![])), FENCED);
    assert!(group.state.stored_will(client.session).is_some());
}

#[test]
fn r31_wills_of_several_connections_are_due_side_by_side() {
    let mut group = Harness::new();
    let first = with_will(&mut group, 60, 0);
    group.one(first.close());
    let second = with_will(&mut group, 60, 0);
    group.one(second.close());
    assert_eq!(group.due().len(), 2);
    group.one(Command::WillPublished {
        session: first.session,
        epoch: first.epoch,
    });
    assert_eq!(group.due(), [(second.session, second.epoch, "w".into())]);
    // Idempotent.
    let again = Command::WillPublished {
        session: first.session,
        epoch: first.epoch,
    };
    assert_eq!(group.one(again), Outcome::Done);
    assert_eq!(group.due().len(), 1);
}

#[test]
fn r31_a_will_of_a_session_that_never_ends_waits_its_whole_delay() {
    let mut group = Harness::new();
    let client = with_will(&mut group, u32::MAX, u32::MAX);
    group.one(client.close());
    let deadline = 1_000 + u64::from(u32::MAX) * 1_000;
    assert_eq!(group.state.next_deadline(), Some(GroupTime(deadline)));
    group.tick(deadline);
    assert_eq!(group.due().len(), 1);
    assert!(group.state.session_exists(client.session));
}

#[test]
fn r31_a_will_of_a_live_group_is_published_once() {
    let mut group = Harness::new();
    let s = group.open("s");
    let fire = |index| publish(live_will(index), message("w"), vec![s.target()]);
    assert_eq!(group.one(fire(1)), published(1, 0));
    let content = group.content();
    assert_eq!(group.one(fire(1)), FENCED);
    assert_eq!((group.content(), &group.events[..]), (content, &[][..]));
    // Another connection of the session has a will of its own.
    let next = Origin::LiveWill {
        session: live_session(1),
        epoch: Epoch(8),
    };
    assert_eq!(
        group.one(publish(next, message("next"), vec![s.target()])),
        published(1, 0)
    );
    // One that nobody wanted was published all the same.
    assert_eq!(
        group.one(publish(live_will(2), message("w"), vec![])),
        published(0, 0)
    );
    assert_eq!(group.one(fire(2)), FENCED);
    assert_eq!(group.payloads(&s.queue()), ["w", "next"]);
}

#[test]
fn r31_wills_of_live_groups_are_remembered_until_they_are_forgotten() {
    let mut group = Harness::new();
    for index in [3, 1, 2] {
        group.one(publish(live_will(index), message("w"), vec![]));
    }
    let will = |index| (live_session(index), Epoch(7));
    assert_eq!(group.state.live_wills(None, 9), [will(1), will(2), will(3)]);
    assert_eq!(group.state.live_wills(None, 2), [will(1), will(2)]);
    assert_eq!(group.state.live_wills(Some(will(1)), 1), [will(2)]);
    assert_eq!(group.state.live_wills(Some(will(3)), 9), []);
    assert_eq!(group.state.counts().live_wills, 3);
    let forget = Command::ForgetLiveWills {
        wills: vec![will(3), will(9), will(1)],
    };
    for _ in 0..2 {
        assert_eq!(group.one(forget.clone()), Outcome::Done);
        assert_eq!(group.state.live_wills(None, 9), [will(2)]);
    }
    assert_eq!(
        group.one(publish(live_will(1), message("w"), vec![])),
        published(0, 0)
    );
}

fn drain(client: &Opened) -> Command {
    Command::DrainConnection {
        session: client.session,
        epoch: client.epoch,
        will_delay_secs: 30,
    }
}

#[test]
fn r31_the_will_of_a_drained_connection_waits_for_the_client() {
    for (expiry_secs, delay_secs, due_at) in [
        (0, 0, 31_000),
        (0, 60, 31_000),
        (60, 0, 31_000),
        (60, 40, 41_000),
        (9, 0, 10_000),
    ] {
        let mut group = Harness::new();
        let client = with_will(&mut group, expiry_secs, delay_secs);
        group.one(drain(&client));
        group.one(drain(&client));
        assert_eq!(group.due(), []);
        group.tick(due_at - 1);
        assert_eq!(group.due(), [], "{expiry_secs} {delay_secs}");
        group.tick(due_at);
        assert_eq!(group.due().len(), 1, "{expiry_secs} {delay_secs}");
        group.tick(1_000_000);
        assert_eq!(group.due().len(), 1);
        assert!(!group.state.session_exists(client.session));
    }
}

#[test]
fn r31_a_client_that_comes_back_to_another_node_has_not_died() {
    for (expiry_secs, clean_start) in [(0, false), (0, true), (60, false)] {
        let mut group = Harness::new();
        let client = with_will(&mut group, expiry_secs, 0);
        group.one(drain(&client));
        let again = group.open_with("c", clean_start, expiry_secs, Some(will("new", 0)));
        assert_eq!(
            again.present,
            expiry_secs > 0,
            "a session of expiry 0 is not gone on with"
        );
        group.tick(1_000_000);
        assert_eq!(group.due(), [], "expiry {expiry_secs}, clean start {clean_start}");
        assert_eq!(group.state.stored_will(again.session), Some(&will("new", 0)));
        // An old connection that is told late says nothing of the new one.
        group.one(drain(&client));
        assert_eq!(group.due(), []);
    }
    // Where it comes back with a session of the other kind, that is told here like this.
    let mut group = Harness::new();
    let client = with_will(&mut group, 0, 0);
    group.one(drain(&client));
    group.one(Command::EndSession {
        session: client.session,
        publish_will: true,
    });
    assert_eq!(group.due(), []);
}

#[test]
fn r31_a_drained_connection_without_will_ends_as_any_other() {
    let mut group = Harness::new();
    let client = group.open_with("c", false, 0, None);
    group.one(drain(&client));
    assert!(!group.state.session_exists(client.session));
    let mut group = Harness::new();
    let client = with_will(&mut group, 0, 0);
    let at_once = Command::DrainConnection {
        session: client.session,
        epoch: client.epoch,
        will_delay_secs: 0,
    };
    group.one(at_once);
    assert_eq!(group.due().len(), 1);
}
