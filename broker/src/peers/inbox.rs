//! The receiving side of live deliveries between nodes: each frame once, in order.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use quorate_cluster::node::{BrokerReply, Location};
use quorate_cluster::raft::PeerStart;
use quorate_cluster::state::{NodeId, NodeIncarnation};
use quorate_proto::codec::ReasonCode;

use super::frame::{self, FrameHeader};
use crate::node::Shared;
use crate::worker::Mail;

/// Frames of other nodes that this one has accepted.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    last: Mutex<Lasts>,
}

type Lasts = HashMap<NodeId, Last, foldhash::fast::RandomState>;

/// The last frame of a start of a node.
#[derive(Clone, Copy, Debug)]
struct Last {
    incarnation: NodeIncarnation,
    number: u64,
}

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Take,
    /// It was taken before.
    Known,
    /// One before it is missing, or it is of an older start.
    Refuse,
}

/// Items of a frame, for all workers.
#[derive(Debug)]
pub(crate) struct ForwardedFrame {
    /// Who sent it.
    pub(crate) from: NodeId,
    frame: Bytes,
}

impl ForwardedFrame {
    /// The items.
    pub(crate) fn items(&self) -> &[u8] {
        frame::open(&self.frame).map_or(&[], |(_, items)| items)
    }

    /// Bytes it counts for while it waits.
    pub(crate) fn weight(&self) -> usize {
        self.frame.len()
    }
}

impl Inbox {
    fn judge(last: &mut Lasts, from: PeerStart, header: FrameHeader) -> Verdict {
        let last = last.entry(from.node).or_insert(Last {
            incarnation: from.incarnation,
            number: 0,
        });
        if from.incarnation < last.incarnation {
            return Verdict::Refuse;
        }
        if from.incarnation > last.incarnation {
            *last = Last {
                incarnation: from.incarnation,
                number: 0,
            };
        }
        if header.number <= last.number {
            return Verdict::Known;
        }
        if header.number != last.number + 1 && !header.gap {
            return Verdict::Refuse;
        }
        last.number = header.number;
        Verdict::Take
    }

    /// A frame has come. It is accepted as soon as the workers have room.
    pub(crate) fn receive(&self, shared: &Arc<Shared>, from: PeerStart, frame: Bytes, reply: BrokerReply) {
        let Some((header, _)) = frame::open(&frame) else {
            tracing::warn!(node = from.node.0, "a frame of another version is not accepted");
            return;
        };
        if header.incarnation != shared.settings.incarnation.0 {
            return;
        }
        // Held until the frame is with the workers: an older connection of the same node may still hand frames in.
        let mut last = self.last.lock();
        match Self::judge(&mut last, from, header) {
            Verdict::Refuse => return,
            Verdict::Known => return reply.send(Bytes::new()),
            Verdict::Take => {}
        }
        if header.gap {
            close_live_subscribers(shared);
            shared.peer_lost(from.node, from.incarnation);
        }
        let from = from.node;
        let frame = Arc::new(ForwardedFrame { from, frame });
        for mailbox in &shared.mailboxes {
            mailbox.send(Mail::Forwarded(frame.clone()));
        }
        drop(last);
        if !shared
            .mailboxes
            .iter()
            .any(|mailbox| mailbox.deliveries_are_full())
        {
            return reply.send(Bytes::new());
        }
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            for mailbox in &shared.mailboxes {
                mailbox.deliveries_room().await;
            }
            reply.send(Bytes::new());
        });
    }
}

/// Deliveries were lost: whoever might have got one is told by the end of its connection (R4).
fn close_live_subscribers(shared: &Shared) {
    let locations: Vec<Location> = shared.router.read(|table| table.live_subscribers());
    tracing::warn!(
        connections = locations.len(),
        "deliveries of another node were lost; live subscribers are closed"
    );
    for location in locations {
        shared.kick(
            location,
            ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
            "deliveries from another node were lost",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(incarnation: u64) -> PeerStart {
        PeerStart {
            node: NodeId(2),
            incarnation: NodeIncarnation(incarnation),
        }
    }

    fn header(number: u64, gap: bool) -> FrameHeader {
        FrameHeader {
            incarnation: 1,
            number,
            gap,
        }
    }

    #[test]
    fn r4_each_frame_is_taken_once_and_in_order() {
        let mut last = Lasts::default();
        assert_eq!(Inbox::judge(&mut last, from(1), header(1, false)), Verdict::Take);
        assert_eq!(Inbox::judge(&mut last, from(1), header(1, false)), Verdict::Known);
        assert_eq!(
            Inbox::judge(&mut last, from(1), header(3, false)),
            Verdict::Refuse,
            "2 is missing"
        );
        assert_eq!(Inbox::judge(&mut last, from(1), header(2, false)), Verdict::Take);
        assert_eq!(
            Inbox::judge(&mut last, from(1), header(9, true)),
            Verdict::Take,
            "3 to 8 are lost"
        );
        assert_eq!(Inbox::judge(&mut last, from(1), header(8, false)), Verdict::Known);
        assert_eq!(
            Inbox::judge(&mut last, from(2), header(1, false)),
            Verdict::Take,
            "a new start counts anew"
        );
        assert_eq!(
            Inbox::judge(&mut last, from(1), header(10, false)),
            Verdict::Refuse,
            "an old start"
        );
    }
}
