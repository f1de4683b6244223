//! The checks, one promise of the trait each.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Bench, completion, entry};
use crate::log::{GroupId, GroupLogState, LogEntry, LogPosition};

const GROUP: GroupId = GroupId(1);

type Check = fn(&mut Bench<'_>);

/// Every check with its name.
pub(super) const ALL: &[(&str, Check)] = &[
    ("an_unknown_group_is_empty", an_unknown_group_is_empty),
    (
        "entries_are_readable_before_they_are_durable",
        entries_are_readable_before_they_are_durable,
    ),
    ("what_was_completed_survives", what_was_completed_survives),
    ("reads_respect_bounds_and_limits", reads_respect_bounds_and_limits),
    ("payloads_of_all_sizes_come_back", payloads_of_all_sizes_come_back),
    (
        "entries_that_do_not_follow_are_refused",
        entries_that_do_not_follow_are_refused,
    ),
    ("truncation_and_new_entries", truncation_and_new_entries),
    ("truncation_of_everything", truncation_of_everything),
    ("purge_forgets_the_front", purge_forgets_the_front),
    ("purge_beyond_the_end", purge_beyond_the_end),
    ("purges_never_go_back", purges_never_go_back),
    ("votes_are_replaced_and_kept", votes_are_replaced_and_kept),
    (
        "a_vote_is_durable_no_later_than_entries_after_it",
        a_vote_is_durable_no_later_than_entries_after_it,
    ),
    (
        "the_commit_position_is_kept_by_a_clean_stop",
        the_commit_position_is_kept_by_a_clean_stop,
    ),
    ("reset_forgets_everything", reset_forgets_everything),
    ("groups_do_not_mix", groups_do_not_mix),
    ("completions_run_in_order", completions_run_in_order),
    ("the_log_may_start_anywhere", the_log_may_start_anywhere),
    ("the_synced_index_follows", the_synced_index_follows),
];

fn position(term: u64, index: u64) -> LogPosition {
    entry(term, index, 0).position
}

fn entries(term: u64, indexes: std::ops::RangeInclusive<u64>) -> Vec<LogEntry> {
    indexes.map(|index| entry(term, index, 50)).collect()
}

fn both_stops(bench: &mut Bench<'_>, check: impl Fn(&mut Bench<'_>)) {
    check(bench);
    for clean in [true, false] {
        bench.reopen(clean);
        check(bench);
    }
}

fn an_unknown_group_is_empty(bench: &mut Bench<'_>) {
    assert_eq!(bench.log().state(GroupId(77)), GroupLogState::default());
    assert_eq!(
        bench.log().read(GroupId(77), 0, 100, 1000).unwrap_or_default(),
        []
    );
    assert_eq!(bench.log().synced_index(GroupId(77)), 0);
}

fn entries_are_readable_before_they_are_durable(bench: &mut Bench<'_>) {
    let (done, _result) = completion();
    bench.log().append(GROUP, entries(1, 1..=3), done);
    let read = bench.log().read(GROUP, 1, 4, usize::MAX).expect("read");
    assert_eq!(read, entries(1, 1..=3));
    assert_eq!(bench.log().state(GROUP).last, Some(position(1, 3)));
}

fn what_was_completed_survives(bench: &mut Bench<'_>) {
    bench.append(GROUP, entries(1, 1..=5));
    bench.append(GROUP, entries(2, 6..=9));
    both_stops(bench, |bench| {
        let read = bench.log().read(GROUP, 1, 10, usize::MAX).expect("read");
        assert_eq!(read, [entries(1, 1..=5), entries(2, 6..=9)].concat());
        assert_eq!(bench.log().state(GROUP).last, Some(position(2, 9)));
    });
    bench.append(GROUP, entries(2, 10..=10));
    assert_eq!(bench.indexes(GROUP).len(), 10);
}

fn reads_respect_bounds_and_limits(bench: &mut Bench<'_>) {
    bench.append(GROUP, (1..=10).map(|index| entry(1, index, 100)).collect());
    both_stops(bench, |bench| {
        let count = |start, end, bytes_max| {
            bench
                .log()
                .read(GROUP, start, end, bytes_max)
                .expect("read")
                .len()
        };
        assert_eq!(count(3, 6, usize::MAX), 3);
        assert_eq!(count(3, 3, usize::MAX), 0);
        assert_eq!(count(5, 2, usize::MAX), 0);
        assert_eq!(count(0, 100, usize::MAX), 10, "clipped to what is held");
        assert_eq!(count(1, 11, 0), 1, "at least one");
        assert_eq!(count(1, 11, 350), 3);
        assert_eq!(count(11, 20, usize::MAX), 0);
    });
}

fn payloads_of_all_sizes_come_back(bench: &mut Bench<'_>) {
    let sizes = [
        0, 1, 511, 512, 16_384, 49_151, 49_152, 49_153, 98_304, 300_000, 2_000_000,
    ];
    let all: Vec<LogEntry> = (1..)
        .zip(sizes)
        .map(|(index, size)| entry(1, index, size))
        .collect();
    bench.append(GROUP, all.clone());
    both_stops(bench, |bench| {
        assert!(bench.log().read(GROUP, 1, 100, usize::MAX).expect("read") == all);
    });
}

fn entries_that_do_not_follow_are_refused(bench: &mut Bench<'_>) {
    bench.append(GROUP, entries(1, 1..=3));
    for wrong in [
        entries(1, 5..=5),
        entries(1, 3..=4),
        vec![entry(1, 4, 1), entry(1, 6, 1)],
    ] {
        let refused = bench
            .wait(|log, done| log.append(GROUP, wrong, done))
            .expect_err("refused");
        assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
    }
    bench.append(GROUP, entries(1, 4..=4));
    both_stops(bench, |bench| assert_eq!(bench.indexes(GROUP), [1, 2, 3, 4]));
}

fn truncation_and_new_entries(bench: &mut Bench<'_>) {
    bench.append(GROUP, entries(1, 1..=10));
    let (done, _result) = completion();
    bench.log().truncate_after(GROUP, Some(4), done);
    assert_eq!(bench.log().state(GROUP).last, Some(position(1, 4)));
    bench.append(GROUP, entries(2, 5..=6));
    both_stops(bench, |bench| {
        let read = bench.log().read(GROUP, 1, 100, usize::MAX).expect("read");
        assert_eq!(read, [entries(1, 1..=4), entries(2, 5..=6)].concat());
    });
    bench
        .wait(|log, done| log.truncate_after(GROUP, Some(100), done))
        .expect("behind the end");
    both_stops(bench, |bench| {
        assert_eq!(bench.indexes(GROUP), [1, 2, 3, 4, 5, 6])
    });
}

fn truncation_of_everything(bench: &mut Bench<'_>) {
    bench.append(GROUP, entries(1, 1..=600));
    bench
        .wait(|log, done| log.truncate_after(GROUP, None, done))
        .expect("truncate");
    both_stops(bench, |bench| assert_eq!(bench.log().state(GROUP).last, None));
    bench.append(GROUP, entries(2, 1..=1));
    bench.append(GroupId(2), entries(1, 1..=9));
    bench
        .wait(|log, done| log.purge(GroupId(2), position(1, 5), done))
        .expect("purge");
    bench
        .wait(|log, done| log.truncate_after(GroupId(2), None, done))
        .expect("truncate");
    both_stops(bench, |bench| {
        assert_eq!(bench.indexes(GROUP), [1]);
        assert_eq!(
            bench.log().state(GroupId(2)).last,
            Some(position(1, 5)),
            "the purged position stays"
        );
    });
}

fn purge_forgets_the_front(bench: &mut Bench<'_>) {
    bench.append(GROUP, entries(1, 1..=700));
    bench
        .wait(|log, done| log.purge(GROUP, position(1, 690), done))
        .expect("purge");
    both_stops(bench, |bench| {
        assert_eq!(bench.indexes(GROUP), (691..=700).collect::<Vec<_>>());
        let state = bench.log().state(GROUP);
        assert_eq!(
            (state.purged, state.last),
            (Some(position(1, 690)), Some(position(1, 700)))
        );
    });
}

fn purge_beyond_the_end(bench: &mut Bench<'_>) {
    bench.append(GROUP, entries(1, 1..=5));
    bench
        .wait(|log, done| log.purge(GROUP, position(3, 100), done))
        .expect("purge");
    both_stops(bench, |bench| {
        let state = bench.log().state(GROUP);
        assert_eq!(
            (state.purged, state.last),
            (Some(position(3, 100)), Some(position(3, 100)))
        );
        assert_eq!(bench.indexes(GROUP), [0; 0]);
    });
    let refused = bench.wait(|log, done| log.append(GROUP, entries(3, 6..=6), done));
    assert!(refused.is_err(), "6 was purged");
    bench.append(GROUP, entries(3, 101..=102));
    both_stops(bench, |bench| assert_eq!(bench.indexes(GROUP), [101, 102]));
}

fn purges_never_go_back(bench: &mut Bench<'_>) {
    bench.append(GROUP, entries(1, 1..=5));
    for index in [3, 2, 3] {
        bench
            .wait(|log, done| log.purge(GROUP, position(1, index), done))
            .expect("purge");
    }
    both_stops(bench, |bench| {
        assert_eq!(bench.log().state(GROUP).purged, Some(position(1, 3)));
        assert_eq!(bench.indexes(GROUP), [4, 5]);
    });
}

fn votes_are_replaced_and_kept(bench: &mut Bench<'_>) {
    for vote in ["one", "two", ""] {
        let vote = Bytes::from_static(vote.as_bytes());
        bench
            .wait(|log, done| log.save_vote(GROUP, vote.clone(), done))
            .expect("vote");
        both_stops(bench, |bench| {
            assert_eq!(bench.log().state(GROUP).vote.as_ref(), Some(&vote))
        });
    }
}

fn a_vote_is_durable_no_later_than_entries_after_it(bench: &mut Bench<'_>) {
    let (done, _result) = completion();
    bench.log().save_vote(GROUP, Bytes::from_static(b"vote"), done);
    bench.append(GROUP, entries(1, 1..=1));
    both_stops(bench, |bench| {
        assert_eq!(bench.log().state(GROUP).vote.as_deref(), Some(b"vote".as_slice()))
    });
}

fn the_commit_position_is_kept_by_a_clean_stop(bench: &mut Bench<'_>) {
    bench.append(GROUP, entries(1, 1..=5));
    bench.log().save_committed(GROUP, position(1, 4));
    assert_eq!(bench.log().state(GROUP).committed, Some(position(1, 4)));
    bench.reopen(true);
    assert_eq!(bench.log().state(GROUP).committed, Some(position(1, 4)));
}

fn reset_forgets_everything(bench: &mut Bench<'_>) {
    bench.append(GROUP, entries(1, 1..=600));
    bench.append(GroupId(2), entries(1, 1..=3));
    bench
        .wait(|log, done| log.save_vote(GROUP, Bytes::from_static(b"vote"), done))
        .expect("vote");
    bench
        .wait(|log, done| log.purge(GROUP, position(1, 400), done))
        .expect("purge");
    bench.log().save_committed(GROUP, position(1, 4));
    bench.wait(|log, done| log.reset(GROUP, done)).expect("reset");
    both_stops(bench, |bench| {
        assert_eq!(bench.log().state(GROUP), GroupLogState::default());
        assert_eq!(bench.indexes(GROUP), [0; 0]);
        assert_eq!(bench.log().synced_index(GROUP), 0);
    });
    bench.append(GROUP, entries(9, 5..=6));
    both_stops(bench, |bench| {
        assert_eq!(
            bench.log().read(GROUP, 0, 100, usize::MAX).expect("read"),
            entries(9, 5..=6)
        );
        assert_eq!(bench.indexes(GroupId(2)), [1, 2, 3], "others keep theirs");
    });
}

fn groups_do_not_mix(bench: &mut Bench<'_>) {
    for round in 0..20_u64 {
        for group in [0, 1, 255, 256, u16::MAX] {
            let (done, _result) = completion();
            let term = u64::from(group) + 1;
            bench
                .log()
                .append(GroupId(group), entries(term, round * 3 + 1..=round * 3 + 3), done);
        }
    }
    bench.append(GROUP, entries(2, 61..=61));
    both_stops(bench, |bench| {
        for group in [0, 255, 256, u16::MAX] {
            let read = bench
                .log()
                .read(GroupId(group), 0, 1000, usize::MAX)
                .expect("read");
            assert!(read == entries(u64::from(group) + 1, 1..=60), "group {group}");
        }
    });
}

fn completions_run_in_order(bench: &mut Bench<'_>) {
    let order = Arc::new(Mutex::new(Vec::new()));
    for number in 1..=100_u64 {
        let noted = Arc::clone(&order);
        let done = Box::new(move |result: std::io::Result<()>| {
            assert!(result.is_ok());
            noted.lock().push(number);
        });
        let log = bench.log();
        match number % 10 {
            3 => log.save_vote(GROUP, Bytes::from(number.to_string()), done),
            6 => log.purge(GROUP, position(1, number.saturating_sub(20)), done),
            _ => {
                let next = log.state(GROUP).last.map_or(1, |last| last.index + 1);
                log.append(GROUP, entries(1, next..=next), done);
            }
        }
    }
    bench
        .wait(|log, done| log.save_vote(GROUP, Bytes::new(), done))
        .expect("vote");
    assert_eq!(*order.lock(), (1..=100).collect::<Vec<_>>());
}

fn the_log_may_start_anywhere(bench: &mut Bench<'_>) {
    bench.append(GROUP, entries(1, 0..=2));
    bench.append(GroupId(2), entries(1, 1_000_000..=1_000_001));
    both_stops(bench, |bench| {
        assert_eq!(bench.indexes(GROUP), [0, 1, 2]);
        assert_eq!(bench.indexes(GroupId(2)), [1_000_000, 1_000_001]);
    });
}

fn the_synced_index_follows(bench: &mut Bench<'_>) {
    bench.append(GROUP, entries(1, 1..=10));
    both_stops(bench, |bench| assert_eq!(bench.log().synced_index(GROUP), 10));
    bench
        .wait(|log, done| log.truncate_after(GROUP, Some(7), done))
        .expect("truncate");
    assert_eq!(bench.log().synced_index(GROUP), 7);
    bench
        .wait(|log, done| log.purge(GROUP, position(5, 50), done))
        .expect("purge");
    both_stops(bench, |bench| {
        assert_eq!(bench.log().synced_index(GROUP), 50, "what was purged is covered")
    });
}
