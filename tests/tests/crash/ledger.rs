//! The oracle: what was sent, what the broker acknowledged, what each subscriber got; and whether that is in order.
//!
//! Each publisher has topics of its own and numbers the messages of each topic from 1, so that a message is known by
//! topic and number. What must hold:
//!
//! - Every acknowledged message arrives at every durable subscriber whose filters match it.
//! - A message of QoS 2 arrives at a subscription of QoS 2 once.
//! - The first deliveries of a topic arrive in the order of the numbers.
//! - Nothing arrives that was not sent.
//! - A retained topic holds a message at least as new as the newest acknowledged one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

/// Faults kept; those that follow say nothing new.
const FAULTS_MAX: usize = 30;
/// Numbers of lost messages shown per topic.
const NUMBERS_SHOWN: usize = 10;

/// The payload of a message: it names the message, and has any of many lengths.
pub(crate) fn payload(topic: &str, number: u64) -> String {
    format!("{number} {topic} {}", ".".repeat((number * 37 % 400) as usize))
}

/// The number in a payload.
pub(crate) fn number(topic: &str, bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let number = text.split(' ').next()?.parse().ok()?;
    (payload(topic, number) == text).then_some(number)
}

/// The messages of one topic.
#[derive(Debug, Default)]
struct Sent {
    qos: u8,
    /// Numbers 1 to this one were sent.
    last: u64,
    acknowledged: BTreeSet<u64>,
}

/// A durable subscriber.
#[derive(Debug)]
struct Reader {
    qos: u8,
    /// The beginnings of the topics it subscribed to.
    prefixes: Vec<String>,
    got: BTreeMap<String, BTreeSet<u64>>,
}

/// What is known of all messages.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    sent: BTreeMap<String, Sent>,
    readers: BTreeMap<String, Reader>,
    faults: Vec<String>,
    /// Deliveries and acknowledgements so far: grows as long as something goes on.
    pub(crate) progress: u64,
    /// Redeliveries that subscriptions of QoS 1 got.
    pub(crate) repeated: u64,
    /// Clients that have their session and subscriptions.
    pub(crate) ready: usize,
    /// Fences that publishers have sent.
    pub(crate) fences: usize,
}

impl Ledger {
    /// Declares a topic.
    pub(crate) fn topic(&mut self, topic: &str, qos: u8) {
        self.sent.entry(topic.into()).or_default().qos = qos;
    }

    /// Declares a subscriber to all topics that begin with one of the prefixes.
    pub(crate) fn reader(&mut self, name: &str, qos: u8, prefixes: &[String]) {
        let reader = Reader {
            qos,
            prefixes: prefixes.to_vec(),
            got: BTreeMap::new(),
        };
        self.readers.insert(name.into(), reader);
    }

    /// A new message is about to be sent; returns its number.
    pub(crate) fn send(&mut self, topic: &str) -> u64 {
        let sent = self.sent.get_mut(topic).expect("declared");
        sent.last += 1;
        sent.last
    }

    /// The broker acknowledged the message: PUBACK or PUBREC.
    pub(crate) fn acknowledge(&mut self, topic: &str, number: u64) {
        self.progress += 1;
        let sent = self.sent.get_mut(topic).expect("declared");
        sent.acknowledged.insert(number);
    }

    /// A message arrived and is handed to the application, at this QoS.
    pub(crate) fn deliver(&mut self, reader_name: &str, topic: &str, bytes: &[u8], qos: u8) {
        self.progress += 1;
        if let Err(what) = self.check_delivery(reader_name, topic, bytes, qos) {
            self.fault(format!("{reader_name}: {what}"));
        }
    }

    fn check_delivery(&mut self, name: &str, topic: &str, bytes: &[u8], qos: u8) -> Result<(), String> {
        let number = number(topic, bytes).ok_or(format!(
            "FROM NOWHERE: {topic} {}",
            String::from_utf8_lossy(bytes)
        ))?;
        let sent = self.sent.get(topic).filter(|sent| number <= sent.last);
        let sent = sent.ok_or(format!("FROM NOWHERE: {topic} {number} was never sent"))?;
        let reader = self.readers.get_mut(name).expect("declared");
        let granted = sent.qos.min(reader.qos);
        if qos != granted {
            return Err(format!("{topic} {number} has QoS {qos}, not {granted}"));
        }
        let got = reader.got.entry(topic.into()).or_default();
        let newest = got.last().copied().unwrap_or(0);
        if got.insert(number) {
            if number < newest {
                return Err(format!(
                    "OUT OF ORDER: {topic} {number} came first after {newest}"
                ));
            }
        } else if granted == 2 {
            return Err(format!(
                "TWICE: {topic} {number}, of QoS 2; the newest so far is {newest}"
            ));
        } else {
            self.repeated += 1;
        }
        Ok(())
    }

    /// Messages that were sent and not yet acknowledged.
    pub(crate) fn unacknowledged(&self) -> Vec<String> {
        let open = |(topic, sent): (&String, &Sent)| {
            let numbers: Vec<u64> = (1..=sent.last)
                .filter(|number| !sent.acknowledged.contains(number))
                .collect();
            (!numbers.is_empty()).then(|| format!("{topic}: {}", listed(&numbers)))
        };
        self.sent.iter().filter_map(open).collect()
    }

    /// Acknowledged messages that did not arrive: one line per subscriber and topic.
    pub(crate) fn missing(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let none = BTreeSet::new();
        for (name, reader) in &self.readers {
            let wanted = |topic: &str| reader.prefixes.iter().any(|prefix| topic.starts_with(prefix));
            for (topic, sent) in self.sent.iter().filter(|(topic, _)| wanted(topic)) {
                let got = reader.got.get(topic).unwrap_or(&none);
                let lost: Vec<u64> = sent.acknowledged.difference(got).copied().collect();
                if !lost.is_empty() {
                    lines.push(format!(
                        "LOST: {name} (QoS {}) did not get {topic} {} of {} acknowledged; the newest it got is {:?}",
                        reader.qos,
                        listed(&lost),
                        sent.acknowledged.len(),
                        got.last(),
                    ));
                }
            }
        }
        lines
    }

    /// The newest acknowledged message of each topic that begins so.
    pub(crate) fn acknowledged(&self, prefix: &str) -> BTreeMap<String, u64> {
        let newest = |(topic, sent): (&String, &Sent)| Some((topic.clone(), *sent.acknowledged.last()?));
        self.sent
            .iter()
            .filter(|(topic, _)| topic.starts_with(prefix))
            .filter_map(newest)
            .collect()
    }

    /// Checks what retained topics hold against what was acknowledged before they were read.
    pub(crate) fn check_retained(&mut self, floor: &BTreeMap<String, u64>, held: &BTreeMap<String, Vec<u8>>) {
        for (topic, at_least) in floor {
            let last = self.sent.get(topic).map_or(0, |sent| sent.last);
            match held.get(topic).map(|bytes| number(topic, bytes)) {
                None => self.fault(format!(
                    "RETAINED LOST: {topic} holds nothing, {at_least} was acknowledged"
                )),
                Some(Some(number)) if (*at_least..=last).contains(&number) => {}
                Some(number) => self.fault(format!(
                    "RETAINED STALE: {topic} holds {number:?}, not one of {at_least} (acknowledged) to {last} (sent)"
                )),
            }
        }
    }

    /// Notes a broken promise.
    pub(crate) fn fault(&mut self, what: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(what);
        }
    }

    /// The broken promises.
    pub(crate) fn faults(&self) -> &[String] {
        &self.faults
    }

    /// What was checked, in numbers.
    pub(crate) fn summary(&self) -> String {
        let acknowledged: usize = self.sent.values().map(|sent| sent.acknowledged.len()).sum();
        let got = self.readers.values().flat_map(|reader| reader.got.values());
        let delivered: usize = got.map(BTreeSet::len).sum();
        format!(
            "{acknowledged} messages acknowledged, {delivered} delivered to {} subscribers, {} of them again at QoS 1",
            self.readers.len(),
            self.repeated
        )
    }
}

fn listed(numbers: &[u64]) -> String {
    let more = numbers.len().saturating_sub(NUMBERS_SHOWN);
    let shown = &numbers[..numbers.len() - more];
    if more == 0 {
        format!("{shown:?}")
    } else {
        format!("{shown:?} and {more} more")
    }
}

/// The ledger of all clients.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    /// The ledger, for as long as the guard lives.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().expect("no holder panics")
    }

    /// Notes a broken promise.
    pub(crate) fn fault(&self, what: String) {
        self.lock().fault(what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages 1 to 3 of a topic of QoS 2, acknowledged, and a subscriber of QoS 2 that gets these.
    fn ledger(got: &[u64]) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.topic("a/x", 2);
        ledger.reader("r", 2, &["a/".into()]);
        for _ in 0..3 {
            let number = ledger.send("a/x");
            ledger.acknowledge("a/x", number);
        }
        for number in got {
            ledger.deliver("r", "a/x", payload("a/x", *number).as_bytes(), 2);
        }
        ledger
    }

    #[test]
    fn the_oracle_accepts_what_is_in_order() {
        let ledger = ledger(&[1, 2, 3]);
        assert_eq!(ledger.faults(), [""; 0]);
        assert_eq!(ledger.missing(), [""; 0]);
        assert_eq!(ledger.unacknowledged(), [""; 0]);
    }

    #[test]
    fn the_oracle_sees_a_loss() {
        let missing = ledger(&[1, 3]).missing();
        assert!(
            missing[0].starts_with("LOST: r (QoS 2) did not get a/x [2]"),
            "{missing:?}"
        );
    }

    #[test]
    fn the_oracle_sees_what_comes_twice_or_late_or_from_nowhere() {
        for (got, fault) in [
            (&[1, 2, 2][..], "r: TWICE: a/x 2"),
            (&[1, 3, 2], "r: OUT OF ORDER: a/x 2 came first after 3"),
            (&[1, 2, 3, 4], "r: FROM NOWHERE: a/x 4"),
        ] {
            let ledger = ledger(got);
            assert_eq!(ledger.faults().len(), 1, "{got:?}");
            assert!(ledger.faults()[0].starts_with(fault), "{:?}", ledger.faults());
        }
    }

    #[test]
    fn the_oracle_sees_a_stale_retained_message() {
        let held = |number| BTreeMap::from([("a/x".to_owned(), payload("a/x", number).into_bytes())]);
        for (held, faults) in [(held(3), 0), (held(2), 1), (held(4), 1), (BTreeMap::new(), 1)] {
            let mut ledger = ledger(&[]);
            let floor = ledger.acknowledged("a/");
            ledger.check_retained(&floor, &held);
            assert_eq!(ledger.faults().len(), faults, "{held:?}");
        }
    }
}
