//! Memory that nobody uses goes back to the system.
//!
//! The allocator keeps what is freed for a second, in case it is wanted again, and looks at what it has kept when the next
//! page becomes free. A node that rests after large messages frees none, and would keep hundreds of megabytes. So a page is
//! freed from time to time.

use std::hint::black_box;
use std::io;
use std::time::Duration;

/// Time between looks. The allocator keeps what is freed for a second.
const INTERVAL: Duration = Duration::from_secs(1);
/// More than the allocator takes from a page that it shares: freeing it frees its page. It is not written to, so that it
/// costs no memory.
const PAGE_BYTES: usize = 1 << 20;

/// Starts a thread that makes the allocator look, as long as the process lives.
///
/// # Errors
/// The system starts no thread.
pub(super) fn give_back() -> io::Result<()> {
    let gives_back = || {
        loop {
            std::thread::sleep(INTERVAL);
            drop(black_box(Vec::<u8>::with_capacity(PAGE_BYTES)));
        }
    };
    std::thread::Builder::new()
        .name("memory".to_owned())
        .spawn(gives_back)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Memory of this process that is no file's, in KiB.
    fn anonymous_kib() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.expect("it is there").trim().trim_end_matches(" kB");
        kib.parse().expect("a number")
    }

    #[test]
    fn what_is_freed_goes_back_though_nothing_else_happens() {
        const KIB: usize = 100 << 10;
        give_back().expect("a thread");
        let before = anonymous_kib();
        let used = std::thread::spawn(|| {
            let messages: Vec<Vec<u8>> = (0..KIB / 1024).map(|_| vec![1; 1 << 20]).collect();
            let used = anonymous_kib();
            drop(black_box(messages));
            used
        });
        let used = used.join().expect("it allocates");
        assert!(used >= before + KIB, "{used} KiB, before {before} KiB");
        let began = Instant::now();
        while anonymous_kib() > before + KIB / 10 {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "{} KiB, before {before} KiB",
                anonymous_kib()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
