//! How nodes reach each other where not everything reaches everything.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::within;
use crate::raft::{
    NodeAddress, NodeIdentity, PeerListener, PeerStart, PeerTls, Reply, Service, Transport, server_builder,
};
use crate::state::{NodeId, NodeIncarnation};

/// Answers every request with its node's number and the request.
struct Echo(u64);

impl Service for Echo {
    fn handle(&self, _: PeerStart, request: Bytes, reply: Reply) {
        reply.send([&[u8::try_from(self.0).unwrap()], &request[..]].concat().into());
    }
}

/// A node that only answers.
pub(super) struct Node {
    pub(super) transport: Arc<Transport>,
    pub(super) address: SocketAddr,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Node {
    pub(super) async fn start(node: u64) -> Self {
        Self::start_with(7, node, None).await
    }

    pub(super) async fn start_with(cluster: u128, node: u64, tls: Option<Arc<PeerTls>>) -> Self {
        Self::start_as(cluster, node, tls, Arc::new(Echo(node))).await
    }

    pub(super) async fn start_serving(node: u64, service: Arc<dyn Service>) -> Self {
        Self::start_as(7, node, None, service).await
    }

    async fn start_as(
        cluster: u128,
        node: u64,
        tls: Option<Arc<PeerTls>>,
        service: Arc<dyn Service>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let identity = NodeIdentity {
            cluster,
            node: NodeId(node),
            incarnation: NodeIncarnation(1),
        };
        let transport = Transport::with_tls(identity, tls.clone());
        transport.set_service(service);
        let incoming = PeerListener::new(listener, Some(Arc::clone(&transport)), tls);
        let server = server_builder().add_service(transport.service());
        let server = tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
        Self {
            transport,
            address,
            server,
        }
    }

    pub(super) fn knows(&self, node: u64, address: SocketAddr) {
        let address = NodeAddress(address.to_string());
        self.transport
            .set_address(NodeId(node), NodeIncarnation(1), &address);
    }

    pub(super) async fn ask(&self, node: u64, text: &'static str) -> Result<Bytes, String> {
        let answered = self
            .transport
            .ask(NodeId(node), Bytes::from_static(text.as_bytes()));
        within(answered.wait()).await.map_err(|error| error.to_string())
    }

    /// Asks until there is an answer.
    pub(super) async fn ask_until_answered(&self, node: u64, text: &'static str) -> Bytes {
        within(async {
            loop {
                if let Ok(answer) = self.ask(node, text).await {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    /// Connections of this node, and whether they pass a relay.
    pub(super) fn ways(&self) -> (u64, u64) {
        let counts = self.transport.connection_counts();
        let sum = |relayed| {
            let of = counts.iter().filter(|count| count.relayed == relayed);
            of.map(|count| count.count).sum()
        };
        (sum(false), sum(true))
    }
}

/// A place where nobody listens.
pub(super) async fn nowhere() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// A link that can be cut: what is written to it goes nowhere then, and nothing tells.
struct Cable {
    address: SocketAddr,
    whole: watch::Sender<bool>,
    /// Connections over it so far.
    connections: Arc<AtomicUsize>,
}

impl Cable {
    async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (whole, is_whole) = watch::channel(true);
        let connections = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let is_whole = is_whole.clone();
                tokio::spawn(async move {
                    let far = TcpStream::connect(target).await.unwrap();
                    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
                    tokio::join!(
                        carry(from_near, to_far, is_whole.clone()),
                        carry(from_far, to_near, is_whole)
                    );
                });
            }
        });
        Self {
            address,
            whole,
            connections,
        }
    }

    fn cut(&self) {
        self.whole.send_replace(false);
    }

    fn mend(&self) {
        self.whole.send_replace(true);
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    is_whole: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 4096];
    let mut lost = false;
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        // Once something is lost nothing of this connection arrives any more.
        lost |= !*is_whole.borrow();
        if !lost && to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r5_what_cannot_be_reached_directly_is_reached_through_a_member() {
    let (one, two, three) = (Node::start(1).await, Node::start(2).await, Node::start(3).await);
    one.knows(2, nowhere().await);
    assert!(one.ask(2, "nobody passes it on").await.is_err());
    one.knows(3, three.address);
    three.knows(1, one.address);
    three.knows(2, two.address);
    assert_eq!(one.ask_until_answered(2, "hello").await, &b"\x02hello"[..]);
    assert_eq!(one.ways(), (0, 1));
    assert_eq!(three.transport.passed_on(), 1);
    // Who is behind the relay is checked end to end.
    three.knows(2, three.address);
    one.knows(4, nowhere().await);
    three.knows(4, two.address);
    assert!(one.ask(4, "this is not node 4").await.is_err());
}

/// A dead member whose number comes first costs a moment, not its whole time to answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r5_a_relay_that_does_not_answer_is_not_waited_for() {
    let (one, two, four) = (Node::start(1).await, Node::start(2).await, Node::start(4).await);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    one.knows(2, nowhere().await);
    one.knows(3, silent.local_addr().unwrap());
    one.knows(4, four.address);
    four.knows(1, one.address);
    four.knows(2, two.address);
    let began = std::time::Instant::now();
    assert_eq!(one.ask(2, "a").await.unwrap(), &b"\x02a"[..]);
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r5_a_cut_link_goes_over_to_a_relay_and_comes_back() {
    let (one, two, three) = (Node::start(1).await, Node::start(2).await, Node::start(3).await);
    let cable = Cable::to(two.address).await;
    one.knows(2, cable.address);
    one.knows(3, three.address);
    three.knows(1, one.address);
    three.knows(2, two.address);
    assert_eq!(one.ask_until_answered(2, "a").await, &b"\x02a"[..]);
    assert_eq!(one.ways(), (1, 0));
    cable.cut();
    let cut = std::time::Instant::now();
    assert_eq!(one.ask_until_answered(2, "b").await, &b"\x02b"[..]);
    assert!(cut.elapsed() < Duration::from_secs(3), "{:?}", cut.elapsed());
    assert_eq!(
        one.ways(),
        (0, 1),
        "connections can be made over the link, and nothing comes through"
    );
    cable.mend();
    let mut asked = 0;
    within(async {
        while one.ways() != (1, 0) {
            // Nothing that is asked meanwhile is lost on the way back.
            assert_eq!(one.ask(2, "c").await.unwrap(), &b"\x02c"[..]);
            asked += 1;
        }
    })
    .await;
    assert!(asked > 0);
    within(async {
        while three.transport.passed_on() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// The buffers of a connection are as long as what it carried: after something large there is a fresh one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_carried_something_large_is_replaced_once() {
    let (one, two) = (Node::start(1).await, Node::start(2).await);
    let cable = Cable::to(two.address).await;
    one.knows(2, cable.address);
    let ask = async |request: Bytes| {
        let length = request.len();
        let answered = within(one.transport.ask(NodeId(2), request).wait()).await;
        assert_eq!(answered.unwrap().len(), length + 1, "nothing is lost on the way");
    };
    let connections = || cable.connections.load(Ordering::SeqCst);
    ask(vec![7; 4 << 20].into()).await;
    assert_eq!(connections(), 1);
    within(async {
        while connections() == 1 || one.ways() != (1, 0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let replaced = std::time::Instant::now();
    while replaced.elapsed() < Duration::from_secs(5) {
        ask(Bytes::from_static(b"small")).await;
    }
    assert_eq!(connections(), 2);
    assert_eq!(one.ways(), (1, 0));
}

/// A peer that is not the one is not called dozens of times a second; a new address is tried at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_the_peer_is_called_less_and_less_often() {
    let (one, two) = (Node::start(1).await, Node::start(2).await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    one.knows(2, listener.local_addr().unwrap());
    let calls = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counting = {
        let calls = Arc::clone(&calls);
        tokio::spawn(async move {
            while let Ok((mut caller, _)) = listener.accept().await {
                calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                // Something that is no HTTP/2.
                let _ = caller.write_all(b"SSH-2.0-x\r\n").await;
            }
        })
    };
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_millis(1_500) {
        assert!(one.ask(2, "a").await.is_err());
    }
    let calls = calls.load(std::sync::atomic::Ordering::SeqCst);
    assert!((3..=10).contains(&calls), "{calls} calls");
    let moved = std::time::Instant::now();
    one.knows(2, two.address);
    assert_eq!(one.ask_until_answered(2, "b").await, &b"\x02b"[..]);
    assert!(
        moved.elapsed() < Duration::from_millis(500),
        "{:?}",
        moved.elapsed()
    );
    counting.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r5_only_members_are_passed_on() {
    let (one, two, three) = (Node::start(1).await, Node::start(2).await, Node::start(3).await);
    one.knows(2, nowhere().await);
    one.knows(3, three.address);
    three.knows(2, two.address);
    assert!(one.ask(2, "who asks is no member there").await.is_err());
    three.knows(1, one.address);
    three.transport.forget_node(NodeId(2));
    assert!(one.ask(2, "the target is no member there").await.is_err());
    let stranger = Node::start_with(8, 1, None).await;
    stranger.knows(2, nowhere().await);
    stranger.knows(3, three.address);
    three.knows(2, two.address);
    assert!(stranger.ask(2, "another cluster").await.is_err());
    assert_eq!(three.transport.passed_on(), 0);
    assert_eq!(one.ask_until_answered(2, "both are").await, &b"\x02both are"[..]);
}

#[tokio::test]
async fn the_address_of_the_latest_start_counts() {
    let one = Node::start(1).await;
    let set = |incarnation, address: &str| {
        let address = NodeAddress(address.to_owned());
        one.transport
            .set_address(NodeId(2), NodeIncarnation(incarnation), &address)
    };
    let known = || one.transport.address(NodeId(2)).unwrap().0;
    assert!(set(5, "a:1"));
    assert!(!set(4, "b:1"), "of an earlier start");
    assert!(!set(7, "a:1"), "a later start at the same place");
    assert!(!set(6, "b:1"), "that one is earlier now");
    assert_eq!(known(), "a:1");
    assert!(set(8, "c:1"));
    assert_eq!(known(), "c:1");
}

/// A connection that says nothing, or nonsense, costs nobody else anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_at_the_port_is_closed() {
    let (one, two) = (Node::start(1).await, Node::start(2).await);
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(two.address).await.unwrap());
    }
    for nonsense in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"QRTRELAY\xff\xff",
        b"QRTRELAY\x00\x02\xff\xff",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
    ] {
        let mut stream = TcpStream::connect(two.address).await.unwrap();
        stream.write_all(nonsense).await.unwrap();
        let mut rest = Vec::new();
        // An answer or none, then the end.
        drop(within(stream.read_to_end(&mut rest)).await);
    }
    one.knows(2, two.address);
    assert_eq!(one.ask_until_answered(2, "a").await, &b"\x02a"[..]);
}

/// Far more connections than may be unknown do not keep a node out, and end by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_who_say_nothing_keep_nobody_out() {
    let (one, two) = (Node::start(1).await, Node::start(2).await);
    let mut silent = Vec::new();
    let began = std::time::Instant::now();
    for _ in 0..400 {
        silent.push(TcpStream::connect(two.address).await.unwrap());
    }
    one.knows(2, two.address);
    assert_eq!(one.ask_until_answered(2, "a").await, &b"\x02a"[..]);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let last = silent.last_mut().unwrap();
    assert_eq!(within(last.read(&mut [0])).await.unwrap_or(0), 0);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

/// What a caller of another version sends.
#[derive(Clone, PartialEq, prost::Message)]
struct Foreign {
    /// A hello where it is one of ours.
    #[prost(bytes = "bytes", tag = "1")]
    hello: Bytes,
    /// A number where ours has requests.
    #[prost(uint64, tag = "2")]
    requests: u64,
}

/// Sends frames in one call; what the call ends with.
async fn call_with(node: &Node, frames: Vec<Foreign>) -> tonic::Status {
    use tonic::codegen::http::uri::PathAndQuery;
    let wire = crate::raft::open(&node.address.to_string(), "127.0.0.1", None)
        .await
        .unwrap();
    let endpoint = tonic::transport::Endpoint::from_static("http://node");
    let channel = crate::raft::channel(endpoint, wire).await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/quorate.raft.v1.RaftPeer/Exchange");
    let codec = tonic_prost::ProstCodec::<Foreign, Foreign>::default();
    // The call stays open behind the frames.
    let frames = futures_util::StreamExt::chain(
        futures_util::stream::iter(frames),
        futures_util::stream::pending(),
    );
    let mut answers = match client.streaming(tonic::Request::new(frames), path, codec).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return status,
    };
    loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return tonic::Status::ok(""),
            Err(status) => return status,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_other_versions_end_the_call_and_nothing_else() {
    use prost::Message as _;
    let (one, two) = (Node::start(1).await, Node::start(2).await);
    let hello = |version| {
        let mut hello = one.transport.hello_to(NodeId(2));
        hello.protocol_version = version;
        Foreign {
            hello: hello.encode_to_vec().into(),
            requests: 0,
        }
    };
    let refused = within(call_with(&two, vec![hello(0)])).await;
    assert!(refused.message().contains("version 0 is too old"), "{refused}");
    let nonsense = Foreign {
        hello: Bytes::new(),
        requests: 7,
    };
    let refused = within(call_with(&two, vec![nonsense.clone()])).await;
    assert_ne!(refused.code(), tonic::Code::Ok, "{refused}");
    // Behind a hello that is fine, also of a newer version.
    within(call_with(&two, vec![hello(99), nonsense])).await;
    one.knows(2, two.address);
    assert_eq!(one.ask_until_answered(2, "a").await, &b"\x02a"[..]);
}

/// A node that takes connections and reads nothing of them.
async fn one_that_reads_nothing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let identity = NodeIdentity {
        cluster: 7,
        node: NodeId(2),
        incarnation: NodeIncarnation(1),
    };
    let transport = Transport::new(identity);
    transport.set_service(Arc::new(Deaf));
    let incoming = PeerListener::new(listener, None, None);
    let server = server_builder().add_service(transport.service());
    tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
    address
}

/// Takes one request and keeps the thread that reads the connection.
struct Deaf;

impl Service for Deaf {
    fn handle(&self, _: PeerStart, _: Bytes, reply: Reply) {
        tokio::task::block_in_place(|| std::thread::sleep(Duration::from_secs(2)));
        drop(reply);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_waits_for_a_peer_that_reads_nothing_is_bounded() {
    const MIB: usize = 1 << 20;
    let one = Node::start(1).await;
    one.knows(2, one_that_reads_nothing().await);
    let request = Bytes::from(vec![0; MIB]);
    let mut waiting = 0;
    let mut refused = 0;
    let mut answers = Vec::new();
    for _ in 0..200 {
        let mut answer = Box::pin(one.transport.ask(NodeId(2), request.clone()).wait());
        // One that is not sent is answered before it is waited for.
        match futures_util::poll!(&mut answer) {
            std::task::Poll::Pending => waiting += 1,
            std::task::Poll::Ready(answer) => {
                assert!(answer.is_err());
                refused += 1;
            }
        }
        answers.push(answer);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // 64 MiB wait to be sent; the connection and the other side's windows hold some more.
    assert!(waiting <= 120, "{waiting} MiB are held");
    assert!(
        waiting >= 64 && refused > 0,
        "{waiting} wait, {refused} are refused"
    );
}
