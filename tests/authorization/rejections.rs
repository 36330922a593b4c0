//! Rejected requests are counted by reason and logged, and no flood of them hides the way to the issuer.

use serde_json::json;
use tests::{http::get, issuer::Issuer, postgres::DataDir, server::Server};

use super::{PING, PUBLIC_URL, RESOURCE, allowed, appointments, bare, bearer, challenge, example, header, of, send};

const WAY: &str =
    "Bearer resource_metadata=\"https://mcp.example.com/.well-known/oauth-protected-resource/mcp\", scope=\"appointments:read\"";

/// The value of the counter for this reason.
async fn count(server: &Server, reason: &str) -> u64 {
    let metrics = get(server.operations(), "/metrics").await.body;
    let label = format!("reason=\"{reason}\"");
    let is_it = |line: &&str| line.starts_with("mcp_server_authentication_rejected_total{") && line.contains(&label);
    metrics.lines().find(is_it).and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_from_one_address_never_hides_the_way_to_the_issuer() {
    let issuer = Issuer::start(&[]).await;
    let server = example("slow", &issuer, &[("UNPROVEN_PER_SECOND", "1"), ("UNPROVEN_BURST", "3")]).await;
    let way = "Bearer resource_metadata=\"https://mcp.example.com/.well-known/oauth-protected-resource/mcp\"";
    // No token, and a way to prove oneself that is not spoken here, are how a client begins.
    for headers in ["", "authorization: Basic YWRhOmFkYQ==\r\n", "", "authorization: Negotiate x\r\n", "", ""] {
        let answer = send(&server, PING, headers).await;
        assert_eq!((answer.status, challenge(&answer)), (401, way), "{headers}");
    }
    // Invalid tokens take from the address's rate.
    let invalid = bearer("aaaa.bbbb.cccc");
    let statuses = futures_util::future::join_all((0..8).map(|_| send(&server, PING, &invalid))).await;
    let limited: Vec<_> = statuses.iter().filter(|answer| answer.status == 429).collect();
    assert!(limited.len() >= 4, "{statuses:?}");
    for answer in limited {
        assert_eq!(challenge(answer), way, "{answer:?}");
        assert!(header(answer, "retry-after").parse::<u64>().is_ok_and(|after| after >= 1), "{answer:?}");
        assert_eq!(header(answer, "cache-control"), "no-store", "{answer:?}");
    }
    // And leave the others of that address alone.
    for _ in 0..10 {
        for answer in [send(&server, PING, "").await, bare(&server, "GET", "").await, bare(&server, "DELETE", "").await] {
            assert_eq!((answer.status, challenge(&answer)), (401, way), "{answer:?}");
        }
    }
    assert_eq!(send(&server, PING, &of(&issuer, "ada").await).await.status, 200, "a valid token is not limited by address");
    assert_eq!(count(&server, "missing").await, 36);
    assert_eq!(count(&server, "not_a_jwt").await, 8, "the ones that got 429 are counted too");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rejection_is_counted_by_its_reason_and_logged_without_what_the_caller_sent() {
    let issuer = Issuer::start(&[]).await;
    let data = DataDir::new();
    let server = appointments(&data, &issuer, &[("PUBLIC_URL", PUBLIC_URL)]).await;
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let marked = |claims: serde_json::Value| {
        let issuer = &issuer;
        async move { bearer(&issuer.token("current", &json!({}), &claims).await) }
    };
    let claims = |more: serde_json::Value| {
        let mut claims = json!({ "aud": RESOURCE, "sub": "mallory-marked", "scope": "appointments:read" });
        claims.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        claims
    };
    let valid = marked(claims(json!({}))).await;
    let signature = valid.trim().rsplit_once('.').expect("a token has three parts").1;
    // Signed by somebody else, and it names no key.
    let forged = bearer(&issuer.token("stranger", &json!({ "kid": null }), &claims(json!({}))).await);
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"cancel_appointment","arguments":{}}}"#;
    for (reason, body, headers, status) in [
        ("missing", PING, String::new(), 401),
        ("malformed", PING, format!("{}{}", valid, valid), 400),
        ("not_a_jwt", PING, bearer("marked"), 401),
        ("signature", PING, forged, 401),
        ("expired", PING, marked(claims(json!({ "exp": seconds - 3600 }))).await, 401),
        ("not_yet_valid", PING, marked(claims(json!({ "nbf": seconds + 3600 }))).await, 401),
        ("audience", PING, marked(claims(json!({ "aud": "https://other.example.com" }))).await, 401),
        ("issuer", PING, marked(claims(json!({ "iss": "https://other.example.com" }))).await, 401),
        ("bound_to_a_key", PING, marked(claims(json!({ "cnf": { "jkt": "x" } }))).await, 401),
        ("claims", PING, marked(claims(json!({ "sub": 7 }))).await, 401),
        ("insufficient_scope", call, allowed(&issuer, "mallory-marked", "appointments:read").await, 403),
    ] {
        let before = count(&server, reason).await;
        let answer = send(&server, body, &headers).await;
        assert_eq!(answer.status, status, "{reason}: {}{}", answer.head, answer.body);
        assert_eq!(count(&server, reason).await, before + 1, "{reason}");
        let line = server.stderr().lines().any(|line| line.contains(reason) && line.contains("count"));
        assert!(line, "{reason} is not logged:\n{}", server.stderr());
    }
    // Within one second there is one line of a reason, whatever their number.
    let begun = std::time::Instant::now();
    let wrong = bearer("marked");
    let many = futures_util::future::join_all((0..50).map(|_| send(&server, PING, &wrong))).await;
    assert!(many.iter().all(|answer| answer.status == 401), "{many:?}");
    let lines = server.stderr().lines().filter(|line| line.contains("not_a_jwt")).count() as u64;
    assert!(lines <= 2 + begun.elapsed().as_secs(), "{lines} lines:\n{}", server.stderr());
    for text in [server.stderr(), get(server.operations(), "/metrics").await.body] {
        assert!(!text.contains("marked") && !text.contains(signature), "{text}");
    }
    let answer = send(&server, PING, "").await;
    assert_eq!((answer.status, challenge(&answer)), (401, WAY));
}
