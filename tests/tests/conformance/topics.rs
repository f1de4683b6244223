//! Topic names and filters [4.7].

use quorate_tests::scope::Scope;
use quorate_tests::wire::{connect, filter, publish};
use quorate_tests::{Version, each_version};

use super::broker;

/// Filter, and topics of the scope that it matches and does not match.
const MATCHES: &[(&str, &[&str], &[&str])] = &[
    ("a", &["a"], &["b", "A", "a/", "/a", "a/b", "aa"]),
    ("a/b", &["a/b"], &["a", "a/b/", "a/b/c", "a//b", "A/b"]),
    ("a/+", &["a/b", "a/", "a/ "], &["a", "a/b/c", "a/b/"]),
    ("+/b", &["a/b", "/b"], &["b", "a/a/b"]),
    ("+", &["a", ""], &["a/b", "/"]),
    ("+/+", &["a/b", "/b", "a/", "/"], &["a", "a/b/c"]),
    ("/+", &["/a", "/"], &["a", "a/b", "//"]),
    ("a/+/c", &["a/b/c", "a//c"], &["a/c", "a/b/b/c", "a/b/d"]),
    (
        "a/#",
        &["a", "a/", "a/b", "a/b/c", "a/b/c/"],
        &["b", "aa", "ab/c", "/a"],
    ),
    ("a/+/#", &["a/b", "a/", "a/b/c"], &["a", "b/b"]),
    ("+/a/#", &["b/a", "b/a/c"], &["a", "a/b", "b"]),
    ("#", &["a", "", "/", "a/b"], &[]),
    ("a b", &["a b"], &["a  b", "ab"]),
    ("é", &["é"], &["e\u{301}", "É"]),
    ("\u{feff}a", &["\u{feff}a"], &["a"]),
];

/// [MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.3-4], [MQTT-3.3.2-3], [MQTT-1.5.4-3], section 4.7.1: what each filter
/// matches, without normalisation of any kind.
async fn filters_match_what_they_should(version: Version) {
    for (index, (topic_filter, matched, others)) in MATCHES.iter().enumerate() {
        let scope = Scope::new();
        let mut client = broker().clean(version, &scope.id(&format!("m{index}"))).await;
        client.subscribe(&scope.topic(topic_filter), 1).await;
        for topic in matched.iter().chain(*others) {
            client.publish(publish(&scope.topic(topic), topic).qos(1)).await;
        }
        for topic in *matched {
            let message = client.receive().await;
            assert_eq!(
                (message.text(), &message.topic),
                (*topic, &scope.topic(topic)),
                "filter {topic_filter}"
            );
        }
        client.unsubscribe(&scope.topic(topic_filter)).await;
        client.subscribe(&scope.topic("end of this filter"), 1).await;
        client
            .publish(publish(&scope.topic("end of this filter"), "end").qos(1))
            .await;
        client.expect("end").await;
    }
}
each_version!(filters_match_what_they_should);

/// [MQTT-4.7.2-1]: a leading wildcard does not match a leading dollar; one behind the dollar's level does.
async fn wildcards_do_not_match_dollar_topics(version: Version) {
    let scope = Scope::new();
    let own = format!("$own-{}", scope.id(""));
    let mut client = broker().clean(version, &scope.id("a")).await;
    client.subscribe("#", 0).await;
    client.subscribe("+/x/#", 0).await;
    client.subscribe("+/+", 0).await;
    client.subscribe(&format!("{own}/#"), 1).await;
    client
        .publish(publish(&format!("{own}/x"), "seen once").qos(1))
        .await;
    client.publish(publish(&scope.topic("x"), "end")).await;
    let mut own_messages = 0;
    loop {
        let message = client.receive().await;
        match (message.topic.starts_with(&own), message.topic == scope.topic("x")) {
            (true, _) => own_messages += 1,
            (_, true) => break,
            // Other tests publish and retain beside this one.
            _ => assert!(
                !message.topic.starts_with('$'),
                "{} came through a wildcard",
                message.topic
            ),
        }
    }
    assert_eq!(own_messages, 1);
}
each_version!(wildcards_do_not_match_dollar_topics: v3_1_1, v5);

/// [MQTT-3.3.2-2], [MQTT-4.7.0-1]; 3.1.1 [MQTT-4.7.1-1]
async fn topic_name_with_wildcard_is_refused(version: Version) {
    for topic in ["a/#", "+/a", "#", "+", "a+", "a/b#"] {
        let mut raw = broker()
            .raw_client(version, &connect(&Scope::new().id("a")))
            .await;
        raw.send(&publish(topic, "m")).await;
        raw.expect_disconnect(0x90).await;
    }
}
each_version!(topic_name_with_wildcard_is_refused);

/// [MQTT-4.7.3-1]: an empty topic name, without alias.
async fn empty_topic_name_is_refused(version: Version) {
    let mut raw = broker()
        .raw_client(version, &connect(&Scope::new().id("a")))
        .await;
    raw.send(&publish("", "m")).await;
    raw.expect_disconnect(if version == Version::V5 { 0x82 } else { 0x90 })
        .await;
}
each_version!(empty_topic_name_is_refused);

/// [MQTT-4.7.3-1]: an empty topic filter.
#[tokio::test]
async fn empty_topic_filter_is_refused() {
    let mut client = broker().clean(Version::V5, &Scope::new().id("a")).await;
    assert_eq!(client.subscribe_with([filter("")], []).await.codes, [0x8F]);
}

/// [MQTT-4.7.3-2], [MQTT-1.5.4-2]
async fn null_in_topic_is_refused(version: Version) {
    let mut raw = broker()
        .raw_client(version, &connect(&Scope::new().id("a")))
        .await;
    raw.send(&publish("a\0b", "m")).await;
    raw.expect_disconnect(0x81).await;
    let mut raw = broker()
        .raw_client(version, &connect(&Scope::new().id("a")))
        .await;
    raw.send(&quorate_tests::wire::subscribe(1, [filter("a\0b")]))
        .await;
    raw.expect_disconnect(0x81).await;
}
each_version!(null_in_topic_is_refused);

/// Names and filters up to the configured limits of 128 levels and 1,024 bytes work, beyond they are refused.
#[tokio::test]
async fn topics_up_to_the_limit_work() {
    let scope = Scope::new();
    let mut client = broker().clean(Version::V5, &scope.id("a")).await;
    let prefix = scope.topic("");
    let deepest = format!("{prefix}{}", "/".repeat(128 - 2));
    let longest = format!("{prefix}{}", "x".repeat(1_024 - prefix.len()));
    for topic in [&deepest, &longest] {
        client.subscribe(topic, 1).await;
        client.publish(publish(topic, "m").qos(1)).await;
        assert_eq!(client.expect("m").await.topic, *topic);
        assert_eq!(
            client.publish(publish(&format!("{topic}/"), "m").qos(1)).await,
            0x90
        );
        assert_eq!(
            client
                .subscribe_with([filter(&format!("{topic}/"))], [])
                .await
                .codes,
            [0x8F]
        );
    }
}
