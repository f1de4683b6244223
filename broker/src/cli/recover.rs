//! `quorate recover`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use super::{DATA_LOST, USAGE, complain};
use crate::recovery::{RecoverError, StoppedNode};

/// Arguments of `quorate recover`.
#[derive(Debug, clap::Args)]
pub(super) struct RecoverArguments {
    /// Data directory of the node, which is stopped.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

pub(super) fn run(arguments: &RecoverArguments) -> ExitCode {
    let opened = StoppedNode::open(&arguments.data_dir).and_then(|node| node.check().map(|()| node));
    let node = match opened {
        Ok(node) => node,
        Err(error) => return tell(&error),
    };
    let _ = std::io::stdout().write_all(node.describe().as_bytes());
    if !arguments.yes {
        if !std::io::stdin().is_terminal() {
            complain(&"nothing was changed; --yes recovers without asking");
            return ExitCode::from(USAGE);
        }
        eprint!("\nType `yes` to go on with this node alone: ");
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        if read.is_err() || answer.trim() != "yes" {
            complain(&"nothing was changed");
            return ExitCode::FAILURE;
        }
    }
    match node.recover() {
        Ok(cluster) => {
            println!(
                "\nThe node is alone in the new cluster {cluster}. Start it; others join it with empty data directories."
            );
            ExitCode::SUCCESS
        }
        Err(error) => tell(&error),
    }
}

fn tell(error: &RecoverError) -> ExitCode {
    complain(error);
    match error {
        RecoverError::Damaged { .. } => ExitCode::from(DATA_LOST),
        RecoverError::Store(error) if error.is_loss() => ExitCode::from(DATA_LOST),
        _ => ExitCode::FAILURE,
    }
}
