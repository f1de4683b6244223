//! `quorate dev-cluster`: several nodes on this machine, for trying things out.
//!
//! Each node is a process of its own, so it can be killed, stopped and started like a real one. Their output goes to a
//! file beside each data directory.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::complain;

/// Time between looks at the nodes.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Time for one answer of a node.
const ASK_MAX: Duration = Duration::from_secs(2);
/// How long nodes may take to become ready.
const READY_MAX: Duration = Duration::from_secs(120);
/// How long nodes may take to stop.
const STOP_MAX: Duration = Duration::from_secs(30);

/// Arguments of `quorate dev-cluster`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct DevClusterArguments {
    /// Number of nodes.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=15))]
    nodes: u16,
    /// MQTT port of the first node; the others follow. 0 picks free ports.
    #[arg(long, value_name = "PORT", default_value_t = 1883)]
    base_port: u16,
    /// Admin port of the first node; the others follow. 0 picks free ports.
    #[arg(long, value_name = "PORT", default_value_t = 18080)]
    base_admin_port: u16,
    /// Cluster port of the first node; the others follow. 0 picks free ports.
    #[arg(long, value_name = "PORT", default_value_t = 17946)]
    base_cluster_port: u16,
    /// Directory of the nodes' data and logs. Started again with the same, the cluster goes on where it stopped.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// One line of JSON for each node.
    #[arg(long)]
    json: bool,
    /// Least severity that the nodes log.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
}

/// One node.
struct Node {
    name: String,
    mqtt: SocketAddr,
    admin: SocketAddr,
    cluster: SocketAddr,
    data_dir: PathBuf,
    arguments: Vec<String>,
    child: Child,
    running: bool,
}

/// Runs the nodes until the process is told to stop.
pub(super) fn run(arguments: &DevClusterArguments) -> ExitCode {
    match start(arguments).and_then(|mut nodes| serve(arguments, &mut nodes)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Ports for a purpose: in sequence, or free ones.
fn ports(base: u16, count: u16) -> Result<Vec<u16>, String> {
    if base != 0 {
        let last = base.checked_add(count - 1).ok_or("the ports go beyond 65535")?;
        return Ok((base..=last).collect());
    }
    let bound: Result<Vec<TcpListener>, _> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect();
    let bound = bound.map_err(|error| format!("no free port: {error}"))?;
    let ports = bound.iter().map(|listener| listener.local_addr());
    ports
        .map(|address| {
            address
                .map(|address| address.port())
                .map_err(|error| error.to_string())
        })
        .collect()
}

fn start(arguments: &DevClusterArguments) -> Result<Vec<Node>, String> {
    let count = arguments.nodes;
    let mqtt = ports(arguments.base_port, count)?;
    let admin = ports(arguments.base_admin_port, count)?;
    let cluster = ports(arguments.base_cluster_port, count)?;
    let local = |port: &u16| SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
    let join: Vec<String> = cluster.iter().map(|port| local(port).to_string()).collect();
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut nodes: Vec<Node> = Vec::new();
    for index in 0..usize::from(count) {
        let name = format!("node{}", index + 1);
        let data_dir = arguments.data_dir.join(&name);
        let (mqtt, admin, cluster) = (local(&mqtt[index]), local(&admin[index]), local(&cluster[index]));
        let flags = [
            ("--node-name", name.clone()),
            ("--data-dir", data_dir.display().to_string()),
            ("--mqtt-listen", mqtt.to_string()),
            ("--ws-listen", "127.0.0.1:0".to_owned()),
            ("--admin-listen", admin.to_string()),
            ("--cluster-listen", cluster.to_string()),
            ("--join", join.join(",")),
            ("--bootstrap-expect", count.to_string()),
            ("--log-level", arguments.log_level.clone()),
        ];
        let flags = flags
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value]);
        let flags: Vec<String> = std::iter::once("serve".to_owned())
            .chain(flags)
            .chain(["--allow-anonymous".to_owned()])
            .collect();
        let child = spawn(&program, &flags, &arguments.data_dir, &name);
        match child {
            Ok(child) => nodes.push(Node {
                name,
                mqtt,
                admin,
                cluster,
                data_dir,
                arguments: flags,
                child,
                running: true,
            }),
            Err(error) => {
                stop(&mut nodes);
                return Err(format!("{name} does not start: {error}"));
            }
        }
    }
    Ok(nodes)
}

fn spawn(program: &Path, flags: &[String], data_dir: &Path, name: &str) -> std::io::Result<Child> {
    std::fs::create_dir_all(data_dir)?;
    let log = File::options()
        .create(true)
        .append(true)
        .open(data_dir.join(format!("{name}.log")))?;
    Command::new(program)
        .args(flags)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}

/// Tells of each node once it is ready, then waits for the end.
fn serve(arguments: &DevClusterArguments, nodes: &mut [Node]) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let result = runtime.block_on(async {
        let mut ended = std::pin::pin!(told_to_stop());
        tokio::select! {
            () = &mut ended => return Ok(()),
            ready = all_ready(arguments, nodes) => ready?,
        }
        if !arguments.json {
            eprintln!("the cluster is ready; end it with Ctrl-C");
        }
        loop {
            tokio::select! {
                () = &mut ended => return Ok(()),
                () = tokio::time::sleep(LOOK_INTERVAL) => nodes.iter_mut().for_each(look),
            }
        }
    });
    stop(nodes);
    result
}

async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = signal(SignalKind::terminate());
    let interrupt = signal(SignalKind::interrupt());
    let (Ok(mut terminate), Ok(mut interrupt)) = (terminate, interrupt) else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

async fn all_ready(arguments: &DevClusterArguments, nodes: &mut [Node]) -> Result<(), String> {
    let since = Instant::now();
    let mut told = vec![false; nodes.len()];
    while told.contains(&false) {
        for (node, told) in nodes.iter_mut().zip(&mut told) {
            if let Ok(Some(status)) = node.child.try_wait() {
                node.running = false;
                return Err(format!(
                    "{} ended while it started ({status}); see {}",
                    node.name,
                    node.log()
                ));
            }
            if !*told && node.is_ready() {
                *told = true;
                node.tell(arguments.json);
            }
        }
        if since.elapsed() > READY_MAX {
            return Err("the nodes do not become ready; see their logs".to_owned());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}

/// Tells when a node has ended, and how it is started again.
fn look(node: &mut Node) {
    if node.running
        && let Ok(Some(status)) = node.child.try_wait()
    {
        node.running = false;
        eprintln!(
            "{} ended ({status}); start it again with: quorate {}",
            node.name,
            node.arguments.join(" ")
        );
    }
}

/// Stops what still runs, in order.
fn stop(nodes: &mut [Node]) {
    let running = |node: &mut Node| node.running && matches!(node.child.try_wait(), Ok(None));
    for node in nodes.iter_mut().filter_map(|node| running(node).then_some(node)) {
        let pid = i32::try_from(node.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself, at the same Ctrl-C.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
    let since = Instant::now();
    while nodes.iter_mut().any(running) {
        if since.elapsed() > STOP_MAX {
            for node in nodes.iter_mut() {
                let _ = node.child.kill();
            }
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

impl Node {
    fn log(&self) -> String {
        let directory = self.data_dir.parent().unwrap_or(&self.data_dir);
        directory.join(format!("{}.log", self.name)).display().to_string()
    }

    fn is_ready(&self) -> bool {
        let ask = || -> std::io::Result<bool> {
            let mut stream = TcpStream::connect_timeout(&self.admin, ASK_MAX)?;
            stream.set_read_timeout(Some(ASK_MAX))?;
            write!(
                stream,
                "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer)?;
            Ok(answer.ends_with(b" 200"))
        };
        ask().unwrap_or(false)
    }

    fn tell(&self, json: bool) {
        if json {
            let line = serde_json::json!({
                "node": self.name,
                "pid": self.child.id(),
                "mqtt": self.mqtt.to_string(),
                "admin": self.admin.to_string(),
                "cluster": self.cluster.to_string(),
                "data_dir": self.data_dir.display().to_string(),
            });
            println!("{line}");
        } else {
            println!(
                "{}: pid {}, mqtt {}, admin http://{}, data {}",
                self.name,
                self.child.id(),
                self.mqtt,
                self.admin,
                self.data_dir.display()
            );
        }
        // Somebody reads the lines as they come.
        let _ = std::io::stdout().flush();
    }
}
