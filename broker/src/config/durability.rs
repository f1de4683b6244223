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
    /// listener's `durability`.
    pub struct DurabilityRuleConfig {
        /// Topic filter.
        filter: String = String::new(), "", Length(1, 65_535), Restart, required;
        /// Class of messages whose topic matches.
        class: DurabilityClass = DurabilityClass::Quorum, "", Any, Restart, required;
    }
}
