//! DISCONNECT.

use super::{ReasonCode, UserProperties};

/// DISCONNECT; at 3.x only a client sends it and it carries nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disconnect<'a> {
    /// Reason code.
    pub reason: ReasonCode,
    /// Session expiry interval; only a client sends it.
    pub session_expiry_secs: Option<u32>,
    /// Reason string.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// Server reference; only a server sends it.
    pub server_reference: Option<&'a str>,
}
