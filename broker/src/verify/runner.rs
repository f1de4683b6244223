//! A run from the first CONNECT to the verdict: set up, load, drain, quiet, close.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, timeout};

use super::cast::Cast;
use super::dropped::Watch;
use super::faults::Faults;
use super::options::Options;
use super::report::{Report, Verdict};
use super::retained::Readers;
use super::trial::{Phase, TICK, Trial};
use super::wills::WillMaker;

/// Time between two lines that say how far a run has got.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// How long clients may take to end their sessions.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Does what is asked for and reports.
pub(crate) fn run(options: Options) -> io::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut run = [0; 8];
    getrandom::fill(&mut run).map_err(io::Error::other)?;
    let trial = Rc::new(Trial::new(options, u64::from_be_bytes(run)));
    LocalSet::new().block_on(&runtime, Runner::new(trial).run())
}

struct Runner {
    trial: Rc<Trial>,
    tasks: JoinSet<()>,
    faults: Faults,
    /// How often the run was asked to end.
    interrupts: Rc<Cell<u32>>,
    /// Messages that the broker dropped because a queue was full.
    dropped: Rc<Cell<u64>>,
    progress: Progress,
}

impl Runner {
    fn new(trial: Rc<Trial>) -> Self {
        Self {
            tasks: JoinSet::new(),
            faults: Faults::new(&trial),
            interrupts: Rc::new(Cell::new(0)),
            dropped: Rc::new(Cell::new(0)),
            progress: Progress::new(),
            trial,
        }
    }

    async fn run(mut self) -> io::Result<Report> {
        self.watch_signals()?;
        let options = &self.trial.options;
        eprintln!(
            "run {:016x} at {}, seed {}",
            self.trial.run,
            options.targets.join(", "),
            options.seed
        );
        for address in &options.admin {
            let watch = Watch::new(&self.trial, address.clone(), &self.dropped);
            self.tasks.spawn_local(watch.run());
        }
        let failure = match self.set_up().await {
            Ok(()) => self.load_and_drain().await,
            Err(failure) => Err(failure),
        };
        let duration = self.progress.load;
        self.close().await;
        Ok(self.report(failure.err(), duration))
    }

    /// SIGINT and SIGTERM end the load early; a second one ends the run.
    fn watch_signals(&self) -> io::Result<()> {
        for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
            let mut signals = signal(kind)?;
            let interrupts = Rc::clone(&self.interrupts);
            tokio::task::spawn_local(async move {
                while signals.recv().await.is_some() {
                    interrupts.set(interrupts.get() + 1);
                }
            });
        }
        Ok(())
    }

    /// Waits until every client has its session and its subscriptions.
    async fn set_up(&mut self) -> Result<(), String> {
        let expected = Cast::new(&self.trial, &mut self.tasks).start();
        let deadline = Instant::now() + self.trial.options.setup_wait;
        while self.trial.ready() < expected {
            if self.interrupts.get() > 0 {
                return Err("the run was ended before it began".to_owned());
            }
            if Instant::now() >= deadline {
                let trouble = self.trial.trouble();
                return Err(format!(
                    "nothing was acknowledged: {} of {expected} clients are connected and subscribed; {}",
                    self.trial.ready(),
                    trouble.unwrap_or_else(|| "the broker does not answer".to_owned())
                ));
            }
            sleep(TICK).await;
        }
        Ok(())
    }

    async fn load_and_drain(&mut self) -> Result<(), String> {
        self.load().await;
        self.trial.enter(Phase::Drain);
        self.drain().await?;
        let quiet_until = Instant::now() + self.trial.options.quiet_time;
        while Instant::now() < quiet_until {
            self.check_aborted()?;
            sleep(TICK).await;
        }
        Ok(())
    }

    async fn load(&mut self) {
        let trial = Rc::clone(&self.trial);
        trial.enter(Phase::Load);
        for index in 0..trial.options.faults.len() {
            let fault = self.faults.clone().run(Rc::clone(&trial), index);
            self.tasks.spawn_local(fault);
        }
        for topic in 0..trial.options.retained {
            self.tasks.spawn_local(Readers::new(&trial, topic).run());
        }
        for index in 0..trial.options.wills {
            self.tasks.spawn_local(WillMaker::new(&trial, index).run());
        }
        while trial.now() < trial.options.duration && self.interrupts.get() == 0 {
            let left = trial.options.duration.saturating_sub(trial.now());
            sleep(left.min(TICK)).await;
            self.progress.show(&trial);
        }
        self.progress.load = trial.now();
    }

    /// Waits until everything that is expected has come, or nothing has come for a while.
    async fn drain(&mut self) -> Result<(), String> {
        let mut progress = 0;
        let mut since = Instant::now();
        while self.trial.busy() > 0 || self.trial.oracle().outstanding() > 0 {
            self.check_aborted()?;
            let now = self.trial.oracle().progress();
            if now != progress {
                progress = now;
                since = Instant::now();
            }
            if since.elapsed() >= self.trial.options.drain_wait {
                break;
            }
            self.progress.show(&self.trial);
            sleep(TICK).await;
        }
        Ok(())
    }

    fn check_aborted(&self) -> Result<(), String> {
        if self.interrupts.get() > 1 {
            return Err("the run was ended before what is missing could come".to_owned());
        }
        Ok(())
    }

    /// Has all clients end their sessions.
    async fn close(&mut self) {
        self.trial.enter(Phase::Close);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        // What is left behind where the broker does not answer, its session expiry takes.
        let _ = timeout(CLOSE_MAX, ended).await;
        self.tasks.abort_all();
    }

    fn report(&self, failure: Option<String>, duration: Duration) -> Report {
        let oracle = self.trial.oracle();
        let mut figures = oracle.figures();
        figures.reconnects = self.trial.reconnects();
        figures.excuse(self.dropped.get());
        let faults = self.faults.records();
        let (verdict, reasons) = match failure {
            Some(failure) => (Verdict::NotJudged, vec![failure]),
            None => Verdict::of(&figures, &faults),
        };
        Report {
            figures,
            verdict,
            reasons,
            violations: oracle.describe_violations(),
            faults,
            run: format!("{:016x}", self.trial.run),
            seed: self.trial.options.seed,
            duration_ms: duration.as_millis() as u64,
            targets: self.trial.options.targets.clone(),
            version: crate::VERSION,
        }
    }
}

/// Says from time to time how far a run has got.
struct Progress {
    shown: Instant,
    acknowledged: u64,
    load: Duration,
}

impl Progress {
    fn new() -> Self {
        Self {
            shown: Instant::now(),
            acknowledged: 0,
            load: Duration::ZERO,
        }
    }

    fn show(&mut self, trial: &Trial) {
        let elapsed = self.shown.elapsed();
        if elapsed < PROGRESS_INTERVAL {
            return;
        }
        let oracle = trial.oracle();
        let figures = oracle.figures();
        let rate = (figures.acknowledged - self.acknowledged) as f64 / elapsed.as_secs_f64();
        eprintln!(
            "{:>6.1} s  acknowledged {} ({rate:.0}/s), delivered {}, outstanding {}, longest wait {} ms",
            trial.now().as_secs_f64(),
            figures.acknowledged,
            figures.delivered,
            oracle.outstanding(),
            figures.longest_wait_ms
        );
        self.shown = Instant::now();
        self.acknowledged = figures.acknowledged;
    }
}
