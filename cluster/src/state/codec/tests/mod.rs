//! The entry format: golden bytes, round trips, and bytes that are no entries.

mod golden;
mod strategies;

use proptest::collection::vec;
use proptest::prelude::*;
use quorate_proto::codec::QoS;
use quorate_proto::message::Message;
use strategies::{batch, outcome};

use super::*;
use crate::state::{Origin, PublishCommand, Target};

fn encoded(batch: &Batch) -> Bytes {
    let mut out = Vec::new();
    batch.encode(&mut out);
    out.into()
}

fn borrowed(message: &Message) -> MessageParts<'_> {
    MessageParts {
        topic: message.topic(),
        forwardable: message.forwardable(),
        payload: message.payload(),
        qos: message.qos,
        retain: message.retain,
        expiry_secs: message.expiry_secs,
    }
}

proptest! {
    #[test]
    fn a_batch_comes_back_as_it_was(batch in batch()) {
        prop_assert_eq!(Batch::decode(&encoded(&batch)), Ok(batch));
    }

    /// A front end packs commands one by one, and publishes from borrowed parts.
    #[test]
    fn packing_gives_the_bytes_of_the_whole_batch(batch in batch()) {
        let mut commands = Vec::new();
        for command in &batch.commands {
            match command {
                Command::Publish(publish) => {
                    let PublishCommand { origin, message, targets, set_retained, taken_live } = publish;
                    let (parts, targets) = (borrowed(message), targets.iter().map(Target::borrowed));
                    encode_publish(&mut commands, origin, &parts, targets, *set_retained, *taken_live);
                }
                Command::PublishFirst { number, publish } => {
                    let PublishCommand { origin, message, targets, set_retained, taken_live } = publish;
                    let (parts, targets) = (borrowed(message), targets.iter().map(Target::borrowed));
                    let flags = (*set_retained, *taken_live);
                    encode_publish_first(&mut commands, *number, origin, &parts, targets, flags.0, flags.1);
                }
                command => command.encode(&mut commands),
            }
        }
        let mut packed = Vec::new();
        batch.header().encode_with(&mut packed, &commands, batch.commands.len());
        prop_assert_eq!(Bytes::from(packed), encoded(&batch));
    }

    #[test]
    fn a_batch_that_was_cut_short_is_an_error(batch in batch(), cut in any::<prop::sample::Index>()) {
        let whole = encoded(&batch);
        let cut = whole.slice(..cut.index(whole.len()));
        prop_assert!(Batch::decode(&cut).is_err());
    }

    #[test]
    fn bytes_behind_a_batch_are_an_error(batch in batch(), more in vec(any::<u8>(), 1..5)) {
        let bytes = [&encoded(&batch)[..], &more].concat();
        prop_assert_eq!(Batch::decode(&bytes.into()), Err(CodecError::Trailing(more.len())));
    }

    /// Whatever decodes is the same batch when it is encoded again: no reading makes up what was not said.
    #[test]
    fn arbitrary_bytes_never_panic(batch in batch(), edits in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)) {
        let mut bytes = encoded(&batch).to_vec();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(read) = Batch::decode(&bytes.into()) {
            prop_assert_eq!(Batch::decode(&encoded(&read)), Ok(read));
        }
    }

    #[test]
    fn noise_never_panics(mut bytes in vec(any::<u8>(), 0..200)) {
        bytes.insert(0, BATCH_VERSION);
        let _ = Batch::decode(&bytes.into());
    }

    /// The leader stamps a batch that another node has packed, and nothing else of it changes (R32).
    #[test]
    fn r32_a_stamped_batch_differs_in_its_stamp_alone(batch in batch(), stamp in any::<u64>()) {
        let mut bytes = encoded(&batch).to_vec();
        prop_assert_eq!(stamp_batch(&mut bytes, GroupTime(stamp)), Ok(()));
        let stamped = Batch { stamp: GroupTime(stamp), ..batch };
        prop_assert_eq!(Batch::decode(&bytes.into()), Ok(stamped));
    }

    #[test]
    fn r10_the_proposer_is_read_from_the_header(batch in batch(), cut in any::<prop::sample::Index>()) {
        let whole = encoded(&batch);
        let proposer = (batch.node, batch.incarnation, batch.number);
        prop_assert_eq!(batch_proposer(&whole), Ok(proposer));
        // Of less than that it says nothing, or the same.
        if let Ok(read) = batch_proposer(&whole[..cut.index(whole.len())]) {
            prop_assert_eq!(read, proposer);
        }
    }

    #[test]
    fn outcomes_come_back_as_they_were(outcomes in vec(outcome(), 0..6)) {
        let mut out = Vec::new();
        put_outcomes(&mut out, &outcomes);
        let bytes = Bytes::from(out);
        let mut reader = Reader::new(&bytes);
        prop_assert_eq!(read_outcomes(&mut reader), Ok(outcomes));
        prop_assert_eq!(reader.finish(), Ok(()));
    }
}

/// How [`plain`] batches begin.
const HEADER: [u8; 15] = [1, 0, 0, 0, 0, 0, 0, 0, 6, 2, 3, 4, 5, 7, 8];

/// A batch of `commands` with small numbers, whose header is [`HEADER`].
fn plain(commands: Vec<Command>) -> Batch {
    Batch {
        view: 2,
        node: NodeId(3),
        incarnation: NodeIncarnation(4),
        number: 5,
        stamp: GroupTime(6),
        queue_limits: QueueLimits {
            messages_max: 7,
            bytes_max: 8,
        },
        commands,
    }
}

#[test]
fn a_length_beyond_the_bytes_reserves_nothing() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let with = |tail: &[&[u8]]| Bytes::from([&HEADER[..], &tail.concat()].concat());
    // As the number of commands, then as lengths and counts within the first one.
    assert_eq!(
        Batch::decode(&with(&[&huge])),
        Err(CodecError::Truncated("commands"))
    );
    let publish = [1, 6, 4, 0, 0, 1, 0, 0, b't'];
    assert_eq!(
        Batch::decode(&with(&[&publish, &huge])),
        Err(CodecError::Truncated("targets"))
    );
    let settle = [1, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(
        Batch::decode(&with(&[&settle, &huge])),
        Err(CodecError::Truncated("sequences"))
    );
    assert_eq!(
        Batch::decode(&with(&[&[1, 1], &huge])),
        Err(CodecError::Truncated("client identifier"))
    );
    let message = [1, 6, 4, 0, 0];
    assert_eq!(
        Batch::decode(&with(&[&message, &huge, &huge, &huge])),
        Err(CodecError::Truncated("message"))
    );
}

#[test]
fn more_commands_than_positions_are_refused() {
    let tick = plain(vec![]);
    let settle = Command::DropQueues { queues: vec![] };
    let mut commands = Vec::new();
    (0..=BATCH_COMMANDS_MAX).for_each(|_| settle.encode(&mut commands));
    let mut out = Vec::new();
    tick.header()
        .encode_with(&mut out, &commands, BATCH_COMMANDS_MAX + 1);
    assert_eq!(
        Batch::decode(&out.into()),
        Err(CodecError::Invalid("number of commands"))
    );
}

#[test]
fn unknown_versions_and_tags_are_refused() {
    let mut bytes = encoded(&plain(vec![])).to_vec();
    bytes[0] = 2;
    assert_eq!(Batch::decode(&bytes.into()), Err(CodecError::Version(2)));
    for tag in [0, 19, 255] {
        let bytes = [&HEADER[..], &[1, tag]].concat();
        assert_eq!(
            Batch::decode(&bytes.into()),
            Err(CodecError::Tag { what: "command", tag })
        );
    }
    let bytes = [&HEADER[..], &[1, 6, 9]].concat();
    assert_eq!(
        Batch::decode(&bytes.into()),
        Err(CodecError::Tag {
            what: "origin",
            tag: 9
        })
    );
}

#[test]
fn r32_what_is_no_batch_is_not_stamped() {
    let whole = encoded(&plain(vec![])).to_vec();
    let stamp = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let result = stamp_batch(&mut bytes, GroupTime(7));
        assert_eq!(result.is_ok(), bytes != whole[..bytes.len()]);
        result
    };
    assert_eq!(stamp(&whole), Ok(()));
    assert_eq!(stamp(&[]), Err(CodecError::Truncated("format version")));
    assert_eq!(stamp(&whole[..8]), Err(CodecError::Truncated("stamp")));
    assert_eq!(stamp(&whole[..9]), Ok(()));
    let mut newer = whole.clone();
    newer[0] = 2;
    assert_eq!(stamp_batch(&mut newer, GroupTime(7)), Err(CodecError::Version(2)));
    assert_eq!(newer[1..], whole[1..]);
    assert_eq!(batch_proposer(&newer), Err(CodecError::Version(2)));
    assert_eq!(batch_proposer(&[]), Err(CodecError::Truncated("format version")));
    assert_eq!(
        batch_proposer(&whole[..12]),
        Err(CodecError::Truncated("batch number"))
    );
    assert_eq!(
        batch_proposer(&whole[..13]),
        Ok((NodeId(3), NodeIncarnation(4), 5))
    );
}

/// Messages of a decoded batch share the entry's bytes: nothing is copied between the log and the state.
#[test]
fn payloads_are_not_copied() {
    let message = Message::new("t", b"", &[7; 100], QoS::AtLeastOnce, false, None);
    let publish = PublishCommand {
        origin: Origin::Server,
        message,
        targets: vec![],
        set_retained: false,
        taken_live: false,
    };
    let entry = encoded(&plain(vec![Command::Publish(publish)]));
    let Command::Publish(read) = Batch::decode(&entry).unwrap().commands.remove(0) else {
        panic!("a publish")
    };
    let range = entry.as_ptr() as usize..entry.as_ptr() as usize + entry.len();
    assert!(range.contains(&(read.message.data().as_ptr() as usize)));
}
