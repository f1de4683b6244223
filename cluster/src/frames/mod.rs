//! The messages of `proto/proto` as they are written: what nodes of one version have sent, and what they have stored in
//! `meta`, those of every later version read.
//!
//! `frames_v1.txt` has a line for every sample. Lines are added and never changed, so a new field gets a sample of its
//! own. `tests/golden` has the file as each release has left it. With `QUORATE_GOLDEN` set to a directory the file of this
//! version is written there.

mod lines;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;

use prost::Message;
use protox::prost_reflect::{DescriptorPool, DynamicMessage, Value};

use self::lines::{Named, hex};

const FILE: &str = "frames-cluster.txt";

const METHODS: [&str; 4] = [
    "quorate.node.v1.Seed.Discover(quorate.node.v1.DiscoverRequest) -> quorate.node.v1.DiscoverAnswer",
    "quorate.node.v1.Seed.Join(quorate.node.v1.JoinRequest) -> quorate.node.v1.JoinAnswer",
    "quorate.raft.v1.RaftPeer.Exchange(stream quorate.raft.v1.RequestFrame) -> stream quorate.raft.v1.AnswerFrame",
    "quorate.raft.v1.RaftPeer.InstallSnapshot(stream quorate.raft.v1.SnapshotFrame) -> quorate.raft.v1.SnapshotAnswer",
];

type Again = dyn Fn(&str, &[u8]) -> Vec<u8>;

/// Samples of one kind of message.
pub(crate) struct Kind {
    /// As the protocol calls it, with its package.
    message: &'static str,
    samples: Vec<Named>,
    /// Decodes a frame of this name, compares it with the sample of that name, if there is one, and encodes it again.
    again: Box<Again>,
}

/// These samples, by what is special about each.
pub(crate) fn kind<M>(message: &'static str, samples: Vec<(&'static str, M)>) -> Kind
where
    M: Message + Default + PartialEq + Debug + 'static,
{
    let samples: Vec<(String, M)> = samples
        .into_iter()
        .map(|(case, sample)| (format!("{message}/{case}"), sample))
        .collect();
    let encoded = samples.iter();
    Kind {
        message,
        samples: encoded
            .map(|(name, sample)| (name.clone(), sample.encode_to_vec()))
            .collect(),
        again: Box::new(move |name, frame| {
            let read = M::decode(frame).unwrap_or_else(|error| panic!("{name}: {error}"));
            if let Some((_, sample)) = samples.iter().find(|(known, _)| known == name) {
                assert_eq!(&read, sample, "{name}");
            }
            read.encode_to_vec()
        }),
    }
}

fn kinds() -> Vec<Kind> {
    let mut kinds = crate::raft::tests::frames::kinds();
    kinds.extend(crate::node::tests::frames::kinds());
    kinds.extend(crate::meta::tests::frames::kinds());
    kinds
}

fn check_read(kinds: &[Kind], frames: &[Named]) {
    for (name, frame) in frames {
        let (message, _) = name.split_once('/').expect("a message and what is special");
        let kind = kinds.iter().find(|kind| kind.message == message);
        let kind = kind.unwrap_or_else(|| panic!("{message} is not known any more"));
        assert_eq!(hex(&(kind.again)(name, frame)), hex(frame), "{name}");
    }
}

/// This one's among them: it is frozen, and what is kept of it is read as well.
#[test]
fn frames_of_earlier_versions_are_read() {
    let kinds = kinds();
    let samples: Vec<Named> = kinds.iter().flat_map(|kind| kind.samples.clone()).collect();
    let frozen = include_str!("frames_v1.txt");
    lines::check_frozen(&samples, frozen, FILE);
    check_read(&kinds, &lines::parse(frozen));
    for frames in lines::released(FILE) {
        check_read(&kinds, &frames);
    }
}

fn note_fields(message: &DynamicMessage, noted: &mut BTreeSet<String>) {
    for (field, value) in message.fields() {
        noted.insert(field.full_name().to_owned());
        match value {
            Value::Message(inner) => note_fields(inner, noted),
            Value::List(values) => {
                for inner in values.iter().filter_map(Value::as_message) {
                    note_fields(inner, noted);
                }
            }
            _ => {}
        }
    }
}

fn protocol() -> DescriptorPool {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/proto");
    let files = std::fs::read_dir(&directory).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let files: Vec<_> = files
        .filter(|file| file.extension().is_some_and(|end| end == "proto"))
        .collect();
    let descriptors = protox::compile(files, [&directory]).unwrap();
    DescriptorPool::from_file_descriptor_set(descriptors).unwrap()
}

/// What nodes call each other by is on the wire as well.
#[test]
fn services_and_their_methods_are_frozen() {
    let pool = protocol();
    let methods = pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>());
    let described = methods.map(|method| {
        let stream = |streams| if streams { "stream " } else { "" };
        format!(
            "{}({}{}) -> {}{}",
            method.full_name(),
            stream(method.is_client_streaming()),
            method.input().full_name(),
            stream(method.is_server_streaming()),
            method.output().full_name(),
        )
    });
    let described: BTreeSet<String> = described.collect();
    let described: Vec<&str> = described.iter().map(String::as_str).collect();
    assert_eq!(described, METHODS);
}

/// One that is not told is one whose number and type are not frozen; so is a body of a `oneof`.
#[test]
fn every_field_is_told_by_a_sample() {
    let pool = protocol();
    let declared: BTreeSet<String> = pool
        .all_messages()
        .filter(|message| message.package_name().starts_with("quorate."))
        .flat_map(|message| message.fields().collect::<Vec<_>>())
        .map(|field| field.full_name().to_owned())
        .collect();
    assert!(!declared.is_empty());
    let mut told = BTreeSet::new();
    for kind in kinds() {
        let message = pool.get_message_by_name(kind.message).expect("it is declared");
        for (_, frame) in &kind.samples {
            note_fields(
                &DynamicMessage::decode(message.clone(), &frame[..]).unwrap(),
                &mut told,
            );
        }
    }
    let untold: Vec<_> = declared.difference(&told).collect();
    assert!(untold.is_empty(), "{untold:#?}");
}
