//! What is stored of a password: enough to check it, not enough to log in with.

use std::fmt;
use std::str::FromStr;

use super::{Hash, equal, hash, hmac};
use crate::auth::base64;

const PREFIX: &str = "SCRAM-SHA-256";

/// Fewest iterations taken, from RFC 7677.
pub const ITERATIONS_MIN: u32 = 4_096;

/// Most iterations taken; a check of this many takes seconds.
pub const ITERATIONS_MAX: u32 = 10_000_000;

/// Iterations of a new verifier: about 3 ms of one core for each login with a plain password.
pub const ITERATIONS_DEFAULT: u32 = 10_000;

const SALT_BYTES: usize = 16;
const SALT_BYTES_MAX: usize = 64;

/// A password's verifier. Shown as `SCRAM-SHA-256$iterations:salt$stored-key:server-key`, all but the number in
/// Base64: the form PostgreSQL uses.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: Hash,
    pub(super) server_key: Hash,
}

impl Verifier {
    /// Makes a verifier with a salt from the operating system's randomness.
    ///
    /// The password is taken byte for byte. A client of the SCRAM method prepares it by SASLprep first [RFC 4013],
    /// which changes nothing in ASCII.
    ///
    /// # Errors
    ///
    /// Where the operating system has no randomness to give.
    pub fn create(password: &[u8], iterations: u32) -> Result<Self, getrandom::Error> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt)?;
        Ok(Self::derive(password, &salt, iterations))
    }

    /// Computes the verifier for a known salt. Takes milliseconds.
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let mut salted = Hash::default();
        pbkdf2::pbkdf2_hmac::<sha2::Sha256>(password, salt, iterations, &mut salted);
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: hash(&hmac(&salted, &[b"Client Key"])),
            server_key: hmac(&salted, &[b"Server Key"]),
        }
    }

    /// Whether this is the password. Takes milliseconds, the same for every password; never called on a worker.
    pub fn accepts(&self, password: &[u8]) -> bool {
        let derived = Self::derive(password, &self.salt, self.iterations);
        equal(&derived.stored_key, &self.stored_key)
    }

    /// Iterations of the derivation.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// A verifier that no password fits, the same for the same key and name: what an unknown user seems to have.
    pub(in crate::auth) fn fake(key: &Hash, name: &str, iterations: u32) -> Self {
        let part = |label: &[u8]| hmac(key, &[label, name.as_bytes()]);
        Self {
            iterations,
            salt: part(b"salt ")[..SALT_BYTES].to_vec(),
            stored_key: part(b"stored key "),
            server_key: part(b"server key "),
        }
    }

    /// Mixes the secrets of many verifiers into one key, the same on every node that has the same users.
    pub(in crate::auth) fn mix<'a>(verifiers: impl Iterator<Item = &'a Self>) -> Hash {
        let mut keys: Vec<&[u8]> = verifiers.map(|verifier| verifier.server_key.as_slice()).collect();
        keys.sort_unstable();
        hmac(b"quorate users", &keys)
    }
}

/// The secrets stay out of logs: whoever has them can check guesses offline.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored, server] =
            [&self.salt[..], &self.stored_key[..], &self.server_key[..]].map(base64::encode);
        write!(f, "{PREFIX}${}:{salt}${stored}:{server}", self.iterations)
    }
}

/// Why text is not a verifier. Never shows the text, which may be a password by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifierError {
    /// Some other form, such as a plain password.
    #[error("is not a SCRAM-SHA-256 verifier; plain passwords are not taken")]
    Form,
    /// The number of iterations.
    #[error("has an iteration count outside {ITERATIONS_MIN} to {ITERATIONS_MAX}")]
    Iterations,
    /// The salt.
    #[error("has a salt that is not Base64 of 1 to {SALT_BYTES_MAX} bytes")]
    Salt,
    /// The keys.
    #[error("has a key that is not Base64 of 32 bytes")]
    Key,
}

impl FromStr for Verifier {
    type Err = VerifierError;

    fn from_str(text: &str) -> Result<Self, VerifierError> {
        let mut parts = text.split('$');
        let (Some(PREFIX), Some(parameters), Some(keys), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(VerifierError::Form);
        };
        let (iterations, salt) = parameters.split_once(':').ok_or(VerifierError::Form)?;
        let (stored, server) = keys.split_once(':').ok_or(VerifierError::Form)?;
        let iterations = iterations
            .parse()
            .ok()
            .filter(|iterations| (ITERATIONS_MIN..=ITERATIONS_MAX).contains(iterations))
            .ok_or(VerifierError::Iterations)?;
        let salt = base64::decode(salt)
            .filter(|salt| (1..=SALT_BYTES_MAX).contains(&salt.len()))
            .ok_or(VerifierError::Salt)?;
        let key = |text| {
            base64::decode(text)
                .and_then(|key| key.try_into().ok())
                .ok_or(VerifierError::Key)
        };
        Ok(Self {
            iterations,
            salt,
            stored_key: key(stored)?,
            server_key: key(server)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_alone_is_accepted() {
        let verifier = Verifier::create(b"pencil", ITERATIONS_MIN).unwrap();
        assert!(verifier.accepts(b"pencil"));
        for wrong in [&b""[..], b"pencils", b"Pencil", b"pencil "] {
            assert!(!verifier.accepts(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn salts_differ() {
        let [one, other] = [(); 2].map(|()| Verifier::create(b"pencil", ITERATIONS_MIN).unwrap());
        assert_ne!(one.salt, other.salt);
        assert_ne!(one.stored_key, other.stored_key);
    }

    #[test]
    fn text_and_back() {
        let verifier = Verifier::derive(b"pencil", b"0123456789abcdef", ITERATIONS_MIN);
        let text = verifier.to_string();
        assert!(
            text.starts_with("SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$"),
            "{text}"
        );
        assert_eq!(text.parse(), Ok(verifier));
    }

    #[test]
    fn other_text_is_refused_and_not_shown() {
        let good = Verifier::derive(b"pencil", b"salt", ITERATIONS_MIN).to_string();
        for (text, error) in [
            ("hunter2".to_owned(), VerifierError::Form),
            (good.replace("SHA-256", "SHA-1"), VerifierError::Form),
            (format!("{good}$"), VerifierError::Form),
            (good.replace("4096", "4095"), VerifierError::Iterations),
            (good.replace("4096", "10000001"), VerifierError::Iterations),
            (good.replace("c2FsdA==", ""), VerifierError::Salt),
            (good.replace("c2FsdA==", "c2FsdA"), VerifierError::Salt),
            (good[..good.len() - 4].to_owned(), VerifierError::Key),
        ] {
            assert_eq!(text.parse::<Verifier>(), Err(error), "{text}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn a_fake_is_stable_and_fits_nothing() {
        let key = Verifier::mix(std::iter::empty());
        let fake = Verifier::fake(&key, "nobody", ITERATIONS_MIN);
        assert_eq!(fake, Verifier::fake(&key, "nobody", ITERATIONS_MIN));
        assert_ne!(fake.salt, Verifier::fake(&key, "somebody", ITERATIONS_MIN).salt);
        assert!(!fake.accepts(b""));
    }
}
