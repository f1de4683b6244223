//! A connection that may end at any byte, and the life of a client from one connection to the next.

use std::future::Future;
use std::net::SocketAddr;

use quorate_tests::Version;
use quorate_tests::client::DEADLINE;
use quorate_tests::transport::{Read, Transport};
use quorate_tests::wire::{ConnectBuilder, Encode, Packet, split};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::ledger::SharedLedger;

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It broke.
    Closed,
    /// The broker broke a promise.
    Fault(String),
}

/// A connection.
pub(crate) struct Link {
    transport: Transport,
    version: Version,
    received: Vec<u8>,
}

impl Link {
    /// Opens a connection and takes the session up; `is_known` says that the broker must have it.
    pub(crate) async fn open(
        address: SocketAddr,
        version: Version,
        connect: &ConnectBuilder,
        is_known: bool,
    ) -> Result<Self, End> {
        let transport = Transport::tcp(address).await.map_err(|_| End::Closed)?;
        let mut link = Self {
            transport,
            version,
            received: Vec::new(),
        };
        link.send(connect).await?;
        let answer = timeout(DEADLINE, link.next()).await;
        match answer.map_err(|_| End::Fault(format!("no CONNACK in {DEADLINE:?}")))?? {
            Packet::Connack(connack) if connack.code == 0 && connack.session_present == is_known => Ok(link),
            Packet::Connack(connack) if connack.code == 0 && is_known => {
                Err(End::Fault("SESSION LOST: session present is 0".into()))
            }
            other => Err(End::Fault(format!("the answer to CONNECT is {other:?}"))),
        }
    }

    /// Sends a packet.
    pub(crate) async fn send<P: Encode + ?Sized>(&mut self, packet: &P) -> Result<(), End> {
        let bytes = packet.encode(self.version);
        self.transport.write(&bytes).await.map_err(|_| End::Closed)
    }

    /// The next packet. May be dropped and called again: nothing is lost.
    pub(crate) async fn next(&mut self) -> Result<Packet, End> {
        loop {
            let found = split(&self.received, self.version);
            if let Some((packet, size)) = found.map_err(|what| End::Fault(format!("MALFORMED: {what}")))? {
                self.received.drain(..size);
                return Ok(packet);
            }
            match self.transport.read().await {
                Ok(Read::Bytes(bytes)) => self.received.extend(bytes),
                // What has come of a packet at the moment of the kill is lost with it.
                Ok(Read::Closed) | Err(_) => return Err(End::Closed),
            }
        }
    }
}

/// What the clients are told about the broker and their task.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stage {
    /// Counts the starts of the broker.
    pub(crate) life: u64,
    /// Where it listens; none from just before it is killed.
    pub(crate) address: Option<SocketAddr>,
    /// Publishers send as fast as they get acknowledgements.
    pub(crate) publishing: bool,
    /// Publishers send so many more messages to each topic all the same.
    pub(crate) fences: u64,
    /// Subscribers that stay away at times do not.
    pub(crate) all_awake: bool,
}

/// A client, which lives from connection to connection.
pub(crate) trait Lives: Send {
    /// Its name in messages.
    fn name(&self) -> &str;

    /// Whether it connects at this stage.
    fn is_awake(&self, _: &Stage) -> bool {
        true
    }

    /// One connection, from CONNECT to its end.
    fn live(
        &mut self,
        address: SocketAddr,
        stage: &mut watch::Receiver<Stage>,
    ) -> impl Future<Output = End> + Send;
}

/// Connects the client in each life of the broker. A connection that ends while nobody kills the broker is a fault.
pub(crate) async fn run(mut client: impl Lives, mut stage: watch::Receiver<Stage>, ledger: SharedLedger) {
    let mut lived = 0;
    loop {
        let begins = |stage: &Stage| stage.life > lived && stage.address.is_some() && client.is_awake(stage);
        let Ok(now) = stage.wait_for(begins).await.map(|now| *now) else {
            return;
        };
        lived = now.life;
        let address = now.address.expect("waited for");
        let end = client.live(address, &mut stage).await;
        let was_killed = stage.borrow().address != Some(address);
        match end {
            End::Closed if was_killed => {}
            End::Closed => ledger.fault(format!(
                "{}: connection {lived} ended, but not by a kill",
                client.name()
            )),
            End::Fault(what) => ledger.fault(format!("{}, connection {lived}: {what}", client.name())),
        }
    }
}
