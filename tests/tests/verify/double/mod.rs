//! The test double: a proxy that reads the packets between clients and a broker, and misbehaves as its trick says.
//!
//! Packets go on as the bytes they came in, unless the trick does something else with them.

mod deliveries;
mod publishes;
mod sessions;

pub(crate) use deliveries::{Corrupt, Double, Hide, OldValue, Swap};
pub(crate) use publishes::{Deny, Lose};
pub(crate) use sessions::{Cut, DropSession, ForgetDisconnect, Freeze, Stall};

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use quorate_proto::codec::{
    Ack, Frame, PACKET_SIZE_MAX, Packet, PacketId, PacketType, ProtocolVersion, Publish, ReasonCode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// A way to misbehave, over all connections.
pub(crate) trait Trick: Send + 'static {
    /// A packet of a client.
    fn take_from_client(&mut self, link: &mut Link, _: &Packet<'_>, bytes: &[u8]) {
        link.to_broker.extend_from_slice(bytes);
    }

    /// A packet of the broker.
    fn take_from_broker(&mut self, link: &mut Link, _: &Packet<'_>, bytes: &[u8]) {
        link.to_client.extend_from_slice(bytes);
    }
}

/// No trick.
pub(crate) struct Honest;

impl Trick for Honest {}

/// One connection through the double.
#[derive(Debug)]
pub(crate) struct Link {
    /// Counts the connections.
    pub(crate) number: u64,
    pub(crate) version: ProtocolVersion,
    pub(crate) client_id: String,
    pub(crate) to_client: Vec<u8>,
    pub(crate) to_broker: Vec<u8>,
    /// Both sides are closed once what is to be sent is sent.
    pub(crate) closes: bool,
}

impl Link {
    /// Whether this is the client of a role, by the letters in its identifier.
    pub(crate) fn is_of(&self, role: &str) -> bool {
        self.client_id.get(9..).is_some_and(|rest| rest.starts_with(role))
    }

    /// Answers the client as the broker would.
    pub(crate) fn answer_client(&mut self, packet_type: PacketType, packet_id: PacketId) {
        Ack::new(packet_id, ReasonCode::SUCCESS).encode(packet_type, self.version, &mut self.to_client);
    }

    /// Answers the broker as the client would.
    pub(crate) fn answer_broker(&mut self, packet_type: PacketType, packet_id: PacketId) {
        Ack::new(packet_id, ReasonCode::SUCCESS).encode(packet_type, self.version, &mut self.to_broker);
    }

    /// Sends the client a message with another packet identifier.
    pub(crate) fn forge(&mut self, publish: &Publish<'_>, packet_id: PacketId) {
        let forged = Publish {
            packet_id: Some(packet_id),
            ..publish.clone()
        };
        forged.encode(self.version, &mut self.to_client);
    }
}

/// Whether a topic is of this kind of message.
pub(crate) fn is_of_kind(topic: &str, kind: &str) -> bool {
    topic.split('/').nth(2) == Some(kind)
}

/// The proxy.
pub(crate) struct Proxy {
    address: SocketAddr,
    upstream: Arc<Mutex<SocketAddr>>,
    task: AbortHandle,
}

impl Proxy {
    /// Stands before a broker.
    pub(crate) async fn start(upstream: SocketAddr, trick: impl Trick) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let upstream = Arc::new(Mutex::new(upstream));
        let task = tokio::spawn(accept(
            listener,
            Arc::clone(&upstream),
            Arc::new(Mutex::new(trick)),
        ));
        Self {
            address,
            upstream,
            task: task.abort_handle(),
        }
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// New connections go to another address.
    pub(crate) fn set_upstream(&self, upstream: SocketAddr) {
        *self.upstream.lock().expect("no user panics") = upstream;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept<T: Trick>(listener: TcpListener, upstream: Arc<Mutex<SocketAddr>>, trick: Arc<Mutex<T>>) {
    let mut links = JoinSet::new();
    for number in 1.. {
        let Ok((client, _)) = listener.accept().await else {
            return;
        };
        let upstream = *upstream.lock().expect("no user panics");
        let trick = Arc::clone(&trick);
        // The end of a connection is nothing to report.
        links.spawn(async move { drop(converse(client, upstream, number, &trick).await) });
        while links.try_join_next().is_some() {}
    }
}

async fn converse<T: Trick>(
    mut client: TcpStream,
    upstream: SocketAddr,
    number: u64,
    trick: &Mutex<T>,
) -> io::Result<()> {
    let mut broker = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    let mut link = Link {
        number,
        version: ProtocolVersion::V5,
        client_id: String::new(),
        to_client: Vec::new(),
        to_broker: Vec::new(),
        closes: false,
    };
    let (mut from_client, mut from_broker) = (Vec::new(), Vec::new());
    while !link.closes {
        tokio::select! {
            read = client.read_buf(&mut from_client) => if read? == 0 { break },
            read = broker.read_buf(&mut from_broker) => if read? == 0 { break },
        }
        {
            let mut trick = trick.lock().expect("no trick panics");
            take_all(&mut from_client, &mut link, |link, packet, bytes| {
                if let Packet::Connect(connect) = packet {
                    link.version = connect.version;
                    link.client_id = connect.client_id.to_owned();
                }
                trick.take_from_client(link, packet, bytes);
            });
            take_all(&mut from_broker, &mut link, |link, packet, bytes| {
                trick.take_from_broker(link, packet, bytes);
            });
        }
        broker.write_all(&std::mem::take(&mut link.to_broker)).await?;
        client.write_all(&std::mem::take(&mut link.to_client)).await?;
    }
    Ok(())
}

/// Hands over the whole packets that have come.
fn take_all(received: &mut Vec<u8>, link: &mut Link, mut take: impl FnMut(&mut Link, &Packet<'_>, &[u8])) {
    let mut from = 0;
    while let Some(frame) = Frame::parse(&received[from..], PACKET_SIZE_MAX).expect("both sides send packets")
    {
        let bytes = &received[from..from + frame.size];
        from += frame.size;
        let packet = Packet::decode(frame, link.version).expect("both sides send packets");
        take(link, &packet, bytes);
    }
    received.drain(..from);
}
