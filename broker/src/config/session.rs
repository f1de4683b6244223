//! `[session]`: how long sessions live and how much they hold.

use super::schema::section;

section! {
    /// How long sessions outlive their connection and how much they hold for it.
    pub struct SessionConfig {
        /// Longest session expiry interval; longer wishes are cut to it and the client is told. Also the expiry of
        /// MQTT 3.1 and 3.1.1 sessions with clean session 0.
        expiry_secs_max: u32 = 604_800, "seconds", Range(0, 4_294_967_295), Restart;
        /// Send a message that several subscriptions of a session match once for each of them, instead of once with the
        /// highest quality of service and all subscription identifiers.
        overlapping_copies: bool = false, "", Any, Restart;
        /// How long the will of a client that is told to use another node waits for it to come back, though it asked for
        /// no delay, or a shorter one; 0 publishes it as on any other end of a connection.
        drain_will_delay_secs: u32 = 30, "seconds", Range(0, 3_600), Restart;
        /// Messages waiting in one session; beyond it new ones are refused.
        queue_messages_max: u32 = 10_000, "messages", Range(1, 100_000_000), Restart;
        /// Bytes waiting in one session; beyond it new messages are refused.
        queue_bytes_max: u64 = 67_108_864, "bytes", Range(65_536, 1_099_511_627_776), Restart;
    }
}
