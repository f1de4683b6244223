//! The PROXY protocol, versions 1 and 2: how a load balancer tells whose connection it forwards.
//!
//! The header comes before anything else, TLS included, and only on listeners that are configured for it: whoever can
//! reach such a listener can claim any address. [`parse`] is pure and strict: what the specification (haproxy,
//! `doc/proxy-protocol.txt`, revision of 2024) does not allow is refused, and so is a header beyond the bounds below.
//! [`read_header`] takes exactly the header off a socket and leaves the first byte behind it for whoever comes next.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Longest header of version 1, its line end included (section 2.1).
pub const V1_BYTES_MAX: usize = 107;
/// Longest header of version 2 that is taken: the fixed part, the longest addresses (216 bytes, of Unix sockets) and
/// 4 KiB of extensions. The format itself would allow 64 KiB, before anybody is authenticated.
pub const V2_BYTES_MAX: usize = V2_FIXED_BYTES + 216 + 4096;

const V1_PREFIX: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length.
const V2_FIXED_BYTES: usize = 16;
const TLV_CRC32C: u8 = 0x03;

/// What a header says. Both addresses are `None` where the balancer speaks for itself (LOCAL, its health checks) or
/// does not know (UNKNOWN, UNSPEC, Unix sockets): the addresses of the socket hold then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Where the client's connection came from.
    pub source: Option<SocketAddr>,
    /// Where the client connected to.
    pub destination: Option<SocketAddr>,
}

/// Why bytes are not a PROXY header. The connection must be closed without an answer (section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The connection begins with something else: the peer is no load balancer, or one that is not configured for it.
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    /// The header breaks a rule of its format.
    #[error("malformed PROXY header: {0}")]
    Malformed(&'static str),
    /// The header is longer than [`V1_BYTES_MAX`] or [`V2_BYTES_MAX`].
    #[error("the PROXY header is too long")]
    TooLong,
    /// The checksum is present and wrong.
    #[error("the checksum of the PROXY header is wrong")]
    Checksum,
}

/// Why no header was read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It did not arrive in time.
    #[error("no whole PROXY header in time")]
    Timeout,
    /// The peer closed the connection before the end of the header. Health checks do this.
    #[error("the connection was closed before the end of the PROXY header")]
    Closed,
    /// What arrived is not a PROXY header.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Parses the header at the beginning of `buf`; the number is its length in bytes.
///
/// `None` means that all of `buf` is the beginning of a header, and more bytes are needed.
///
/// # Errors
///
/// As soon as `buf` cannot become a header any more.
pub fn parse(buf: &[u8]) -> Result<Option<(Header, usize)>, HeaderError> {
    if begins_like(buf, V2_SIGNATURE) {
        parse_v2(buf)
    } else if begins_like(buf, V1_PREFIX) {
        parse_v1(buf)
    } else {
        Err(HeaderError::Missing)
    }
}

/// True when `buf` begins with `prefix`, or is the beginning of it.
fn begins_like(buf: &[u8], prefix: &[u8]) -> bool {
    buf.iter().zip(prefix).all(|(a, b)| a == b)
}

/// `PROXY TCP4 source destination source-port destination-port CR LF`, single spaces, or `PROXY UNKNOWN` and anything.
fn parse_v1(buf: &[u8]) -> Result<Option<(Header, usize)>, HeaderError> {
    let within = &buf[..buf.len().min(V1_BYTES_MAX)];
    let Some(end) = within.iter().position(|byte| *byte == b'\n') else {
        return if buf.len() < V1_BYTES_MAX {
            Ok(None)
        } else {
            Err(HeaderError::TooLong)
        };
    };
    let Some(line) = within[..end]
        .strip_suffix(b"\r")
        .and_then(|line| line.strip_prefix(V1_PREFIX))
    else {
        return Err(HeaderError::Malformed("the line must end with CR LF"));
    };
    let line = str::from_utf8(line).map_err(|_| HeaderError::Malformed("the line must be ASCII"))?;
    let header = match line.split_once(' ') {
        Some(("TCP4", rest)) => parse_v1_addresses::<Ipv4Addr>(rest)?,
        Some(("TCP6", rest)) => parse_v1_addresses::<Ipv6Addr>(rest)?,
        // The rest of the line must be ignored.
        Some(("UNKNOWN", _)) => Header::default(),
        None if line == "UNKNOWN" => Header::default(),
        _ => {
            return Err(HeaderError::Malformed(
                "the protocol must be TCP4, TCP6 or UNKNOWN",
            ));
        }
    };
    Ok(Some((header, end + 1)))
}

fn parse_v1_addresses<A: Into<IpAddr> + std::str::FromStr>(rest: &str) -> Result<Header, HeaderError> {
    let mut fields = rest.split(' ');
    let mut field = || fields.next().ok_or(HeaderError::Malformed("a field is missing"));
    let (source, destination) = (parse_address::<A>(field()?)?, parse_address::<A>(field()?)?);
    let (source_port, destination_port) = (parse_port(field()?)?, parse_port(field()?)?);
    if fields.next().is_some() {
        return Err(HeaderError::Malformed("there is a field too many"));
    }
    Ok(Header {
        source: Some(SocketAddr::new(source, source_port)),
        destination: Some(SocketAddr::new(destination, destination_port)),
    })
}

fn parse_address<A: Into<IpAddr> + std::str::FromStr>(text: &str) -> Result<IpAddr, HeaderError> {
    text.parse::<A>()
        .map(Into::into)
        .map_err(|_| HeaderError::Malformed("an address is not of the family"))
}

/// Decimal, without a sign or leading zeros.
fn parse_port(text: &str) -> Result<u16, HeaderError> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse()
        .ok()
        .filter(|_| is_plain)
        .ok_or(HeaderError::Malformed("a port is not a number up to 65535"))
}

/// Fixed part, addresses as the family says, then extensions (type, length, value) up to the length.
fn parse_v2(buf: &[u8]) -> Result<Option<(Header, usize)>, HeaderError> {
    // Each byte is checked as soon as it is there, so that nobody is waited for in vain.
    if buf.get(12).is_some_and(|byte| byte >> 4 != 2) {
        return Err(HeaderError::Malformed("the version must be 2"));
    }
    if buf.get(12).is_some_and(|byte| byte & 0x0F > 1) {
        return Err(HeaderError::Malformed("the command must be LOCAL or PROXY"));
    }
    let Some(fixed) = buf.first_chunk::<V2_FIXED_BYTES>() else {
        return Ok(None);
    };
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > V2_BYTES_MAX {
        return Err(HeaderError::TooLong);
    }
    let Some(whole) = buf.get(..length) else {
        return Ok(None);
    };
    let is_local = fixed[12] & 0x0F == 0;
    // Of a LOCAL header everything behind the length must be ignored, the family included.
    let header = if is_local {
        Header::default()
    } else {
        parse_v2_block(whole, fixed[13])?
    };
    Ok(Some((header, length)))
}

fn parse_v2_block(whole: &[u8], family: u8) -> Result<Header, HeaderError> {
    let block = &whole[V2_FIXED_BYTES..];
    let (header, address_bytes) = match family {
        0x00 => (Header::default(), 0),
        0x11 => (ipv4_addresses(block)?, 12),
        0x21 => (ipv6_addresses(block)?, 36),
        0x31 => (Header::default(), 216),
        0x12 | 0x22 | 0x32 => return Err(HeaderError::Malformed("a datagram family on a stream")),
        _ => return Err(HeaderError::Malformed("unknown address family or protocol")),
    };
    if block.len() < address_bytes {
        return Err(HeaderError::Malformed("the addresses do not fit into the length"));
    }
    check_extensions(whole, V2_FIXED_BYTES + address_bytes)?;
    Ok(header)
}

fn ipv4_addresses(block: &[u8]) -> Result<Header, HeaderError> {
    let Some(&[a, b, c, d, e, f, g, h, port_high, port_low, to_high, to_low]) = block.first_chunk() else {
        return Err(HeaderError::Malformed("the addresses do not fit into the length"));
    };
    let source = (
        Ipv4Addr::new(a, b, c, d),
        u16::from_be_bytes([port_high, port_low]),
    );
    let destination = (Ipv4Addr::new(e, f, g, h), u16::from_be_bytes([to_high, to_low]));
    Ok(Header {
        source: Some(source.into()),
        destination: Some(destination.into()),
    })
}

fn ipv6_addresses(block: &[u8]) -> Result<Header, HeaderError> {
    let (Some((source, rest)), Some(ports)) = (block.split_first_chunk::<16>(), block.get(32..36)) else {
        return Err(HeaderError::Malformed("the addresses do not fit into the length"));
    };
    let Some(destination) = rest.first_chunk::<16>() else {
        return Err(HeaderError::Malformed("the addresses do not fit into the length"));
    };
    let source = (Ipv6Addr::from(*source), u16::from_be_bytes([ports[0], ports[1]]));
    let destination = (
        Ipv6Addr::from(*destination),
        u16::from_be_bytes([ports[2], ports[3]]),
    );
    Ok(Header {
        source: Some(source.into()),
        destination: Some(destination.into()),
    })
}

/// Walks over the extensions; the only one that matters here is the checksum of the whole header (section 2.2.3).
fn check_extensions(whole: &[u8], mut at: usize) -> Result<(), HeaderError> {
    let mut checksum = None;
    while at < whole.len() {
        let Some([kind, high, low]) = whole.get(at..at + 3) else {
            return Err(HeaderError::Malformed(
                "an extension's head does not fit into the length",
            ));
        };
        let value = at + 3..at + 3 + usize::from(u16::from_be_bytes([*high, *low]));
        if value.end > whole.len() {
            return Err(HeaderError::Malformed(
                "an extension does not fit into the length",
            ));
        }
        at = value.end;
        if *kind == TLV_CRC32C {
            if value.len() != 4 {
                return Err(HeaderError::Malformed("a checksum must have four bytes"));
            }
            if checksum.replace(value).is_some() {
                return Err(HeaderError::Malformed("there are two checksums"));
            }
        }
    }
    let Some(place) = checksum else { return Ok(()) };
    // The sum is over the header with zeros in the place of the sum.
    let sum = crc32c::crc32c(&whole[..place.start]);
    let sum = crc32c::crc32c_append(sum, &[0; 4]);
    let sum = crc32c::crc32c_append(sum, &whole[place.end..]);
    if sum.to_be_bytes() == whole[place] {
        Ok(())
    } else {
        Err(HeaderError::Checksum)
    }
}

/// Takes the PROXY header off a connection that was just accepted, and not one byte more.
///
/// It looks at what has arrived without taking it, and takes it once it is known to belong to the header. So each wait
/// is for bytes that were not there before; only looking again and again would spin while the header is incomplete.
///
/// # Errors
///
/// See [`ReadError`]; in each case the connection is to be closed.
pub async fn read_header(stream: &mut TcpStream, timeout: Duration) -> Result<Header, ReadError> {
    tokio::time::timeout(timeout, take_header(stream))
        .await
        .unwrap_or(Err(ReadError::Timeout))
}

async fn take_header(stream: &mut TcpStream) -> Result<Header, ReadError> {
    let mut header = Vec::new();
    let mut chunk = [0; 256];
    loop {
        let taken = header.len();
        let arrived = stream.peek(&mut chunk).await?;
        if arrived == 0 {
            return Err(ReadError::Closed);
        }
        header.extend_from_slice(&chunk[..arrived]);
        let parsed = parse(&header)?;
        // Of an incomplete header all that has arrived is part.
        let end = parsed.map_or(header.len(), |(_, length)| length);
        stream.read_exact(&mut chunk[..end - taken]).await?;
        if let Some((header, _)) = parsed {
            return Ok(header);
        }
    }
}

#[cfg(test)]
mod tests;
