//! Nodes on a network of their own that can be cut: one network namespace for each node, joined by a bridge in one
//! more, where the clients are, and firewall rules that drop packets between two nodes.
//!
//! Everything is made in namespaces whose names carry this process's number, and nothing outside of them is touched.
//! They are removed at the end, also of a test that fails; what a killed process left is removed by the next one.

use std::cell::RefCell;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Beginning of the names of all namespaces of tests.
const PREFIX: &str = "quorate-test";
/// Where `ip netns` keeps its namespaces.
const NAMESPACES: &str = "/run/netns";
/// Where `ip netns exec` takes files from that stand in /etc within a namespace.
const SETTINGS: &str = "/etc/netns";
/// Set where tests run as root: those that need it fail without it.
const EXPECT_ROOT: &str = "TESTS_EXPECT_ROOT";

/// A network of nodes, numbered from 0.
pub struct Network {
    name: String,
    nodes: usize,
    addresses: RefCell<Vec<Ipv4Addr>>,
}

impl Network {
    /// Makes one for so many nodes and moves this thread to where the clients are: what it, and the processes it
    /// starts, connect to is in this network.
    ///
    /// `None` where this is not root, said on standard error.
    ///
    /// # Panics
    /// Where it is root and the system cannot do it: `ip` or `iptables` is missing, which `.ci/run` installs. Where it is not
    /// root, and `TESTS_EXPECT_ROOT` says that it is to be.
    pub fn new(nodes: usize) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            let expected = std::env::var(EXPECT_ROOT).is_ok_and(|expected| !expected.is_empty());
            assert!(!expected, "{EXPECT_ROOT} is set, and this is not root");
            eprintln!("SKIPPED: tests of partitions need root, for network namespaces and firewall rules");
            return None;
        }
        remove_abandoned();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let network = Self {
            name: format!("{PREFIX}-{}-{number}", std::process::id()),
            nodes,
            addresses: RefCell::new((0..nodes).map(first_address).collect()),
        };
        let clients = network.clients();
        run("ip", &["netns", "add", &clients]);
        let within = |arguments: &[&str]| run("ip", &[&["-n", &clients], arguments].concat());
        within(&["link", "set", "lo", "up"]);
        within(&["link", "add", "bridge", "type", "bridge", "forward_delay", "0"]);
        within(&["address", "add", "10.77.0.254/24", "dev", "bridge"]);
        within(&["link", "set", "bridge", "up"]);
        for node in 0..nodes {
            network.add_node(node);
        }
        enter(&clients);
        Some(network)
    }

    fn add_node(&self, node: usize) {
        let (clients, namespace, port) = (self.clients(), self.namespace(node), format!("port{node}"));
        run("ip", &["netns", "add", &namespace]);
        let veth = [
            "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &namespace,
        ];
        run("ip", &[&["-n", &clients][..], &veth].concat());
        run(
            "ip",
            &["-n", &clients, "link", "set", &port, "master", "bridge", "up"],
        );
        let address = format!("{}/24", self.address(node));
        run("ip", &["-n", &namespace, "link", "set", "lo", "up"]);
        run(
            "ip",
            &["-n", &namespace, "address", "add", &address, "dev", "eth0"],
        );
        run("ip", &["-n", &namespace, "link", "set", "eth0", "up"]);
        let settings = Path::new(SETTINGS).join(&namespace);
        fs::create_dir_all(&settings).expect("root may write there");
        // A name that is not in `hosts` does not exist; nobody is asked for it.
        write(
            &settings.join("resolv.conf"),
            "nameserver 127.0.0.1\noptions attempts:1\n",
        );
        write(&settings.join("hosts"), "127.0.0.1 localhost\n");
    }

    /// Gives each node names to resolve, instead of those that it had, while it runs: one name may have several addresses.
    pub fn set_names(&self, names: &[(&str, Ipv4Addr)]) {
        let names: String = names
            .iter()
            .map(|(name, address)| format!("{address} {name}\n"))
            .collect();
        for node in 0..self.nodes {
            let file = Path::new(SETTINGS).join(self.namespace(node)).join("hosts");
            // In its place: a process there has this very file.
            write(&file, &format!("127.0.0.1 localhost\n{names}"));
        }
    }

    /// Where the clients are.
    pub fn clients(&self) -> String {
        format!("{}-clients", self.name)
    }

    /// Where a node is.
    pub fn namespace(&self, node: usize) -> String {
        format!("{}-{node}", self.name)
    }

    /// A node's address.
    pub fn address(&self, node: usize) -> Ipv4Addr {
        self.addresses.borrow()[node]
    }

    /// Gives a node another address, which ends in `last`; its old one is gone.
    pub fn readdress(&self, node: usize, last: u8) -> Ipv4Addr {
        let (namespace, address) = (self.namespace(node), Ipv4Addr::new(10, 77, 0, last));
        self.addresses.borrow_mut()[node] = address;
        run("ip", &["-n", &namespace, "address", "flush", "dev", "eth0"]);
        run(
            "ip",
            &[
                "-n",
                &namespace,
                "address",
                "add",
                &format!("{address}/24"),
                "dev",
                "eth0",
            ],
        );
        address
    }

    /// A shell command that drops, or drops no more, what node `to` gets from node `from`.
    fn one_way(&self, change: &str, from: usize, to: usize) -> String {
        let (namespace, from) = (self.namespace(to), self.address(from));
        format!("ip netns exec {namespace} iptables -w 5 {change} INPUT -s {from} -j DROP")
    }

    /// A shell command that lets nothing through from one node to another any more.
    pub fn cut_one_way_command(&self, from: usize, to: usize) -> String {
        self.one_way("-I", from, to)
    }

    /// A shell command that cuts the link between two nodes.
    pub fn cut_command(&self, one: usize, other: usize) -> String {
        format!(
            "{} && {}",
            self.one_way("-I", one, other),
            self.one_way("-I", other, one)
        )
    }

    /// A shell command that cuts a node off from all others; clients still reach it.
    pub fn isolate_command(&self, node: usize) -> String {
        let others = (0..self.nodes).filter(|other| *other != node);
        let cuts: Vec<String> = others.map(|other| self.cut_command(node, other)).collect();
        cuts.join(" && ")
    }

    /// A shell command that takes all cuts back.
    pub fn heal_command(&self) -> String {
        let heal = |node| format!("ip netns exec {} iptables -w 5 -F INPUT", self.namespace(node));
        let all: Vec<String> = (0..self.nodes).map(heal).collect();
        all.join(" && ")
    }

    /// Runs one of the commands now.
    pub fn run(&self, command: &str) {
        run("sh", &["-c", command]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for node in 0..self.nodes {
            remove(&self.namespace(node));
        }
        remove(&self.clients());
    }
}

fn first_address(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 1 + u8::try_from(node).expect("few nodes"))
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Moves this thread into a namespace.
fn enter(namespace: &str) {
    let path = Path::new(NAMESPACES).join(namespace);
    let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let moved = move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network));
    moved.unwrap_or_else(|error| panic!("cannot enter {namespace}: {error}"));
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("tests of partitions need {program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn remove(namespace: &str) {
    // Where it was never made there is nothing to remove.
    let _ = Command::new("ip").args(["netns", "delete", namespace]).output();
    let _ = fs::remove_dir_all(Path::new(SETTINGS).join(namespace));
}

/// Removes what test processes left that were killed.
fn remove_abandoned() {
    let Ok(entries) = std::fs::read_dir(NAMESPACES) else {
        return;
    };
    for name in entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1));
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&name);
        }
    }
}
