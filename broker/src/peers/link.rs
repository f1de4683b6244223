//! The way of live deliveries to one start of another node.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use parking_lot::Mutex;
use quorate_cluster::node::Backlog;
use quorate_cluster::state::{NodeId, NodeIncarnation};
use tokio::sync::Notify;

use super::frame::{FrameHeader, frame};
use super::inbox::close_members;
use super::lost::{DroppedLoan, Lost};
use super::note::{Decision, NoteKeeper, StallNote, stall_note};
use super::{PeerBatch, Waiting, release};
use crate::node::Shared;

/// Bytes of one frame, unless a single batch is larger.
const FRAME_BYTES_MAX: usize = 256 * 1024;
/// Frames sent and not accepted.
const FRAMES_MAX: usize = 16;
/// A node that accepts nothing for so long is no longer waited for, as soon as that is noted (R4).
const STALL_MAX: Duration = Duration::from_millis(300);
/// Bytes kept for a node that is no longer waited for; beyond that its subscribers lose what there is, and those that
/// would have got something of it their connections with it.
const STALLED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Publishers of what comes for such a node are told after so long.
const STALLED_LOOK: Duration = Duration::from_millis(5);
/// Pause before frames are sent again.
const RETRY: Duration = Duration::from_millis(20);

/// A link; dropped when its node's start is out of the view.
#[derive(Debug)]
pub(super) struct Link {
    incarnation: NodeIncarnation,
    queue: Mutex<Queue>,
    filled: Notify,
    backlog: Arc<Backlog>,
    /// The node is no longer waited for, and has accepted nothing since.
    stalled: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<PeerBatch>,
    bytes: usize,
    /// Counts the batches that have left.
    taken: u64,
    /// Nobody sends any more.
    closed: bool,
}

/// Batches that are dropped.
struct Dropped {
    batches: VecDeque<PeerBatch>,
    /// Batches up to this one are dropped, or have been sent.
    through: u64,
}

impl Queue {
    fn drop_all(&mut self) -> Dropped {
        self.taken += self.batches.len() as u64;
        self.bytes = 0;
        Dropped {
            batches: std::mem::take(&mut self.batches),
            through: self.taken,
        }
    }
}

/// A frame that was sent and not accepted.
struct Sent {
    frame: Bytes,
    /// Bytes of its items, which are its end.
    items: usize,
    /// What it counts for in the backlog: its items, as they were added.
    counted: usize,
    waiting: Vec<Waiting>,
    since: Instant,
    /// Batches up to this one are accepted with it.
    through: u64,
    /// It names what was lost.
    gap: bool,
}

impl Sent {
    fn items(&self) -> &[u8] {
        &self.frame[self.frame.len() - self.items..]
    }
}

impl Link {
    /// Starts the task that sends.
    pub(super) fn start(
        shared: &Arc<Shared>,
        node: NodeId,
        incarnation: NodeIncarnation,
        backlog: Arc<Backlog>,
    ) -> Arc<Self> {
        let link = Arc::new(Self {
            incarnation,
            queue: Mutex::default(),
            filled: Notify::new(),
            backlog,
            stalled: AtomicBool::new(false),
        });
        let (note, keeper) = stall_note();
        let sender = Sender {
            shared: Arc::downgrade(shared),
            link: link.clone(),
            node,
            unaccepted: VecDeque::new(),
            number: 0,
            lost: Lost::default(),
            accepted_at: Instant::now(),
            look_at: Instant::now(),
            accepted: 0,
            told: 0,
            note,
        };
        shared.control.spawn(sender.run(keeper));
        link
    }

    pub(super) fn incarnation(&self) -> NodeIncarnation {
        self.incarnation
    }

    /// Whether the node is no longer waited for, and has accepted nothing since.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Appends a batch; it comes back where the node's start is out of the view.
    pub(super) fn send(&self, mut batch: PeerBatch) -> Result<(), PeerBatch> {
        let mut queue = self.queue.lock();
        if queue.closed {
            // Its start has just left the view.
            drop(queue);
            return Err(batch);
        }
        batch.counted = batch.items.len();
        self.backlog.add(batch.counted);
        queue.bytes += batch.items.len();
        queue.batches.push_back(batch);
        drop(queue);
        self.filled.notify_one();
        Ok(())
    }

    /// Takes what fits one frame, and counts it.
    fn take(&self) -> Option<(PeerBatch, u64)> {
        let mut queue = self.queue.lock();
        let mut batch = queue.batches.pop_front()?;
        queue.taken += 1;
        while let Some(next) = queue.batches.front()
            && batch.items.len() + next.items.len() <= FRAME_BYTES_MAX
        {
            let next = queue.batches.pop_front().expect("it was looked at");
            queue.taken += 1;
            batch.items.extend_from_slice(&next.items);
            batch.waiting.extend(next.waiting);
            batch.counted += next.counted;
        }
        queue.bytes -= batch.items.len();
        Some((batch, queue.taken))
    }
}

struct Sender {
    shared: Weak<Shared>,
    link: Arc<Link>,
    node: NodeId,
    unaccepted: VecDeque<Sent>,
    number: u64,
    /// Who has lost what was dropped, until a frame that names them is accepted.
    lost: Lost,
    /// When a frame was accepted last.
    accepted_at: Instant,
    /// When to look next whether frames are accepted.
    look_at: Instant,
    /// Batches up to this one are accepted.
    accepted: u64,
    /// Publishers of batches up to this one may have been told that they are.
    told: u64,
    note: StallNote,
}

impl Sender {
    async fn run(mut self, keeper: NoteKeeper) {
        let Some(mut view) = self
            .shared
            .upgrade()
            .map(|shared| shared.node().directory().watch_view())
        else {
            return;
        };
        let peer @ (node, incarnation) = (self.node, self.link.incarnation);
        let left = async move { drop(view.wait_for(|view| !view.holds(node, incarnation)).await) };
        let shared = self.shared.clone();
        let notes = keeper.run(node, async move |Decision { number, stalled }| {
            // The node is not held meanwhile: this start may be over.
            let shared = shared.upgrade()?;
            let node = shared.node().clone();
            drop(shared);
            Some(node.note_stalled(peer, number, stalled).await)
        });
        tokio::select! {
            () = left => {}
            () = self.send_all() => {}
            () = notes => {}
        }
        self.give_up();
    }

    /// The node's start is out of the view: its connections are closed, and nobody waits for it.
    fn give_up(&mut self) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let mut waiting = Vec::new();
        let mut bytes = 0;
        for sent in self.unaccepted.drain(..) {
            bytes += sent.counted;
            waiting.extend(sent.waiting);
        }
        let left = {
            let mut queue = self.link.queue.lock();
            queue.closed = true;
            queue.drop_all()
        };
        for batch in left.batches {
            bytes += batch.counted;
            waiting.extend(batch.waiting);
        }
        self.link.backlog.remove(bytes);
        shared.peer_lost(self.node, self.link.incarnation);
        release(&shared, waiting);
    }

    /// Sends what comes, as long as the process runs.
    async fn send_all(&mut self) {
        loop {
            let mut answers = FuturesOrdered::new();
            // What a broken connection left open goes first, with the same numbers.
            for sent in &self.unaccepted {
                let Some(answer) = self.ask(sent.frame.clone()) else {
                    return;
                };
                answers.push_back(answer);
            }
            loop {
                while answers.len() < FRAMES_MAX
                    && let Some((batch, through)) = self.link.take()
                {
                    let frame = self.next_frame(&batch.items);
                    let Some(answer) = self.ask(frame.clone()) else {
                        return;
                    };
                    answers.push_back(answer);
                    let since = Instant::now();
                    if self.unaccepted.is_empty() {
                        self.look_at = since + STALL_MAX;
                    }
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
                let calm_until = self.look_at_calm();
                tokio::select! {
                    Some(accepted) = answers.next() => match accepted {
                        true => self.accepted(),
                        false => break,
                    },
                    () = self.link.filled.notified(), if self.link.is_stalled() || answers.len() < FRAMES_MAX => {
                        if self.link.is_stalled() {
                            self.look_at = self.look_at.min(Instant::now() + STALLED_LOOK);
                        }
                    }
                    () = wait_until(calm_until), if calm_until.is_some() => {}
                    () = self.note.changed_before(self.look_at), if !answers.is_empty() => {
                        self.look_at = Instant::now() + STALL_MAX / 3;
                        // The answers that are under way are to frames that are given up.
                        if self.look_at_stall() {
                            break;
                        }
                    }
                }
            }
            self.look_at_stall();
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Sends a frame; the answer is whether it was accepted.
    fn ask(&self, frame: Bytes) -> Option<impl Future<Output = bool> + use<>> {
        let shared = self.shared.upgrade()?;
        let answer = shared.node().ask_broker(self.node, frame);
        Some(async move { answer.await.is_some() })
    }

    fn next_header(&mut self, gap: bool) -> FrameHeader {
        self.number += 1;
        FrameHeader {
            incarnation: self.link.incarnation.0,
            number: self.number,
            gap,
        }
    }

    fn next_frame(&mut self, items: &[u8]) -> Bytes {
        frame(self.next_header(false), &[], items).into()
    }

    /// The frame behind a gap: names who has lost something, and has what lenders are told.
    fn gap_frame(&mut self) -> Bytes {
        let header = self.next_header(true);
        frame(header, &self.lost.encode(), self.lost.news()).into()
    }

    fn accepted(&mut self) {
        self.link.stalled.store(false, Ordering::Relaxed);
        self.accepted_at = Instant::now();
        let (Some(sent), Some(shared)) = (self.unaccepted.pop_front(), self.shared.upgrade()) else {
            return;
        };
        self.accepted = sent.through;
        if sent.gap && self.end_gap() {
            close_members(&shared);
        }
        self.link.backlog.remove(sent.counted);
        release(&shared, sent.waiting);
    }

    /// The other node knows who has lost something. Whether members here are to be closed: those that have come since the news
    /// of earlier ones was lost may have said something of messages that the lender now takes for sent.
    fn end_gap(&mut self) -> bool {
        std::mem::take(&mut self.lost).has_lost_news()
    }

    /// Lets `meta` forget a stall that is over. Until when to wait, where it is not long enough ago.
    fn look_at_calm(&mut self) -> Option<Instant> {
        // With what was dropped, whose names are accepted in its place.
        match self.accepted >= self.told {
            true => self.note.calm(Instant::now()),
            false => None,
        }
    }

    /// A node that accepts nothing is no longer waited for; what it has not accepted is kept for a while (R4). Whether
    /// it was given up.
    fn look_at_stall(&mut self) -> bool {
        let Some(oldest) = self.unaccepted.front() else {
            return false;
        };
        // One that takes a frame now and then is slow, and holds up who sends to it.
        if oldest.since.max(self.accepted_at).elapsed() < STALL_MAX {
            return false;
        }
        let Some(shared) = self.shared.upgrade() else {
            return false;
        };
        // Who is told, that it may be told, and what is dropped are decided at once: batches come meanwhile.
        let mut queue = self.link.queue.lock();
        let queued = queue.batches.iter().any(|batch| !batch.waiting.is_empty());
        let is_waited_for = queued || self.unaccepted.iter().any(|sent| !sent.waiting.is_empty());
        // Nobody is told before it is noted: if this node ended then, the other would never know what it has missed.
        if is_waited_for && !self.note.stands() {
            return false;
        }
        let sent = self.unaccepted.iter_mut();
        let mut waiting: Vec<Waiting> = sent.flat_map(|sent| sent.waiting.drain(..)).collect();
        let batches = queue.batches.iter_mut();
        waiting.extend(batches.flat_map(|batch| batch.waiting.drain(..)));
        if is_waited_for {
            self.told = queue.taken + queue.batches.len() as u64;
        }
        // What is kept for this node has a bound of its own, and holds up nobody who sends to others.
        let sent = self.unaccepted.iter_mut().map(|sent| &mut sent.counted);
        let batches = queue.batches.iter_mut().map(|batch| &mut batch.counted);
        let uncounted: usize = sent.chain(batches).map(std::mem::take).sum();
        let unaccepted: usize = self.unaccepted.iter().map(|sent| sent.frame.len()).sum();
        let too_much = queue.bytes + unaccepted > STALLED_BYTES_MAX;
        let dropped = too_much.then(|| queue.drop_all());
        drop(queue);
        self.link.backlog.remove(uncounted);
        if !self.link.stalled.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                node = self.node.0,
                "a node takes no deliveries; publishers do not wait for it any more"
            );
        }
        release(&shared, waiting);
        if let Some(dropped) = dropped {
            self.give_up_all(&shared, dropped);
        }
        too_much
    }

    /// Too much waits: it is lost, and the node closes the connections that would have got it. It is told so at once,
    /// with a frame that is repeated like all others: what comes next may come hours later.
    fn give_up_all(&mut self, shared: &Shared, dropped: Dropped) {
        tracing::warn!(
            node = self.node.0,
            "deliveries for a node that takes none are dropped; it will close who would have got them"
        );
        let had_lost_news = self.lost.has_lost_news();
        let loans = self.put_gap_for_all(dropped);
        shared.loans_dropped(loans);
        shared.doubt_holder(self.node);
        if self.lost.has_lost_news() && !had_lost_news {
            close_members(shared);
        }
    }

    /// Puts a frame that says what is lost in the place of everything that is not accepted. The messages among that which
    /// were lent.
    fn put_gap_for_all(&mut self, dropped: Dropped) -> Vec<DroppedLoan> {
        // The node takes nothing for as long as before: nobody waits for it anew.
        let since = self
            .unaccepted
            .front()
            .map_or_else(Instant::now, |sent| sent.since);
        let mut loans = Vec::new();
        // What an earlier gap frame says is among the lost already.
        for sent in self.unaccepted.drain(..).filter(|sent| !sent.gap) {
            self.lost.note_items(sent.items(), true, &mut loans);
        }
        for batch in dropped.batches {
            self.lost.note_items(&batch.items, false, &mut loans);
        }
        let frame = self.gap_frame();
        self.unaccepted.push_back(Sent {
            frame,
            items: self.lost.news().len(),
            counted: 0,
            waiting: Vec::new(),
            since,
            through: dropped.through,
            gap: true,
        });
        loans
    }
}

async fn wait_until(instant: Option<Instant>) {
    if let Some(instant) = instant {
        tokio::time::sleep_until(instant.into()).await;
    }
}

#[cfg(test)]
mod tests;
