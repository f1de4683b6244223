//! The node's copy of `meta`, to be read and watched.

use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use tokio::sync::watch;

use super::{MetaState, View};

/// The state of `meta` as far as this node has applied it.
#[derive(Debug)]
pub struct Directory {
    state: Mutex<MetaState>,
    /// Counts the changes.
    changed: watch::Sender<u64>,
    /// The view alone, for those who look often.
    view: watch::Sender<View>,
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            view: watch::Sender::new(View::default()),
        }
    }
}

impl Directory {
    /// The state; hold it briefly.
    pub fn read(&self) -> MappedMutexGuard<'_, MetaState> {
        MutexGuard::map(self.state.lock(), |state| state)
    }

    /// Tells when anything has changed.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Tells when the view has changed.
    pub fn watch_view(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// Changes the state and tells who watches.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut MetaState) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state);
        self.view.send_if_modified(|view| {
            let changed = *view != *state.view();
            if changed {
                view.clone_from(state.view());
            }
            changed
        });
        drop(state);
        self.changed.send_modify(|count| *count += 1);
        result
    }

    /// Waits until the state says what is asked for.
    pub async fn wait_for<T>(&self, mut look: impl FnMut(&MetaState) -> Option<T>) -> T {
        let mut changed = self.watch();
        loop {
            changed.mark_unchanged();
            let found = look(&self.read());
            if let Some(found) = found {
                return found;
            }
            // The sender lives as long as this directory.
            let _ = changed.changed().await;
        }
    }
}
