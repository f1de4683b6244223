//! `quorate serve`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{DATA_LOST, USAGE, complain, memory};
use crate::config::{self, Config, Flag, LogFormat, Sources};
use crate::logging;
use crate::serve::{Ended, ServeError};

/// Flags of `quorate serve`; each but `--config` sets one key of the configuration.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct ServeArguments {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of this node, unique in its cluster.
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Directory of everything the node has to remember.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Address of the listener "mqtt".
    #[arg(long, value_name = "IP:PORT")]
    mqtt_listen: Option<String>,
    /// Address of the listener "mqtts", which this version does not serve.
    #[arg(long, value_name = "IP:PORT")]
    mqtts_listen: Option<String>,
    /// Address of the listener "ws".
    #[arg(long, value_name = "IP:PORT")]
    ws_listen: Option<String>,
    /// Address of the listener "wss", which this version does not serve.
    #[arg(long, value_name = "IP:PORT")]
    wss_listen: Option<String>,
    /// Address of the HTTP interface for operators, probes and Prometheus.
    #[arg(long, value_name = "IP:PORT")]
    admin_listen: Option<String>,
    /// Name of the cluster.
    #[arg(long, value_name = "NAME")]
    cluster_name: Option<String>,
    /// Address on which other nodes reach this one.
    #[arg(long, value_name = "IP:PORT")]
    cluster_listen: Option<String>,
    /// What other nodes are told to connect to.
    #[arg(long, value_name = "HOST:PORT")]
    cluster_advertise: Option<String>,
    /// Nodes to ask for the cluster, separated by commas.
    #[arg(long, value_name = "HOST:PORT,...")]
    join: Option<String>,
    /// Empty nodes that have to see each other before they create a cluster.
    #[arg(long, value_name = "N")]
    bootstrap_expect: Option<String>,
    /// Accept clients without user name on every listener that does not say otherwise.
    #[arg(long)]
    allow_anonymous: bool,
    /// Least severity that is logged: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How log lines look: text or json.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

impl ServeArguments {
    /// File, environment and flags.
    pub(super) fn sources(&self) -> Sources {
        let anonymous = self.allow_anonymous.then(|| "true".to_owned());
        let flags = [
            ("--node-name", "node.name", &self.node_name),
            ("--data-dir", "node.data_dir", &self.data_dir),
            ("--mqtt-listen", "listener.mqtt.bind", &self.mqtt_listen),
            ("--mqtts-listen", "listener.mqtts.bind", &self.mqtts_listen),
            ("--ws-listen", "listener.ws.bind", &self.ws_listen),
            ("--wss-listen", "listener.wss.bind", &self.wss_listen),
            ("--admin-listen", "admin.bind", &self.admin_listen),
            ("--cluster-name", "cluster.name", &self.cluster_name),
            ("--cluster-listen", "cluster.listen", &self.cluster_listen),
            (
                "--cluster-advertise",
                "cluster.advertise",
                &self.cluster_advertise,
            ),
            ("--join", "cluster.join", &self.join),
            (
                "--bootstrap-expect",
                "cluster.bootstrap_expect",
                &self.bootstrap_expect,
            ),
            ("--allow-anonymous", "auth.allow_anonymous", &anonymous),
            ("--log-level", "log.level", &self.log_level),
            ("--log-format", "log.format", &self.log_format),
        ];
        let flags = flags.into_iter().filter_map(|(name, key, value)| {
            value.as_ref().map(|value| Flag {
                name,
                key,
                value: value.clone(),
            })
        });
        Sources {
            file: self.config.clone(),
            flags: flags.collect(),
            ..Sources::from_environment()
        }
    }
}

/// Runs a node until it is told to stop.
pub(super) fn serve(arguments: &ServeArguments) -> ExitCode {
    let config = match config::load(&arguments.sources()) {
        Ok(config) => config,
        Err(errors) => {
            complain(&errors);
            return ExitCode::from(USAGE);
        }
    };
    let _log = match logging::init(&config.log) {
        Ok(guard) => guard,
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = memory::give_back() {
        tracing::warn!(%error, "no thread gives memory back that is not used");
    }
    match run(&config) {
        Ok(Ended::Stopped | Ended::Left) => ExitCode::SUCCESS,
        Ok(Ended::Removed) => start_anew(),
        Err(error) => tell(&config, &error),
    }
}

/// Runs the node on a thread of its own. The state store changes what its threads may do for good, and the thread that
/// [starts anew](start_anew) is to be as it was.
fn run(config: &Config) -> Result<Ended, ServeError> {
    std::thread::scope(|scope| {
        let node = std::thread::Builder::new()
            .name("quorate".to_owned())
            .spawn_scoped(scope, || crate::serve::run(config));
        match node.map_err(ServeError::System)?.join() {
            Ok(ended) => ended,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The same program with the same arguments and the same process number, so that nothing of this run is left.
fn start_anew() -> ExitCode {
    use std::os::unix::process::CommandExt;
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    // Returns only where it fails.
    let error = std::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        .exec();
    complain(&error);
    ExitCode::FAILURE
}

fn tell(config: &Config, error: &ServeError) -> ExitCode {
    // Whoever collects JSON looks there alone; on a terminal once is enough.
    let text = match error.advice(config) {
        Some(advice) => format!("{error}; {advice}"),
        None => error.to_string(),
    };
    if config.log.format == LogFormat::Json {
        tracing::error!(error = text, "the node ends");
    }
    complain(&text);
    match error {
        ServeError::Unsupported(_) => ExitCode::from(USAGE),
        error if error.is_loss() => ExitCode::from(DATA_LOST),
        _ => ExitCode::FAILURE,
    }
}
