//! `[admin]`: the HTTP interface for operators, probes and Prometheus.

use std::net::{Ipv4Addr, SocketAddr};

use super::schema::section;

section! {
    /// The HTTP interface for operators, probes and Prometheus.
    pub struct AdminConfig {
        /// Address and port of `/metrics`, `/livez`, `/readyz` and `/api`. On any address but loopback `/api` is
        /// closed, as nothing there asks for a token in this version.
        bind: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)), "", Any, Restart;
    }
}
