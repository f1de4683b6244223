//! Topic filters: their form, and whether one filter matches one topic name.
//!
//! [`matches`] is the definition that the trie and the retained index are tested against. It is also used where there
//! is only a handful of filters: durability rules, access rules, a node's own subscriptions.

use super::name::{LEVEL_SEPARATOR, TopicError, TopicFault, TopicLimits, check_size, is_dollar_topic};

/// The level that matches exactly one level of any content.
pub(super) const SINGLE_LEVEL: &str = "+";
/// The last level that matches the parent level and everything below it.
pub(super) const MULTI_LEVEL: &str = "#";

/// A topic filter whose form is right. It is not a shared subscription's text; see
/// [`Subscription`](super::Subscription) for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter<'a>(&'a str);

impl<'a> TopicFilter<'a> {
    /// Checks a topic filter.
    ///
    /// # Errors
    ///
    /// The first rule the filter breaks; the reason is always 0x8F.
    pub fn parse(text: &'a str, limits: &TopicLimits) -> Result<Self, TopicError> {
        check_size(text, limits)
            .and_then(|()| check_wildcards(text))
            .map_err(TopicError::filter)?;
        Ok(Self(text))
    }

    /// The text of the filter.
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// True when the filter can match more than one topic name.
    pub fn has_wildcard(self) -> bool {
        has_wildcard(self.0)
    }

    /// True when `topic`, a topic name, matches; see [`matches`].
    pub fn matches(self, topic: &str) -> bool {
        matches(self.0, topic)
    }
}

/// True when a well-formed filter holds `+` or `#`.
pub(super) fn has_wildcard(filter: &str) -> bool {
    filter.bytes().any(|byte| matches!(byte, b'+' | b'#'))
}

/// `#` must be the whole last level [MQTT-4.7.1-1], `+` a whole level [MQTT-4.7.1-2] (-2 and -3 in 3.1.1).
fn check_wildcards(filter: &str) -> Result<(), TopicFault> {
    let bytes = filter.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let starts_level = at == 0 || bytes[at - 1] == LEVEL_SEPARATOR;
        match byte {
            b'#' if !starts_level || at + 1 != bytes.len() => return Err(TopicFault::MisplacedHash),
            b'+' if !starts_level || bytes.get(at + 1).is_some_and(|next| *next != LEVEL_SEPARATOR) => {
                return Err(TopicFault::MisplacedPlus);
            }
            _ => {}
        }
    }
    Ok(())
}

/// True when the topic name matches the filter [MQTT-4.7.1, MQTT-4.7.2].
///
/// Time is linear in the shorter text and nothing is allocated. The answer for a filter that
/// [`TopicFilter::parse`] refuses is unspecified.
pub fn matches(filter: &str, topic: &str) -> bool {
    let wildcard_first = filter.starts_with(['+', '#']);
    if wildcard_first && is_dollar_topic(topic) {
        return false;
    }
    matches_levels(filter, topic)
}

/// [`matches`] without the rule about `$`: also right for what is left of a filter and a topic behind a first level.
pub(super) fn matches_levels(filter: &str, topic: &str) -> bool {
    let mut topic_levels = topic.split('/');
    for filter_level in filter.split('/') {
        // Before the topic's next level is asked for: `a/#` matches `a` as well.
        if filter_level == MULTI_LEVEL {
            return true;
        }
        match topic_levels.next() {
            Some(level) if filter_level == SINGLE_LEVEL || filter_level == level => {}
            _ => return false,
        }
    }
    topic_levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fault(filter: &str) -> Option<TopicFault> {
        TopicFilter::parse(filter, &TopicLimits::default())
            .err()
            .map(|error| error.fault)
    }

    #[test]
    fn filters_that_the_standard_allows() {
        let good = [
            "#", "+", "/", "a", "a/#", "a/+", "+/+", "/+", "+/", "+/a/#", "//#", "/#", "$SYS/#", "ä/+/#",
        ];
        for filter in good {
            assert_eq!(fault(filter), None, "{filter:?}");
        }
    }

    #[test]
    fn filters_that_break_a_rule() {
        for filter in ["a#", "a/b#", "#/", "#/a", "a/#/b", "##", "#+"] {
            assert_eq!(fault(filter), Some(TopicFault::MisplacedHash), "{filter:?}");
        }
        for filter in ["a+", "+a", "a/b+", "a/+b/c", "++", "+#", "ä+"] {
            assert_eq!(fault(filter), Some(TopicFault::MisplacedPlus), "{filter:?}");
        }
        assert_eq!(fault(""), Some(TopicFault::Empty));
        assert_eq!(fault("a/\0/#"), Some(TopicFault::Nul));
        assert_eq!(fault(&"/".repeat(128)), Some(TopicFault::TooManyLevels));
        assert_eq!(fault(&"x".repeat(1025)), Some(TopicFault::TooLong));
        let error = TopicFilter::parse("a#", &TopicLimits::default()).unwrap_err();
        assert_eq!(error.reason(), crate::codec::ReasonCode::TOPIC_FILTER_INVALID);
    }

    /// The examples of sections 4.7.1 to 4.7.3, and the corners between them.
    #[test]
    fn the_standards_examples() {
        let tennis = "sport/tennis/player1";
        let yes = [
            ("sport/tennis/player1/#", tennis),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
            ("sport/#", "sport"),
            ("#", "a"),
            ("#", "/"),
            ("sport/tennis/+", tennis),
            ("sport/+", "sport/"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("+", "finance"),
            ("+/+/+", "//"),
            ("/", "/"),
            ("a//b", "a//b"),
            ("a/+/b", "a//b"),
            ("$SYS/#", "$SYS/monitor/Clients"),
            ("$SYS/#", "$SYS"),
            ("$SYS/monitor/+", "$SYS/monitor/Clients"),
            ("a/#", "a/$b"),
            ("+/$b", "a/$b"),
            ("日本/+", "日本/東京"),
            ("+/#", "a"),
        ];
        for (filter, topic) in yes {
            assert!(matches(filter, topic), "{filter} must match {topic}");
        }
        let no = [
            ("sport/tennis/+", "sport/tennis/player1/ranking"),
            ("sport/+", "sport"),
            ("+", "/finance"),
            ("+", "a/"),
            ("a", "/a"),
            ("/a", "a"),
            ("a/", "a"),
            ("a", "a/"),
            ("a//b", "a/b"),
            ("A", "a"),
            ("a/b/#", "a"),
            ("#", "$SYS/a"),
            ("+/monitor/Clients", "$SYS/monitor/Clients"),
            ("+", "$SYS"),
            ("+/#", "$SYS"),
            ("sport/#", "sports"),
        ];
        for (filter, topic) in no {
            assert!(!matches(filter, topic), "{filter} must not match {topic}");
        }
    }

    #[test]
    fn the_longest_filters_of_the_wire() {
        let slashes = "/".repeat(65_535);
        assert!(matches(&slashes, &slashes));
        assert!(!matches(&slashes, &slashes[1..]));
        let pluses = format!("{}+", "+/".repeat(32_767));
        assert!(matches(&pluses, &"/".repeat(32_767)));
        assert!(!matches(&pluses, &slashes));
        assert!(matches(&format!("{}#", "+/".repeat(32_767)), &slashes));
    }

    /// A second definition, by cases on the first level; small enough to be read as the standard's text.
    fn defined(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) | ([], []) => true,
            ([level, filter @ ..], [name, topic @ ..]) => {
                (*level == "+" || level == name) && defined(filter, topic)
            }
            _ => false,
        }
    }

    fn levels(text: &str) -> Vec<&str> {
        text.split('/').collect()
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            filter in "#|([ab$]?|\\+)(/([ab]?|\\+)){0,4}(/#)?",
            topic in "[ab$]?(/[ab]?){0,5}",
        ) {
            let hidden = topic.starts_with('$') && filter.starts_with(['+', '#']);
            prop_assert_eq!(matches(&filter, &topic), !hidden && defined(&levels(&filter), &levels(&topic)));
        }
    }
}
