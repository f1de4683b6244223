//! Who may connect and what they may do: passwords, enhanced authentication, access rules [3.1.2.8, 3.15, 4.12].

use std::sync::OnceLock;

use quorate_tests::broker::{Broker, Config, Shared};
use quorate_tests::client::RawClient;
use quorate_tests::scope::Scope;
use quorate_tests::scram::{Login, METHOD, verifier};
use quorate_tests::wire::{
    AuthBuilder, ConnectBuilder, Property, auth, connect, disconnect, filter, publish, subscribe,
};
use quorate_tests::{Version, each_version};

use super::start;

/// A broker with the user `ann`, whom one topic is closed to.
fn broker() -> Shared {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    Shared(BROKER.get_or_init(|| {
        let users = format!(
            "[[auth.user]]\nname = \"ann\"\npassword = {:?}\n",
            verifier("pencil")
        );
        let rules = "[acl]\ndefault = \"allow\"\n[[acl.rule]]\neffect = \"deny\"\nfilter = \"closed/#\"\n";
        start(Config::new().toml(&users).toml(rules))
    }))
}

fn credentials(id: &str, password: &str) -> ConnectBuilder {
    connect(id).user_name("ann").password(password)
}

/// A CONNECT that begins a SCRAM login.
fn scram_connect(id: &str, login: &Login) -> ConnectBuilder {
    connect(id)
        .property(Property::AuthMethod(METHOD.into()))
        .property(Property::AuthData(login.first()))
}

fn scram_auth(code: u8, data: Vec<u8>) -> AuthBuilder {
    auth(code)
        .property(Property::AuthMethod(METHOD.into()))
        .property(Property::AuthData(data))
}

/// The data of the server's AUTH, which must ask to go on, with the method [MQTT-4.12.0-2], [MQTT-4.12.0-5].
async fn expect_challenge(raw: &mut RawClient) -> Vec<u8> {
    let auth = raw.expect_auth().await;
    assert_eq!(auth.code, 0x18);
    assert_eq!(auth.properties.auth_method().as_deref(), Some(METHOD));
    auth.properties.auth_data().expect("a challenge")
}

/// A client logged in by SCRAM.
async fn logged_in(id: &str) -> RawClient {
    let mut login = Login::new("ann", "pencil", "a-clients-nonce");
    let mut raw = broker().raw(Version::V5).await;
    raw.send(&scram_connect(id, &login)).await;
    let challenge = expect_challenge(&mut raw).await;
    raw.send(&scram_auth(0x18, login.proof(&challenge))).await;
    let connack = raw.expect_connack().await;
    assert_eq!(connack.code, 0);
    assert_eq!(
        connack.properties.auth_method().as_deref(),
        Some(METHOD),
        "[MQTT-4.12.0-5]"
    );
    assert!(login.accepts(&connack.properties.auth_data().expect("the server's proof")));
    raw
}

/// [MQTT-3.1.4-2], section 3.1.4: right and wrong passwords, at every version.
async fn password_decides(version: Version) {
    let scope = Scope::new();
    let mut client = broker()
        .client(version, &credentials(&scope.id("a"), "pencil"))
        .await;
    client.raw.expect_alive().await;
    for (packet, code5, code3) in [
        (credentials(&scope.id("b"), "pencils"), 0x86, 4),
        (credentials(&scope.id("b"), ""), 0x86, 4),
        (
            connect(&scope.id("b")).user_name("bob").password("pencil"),
            0x86,
            4,
        ),
        (connect(&scope.id("b")).user_name("ann"), 0x86, 4),
        (connect(&scope.id("b")), 0x87, 5),
    ] {
        let mut raw = broker().raw(version).await;
        raw.send(&packet).await;
        raw.expect_refused(Some(if version == Version::V5 { code5 } else { code3 }))
            .await;
    }
}
each_version!(password_decides);

/// [MQTT-3.2.2-6]; 3.1.1 [MQTT-3.2.2-4]: a refused client does not learn whether there is a session, nor does it end it.
async fn refusal_hides_the_session(version: Version) {
    let scope = Scope::new();
    let resume = |password| credentials(&scope.id("a"), password).resume().expiry(600);
    broker()
        .client(version, &resume("pencil"))
        .await
        .disconnect()
        .await;
    let mut raw = broker().raw(version).await;
    raw.send(&resume("wrong")).await;
    let connack = raw.expect_connack().await;
    assert!(connack.code > 0 && !connack.session_present);
    let client = broker().client(version, &resume("pencil")).await;
    assert!(client.connack.session_present);
}
each_version!(refusal_hides_the_session: v3_1_1, v5);

/// [MQTT-4.12.0-2], [MQTT-4.12.0-3], [MQTT-4.12.0-5], [MQTT-3.15.2-1]: several steps to a CONNACK.
#[tokio::test]
async fn scram_login_takes_several_steps() {
    let mut raw = logged_in(&Scope::new().id("a")).await;
    raw.expect_alive().await;
}

/// [MQTT-3.15.2-2], [MQTT-3.15.2-3]: AUTH keeps within what the client takes: with room for the challenge and no more,
/// the login works.
#[tokio::test]
async fn auth_packets_fit_the_clients_packet_size() {
    let mut limit = None;
    for _ in 0..2 {
        let mut login = Login::new("ann", "pencil", "a-clients-nonce");
        let mut raw = broker().raw(Version::V5).await;
        let packet = scram_connect(&Scope::new().id("a"), &login);
        raw.send(&limit.into_iter().fold(packet, |packet, limit| {
            packet.property(Property::MaximumPacketSize(limit))
        }))
        .await;
        let challenge = raw.expect_auth().await;
        raw.send(&scram_auth(
            0x18,
            login.proof(&challenge.properties.auth_data().expect("a challenge")),
        ))
        .await;
        let connack = raw.expect_connack().await;
        let largest = u32::try_from(challenge.size.max(connack.size)).expect("small packets");
        assert!(connack.code == 0 && limit.is_none_or(|limit| largest <= limit));
        limit = Some(largest);
    }
}

/// [MQTT-4.12.0-4]: a wrong proof, and a user who is not there, fail in the same place with the same code.
#[tokio::test]
async fn wrong_scram_proof_is_refused() {
    for (user, password) in [("ann", "pencils"), ("bob", "pencil")] {
        let mut login = Login::new(user, password, "a-clients-nonce");
        let mut raw = broker().raw(Version::V5).await;
        raw.send(&scram_connect(&Scope::new().id("a"), &login)).await;
        let challenge = expect_challenge(&mut raw).await;
        raw.send(&scram_auth(0x18, login.proof(&challenge))).await;
        raw.expect_refused(Some(0x86)).await;
    }
}

/// [MQTT-4.12.0-4]: an old proof is not taken a second time.
#[tokio::test]
async fn scram_proof_cannot_be_replayed() {
    let mut login = Login::new("ann", "pencil", "a-clients-nonce");
    let mut proof = Vec::new();
    for attempt in 0..2 {
        let mut raw = broker().raw(Version::V5).await;
        raw.send(&scram_connect(&Scope::new().id("a"), &login)).await;
        let challenge = expect_challenge(&mut raw).await;
        if attempt == 0 {
            proof = login.proof(&challenge);
            raw.send(&scram_auth(0x18, proof.clone())).await;
            assert_eq!(raw.expect_connack().await.code, 0);
        } else {
            raw.send(&scram_auth(0x18, proof.clone())).await;
            assert!(raw.expect_connack().await.code >= 0x80);
            raw.expect_closed().await;
        }
    }
}

/// [MQTT-4.12.0-1]
#[tokio::test]
async fn unknown_method_is_refused() {
    let mut raw = broker().raw(Version::V5).await;
    raw.send(&connect(&Scope::new().id("a")).property(Property::AuthMethod("SCRAM-MD5".into())))
        .await;
    raw.expect_refused(Some(0x8C)).await;
}

/// [MQTT-4.12.0-5], section 4.12: AUTH of another method or with another code, while logging in.
#[tokio::test]
async fn auth_that_does_not_fit_the_login_is_refused() {
    let other_method = auth(0x18).property(Property::AuthMethod("PLAIN".into()));
    for packet in [
        other_method,
        scram_auth(0x19, vec![]),
        scram_auth(0x00, vec![]),
        auth(0x18),
    ] {
        let login = Login::new("ann", "pencil", "a-clients-nonce");
        let mut raw = broker().raw(Version::V5).await;
        raw.send(&scram_connect(&Scope::new().id("a"), &login)).await;
        expect_challenge(&mut raw).await;
        raw.send(&packet).await;
        raw.expect_refused(Some(0x82)).await;
    }
}

/// [MQTT-3.1.2-30], [MQTT-3.2.0-1], [MQTT-3.14.0-1]: nothing but AUTH and DISCONNECT until CONNACK, and no DISCONNECT
/// from the server either.
#[tokio::test]
async fn nothing_but_auth_comes_before_connack() {
    let scope = Scope::new();
    for packet in [publish("a", "m"), publish("a", "m").qos(1).id(1)] {
        let login = Login::new("ann", "pencil", "a-clients-nonce");
        let mut raw = broker().raw(Version::V5).await;
        raw.send(&scram_connect(&scope.id("a"), &login)).await;
        expect_challenge(&mut raw).await;
        raw.send(&packet).await;
        raw.expect_refused(Some(0x82)).await;
    }
    let login = Login::new("ann", "pencil", "a-clients-nonce");
    let mut raw = broker().raw(Version::V5).await;
    raw.send(&scram_connect(&scope.id("a"), &login)).await;
    expect_challenge(&mut raw).await;
    raw.send(&disconnect()).await;
    raw.expect_closed().await;
}

/// [MQTT-4.12.1-1], section 4.12.1: the connection goes on meanwhile, and ends with AUTH 0x00.
#[tokio::test]
async fn client_can_authenticate_again() {
    let scope = Scope::new();
    let mut raw = logged_in(&scope.id("a")).await;
    for nonce in ["second", "third"] {
        let mut login = Login::new("ann", "pencil", nonce);
        raw.send(&scram_auth(0x19, login.first())).await;
        let challenge = expect_challenge(&mut raw).await;
        raw.send(&subscribe(1, [filter(&scope.topic("x"))])).await;
        raw.expect_suback().await;
        raw.send(&publish(&scope.topic("x"), "in between")).await;
        assert_eq!(raw.expect_publish().await.text(), "in between");
        raw.send(&scram_auth(0x18, login.proof(&challenge))).await;
        let done = raw.expect_auth().await;
        assert_eq!(done.code, 0x00);
        assert_eq!(done.properties.auth_method().as_deref(), Some(METHOD));
        assert!(login.accepts(&done.properties.auth_data().expect("the server's proof")));
        raw.expect_alive().await;
    }
}

/// [MQTT-4.12.1-2]: a wrong proof ends the connection.
#[tokio::test]
async fn failed_reauthentication_ends_the_connection() {
    let mut raw = logged_in(&Scope::new().id("a")).await;
    let mut login = Login::new("ann", "pencils", "second");
    raw.send(&scram_auth(0x19, login.first())).await;
    let challenge = expect_challenge(&mut raw).await;
    raw.send(&scram_auth(0x18, login.proof(&challenge))).await;
    raw.expect_disconnect(0x87).await;
}

/// [MQTT-4.12.1-1]: not with another method, nor a step without a beginning.
#[tokio::test]
async fn reauthentication_out_of_turn_ends_the_connection() {
    let other_method = auth(0x19).property(Property::AuthMethod("PLAIN".into()));
    for packet in [
        other_method,
        scram_auth(0x18, vec![]),
        scram_auth(0x00, vec![]),
        auth(0x19),
    ] {
        let mut raw = logged_in(&Scope::new().id("a")).await;
        raw.send(&packet).await;
        raw.expect_disconnect(0x82).await;
    }
}

/// [MQTT-4.12.0-6], [MQTT-4.12.0-7]: without a method in CONNECT there is no AUTH.
#[tokio::test]
async fn auth_without_method_in_connect_is_refused() {
    for code in [0x18, 0x19] {
        let packet = credentials(&Scope::new().id("a"), "pencil");
        let mut raw = broker().raw_client(Version::V5, &packet).await;
        raw.send(&scram_auth(code, Login::new("ann", "pencil", "n").first()))
            .await;
        raw.expect_disconnect(0x82).await;
    }
}

/// Section 3.3.5 and 3.4.2.1: what may not be published is told at MQTT 5; 3.1.1 [MQTT-3.3.5-2] has no word for it and
/// acknowledges. It is not passed on to anybody.
async fn forbidden_publish_is_not_passed_on(version: Version) {
    let scope = Scope::new();
    let mut client = broker()
        .client(version, &credentials(&scope.id("a"), "pencil"))
        .await;
    client.subscribe(&scope.topic("#"), 1).await;
    for qos in 0..=2 {
        let code = client
            .publish(publish("closed/door", "m").qos(qos).retain())
            .await;
        assert_eq!(
            code,
            if version == Version::V5 && qos > 0 {
                0x87
            } else {
                0
            }
        );
    }
    client.publish(publish(&scope.topic("x"), "open").qos(1)).await;
    client.expect("open").await;
}
each_version!(forbidden_publish_is_not_passed_on);

/// [MQTT-3.8.4-7], [MQTT-3.9.3-2]: what may not be subscribed to is told, and the rest of the packet holds. A filter that
/// can match something forbidden is forbidden.
async fn forbidden_subscription_is_told(version: Version) {
    let scope = Scope::new();
    let mut client = broker()
        .client(version, &credentials(&scope.id("a"), "pencil"))
        .await;
    let filters =
        ["closed/door", &scope.topic("x"), "closed/+", "#", "+/door"].map(|name| filter(name).qos(1));
    let refused = if version == Version::V5 { 0x87 } else { 0x80 };
    let suback = client.subscribe_with(filters, []).await;
    assert_eq!(suback.codes, [refused, 1, refused, refused, refused]);
}
each_version!(forbidden_subscription_is_told: v3_1_1, v5);

/// Section 3.1.2.5: a will to a forbidden topic is not published.
#[tokio::test]
async fn forbidden_will_is_refused() {
    let will = quorate_tests::wire::Will::new("closed/door", "gone");
    let mut raw = broker().raw(Version::V5).await;
    raw.send(&credentials(&Scope::new().id("a"), "pencil").will(will))
        .await;
    raw.expect_refused(Some(0x87)).await;
}
