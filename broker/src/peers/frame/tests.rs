//! What frames say, and what they do not.

use super::*;

fn message<'a>(topic: &'a str, payload: &'a [u8]) -> ForwardedMessage<'a> {
    ForwardedMessage {
        topic,
        forwardable: b"\x01\x01",
        payload,
        qos: QoS::AtLeastOnce,
        retain: true,
        expiry_secs: Some(7),
        publisher: Some(SessionId(99)),
    }
}

fn items() -> Vec<(Recipients, ForwardedMessage<'static>)> {
    let share = ShareKey {
        name: "g".into(),
        filter: "a/+".into(),
    };
    let plain = ForwardedMessage {
        qos: QoS::AtMostOnce,
        retain: false,
        expiry_secs: None,
        publisher: None,
        ..message("b", b"")
    };
    vec![
        (Recipients::Matching, message("a/b", b"one")),
        (Recipients::Late(vec![SessionId(1), SessionId(2)]), plain),
        (
            Recipients::Member {
                session: SessionId(3),
                share: share.clone(),
            },
            message("a/c", b"two"),
        ),
        (
            Recipients::Dispatch {
                session: SessionId(5),
                share: share.clone(),
                group: GroupId(7),
                sequence: Sequence(8),
                give: GiveId(9),
                is_full: true,
                is_back: false,
            },
            plain,
        ),
        (
            Recipients::Borrower {
                session: SessionId(5),
                share: share.clone(),
                incarnation: NodeIncarnation(6),
                worker: 7,
                number: 8,
                is_final: true,
            },
            message("a/e", b"four"),
        ),
        (
            Recipients::Lender {
                lender: Lender {
                    node: NodeId(5),
                    incarnation: NodeIncarnation(6),
                    worker: 7,
                },
                news: LenderNews::Returned(8, SessionId(9), Returned::Full),
            },
            plain,
        ),
        (
            Recipients::Dispatches {
                session: SessionId(6),
                groups: vec![GroupId(7), GroupId(8)],
            },
            plain,
        ),
        (
            Recipients::Holder {
                session: SessionId(4),
                share,
                group: GroupId(5),
                sequence: Sequence(6),
                give: GiveId(7),
                giving: Giving::Held,
            },
            message("a/d", b"three"),
        ),
    ]
}

#[test]
fn frames_come_out_as_they_went_in() {
    let mut bytes = Vec::new();
    for (recipients, message) in items() {
        put_item(&mut bytes, &recipients, &message);
    }
    let header = FrameHeader {
        incarnation: 4,
        number: 5,
        gap: true,
    };
    let whole = frame(header, b"lost", &bytes);
    let read = open(&whole).expect("a frame");
    assert_eq!((read.header, read.lost), (header, &b"lost"[..]));
    let mut expected = items().into_iter();
    assert!(visit(read.items, |recipients, message| {
        assert_eq!(
            expected.next(),
            Some((recipients.clone(), *message_static(message)))
        );
    }));
    assert_eq!(expected.next(), None);
    let header = FrameHeader { gap: false, ..header };
    let whole = frame(header, b"", &bytes);
    let expected = Opened {
        header,
        lost: b"",
        items: &bytes,
    };
    assert_eq!(open(&whole), Some(expected));
}

fn message_static<'a>(message: &'a ForwardedMessage<'a>) -> &'a ForwardedMessage<'a> {
    message
}

#[test]
fn what_is_cut_or_changed_is_not_read_past_its_end() {
    let mut bytes = Vec::new();
    for (recipients, message) in items() {
        put_item(&mut bytes, &recipients, &message);
    }
    for end in 0..bytes.len() {
        visit(&bytes[..end], |_, _| ());
    }
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0xff;
        visit(&changed, |_, _| ());
    }
    assert_eq!(open(b""), None);
    assert_eq!(open(&[9; 40]), None, "another version");
}
