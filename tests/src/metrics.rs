//! The broker's metrics, read as Prometheus reads them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::broker::Broker;

/// Path and status line of one GET, and the body.
///
/// # Panics
/// Where the administration interface does not answer.
pub fn get(address: SocketAddr, path: &str) -> (String, String) {
    let mut socket = TcpStream::connect(address).expect("the administration interface listens");
    write!(
        socket,
        "GET {path} HTTP/1.1\r\nHost: quorate\r\nConnection: close\r\n\r\n"
    )
    .expect("the request is taken");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer in UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.lines().next().unwrap_or_default();
    (status.into(), body.into())
}

impl Broker {
    /// The value of a sample, named as in the text: `quorate_connections` or `name{label="value"}`; 0 where it is not
    /// there.
    pub fn metric(&self, sample: &str) -> f64 {
        let (_, text) = get(self.address("admin"), "/metrics");
        let found = text.lines().find_map(|line| {
            let value = line.strip_prefix(sample)?.strip_prefix(' ')?;
            value.parse().ok()
        });
        found.unwrap_or(0.0)
    }
}
