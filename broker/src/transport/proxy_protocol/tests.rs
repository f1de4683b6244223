//! Golden headers, headers cut short, and arbitrary bytes; then the same over a socket.

use std::net::SocketAddr;

use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;

fn address(text: &str) -> Option<SocketAddr> {
    Some(text.parse().unwrap())
}

fn malformed(bytes: &[u8]) -> bool {
    matches!(parse(bytes), Err(HeaderError::Malformed(_)))
}

/// A header of version 2 with the right length.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [V2_SIGNATURE, &[0x20 | command, family][..], &length, block].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind][..], &length, value].concat()
}

const IPV4_BLOCK: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 7, 0xC0, 0x00, 0x07, 0x5B];

fn ipv4_header() -> Header {
    Header {
        source: address("192.0.2.1:49152"),
        destination: address("198.51.100.7:1883"),
    }
}

/// The header of haproxy's `send-proxy-v2 crc32c`, checked with its own computation of the sum.
fn with_checksum(extensions_before: &[u8], extensions_after: &[u8]) -> Vec<u8> {
    let block = [
        IPV4_BLOCK,
        extensions_before,
        &tlv(TLV_CRC32C, &[0; 4]),
        extensions_after,
    ]
    .concat();
    let mut header = v2(1, 0x11, &block);
    let sum = reference_crc32c(&header);
    let at = V2_FIXED_BYTES + IPV4_BLOCK.len() + extensions_before.len() + 3;
    header[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    header
}

/// CRC32C bit by bit, from its definition (reflected polynomial 0x82F63B78).
fn reference_crc32c(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 {
                (sum >> 1) ^ 0x82F6_3B78
            } else {
                sum >> 1
            };
        }
    }
    !sum
}

#[test]
fn version_1() {
    let v4 = Header {
        source: address("192.168.0.1:56324"),
        destination: address("192.168.0.11:443"),
    };
    let v6 = Header {
        source: address("[2001:db8::1]:0"),
        destination: address("[::1]:65535"),
    };
    let longest = "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n";
    for (line, header) in [
        ("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", v4),
        ("PROXY TCP6 2001:db8::1 ::1 0 65535\r\n", v6),
        ("PROXY UNKNOWN\r\n", Header::default()),
        (longest, Header::default()),
    ] {
        assert_eq!(parse(line.as_bytes()), Ok(Some((header, line.len()))), "{line}");
        let with_more = format!("{line}\x10\x0eMQTT");
        assert_eq!(
            parse(with_more.as_bytes()),
            Ok(Some((header, line.len()))),
            "{line}"
        );
        for cut in 0..line.len() {
            assert_eq!(parse(&line.as_bytes()[..cut]), Ok(None), "{cut} bytes of {line}");
        }
    }
}

#[test]
fn version_1_refused() {
    for line in [
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324\r\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443 1\r\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443 \r\n",
        "PROXY TCP4  192.168.0.1 192.168.0.11 56324 443\r\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 65536 443\r\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 +1 443\r\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 0443 443\r\n",
        "PROXY TCP4 192.168.0.01 192.168.0.11 1 443\r\n",
        "PROXY TCP4 192.168.0 192.168.0.11 1 443\r\n",
        "PROXY TCP4 ::1 ::1 1 443\r\n",
        "PROXY TCP6 192.168.0.1 192.168.0.11 1 443\r\n",
        "PROXY TCP6 ::1%eth0 ::1 1 443\r\n",
        "PROXY UDP4 192.168.0.1 192.168.0.11 1 443\r\n",
        "PROXY tcp4 192.168.0.1 192.168.0.11 1 443\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY \r\n",
    ] {
        assert!(
            malformed(line.as_bytes()),
            "{line:?}: {:?}",
            parse(line.as_bytes())
        );
    }
    assert!(malformed(b"PROXY TCP4 \xFF\r\n"));
}

#[test]
fn version_1_ends_within_107_bytes() {
    let line = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16));
    assert_eq!(parse(line(107).as_bytes()), Ok(Some((Header::default(), 107))));
    assert_eq!(parse(line(108).as_bytes()), Err(HeaderError::TooLong));
    assert_eq!(parse(&line(108).as_bytes()[..106]), Ok(None));
    assert_eq!(parse(&line(108).as_bytes()[..107]), Err(HeaderError::TooLong));
}

#[test]
fn version_2() {
    let v6_block = [
        &[0x20, 1, 0xD, 0xB8][..],
        &[0; 11],
        &[1],
        &[0; 15],
        &[2],
        &[0, 80, 0x22, 0xB3],
    ]
    .concat();
    let v6 = Header {
        source: address("[2001:db8::1]:80"),
        destination: address("[::2]:8883"),
    };
    let extensions = [tlv(0x02, b"broker.example"), tlv(0x04, &[]), tlv(0xEE, &[7; 300])].concat();
    for (bytes, header) in [
        (v2(1, 0x11, IPV4_BLOCK), ipv4_header()),
        (v2(1, 0x11, &[IPV4_BLOCK, &extensions].concat()), ipv4_header()),
        (v2(1, 0x21, &v6_block), v6),
        (v2(1, 0x21, &[&v6_block[..], &extensions].concat()), v6),
        (v2(1, 0x00, &[]), Header::default()),
        (v2(1, 0x00, &extensions), Header::default()),
        (v2(1, 0x31, &[9; 216]), Header::default()),
        (v2(0, 0x00, &[]), Header::default()),
        // All that stands behind the length of a LOCAL header is ignored.
        (v2(0, 0x11, IPV4_BLOCK), Header::default()),
        (v2(0, 0xFF, &[1, 2, 3]), Header::default()),
        (with_checksum(&[], &[]), ipv4_header()),
        (with_checksum(&extensions, &extensions), ipv4_header()),
    ] {
        assert_eq!(parse(&bytes), Ok(Some((header, bytes.len()))), "{bytes:?}");
        assert_eq!(
            parse(&[&bytes[..], b"\x10\x0e"].concat()),
            Ok(Some((header, bytes.len()))),
            "{bytes:?}"
        );
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), Ok(None), "{cut} bytes of {bytes:?}");
        }
    }
}

#[test]
fn version_2_refused() {
    let long = tlv(1, &[0; 5]);
    for bytes in [
        v2(2, 0x11, IPV4_BLOCK),
        v2(0xF, 0x11, IPV4_BLOCK),
        v2(1, 0x12, IPV4_BLOCK),
        v2(1, 0x41, IPV4_BLOCK),
        v2(1, 0x13, IPV4_BLOCK),
        v2(1, 0x01, IPV4_BLOCK),
        v2(1, 0x11, &IPV4_BLOCK[..11]),
        v2(1, 0x21, &[0; 35]),
        v2(1, 0x31, &[0; 215]),
        v2(1, 0x11, &[IPV4_BLOCK, &[1]].concat()),
        v2(1, 0x11, &[IPV4_BLOCK, &[1, 0]].concat()),
        v2(1, 0x11, &[IPV4_BLOCK, &long[..7]].concat()),
        v2(1, 0x00, &tlv(TLV_CRC32C, &[0; 3])),
        v2(
            1,
            0x00,
            &[tlv(TLV_CRC32C, &[0; 4]), tlv(TLV_CRC32C, &[0; 4])].concat(),
        ),
    ] {
        assert!(malformed(&bytes), "{bytes:?}: {:?}", parse(&bytes));
    }
    let version_1_in_binary = [V2_SIGNATURE, &[0x11][..]].concat();
    assert!(malformed(&version_1_in_binary), "refused at its 13th byte");
}

#[test]
fn version_2_is_bounded() {
    let extension = |length: usize| v2(1, 0x00, &tlv(0xEE, &vec![0; length - 3]));
    let most = V2_BYTES_MAX - V2_FIXED_BYTES;
    assert_eq!(
        parse(&extension(most)),
        Ok(Some((Header::default(), V2_BYTES_MAX)))
    );
    assert_eq!(parse(&extension(most + 1)), Err(HeaderError::TooLong));
    assert_eq!(
        parse(&extension(65_535)[..V2_FIXED_BYTES]),
        Err(HeaderError::TooLong),
        "before it is waited for"
    );
}

#[test]
fn a_changed_bit_under_a_checksum_is_seen() {
    let (before, after) = (tlv(0x02, b"broker.example"), tlv(0x20, &[1, 2, 3]));
    let good = with_checksum(&before, &after);
    let addresses = V2_FIXED_BYTES..V2_FIXED_BYTES + IPV4_BLOCK.len();
    let first_value = addresses.end + 3..addresses.end + before.len();
    let checksum = first_value.end + 3..first_value.end + 7;
    let last_value = good.len() - 3..good.len();
    for at in addresses.chain(first_value).chain(checksum).chain(last_value) {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            assert_eq!(
                parse(&bytes),
                Err(HeaderError::Checksum),
                "bit {bit} of byte {at}"
            );
        }
    }
}

#[test]
fn other_protocols_are_seen_at_once() {
    for bytes in [
        &b"\x10"[..],
        b"\x16\x03\x01",
        b"GET /mqtt",
        b"PROXY\t",
        b"\r\n\r\n\0\r\nQUIX",
        b"PROXZ",
    ] {
        assert_eq!(parse(bytes), Err(HeaderError::Missing), "{bytes:?}");
    }
    assert_eq!(parse(&[]), Ok(None));
}

proptest! {
    #[test]
    fn addresses_survive(source: SocketAddr, destination: SocketAddr, extension: Vec<u8>, rest: Vec<u8>) {
        let (family, block) = match (source.ip(), destination.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => ("TCP4", [a.octets(), b.octets()].concat()),
            (IpAddr::V6(a), IpAddr::V6(b)) => ("TCP6", [a.octets(), b.octets()].concat()),
            _ => return Ok(()),
        };
        // The format has no place for the scope and the flow of an IPv6 address.
        let plain = |address: SocketAddr| Some(SocketAddr::new(address.ip(), address.port()));
        let header = Header { source: plain(source), destination: plain(destination) };
        let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
        let code = if family == "TCP4" { 0x11 } else { 0x21 };
        let binary = v2(1, code, &[block, ports, tlv(0xE0, &extension)].concat());
        let (from, to) = (source.ip(), destination.ip());
        let text = format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port());
        for bytes in [binary, text.into_bytes()] {
            prop_assert_eq!(parse(&[&bytes[..], &rest].concat()), Ok(Some((header, bytes.len()))));
        }
    }

    /// Any bytes behind any beginning: never a panic, never more than there is, and no change of mind: bytes that were
    /// refused stay refused when more arrive.
    #[test]
    fn arbitrary_bytes(
        prefix in prop::sample::select(vec![&b""[..], V1_PREFIX, V2_SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00"]),
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        cut: prop::sample::Index,
    ) {
        let bytes = [prefix, &bytes].concat();
        let cut = cut.index(bytes.len() + 1);
        match (parse(&bytes[..cut]), parse(&bytes)) {
            (Ok(Some((header, length))), whole) => {
                prop_assert!(length <= cut);
                prop_assert_eq!(whole, Ok(Some((header, length))));
            }
            (Err(error), whole) => prop_assert_eq!(whole, Err(error)),
            (Ok(None), whole) => {
                if let Ok(Some((_, length))) = whole {
                    prop_assert!(length > cut && length <= bytes.len());
                }
            }
        }
    }

    /// The same with a line: digits, dots and spaces in every wrong order.
    #[test]
    fn arbitrary_lines(line in "PROXY (TCP4|TCP6|UNKNOWN)[ 0-9.:a-f]{0,60}\r\n") {
        if let Ok(Some((header, length))) = parse(line.as_bytes()) {
            prop_assert_eq!(length, line.len());
            prop_assert_eq!(header.source.is_some(), !line.contains("UNKNOWN"));
        }
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

const TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn nothing_behind_the_header_is_taken() {
    let long = v2(1, 0x11, &[IPV4_BLOCK, &tlv(0xEE, &[1; 1_000])].concat());
    for header in [
        b"PROXY TCP4 192.0.2.1 198.51.100.7 49152 1883\r\n".to_vec(),
        with_checksum(&[], &[]),
        long,
    ] {
        let (mut client, mut server) = pair().await;
        client.write_all(&[&header[..], b"MQTT"].concat()).await.unwrap();
        assert_eq!(read_header(&mut server, TIMEOUT).await.unwrap(), ipv4_header());
        let mut rest = [0; 4];
        server.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"MQTT");
    }
}

/// Byte by byte. The server's task may only be polled when something has arrived: a loop that looked at the same bytes
/// again and again would be polled without end.
#[tokio::test]
async fn a_slow_header_is_waited_for_without_spinning() {
    let (mut client, mut server) = pair().await;
    client.set_nodelay(true).unwrap();
    let header = with_checksum(&[], &[]);
    let length = header.len();
    let sender = tokio::spawn(async move {
        for byte in header {
            client.write_all(&[byte]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        client
    });
    let mut polls = 0;
    let read = {
        let mut read = Box::pin(read_header(&mut server, TIMEOUT));
        std::future::poll_fn(|cx| {
            polls += 1;
            read.as_mut().poll(cx)
        })
        .await
    };
    assert_eq!(read.unwrap(), ipv4_header());
    assert!(polls <= 2 * length + 5, "{polls} polls for {length} bytes");
    drop(sender.await.unwrap());
}

#[tokio::test]
async fn a_header_that_does_not_come() {
    let (mut client, mut server) = pair().await;
    client.write_all(b"PROXY TCP4 192.0.2.1").await.unwrap();
    let started = std::time::Instant::now();
    let error = read_header(&mut server, Duration::from_millis(50))
        .await
        .unwrap_err();
    assert!(matches!(error, ReadError::Timeout), "{error:?}");
    assert!(started.elapsed() >= Duration::from_millis(50));

    let (mut client, mut server) = pair().await;
    client.write_all(b"PROXY TCP4 192.0.2.1").await.unwrap();
    drop(client);
    let error = read_header(&mut server, TIMEOUT).await.unwrap_err();
    assert!(matches!(error, ReadError::Closed), "{error:?}");

    let (mut client, mut server) = pair().await;
    client.write_all(b"\x10\x0e\x00\x04MQTT").await.unwrap();
    let error = read_header(&mut server, TIMEOUT).await.unwrap_err();
    assert!(
        matches!(error, ReadError::Header(HeaderError::Missing)),
        "{error:?}"
    );
}
