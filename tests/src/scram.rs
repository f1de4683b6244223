//! The client's side of SCRAM-SHA-256 [RFC 5802, RFC 7677], written from the RFCs and checked by their example.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// The authentication method's name.
pub const METHOD: &str = "SCRAM-SHA-256";

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let index = (word >> (18 - 6 * place) & 0x3F) as usize;
            text.push(if place <= chunk.len() {
                ALPHABET[index].into()
            } else {
                '='
            });
        }
    }
    text
}

fn from_base64(text: &str) -> Vec<u8> {
    let digits = text.bytes().filter(|byte| *byte != b'=');
    let digits = digits.map(|byte| {
        ALPHABET
            .iter()
            .position(|other| *other == byte)
            .expect("a Base64 digit")
    });
    let bits: Vec<u8> = digits
        .flat_map(|digit| (0..6).rev().map(move |bit| (digit >> bit & 1) as u8))
        .collect();
    bits.as_chunks::<8>()
        .0
        .iter()
        .map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | bit))
        .collect()
}

fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

fn salted(password: &str, salt: &[u8], iterations: u32) -> [u8; 32] {
    let mut salted = [0; 32];
    pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), salt, iterations, &mut salted);
    salted
}

/// What a broker's configuration stores of a password.
pub fn verifier(password: &str) -> String {
    const ITERATIONS: u32 = 4_096;
    let salt = b"a salt for tests";
    let salted = salted(password, salt, ITERATIONS);
    let stored = Sha256::digest(hmac(&salted, b"Client Key"));
    let server = hmac(&salted, b"Server Key");
    format!(
        "SCRAM-SHA-256${ITERATIONS}:{}${}:{}",
        base64(salt),
        base64(&stored),
        base64(&server)
    )
}

/// One login.
pub struct Login {
    password: String,
    nonce: String,
    first_bare: String,
    server_signature: Option<[u8; 32]>,
}

impl Login {
    /// A login of this user; `nonce` is the client's.
    pub fn new(user: &str, password: &str, nonce: &str) -> Self {
        let first_bare = format!("n={user},r={nonce}");
        Self {
            password: password.into(),
            nonce: nonce.into(),
            first_bare,
            server_signature: None,
        }
    }

    /// The first message, without channel binding.
    pub fn first(&self) -> Vec<u8> {
        format!("n,,{}", self.first_bare).into_bytes()
    }

    /// The answer to the server's first message: the proof.
    pub fn proof(&mut self, server_first: &[u8]) -> Vec<u8> {
        let server_first = std::str::from_utf8(server_first).expect("SCRAM messages are text");
        let attribute = |name: &str| {
            server_first
                .split(',')
                .find_map(|part| part.strip_prefix(name))
                .unwrap_or_else(|| panic!("{server_first}"))
        };
        let nonce = attribute("r=");
        assert!(
            nonce.starts_with(&self.nonce) && nonce.len() > self.nonce.len(),
            "the server adds to the nonce"
        );
        let iterations = attribute("i=").parse().expect("a number");
        let salted = salted(&self.password, &from_base64(attribute("s=")), iterations);
        let without_proof = format!("c=biws,r={nonce}");
        let messages = format!("{},{server_first},{without_proof}", self.first_bare);
        let client_key = hmac(&salted, b"Client Key");
        let signature = hmac(&Sha256::digest(client_key), messages.as_bytes());
        self.server_signature = Some(hmac(&hmac(&salted, b"Server Key"), messages.as_bytes()));
        let proof: Vec<u8> = client_key
            .iter()
            .zip(signature)
            .map(|(key, signature)| key ^ signature)
            .collect();
        format!("{without_proof},p={}", base64(&proof)).into_bytes()
    }

    /// Whether the server's last message proves that it knows the verifier.
    pub fn accepts(&self, server_final: &[u8]) -> bool {
        let signature = self.server_signature.expect("the proof comes first");
        server_final == format!("v={}", base64(&signature)).as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_of_rfc_7677() {
        let mut login = Login::new("user", "pencil", "rOprNGfwEbeRWgbNEkqO");
        assert_eq!(login.first(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let server_first =
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let proof = String::from_utf8(login.proof(server_first)).expect("text");
        assert!(
            proof.ends_with(",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="),
            "{proof}"
        );
        assert!(login.accepts(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert!(!login.accepts(b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
    }

    #[test]
    fn base64_of_every_length() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(bytes), text);
            assert_eq!(from_base64(text), bytes);
        }
    }
}
