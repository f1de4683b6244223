//! `[node]`: what this node is called, where it keeps its data, how many cores it uses.

use std::path::PathBuf;

use super::schema::section;

section! {
    /// What this node is called, where it keeps its data, and how many cores it uses.
    pub struct NodeConfig {
        /// Name of the node, unique in its cluster; stands in logs and on the other nodes.
        name: String = "node1".to_owned(), "", Name, Restart;
        /// Directory of everything the node has to remember. Two nodes never share one.
        data_dir: PathBuf = PathBuf::from("./quorate-data"), "", Any, Restart;
        /// Worker threads that serve connections; 0 takes one per core of the process's CPU quota.
        workers: usize = 0, "threads", Range(0, 1024), Restart;
        /// Time over which the clients of a node that is drained or stopped, in a cluster, are told to use another node.
        /// A few are told faster than that; a stop goes on after twice this time, whoever is left.
        drain_secs: u16 = 10, "seconds", Range(1, 3_600), Restart;
        /// Time between messages to the `$SYS` topics; 0 sends none.
        sys_interval_secs: u16 = 10, "seconds", Range(0, 3_600), Restart;
    }
}
