//! Shared subscriptions: `$share/{share name}/{topic filter}` [MQTT5 4.8.2].
//!
//! The split happens where a SUBSCRIBE or UNSUBSCRIBE is handled; behind it the share name and the filter travel apart.
//! A filter such as `$share` or `$shared/a` is an ordinary one: only the prefix `$share/` makes a shared subscription.

use super::filter::TopicFilter;
use super::name::{TopicError, TopicFault, TopicLimits};

const PREFIX: &str = "$share/";

/// What one entry of a SUBSCRIBE or UNSUBSCRIBE asks for, its form checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subscription<'a> {
    /// The share name, `None` for an ordinary subscription.
    pub share_name: Option<&'a str>,
    /// The topic filter, without the share prefix.
    pub filter: &'a str,
}

impl<'a> Subscription<'a> {
    /// Splits and checks the text of a subscription. The limits hold for the filter behind the share name, and the
    /// share name is held to the same length.
    ///
    /// # Errors
    ///
    /// The first rule the text breaks [MQTT-4.8.2-1, MQTT-4.8.2-2] or the filter breaks; the reason is always 0x8F.
    pub fn parse(text: &'a str, limits: &TopicLimits) -> Result<Self, TopicError> {
        let Some(rest) = text.strip_prefix(PREFIX) else {
            let filter = TopicFilter::parse(text, limits)?.as_str();
            return Ok(Self {
                share_name: None,
                filter,
            });
        };
        let (share_name, filter) = split_share(rest, limits).map_err(TopicError::filter)?;
        let filter = TopicFilter::parse(filter, limits)?.as_str();
        Ok(Self {
            share_name: Some(share_name),
            filter,
        })
    }
}

fn split_share<'a>(rest: &'a str, limits: &TopicLimits) -> Result<(&'a str, &'a str), TopicFault> {
    let (share_name, filter) = match rest.split_once('/') {
        Some(("", _)) => return Err(TopicFault::ShareNameEmpty),
        Some((_, "")) => return Err(TopicFault::ShareFilterMissing),
        Some(parts) => parts,
        None if rest.is_empty() => return Err(TopicFault::ShareNameEmpty),
        None => return Err(TopicFault::ShareFilterMissing),
    };
    if share_name.contains(['+', '#']) {
        return Err(TopicFault::ShareNameWildcard);
    }
    if share_name.contains('\0') {
        return Err(TopicFault::Nul);
    }
    if share_name.len() > usize::from(limits.bytes_max) {
        return Err(TopicFault::TooLong);
    }
    Ok((share_name, filter))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(Option<&str>, &str), TopicFault> {
        Subscription::parse(text, &TopicLimits::default())
            .map(|subscription| (subscription.share_name, subscription.filter))
            .map_err(|error| {
                assert_eq!(error.reason(), crate::codec::ReasonCode::TOPIC_FILTER_INVALID);
                error.fault
            })
    }

    #[test]
    fn ordinary_subscriptions() {
        for filter in [
            "a/+/#",
            "$share",
            "$shared/a",
            "$SYS/#",
            "/$share/g/a",
            "$SHARE/g/a",
        ] {
            assert_eq!(parse(filter), Ok((None, filter)));
        }
    }

    #[test]
    fn shared_subscriptions() {
        assert_eq!(parse("$share/g/a"), Ok((Some("g"), "a")));
        assert_eq!(parse("$share/g/#"), Ok((Some("g"), "#")));
        assert_eq!(parse("$share/g//"), Ok((Some("g"), "/")));
        assert_eq!(parse("$share/g//finance"), Ok((Some("g"), "/finance")));
        assert_eq!(
            parse("$share/consumer 1/sport/tennis/+"),
            Ok((Some("consumer 1"), "sport/tennis/+"))
        );
        assert_eq!(parse("$share/グループ/$SYS/#"), Ok((Some("グループ"), "$SYS/#")));
        assert_eq!(
            parse("$share/g/$share/h/a"),
            Ok((Some("g"), "$share/h/a")),
            "the filter is taken as it is"
        );
    }

    #[test]
    fn refused() {
        assert_eq!(parse("$share/"), Err(TopicFault::ShareNameEmpty));
        assert_eq!(parse("$share//a"), Err(TopicFault::ShareNameEmpty));
        assert_eq!(parse("$share//"), Err(TopicFault::ShareNameEmpty));
        assert_eq!(parse("$share/g"), Err(TopicFault::ShareFilterMissing));
        assert_eq!(parse("$share/g/"), Err(TopicFault::ShareFilterMissing));
        assert_eq!(parse("$share/+/a"), Err(TopicFault::ShareNameWildcard));
        assert_eq!(parse("$share/g#/a"), Err(TopicFault::ShareNameWildcard));
        assert_eq!(parse("$share/g\0/a"), Err(TopicFault::Nul));
        assert_eq!(parse("$share/g/a#"), Err(TopicFault::MisplacedHash));
        assert_eq!(parse("$share/g/+a"), Err(TopicFault::MisplacedPlus));
    }

    #[test]
    fn limits_hold_for_both_parts() {
        let limits = TopicLimits {
            levels_max: 2,
            bytes_max: 4,
        };
        assert!(
            Subscription::parse("$share/gggg/a/bb", &limits).is_ok(),
            "the prefix does not count"
        );
        let fault = |text| Subscription::parse(text, &limits).unwrap_err().fault;
        assert_eq!(fault("$share/ggggg/a"), TopicFault::TooLong);
        assert_eq!(fault("$share/g/aaaaa"), TopicFault::TooLong);
        assert_eq!(fault("$share/g/a/b/"), TopicFault::TooManyLevels);
    }
}
