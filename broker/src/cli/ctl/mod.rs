//! `quorate ctl`: asks a node's admin interface about the cluster, and changes it.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 usage, 3 the node cannot be reached.

mod http;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use self::http::{AdminUrl, Client, Failed, escaped};
use super::{USAGE, complain};

const REFUSED: u8 = 1;
const UNREACHABLE: u8 = 3;
/// Time between looks at a node that drains.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Arguments of `quorate ctl`.
#[derive(Debug, Args)]
pub(super) struct CtlArguments {
    /// Admin interface of any node: http://HOST:PORT [default: QUORATE_ADMIN_URL, or http://127.0.0.1:8080].
    #[arg(long, global = true, value_name = "URL")]
    admin_url: Option<AdminUrl>,
    /// File with the token to show.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How results look.
    #[arg(long, global = true, value_name = "FORMAT", default_value = "table")]
    output: Output,
    #[command(subcommand)]
    command: CtlCommand,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
enum CtlCommand {
    /// What the node is, and how it sees the cluster.
    Status,
    /// The nodes of the cluster.
    Nodes,
    /// The groups: where they are, who leads them, how far each replica is.
    RaftGroups,
    /// Change a node's place in the cluster.
    Node {
        #[command(subcommand)]
        command: NodeCommand,
    },
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// Move a node's clients and leaderships to others, and wait until that is done.
    Drain {
        /// The node, by name or number.
        node: String,
        /// Then remove it from the cluster for good.
        #[arg(long, conflicts_with = "cancel")]
        remove: bool,
        /// Take a drain back.
        #[arg(long)]
        cancel: bool,
        /// How long to wait; the drain goes on without anybody who waits. 0 does not wait.
        #[arg(long, value_name = "SECONDS", default_value_t = 300)]
        timeout: u64,
    },
    /// Remove a node that is down, for good.
    Remove {
        /// The node, by name or number.
        node: String,
        /// Also one that is up and does not serve. A removal that could lose acknowledged messages is refused with it too.
        #[arg(long)]
        force: bool,
    },
}

pub(super) fn run(arguments: &CtlArguments) -> ExitCode {
    let client = match client(arguments) {
        Ok(client) => client,
        Err(problem) => {
            complain(&problem);
            return ExitCode::from(USAGE);
        }
    };
    let done = match &arguments.command {
        CtlCommand::Status => show(arguments, client.ask("GET", "/api/v1/status", ""), table::status),
        CtlCommand::Nodes => show(arguments, client.ask("GET", "/api/v1/nodes", ""), table::nodes),
        CtlCommand::RaftGroups => show(
            arguments,
            client.ask("GET", "/api/v1/raft-groups", ""),
            table::groups,
        ),
        CtlCommand::Node { command } => change(&client, command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            complain(&failed);
            ExitCode::from(match failed {
                Failed::Unreachable(_) => UNREACHABLE,
                Failed::Refused { .. } => REFUSED,
            })
        }
    }
}

fn client(arguments: &CtlArguments) -> Result<Client, String> {
    let url = match (&arguments.admin_url, std::env::var("QUORATE_ADMIN_URL")) {
        (Some(url), _) => url.clone(),
        (None, Ok(url)) => url
            .parse()
            .map_err(|error| format!("QUORATE_ADMIN_URL: {error}"))?,
        (None, Err(_)) => "127.0.0.1:8080".parse()?,
    };
    let token = arguments.token_file.as_ref().map(|path| {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let token = text.lines().next().unwrap_or_default().trim().to_owned();
        match token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Err(format!("{}: its first line is no token", path.display())),
            false => Ok(token),
        }
    });
    Ok(Client {
        url,
        token: token.transpose()?,
    })
}

fn show(
    arguments: &CtlArguments,
    answer: Result<Value, Failed>,
    as_table: fn(&Value) -> String,
) -> Result<(), Failed> {
    let answer = answer?;
    let text = match arguments.output {
        Output::Table => as_table(&answer),
        Output::Json => format!("{answer:#}\n"),
    };
    // A reader that left early, such as `head`, is no failure.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    Ok(())
}

fn change(client: &Client, command: &NodeCommand) -> Result<(), Failed> {
    match command {
        NodeCommand::Drain {
            node,
            remove,
            cancel,
            timeout,
        } => {
            let path = format!("/api/v1/nodes/{}/drain", escaped(node));
            let body = serde_json::json!({ "remove": remove, "cancel": cancel }).to_string();
            let answer = client.ask("POST", &path, &body)?;
            if *cancel {
                eprintln!("{node} takes clients again");
                return Ok(());
            }
            // By its number: names are given again.
            let id = answer["id"]
                .as_u64()
                .map_or_else(|| node.clone(), |id| id.to_string());
            match *timeout {
                0 => Ok(()),
                secs => wait_until_drained(client, node, &id, *remove, Duration::from_secs(secs)),
            }
        }
        NodeCommand::Remove { node, force } => {
            client.ask(
                "DELETE",
                &format!("/api/v1/nodes/{}?force={force}", escaped(node)),
                "",
            )?;
            eprintln!("{node} was removed");
            Ok(())
        }
    }
}

fn wait_until_drained(
    client: &Client,
    name: &str,
    id: &str,
    remove: bool,
    max: Duration,
) -> Result<(), Failed> {
    let since = Instant::now();
    let path = format!("/api/v1/nodes/{}", escaped(id));
    let mut told = String::new();
    let mut was_free = false;
    loop {
        match client.ask("GET", &path, "") {
            Ok(node) => {
                let number = |key: &str| node[key].as_u64().unwrap_or_default();
                let (clients, votes, leads) = (number("clients"), number("votes"), number("leads"));
                let state = node["state"].as_str().unwrap_or_default();
                let line =
                    format!("{name}: {state}, {clients} clients, leads {leads} groups, votes in {votes}");
                if line != told {
                    eprintln!("{line}");
                    told = line;
                }
                was_free = clients == 0 && votes == 0;
                if node["draining"] == Value::Bool(false) {
                    return Err(failed(format!("the drain of {name} was taken back")));
                }
                if state == "down" && remove && votes == 0 {
                    // It went before it had removed itself.
                    client.ask("DELETE", &path, "")?;
                }
                if !remove && clients == 0 && leads == 0 {
                    eprintln!("{name} is drained");
                    return Ok(());
                }
            }
            Err(Failed::Refused {
                status: 404 | 410, ..
            }) if remove => {
                eprintln!("{name} was removed");
                return Ok(());
            }
            Err(Failed::Unreachable(_)) if remove && was_free => {
                eprintln!("{name} has no groups any more, and the node that was asked about it has ended");
                return Ok(());
            }
            // A node that is busy may answer the next time.
            Err(Failed::Unreachable(_)) if since.elapsed() < max && !remove => {}
            Err(Failed::Refused { status: 503, .. }) if since.elapsed() < max => {}
            Err(other) => return Err(other),
        }
        if since.elapsed() >= max {
            return Err(failed(format!("{name} is still being drained; it goes on")));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

fn failed(detail: String) -> Failed {
    Failed::Refused { status: 0, detail }
}
