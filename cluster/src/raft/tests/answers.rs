//! Answers of a node's service that are more than the caller reads, and answers behind a failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use openraft::raft::AppendEntriesRequest;
use prost::Message as _;
use tokio::sync::mpsc;

use super::connections::Node;
use super::table::Table;
use super::{Disk, lead_alone, within};
use crate::raft::answers::answers;
use crate::raft::peer::client;
use crate::raft::server::append_stream;
use crate::raft::types::Vote;
use crate::raft::wire::proto::{Request, RequestFrame};
use crate::raft::wire::{AnswerBody, RequestBody};
use crate::raft::{ConnectionUse, LargeAnswer, PeerStart, Reply, Service};
use crate::state::NodeId;

const ANSWER_BYTES: usize = 256 << 10;
const REQUESTS: u64 = 1_000;

/// Answers as the read of a queue is answered, and counts what it holds for that.
#[derive(Default)]
struct Library {
    held: Arc<AtomicUsize>,
    held_max: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

/// An answer's bytes, counted until they are encoded.
struct Page {
    bytes: Vec<u8>,
    held: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes.len(), Ordering::SeqCst);
    }
}

impl Service for Library {
    fn handle(&self, _: PeerStart, _: Bytes, mut reply: Reply) {
        let (held, held_max) = (Arc::clone(&self.held), Arc::clone(&self.held_max));
        self.asked.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            if reply.make_room(LargeAnswer::Read, ANSWER_BYTES).await.is_none() {
                return;
            }
            let now = held.fetch_add(ANSWER_BYTES, Ordering::SeqCst) + ANSWER_BYTES;
            held_max.fetch_max(now, Ordering::SeqCst);
            let bytes = vec![0; ANSWER_BYTES];
            reply.send(Bytes::from_owner(Page { bytes, held }));
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_caller_does_not_read_is_not_made_for_it() {
    let library = Arc::new(Library::default());
    let (one, two) = (
        Node::start(1).await,
        Node::start_serving(2, library.clone()).await,
    );
    let wire = crate::raft::open(&two.address.to_string(), "127.0.0.1", None)
        .await
        .unwrap();
    let (frames, mut sent) = mpsc::channel(8);
    let hello = RequestFrame {
        hello: Some(one.transport.hello_to(NodeId(2))),
        requests: Vec::new(),
    };
    frames.send(hello).await.unwrap();
    let stream = futures_util::stream::poll_fn(move |context| sent.poll_recv(context));
    let answers = client(wire).await.unwrap().exchange(stream).await;
    let mut answers = answers.unwrap().into_inner();
    assert!(answers.message().await.unwrap().unwrap().hello.is_some());
    for number in 1..=REQUESTS {
        let request = Request {
            group: 0,
            beginning: 0,
            number,
            body: Some(RequestBody::Service(Bytes::new())),
        };
        let frame = RequestFrame {
            hello: None,
            requests: vec![request],
        };
        within(frames.send(frame)).await.unwrap();
    }
    let all = usize::try_from(REQUESTS).unwrap();
    within(async {
        while library.asked.load(Ordering::SeqCst) < all {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let mut answered = 0;
    while answered < REQUESTS {
        let frame = within(answers.message()).await.unwrap().unwrap();
        assert!(frame.encoded_len() < 2 * ANSWER_BYTES + 1024);
        answered += frame.answers.len() as u64;
    }
    let held = library.held_max.load(Ordering::SeqCst);
    assert!(held <= 4 << 20, "{held} bytes were made and not sent");
    assert!(held >= 2 << 20, "it is no bottleneck");
}

/// Requests that must not be late have no large answers before them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prompt_requests_go_with_heartbeats() {
    let (one, two) = (Node::start(1).await, Node::start(2).await);
    one.knows(2, two.address);
    let connections = |used_for: ConnectionUse| {
        let counts = one.transport.connection_counts();
        let of = counts.iter().filter(|count| count.used_for == used_for);
        of.map(|count| count.count).sum::<u64>()
    };
    for _ in 0..2 {
        let answered = one.transport.ask_promptly(NodeId(2), Bytes::from_static(b"a"));
        assert_eq!(within(answered.wait()).await.unwrap(), &b"\x02a"[..]);
        assert_eq!(connections(ConnectionUse::Prompt), 1);
        assert_eq!(connections(ConnectionUse::Raft), 0);
        assert_eq!(connections(ConnectionUse::Service), 0);
    }
    assert_eq!(one.ask(2, "b").await.unwrap(), &b"\x02b"[..]);
    assert_eq!(connections(ConnectionUse::Service), 1);
}

/// A connection is replaced, and left for a better one, when everything on it is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_behind_a_failed_append_is_answered_too() {
    const APPENDS: u64 = 200;
    let group = lead_alone(&Disk::new().parts(1), &Table::default()).await;
    let (answers, mut frames) = answers();
    let (appends, requests) = mpsc::channel(APPENDS as usize);
    for number in 1..=APPENDS {
        let append = AppendEntriesRequest {
            // Of an older leader.
            vote: Vote::new_committed(0, 9),
            prev_log_id: None,
            entries: Vec::new(),
            leader_commit: None,
        };
        appends.try_send((number, append)).unwrap();
    }
    within(append_stream(group, requests, answers)).await;
    assert!(appends.is_closed(), "what comes now would never be answered");
    let mut answered = Vec::new();
    while answered.len() < APPENDS as usize {
        let frame = within(frames.next()).await.unwrap().unwrap();
        answered.extend(frame.answers);
    }
    answered.sort_by_key(|answer| answer.number);
    for (expected, answer) in (1..).zip(answered) {
        assert_eq!(answer.number, expected);
        match answer.body.unwrap() {
            AnswerBody::HigherVote(_) => assert_eq!(expected, 1),
            AnswerBody::Unavailable(_) => assert!(expected > 1),
            other => panic!("{other:?}"),
        }
    }
}
