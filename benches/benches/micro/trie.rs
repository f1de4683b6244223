//! The subscription trie with a million subscriptions: 980,000 devices subscribe to a topic of their own, 10,000
//! subscriptions have a `+`, 10,000 a `#`. Lookups and removals go in random order, so that caches do not help.

use std::hint::black_box;
use std::sync::OnceLock;

use divan::Bencher;
use divan::counter::ItemsCount;
use quorate_benches::process::Process;
use quorate_proto::topic::SubscriptionTrie;

use crate::SAMPLE;

/// What the router has for a value: identifier and flags.
type Trie = SubscriptionTrie<u32, (u32, u8)>;

const SUBSCRIPTIONS: u32 = 1_000_000;
const DEVICES_OF_FLEET: u32 = 1000;
const TOPICS: u32 = 1 << 16;

/// Every hundredth subscription has a `+`, every hundredth a `#`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Exact,
    Single,
    Multi,
}

fn kind(number: u32) -> Kind {
    match number % 100 {
        0 => Kind::Single,
        1 => Kind::Multi,
        _ => Kind::Exact,
    }
}

fn filter(number: u32) -> String {
    let (fleet, device) = (number / DEVICES_OF_FLEET, number % DEVICES_OF_FLEET);
    match kind(number) {
        Kind::Exact => format!("fleet/{fleet}/device/{device}/command"),
        Kind::Single => format!("fleet/{fleet}/device/{device}/+"),
        Kind::Multi => format!("fleet/{fleet}/device/{device}/#"),
    }
}

/// A topic that exactly the subscription `number` matches.
fn topic(number: u32) -> String {
    let (fleet, device) = (number / DEVICES_OF_FLEET, number % DEVICES_OF_FLEET);
    format!("fleet/{fleet}/device/{device}/command")
}

fn filters() -> &'static [String] {
    static FILTERS: OnceLock<Vec<String>> = OnceLock::new();
    FILTERS.get_or_init(|| (0..SUBSCRIPTIONS).map(filter).collect())
}

/// The numbers below `count` in a fixed random order.
fn shuffled(count: u32) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..count).collect();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for at in (1..numbers.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        numbers.swap(at, (state % (at as u64 + 1)) as usize);
    }
    numbers
}

fn build() -> Trie {
    let mut trie = Trie::with_seed(1);
    for (number, filter) in (0..).zip(filters()) {
        trie.insert(filter, number, (number, 1));
    }
    trie
}

fn full() -> &'static Trie {
    static TRIE: OnceLock<Trie> = OnceLock::new();
    TRIE.get_or_init(build)
}

/// Builds the trie that lookups use and prints what a subscription takes.
pub(crate) fn print_memory() {
    let resident = || Process(std::process::id()).resident().unwrap_or(0);
    filters();
    let before = resident();
    let by_itself = full().memory_bytes() as u64;
    let each = |bytes: u64| bytes / u64::from(SUBSCRIPTIONS);
    println!(
        "trie of {SUBSCRIPTIONS}: {} bytes for a subscription by its own account, {} resident",
        each(by_itself),
        each(resident().saturating_sub(before)),
    );
}

/// An empty trie filled, one subscription after the other.
#[divan::bench(sample_count = 3, sample_size = 1)]
fn insert(bencher: Bencher<'_, '_>) {
    filters();
    bencher.counter(ItemsCount::new(SUBSCRIPTIONS)).bench_local(build);
}

/// A full trie emptied in random order.
#[divan::bench(sample_count = 3, sample_size = 1)]
fn remove(bencher: Bencher<'_, '_>) {
    let order = shuffled(SUBSCRIPTIONS);
    bencher
        .counter(ItemsCount::new(SUBSCRIPTIONS))
        .with_inputs(build)
        .bench_local_values(|mut trie| {
            for number in &order {
                trie.remove(&filters()[*number as usize], number);
            }
            assert!(trie.is_empty());
            trie
        });
}

/// One of a million goes and comes back.
#[divan::bench(sample_size = SAMPLE)]
fn remove_and_insert(bencher: Bencher<'_, '_>) {
    let mut trie = build();
    let mut order = shuffled(SUBSCRIPTIONS).into_iter().cycle();
    bencher.bench_local(|| {
        let number = order.next().unwrap_or(0);
        let filter = &filters()[number as usize];
        trie.remove(filter, &number);
        trie.insert(filter, number, (number, 1));
    });
}

/// Topics that one subscription of the kind matches.
fn match_kind(bencher: Bencher<'_, '_>, wanted: Kind) {
    let trie = full();
    let numbers = shuffled(SUBSCRIPTIONS);
    let numbers = numbers.into_iter().filter(|number| kind(*number) == wanted);
    let topics: Vec<String> = numbers.take(TOPICS as usize).map(topic).collect();
    let mut next = topics.iter().cycle();
    bencher.bench_local(|| {
        let mut found = 0;
        let topic = next.next().map_or("", String::as_str);
        trie.match_topic(black_box(topic), |key, _| found += *key);
        found
    });
}

#[divan::bench(sample_size = SAMPLE)]
fn match_exact(bencher: Bencher<'_, '_>) {
    match_kind(bencher, Kind::Exact);
}

#[divan::bench(sample_size = SAMPLE)]
fn match_single_level_wildcard(bencher: Bencher<'_, '_>) {
    match_kind(bencher, Kind::Single);
}

#[divan::bench(sample_size = SAMPLE)]
fn match_multi_level_wildcard(bencher: Bencher<'_, '_>) {
    match_kind(bencher, Kind::Multi);
}

/// Topics that nobody subscribed to.
#[divan::bench(sample_size = SAMPLE)]
fn match_nothing(bencher: Bencher<'_, '_>) {
    let trie = full();
    let topics: Vec<String> = shuffled(TOPICS)
        .into_iter()
        .map(|number| format!("fleet/{}/sensor/{number}/command", number % 1000))
        .collect();
    let mut next = topics.iter().cycle();
    bencher.bench_local(|| {
        let mut found = 0;
        let topic = next.next().map_or("", String::as_str);
        trie.match_topic(black_box(topic), |key, _| found += *key);
        found
    });
}
