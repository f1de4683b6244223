//! A process as the operating system accounts for it.

use std::io;
use std::time::Duration;

/// Clock ticks a second that `/proc` counts in; fixed on Linux.
const TICKS_PER_SECOND: u64 = 100;

/// A running process.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

impl Process {
    /// CPU time of all its threads, user and system.
    ///
    /// # Errors
    /// The process is gone.
    pub fn cpu(&self) -> io::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // The name may hold blanks; fields are counted behind its bracket.
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let ticks = |index: usize| {
            fields
                .get(index)
                .and_then(|field| field.parse::<u64>().ok())
                .unwrap_or(0)
        };
        Ok(Duration::from_millis(
            (ticks(11) + ticks(12)) * 1000 / TICKS_PER_SECOND,
        ))
    }

    /// Bytes that it has had written to disks.
    ///
    /// # Errors
    /// The process is gone, or another user's.
    pub fn written(&self) -> io::Result<u64> {
        let counters = std::fs::read_to_string(format!("/proc/{}/io", self.0))?;
        let line = counters
            .lines()
            .find_map(|line| line.strip_prefix("write_bytes: "));
        line.and_then(|bytes| bytes.parse().ok())
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// The process is gone.
    pub fn resident(&self) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line
            .and_then(|line| line.split_whitespace().next())
            .and_then(|number| number.parse().ok());
        Ok(kilobytes.unwrap_or(0u64) * 1024)
    }
}
