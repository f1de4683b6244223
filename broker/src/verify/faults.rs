//! What `--at` asks for: shell commands that are run while the load goes on, to do something to the broker.

use std::cell::RefCell;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Instant;

use serde::Serialize;
use tokio::process::Command;
use tokio::time::{sleep_until, timeout_at};

use super::options::Fault;
use super::trial::{Phase, TICK, Trial};

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct FaultRecord {
    /// The offset that was asked for.
    pub(crate) at_ms: u64,
    pub(crate) command: String,
    /// None where it did not begin, did not end, or was ended by a signal.
    pub(crate) exit_code: Option<i32>,
    /// When it began.
    pub(crate) began_at_ms: Option<u64>,
    pub(crate) took_ms: Option<u64>,
}

impl FaultRecord {
    fn new(fault: &Fault) -> Self {
        Self {
            at_ms: fault.at.as_millis() as u64,
            command: fault.command.clone(),
            exit_code: None,
            began_at_ms: None,
            took_ms: None,
        }
    }

    /// Why the run cannot be judged because of this command.
    pub(crate) fn failure(&self) -> Option<String> {
        let what = match (self.began_at_ms, self.exit_code) {
            (Some(_), Some(0)) => return None,
            (Some(_), Some(code)) => format!("ended with {code}"),
            (Some(_), None) => "did not end by itself".to_owned(),
            (None, _) => "did not happen".to_owned(),
        };
        Some(format!("{:?} {what}", self.command))
    }
}

/// What became of all commands.
#[derive(Clone, Debug)]
pub(super) struct Faults(Rc<RefCell<Vec<FaultRecord>>>);

impl Faults {
    pub(super) fn new(trial: &Trial) -> Self {
        let records = trial.options.faults.iter().map(FaultRecord::new);
        Self(Rc::new(RefCell::new(records.collect())))
    }

    pub(super) fn records(&self) -> Vec<FaultRecord> {
        self.0.borrow().clone()
    }

    fn change(&self, index: usize, change: impl FnOnce(&mut FaultRecord)) {
        if let Some(record) = self.0.borrow_mut().get_mut(index) {
            change(record);
        }
    }

    /// Runs one command at its time, unless the load has ended before, and waits for its end or that of the run.
    pub(super) async fn run(self, trial: Rc<Trial>, index: usize) {
        let _busy = trial.count_busy();
        let Some(fault) = trial.options.faults.get(index).cloned() else {
            return;
        };
        let due = Instant::now() + fault.at.saturating_sub(trial.now());
        while Instant::now() < due {
            sleep_until(due.min(Instant::now() + TICK).into()).await;
            if trial.phase() != Phase::Load {
                return;
            }
        }
        let began = Instant::now();
        let began_at_ms = trial.now().as_millis() as u64;
        self.change(index, |record| record.began_at_ms = Some(began_at_ms));
        let exit_code = execute(&fault.command, &trial).await;
        let took = began.elapsed();
        self.change(index, |record| {
            record.exit_code = exit_code;
            record.took_ms = Some(took.as_millis() as u64);
        });
        let ended = exit_code.map_or_else(|| "without exit code".to_owned(), |code| format!("with {code}"));
        eprintln!(
            "{:>6.1} s  `{}` ended {ended} after {took:.1?}",
            trial.now().as_secs_f64(),
            fault.command
        );
    }
}

/// The exit code of a command; its output goes to standard error, as standard output is for the result.
async fn execute(command: &str, trial: &Trial) -> Option<i32> {
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(command)
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        // Ctrl-C ends the run early; what the command started, such as a broker, is not meant.
        .process_group(0)
        .kill_on_drop(true);
    let mut child = match shell.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("cannot run {command:?}: {error}");
            return None;
        }
    };
    loop {
        let tick = Instant::now() + 5 * TICK;
        if let Ok(status) = timeout_at(tick.into(), child.wait()).await {
            return status.ok()?.code();
        }
        if trial.phase() == Phase::Close {
            return None;
        }
    }
}
