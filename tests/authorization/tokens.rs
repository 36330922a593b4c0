//! Tokens that are not right, and tokens that are not where they belong: 401 or 400, with words and with where to go.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tests::{http::Connection, issuer::Issuer, server::Server};

use super::{LONG, PING, RESOURCE, bare, bearer, challenge, example, of, send};

const NO_TOKEN: &str = "the token is not a JWT access token";
const ALGORITHM: &str = "the token is signed by an algorithm that is not accepted here";
const SIGNATURE: &str = "the signature of the token is not one of its issuer's";
const UNKNOWN_KEY: &str = "the token names a key that its issuer does not have";
const CLAIMS: &str = "the token lacks a claim that is needed, or has one of another form";
const EXPIRED: &str = "the token has expired";
const EARLY: &str = "the token is not valid yet";
const ISSUER: &str = "the token is of another issuer";
const AUDIENCE: &str = "the token is for another resource";
const BOUND: &str = "the token is bound to a key, and no proof of having it is taken here";

/// What is tried, the claims that say it, and what it is told.
fn wrong_claims(issuer: &str, now: u64) -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("another issuer", json!({ "iss": "https://evil.example.com" }), ISSUER),
        ("an issuer that differs in a slash", json!({ "iss": format!("{issuer}/") }), ISSUER),
        ("a list of issuers with the right one", json!({ "iss": [issuer, "https://evil.example.com"] }), CLAIMS),
        ("no issuer", json!({ "iss": null }), CLAIMS),
        ("another resource", json!({ "aud": "https://other.example.com/mcp" }), AUDIENCE),
        ("the whole server", json!({ "aud": "https://mcp.example.com" }), AUDIENCE),
        ("a resource that differs in a slash", json!({ "aud": format!("{RESOURCE}/") }), AUDIENCE),
        ("a resource whose address begins with ours", json!({ "aud": format!("{RESOURCE}.evil.example.com") }), AUDIENCE),
        ("a list without us", json!({ "aud": ["https://a.example.com", "https://b.example.com"] }), AUDIENCE),
        ("no resource", json!({ "aud": null }), CLAIMS),
        ("a token that has expired", json!({ "exp": now - 60 }), EXPIRED),
        ("a token without an end", json!({ "exp": null }), CLAIMS),
        ("an end in words", json!({ "exp": "tomorrow" }), CLAIMS),
        ("an end before 1970", json!({ "exp": -1 }), CLAIMS),
        ("a token that is not valid yet", json!({ "nbf": now + 600 }), EARLY),
        ("a token made in the future", json!({ "iat": now + 600 }), EARLY),
        ("a token that expired in the middle of a second", json!({ "exp": now as f64 - 59.5 }), EXPIRED),
        ("a token that is valid from the middle of a second", json!({ "nbf": now as f64 + 600.5 }), EARLY),
        ("an end that is no moment", json!({ "exp": 1e300 }), CLAIMS),
        ("an end in a list", json!({ "exp": [now + 300] }), CLAIMS),
        ("a beginning in words", json!({ "nbf": "tomorrow" }), CLAIMS),
        (
            "a token bound to a key by its digest (DPoP)",
            json!({ "cnf": { "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" } }),
            BOUND,
        ),
        (
            "a token bound to a certificate (mutual TLS)",
            json!({ "cnf": { "x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2" } }),
            BOUND,
        ),
        ("a token bound in a way of another year", json!({ "cnf": { "new": true } }), BOUND),
        ("a token bound to nothing in particular", json!({ "cnf": "" }), BOUND),
        ("nobody", json!({ "sub": null }), CLAIMS),
        ("somebody without a name", json!({ "sub": "" }), CLAIMS),
        ("a number for a name", json!({ "sub": 7 }), CLAIMS),
        ("a name of two lines", json!({ "sub": "ada\nx-principal: eve" }), CLAIMS),
        ("a name that no index takes", json!({ "sub": "x".repeat(201) }), CLAIMS),
        ("what is for the client: an ID token", json!({ "aud": "a-client", "nonce": "n", "auth_time": now }), AUDIENCE),
        ("a token of 20 KB", json!({ "padding": "x".repeat(15_000) }), NO_TOKEN),
    ]
}

/// What is tried, what signs it, the header that says it, and what it is told.
fn wrong_heads() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    vec![
        ("no algorithm and no signature", "none", json!({ "alg": "none" }), NO_TOKEN),
        ("no algorithm, spelled otherwise", "none", json!({ "alg": "nOnE" }), NO_TOKEN),
        ("no algorithm under a real signature", "current", json!({ "alg": "none" }), NO_TOKEN),
        ("no signature", "none", json!({}), SIGNATURE),
        ("noise for a signature", "noise", json!({}), SIGNATURE),
        ("the public key as a shared secret, as PEM", "public pem", json!({ "alg": "HS256" }), ALGORITHM),
        ("the public key as a shared secret, as DER", "public der", json!({ "alg": "HS256" }), ALGORITHM),
        ("the public key as a shared secret, its modulus", "public modulus", json!({ "alg": "HS256" }), ALGORITHM),
        ("a shared secret that claims to be RSA", "public pem", json!({}), SIGNATURE),
        ("an algorithm that the key is not for", "current", json!({ "alg": "PS256" }), SIGNATURE),
        ("an algorithm of another kind of key", "current", json!({ "alg": "ES256" }), SIGNATURE),
        ("an algorithm that is not configured", "current", json!({ "alg": "RS512" }), ALGORITHM),
        ("a stranger's key", "stranger", json!({}), UNKNOWN_KEY),
        ("a stranger's key that it brings along", "stranger", json!({ "jwk": true }), UNKNOWN_KEY),
        ("an address of keys", "stranger", json!({ "jku": "https://evil.example.com/jwks" }), UNKNOWN_KEY),
        ("an address of certificates", "stranger", json!({ "x5u": "https://evil.example.com/chain.pem" }), UNKNOWN_KEY),
        ("a key that is a file", "current", json!({ "kid": "../../../dev/null" }), UNKNOWN_KEY),
        ("a key that is a query", "current", json!({ "kid": "' UNION SELECT 'key" }), UNKNOWN_KEY),
        ("a key that is a number", "current", json!({ "kid": 7 }), NO_TOKEN),
        ("what must be understood", "current", json!({ "crit": ["exp"] }), NO_TOKEN),
        ("a payload that is not encoded", "current", json!({ "b64": false, "crit": ["b64"] }), NO_TOKEN),
        ("a payload that is compressed", "current", json!({ "zip": "DEF" }), NO_TOKEN),
        ("a logout token", "current", json!({ "typ": "logout+jwt" }), NO_TOKEN),
        ("a proof of possession", "current", json!({ "typ": "dpop+jwt" }), NO_TOKEN),
        ("what is no type of token", "current", json!({ "typ": "application/json" }), NO_TOKEN),
    ]
}

/// How often the issuer may have been asked since then: when the first token came, and once in half a minute.
fn most(begun: Instant) -> u64 {
    1 + begun.elapsed().as_secs() / 30
}

/// The token is refused with these words, and with where to get another.
async fn is_refused(server: &Server, what: &str, token: &str, words: &str) {
    let answer = send(server, PING, &bearer(token)).await;
    assert_eq!(answer.status, 401, "{what}: {}", answer.body);
    let expected = format!(
        "Bearer resource_metadata=\"https://mcp.example.com/.well-known/oauth-protected-resource/mcp\", \
         error=\"invalid_token\", error_description=\"{words}\""
    );
    assert_eq!(challenge(&answer), expected, "{what}");
    assert_eq!(answer.json()["error"]["message"], words, "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_right_token_of_the_issuer_is_one() {
    let issuer = Issuer::start(&[]).await;
    let server = example("slow", &issuer, &[]).await;
    let begun = Instant::now();
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let aud = json!({ "aud": RESOURCE });
    for (what, claims, words) in wrong_claims(&issuer.url(), seconds) {
        let mut all = aud.clone();
        all.as_object_mut().expect("an object").extend(claims.as_object().cloned().unwrap_or_default());
        is_refused(&server, what, &issuer.token("current", &json!({}), &all).await, words).await;
    }
    for (what, key, head, words) in wrong_heads() {
        is_refused(&server, what, &issuer.token(key, &head, &aud).await, words).await;
    }
    let ada = issuer.token("current", &json!({}), &json!({ "aud": RESOURCE, "sub": "ada" })).await;
    let bob = issuer.token("current", &json!({}), &json!({ "aud": RESOURCE, "sub": "bob" })).await;
    let parts = |token: &str| token.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (ada_parts, bob_parts) = (parts(&ada), parts(&bob));
    for (what, token, words) in [
        ("Bob's claims under Ada's signature", format!("{}.{}.{}", ada_parts[0], bob_parts[1], ada_parts[2]), SIGNATURE),
        ("an encrypted token", format!("{ada}.{}.{}", ada_parts[0], ada_parts[1]), NO_TOKEN),
        ("two parts", format!("{}.{}", ada_parts[0], ada_parts[1]), NO_TOKEN),
        ("what is no token at all", "correct-horse-battery-staple".to_owned(), NO_TOKEN),
    ] {
        is_refused(&server, what, &token, words).await;
    }
    // A moment may have a fraction.
    let now = seconds as f64;
    let claims = json!({ "aud": RESOURCE, "iat": now - 0.75, "nbf": now - 0.5, "exp": now + 299.25 });
    let exact = issuer.token("current", &json!({}), &claims).await;
    assert_eq!(send(&server, PING, &bearer(&exact)).await.status, 200);
    // None of that has shut anybody else out.
    for token in [ada, bob] {
        assert_eq!(send(&server, PING, &bearer(&token)).await.status, 200);
    }
    assert!(issuer.asked_for_keys().await <= most(begun), "that made us ask again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_comes_once_and_in_its_header() {
    let issuer = Issuer::start(&[]).await;
    let server = example("slow", &issuer, &[("LOG", "trace")]).await;
    let good = of(&issuer, "ada").await;
    let token = good.trim().trim_start_matches("authorization: Bearer ");
    let build = super::header(&send(&server, PING, &good).await, "release-build").to_owned();
    for (what, headers, status) in [
        ("nothing", String::new(), 401),
        ("another scheme", "authorization: Basic YWRhOnNlY3JldA==\r\n".to_owned(), 401),
        ("a proof that is not asked for", format!("authorization: DPoP {token}\r\n"), 401),
        ("a cookie", format!("cookie: access_token={token}\r\n"), 401),
        ("a header of a proxy", format!("x-forwarded-access-token: {token}\r\nx-forwarded-user: ada\r\n"), 401),
        ("a header for development", "x-principal: ada\r\n".to_owned(), 401),
        ("a call that claims to be handed on", format!("mcp-forwarded-for-build: {build}\r\n"), 401),
        ("two tokens", format!("{good}{good}"), 400),
        ("two tokens in one header", format!("authorization: Bearer {token}, Bearer {token}\r\n"), 400),
        ("a token after another scheme's", format!("authorization: Basic YTpi\r\n{good}"), 400),
        ("no token after the scheme", "authorization: Bearer \r\n".to_owned(), 400),
        ("the scheme alone", "authorization: Bearer\r\n".to_owned(), 400),
        ("a token in quotes", format!("authorization: Bearer \"{token}\"\r\n"), 400),
        ("a token with a parameter", format!("authorization: Bearer {token}, realm=x\r\n"), 400),
    ] {
        let answer = send(&server, PING, &headers).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.body);
        let told = challenge(&answer);
        assert!(told.starts_with("Bearer resource_metadata=\"https://mcp.example.com/.well-known/"), "{what}: {told}");
        assert!(told.is_ascii(), "{what}: {told}");
        // Who has tried no token has made no mistake with one (RFC 6750, 3).
        assert_eq!(told.contains("error="), status == 400, "{what}: {told}");
        assert_eq!(answer.json()["result"], Value::Null, "{what}");
    }
    for headers in [good.replace("Bearer", "bearer"), good.replace("Bearer", "BEARER"), good.replace("Bearer", "Bearer  ")] {
        assert_eq!(send(&server, PING, &headers).await.status, 200, "{headers}");
    }
    for (what, request) in [
        ("the address", format!("POST /mcp?access_token={token} HTTP/1.1\r\ncontent-type: application/json\r\n")),
        ("a form", "POST /mcp HTTP/1.1\r\ncontent-type: application/x-www-form-urlencoded\r\n".to_owned()),
    ] {
        let body = if what == "a form" { format!("access_token={token}") } else { PING.to_owned() };
        let mut connection = Connection::open(server.address()).await;
        connection.send(format!("{request}host: localhost\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
        assert_eq!(connection.answer().await.status, 401, "a token in {what}");
    }
    for method in ["GET", "DELETE", "PUT", "PATCH", "TRACE"] {
        assert_eq!(bare(&server, method, "").await.status, 401, "{method} without a token");
    }
    let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
    for (what, body) in [
        ("a handshake", initialize),
        ("a batch", &*format!("[{PING}]")),
        ("no JSON", "{"),
        ("a notice", r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#),
    ] {
        let answer = send(&server, body, "").await;
        assert_eq!(answer.status, 401, "{what} without a token: {}", answer.body);
        assert!(!answer.head.contains("mcp-session-id"), "{what}");
    }
    // And it is written nowhere, whatever it was tried with.
    for part in token.split('.') {
        assert!(!server.stderr().contains(part), "a token is in the log");
    }
}

/// It takes half a minute: so long the issuer is left alone, whatever tokens name.
#[tokio::test(flavor = "multi_thread")]
async fn made_up_keys_ask_the_issuer_nothing_and_a_withdrawn_key_opens_nothing() {
    let issuer = Issuer::start(&[]).await;
    let (server, started) = (example("slow", &issuer, &[]).await, Instant::now());
    let old = of(&issuer, "ada").await;
    assert_eq!(send(&server, PING, &old).await.status, 200);
    let storm = async |turn: usize| {
        let mut connection = Connection::open(server.address()).await;
        for n in 0..10 {
            let claims = json!({ "aud": RESOURCE });
            let token = issuer.token("current", &json!({ "kid": format!("made up {turn} {n}") }), &claims).await;
            connection.send_message(PING, &bearer(&token)).await;
            assert_eq!(connection.answer().await.status, 401);
        }
    };
    join_all((0..20).map(storm)).await;
    assert!(issuer.asked_for_keys().await <= most(started), "200 made-up keys are no reason to ask");

    issuer.rotate().await;
    let (new, begun) = (of(&issuer, "ada").await, Instant::now());
    while send(&server, PING, &new).await.status != 200 {
        assert!(begun.elapsed() < LONG, "the new key is never asked for:\n{}", server.stderr());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(issuer.asked_for_keys().await <= most(started), "once in half a minute");
    // It was good a moment ago, and was believed.
    let answer = send(&server, PING, &old).await;
    assert_eq!(answer.status, 401, "the key was withdrawn: {}", answer.body);
    assert!(challenge(&answer).contains(UNKNOWN_KEY), "{}", challenge(&answer));
    let withdrawn = issuer.token("withdrawn", &json!({}), &json!({ "aud": RESOURCE })).await;
    assert_eq!(send(&server, PING, &bearer(&withdrawn)).await.status, 401);
    assert_eq!(send(&server, PING, &new).await.status, 200);
}
