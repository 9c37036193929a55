//! The server's side of a SCRAM-SHA-256 exchange (RFC 5802, RFC 7677), for protocols whose clients can prove a password
//! without sending it.
//!
//! ```text
//! client: n,,n=USER,r=CLIENT_NONCE         ──▶ ScramExchange::begin  ──▶ r=NONCE,s=SALT,i=ITERATIONS
//! client: c=biws,r=NONCE,p=PROOF           ──▶ ScramExchange::finish ──▶ v=SIGNATURE
//! ```
//!
//! Channel binding is not offered. A user that does not exist, or has no verifier, is led through the exchange with a
//! salt made of its name, and fails at the end like a wrong password.

use std::sync::Arc;

use base64ct::{Base64, Encoding};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::account::{Account, Directory};
use super::password::{Key, ScramVerifier, hmac};

/// Why an exchange ends. A client is told no more than the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// A message that is not one of the protocol's.
    #[error("the SCRAM message is malformed")]
    Malformed,
    /// It asks for channel binding, an authorization identity or an extension.
    #[error("the SCRAM message asks for something that is not supported")]
    Unsupported,
    /// A wrong proof or nonce, or no such user.
    #[error("bad credentials")]
    BadCredentials,
}

/// An exchange under way: the client's first message is answered.
pub struct ScramExchange {
    account: Option<Arc<Account>>,
    user: String,
    verifier: ScramVerifier,
    nonce: String,
    /// All messages so far, as the proof covers them.
    transcript: String,
}

impl ScramExchange {
    /// Longest message that is looked at, in bytes.
    pub(crate) const MESSAGE_BYTES_MAX: usize = 2_048;

    /// Takes the client's first message. `random` is the server's part of the nonce, `secret` what the salts of unknown
    /// users are made with; it stays the same while the server runs.
    ///
    /// # Errors
    /// [`ScramError`], never for a user that is unknown.
    pub(super) fn begin(
        message: &[u8],
        directory: &Directory,
        random: [u8; 18],
        secret: &Key,
    ) -> Result<(Self, String), ScramError> {
        let message = text(message)?;
        let mut parts = message.splitn(3, ',');
        let mut part = || parts.next().ok_or(ScramError::Malformed);
        match part()? {
            "n" | "y" => {}
            binding if binding.starts_with("p=") => return Err(ScramError::Unsupported),
            _ => return Err(ScramError::Malformed),
        }
        if !part()?.is_empty() {
            return Err(ScramError::Unsupported);
        }
        let bare = part()?;
        if bare.starts_with("m=") {
            return Err(ScramError::Unsupported);
        }
        let mut attributes = bare.split(',');
        let user = attribute(attributes.next(), "n=")?;
        let client_nonce = attribute(attributes.next(), "r=")?;
        if client_nonce.is_empty() || !client_nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ScramError::Malformed);
        }
        let user = unescape(user)?;
        let account = directory
            .account(&user)
            .filter(|account| account.enabled)
            .cloned();
        let known = account
            .as_ref()
            .and_then(|account| account.password.as_ref()?.scram())
            .cloned();
        let account = account.filter(|_| known.is_some());
        let verifier = known.unwrap_or_else(|| decoy(&user, secret));
        let nonce = format!("{client_nonce}{}", Base64::encode_string(&random));
        let answer = format!(
            "r={nonce},s={},i={}",
            Base64::encode_string(&verifier.salt),
            verifier.iterations
        );
        let exchange = ScramExchange {
            account,
            user,
            verifier,
            nonce,
            transcript: format!("{bare},{answer}"),
        };
        Ok((exchange, answer))
    }

    /// The user that the client says it is.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Takes the client's last message: the account, and what proves the server to the client.
    pub(super) fn finish(self, message: &[u8]) -> Result<(Arc<Account>, String), ScramError> {
        let message = text(message)?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(ScramError::Malformed)?;
        let mut attributes = without_proof.split(',');
        // "n,," or "y,,": what begin() has let through.
        match attribute(attributes.next(), "c=")? {
            "biws" | "eSws" => {}
            _ => return Err(ScramError::BadCredentials),
        }
        if attribute(attributes.next(), "r=")? != self.nonce {
            return Err(ScramError::BadCredentials);
        }
        let proof = Base64::decode_vec(proof).map_err(|_| ScramError::Malformed)?;
        let proof: Key = proof.try_into().map_err(|_| ScramError::Malformed)?;
        let signed = format!("{},{without_proof}", self.transcript);
        let signature = hmac(&self.verifier.stored_key, signed.as_bytes());
        let mut client_key = proof;
        for (byte, mask) in client_key.iter_mut().zip(signature) {
            *byte ^= mask;
        }
        let computed: Key = Sha256::digest(client_key).into();
        let right: bool = computed.ct_eq(&self.verifier.stored_key).into();
        match self.account {
            Some(account) if right => {
                let proof = hmac(&self.verifier.server_key, signed.as_bytes());
                Ok((account, format!("v={}", Base64::encode_string(&proof))))
            }
            _ => Err(ScramError::BadCredentials),
        }
    }
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > ScramExchange::MESSAGE_BYTES_MAX {
        return Err(ScramError::Malformed);
    }
    std::str::from_utf8(message).map_err(|_| ScramError::Malformed)
}

fn attribute<'a>(attribute: Option<&'a str>, name: &str) -> Result<&'a str, ScramError> {
    attribute
        .and_then(|attribute| attribute.strip_prefix(name))
        .ok_or(ScramError::Malformed)
}

/// Names write `,` as `=2C` and `=` as `=3D` (RFC 5802, section 5.1).
fn unescape(name: &str) -> Result<String, ScramError> {
    let mut rest = name;
    let mut plain = String::with_capacity(name.len());
    while let Some((before, after)) = rest.split_once('=') {
        plain.push_str(before);
        let (char, tail) = if let Some(tail) = after.strip_prefix("2C") {
            (',', tail)
        } else if let Some(tail) = after.strip_prefix("3D") {
            ('=', tail)
        } else {
            return Err(ScramError::Malformed);
        };
        plain.push(char);
        rest = tail;
    }
    plain.push_str(rest);
    if plain.is_empty() {
        return Err(ScramError::Malformed);
    }
    Ok(plain)
}

/// What an unknown user is shown: the same salt each time, as a known one is. No proof fits its key.
fn decoy(user: &str, secret: &Key) -> ScramVerifier {
    let salt = hmac(secret, user.as_bytes());
    ScramVerifier {
        iterations: ScramVerifier::ITERATIONS,
        salt: salt[..16].to_vec(),
        stored_key: hmac(secret, &salt),
        server_key: Key::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::AuthDocument;

    const SECRET: Key = [7; 32];

    fn directory() -> Directory {
        let verifier = ScramVerifier::derive(b"pencil", b"0123456789abcdef", 4096);
        let text = format!(
            "[[accounts]]\nname = \"us=er,\"\npassword = \"{verifier}\"\n[[accounts]]\nname = \"off\"\nenabled = false\npassword = \"{verifier}\""
        );
        let document: AuthDocument = toml::from_str(&text).unwrap();
        Directory::new(document).unwrap()
    }

    fn begin(first: &str) -> Result<(ScramExchange, String), ScramError> {
        ScramExchange::begin(first.as_bytes(), &directory(), [1; 18], &SECRET)
    }

    /// What a client with this password answers.
    fn client_final(bare: &str, server_first: &str, password: &[u8]) -> String {
        let field = |name: &str| {
            let mut fields = server_first.split(',');
            fields
                .find_map(|field| field.strip_prefix(name))
                .unwrap()
                .to_owned()
        };
        let salt = Base64::decode_vec(&field("s=")).unwrap();
        let iterations = field("i=").parse().unwrap();
        let mut salted = Key::default();
        pbkdf2::pbkdf2_hmac::<Sha256>(password, &salt, iterations, &mut salted);
        let client_key = hmac(&salted, b"Client Key");
        let stored: Key = Sha256::digest(client_key).into();
        let without_proof = format!("c=biws,r={}", field("r="));
        let signature = hmac(
            &stored,
            format!("{bare},{server_first},{without_proof}").as_bytes(),
        );
        let proof: Vec<u8> = client_key
            .iter()
            .zip(signature)
            .map(|(key, mask)| key ^ mask)
            .collect();
        format!("{without_proof},p={}", Base64::encode_string(&proof))
    }

    const BARE: &str = "n=us=3Der=2C,r=rOprNGfwEbeRWgbNEkqO";

    #[test]
    fn the_right_password_is_proven_both_ways() {
        let (exchange, first) = begin(&format!("n,,{BARE}")).unwrap();
        assert_eq!(exchange.user(), "us=er,");
        let last = client_final(BARE, &first, b"pencil");
        let (account, proof) = exchange.finish(last.as_bytes()).unwrap();
        assert_eq!(account.name, "us=er,");
        assert!(proof.starts_with("v="));
    }

    #[test]
    fn a_wrong_password_nonce_or_user_fails_at_the_end() {
        let finish = |bare: &str, password: &[u8], change: fn(String) -> String| {
            let (exchange, first) = begin(&format!("n,,{bare}")).unwrap();
            let last = change(client_final(bare, &first, password));
            exchange.finish(last.as_bytes()).map(|_| ())
        };
        let refused = Err(ScramError::BadCredentials);
        assert_eq!(finish(BARE, b"pen", |last| last), refused);
        let replayed = |last: String| last.replace("r=rO", "r=rX");
        assert_eq!(finish(BARE, b"pencil", replayed), refused);
        assert_eq!(finish("n=nobody,r=abc", b"pencil", |last| last), refused);
        assert_eq!(finish("n=off,r=abc", b"pencil", |last| last), refused);
    }

    #[test]
    fn an_unknown_user_has_the_same_salt_each_time() {
        let salt = || {
            let (_, first) = begin("n,,n=nobody,r=abc").unwrap();
            first.split(',').nth(1).unwrap().to_owned()
        };
        assert_eq!(salt(), salt());
    }

    #[test]
    fn what_is_not_scram_is_refused() {
        for (message, error) in [
            ("", ScramError::Malformed),
            ("n", ScramError::Malformed),
            ("n,,", ScramError::Malformed),
            ("n,,n=a", ScramError::Malformed),
            ("n,,n=a=b,r=x", ScramError::Malformed),
            ("n,,n=,r=x", ScramError::Malformed),
            ("n,,n=a,r=", ScramError::Malformed),
            ("p=tls-unique,,n=a,r=x", ScramError::Unsupported),
            ("n,a=other,n=a,r=x", ScramError::Unsupported),
            ("n,,m=x,n=a,r=x", ScramError::Unsupported),
        ] {
            assert_eq!(begin(message).err(), Some(error), "{message}");
        }
        let (exchange, _) = begin("n,,n=a,r=x").unwrap();
        assert_eq!(
            exchange.finish(b"c=biws").err(),
            Some(ScramError::Malformed)
        );
    }
}
