//! A client that only makes load: one socket, one buffer each way, no more than it needs of the protocol.

use std::io;

use quorate_proto::codec::{
    Ack, Connect, Frame, OutboundPublish, Packet, PacketId, PacketType, ProtocolVersion, QoS, ReasonCode,
    Subscribe, SubscriptionOptions, SubscriptionRequests, UserProperties,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Largest packet taken.
const PACKET_SIZE_MAX: u32 = 1 << 20;

/// A connection.
pub struct Client {
    version: ProtocolVersion,
    stream: TcpStream,
    input: Vec<u8>,
    consumed: usize,
    /// Packets to be sent with the next [`Client::flush`].
    pub output: Vec<u8>,
}

/// What a client received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A message.
    Publish(QoS, Option<PacketId>),
    /// An acknowledgement.
    Ack(PacketType, PacketId),
    /// The answer to CONNECT.
    Connack(ReasonCode),
    /// SUBACK, PINGRESP.
    Other(PacketType),
}

fn invalid(what: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

impl Client {
    /// Connects with a clean session; a `durable` one stays for an hour.
    ///
    /// # Errors
    /// The broker is not there or refuses.
    pub async fn connect(
        address: &str,
        version: ProtocolVersion,
        client_id: &str,
        durable: bool,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut client = Self {
            version,
            stream,
            input: Vec::new(),
            consumed: 0,
            output: Vec::new(),
        };
        let connect = Connect {
            clean_start: !durable || version == ProtocolVersion::V5,
            session_expiry_secs: (durable && version == ProtocolVersion::V5).then_some(3_600),
            ..Connect::new(version, client_id)
        };
        connect.encode(version, &mut client.output);
        client.flush().await?;
        match client.next().await? {
            Received::Connack(ReasonCode::SUCCESS) => Ok(client),
            other => Err(invalid(format!("{other:?} instead of a CONNACK that accepts"))),
        }
    }

    /// Subscribes to one filter.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn subscribe(&mut self, filter: &str, qos: QoS) -> io::Result<()> {
        let mut payload = Vec::new();
        let options = SubscriptionOptions {
            qos,
            ..SubscriptionOptions::default()
        };
        SubscriptionRequests::encode_into([(filter, options)], &mut payload);
        let subscribe = Subscribe {
            packet_id: PacketId::MIN,
            subscription_id: None,
            user_properties: UserProperties::default(),
            requests: SubscriptionRequests::from_payload(&payload).map_err(invalid)?,
        };
        subscribe.encode(self.version, &mut self.output);
        self.flush().await?;
        while self.next().await? != Received::Other(PacketType::Suback) {}
        Ok(())
    }

    /// Appends a PUBLISH.
    pub fn publish(&mut self, topic: &str, payload: &[u8], qos: QoS, packet_id: Option<PacketId>) {
        let publish = OutboundPublish {
            topic,
            payload,
            forwardable: &[],
            qos,
            dup: false,
            retain: false,
            packet_id,
            message_expiry_secs: None,
            topic_alias: None,
            subscription_ids: &[],
        };
        publish.encode(self.version, &mut self.output);
    }

    /// Appends an acknowledgement.
    pub fn acknowledge(&mut self, packet_type: PacketType, packet_id: PacketId) {
        Ack::new(packet_id, ReasonCode::SUCCESS).encode(packet_type, self.version, &mut self.output);
    }

    /// Sends what was appended.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            self.stream.write_all(&self.output).await?;
            self.output.clear();
        }
        Ok(())
    }

    /// The next packet, if a whole one has been read already.
    ///
    /// # Errors
    /// What came is not MQTT.
    pub fn poll(&mut self) -> io::Result<Option<Received>> {
        let Some(frame) = Frame::parse(&self.input[self.consumed..], PACKET_SIZE_MAX).map_err(invalid)?
        else {
            return Ok(None);
        };
        let size = frame.size;
        let received = match Packet::decode(frame, self.version).map_err(invalid)? {
            Packet::Publish(publish) => Received::Publish(publish.qos, publish.packet_id),
            Packet::Puback(ack) => Received::Ack(PacketType::Puback, ack.packet_id),
            Packet::Pubrec(ack) => Received::Ack(PacketType::Pubrec, ack.packet_id),
            Packet::Pubrel(ack) => Received::Ack(PacketType::Pubrel, ack.packet_id),
            Packet::Pubcomp(ack) => Received::Ack(PacketType::Pubcomp, ack.packet_id),
            Packet::Connack(connack) => Received::Connack(connack.reason),
            Packet::Disconnect(disconnect) => {
                return Err(invalid(format!("disconnected: {:?}", disconnect.reason)));
            }
            packet => Received::Other(packet.packet_type()),
        };
        self.consumed += size;
        Ok(Some(received))
    }

    /// Reads more.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn read(&mut self) -> io::Result<()> {
        self.input.drain(..self.consumed);
        self.consumed = 0;
        self.input.reserve(64 * 1024);
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// The next packet.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn next(&mut self) -> io::Result<Received> {
        loop {
            if let Some(received) = self.poll()? {
                return Ok(received);
            }
            self.read().await?;
        }
    }
}
