//! Outcomes, which are kept with their proposer's last batch number (R10).

use super::primitive::{CodecError, Reader, put_bool, put_varint};
use super::terms::*;
use crate::state::{BatchOutcome, Outcome, RefusedReason, SubscribeResult};

const DONE: u8 = 1;
const SUBSCRIBED: u8 = 3;
const UNSUBSCRIBED: u8 = 4;
const PUBLISHED: u8 = 5;
const RELEASED: u8 = 6;
const REFUSED: u8 = 7;
const OPENED: u8 = 8;
const BEGUN: u8 = 9;
const REPEATED: u8 = 10;
/// As [`OPENED`], where retained messages are still to come.
const OPENED_REPLAYING: u8 = 11;

pub(in crate::state) fn put_outcomes(out: &mut Vec<u8>, outcomes: &[Outcome]) {
    put_varint(out, outcomes.len() as u64);
    outcomes.iter().for_each(|outcome| put_outcome(out, outcome));
}

pub(in crate::state) fn read_outcomes(reader: &mut Reader<'_>) -> Result<Vec<Outcome>, CodecError> {
    let count = reader.count(1, "outcomes")?;
    (0..count).map(|_| read_outcome(reader)).collect()
}

impl BatchOutcome {
    /// Appends the outcomes; none for a batch that was refused.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Applied(outcomes) => put_outcomes(out, outcomes),
            Self::Refused => {}
        }
    }

    /// Reads the outcomes of a batch that was applied.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn decode(encoded: &[u8]) -> Result<Self, CodecError> {
        let encoded = bytes::Bytes::copy_from_slice(encoded);
        let mut reader = Reader::new(&encoded);
        let outcomes = read_outcomes(&mut reader)?;
        reader.finish()?;
        Ok(Self::Applied(outcomes))
    }
}

fn put_outcome(out: &mut Vec<u8>, outcome: &Outcome) {
    match outcome {
        Outcome::Done => out.push(DONE),
        Outcome::Opened {
            session,
            epoch,
            present,
            previous,
            inbound,
            replaying,
        } => {
            out.push(if *replaying { OPENED_REPLAYING } else { OPENED });
            put_session(out, *session);
            put_epoch(out, *epoch);
            put_bool(out, *present);
            put_bool(out, previous.is_some());
            if let Some(previous) = previous {
                put_owner(out, previous);
            }
            put_varint(out, inbound.len() as u64);
            inbound
                .iter()
                .for_each(|packet_id| put_packet_id(out, *packet_id));
        }
        Outcome::Subscribed(results) => {
            out.push(SUBSCRIBED);
            put_varint(out, results.len() as u64);
            out.extend(results.iter().map(|result| match result {
                SubscribeResult::Added => 0,
                SubscribeResult::Replaced => 1,
                SubscribeResult::LimitReached => 2,
            }));
        }
        Outcome::Unsubscribed(existed) => {
            out.push(UNSUBSCRIBED);
            put_varint(out, existed.len() as u64);
            out.extend(existed.iter().map(|existed| u8::from(*existed)));
        }
        Outcome::Published {
            duplicate,
            stored,
            refused,
        } => {
            out.push(PUBLISHED);
            put_bool(out, *duplicate);
            put_varint(out, u64::from(*stored));
            put_varint(out, u64::from(*refused));
        }
        Outcome::Repeated {
            index,
            position,
            kept,
        } => {
            out.push(REPEATED);
            put_varint(out, *index);
            put_varint(out, u64::from(*position));
            put_bool(out, *kept);
        }
        Outcome::Begun { index, position } => {
            out.push(BEGUN);
            put_varint(out, *index);
            put_varint(out, u64::from(*position));
        }
        Outcome::Released(known) => {
            out.push(RELEASED);
            put_bool(out, *known);
        }
        Outcome::Refused(reason) => {
            out.push(REFUSED);
            out.push(match reason {
                RefusedReason::Fenced => 0,
                RefusedReason::LimitReached => 1,
                RefusedReason::OutboxFull => 2,
            });
        }
    }
}

fn read_outcome(reader: &mut Reader<'_>) -> Result<Outcome, CodecError> {
    match reader.u8("outcome")? {
        DONE => Ok(Outcome::Done),
        OPENED => read_opened(reader, false),
        OPENED_REPLAYING => read_opened(reader, true),
        SUBSCRIBED => {
            let count = reader.count(1, "subscribe results")?;
            (0..count)
                .map(|_| read_subscribe_result(reader))
                .collect::<Result<_, _>>()
                .map(Outcome::Subscribed)
        }
        UNSUBSCRIBED => {
            let count = reader.count(1, "unsubscribe results")?;
            let existed = (0..count)
                .map(|_| reader.bool("unsubscribe result"))
                .collect::<Result<_, _>>()?;
            Ok(Outcome::Unsubscribed(existed))
        }
        PUBLISHED => Ok(Outcome::Published {
            duplicate: reader.bool("duplicate")?,
            stored: reader.varint_u32("stored")?,
            refused: reader.varint_u32("refused")?,
        }),
        REPEATED => Ok(Outcome::Repeated {
            index: reader.varint("index")?,
            position: reader.varint_u32("position")?,
            kept: reader.bool("kept")?,
        }),
        BEGUN => Ok(Outcome::Begun {
            index: reader.varint("index")?,
            position: reader.varint_u32("position")?,
        }),
        RELEASED => Ok(Outcome::Released(reader.bool("released")?)),
        REFUSED => match reader.u8("refused reason")? {
            0 => Ok(Outcome::Refused(RefusedReason::Fenced)),
            1 => Ok(Outcome::Refused(RefusedReason::LimitReached)),
            2 => Ok(Outcome::Refused(RefusedReason::OutboxFull)),
            tag => Err(CodecError::Tag {
                what: "refused reason",
                tag,
            }),
        },
        tag => Err(CodecError::Tag { what: "outcome", tag }),
    }
}

fn read_opened(reader: &mut Reader<'_>, replaying: bool) -> Result<Outcome, CodecError> {
    let session = read_session(reader)?;
    let epoch = read_epoch(reader)?;
    let present = reader.bool("session present")?;
    let previous = match reader.bool("previous owner")? {
        false => None,
        true => Some(read_owner(reader)?),
    };
    let count = reader.count(2, "inbound identifiers")?;
    let inbound = (0..count)
        .map(|_| read_packet_id(reader))
        .collect::<Result<_, _>>()?;
    Ok(Outcome::Opened {
        session,
        epoch,
        present,
        previous,
        inbound,
        replaying,
    })
}

fn read_subscribe_result(reader: &mut Reader<'_>) -> Result<SubscribeResult, CodecError> {
    match reader.u8("subscribe result")? {
        0 => Ok(SubscribeResult::Added),
        1 => Ok(SubscribeResult::Replaced),
        2 => Ok(SubscribeResult::LimitReached),
        tag => Err(CodecError::Tag {
            what: "subscribe result",
            tag,
        }),
    }
}
