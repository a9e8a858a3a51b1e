//! The token by which a client comes back to an endpoint.
//!
//! It is an HMAC-SHA-256 of the endpoint's name, cut to 128 bits: without the key nobody can make one or learn anything
//! of the endpoint from it, but that two tokens are the same one. It is read by comparing it with those of all
//! endpoints, which are known for each snapshot. Replicas that are given one key, in [`KEY_VARIABLE`], know each other's
//! tokens; else the key is random and the tokens are good for as long as the process lives.

use std::sync::OnceLock;

use aws_lc_rs::hmac;

use crate::pool::EndpointId;

/// The environment variable that holds the key.
pub(super) const KEY_VARIABLE: &str = "POINTSMAN_SESSION_KEY";
/// A shorter key, in bytes, could be guessed.
const SHORTEST_KEY: usize = 16;

/// Makes tokens.
#[derive(Clone, Debug)]
pub(super) struct TokenKey(hmac::Key);

// === impl TokenKey ===

impl TokenKey {
    /// That of [`KEY_VARIABLE`], else that of this process.
    pub(super) fn shared() -> Result<Self, String> {
        match std::env::var(KEY_VARIABLE) {
            Ok(key) => Self::from_secret(key.as_bytes()),
            Err(std::env::VarError::NotPresent) => {
                static OF_PROCESS: OnceLock<[u8; 32]> = OnceLock::new();
                let random = OF_PROCESS.get_or_init(rand::random);
                Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, random)))
            }
            Err(std::env::VarError::NotUnicode(_)) => Err(format!("{KEY_VARIABLE} is not UTF-8")),
        }
    }

    pub(super) fn from_secret(secret: &[u8]) -> Result<Self, String> {
        if secret.len() < SHORTEST_KEY {
            return Err(format!(
                "{KEY_VARIABLE} is shorter than {SHORTEST_KEY} bytes"
            ));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    /// The token of an endpoint, for the header that carries it: one header's tokens mean nothing in another.
    pub(super) fn token(&self, header: &str, id: &EndpointId) -> u128 {
        let mut context = hmac::Context::with_key(&self.0);
        // No name has a zero byte in it.
        for part in ["session", header, &id.namespace, &id.name] {
            context.update(part.as_bytes());
            context.update(&[0]);
        }
        let tag = context.sign();
        let bytes = tag.as_ref().iter().take(16);
        bytes.fold(0, |token, &byte| token << 8 | u128::from(byte))
    }
}

/// As clients see it: 32 hexadecimal digits.
pub(super) fn write(token: u128) -> String {
    format!("{token:032x}")
}

/// What [`write`] wrote; `None` for anything else.
pub(super) fn read(text: &str) -> Option<u128> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_depend_on_all_that_they_stand_for() {
        let id = |namespace: &str, name: &str| EndpointId {
            namespace: namespace.into(),
            name: name.into(),
        };
        let key = |secret: &str| TokenKey::from_secret(secret.as_bytes()).unwrap();
        let (one, other) = (key("0123456789abcdef"), key("0123456789abcdeF"));
        let token = one.token("h", &id("ns", "a"));
        assert_eq!(token, key("0123456789abcdef").token("h", &id("ns", "a")));
        for different in [
            other.token("h", &id("ns", "a")),
            one.token("i", &id("ns", "a")),
            one.token("h", &id("ns", "b")),
            one.token("h", &id("n", "sa")),
        ] {
            assert_ne!(token, different);
        }
        assert!(TokenKey::from_secret(b"short").is_err());
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        for token in [0, 1, u128::MAX] {
            assert_eq!(read(&write(token)), Some(token));
        }
        let plus = format!("+{}", "0".repeat(31));
        for wrong in ["", "0", &"0".repeat(33), &"g".repeat(32), &plus] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
