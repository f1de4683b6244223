//! Who may connect, and who may publish and subscribe to what: the first stages of the pipeline.
//!
//! ```text
//! CONNECT ------> Authenticator::authenticate ---> Accept(Identity) | Refuse      (at once)
//!                                              '-> Pending(future) -> the same    (password checks, off the worker)
//! CONNECT, AUTH -> EnhancedMethod::start -> Exchange::step per packet -> Continue(data) | Accept | Refuse
//! PUBLISH, SUBSCRIBE -> Authorizer::authorize -> Allow | Deny                     (cached by the caller)
//! ```
//!
//! Invariants: nothing here blocks a worker; what costs milliseconds runs on the threads of a [`PasswordPool`]. A
//! refusal never tells whether the user exists, neither by its reason nor by the time it takes. A user name is part of
//! an [`Identity`] only where something has proved it.

mod acl;
mod base64;
mod configured;
mod password_pool;
mod scram;
mod users;

pub use acl::{AclRules, RuleError, check_rule_filter};
pub use configured::ConfiguredAuthenticator;
pub use password_pool::PasswordPool;
pub use scram::{ITERATIONS_DEFAULT, ITERATIONS_MAX, ITERATIONS_MIN, ScramSha256, Verifier, VerifierError};

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use quorate_proto::codec::ReasonCode;

use crate::config::{AclConfig, AuthConfig};

/// What a client shows of itself in CONNECT.
#[derive(Clone, Copy)]
pub struct AuthenticationRequest<'a> {
    /// Client identifier, assigned by the server where the client gave none.
    pub client_id: &'a str,
    /// User name, unproved.
    pub user_name: Option<&'a str>,
    /// Password.
    pub password: Option<&'a [u8]>,
    /// Address of the client, as a PROXY header gives it where one is expected.
    pub remote: SocketAddr,
    /// Whether the listener takes clients without user name.
    pub anonymous_allowed: bool,
}

impl std::fmt::Debug for AuthenticationRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthenticationRequest")
            .field("client_id", &self.client_id)
            .field("user_name", &self.user_name)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

/// Who a client has proved to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User name, proved; `None` for an anonymous client, also where it gave a name that nobody checked.
    pub user_name: Option<Arc<str>>,
}

/// Why a client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// User name or password is wrong, or the proof of an exchange.
    BadCredentials,
    /// The client gave no credentials where some are needed.
    NotAuthorized,
    /// The authentication method is not known.
    BadMethod,
    /// More logins wait than are allowed; the client should come back later.
    Busy,
    /// An exchange broke its own rules.
    Protocol,
}

impl Refusal {
    /// What an MQTT 5 client is told; older ones get the return code that comes closest.
    pub const fn reason(self) -> ReasonCode {
        match self {
            Self::BadCredentials => ReasonCode::BAD_USER_NAME_OR_PASSWORD,
            Self::NotAuthorized => ReasonCode::NOT_AUTHORIZED,
            Self::BadMethod => ReasonCode::BAD_AUTHENTICATION_METHOD,
            Self::Busy => ReasonCode::SERVER_BUSY,
            Self::Protocol => ReasonCode::PROTOCOL_ERROR,
        }
    }
}

/// Outcome of authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The client is who it says.
    Accept(Identity),
    /// The client is refused.
    Refuse(Refusal),
}

/// A verdict that comes later.
pub type PendingVerdict = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// A verdict now or later. Only what takes time is boxed.
pub enum Authentication {
    /// At once.
    Ready(Verdict),
    /// Later. Dropping the future gives the login up.
    Pending(PendingVerdict),
}

/// Decides on CONNECT.
pub trait Authenticator: Send + Sync {
    /// Decides, or says when.
    fn authenticate(&self, request: AuthenticationRequest<'_>) -> Authentication;

    /// The enhanced authentication method of that name, for CONNECT and AUTH of MQTT 5; `None` is answered with
    /// 0x8C [MQTT-4.12.0-1].
    fn enhanced_method(&self, name: &str) -> Option<&dyn EnhancedMethod>;
}

/// A method of enhanced authentication [MQTT5 4.12].
pub trait EnhancedMethod: Send + Sync {
    /// Name, as in the property Authentication Method.
    fn name(&self) -> &str;

    /// Begins an exchange; the data of CONNECT or of the AUTH packet that asks for re-authentication goes into its
    /// first [`Exchange::step`]. With `expected_user`, for re-authentication, any other user is refused: a connection
    /// never changes its identity.
    fn start(&self, expected_user: Option<&str>) -> Box<dyn Exchange>;
}

/// One exchange of enhanced authentication. Dropped after it accepted or refused.
pub trait Exchange: Send {
    /// Takes the authentication data of the client's next packet, empty where the packet has none. Costs
    /// microseconds, so it runs on the worker.
    fn step(&mut self, data: &[u8]) -> ExchangeStep;
}

/// What follows a step of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExchangeStep {
    /// Send AUTH with reason 0x18 and this data.
    Continue(Vec<u8>),
    /// Send CONNACK, or AUTH with reason 0x00 after re-authentication, with this data.
    Accept {
        /// Authentication data for the client.
        data: Vec<u8>,
        /// Who the client is.
        identity: Identity,
    },
    /// Send CONNACK, or DISCONNECT after re-authentication, with the refusal's reason.
    Refuse(Refusal),
}

/// A connected client, as authorisation sees it.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// Client identifier.
    pub client_id: Arc<str>,
    /// Who the client has proved to be.
    pub identity: Identity,
    /// Address of the client.
    pub remote: SocketAddr,
}

/// What a client wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Publish to a topic, or leave a will there.
    Publish,
    /// Subscribe to a filter.
    Subscribe,
}

/// Outcome of authorisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Allowed.
    Allow,
    /// Refused: 0x87.
    Deny,
}

/// Decides on PUBLISH and SUBSCRIBE.
pub trait Authorizer: Send + Sync {
    /// Decides. `topic_or_filter` is valid by the rules of topics; of a shared subscription it is the filter within,
    /// or the whole. Callers keep decisions as long as [`Authorizer::generation`] stays.
    fn authorize(&self, client: &ClientInfo, action: Action, topic_or_filter: &str) -> Decision;

    /// Changes whenever decisions can have changed.
    fn generation(&self) -> u64;
}

/// The authenticator of a configuration that passed its checks.
///
/// # Errors
///
/// Where the operating system gives no thread for password checks.
pub fn authenticator(config: &AuthConfig) -> std::io::Result<Box<dyn Authenticator>> {
    Ok(Box::new(ConfiguredAuthenticator::start(config)?))
}

/// The authorizer of a configuration that passed its checks; `None` where it allows everything.
pub fn authorizer(config: &AclConfig) -> Option<Box<dyn Authorizer>> {
    let rules = AclRules::new(config);
    (!rules.allows_everything()).then(|| Box::new(rules) as Box<dyn Authorizer>)
}
