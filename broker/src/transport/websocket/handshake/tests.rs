//! Requests that are answered with a WebSocket, and all others, over loopback sockets.

use tokio_tungstenite::tungstenite::Error;

use super::super::tests::{Server, TIMEOUT, handshake, tcp_pair};
use super::*;

/// Sends a raw request and reads the whole answer.
async fn ask(settings: &WebSocketSettings, request: &str) -> (String, Result<Server, AcceptError>) {
    let (mut client, server) = tcp_pair().await;
    let ask = async {
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    };
    // The server's end goes away with a refusal, which ends the answer.
    tokio::join!(ask, async {
        accept(server, settings, TIMEOUT)
            .await
            .map(|_| unreachable!("accepted"))
    })
}

const HEADERS: &str = "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n";

fn headers_without(name: &str) -> String {
    HEADERS
        .split_inclusive("\r\n")
        .filter(|line| !line.starts_with(name))
        .collect()
}

/// The subprotocol that is chosen for a request with these headers, or the body of the refusal.
async fn choose(headers: &[&str]) -> Result<String, String> {
    let lines: String = headers
        .iter()
        .map(|value| format!("Sec-WebSocket-Protocol: {value}\r\n"))
        .collect();
    let others = headers_without("Sec-WebSocket-Protocol");
    let (mut client, server) = tcp_pair().await;
    client
        .write_all(format!("GET /mqtt HTTP/1.1\r\n{others}{lines}\r\n").as_bytes())
        .await
        .unwrap();
    let result = accept(server, &WebSocketSettings::default(), TIMEOUT)
        .await
        .map(drop);
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    if result.is_ok() {
        assert!(head.starts_with("HTTP/1.1 101 ") && body.is_empty(), "{answer}");
        let chosen = head
            .lines()
            .find_map(|line| line.strip_prefix("sec-websocket-protocol: "));
        return Ok(chosen.unwrap().to_owned());
    }
    assert!(
        matches!(result, Err(AcceptError::Refused { status: 400, .. })),
        "{result:?}"
    );
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    Err(body.to_owned())
}

#[tokio::test]
async fn subprotocols() {
    for (offered, chosen) in [
        (&["mqtt"][..], "mqtt"),
        (&["mqttv3.1"], "mqttv3.1"),
        (&["mqttv3.1.1"], "mqttv3.1.1"),
        (&["mqttv3.1, mqttv3.1.1"], "mqttv3.1.1"),
        (&["chat,mqttv3.1 , mqtt"], "mqtt"),
        (&["chat", "mqtt"], "mqtt"),
    ] {
        assert_eq!(choose(offered).await.as_deref(), Ok(chosen), "{offered:?}");
    }
    for offered in [&[][..], &["chat"], &["MQTT"], &["mqttv5"], &[""]] {
        let why = choose(offered).await.unwrap_err();
        assert!(
            why.contains("Sec-WebSocket-Protocol must hold \"mqtt\""),
            "{offered:?}: {why}"
        );
    }
    // And with a client that insists on getting what it offered.
    let (client, server) = handshake(&WebSocketSettings::default(), "/mqtt", &["mqtt"]).await;
    assert!(client.is_ok() && server.is_ok());
}

#[tokio::test]
async fn paths() {
    let settings = WebSocketSettings {
        path: "/ws/mqtt".to_owned(),
        ..WebSocketSettings::default()
    };
    for path in ["/ws/mqtt", "/ws/mqtt?user=1"] {
        let (client, server) = handshake(&settings, path, &["mqtt"]).await;
        assert!(client.is_ok() && server.is_ok(), "{path}");
    }
    for path in ["/mqtt", "/", "/ws/mqtt/", "/ws/mqtt2"] {
        let (client, server) = handshake(&settings, path, &["mqtt"]).await;
        assert!(
            matches!(client, Err(Error::Http(response)) if response.status() == 404),
            "{path}"
        );
        assert!(
            matches!(server, Err(AcceptError::Refused { status: 404, .. })),
            "{path}"
        );
    }
}

#[tokio::test]
async fn requests_that_are_refused() {
    let settings = WebSocketSettings::default();
    let many: String = (0..200).map(|number| format!("X-{number}: y\r\n")).collect();
    for (request, status) in [
        (
            format!("GET /mqtt HTTP/1.1\r\n{}\r\n", headers_without("Upgrade")),
            426,
        ),
        (
            format!("GET /mqtt HTTP/1.1\r\n{}\r\n", headers_without("Connection")),
            426,
        ),
        (
            format!(
                "GET /mqtt HTTP/1.1\r\n{}\r\n",
                headers_without("Sec-WebSocket-Version")
            ),
            426,
        ),
        ("GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 426),
        (
            format!(
                "GET /mqtt HTTP/1.1\r\n{}\r\n",
                headers_without("Sec-WebSocket-Key")
            ),
            400,
        ),
        (
            format!(
                "GET /mqtt HTTP/1.1\r\n{}Sec-WebSocket-Key: x\r\n\r\n",
                headers_without("Sec-WebSocket-Key")
            ),
            400,
        ),
        (format!("GET /mqtt HTTP/1.0\r\n{HEADERS}\r\n"), 400),
        (format!("POST /mqtt HTTP/1.1\r\n{HEADERS}\r\n"), 405),
        (format!("GET /mqtt HTTP/1.1\r\n{HEADERS}\r\n\u{1}\u{2}"), 400),
        (format!("GET /mqtt HTTP/1.1\r\n{many}{HEADERS}\r\n"), 431),
        (
            format!("GET /mqtt HTTP/1.1\r\nX: {}\r\n{HEADERS}\r\n", "y".repeat(9_000)),
            431,
        ),
        (
            "\u{10}\u{e}\0\u{4}MQTT\u{4}\u{2}\0\0\0\u{2}id\r\n\r\n".to_owned(),
            400,
        ),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 404),
    ] {
        let (answer, result) = ask(&settings, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request:?}: {answer:?}"
        );
        assert!(
            matches!(result, Err(AcceptError::Refused { status: told, .. }) if told == status),
            "{result:?}"
        );
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(body.len() > 10 && body.ends_with(".\n"), "{body:?}");
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{head}"
        );
        assert_eq!(
            head.contains("upgrade: websocket") && head.contains("sec-websocket-version: 13"),
            status == 426
        );
        assert_eq!(head.contains("allow: GET"), status == 405);
    }
}

#[tokio::test]
async fn the_limit_of_a_head_is_inclusive() {
    let request = format!("GET /mqtt HTTP/1.1\r\n{HEADERS}\r\n");
    for (head_bytes_max, is_taken) in [(request.len(), true), (request.len() - 1, false)] {
        let settings = WebSocketSettings {
            head_bytes_max,
            ..WebSocketSettings::default()
        };
        let (mut client, server) = tcp_pair().await;
        client.write_all(request.as_bytes()).await.unwrap();
        let result = accept(server, &settings, TIMEOUT).await;
        assert_eq!(result.is_ok(), is_taken, "{result:?}");
        assert!(is_taken || matches!(result, Err(AcceptError::Refused { status: 431, .. })));
    }
}

#[tokio::test]
async fn a_slow_handshake() {
    let request = format!("GET /mqtt HTTP/1.1\r\n{HEADERS}\r\n");
    // In pieces, but in time.
    let (mut client, server) = tcp_pair().await;
    client.set_nodelay(true).unwrap();
    let settings = WebSocketSettings::default();
    let send = async {
        for piece in request.as_bytes().chunks(7) {
            client.write_all(piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (result, ()) = tokio::join!(accept(server, &settings, TIMEOUT), send);
    result.unwrap();
    // Never whole.
    let (mut client, server) = tcp_pair().await;
    client
        .write_all(&request.as_bytes()[..request.len() - 1])
        .await
        .unwrap();
    let started = std::time::Instant::now();
    let result = accept(server, &settings, Duration::from_millis(50)).await;
    assert!(matches!(result, Err(AcceptError::Timeout)), "{result:?}");
    assert!(started.elapsed() >= Duration::from_millis(50));
    // Given up.
    let (mut client, server) = tcp_pair().await;
    client.write_all(b"GET /mqtt").await.unwrap();
    drop(client);
    let result = accept(server, &settings, TIMEOUT).await;
    assert!(matches!(result, Err(AcceptError::Closed)), "{result:?}");
}
