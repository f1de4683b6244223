//! openraft's network of one group, over the connections that all groups share.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{RaftNetworkFactory, RaftNetworkV2, StorageError};
use tokio::sync::mpsc;

use super::codec;
use super::connection::{self, ConnectionUse, Dialed};
use super::machine::GroupSnapshot;
use super::peer::{self, Answer, Lane, Peer};
use super::snapshot::SnapshotData;
use super::transport::Transport;
use super::types::{GroupLife, NodeAddress, Payload, TypeConfig, Vote};
use super::wire::{self, AnswerBody, RequestBody, WireError, proto};
use crate::state::NodeId;

/// Append requests of one group on the way to one follower.
const APPENDS_IN_FLIGHT: usize = 16;
/// Chunks of a snapshot between the state store and the connection.
const CHUNKS_WAITING_MAX: usize = 2;
/// A snapshot of which no chunk moved for so long has failed.
const SNAPSHOT_STALL_MAX: Duration = Duration::from_secs(15);

/// Makes a group's clients.
pub(super) struct PeerFactory {
    transport: Arc<Transport>,
    group: GroupLife,
}

impl PeerFactory {
    /// The clients of `group`.
    pub(super) fn new(transport: Arc<Transport>, group: GroupLife) -> Self {
        Self { transport, group }
    }

    fn client(&self, target: u64, address: &NodeAddress, appends: Lane) -> GroupPeer {
        let node = NodeId(target);
        GroupPeer {
            transport: Arc::clone(&self.transport),
            prompt: self.transport.peer(node, address, Lane::Prompt),
            peer: self.transport.peer(node, address, appends),
            node,
            group: self.group,
            in_order: appends == Lane::Raft,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for PeerFactory {
    type Network = GroupPeer;

    async fn new_client(&mut self, target: u64, address: &NodeAddress) -> GroupPeer {
        self.client(target, address, Lane::Raft)
    }

    async fn new_heartbeat_client(&mut self, target: u64, address: &NodeAddress) -> GroupPeer {
        self.client(target, address, Lane::Prompt)
    }
}

/// One group's way to one of its members.
pub(super) struct GroupPeer {
    transport: Arc<Transport>,
    /// For votes, which do not wait behind entries.
    prompt: Arc<Peer>,
    /// For appends, entries one way and heartbeats another, and what has to keep its order behind entries.
    peer: Arc<Peer>,
    node: NodeId,
    group: GroupLife,
    /// Whether appends are carried out in order. Heartbeats need not be, and do not wait.
    in_order: bool,
}

/// Ends an append stream at the follower when it is dropped here.
struct AppendStream {
    peer: Arc<Peer>,
    group: GroupLife,
    number: u64,
}

impl Drop for AppendStream {
    fn drop(&mut self) {
        self.peer
            .tell(self.group, RequestBody::EndAppendStream(self.number));
    }
}

fn unreachable(error: &(impl std::error::Error + 'static)) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(error))
}

impl GroupPeer {
    /// Sends a request and waits for its answer, no longer than openraft's time for it.
    async fn ask<T>(
        &self,
        body: RequestBody,
        option: &RPCOption,
        decode: impl FnOnce(AnswerBody) -> Result<T, WireError>,
    ) -> Result<T, RPCError<TypeConfig>> {
        Self::answer(self.prompt.call(self.group, body, None), option, decode).await
    }

    async fn answer<T>(
        answer: Answer,
        option: &RPCOption,
        decode: impl FnOnce(AnswerBody) -> Result<T, WireError>,
    ) -> Result<T, RPCError<TypeConfig>> {
        let answer = tokio::time::timeout(option.soft_ttl(), answer.wait()).await;
        let answer = answer
            .map_err(|elapsed| unreachable(&elapsed))?
            .map_err(|none| unreachable(&none))?;
        decode(answer).map_err(|error| NetworkError::new(&error).into())
    }

    /// Sends an append. The order of calls is the order at the follower.
    async fn send_append(
        peer: &Peer,
        group: GroupLife,
        append: AppendEntriesRequest<TypeConfig>,
        stream: u64,
    ) -> Answer {
        let budget = match append.entries.is_empty() {
            true => None,
            false => {
                peer.reserve(
                    append
                        .entries
                        .iter()
                        .map(|entry| payload_bytes(&entry.payload))
                        .sum(),
                )
                .await
            }
        };
        peer.call(
            group,
            RequestBody::Append(wire::append_to_wire(append, stream)),
            budget,
        )
    }

    async fn appended(answer: Answer) -> Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>> {
        let body = answer.wait().await.map_err(|none| unreachable(&none))?;
        wire::appended_from_wire(body).map_err(|error| NetworkError::new(&error).into())
    }
}

fn payload_bytes(payload: &Payload) -> usize {
    match payload {
        Payload::Normal(data) => data.len(),
        Payload::Blank | Payload::Membership(_) => 0,
    }
}

impl RaftNetworkV2<TypeConfig> for GroupPeer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        append: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let answer = Self::send_append(&self.peer, self.group, append, 0).await;
        Self::appended(answer).await.map(AppendEntriesResponse::from)
    }

    /// Keeps up to [`APPENDS_IN_FLIGHT`] requests on the way and yields their answers in order.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let (peer, group) = (Arc::clone(&self.peer), self.group);
        let stream = self.in_order.then(|| AppendStream {
            peer: Arc::clone(&self.peer),
            group,
            number: self.peer.new_stream(),
        });
        let number = stream.as_ref().map_or(0, |stream| stream.number);
        let sent = input.then(move |append| {
            let peer = Arc::clone(&peer);
            async move { Self::send_append(&peer, group, append, number).await }
        });
        let answers = sent.map(Self::appended).buffered(APPENDS_IN_FLIGHT);
        // What comes behind a failure was refused with it; openraft starts a new stream.
        let answers = answers.scan((false, stream), |(failed, _stream), answer| {
            let ended = std::mem::replace(failed, !matches!(answer, Ok(Ok(_))));
            std::future::ready((!ended).then_some(answer))
        });
        let answers: BoxStream<'s, _> = Box::pin(answers);
        std::future::ready(Ok(answers)).boxed()
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = RequestBody::Vote(wire::vote_request_to_wire(request));
        self.ask(body, &option, wire::vote_answer_from_wire).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = RequestBody::PreVote(wire::vote_request_to_wire(request));
        self.ask(body, &option, wire::vote_answer_from_wire).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = RequestBody::TransferLeader(wire::transfer_to_wire(&request));
        // Behind the entries that it speaks of: its receiver waits for them, but not for long.
        let answer = self.peer.call(self.group, body, None);
        Self::answer(answer, &option, wire::transfer_answer_from_wire).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: GroupSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let header = proto::SnapshotHeader {
            hello: Some(self.transport.hello_to(self.node)),
            group: u32::from(self.group.group.0),
            beginning: self.group.beginning,
            vote: Some(wire::vote_to_wire(&vote)),
            meta: codec::encode_snapshot_meta(&snapshot.meta),
        };
        let address = self.peer.address();
        tokio::select! {
            closed = cancel => Err(closed.into()),
            answer = send_snapshot(&self.transport, self.node, &address, header, snapshot.snapshot) => answer,
        }
    }
}

/// Streams a snapshot over a connection of its own, so that it never stands in the way of heartbeats.
async fn send_snapshot(
    transport: &Arc<Transport>,
    node: NodeId,
    address: &NodeAddress,
    header: proto::SnapshotHeader,
    mut data: SnapshotData,
) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
    let no_connection = |reason: String| StreamingError::from(Unreachable::from_string(reason));
    let reached = |Dialed { wire, way }| async move { Ok((peer::client(wire).await?, way)) };
    let (mut client, way) = connection::dial(transport, node, address, reached)
        .await
        .map_err(|error| no_connection(error.to_string()))?;
    let _counted = transport.ways().established(node, way, ConnectionUse::Snapshot);
    let (frames, mut sent) = mpsc::channel(CHUNKS_WAITING_MAX);
    let first = proto::SnapshotFrame {
        header: Some(header),
        chunk: Bytes::new(),
    };
    let stream = futures_util::stream::poll_fn(move |context| sent.poll_recv(context));
    let runtime = tokio::runtime::Handle::current();
    let reading = tokio::task::spawn_blocking(move || {
        let send = |frame| {
            let sending = tokio::time::timeout(SNAPSHOT_STALL_MAX, frames.send(frame));
            match runtime.block_on(sending) {
                Ok(Ok(())) => Ok(()),
                _ => Err(std::io::Error::new(
                    std::io::ErrorKind::BrokenPipe,
                    "the receiver takes no more",
                )),
            }
        };
        send(first)?;
        data.chunks(&mut |chunk| send(proto::SnapshotFrame { header: None, chunk }))
    });
    let answer = client.install_snapshot(stream).await;
    let read = reading
        .await
        .unwrap_or_else(|_| Err(std::io::Error::other("reading the snapshot panicked")));
    match (read, answer) {
        // The receiver answers before the end where it knows a newer leader.
        (_, Ok(answer)) => {
            let vote = wire::vote_from_wire(answer.into_inner().vote);
            Ok(SnapshotResponse::new(
                vote.map_err(|error| NetworkError::new(&error))?,
            ))
        }
        (Err(error), _) if !is_passing(&error) => {
            Err(StorageError::read_snapshot(None, error_source(&error)).into())
        }
        (_, Err(status)) => Err(NetworkError::new(&status).into()),
    }
}

/// Whether a snapshot failed for a reason that says nothing about this node's disk.
fn is_passing(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::Interrupted
    )
}

fn error_source(error: &std::io::Error) -> openraft::impls::BoxedErrorSource {
    use openraft::errors::ErrorSource;
    openraft::impls::BoxedErrorSource::from_error(error)
}
