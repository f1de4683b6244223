//! The authenticator of the configuration: anonymous clients, users with passwords, SCRAM-SHA-256.

use std::sync::Arc;

use super::password_pool::PasswordPool;
use super::scram::{ScramSha256, Verifier};
use super::users::{KnownUsers, SharedUsers};
use super::{
    Authentication, AuthenticationRequest, Authenticator, EnhancedMethod, Identity, Refusal, Verdict,
};
use crate::config::AuthConfig;
use crate::metrics::Metrics;

/// Decides on CONNECT by the users of the configuration. Cloning shares users and threads.
#[derive(Clone, Debug)]
pub struct ConfiguredAuthenticator {
    users: SharedUsers,
    scram: Arc<ScramSha256>,
    pool: Arc<PasswordPool>,
}

impl ConfiguredAuthenticator {
    /// Takes the users of a configuration that passed its checks, and starts the threads for their passwords.
    ///
    /// # Errors
    ///
    /// Where the operating system gives no thread.
    pub fn start(config: &AuthConfig) -> std::io::Result<Self> {
        let users = SharedUsers::new(known_users(config));
        let threads = match config.password_threads {
            0 => std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1)),
            threads => threads,
        };
        let pool = Arc::new(PasswordPool::start(threads, config.password_waiting_max)?);
        Ok(Self {
            scram: Arc::new(ScramSha256::new(users.clone())),
            users,
            pool,
        })
    }

    /// Takes over the users of a configuration read again. Clients already connected stay.
    pub fn replace_users(&self, config: &AuthConfig) {
        self.users.replace(known_users(config));
    }

    /// Declares what the password checks count.
    pub fn register(&self, metrics: &Metrics) {
        self.pool.register(metrics);
    }
}

/// The users of a checked configuration.
fn known_users(config: &AuthConfig) -> KnownUsers {
    KnownUsers::new(
        config
            .user
            .iter()
            .filter_map(|user| match user.password.expose().parse::<Verifier>() {
                Ok(verifier) => Some((user.name.clone(), verifier)),
                Err(error) => {
                    // The checks of the configuration refuse it; a user left out cannot log in, which is the safe side.
                    tracing::error!(user = user.name, %error, "user is left out");
                    None
                }
            }),
    )
}

impl Authenticator for ConfiguredAuthenticator {
    fn authenticate(&self, request: AuthenticationRequest<'_>) -> Authentication {
        let users = self.users.current();
        let anonymous = || match request.anonymous_allowed {
            true => Verdict::Accept(Identity::default()),
            false => Verdict::Refuse(Refusal::NotAuthorized),
        };
        let Some(name) = request.user_name else {
            return Authentication::Ready(anonymous());
        };
        if users.is_empty() {
            // Nobody can check the name, so the client counts as anonymous.
            return Authentication::Ready(anonymous());
        }
        let Some(password) = request.password else {
            return Authentication::Ready(Verdict::Refuse(Refusal::BadCredentials));
        };
        let (verifier, is_known) = users.verifier(name);
        let Some(answer) = self.pool.check(verifier, password) else {
            return Authentication::Ready(Verdict::Refuse(Refusal::Busy));
        };
        let identity = Identity {
            user_name: Some(name.into()),
        };
        Authentication::Pending(Box::pin(async move {
            match answer.await {
                Ok(true) if is_known => Verdict::Accept(identity),
                Ok(_) => Verdict::Refuse(Refusal::BadCredentials),
                // The node is stopping.
                Err(_) => Verdict::Refuse(Refusal::Busy),
            }
        }))
    }

    fn enhanced_method(&self, name: &str) -> Option<&dyn EnhancedMethod> {
        let is_offered = name == self.scram.name() && !self.users.current().is_empty();
        is_offered.then_some(&*self.scram as &dyn EnhancedMethod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::ITERATIONS_MIN;
    use crate::config::{Secret, UserConfig};

    fn config(names: &[&str]) -> AuthConfig {
        let user = |name: &&str| {
            let verifier = Verifier::derive(format!("{name}-password").as_bytes(), b"salt", ITERATIONS_MIN);
            UserConfig {
                name: (*name).to_owned(),
                password: Secret::from(verifier.to_string()),
            }
        };
        AuthConfig {
            user: names.iter().map(user).collect(),
            ..AuthConfig::default()
        }
    }

    fn verdict(
        of: &ConfiguredAuthenticator,
        user: Option<&str>,
        password: Option<&str>,
        anonymous: bool,
    ) -> Verdict {
        let request = AuthenticationRequest {
            client_id: "c",
            user_name: user,
            password: password.map(str::as_bytes),
            remote: ([127, 0, 0, 1], 1).into(),
            anonymous_allowed: anonymous,
        };
        match of.authenticate(request) {
            Authentication::Ready(verdict) => verdict,
            Authentication::Pending(pending) => {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(pending)
            }
        }
    }

    fn accepted(name: Option<&str>) -> Verdict {
        Verdict::Accept(Identity {
            user_name: name.map(Arc::from),
        })
    }

    #[test]
    fn users_need_their_password() {
        let of = ConfiguredAuthenticator::start(&config(&["ann", "bob"])).unwrap();
        let bad = Verdict::Refuse(Refusal::BadCredentials);
        assert_eq!(
            verdict(&of, Some("ann"), Some("ann-password"), false),
            accepted(Some("ann"))
        );
        for anonymous in [false, true] {
            assert_eq!(verdict(&of, Some("ann"), Some("bob-password"), anonymous), bad);
            assert_eq!(verdict(&of, Some("eve"), Some("ann-password"), anonymous), bad);
            assert_eq!(verdict(&of, Some("ann"), None, anonymous), bad);
            assert_eq!(verdict(&of, Some("ann"), Some(""), anonymous), bad);
        }
    }

    #[test]
    fn anonymous_clients_are_for_the_listener_to_allow() {
        let of = ConfiguredAuthenticator::start(&config(&["ann"])).unwrap();
        assert_eq!(verdict(&of, None, None, true), accepted(None));
        assert_eq!(
            verdict(&of, None, None, false),
            Verdict::Refuse(Refusal::NotAuthorized)
        );
    }

    #[test]
    fn a_name_that_nobody_checked_is_not_an_identity() {
        let of = ConfiguredAuthenticator::start(&config(&[])).unwrap();
        assert_eq!(verdict(&of, Some("ann"), Some("anything"), true), accepted(None));
        assert_eq!(
            verdict(&of, Some("ann"), Some("x"), false),
            Verdict::Refuse(Refusal::NotAuthorized)
        );
    }

    #[test]
    fn users_can_be_replaced() {
        let of = ConfiguredAuthenticator::start(&config(&["ann"])).unwrap();
        of.clone().replace_users(&config(&["bob"]));
        let bad = Verdict::Refuse(Refusal::BadCredentials);
        assert_eq!(verdict(&of, Some("ann"), Some("ann-password"), false), bad);
        assert_eq!(
            verdict(&of, Some("bob"), Some("bob-password"), false),
            accepted(Some("bob"))
        );
    }

    #[test]
    fn scram_is_offered_while_there_are_users() {
        let of = ConfiguredAuthenticator::start(&config(&[])).unwrap();
        assert!(of.enhanced_method("SCRAM-SHA-256").is_none());
        of.replace_users(&config(&["ann"]));
        assert!(of.enhanced_method("SCRAM-SHA-256").is_some());
        assert!(of.enhanced_method("SCRAM-SHA-1").is_none());
    }
}
