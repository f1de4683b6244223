//! The ways to a node: directly, else through a member that reaches it (R5).
//!
//! The direct way gets a head start; a relay is asked when it has failed or takes too long. Where the node was reached
//! through a relay last, the relay gets the head start, and whoever uses the connection tries the direct way again
//! beside it (`raft::link`).

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::tls::PeerTls;
use super::{Plain, Way, Wire, relay, set_up};
use crate::raft::transport::Transport;
use crate::raft::types::NodeAddress;
use crate::state::NodeId;

/// Time for a direct connection.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// After this time without a connection the other way is tried as well.
const HEAD_START: Duration = Duration::from_millis(200);
/// Time for a connection to and through one relay.
const RELAYED_MAX: Duration = Duration::from_secs(1);
/// A member that has not passed the connection on after this time is not waited for alone: the next one is asked too.
const RELAY_HEAD_START: Duration = Duration::from_millis(150);
/// Members that are asked to pass a connection on.
const RELAYS_ASKED_MAX: usize = 3;

/// A stream to a node. Who is at its end is not known yet.
pub(in crate::raft) struct Dialed {
    pub(in crate::raft) wire: Wire,
    pub(in crate::raft) way: Way,
}

/// There is no way to a node.
#[derive(Clone, Debug, thiserror::Error)]
pub(in crate::raft) enum DialError {
    /// Its machine says that nobody listens there.
    #[error("refused: {0}")]
    Refused(String),
    /// Nothing came of it.
    #[error("{0}")]
    Failed(String),
}

impl DialError {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// A TCP connection to an address, a name being resolved anew.
pub(super) async fn tcp(address: &str, at_most: Duration) -> Result<TcpStream, DialError> {
    let connected = timeout(at_most, TcpStream::connect(address)).await;
    let socket = connected
        .map_err(|_| DialError::Failed("no answer".to_owned()))?
        .map_err(|error| DialError::of(&error))?;
    set_up(&socket).map_err(|error| DialError::of(&error))?;
    Ok(socket)
}

/// A direct stream to whoever listens at an address; `host` is what its certificate has to name.
///
/// # Errors
/// Nobody answers there, or not with what the cluster uses.
pub(crate) async fn open(address: &str, host: &str, tls: Option<&PeerTls>) -> Result<Wire, String> {
    let opened = open_directly(address, host, tls).await;
    opened.map_err(|error| error.to_string())
}

async fn open_directly(address: &str, host: &str, tls: Option<&PeerTls>) -> Result<Wire, DialError> {
    let socket = tcp(address, CONNECT_MAX).await?;
    let secured = timeout(CONNECT_MAX, secure(Box::new(socket), host, tls)).await;
    secured.unwrap_or_else(|_| Err(DialError::Failed("no answer to the TLS handshake".to_owned())))
}

/// The stream to the node of an address over one that leads there.
async fn secure(wire: Wire, host: &str, tls: Option<&PeerTls>) -> Result<Wire, DialError> {
    match tls {
        Some(tls) => tls.connect(wire, host).await.map_err(DialError::Failed),
        None => Ok(Box::new(Plain { wire, begun: false })),
    }
}

/// The host of `host:port`.
pub(crate) fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Connects to a node's address without anybody between.
pub(in crate::raft) async fn directly(
    transport: &Transport,
    NodeAddress(address): &NodeAddress,
) -> Result<Dialed, DialError> {
    let wire = open_directly(address, host_of(address), transport.tls()).await?;
    let way = Way::Direct;
    Ok(Dialed { wire, way })
}

/// Connects to a node through a member, of which there has to be another one. The first that passes the connection on
/// is taken, and the first that says that the node's machine refuses it is believed.
async fn through_a_relay(
    transport: &Arc<Transport>,
    node: NodeId,
    address: &NodeAddress,
) -> Result<Dialed, DialError> {
    let mut last = DialError::Failed("there is no other member to pass it on".to_owned());
    let mut relays = transport.relays_to(node).into_iter().take(RELAYS_ASKED_MAX);
    let mut asking = FuturesUnordered::new();
    loop {
        let wait = match relays.next() {
            Some((relay, at)) => {
                asking.push(through(transport, node, address, relay, at));
                RELAY_HEAD_START
            }
            None => RELAYED_MAX,
        };
        match timeout(wait, asking.next()).await {
            Ok(Some(Ok(dialed))) => return Ok(dialed),
            Ok(Some(Err(refused @ DialError::Refused(_)))) => {
                transport.ways().note_refused(node);
                return Err(refused);
            }
            Ok(Some(Err(error))) => last = error,
            Ok(None) => return Err(last),
            Err(_) => {}
        }
    }
}

/// Connects to a node through this member. `Refused` is what the member says of the node; a member that is itself gone
/// says nothing of it.
async fn through(
    transport: &Arc<Transport>,
    node: NodeId,
    NodeAddress(address): &NodeAddress,
    relay: NodeId,
    NodeAddress(at): NodeAddress,
) -> Result<Dialed, DialError> {
    let passing = async {
        let opened = open_directly(&at, host_of(&at), transport.tls()).await;
        let mut wire = opened.map_err(|error| DialError::Failed(error.to_string()))?;
        relay::ask(&mut wire, transport.hello_to(relay), node).await?;
        secure(wire, host_of(address), transport.tls()).await
    };
    let passed = timeout(RELAYED_MAX, passing).await;
    let passed = passed.unwrap_or_else(|_| Err(DialError::Failed("no answer".to_owned())));
    match passed {
        Ok(wire) => {
            let way = Way::Relayed(relay);
            Ok(Dialed { wire, way })
        }
        Err(DialError::Failed(reason)) => {
            transport.ways().note_relay_failed(node, relay);
            let reason = format!("through node {}: {reason}", relay.0);
            Err(DialError::Failed(reason))
        }
        Err(refused) => Err(refused),
    }
}

/// Connects to a node, whichever way comes about; a way has come about when `greet` is content with who is at its end.
/// So a link on which connections can be made and nothing else comes through is a cut link too.
///
/// # Errors
/// `Refused` where the node's machine says, also through a relay, that its process is gone.
pub(in crate::raft) async fn dial<T, G>(
    transport: &Arc<Transport>,
    node: NodeId,
    address: &NodeAddress,
    greet: impl Fn(Dialed) -> G,
) -> Result<T, DialError>
where
    G: Future<Output = Result<T, String>>,
{
    let relay_first = transport.ways().prefers_relay(node);
    let (direct_failed, relay_failed) = (Notify::new(), Notify::new());
    let direct = async {
        if relay_first {
            let _ = timeout(HEAD_START, relay_failed.notified()).await;
        }
        let dialed = directly(transport, address).await?;
        greet(dialed).await.map_err(DialError::Failed)
    };
    let relayed = async {
        if !relay_first {
            let _ = timeout(HEAD_START, direct_failed.notified()).await;
        }
        if !transport.ways().may_relay(node) {
            return Err(DialError::Failed("a relay was refused just now".to_owned()));
        }
        let dialed = through_a_relay(transport, node, address).await?;
        greet(dialed).await.map_err(DialError::Failed)
    };
    let (mut direct, mut relayed) = (pin!(direct), pin!(relayed));
    let (mut failed_directly, mut failed_relayed) = (None, None);
    loop {
        tokio::select! {
            reached = &mut direct, if failed_directly.is_none() => match reached {
                Ok(reached) => return Ok(reached),
                Err(error) => {
                    failed_directly = Some(error);
                    direct_failed.notify_one();
                }
            },
            reached = &mut relayed, if failed_relayed.is_none() => match reached {
                Ok(reached) => return Ok(reached),
                Err(error) => {
                    failed_relayed = Some(error);
                    relay_failed.notify_one();
                }
            },
        }
        match (&failed_directly, &failed_relayed) {
            // Whoever reaches the machine knows best.
            (Some(_), Some(refused @ DialError::Refused(_))) => return Err(refused.clone()),
            (Some(error), Some(_)) => return Err(error.clone()),
            _ => {}
        }
    }
}

/// Whether a process is known to be gone: its machine refuses connections, to this node or, where this node gets no
/// answer, to another.
pub(in crate::raft) async fn is_gone(
    transport: &Arc<Transport>,
    node: NodeId,
    address: &NodeAddress,
    at_most: Duration,
) -> bool {
    match timeout(at_most, TcpStream::connect(address.0.as_str())).await {
        Ok(Ok(_)) => false,
        Ok(Err(_)) => true,
        Err(_) => {
            let relayed = timeout(at_most, through_a_relay(transport, node, address)).await;
            matches!(relayed, Ok(Err(DialError::Refused(_))))
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::raft::NodeIdentity;
    use crate::state::NodeIncarnation;

    const NODE: NodeId = NodeId(2);

    fn transport() -> Arc<Transport> {
        Transport::new(NodeIdentity {
            cluster: 7,
            node: NodeId(1),
            incarnation: NodeIncarnation(1),
        })
    }

    /// An address where nobody listens.
    async fn refusing() -> NodeAddress {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        NodeAddress(listener.local_addr().unwrap().to_string())
    }

    #[tokio::test]
    async fn r16_a_relay_that_is_gone_says_nothing_of_the_node_behind_it() {
        let transport = transport();
        transport.set_address(NodeId(3), NodeIncarnation(1), &refusing().await);
        let dialed = through_a_relay(&transport, NODE, &refusing().await).await;
        assert!(matches!(dialed, Err(DialError::Failed(_))));
        assert!(transport.ways().may_relay(NODE), "others may be asked at once");
    }

    #[test]
    fn the_host_of_an_address() {
        for (address, host) in [
            ("node-1.example:7946", "node-1.example"),
            ("127.0.0.1:7946", "127.0.0.1"),
            ("[::1]:7946", "::1"),
        ] {
            assert_eq!(host_of(address), host);
        }
    }
}
