//! The keys of the issuer: found through its metadata, kept, and asked for again when a token names one that is not known.
//!
//! What must stay true: an issuer that is away changes nothing for keys that are known; a stranger who makes up key ids makes
//! us ask the issuer no more often than an honest one would.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, RwLock},
    time::Duration,
};

use bg_runtime::SecretUrl;
use http::Uri;
use serde_json::Value;
use tokio::{sync::Mutex, time::Instant};

use super::token::{self, Key};

/// Gets a JSON document, or says in words why not.
pub(super) type Fetch = Arc<dyn Fn(String) -> Fetched + Send + Sync>;
pub(super) type Fetched = Pin<Box<dyn Future<Output = Result<Value, String>> + Send>>;

/// What is known of an issuer's keys.
pub(super) struct Keys {
    issuer: String,
    /// Where they are, when it was configured.
    address: Option<String>,
    fetch: Fetch,
    known: RwLock<Known>,
    /// One asks at a time. When that was last.
    asked: Mutex<Option<Instant>>,
}

#[derive(Clone, Default)]
struct Known {
    keys: Arc<[Key]>,
    since: Option<Instant>,
}

/// Keys that are older than this are asked for again, beside the calls.
const FRESH: Duration = Duration::from_secs(600);
/// No more often than this, whatever tokens name.
const PAUSE: Duration = Duration::from_secs(30);
/// As long as nothing is known at all, every call would wait for it.
const PAUSE_WITHOUT_KEYS: Duration = Duration::from_secs(2);

// === impl Keys ===

impl Keys {
    pub(super) fn new(issuer: &str, address: Option<&str>, fetch: Fetch) -> Self {
        let (issuer, address) = (issuer.to_owned(), address.map(str::to_owned));
        Self { issuer, address, fetch, known: RwLock::default(), asked: Mutex::default() }
    }

    /// Those that are known. Asks for them first when there are none.
    pub(super) async fn get(&self) -> Arc<[Key]> {
        let known = self.known();
        if known.since.is_none() {
            return self.again(None).await;
        }
        known.keys
    }

    /// Whether these are those that are known.
    pub(super) fn are(&self, keys: &Arc<[Key]>) -> bool {
        Arc::ptr_eq(&self.known.read().expect("nobody panics with the keys").keys, keys)
    }

    /// Whether it is time to ask again, beside the calls.
    pub(super) fn is_old(&self) -> bool {
        self.known().since.is_some_and(|since| since.elapsed() > FRESH)
    }

    /// Asks again because `seen` did not have what was needed; those that are known then.
    pub(super) async fn again(&self, seen: Option<&Arc<[Key]>>) -> Arc<[Key]> {
        let mut asked = self.asked.lock().await;
        let known = self.known();
        // Somebody else asked while this one waited.
        if known.since.is_some() && seen.is_none_or(|seen| !Arc::ptr_eq(seen, &known.keys)) {
            return known.keys;
        }
        let pause = if known.since.is_some() { PAUSE } else { PAUSE_WITHOUT_KEYS };
        if asked.is_some_and(|asked| asked.elapsed() < pause) {
            return known.keys;
        }
        *asked = Some(Instant::now());
        let answer = self.ask().await;
        // From its end on, too: those who waited for an issuer that does not answer would ask it again, one after the other.
        *asked = Some(Instant::now());
        match answer {
            Ok(keys) => {
                let known = Known { keys: keys.into(), since: Some(Instant::now()) };
                *self.known.write().expect("nobody panics with the keys") = known.clone();
                known.keys
            }
            Err(words) => {
                let kept = known.keys.len();
                tracing::warn!("the keys of {} cannot be had, {kept} are kept: {words}", self.issuer);
                known.keys
            }
        }
    }

    async fn ask(&self) -> Result<Vec<Key>, String> {
        let address = match &self.address {
            Some(address) => address.clone(),
            None => self.found().await?,
        };
        let keys = token::keys(&(self.fetch)(address.clone()).await?);
        if keys.is_empty() { Err(format!("{} has no key that signs tokens", SecretUrl::new(address))) } else { Ok(keys) }
    }

    /// Where the issuer says that its keys are (RFC 8414, OpenID Connect Discovery).
    async fn found(&self) -> Result<String, String> {
        let mut wrong = Vec::new();
        for address in metadata(&self.issuer) {
            match (self.fetch)(address.clone()).await {
                Ok(said) if said["issuer"] != *self.issuer => {
                    wrong.push(format!("{address} is of the issuer {}", said["issuer"]))
                }
                Ok(said) => match said["jwks_uri"].as_str() {
                    Some(keys) if is_safe(keys) => return Ok(keys.to_owned()),
                    _ => wrong.push(format!("{address} names no https jwks_uri")),
                },
                Err(words) => wrong.push(words),
            }
        }
        Err(wrong.join("; "))
    }

    fn known(&self) -> Known {
        self.known.read().expect("nobody panics with the keys").clone()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// Where an issuer may keep its metadata, in the order in which MCP wants them tried (authorization, server metadata discovery).
pub(super) fn metadata(issuer: &str) -> Vec<String> {
    let issuer = issuer.trim_end_matches('/');
    let Some((scheme, rest)) = issuer.split_once("://") else { return Vec::new() };
    let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
    let inserted = |name: &str| match path {
        "" => format!("{scheme}://{host}/.well-known/{name}"),
        path => format!("{scheme}://{host}/.well-known/{name}/{path}"),
    };
    let mut all = vec![inserted("oauth-authorization-server"), inserted("openid-configuration")];
    let appended = format!("{issuer}/.well-known/openid-configuration");
    if !all.contains(&appended) {
        all.push(appended);
    }
    all
}

/// Whether an address can be believed: https, or http on this machine, for development.
pub(super) fn is_safe(address: &str) -> bool {
    let Ok(uri) = address.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default();
    let is_here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    match uri.scheme_str() {
        Some("https") => !host.is_empty(),
        Some("http") => is_here,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;

    const ISSUER: &str = "https://auth.example.com";

    fn set(id: &str) -> Value {
        json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": id, "use": "sig", "alg": "EdDSA",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }] })
    }

    /// An issuer that counts how often it is asked for its keys.
    fn issuer(answer: impl Fn(usize) -> Result<Value, String> + Send + Sync + 'static) -> (Keys, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let fetch: Fetch = Arc::new(move |address| {
            let said = if address.ends_with("/keys") {
                answer(counted.fetch_add(1, Ordering::SeqCst))
            } else if address == format!("{ISSUER}/.well-known/openid-configuration") {
                Ok(json!({ "issuer": ISSUER, "jwks_uri": format!("{ISSUER}/keys") }))
            } else {
                Err(format!("{address} answers 404"))
            };
            Box::pin(async { said })
        });
        (Keys::new(ISSUER, None, fetch), asked)
    }

    #[test]
    fn metadata_is_looked_for_where_the_specifications_put_it() {
        assert_eq!(
            metadata("https://auth.example.com/"),
            [
                "https://auth.example.com/.well-known/oauth-authorization-server",
                "https://auth.example.com/.well-known/openid-configuration"
            ]
        );
        assert_eq!(
            metadata("https://auth.example.com/tenant"),
            [
                "https://auth.example.com/.well-known/oauth-authorization-server/tenant",
                "https://auth.example.com/.well-known/openid-configuration/tenant",
                "https://auth.example.com/tenant/.well-known/openid-configuration"
            ]
        );
    }

    #[test]
    fn keys_come_over_https_or_from_this_machine() {
        for safe in ["https://auth.example.com/keys", "http://127.0.0.1:9000/keys", "http://localhost/keys"] {
            assert!(is_safe(safe), "{safe}");
        }
        for unsafe_one in ["http://auth.example.com/keys", "ftp://127.0.0.1/keys", "/keys", "http://localhost.example.com/"] {
            assert!(!is_safe(unsafe_one), "{unsafe_one}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_key_ids_do_not_make_us_ask_more_often() {
        let (keys, asked) = issuer(|_| Ok(set("one")));
        let known = keys.get().await;
        assert_eq!((known.len(), asked.load(Ordering::SeqCst)), (1, 1));
        for _ in 0..100 {
            keys.again(Some(&known)).await;
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1, "it was asked a moment ago");
        tokio::time::advance(PAUSE).await;
        let all = (0..100).map(|_| keys.again(Some(&known)));
        futures_util::future::join_all(all).await;
        assert_eq!(asked.load(Ordering::SeqCst), 2, "a hundred at once are one");
    }

    #[tokio::test(start_paused = true)]
    async fn an_issuer_that_is_away_changes_nothing_for_keys_that_are_known() {
        let (keys, asked) = issuer(|turn| if turn == 0 { Ok(set("one")) } else { Err("it is away".to_owned()) });
        let known = keys.get().await;
        tokio::time::advance(FRESH + PAUSE).await;
        assert!(keys.is_old());
        assert!(Arc::ptr_eq(&keys.again(Some(&known)).await, &known), "those that were known are kept");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_issuer_that_was_never_reached_is_asked_again_soon() {
        let (keys, asked) = issuer(|turn| if turn == 0 { Err("it is away".to_owned()) } else { Ok(set("one")) });
        assert!(keys.get().await.is_empty());
        assert!(keys.get().await.is_empty(), "not at once");
        tokio::time::advance(PAUSE_WITHOUT_KEYS).await;
        assert_eq!(keys.get().await.len(), 1);
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_for_an_issuer_that_does_not_answer_wait_once() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let fetch: Fetch = Arc::new(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            Box::pin(async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                Err("it does not answer".to_owned())
            })
        });
        let keys = Keys::new(ISSUER, Some("https://auth.example.com/keys"), fetch);
        let begun = Instant::now();
        futures_util::future::join_all((0..10).map(|_| keys.get())).await;
        assert_eq!((asked.load(Ordering::SeqCst), begun.elapsed().as_secs()), (1, 5));
    }

    #[tokio::test]
    async fn metadata_of_another_issuer_is_not_believed() {
        let fetch: Fetch = Arc::new(|_| {
            Box::pin(async { Ok(json!({ "issuer": "https://evil.example.com", "jwks_uri": "https://evil.example.com/keys" })) })
        });
        let wrong = Keys::new(ISSUER, None, fetch).found().await.unwrap_err();
        assert!(wrong.contains("is of the issuer"), "{wrong}");
    }
}
