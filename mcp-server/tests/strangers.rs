//! What strangers may send to `/mcp`, made up: any JSON, real messages that were mangled, and what is no JSON at all. The cases are
//! the same each time; `./dev fuzz` looks for others, and what it began with is tried here as it is.

#![expect(clippy::unwrap_used, reason = "what a test needs fails the test when it is missing")]

use std::{path::Path, time::Duration};

use bg_runtime::{Color, Release};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use mcp_server::{
    App, Reply, Tool,
    extract::{Parameters, Peer},
    prompt::Prompt,
    resource::{Read, ResourceTemplate},
    rmcp::model::{ContentBlock, PromptMessage, ResourceContents, Role},
    testing::{self, Server},
};
use proptest::{
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, RngSeed, TestRunner},
};
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

/// The longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
const CASES: u32 = 2_000;

#[derive(serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
struct Greeting {
    name: String,
    times: Option<u8>,
}

/// An application without a database, and the runtime it lives in.
struct Desk {
    runtime: Runtime,
    server: Server,
}

#[derive(Debug)]
struct Answered {
    status: StatusCode,
    body: Bytes,
    flaw: Option<String>,
}

impl Desk {
    fn open() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let greet = async |Parameters(greeting): Parameters<Greeting>| {
            let words = format!("Hello, {}!", greeting.name);
            Reply::new(greeting, words)
        };
        let tell = async |peer: Peer, Parameters(greeting): Parameters<Greeting>| {
            peer.progress(1.0, 2.0, &greeting.name).await;
            greeting.name
        };
        let letter = |_| async { Ok(vec![PromptMessage::new(Role::User, ContentBlock::text("Dear Ada,"))]) };
        let note = |read: Read| async { Ok(ResourceContents::text("here", read.uri)) };
        let app = App::new(Release::new(Color::Blue, "1.0.0", "test").unwrap(), ())
            .logging()
            .tool(Tool::new("greet", greet).describe("Greets somebody by name.").read_only())
            .tool(Tool::new("tell", tell).describe("Says how far it is.").read_only())
            .prompt(Prompt::new("letter", letter).argument("to", "To whom it is", true))
            .resource_template(ResourceTemplate::new("test://notes/{id}", "Notes", note));
        let server = runtime.block_on(testing::start(app)).unwrap();
        Self { runtime, server }
    }

    fn ask(&self, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answered {
        let asked = body.into();
        let request = headers.iter().fold(Request::post("/mcp").header(header::HOST, "localhost"), |request, (name, value)| {
            request.header(*name, *value)
        });
        let request = request.body(Full::new(asked.clone())).unwrap();
        let answer = self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, async {
                let (head, body) = self.server.handle(request).await.into_parts();
                (head, axum::body::to_bytes(body, 1 << 20).await.unwrap())
            })
            .await
        });
        let (head, body) = answer.unwrap_or_else(|_| panic!("no answer to {}", String::from_utf8_lossy(&asked)));
        let flaw = testing::flaw(&asked, head.status, &head.headers, &body);
        Answered { status: head.status, body, flaw }
    }
}

/// Runs a property with the same cases each time.
fn hold<S: Strategy>(cases: S, property: impl Fn(&Desk, S::Value)) {
    let desk = Desk::open();
    let config = Config { cases: CASES, rng_seed: RngSeed::Fixed(20_260_728), failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&cases, |case| {
            property(&desk, case);
            Ok(())
        })
        .unwrap();
}

/// Any JSON, small, with words that mean something here.
fn any_json() -> impl Strategy<Value = Value> {
    let word = select(vec!["2.0", "ping", "tools/call", "greet", "name", "2026-07-28", "id", "\u{0}", "é\u{1f600}", ""]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        let key = select(vec!["jsonrpc", "id", "method", "params", "name", "arguments", "_meta", "result", "error", "cursor"]);
        let key = prop_oneof![key.prop_map(str::to_owned), any::<String>()];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(key, inner, 0..6).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// What is said beside a message.
fn any_headers() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let version =
        select(vec!["", "1999-01-01", "2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28", "2031-01-01", "x"]);
    let method = select(vec!["", "tools/call", "tools/list", "prompts/get"]);
    let accept = select(vec!["", "application/json", "application/json, text/event-stream", "text/html"]);
    let session = select(vec!["", "", "", "00000000-0000-4000-8000-000000000000"]);
    (version, method, accept, session).prop_map(|(version, method, accept, session)| {
        let all = [
            ("mcp-protocol-version", version),
            ("mcp-method", method),
            ("mcp-name", if method == "tools/call" { "greet" } else { "" }),
            ("accept", accept),
            ("mcp-session-id", session),
        ];
        all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    })
}

/// Messages as clients send them.
fn messages() -> Vec<Value> {
    let stateless = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "openai/subject": "v1/a",
        "progressToken": 1,
    });
    let client = json!({ "name": "test", "version": "1" });
    let message =
        |id: Value, method: &str, params: Value| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
    let initialize = json!({ "protocolVersion": "2025-11-25", "capabilities": { "sampling": {} }, "clientInfo": client });
    let greeting = json!({ "name": "Ada", "times": 2 });
    vec![
        message(json!(0), "initialize", initialize),
        message(json!("a"), "ping", json!({})),
        message(json!(1), "tools/list", json!({ "_meta": stateless })),
        message(json!(2), "tools/call", json!({ "name": "greet", "arguments": greeting })),
        message(json!(3), "tools/call", json!({ "name": "greet", "arguments": greeting, "_meta": stateless })),
        message(json!(4), "tools/call", json!({ "name": "tell", "arguments": greeting, "_meta": { "progressToken": "p" } })),
        message(json!(5), "server/discover", json!({ "_meta": stateless })),
        message(json!(6), "prompts/get", json!({ "name": "letter", "arguments": { "to": "Ada" } })),
        message(json!(7), "resources/read", json!({ "uri": "test://notes/1" })),
        message(json!(8), "completion/complete", json!({ "ref": { "type": "ref/prompt", "name": "letter" }, "argument": {} })),
        message(json!(9), "logging/setLevel", json!({ "level": "debug" })),
        json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } }),
        json!({ "jsonrpc": "2.0", "id": 1, "result": { "action": "accept" } }),
        json!([{ "jsonrpc": "2.0", "id": 1, "method": "ping" }, { "jsonrpc": "2.0", "id": 2, "method": "tools/list" }]),
    ]
}

/// How a message is mangled, in one place of it.
#[derive(Clone, Debug)]
enum Mangling {
    Replaced(Value),
    Removed,
    Wrapped,
    Added(String, Value),
}

fn any_mangling() -> impl Strategy<Value = (Index, Mangling)> {
    let mangling = prop_oneof![
        any_json().prop_map(Mangling::Replaced),
        Just(Mangling::Removed),
        Just(Mangling::Wrapped),
        (any::<String>(), any_json()).prop_map(|(key, value)| Mangling::Added(key, value)),
    ];
    (any::<Index>(), mangling)
}

/// Mangles the place that is `at` in the order of a walk.
fn mangle(value: &mut Value, at: &mut usize, mangling: &Mangling) {
    if *at == 0 {
        match (mangling, &mut *value) {
            (Mangling::Replaced(other), value) => *value = other.clone(),
            (Mangling::Removed, value) => *value = Value::Null,
            (Mangling::Added(key, other), Value::Object(members)) => drop(members.insert(key.clone(), other.clone())),
            (Mangling::Wrapped | Mangling::Added(..), value) => *value = json!([value]),
        }
        *at = usize::MAX;
        return;
    }
    *at = at.saturating_sub(usize::from(*at != usize::MAX));
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| mangle(item, at, mangling)),
        Value::Object(members) => {
            let gone: Vec<_> = members.keys().cloned().collect();
            for key in gone {
                let is_next = *at == 0 && matches!(mangling, Mangling::Removed);
                mangle(&mut members[&key], at, mangling);
                if is_next {
                    members.remove(&key);
                }
            }
        }
        _ => {}
    }
}

fn places(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(places).sum(),
        Value::Object(members) => members.values().map(places).sum::<usize>(),
        _ => 0,
    }
}

#[test]
fn any_json_is_answered_with_json_rpc() {
    let envelope = (any_json(), any_json(), any_json()).prop_map(|(id, method, params)| {
        let members = [("jsonrpc", json!("2.0")), ("id", id), ("method", method), ("params", params)];
        Value::Object(members.map(|(key, value)| (key.to_owned(), value)).into_iter().collect::<Map<_, _>>())
    });
    hold((any_headers(), prop_oneof![any_json(), envelope]), |desk, (headers, message)| {
        let answer = desk.ask(&headers, message.to_string());
        assert_eq!(answer.flaw, None, "{headers:?} {message}");
    });
}

#[test]
fn a_message_that_was_mangled_is_answered_with_json_rpc() {
    let cases = (any_headers(), select(messages()), prop::collection::vec(any_mangling(), 0..4));
    hold(cases, |desk, (headers, mut message, manglings)| {
        for (place, mangling) in &manglings {
            let mut place = place.index(places(&message));
            mangle(&mut message, &mut place, mangling);
        }
        let answer = desk.ask(&headers, message.to_string());
        assert_eq!(answer.flaw, None, "{headers:?} {message}");
    });
}

#[test]
fn what_is_no_json_is_a_parse_error() {
    let torn = (select(messages()), any::<Index>(), prop::collection::vec(any::<u8>(), 0..4)).prop_map(|(message, at, more)| {
        let mut text = message.to_string().into_bytes();
        let at = at.index(text.len());
        text.splice(at..at, more);
        text.truncate(at.max(1) * 2);
        text
    });
    let text = prop_oneof![prop::collection::vec(any::<u8>(), 0..64), any::<String>().prop_map(String::into_bytes), torn];
    let is_json = |text: &Vec<u8>| std::str::from_utf8(text).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    hold(text.prop_filter("JSON", move |text| !is_json(text)), |desk, text| {
        let answer = desk.ask(&[], text.clone());
        let shown = String::from_utf8_lossy(&text);
        assert_eq!((answer.status, &answer.flaw), (StatusCode::BAD_REQUEST, &None), "{shown}");
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((&body["error"]["code"], &body["id"]), (&json!(-32700), &Value::Null), "{shown}");
    });
}

/// The head and the body of each file are taken apart as `fuzz/src/request.rs` has them, as far as that matters here.
#[test]
fn what_fuzzing_begins_with_is_answered_with_json_rpc() {
    let desk = Desk::open();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/protocol");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for request in text.split("\n====\n").filter(|request| request.starts_with("POST") && !request.contains("/listen")) {
            let (head, body) = request.split_once("\n\n").unwrap();
            let headers: Vec<_> = head.lines().filter_map(|line| line.split_once(": ")).collect();
            let answer = desk.ask(&headers, body.to_owned());
            assert_eq!(answer.flaw, None, "{request}");
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}
