//! Samples of the messages of Raft, and that Raft's types say the same.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};

use crate::frames::{Kind, kind};
use crate::raft::NodeAddress;
use crate::raft::codec::{encode_batch, encode_payload, encode_snapshot_meta};
use crate::raft::snapshot::{SnapshotData, SnapshotReceiver};
use crate::raft::types::{Membership, Payload, SnapshotMeta, StoredMembership, log_id_of};
use crate::raft::wire::proto::{self, transfer_answer::Refused};
use crate::raft::wire::*;

fn hello() -> proto::Hello {
    proto::Hello {
        protocol_version: 1,
        cluster: Bytes::from_static(b"0123456789abcdef"),
        node: 2,
        incarnation: 300,
        peer: 4,
        start: Bytes::from_static(&[6; 16]),
        accepted_incarnation: 299,
        accepted: Bytes::from_static(&[7; 16]),
        offered: vec![Bytes::from_static(&[8; 16]), Bytes::from_static(&[9; 16])],
    }
}

fn vote(term: u64) -> proto::StoredVote {
    proto::StoredVote {
        term,
        node: 7,
        committed: true,
    }
}

fn position(index: u64) -> proto::LogPosition {
    proto::LogPosition {
        term: 5,
        leader: 6,
        index,
    }
}

fn membership() -> Membership {
    let nodes = BTreeMap::from([
        (1, NodeAddress("a:1".to_owned())),
        (2, NodeAddress("b:2".to_owned())),
        (7, NodeAddress("learner:3".to_owned())),
    ]);
    Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([1])], nodes).unwrap()
}

fn stored_log_id(index: u64) -> crate::raft::types::LogId {
    log_id_of(quorate_storage::log::LogPosition {
        term: 5,
        leader: 6,
        index,
    })
}

fn election(term: u64) -> proto::Vote {
    proto::Vote {
        vote: Some(vote(term)),
        last: Some(position(310)),
        leadership_transfer: true,
    }
}

fn requests() -> Vec<(&'static str, RequestBody)> {
    let payloads = [
        encode_payload(Payload::Blank),
        encode_batch(b"batch"),
        encode_payload(Payload::Membership(membership())),
    ];
    let entries = (302..).zip(payloads).map(|(index, payload)| proto::Entry {
        position: Some(position(index)),
        payload,
    });
    let append = proto::Append {
        vote: Some(vote(5)),
        previous: Some(position(301)),
        entries: entries.collect(),
        committed: Some(position(300)),
        stream: 17,
    };
    let transfer = proto::TransferLeader {
        from: Some(vote(8)),
        to: 9,
        last: Some(position(311)),
    };
    vec![
        ("append", RequestBody::Append(append)),
        ("vote", RequestBody::Vote(election(6))),
        ("pre_vote", RequestBody::PreVote(election(7))),
        ("transfer_leader", RequestBody::TransferLeader(transfer)),
        ("end_append_stream", RequestBody::EndAppendStream(18)),
        ("service", RequestBody::Service(Bytes::from_static(b"request"))),
    ]
}

fn answers() -> Vec<(&'static str, AnswerBody)> {
    let answer = proto::VoteAnswer {
        vote: Some(vote(9)),
        granted: true,
        last: Some(position(312)),
    };
    let transfer = |refused| AnswerBody::TransferLeader(proto::TransferAnswer { refused });
    let changed = Refused::VoteChanged(proto::VoteChanged {
        expected: Some(vote(10)),
        actual: Some(vote(11)),
    });
    let log = Refused::LogNotFlushed(proto::LogNotFlushed {
        expected: Some(position(313)),
        actual: Some(position(314)),
    });
    let appended = proto::Appended {
        last: Some(position(315)),
    };
    vec![
        ("appended", AnswerBody::Appended(appended)),
        ("conflict", AnswerBody::Conflict(position(316))),
        ("higher_vote", AnswerBody::HigherVote(vote(12))),
        ("vote", AnswerBody::Vote(answer)),
        ("transfer_leader", transfer(None)),
        ("transfer_leader_vote_changed", transfer(Some(changed))),
        ("transfer_leader_log_not_flushed", transfer(Some(log))),
        ("unavailable", AnswerBody::Unavailable("stopped".to_owned())),
        ("service", AnswerBody::Service(Bytes::from_static(b"answer"))),
    ]
}

fn chunk(count: u32, content: &[u8]) -> Bytes {
    let mut checked = BytesMut::new();
    checked.put_u32_le(count);
    checked.put_slice(content);
    let mut chunk = BytesMut::new();
    chunk.put_u32_le(crc32c::crc32c(&checked));
    chunk.put_slice(&checked);
    chunk.freeze()
}

/// A record, and the end.
fn chunks() -> [Bytes; 2] {
    let record = [&3_u32.to_le_bytes()[..], &5_u32.to_le_bytes(), b"key", b"value"].concat();
    [chunk(1, &record), chunk(u32::MAX, &1_u64.to_le_bytes())]
}

fn snapshot_frames() -> Vec<(&'static str, proto::SnapshotFrame)> {
    let meta = SnapshotMeta {
        last_log_id: Some(stored_log_id(320)),
        last_membership: StoredMembership::new(Some(stored_log_id(319)), membership()),
    };
    let header = proto::SnapshotHeader {
        hello: Some(hello()),
        group: 3,
        vote: Some(vote(13)),
        meta: encode_snapshot_meta(&meta),
        beginning: 2,
    };
    let [record, end] = chunks().map(|chunk| proto::SnapshotFrame { header: None, chunk });
    let header = proto::SnapshotFrame {
        header: Some(header),
        chunk: Bytes::new(),
    };
    vec![("header", header), ("record", record), ("end", end)]
}

pub(crate) fn kinds() -> Vec<Kind> {
    let request = |body| proto::RequestFrame {
        hello: None,
        requests: vec![proto::Request {
            group: 3,
            number: 400,
            body: Some(body),
            beginning: 2,
        }],
    };
    let answer = |body| proto::AnswerFrame {
        hello: None,
        answers: vec![proto::Answer {
            number: 400,
            body: Some(body),
        }],
    };
    let beginning = proto::RequestFrame {
        hello: Some(hello()),
        requests: Vec::new(),
    };
    let answered = proto::AnswerFrame {
        hello: Some(hello()),
        answers: Vec::new(),
    };
    let relay = proto::RelayRequest {
        hello: Some(hello()),
        target: 5,
    };
    let not_relayed = proto::RelayAnswer {
        failed: "connection refused".to_owned(),
        refused: true,
    };
    let installed = proto::SnapshotAnswer { vote: Some(vote(14)) };
    let mut request_frames = vec![("hello", beginning)];
    request_frames.extend(requests().into_iter().map(|(case, body)| (case, request(body))));
    let mut answer_frames = vec![("hello", answered)];
    answer_frames.extend(answers().into_iter().map(|(case, body)| (case, answer(body))));
    vec![
        kind("quorate.raft.v1.RequestFrame", request_frames),
        kind("quorate.raft.v1.AnswerFrame", answer_frames),
        kind("quorate.raft.v1.SnapshotFrame", snapshot_frames()),
        kind("quorate.raft.v1.SnapshotAnswer", vec![("installed", installed)]),
        kind("quorate.raft.v1.RelayRequest", vec![("target", relay)]),
        kind(
            "quorate.raft.v1.RelayAnswer",
            vec![
                ("passed_on", proto::RelayAnswer::default()),
                ("refused", not_relayed),
            ],
        ),
    ]
}

#[test]
fn sampled_requests_and_answers_are_rafts() {
    for (case, body) in requests() {
        let again = match body.clone() {
            RequestBody::Append(append) => {
                let stream = append.stream;
                RequestBody::Append(append_to_wire(append_from_wire(append).unwrap(), stream))
            }
            RequestBody::Vote(vote) => {
                RequestBody::Vote(vote_request_to_wire(vote_request_from_wire(vote).unwrap()))
            }
            RequestBody::PreVote(vote) => {
                RequestBody::PreVote(vote_request_to_wire(vote_request_from_wire(vote).unwrap()))
            }
            RequestBody::TransferLeader(transfer) => {
                RequestBody::TransferLeader(transfer_to_wire(&transfer_from_wire(transfer).unwrap()))
            }
            same @ (RequestBody::EndAppendStream(_) | RequestBody::Service(_)) => same,
        };
        assert_eq!(again, body, "{case}");
    }
    for (case, body) in answers() {
        let again = match body.clone() {
            appended @ (AnswerBody::Appended(_) | AnswerBody::Conflict(_) | AnswerBody::HigherVote(_)) => {
                appended_to_wire(appended_from_wire(appended).unwrap())
            }
            vote @ AnswerBody::Vote(_) => vote_answer_to_wire(vote_answer_from_wire(vote).unwrap()),
            transfer @ AnswerBody::TransferLeader(_) => {
                transfer_answer_to_wire(transfer_answer_from_wire(transfer).unwrap())
            }
            same @ (AnswerBody::Unavailable(_) | AnswerBody::Service(_)) => same,
        };
        assert_eq!(again, body, "{case}");
    }
}

#[test]
fn sampled_chunks_are_a_snapshot() {
    let spool = tempfile::tempdir().unwrap();
    let mut receiver = SnapshotReceiver::create(spool.path()).unwrap();
    for chunk in chunks() {
        receiver.push(chunk).unwrap();
    }
    let mut received = SnapshotData::Received(receiver.finish().unwrap());
    let mut records = Vec::new();
    let mut note = |key: &[u8], value: &[u8]| {
        records.push((key.to_vec(), value.to_vec()));
        Ok(())
    };
    received.visit(&mut note).unwrap();
    assert_eq!(records, [(b"key".to_vec(), b"value".to_vec())]);
    let mut sent = Vec::new();
    let mut take = |chunk| {
        sent.push(chunk);
        Ok(())
    };
    received.chunks(&mut take).unwrap();
    assert_eq!(sent, chunks());
}
