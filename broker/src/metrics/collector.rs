//! Sums the counters of all workers when somebody scrapes.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::counter::{BUCKET_MICROS_MAX, HistogramSum};
use super::worker::{CloseReason, DropReason, PauseReason, REASONS};
use super::{SharedCounters, WorkerCounters};

/// Label values of packet types, by type; 0 is not a packet.
const PACKET_TYPES: [&str; 16] = [
    "",
    "connect",
    "connack",
    "publish",
    "puback",
    "pubrec",
    "pubrel",
    "pubcomp",
    "subscribe",
    "suback",
    "unsubscribe",
    "unsuback",
    "pingreq",
    "pingresp",
    "disconnect",
    "auth",
];

/// Label values of reason codes from 0x80, in the words of MQTT 5; the last is for codes beyond.
const REASON_WORDS: [&str; REASONS] = [
    "unspecified_error",
    "malformed_packet",
    "protocol_error",
    "implementation_specific_error",
    "unsupported_protocol_version",
    "client_identifier_not_valid",
    "bad_user_name_or_password",
    "not_authorized",
    "server_unavailable",
    "server_busy",
    "banned",
    "server_shutting_down",
    "bad_authentication_method",
    "keep_alive_timeout",
    "session_taken_over",
    "topic_filter_invalid",
    "topic_name_invalid",
    "packet_identifier_in_use",
    "packet_identifier_not_found",
    "receive_maximum_exceeded",
    "topic_alias_invalid",
    "packet_too_large",
    "message_rate_too_high",
    "quota_exceeded",
    "administrative_action",
    "payload_format_invalid",
    "retain_not_supported",
    "qos_not_supported",
    "use_another_server",
    "server_moved",
    "shared_subscriptions_not_supported",
    "connection_rate_exceeded",
    "maximum_connect_time",
    "subscription_identifiers_not_supported",
    "wildcard_subscriptions_not_supported",
    "other",
];

const VERSIONS: [&str; 3] = ["3.1", "3.1.1", "5"];
const QUALITIES: [&str; 3] = ["0", "1", "2"];

/// How one family is summed.
enum Source {
    /// One number, a gauge.
    Level(fn(&WorkerCounters) -> u64),
    /// One number that only grows.
    Count(fn(&WorkerCounters) -> u64),
    /// One number per label value; those at zero are shown where `zeros`.
    Counts {
        label: &'static str,
        words: Vec<&'static str>,
        zeros: bool,
        values: fn(&WorkerCounters) -> Vec<u64>,
    },
    /// A histogram of seconds.
    Seconds(fn(&WorkerCounters, &mut HistogramSum)),
}

struct Family {
    desc: Desc,
    source: Source,
}

/// All workers' counters and the families they make.
#[derive(Clone)]
pub(super) struct WorkerCollector {
    workers: Arc<Mutex<Vec<SharedCounters>>>,
    families: Arc<Vec<Family>>,
}

impl WorkerCollector {
    pub(super) fn new() -> Self {
        Self {
            workers: Arc::default(),
            families: Arc::new(families()),
        }
    }

    pub(super) fn add(&self) -> SharedCounters {
        let counters = SharedCounters::default();
        self.workers.lock().push(Arc::clone(&counters));
        counters
    }

    pub(super) fn sum(&self, value: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.workers.lock().iter().map(|counters| value(counters)).sum()
    }

    fn collect_family(&self, family_of: &Family) -> Option<MetricFamily> {
        let Family { desc, source } = family_of;
        let none = std::iter::empty;
        let (kind, samples) = match source {
            Source::Level(value) => (
                MetricType::GAUGE,
                vec![sample(none(), MetricType::GAUGE, self.sum(value) as f64)],
            ),
            Source::Count(value) => (
                MetricType::COUNTER,
                vec![sample(none(), MetricType::COUNTER, self.sum(value) as f64)],
            ),
            Source::Counts {
                label,
                words,
                zeros,
                values,
            } => {
                let mut sums = vec![0; words.len()];
                for counters in self.workers.lock().iter() {
                    sums.iter_mut()
                        .zip(values(counters))
                        .for_each(|(sum, value)| *sum += value);
                }
                let shown = words
                    .iter()
                    .zip(sums)
                    .filter(|(word, sum)| !word.is_empty() && (*zeros || *sum > 0));
                let one = |(word, sum): (&&str, u64)| {
                    sample(std::iter::once((*label, *word)), MetricType::COUNTER, sum as f64)
                };
                (MetricType::COUNTER, shown.map(one).collect())
            }
            Source::Seconds(add_to) => {
                let mut sum = HistogramSum::default();
                self.workers
                    .lock()
                    .iter()
                    .for_each(|counters| add_to(counters, &mut sum));
                (MetricType::HISTOGRAM, vec![histogram(&sum)])
            }
        };
        (!samples.is_empty()).then(|| family(&desc.fq_name, &desc.help, kind, samples))
    }
}

impl Collector for WorkerCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.families.iter().map(|family| &family.desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.families
            .iter()
            .filter_map(|family| self.collect_family(family))
            .collect()
    }
}

/// Every family that workers count, by the names of section 6 of the design.
fn families() -> Vec<Family> {
    let mut families = connection_families();
    families.extend(message_families());
    families.extend(traffic_families());
    families
}

fn connection_families() -> Vec<Family> {
    let closed = CloseReason::ALL.iter().map(|reason| reason.as_str()).collect();
    vec![
        declare(
            "connections",
            "Clients connected.",
            Source::Level(|of| of.connections.value()),
        ),
        declare(
            "connections_opened_total",
            "Sockets accepted, whatever became of them.",
            Source::Count(|of| of.connections_opened.value()),
        ),
        declare(
            "connections_closed_total",
            "Sockets closed, by reason.",
            counts("reason", closed, |of| of.connections_closed.values().collect()),
        ),
        declare(
            "connects_total",
            "CONNECT packets accepted, by protocol version.",
            counts("version", VERSIONS.to_vec(), |of| of.connects.values().collect()),
        ),
        declare(
            "connects_refused_total",
            "CONNECT packets refused, by the reason code of CONNACK.",
            reasons(|of| of.connects_refused.values().collect()),
        ),
        declare(
            "takeovers_delayed_total",
            "Connections that waited because their client identifier was taken over again and again.",
            Source::Count(|of| of.takeovers_delayed.value()),
        ),
        declare(
            "authentication_failures_total",
            "Failed authentications, of CONNECT and of re-authentication.",
            reasons(|of| of.authentication_failures.values().collect()),
        ),
        declare(
            "protocol_errors_total",
            "Connections ended because the client broke the protocol, by reason code.",
            reasons(|of| of.protocol_errors.values().collect()),
        ),
    ]
}

fn message_families() -> Vec<Family> {
    let dropped = DropReason::ALL.iter().map(|reason| reason.as_str()).collect();
    vec![
        declare(
            "messages_received_total",
            "Messages taken from publishers, by the QoS they were published with.",
            counts("qos", QUALITIES.to_vec(), |of| {
                of.messages_received.values().collect()
            }),
        ),
        declare(
            "messages_delivered_total",
            "Messages sent to subscribers, by the QoS they were sent with.",
            counts("qos", QUALITIES.to_vec(), |of| {
                of.messages_delivered.values().collect()
            }),
        ),
        declare(
            "messages_resent_total",
            "Messages sent again after a reconnect.",
            Source::Count(|of| of.messages_resent.value()),
        ),
        declare(
            "messages_dropped_total",
            "Messages that a matching session or subscriber did not get, by reason.",
            counts("reason", dropped, |of| of.messages_dropped.values().collect()),
        ),
        declare(
            "publishes_refused_total",
            "Publishes refused before they were acknowledged, by reason code.",
            reasons(|of| of.publishes_refused.values().collect()),
        ),
        declare(
            "subscriptions_refused_total",
            "Subscriptions refused, by the reason code of SUBACK.",
            reasons(|of| of.subscriptions_refused.values().collect()),
        ),
        declare(
            "retained_set_total",
            "Publishes that set or replace a retained message.",
            Source::Count(|of| of.retained_set.value()),
        ),
        declare(
            "retained_cleared_total",
            "Publishes that delete a retained message by an empty payload.",
            Source::Count(|of| of.retained_cleared.value()),
        ),
        declare(
            "retained_sent_total",
            "Retained messages sent because of a subscription.",
            Source::Count(|of| of.retained_sent.value()),
        ),
        declare(
            "publish_ack_seconds",
            "From the last byte of a QoS 1 or 2 PUBLISH to its PUBACK or PUBREC.",
            Source::Seconds(|of, sum| of.publish_ack.add_to(sum)),
        ),
    ]
}

fn traffic_families() -> Vec<Family> {
    let paused = PauseReason::ALL.iter().map(|reason| reason.as_str()).collect();
    vec![
        declare(
            "packets_received_total",
            "Packets received from clients, by type.",
            counts("type", PACKET_TYPES.to_vec(), |of| {
                of.packets_received.values().collect()
            }),
        ),
        declare(
            "received_bytes_total",
            "Bytes received from clients, above TCP, TLS and WebSocket.",
            Source::Count(|of| of.bytes_received.value()),
        ),
        declare(
            "sent_bytes_total",
            "Bytes sent to clients, above TCP, TLS and WebSocket.",
            Source::Count(|of| of.bytes_sent.value()),
        ),
        declare(
            "reads_paused_total",
            "Times a connection was not read for a while, by reason.",
            counts("reason", paused, |of| of.reads_paused.values().collect()),
        ),
    ]
}

fn counts(label: &'static str, words: Vec<&'static str>, values: fn(&WorkerCounters) -> Vec<u64>) -> Source {
    Source::Counts {
        label,
        words,
        zeros: true,
        values,
    }
}

fn reasons(values: fn(&WorkerCounters) -> Vec<u64>) -> Source {
    Source::Counts {
        label: "reason",
        words: REASON_WORDS.to_vec(),
        zeros: false,
        values,
    }
}

fn declare(name: &str, help: &str, source: Source) -> Family {
    let labels = match &source {
        Source::Counts { label, .. } => vec![(*label).to_owned()],
        Source::Level(_) | Source::Count(_) | Source::Seconds(_) => Vec::new(),
    };
    let desc = Desc::new(
        format!("quorate_{name}"),
        help.to_owned(),
        labels,
        std::collections::HashMap::new(),
    )
    .expect("a metrics family has a valid name and a help text");
    Family { desc, source }
}

/// One family.
pub(super) fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

/// One value of a counter or gauge.
pub(super) fn sample<'a>(
    labels: impl Iterator<Item = (&'a str, &'a str)>,
    kind: MetricType,
    value: f64,
) -> Metric {
    let pairs = labels.map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    });
    let mut metric = Metric::from_label(pairs.collect());
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}

/// A histogram in seconds, its buckets cumulative as the exposition format wants them; it adds the one without bound.
fn histogram(sum: &HistogramSum) -> Metric {
    let mut cumulative = 0;
    let bucket = |(micros, count): (&u64, &u64)| {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*micros as f64 / 1e6);
        bucket.set_cumulative_count(cumulative);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(BUCKET_MICROS_MAX.iter().zip(&sum.buckets).map(bucket).collect());
    histogram.set_sample_count(sum.buckets.iter().sum());
    histogram.set_sample_sum(sum.seconds);
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    metric
}
