//! What stands in the place of frames that are given up.

use quorate_cluster::state::{SessionId, ShareKey};
use quorate_proto::codec::QoS;

use super::super::Peers;
use super::super::frame::{self, ForwardedMessage, NO_MESSAGE, Recipients, put_item};
use super::*;
use crate::worker::{Lender, LenderNews, Returned};

fn link() -> Link {
    Link {
        incarnation: NodeIncarnation(5),
        queue: Mutex::default(),
        filled: Notify::new(),
        backlog: Arc::new(Backlog::new(1024)),
        stalled: AtomicBool::new(false),
    }
}

fn sender() -> Sender {
    let now = Instant::now();
    Sender {
        shared: Weak::new(),
        link: Arc::new(link()),
        node: NodeId(2),
        unaccepted: VecDeque::new(),
        number: 0,
        lost: Lost::default(),
        accepted_at: now,
        look_at: now,
        accepted: 0,
        told: 0,
        note: stall_note().0,
    }
}

fn lent(number: u64) -> Recipients {
    Recipients::Borrower {
        session: SessionId(number),
        share: ShareKey {
            name: "g".into(),
            filter: "#".into(),
        },
        incarnation: NodeIncarnation(1),
        worker: 0,
        number,
        is_final: true,
    }
}

fn returned(number: u64) -> Recipients {
    Recipients::Lender {
        lender: Lender {
            node: NodeId(2),
            incarnation: NodeIncarnation(5),
            worker: 0,
        },
        news: LenderNews::Returned(number, SessionId(9), Returned::Back),
    }
}

fn batch(items: &[Recipients]) -> PeerBatch {
    let message = ForwardedMessage {
        topic: "t",
        qos: QoS::ExactlyOnce,
        ..NO_MESSAGE
    };
    let mut batch = PeerBatch::default();
    for item in items {
        put_item(&mut batch.items, item, &message);
    }
    batch
}

impl Sender {
    /// What waits leaves in one frame, at `since`.
    fn send_next(&mut self, since: Instant) {
        let (batch, through) = self.link.take().unwrap();
        let frame = self.next_frame(&batch.items);
        self.unaccepted.push_back(Sent {
            frame,
            items: batch.items.len(),
            counted: batch.counted,
            waiting: batch.waiting,
            since,
            through,
            gap: false,
        });
    }

    fn give_up_now(&mut self) -> Vec<(u64, bool)> {
        let dropped = self.link.queue.lock().drop_all();
        let loans = self.put_gap_for_all(dropped);
        loans
            .iter()
            .map(|loan| (loan.number, loan.may_be_taken))
            .collect()
    }

    /// The only frame that is not accepted: its number, how many are named, and what lenders are told.
    fn gap(&self) -> (u64, usize, Vec<u64>) {
        assert_eq!(self.unaccepted.len(), 1);
        let opened = frame::open(&self.unaccepted[0].frame).unwrap();
        assert!(opened.header.gap && self.unaccepted[0].gap);
        assert_eq!(opened.items, self.unaccepted[0].items());
        let (mut names, mut news) = (0, Vec::new());
        super::super::lost::visit_losers(opened.lost, |_| names += 1);
        assert!(frame::visit(opened.items, |recipients, _| match recipients {
            Recipients::Lender {
                news: LenderNews::Returned(number, ..),
                ..
            } => news.push(*number),
            other => panic!("{other:?}"),
        }));
        (opened.header.number, names, news)
    }
}

/// A node that takes nothing is not waited for again because frames to it were dropped: what is sent to it after that is
/// released at the next look.
#[test]
fn r4_a_node_that_still_takes_nothing_is_not_waited_for_anew_behind_a_gap() {
    let mut sender = sender();
    let since = Instant::now().checked_sub(STALL_MAX).unwrap();
    assert!(sender.link.send(batch(&[Recipients::Matching])).is_ok());
    sender.send_next(since);
    for _ in 0..2 {
        sender.give_up_now();
        assert_eq!(sender.unaccepted[0].since, since);
    }
}

#[test]
fn r4_a_gap_frame_has_what_lenders_are_told_and_says_whose_messages_may_have_been_taken() {
    let mut sender = sender();
    let now = Instant::now();
    assert!(sender.link.send(batch(&[lent(1), returned(11)])).is_ok());
    sender.send_next(now);
    assert!(sender.link.send(batch(&[lent(2), returned(12)])).is_ok());
    assert_eq!(sender.give_up_now(), [(1, true), (2, false)]);
    assert_eq!(sender.gap(), (2, 1, vec![11, 12]), "the first member is named");

    // It stays until it is accepted, and nothing is said twice.
    assert!(sender.link.send(batch(&[lent(3), returned(13)])).is_ok());
    sender.send_next(now);
    assert_eq!(sender.give_up_now(), [(3, true)]);
    assert_eq!(sender.gap(), (4, 2, vec![11, 12, 13]));
}

/// R40: members at a node that takes nothing are lent nothing, as long as that start of the node lives.
#[test]
fn r40_a_start_that_takes_nothing_is_known_and_a_later_one_is_not_it() {
    let (peers, link) = (Peers::default(), Arc::new(link()));
    let (node, start) = (NodeId(2), link.incarnation());
    assert!(peers.takes(node, start), "nothing was sent to it");
    peers.links.lock().insert(node, link.clone());
    assert!(peers.takes(node, start));
    link.stalled.store(true, Ordering::Relaxed);
    assert!(!peers.takes(node, start));
    assert!(peers.takes(node, NodeIncarnation(start.0 + 1)));
}

/// R40: where what lenders are told was too much, members that come before the other node knows that are told as well.
#[test]
fn r40_members_that_come_while_news_of_lenders_is_lost_are_closed_too() {
    let mut sender = sender();
    assert!(!sender.end_gap());
    assert!(sender.link.send(batch(&[lent(1), returned(11)])).is_ok());
    sender.send_next(Instant::now());
    sender.give_up_now();
    assert!(!sender.end_gap(), "nothing of it is lost");
    let mut news = PeerBatch::default();
    while news.items.len() <= 1 << 20 {
        put_item(&mut news.items, &returned(12), &NO_MESSAGE);
    }
    assert!(sender.link.send(news).is_ok());
    sender.give_up_now();
    assert!(sender.end_gap());
    assert!(!sender.end_gap(), "once");
}
