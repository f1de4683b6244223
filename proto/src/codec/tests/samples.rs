//! Arbitrary packets for property tests: strategies for what [`Parts`] are made of.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::super::fuzzing::{Content, Parts};
use super::*;

const TEXT: &str = "[^\\x00]{0,12}";
const TOPIC: &str = "[^+#\\x00]{1,24}";

/// Arbitrary parts.
pub(super) fn parts() -> impl Strategy<Value = Parts> {
    let scalars = (
        vec(option::of(TEXT), 7),
        vec(option::of(vec(any::<u8>(), 0..12)), 2),
        vec(option::of(any::<u32>()), 3),
        vec(1..=u16::MAX, 4),
        vec(any::<bool>(), 8),
        prop_oneof![
            Just(QoS::AtMostOnce),
            Just(QoS::AtLeastOnce),
            Just(QoS::ExactlyOnce)
        ],
        any::<usize>(),
    );
    let publish = (
        TOPIC,
        vec(any::<u8>(), 0..200),
        option::of(any::<bool>()),
        option::of(TOPIC),
        option::of(TEXT),
        option::of(vec(any::<u8>(), 0..12)),
        vec(1..=268_435_455u32, 0..4),
    );
    let lists = (
        vec((TEXT, TEXT), 0..4),
        vec((TEXT, options()), 1..5),
        vec(TEXT, 1..5),
        vec(any::<u8>(), 1..5),
        vec(any::<u8>(), 1..5),
    );
    (scalars, publish, lists).prop_map(|(scalars, publish, lists)| {
        let (texts, binaries, integers, shorts, flags, qos, pick) = scalars;
        let (topic, payload, payload_is_utf8, response_topic, content_type, correlation, subscription_ids) =
            publish;
        let (user_properties, requests, filters, suback_picks, unsuback_picks) = lists;
        Parts::new(Content {
            texts,
            binaries,
            integers,
            shorts,
            flags,
            qos,
            topic,
            payload,
            payload_is_utf8,
            response_topic,
            content_type,
            correlation,
            subscription_ids,
            user_properties,
            requests,
            filters,
            suback_picks,
            unsuback_picks,
            pick,
        })
    })
}

fn options() -> impl Strategy<Value = SubscriptionOptions> {
    (0..3u8, any::<bool>(), any::<bool>(), 0..3u8).prop_map(
        |(qos, no_local, retain_as_published, handling)| SubscriptionOptions {
            qos: QoS::from_bits(qos).unwrap(),
            no_local,
            retain_as_published,
            retain_handling: [
                RetainHandling::Send,
                RetainHandling::SendIfNew,
                RetainHandling::DoNotSend,
            ][usize::from(handling)],
        },
    )
}
