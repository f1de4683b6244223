//! Tests of the exposition.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_proto::codec::{PacketType, ProtocolVersion, QoS, ReasonCode};

use super::*;

/// One sample line: name, labels, value.
type Sample = (String, BTreeMap<String, String>, f64);

/// Reads the text exposition format strictly: every family has HELP then TYPE, and every sample belongs to the
/// family announced last.
fn parse(text: &str) -> (BTreeMap<String, String>, Vec<Sample>) {
    let (mut types, mut samples) = (BTreeMap::new(), Vec::new());
    let (mut help, mut family) = (String::new(), String::new());
    assert!(text.ends_with('\n'), "the last line ends");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, words) = rest.split_once(' ').expect("a help text");
            assert!(words.ends_with('.'), "{name}: help is a sentence");
            help = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(name, help, "TYPE follows its HELP");
            assert!(
                types.insert(name.to_owned(), kind.to_owned()).is_none(),
                "{name} comes twice"
            );
            family = name.to_owned();
        } else {
            let sample = parse_sample(line);
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| sample.0.strip_suffix(suffix));
            assert!(
                sample.0 == family || base == Some(&family),
                "{line} is not of {family}"
            );
            samples.push(sample);
        }
    }
    (types, samples)
}

fn parse_sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').expect("a value");
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').expect("closing brace")),
        None => (series, ""),
    };
    let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
        let (name, value) = label.split_once('=').expect("a label");
        (name.to_owned(), value.trim_matches('"').to_owned())
    });
    (
        name.to_owned(),
        labels.collect(),
        value.parse().expect("a number"),
    )
}

fn value(samples: &[Sample], name: &str, label: Option<(&str, &str)>) -> Option<f64> {
    let fits = |labels: &BTreeMap<String, String>| match label {
        Some((name, value)) => labels.get(name).is_some_and(|have| have == value),
        None => labels.is_empty(),
    };
    samples
        .iter()
        .find(|(have, labels, _)| have == name && fits(labels))
        .map(|(.., value)| *value)
}

fn busy() -> Metrics {
    let metrics = Metrics::new();
    let workers = [metrics.add_worker(), metrics.add_worker()];
    for worker in &workers {
        worker.connections.increment();
        worker.connects.of(ProtocolVersion::V5).increment();
        worker.messages_received.of(QoS::AtLeastOnce).add(3);
        worker.messages_dropped.of(DropReason::QueueFull).increment();
        worker.connections_closed.of(CloseReason::TakenOver).increment();
        worker.packets_received.of(PacketType::Publish).add(4);
        worker.publish_ack.observe(Duration::from_millis(3));
    }
    workers[0].connections.decrement();
    workers[1]
        .connects_refused
        .of(ReasonCode::NOT_AUTHORIZED)
        .increment();
    workers[1].protocol_errors.of(ReasonCode(0xFE)).increment();
    metrics
}

#[test]
fn workers_add_up() {
    let metrics = busy();
    let (_, samples) = parse(&metrics.encode());
    let of = |name: &str, label| value(&samples, name, label);
    assert_eq!(metrics.sum(|counters| counters.connections.value()), 1);
    assert_eq!(of("quorate_connections", None), Some(1.0));
    assert_eq!(of("quorate_connects_total", Some(("version", "5"))), Some(2.0));
    assert_eq!(
        of("quorate_messages_received_total", Some(("qos", "1"))),
        Some(6.0)
    );
    assert_eq!(
        of("quorate_messages_received_total", Some(("qos", "2"))),
        Some(0.0)
    );
    assert_eq!(
        of("quorate_messages_dropped_total", Some(("reason", "queue_full"))),
        Some(2.0)
    );
    assert_eq!(
        of("quorate_connections_closed_total", Some(("reason", "taken_over"))),
        Some(2.0)
    );
    assert_eq!(
        of("quorate_packets_received_total", Some(("type", "publish"))),
        Some(8.0)
    );
    assert_eq!(
        of(
            "quorate_connects_refused_total",
            Some(("reason", "not_authorized"))
        ),
        Some(1.0)
    );
    assert_eq!(
        of("quorate_connects_refused_total", Some(("reason", "banned"))),
        None
    );
    assert_eq!(
        of("quorate_protocol_errors_total", Some(("reason", "other"))),
        Some(1.0)
    );
    assert_eq!(of("quorate_publish_ack_seconds_count", None), Some(2.0));
    assert_eq!(
        of("quorate_publish_ack_seconds_bucket", Some(("le", "0.0025"))),
        Some(0.0)
    );
    assert_eq!(
        of("quorate_publish_ack_seconds_bucket", Some(("le", "0.005"))),
        Some(2.0)
    );
    assert_eq!(
        of("quorate_publish_ack_seconds_bucket", Some(("le", "+Inf"))),
        Some(2.0)
    );
}

#[test]
fn the_fixed_names_are_there() {
    let metrics = Metrics::new();
    let (types, samples) = parse(&metrics.encode());
    for (name, kind) in [
        ("quorate_connections", "gauge"),
        ("quorate_messages_received_total", "counter"),
        ("quorate_messages_delivered_total", "counter"),
        ("quorate_messages_dropped_total", "counter"),
        ("quorate_publish_ack_seconds", "histogram"),
        ("quorate_build_info", "gauge"),
    ] {
        assert_eq!(types.get(name).map(String::as_str), Some(kind), "{name}");
    }
    let (_, labels, value) = samples
        .iter()
        .find(|(name, ..)| name == "quorate_build_info")
        .expect("build info");
    assert_eq!(*value, 1.0);
    assert_eq!(labels.get("version").map(String::as_str), Some(crate::VERSION));
    assert_eq!(labels.get("commit").map(String::as_str), Some(crate::COMMIT));
}

#[test]
fn names_follow_the_conventions() {
    let (types, samples) = parse(&busy().encode());
    for (name, kind) in &types {
        assert!(name.starts_with("quorate_"), "{name}");
        assert!(
            name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
            "{name}"
        );
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
        assert_eq!(
            name.ends_with("_seconds"),
            kind == "histogram",
            "{name} is a {kind}"
        );
    }
    let allowed = BTreeSet::from(["qos", "reason", "type", "version", "commit", "le"]);
    for (name, labels, _) in &samples {
        for label in labels.keys() {
            assert!(
                allowed.contains(label.as_str()),
                "{name} has label {label}, which nobody agreed to"
            );
        }
    }
}

#[test]
fn scopes_prefix_and_empty_families_are_left_out() {
    let metrics = Metrics::new();
    let scope = metrics.scope("session");
    scope.gauge("queue_messages", "Messages waiting.", || 7.0);
    scope.scope("store").counter("writes_total", "Writes.", || 9);
    scope.gauge_by("empty", "Nothing.", &["group"], Vec::new);
    let (types, samples) = parse(&metrics.encode());
    assert_eq!(value(&samples, "quorate_session_queue_messages", None), Some(7.0));
    assert_eq!(
        value(&samples, "quorate_session_store_writes_total", None),
        Some(9.0)
    );
    assert_eq!(
        types
            .get("quorate_session_store_writes_total")
            .map(String::as_str),
        Some("counter")
    );
    assert!(!types.contains_key("quorate_session_empty"));
}

#[test]
#[should_panic(expected = "declared once")]
fn a_name_is_declared_once() {
    let scope = Metrics::new().scope("session");
    scope.gauge("queue_messages", "Messages waiting.", || 0.0);
    scope.gauge("queue_messages", "Messages waiting.", || 0.0);
}
