//! SUBSCRIBE and UNSUBSCRIBE: the form of the filters, and what the listener offers.
//!
//! At MQTT 5 each filter gets its own verdict. At 3.x a filter that breaks the rules ends the connection, since
//! SUBACK has no word for it there; what only this server does not take is a failure of that filter (0x80).

use super::{
    Close, ConnectionSettings, Share, SubscribeEntry, SubscribeRequest, UnsubscribeEntry, UnsubscribeRequest,
};
use crate::codec::{ProtocolVersion, ReasonCode, Subscribe, SubscriptionOptions, Unsubscribe};
use crate::topic::{Subscription, TopicLimits};

const TOO_MANY: Close = Close::new(
    ReasonCode::QUOTA_EXCEEDED,
    "more topic filters in one packet than allowed",
);
const INVALID: Close = Close::new(
    ReasonCode::TOPIC_FILTER_INVALID,
    "topic filter is not valid [MQTT-4.7.1-1]",
);
const NO_LOCAL_SHARED: Close = Close::new(
    ReasonCode::PROTOCOL_ERROR,
    "No Local on a shared subscription [MQTT-3.8.3-4]",
);

/// Checks a SUBSCRIBE.
pub(super) fn check_subscribe<'a>(
    subscribe: &Subscribe<'a>,
    settings: &ConnectionSettings,
    version: ProtocolVersion,
) -> Result<SubscribeRequest<'a>, Close> {
    let mut entries = Vec::new();
    for (filter, options) in subscribe.requests.iter() {
        if entries.len() >= usize::from(settings.filters_per_packet_max) {
            return Err(TOO_MANY);
        }
        entries.push(check_entry(
            filter,
            options,
            subscribe.subscription_id,
            settings,
            version,
        )?);
    }
    Ok(SubscribeRequest {
        packet_id: subscribe.packet_id,
        subscription_id: subscribe.subscription_id,
        entries,
    })
}

fn check_entry<'a>(
    filter: &'a str,
    options: SubscriptionOptions,
    subscription_id: Option<u32>,
    settings: &ConnectionSettings,
    version: ProtocolVersion,
) -> Result<SubscribeEntry<'a>, Close> {
    let (share, verdict) = match parse(filter, &settings.topic_limits(), version)? {
        Err(reason) => (None, Err(reason)),
        Ok(subscription) => (
            share(&subscription),
            check_features(&subscription, subscription_id.is_some(), settings),
        ),
    };
    if share.is_some() && options.no_local {
        return Err(NO_LOCAL_SHARED);
    }
    Ok(SubscribeEntry {
        filter,
        share,
        options,
        verdict,
    })
}

/// Checks an UNSUBSCRIBE.
pub(super) fn check_unsubscribe<'a>(
    unsubscribe: &Unsubscribe<'a>,
    settings: &ConnectionSettings,
    version: ProtocolVersion,
) -> Result<UnsubscribeRequest<'a>, Close> {
    let mut entries = Vec::new();
    for filter in unsubscribe.filters.iter() {
        if entries.len() >= usize::from(settings.filters_per_packet_max) {
            return Err(TOO_MANY);
        }
        let parsed = parse(filter, &settings.topic_limits(), version)?;
        let share = parsed.as_ref().ok().and_then(share);
        entries.push(UnsubscribeEntry {
            filter,
            share,
            verdict: parsed.map(|_| ()),
        });
    }
    Ok(UnsubscribeRequest {
        packet_id: unsubscribe.packet_id,
        entries,
    })
}

/// The parts of a filter. What breaks the rules is a verdict at MQTT 5, the end at 3.x.
fn parse<'a>(
    filter: &'a str,
    limits: &TopicLimits,
    version: ProtocolVersion,
) -> Result<Result<Subscription<'a>, ReasonCode>, Close> {
    match Subscription::parse(filter, limits) {
        Ok(subscription) => Ok(Ok(subscription)),
        Err(error) if version == ProtocolVersion::V5 || error.fault.is_limit() => Ok(Err(error.reason())),
        Err(_) => Err(INVALID),
    }
}

fn share<'a>(subscription: &Subscription<'a>) -> Option<Share<'a>> {
    subscription.share_name.map(|name| Share {
        name,
        filter: subscription.filter,
    })
}

fn check_features(
    subscription: &Subscription<'_>,
    has_subscription_id: bool,
    settings: &ConnectionSettings,
) -> Result<(), ReasonCode> {
    if subscription.share_name.is_some() && !settings.shared_available {
        return Err(ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED);
    }
    if !settings.wildcard_available && subscription.filter.contains(['+', '#']) {
        return Err(ReasonCode::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED);
    }
    if has_subscription_id && !settings.subscription_ids_available {
        return Err(ReasonCode::SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED);
    }
    Ok(())
}
