//! `[[durability]]`: what an acknowledgement of a publish waits for, by topic.

use super::schema::{choice, section};

choice! {
    /// What an acknowledgement waits for.
    pub enum DurabilityClass {
        /// A majority of the replicas, synced to their disks.
        Quorum = "quorum",
        /// A majority of the replicas, synced in the background.
        QuorumMemory = "quorum-memory",
        /// This node's memory.
        Local = "local",
    }
}

section! {
    /// What an acknowledgement of a publish waits for, by topic. The first rule whose filter matches holds, else the
    /// listener's `durability`. Weaker classes than `quorum` concern messages of QoS 1 that wait for durable sessions:
    /// they survive the loss of a minority of the nodes, and not a power cut of all. Sessions, subscriptions, retained
    /// messages and QoS 2 are always `quorum`, and so is `quorum-memory` what is configured as `local`.
    pub struct DurabilityRuleConfig {
        /// Topic filter.
        filter: String = String::new(), "", Length(1, 65_535), Restart, required;
        /// Class of messages whose topic matches.
        class: DurabilityClass = DurabilityClass::Quorum, "", Any, Restart, required;
    }
}
