//! Topic names: the topic of a PUBLISH or of a will, and the limits that names and filters share.
//!
//! Called once for every publish whose topic is not an established alias, so the check is one pass over the bytes.

use crate::codec::ReasonCode;

/// Separates the levels of topic names and filters [MQTT5 4.7.1.1].
pub(super) const LEVEL_SEPARATOR: u8 = b'/';

/// Bounds on topic names and topic filters.
///
/// The wire allows 65,535 bytes, so 65,536 levels; each level of a filter may cost a node in the subscription trie,
/// which is why the number of levels has a bound of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicLimits {
    /// Largest number of levels; `a/b` has two, `/` has two (both empty).
    pub levels_max: u16,
    /// Largest length in bytes of UTF-8.
    pub bytes_max: u16,
}

impl Default for TopicLimits {
    fn default() -> Self {
        Self {
            levels_max: 128,
            bytes_max: 1024,
        }
    }
}

/// Which of the two a [`TopicError`] is about; it decides the reason code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicSubject {
    /// A topic name (PUBLISH, will, response topic).
    Name,
    /// A topic filter (SUBSCRIBE, UNSUBSCRIBE), shared or not.
    Filter,
}

/// What is wrong with a topic name or a topic filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicFault {
    /// It has no character at all [MQTT-4.7.3-1].
    Empty,
    /// It holds the null character U+0000 [MQTT-4.7.3-2].
    Nul,
    /// It is longer than [`TopicLimits::bytes_max`].
    TooLong,
    /// It has more levels than [`TopicLimits::levels_max`].
    TooManyLevels,
    /// A topic name holds `+` or `#` [MQTT-3.3.2-2, MQTT-4.7.0-1] (4.7.1-1 in 3.1.1).
    WildcardInName,
    /// `#` is not a whole level, or not the last one [MQTT-4.7.1-1] (4.7.1-2 in 3.1.1).
    MisplacedHash,
    /// `+` is not a whole level [MQTT-4.7.1-2] (4.7.1-3 in 3.1.1).
    MisplacedPlus,
    /// `$share/` is followed by an empty share name [MQTT-4.8.2-1].
    ShareNameEmpty,
    /// The share name holds `+` or `#` [MQTT-4.8.2-2].
    ShareNameWildcard,
    /// Nothing follows the share name: no `/`, or no topic filter after it [MQTT-4.8.2-2].
    ShareFilterMissing,
}

impl TopicFault {
    /// A short text for a reason string or the log.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Empty => "is empty",
            Self::Nul => "contains the null character",
            Self::TooLong => "is longer than this server allows",
            Self::TooManyLevels => "has more levels than this server allows",
            Self::WildcardInName => "contains a wildcard",
            Self::MisplacedHash => "has a '#' that is not the whole last level",
            Self::MisplacedPlus => "has a '+' that is not a whole level",
            Self::ShareNameEmpty => "has an empty share name",
            Self::ShareNameWildcard => "has a wildcard in the share name",
            Self::ShareFilterMissing => "has nothing after the share name",
        }
    }

    /// True when a limit of this server was hit, rather than a rule of the standard broken; such refusals are counted.
    pub const fn is_limit(self) -> bool {
        matches!(self, Self::TooLong | Self::TooManyLevels)
    }
}

/// A topic name or filter that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct TopicError {
    /// Name or filter.
    pub subject: TopicSubject,
    /// What is wrong with it.
    pub fault: TopicFault,
}

impl TopicError {
    pub(super) const fn name(fault: TopicFault) -> Self {
        Self {
            subject: TopicSubject::Name,
            fault,
        }
    }

    pub(super) const fn filter(fault: TopicFault) -> Self {
        Self {
            subject: TopicSubject::Filter,
            fault,
        }
    }

    /// 0x90 topic name invalid, or 0x8F topic filter invalid.
    pub const fn reason(self) -> ReasonCode {
        match self.subject {
            TopicSubject::Name => ReasonCode::TOPIC_NAME_INVALID,
            TopicSubject::Filter => ReasonCode::TOPIC_FILTER_INVALID,
        }
    }

    /// One sentence for a reason string or the log; it never repeats the topic.
    pub fn text(self) -> String {
        let subject = match self.subject {
            TopicSubject::Name => "topic name",
            TopicSubject::Filter => "topic filter",
        };
        format!("{subject} {}", self.fault.text())
    }
}

/// Checks the topic name of a publish or a will.
///
/// # Errors
///
/// The first rule the name breaks; the reason is always 0x90.
pub fn validate_topic_name(name: &str, limits: &TopicLimits) -> Result<(), TopicError> {
    check_size(name, limits).map_err(TopicError::name)?;
    if name.bytes().any(|byte| matches!(byte, b'+' | b'#')) {
        return Err(TopicError::name(TopicFault::WildcardInName));
    }
    Ok(())
}

/// True for topics of the server's own, such as `$SYS/...`: wildcards at the first level do not match them
/// [MQTT-4.7.2-1].
pub fn is_dollar_topic(name: &str) -> bool {
    name.starts_with('$')
}

/// The rules that names and filters have in common.
pub(super) fn check_size(text: &str, limits: &TopicLimits) -> Result<(), TopicFault> {
    if text.is_empty() {
        return Err(TopicFault::Empty);
    }
    // First, so that nothing below looks at more than `bytes_max` bytes.
    if text.len() > usize::from(limits.bytes_max) {
        return Err(TopicFault::TooLong);
    }
    let (mut separators, mut nuls) = (0usize, 0usize);
    for byte in text.bytes() {
        separators += usize::from(byte == LEVEL_SEPARATOR);
        nuls += usize::from(byte == 0);
    }
    if nuls > 0 {
        return Err(TopicFault::Nul);
    }
    if separators >= usize::from(limits.levels_max) {
        return Err(TopicFault::TooManyLevels);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(name: &str) -> Option<TopicFault> {
        validate_topic_name(name, &TopicLimits::default())
            .err()
            .map(|error| error.fault)
    }

    #[test]
    fn names_that_the_standard_allows() {
        for name in [
            "a",
            "/",
            "//",
            "a/b",
            "/finance",
            "a//b",
            "a/",
            "$SYS/x",
            " ",
            "Ünï/日本/🚀",
            "a b",
            "\u{1}",
        ] {
            assert_eq!(fault(name), None, "{name:?}");
        }
    }

    #[test]
    fn names_that_break_a_rule() {
        assert_eq!(fault(""), Some(TopicFault::Empty));
        assert_eq!(fault("a\0b"), Some(TopicFault::Nul));
        for name in ["#", "+", "a/+", "a/#", "a+", "#a", "日本/+"] {
            assert_eq!(fault(name), Some(TopicFault::WildcardInName), "{name:?}");
        }
    }

    #[test]
    fn limits_are_inclusive() {
        let limits = TopicLimits {
            levels_max: 3,
            bytes_max: 6,
        };
        let check = |name: &str| validate_topic_name(name, &limits).err().map(|error| error.fault);
        assert_eq!(check("a/b/c"), None);
        assert_eq!(check("a/b/c/"), Some(TopicFault::TooManyLevels));
        assert_eq!(check("abcdef"), None);
        assert_eq!(check("abcdefg"), Some(TopicFault::TooLong));
        assert_eq!(check("日本"), None, "two characters, six bytes");
        assert_eq!(check("日本a"), Some(TopicFault::TooLong));
        assert_eq!(fault(&"/".repeat(65_535)), Some(TopicFault::TooLong));
        let wide = TopicLimits {
            levels_max: u16::MAX,
            bytes_max: u16::MAX,
        };
        assert_eq!(validate_topic_name(&"/".repeat(65_534), &wide), Ok(()));
    }

    #[test]
    fn the_subject_decides_the_reason() {
        let name = TopicError::name(TopicFault::Empty);
        let filter = TopicError::filter(TopicFault::Empty);
        assert_eq!(name.reason(), ReasonCode(0x90));
        assert_eq!(filter.reason(), ReasonCode(0x8F));
        assert_eq!(name.to_string(), "topic name is empty");
        assert_eq!(filter.to_string(), "topic filter is empty");
    }

    #[test]
    fn only_limits_count_as_limits() {
        assert!(TopicFault::TooLong.is_limit() && TopicFault::TooManyLevels.is_limit());
        assert!(!TopicFault::Empty.is_limit() && !TopicFault::MisplacedHash.is_limit());
    }

    #[test]
    fn dollar_topics() {
        assert!(is_dollar_topic("$SYS/broker") && is_dollar_topic("$"));
        assert!(!is_dollar_topic("a/$SYS") && !is_dollar_topic("/$") && !is_dollar_topic(""));
    }
}
