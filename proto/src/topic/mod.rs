//! Topics: names, filters, shared subscriptions, and the two indexes the broker routes by.
//!
//! - [`name`]: what a PUBLISH may name [MQTT-4.7.3, MQTT-3.3.2-2].
//! - [`filter`]: what a SUBSCRIBE may ask for, and whether one filter matches one name.
//! - [`share`]: the split of `$share/{name}/{filter}`.
//! - [`trie`]: from a topic name to the subscriptions that match it; every PUBLISH goes through it.
//! - [`retained`]: from a topic filter to the retained topics it matches; every SUBSCRIBE goes through it.
//!
//! A text from the wire is checked once, here, by [`validate_topic_name`], [`TopicFilter::parse`] or
//! [`Subscription::parse`]; the indexes take plain `&str` and rely on that check for meaning, never for safety.

pub mod filter;
pub mod name;
pub mod retained;
pub mod share;
pub mod trie;

pub use filter::{TopicFilter, matches};
pub use name::{TopicError, TopicFault, TopicLimits, TopicSubject, is_dollar_topic, validate_topic_name};
pub use retained::{Page, RetainedIndex};
pub use share::Subscription;
pub use trie::SubscriptionTrie;
