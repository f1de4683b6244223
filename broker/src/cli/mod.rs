//! The command line.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 what the data directory held is damaged or gone.
//! `verify` and `ctl` have their own meaning of them.
//! Messages for a person go to standard error, results to standard output.

mod config;
mod ctl;
mod dev_cluster;
mod memory;
mod recover;
mod reload;
mod serve;
mod verify;

#[cfg(test)]
mod tests;

pub use reload::reload;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Faster than the system's for many small allocations of several threads, which is what a broker does. Without
/// transparent huge pages, which double the memory of a node at rest. Once here for every program made of this crate.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Wrong usage or configuration.
const USAGE: u8 = 2;
/// What the data directory held is damaged or gone: starting again does not help, a person has to decide.
const DATA_LOST: u8 = 3;

/// Version and commit, as `--version` shows them.
const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("QUORATE_COMMIT"),
    ")"
);

/// A clustered MQTT broker whose acknowledgement means: on a majority of disks.
#[derive(Debug, Parser)]
#[command(name = "quorate", version = LONG_VERSION)]
struct Arguments {
    /// Without a command the node serves with its defaults.
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    Serve(Box<serve::ServeArguments>),
    /// Run several nodes on this machine, for trying things out.
    DevCluster(dev_cluster::DevClusterArguments),
    /// Ask a node about its cluster, and change the cluster.
    Ctl(ctl::CtlArguments),
    /// Let a stopped node go on alone when the majority of its cluster is lost for good.
    Recover(recover::RecoverArguments),
    /// Check and explain the configuration.
    Config(config::ConfigArguments),
    /// Check that a running broker keeps its promise: publish, kill what you like, count what was lost or doubled.
    Verify(Box<verify::VerifyArguments>),
}

/// The whole program.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Also --help and --version, which go to standard output and are no failure.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    match arguments.command {
        None => serve::serve(&serve::ServeArguments::default()),
        Some(Command::Serve(arguments)) => serve::serve(&arguments),
        Some(Command::DevCluster(arguments)) => dev_cluster::run(&arguments),
        Some(Command::Ctl(arguments)) => ctl::run(&arguments),
        Some(Command::Recover(arguments)) => recover::run(&arguments),
        Some(Command::Config(arguments)) => config::run(&arguments),
        Some(Command::Verify(arguments)) => verify::run(*arguments),
    }
}

/// Tells a person what is wrong, one line for each error.
fn complain(error: &dyn std::fmt::Display) {
    for line in error.to_string().lines() {
        eprintln!("quorate: {line}");
    }
}
