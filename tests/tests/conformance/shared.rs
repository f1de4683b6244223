//! Shared subscriptions [4.8.2].

use std::collections::HashMap;

use quorate_tests::broker::Config;
use quorate_tests::client::{Client, DEADLINE, RawClient};
use quorate_tests::scope::Scope;
use quorate_tests::wire::{
    Property, connect, disconnect, filter, puback, pubcomp, publish, pubrec, subscribe,
};
use quorate_tests::{Version, each_version};

use super::{broker, start};

/// The scope's shared subscription of a group.
fn share(scope: Scope, group: &str, rest: &str) -> String {
    format!("$share/{group}/{}", scope.topic(rest))
}

async fn member(version: Version, scope: Scope, name: &str, qos: u8) -> Client {
    let mut client = broker().clean(version, &scope.id(name)).await;
    client.subscribe(&share(scope, "g", "x"), qos).await;
    client
}

/// A member on a raw connection whose session outlives it.
async fn raw_member(scope: Scope, name: &str) -> RawClient {
    let mut raw = broker()
        .raw_client(Version::V5, &connect(&scope.id(name)).resume().expiry(600))
        .await;
    raw.send(&subscribe(1, [filter(&share(scope, "g", "x")).qos(2)]))
        .await;
    assert_eq!(raw.expect_suback().await.codes, [2]);
    raw
}

async fn send(scope: Scope, qos: u8, count: usize) {
    let mut publisher = broker().clean(Version::V5, &scope.id("sender")).await;
    for number in 0..count {
        publisher
            .publish(publish(&scope.topic("x"), number.to_string()).qos(qos))
            .await;
    }
}

/// What each member has got when all members together have got `count` messages.
async fn receive_all(members: Vec<Client>, count: usize) -> (Vec<Client>, Vec<Vec<String>>) {
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let (stop, stopped) = tokio::sync::watch::channel(());
    let tasks: Vec<_> = members
        .into_iter()
        .enumerate()
        .map(|(index, mut member)| {
            let (sender, mut stopped) = (sender.clone(), stopped.clone());
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        message = member.receive() => sender.send((index, message.text().to_owned())).expect("open"),
                        _ = stopped.changed() => return member,
                    }
                }
            })
        })
        .collect();
    let mut texts = vec![Vec::new(); tasks.len()];
    for _ in 0..count {
        let (index, text) = received.recv().await.expect("members run");
        texts[index].push(text);
    }
    drop(stop);
    let mut members = Vec::new();
    for task in tasks {
        members.push(task.await.expect("a member failed"));
    }
    (members, texts)
}

/// Section 4.8.2: each message goes to one member, and none is left out.
async fn each_message_goes_to_one_member(version: Version) {
    const COUNT: usize = 60;
    for qos in 0..=2 {
        let scope = Scope::new();
        let mut members = Vec::new();
        for name in ["a", "b", "c"] {
            members.push(member(version, scope, name, qos).await);
        }
        send(scope, qos, COUNT).await;
        let (mut members, texts) = receive_all(members, COUNT).await;
        for member in &mut members {
            member.ping().await;
        }
        let mut counts = HashMap::new();
        texts
            .iter()
            .flatten()
            .for_each(|text| *counts.entry(text.clone()).or_insert(0) += 1);
        assert!(
            counts.len() == COUNT && counts.values().all(|count| *count == 1),
            "{counts:?}"
        );
        assert!(
            texts.iter().all(|texts| texts.len() >= COUNT / 6),
            "a fair share for each: {texts:?}"
        );
    }
}
each_version!(each_message_goes_to_one_member: v3_1_1, v5);

/// [MQTT-4.8.2-1], [MQTT-4.8.2-2], section 4.8.2: groups of other names and filters, and subscriptions that are not
/// shared, get their own copy.
#[tokio::test]
async fn groups_are_independent() {
    let scope = Scope::new();
    let mut clients = Vec::new();
    for (name, topic_filter) in [
        ("a", share(scope, "g", "x")),
        ("b", share(scope, "h", "x")),
        ("c", share(scope, "g", "+")),
        ("d", scope.topic("x")),
    ] {
        let mut client = broker().clean(Version::V5, &scope.id(name)).await;
        client.subscribe(&topic_filter, 1).await;
        clients.push(client);
    }
    send(scope, 1, 3).await;
    for client in &mut clients {
        assert_eq!(client.receive_texts(3).await, ["0", "1", "2"]);
        client.ping().await;
    }
}

/// Section 4.8.2: a client may be in a group and subscribe for itself: one copy for each.
#[tokio::test]
async fn own_subscription_beside_a_shared_one_gets_its_copy() {
    let scope = Scope::new();
    let mut client = member(Version::V5, scope, "a", 1).await;
    client
        .subscribe_with([filter(&scope.topic("x")).qos(0)], [Property::SubscriptionId(5)])
        .await;
    send(scope, 1, 1).await;
    let mut messages = [client.receive().await, client.receive().await];
    messages.sort_by_key(|message| message.qos);
    assert_eq!(
        messages.each_ref().map(|message| (message.text(), message.qos)),
        [("0", 0), ("0", 1)]
    );
    assert_eq!(messages[0].properties.subscription_ids(), [5]);
}

/// [MQTT-4.8.2-3], [MQTT-3.8.4-8]: the granted QoS of the member that gets the message.
#[tokio::test]
async fn granted_qos_of_the_member_holds() {
    let scope = Scope::new();
    let mut members = Vec::new();
    for (name, qos) in [("a", 0), ("b", 1), ("c", 2)] {
        members.push((member(Version::V5, scope, name, qos).await, qos));
    }
    send(scope, 2, 30).await;
    let mut received = 0;
    while received < 30 {
        for (member, qos) in &mut members {
            // The node has accepted all of them; another thread of it may still have to deliver some.
            member.ping().await;
            while let Some(message) = member.waiting() {
                assert_eq!(message.qos, *qos);
                received += 1;
            }
        }
    }
    assert_eq!(received, 30);
}

/// Section 4.8.2: a new shared subscription gets no retained messages.
#[tokio::test]
async fn shared_subscriptions_get_no_retained_messages() {
    let scope = Scope::new();
    let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
    publisher
        .publish(publish(&scope.topic("x"), "retained").qos(1).retain())
        .await;
    let mut client = member(Version::V5, scope, "a", 1).await;
    publisher.publish(publish(&scope.topic("x"), "live").qos(1)).await;
    client.expect("live").await;
    publisher.publish(publish(&scope.topic("x"), "").retain()).await;
}

/// [MQTT-3.8.3-4]
#[tokio::test]
async fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    let scope = Scope::new();
    let mut raw = broker().raw_client(Version::V5, &connect(&scope.id("a"))).await;
    raw.send(&subscribe(1, [filter(&share(scope, "g", "x")).no_local()]))
        .await;
    raw.expect_disconnect(0x82).await;
}

/// [MQTT-4.8.2-1], [MQTT-4.8.2-2]: what is not a shared subscription's filter.
#[tokio::test]
async fn malformed_share_names_are_refused() {
    let mut client = broker().clean(Version::V5, &Scope::new().id("a")).await;
    let filters = [
        "$share",
        "$share/",
        "$share/g",
        "$share/g/",
        "$share//a",
        "$share/+/a",
        "$share/#/a",
        "$share/a+/a",
    ];
    let codes = client.subscribe_with(filters.map(filter), []).await.codes;
    // `$share` alone is a topic filter like others, which no topic matches that is shared.
    assert_eq!(codes[1..], [0x8F; 7]);
}

/// [MQTT-3.10.4-1], section 4.8.2: leaving the group leaves the others in it; the filter alone does not name it.
#[tokio::test]
async fn unsubscribing_leaves_the_group() {
    let scope = Scope::new();
    let mut staying = member(Version::V5, scope, "a", 1).await;
    let mut leaving = member(Version::V5, scope, "b", 1).await;
    assert_eq!(leaving.unsubscribe(&scope.topic("x")).await.codes, [0x11]);
    assert_eq!(leaving.unsubscribe(&share(scope, "g", "x")).await.codes, [0x00]);
    send(scope, 1, 6).await;
    assert_eq!(staying.receive_texts(6).await, ["0", "1", "2", "3", "4", "5"]);
    leaving.ping().await;
    assert!(leaving.waiting().is_none());
}

/// DESIGN section 1: at QoS 0 and 1 a message that a lost member has not acknowledged goes to another at once.
#[tokio::test]
async fn message_of_a_lost_member_goes_to_another() {
    let scope = Scope::new();
    let mut lost = broker()
        .raw_client(Version::V5, &connect(&scope.id("lost")))
        .await;
    lost.send(&subscribe(1, [filter(&share(scope, "g", "x")).qos(1)]))
        .await;
    lost.expect_suback().await;
    send(scope, 1, 3).await;
    for _ in 0..3 {
        lost.expect_publish().await;
    }
    let mut other = member(Version::V5, scope, "other", 1).await;
    drop(lost);
    let mut texts = other.receive_texts(3).await;
    texts.sort();
    assert_eq!(texts, ["0", "1", "2"]);
}

/// [MQTT-4.8.2-4]: at QoS 2 a message that was sent to a member waits for that member, with its identifier.
#[tokio::test]
async fn message_at_qos_2_waits_for_its_member() {
    let scope = Scope::new();
    let mut absent = raw_member(scope, "absent").await;
    send(scope, 2, 1).await;
    let sent = absent.expect_publish().await;
    let mut other = raw_member(scope, "other").await;
    drop(absent);
    send(scope, 2, 1).await;
    // The next message goes to the member that is there: the first one had its chance to go there too.
    let next = other.expect_publish().await;
    assert!(!next.dup);
    other.expect_alive().await;
    let packet = connect(&scope.id("absent")).resume().expiry(600);
    let mut absent = broker().raw_client(Version::V5, &packet).await;
    let again = absent.expect_publish().await;
    assert_eq!((again.id, again.dup, again.text()), (sent.id, true, "0"));
    let id = again.id.expect("QoS 2");
    absent.send(&pubrec(id)).await;
    assert_eq!(absent.expect_pubrel().await.id, id);
    absent.send(&pubcomp(id)).await;
    absent.expect_alive().await;
    other.expect_alive().await;
}

/// What a member's own queue never ceases to hold keeps no shared messages from it, where nobody else could have them.
#[tokio::test]
async fn shared_messages_reach_a_member_whose_own_queue_never_ends() {
    const OWN_AHEAD: usize = 5;
    const OWN_MAX: usize = 100;
    for qos in [1, 2] {
        let scope = Scope::new();
        let slow = connect(&scope.id("member"))
            .expiry(600)
            .property(Property::ReceiveMaximum(1));
        let mut member = broker().raw_client(Version::V5, &slow).await;
        let filters = [
            filter(&share(scope, "g", "x")).qos(qos),
            filter(&scope.topic("own")).qos(1),
        ];
        member.subscribe(filters).await;
        let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
        for _ in 0..OWN_AHEAD {
            publisher
                .publish(publish(&scope.topic("own"), "own").qos(1))
                .await;
        }
        publisher
            .publish(publish(&scope.topic("x"), "shared").qos(qos))
            .await;
        let mut own = 0;
        loop {
            let message = member.expect_publish().await;
            if message.text() == "shared" {
                break;
            }
            own += 1;
            assert!(own < OWN_MAX, "QoS {qos}: the shared message does not come");
            publisher
                .publish(publish(&scope.topic("own"), "own").qos(1))
                .await;
            member.send(&puback(message.id.expect("QoS 1"))).await;
        }
    }
}

/// [MQTT-4.8.2-5]: when that member's session ends, the message goes to nobody else.
#[tokio::test]
async fn message_at_qos_2_ends_with_its_members_session() {
    let scope = Scope::new();
    let mut absent = broker()
        .raw_client(Version::V5, &connect(&scope.id("absent")).expiry(1))
        .await;
    absent
        .send(&subscribe(1, [filter(&share(scope, "g", "x")).qos(2)]))
        .await;
    absent.expect_suback().await;
    send(scope, 2, 1).await;
    absent.expect_publish().await;
    let mut other = member(Version::V5, scope, "other", 2).await;
    drop(absent);
    let gone = tokio::time::Instant::now() + std::time::Duration::from_millis(2_000);
    tokio::time::sleep_until(gone).await;
    let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
    publisher
        .publish(publish(&scope.topic("x"), "for the other").qos(2))
        .await;
    other.expect("for the other").await;
    other.ping().await;
    assert!(other.waiting().is_none());
    let back = broker().durable(Version::V5, &scope.id("absent")).await;
    assert!(!back.connack.session_present);
}

/// [MQTT-4.8.2-6]: a message that a member refuses goes to nobody else.
#[tokio::test]
async fn refused_message_goes_to_nobody_else() {
    for qos in [1, 2] {
        let scope = Scope::new();
        let mut refusing = raw_member(scope, "refusing").await;
        send(scope, qos, 1).await;
        let id = refusing.expect_publish().await.id.expect("QoS above 0");
        let mut other = member(Version::V5, scope, "other", 2).await;
        let refusal = if qos == 1 { puback(id) } else { pubrec(id) };
        refusing.send(&refusal.code(0x80)).await;
        refusing.expect_alive().await;
        // Once the broker has closed, it no longer counts as a member.
        refusing.send(&disconnect()).await;
        refusing.expect_closed().await;
        let mut publisher = broker().clean(Version::V5, &scope.id("p")).await;
        publisher
            .publish(publish(&scope.topic("x"), "next").qos(qos))
            .await;
        other.expect("next").await;
    }
}

/// Section 4.8.2: a group whose only members are absent, but have sessions, keeps its messages.
#[tokio::test]
async fn messages_wait_for_absent_members() {
    let scope = Scope::new();
    let mut client = broker().durable(Version::V5, &scope.id("a")).await;
    client.subscribe(&share(scope, "g", "x"), 1).await;
    client.disconnect().await;
    send(scope, 1, 3).await;
    let mut client = broker().durable(Version::V5, &scope.id("a")).await;
    assert_eq!(client.receive_texts(3).await, ["0", "1", "2"]);
}

/// Members come and go while messages are on their way to them: none is lost (R40).
#[tokio::test]
async fn messages_of_members_that_leave_go_to_others() {
    const COUNT: usize = 3_000;
    let scope = Scope::new();
    let mut staying = member(Version::V5, scope, "staying", 1).await;
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let keep = sender.clone();
    let staying = tokio::spawn(async move {
        loop {
            let text = staying.receive().await.text().to_owned();
            if keep.send(text).is_err() {
                return;
            }
        }
    });
    let leaving = tokio::spawn(async move {
        for number in 0..60 {
            let mut client = member(Version::V5, scope, &format!("leaving-{number}"), 1).await;
            let mut texts = client.receive_texts(5).await;
            // Acknowledged already, while the SUBACK was awaited.
            texts.extend(std::iter::from_fn(|| client.waiting()).map(|message| message.text().to_owned()));
            for text in texts {
                if sender.send(text).is_err() {
                    return;
                }
            }
            client.disconnect().await;
        }
    });
    let publishing = tokio::spawn(send(scope, 1, COUNT));
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < COUNT {
        let text = tokio::time::timeout(DEADLINE, received.recv()).await;
        let text = text.unwrap_or_else(|_| panic!("{} of {COUNT} messages arrived", seen.len()));
        seen.insert(text.expect("members run"));
    }
    drop(received);
    publishing.await.expect("the publisher runs");
    leaving.abort();
    staying.abort();
}

/// What waits for a member outside of its window is bounded in bytes, as the queue of a session is.
#[tokio::test]
async fn messages_that_wait_for_a_member_are_bounded_in_bytes() {
    let broker = start(Config::new().toml("[session]\nqueue_bytes_max = 1_100_000\n"));
    let packet = connect("stuck").property(Property::ReceiveMaximum(1));
    let mut stuck = broker.raw_client(Version::V5, &packet).await;
    stuck.subscribe([filter("$share/g/x").qos(1)]).await;
    let mut publisher = broker.clean(Version::V5, "p").await;
    let mut refused = 0;
    for _ in 0..30 {
        match publisher.publish(publish("x", "x".repeat(100_000)).qos(1)).await {
            0x97 => refused += 1,
            code => assert!(code < 0x80, "{code:#x}"),
        }
    }
    assert!((19..=20).contains(&refused), "{refused} of 30 refused");
    let dropped = broker.metric("quorate_messages_dropped_total{reason=\"queue_full\"}");
    assert!((19.0..=20.0).contains(&dropped), "{dropped} of 30 dropped");
}
