//! Several brokers that form a cluster, on loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crate::broker::{Broker, Config};

/// Ports of the nodes: below those that the system gives to connections, so that a node finds its own again.
const PORT_FIRST: u16 = 20_000;
const PORTS: u16 = 12_000;
/// How long a condition may take to come about.
const DEADLINE: Duration = Duration::from_secs(60);

/// A port for a node that nobody listens on.
pub fn cluster_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % u32::from(PORTS)).expect("below a u16");
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORT_FIRST + (start.wrapping_mul(7) % PORTS + step) % PORTS;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// The nodes, which listen to each other on ports of their own.
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Broker>,
    ports: Vec<u16>,
}

impl Cluster {
    /// Starts so many nodes and waits until they are ready.
    pub fn start(binary: &str, count: usize) -> Self {
        Self::start_with(binary, count, |config| config)
    }

    /// As [`Self::start`], with a change of each configuration.
    pub fn start_with(binary: &str, count: usize, change: impl Fn(Config) -> Config) -> Self {
        let ports: Vec<u16> = (0..count).map(|_| cluster_port()).collect();
        let address = |port: &u16| SocketAddr::from((Ipv4Addr::LOCALHOST, *port)).to_string();
        let join: Vec<String> = ports.iter().map(address).collect();
        let config = |(index, port): (usize, &u16)| {
            let config = Config::default()
                .named(&format!("node-{}", index + 1))
                .listener("mqtt", "mqtt", "")
                .argument("--allow-anonymous")
                .argument(&format!("--cluster-listen={}", address(port)))
                .argument(&format!("--join={}", join.join(",")))
                .argument(&format!("--bootstrap-expect={count}"));
            change(config)
        };
        let configs: Vec<Config> = ports.iter().enumerate().map(config).collect();
        let cluster = Self {
            nodes: Broker::start_all(binary, configs),
            ports,
        };
        for node in &cluster.nodes {
            node.wait_until_ready();
        }
        cluster
    }

    /// Where other nodes reach a node.
    pub fn seed(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.ports[node])
    }

    /// Starts one more node, which asks the first to be taken in, and waits until it is ready.
    pub fn add_node(&mut self, binary: &str) {
        self.add_node_with(binary, |config| config);
    }

    /// As [`Self::add_node`], with a change of its configuration.
    pub fn add_node_with(&mut self, binary: &str, change: impl Fn(Config) -> Config) {
        let port = cluster_port();
        let config = Config::default()
            .named(&format!("node-{}", self.nodes.len() + 1))
            .listener("mqtt", "mqtt", "")
            .argument("--allow-anonymous")
            .argument(&format!("--cluster-listen=127.0.0.1:{port}"))
            .argument(&format!("--join={}", self.seed(0)));
        let node = Broker::start(binary, change(config));
        node.wait_until_ready();
        self.nodes.push(node);
        self.ports.push(port);
    }

    /// Starts a node again whose process has ended, and waits until it is ready.
    pub fn restart(&mut self, node: usize) {
        self.nodes[node].restart();
        self.nodes[node].wait_until_ready();
    }

    /// Runs `quorate ctl` with the admin interface of a node.
    pub fn ctl(&self, node: usize, arguments: &[&str]) -> Ctl {
        let url = format!("http://{}", self.nodes[node].address("admin"));
        let output = std::process::Command::new(self.nodes[node].binary())
            .arg("ctl")
            .args(arguments)
            .env("QUORATE_ADMIN_URL", url)
            .output()
            .expect("the program starts");
        Ctl {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What a node says of one of the nodes, by name.
    pub fn node_view(&self, asked: usize, name: &str) -> serde_json::Value {
        let (_, body) = self.nodes[asked].admin(&format!("/api/v1/nodes/{name}"));
        serde_json::from_str(&body).unwrap_or_default()
    }

    /// The node that leads a group now.
    pub fn leader(&self, group: &str) -> usize {
        let deadline = Instant::now() + DEADLINE;
        loop {
            for (number, node) in self.nodes.iter().enumerate() {
                let (_, text) = node.admin("/metrics");
                let leads = text.lines().any(|line| {
                    let of_group =
                        line.starts_with("quorate_raft_is_leader{") && line.contains(&format!("\"{group}\""));
                    of_group && line.ends_with(" 1")
                });
                if leads {
                    return number;
                }
            }
            assert!(Instant::now() < deadline, "{group} has no leader");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The value of a metric at a node, summed over its labels.
    pub fn metric(&self, node: usize, name: &str) -> f64 {
        let (_, text) = self.nodes[node].admin("/metrics");
        let values = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let series = series.split('{').next()?;
            (series == name).then(|| value.parse::<f64>().ok())?
        });
        values.sum()
    }
}

/// How `quorate ctl` ended.
#[derive(Clone, Debug)]
pub struct Ctl {
    /// Its exit code.
    pub code: i32,
    /// Its result.
    pub stdout: String,
    /// What it said beside.
    pub stderr: String,
}

impl Broker {
    /// What the administration interface answers: the status code and the body.
    pub fn admin(&self, path: &str) -> (u16, String) {
        use std::io::{Read as _, Write as _};
        let ask = || -> std::io::Result<String> {
            let mut stream = std::net::TcpStream::connect(self.address("admin"))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(
                stream,
                "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = ask().unwrap_or_default();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        (code.unwrap_or(0), body.to_owned())
    }

    /// Waits until the node says that it is ready.
    pub fn wait_until_ready(&self) {
        self.wait_for_readiness(|code, _| code == 200);
    }

    /// Waits until the node is ready, whether or not it has to start itself anew for that, on other ports.
    pub fn wait_until_ready_wherever(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        while self.admin("/readyz").0 != 200 {
            assert!(Instant::now() < deadline, "the node does not become ready");
            std::thread::sleep(Duration::from_millis(50));
            self.look_for_listeners();
        }
        // It may have begun to listen since it was last looked.
        self.look_for_listeners_when_ready();
    }

    /// Waits until what `/readyz` answers is as asked for.
    pub fn wait_for_readiness(&self, is_met: impl Fn(u16, &str) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let (code, body) = self.admin("/readyz");
            if is_met(code, &body) {
                return;
            }
            assert!(Instant::now() < deadline, "/readyz stays at {code}: {body}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
