//! `quorate ctl`: asks a node's admin interface about the cluster, and changes it.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 usage, 3 the node cannot be reached.

mod http;
mod table;

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
    /// How the results of status, nodes and raft-groups look.
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
    Ok(Client { url })
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
            // By its number: names are given again, and may be numbers too.
            let id = answer["id"]
                .as_u64()
                .map_or_else(|| node.clone(), |id| format!("id:{id}"));
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
                    // It went before it had removed itself; or has, and the answer is older than that.
                    match client.ask("DELETE", &path, "") {
                        // 409: it is up, or not all is known of it. Seen at the next look.
                        Ok(_)
                        | Err(Failed::Refused {
                            status: 404 | 409 | 410 | 503,
                            ..
                        }) => {}
                        Err(other) => return Err(other),
                    }
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// An admin interface that gives these answers, one after the other; the requests in the end.
    fn answering(answers: &'static [(u16, &str)]) -> (Client, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = listener.local_addr().unwrap().to_string().parse().unwrap();
        let answering = thread::spawn(move || {
            let answer = |(status, body): &(u16, &str)| {
                let (stream, _) = listener.accept().unwrap();
                let mut stream = BufReader::new(stream);
                let mut head = Vec::new();
                loop {
                    let mut line = String::new();
                    stream.read_line(&mut line).unwrap();
                    match line.trim_end() {
                        "" => break,
                        line => head.push(line.to_owned()),
                    }
                }
                let length = head.iter().find_map(|line| line.strip_prefix("Content-Length: "));
                let mut sent = vec![0; length.unwrap().parse().unwrap()];
                stream.read_exact(&mut sent).unwrap();
                write!(
                    stream.get_mut(),
                    "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
                .unwrap();
                head.remove(0)
            };
            answers.iter().map(answer).collect()
        });
        (Client { url }, answering)
    }

    fn drain_and_remove(client: &Client, node: &str) -> Result<(), Failed> {
        change(
            client,
            &NodeCommand::Drain {
                node: node.to_owned(),
                remove: true,
                cancel: false,
                timeout: 20,
            },
        )
    }

    const ASKED: (u16, &str) = (202, r#"{"node": "2", "id": 7}"#);
    const DOWN: (u16, &str) = (200, r#"{"state": "down", "draining": true, "votes": 0}"#);
    const GONE: (u16, &str) = (410, r#"{"detail": "the node was removed from the cluster"}"#);
    const NOT_YET: (u16, &str) = (409, r#"{"detail": "node 7 is up"}"#);

    #[test]
    fn a_node_that_removed_itself_meanwhile_was_removed() {
        for answers in [
            &[ASKED, DOWN, GONE, GONE][..],
            &[ASKED, DOWN, (404, "{}"), (404, "{}")],
            &[ASKED, DOWN, NOT_YET, DOWN, (200, "{}"), GONE],
        ] {
            let (client, answering) = answering(answers);
            assert_eq!(drain_and_remove(&client, "2"), Ok(()));
            assert_eq!(answering.join().unwrap().len(), answers.len());
        }
        let (client, _answering) = answering(&[ASKED, DOWN, (403, r#"{"detail": "no"}"#)]);
        assert!(drain_and_remove(&client, "2").is_err());
    }

    #[test]
    fn the_node_that_is_waited_for_is_the_one_that_was_asked_for() {
        let (client, answering) = answering(&[ASKED, DOWN, (200, "{}"), GONE]);
        assert_eq!(drain_and_remove(&client, "2"), Ok(()));
        let lines = answering.join().unwrap();
        assert!(lines[0].starts_with("POST /api/v1/nodes/2/drain "), "{lines:?}");
        for line in &lines[1..] {
            assert!(line.contains(" /api/v1/nodes/id%3A7 "), "{line}");
        }
    }
}
