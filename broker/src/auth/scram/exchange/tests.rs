//! Tests of the exchange: the vector of RFC 7677, and everything a hostile client can say.

use super::*;

const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";

fn users() -> SharedUsers {
    let verifier = Verifier::derive(b"pencil", &base64::decode(SALT).unwrap(), 4_096);
    SharedUsers::new(KnownUsers::new([("user".to_owned(), verifier)]))
}

/// An exchange with the server nonce of RFC 7677.
fn exchange(expected_user: Option<&str>) -> ScramExchange {
    ScramExchange {
        users: users().current(),
        expected_user: expected_user.map(str::to_owned),
        nonce: Some(SERVER_NONCE.to_owned()),
        state: State::Begin { asked: false },
    }
}

/// The client's side: its final message, and the server signature it expects.
fn client_final(header: &str, bare: &str, server_first: &[u8], password: &[u8]) -> (String, String) {
    let server_first = std::str::from_utf8(server_first).unwrap();
    let mut attributes = server_first.split(',').map(|attribute| &attribute[2..]);
    let (nonce, salt) = (
        attributes.next().unwrap(),
        base64::decode(attributes.next().unwrap()).unwrap(),
    );
    let iterations = attributes.next().unwrap().parse().unwrap();
    let mut salted = Hash::default();
    pbkdf2::pbkdf2_hmac::<sha2::Sha256>(password, &salt, iterations, &mut salted);
    let client_key = hmac(&salted, &[b"Client Key"]);
    let without_proof = format!("c={},r={nonce}", base64::encode(header.as_bytes()));
    let message = format!("{bare},{server_first},{without_proof}");
    let signature = hmac(&hash(&client_key), &[message.as_bytes()]);
    let proof: Hash = std::array::from_fn(|index| client_key[index] ^ signature[index]);
    let expected = hmac(&hmac(&salted, &[b"Server Key"]), &[message.as_bytes()]);
    (
        format!("{without_proof},p={}", base64::encode(&proof)),
        format!("v={}", base64::encode(&expected)),
    )
}

fn log_in(exchange: &mut dyn Exchange, user: &str, password: &[u8]) -> ExchangeStep {
    let bare = format!("n={user},r={CLIENT_NONCE}");
    match exchange.step(format!("n,,{bare}").as_bytes()) {
        ExchangeStep::Continue(data) => {
            exchange.step(client_final("n,,", &bare, &data, password).0.as_bytes())
        }
        other => other,
    }
}

#[test]
fn the_vector_of_rfc_7677() {
    let mut exchange = exchange(None);
    assert_eq!(
        exchange.step(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"),
        ExchangeStep::Continue(
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
                .to_vec()
        )
    );
    assert_eq!(
        exchange.step(
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
              p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        ),
        ExchangeStep::Accept {
            data: b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".to_vec(),
            identity: Identity {
                user_name: Some("user".into())
            },
        }
    );
    assert_eq!(
        exchange.step(b""),
        ExchangeStep::Refuse(Refusal::Protocol),
        "an exchange ends once"
    );
}

#[test]
fn the_server_proves_itself_too() {
    let mut exchange = exchange(None);
    let bare = format!("n=user,r={CLIENT_NONCE}");
    let ExchangeStep::Continue(first) = exchange.step(format!("y,a=user,{bare}").as_bytes()) else {
        panic!()
    };
    let (last, expected) = client_final("y,a=user,", &bare, &first, b"pencil");
    let ExchangeStep::Accept { data, .. } = exchange.step(last.as_bytes()) else {
        panic!()
    };
    assert_eq!(data, expected.into_bytes());
}

#[test]
fn a_wrong_password_and_an_unknown_user_look_alike() {
    let method = ScramSha256::new(users());
    let refused = ExchangeStep::Refuse(Refusal::BadCredentials);
    assert_eq!(log_in(&mut *method.start(None), "user", b"pencils"), refused);
    assert_eq!(log_in(&mut *method.start(None), "nobody", b"pencil"), refused);
    let salt = |user: &str| match exchange(None).step(format!("n,,n={user},r=abc").as_bytes()) {
        ExchangeStep::Continue(data) => String::from_utf8(data)
            .unwrap()
            .split(',')
            .nth(1)
            .unwrap()
            .to_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(salt("nobody"), salt("nobody"));
    assert_ne!(salt("nobody"), salt("somebody"));
    assert_eq!(salt("nobody").len(), salt("user").len());
}

#[test]
fn nonces_are_new_each_time() {
    let method = ScramSha256::new(users());
    let mut seen = std::collections::HashSet::new();
    for _ in 0..100 {
        let ExchangeStep::Continue(data) = method.start(None).step(b"n,,n=user,r=abc") else {
            panic!()
        };
        assert!(seen.insert(data));
    }
}

#[test]
fn re_authentication_keeps_the_user() {
    let method = ScramSha256::new(users());
    let step = log_in(&mut *method.start(Some("user")), "user", b"pencil");
    assert!(matches!(step, ExchangeStep::Accept { .. }), "{step:?}");
    let step = log_in(&mut *method.start(Some("other")), "user", b"pencil");
    assert_eq!(step, ExchangeStep::Refuse(Refusal::NotAuthorized));
}

#[test]
fn a_client_without_first_data_is_asked_once() {
    let mut exchange = exchange(None);
    assert_eq!(exchange.step(b""), ExchangeStep::Continue(Vec::new()));
    assert!(matches!(
        log_in(&mut exchange, "user", b"pencil"),
        ExchangeStep::Accept { .. }
    ));
    let mut exchange = self::exchange(None);
    exchange.step(b"");
    assert_eq!(exchange.step(b""), ExchangeStep::Refuse(Refusal::Protocol));
}

#[test]
fn broken_first_messages_are_refused() {
    for text in [
        "n,,",
        "n,,n=user",
        "n,,n=,r=abc",
        "n,,n=user,r=",
        "n,,n=user,r=a\u{7f}c",
        "n,,n=us=er,r=abc",
        "n,,n=us=2cer,r=abc",
        "n,,m=ext,n=user,r=abc",
        "n,a=other,n=user,r=abc",
        "n,user,n=user,r=abc",
        "p=tls-unique,,n=user,r=abc",
        "x,,n=user,r=abc",
        "garbage",
    ] {
        assert_eq!(
            exchange(None).step(text.as_bytes()),
            ExchangeStep::Refuse(Refusal::Protocol),
            "{text:?}"
        );
    }
    let long = format!("n,,n=user,r={}", "a".repeat(MESSAGE_BYTES_MAX));
    assert_eq!(
        exchange(None).step(long.as_bytes()),
        ExchangeStep::Refuse(Refusal::Protocol)
    );
    assert_eq!(
        exchange(None).step(b"n,,n=\xff,r=abc"),
        ExchangeStep::Refuse(Refusal::Protocol)
    );
}

#[test]
fn broken_final_messages_are_refused() {
    let bare = format!("n=user,r={CLIENT_NONCE}");
    let both = format!("{CLIENT_NONCE}{SERVER_NONCE}");
    let zeros = base64::encode(&[0; 32]);
    let cases = [
        (String::new(), Refusal::Protocol),
        (format!("c=biws,r={both}"), Refusal::Protocol),
        (format!("c=eSws,r={both},p={zeros}"), Refusal::Protocol),
        (format!("c=biws,r={CLIENT_NONCE},p={zeros}"), Refusal::Protocol),
        (format!("c=biws,r={both}x,p={zeros}"), Refusal::Protocol),
        (format!("r={both},c=biws,p={zeros}"), Refusal::Protocol),
        (format!("c=biws,r={both},p=AAAA"), Refusal::Protocol),
        (format!("c=biws,r={both},p={zeros}"), Refusal::BadCredentials),
    ];
    for (text, refusal) in cases {
        let mut exchange = exchange(None);
        assert!(matches!(
            exchange.step(format!("n,,{bare}").as_bytes()),
            ExchangeStep::Continue(_)
        ));
        assert_eq!(
            exchange.step(text.as_bytes()),
            ExchangeStep::Refuse(refusal),
            "{text:?}"
        );
    }
}

#[test]
fn names_are_unescaped() {
    assert_eq!(unescape("a=2Cb=3Dc").as_deref(), Some("a,b=c"));
    assert_eq!(unescape("=3D2C").as_deref(), Some("=2C"));
    for text in ["=", "a=", "=2", "=2c", "=41"] {
        assert_eq!(unescape(text), None, "{text}");
    }
}
