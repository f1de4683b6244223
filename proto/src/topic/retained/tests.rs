//! Tests of the retained index against a search through all topics with [`matches`].

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::topic::filter::matches;

fn index_of(topics: &[&str]) -> RetainedIndex<usize> {
    let mut index = RetainedIndex::new();
    for (value, topic) in topics.iter().enumerate() {
        assert_eq!(index.insert(topic, value), None);
    }
    index
}

/// All matches, read in pages of `limit`.
fn read<'a, V>(index: &'a RetainedIndex<V>, filter: &str, limit: usize) -> Vec<&'a str> {
    let (mut all, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = index.matching(filter, after.as_deref(), limit);
        assert!(
            page.matches.len() <= limit.max(1),
            "{} matches on a page of {limit}",
            page.matches.len()
        );
        all.extend(page.matches.iter().map(|(topic, _)| *topic));
        match page.resume_after {
            None => return all,
            Some(next) => {
                if let Some(after) = &after {
                    assert!(
                        level_order(&next, after).is_gt(),
                        "the cursor went from {after} to {next}"
                    );
                }
                after = Some(next);
            }
        }
    }
}

#[test]
fn a_topic_comes_directly_before_what_is_below_it() {
    let index = index_of(&[
        "a", "a-b", "a/b", "a b", "a/", "a//", "a/b/c", "a/b-c", "b", "/", "A", "日本/x", "日本",
    ]);
    let order: Vec<&str> = index.iter().map(|(topic, _)| topic).collect();
    let expected = [
        "/", "A", "a", "a/", "a//", "a/b", "a/b/c", "a/b-c", "a b", "a-b", "b", "日本", "日本/x",
    ];
    assert_eq!(order, expected);
}

#[test]
fn a_map_by_topic() {
    let mut index = RetainedIndex::new();
    assert!(index.is_empty());
    assert_eq!(index.insert("a/b", 1), None);
    assert_eq!(index.insert("a/b", 2), Some(1));
    assert_eq!(
        (index.get("a/b"), index.get("a"), index.len()),
        (Some(&2), None, 1)
    );
    *index.get_mut("a/b").unwrap() += 1;
    assert_eq!(index.remove("a"), None);
    assert_eq!(index.remove("a/b"), Some(3));
    assert!(index.is_empty());
}

#[test]
fn wildcards() {
    let index = index_of(&[
        "a", "a/b", "a/b/c", "a/c", "a/d/c", "ab/b", "b/b", "/b", "b//c", "$SYS", "$SYS/b", "%",
    ]);
    let read = |filter| read(&index, filter, 100);
    assert_eq!(read("a"), ["a"]);
    assert_eq!(read("a/#"), ["a", "a/b", "a/b/c", "a/c", "a/d/c"]);
    assert_eq!(read("a/+"), ["a/b", "a/c"]);
    assert_eq!(read("a/+/c"), ["a/b/c", "a/d/c"]);
    assert_eq!(read("+/b"), ["/b", "a/b", "ab/b", "b/b"]);
    assert_eq!(read("+/+/c"), ["a/b/c", "a/d/c", "b//c"]);
    assert_eq!(read("+"), ["%", "a"]);
    assert_eq!(
        read("#"),
        [
            "/b", "%", "a", "a/b", "a/b/c", "a/c", "a/d/c", "ab/b", "b//c", "b/b"
        ]
    );
    assert_eq!(read("+/#"), read("#"));
    assert_eq!(read("$SYS/#"), ["$SYS", "$SYS/b"]);
    assert_eq!(read("$SYS/+"), ["$SYS/b"]);
    assert_eq!(read("c/#"), [""; 0]);
    assert_eq!(read("a/b/c/d"), [""; 0]);
}

#[test]
fn pages_end_with_a_cursor_exactly_when_there_is_more() {
    let index = index_of(&["a/1", "a/2", "a/3", "b"]);
    let page = index.matching("a/+", None, 2);
    assert_eq!(page.matches, [("a/1", &0), ("a/2", &1)]);
    assert_eq!(page.resume_after.as_deref(), Some("a/2"));
    let page = index.matching("a/+", Some("a/2"), 2);
    assert_eq!((page.matches, page.resume_after), (vec![("a/3", &2)], None));
    // A cursor whose topic was removed in between, one before the filter's prefix, and one behind all of it.
    assert_eq!(
        index.matching("a/+", Some("a/11"), 9).matches,
        [("a/2", &1), ("a/3", &2)]
    );
    assert_eq!(index.matching("a/+", Some("A"), 9).matches.len(), 3);
    assert_eq!(index.matching("a/+", Some("b"), 9).matches, []);
    assert_eq!(
        index.matching("a/+", None, 0).matches.len(),
        1,
        "a limit of 0 still gets on"
    );
}

/// Counts comparisons of topics through the number of pages that a read takes: a page looks at no more than
/// `STEPS_MIN` topics when its limit is small.
#[test]
fn a_read_costs_what_it_finds() {
    let mut index = RetainedIndex::new();
    for outer in 0..50 {
        index.insert(&format!("a/{outer:02}/c"), ());
        for inner in 0..200 {
            index.insert(&format!("a/{outer:02}/b/{inner}"), ());
            index.insert(&format!("z/{outer:02}/{inner}/y"), ());
            index.insert(&format!("$SYS/{outer:02}/{inner}"), ());
        }
    }
    for (filter, count, next) in [
        ("a/+/c", 50, None),
        ("a/07/c", 1, None),
        ("a/+/b", 0, None),
        ("+/07/b/11", 1, None),
        ("nothing/#", 0, None),
        ("+/+/c", 50, None),
    ] {
        let page = index.matching(filter, None, 100);
        assert_eq!(
            (page.matches.len(), page.resume_after),
            (count, next),
            "{filter} in one page of 1,600 steps"
        );
    }
    // Every second-last level has to be looked at, 10,000 of them, and none matches: that is not done in one go.
    let page = index.matching("z/+/+/x", None, 1);
    assert!(page.matches.is_empty() && page.resume_after.is_some());
    assert_eq!(read(&index, "z/+/+/x", 1), [""; 0]);
}

#[test]
fn the_longest_filters_of_the_wire() {
    let slashes = "/".repeat(65_535);
    let index = index_of(&[&slashes, &slashes[1..], "/"]);
    assert_eq!(read(&index, &slashes, 1), [&slashes[..]]);
    assert_eq!(
        read(&index, &format!("{}#", "+/".repeat(32_000)), 1),
        [&slashes[1..], &slashes[..]]
    );
    assert_eq!(read(&index, &format!("{}+", "+/".repeat(32_767)), 1), [""; 0]);
}

fn text(levels: &'static [&'static str], depth: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(levels), depth).prop_map(|levels| levels.join("/"))
}

fn topic() -> impl Strategy<Value = String> {
    let levels = &[
        "",
        "a",
        "b",
        "a-",
        "a b",
        "aa",
        "~",
        "é",
        "$x",
        "\u{1}",
        "a long level, longer than a word",
    ];
    text(levels, 1..5).prop_filter("a topic is not empty", |topic| !topic.is_empty())
}

fn filter() -> impl Strategy<Value = String> {
    let levels = &[
        "",
        "a",
        "b",
        "a-",
        "aa",
        "é",
        "$x",
        "+",
        "+",
        "+",
        "+",
        "a long level, longer than a word",
    ];
    let filter = (text(levels, 1..5), any::<bool>())
        .prop_map(|(filter, multi)| if multi { format!("{filter}/#") } else { filter })
        .prop_filter("a filter is not empty", |filter| !filter.is_empty());
    prop_oneof![9 => filter, 1 => Just("#".to_owned())]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn behaves_like_a_search_through_all_topics(
        topics in prop::collection::vec((topic(), any::<bool>()), 0..120),
        reads in prop::collection::vec((filter(), 1usize..20, topic()), 1..12),
    ) {
        let (mut index, mut model) = (RetainedIndex::new(), BTreeMap::new());
        for (value, (topic, keep)) in topics.into_iter().enumerate() {
            prop_assert_eq!(index.insert(&topic, value), model.insert(topic.clone(), value));
            if !keep {
                prop_assert_eq!(index.remove(&topic), model.remove(&topic));
            }
        }
        prop_assert_eq!(index.len(), model.len());
        let mut ordered: Vec<&str> = model.keys().map(String::as_str).collect();
        ordered.sort_by(|a, b| a.split('/').map(str::as_bytes).cmp(b.split('/').map(str::as_bytes)));
        prop_assert_eq!(index.iter().map(|(topic, _)| topic).collect::<Vec<_>>(), ordered.clone());
        for (filter, limit, after) in reads {
            let expected: Vec<&str> = ordered.iter().copied().filter(|topic| matches(&filter, topic)).collect();
            prop_assert_eq!(read(&index, &filter, limit), expected.clone(), "{}", filter);
            let page = index.matching(&filter, Some(&after), usize::MAX);
            let behind: Vec<&str> = expected.into_iter().filter(|topic| level_order(topic, &after).is_gt()).collect();
            prop_assert_eq!(page.matches.iter().map(|(topic, _)| *topic).collect::<Vec<_>>(), behind);
        }
    }
}
