//! The HTTP request that opens a WebSocket, and its answer (RFC 6455, section 4.2).
//!
//! The request is read here rather than by the library, whose own acceptor answers nothing to a request that is no
//! upgrade and has no limit on the length of a request but 64 KiB. Every refusal is an HTTP answer whose body says why,
//! since the people who see it are debugging a client or a proxy in between.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as ProtocolFailure, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;
use tokio_tungstenite::tungstenite::handshake::server::{Request, create_response, write_response};
use tokio_tungstenite::tungstenite::http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response, StatusCode};

use super::{WebSocketSettings, WebSocketTransport};

/// The subprotocols served, best first. MQTT 3.1.1 and 5 demand `mqtt` [MQTT-6.0.0-3, MQTT-6.0.0-4]; the others are what
/// clients of 3.1 and some older ones of 3.1.1 offer. The version that is spoken is decided by CONNECT.
const SUBPROTOCOLS: [&str; 3] = ["mqtt", "mqttv3.1.1", "mqttv3.1"];
const HEAD_END: &[u8] = b"\r\n\r\n";

/// Why no WebSocket came of a connection. An HTTP answer has been sent where it says so.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The handshake was not complete in time.
    #[error("no WebSocket handshake in time")]
    Timeout,
    /// The peer closed the connection before the end of its request.
    #[error("the connection was closed during the WebSocket handshake")]
    Closed,
    /// The request was refused and answered.
    #[error("WebSocket request refused with status {status}: {why}")]
    Refused {
        /// The HTTP status of the answer.
        status: u16,
        /// The body of the answer.
        why: &'static str,
    },
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A refusal, and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refusal {
    status: StatusCode,
    why: &'static str,
}

impl Refusal {
    const fn new(status: StatusCode, why: &'static str) -> Self {
        Self { status, why }
    }

    const fn bad_request(why: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, why)
    }
}

/// Performs the server's side of the handshake on a fresh connection, within `timeout`.
///
/// # Errors
///
/// See [`AcceptError`]; in each case the connection is to be dropped.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    settings: &WebSocketSettings,
    timeout: Duration,
) -> Result<WebSocketTransport<S>, AcceptError> {
    tokio::time::timeout(timeout, answer(stream, settings))
        .await
        .unwrap_or(Err(AcceptError::Timeout))
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    settings: &WebSocketSettings,
) -> Result<WebSocketTransport<S>, AcceptError> {
    let verdict = match read_head(&mut stream, settings.head_bytes_max).await? {
        Ok(head) => judge(&head, settings),
        Err(refusal) => Err(refusal),
    };
    match verdict {
        Ok(response) => {
            stream.write_all(&response).await?;
            stream.flush().await?;
            Ok(WebSocketTransport::new(stream, settings))
        }
        Err(Refusal { status, why }) => {
            stream.write_all(&refusal_text(status, why)?).await?;
            stream.flush().await?;
            stream.shutdown().await?;
            Err(AcceptError::Refused {
                status: status.as_u16(),
                why,
            })
        }
    }
}

/// Reads up to the empty line that ends a request's head.
async fn read_head<S: AsyncRead + Unpin>(
    stream: &mut S,
    bytes_max: usize,
) -> Result<Result<Vec<u8>, Refusal>, AcceptError> {
    let mut head = Vec::with_capacity(bytes_max.min(1024));
    loop {
        let searched = head.len().saturating_sub(HEAD_END.len() - 1);
        // One byte more than allowed, to tell a head that just fits from one that does not.
        let room = (bytes_max + 1 - head.len()) as u64;
        if (&mut *stream).take(room).read_buf(&mut head).await? == 0 {
            return Err(AcceptError::Closed);
        }
        // Only what is new is searched, however slowly the head comes.
        if head[searched..]
            .windows(HEAD_END.len())
            .any(|window| window == HEAD_END)
            && head.len() <= bytes_max
        {
            return Ok(Ok(head));
        }
        if head.len() > bytes_max {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return Ok(Err(Refusal::new(status, "The head of the request is too long.")));
        }
    }
}

/// The bytes of the answer that switches protocols, or the reason not to.
fn judge(head: &[u8], settings: &WebSocketSettings) -> Result<Vec<u8>, Refusal> {
    let request = match Request::try_parse(head) {
        Ok(Some((length, request))) if length == head.len() => request,
        Ok(Some(_)) => {
            return Err(Refusal::bad_request(
                "Nothing may follow the request before its answer.",
            ));
        }
        Ok(None) => return Err(Refusal::bad_request("This is no HTTP request.")),
        Err(failure) => return Err(refusal_of(&failure)),
    };
    if request.uri().path() != settings.path {
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "There is no WebSocket at this path.",
        ));
    }
    let mut response = create_response(&request).map_err(|failure| refusal_of(&failure))?;
    let subprotocol = choose_subprotocol(&request)?;
    response
        .headers_mut()
        .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    let mut text = Vec::with_capacity(256);
    write_response(&mut text, &response).map_err(|failure| refusal_of(&failure))?;
    Ok(text)
}

/// The best of the subprotocols that the client offers, in one header or in several.
fn choose_subprotocol(request: &Request) -> Result<&'static str, Refusal> {
    let headers = || request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    if headers().next().is_none() {
        let why = "The request offers no subprotocol; Sec-WebSocket-Protocol must hold \"mqtt\".";
        return Err(Refusal::bad_request(why));
    }
    let offers = |subprotocol: &str| {
        let mut offered = headers()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        offered.any(|offer| offer.trim() == subprotocol)
    };
    let none = "None of the subprotocols offered is served here; Sec-WebSocket-Protocol must hold \"mqtt\".";
    SUBPROTOCOLS
        .into_iter()
        .find(|subprotocol| offers(subprotocol))
        .ok_or(Refusal::bad_request(none))
}

fn refusal_of(failure: &ProtocolFailure) -> Refusal {
    match failure {
        ProtocolFailure::Capacity(CapacityError::TooManyHeaders) => Refusal::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "The request has too many headers.",
        ),
        ProtocolFailure::Protocol(
            ProtocolError::MissingConnectionUpgradeHeader | ProtocolError::MissingUpgradeWebSocketHeader,
        ) => Refusal::new(
            StatusCode::UPGRADE_REQUIRED,
            "MQTT over WebSocket is served here, and nothing else.",
        ),
        ProtocolFailure::Protocol(ProtocolError::MissingSecWebSocketVersionHeader) => Refusal::new(
            StatusCode::UPGRADE_REQUIRED,
            "The version of the WebSocket protocol must be 13.",
        ),
        ProtocolFailure::Protocol(
            ProtocolError::MissingSecWebSocketKey | ProtocolError::InvalidSecWebSocketKey,
        ) => Refusal::bad_request("Sec-WebSocket-Key is missing or is not 16 bytes in base64."),
        ProtocolFailure::Protocol(ProtocolError::WrongHttpMethod) => {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "A WebSocket is opened with GET.")
        }
        ProtocolFailure::Protocol(ProtocolError::WrongHttpVersion) => {
            Refusal::bad_request("The version of HTTP must be 1.1.")
        }
        _ => Refusal::bad_request("This is no HTTP request."),
    }
}

/// The whole answer to a request that is refused.
fn refusal_text(status: StatusCode, why: &'static str) -> io::Result<Vec<u8>> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(CONTENT_LENGTH, HeaderValue::from(why.len() + 1));
    if status == StatusCode::UPGRADE_REQUIRED {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade, close"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET"));
    }
    let mut text = Vec::with_capacity(256);
    write_response(&mut text, &response).map_err(io::Error::other)?;
    text.extend_from_slice(why.as_bytes());
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests;
