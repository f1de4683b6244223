//! The durable sessions that are connected to this node: what waits for them, in whatever group, is told to it (R19,
//! R20).

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::state::SessionId;

type Sessions = hashbrown::HashSet<SessionId, foldhash::fast::RandomState>;

/// A change of who is connected: the session, and whether it is now.
pub(super) type Change = (SessionId, bool);

/// Sessions connected here, and who wants to hear of changes.
#[derive(Debug, Default)]
pub(in crate::node) struct Attached(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    sessions: Sessions,
    listeners: Vec<std::sync::Weak<Listener>>,
}

/// One feed's view of the changes.
#[derive(Debug, Default)]
pub(super) struct Listener {
    changes: Mutex<Vec<Change>>,
    pub(super) changed: Notify,
}

impl Listener {
    /// What has changed since the last call.
    pub(super) fn take(&self) -> Vec<Change> {
        std::mem::take(&mut *self.changes.lock())
    }
}

impl Attached {
    /// A session's connection is at this node, or not any more.
    pub(in crate::node) fn set(&self, session: SessionId, is_here: bool) {
        let mut inner = self.0.lock();
        let changed = match is_here {
            true => inner.sessions.insert(session),
            false => inner.sessions.remove(&session),
        };
        if changed {
            inner.tell((session, is_here));
        }
    }

    /// Of the sessions for which `is_gone`, none is connected any more.
    pub(in crate::node) fn forget(&self, is_gone: impl Fn(SessionId) -> bool) {
        let mut inner = self.0.lock();
        let gone: Vec<SessionId> = inner
            .sessions
            .iter()
            .copied()
            .filter(|session| is_gone(*session))
            .collect();
        for session in gone {
            inner.sessions.remove(&session);
            inner.tell((session, false));
        }
    }

    /// All sessions now; changes from now on come to the listener.
    pub(super) fn listen(&self) -> (Vec<SessionId>, Arc<Listener>) {
        let listener = Arc::new(Listener::default());
        let mut inner = self.0.lock();
        inner.listeners.push(Arc::downgrade(&listener));
        (inner.sessions.iter().copied().collect(), listener)
    }
}

impl Inner {
    fn tell(&mut self, change: Change) {
        self.listeners.retain(|listener| {
            let Some(listener) = listener.upgrade() else {
                return false;
            };
            listener.changes.lock().push(change);
            listener.changed.notify_one();
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_hears_what_changes_after_it_came() {
        let attached = Attached::default();
        let [first, second] = [SessionId(1), SessionId(2)];
        attached.set(first, true);
        let (sessions, listener) = attached.listen();
        assert_eq!(sessions, [first]);
        attached.set(first, true);
        attached.set(second, true);
        attached.set(first, false);
        attached.set(first, false);
        assert_eq!(listener.take(), [(second, true), (first, false)]);
        attached.forget(|session| session == second);
        assert_eq!(listener.take(), [(second, false)]);
        drop(listener);
        attached.set(first, true);
        assert!(attached.0.lock().listeners.is_empty());
    }
}
