//! One connection: a socket, the CONNECT and its answer, packets in and out, and the pings that show whether the other
//! end is still there.
//!
//! A role takes what came from [`Connection::input`], fills [`Connection::output`] and calls [`Connection::turn`], in a
//! loop. Reading never waits for writing, so two full buffers cannot stop each other.

use std::io;
use std::time::{Duration, Instant};

use quorate_proto::codec::{
    Connect, DecodeError, Disconnect, Frame, PACKET_SIZE_MAX, Packet, PacketId, ProtocolVersion, QoS,
    ReasonCode, Subscribe, SubscriptionOptions, SubscriptionRequests, UserProperties, encode_pingreq,
};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{timeout, timeout_at};

/// Bytes read at a time.
const READ_BYTES: usize = 64 * 1024;
/// How many times the silence allowed on a connection CONNACK may take.
const CONNACK_SILENCES: u32 = 3;
/// A role appends no more packets while so many bytes wait to be sent.
const OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// Why a connection ended or was never there.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The address does not answer, or the connection broke.
    #[error("{0}")]
    Broken(#[from] io::Error),
    /// The other end closed it.
    #[error("the broker closed the connection")]
    Closed,
    /// CONNECT was refused.
    #[error("the broker refused the connection with {0}")]
    Refused(ReasonCode),
    /// The broker sent DISCONNECT.
    #[error("the broker sent DISCONNECT with {0}")]
    Disconnected(ReasonCode),
    /// An answer was due and nothing came.
    #[error("the broker was silent")]
    Silent,
    /// The broker does not offer what a run needs.
    #[error("the broker cannot be judged: {0}")]
    Unfit(String),
    /// What came is not what the standard allows.
    #[error("the broker sent what the standard does not allow: {0}")]
    Invalid(String),
}

impl From<DecodeError> for End {
    fn from(error: DecodeError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// What a CONNACK says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Welcome {
    pub(super) is_session_present: bool,
    pub(super) receive_maximum: u16,
    pub(super) maximum_qos: QoS,
    /// Session expiry interval the broker gives, where it is not what was asked.
    pub(super) session_expiry_secs: Option<u32>,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    version: ProtocolVersion,
    /// What came.
    pub(super) input: Input,
    /// What is to be sent.
    pub(super) output: Vec<u8>,
    /// Longest time without an answer.
    silence: Duration,
    last_heard: Instant,
    /// When an answer became due, if anything is asked that has to be answered at once.
    asked_at: Option<Instant>,
}

impl Connection {
    /// Connects within `silence`, and waits for the answer: longer, as a session may have to be moved for it.
    pub(super) async fn open(
        address: &str,
        connect: &Connect<'_>,
        silence: Duration,
    ) -> Result<(Self, Welcome), End> {
        let stream = timeout(silence, TcpStream::connect(address))
            .await
            .map_err(|_| End::Silent)??;
        stream.set_nodelay(true)?;
        let mut connection = Self {
            stream,
            version: connect.version,
            input: Input::new(connect.version),
            output: Vec::new(),
            silence,
            last_heard: Instant::now(),
            asked_at: None,
        };
        connect.encode(connect.version, &mut connection.output);
        let welcome = connection.answer_to_connect().await?;
        Ok((connection, welcome))
    }

    async fn answer_to_connect(&mut self) -> Result<Welcome, End> {
        let deadline = Instant::now() + CONNACK_SILENCES * self.silence;
        loop {
            if Instant::now() >= deadline {
                return Err(End::Silent);
            }
            self.exchange(deadline).await?;
            let Some(packet) = self.input.next()? else {
                continue;
            };
            let Packet::Connack(connack) = packet else {
                return Err(End::Invalid(format!("{packet:?} instead of a CONNACK")));
            };
            if connack.reason.is_error() {
                return Err(End::Refused(connack.reason));
            }
            return Ok(Welcome {
                is_session_present: connack.session_present,
                receive_maximum: connack.receive_maximum.unwrap_or(u16::MAX),
                maximum_qos: connack.maximum_qos.unwrap_or(QoS::ExactlyOnce),
                session_expiry_secs: connack.session_expiry_secs,
            });
        }
    }

    /// Whether a role may append more.
    pub(super) const fn has_room(&self) -> bool {
        self.output.len() < OUTPUT_BYTES_MAX
    }

    /// Sends and reads what goes at once, or waits until something does, until `wake_at` at most.
    pub(super) async fn turn(&mut self, wake_at: Instant) -> Result<(), End> {
        self.keep_alive()?;
        self.exchange(wake_at).await
    }

    async fn exchange(&mut self, wake_at: Instant) -> Result<(), End> {
        let interest = if self.output.is_empty() {
            Interest::READABLE
        } else {
            Interest::READABLE | Interest::WRITABLE
        };
        let Ok(ready) = timeout_at(wake_at.into(), self.stream.ready(interest)).await else {
            return Ok(());
        };
        let ready = ready?;
        let written = if ready.is_writable() { self.write() } else { Ok(()) };
        let has_read = (ready.is_readable() || written.is_err()) && self.read()?;
        // What came before the end may say why it ended, so it is read first.
        if has_read { Ok(()) } else { Ok(written?) }
    }

    /// Asks for a sign of life after half of the silence that is allowed, and gives up where it stays away for the
    /// other half.
    fn keep_alive(&mut self) -> Result<(), End> {
        let patience = self.silence / 2;
        match self.asked_at {
            Some(asked_at) if asked_at.elapsed() >= patience && self.last_heard.elapsed() >= self.silence => {
                return Err(End::Silent);
            }
            None if self.last_heard.elapsed() >= patience => {
                self.asked_at = Some(Instant::now());
                encode_pingreq(&mut self.output);
            }
            _ => {}
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        let mut written = 0;
        let mut result = Ok(());
        while written < self.output.len() && result.is_ok() {
            match self.stream.try_write(&self.output[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => result = Err(error),
            }
        }
        self.output.drain(..written);
        result
    }

    /// Reads what is there; false where nothing is.
    fn read(&mut self) -> Result<bool, End> {
        match self.stream.try_read_buf(self.input.space()) {
            Ok(0) => Err(End::Closed),
            Ok(_) => {
                self.last_heard = Instant::now();
                self.asked_at = None;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for a sign of life that is asked for now; what else comes is dropped.
    pub(super) async fn probe(&mut self) -> Result<(), End> {
        let begin = Instant::now();
        self.asked_at = Some(begin);
        encode_pingreq(&mut self.output);
        while self.last_heard < begin {
            self.turn(begin + self.silence).await?;
        }
        while self.input.next()?.is_some() {}
        Ok(())
    }

    /// Appends a SUBSCRIBE.
    pub(super) fn subscribe(&mut self, packet_id: PacketId, filters: &[String], qos: QoS) -> Result<(), End> {
        let options = SubscriptionOptions::new(qos);
        let mut payload = Vec::new();
        let filters = filters.iter().map(|filter| (filter.as_str(), options));
        SubscriptionRequests::encode_into(filters, &mut payload);
        let subscribe = Subscribe {
            packet_id,
            subscription_id: None,
            user_properties: UserProperties::default(),
            requests: SubscriptionRequests::from_payload(&payload)?,
        };
        subscribe.encode(self.version, &mut self.output);
        Ok(())
    }

    /// Sends DISCONNECT and waits until the broker closes the connection, which shows that it has taken it. Whatever
    /// else comes is dropped.
    pub(super) async fn leave(
        &mut self,
        reason: ReasonCode,
        session_expiry_secs: Option<u32>,
    ) -> Result<(), End> {
        let disconnect = Disconnect {
            session_expiry_secs,
            ..Disconnect::new(reason)
        };
        disconnect.encode(self.version, &mut self.output);
        let deadline = Instant::now() + self.silence;
        while Instant::now() < deadline {
            match self.turn(deadline).await {
                Ok(()) => while self.input.next()?.is_some() {},
                Err(End::Closed) => return Ok(()),
                Err(end) => return Err(end),
            }
        }
        Err(End::Silent)
    }
}

/// What came and was not taken yet.
#[derive(Debug)]
pub(super) struct Input {
    version: ProtocolVersion,
    bytes: Vec<u8>,
    consumed: usize,
}

impl Input {
    const fn new(version: ProtocolVersion) -> Self {
        Self {
            version,
            bytes: Vec::new(),
            consumed: 0,
        }
    }

    /// Where more is read to.
    fn space(&mut self) -> &mut Vec<u8> {
        self.bytes.drain(..self.consumed);
        self.consumed = 0;
        self.bytes.reserve(READ_BYTES);
        &mut self.bytes
    }

    /// The next packet that came whole; PINGRESP is passed over.
    pub(super) fn next(&mut self) -> Result<Option<Packet<'_>>, End> {
        loop {
            let Some(frame) = Frame::parse(&self.bytes[self.consumed..], PACKET_SIZE_MAX)? else {
                return Ok(None);
            };
            self.consumed += frame.size;
            match Packet::decode(frame, self.version)? {
                Packet::Pingresp => {}
                Packet::Disconnect(disconnect) => return Err(End::Disconnected(disconnect.reason)),
                packet => return Ok(Some(packet)),
            }
        }
    }
}
