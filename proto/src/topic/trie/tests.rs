//! Tests of the trie against a list of filters searched with [`matches`](super::super::matches).

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::topic::filter::matches;

type Trie = SubscriptionTrie<u32, u64>;

fn matched(trie: &Trie, topic: &str) -> Vec<(u32, u64)> {
    let mut found = Vec::new();
    trie.match_topic(topic, |key, value| found.push((*key, *value)));
    found.sort_unstable();
    found
}

fn trie_of(filters: &[&str]) -> Trie {
    let mut trie = Trie::default();
    for (key, filter) in filters.iter().enumerate() {
        assert_eq!(trie.insert(filter, key as u32, 0), None);
    }
    trie.check_invariants();
    trie
}

/// The filters of `filters` that the trie finds for `topic`, in the order of the list.
fn found<'a>(filters: &[&'a str], topic: &str) -> Vec<&'a str> {
    let found = matched(&trie_of(filters), topic);
    found.into_iter().map(|(key, _)| filters[key as usize]).collect()
}

#[test]
fn wildcards() {
    let filters = [
        "a/b", "a/+", "a/#", "+/b", "+/+", "#", "a", "a/b/#", "a/b/+", "+/b/c", "b/#",
    ];
    assert_eq!(
        found(&filters, "a/b"),
        ["a/b", "a/+", "a/#", "+/b", "+/+", "#", "a/b/#"]
    );
    assert_eq!(found(&filters, "a"), ["a/#", "#", "a"]);
    assert_eq!(found(&filters, "a/b/c"), ["a/#", "#", "a/b/#", "a/b/+", "+/b/c"]);
    assert_eq!(found(&filters, "c"), ["#"]);
}

#[test]
fn dollar_topics_are_hidden_from_first_level_wildcards() {
    let filters = ["#", "+/#", "+", "+/a", "$SYS/#", "$SYS/+", "$SYS/a", "$SYS"];
    assert_eq!(found(&filters, "$SYS/a"), ["$SYS/#", "$SYS/+", "$SYS/a"]);
    assert_eq!(found(&filters, "$SYS"), ["$SYS/#", "$SYS"]);
    assert_eq!(found(&filters, "x/$SYS"), ["#", "+/#"]);
}

#[test]
fn empty_levels() {
    let filters = [
        "/", "//", "/a", "a/", "a//b", "a/+/b", "+/+", "/+", "+/", "/#", "+",
    ];
    assert_eq!(found(&filters, "/"), ["/", "+/+", "/+", "+/", "/#"]);
    assert_eq!(found(&filters, "/a"), ["/a", "+/+", "/+", "/#"]);
    assert_eq!(found(&filters, "a/"), ["a/", "+/+", "+/"]);
    assert_eq!(found(&filters, "a//b"), ["a//b", "a/+/b"]);
    assert_eq!(found(&filters, "//"), ["//", "/#"]);
    assert_eq!(found(&filters, "a"), ["+"]);
}

#[test]
fn unicode_and_long_levels() {
    let long = "a level of far more than fifteen bytes";
    let filters = [
        "温度/+",
        "温度/東京",
        "湿度/+",
        &format!("{long}/x"),
        &format!("+/{long}"),
        &format!("{long}/{long}"),
    ];
    assert_eq!(found(&filters, "温度/東京"), ["温度/+", "温度/東京"]);
    assert_eq!(found(&filters, &format!("{long}/x")), [filters[3]]);
    assert_eq!(
        found(&filters, &format!("{long}/{long}")),
        [filters[4], filters[5]]
    );
    assert_eq!(found(&filters, &format!("{long}!/x")), [""; 0]);
}

#[test]
fn a_second_insert_replaces() {
    let mut trie = Trie::default();
    assert_eq!(trie.insert("a/+", 1, 10), None);
    assert_eq!(trie.insert("a/+", 2, 20), None);
    assert_eq!(trie.insert("a/+", 1, 11), Some(10));
    assert_eq!(trie.len(), 2);
    assert_eq!(matched(&trie, "a/b"), [(1, 11), (2, 20)]);
    assert_eq!(trie.find("a/+", &1), Some(&11));
    assert_eq!(trie.find("a/b", &1), None, "find is by filter, not by topic");
    assert_eq!(trie.remove("a/b", &1), None);
    assert_eq!(trie.remove("a/+", &3), None);
    assert_eq!(trie.remove("a/+", &1), Some(11));
    assert_eq!(matched(&trie, "a/b"), [(2, 20)]);
}

#[test]
fn a_lone_filter_is_one_node() {
    let mut trie = trie_of(&["device/1/cmd/#"]);
    assert_eq!(trie.node_count(), 1);
    assert_eq!(trie.insert("device/2/cmd/#", 1, 0), None);
    trie.check_invariants();
    assert_eq!(trie.node_count(), 3, "device, and below it 1 and 2");
    assert_eq!(matched(&trie, "device/1/cmd"), [(0, 0)]);
    assert_eq!(matched(&trie, "device/2/cmd/a/b"), [(1, 0)]);
    assert_eq!(matched(&trie, "device/2/other"), []);
}

#[test]
fn a_tail_is_pushed_down_as_far_as_it_is_shared() {
    // Each pair ends a common path in another way: at the old tail's end, before it, behind it, beside it.
    for (first, second, nodes) in [
        ("a/b/c/d", "a/b/c/e", 5),
        ("a/b/c/d", "a/b", 3),
        ("a/b/c/d", "a", 2),
        ("a/b", "a/b/c/d", 3),
        ("a/b/c", "a/+/c", 3),
        ("a/b/#", "a/b", 3),
        ("a/", "a", 2),
        ("a/", "a//", 3),
        ("a", "b/c", 2),
    ] {
        for (first, second) in [(first, second), (second, first)] {
            let mut trie = trie_of(&[first, second]);
            assert_eq!(trie.node_count(), nodes, "{first} and {second}");
            assert_eq!(
                (trie.find(first, &0), trie.find(second, &1)),
                (Some(&0), Some(&0))
            );
            assert_eq!(trie.remove(first, &0), Some(0));
            trie.check_invariants();
            assert_eq!(trie.find(second, &1), Some(&0));
            assert_eq!(trie.remove(second, &1), Some(0));
            trie.check_invariants();
            assert_eq!(trie.node_count(), 0);
        }
    }
}

#[test]
fn an_inner_node_stays_while_it_is_of_use() {
    let mut trie = trie_of(&["a/b/c", "a/b", "a/b/+", "a/b/#"]);
    assert_eq!(trie.node_count(), 5);
    for (filter, key, nodes) in [("a/b/c", 0, 4), ("a/b", 1, 4), ("a/b/#", 3, 3), ("a/b/+", 2, 0)] {
        assert_eq!(trie.remove(filter, &key), Some(0));
        trie.check_invariants();
        assert_eq!(trie.node_count(), nodes, "after {filter}");
    }
    assert!(trie.is_empty());
}

/// Filters as long as the wire can carry, sharing nearly all of their levels: linear work, no recursion.
#[test]
fn the_longest_filters_of_the_wire() {
    let slashes = "/".repeat(65_535);
    let other = format!("{}x", &slashes[1..]);
    let pluses = format!("{}+", "+/".repeat(32_767));
    let mut trie = trie_of(&[&slashes, &other, &pluses, "+/#", &slashes[..65_000]]);
    // The first two part at their last common level but one; `+` has two children.
    assert_eq!(trie.node_count(), 65_534 + 2 + 3);
    assert_eq!(matched(&trie, &slashes), [(0, 0), (3, 0)]);
    assert_eq!(matched(&trie, &other), [(1, 0), (3, 0)]);
    assert_eq!(matched(&trie, &slashes[..32_767]), [(2, 0), (3, 0)]);
    for (key, filter) in [&slashes, &other, &pluses].into_iter().enumerate() {
        assert_eq!(trie.remove(filter, &(key as u32)), Some(0));
    }
    trie.check_invariants();
    assert_eq!(trie.node_count(), 65_001 + 2);
}

/// Every combination of a literal and `+` over 12 levels: 4,096 filters match, and the walk stays within its bound.
#[test]
fn overlapping_wildcards_are_each_found_once() {
    let mut trie = Trie::default();
    for bits in 0..1u32 << 12 {
        let levels: Vec<&str> = (0..12)
            .map(|level| if bits >> level & 1 == 0 { "a" } else { "+" })
            .collect();
        trie.insert(&levels.join("/"), bits, 0);
    }
    let found = matched(&trie, &["a"; 12].join("/"));
    assert_eq!(
        found.iter().map(|(key, _)| *key).collect::<Vec<_>>(),
        (0..1 << 12).collect::<Vec<_>>()
    );
}

#[test]
fn an_idle_connections_subscription_is_small() {
    assert!(
        size_of::<Node<u32, u64>>() <= 56,
        "{}",
        size_of::<Node<u32, u64>>()
    );
    let mut trie = Trie::default();
    let empty = trie.memory_bytes();
    const COUNT: u32 = 200_000;
    for key in 0..COUNT {
        trie.insert(&format!("device/{key}/cmd"), key, 0);
    }
    let each = (trie.memory_bytes() - empty) / COUNT as usize;
    assert!(each < 90, "{each} bytes for each subscription");
}

#[test]
fn memory_is_returned() {
    let mut trie = Trie::default();
    let empty = trie.memory_bytes();
    let filter = |key: u32| format!("device/{key}/a name of more than fifteen bytes {}/+", key % 1_000);
    for key in 0..50_000 {
        trie.insert(&filter(key), key, 0);
        trie.insert("all/#", key, 0);
    }
    let full = trie.memory_bytes();
    assert!(full > 50_000 * 80, "{full}");
    for key in 0..50_000 {
        assert_eq!(trie.remove(&filter(key), &key), Some(0));
        assert_eq!(trie.remove("all/#", &key), Some(0));
    }
    trie.check_invariants();
    assert_eq!(trie.node_count(), 0);
    let left = trie.memory_bytes() - empty;
    assert!(left < full / 50, "{left} of {full} bytes still held");
}

/// Would take minutes if either were linear in the number of subscribers.
#[test]
fn a_filter_with_many_subscribers_stays_fast() {
    let mut trie = Trie::default();
    for key in 0..300_000 {
        trie.insert("all", key, u64::from(key));
    }
    for key in (0..300_000).step_by(2) {
        assert_eq!(trie.remove("all", &key), Some(u64::from(key)));
    }
    trie.check_invariants();
    let found = matched(&trie, "all");
    assert_eq!(found.len(), 150_000);
    assert!(
        found
            .iter()
            .all(|(key, value)| key % 2 == 1 && u64::from(*key) == *value)
    );
}

#[test]
fn the_order_of_a_match_does_not_depend_on_the_seed() {
    let orders = [1, 2].map(|seed| {
        let mut trie = SubscriptionTrie::with_seed(seed);
        for key in 0..100u32 {
            for filter in ["a/b", "a/+", "+/b", "#", "a/#"] {
                trie.insert(filter, key * 7 % 100, ());
            }
        }
        (0..50).for_each(|key| assert!(trie.remove("a/+", &key).is_some()));
        let mut order = Vec::new();
        trie.match_topic("a/b", |key, ()| order.push(*key));
        order
    });
    assert_eq!(orders[0].len(), 450);
    assert_eq!(orders[0], orders[1]);
}

#[derive(Clone, Debug)]
enum Operation {
    Insert(String, u32),
    Remove(usize),
    RemoveAbsent(String, u32),
    Match(String),
}

const LONG: &str = "a-level-that-does-not-fit-into-a-node";

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![
        4 => Just(""), 6 => Just("a"), 6 => Just("b"), 2 => Just("é"), 2 => Just(LONG), 1 => Just("$x"), 6 => Just("+"),
    ];
    (prop::collection::vec(level, 0..5), any::<bool>()).prop_map(|(mut levels, multi)| {
        if multi || levels.is_empty() || levels == [""] {
            levels.push("#");
        }
        levels.join("/")
    })
}

fn topic() -> impl Strategy<Value = String> {
    let level = prop_oneof![3 => Just(""), 6 => Just("a"), 6 => Just("b"), 1 => Just("é"), 1 => Just(LONG), 1 => Just("$x")];
    prop::collection::vec(level, 1..6).prop_map(|levels| levels.join("/"))
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        5 => (filter(), 0u32..40).prop_map(|(filter, key)| Operation::Insert(filter, key)),
        3 => any::<usize>().prop_map(Operation::Remove),
        1 => (filter(), 0u32..40).prop_map(|(filter, key)| Operation::RemoveAbsent(filter, key)),
        3 => topic().prop_map(Operation::Match),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn behaves_like_a_list_of_filters(operations in prop::collection::vec(operation(), 1..150), seed: u64) {
        let mut trie = Trie::with_seed(seed);
        let mut model: BTreeMap<(String, u32), u64> = BTreeMap::new();
        for (number, operation) in operations.into_iter().enumerate() {
            let value = number as u64;
            match operation {
                Operation::Insert(filter, key) => {
                    let replaced = trie.insert(&filter, key, value);
                    prop_assert_eq!(replaced, model.insert((filter, key), value));
                }
                Operation::Remove(at) if !model.is_empty() => {
                    let entry = model.keys().nth(at % model.len()).cloned().unwrap();
                    prop_assert_eq!(trie.remove(&entry.0, &entry.1), model.remove(&entry));
                }
                Operation::Remove(_) => {}
                Operation::RemoveAbsent(filter, key) => {
                    prop_assert_eq!(trie.find(&filter, &key), model.get(&(filter.clone(), key)));
                    prop_assert_eq!(trie.remove(&filter, &key), model.remove(&(filter, key)));
                }
                Operation::Match(topic) => {
                    let matching = model.iter().filter(|((filter, _), _)| matches(filter, &topic));
                    let mut expected: Vec<_> = matching.map(|((_, key), value)| (*key, *value)).collect();
                    expected.sort_unstable();
                    prop_assert_eq!(matched(&trie, &topic), expected);
                }
            }
            prop_assert_eq!(trie.len(), model.len());
            trie.check_invariants();
        }
        for (filter, key) in model.keys() {
            prop_assert!(trie.remove(filter, key).is_some());
        }
        trie.check_invariants();
        prop_assert_eq!(trie.node_count(), 0);
    }
}
