//! Signed tokens (JWT, RFC 7519) in the place of a password.
//!
//! An issuer has a key and says which claim names the client. Either that is the name of an account, or all of an
//! issuer's clients share the rules of one account, in which `%u` then stands for each client's own name.

use std::fmt;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use longtail_model::Timestamp;
use serde::{Deserialize, Serialize};

/// Whose tokens are accepted.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenIssuer {
    /// For logs; unique.
    pub name: String,
    /// How its tokens are signed.
    pub algorithm: TokenAlgorithm,
    /// The shared secret of the HS algorithms, or the public key in PEM of the others.
    pub key: String,
    /// What the claim `iss` must be. Left out: anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// What the claim `aud` must contain. Left out: tokens with any audience, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The claim that names the client.
    #[serde(default = "subject")]
    pub claim: String,
    /// The account whose rules its clients have. Left out: the account that the claim names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
}

fn subject() -> String {
    "sub".to_owned()
}

impl fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenIssuer")
            .field("name", &self.name)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// A signature algorithm (RFC 7518).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the standard's")]
pub enum TokenAlgorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

impl From<TokenAlgorithm> for Algorithm {
    fn from(algorithm: TokenAlgorithm) -> Self {
        match algorithm {
            TokenAlgorithm::HS256 => Algorithm::HS256,
            TokenAlgorithm::HS384 => Algorithm::HS384,
            TokenAlgorithm::HS512 => Algorithm::HS512,
            TokenAlgorithm::RS256 => Algorithm::RS256,
            TokenAlgorithm::RS384 => Algorithm::RS384,
            TokenAlgorithm::RS512 => Algorithm::RS512,
            TokenAlgorithm::PS256 => Algorithm::PS256,
            TokenAlgorithm::PS384 => Algorithm::PS384,
            TokenAlgorithm::PS512 => Algorithm::PS512,
            TokenAlgorithm::ES256 => Algorithm::ES256,
            TokenAlgorithm::ES384 => Algorithm::ES384,
            TokenAlgorithm::EdDSA => Algorithm::EdDSA,
        }
    }
}

/// An issuer, ready to check tokens.
pub(super) struct Tokens {
    key: DecodingKey,
    validation: Validation,
    claim: String,
    pub(super) account: Option<String>,
}

/// What a token says.
pub(super) struct Claimed {
    /// The client's name.
    pub(super) name: String,
    /// When the token ends.
    pub(super) expires: Timestamp,
}

impl Tokens {
    /// Longest token that is looked at, in bytes.
    pub(super) const BYTES_MAX: usize = 8 * 1024;

    /// Whether a password can only be a token.
    pub(super) fn is_one(password: &[u8]) -> bool {
        password.starts_with(b"eyJ") && password.iter().filter(|&&byte| byte == b'.').count() == 2
    }

    /// # Errors
    /// What is wrong with the key.
    pub(super) fn new(issuer: &TokenIssuer) -> Result<Self, String> {
        let key = issuer.key.as_bytes();
        let algorithm = Algorithm::from(issuer.algorithm);
        let key = match issuer.algorithm {
            TokenAlgorithm::HS256 | TokenAlgorithm::HS384 | TokenAlgorithm::HS512 => {
                if key.len() < 32 {
                    return Err("a secret of at least 32 bytes is needed".to_owned());
                }
                Ok(DecodingKey::from_secret(key))
            }
            TokenAlgorithm::ES256 | TokenAlgorithm::ES384 => DecodingKey::from_ec_pem(key),
            TokenAlgorithm::EdDSA => DecodingKey::from_ed_pem(key),
            _ => DecodingKey::from_rsa_pem(key),
        };
        let key = key.map_err(|error| format!("the key is not a public key in PEM: {error}"))?;
        let mut validation = Validation::new(algorithm);
        validation.leeway = 0;
        // Judged with the caller's time, below.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.set_required_spec_claims(&["exp"]);
        if let Some(name) = &issuer.issuer {
            validation.set_issuer(&[name]);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        match &issuer.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                validation.required_spec_claims.insert("aud".to_owned());
            }
            None => validation.validate_aud = false,
        }
        Ok(Tokens {
            key,
            validation,
            claim: issuer.claim.clone(),
            account: issuer.account.clone(),
        })
    }

    /// What `token` says, if this issuer signed it and it holds at `now`.
    pub(super) fn check(&self, token: &[u8], now: Timestamp) -> Option<Claimed> {
        if token.len() > Self::BYTES_MAX {
            return None;
        }
        let decoded = jsonwebtoken::decode::<serde_json::Value>(token, &self.key, &self.validation);
        let claims = match decoded {
            Ok(decoded) => decoded.claims,
            Err(error) => {
                if !matches!(error.kind(), ErrorKind::InvalidSignature) {
                    tracing::debug!(%error, "a token is refused");
                }
                return None;
            }
        };
        let time = |name: &str| seconds(claims.get(name)?);
        let expires = time("exp")?;
        if expires <= now || time("nbf").is_some_and(|from| from > now) {
            return None;
        }
        let name = claims.get(&self.claim)?.as_str()?;
        (!name.is_empty()).then(|| Claimed {
            name: name.to_owned(),
            expires,
        })
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// A date of a token: seconds since 1970, whole or not.
fn seconds(value: &serde_json::Value) -> Option<Timestamp> {
    let millis = match value.as_u64() {
        Some(seconds) => seconds.checked_mul(1_000)?,
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, which is what a date out of range should do"
        )]
        None => (value.as_f64()? * 1_000.0) as u64,
    };
    Some(Timestamp(millis))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::json;

    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const NOW: Timestamp = Timestamp(1_000_000);

    fn issuer() -> TokenIssuer {
        TokenIssuer {
            name: "gate".to_owned(),
            algorithm: TokenAlgorithm::HS256,
            key: SECRET.to_owned(),
            issuer: Some("https://gate".to_owned()),
            audience: Some("longtail".to_owned()),
            claim: subject(),
            account: None,
        }
    }

    fn sign(claims: &serde_json::Value, secret: &str) -> Vec<u8> {
        let key = EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&Header::default(), claims, &key)
            .unwrap()
            .into_bytes()
    }

    #[test]
    fn a_token_names_its_client_until_it_ends() {
        let tokens = Tokens::new(&issuer()).unwrap();
        let claims =
            json!({"iss": "https://gate", "aud": ["longtail"], "sub": "dev1", "exp": 2000});
        let token = sign(&claims, SECRET);
        assert!(Tokens::is_one(&token));
        let claimed = tokens.check(&token, NOW).unwrap();
        assert_eq!(claimed.name, "dev1");
        assert_eq!(claimed.expires, Timestamp(2_000_000));
        assert!(tokens.check(&token, Timestamp(2_000_000)).is_none());
        assert!(
            tokens
                .check(&sign(&claims, "another secret, long enough too."), NOW)
                .is_none()
        );
    }

    #[test]
    fn what_a_claim_lacks_is_refused() {
        let tokens = Tokens::new(&issuer()).unwrap();
        let whole = json!({"iss": "https://gate", "aud": "longtail", "sub": "dev1", "exp": 2000});
        assert!(tokens.check(&sign(&whole, SECRET), NOW).is_some());
        for (claim, value) in [
            ("iss", json!("https://other")),
            ("aud", json!("other")),
            ("sub", json!("")),
            ("sub", json!(5)),
            ("exp", json!(999)),
            ("exp", json!("soon")),
            ("nbf", json!(1001)),
        ] {
            let mut claims = whole.clone();
            claims[claim] = value;
            assert!(
                tokens.check(&sign(&claims, SECRET), NOW).is_none(),
                "{claim}"
            );
        }
        for claim in ["iss", "aud", "sub", "exp"] {
            let mut claims = whole.clone();
            claims.as_object_mut().unwrap().remove(claim);
            assert!(
                tokens.check(&sign(&claims, SECRET), NOW).is_none(),
                "{claim}"
            );
        }
    }

    #[test]
    fn another_algorithm_is_refused() {
        let tokens = Tokens::new(&issuer()).unwrap();
        // {"alg":"none"}.{"iss":"https://gate","aud":"longtail","sub":"dev1","exp":2000}.
        let none = b"eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2dhdGUiLCJhdWQiOiJsb25ndGFpbCIsInN1YiI6ImRldjEiLCJleHAiOjIwMDB9.";
        assert!(Tokens::is_one(none));
        assert!(tokens.check(none, NOW).is_none());
    }

    #[test]
    fn a_key_that_does_not_fit_is_refused() {
        let mut weak = issuer();
        weak.key = "short".to_owned();
        assert!(Tokens::new(&weak).is_err());
        for algorithm in [
            TokenAlgorithm::RS256,
            TokenAlgorithm::ES256,
            TokenAlgorithm::EdDSA,
        ] {
            let mut wrong = issuer();
            wrong.algorithm = algorithm;
            assert!(Tokens::new(&wrong).is_err(), "{algorithm:?}");
        }
    }
}
