//! Rounds of load and SIGKILL at random instants, then the reckoning.
//!
//! `QUORATE_CRASH_ROUNDS` says how many rounds, `QUORATE_CRASH_SEED` repeats the random choices of a run; the instants
//! at which the system runs what do not repeat.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use quorate_tests::Version;
use quorate_tests::broker::Broker;
use quorate_tests::client::DEADLINE;
use quorate_tests::random::{Random, from_environment};
use quorate_tests::wire::{connect, publish};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::ledger::{Ledger, SharedLedger};
use crate::link::{Stage, run};
use crate::publisher::Publisher;
use crate::start;
use crate::subscriber::{Plan, Subscriber};

/// Publishers, in turn of MQTT 3.1.1 and MQTT 5.
const PUBLISHERS: usize = 4;
/// Rounds unless the environment says otherwise.
const ROUNDS: u64 = 5;
/// A long run says after so many rounds how far it is.
const ROUNDS_SHOWN: u64 = 25;
/// A round's load goes on for less than this.
const LOAD: Duration = Duration::from_millis(500);
/// How often conditions are looked at.
const PAUSE: Duration = Duration::from_millis(30);

/// [MQTT-3.1.2-5], [MQTT-4.3.2-4], [MQTT-4.3.3-8], [MQTT-4.6.0-6], [MQTT-3.3.1-5]: nothing that was acknowledged is
/// lost, nothing of QoS 2 comes twice, first deliveries keep their order, sessions, subscriptions and retained messages
/// are there, however often the broker is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_under_load() {
    let seed = Random::seed();
    let rounds = from_environment("QUORATE_CRASH_ROUNDS").unwrap_or(ROUNDS);
    println!("QUORATE_CRASH_SEED={seed} QUORATE_CRASH_ROUNDS={rounds}");
    let mut trial = Trial::new(seed);
    trial
        .until("all have subscribed", |ledger| {
            ledger.ready == PUBLISHERS + plans().len()
        })
        .await;
    trial.stage.send_modify(|stage| stage.publishing = true);
    for round in 1..=rounds {
        trial.round(round).await;
    }
    trial.reckon().await;
    println!("{rounds} kills: {}", trial.ledger.lock().summary());
}

/// The subscribers: QoS 1 and 2 of both versions, all topics or some, one with a small window, two often away.
fn plans() -> Vec<Plan> {
    let plan = |name, version, qos, prefixes: &[&str]| Plan {
        name,
        version,
        qos,
        prefixes: prefixes.iter().map(ToString::to_string).collect(),
        receive_maximum: 200,
        sleeps: false,
    };
    let all = ["load/", "kept/"];
    vec![
        plan("one-3", Version::V3_1_1, 1, &all),
        plan("two-3", Version::V3_1_1, 2, &all),
        plan("two-5", Version::V5, 2, &all),
        plan("some-5", Version::V5, 2, &["load/p0/", "kept/p1/"]),
        Plan {
            receive_maximum: 7,
            ..plan("one-5-small", Version::V5, 1, &["load/p2/", "load/p3/"])
        },
        Plan {
            sleeps: true,
            ..plan("two-3-away", Version::V3_1_1, 2, &all)
        },
        Plan {
            sleeps: true,
            ..plan("two-5-away", Version::V5, 2, &["load/"])
        },
    ]
}

/// A session made just before a kill, with one subscription.
struct Late {
    id: String,
    version: Version,
    qos: u8,
}

impl Late {
    fn topic(&self) -> String {
        format!("late/{}", self.id)
    }
}

struct Trial {
    seed: u64,
    broker: Broker,
    random: Random,
    stage: watch::Sender<Stage>,
    ledger: SharedLedger,
    late: Vec<Late>,
    /// Of the script that starts the broker.
    _directory: TempDir,
    /// The clients end with it.
    _clients: JoinSet<()>,
}

impl Trial {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let ledger = SharedLedger::default();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let broker = start(directory.path(), "");
        let first = Stage {
            life: 1,
            address: Some(broker.mqtt()),
            all_awake: true,
            ..Stage::default()
        };
        let stage = watch::Sender::new(first);
        let mut clients = JoinSet::new();
        for index in 0..PUBLISHERS {
            let version = if index % 2 == 0 {
                Version::V3_1_1
            } else {
                Version::V5
            };
            let publisher = Publisher::new(format!("p{index}"), version, &ledger);
            clients.spawn(run(publisher, stage.subscribe(), ledger.clone()));
        }
        for plan in plans() {
            let subscriber = Subscriber::new(plan, random.fork(), &ledger);
            clients.spawn(run(subscriber, stage.subscribe(), ledger.clone()));
        }
        Self {
            seed,
            broker,
            random,
            stage,
            ledger,
            late: Vec::new(),
            _directory: directory,
            _clients: clients,
        }
    }

    /// Load for a while, at times with a new session at its end, then a kill and a look at what is retained.
    async fn round(&mut self, round: u64) {
        self.stage.send_modify(|stage| stage.all_awake = false);
        sleep(self.random.shorter_than(LOAD)).await;
        if self.random.coin() {
            self.subscribe_late(round).await;
        }
        let floor = self.kill_and_restart();
        // Else the next kill may come before the clients are back.
        if self.random.coin() {
            self.check_retained(&floor).await;
        }
        self.check(&format!("after kill {round}"));
        if round.is_multiple_of(ROUNDS_SHOWN) {
            println!("{round} kills: {}", self.ledger.lock().summary());
        }
    }

    /// Kills the broker and starts it again; returns the newest retained messages acknowledged before.
    fn kill_and_restart(&mut self) -> BTreeMap<String, u64> {
        self.stage.send_modify(|stage| stage.address = None);
        self.broker.kill();
        let floor = self.ledger.lock().acknowledged("kept/");
        self.broker.restart();
        let address = self.broker.mqtt();
        self.stage.send_modify(|stage| {
            stage.life += 1;
            stage.address = Some(address);
        });
        floor
    }

    async fn subscribe_late(&mut self, round: u64) {
        let late = Late {
            id: format!("late-{round}"),
            version: if self.random.coin() {
                Version::V3_1_1
            } else {
                Version::V5
            },
            qos: 1 + u8::from(self.random.coin()),
        };
        let connect = connect(&late.id).resume().expiry(3600);
        let mut client = self.broker.client(late.version, &connect).await;
        client.subscribe(&late.topic(), late.qos).await;
        self.late.push(late);
    }

    async fn check_retained(&mut self, floor: &BTreeMap<String, u64>) {
        let mut client = self.broker.clean(Version::V5, "reader-of-retained").await;
        client.subscribe("kept/#", 1).await;
        let mut held = BTreeMap::new();
        let until = Instant::now() + DEADLINE;
        while floor.keys().any(|topic| !held.contains_key(topic)) && Instant::now() < until {
            // A topic that is published to meanwhile may give its new value live instead (R34); where nobody publishes,
            // as at the end, only what is retained comes.
            let Ok(message) = tokio::time::timeout(DEADLINE, client.receive()).await else {
                break;
            };
            held.insert(message.topic, message.payload);
        }
        self.ledger.lock().check_retained(floor, &held);
        client.disconnect().await;
    }

    /// The end: all exchanges complete, all queues drain, and one more kill brings nothing back.
    async fn reckon(&mut self) {
        self.stage.send_modify(|stage| {
            stage.publishing = false;
            stage.all_awake = true;
        });
        self.drain(0).await;
        self.kill_and_restart();
        // What the broker might send again comes before the fence, as messages of a topic keep their order.
        self.stage.send_modify(|stage| stage.fences = 1);
        self.drain(PUBLISHERS).await;
        let floor = self.ledger.lock().acknowledged("kept/");
        self.check_retained(&floor).await;
        self.check_late().await;
        self.check("at the end");
    }

    async fn drain(&self, fences: usize) {
        let is_drained = |ledger: &Ledger| {
            ledger.fences == fences && ledger.unacknowledged().is_empty() && ledger.missing().is_empty()
        };
        self.until("every message is acknowledged and delivered", is_drained)
            .await;
    }

    /// Each session made just before a kill is there, and its subscription still routes.
    async fn check_late(&self) {
        let mut publisher = self.broker.clean(Version::V5, "publisher-to-late").await;
        for late in &self.late {
            let code = publisher.publish(publish(&late.topic(), &late.id).qos(2)).await;
            if code != 0 {
                self.ledger.fault(format!(
                    "SUBSCRIPTION LOST: {}, PUBREC 0x{code:02X}",
                    late.topic()
                ));
                continue;
            }
            let mut client = self.broker.durable(late.version, &late.id).await;
            if !client.connack.session_present {
                self.ledger.fault(format!("SESSION LOST: {}", late.id));
                continue;
            }
            let message = client.expect(&late.id).await;
            assert_eq!((message.topic, message.qos), (late.topic(), late.qos));
        }
    }

    /// Waits for a condition as long as there is progress.
    async fn until(&self, what: &str, is_met: impl Fn(&Ledger) -> bool) {
        let mut progress = 0;
        let mut deadline = Instant::now() + DEADLINE;
        loop {
            self.check(what);
            {
                let ledger = self.ledger.lock();
                if is_met(&ledger) {
                    return;
                }
                if ledger.progress > progress {
                    progress = ledger.progress;
                    deadline = Instant::now() + DEADLINE;
                }
            }
            if Instant::now() > deadline {
                self.report(&format!("nothing moves any more, waiting until {what}"));
            }
            sleep(PAUSE).await;
        }
    }

    fn check(&self, when: &str) {
        if !self.ledger.lock().faults().is_empty() {
            self.report(when);
        }
    }

    fn report(&self, when: &str) -> ! {
        let ledger = self.ledger.lock();
        let report = format!(
            "{when}, in life {} of the broker, QUORATE_CRASH_SEED={}\nfaults:\n  {}\nnot arrived so far:\n  {}\nnot \
             acknowledged so far:\n  {}\n{}",
            self.stage.borrow().life,
            self.seed,
            ledger.faults().join("\n  "),
            ledger.missing().join("\n  "),
            ledger.unacknowledged().join("\n  "),
            ledger.summary(),
        );
        // A panic with the lock held would make every client panic too.
        drop(ledger);
        panic!("{report}");
    }
}
