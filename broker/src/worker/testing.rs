//! A worker without thread and groups, for tests of what it does with its mail and its own connections.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use quorate_cluster::state::{NodeId, NodeIncarnation, SessionLimits};
use quorate_proto::codec::ReasonCode;

use super::{Mail, Worker};
use crate::auth::{Authentication, AuthenticationRequest, Authenticator, EnhancedMethod, Identity, Verdict};
use crate::metrics::WorkerMetrics;
use crate::node::{Shared, SharedSettings};

/// The node of [`worker`], and its start.
pub(super) const THIS: (NodeId, NodeIncarnation) = (NodeId(1), NodeIncarnation(1));

struct Anybody;

impl Authenticator for Anybody {
    fn authenticate(&self, _request: AuthenticationRequest<'_>) -> Authentication {
        Authentication::Ready(Verdict::Accept(Identity::default()))
    }

    fn enhanced_method(&self, _name: &str) -> Option<&dyn EnhancedMethod> {
        None
    }
}

/// The first worker of a process with two. Its node has no groups: nothing may ask for them.
pub(super) fn worker() -> Rc<Worker> {
    let settings = SharedSettings {
        session_limits: SessionLimits {
            sessions_max: 100,
            subscriptions_max: 100,
        },
        sessions_max: 100,
        retained_messages_max: 100,
        retained_bytes_max: 1 << 20,
        queue_messages_max: 100,
        queue_bytes_max: 1 << 20,
        drain_will_delay_secs: 0,
        durability: Vec::new(),
        publish_wait_max: Duration::from_secs(10),
        refused_subscription: ReasonCode::NOT_AUTHORIZED,
        node: THIS.0,
        incarnation: THIS.1,
    };
    let control = tokio::runtime::Handle::current();
    let shared = Arc::new(Shared::new(settings, 2, Box::new(Anybody), None, control));
    shared
        .router
        .write(|table| (table.set_this(THIS.0, THIS.1), false));
    Rc::new(Worker::new(0, shared, WorkerMetrics::detached()))
}

impl Worker {
    /// The mail that waits for a worker of the process.
    pub(super) async fn mail_of(&self, worker: usize) -> Vec<Mail> {
        let mailbox = &self.shared.mailboxes[worker];
        let mut mails = Vec::new();
        // Nobody else sends: what is not there does not come.
        tokio::select! {
            biased;
            () = mailbox.receive(&mut mails) => {}
            () = std::future::ready(()) => {}
        }
        mails
    }
}
