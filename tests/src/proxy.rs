//! PROXY protocol headers, as a load balancer writes them.

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: [u8; 12] = [
    0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A,
];

/// Version 1, the line of text.
pub fn v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!(
        "PROXY {family} {from} {to} {} {}\r\n",
        source.port(),
        destination.port()
    )
    .into_bytes()
}

/// Version 2, command PROXY; `tlvs` follow the addresses as they are.
pub fn v2(source: SocketAddr, destination: SocketAddr, tlvs: &[u8]) -> Vec<u8> {
    let mut addresses = Vec::new();
    for address in [source, destination] {
        match address.ip() {
            IpAddr::V4(ip) => addresses.extend(ip.octets()),
            IpAddr::V6(ip) => addresses.extend(ip.octets()),
        }
    }
    addresses.extend(source.port().to_be_bytes());
    addresses.extend(destination.port().to_be_bytes());
    addresses.extend(tlvs);
    v2_header(0x21, if source.is_ipv4() { 0x11 } else { 0x21 }, &addresses)
}

/// Version 2, command LOCAL: the proxy's own health check.
pub fn v2_local() -> Vec<u8> {
    v2_header(0x20, 0x00, &[])
}

/// Version 2 with any command, family and body.
pub fn v2_header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("a body of at most 65,535 bytes");
    [&SIGNATURE[..], &[command, family], &length.to_be_bytes(), body].concat()
}
