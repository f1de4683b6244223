//! SUBSCRIBE and UNSUBSCRIBE.

use super::*;
use crate::codec::{
    Suback, Subscribe, SubscriptionOptions, SubscriptionRequests, TopicFilters, Unsuback, Unsubscribe,
    UserProperties,
};
use crate::session::{Share, SubscribeRequest};

/// A SUBSCRIBE for these filters at QoS 1.
pub(super) fn subscribe(number: u16, filters: &[&str]) -> Packet<'static> {
    let mut payload = Vec::new();
    let requests = filters
        .iter()
        .map(|filter| (*filter, SubscriptionOptions::new(QoS::AtLeastOnce)));
    SubscriptionRequests::encode_into(requests, &mut payload);
    Packet::Subscribe(Subscribe {
        packet_id: id(number),
        subscription_id: None,
        user_properties: UserProperties::default(),
        requests: SubscriptionRequests::from_payload(payload.leak()).unwrap(),
    })
}

fn unsubscribe(number: u16, filters: &[&str]) -> Packet<'static> {
    let mut payload = Vec::new();
    TopicFilters::encode_into(filters.iter().copied(), &mut payload);
    Packet::Unsubscribe(Unsubscribe {
        packet_id: id(number),
        user_properties: UserProperties::default(),
        filters: TopicFilters::from_payload(payload.leak()).unwrap(),
    })
}

fn request(side: &mut Side, packet: Packet<'_>) -> SubscribeRequest<'static> {
    match side.send(packet) {
        Ok(Action::Subscribe(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn verdicts(side: &mut Side, filters: &[&str]) -> Vec<Result<(), ReasonCode>> {
    request(side, subscribe(1, filters))
        .entries
        .iter()
        .map(|entry| entry.verdict)
        .collect()
}

#[test]
fn mqtt_3_8_4_1_subscribe_is_answered_by_suback_with_its_identifier() {
    for version in EVERY {
        let mut side = Side::connected(version);
        let request = request(&mut side, subscribe(7, &["a/+", "b"]));
        assert_eq!((request.packet_id, request.entries.len()), (id(7), 2));
        assert_eq!(
            (request.entries[0].filter, request.entries[0].options.qos),
            ("a/+", QoS::AtLeastOnce)
        );
        assert!(side.receive().is_empty(), "not before the outcome");
        let reasons = [ReasonCode::GRANTED_QOS_1, ReasonCode::UNSPECIFIED_ERROR];
        side.connection
            .handle_subscribed(id(7), &reasons, &mut side.out)
            .unwrap();
        let mut wanted = Suback::new(id(7), &reasons);
        wanted.reason_string = (version == ProtocolVersion::V5).then_some("not every filter was granted");
        assert_eq!(side.receive(), [Packet::Suback(wanted)], "[MQTT-3.8.4-2]");
    }
}

#[test]
fn mqtt_3_10_4_4_unsubscribe_is_answered_by_unsuback() {
    for version in EVERY {
        let mut side = Side::connected(version);
        let Ok(Action::Unsubscribe(request)) = side.send(unsubscribe(9, &["a", "$share/g/b"])) else {
            panic!("no request");
        };
        assert_eq!(request.packet_id, id(9));
        assert_eq!(request.entries[0].share, None);
        assert_eq!(
            request.entries[1].share,
            Some(Share {
                name: "g",
                filter: "b"
            })
        );
        let reasons = [ReasonCode::SUCCESS, ReasonCode::NO_SUBSCRIPTION_EXISTED];
        side.connection
            .handle_unsubscribed(id(9), &reasons, &mut side.out)
            .unwrap();
        let expected = if version == ProtocolVersion::V5 {
            &reasons[..]
        } else {
            &[]
        };
        assert_eq!(side.receive(), [Packet::Unsuback(Unsuback::new(id(9), expected))]);
    }
}

#[test]
fn mqtt_4_7_1_1_an_invalid_filter_is_its_own_failure_at_5_and_the_end_at_3() {
    for filter in ["a#", "a/#/b", "+a", "", "$share//a", "$share/g", "$share/+/a"] {
        for version in EVERY {
            let mut side = Side::connected(version);
            if version == ProtocolVersion::V5 {
                let invalid = Err(ReasonCode::TOPIC_FILTER_INVALID);
                assert_eq!(
                    verdicts(&mut side, &["a", filter, "b"]),
                    [Ok(()), invalid, Ok(())],
                    "{filter}"
                );
                let Ok(Action::Unsubscribe(request)) = side.send(unsubscribe(1, &[filter])) else {
                    panic!("{filter}")
                };
                assert_eq!(request.entries[0].verdict, invalid, "{filter}");
            } else {
                let told = side.violate(subscribe(1, &["a", filter]));
                assert_eq!(told, (ReasonCode::TOPIC_FILTER_INVALID, None), "{filter}");
                assert!(
                    Side::connected(version).send(unsubscribe(1, &[filter])).is_err(),
                    "{filter}"
                );
            }
        }
    }
}

#[test]
fn filters_beyond_the_limits_are_refused_one_by_one() {
    let settings = ConnectionSettings {
        topic_levels_max: 3,
        topic_bytes_max: 10,
        ..Default::default()
    };
    for version in EVERY {
        let (mut side, _) = Side::with(version, settings.clone(), |_| {});
        let refused = Err(ReasonCode::TOPIC_FILTER_INVALID);
        let filters = ["a/b/c", "a/b/c/d", "0123456789", "0123456789a", "$share/g/a/b/c"];
        assert_eq!(
            verdicts(&mut side, &filters),
            [Ok(()), refused, Ok(()), refused, Ok(())]
        );
    }
}

#[test]
fn more_filters_than_allowed_end_the_connection() {
    let settings = ConnectionSettings {
        filters_per_packet_max: 2,
        ..Default::default()
    };
    for version in EVERY {
        let (mut side, _) = Side::with(version, settings.clone(), |_| {});
        assert_eq!(verdicts(&mut side, &["a", "b"]).len(), 2);
        let told = side.violate(subscribe(1, &["a", "b", "c"]));
        assert_eq!(told, side.told(ReasonCode::QUOTA_EXCEEDED));
        let (mut side, _) = Side::with(version, settings.clone(), |_| {});
        assert!(side.send(unsubscribe(1, &["a", "b"])).is_ok());
        assert!(side.send(unsubscribe(1, &["a", "b", "c"])).is_err());
    }
}

#[test]
fn mqtt_3_2_2_3_what_is_not_offered_is_refused_per_filter() {
    let settings = ConnectionSettings {
        wildcard_available: false,
        shared_available: false,
        subscription_ids_available: false,
        ..Default::default()
    };
    let wildcard = Err(ReasonCode::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED);
    let shared = Err(ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED);
    for version in EVERY {
        let (mut side, _) = Side::with(version, settings.clone(), |_| {});
        let filters = ["a", "a/+", "#", "$share/g/a"];
        assert_eq!(
            verdicts(&mut side, &filters),
            [Ok(()), wildcard, wildcard, shared]
        );
    }
    let (mut side, _) = Side::with(ProtocolVersion::V5, settings, |_| {});
    let Packet::Subscribe(mut with_id) = subscribe(1, &["a"]) else {
        unreachable!()
    };
    with_id.subscription_id = Some(5);
    let verdict = request(&mut side, Packet::Subscribe(with_id)).entries[0].verdict;
    assert_eq!(verdict, Err(ReasonCode::SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED));
    let request = request(
        &mut Side::connected(ProtocolVersion::V5),
        Packet::Subscribe(with_id),
    );
    assert_eq!(
        (request.subscription_id, request.entries[0].verdict),
        (Some(5), Ok(()))
    );
}

#[test]
fn mqtt_3_8_3_4_no_local_on_a_shared_subscription_is_a_violation() {
    let mut side = Side::connected(ProtocolVersion::V5);
    let mut bytes = Vec::new();
    subscribe(1, &["$share/g/a"]).encode(ProtocolVersion::V5, &mut bytes);
    *bytes.last_mut().unwrap() |= 0b100;
    let close = side.send_bytes(bytes).unwrap_err();
    assert_eq!(
        side.close(close),
        (ReasonCode::PROTOCOL_ERROR, Some(ReasonCode::PROTOCOL_ERROR))
    );
}

#[test]
fn frames_wait_while_too_many_requests_are_pending() {
    let settings = ConnectionSettings {
        requests_pending_max: 2,
        ..Default::default()
    };
    for version in EVERY {
        let (mut side, _) = Side::with(version, settings.clone(), |_| {});
        side.send(subscribe(1, &["a"])).unwrap();
        assert!(side.connection.ready_for_frames());
        side.send(unsubscribe(2, &["a"])).unwrap();
        assert!(!side.connection.ready_for_frames());
        side.connection
            .handle_unsubscribed(id(2), &[ReasonCode::SUCCESS], &mut side.out)
            .unwrap();
        assert!(side.connection.ready_for_frames());
        side.connection
            .handle_subscribed(id(1), &[ReasonCode::SUCCESS], &mut side.out)
            .unwrap();
        side.send(subscribe(3, &["a"])).unwrap();
        assert!(side.connection.ready_for_frames(), "both were counted off");
    }
}

#[test]
fn mqtt_3_1_2_24_answers_without_room_end_the_connection() {
    let small = |connect: &mut Connect<'static>| connect.maximum_packet_size = Some(20);
    let reasons = [ReasonCode::SUCCESS; 20];
    let (mut side, _) = Side::with(ProtocolVersion::V5, ConnectionSettings::default(), small);
    let close = side
        .connection
        .handle_subscribed(id(1), &reasons, &mut side.out)
        .unwrap_err();
    let told = (ReasonCode::PACKET_TOO_LARGE, Some(ReasonCode::PACKET_TOO_LARGE));
    assert_eq!(
        side.close(close),
        told,
        "the DISCONNECT without its reason string has room"
    );
    let (mut side, _) = Side::with(ProtocolVersion::V5, ConnectionSettings::default(), small);
    let close = side
        .connection
        .handle_unsubscribed(id(1), &reasons, &mut side.out)
        .unwrap_err();
    assert_eq!(side.close(close), told);
}
