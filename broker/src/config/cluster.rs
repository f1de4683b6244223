//! `[cluster]`: how nodes find each other.

use std::net::{Ipv4Addr, SocketAddr};

use super::schema::section;
use super::value::HostPort;

section! {
    /// How nodes find each other and how many copies of the data they keep.
    pub struct ClusterConfig {
        /// Name of the cluster; a node refuses peers of another name.
        name: String = "quorate".to_owned(), "", Name, Restart;
        /// Address and port on which other nodes reach this one.
        listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 7946)), "", Any, Restart;
        /// What other nodes are told to connect to; unset is `listen`.
        advertise: Option<HostPort> = None, "", Any, Restart;
        /// Nodes to ask for the cluster at the start; empty for a node alone.
        join: Vec<HostPort> = Vec::new(), "", Any, Restart;
        /// Empty nodes that have to see each other before they create a cluster; 1 creates it at once. Unset means 1
        /// without `join`.
        bootstrap_expect: Option<u32> = None, "nodes", Range(1, 1_000), Restart;
        /// Copies of everything that is replicated, as far as there are nodes.
        replication_factor: u8 = 3, "nodes", Range(1, 7), Restart;
    }
}
