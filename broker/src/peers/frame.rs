//! Messages on their way to another node's live subscribers, as bytes.
//!
//! A frame is a version, the receiver's incarnation, a number and flags, then, behind a gap, the length and the names of
//! those who have lost something ([`lost`](super::lost)), then items. An item is a message and to whom it goes. Integers
//! are big-endian; lengths and counts are 32 bits.

use std::sync::Arc;

use quorate_cluster::node::Giving;
use quorate_cluster::state::{GiveId, NodeId, NodeIncarnation, Sequence, SessionId, ShareKey};
use quorate_proto::codec::QoS;
use quorate_storage::log::GroupId;

use crate::worker::{Lender, LenderNews, Returned};

/// Version of the frames.
const VERSION: u8 = 1;
/// Bytes before what is lost and the first item.
const HEADER_BYTES: usize = 1 + 8 + 8 + 1;
/// Frames before this one are lost.
const FLAG_GAP: u8 = 1;

const TO_MATCHING: u8 = 0;
const TO_SESSIONS: u8 = 1;
const TO_MEMBER: u8 = 2;
// 3 and 4 were of versions that did not number what they gave.
const TO_HOLDER: u8 = 5;
const TO_DISPATCH: u8 = 6;
const TO_DISPATCHES: u8 = 7;
const TO_BORROWER: u8 = 8;
const TO_LENDER: u8 = 9;

const NEWS_DONE: u8 = 0;
const NEWS_BACK: u8 = 1;
const NEWS_FULL: u8 = 2;
const NEWS_ROOM: u8 = 3;

const FORGOTTEN: u8 = 0;
const LENT: u8 = 1;
const HELD: u8 = 2;
const OFFERED: u8 = 3;
const FULL: u8 = 1;
const ASKS_BACK: u8 = 2;

const RETAIN: u8 = 1 << 2;
const EXPIRES: u8 = 1 << 3;

/// The message of an item that is about something else.
pub(crate) const NO_MESSAGE: ForwardedMessage<'static> = ForwardedMessage {
    topic: "",
    forwardable: &[],
    payload: &[],
    qos: QoS::AtMostOnce,
    retain: false,
    expiry_secs: None,
    publisher: None,
};

/// A message of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ForwardedMessage<'a> {
    pub(crate) topic: &'a str,
    pub(crate) forwardable: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) expiry_secs: Option<u32>,
    /// Who published it, for No Local.
    pub(crate) publisher: Option<SessionId>,
}

/// To whom a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Recipients {
    /// Everybody there whose subscriptions match and who gets it without replication.
    Matching,
    /// These sessions, as a retained message: their subscriptions came while it was published (R33).
    Late(Vec<SessionId>),
    /// A member of a shared subscription without durable member.
    Member {
        /// The member.
        session: SessionId,
        /// The shared subscription.
        share: ShareKey,
    },
    /// As [`Self::Member`], above QoS 0: the worker that sends it holds the message until it is told what became of it.
    Borrower {
        /// The member.
        session: SessionId,
        /// The shared subscription.
        share: ShareKey,
        /// The start of the node that sends it.
        incarnation: NodeIncarnation,
        /// Its worker.
        worker: u16,
        /// Its number there.
        number: u64,
        /// It is this member's for good: nobody else gets what the member may have been sent [MQTT-4.8.2-5].
        is_final: bool,
    },
    /// A worker that lent messages to members here. The message is empty.
    Lender {
        /// The worker.
        lender: Lender,
        /// What it is told.
        news: LenderNews,
    },
    /// A member of a shared subscription whose queue a group holds: it settles the reference there.
    Holder {
        /// The member.
        session: SessionId,
        /// The shared subscription.
        share: ShareKey,
        /// The group.
        group: GroupId,
        /// The reference.
        sequence: Sequence,
        /// Which giving of it this is.
        give: GiveId,
        /// How it is given. What is offered comes without topic and payload.
        giving: Giving,
    },
    /// The dispatch of a shared queue: a member it gave a reference to was not sent it, or is lost. The message is empty.
    Dispatch {
        /// The member.
        session: SessionId,
        /// The shared subscription.
        share: ShareKey,
        /// The group.
        group: GroupId,
        /// The reference.
        sequence: Sequence,
        /// Which giving of it that was.
        give: GiveId,
        /// The member has no room (R39).
        is_full: bool,
        /// The reference is the dispatch's again; else the group says so.
        is_back: bool,
    },
    /// The dispatches of shared queues that were told that a member has no room: it has some. The message is empty.
    Dispatches {
        /// The member.
        session: SessionId,
        /// The groups.
        groups: Vec<GroupId>,
    },
}

/// What precedes the items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    /// The start of the receiver that is meant.
    pub(crate) incarnation: u64,
    /// Counts the frames from one sender to one start of a receiver, from 1.
    pub(crate) number: u64,
    /// Frames before this one are lost.
    pub(crate) gap: bool,
}

/// A frame that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened<'a> {
    pub(crate) header: FrameHeader,
    /// Behind a gap: who has lost something.
    pub(crate) lost: &'a [u8],
    pub(crate) items: &'a [u8],
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("parts of a packet are below 256 MiB");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

fn put_share(out: &mut Vec<u8>, share: &ShareKey) {
    put_bytes(out, share.name.as_bytes());
    put_bytes(out, share.filter.as_bytes());
}

fn put_lent(out: &mut Vec<u8>, incarnation: NodeIncarnation, worker: u16, number: u64) {
    out.extend_from_slice(&incarnation.0.to_be_bytes());
    out.extend_from_slice(&u32::from(worker).to_be_bytes());
    out.extend_from_slice(&number.to_be_bytes());
}

fn put_place(out: &mut Vec<u8>, group: GroupId, sequence: Sequence, give: GiveId) {
    out.extend_from_slice(&u32::from(group.0).to_be_bytes());
    out.extend_from_slice(&sequence.0.to_be_bytes());
    out.extend_from_slice(&give.0.to_be_bytes());
}

/// Appends an item.
pub(crate) fn put_item(out: &mut Vec<u8>, recipients: &Recipients, message: &ForwardedMessage<'_>) {
    match recipients {
        Recipients::Matching => out.push(TO_MATCHING),
        Recipients::Late(sessions) => {
            out.push(TO_SESSIONS);
            let count = u32::try_from(sessions.len()).expect("a frame names fewer sessions");
            out.extend_from_slice(&count.to_be_bytes());
            for session in sessions {
                out.extend_from_slice(&session.0.to_be_bytes());
            }
        }
        Recipients::Member { session, share } => {
            out.push(TO_MEMBER);
            out.extend_from_slice(&session.0.to_be_bytes());
            put_share(out, share);
        }
        Recipients::Borrower {
            session,
            share,
            incarnation,
            worker,
            number,
            is_final,
        } => {
            out.push(TO_BORROWER);
            out.extend_from_slice(&session.0.to_be_bytes());
            put_share(out, share);
            put_lent(out, *incarnation, *worker, *number);
            out.push(u8::from(*is_final));
        }
        Recipients::Lender { lender, news } => {
            out.push(TO_LENDER);
            let (kind, number, session) = match news {
                LenderNews::Returned(number, session, Returned::Done) => (NEWS_DONE, *number, session),
                LenderNews::Returned(number, session, Returned::Back) => (NEWS_BACK, *number, session),
                LenderNews::Returned(number, session, Returned::Full) => (NEWS_FULL, *number, session),
                LenderNews::HasRoom(session) => (NEWS_ROOM, 0, session),
            };
            out.extend_from_slice(&lender.node.0.to_be_bytes());
            put_lent(out, lender.incarnation, lender.worker, number);
            out.extend_from_slice(&session.0.to_be_bytes());
            out.push(kind);
        }
        Recipients::Holder {
            session,
            share,
            group,
            sequence,
            give,
            giving,
        } => {
            out.push(TO_HOLDER);
            out.extend_from_slice(&session.0.to_be_bytes());
            put_share(out, share);
            put_place(out, *group, *sequence, *give);
            out.push(match giving {
                Giving::Forgotten => FORGOTTEN,
                Giving::Lent => LENT,
                Giving::Held => HELD,
                Giving::Offered => OFFERED,
            });
        }
        Recipients::Dispatch {
            session,
            share,
            group,
            sequence,
            give,
            is_full,
            is_back,
        } => {
            out.push(TO_DISPATCH);
            out.extend_from_slice(&session.0.to_be_bytes());
            put_share(out, share);
            put_place(out, *group, *sequence, *give);
            let full = if *is_full { FULL } else { 0 };
            out.push(full | if *is_back { ASKS_BACK } else { 0 });
        }
        Recipients::Dispatches { session, groups } => {
            out.push(TO_DISPATCHES);
            out.extend_from_slice(&session.0.to_be_bytes());
            let count = u32::try_from(groups.len()).expect("there are few groups");
            out.extend_from_slice(&count.to_be_bytes());
            for group in groups {
                out.extend_from_slice(&u32::from(group.0).to_be_bytes());
            }
        }
    }
    let retain = if message.retain { RETAIN } else { 0 };
    let expires = if message.expiry_secs.is_some() { EXPIRES } else { 0 };
    out.push(message.qos as u8 | retain | expires);
    if let Some(expiry_secs) = message.expiry_secs {
        out.extend_from_slice(&expiry_secs.to_be_bytes());
    }
    let publisher = message.publisher.map_or(0, |session| session.0);
    out.extend_from_slice(&publisher.to_be_bytes());
    put_bytes(out, message.topic.as_bytes());
    put_bytes(out, message.forwardable);
    put_bytes(out, message.payload);
}

/// A whole frame of these items; `lost` is sent behind a gap alone.
pub(crate) fn frame(header: FrameHeader, lost: &[u8], items: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + 4 + lost.len() + items.len());
    out.push(VERSION);
    out.extend_from_slice(&header.incarnation.to_be_bytes());
    out.extend_from_slice(&header.number.to_be_bytes());
    out.push(if header.gap { FLAG_GAP } else { 0 });
    if header.gap {
        put_bytes(&mut out, lost);
    }
    out.extend_from_slice(items);
    out
}

/// Reads from the front of a slice; `None` where it ends too early.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u32(&mut self) -> Option<u32> {
        let bytes = self.take(4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        let bytes = self.take(8)?;
        Some(u64::from_be_bytes(bytes.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn group(&mut self) -> Option<GroupId> {
        u16::try_from(self.u32()?).ok().map(GroupId)
    }

    fn share(&mut self) -> Option<ShareKey> {
        Some(ShareKey {
            name: Arc::from(self.text()?),
            filter: Arc::from(self.text()?),
        })
    }

    fn recipients(&mut self) -> Option<Recipients> {
        Some(match self.u8()? {
            TO_MATCHING => Recipients::Matching,
            TO_SESSIONS => {
                let count = self.u32()? as usize;
                if count > self.0.len() / 8 {
                    return None;
                }
                let sessions = (0..count).map(|_| self.u64().map(SessionId));
                Recipients::Late(sessions.collect::<Option<_>>()?)
            }
            TO_MEMBER => Recipients::Member {
                session: SessionId(self.u64()?),
                share: self.share()?,
            },
            TO_HOLDER => Recipients::Holder {
                session: SessionId(self.u64()?),
                share: self.share()?,
                group: self.group()?,
                sequence: Sequence(self.u64()?),
                give: GiveId(self.u64()?),
                giving: match self.u8()? {
                    FORGOTTEN => Giving::Forgotten,
                    LENT => Giving::Lent,
                    HELD => Giving::Held,
                    OFFERED => Giving::Offered,
                    _ => return None,
                },
            },
            TO_BORROWER => Recipients::Borrower {
                session: SessionId(self.u64()?),
                share: self.share()?,
                incarnation: NodeIncarnation(self.u64()?),
                worker: u16::try_from(self.u32()?).ok()?,
                number: self.u64()?,
                is_final: self.u8()? != 0,
            },
            TO_LENDER => {
                let lender = Lender {
                    node: NodeId(self.u64()?),
                    incarnation: NodeIncarnation(self.u64()?),
                    worker: u16::try_from(self.u32()?).ok()?,
                };
                let number = self.u64()?;
                let session = SessionId(self.u64()?);
                let news = match self.u8()? {
                    NEWS_DONE => LenderNews::Returned(number, session, Returned::Done),
                    NEWS_BACK => LenderNews::Returned(number, session, Returned::Back),
                    NEWS_FULL => LenderNews::Returned(number, session, Returned::Full),
                    NEWS_ROOM => LenderNews::HasRoom(session),
                    _ => return None,
                };
                Recipients::Lender { lender, news }
            }
            TO_DISPATCH => {
                let session = SessionId(self.u64()?);
                let share = self.share()?;
                let group = self.group()?;
                let sequence = Sequence(self.u64()?);
                let give = GiveId(self.u64()?);
                let flags = self.u8()?;
                Recipients::Dispatch {
                    session,
                    share,
                    group,
                    sequence,
                    give,
                    is_full: flags & FULL != 0,
                    is_back: flags & ASKS_BACK != 0,
                }
            }
            TO_DISPATCHES => {
                let session = SessionId(self.u64()?);
                let count = self.u32()? as usize;
                if count > self.0.len() / 4 {
                    return None;
                }
                let groups = (0..count).map(|_| self.group());
                Recipients::Dispatches {
                    session,
                    groups: groups.collect::<Option<_>>()?,
                }
            }
            _ => return None,
        })
    }

    fn message(&mut self) -> Option<ForwardedMessage<'a>> {
        let flags = self.u8()?;
        let qos = match flags & 3 {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            2 => QoS::ExactlyOnce,
            _ => return None,
        };
        let expiry_secs = match flags & EXPIRES {
            0 => None,
            _ => Some(self.u32()?),
        };
        let publisher = self.u64()?;
        Some(ForwardedMessage {
            qos,
            retain: flags & RETAIN != 0,
            expiry_secs,
            publisher: (publisher != 0).then_some(SessionId(publisher)),
            topic: self.text()?,
            forwardable: self.bytes()?,
            payload: self.bytes()?,
        })
    }
}

/// Reads a frame, its items excepted.
pub(crate) fn open(frame: &[u8]) -> Option<Opened<'_>> {
    let mut reader = Reader(frame);
    if reader.u8()? != VERSION {
        return None;
    }
    let header = FrameHeader {
        incarnation: reader.u64()?,
        number: reader.u64()?,
        gap: reader.u8()? & FLAG_GAP != 0,
    };
    let lost = match header.gap {
        true => reader.bytes()?,
        false => &[],
    };
    Some(Opened {
        header,
        lost,
        items: reader.0,
    })
}

/// Visits every item in order; false where they cannot be read to the end.
pub(crate) fn visit(items: &[u8], mut visit: impl FnMut(&Recipients, &ForwardedMessage<'_>)) -> bool {
    let mut reader = Reader(items);
    while !reader.0.is_empty() {
        let Some(recipients) = reader.recipients() else {
            return false;
        };
        let Some(message) = reader.message() else {
            return false;
        };
        visit(&recipients, &message);
    }
    true
}

#[cfg(test)]
mod tests;
