//! Frames as they are written: those that nodes of one version have sent, nodes of every later version read.
//!
//! `frames_v1.txt` has a line for every sample. Lines are added and never changed. `tests/golden` has the file as each
//! release has left it. With `QUORATE_GOLDEN` set to a directory the file of this version is written there.

#[path = "../../../cluster/src/frames/lines.rs"]
mod lines;

use quorate_cluster::node::Giving;
use quorate_cluster::state::{GiveId, NodeId, NodeIncarnation, Sequence, SessionId, ShareKey};
use quorate_proto::codec::QoS;
use quorate_storage::log::GroupId;

use self::lines::Named;
use super::frame::{self, ForwardedMessage, FrameHeader, NO_MESSAGE, Recipients};
use super::lost::{Loser, Lost, visit_losers};
use crate::worker::{Lender, LenderNews, Returned};

const FILE: &str = "frames-broker.txt";
const SESSION: SessionId = SessionId(0x0102_0304_0506_0708);

const MESSAGE: ForwardedMessage<'static> = ForwardedMessage {
    topic: "a/b",
    forwardable: b"\x01\x01",
    payload: b"payload",
    qos: QoS::ExactlyOnce,
    retain: true,
    expiry_secs: Some(300),
    publisher: Some(SessionId(0x1112_1314_1516_1718)),
};

/// What a frame says.
#[derive(Debug, PartialEq)]
struct Said {
    header: FrameHeader,
    losers: Vec<String>,
    items: Vec<String>,
}

fn item(recipients: &Recipients, message: &ForwardedMessage<'_>) -> String {
    format!("{recipients:?} {message:?}")
}

fn loser(loser: Loser<'_>) -> String {
    match loser {
        Loser::Anybody => "anybody".to_owned(),
        Loser::SubscriberOf(topic) => format!("of {topic}"),
        Loser::Session(session) => format!("{session:?}"),
        Loser::Lenders => "lenders".to_owned(),
    }
}

fn read(frame: &[u8]) -> Option<Said> {
    let opened = frame::open(frame)?;
    let mut said = Said {
        header: opened.header,
        losers: Vec::new(),
        items: Vec::new(),
    };
    visit_losers(opened.lost, |lost| said.losers.push(loser(lost)));
    frame::visit(opened.items, |recipients, message| {
        said.items.push(item(recipients, message));
    })
    .then_some(said)
}

struct Sample {
    name: String,
    frame: Vec<u8>,
    said: Said,
}

fn sample(
    name: &str,
    lost: Option<(&Lost, &[&str])>,
    items: &[(Recipients, ForwardedMessage<'_>)],
) -> Sample {
    let header = FrameHeader {
        incarnation: 300,
        number: 0x0a0b,
        gap: lost.is_some(),
    };
    let mut bytes = Vec::new();
    for (recipients, message) in items {
        frame::put_item(&mut bytes, recipients, message);
    }
    let (named, losers) = lost.map_or_else(Default::default, |(lost, losers)| {
        (lost.encode(), losers.to_vec())
    });
    Sample {
        name: name.to_owned(),
        frame: frame::frame(header, &named, &bytes),
        said: Said {
            header,
            losers: losers.into_iter().map(str::to_owned).collect(),
            items: items.iter().map(|(to, message)| item(to, message)).collect(),
        },
    }
}

/// What does not compile here lacks a sample in [`recipients`].
fn name_of(recipients: &Recipients) -> &'static str {
    match recipients {
        Recipients::Matching => "matching",
        Recipients::Late(_) => "late",
        Recipients::Member { .. } => "member",
        Recipients::Borrower { .. } => "borrower",
        Recipients::Lender { news, .. } => match news {
            LenderNews::Returned(_, _, Returned::Done) => "lender_done",
            LenderNews::Returned(_, _, Returned::Back) => "lender_back",
            LenderNews::Returned(_, _, Returned::Full) => "lender_full",
            LenderNews::HasRoom(_) => "lender_has_room",
        },
        Recipients::Holder { giving, .. } => match giving {
            Giving::Forgotten => "holder_forgotten",
            Giving::Lent => "holder_lent",
            Giving::Held => "holder_held",
            Giving::Offered => "holder_offered",
        },
        Recipients::Dispatch { is_full: true, .. } => "dispatch_full",
        Recipients::Dispatch { is_full: false, .. } => "dispatch_back",
        Recipients::Dispatches { .. } => "dispatches",
    }
}

fn share() -> ShareKey {
    ShareKey {
        name: "group".into(),
        filter: "a/+".into(),
    }
}

fn borrower() -> Recipients {
    Recipients::Borrower {
        session: SESSION,
        share: share(),
        incarnation: NodeIncarnation(301),
        worker: 302,
        number: 303,
        is_final: true,
    }
}

/// Of every kind.
fn recipients() -> Vec<Recipients> {
    let lender = Lender {
        node: NodeId(2),
        incarnation: NodeIncarnation(301),
        worker: 302,
    };
    let lender = |news| Recipients::Lender { lender, news };
    let returned = |returned| lender(LenderNews::Returned(303, SESSION, returned));
    let holder = |giving| Recipients::Holder {
        session: SESSION,
        share: share(),
        group: GroupId(3),
        sequence: Sequence(304),
        give: GiveId(305),
        giving,
    };
    let dispatch = |is_full, is_back| Recipients::Dispatch {
        session: SESSION,
        share: share(),
        group: GroupId(3),
        sequence: Sequence(304),
        give: GiveId(305),
        is_full,
        is_back,
    };
    vec![
        Recipients::Matching,
        Recipients::Late(vec![SESSION, SessionId(306)]),
        Recipients::Member {
            session: SESSION,
            share: share(),
        },
        borrower(),
        returned(Returned::Done),
        returned(Returned::Back),
        returned(Returned::Full),
        lender(LenderNews::HasRoom(SESSION)),
        holder(Giving::Forgotten),
        holder(Giving::Lent),
        holder(Giving::Held),
        holder(Giving::Offered),
        dispatch(true, false),
        dispatch(false, true),
        Recipients::Dispatches {
            session: SESSION,
            groups: vec![GroupId(3), GroupId(300)],
        },
    ]
}

fn samples() -> Vec<Sample> {
    let plain = |qos| ForwardedMessage {
        topic: "t",
        qos,
        ..NO_MESSAGE
    };
    let mut samples: Vec<Sample> = recipients()
        .into_iter()
        .map(|recipients| sample(name_of(&recipients), None, &[(recipients, MESSAGE)]))
        .collect();
    for (name, qos) in [("qos_0", QoS::AtMostOnce), ("qos_1", QoS::AtLeastOnce)] {
        samples.push(sample(name, None, &[(Recipients::Matching, plain(qos))]));
    }
    let mut dropped = Vec::new();
    frame::put_item(&mut dropped, &Recipients::Matching, &MESSAGE);
    frame::put_item(&mut dropped, &borrower(), &MESSAGE);
    let mut lost = Lost::default();
    lost.note_items(&dropped, true, &mut Vec::new());
    let session = loser(Loser::Session(SESSION));
    let items = [
        (Recipients::Matching, MESSAGE),
        (borrower(), plain(QoS::AtLeastOnce)),
    ];
    samples.push(sample("gap", Some((&lost, &["of a/b", &session])), &items));
    lost.note_items(b"not an item", true, &mut Vec::new());
    samples.push(sample(
        "gap_anybody",
        Some((&lost, &["anybody", "lenders"])),
        &items,
    ));
    samples
}

fn check_read(samples: &[Sample], frames: &[Named]) {
    for (name, frame) in frames {
        let said = read(frame).unwrap_or_else(|| panic!("{name} is not read"));
        if let Some(sample) = samples.iter().find(|sample| sample.name == *name) {
            assert_eq!(said, sample.said, "{name}");
        }
    }
}

/// This one's among them: it is frozen, and what is kept of it is read as well.
#[test]
fn frames_of_earlier_versions_are_read() {
    let samples = samples();
    let named: Vec<Named> = samples
        .iter()
        .map(|sample| (sample.name.clone(), sample.frame.clone()))
        .collect();
    let frozen = include_str!("frames_v1.txt");
    lines::check_frozen(&named, frozen, FILE);
    check_read(&samples, &lines::parse(frozen));
    for frames in lines::released(FILE) {
        check_read(&samples, &frames);
    }
}
