//! `quorate verify`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_proto::codec::{ProtocolVersion, QoS};

use super::{USAGE, complain};
use crate::verify::{
    Fault, Options, PAYLOAD_BYTES_MIN, Report, parse_address, parse_duration, parse_fault, parse_qos,
    parse_version,
};

/// Largest payload.
const PAYLOAD_BYTES_MAX: i64 = 1 << 20;
/// Most clients of a kind.
const CLIENTS_MAX: i64 = 10_000;

/// What of the help does not belong to one option.
const AFTER_HELP: &str = "\
Publishers send numbered messages, each to a topic of its own, and come back after every loss of a
connection, at once and then every 50 ms, to the next target in turn, with their session. Durable
subscribers at other targets have to get every message that was acknowledged, those of QoS 2 once,
first arrivals in order. Beside them, readers of retained topics, clients with wills and members of
shared groups are held to what they were promised.

Exit codes: 0 the promise held; 1 it was violated; 2 it could not be judged: nothing was
acknowledged or delivered, a command of --at failed or did not happen, or the arguments are wrong.

SIGINT ends the load early; what was acknowledged until then is judged. A second one ends the run.

What breaks the promise (keys of the JSON and of the table): lost, duplicates_qos2,
order_violations, stale_retained, wills_missing, wills_doubled, wills_unwanted, sessions_lost,
shared_lost, shared_duplicates_qos2, corrupted, protocol_errors.

The other figures are for information: among them longest_wait_ms (from the first sending of a
message to its acknowledgement), refused (reason codes of 0x80 and above), unknown (QoS 2 messages
whose fate was lost with a session), and dropped_by_policy, which needs --admin-urls.

Example: kill a node while clients work, and see what they saw:
  quorate verify --targets 127.0.0.1:1883,127.0.0.1:1884,127.0.0.1:1885 \\
      --at 10s:'kill -9 4711' --json result.json";

/// Flags of `quorate verify`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct VerifyArguments {
    /// The nodes' MQTT listeners (plain TCP).
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', default_value = "127.0.0.1:1883", value_parser = parse_address)]
    targets: Vec<String>,
    /// How long publishers send; what is under way then is completed.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    duration: Duration,
    /// Quality of service, shared out over the publishers in turn.
    #[arg(long, value_name = "1,2", value_delimiter = ',', default_value = "1,2", value_parser = parse_qos)]
    qos: Vec<QoS>,
    /// Publishers of the main stream.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    publishers: u32,
    /// Durable subscribers of the main stream; each takes its share of the topics.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    subscribers: u32,
    /// Every subscriber takes every topic.
    #[arg(long)]
    fan_out: bool,
    /// Size of a payload; at least 25, which the identity of a message takes.
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u32).range(PAYLOAD_BYTES_MIN as i64..=PAYLOAD_BYTES_MAX))]
    payload: u32,
    /// Messages of a publisher under way without acknowledgement, at most.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
    in_flight: u16,
    /// Messages a second of all publishers of the main stream together [default: as fast as they are acknowledged].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Acknowledged messages that a subscriber may miss before its publishers wait, so that no queue of the broker
    /// fills; no more than 32 MiB of them.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..))]
    backlog: u64,
    /// Retained topics, each with a writer and readers.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=CLIENTS_MAX))]
    retained: u32,
    /// Clients with wills.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=CLIENTS_MAX))]
    wills: u32,
    /// Shared groups, each of three durable members.
    #[arg(long, value_name = "GROUPS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=CLIENTS_MAX))]
    shared: u32,
    /// Run a shell command so long after the beginning of the load; may be given several times.
    #[arg(long, value_name = "TIME:COMMAND", value_parser = parse_fault)]
    at: Vec<Fault>,
    /// Write the result to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Protocol version of all clients: 3.1.1 or 5.
    #[arg(long, value_name = "VERSION", default_value = "5", value_parser = parse_version)]
    version: ProtocolVersion,
    /// User name of all clients.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// File with the password of all clients, in its first line.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The nodes' admin interfaces: what their metrics say was dropped because a queue was full is dropped_by_policy
    /// instead of lost.
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', value_parser = parse_address)]
    admin_urls: Vec<String>,
    /// Repeats the random pauses of a run [default: another one each time].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How long all clients may take to connect and subscribe before the load begins.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    setup_wait: Duration,
    /// At the end, give up what is missing when nothing has come for so long; also how long a reader waits for a
    /// retained value. Where a node is drained, more than its drain_will_delay_secs.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    drain_wait: Duration,
    /// How long subscribers stay after everything has come, to see what comes twice.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    quiet_time: Duration,
    /// A connection on which an answer is due and nothing comes for so long is given up for the next target; connecting
    /// may take as long, and the answer to CONNECT three times. It is part of the longest wait where a node is paused
    /// or cut off.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    silence: Duration,
}

/// Runs the check.
pub(super) fn run(arguments: VerifyArguments) -> ExitCode {
    let options = match arguments.options() {
        Ok(options) => options,
        Err(problem) => {
            complain(&problem);
            return ExitCode::from(USAGE);
        }
    };
    // Before the run, so that a wrong path does not cost its result.
    let json = match arguments.json.as_deref().map(File::create).transpose() {
        Ok(json) => json,
        Err(error) => {
            complain(&format!("cannot write the result: {error}"));
            return ExitCode::from(USAGE);
        }
    };
    match crate::verify::run(options).and_then(|report| tell(&report, json)) {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            ExitCode::from(USAGE)
        }
    }
}

fn tell(report: &Report, json: Option<File>) -> io::Result<ExitCode> {
    if let Some(mut file) = json {
        serde_json::to_writer_pretty(&mut file, report)?;
        file.write_all(b"\n")?;
    }
    match io::stdout().write_all(report.table().as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(ExitCode::from(report.verdict.exit_code())),
    }
}

impl VerifyArguments {
    /// What is asked for, or why it makes no sense.
    pub(super) fn options(&self) -> Result<Options, String> {
        let password = self.password_file.as_deref().map(read_password).transpose()?;
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let options = Options {
            targets: self.targets.clone(),
            duration: self.duration,
            qos: self.qos.clone(),
            publishers: self.publishers,
            subscribers: self.subscribers,
            fan_out: self.fan_out,
            payload_bytes: self.payload as usize,
            in_flight: usize::from(self.in_flight),
            rate: self.rate,
            backlog: self.backlog,
            retained: self.retained,
            wills: self.wills,
            shared: self.shared,
            faults: self.at.clone(),
            version: self.version,
            user: self.user.clone(),
            password,
            admin: self.admin_urls.clone(),
            seed: self.seed.unwrap_or(clock.as_micros() as u64),
            setup_wait: self.setup_wait,
            drain_wait: self.drain_wait,
            quiet_time: self.quiet_time,
            silence: self.silence,
        };
        options.check().map(|()| options)
    }
}

fn read_password(path: &Path) -> Result<Vec<u8>, String> {
    let content = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let line = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(line.strip_suffix(b"\r").unwrap_or(line).to_vec())
}
