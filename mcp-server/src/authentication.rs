//! Who calls. What is found out here is a [`Principal`], and everything that belongs to somebody is bound to it: sessions,
//! conversations, first answers.
//!
//! What must stay true: a request that is let in without a proof is one that was meant to be, and no token is written anywhere.

mod keys;
pub(crate) mod rejections;
mod signature;
mod token;

use std::{
    collections::HashMap,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bg_runtime::{SecretUrl, http::Http};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use jsonwebtoken::{Algorithm, AlgorithmFamily};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use self::{
    keys::{Fetch, Keys, is_safe},
    token::{Key, Named, Rules, Wrong},
};
use crate::{
    extract::Principal,
    http::body::{Payload, json as json_body},
    mcp::envelope,
};

/// How callers say who they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Authentication {
    /// They don't: everybody is anonymous.
    #[default]
    None,
    /// A header says so and is believed, which is for development alone: a server that believes it listens on loopback only.
    Header(HeaderName),
    /// By an access token of an authorization server (OAuth 2.1).
    OAuth(OAuth),
}

/// Whose access tokens are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuth {
    /// The authorization server, as its tokens name it in `iss`.
    pub issuer: String,
    /// What tokens must be for (`aud`). Without one, the resource: the public address of `/mcp` (RFC 8707).
    pub audiences: Vec<String>,
    /// Where the issuer's keys are, when not where its metadata says.
    pub jwks_url: Option<SecretUrl>,
    /// The algorithms that are accepted, by their JWA names. Only ones with a public key.
    pub algorithms: Vec<String>,
    /// How far the issuer's clock and ours may differ.
    pub leeway: Duration,
}

/// Finds out who calls.
#[derive(Debug)]
pub(crate) enum Authenticator {
    /// Whoever it is.
    Nobody,
    /// Whom this header names.
    Header(HeaderName),
    /// Whom a token names.
    Tokens(Box<Tokens>),
}

/// What tokens are held against, and what is known of them.
#[derive(Debug)]
pub(crate) struct Tokens {
    rules: Rules,
    keys: Arc<Keys>,
    resource: Resource,
    /// Tokens that were found right a moment ago, by their digest.
    believed: Mutex<HashMap<[u8; 32], Believed>>,
}

/// What this server is to an authorization server (RFC 9728).
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    /// Its address.
    address: String,
    /// Where its metadata is.
    metadata: String,
    issuer: String,
    title: String,
    /// Every scope that a tool wants.
    scopes: Vec<String>,
    /// What one needs to do no more than read.
    first: Vec<String>,
}

/// The two documents in which an authorization server says what it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum IssuerMetadata {
    /// RFC 8414.
    OAuth,
    /// OpenID Connect Discovery.
    OpenId,
}

#[derive(Clone, Debug)]
struct Believed {
    principal: Principal,
    until: Instant,
    /// The keys it was held against.
    by: Arc<[Key]>,
}

/// Why a caller is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// No token came.
    Missing,
    /// More than one came, or what came is no token.
    Malformed,
    /// It is not right.
    Invalid(Wrong),
    /// The issuer's keys cannot be had.
    Unavailable,
}

/// Where the metadata of the resource is, and below it that of `/mcp`.
pub(crate) const METADATA: &str = "/.well-known/oauth-protected-resource";
/// The path of the resource.
const RESOURCE: &str = "/mcp";
/// A token that was checked is not checked again for so long, unless the keys of its issuer are others by then.
const BELIEVED_FOR: Duration = Duration::from_secs(60);
/// So many of them, some 200 bytes each.
const BELIEVED: usize = 10_000;
/// A stream that lives for as long as this has no end.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How long an authorization server may take.
const ASKED_WITHIN: Duration = Duration::from_secs(5);
/// What is accepted unless something else is said.
pub(crate) const ALGORITHMS: &str = "RS256,PS256,ES256,EdDSA";

// === impl OAuth ===

impl OAuth {
    /// What is wrong with it, in words.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.issuer.is_empty() {
            problems.push(
                "AUTHENTICATION=oauth: say in OAUTH_ISSUER whose tokens are taken, as `https://auth.example.com`".to_owned(),
            );
        } else {
            let issuer = SecretUrl::from(&*self.issuer);
            if !is_safe(&self.issuer) {
                problems.push(format!("OAUTH_ISSUER=`{issuer}`: it must be https (or http on this machine)"));
            } else if issuer.has_user() || issuer.has_query() {
                problems
                    .push(format!("OAUTH_ISSUER=`{issuer}`: it is shown to every client, so it has no user, query or fragment"));
            }
        }
        if let Some(address) = &self.jwks_url {
            if !is_safe(address.expose()) {
                problems.push(format!("OAUTH_JWKS_URL=`{address}`: it must be https (or http on this machine)"));
            } else if address.has_user() {
                problems.push(format!("OAUTH_JWKS_URL=`{address}`: a user in the address is not sent; put a key into its query"));
            }
        }
        if let Err(word) = self.algorithms() {
            problems
                .push(format!("OAUTH_ALGORITHMS: `{word}` is no algorithm with a public key; {ALGORITHMS} are the usual ones"));
        }
        problems
    }

    fn algorithms(&self) -> Result<Vec<Algorithm>, String> {
        let known = |word: &String| {
            let algorithm = word.parse::<Algorithm>().ok();
            let algorithm = algorithm.filter(|algorithm| algorithm.family() != AlgorithmFamily::Hmac);
            algorithm.ok_or_else(|| word.clone())
        };
        let all: Vec<_> = self.algorithms.iter().map(known).collect::<Result<_, _>>()?;
        if all.is_empty() { Err(String::new()) } else { Ok(all) }
    }
}

impl Default for OAuth {
    fn default() -> Self {
        let algorithms = ALGORITHMS.split(',').map(str::to_owned).collect();
        Self { issuer: String::new(), audiences: Vec::new(), jwks_url: None, algorithms, leeway: Duration::from_secs(30) }
    }
}

// === impl Authenticator ===

impl Authenticator {
    /// `public` is the address that clients know, without a path; `scopes` are what the tools want, and `first` what one needs
    /// to do no more than read.
    pub(crate) fn new(
        authentication: &Authentication,
        public: &str,
        title: &str,
        scopes: Vec<String>,
        first: Vec<String>,
    ) -> Self {
        match authentication {
            Authentication::None => Self::Nobody,
            Authentication::Header(name) => Self::Header(name.clone()),
            Authentication::OAuth(oauth) => Self::Tokens(Box::new(Tokens::new(oauth, public, title, scopes, first, over_http()))),
        }
    }

    /// Whose request this is.
    pub(crate) async fn principal(&self, headers: &HeaderMap) -> Result<Principal, Denied> {
        match self {
            Self::Nobody => Ok(Principal::anonymous()),
            Self::Header(name) => Ok(match headers.get(name).and_then(|value| value.to_str().ok()) {
                Some(value) if !value.is_empty() => Principal::named(value),
                _ => Principal::anonymous(),
            }),
            Self::Tokens(tokens) => tokens.principal(headers).await,
        }
    }

    /// What this server is to an authorization server, where there is one.
    pub(crate) fn resource(&self) -> Option<&Resource> {
        match self {
            Self::Tokens(tokens) => Some(&tokens.resource),
            Self::Nobody | Self::Header(_) => None,
        }
    }
}

// === impl Tokens ===

impl Tokens {
    fn new(oauth: &OAuth, public: &str, title: &str, scopes: Vec<String>, first: Vec<String>, fetch: Fetch) -> Self {
        signature::install();
        let public = public.trim_end_matches('/');
        let address = format!("{public}{RESOURCE}");
        let metadata = format!("{public}{METADATA}{RESOURCE}");
        let audiences = if oauth.audiences.is_empty() { vec![address.clone()] } else { oauth.audiences.clone() };
        let algorithms = oauth.algorithms().unwrap_or_default();
        let issuer = oauth.issuer.clone();
        Self {
            rules: Rules::new(&issuer, &audiences, &algorithms, oauth.leeway),
            keys: Arc::new(Keys::new(&issuer, oauth.jwks_url.as_ref().map(SecretUrl::expose), fetch)),
            resource: Resource { address, metadata, issuer, title: title.to_owned(), scopes, first },
            believed: Mutex::default(),
        }
    }

    async fn principal(&self, headers: &HeaderMap) -> Result<Principal, Denied> {
        let token = bearer(headers)?;
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(principal) = self.believed(&digest) {
            return Ok(principal);
        }
        let keys = self.keys.get().await;
        if keys.is_empty() {
            return Err(Denied::Unavailable);
        }
        if self.keys.is_old() {
            let (known, old) = (self.keys.clone(), keys.clone());
            tokio::spawn(async move { known.again(Some(&old)).await });
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (named, by) = match self.rules.check(token, &keys, now) {
            Err(Wrong::UnknownKey) => {
                let keys = self.keys.again(Some(&keys)).await;
                (self.rules.check(token, &keys, now), keys)
            }
            checked => (checked, keys),
        };
        let Named { subject, scopes, expires } = named.map_err(Denied::Invalid)?;
        let left = expires.saturating_add(self.rules.leeway()).saturating_sub(now).min(LONGEST);
        let principal = Principal::with_token(subject, scopes, Instant::now() + left);
        let until = Instant::now() + BELIEVED_FOR.min(expires.saturating_sub(now));
        self.believe(digest, Believed { principal: principal.clone(), until, by });
        Ok(principal)
    }

    fn believed(&self, digest: &[u8; 32]) -> Option<Principal> {
        let believed = self.believed.lock().expect("nobody panics with what is believed");
        let is_good = |believed: &&Believed| Instant::now() < believed.until && self.keys.are(&believed.by);
        believed.get(digest).filter(is_good).map(|believed| believed.principal.clone())
    }

    fn believe(&self, digest: [u8; 32], what: Believed) {
        let mut believed = self.believed.lock().expect("nobody panics with what is believed");
        if believed.len() >= BELIEVED {
            let now = Instant::now();
            believed.retain(|_, believed| now < believed.until);
            if believed.len() >= BELIEVED {
                believed.clear();
            }
        }
        believed.insert(digest, what);
    }
}

/// The token of a request. It comes in one header and nowhere else (RFC 6750, 2.1; MCP, access token usage).
fn bearer(headers: &HeaderMap) -> Result<&str, Denied> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(Denied::Missing)?;
    if values.next().is_some() {
        return Err(Denied::Malformed);
    }
    let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or(Denied::Malformed)?;
    // Who proves it in another way does not know yet which is wanted (RFC 6750, 3).
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Denied::Missing);
    }
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    let token = token.trim();
    if !token.is_empty() && token.bytes().all(is_token) { Ok(token) } else { Err(Denied::Malformed) }
}

// === impl Resource ===

impl Resource {
    /// What clients read to find the authorization server (RFC 9728, 2).
    pub(crate) fn document(&self) -> Value {
        json!({
            "resource": self.address,
            "authorization_servers": [self.issuer],
            "scopes_supported": self.scopes,
            "bearer_methods_supported": ["header"],
            "resource_name": self.title,
        })
    }

    /// Returns where the issuer publishes what it is.
    pub(crate) fn issuer_metadata(&self, which: IssuerMetadata) -> String {
        let mut all = keys::metadata(&self.issuer);
        // The last one is where OpenID Connect Discovery has it, which appends to the path of an issuer.
        let address = match which {
            IssuerMetadata::OAuth => (!all.is_empty()).then(|| all.swap_remove(0)),
            IssuerMetadata::OpenId => all.pop(),
        };
        address.unwrap_or_else(|| self.issuer.clone())
    }

    /// Names the way to the authorization server in a response that rejects a request for another reason, so that a client that
    /// sees only this one finds it.
    pub(crate) fn lead(&self, answer: &mut Response<Payload>) {
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, header_value(&self.challenge(&self.first, None)));
        // As for every response to a rejected request: the next one may bring a better token.
        answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }

    /// The answer to a caller who is not let in.
    pub(crate) fn deny(&self, denied: Denied) -> Response<Payload> {
        let (status, code, words) = match denied {
            Denied::Missing => {
                (StatusCode::UNAUTHORIZED, None, "an access token is needed: Authorization: Bearer TOKEN".to_owned())
            }
            Denied::Malformed => {
                let words = "one header is to hold one access token: Authorization: Bearer TOKEN";
                (StatusCode::BAD_REQUEST, Some("invalid_request"), words.to_owned())
            }
            Denied::Invalid(wrong) => (StatusCode::UNAUTHORIZED, Some("invalid_token"), wrong.to_string()),
            Denied::Unavailable => {
                let words = "tokens cannot be checked at the moment, because their issuer is not reached; try again";
                (StatusCode::SERVICE_UNAVAILABLE, None, words.to_owned())
            }
        };
        let error = envelope::error(None, envelope::INVALID_REQUEST, &words, None);
        let mut answer = json_body(status, error);
        if denied == Denied::Unavailable {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            return answer;
        }
        let described = code.map(|code| (code, words.as_str()));
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, header_value(&self.challenge(&self.first, described)));
        // Of a GET: the next one may bring a better token.
        answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer
    }

    /// What a caller needs who may not do enough: with what they may do already, because a client that asks for the rest alone
    /// loses that (MCP, scope challenge handling).
    pub(crate) fn wider(&self, principal: &Principal, needed: &[String], words: &str) -> String {
        let wanted = self.scopes.iter().filter(|scope| needed.contains(scope) || principal.may(scope));
        self.challenge(&wanted.cloned().collect::<Vec<_>>(), Some(("insufficient_scope", words)))
    }

    /// What a caller needs, as `WWW-Authenticate` has it (RFC 6750, 3; RFC 9728, 5.1).
    fn challenge(&self, scopes: &[String], error: Option<(&str, &str)>) -> String {
        let mut parts = vec![format!("resource_metadata=\"{}\"", self.metadata)];
        if !scopes.is_empty() {
            parts.push(format!("scope=\"{}\"", scopes.join(" ")));
        }
        if let Some((code, words)) = error {
            parts.extend([format!("error=\"{code}\""), format!("error_description=\"{words}\"")]);
        }
        format!("Bearer {}", parts.join(", "))
    }
}

/// Asks an authorization server. It follows no redirect, and what it gets is small.
fn over_http() -> Fetch {
    let http = Http::new();
    Arc::new(move |address| {
        let http = http.clone();
        Box::pin(async move {
            let answer = http.get(&address, ASKED_WITHIN).await.and_then(|answer| answer.success(&address));
            let answer = answer.map_err(|failure| failure.to_string())?;
            serde_json::from_slice(&answer.body).map_err(|wrong| format!("{} gives no JSON: {wrong}", SecretUrl::new(address)))
        })
    })
}

/// A value of ours: of visible ASCII, for whatever else would be a mistake in a configuration.
pub(crate) fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("Bearer"))
}

impl FromStr for Authentication {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word.split_once(':') {
            None if word == "none" => Ok(Self::None),
            None if word == "oauth" => Ok(Self::OAuth(OAuth::default())),
            Some(("header", name)) => name.parse().map(Self::Header).map_err(|_| format!("`{name}` is not the name of a header")),
            _ => Err("it may be `oauth`, `none`, or `header:NAME` for development".to_owned()),
        }
    }
}

impl fmt::Display for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::OAuth(_) => f.write_str("oauth"),
        }
    }
}
