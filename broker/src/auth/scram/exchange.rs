//! The server's side of a SCRAM-SHA-256 exchange, as the MQTT 5 authentication method of that name.
//!
//! ```text
//! client                                   server
//! CONNECT  n,,n=user,r=nonce         ->
//!                                    <-    AUTH     r=nonce+ours,s=salt,i=iterations
//! AUTH     c=biws,r=both,p=proof     ->
//!                                    <-    CONNACK  v=signature
//! ```
//!
//! Invariants: an unknown user goes the whole way with a salt that is always the same, and fails where a wrong password
//! does; nothing here derives a key, so a step costs microseconds; the server's part of the nonce is the operating
//! system's randomness, new for each exchange.

use std::sync::Arc;

use super::{Hash, Verifier, equal, hash, hmac};
use crate::auth::users::{KnownUsers, SharedUsers};
use crate::auth::{EnhancedMethod, Exchange, ExchangeStep, Identity, Refusal, base64};

const NAME: &str = "SCRAM-SHA-256";

/// Longest message that is looked at; user names and nonces are far shorter.
const MESSAGE_BYTES_MAX: usize = 4_096;

/// Random bytes in the server's part of the nonce.
const NONCE_BYTES: usize = 18;

/// The method SCRAM-SHA-256 over the configured users.
#[derive(Debug)]
pub struct ScramSha256 {
    users: SharedUsers,
}

impl ScramSha256 {
    pub(in crate::auth) fn new(users: SharedUsers) -> Self {
        Self { users }
    }
}

impl EnhancedMethod for ScramSha256 {
    fn name(&self) -> &str {
        NAME
    }

    fn start(&self, expected_user: Option<&str>) -> Box<dyn Exchange> {
        let mut random = [0; NONCE_BYTES];
        let nonce = match getrandom::fill(&mut random) {
            Ok(()) => Some(base64::encode(&random)),
            Err(error) => {
                tracing::error!(%error, "the operating system gives no randomness; SCRAM logins are refused");
                None
            }
        };
        Box::new(ScramExchange {
            users: self.users.current(),
            expected_user: expected_user.map(str::to_owned),
            nonce,
            state: State::Begin { asked: false },
        })
    }
}

/// One exchange.
struct ScramExchange {
    users: Arc<KnownUsers>,
    /// At re-authentication, the only user who may pass.
    expected_user: Option<String>,
    /// The server's part of the nonce; `None` where there was no randomness.
    nonce: Option<String>,
    state: State,
}

enum State {
    /// Waits for the client's first message; `asked` once the server sent an empty challenge for it.
    Begin { asked: bool },
    /// Waits for the proof.
    Challenged(Challenge),
    /// Accepted or refused.
    Over,
}

/// What the proof is checked against.
struct Challenge {
    user: String,
    is_known: bool,
    verifier: Arc<Verifier>,
    /// The header that the client sent, to come back as `c=`.
    gs2_header: String,
    /// Both parts.
    nonce: String,
    /// The two messages so far, joined by a comma.
    messages: String,
}

impl Exchange for ScramExchange {
    fn step(&mut self, data: &[u8]) -> ExchangeStep {
        let text = match std::str::from_utf8(data) {
            Ok(text) if text.len() <= MESSAGE_BYTES_MAX => text,
            _ => return ExchangeStep::Refuse(Refusal::Protocol),
        };
        let step = match std::mem::replace(&mut self.state, State::Over) {
            State::Begin { asked: false } if text.is_empty() => {
                self.state = State::Begin { asked: true };
                Ok(ExchangeStep::Continue(Vec::new()))
            }
            State::Begin { .. } => self.challenge(text),
            State::Challenged(challenge) => challenge.check(text),
            State::Over => Err(Refusal::Protocol),
        };
        step.unwrap_or_else(ExchangeStep::Refuse)
    }
}

impl ScramExchange {
    fn challenge(&mut self, text: &str) -> Result<ExchangeStep, Refusal> {
        let first = ClientFirst::parse(text).ok_or(Refusal::Protocol)?;
        if self
            .expected_user
            .as_ref()
            .is_some_and(|expected| *expected != first.user)
        {
            return Err(Refusal::NotAuthorized);
        }
        let ours = self.nonce.take().ok_or(Refusal::Busy)?;
        let (verifier, is_known) = self.users.verifier(&first.user);
        let nonce = format!("{}{ours}", first.nonce);
        let reply = format!(
            "r={nonce},s={},i={}",
            base64::encode(&verifier.salt),
            verifier.iterations
        );
        self.state = State::Challenged(Challenge {
            is_known,
            verifier,
            gs2_header: first.gs2_header.to_owned(),
            nonce,
            messages: format!("{},{reply}", first.bare),
            user: first.user,
        });
        Ok(ExchangeStep::Continue(reply.into_bytes()))
    }
}

impl Challenge {
    fn check(self, text: &str) -> Result<ExchangeStep, Refusal> {
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(Refusal::Protocol)?;
        let mut attributes = without_proof.split(',');
        let binding = attributes
            .next()
            .and_then(|attribute| attribute.strip_prefix("c="));
        let nonce = attributes
            .next()
            .and_then(|attribute| attribute.strip_prefix("r="));
        let header = binding.and_then(base64::decode);
        if header.as_deref() != Some(self.gs2_header.as_bytes()) || nonce != Some(self.nonce.as_str()) {
            return Err(Refusal::Protocol);
        }
        let proof: Hash = base64::decode(proof)
            .and_then(|proof| proof.try_into().ok())
            .ok_or(Refusal::Protocol)?;
        let message: [&[u8]; 3] = [self.messages.as_bytes(), b",", without_proof.as_bytes()];
        let signature = hmac(&self.verifier.stored_key, &message);
        let client_key: Hash = std::array::from_fn(|index| proof[index] ^ signature[index]);
        let is_proved = equal(&hash(&client_key), &self.verifier.stored_key);
        if !(is_proved && self.is_known) {
            return Err(Refusal::BadCredentials);
        }
        let server_signature = hmac(&self.verifier.server_key, &message);
        Ok(ExchangeStep::Accept {
            data: format!("v={}", base64::encode(&server_signature)).into_bytes(),
            identity: Identity {
                user_name: Some(self.user.into()),
            },
        })
    }
}

/// The client's first message.
struct ClientFirst<'a> {
    gs2_header: &'a str,
    bare: &'a str,
    user: String,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        // No channel binding is offered, so the client says `n` or, where it could have bound, `y`; `p=` asks for one.
        let mut parts = text.splitn(3, ',');
        let (binding, authorization, bare) = (parts.next()?, parts.next()?, parts.next()?);
        if !matches!(binding, "n" | "y") {
            return None;
        }
        let mut attributes = bare.split(',');
        let user = unescape(attributes.next()?.strip_prefix("n=")?)?;
        let nonce = attributes.next()?.strip_prefix("r=")?;
        // Acting for somebody else is not offered.
        let acts_for = authorization.strip_prefix("a=").map(unescape);
        let acts_for_itself = match acts_for {
            None => authorization.is_empty(),
            Some(name) => name? == user,
        };
        let nonce_fits = !nonce.is_empty() && nonce.bytes().all(|byte| byte.is_ascii_graphic());
        let gs2_header = &text[..text.len() - bare.len()];
        (acts_for_itself && nonce_fits && !user.is_empty()).then_some(Self {
            gs2_header,
            bare,
            user,
            nonce,
        })
    }
}

/// A user name as SCRAM writes it: `=2C` is a comma, `=3D` an equals sign, any other `=` an error.
fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('=');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let (letter, rest) = if let Some(rest) = part.strip_prefix("2C") {
            (',', rest)
        } else {
            ('=', part.strip_prefix("3D")?)
        };
        name.push(letter);
        name.push_str(rest);
    }
    Some(name)
}

#[cfg(test)]
mod tests;
