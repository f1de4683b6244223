//! The users of the configuration, and what an unknown one seems to have.
//!
//! Invariant: whatever is asked about an unknown user is answered as for a known one, with values that stay the same
//! for as long as the users do, on every node that has the same users. So neither asking twice nor asking two nodes
//! tells who exists.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::scram::{ITERATIONS_DEFAULT, Verifier};

/// A fixed set of users.
#[derive(Debug)]
pub(super) struct KnownUsers {
    by_name: HashMap<String, Arc<Verifier>>,
    /// Makes the salts of unknown users.
    fake_key: [u8; 32],
    /// Iterations most users have, so that an unknown one does not stand out.
    iterations: u32,
}

impl KnownUsers {
    pub(super) fn new(users: impl IntoIterator<Item = (String, Verifier)>) -> Self {
        let by_name: HashMap<_, _> = users
            .into_iter()
            .map(|(name, verifier)| (name, Arc::new(verifier)))
            .collect();
        let fake_key = Verifier::mix(by_name.values().map(|verifier| &**verifier));
        let mut counts: HashMap<u32, usize> = HashMap::new();
        for verifier in by_name.values() {
            *counts.entry(verifier.iterations()).or_default() += 1;
        }
        let most = counts
            .into_iter()
            .max_by_key(|(iterations, count)| (*count, *iterations));
        let iterations = most.map_or(ITERATIONS_DEFAULT, |(iterations, _)| iterations);
        Self {
            by_name,
            fake_key,
            iterations,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The verifier to check against, and whether the user exists. One that does not exist must be refused whatever
    /// the check says.
    pub(super) fn verifier(&self, name: &str) -> (Arc<Verifier>, bool) {
        // Made for known users too, so that it does not show in the time.
        let fake = Arc::new(Verifier::fake(&self.fake_key, name, self.iterations));
        match self.by_name.get(name) {
            Some(verifier) => (Arc::clone(verifier), true),
            None => (fake, false),
        }
    }
}

/// The users of the moment; replaced as a whole when the configuration is read again.
#[derive(Clone, Debug)]
pub(super) struct SharedUsers(Arc<RwLock<Arc<KnownUsers>>>);

impl SharedUsers {
    pub(super) fn new(users: KnownUsers) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(users))))
    }

    pub(super) fn current(&self) -> Arc<KnownUsers> {
        Arc::clone(&self.0.read())
    }

    pub(super) fn replace(&self, users: KnownUsers) {
        *self.0.write() = Arc::new(users);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::scram::ITERATIONS_MIN;

    fn verifier(iterations: u32) -> Verifier {
        Verifier::derive(b"pencil", b"0123456789abcdef", iterations)
    }

    #[test]
    fn unknown_users_look_like_most() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let users = names
            .into_iter()
            .zip([verifier(5_000), verifier(5_000), verifier(ITERATIONS_MIN)]);
        let users = KnownUsers::new(users);
        let (fake, is_known) = users.verifier("nobody");
        assert!(!is_known);
        assert_eq!(fake.iterations(), 5_000);
        let (real, is_known) = users.verifier("c");
        assert!(is_known);
        assert_eq!(real.iterations(), ITERATIONS_MIN);
    }

    #[test]
    fn two_nodes_make_the_same_fakes() {
        let node = |order: [&str; 2]| {
            let users = order.map(|name| (name.to_owned(), Verifier::derive(name.as_bytes(), b"s", 4_096)));
            KnownUsers::new(users).verifier("nobody").0
        };
        assert_eq!(node(["a", "b"]), node(["b", "a"]));
        assert_ne!(node(["a", "b"]), node(["a", "c"]));
    }
}
