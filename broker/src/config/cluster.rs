//! `[cluster]`: how nodes find each other.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::schema::section;
use super::value::HostPort;

section! {
    /// How nodes find each other and how many copies of the data they keep.
    pub struct ClusterConfig {
        /// Name of the cluster; a node that looks for a cluster, or is looked for, refuses one of another name.
        name: String = "quorate".to_owned(), "", Name, Restart;
        /// Address and port on which other nodes reach this one. Unset is `127.0.0.1:7946` with `join` or
        /// `bootstrap_expect`; a node that has neither listens to no others.
        listen: Option<SocketAddr> = None, "", Any, Restart;
        /// What other nodes are told to connect to; unset is `listen`, which then has to name one address.
        advertise: Option<HostPort> = None, "", Any, Restart;
        /// Nodes to ask for the cluster at the start; empty for a node alone. They are asked again every 60 s, and every
        /// 500 ms once no leader has been known for 2 s: by what they answer nodes that have all moved find each other.
        join: Vec<HostPort> = Vec::new(), "", Any, Restart;
        /// Empty nodes that have to see each other before they create a cluster; 1 creates it at once. Unset means 1
        /// without `join`.
        bootstrap_expect: Option<u32> = None, "nodes", Range(1, 1_000), Restart;
        /// Copies of everything that is replicated, as far as there are nodes. Counts when the cluster is created; other
        /// nodes take what was given then, and say so in the log where theirs differs.
        replication_factor: u8 = 3, "nodes", Range(1, 7), Restart;
        /// How long a node may be gone before its places in the groups go to other nodes, where there are nodes that
        /// could take them. Counts at the node that leads the cluster's membership, so give all nodes the same.
        replace_after_secs: u32 = 300, "seconds", Range(10, 604_800), Restart;
        /// Bytes of what leaves in one log entry, unless a single message is larger. What many clients send is packed up to
        /// this, and the list of receivers of one message is cut to it.
        entry_bytes_max: u32 = 65_536, "bytes", Range(256, 1_048_576), Restart;
        /// Certificates of the nodes: set, nodes talk over TLS and each has to show one. At all nodes or at none.
        tls: Option<Box<ClusterTlsConfig>> = None;
    }
}

section! {
    /// Certificates of the connections between nodes, PEM files. They are read again when they change, for the
    /// connections that come then.
    pub struct ClusterTlsConfig {
        /// File of this node's certificate chain, its own first. It is used to connect and to be connected to.
        cert: PathBuf = PathBuf::new(), "", Any, Restart, required;
        /// File of the private key.
        key: PathBuf = PathBuf::new(), "", Any, Restart, required;
        /// File of the authorities that sign the certificates of the nodes. Whoever has one of theirs is let in, so
        /// it is to be an authority of this cluster alone.
        ca: PathBuf = PathBuf::new(), "", Any, Restart, required;
        /// Name that the certificates of all nodes have, where they share one. Unset, the certificate of a node has to
        /// name the host, or the IP address, of its `advertise` and of the seed that it is reached through.
        server_name: Option<String> = None, "", Length(1, 253), Restart;
    }
}

impl ClusterConfig {
    /// Where other nodes reach this one; nothing for a node that is to stay alone.
    pub fn listen_address(&self) -> Option<SocketAddr> {
        let wanted = !self.join.is_empty() || self.bootstrap_expect.is_some();
        let default = wanted.then(|| SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
        self.listen.or(default)
    }

    /// Nodes that have to see each other before one creates a cluster; `None`: this node only joins one.
    pub fn bootstrap_expected(&self) -> Option<u32> {
        self.bootstrap_expect.or(self.join.is_empty().then_some(1))
    }
}

/// Port of the nodes.
const PORT: u16 = 7946;
