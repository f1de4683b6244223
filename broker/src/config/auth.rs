//! `[auth]`: who may connect.

use super::schema::section;
use super::value::Secret;

section! {
    /// Who may connect.
    pub struct AuthConfig {
        /// Accept clients without user name on every listener that does not say otherwise. Unset accepts them on
        /// loopback while no user is configured, and nowhere else.
        allow_anonymous: Option<bool> = None, "", Any, Restart;
        /// Threads that check passwords; 0 takes half the cores. A check costs milliseconds, so these bound what
        /// logins can take from the traffic of those already connected.
        password_threads: usize = 0, "threads", Range(0, 256), Restart;
        /// Logins waiting for a password check; beyond it clients are told that the server is busy.
        password_waiting_max: usize = 1_024, "logins", Range(1, 1_000_000), Restart;
        /// Users known by name and password.
        user: Vec<UserConfig> = Vec::new();
    }
}

section! {
    /// A user with a password, for the password of CONNECT and for the MQTT 5 authentication method SCRAM-SHA-256.
    pub struct UserConfig named by name {
        /// User name.
        name: String = String::new(), "", Length(1, 1_024), Live, required;
        /// What the password is checked against; from it the password cannot be computed.
        password: Secret = Secret::from(String::new()), "", Any, Live, required;
    }
}
