//! Connections that pass another member (R5).
//!
//! Who wants one connects to the member's port for nodes and writes, before anything else, [`MAGIC`] and a
//! `RelayRequest` (proto/proto/raft.proto) with its length in two bytes. The member connects to the node that is named
//! there, answers with a `RelayAnswer` of the same form, and from then on hands bytes on, both ways, until one end
//! closes. Only members are asked, only members are named, only a direct connection is made for it, and only
//! [`RELAYED_MAX`] are passed on at once.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::dial::{self, DialError};
use super::{Stream, Wire};
use crate::raft::transport::Transport;
use crate::raft::wire::proto::{Hello, RelayAnswer, RelayRequest};
use crate::state::NodeId;

/// The first bytes of a request; those of HTTP/2 begin with "PRI", those of TLS with 22.
pub(super) const MAGIC: &[u8; 8] = b"QRTRELAY";
/// Connections passed on at once: the three lanes of both directions, and a snapshot, of a dozen links.
pub(in crate::raft) const RELAYED_MAX: usize = 96;
/// Bytes of a request or an answer.
const MESSAGE_BYTES_MAX: usize = 1024;
/// Time for the connection that is made for another.
const CONNECT_MAX: Duration = Duration::from_millis(500);
/// Time for a request that has begun.
const REQUEST_MAX: Duration = Duration::from_secs(1);
/// Bytes held in each direction.
const BUFFER_BYTES: usize = 64 << 10;

async fn write_message(wire: &mut (impl Stream + ?Sized), message: &impl Message) -> std::io::Result<()> {
    let encoded = message.encode_to_vec();
    let length = u16::try_from(encoded.len()).unwrap_or(u16::MAX);
    wire.write_all(&length.to_be_bytes()).await?;
    wire.write_all(&encoded).await?;
    wire.flush().await
}

async fn read_message<M: Message + Default>(wire: &mut (impl Stream + ?Sized)) -> std::io::Result<M> {
    let length = usize::from(wire.read_u16().await?);
    if length > MESSAGE_BYTES_MAX {
        return Err(std::io::Error::other("the message is too long"));
    }
    let mut encoded = vec![0; length];
    wire.read_exact(&mut encoded).await?;
    M::decode(&encoded[..]).map_err(std::io::Error::other)
}

/// Asks the member at the other end to pass what follows on to `target`.
pub(super) async fn ask(wire: &mut Wire, hello: Hello, target: NodeId) -> Result<(), DialError> {
    let request = RelayRequest {
        hello: Some(hello),
        target: target.0,
    };
    let asking = async {
        wire.write_all(MAGIC).await?;
        write_message(wire, &request).await?;
        read_message::<RelayAnswer>(wire).await
    };
    let answer = asking
        .await
        .map_err(|error| DialError::Failed(error.to_string()))?;
    match answer.failed {
        failed if failed.is_empty() => Ok(()),
        failed if answer.refused => Err(DialError::Refused(failed)),
        failed => Err(DialError::Failed(failed)),
    }
}

/// What this node passes on for others.
pub(in crate::raft) struct Relays(Arc<Semaphore>);

impl Default for Relays {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(RELAYED_MAX)))
    }
}

impl Relays {
    /// Connections that are passed on now.
    pub(in crate::raft) fn count(&self) -> usize {
        RELAYED_MAX - self.0.available_permits()
    }
}

/// Carries out the request that follows on a connection, and passes bytes on until one end closes.
pub(super) async fn serve(transport: &Arc<Transport>, mut wire: Wire) {
    let request = timeout(REQUEST_MAX, read_message::<RelayRequest>(&mut wire)).await;
    let Ok(Ok(request)) = request else {
        tracing::debug!("a request to pass a connection on did not come whole");
        return;
    };
    let asking = request.hello.as_ref().map_or(0, |hello| hello.node);
    let target = request.target;
    let permit = Arc::clone(&transport.relays().0).try_acquire_owned();
    let (answer, connected) = match permit {
        Err(_) => (failed("too many connections are passed on", false), None),
        Ok(permit) => match connect(transport, request).await {
            Ok(connected) => (RelayAnswer::default(), Some((connected, permit))),
            Err(error) => {
                let refused = matches!(error, DialError::Refused(_));
                (failed(&error.to_string(), refused), None)
            }
        },
    };
    if let Err(error) = write_message(&mut wire, &answer).await {
        tracing::debug!(node = asking, %error, "who asked for a connection to be passed on is gone");
        return;
    }
    let Some((mut connected, _permit)) = connected else {
        tracing::debug!(
            node = asking,
            target,
            reason = answer.failed,
            "a connection is not passed on"
        );
        return;
    };
    // Who uses it tells of the cut link; here it may be one of many.
    tracing::debug!(node = asking, target, "passing a connection on");
    let passed =
        tokio::io::copy_bidirectional_with_sizes(&mut wire, &mut connected, BUFFER_BYTES, BUFFER_BYTES).await;
    match passed {
        Ok((there, back)) => {
            tracing::debug!(
                node = asking,
                target,
                there,
                back,
                "a connection that was passed on ended"
            );
        }
        Err(error) => {
            tracing::debug!(node = asking, target, %error, "a connection that was passed on ended");
        }
    }
}

fn failed(reason: &str, refused: bool) -> RelayAnswer {
    RelayAnswer {
        failed: reason.chars().take(MESSAGE_BYTES_MAX / 8).collect(),
        refused,
    }
}

/// Connects to the node that a member names.
async fn connect(
    transport: &Arc<Transport>,
    request: RelayRequest,
) -> Result<tokio::net::TcpStream, DialError> {
    let not = |reason: String| Err(DialError::Failed(reason));
    let node = match transport.check_hello(request.hello, None) {
        Ok(node) => node,
        Err(status) => return not(status.message().to_owned()),
    };
    let target = NodeId(request.target);
    if target == node || target == transport.identity().node {
        return not(format!(
            "there is nothing to pass on between {} and {}",
            node.0, target.0
        ));
    }
    if transport.address(node).is_none() {
        return not(format!("node {} is no member", node.0));
    }
    let Some(address) = transport.address(target) else {
        return not(format!("node {} is no member", target.0));
    };
    dial::tcp(&address.0, CONNECT_MAX).await
}
