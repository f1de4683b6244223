//! The receiving side of live deliveries between nodes: each frame once, in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use quorate_cluster::node::{BrokerReply, Location};
use quorate_cluster::raft::PeerStart;
use quorate_cluster::state::{NodeId, NodeIncarnation};
use quorate_proto::codec::ReasonCode;

use super::frame::{self, FrameHeader, Opened};
use super::lost::{Loser, visit_losers};
use crate::node::Shared;
use crate::router::Router;
use crate::worker::Mail;

/// Subscriptions that are looked at to find who has lost something, before everybody counts as such.
const MATCHES_MAX: usize = 262_144;

/// How often a full mailbox is looked at.
const ROOM_LOOK: Duration = Duration::from_millis(50);

/// Frames of other nodes that this one has accepted.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    last: Mutex<Lasts>,
    /// Starts of members that sent what cannot be read.
    unread: Mutex<BTreeMap<NodeId, NodeIncarnation>>,
}

type Lasts = HashMap<NodeId, Last, foldhash::fast::RandomState>;

/// Who has lost something.
#[derive(Debug, Default)]
struct Losers {
    connections: HashSet<Location, foldhash::fast::RandomState>,
    /// What became of messages that this node's workers have lent.
    lenders: bool,
}

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
        frame::open(&self.frame).map_or(&[], |opened| opened.items)
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

    /// Reads a frame; tells once for each start of a node that sends what cannot be read.
    fn open<'a>(&self, from: PeerStart, frame: &'a Bytes) -> Option<Opened<'a>> {
        let opened = frame::open(frame);
        if opened.is_none()
            && self.unread.lock().insert(from.node, from.incarnation) != Some(from.incarnation)
        {
            tracing::warn!(
                node = from.node.0,
                start = from.incarnation.0,
                "a frame of another version is not accepted; messages for clients of this node wait at that one, and \
                 are dropped then: run the same version on all nodes"
            );
        }
        opened
    }

    /// A frame has come. It is accepted as soon as the workers have room.
    pub(crate) fn receive(&self, shared: &Arc<Shared>, from: PeerStart, frame: Bytes, reply: BrokerReply) {
        let Some(Opened { header, lost, .. }) = self.open(from, &frame) else {
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
            let lost = close_losers(shared, from.node, lost);
            if lost.lenders {
                shared.peer_lost(from.node, from.incarnation);
            } else {
                // What this node's lenders were told is in the frame.
                shared.doubt_holder(from.node);
            }
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
                // Not until much of it is empty: who sends takes a node that answers nothing for one that stalls.
                while mailbox.deliveries_are_full() {
                    let _ = tokio::time::timeout(ROOM_LOOK, mailbox.deliveries_room()).await;
                }
            }
            reply.send(Bytes::new());
        });
    }
}

/// Deliveries were lost: whoever would have got one is told by the end of its connection (R4).
fn close_losers(shared: &Shared, from: NodeId, lost: &[u8]) -> Losers {
    let losers = find_losers(&shared.router, lost);
    tracing::warn!(
        node = from.0,
        connections = losers.connections.len(),
        "deliveries of another node were lost; who would have got them is closed"
    );
    close(shared, losers.connections.iter().copied());
    losers
}

/// What this node has said of messages that were lent to its members was too much to be kept: the lender takes them for
/// sent, and the members are told by the end of their connections.
pub(super) fn close_members(shared: &Shared) {
    let locations = shared.router.read(|table| table.live_subscribers());
    tracing::warn!(
        connections = locations.len(),
        "too much that a lender of shared messages was told is lost; live subscribers are closed"
    );
    close(shared, locations);
}

/// Which deliveries were lost is not known.
pub(super) fn close_live_subscribers(shared: &Shared) {
    let locations = shared.router.read(|table| table.live_subscribers());
    tracing::warn!(
        connections = locations.len(),
        "a node that ended may have acknowledged what has not come here; live subscribers are closed"
    );
    close(shared, locations);
}

fn close(shared: &Shared, connections: impl IntoIterator<Item = Location>) {
    for location in connections {
        shared.kick(
            location,
            ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
            "deliveries from another node were lost",
        );
    }
}

/// The connections that would have got something of what is lost.
fn find_losers(router: &Router, lost: &[u8]) -> Losers {
    let mut losers = Losers::default();
    let mut matches = 0;
    let mut anybody = false;
    visit_losers(lost, |loser| match loser {
        Loser::Lenders => losers.lenders = true,
        _ if anybody => {}
        Loser::Anybody => anybody = true,
        // Each under a lock of its own: others wait for it.
        Loser::SubscriberOf(topic) => {
            matches += 1 + router.read(|table| table.live_subscribers_of(topic, &mut losers.connections));
            anybody = matches > MATCHES_MAX;
        }
        Loser::Session(session) => {
            let location = router.read(|table| table.session(session)?.location);
            losers.connections.extend(location);
        }
    });
    if anybody {
        let everybody = router.read(|table| table.live_subscribers());
        losers.connections.extend(everybody);
    }
    losers
}

#[cfg(test)]
mod tests {
    use quorate_cluster::node::Placement;
    use quorate_cluster::state::{Epoch, Owner, SessionId, ShareKey, Subscription};
    use quorate_proto::codec::{QoS, SubscriptionOptions};

    use super::super::frame::ForwardedMessage;
    use super::super::lost::Lost;
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

    /// What was logged, as text.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn r50_a_frame_of_another_version_is_told_once_for_each_start() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let inbox = Inbox::default();
        let frame = Bytes::from_static(b"\xff of a later version");
        tracing::subscriber::with_default(log, || {
            for start in [1, 1, 1, 2, 2] {
                assert!(inbox.open(from(start), &frame).is_none());
            }
        });
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        let told = |line: &&str| {
            line.contains("WARN") && line.contains("a frame of another version is not accepted")
        };
        assert_eq!(text.lines().filter(told).count(), 2, "{text}");
        assert!(
            text.contains("node=2") && text.contains("start=1") && text.contains("start=2"),
            "{text}"
        );
    }

    /// A router with sessions of this node: their number, home and subscription.
    fn router(sessions: &[(SessionId, &str, QoS)]) -> Router {
        let router = Router::default();
        let (node, incarnation) = (NodeId(1), NodeIncarnation(1));
        router.write(|table| {
            table.set_this(node, incarnation);
            for (number, (session, filter, qos)) in sessions.iter().enumerate() {
                let owner = Owner {
                    node,
                    incarnation,
                    epoch: Epoch(1),
                };
                table.set_owner(*session, Some(owner));
                table.attach(*session, Epoch(1), location(number)).unwrap();
                let subscription = Subscription {
                    filter: (*filter).into(),
                    options: SubscriptionOptions::new(*qos),
                    subscription_id: None,
                };
                table.subscribe(*session, &subscription);
            }
            ((), true)
        });
        router
    }

    fn location(number: usize) -> Location {
        Location {
            worker: 0,
            slot: u32::try_from(number).unwrap(),
            generation: 0,
        }
    }

    fn closed(router: &Router, lost: &Lost) -> Vec<u32> {
        let losers = find_losers(router, &lost.encode()).connections;
        let mut slots: Vec<u32> = losers.into_iter().map(|location| location.slot).collect();
        slots.sort_unstable();
        slots
    }

    #[test]
    fn r4_only_who_would_have_got_what_is_lost_is_closed() {
        let live = |number| SessionId::new(Placement::live_of_client("c"), number, 0);
        let durable = SessionId::new(Placement::data_of_client("c"), 9, 0);
        let router = router(&[
            (live(1), "a/+", QoS::AtLeastOnce),
            (live(2), "b", QoS::AtLeastOnce),
            (live(3), "a/b", QoS::AtMostOnce),
            (durable, "a/b", QoS::AtLeastOnce),
            (live(5), "$share/g/a/#", QoS::ExactlyOnce),
        ]);
        let message = ForwardedMessage {
            topic: "a/b",
            qos: QoS::AtLeastOnce,
            ..frame::NO_MESSAGE
        };
        let mut items = Vec::new();
        frame::put_item(&mut items, &frame::Recipients::Matching, &message);
        let mut lost = Lost::default();
        assert!(closed(&router, &lost).is_empty(), "nobody is named");
        lost.note_items(&items, true, &mut Vec::new());
        assert_eq!(closed(&router, &lost), [0]);
        items.clear();
        let borrower = frame::Recipients::Borrower {
            session: live(5),
            share: ShareKey {
                name: "g".into(),
                filter: "a/#".into(),
            },
            incarnation: NodeIncarnation(1),
            worker: 0,
            number: 1,
            is_final: true,
        };
        let message = ForwardedMessage {
            qos: QoS::ExactlyOnce,
            ..message
        };
        frame::put_item(&mut items, &borrower, &message);
        lost.note_items(&items, true, &mut Vec::new());
        assert_eq!(closed(&router, &lost), [0, 4]);
        assert!(!find_losers(&router, &lost.encode()).lenders);
        // What it is that was lost is not known.
        lost.note_items(&[99], true, &mut Vec::new());
        assert_eq!(closed(&router, &lost), [0, 1, 2, 4], "all but durable sessions");
        assert!(find_losers(&router, &lost.encode()).lenders);
    }
}
