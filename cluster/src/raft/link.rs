//! The task of one lane to one peer: it keeps the connection, sends what is to be sent, and hands out the answers.
//!
//! The connection is made when there is something to send, and again after it broke. While it passes a relay the direct
//! way is tried beside it; when that stands, nothing more is sent over the relay, what is on the way there has a moment
//! to be answered, and then everything goes directly. So requests stay in order, and no more is lost than when a
//! connection breaks.
//!
//! gRPC's buffers stay as long as the longest frame they held, at both ends. So a connection that carried large frames, and
//! then has been quiet for a while, is replaced in the same way.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tonic::Streaming;

use super::connection::{self, Counted, DialError, Dialed, Way};
use super::peer::{Lane, Outgoing, client};
use super::transport::Transport;
use super::types::NodeAddress;
use super::wire::AnswerBody;
use super::wire::proto::{AnswerFrame, RequestFrame};
use crate::state::NodeId;

/// A frame is closed when it has reached this size.
const FRAME_BYTES: usize = 256 << 10;
/// Requests looked at for one frame.
const FRAME_REQUESTS_MAX: usize = 256;
/// Frames handed to the connection and not yet sent.
const FRAMES_WAITING_MAX: usize = 4;
/// Pause after a connection that could not be made.
const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest such pause: one attempt after the other has failed, and not because the peer's machine refused it.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Time for the two hellos.
const HELLO_MAX: Duration = Duration::from_secs(1);
/// Time for what is on the way through a relay, when a direct connection stands.
const MOVE_MAX: Duration = Duration::from_millis(100);
/// A frame from this size on is large: buffers that held it are not kept for long.
const LARGE_FRAME_BYTES: usize = 1 << 20;
/// A connection that carried large frames, the last one so long ago, is replaced when nobody waits for an answer.
const LARGE_KEPT_FOR: Duration = Duration::from_secs(2);
/// A peer that cannot be reached for so long is told of, and again after each [`TELL_INTERVAL`].
const TELL_AFTER: Duration = Duration::from_secs(1);
const TELL_INTERVAL: Duration = Duration::from_secs(30);

/// Keeps the connection of one lane to one peer.
pub(super) struct Link {
    pub(super) transport: Weak<Transport>,
    pub(super) node: NodeId,
    pub(super) lane: Lane,
    pub(super) address: Arc<Mutex<NodeAddress>>,
}

/// Who waits for the answers of one connection, by the numbers of their requests.
type Waiting = Mutex<HashMap<u64, oneshot::Sender<AnswerBody>>>;

/// When the last large frame went over a connection, in either direction.
#[derive(Default)]
struct Large {
    last: Mutex<Option<Instant>>,
    noted: Notify,
}

impl Large {
    fn note(&self, frame_bytes: usize) {
        if frame_bytes >= LARGE_FRAME_BYTES {
            *self.last.lock() = Some(Instant::now());
            self.noted.notify_one();
        }
    }

    /// Waits until there was one, and none for [`LARGE_KEPT_FOR`].
    async fn is_over(&self) {
        loop {
            let last = *self.last.lock();
            match last.map(|at| LARGE_KEPT_FOR.saturating_sub(at.elapsed())) {
                None => self.noted.notified().await,
                Some(Duration::ZERO) => return,
                Some(rest) => tokio::time::sleep(rest).await,
            }
        }
    }
}

/// A connection whose ends know each other.
struct Connection {
    frames: mpsc::Sender<RequestFrame>,
    answers: Streaming<AnswerFrame>,
    way: Way,
    _counted: Counted,
}

/// Why nothing more goes over a connection.
enum Ended {
    Broken(String),
    /// There is a better one.
    Moved(Box<Connection>),
}

/// What a peer's absence was last told.
#[derive(Default)]
struct Absence {
    since: Option<Instant>,
    told: Option<Instant>,
}

impl Absence {
    fn tell(&mut self, link: &Link, reason: &str) {
        let (node, lane) = (link.node.0, link.lane);
        tracing::debug!(node, ?lane, reason, "no connection to a peer");
        let now = Instant::now();
        let absent = now.duration_since(*self.since.get_or_insert(now));
        let due = self.told.is_none_or(|at| now.duration_since(at) >= TELL_INTERVAL);
        if absent >= TELL_AFTER && due {
            self.told = Some(now);
            tracing::warn!(node, ?lane, reason, ?absent, "a node cannot be reached");
        }
    }
}

/// How long to wait before the next attempt, from the beginning of the last.
///
/// A process that ends, or starts, is tried again at once: elections and followers wait for that. A peer that answers
/// and is not the one, or has no certificate that counts, costs both sides a handshake each time.
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(RECONNECT_PAUSE_MIN)
    }
}

impl Pause {
    fn after(&mut self, error: &DialError) -> Duration {
        if matches!(error, DialError::Refused(_)) {
            *self = Self::default();
        }
        let pause = self.0;
        self.0 = (2 * pause).min(RECONNECT_PAUSE_MAX);
        pause
    }
}

impl Link {
    /// Runs until nobody can ask for anything any more.
    pub(super) async fn run(self, mut requests: mpsc::UnboundedReceiver<Outgoing>) {
        let mut absence = Absence::default();
        let mut pause = Pause::default();
        while let Some(first) = requests.recv().await {
            let address = self.address.lock().clone();
            let began = Instant::now();
            match self.connect(&address).await {
                Ok(connection) => {
                    absence = Absence::default();
                    pause = Pause::default();
                    self.exchange(connection, first, &mut requests).await;
                }
                Err(error) => {
                    absence.tell(&self, &error.to_string());
                    drop(first);
                    // An attempt that was itself long has been waited for.
                    let until = (began + pause.after(&error)).max(Instant::now() + RECONNECT_PAUSE_MIN);
                    self.wait(until, &address, &mut requests).await;
                }
            }
        }
    }

    /// Waits until a new attempt is due, or the peer is said to be elsewhere than at `address`.
    async fn wait(
        &self,
        until: Instant,
        address: &NodeAddress,
        requests: &mut mpsc::UnboundedReceiver<Outgoing>,
    ) {
        loop {
            let rest = until.saturating_duration_since(Instant::now());
            tokio::time::sleep(rest.min(RECONNECT_PAUSE_MIN)).await;
            // What waited for this connection hears that there is none.
            while requests.try_recv().is_ok() {}
            if Instant::now() >= until || *self.address.lock() != *address {
                return;
            }
        }
    }

    /// Exchanges requests and answers, `first` first, until a connection breaks.
    async fn exchange(
        &self,
        mut connection: Connection,
        first: Outgoing,
        requests: &mut mpsc::UnboundedReceiver<Outgoing>,
    ) {
        let mut batch = vec![first];
        let reason = loop {
            match self.serve(connection, std::mem::take(&mut batch), requests).await {
                Ended::Moved(to) => connection = *to,
                Ended::Broken(reason) => break reason,
            }
        };
        tracing::info!(node = self.node.0, lane = ?self.lane, reason, "connection to a peer ended");
        if let Some(transport) = self.transport.upgrade() {
            transport.connection_ended(self.node);
        }
    }

    async fn serve(
        &self,
        mut connection: Connection,
        batch: Vec<Outgoing>,
        requests: &mut mpsc::UnboundedReceiver<Outgoing>,
    ) -> Ended {
        let waiting = Waiting::default();
        let large = Large::default();
        let (stop, answered) = (Notify::new(), Notify::new());
        let mut writer = pin!(write(
            requests,
            batch,
            &connection.frames,
            &waiting,
            &large,
            &stop
        ));
        let mut reader = pin!(read(&mut connection.answers, &waiting, &large, &answered));
        let no_more = || Ended::Broken("the peer takes no more requests".to_owned());
        let moved = tokio::select! {
            () = &mut writer => return no_more(),
            reason = &mut reader => return Ended::Broken(reason),
            moved = self.direct_way_back(connection.way) => moved,
            fresh = self.fresh_after_large(connection.way, &large, &waiting) => fresh,
        };
        stop.notify_one();
        let settled = async {
            writer.await;
            while !waiting.lock().is_empty() {
                answered.notified().await;
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(MOVE_MAX, settled) => {}
            _ = &mut reader => {}
        }
        Ended::Moved(Box::new(moved))
    }

    /// Waits until a peer that is reached through a relay can be reached directly.
    async fn direct_way_back(&self, way: Way) -> Connection {
        if way == Way::Direct {
            return std::future::pending().await;
        }
        loop {
            let wait = self
                .transport
                .upgrade()
                .map(|transport| transport.ways().return_wait(self.node));
            tokio::time::sleep(wait.unwrap_or(TELL_INTERVAL)).await;
            match self.connect_directly().await {
                Ok(connection) => return connection,
                Err(reason) => {
                    tracing::debug!(node = self.node.0, lane = ?self.lane, reason, "the direct way is still cut");
                }
            }
        }
    }

    /// Waits until what is large has gone over the connection and everything is answered; a fresh one. A connection
    /// through a relay is left as it is, and none through a relay comes in place of a direct one.
    async fn fresh_after_large(&self, way: Way, large: &Large, waiting: &Waiting) -> Connection {
        if way != Way::Direct {
            return std::future::pending().await;
        }
        loop {
            large.is_over().await;
            if waiting.lock().is_empty() {
                match self.connect_directly().await {
                    Ok(connection) if waiting.lock().is_empty() => return connection,
                    Ok(_) => {}
                    Err(reason) => {
                        tracing::debug!(node = self.node.0, lane = ?self.lane, reason, "no fresh connection");
                    }
                }
            }
            tokio::time::sleep(LARGE_KEPT_FOR).await;
        }
    }

    /// Makes a connection, by whichever way comes about.
    async fn connect(&self, address: &NodeAddress) -> Result<Connection, DialError> {
        let transport = self.transport.upgrade();
        let transport = transport.ok_or_else(|| DialError::Failed("the transport is gone".to_owned()))?;
        let greet = |dialed| self.greet(&transport, dialed);
        connection::dial(&transport, self.node, address, greet).await
    }

    async fn connect_directly(&self) -> Result<Connection, String> {
        let transport = self.transport.upgrade().ok_or("the transport is gone")?;
        let address = self.address.lock().clone();
        let dialed = connection::directly(&transport, &address).await;
        self.greet(&transport, dialed.map_err(|error| error.to_string())?)
            .await
    }

    /// Exchanges hellos over a stream.
    async fn greet(&self, transport: &Transport, Dialed { wire, way }: Dialed) -> Result<Connection, String> {
        let (frames, mut requests) = mpsc::channel(FRAMES_WAITING_MAX);
        let hello = RequestFrame {
            hello: Some(transport.hello_to(self.node)),
            requests: Vec::new(),
        };
        frames.try_send(hello).map_err(|error| error.to_string())?;
        let stream = futures_util::stream::poll_fn(move |context| requests.poll_recv(context));
        let greeting = async {
            let answers = client(wire).await?.exchange(stream).await;
            let answers = answers.inspect_err(|status| transport.note_refusal(status));
            let mut answers = answers.map_err(|status| in_words(&status))?.into_inner();
            let first = answers.message().await.map_err(|status| in_words(&status))?;
            transport
                .check_hello(first.and_then(|frame| frame.hello), Some(self.node))
                .map_err(|status| in_words(&status))?;
            Ok::<_, String>(answers)
        };
        let greeted = tokio::time::timeout(HELLO_MAX, greeting).await;
        let answers = greeted.map_err(|_| "no hello".to_owned())??;
        let used_for = self.lane.used_for();
        Ok(Connection {
            frames,
            answers,
            way,
            _counted: transport.ways().established(self.node, way, used_for),
        })
    }
}

/// What a peer's refusal, or a connection's failure, says.
fn in_words(status: &tonic::Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => connection::with_sources(source),
        None => status.message().to_owned(),
    }
}

/// Sends what there is, in frames, until there can be no more or `stop` says that nothing more is to go this way.
async fn write(
    requests: &mut mpsc::UnboundedReceiver<Outgoing>,
    mut batch: Vec<Outgoing>,
    frames: &mpsc::Sender<RequestFrame>,
    waiting: &Waiting,
    large: &Large,
    stop: &Notify,
) {
    loop {
        let mut frame = RequestFrame::default();
        let mut bytes = 0;
        for outgoing in batch.drain(..) {
            bytes += outgoing.len();
            let Outgoing { request, answer, .. } = outgoing;
            match answer {
                // Whoever asked has given up.
                Some(answer) if answer.is_closed() => continue,
                Some(answer) => drop(waiting.lock().insert(request.number, answer)),
                None => {}
            }
            frame.requests.push(request);
            if bytes >= FRAME_BYTES {
                large.note(std::mem::take(&mut bytes));
                if frames.send(std::mem::take(&mut frame)).await.is_err() {
                    return;
                }
            }
        }
        if !frame.requests.is_empty() && frames.send(frame).await.is_err() {
            return;
        }
        tokio::select! {
            biased;
            () = stop.notified() => return,
            count = requests.recv_many(&mut batch, FRAME_REQUESTS_MAX) => if count == 0 {
                return;
            }
        }
    }
}

/// Hands out answers until the connection breaks; says why it did.
async fn read(
    answers: &mut Streaming<AnswerFrame>,
    waiting: &Waiting,
    large: &Large,
    answered: &Notify,
) -> String {
    loop {
        match answers.message().await {
            Ok(Some(frame)) => {
                let mut bytes = 0;
                for answer in frame.answers {
                    if let Some(AnswerBody::Service(body)) = &answer.body {
                        bytes += body.len();
                    }
                    let waiter = waiting.lock().remove(&answer.number);
                    if let (Some(waiter), Some(body)) = (waiter, answer.body) {
                        drop(waiter.send(body));
                    }
                }
                large.note(bytes);
                answered.notify_one();
            }
            Ok(None) => return "closed by the peer".to_owned(),
            Err(status) => return status.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r16_only_a_peer_that_is_there_and_wrong_is_tried_less_often() {
        let mut pause = Pause::default();
        let failed = || DialError::Failed("another cluster".to_owned());
        let pauses: Vec<u128> = (0..8).map(|_| pause.after(&failed()).as_millis()).collect();
        assert_eq!(pauses, [20, 40, 80, 160, 320, 640, 1_000, 1_000]);
        let refused = DialError::Refused("nobody listens".to_owned());
        for _ in 0..3 {
            assert_eq!(pause.after(&refused), RECONNECT_PAUSE_MIN);
        }
    }
}
