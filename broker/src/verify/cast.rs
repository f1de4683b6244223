//! The cast of a run: which clients there are, what they publish and subscribe to, and at which target they begin.
//!
//! Clients are spread so that messages cross nodes: publisher i begins at target i, subscribers where the fewest of
//! their publishers begin, members of a shared group at targets of their own.

use std::rc::Rc;
use std::time::Duration;

use quorate_proto::codec::QoS;
use tokio::task::JoinSet;

use super::durable::Durable;
use super::message::{PAYLOAD_BYTES_MIN, Source};
use super::options::Options;
use super::oracle::Reader;
use super::publisher::{Manner, Publisher};
use super::subscriber::Subscriber;
use super::trial::Trial;

/// Members of a shared group.
const MEMBERS: u32 = 3;
/// Messages under way of a publisher to a shared group, at most: these are beside the main stream.
const SHARED_WINDOW_MAX: usize = 10;
/// Time between the values of a retained topic.
const RETAINED_INTERVAL: Duration = Duration::from_millis(50);

/// Puts the durable clients of a run on stage.
#[derive(Debug)]
pub(super) struct Cast<'a> {
    trial: &'a Rc<Trial>,
    tasks: &'a mut JoinSet<()>,
    count: usize,
}

impl<'a> Cast<'a> {
    pub(super) const fn new(trial: &'a Rc<Trial>, tasks: &'a mut JoinSet<()>) -> Self {
        Self {
            trial,
            tasks,
            count: 0,
        }
    }

    /// Starts all durable clients; returns how many there are.
    pub(super) fn start(mut self) -> usize {
        let trial = Rc::clone(self.trial);
        let options = &trial.options;
        self.streams(options);
        for group in 0..options.shared {
            self.shared_group(options, group);
        }
        for index in 0..options.retained {
            let source = trial.oracle().add_retained();
            let manner = Manner {
                window: 1,
                interval: Some(RETAINED_INTERVAL),
                payload_bytes: options.payload_bytes,
                retain: true,
            };
            self.publisher("k", u64::from(index), index as usize, source, manner);
        }
        if options.wills > 0 {
            let sources: Vec<_> = (0..options.wills)
                .map(|_| trial.oracle().add_will_client())
                .collect();
            let filter = sources[0].filter_of_kind(trial.run);
            self.subscriber("d", 0, 1, Reader::Wills, vec![filter]);
        }
        self.count
    }

    fn streams(&mut self, options: &Options) {
        let mut topics = Vec::new();
        for index in 0..options.publishers {
            let qos = options.qos[index as usize % options.qos.len()];
            let subscribers =
                (0..options.subscribers).filter(|subscriber| reads(options, *subscriber, index));
            let source = self.trial.oracle().add_stream(qos, subscribers);
            topics.push(source.topic(self.trial.run));
            let manner = Manner {
                window: options.in_flight,
                interval: interval(options),
                payload_bytes: options.payload_bytes,
                retain: false,
            };
            self.publisher("p", u64::from(index), index as usize, source, manner);
        }
        for subscriber in 0..options.subscribers {
            let publishers = 0..options.publishers;
            let publishers: Vec<_> = publishers
                .filter(|publisher| reads(options, subscriber, *publisher))
                .collect();
            let filters = if options.fan_out {
                vec![Source::Stream(0).filter_of_kind(self.trial.run)]
            } else {
                let topics = publishers.iter().map(|index| topics[*index as usize].clone());
                topics.collect()
            };
            let target = quietest(&publishers, options.targets.len(), subscriber as usize + 1);
            self.subscriber(
                "s",
                u64::from(subscriber),
                target,
                Reader::Stream(subscriber),
                filters,
            );
        }
    }

    fn shared_group(&mut self, options: &Options, group: u32) {
        let mut filters = Vec::new();
        for (index, qos) in distinct(&options.qos).into_iter().enumerate() {
            let source = self.trial.oracle().add_shared(group, qos);
            filters.push(format!(
                "$share/v{:08x}g{group}/{}",
                self.trial.run as u32,
                source.topic(self.trial.run)
            ));
            let manner = Manner {
                window: options.in_flight.min(SHARED_WINDOW_MAX),
                interval: interval(options),
                payload_bytes: PAYLOAD_BYTES_MIN.max(options.payload_bytes),
                retain: false,
            };
            let number = u64::from(group) * 2 + index as u64;
            self.publisher("g", number, group as usize + index, source, manner);
        }
        for member in 0..MEMBERS {
            let number = u64::from(group * MEMBERS + member);
            let target = (group + member) as usize;
            self.subscriber("m", number, target, Reader::Shared { group }, filters.clone());
        }
    }

    fn publisher(&mut self, role: &str, number: u64, target: usize, source: Source, manner: Manner) {
        let client_id = self.trial.client_id(role, number);
        let durable = Durable::new(self.trial, client_id, target);
        let publisher = Publisher::new(self.trial, durable, source, manner);
        self.tasks.spawn_local(publisher.run());
        self.count += 1;
    }

    fn subscriber(&mut self, role: &str, number: u64, target: usize, reader: Reader, filters: Vec<String>) {
        let client_id = self.trial.client_id(role, number);
        let durable = Durable::new(self.trial, client_id, target);
        let subscriber = Subscriber::new(self.trial, durable, reader, filters);
        self.tasks.spawn_local(subscriber.run());
        self.count += 1;
    }
}

/// Whether a subscriber takes the topic of a publisher. Without fan-out each topic has one subscriber, or several where
/// there are more subscribers than publishers.
const fn reads(options: &Options, subscriber: u32, publisher: u32) -> bool {
    let places = if options.subscribers < options.publishers {
        options.subscribers
    } else {
        options.publishers
    };
    options.fan_out || publisher % places == subscriber % places
}

/// The target where the fewest of these publishers begin, the first from `preferred` on.
fn quietest(publishers: &[u32], targets: usize, preferred: usize) -> usize {
    let candidates = (0..targets).map(|offset| (preferred + offset) % targets);
    let busyness = |target: usize| {
        let there = publishers
            .iter()
            .filter(|publisher| **publisher as usize % targets == target);
        there.count()
    };
    candidates.min_by_key(|target| busyness(*target)).unwrap_or(0)
}

/// Time between the messages of one publisher, where there is a rate.
fn interval(options: &Options) -> Option<Duration> {
    let rate = options.rate?;
    Some(Duration::from_secs_f64(
        f64::from(options.publishers) / f64::from(rate.max(1)),
    ))
}

fn distinct(qos: &[QoS]) -> Vec<QoS> {
    let mut distinct = qos.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    distinct
}

#[cfg(test)]
mod tests {
    use super::super::tests::options;
    use super::*;

    #[test]
    fn every_topic_has_a_subscriber_and_every_subscriber_a_topic() {
        for (publishers, subscribers) in [(8, 4), (4, 8), (1, 1), (5, 3), (1, 7), (7, 1)] {
            let options = Options {
                publishers,
                subscribers,
                ..options()
            };
            for publisher in 0..publishers {
                let mut readers =
                    (0..subscribers).filter(|subscriber| reads(&options, *subscriber, publisher));
                assert!(readers.next().is_some(), "{publishers} {subscribers}");
            }
            for subscriber in 0..subscribers {
                let mut read = (0..publishers).filter(|publisher| reads(&options, subscriber, *publisher));
                assert!(read.next().is_some(), "{publishers} {subscribers}");
            }
        }
    }

    #[test]
    fn subscribers_begin_elsewhere_than_their_publishers() {
        assert_eq!(quietest(&[0, 4, 8], 4, 1), 1);
        assert_eq!(quietest(&[0, 3, 6], 3, 3), 1);
        assert_eq!(quietest(&[0, 1, 3], 3, 0), 2);
        assert_eq!(quietest(&[0, 1], 1, 5), 0);
    }

    #[test]
    fn the_rate_is_shared_out() {
        let options = Options {
            publishers: 4,
            rate: Some(100),
            ..options()
        };
        assert_eq!(interval(&options), Some(Duration::from_millis(40)));
    }
}
