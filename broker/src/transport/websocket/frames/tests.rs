//! Frames whole and in pieces, every violation, and the library's own decoder as an oracle.

use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::*;

const LIMIT: usize = 1_000;

/// A masked frame, its first byte given.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xFA, 0x21, 0x3D];
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    bytes
}

const CONTINUE: u8 = 0x00;
const TEXT: u8 = 0x01;
const BINARY: u8 = 0x02;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;
const FINAL: u8 = 0x80;

/// Decodes `bytes` in pieces that end at `cuts`.
fn decode(bytes: &[u8], cuts: &[usize]) -> (Vec<u8>, Vec<Event>, Result<(), Violation>) {
    let mut decoder = Decoder::new(LIMIT);
    let (mut payload, mut events, mut start) = (Vec::new(), Vec::new(), 0);
    for end in cuts.iter().copied().chain([bytes.len()]) {
        let piece = &bytes[start..end];
        // What was decoded before stands in front and must stay as it is.
        let (before, mut buf) = (payload.clone(), payload.clone());
        buf.extend_from_slice(piece);
        let result = decoder.decode(&mut buf, payload.len(), |event| events.push(event));
        if result.is_err() {
            return (payload, events, result);
        }
        assert!(buf.starts_with(&before) && buf.len() <= before.len() + piece.len());
        payload = buf;
        start = end;
        if matches!(events.last(), Some(Event::Close(_))) {
            break;
        }
    }
    (payload, events, Ok(()))
}

fn violation(bytes: &[u8]) -> CloseCode {
    let (_, _, result) = decode(bytes, &[]);
    result.expect_err("a violation").code
}

#[test]
fn payload_is_one_stream() {
    let bytes = [
        frame(FINAL | BINARY, b"one"),
        frame(BINARY, b" two"),
        frame(PING, b"are you there"),
        frame(CONTINUE, b""),
        frame(PONG, b"ignored"),
        frame(FINAL | CONTINUE, b" three"),
        frame(PING, b""),
    ]
    .concat();
    let expected = (
        b"one two three".to_vec(),
        vec![Event::Ping(b"are you there".into()), Event::Ping(vec![])],
        Ok(()),
    );
    assert_eq!(decode(&bytes, &[]), expected);
    assert_eq!(
        decode(&bytes, &(1..bytes.len()).collect::<Vec<_>>()),
        expected,
        "byte by byte"
    );
}

#[test]
fn an_idle_decoder_holds_no_memory() {
    let mut decoder = Decoder::new(LIMIT);
    let mut buf = [frame(PING, &[7; 125]), frame(FINAL | BINARY, &[7; 500])].concat();
    decoder.decode(&mut buf, 0, |_| ()).unwrap();
    assert_eq!(decoder.control.capacity(), 0);
    assert!(size_of::<Decoder>() <= 112, "{}", size_of::<Decoder>());
}

#[test]
fn violations() {
    assert_eq!(
        violation(&frame(FINAL | TEXT, b"x")),
        CloseCode::Unsupported,
        "[MQTT-6.0.0-1]"
    );
    assert_eq!(violation(&frame(TEXT, b"x")), CloseCode::Unsupported);
    assert_eq!(violation(&frame(FINAL | CONTINUE, b"x")), CloseCode::Protocol);
    for second in [FINAL | BINARY, BINARY, FINAL | TEXT] {
        assert_eq!(
            violation(&[frame(BINARY, b"x"), frame(second, b"y")].concat()),
            CloseCode::Protocol
        );
    }
    for first in [
        FINAL | 0x03,
        FINAL | 0x07,
        FINAL | 0x0B,
        FINAL | 0x0F,
        0xC2,
        0xA2,
        0x92,
    ] {
        assert_eq!(violation(&frame(first, b"x")), CloseCode::Protocol, "{first:02X}");
    }
    for first in [PING, PONG, CLOSE] {
        assert_eq!(
            violation(&frame(first & !FINAL, b"")),
            CloseCode::Protocol,
            "{first:02X} in fragments"
        );
        assert_eq!(
            violation(&frame(first, &[b'x'; 126])),
            CloseCode::Protocol,
            "{first:02X} too long"
        );
    }
    assert_eq!(
        violation(&[FINAL | BINARY, 1, b'x']),
        CloseCode::Protocol,
        "not masked"
    );
}

#[test]
fn the_limit_is_on_the_message_and_seen_in_the_header() {
    let fits = frame(FINAL | BINARY, &[1; LIMIT]);
    assert_eq!(decode(&fits, &[]).0.len(), LIMIT);
    assert_eq!(
        violation(&frame(FINAL | BINARY, &[1; LIMIT + 1])[..8]),
        CloseCode::Size
    );
    assert_eq!(
        violation(&[frame(BINARY, &[1; LIMIT]), frame(FINAL | CONTINUE, b"x")].concat()),
        CloseCode::Size
    );
    let two = [
        frame(FINAL | BINARY, &[1; LIMIT]),
        frame(FINAL | BINARY, &[1; LIMIT]),
    ]
    .concat();
    assert_eq!(
        decode(&two, &[]).0.len(),
        2 * LIMIT,
        "each message has the limit to itself"
    );
    let mut huge = vec![FINAL | BINARY, 0xFF];
    huge.extend([0xFF; 12]);
    assert_eq!(violation(&huge), CloseCode::Size);
}

#[test]
fn closing() {
    let closed = |payload: &[u8]| decode(&[frame(CLOSE, payload), frame(FINAL | TEXT, b"x")].concat(), &[]);
    assert_eq!(
        closed(b""),
        (vec![], vec![Event::Close(None)], Ok(())),
        "nothing behind it is looked at"
    );
    assert_eq!(
        closed(&[0x03, 0xE8, b'b', b'y']).1,
        [Event::Close(Some(CloseCode::Normal))]
    );
    assert_eq!(violation(&frame(CLOSE, &[0x03])), CloseCode::Protocol);
    assert_eq!(
        violation(&frame(CLOSE, &1005u16.to_be_bytes())),
        CloseCode::Protocol
    );
    assert_eq!(violation(&frame(CLOSE, &[0x03, 0xE8, 0xFF])), CloseCode::Invalid);
    let before = [frame(FINAL | BINARY, b"last words"), frame(CLOSE, b"")].concat();
    assert_eq!(
        decode(&before, &[]),
        (b"last words".to_vec(), vec![Event::Close(None)], Ok(()))
    );
}

/// Reads from memory, writes to nowhere.
struct Input<'a>(&'a [u8]);

impl std::io::Read for Input<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        std::io::Read::read(&mut self.0, buf)
    }
}

impl std::io::Write for Input<'_> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What the library makes of `bytes`: the payload of whole messages, the pings, and whether it ended in a violation.
fn oracle(bytes: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>, bool) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(LIMIT))
        .max_frame_size(Some(LIMIT));
    let mut socket = WebSocket::from_raw_socket(Input(bytes), Role::Server, Some(config));
    let (mut payload, mut pings) = (Vec::new(), Vec::new());
    loop {
        match socket.read() {
            Ok(Message::Binary(data)) => payload.extend_from_slice(&data),
            Ok(Message::Ping(data)) => pings.push(data.to_vec()),
            Ok(Message::Close(_)) => return (payload, pings, false),
            Ok(Message::Text(_)) => return (payload, pings, true),
            Ok(_) => {}
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                return (payload, pings, false);
            }
            Err(_) => return (payload, pings, true),
        }
    }
}

use tokio_tungstenite::tungstenite::error::ProtocolError;

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        6 => Just(FINAL | BINARY), 3 => Just(BINARY), 3 => Just(CONTINUE), 4 => Just(FINAL | CONTINUE), 3 => Just(PING),
        2 => Just(PONG), 1 => Just(CLOSE), 1 => Just(0xA2), 1 => Just(FINAL | 0x0B), 1 => Just(PING & !FINAL),
    ];
    let payload = prop_oneof![8 => 0usize..20, 2 => 100usize..140, 1 => 900usize..1_100]
        .prop_flat_map(|length| prop::collection::vec(any::<u8>(), length));
    // The payload of a close frame has rules of its own, tested above.
    let one = (first, payload).prop_map(|(first, payload)| {
        let payload = if first == CLOSE { vec![] } else { payload };
        frame(first, &payload)
    });
    prop::collection::vec(one, 0..8).prop_map(|frames| frames.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Up to the first violation the library and this decoder see the same; but payload of an unfinished message is
    /// handed on here and withheld there.
    #[test]
    fn agrees_with_the_library(bytes in frames(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let (payload, events, result) = decode(&bytes, &cuts);
        let (whole_messages, pings, is_violation) = oracle(&bytes);
        prop_assert_eq!(result.is_err(), is_violation, "{:?}", result);
        let pings_seen: Vec<Vec<u8>> = events
            .into_iter()
            .filter_map(|event| match event {
                Event::Ping(payload) => Some(payload),
                Event::Close(_) => None,
            })
            .collect();
        prop_assert_eq!(pings_seen, pings);
        if !is_violation {
            prop_assert!(payload.starts_with(&whole_messages), "{:?} against {:?}", payload, whole_messages);
        }
    }

    #[test]
    fn arbitrary_bytes(bytes: Vec<u8>, cut: prop::sample::Index) {
        let whole = decode(&bytes, &[]);
        let cut = decode(&bytes, &[cut.index(bytes.len() + 1)]);
        prop_assert_eq!(whole.2, cut.2);
        if whole.2.is_ok() {
            prop_assert_eq!(whole, cut);
        }
    }

    #[test]
    fn any_mask_and_any_alignment(payload: Vec<u8>, mask: [u8; 4], cut: prop::sample::Index) {
        let mut masked: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        let mut turned = mask;
        let (first, second) = masked.split_at_mut(cut.index(payload.len() + 1));
        unmask(first, &mut turned);
        unmask(second, &mut turned);
        prop_assert_eq!(masked, payload);
    }
}
