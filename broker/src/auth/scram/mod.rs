//! SCRAM-SHA-256 [RFC 5802, RFC 7677]: what is stored of a password, and the exchange that proves it.
//!
//! - [`verifier`]: `SCRAM-SHA-256$iterations:salt$stored-key:server-key`, also for the plain password of CONNECT.
//! - [`exchange`]: the enhanced authentication method of that name, without channel binding.

mod exchange;
mod verifier;

pub use exchange::ScramSha256;
pub use verifier::{ITERATIONS_DEFAULT, ITERATIONS_MAX, ITERATIONS_MIN, Verifier, VerifierError};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// A key, hash or signature.
type Hash = [u8; 32];

fn hmac(key: &[u8], parts: &[&[u8]]) -> Hash {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// Compares without telling by its time where two secrets begin to differ.
fn equal(left: &Hash, right: &Hash) -> bool {
    use hmac::digest::CtOutput;
    CtOutput::<Sha256>::new((*left).into()) == CtOutput::<Sha256>::new((*right).into())
}
