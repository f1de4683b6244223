//! What waits for sessions that are not known yet: groups tell what they hold in any order.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use quorate_cluster::state::SessionId;

use super::session::QueueGauge;

/// Gauges of durable sessions whose home has not told of them. What is left behind by one that has ended goes when its
/// queue is dropped.
#[derive(Debug, Default)]
pub(super) struct EarlyGauges(Mutex<HashMap<SessionId, Arc<QueueGauge>, foldhash::fast::RandomState>>);

impl EarlyGauges {
    /// References were added.
    pub(super) fn add(&self, session: SessionId, count: u32, bytes: u64) {
        self.0.lock().entry(session).or_default().add(count, bytes);
    }

    /// References left.
    pub(super) fn remove(&self, session: SessionId, count: u32, bytes: u64) {
        let mut gauges = self.0.lock();
        let Some(gauge) = gauges.get(&session) else { return };
        gauge.remove(count, bytes);
        if gauge.messages() == 0 {
            gauges.remove(&session);
        }
    }

    /// The session is known now.
    pub(super) fn take(&mut self, session: SessionId) -> Option<Arc<QueueGauge>> {
        self.0.get_mut().remove(&session)
    }
}
