//! What the broker says it dropped because a queue was full, which is its stated policy and no loss.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::trial::{Phase, TICK, Trial};

/// Time between two looks; a node that ends takes what it counted since the last one with it.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long an answer may take.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// An answer is read no further than this.
const ANSWER_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// The sample of the broker's metrics.
const SAMPLE: &str = "quorate_messages_dropped_total{reason=\"queue_full\"}";

/// One node's count, watched from the beginning of a run.
#[derive(Debug)]
pub(super) struct Watch {
    trial: Rc<Trial>,
    address: String,
    last: Option<u64>,
    grown: Rc<Cell<u64>>,
}

impl Watch {
    /// Adds to `grown` what the node at this address drops from now on.
    pub(super) fn new(trial: &Rc<Trial>, address: String, grown: &Rc<Cell<u64>>) -> Self {
        Self {
            trial: Rc::clone(trial),
            address,
            last: None,
            grown: Rc::clone(grown),
        }
    }

    /// Watches until the run closes, with a last look then.
    pub(super) async fn run(mut self) {
        loop {
            let is_last = self.trial.phase() == Phase::Close;
            self.look().await;
            if is_last {
                return;
            }
            let next = Instant::now() + INTERVAL;
            while Instant::now() < next && self.trial.phase() != Phase::Close {
                sleep(TICK).await;
            }
        }
    }

    /// Takes note of what the node has counted; one that does not answer has not counted.
    async fn look(&mut self) {
        let Ok(Ok(answer)) = timeout(ANSWER_WAIT, fetch(&self.address)).await else {
            return;
        };
        let Some(count) = sample(&answer) else { return };
        // A node that was started again counts from 0.
        let growth = match self.last {
            Some(last) if count >= last => count - last,
            Some(_) => count,
            None => 0,
        };
        self.last = Some(count);
        self.grown.set(self.grown.get() + growth);
    }
}

async fn fetch(address: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await?;
    Ok(answer)
}

fn sample(metrics: &str) -> Option<u64> {
    let value = metrics.lines().find_map(|line| line.strip_prefix(SAMPLE))?;
    Some(value.trim().parse::<f64>().ok()? as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_found() {
        let metrics = "# TYPE x counter\n\
            quorate_messages_dropped_total{reason=\"expired\"} 3\n\
            quorate_messages_dropped_total{reason=\"queue_full\"} 7\n";
        assert_eq!(sample(metrics), Some(7));
        assert_eq!(sample("other 1\n"), None);
    }
}
