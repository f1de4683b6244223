//! The answers of one call on their way to the caller, and what they may hold meanwhile.
//!
//! A caller that reads slowly, or asks for more than the network carries, must not make this node hold everything it
//! asked for. Small answers are counted together with the requests they belong to: beyond a limit requests are refused
//! at once. Large answers wait for room before they are made ([`Answers::room`]), so that only so much of them waits to
//! be sent. Neither holds up the reading of requests: what a request waits for may come with a later one.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;

use super::service::LargeAnswer;
use super::transport::FRAME_BYTES_MAX;
use super::wire::AnswerBody;
use super::wire::proto::{Answer, AnswerFrame};

/// A frame is closed when it has reached this size.
const FRAME_BYTES: usize = 256 << 10;
/// Answers put into one frame.
const FRAME_ANSWERS_MAX: usize = 256;
/// Largest answer: it has to fit into a frame behind others.
const ANSWER_BYTES_MAX: usize = FRAME_BYTES_MAX - 2 * FRAME_BYTES;
/// Bytes of requests that are being answered and of answers that wait to be sent. Requests beyond are refused.
const HELD_BYTES_MAX: usize = 64 << 20;
/// What a request or an answer costs beside its bytes.
const HELD_BYTES_EACH: usize = 512;
/// KiB of large answers of one kind that wait to be sent, unless a single one is larger.
const ROOM_KIB: u32 = 4 << 10;

/// Takes the answers of one call.
#[derive(Clone)]
pub(super) struct Answers {
    queue: mpsc::UnboundedSender<Waiting>,
    held: Arc<AtomicUsize>,
    reads: Arc<Semaphore>,
    feeds: Arc<Semaphore>,
}

/// Counts bytes of a request while it is being answered, then those of its answer until it is sent.
pub(super) struct Held {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Held {
    fn new(all: &Arc<AtomicUsize>, bytes: usize) -> Self {
        let bytes = bytes + HELD_BYTES_EACH;
        all.fetch_add(bytes, Ordering::Relaxed);
        Self {
            all: Arc::clone(all),
            bytes,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// An answer that waits to be sent.
struct Waiting {
    answer: Answer,
    guards: Guards,
}

/// What is given back when an answer is sent.
type Guards = (Held, Option<OwnedSemaphorePermit>);

/// Both ends of the answers of one call.
pub(super) fn answers() -> (Answers, AnswerFrames) {
    let (queue, waiting) = mpsc::unbounded_channel();
    let room = || Arc::new(Semaphore::new(ROOM_KIB as usize));
    let answers = Answers {
        queue,
        held: Arc::default(),
        reads: room(),
        feeds: room(),
    };
    let rooms = [&answers.reads, &answers.feeds].map(Arc::clone);
    let leaving = Vec::new();
    let frames = AnswerFrames {
        waiting,
        leaving,
        rooms,
    };
    (answers, frames)
}

impl Answers {
    /// A request of so many bytes is to be answered; `None` where too much is already.
    pub(super) fn take_on(&self, bytes: usize) -> Option<Held> {
        let held = Held::new(&self.held, bytes);
        (self.held.load(Ordering::Relaxed) <= HELD_BYTES_MAX).then_some(held)
    }

    /// Whether the caller goes on asking and does not even read that it is refused.
    pub(super) fn are_not_read(&self) -> bool {
        self.held.load(Ordering::Relaxed) > 2 * HELD_BYTES_MAX
    }

    /// Waits for room for a large answer; `None` where nobody waits for it any more.
    pub(super) async fn room(&self, kind: LargeAnswer, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let room = match kind {
            LargeAnswer::Read => &self.reads,
            LargeAnswer::Feed => &self.feeds,
        };
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let kib = kib.clamp(1, ROOM_KIB);
        Arc::clone(room).acquire_many_owned(kib).await.ok()
    }

    /// Sends an answer, in the room that was made for it.
    pub(super) fn send(&self, number: u64, body: AnswerBody, room: Option<OwnedSemaphorePermit>) {
        let mut answer = Answer {
            number,
            body: Some(body),
        };
        let mut bytes = answer.encoded_len();
        if bytes > ANSWER_BYTES_MAX {
            tracing::warn!(bytes, "an answer to another node is too large, and is not sent");
            let reason = format!("the answer has {bytes} bytes");
            answer.body = Some(AnswerBody::Unavailable(reason));
            bytes = answer.encoded_len();
        }
        let guards = (Held::new(&self.held, bytes), room);
        // Where the connection is gone its peer knows that there is no answer.
        drop(self.queue.send(Waiting { answer, guards }));
    }
}

/// The answers of one call in frames. A frame is asked for when the connection has room for its beginning; what was in
/// the frame before has left then.
pub(super) struct AnswerFrames {
    waiting: mpsc::UnboundedReceiver<Waiting>,
    leaving: Vec<Guards>,
    rooms: [Arc<Semaphore>; 2],
}

impl Stream for AnswerFrames {
    type Item = Result<AnswerFrame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.leaving.clear();
        let Some(first) = ready!(self.waiting.poll_recv(context)) else {
            return Poll::Ready(None);
        };
        let mut frame = AnswerFrame::default();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(Waiting { answer, guards }) = next {
            bytes += answer.encoded_len();
            frame.answers.push(answer);
            self.leaving.push(guards);
            let is_full = bytes >= FRAME_BYTES || frame.answers.len() >= FRAME_ANSWERS_MAX;
            next = if is_full {
                None
            } else {
                self.waiting.try_recv().ok()
            };
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Drop for AnswerFrames {
    fn drop(&mut self) {
        for room in &self.rooms {
            room.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::{FutureExt, StreamExt};

    use super::*;

    fn service(bytes: usize) -> AnswerBody {
        AnswerBody::Service(Bytes::from(vec![0; bytes]))
    }

    async fn next(frames: &mut AnswerFrames) -> AnswerFrame {
        frames.next().await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_frame_is_closed_when_it_is_large() {
        let (answers, mut frames) = answers();
        for number in 0..300 {
            answers.send(number, service(1), None);
        }
        for number in 300..310 {
            answers.send(number, service(100 << 10), None);
        }
        let mut numbers = Vec::new();
        let mut counts = Vec::new();
        while numbers.len() < 310 {
            let frame = next(&mut frames).await;
            assert!(frame.encoded_len() < FRAME_BYTES + (101 << 10));
            counts.push(frame.answers.len());
            numbers.extend(frame.answers.iter().map(|answer| answer.number));
        }
        assert_eq!(numbers, (0..310).collect::<Vec<_>>());
        assert_eq!(counts, [256, 47, 3, 3, 1]);
        assert!(frames.next().now_or_never().is_none());
        assert_eq!(answers.held.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn an_answer_that_fits_into_no_frame_is_refused() {
        let (answers, mut frames) = answers();
        answers.send(7, service(FRAME_BYTES_MAX), None);
        let frame = next(&mut frames).await;
        assert_eq!(frame.answers[0].number, 7);
        assert!(matches!(frame.answers[0].body, Some(AnswerBody::Unavailable(_))));
    }

    #[tokio::test]
    async fn what_is_asked_and_not_answered_is_bounded() {
        let (answers, mut frames) = answers();
        let mut taken = Vec::new();
        while let Some(held) = answers.take_on(1 << 20) {
            taken.push(held);
        }
        assert_eq!(taken.len(), 63, "64 MiB with what each costs");
        taken.pop();
        assert!(answers.take_on(1 << 20).is_some());
        // Answers count until they are sent.
        taken.clear();
        answers.send(1, service(HELD_BYTES_MAX / 2), None);
        answers.send(2, service(HELD_BYTES_MAX / 2), None);
        assert!(answers.take_on(0).is_none());
        next(&mut frames).await;
        assert!(answers.take_on(0).is_none(), "it is on its way");
        next(&mut frames).await;
        assert!(answers.take_on(0).is_some());
        assert!(!answers.are_not_read());
        for _ in 0..5 {
            answers.send(3, service(HELD_BYTES_MAX / 2), None);
        }
        assert!(answers.are_not_read());
    }

    #[tokio::test]
    async fn large_answers_wait_until_others_have_been_sent() {
        let (answers, mut frames) = answers();
        let read = |bytes| answers.room(LargeAnswer::Read, bytes);
        let half = ROOM_KIB as usize * 1024 / 2;
        for number in 0..2 {
            let room = read(half).await;
            answers.send(number, service(half), room);
        }
        assert!(read(1).now_or_never().is_none());
        // One kind does not wait for the other; a single large one takes all there is.
        let feed = answers.room(LargeAnswer::Feed, 100 * half).await;
        assert!(feed.is_some());
        next(&mut frames).await;
        assert!(read(1).now_or_never().is_none(), "the first is on its way");
        next(&mut frames).await;
        assert!(read(half).now_or_never().is_some());
        let waiting = read(2 * half + 1);
        drop(frames);
        assert!(waiting.await.is_none(), "the connection is gone");
    }
}
