//! A worker: one thread, one current-thread runtime, its share of the connections.
//!
//! ```text
//! socket -> io -> inbound -> publish -> (own connections | other workers' mailboxes | the node's groups)
//! mailbox -> deliver / queue / completions -> connection's output -> flusher -> socket
//! ```
//!
//! Everything of a connection happens on its worker's thread, so nothing here is locked; what other threads want
//! arrives in the mailbox. Output is appended to connections during a turn and written once by the flusher, which
//! runs after the tasks that were ready: many packets, one system call.

mod ack_waits;
mod authenticate;
mod batch;
mod completions;
mod connection;
mod counting;
mod crossers;
mod deliver;
mod forward;
mod held;
mod inbound;
mod io;
mod late;
mod lifecycle;
mod mailbox;
mod open;
mod output;
mod plans;
mod pressure;
mod publish;
mod queue;
mod recipients;
mod retained;
mod shared;
mod subscribe;
#[cfg(test)]
mod testing;
mod ticket;
mod timers;
mod withheld;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use quorate_cluster::node::{Host, Location};
use quorate_cluster::state::NodeId;
use quorate_proto::session::Instant;
use slab::Slab;
use tokio::runtime::LocalOptions;

pub(crate) use self::ack_waits::AckWait;
use self::ack_waits::AckWaits;
pub(crate) use self::authenticate::ExchangeInProgress;
pub(crate) use self::batch::LiveBatch;
use self::connection::Conn;
use self::crossers::Crossers;
use self::held::HeldShares;
pub(crate) use self::held::{HeldBytes, Lender, LenderNews, Returned};
use self::late::LateList;
pub(crate) use self::mailbox::{Accepted, LiveShared, Mail, Mailbox, NodeMessage};
use self::output::DirtyList;
use self::plans::Plans;
use self::pressure::Pressed;
pub(crate) use self::ticket::Ticket;
use self::timers::Wheel;
use self::withheld::Withheld;
use crate::metrics::WorkerMetrics;
use crate::node::Shared;
use crate::peers::PeerBatch;
use crate::router::Plan;

/// Bytes read at once.
const SCRATCH_BYTES: usize = 64 * 1024;

/// One worker.
pub(crate) struct Worker {
    index: u16,
    shared: Arc<Shared>,
    counters: WorkerMetrics,
    connections: RefCell<Slab<Rc<Conn>>>,
    generation: Cell<u32>,
    plans: RefCell<Plans>,
    /// Batches that fill for the other workers in this turn.
    outgoing: RefCell<Vec<LiveBatch>>,
    /// Batches that fill for other nodes in this turn.
    outgoing_peers: RefCell<Vec<(NodeId, PeerBatch)>>,
    scratch: Cell<Vec<u8>>,
    dirty: DirtyList,
    pressed: Pressed,
    withheld: Withheld,
    ack_waits: RefCell<AckWaits>,
    late: RefCell<LateList>,
    crossers: RefCell<Crossers>,
    held: RefCell<HeldShares>,
    wheel: RefCell<Wheel>,
    stopping: Cell<bool>,
}

impl Worker {
    /// Starts the thread of worker `index`; it ends when it was told to stop.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be created.
    pub(crate) fn spawn(
        index: u16,
        shared: Arc<Shared>,
        counters: WorkerMetrics,
    ) -> std::io::Result<std::thread::JoinHandle<()>> {
        std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                let mut builder = tokio::runtime::Builder::new_current_thread();
                let runtime = match builder
                    .enable_io()
                    .enable_time()
                    .build_local(LocalOptions::default())
                {
                    Ok(runtime) => runtime,
                    Err(error) => {
                        return Host::fatal(&*shared, format!("worker {index} cannot start: {error}"));
                    }
                };
                let worker = Rc::new(Self::new(index, shared, counters));
                // As a task of its own: a wake-up of the future that is blocked on costs a system call.
                runtime.block_on(async {
                    if tokio::task::spawn_local(worker.run()).await.is_err() {
                        tracing::error!(worker = index, "the worker panicked");
                    }
                });
            })
    }

    fn new(index: u16, shared: Arc<Shared>, counters: WorkerMetrics) -> Self {
        let workers = shared.mailboxes.len();
        Self {
            index,
            counters,
            connections: RefCell::default(),
            generation: Cell::new(0),
            plans: RefCell::default(),
            outgoing: RefCell::new((0..workers).map(|_| LiveBatch::default()).collect()),
            outgoing_peers: RefCell::default(),
            scratch: Cell::new(vec![0; SCRATCH_BYTES]),
            dirty: DirtyList::default(),
            pressed: Pressed::default(),
            withheld: Withheld::default(),
            ack_waits: RefCell::default(),
            late: RefCell::default(),
            crossers: RefCell::default(),
            held: RefCell::default(),
            wheel: RefCell::new(Wheel::new(shared.now())),
            stopping: Cell::new(false),
            shared,
        }
    }

    async fn run(self: Rc<Self>) {
        tokio::task::spawn_local(self.clone().run_flusher());
        tokio::task::spawn_local(self.clone().run_timers());
        tokio::task::spawn_local(self.clone().run_pressure());
        tokio::task::spawn_local(self.clone().run_withheld());
        let mut mails = Vec::new();
        loop {
            self.mailbox().receive(&mut mails).await;
            for mail in mails.drain(..) {
                self.handle_mail(mail);
            }
            if self.stopping.get() {
                self.stopped().await;
                return;
            }
        }
    }

    fn mailbox(&self) -> &Mailbox {
        &self.shared.mailboxes[usize::from(self.index)]
    }

    fn handle_mail(self: &Rc<Self>, mail: Mail) {
        match mail {
            Mail::Accept(accepted) => self.accept(*accepted),
            Mail::Live(batch) => {
                let weight = batch.weight();
                self.deliver_batch(batch);
                self.mailbox().deliveries.remove(weight);
            }
            Mail::Own {
                location,
                message,
                terms,
            } => self.deliver_own(location, &message, &terms),
            Mail::Shared(shared) => {
                let weight = shared.weight();
                self.deliver_live_shared(*shared);
                self.mailbox().deliveries.remove(weight);
            }
            Mail::OwnShared(share, message) => {
                let expires_at = message.expiry_secs.map(|secs| self.now().plus_secs(secs));
                self.hold_own(&share, &message, expires_at);
            }
            Mail::LenderNews(news) => self.handle_lender_news(&news),
            Mail::LoansDropped(loans) => self.loans_dropped(&loans),
            Mail::PeerLost(node, incarnation) => self.borrowers_lost(node, incarnation),
            Mail::Late(late) => {
                let weight = late.weight();
                self.deliver_late_retained(&late);
                self.mailbox().deliveries.remove(weight);
            }
            Mail::Forwarded(frame) => {
                self.deliver_forwarded(&frame);
                self.mailbox().deliveries.remove(frame.weight());
            }
            Mail::NodeMessages(messages) => self.deliver_node_messages(&messages),
            Mail::Completions(completions) => self.handle_completions(completions),
            Mail::Pending { location, slot } => self.handle_pending(location, slot),
            Mail::References(references) => self.handle_references(references),
            Mail::Given(location, shared) => self.take_given(Some(location), *shared),
            Mail::SharedReferences(references) => self.handle_shared_references(references),
            Mail::Proceed { location, request } => self.handle_proceed(location, request),
            Mail::LookedUp { location, request } => self.handle_looked_up(location, request),
            Mail::Checked(checked) => self.handle_checked(*checked),
            Mail::Authenticated(answer) => self.handle_authenticated(*answer),
            Mail::Kick {
                location,
                reason,
                what,
            } => self.kick(location, reason, what),
            Mail::Shed(count) => self.shed(count),
            Mail::Stop => self.stop(),
        }
    }

    /// The connection at a location of this worker, unless another has taken its place.
    fn connection(&self, location: Location) -> Option<Rc<Conn>> {
        let connections = self.connections.borrow();
        connections
            .get(location.slot as usize)
            .filter(|conn| conn.location.generation == location.generation)
            .cloned()
    }

    /// As [`Self::connection`], unless the connection has left its session already.
    fn open_connection(&self, location: Location) -> Option<Rc<Conn>> {
        self.connection(location).filter(|conn| !conn.flags.get().ending)
    }

    fn now(&self) -> Instant {
        self.shared.now()
    }

    /// The plan for a topic, from the cache while the routes have not changed.
    fn plan(&self, topic: &str) -> Rc<Plan> {
        self.plans.borrow_mut().get(topic, &self.shared.router)
    }

    fn return_scratch(&self, mut scratch: Vec<u8>) {
        // A WebSocket may have left it shorter or longer.
        scratch.resize(SCRATCH_BYTES, 0);
        scratch.shrink_to(SCRATCH_BYTES);
        self.scratch.set(scratch);
    }
}
