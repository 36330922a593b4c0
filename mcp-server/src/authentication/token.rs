//! What an access token has to be (RFC 9068, RFC 8725), and who it names.
//!
//! What must stay true: nothing of a token is believed before its signature was checked with a key of the issuer, by an
//! algorithm that was configured and that the key is for; a claim that is missing or of another type is a refusal.

use std::{
    collections::HashSet,
    time::{Duration, TryFromFloatSecsError},
};

use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation, decode, decode_header,
    errors::ErrorKind,
    jwk::{Jwk, PublicKeyUse},
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

/// What tokens are held against.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    issuer: String,
    algorithms: Vec<Algorithm>,
    validation: Validation,
    leeway: Duration,
}

/// A key of the issuer.
#[derive(Clone, Debug)]
pub(super) struct Key {
    id: Option<String>,
    /// The one algorithm that it is for, when it says so.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

/// Whom a token names, what it allows, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) subject: String,
    /// Separated by spaces, as OAuth has them.
    pub(super) scopes: String,
    /// Since 1970.
    pub(super) expires: Duration,
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    #[error("the token is not a JWT access token")]
    Form,
    #[error("the token is signed by an algorithm that is not accepted here")]
    Algorithm,
    #[error("the signature of the token is not one of its issuer's")]
    Signature,
    /// The issuer may have a new key.
    #[error("the token names a key that its issuer does not have")]
    UnknownKey,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    Early,
    #[error("the token is of another issuer")]
    Issuer,
    #[error("the token is for another resource")]
    Audience,
    #[error("the token is bound to a key, and no proof of having it is taken here")]
    Bound,
    #[error("the token lacks a claim that is needed, or has one of another form")]
    Claims,
}

#[derive(Deserialize)]
struct Claims {
    /// The library would take a list of them.
    iss: String,
    sub: String,
    exp: NumericDate,
    #[serde(default)]
    nbf: Option<NumericDate>,
    #[serde(default)]
    iat: Option<NumericDate>,
    /// What the token is bound to (RFC 7800). Without the proof that goes with it, whoever has the token may have stolen it.
    #[serde(default)]
    cnf: Option<IgnoredAny>,
    #[serde(default)]
    scope: Option<String>,
    /// How Microsoft's and Okta's issuers call it.
    #[serde(default)]
    scp: Option<Scopes>,
}

/// A moment in seconds since 1970, which may have a fraction (RFC 7519, 2). The library rounds it, and so believes a token for
/// up to half a second longer than its issuer said.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "f64")]
struct NumericDate(Duration);

#[derive(Deserialize)]
#[serde(untagged)]
enum Scopes {
    Words(String),
    List(Vec<String>),
}

/// No issuer's token is as long; a header of this length would be refused before.
const LONGEST: usize = 16 * 1024;
/// What names a person is stored with each of their rows, and in indexes.
const LONGEST_SUBJECT: usize = 200;
/// Tokens that name no key are tried with so many of its issuer's.
const TRIED: usize = 4;

// === impl Rules ===

impl Rules {
    /// `leeway` is how far clocks may differ.
    pub(super) fn new(issuer: &str, audiences: &[String], algorithms: &[Algorithm], leeway: Duration) -> Self {
        let mut validation = Validation::new(Algorithm::RS256);
        validation.algorithms = algorithms.to_vec();
        // It would round them; they are checked below.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.set_issuer(&[issuer]);
        validation.set_audience(audiences);
        validation.required_spec_claims = ["iss", "aud", "sub"].map(str::to_owned).into_iter().collect::<HashSet<_>>();
        Self { issuer: issuer.to_owned(), algorithms: algorithms.to_vec(), validation, leeway }
    }

    /// How far clocks may differ.
    pub(super) fn leeway(&self) -> Duration {
        self.leeway
    }

    /// Whom a token names, when everything about it is right at `now`, counted since 1970.
    pub(super) fn check(&self, token: &str, keys: &[Key], now: Duration) -> Result<Named, Wrong> {
        let header = self.header(token)?;
        let of_algorithm =
            |key: &&Key| key.key.family() == header.alg.family() && key.algorithm.is_none_or(|algorithm| algorithm == header.alg);
        let candidates: Vec<&Key> = match &header.kid {
            Some(kid) => {
                let named: Vec<&Key> = keys.iter().filter(|key| key.id.as_ref() == Some(kid)).collect();
                if named.is_empty() {
                    return Err(Wrong::UnknownKey);
                }
                named.into_iter().filter(of_algorithm).collect()
            }
            None => keys.iter().filter(of_algorithm).take(TRIED).collect(),
        };
        let mut wrong = Wrong::Signature;
        for key in candidates {
            match self.with(token, &key.key, header.alg, now) {
                Err(Wrong::Signature) => {}
                Err(other) => wrong = other,
                named => return named,
            }
        }
        Err(wrong)
    }

    fn header(&self, token: &str) -> Result<Header, Wrong> {
        if token.len() > LONGEST {
            return Err(Wrong::Form);
        }
        // An algorithm that has no name here, `none` among them, is no header either.
        let header = decode_header(token).map_err(|_| Wrong::Form)?;
        if !self.algorithms.contains(&header.alg) {
            return Err(Wrong::Algorithm);
        }
        let typ = header.typ.as_deref().map(|typ| typ.to_ascii_lowercase());
        let is_access_token = matches!(typ.as_deref(), None | Some("jwt" | "at+jwt" | "application/at+jwt"));
        // What must be understood is not, and what is compressed or encrypted is no access token.
        let is_plain = header.crit.is_none() && header.enc.is_none() && header.zip.is_none();
        if is_access_token && is_plain { Ok(header) } else { Err(Wrong::Form) }
    }

    fn with(&self, token: &str, key: &DecodingKey, algorithm: Algorithm, now: Duration) -> Result<Named, Wrong> {
        let validation = Validation { algorithms: vec![algorithm], ..self.validation.clone() };
        let claims = decode::<Claims>(token, key, &validation).map_err(|error| wrong(error.kind()))?.claims;
        if claims.iss != self.issuer {
            return Err(Wrong::Issuer);
        }
        // "On or after" its end it is none any more (RFC 7519, 4.1.4).
        if now >= claims.exp.0.saturating_add(self.leeway) {
            return Err(Wrong::Expired);
        }
        if [claims.nbf, claims.iat].into_iter().flatten().any(|from| from.0 > now.saturating_add(self.leeway)) {
            return Err(Wrong::Early);
        }
        if claims.cnf.is_some() {
            return Err(Wrong::Bound);
        }
        let is_name = !claims.sub.is_empty() && claims.sub.len() <= LONGEST_SUBJECT && !claims.sub.chars().any(char::is_control);
        if !is_name {
            return Err(Wrong::Claims);
        }
        let scopes = match (claims.scope, claims.scp) {
            (Some(scope), _) | (None, Some(Scopes::Words(scope))) => scope,
            (None, Some(Scopes::List(list))) => list.join(" "),
            (None, None) => String::new(),
        };
        Ok(Named { subject: claims.sub, scopes, expires: claims.exp.0 })
    }
}

// === impl NumericDate ===

impl TryFrom<f64> for NumericDate {
    type Error = TryFromFloatSecsError;

    fn try_from(seconds: f64) -> Result<Self, Self::Error> {
        Duration::try_from_secs_f64(seconds).map(Self)
    }
}

fn wrong(kind: &ErrorKind) -> Wrong {
    match kind {
        ErrorKind::InvalidIssuer => Wrong::Issuer,
        ErrorKind::InvalidAudience => Wrong::Audience,
        ErrorKind::InvalidSignature => Wrong::Signature,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) | ErrorKind::Json(_) => Wrong::Claims,
        _ => Wrong::Form,
    }
}

/// The keys of a JWK set that check signatures. One that cannot be read is left out: it is another's.
pub(super) fn keys(set: &Value) -> Vec<Key> {
    let all = set["keys"].as_array().into_iter().flatten();
    let read = all.filter_map(|key| serde_json::from_value::<Jwk>(key.clone()).ok());
    read.filter(|jwk| !matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)))
        .filter_map(|jwk| {
            let algorithm = jwk.common.key_algorithm.and_then(|algorithm| algorithm.to_string().parse().ok());
            let key = DecodingKey::from_jwk(&jwk).ok()?;
            Some(Key { id: jwk.common.key_id, algorithm, key })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
    };
    use serde_json::json;

    use super::*;

    const ISSUER: &str = "https://auth.example.com";
    const RESOURCE: &str = "https://mcp.example.com/mcp";

    /// An issuer with a key of each kind that can be made here.
    struct Issuer {
        edwards: Ed25519KeyPair,
        curve: EcdsaKeyPair,
        random: SystemRandom,
    }

    impl Issuer {
        fn new() -> Self {
            super::super::signature::install();
            let random = SystemRandom::new();
            let edwards = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
            let curve = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            Self {
                edwards: Ed25519KeyPair::from_pkcs8(edwards.as_ref()).unwrap(),
                curve: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, curve.as_ref(), &random).unwrap(),
                random,
            }
        }

        fn set(&self) -> Value {
            let (x, y) = self.curve.public_key().as_ref()[1..].split_at(32);
            json!({ "keys": [
                { "kty": "OKP", "crv": "Ed25519", "kid": "edwards", "alg": "EdDSA", "use": "sig",
                  "x": URL_SAFE_NO_PAD.encode(self.edwards.public_key()) },
                { "kty": "EC", "crv": "P-256", "kid": "curve", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) },
                { "kty": "EC", "crv": "P-256", "kid": "sealing", "use": "enc",
                  "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) },
                { "kty": "oct", "kid": "secret", "k": URL_SAFE_NO_PAD.encode("a shared secret") },
                { "kty": "of another year" },
            ]})
        }

        fn token(&self, header: &Value, claims: &Value) -> String {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let message = format!("{}.{}", part(header), part(claims));
            let signature = match header["alg"].as_str() {
                Some("ES256") => self.curve.sign(&self.random, message.as_bytes()).unwrap().as_ref().to_vec(),
                _ => self.edwards.sign(message.as_bytes()).as_ref().to_vec(),
            };
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
        }
    }

    fn now() -> u64 {
        jsonwebtoken::get_current_timestamp()
    }

    fn claims() -> Value {
        json!({ "iss": ISSUER, "aud": RESOURCE, "sub": "ada", "iat": now(), "exp": now() + 300, "scope": "appointments:read" })
    }

    fn header() -> Value {
        json!({ "alg": "EdDSA", "kid": "edwards", "typ": "at+jwt" })
    }

    fn check(token: &str, keys: &[Key]) -> Result<Named, Wrong> {
        let algorithms = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
        Rules::new(ISSUER, &[RESOURCE.to_owned()], &algorithms, Duration::from_secs(30)).check(
            token,
            keys,
            Duration::from_secs(now()),
        )
    }

    #[test]
    fn a_token_of_the_issuer_names_somebody_and_says_what_they_may() {
        let issuer = Issuer::new();
        let keys = keys(&issuer.set());
        let named = check(&issuer.token(&header(), &claims()), &keys).unwrap();
        assert_eq!((&*named.subject, &*named.scopes), ("ada", "appointments:read"));
        // By another key, for several resources, with scopes as others call them, and without naming its key.
        let mut other = claims();
        other["aud"] = json!(["https://another.example.com", RESOURCE]);
        other["scope"].take();
        other["scp"] = json!(["a", "b"]);
        for header in [json!({ "alg": "ES256", "kid": "curve" }), json!({ "alg": "ES256" })] {
            assert_eq!(check(&issuer.token(&header, &other), &keys).unwrap().scopes, "a b");
        }
        // Clocks differ.
        let mut late = claims();
        late["exp"] = json!(now() - 20);
        assert!(check(&issuer.token(&header(), &late), &keys).is_ok());
    }

    #[test]
    fn what_is_not_right_about_a_token_is_told() {
        let issuer = Issuer::new();
        let keys = keys(&issuer.set());
        let (past, future) = (now() - 3600, now() + 3600);
        for (claim, value, wrong) in [
            ("iss", json!("https://evil.example.com"), Wrong::Issuer),
            ("iss", json!([ISSUER, "https://evil.example.com"]), Wrong::Claims),
            ("iss", Value::Null, Wrong::Claims),
            ("aud", json!("https://another.example.com/mcp"), Wrong::Audience),
            ("aud", json!([]), Wrong::Audience),
            ("aud", Value::Null, Wrong::Claims),
            ("sub", Value::Null, Wrong::Claims),
            ("sub", json!(""), Wrong::Claims),
            ("sub", json!(7), Wrong::Claims),
            ("sub", json!("a\nb"), Wrong::Claims),
            ("sub", json!("x".repeat(201)), Wrong::Claims),
            ("exp", json!(past), Wrong::Expired),
            ("exp", Value::Null, Wrong::Claims),
            ("exp", json!("tomorrow"), Wrong::Claims),
            ("exp", json!(-1), Wrong::Claims),
            ("nbf", json!(future), Wrong::Early),
            ("nbf", json!("tomorrow"), Wrong::Claims),
            ("iat", json!(future), Wrong::Early),
            ("exp", json!(past as f64 + 0.5), Wrong::Expired),
            ("nbf", json!(future as f64 + 0.5), Wrong::Early),
            ("cnf", json!({ "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" }), Wrong::Bound),
            ("cnf", json!({}), Wrong::Bound),
        ] {
            let mut all = claims();
            all[claim] = value.clone();
            assert_eq!(check(&issuer.token(&header(), &all), &keys), Err(wrong), "{claim}: {value}");
        }
    }

    #[test]
    fn a_moment_with_a_fraction_is_that_moment_and_not_the_next_second() {
        let issuer = Issuer::new();
        let keys = keys(&issuer.set());
        let rules = |leeway| Rules::new(ISSUER, &[RESOURCE.to_owned()], &[Algorithm::EdDSA], Duration::from_secs(leeway));
        let mut all = claims();
        (all["nbf"], all["iat"], all["exp"]) = (json!(1000.25), json!(1000.5), json!(2000.6));
        let token = issuer.token(&header(), &all);
        for (millis, leeway, expected) in [
            (1_000_400, 0, Some(Wrong::Early)),
            (1_000_500, 0, None),
            (999_499, 1, Some(Wrong::Early)),
            (999_500, 1, None),
            (2_000_599, 0, None),
            (2_000_600, 0, Some(Wrong::Expired)),
            (2_001_599, 1, None),
            (2_001_600, 1, Some(Wrong::Expired)),
        ] {
            let checked = rules(leeway).check(&token, &keys, Duration::from_millis(millis));
            assert_eq!(checked.as_ref().err(), expected.as_ref(), "at {millis} with {leeway} s");
            if let Ok(named) = checked {
                assert_eq!(named.expires.as_millis(), 2_000_600);
            }
        }
    }

    #[test]
    fn a_token_that_the_issuer_did_not_sign_names_nobody() {
        let (issuer, another) = (Issuer::new(), Issuer::new());
        let keys = keys(&issuer.set());
        let good = issuer.token(&header(), &claims());
        assert_eq!(check(&another.token(&header(), &claims()), &keys), Err(Wrong::Signature));
        // Claims of another under a signature that is real.
        let forged = URL_SAFE_NO_PAD.encode(json!({ "iss": ISSUER, "sub": "eve" }).to_string());
        let parts: Vec<&str> = good.split('.').collect();
        assert_eq!(check(&format!("{}.{forged}.{}", parts[0], parts[2]), &keys), Err(Wrong::Signature));
        assert_eq!(check(&format!("{}.{}.", parts[0], parts[1]), &keys), Err(Wrong::Signature));
        for (header, wrong) in [
            (json!({ "alg": "none" }), Wrong::Form),
            (json!({ "alg": "None", "kid": "edwards" }), Wrong::Form),
            (json!({ "alg": "HS256", "kid": "secret" }), Wrong::Algorithm),
            (json!({ "alg": "HS256", "kid": "edwards" }), Wrong::Algorithm),
            (json!({ "alg": "RS256", "kid": "edwards" }), Wrong::Signature),
            (json!({ "alg": "ES256", "kid": "edwards" }), Wrong::Signature),
            (json!({ "alg": "EdDSA", "kid": "sealing" }), Wrong::UnknownKey),
            (json!({ "alg": "EdDSA", "kid": "../../etc/passwd" }), Wrong::UnknownKey),
            (json!({ "alg": "EdDSA", "kid": "edwards", "crit": ["b64"] }), Wrong::Form),
            (json!({ "alg": "EdDSA", "kid": "edwards", "typ": "dpop+jwt" }), Wrong::Form),
            (json!({ "alg": "EdDSA", "kid": "edwards", "zip": "DEF" }), Wrong::Form),
            (json!({ "kid": "edwards" }), Wrong::Form),
        ] {
            assert_eq!(check(&issuer.token(&header, &claims()), &keys), Err(wrong), "{header}");
        }
        // The key that the token brings itself, or says where to find, is not looked at.
        let mut own = header();
        own["jwk"] = another.set()["keys"][0].clone();
        own["jku"] = json!("https://evil.example.com/keys");
        assert_eq!(check(&another.token(&own, &claims()), &keys), Err(Wrong::Signature));
        for text in ["", ".", "..", "a.b.c", "ey.ey.ey.ey.ey", &"a".repeat(20_000)] {
            assert!(check(text, &keys).is_err(), "{}", text.len());
        }
    }

    #[test]
    fn a_signature_that_is_stripped_or_longer_is_none() {
        let issuer = Issuer::new();
        let keys = keys(&issuer.set());
        let good = issuer.token(&header(), &claims());
        for wrong in [format!("{good}A"), format!("{good}=="), good[..good.len() - 4].to_owned(), format!("{good}.{good}")] {
            assert!(check(&wrong, &keys).is_err());
        }
    }
}
