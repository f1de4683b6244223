//! The broker's own topics, `$SYS` [4.7.2].

use quorate_tests::broker::Config;
use quorate_tests::wire::{Will, connect, filter, publish};
use quorate_tests::{Version, each_version};

use super::{broker, start};

/// What a new subscription gets is retained; later rounds are not, and wildcards at the beginning match none of it
/// [MQTT-4.7.2-1].
async fn values_are_sent_at_once_and_again(version: Version) {
    let broker = start(Config::new().node("sys_interval_secs = 1"));
    let mut everything = broker.clean(version, "everything").await;
    everything.subscribe("#", 0).await;
    let mut client = broker.clean(version, "a").await;
    client.subscribe("$SYS/broker/uptime", 1).await;
    let first = client.subscribe_until_retained("$SYS/broker/uptime").await;
    assert!(first.retain, "a new subscription gets the last value");
    let seconds = |payload: &[u8]| -> u64 {
        let text = String::from_utf8_lossy(payload);
        let number = text.strip_suffix(" seconds").expect("a time in seconds");
        number.parse().expect("a number")
    };
    // Each SUBSCRIBE above had its answer; what is not retained comes with a round.
    let next = loop {
        let message = client.receive().await;
        if !message.retain {
            break message;
        }
    };
    assert!(seconds(&next.payload) >= seconds(&first.payload));
    let connected = client
        .subscribe_until_retained("$SYS/broker/clients/connected")
        .await;
    assert_eq!(String::from_utf8_lossy(&connected.payload), "2");
    client.publish(publish("mine", "m").qos(1)).await;
    assert_eq!(everything.receive().await.topic, "mine");
}
each_version!(values_are_sent_at_once_and_again);

/// Clients do not publish there: 0x87 at MQTT 5, an acknowledgement without effect before [MQTT-3.3.5-2 of 3.1.1], and
/// nobody gets it. Not by a will either.
async fn clients_cannot_publish_to_them(version: Version) {
    let id = format!("sys-{version:?}");
    let mut observer = broker().clean(version, &format!("{id}-observer")).await;
    observer.subscribe("$SYS/mine/#", 1).await;
    for topic in ["$SYS", "$SYS/mine", "$SYS/mine/deeper"] {
        let mut raw = broker().raw_client(version, &connect(&id)).await;
        raw.send(&publish(topic, "forged").qos(1).id(1)).await;
        let refused = if version == Version::V5 { 0x87 } else { 0 };
        assert_eq!(raw.expect_puback().await.code, refused);
    }
    let mut raw = broker().raw(version).await;
    raw.send(&connect(&id).will(Will::new("$SYS/mine", "forged")))
        .await;
    raw.expect_refused(Some(if version == Version::V5 { 0x87 } else { 5 }))
        .await;
    let mut other = broker().clean(version, &format!("{id}-other")).await;
    observer.subscribe_with([filter("done").qos(1)], []).await;
    other.publish(publish("done", "").qos(1)).await;
    assert_eq!(observer.receive().await.topic, "done");
}
each_version!(clients_cannot_publish_to_them);
