//! Keep alive: the client has to be heard within one and a half times the interval [MQTT-3.1.2-22].

use super::{Close, ConnectionSettings, Instant};
use crate::codec::{ProtocolVersion, ReasonCode};

const SILENT: Close = Close::new(
    ReasonCode::KEEP_ALIVE_TIMEOUT,
    "nothing received for one and a half times the keep alive [MQTT-3.1.2-22]",
);

/// The watch over the client's silence.
#[derive(Debug, Default)]
pub(super) struct KeepAlive {
    last: Instant,
    /// Silence allowed; 0 for any.
    silence_millis_max: u32,
}

impl KeepAlive {
    /// Begins to watch; `secs` 0 does not.
    pub(super) fn new(secs: u16, now: Instant) -> Self {
        Self {
            last: now,
            silence_millis_max: u32::from(secs) * 1500,
        }
    }

    /// Something was received. One store, for it happens with every packet.
    #[inline]
    pub(super) fn touch(&mut self, now: Instant) {
        self.last = now;
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.silence_millis_max > 0).then(|| self.last.plus_millis(u64::from(self.silence_millis_max)))
    }

    pub(super) fn check(&self, now: Instant) -> Result<(), Close> {
        match self.deadline() {
            Some(deadline) if now >= deadline => Err(SILENT),
            _ => Ok(()),
        }
    }
}

/// The keep alive to tell an MQTT 5 client instead of the one it asked for [MQTT-3.2.2-22]. Older clients cannot be
/// told, so their own holds.
pub(super) fn imposed(
    version: ProtocolVersion,
    asked_secs: u16,
    settings: &ConnectionSettings,
) -> Option<u16> {
    if version < ProtocolVersion::V5 {
        return None;
    }
    if let Some(secs) = settings.server_keep_alive_secs {
        return (secs != asked_secs).then_some(secs);
    }
    settings
        .keep_alive_secs_max
        .filter(|max| asked_secs == 0 || asked_secs > *max)
}
