//! The byte stream under a test client: TCP or WebSocket.

use std::io;
use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

/// A connected stream.
pub enum Transport {
    /// Plain TCP.
    Tcp(TcpStream),
    /// WebSocket over TCP.
    WebSocket(Box<WebSocketStream<TcpStream>>),
}

/// What came of a read.
pub enum Read {
    /// Bytes of MQTT packets.
    Bytes(Vec<u8>),
    /// The peer closed or reset the connection.
    Closed,
}

impl Transport {
    /// Connects over TCP.
    pub async fn tcp(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    /// Connects over WebSocket, offering the subprotocols.
    ///
    /// # Errors
    ///
    /// What the broker answered instead of an upgrade.
    pub async fn websocket(
        address: SocketAddr,
        path: &str,
        subprotocols: &[&str],
    ) -> Result<(Self, Response), Error> {
        Self::websocket_behind(address, &[], path, subprotocols).await
    }

    /// Like [`Self::websocket`], with bytes before the handshake.
    ///
    /// # Errors
    ///
    /// What the broker answered instead of an upgrade.
    pub async fn websocket_behind(
        address: SocketAddr,
        header: &[u8],
        path: &str,
        subprotocols: &[&str],
    ) -> Result<(Self, Response), Error> {
        let uri = format!("ws://{address}{path}").parse().expect("a correct URI");
        let request = subprotocols
            .iter()
            .fold(ClientRequestBuilder::new(uri), |request, subprotocol| {
                request.with_sub_protocol(*subprotocol)
            });
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(header).await?;
        let (socket, response) = client_async(request, stream).await?;
        Ok((Self::WebSocket(Box::new(socket)), response))
    }

    /// Writes the bytes, over WebSocket as one binary message.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).await,
            Self::WebSocket(socket) => socket
                .send(Message::Binary(bytes.to_vec().into()))
                .await
                .map_err(io::Error::other),
        }
    }

    /// Writes one WebSocket frame as it is.
    pub async fn write_frame(&mut self, bytes: &[u8], kind: Data, is_final: bool) -> io::Result<()> {
        let frame = Frame::message(bytes.to_vec(), OpCode::Data(kind), is_final);
        self.socket()
            .send(Message::Frame(frame))
            .await
            .map_err(io::Error::other)
    }

    /// The WebSocket.
    pub fn socket(&mut self) -> &mut WebSocketStream<TcpStream> {
        match self {
            Self::WebSocket(socket) => socket,
            Self::Tcp(_) => panic!("this connection is not a WebSocket"),
        }
    }

    /// Whatever arrives next. A broker that sends anything but binary frames is an error [MQTT-6.0.0-1].
    pub async fn read(&mut self) -> io::Result<Read> {
        match self {
            Self::Tcp(stream) => {
                let mut buffer = vec![0; 64 * 1024];
                match stream.read(&mut buffer).await {
                    Ok(0) => Ok(Read::Closed),
                    Ok(length) => {
                        buffer.truncate(length);
                        Ok(Read::Bytes(buffer))
                    }
                    Err(error) if is_reset(&error) => Ok(Read::Closed),
                    Err(error) => Err(error),
                }
            }
            Self::WebSocket(socket) => read_message(socket).await,
        }
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe
    )
}

async fn read_message(socket: &mut WebSocketStream<TcpStream>) -> io::Result<Read> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) => return Ok(Read::Bytes(bytes.to_vec())),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_))) => {}
            Some(Ok(other)) => {
                return Err(io::Error::other(format!(
                    "{other:?} is not binary [MQTT-6.0.0-1]"
                )));
            }
            None | Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => return Ok(Read::Closed),
            Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                return Ok(Read::Closed);
            }
            Some(Err(Error::Io(error))) if is_reset(&error) => return Ok(Read::Closed),
            Some(Err(error)) => return Err(io::Error::other(error)),
        }
    }
}
