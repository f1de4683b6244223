//! The transport over loopback sockets, against the library's client and against raw bytes.

use std::future::poll_fn;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use proptest::prelude::*;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use super::*;

pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) type Server = WebSocketTransport<TcpStream>;
type Client = WebSocketStream<TcpStream>;

pub(super) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// Both ends of a handshake for `path` with the given `Sec-WebSocket-Protocol` headers.
pub(super) async fn handshake(
    settings: &WebSocketSettings,
    path: &str,
    subprotocols: &[&'static str],
) -> (Result<(Client, Response), Error>, Result<Server, AcceptError>) {
    let (client, server) = tcp_pair().await;
    let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
    for subprotocol in subprotocols {
        request
            .headers_mut()
            .append("Sec-WebSocket-Protocol", HeaderValue::from_static(subprotocol));
    }
    tokio::join!(
        tokio_tungstenite::client_async(request, client),
        accept(server, settings, TIMEOUT)
    )
}

async fn open(settings: &WebSocketSettings) -> (Client, Server) {
    let (client, server) = handshake(settings, "/mqtt", &["mqtt"]).await;
    (client.unwrap().0, server.unwrap())
}

async fn read(server: &mut Server) -> io::Result<Vec<u8>> {
    let mut buf = Vec::new();
    let length = poll_fn(|cx| server.poll_read(cx, &mut buf)).await?;
    assert_eq!(length, buf.len());
    Ok(buf)
}

/// Reads until `length` bytes are there.
async fn read_all(server: &mut Server, length: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < length {
        let part = read(server).await.unwrap();
        assert!(!part.is_empty(), "closed after {} of {length} bytes", all.len());
        all.extend(part);
    }
    all
}

async fn write_all(server: &mut Server, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let taken = poll_fn(|cx| server.poll_write(cx, data)).await?;
        data = &data[taken..];
    }
    poll_fn(|cx| server.poll_flush(cx)).await
}

#[tokio::test]
async fn packets_span_frames_and_frames_hold_packets() {
    let (mut client, mut server) = open(&WebSocketSettings::default()).await;
    let packets: Vec<u8> = (0..=255).cycle().take(5_000).collect();
    for part in packets.chunks(617) {
        client.send(Message::binary(part.to_vec())).await.unwrap();
    }
    assert_eq!(read_all(&mut server, packets.len()).await, packets);
    write_all(&mut server, &packets[..3]).await.unwrap();
    write_all(&mut server, &packets[3..70_000.min(packets.len())])
        .await
        .unwrap();
    assert_eq!(
        client.next().await.unwrap().unwrap(),
        Message::binary(packets[..3].to_vec())
    );
    assert_eq!(
        client.next().await.unwrap().unwrap(),
        Message::binary(packets[3..].to_vec())
    );
}

#[tokio::test]
async fn a_text_frame_closes() {
    let (mut client, mut server) = open(&WebSocketSettings::default()).await;
    client
        .send(Message::text("\u{10}\u{e}\0\u{4}MQTT"))
        .await
        .unwrap();
    let error = read(&mut server).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    // The close frame is sent without anybody asking for it.
    let Some(Ok(Message::Close(Some(close)))) = client.next().await else {
        panic!("no close frame")
    };
    assert_eq!(close.code, CloseCode::Unsupported);
    assert_eq!(read(&mut server).await.unwrap(), b"", "the input stays closed");
    let error = poll_fn(|cx| server.poll_write(cx, b"x")).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn messages_over_the_limit_close() {
    let settings = WebSocketSettings {
        message_bytes_max: 1_000,
        ..WebSocketSettings::default()
    };
    let (mut client, mut server) = open(&settings).await;
    client.send(Message::binary(vec![1; 1_000])).await.unwrap();
    assert_eq!(read_all(&mut server, 1_000).await.len(), 1_000);
    client.send(Message::binary(vec![1; 1_001])).await.unwrap();
    assert_eq!(
        read(&mut server).await.unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
    let Some(Ok(Message::Close(Some(close)))) = client.next().await else {
        panic!("no close frame")
    };
    assert_eq!(close.code, CloseCode::Size);
}

#[tokio::test]
async fn pings_are_answered_without_disturbing_the_payload() {
    let (mut client, mut server) = open(&WebSocketSettings::default()).await;
    client
        .send(Message::Ping(Bytes::from_static(b"one")))
        .await
        .unwrap();
    client
        .send(Message::Pong(Bytes::from_static(b"nobody asked")))
        .await
        .unwrap();
    client.send(Message::binary(b"packet".to_vec())).await.unwrap();
    assert_eq!(read_all(&mut server, 6).await, b"packet");
    assert_eq!(
        client.next().await.unwrap().unwrap(),
        Message::Pong(Bytes::from_static(b"one"))
    );
    // With nothing to read behind it, while a read waits.
    client
        .send(Message::Ping(Bytes::from_static(b"two")))
        .await
        .unwrap();
    tokio::select! {
        _ = read(&mut server) => panic!("there is no payload"),
        pong = client.next() => assert_eq!(pong.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"two"))),
    }
}

#[tokio::test]
async fn the_client_closes() {
    let (mut client, mut server) = open(&WebSocketSettings::default()).await;
    client
        .send(Message::binary(b"disconnect".to_vec()))
        .await
        .unwrap();
    client.close(None).await.unwrap();
    assert_eq!(read_all(&mut server, 10).await, b"disconnect");
    assert_eq!(read(&mut server).await.unwrap(), b"");
    poll_fn(|cx| server.poll_close(cx)).await.unwrap();
    drop(server);
    assert!(
        matches!(client.next().await, Some(Ok(Message::Close(None)))),
        "the close frame is answered"
    );
    assert!(client.next().await.is_none());
}

#[tokio::test]
async fn the_client_vanishes() {
    let (client, mut server) = open(&WebSocketSettings::default()).await;
    drop(client);
    assert_eq!(read(&mut server).await.unwrap(), b"");
}

#[tokio::test]
async fn the_server_closes() {
    let (mut client, mut server) = open(&WebSocketSettings::default()).await;
    write_all(&mut server, b"disconnect").await.unwrap();
    poll_fn(|cx| server.poll_close(cx)).await.unwrap();
    assert_eq!(
        client.next().await.unwrap().unwrap(),
        Message::binary(b"disconnect".to_vec())
    );
    let Some(Ok(Message::Close(Some(close)))) = client.next().await else {
        panic!("no close frame")
    };
    assert_eq!(close.code, CloseCode::Normal);
    let error = poll_fn(|cx| server.poll_write(cx, b"x")).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn nothing_follows_a_close_frame() {
    let (near, mut far) = tokio::io::duplex(1_000);
    let mut server = WebSocketTransport::new(near, &WebSocketSettings::default());
    poll_fn(|cx| server.poll_close(cx)).await.unwrap();
    // What the peer had sent before it saw the frame is still read; its ping stays without an answer.
    far.write_all(&[0x89, 0x80, 0, 0, 0, 0, 0x82, 0x81, 0, 0, 0, 0, b'x'])
        .await
        .unwrap();
    let mut buf = Vec::new();
    assert_eq!(poll_fn(|cx| server.poll_read(cx, &mut buf)).await.unwrap(), 1);
    poll_fn(|cx| server.poll_close(cx)).await.unwrap();
    drop(server);
    let mut sent = Vec::new();
    far.read_to_end(&mut sent).await.unwrap();
    assert_eq!(sent, [0x88, 2, 0x03, 0xE8]);
}

/// A peer that does not read: what is held for it is bounded, and nothing is lost once it reads.
#[tokio::test]
async fn back_pressure() {
    let settings = WebSocketSettings {
        write_buffer_bytes_max: 10_000,
        ..WebSocketSettings::default()
    };
    let (mut client, mut server) = open(&settings).await;
    let data: Vec<u8> = (0..50_000_000u32).map(|number| (number / 7) as u8).collect();
    let mut taken = 0;
    while taken < data.len() {
        let written = poll_fn(|cx| Poll::Ready(server.poll_write(cx, &data[taken..]))).await;
        assert!(
            server.unsent.len() <= 10_000 + 14,
            "{} bytes are held",
            server.unsent.len()
        );
        match written {
            Poll::Ready(written) => taken += written.unwrap(),
            Poll::Pending => break,
        }
    }
    assert!(
        taken < data.len(),
        "the sockets took 50 MB without anybody reading"
    );
    // A ping now: its answer must wait for the end of the frame that was begun.
    client
        .send(Message::Ping(Bytes::from_static(b"still there?")))
        .await
        .unwrap();
    let serve = async {
        let (mut rest, mut buf) = (&data[taken..], Vec::new());
        let ended = poll_fn(|cx| {
            while !rest.is_empty()
                && let Poll::Ready(written) = server.poll_write(cx, rest)
            {
                rest = &rest[written.unwrap()..];
            }
            server.poll_read(cx, &mut buf)
        });
        assert_eq!(
            ended.await.unwrap(),
            0,
            "the client closes when it has everything"
        );
        assert_eq!(rest.len(), 0);
        assert_eq!(server.unsent.capacity(), 0, "an idle connection holds no buffer");
    };
    let receive = async {
        let (mut received, mut pongs) = (Vec::new(), 0);
        while received.len() < data.len() || pongs == 0 {
            match client.next().await.unwrap().unwrap() {
                Message::Binary(part) => received.extend_from_slice(&part),
                Message::Pong(payload) => pongs += usize::from(payload == "still there?"),
                other => panic!("{other:?}"),
            }
        }
        client.close(None).await.unwrap();
        (received, pongs)
    };
    let exchange = async { tokio::join!(serve, receive) };
    let ((), (received, pongs)) = tokio::time::timeout(TIMEOUT, exchange).await.unwrap();
    assert!(
        received == data,
        "{} of {} bytes, or others",
        received.len(),
        data.len()
    );
    assert_eq!(pongs, 1);
}

#[tokio::test]
async fn only_the_latest_of_many_pings_waits() {
    let (near, far) = tokio::io::duplex(64);
    let mut server = WebSocketTransport::new(near, &WebSocketSettings::default());
    let (mut output, mut input) = tokio::io::split(far);
    let feed = async {
        for number in 0..1_000u32 {
            let mut frame = vec![0x89, 0x84, 0, 0, 0, 0];
            frame.extend(number.to_be_bytes());
            input.write_all(&frame).await.unwrap();
        }
        input.shutdown().await.unwrap();
    };
    // Nobody reads the answers meanwhile, so most of them find the pipe full.
    let mut buf = Vec::new();
    let (length, ()) = tokio::join!(poll_fn(|cx| server.poll_read(cx, &mut buf)), feed);
    assert_eq!(length.unwrap(), 0, "the peer has closed its half");
    assert!(server.unsent.len() <= 2 + CONTROL_BYTES_MAX && server.pong.is_some());
    let finish = async {
        poll_fn(|cx| server.poll_flush(cx)).await.unwrap();
        drop(server);
    };
    let mut answers = Vec::new();
    let (read, ()) = tokio::join!(output.read_to_end(&mut answers), finish);
    read.unwrap();
    let (pongs, []) = answers.as_chunks::<6>() else {
        panic!("half a pong: {answers:?}")
    };
    let numbers: Vec<u32> = pongs
        .iter()
        .map(|[first, length, number @ ..]| {
            assert_eq!((*first, *length), (0x8A, 4));
            u32::from_be_bytes(*number)
        })
        .collect();
    assert!(
        numbers.is_sorted_by(|a, b| a < b) && numbers.len() < 20,
        "{numbers:?}"
    );
    assert_eq!(numbers.last(), Some(&999), "the latest ping is answered");
}

/// The bytes that a client sends, in a stream that breaks writes and reads where it likes.
async fn through_a_narrow_pipe(
    width: usize,
    limit: usize,
    to_server: &[u8],
    to_client: &[u8],
) -> (Vec<u8>, Vec<u8>) {
    let settings = WebSocketSettings {
        write_buffer_bytes_max: limit,
        ..WebSocketSettings::default()
    };
    let (near, far) = tokio::io::duplex(width);
    let role = tokio_tungstenite::tungstenite::protocol::Role::Client;
    let mut client: WebSocketStream<DuplexStream> = WebSocketStream::from_raw_socket(far, role, None).await;
    let mut server = WebSocketTransport::new(near, &settings);
    let mut received = Vec::new();
    let serve = async {
        let (mut rest, mut read_done) = (to_client, to_server.is_empty());
        poll_fn(|cx| {
            while !rest.is_empty() {
                let Poll::Ready(taken) = server.poll_write(cx, rest) else {
                    break;
                };
                rest = &rest[taken.unwrap()..];
            }
            while !read_done {
                let Poll::Ready(length) = server.poll_read(cx, &mut received) else {
                    break;
                };
                assert_ne!(length.unwrap(), 0);
                read_done = received.len() >= to_server.len();
            }
            if rest.is_empty() && read_done {
                server.poll_close(cx)
            } else {
                Poll::Pending
            }
        })
        .await
        .unwrap();
    };
    let use_client = async {
        let (mut sink, mut stream) = (&mut client).split();
        let send = async {
            for part in to_server.chunks(33) {
                sink.feed(Message::binary(part.to_vec())).await.unwrap();
            }
            sink.flush().await.unwrap();
        };
        let receive = async {
            let mut received = Vec::new();
            while let Some(Ok(Message::Binary(part))) = stream.next().await {
                received.extend_from_slice(&part);
            }
            received
        };
        tokio::join!(send, receive).1
    };
    let ((), at_client) = tokio::join!(serve, use_client);
    (received, at_client)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn nothing_is_lost_or_reordered(
        width in 1usize..200,
        limit in 1usize..400,
        to_server in prop::collection::vec(any::<u8>(), 0..2_000),
        to_client in prop::collection::vec(any::<u8>(), 0..2_000),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let exchange = through_a_narrow_pipe(width, limit, &to_server, &to_client);
        let exchange = runtime.block_on(async { tokio::time::timeout(TIMEOUT, exchange).await });
        prop_assert_eq!(exchange, Ok((to_server, to_client)));
    }
}
