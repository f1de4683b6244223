//! What a run is asked to do, and the parts of the command line that are more than a word.

use std::time::Duration;

use quorate_proto::codec::{ProtocolVersion, QoS};

use super::message::PAYLOAD_BYTES_MIN;

/// What waits for one subscriber at most, by bytes: half of what the broker's session queue takes by default.
const BACKLOG_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// What a run is asked to do.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// `HOST:PORT` of each node.
    pub(crate) targets: Vec<String>,
    pub(crate) duration: Duration,
    /// Shared out over the publishers in turn; at least one.
    pub(crate) qos: Vec<QoS>,
    pub(crate) publishers: u32,
    pub(crate) subscribers: u32,
    /// Every subscriber takes every topic.
    pub(crate) fan_out: bool,
    pub(crate) payload_bytes: usize,
    pub(crate) in_flight: usize,
    /// Messages a second of all publishers of the main stream together.
    pub(crate) rate: Option<u32>,
    /// Acknowledged messages a subscriber may miss before its publishers wait.
    pub(crate) backlog: u64,
    pub(crate) retained: u32,
    pub(crate) wills: u32,
    pub(crate) shared: u32,
    pub(crate) faults: Vec<Fault>,
    pub(crate) version: ProtocolVersion,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Vec<u8>>,
    /// Addresses of the nodes' admin interfaces.
    pub(crate) admin: Vec<String>,
    pub(crate) seed: u64,
    /// How long all clients may take to connect and subscribe.
    pub(crate) setup_wait: Duration,
    /// How long nothing may come at the end before what is missing is given up.
    pub(crate) drain_wait: Duration,
    /// How long subscribers stay after everything has come.
    pub(crate) quiet_time: Duration,
    /// How long a connection may owe an answer.
    pub(crate) silence: Duration,
}

impl Options {
    /// Acknowledged messages a subscriber may miss before its publishers wait.
    pub(crate) fn backlog_max(&self) -> u64 {
        let bytes = self.payload_bytes.max(PAYLOAD_BYTES_MIN) as u64;
        self.backlog.min(BACKLOG_BYTES_MAX / bytes).max(1)
    }

    /// What contradicts itself.
    pub(crate) fn check(&self) -> Result<(), String> {
        if let Some(late) = self.faults.iter().find(|fault| fault.at >= self.duration) {
            return Err(format!(
                "--at {}: the run ends before, at {:?}",
                late.command, self.duration
            ));
        }
        if self.password.is_some() && self.user.is_none() {
            return Err("--password-file needs --user".to_owned());
        }
        Ok(())
    }
}

/// A shell command that is run while the load goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Offset from the beginning of the load.
    pub(crate) at: Duration,
    pub(crate) command: String,
}

/// `60s`, `500ms`, `2m`, `1h`, or a number of seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let millis = match &text[digits.len()..] {
        "ms" => 1.0,
        "" | "s" => 1_000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        unit => return Err(format!("the unit {unit:?} is none of ms, s, m, h")),
    };
    let count: f64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is no time, such as 60s or 500ms"))?;
    Duration::try_from_secs_f64(count * millis / 1_000.0).map_err(|error| format!("{text:?}: {error}"))
}

/// `10s:COMMAND`.
pub(crate) fn parse_fault(text: &str) -> Result<Fault, String> {
    let (at, command) = text.split_once(':').ok_or("no colon after the time")?;
    if command.trim().is_empty() {
        return Err("no command after the colon".to_owned());
    }
    Ok(Fault {
        at: parse_duration(at)?,
        command: command.to_owned(),
    })
}

/// `1` or `2`: nothing is promised of QoS 0.
pub(crate) fn parse_qos(text: &str) -> Result<QoS, String> {
    match text {
        "1" => Ok(QoS::AtLeastOnce),
        "2" => Ok(QoS::ExactlyOnce),
        _ => Err("1 and 2 are what is promised to arrive".to_owned()),
    }
}

/// `3.1.1` or `5`.
pub(crate) fn parse_version(text: &str) -> Result<ProtocolVersion, String> {
    match text {
        "3.1.1" | "4" => Ok(ProtocolVersion::V3_1_1),
        "5" | "5.0" => Ok(ProtocolVersion::V5),
        _ => Err("3.1.1 and 5 are the versions that verify speaks".to_owned()),
    }
}

/// `HOST:PORT`, with or without `http://` in front and a path behind.
pub(crate) fn parse_address(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix("http://").unwrap_or(text);
    let bare = bare.split('/').next().unwrap_or_default();
    match bare.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(bare.to_owned()),
        _ => Err(format!("{text:?} is no HOST:PORT")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, millis) in [
            ("500ms", 500),
            ("60s", 60_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("1.5s", 1_500),
            ("3", 3_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "5d", "-1s", "1s2", "1e300h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_fault_is_a_time_and_a_command() {
        let fault = parse_fault("10s:kill -9 $(cat pid); echo a:b").unwrap();
        assert_eq!(fault.at, Duration::from_secs(10));
        assert_eq!(fault.command, "kill -9 $(cat pid); echo a:b");
        for text in ["", "10s", "10s:", "x:true", ":true"] {
            assert!(parse_fault(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_has_a_port() {
        for text in ["a:80", "http://a:80", "http://a:80/metrics"] {
            assert_eq!(parse_address(text), Ok("a:80".to_owned()));
        }
        assert_eq!(parse_address("[::1]:80"), Ok("[::1]:80".to_owned()));
        for text in ["", "a", "a:", ":80", "a:b", "a:70000"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_is_promised_of_qos_0() {
        assert!(parse_qos("0").is_err());
        assert_eq!(parse_qos("2"), Ok(QoS::ExactlyOnce));
    }
}
