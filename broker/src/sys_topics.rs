//! `$SYS/broker/...`: what this node counts, as messages for dashboards that speak MQTT; names and units follow
//! Mosquitto's, where it has the value.
//!
//! They are of this node and of this moment, so they are not replicated: each round replaces the last, goes to who is
//! subscribed, and is what a new subscription gets as retained messages.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_proto::codec::QoS;
use quorate_proto::message::Message;
use quorate_proto::topic::matches;

use crate::metrics::{Metrics, WorkerCounters};
use crate::node::Shared;

/// The values of the last round.
#[derive(Debug, Default)]
pub(crate) struct SysTopics {
    latest: Mutex<Arc<[Arc<Message>]>>,
}

impl SysTopics {
    /// Values that a topic filter matches.
    pub(crate) fn matching(&self, filter: &str) -> Vec<Arc<Message>> {
        // A wildcard at the beginning does not match topics that begin with `$` [MQTT-4.7.2-1].
        if !filter.starts_with('$') {
            return Vec::new();
        }
        let latest = self.latest.lock().clone();
        let matching = latest.iter().filter(|message| matches(filter, message.topic()));
        matching.cloned().collect()
    }

    fn replace(&self, values: Arc<[Arc<Message>]>) {
        *self.latest.lock() = values;
    }
}

/// Publishes a round every `interval` until the node has gone.
pub(crate) async fn run(shared: Weak<Shared>, metrics: Metrics, interval: Duration) {
    let started = std::time::Instant::now();
    let mut rounds = tokio::time::interval(interval);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        let values: Arc<[Arc<Message>]> = values(&shared, &metrics, started.elapsed()).into();
        shared.sys_topics.replace(values.clone());
        for value in values.iter() {
            shared.deliver_own(value, None);
        }
    }
}

fn values(shared: &Shared, metrics: &Metrics, uptime: Duration) -> Vec<Arc<Message>> {
    let sum = |value: fn(&WorkerCounters) -> u64| metrics.sum(value);
    let (sessions, subscriptions, shares) = shared
        .router
        .read(|table| (table.sessions(), table.subscriptions(), table.shares()));
    let connected = sum(|of| of.connections.value());
    let retained = shared.retained_counts();
    let values = [
        (
            "version",
            format!("quorate version {} ({})", crate::VERSION, crate::COMMIT),
        ),
        ("uptime", format!("{} seconds", uptime.as_secs())),
        ("clients/connected", connected.to_string()),
        (
            "clients/disconnected",
            (sessions as u64).saturating_sub(connected).to_string(),
        ),
        ("clients/total", sessions.to_string()),
        ("subscriptions/count", subscriptions.to_string()),
        ("shared_subscriptions/count", shares.to_string()),
        ("retained messages/count", retained.0.to_string()),
        ("retained messages/bytes", retained.1.to_string()),
        (
            "publish/messages/received",
            sum(|of| of.messages_received.total()).to_string(),
        ),
        (
            "publish/messages/sent",
            sum(|of| of.messages_delivered.total()).to_string(),
        ),
        (
            "publish/messages/dropped",
            sum(|of| of.messages_dropped.total()).to_string(),
        ),
        ("bytes/received", sum(|of| of.bytes_received.value()).to_string()),
        ("bytes/sent", sum(|of| of.bytes_sent.value()).to_string()),
    ];
    let message = |(name, value): (&str, String)| {
        let topic = format!("$SYS/broker/{name}");
        Arc::new(Message::new(
            &topic,
            &[],
            value.as_bytes(),
            QoS::AtMostOnce,
            true,
            None,
        ))
    };
    values.into_iter().map(message).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_filters_that_begin_with_a_dollar_match() {
        let topics = SysTopics::default();
        let message = |topic| Arc::new(Message::new(topic, &[], b"1", QoS::AtMostOnce, true, None));
        topics.replace(Arc::new([
            message("$SYS/broker/uptime"),
            message("$SYS/broker/bytes/sent"),
        ]));
        let count = |filter| topics.matching(filter).len();
        assert_eq!(count("$SYS/#"), 2);
        assert_eq!(count("$SYS/broker/+"), 1);
        assert_eq!(count("$SYS/broker/bytes/sent"), 1);
        assert_eq!(count("#") + count("+/broker/uptime") + count("$OTHER/#"), 0);
    }
}
