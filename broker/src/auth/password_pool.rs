//! Threads for password checks, which cost milliseconds each and must not run on a worker.
//!
//! Invariants: at most `waiting_max` checks wait; more are refused at once, so a storm of logins costs neither memory
//! without bound nor the cores of clients already connected. A check whose client has gone is skipped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::scram::Verifier;

/// One password to check.
struct Check {
    verifier: Arc<Verifier>,
    password: Vec<u8>,
    reply: oneshot::Sender<bool>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Check>,
    is_stopped: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    waiting_max: usize,
    done: AtomicU64,
}

/// The threads. Dropping it ends them after the check each is at; checks still waiting are given up.
pub struct PasswordPool {
    shared: Arc<Shared>,
}

impl PasswordPool {
    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// Where the operating system gives no thread.
    pub fn start(threads: usize, waiting_max: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            waiting_max,
            done: AtomicU64::new(0),
        });
        // Made first: should a thread fail to start, its drop ends the ones before.
        let pool = Self { shared };
        for index in 0..threads.max(1) {
            let shared = Arc::clone(&pool.shared);
            std::thread::Builder::new()
                .name(format!("password-{index}"))
                .spawn(move || shared.work())?;
        }
        Ok(pool)
    }

    /// Queues a check; the answer is whether the password fits, or an error where the pool ended first. `None` where
    /// too many wait.
    pub fn check(&self, verifier: Arc<Verifier>, password: &[u8]) -> Option<oneshot::Receiver<bool>> {
        let mut queue = self.shared.queue.lock();
        if queue.waiting.len() >= self.shared.waiting_max {
            // Clients that gave up meanwhile make room.
            queue.waiting.retain(|check| !check.reply.is_closed());
            if queue.waiting.len() >= self.shared.waiting_max {
                return None;
            }
        }
        let (reply, answer) = oneshot::channel();
        queue.waiting.push_back(Check {
            verifier,
            password: password.to_vec(),
            reply,
        });
        drop(queue);
        self.shared.changed.notify_one();
        Some(answer)
    }

    /// Checks that wait for a thread.
    pub fn waiting(&self) -> usize {
        self.shared.queue.lock().waiting.len()
    }

    /// Declares what the pool counts.
    pub fn register(&self, metrics: &crate::metrics::Metrics) {
        let scope = metrics.scope("password_checks");
        let shared = Arc::clone(&self.shared);
        let waiting = move || shared.queue.lock().waiting.len() as f64;
        scope.gauge("waiting", "Logins that wait for a password check.", waiting);
        let shared = Arc::clone(&self.shared);
        scope.counter("total", "Password checks done.", move || {
            shared.done.load(Ordering::Relaxed)
        });
    }
}

impl Drop for PasswordPool {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.is_stopped = true;
        queue.waiting.clear();
        drop(queue);
        self.shared.changed.notify_all();
    }
}

impl std::fmt::Debug for PasswordPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordPool")
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn work(&self) {
        while let Some(check) = self.next() {
            if check.reply.is_closed() {
                continue;
            }
            let fits = check.verifier.accepts(&check.password);
            self.done.fetch_add(1, Ordering::Relaxed);
            // The client may have gone meanwhile; then nobody wants to know.
            let _ = check.reply.send(fits);
        }
    }

    /// The next check, waiting for one; `None` at the end.
    fn next(&self) -> Option<Check> {
        let mut queue = self.queue.lock();
        loop {
            if queue.is_stopped {
                return None;
            }
            match queue.waiting.pop_front() {
                Some(check) => return Some(check),
                None => self.changed.wait(&mut queue),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::scram::ITERATIONS_MIN;

    fn verifier() -> Arc<Verifier> {
        Arc::new(Verifier::derive(b"pencil", b"salt", ITERATIONS_MIN))
    }

    /// Takes a thread for longer than a test takes; nothing fits it.
    fn slow() -> Arc<Verifier> {
        let text = verifier().to_string().replace("$4096:", "$10000000:");
        Arc::new(text.parse().unwrap())
    }

    #[test]
    fn answers_come_back() {
        let pool = PasswordPool::start(2, 10).unwrap();
        let verifier = verifier();
        let right = pool.check(Arc::clone(&verifier), b"pencil").expect("room");
        let wrong = pool.check(verifier, b"pencils").expect("room");
        assert_eq!(right.blocking_recv(), Ok(true));
        assert_eq!(wrong.blocking_recv(), Ok(false));
    }

    #[test]
    fn too_many_are_refused_and_those_who_left_make_room() {
        let pool = PasswordPool::start(1, 2).unwrap();
        let slow = slow();
        let busy = pool.check(Arc::clone(&slow), b"x").expect("room");
        while pool.waiting() > 0 {
            std::thread::yield_now();
        }
        let first = pool.check(Arc::clone(&slow), b"x").expect("room");
        let second = pool.check(Arc::clone(&slow), b"x").expect("room");
        assert!(pool.check(Arc::clone(&slow), b"x").is_none());
        drop(first);
        assert!(pool.check(slow, b"x").is_some());
        drop((busy, second));
    }

    #[test]
    fn the_end_gives_waiting_checks_up() {
        let pool = PasswordPool::start(1, 10).unwrap();
        let slow = slow();
        let _busy = pool.check(Arc::clone(&slow), b"x");
        while pool.waiting() > 0 {
            std::thread::yield_now();
        }
        let waiting = pool.check(slow, b"x").expect("room");
        drop(pool);
        assert!(waiting.blocking_recv().is_err());
    }
}
