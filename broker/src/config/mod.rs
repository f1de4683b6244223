//! The configuration: one TOML file, the environment and flags, read into a plain typed [`Config`].
//!
//! ```text
//! defaults -> file -> environment -> flags -> checks across keys -> Config
//! (section!)  (source)                        (check)
//! ```
//!
//! A key is declared once, in the file of its section ([`schema`]); parsing, bounds, `quorate config defaults` and the
//! reference page follow from it. All errors come at once, each with the place it was written at. A [`Config`] that
//! [`load`] returned has passed every check, so the rest of the program asks no more questions about it.

mod acl;
mod admin;
mod auth;
mod check;
mod cluster;
mod durability;
mod limits;
mod listener;
mod log;
mod nearest;
mod node;
mod render;
mod report;
mod schema;
mod session;
mod source;
mod table;
mod value;

#[cfg(test)]
mod tests;

pub use acl::{AclAction, AclConfig, AclEffect, AclRuleConfig};
pub use admin::AdminConfig;
pub use auth::{AuthConfig, UserConfig};
pub use cluster::{ClusterConfig, ClusterTlsConfig};
pub use durability::{DurabilityClass, DurabilityRuleConfig};
pub use limits::LimitsConfig;
pub use listener::{Capabilities, ListenerConfig, ListenerKind, TlsConfig};
pub use log::{LogConfig, LogFormat, LogLevel};
pub use node::NodeConfig;
pub use render::{defaults, reference};
pub use report::{ConfigError, ConfigErrors, Origin};
pub use session::SessionConfig;
pub use source::{Flag, Sources, load};
pub use value::{HostPort, Secret};

use schema::section;

section! {
    /// The whole configuration.
    pub struct Config {
        /// What this node is called, where it keeps its data, and how many cores it uses.
        node: NodeConfig = NodeConfig::default();
        /// The addresses clients connect to.
        listener: Vec<ListenerConfig> = vec![
            ListenerConfig::loopback("mqtt", ListenerKind::Mqtt, 1883),
            ListenerConfig::loopback("ws", ListenerKind::Ws, 8083),
        ];
        /// How nodes find each other.
        cluster: ClusterConfig = ClusterConfig::default();
        /// The HTTP interface for operators.
        admin: AdminConfig = AdminConfig::default();
        /// How long sessions live and how much they hold.
        session: SessionConfig = SessionConfig::default();
        /// Bounds on everything a client can make the node hold or do.
        limits: LimitsConfig = LimitsConfig::default();
        /// Who may connect.
        auth: AuthConfig = AuthConfig::default();
        /// Who may publish and subscribe to what.
        acl: AclConfig = AclConfig::default();
        /// What is logged.
        log: LogConfig = LogConfig::default();
        /// What an acknowledgement of a publish waits for, by topic.
        durability: Vec<DurabilityRuleConfig> = Vec::new();
    }
}

impl Config {
    /// Whether clients without user name are accepted on `listener`: as the listener says, else as `[auth]` says, else
    /// on loopback while no user is configured.
    pub fn allows_anonymous(&self, listener: &ListenerConfig) -> bool {
        let unset = || self.auth.user.is_empty() && listener.bind.ip().is_loopback();
        listener
            .allow_anonymous
            .or(self.auth.allow_anonymous)
            .unwrap_or_else(unset)
    }

    /// What clients of `listener` are offered.
    pub fn capabilities(&self, listener: &ListenerConfig) -> Capabilities {
        listener.capabilities(&self.limits)
    }

    /// Worker threads to start: as configured, else one per core of the process's CPU quota.
    pub fn workers(&self) -> usize {
        match self.node.workers {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
            workers => workers,
        }
    }
}
