//! Heads: whatever a request says of itself, its answer keeps what every answer promises, and nobody gets in who has no token or
//! comes under another name than ours.
#![no_main]

use std::net::IpAddr;

use bytes::Bytes;
use fuzz::{
    house::{Answered, House},
    request::{self, Asked},
};
use http::{HeaderValue, Method, header};
use libfuzzer_sys::fuzz_target;
use mcp_server::{telemetry::context, testing};

/// What is asked under each head: what the lean path answers, what rmcp does, and what no token here allows.
const BODIES: [&str; 5] = [
    r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#,
    r#"{"jsonrpc":"2.0","id":"2","method":"tools/call","params":{"name":"greet","arguments":{"name":"Ada"}}}"#,
    r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"greet","arguments":{"name":"Ada"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#,
    r#"{"jsonrpc":"2.0","id":4,"method":"prompts/list"}"#,
    r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"write"}}"#,
];

fuzz_target!(|file: &[u8]| {
    let open = House::open();
    let (closed, token) = House::of_tokens();
    let session = file.windows(7).any(|window| window == b"SESSION").then(|| open.session());
    let words = [("SESSION", session.as_deref().unwrap_or_default()), ("TOKEN", token)];
    let Some(mut asked) = request::read(file, 1, &words).pop() else { return };
    asked.uri = http::Uri::from_static("/mcp");
    context::Remote::extract(&asked.headers, None);
    let own = std::mem::take(&mut asked.body);
    let bodies = BODIES.iter().map(|body| Bytes::from_static(body.as_bytes())).chain((!own.is_empty()).then_some(own));
    for body in bodies {
        asked.body = body;
        let answer = open.ask(&asked);
        is_promised(&asked, &answer);
        let refused = closed.ask(&asked);
        is_promised(&asked, &refused);
        let is_let_in = refused.status.is_success() && asked.method != Method::OPTIONS;
        assert!(!is_let_in || brings(&asked, token), "somebody without the token is let in\n{asked:?}\n{refused:?}");
        let written = refused.body.windows(7).any(|window| window == b"written");
        assert!(!written, "the token does not allow this\n{asked:?}\n{refused:?}");
        assert!(!answer.status.is_success() || names_us(&asked), "another name than ours\n{asked:?}\n{answer:?}");
        // A GET, a DELETE and a preflight have no body that could make a difference.
        if asked.method != Method::POST {
            break;
        }
    }
    if let Some(session) = session {
        open.end(&session);
    }
});

fn is_promised(asked: &Asked, answer: &Answered) {
    let flaw = testing::flaw(&asked.body, answer.status, &answer.headers, &answer.body);
    assert!(flaw.is_none(), "{}\n{asked:?}\n{answer:?}", flaw.unwrap_or_default());
    let origin = answer.headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
    assert!(origin.is_none() || origin == asked.headers.get(header::ORIGIN), "{asked:?}\n{answer:?}");
}

/// Whether the one header of its kind holds the token.
fn brings(asked: &Asked, token: &str) -> bool {
    let all: Vec<_> = asked.headers.get_all(header::AUTHORIZATION).iter().collect();
    let [one] = all[..] else { return false };
    let Some((scheme, rest)) = one.to_str().ok().and_then(|value| value.split_once(' ')) else { return false };
    scheme.eq_ignore_ascii_case("bearer") && rest.trim() == token
}

/// Whether it was sent to this machine, or to an address.
fn names_us(asked: &Asked) -> bool {
    let Some(host) = asked.headers.get(header::HOST).map(HeaderValue::as_bytes) else { return false };
    let host = String::from_utf8_lossy(host).to_ascii_lowercase();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(&*host, |(name, _)| name),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok()
}
