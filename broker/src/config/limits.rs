//! `[limits]`: bounds on everything a client can make the node hold or do.

use quorate_cluster::raft::BATCH_BYTES_MAX;

use super::schema::section;

/// Largest packet that can be allowed: what it becomes in the log, its targets included, has to fit one entry.
pub(super) const PACKET_BYTES_MAX: u64 = 15 << 20;
const _: () = assert!(PACKET_BYTES_MAX + (1 << 20) <= BATCH_BYTES_MAX as u64);

section! {
    /// Bounds on everything a client can make the node hold or do. What exceeds one is refused and counted, never
    /// silently dropped.
    pub struct LimitsConfig {
        /// Connections of all listeners together; more are closed at once.
        connections_max: u32 = 100_000, "connections", Range(1, 100_000_000), Restart;
        /// Time from accepting a connection to its CONNECT, TLS and WebSocket handshakes included.
        connect_timeout_secs: u16 = 10, "seconds", Range(1, 300), Restart;
        /// Largest packet a client may send; a listener can have its own.
        maximum_packet_size: u32 = 1_048_576, "bytes", Range(1_024, PACKET_BYTES_MAX), Restart;
        /// QoS 1 and 2 messages a client may send without acknowledgement; a listener can have its own.
        receive_maximum: u16 = 100, "messages", Range(1, 65_535), Restart;
        /// QoS 1 and 2 messages sent to a client without its acknowledgement; its own receive maximum can be lower.
        inflight_max: u16 = 100, "messages", Range(1, 65_535), Restart;
        /// Topic aliases a client may use; a listener can have its own.
        topic_alias_maximum: u16 = 32, "aliases", Range(0, 65_535), Restart;
        /// Topic aliases used towards a client; its own maximum can be lower.
        topic_alias_outbound_max: u16 = 32, "aliases", Range(0, 65_535), Restart;
        /// Levels of a topic or topic filter.
        topic_levels_max: u16 = 128, "levels", Range(1, 32_768), Restart;
        /// Bytes of a topic or topic filter.
        topic_bytes_max: u16 = 1_024, "bytes", Range(1, 65_535), Restart;
        /// Bytes of a client identifier.
        client_id_bytes_max: u16 = 256, "bytes", Range(23, 65_535), Restart;
        /// Bytes waiting to be written to one connection; a client that reads too slowly is slowed down, then closed.
        /// One packet of any size is always taken.
        connection_output_bytes_max: usize = 4_194_304, "bytes", Range(65_536, 4_294_967_296), Restart;
        /// Subscriptions of one session.
        subscriptions_per_session_max: u32 = 10_000, "subscriptions", Range(1, 100_000_000), Restart;
        /// Sessions, connected or not.
        sessions_max: u64 = 1_000_000, "sessions", Range(1, 1_000_000_000), Restart;
        /// Retained messages. Each of the 16 groups that hold them takes as many; a node counts all that it knows of
        /// before it takes one for a new topic of a group of which it has a replica.
        retained_messages_max: u64 = 1_000_000, "messages", Range(0, 1_000_000_000), Restart;
        /// Bytes of all retained messages, counted in the same way.
        retained_bytes_max: u64 = 1_073_741_824, "bytes", Range(0, 1_099_511_627_776), Restart;
        /// Time a publisher waits for its acknowledgement before its connection is closed.
        publish_wait_secs_max: u16 = 10, "seconds", Range(1, 300), Restart;
        /// Response information for MQTT 5 clients that ask for it, by custom the beginning of a topic for answers.
        /// Unset gives none.
        response_information: Option<String> = None, "", Length(1, 1_024), Restart;
    }
}
