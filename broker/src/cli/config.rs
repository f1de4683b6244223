//! `quorate config`: check, defaults, reference, hash-password.

use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::serve::ServeArguments;
use super::{USAGE, complain};
use crate::auth::{ITERATIONS_DEFAULT, ITERATIONS_MAX, ITERATIONS_MIN, Verifier};
use crate::config;

/// Longest password that is taken, in bytes.
const PASSWORD_BYTES_MAX: usize = 1_024;

/// Arguments of `quorate config`.
#[derive(Debug, Args)]
pub(super) struct ConfigArguments {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Tell everything that is wrong with what `serve` would read from the same flags.
    Check(Box<ServeArguments>),
    /// Print a file with every key and its default.
    Defaults,
    /// Print the reference page (Markdown).
    Reference,
    /// Read a password from standard input and print what to write as `password` of an [[auth.user]].
    HashPassword {
        /// Iterations: what a guess costs, and what each login with a plain password costs this node.
        #[arg(
            long,
            value_name = "N",
            default_value_t = ITERATIONS_DEFAULT,
            value_parser = clap::value_parser!(u32).range(i64::from(ITERATIONS_MIN)..=i64::from(ITERATIONS_MAX))
        )]
        iterations: u32,
    },
}

pub(super) fn run(arguments: &ConfigArguments) -> ExitCode {
    match &arguments.command {
        ConfigCommand::Check(arguments) => match config::load(&arguments.sources()) {
            Ok(_) => print("the configuration is right\n"),
            Err(errors) => {
                complain(&errors);
                ExitCode::from(USAGE)
            }
        },
        ConfigCommand::Defaults => print(&config::defaults()),
        ConfigCommand::Reference => print(&config::reference()),
        ConfigCommand::HashPassword { iterations } => hash_password(*iterations),
    }
}

/// Prints a result; a reader that left early, such as `head`, is no failure.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write to standard output: {error}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

fn hash_password(iterations: u32) -> ExitCode {
    if io::stdin().is_terminal() {
        complain(&"type the password and end with Enter and Ctrl-D; it will be visible");
    }
    let mut input = Vec::new();
    if let Err(error) = io::stdin()
        .take(PASSWORD_BYTES_MAX as u64 + 3)
        .read_to_end(&mut input)
    {
        complain(&format!("cannot read standard input: {error}"));
        return ExitCode::FAILURE;
    }
    let password = match password_of(&input) {
        Ok(password) => password,
        Err(problem) => {
            complain(&problem);
            return ExitCode::from(USAGE);
        }
    };
    if !password.is_ascii() {
        complain(
            &"the password has characters beyond ASCII: a client that uses SCRAM may write them in another form \
             (SASLprep) and then be refused",
        );
    }
    match Verifier::create(password, iterations) {
        Ok(verifier) => print(&format!("{verifier}\n")),
        Err(error) => {
            complain(&format!("the system gives no randomness: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// The password in the input: one line, without its end.
pub(super) fn password_of(input: &[u8]) -> Result<&[u8], &'static str> {
    let line = input.strip_suffix(b"\n").unwrap_or(input);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match line {
        [] => Err("there is no password on standard input"),
        line if line.len() > PASSWORD_BYTES_MAX => Err("the password is longer than 1,024 bytes"),
        line if line.contains(&b'\n') => Err("the password has more than one line"),
        line => Ok(line),
    }
}
