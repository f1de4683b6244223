//! The program under test as a process: started on free ports and a data directory of its own, stopped or killed,
//! started again on the same data, its log at hand when a test fails.
//!
//! A broker that serves a whole test file lives in a static, and statics are never dropped. So each process has a
//! watchdog beside it: a shell that waits for the end of its standard input, which is this process's end, and then
//! kills the broker.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::client::{Client, RawClient};
use crate::wire::{ConnectBuilder, Version, connect};

/// How long a start or a stop may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// Lines of log shown when a test fails.
const LOG_LINES_SHOWN: usize = 100;

/// The configuration of a broker under test: TOML, with listeners on ports the system chooses.
#[derive(Clone, Debug, Default)]
pub struct Config {
    name: String,
    node: String,
    listeners: String,
    extra: String,
    arguments: Vec<String>,
    namespace: Option<String>,
    admin: Option<IpAddr>,
}

impl Config {
    /// One MQTT and one WebSocket listener on loopback, called `mqtt` and `ws`.
    pub fn new() -> Self {
        Self::default()
            .listener("mqtt", "mqtt", "")
            .listener("ws", "ws", "")
    }

    /// Names the node.
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Adds a listener on loopback; `more` are further lines of its table.
    pub fn listener(self, name: &str, kind: &str, more: &str) -> Self {
        self.listener_at(name, kind, "127.0.0.1:0", more)
    }

    /// Adds a listener on an address.
    pub fn listener_at(mut self, name: &str, kind: &str, bind: &str, more: &str) -> Self {
        writeln!(
            self.listeners,
            "[[listener]]\nname = \"{name}\"\nkind = \"{kind}\"\nbind = \"{bind}\"\n{more}"
        )
        .expect("strings take writes");
        self
    }

    /// Adds lines to the table `[node]`.
    pub fn node(mut self, lines: &str) -> Self {
        writeln!(self.node, "{lines}").expect("strings take writes");
        self
    }

    /// Adds tables.
    pub fn toml(mut self, tables: &str) -> Self {
        writeln!(self.extra, "{tables}").expect("strings take writes");
        self
    }

    /// Runs the program in a network namespace; its administration interface is at this address there.
    pub fn in_namespace(mut self, namespace: &str, address: IpAddr) -> Self {
        self.namespace = Some(namespace.into());
        self.admin = Some(address);
        self
    }

    /// Adds a command line argument.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.into());
        self
    }

    fn write(&self, directory: &Path) -> PathBuf {
        let path = directory.join("quorate.toml");
        let data = directory.join("data");
        let name = if self.name.is_empty() {
            "node-1"
        } else {
            &self.name
        };
        let text = format!(
            "[node]\nname = {name:?}\ndata_dir = {data:?}\n{}\n{}\n{}\n[log]\nlevel = \"debug\"\nformat = \"json\"\n",
            self.node, self.listeners, self.extra
        );
        fs::write(&path, text).expect("the temporary directory is writable");
        path
    }
}

/// A running broker.
pub struct Broker {
    binary: PathBuf,
    config: Config,
    directory: tempfile::TempDir,
    process: Process,
}

impl Broker {
    /// Starts the program, given as `env!("CARGO_BIN_EXE_quorate-under-test")`, and waits until it listens.
    /// `QUORATE_BINARY` names another build of it to test.
    pub fn start(binary: &str, config: Config) -> Self {
        let binary = &std::env::var("QUORATE_BINARY").unwrap_or_else(|_| binary.into());
        let directory = tempfile::tempdir().expect("a temporary directory");
        let process = Process::start(Path::new(binary), &config, directory.path());
        Self {
            binary: binary.into(),
            config,
            directory,
            process,
        }
    }

    /// Starts several that need each other to come up, and waits until all listen.
    pub fn start_all(binary: &str, configs: Vec<Config>) -> Vec<Self> {
        let mut brokers: Vec<Self> = configs
            .into_iter()
            .map(|config| Self::spawn(binary, config))
            .collect();
        for broker in &mut brokers {
            broker.process.wait_until_listening(&broker.config);
        }
        brokers
    }

    /// Starts the program, without waiting for it.
    pub fn spawn(binary: &str, config: Config) -> Self {
        Self::spawn_on(binary, config, |_| ())
    }

    /// Starts the program, without waiting for it, in a directory that is prepared for it.
    pub fn spawn_on(binary: &str, config: Config, prepare: impl FnOnce(&Path)) -> Self {
        let binary = PathBuf::from(std::env::var("QUORATE_BINARY").unwrap_or_else(|_| binary.into()));
        let directory = tempfile::tempdir().expect("a temporary directory");
        prepare(directory.path());
        let process = Process::spawn(&binary, &config, directory.path());
        Self {
            binary,
            config,
            directory,
            process,
        }
    }

    /// Takes the addresses from the log: the last ones where it has started several times.
    pub fn look_for_listeners(&mut self) {
        self.process.look_for_listeners();
    }

    /// Takes the addresses of a program that is ready from the log, whose lines may come a moment later.
    pub fn look_for_listeners_when_ready(&mut self) {
        self.process.log.wait(
            |lines| {
                let last = lines.iter().rposition(|line| line.contains("quorate starts"))?;
                lines[last..]
                    .iter()
                    .any(|line| line.contains("\"ready\""))
                    .then_some(())
            },
            "that the last start is ready",
        );
        self.look_for_listeners();
    }

    /// Waits until the program ends by itself.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        self.process.wait_for_exit()
    }

    /// Waits until a program that has started itself anew listens; its ports are new ones.
    pub fn wait_until_listening_again(&mut self) {
        self.process.log.wait(
            |lines| {
                let anew = lines.iter().rposition(|line| line.contains("quorate starts"))?;
                (anew > 0 && lines[anew..].iter().any(|line| line.contains("\"ready\""))).then_some(())
            },
            "a second start",
        );
        self.process.wait_until_listening(&self.config);
    }

    /// Starts the program again on the same data, without waiting for it.
    pub fn begin_restart(&mut self) {
        self.process = Process::spawn(&self.binary, &self.config, self.directory.path());
    }

    /// Waits until a program whose start was begun listens.
    pub fn wait_until_listening(&mut self) {
        self.process.wait_until_listening(&self.config);
    }

    /// Address of a listener, by name; the administration interface is `admin`.
    pub fn address(&self, listener: &str) -> SocketAddr {
        self.process.address(listener)
    }

    /// The `mqtt` listener's address.
    pub fn mqtt(&self) -> SocketAddr {
        self.address("mqtt")
    }

    /// Directory of the configuration and the data.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The program.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Process identifier.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// A raw connection over TCP.
    pub async fn raw(&self, version: Version) -> RawClient {
        RawClient::tcp(self.mqtt(), version).await
    }

    /// A raw connection over TCP on which this CONNECT was accepted.
    pub async fn raw_client(&self, version: Version, packet: &ConnectBuilder) -> RawClient {
        let mut raw = self.raw(version).await;
        raw.connect(packet).await;
        raw
    }

    /// A client over TCP with this CONNECT.
    pub async fn client(&self, version: Version, packet: &ConnectBuilder) -> Client {
        Client::connect(self.mqtt(), version, packet).await
    }

    /// A client over TCP whose session ends with the connection.
    pub async fn clean(&self, version: Version, client_id: &str) -> Client {
        self.client(version, &connect(client_id)).await
    }

    /// A client over TCP whose session outlives the connection and is taken up where there is one.
    pub async fn durable(&self, version: Version, client_id: &str) -> Client {
        self.client(version, &connect(client_id).resume().expiry(600))
            .await
    }

    /// Everything logged since the last start.
    pub fn log(&self) -> String {
        self.process.log.lines().join("\n")
    }

    /// Waits for a line of the log that contains `text`.
    pub fn wait_for_log(&self, text: &str) {
        self.process.log.wait(
            |lines| lines.iter().any(|line| line.contains(text)).then_some(()),
            text,
        );
    }

    /// Kills the process as `kill -9` does, and waits until it is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Kills the process and starts it again on the same data.
    pub fn crash_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// Starts the program again on the same data.
    pub fn restart(&mut self) {
        self.process = Process::start(&self.binary, &self.config, self.directory.path());
    }

    /// Starts the program again on the same data, expecting that it ends by itself; returns how.
    pub fn restart_in_vain(&mut self) -> ExitStatus {
        self.process = Process::spawn(&self.binary, &self.config, self.directory.path());
        self.process.wait_for_exit()
    }

    /// Changes the configuration of the next start.
    pub fn set_config(&mut self, config: Config) {
        self.config = config;
    }

    /// Asks the process to end, as SIGTERM does, and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        self.process.signal("TERM");
        self.process.wait_for_exit()
    }

    /// Sends a signal, by name.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.process.kill();
        if std::thread::panicking() {
            self.process.log.print();
        }
    }
}

/// Shows a shared broker's log when the test that holds it fails.
pub struct Shared(pub &'static Broker);

impl std::ops::Deref for Shared {
    type Target = Broker;

    fn deref(&self) -> &Broker {
        self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.process.log.print();
        }
    }
}

/// The process with its watchdog and its log.
struct Process {
    child: Child,
    watchdog: Child,
    log: Arc<Log>,
    addresses: HashMap<String, SocketAddr>,
}

impl Process {
    fn start(binary: &Path, config: &Config, directory: &Path) -> Self {
        let mut process = Self::spawn(binary, config, directory);
        process.wait_until_listening(config);
        process
    }

    fn spawn(binary: &Path, config: &Config, directory: &Path) -> Self {
        let mut command = match &config.namespace {
            None => Command::new(binary),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(binary);
                command
            }
        };
        // The environment is a source of configuration, which the test alone is to give.
        std::env::vars_os()
            .map(|(name, _)| name)
            .filter(|name| is_setting(name))
            .for_each(|name| {
                command.env_remove(name);
            });
        command.arg("serve").arg("--config").arg(config.write(directory));
        let admin = config.admin.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        command
            .arg(format!("--admin-listen={admin}:0"))
            .args(&config.arguments);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", binary.display()));
        let watchdog = watch(child.id());
        let log = Arc::new(Log::default());
        log.follow(child.stdout.take().expect("piped"));
        log.follow(child.stderr.take().expect("piped"));
        Self {
            child,
            watchdog,
            log,
            addresses: HashMap::new(),
        }
    }

    /// Takes the addresses from the log: the last ones where it has started several times.
    fn look_for_listeners(&mut self) {
        let lines = self.log.lines();
        self.addresses = lines.iter().filter_map(|line| listening(line)).collect();
    }

    fn wait_until_listening(&mut self, config: &Config) {
        let wanted = config.listeners.matches("[[listener]]").count();
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.look_for_listeners();
            if self
                .addresses
                .keys()
                .filter(|name| !["admin", "cluster"].contains(&name.as_str()))
                .count()
                >= wanted
                && self.addresses.contains_key("admin")
            {
                return;
            }
            let exited = self.child.try_wait().expect("the child is ours");
            if exited.is_some() || Instant::now() > deadline {
                self.log.print();
                panic!("the broker does not listen; it has ended with {exited:?}");
            }
            self.log.wait_for_more(Duration::from_millis(200));
        }
    }

    fn address(&self, listener: &str) -> SocketAddr {
        *self
            .addresses
            .get(listener)
            .unwrap_or_else(|| panic!("no listener {listener} in {:?}", self.addresses))
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.child.id().to_string())
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "cannot send SIG{name}"
        );
    }

    fn wait_for_exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                self.end_watchdog();
                return status;
            }
            if Instant::now() > deadline {
                self.log.print();
                panic!("the broker did not end in {DEADLINE:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn kill(&mut self) {
        // Both fail only when the process has ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.end_watchdog();
    }

    fn end_watchdog(&mut self) {
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_setting(variable: &OsStr) -> bool {
    variable.to_str().is_some_and(|name| name.starts_with("QUORATE_"))
}

/// A shell that kills process `pid` once this process has ended.
fn watch(pid: u32) -> Child {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "read -r _; kill -KILL \"$1\"", "watchdog"])
        .arg(pid.to_string());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("/bin/sh starts")
}

/// The name and address in a log line that says what listens where.
fn listening(line: &str) -> Option<(String, SocketAddr)> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields").unwrap_or(&line);
    if fields.get("message")?.as_str()? != "listening" {
        return None;
    }
    Some((
        fields.get("name")?.as_str()?.into(),
        fields.get("address")?.as_str()?.parse().ok()?,
    ))
}

/// The lines a process has written.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Log {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().expect("no reader panics")
    }

    fn follow(self: &Arc<Self>, stream: impl Read + Send + 'static) {
        let log = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                log.lines().push(line);
                log.more.notify_all();
            }
        });
    }

    fn wait_for_more(&self, at_most: Duration) {
        let lines = self.lines();
        drop(self.more.wait_timeout(lines, at_most).expect("no reader panics"));
    }

    fn wait<T>(&self, find: impl Fn(&[String]) -> Option<T>, what: &str) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = find(&self.lines()) {
                return found;
            }
            assert!(Instant::now() < deadline, "the log never said {what:?}");
            self.wait_for_more(Duration::from_millis(200));
        }
    }

    /// Prints the last lines to where the test's output is captured.
    fn print(&self) {
        let lines = self.lines();
        let skipped = lines.len().saturating_sub(LOG_LINES_SHOWN);
        println!("--- log of the broker, {skipped} earlier lines left out");
        lines[skipped..].iter().for_each(|line| println!("{line}"));
    }
}
