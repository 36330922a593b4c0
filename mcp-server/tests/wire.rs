//! What real clients send over HTTP, and what they get: each row is a habit of a public client, a gateway or a browser.

#![expect(clippy::unwrap_used, reason = "what a test needs fails the test when it is missing")]

use axum::body::Body;
use bg_runtime::{Color, Release, lifecycle::Stage};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use mcp_server::{
    App, HttpConfig, Reply, Tool,
    authentication::{Authentication, OAuth},
    extract::{Parameters, Peer},
    limits::{LimitsConfig, PrincipalLimits},
    prompt::Prompt,
    resource::{Changes, Read, ResourceTemplate},
    rmcp::model::{ContentBlock, PromptMessage, ResourceContents, Role},
    testing::{self, Server},
};
use serde_json::{Value, json};

const PAGE: &str = "http://localhost:6274";
const STATELESS: [(&str, &str); 1] = [("mcp-protocol-version", "2026-07-28")];

#[derive(serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
struct Greeting {
    name: String,
}

fn app() -> App<()> {
    let greet = async |Parameters(greeting): Parameters<Greeting>| {
        let words = format!("Hello, {}!", greeting.name);
        Reply::new(greeting, words)
    };
    let tell = async |peer: Peer, Parameters(greeting): Parameters<Greeting>| {
        peer.progress(1.0, 2.0, &greeting.name).await;
        greeting.name
    };
    let letter = |_| async { Ok(vec![PromptMessage::new(Role::User, ContentBlock::text("Dear Ada,"))]) };
    let note = |read: Read| async move { Ok(ResourceContents::text(read.variables["id"].clone(), read.uri)) };
    App::new(Release::new(Color::Blue, "1.0.0", "test").unwrap(), ())
        .subscriptions(Changes::new())
        .tool(Tool::new("greet", greet).describe("Greets a person by name.").read_only())
        .tool(Tool::new("tell", tell).describe("Reports its progress.").read_only())
        .prompt(Prompt::new("letter", letter).argument("to", "The recipient", false).complete(|_, _| vec!["Ada".to_owned()]))
        .resource_template(ResourceTemplate::new("test://notes/{id}", "Notes", note))
}

async fn start() -> Server {
    testing::start(app()).await.unwrap()
}

async fn start_with(change: impl FnOnce(&mut HttpConfig)) -> Server {
    let mut config = HttpConfig::default();
    change(&mut config);
    testing::start_with(app(), config).await.unwrap()
}

/// One request, and its response as it begins.
async fn send(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "localhost");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server.handle(request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()).await
}

async fn post(server: &Server, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
    let headers: Vec<_> = [("content-type", "application/json")].into_iter().chain(headers.iter().copied()).collect();
    read(send(server, "POST", "/mcp", &headers, body).await).await
}

async fn read(response: Response<Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into()))
}

fn message(id: &str, method: &str, params: &Value) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}

fn initialize() -> String {
    let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } });
    message("0", "initialize", &params)
}

async fn session(server: &Server) -> String {
    let response = send(server, "POST", "/mcp", &[("content-type", "application/json")], &initialize()).await;
    response.headers()["mcp-session-id"].to_str().unwrap().to_owned()
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response.headers().get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
}

#[tokio::test]
async fn the_end_of_a_session_is_204_whether_or_not_it_is_served() {
    let server = start().await;
    for path in ["/mcp", "/mcp/"] {
        for is_served in [false, true] {
            let session = session(&server).await;
            let headers = [("mcp-session-id", &*session), ("accept", "application/json, text/event-stream")];
            if is_served {
                let call = message("1", "tools/call", &json!({ "name": "tell", "arguments": { "name": "Ada" } }));
                assert_eq!(post(&server, &headers, &call).await.0, 200);
            }
            let ended = send(&server, "DELETE", path, &headers[..1], "").await;
            assert_eq!(ended.status(), 204, "{path} {is_served}");
            assert_eq!(read(ended).await.1, "", "{path} {is_served}");
            assert_eq!(send(&server, "DELETE", path, &headers[..1], "").await.status(), 404, "{path} {is_served}");
        }
    }
}

#[tokio::test]
async fn a_stream_is_opened_for_every_accept_that_allows_one() {
    let server = start().await;
    for accept in [
        &[][..],
        &[""],
        &["*/*"],
        &["text/*"],
        &["text/event-stream"],
        &["application/json, */*"],
        &["application/json", "text/event-stream;q=0.5"],
        &["text/*;q=0.1, application/json"],
    ] {
        let session = session(&server).await;
        let mut headers = vec![("mcp-session-id", &*session)];
        headers.extend(accept.iter().map(|accept| ("accept", *accept)));
        let response = send(&server, "GET", "/mcp", &headers, "").await;
        assert_eq!((response.status().as_u16(), header(&response, "content-type")), (200, "text/event-stream"), "{accept:?}");
    }
    for accept in ["application/json", "text/event-stream;q=0, */*", "*/*;q=0"] {
        let session = session(&server).await;
        let response = send(&server, "GET", "/mcp", &[("mcp-session-id", &*session), ("accept", accept)], "").await;
        assert_eq!((response.status().as_u16(), header(&response, "content-type")), (406, "application/json"), "{accept}");
    }
    let stateless = send(&server, "GET", "/mcp", &STATELESS, "").await;
    assert_eq!(stateless.status(), 405, "2026-07-28 has no such stream, whatever is accepted");
}

#[tokio::test]
async fn a_blank_session_id_is_no_session_id() {
    let server = start().await;
    for blank in ["", " ", "\t ", "  "] {
        let headers = [("mcp-session-id", blank)];
        for body in [
            initialize(),
            message("1", "tools/list", &json!({})),
            message("1", "prompts/get", &json!({ "name": "letter" })),
            message("1", "tools/call", &json!({ "name": "tell", "arguments": { "name": "Ada" } })),
        ] {
            let (status, answer) = post(&server, &headers, &body).await;
            assert!(status == 200 && answer["result"].is_object(), "{blank:?} {body}: {status} {answer}");
        }
    }
    assert_eq!(post(&server, &[("mcp-session-id", "x")], &message("1", "tools/list", &json!({}))).await.0, 404);
}

#[tokio::test]
async fn an_id_is_the_integer_that_it_equals() {
    let server = start().await;
    for (method, params) in [("ping", json!({})), ("prompts/get", json!({ "name": "letter" }))] {
        for (id, echoed) in [("1.0", "1"), ("-2.0", "-2"), ("1e2", "100"), ("9007199254740993.0", "9007199254740993"), ("7", "7")]
        {
            let (status, answer) = post(&server, &[], &message(id, method, &params)).await;
            assert_eq!((status, answer["id"].to_string()), (200, echoed.to_owned()), "{method} {id}: {answer}");
            let (_, answers) = post(&server, &[], &format!("[{}]", message(id, method, &params))).await;
            assert_eq!(answers[0]["id"].to_string(), echoed, "in a batch: {answers}");
        }
        for (id, problem) in
            [("1.5", "fraction"), ("1e400", "outside"), ("18446744073709551616", "outside"), ("null", "MCP allows no null")]
        {
            let (status, answer) = post(&server, &[], &message(id, method, &params)).await;
            let told = answer["error"]["message"].as_str().unwrap_or_default();
            assert!(status == 400 && answer["error"]["code"] == -32600 && told.contains(problem), "{id}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_byte_order_mark_is_skipped_and_a_compressed_body_is_refused() {
    let server = start().await;
    let ping = message("1", "ping", &json!({}));
    for body in [format!("\u{feff}{ping}"), format!("\u{feff}[{ping}]"), format!("\u{feff}\r\n{ping}")] {
        assert_eq!(post(&server, &[], &body).await.0, 200, "{body:?}");
    }
    assert_eq!(post(&server, &[], &format!("\u{feff}\u{feff}{ping}")).await.0, 400, "one mark is one mark");
    for encoding in ["gzip", "GZIP", "br", "identity, deflate"] {
        let headers = [("content-type", "application/json"), ("content-encoding", encoding)];
        let response = send(&server, "POST", "/mcp", &headers, "\u{1f}").await;
        assert_eq!((response.status().as_u16(), header(&response, "accept-encoding")), (415, "identity"), "{encoding}");
        assert!(read(response).await.1["error"]["message"].is_string());
    }
    assert_eq!(post(&server, &[("content-encoding", "identity")], &ping).await.0, 200);
}

#[tokio::test]
async fn an_empty_cursor_is_the_first_page() {
    let server = start().await;
    for (cursor, is_taken) in [("", true), ("2", false)] {
        let (_, answer) = post(&server, &[], &message("1", "tools/list", &json!({ "cursor": cursor }))).await;
        assert_eq!(answer["result"]["tools"].is_array(), is_taken, "{cursor}: {answer}");
    }
}

#[tokio::test]
async fn an_unknown_method_is_called_not_found_everywhere() {
    let server = start().await;
    let session = session(&server).await;
    let stream = "application/json, text/event-stream";
    let meta =
        json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
    for method in
        ["no/such", "tasks/get", "tasks/list", "skills/list", "resources/directory/read", "logging/setLevel", "roots/list"]
    {
        let params = json!({ "level": "info", "taskId": "1", "uri": "a", "name": "a" });
        let body = message("1", method, &params);
        for headers in [&[][..], &[("mcp-session-id", &*session)], &[("mcp-session-id", &*session), ("accept", stream)]] {
            let (_, answer) = post(&server, headers, &body).await;
            let text = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
            let expected = format!("Method not found: {method}");
            assert!(text.contains(&expected) && text.contains("-32601"), "{headers:?} {text}");
        }
        let body = message("1", method, &json!({ "level": "info", "taskId": "1", "uri": "a", "name": "a", "_meta": meta }));
        let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", method), ("mcp-name", "1")];
        let (status, answer) = post(&server, &headers[..2], &body).await;
        let (status, answer) =
            if answer["error"]["code"] == -32020 { post(&server, &headers, &body).await } else { (status, answer) };
        assert_eq!((status, &answer["error"]["message"]), (404, &json!(format!("Method not found: {method}"))), "{answer}");
    }
    for method in ["ping", "resources/subscribe", "resources/unsubscribe"] {
        let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", method)];
        let (status, answer) = post(&server, &headers, &message("1", method, &json!({ "uri": "a", "_meta": meta }))).await;
        assert_eq!((status, &answer["error"]["message"]), (404, &json!(format!("Method not found: {method}"))), "{answer}");
    }
    let (_, answer) = post(&server, &[], &message("1", "subscriptions/listen", &json!({ "notifications": {} }))).await;
    assert_eq!(answer["error"]["message"], "Method not found: subscriptions/listen", "{answer}");
    let (_, answer) = post(&server, &[], &message("1", "notifications/initialized", &json!({}))).await;
    assert_eq!(answer["error"]["message"], "Method not found: notifications/initialized", "{answer}");
}

#[tokio::test]
async fn wrong_parameters_of_initialize_are_named() {
    let server = start().await;
    for (params, flaw) in [
        (json!({ "capabilities": {}, "clientInfo": { "name": "a", "version": "1" } }), "`protocolVersion` is missing"),
        (json!({ "protocolVersion": "2025-11-25", "capabilities": {} }), "`clientInfo` is missing"),
        (json!({ "protocolVersion": "2025-11-25", "capabilities": [], "clientInfo": {} }), "`capabilities` must be an object"),
        (json!([]), "`params` must be an object"),
    ] {
        let (status, answer) = post(&server, &[], &message("1", "initialize", &params)).await;
        let told = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && answer["error"]["code"] == -32602 && told.ends_with(flaw), "{params}: {answer}");
    }
    let (status, answer) = post(&server, &[], r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#).await;
    assert!(status == 400 && answer["error"]["message"].to_string().contains("`protocolVersion` is missing"), "{answer}");
}

#[tokio::test]
async fn a_completion_of_nothing_that_is_there_is_refused() {
    let server = start().await;
    let argument = json!({ "name": "to", "value": "A" });
    for (reference, code) in [
        (json!({ "type": "ref/prompt", "name": "letter" }), Value::Null),
        (json!({ "type": "ref/prompt", "name": "nobody" }), json!(-32602)),
        (json!({ "type": "ref/resource", "uri": "test://notes/{id}" }), Value::Null),
        (json!({ "type": "ref/resource", "uri": "test://nothing/{id}" }), json!(-32602)),
    ] {
        let params = json!({ "ref": reference, "argument": argument });
        let (_, answer) = post(&server, &[], &message("1", "completion/complete", &params)).await;
        assert_eq!(answer["error"]["code"], code, "{reference}: {answer}");
    }
}

#[tokio::test]
async fn variables_of_an_address_are_decoded() {
    let server = start().await;
    for (written, meant) in [("a%20b%2Fc", "a b/c"), ("%C3%A4", "ä"), ("plain", "plain"), ("50%", "50%")] {
        let answer = server.ask("resources/read", json!({ "uri": format!("test://notes/{written}") })).await;
        assert_eq!(answer["contents"][0]["text"], meant, "{written}");
    }
}

#[tokio::test]
async fn a_slash_at_the_end_changes_nothing_and_the_root_says_where_the_endpoint_is() {
    let server = start_with(|config| config.public_url = Some("https://mcp.example.com/".parse().unwrap())).await;
    let json_type = ("content-type", "application/json");
    let list = message("1", "tools/list", &json!({}));
    let (status, answer) = read(send(&server, "POST", "/mcp/", &[json_type], &list).await).await;
    assert!(status == 200 && answer["result"]["tools"].is_array(), "{answer}");
    let (status, _) = read(send(&server, "POST", "/mcp/?a=b", &[json_type], &list).await).await;
    assert_eq!(status, 200);
    let session = session(&server).await;
    let stream = send(&server, "GET", "/mcp/", &[("mcp-session-id", &*session)], "").await;
    assert_eq!((stream.status().as_u16(), header(&stream, "content-type")), (200, "text/event-stream"));
    for path in ["/mcp/", "/"] {
        let asked = [("origin", PAGE), ("access-control-request-method", "POST")];
        let preflight = send(&server, "OPTIONS", path, &asked, "").await;
        assert_eq!((preflight.status().as_u16(), header(&preflight, "access-control-allow-origin")), (204, PAGE), "{path}");
    }
    for (method, accept, status, kind) in [
        ("GET", "text/html", 200, "text/plain; charset=utf-8"),
        ("GET", "*/*", 200, "text/plain; charset=utf-8"),
        ("GET", "application/json", 200, "application/json"),
        ("GET", "text/event-stream", 404, "application/json"),
        ("POST", "application/json, text/event-stream", 404, "application/json"),
        ("DELETE", "*/*", 404, "application/json"),
    ] {
        let response = send(&server, method, "/", &[("accept", accept), ("origin", PAGE), json_type], &list).await;
        let told =
            (response.status().as_u16(), header(&response, "content-type"), header(&response, "access-control-allow-origin"));
        assert_eq!(told, (status, kind, PAGE), "{method} {accept}");
        assert!(read(response).await.1.to_string().contains("https://mcp.example.com/mcp"), "{method} {accept}");
    }
    let elsewhere = send(&server, "GET", "/nowhere", &[("origin", PAGE)], "").await;
    assert_eq!((elsewhere.status().as_u16(), header(&elsewhere, "access-control-allow-origin")), (404, PAGE));
}

#[tokio::test]
async fn the_slash_counts_against_the_same_limits() {
    let server = start_with(|config| {
        config.authentication = Authentication::Header("x-user".parse().unwrap());
        config.limits = LimitsConfig {
            principal: PrincipalLimits { rate: 1, burst: 1, ..PrincipalLimits::default() },
            ..LimitsConfig::default()
        };
    })
    .await;
    let headers = [("content-type", "application/json"), ("x-user", "ada"), ("origin", PAGE)];
    let ping = message("1", "ping", &json!({}));
    assert_eq!(send(&server, "POST", "/mcp/", &headers, &ping).await.status(), 200);
    for path in ["/mcp", "/mcp/"] {
        let refused = send(&server, "POST", path, &headers, &ping).await;
        assert_eq!((refused.status().as_u16(), header(&refused, "access-control-allow-origin")), (429, PAGE), "{path}");
    }
    let asked = [("origin", PAGE), ("access-control-request-headers", "x-user")];
    let preflight = send(&server, "OPTIONS", "/mcp", &asked, "").await;
    assert_eq!(preflight.status(), 204, "a preflight names nobody and is no call");
    assert!(header(&preflight, "access-control-allow-headers").split(", ").any(|name| name == "x-user"));
}

#[tokio::test]
async fn a_page_reads_every_refusal() {
    let server = start_with(|config| config.body_limit = 1000).await;
    let json_type = ("content-type", "application/json");
    let large = message("1", "ping", &json!({ "a": "x".repeat(1000) }));
    for (status, method, path, headers, body) in [
        (400, "POST", "/mcp", &[json_type][..], "{"),
        (404, "POST", "/mcp", &[json_type, ("mcp-session-id", "x")], &*message("1", "ping", &json!({}))),
        (404, "GET", "/nowhere", &[], ""),
        (405, "PUT", "/mcp", &[], ""),
        (405, "PUT", "/health", &[], ""),
        (406, "GET", "/mcp", &[("accept", "application/json")], ""),
        (413, "POST", "/mcp", &[json_type], &*large),
        (415, "POST", "/mcp", &[("content-type", "text/plain")], "{}"),
        (415, "POST", "/mcp", &[json_type, ("content-encoding", "gzip")], "{}"),
        (200, "GET", "/health", &[], ""),
    ] {
        let headers: Vec<_> = headers.iter().copied().chain([("origin", PAGE)]).collect();
        let response = send(&server, method, path, &headers, body).await;
        let told = (response.status().as_u16(), header(&response, "access-control-allow-origin"), header(&response, "vary"));
        assert_eq!(told, (status, PAGE, "Origin"), "{method} {path} {headers:?}");
    }
    let foreign = send(&server, "GET", "/health", &[("origin", "https://evil.example.net")], "").await;
    assert_eq!(header(&foreign, "access-control-allow-origin"), "");
    let rebound = send(&server, "GET", "/health", &[("origin", PAGE), ("host", "evil.example.net")], "").await;
    assert_eq!(header(&rebound, "access-control-allow-origin"), "");
}

#[tokio::test]
async fn a_page_reads_that_the_process_is_full_or_has_stopped() {
    let hang = Tool::new("hang", async || std::future::pending::<String>().await).describe("Never ends.").read_only();
    let limits = LimitsConfig { calls: 1, ..LimitsConfig::default() };
    let config = HttpConfig { limits, ..HttpConfig::default() };
    let server = testing::start_with(app().tool(hang), config).await.unwrap();
    let headers = [("content-type", "application/json"), ("origin", PAGE)];
    let hang = message("1", "tools/call", &json!({ "name": "hang" }));
    let mut hanging = std::pin::pin!(send(&server, "POST", "/mcp", &headers, &hang));
    assert!(futures_util::poll!(hanging.as_mut()).is_pending());
    for path in ["/mcp", "/mcp/"] {
        let full = send(&server, "POST", path, &headers, &message("2", "ping", &json!({}))).await;
        assert_eq!((full.status().as_u16(), header(&full, "access-control-allow-origin")), (429, PAGE), "{path}");
        let asked = [("origin", PAGE), ("access-control-request-method", "POST")];
        assert_eq!(send(&server, "OPTIONS", path, &asked, "").await.status(), 204, "without it, no page reads the 429");
    }
    let lifecycle = server.running().lifecycle().clone();
    for stage in [Stage::Leaving, Stage::Draining, Stage::Stopped] {
        let _ = lifecycle.advance(stage, "the test says so");
    }
    let stopped = send(&server, "POST", "/mcp", &headers, &message("3", "ping", &json!({}))).await;
    let told = (stopped.status().as_u16(), header(&stopped, "access-control-allow-origin"), header(&stopped, "release-stage"));
    assert_eq!(told, (503, PAGE, "stopped"));
    assert_eq!(send(&server, "OPTIONS", "/mcp", &[("origin", PAGE)], "").await.status(), 204);
}

#[tokio::test]
async fn every_page_finds_the_way_to_a_token() {
    let issuer = "https://auth.example.com/tenant";
    let protected = start_with(|config| {
        config.authentication = Authentication::OAuth(OAuth { issuer: issuer.to_owned(), ..OAuth::default() });
        config.public_url = Some("https://mcp.example.com".parse().unwrap());
    })
    .await;
    let open = start().await;
    const RESOURCE: &str = "/.well-known/oauth-protected-resource";
    const SERVER: &str = "/.well-known/oauth-authorization-server";
    const OPENID: &str = "/.well-known/openid-configuration";
    let elsewhere = "https://inspector.example.org";
    for path in [RESOURCE, SERVER, OPENID] {
        for path in [path.to_owned(), format!("{path}/mcp")] {
            for server in [&protected, &open] {
                let asked = [("origin", elsewhere), ("access-control-request-headers", "mcp-protocol-version")];
                let preflight = send(server, "OPTIONS", &path, &asked, "").await;
                let told = (preflight.status().as_u16(), header(&preflight, "access-control-allow-origin"));
                assert_eq!(told, (204, elsewhere), "{path}");
                assert!(header(&preflight, "access-control-allow-headers").contains("mcp-protocol-version"), "{path}");
            }
            let missing = send(&open, "GET", &path, &[("origin", elsewhere)], "").await;
            assert_eq!((missing.status().as_u16(), header(&missing, "access-control-allow-origin")), (404, "*"), "{path}");
            assert!(read(missing).await.1["error"].to_string().contains("AUTHENTICATION"), "{path}");
            let found = send(&protected, "GET", &path, &[("origin", elsewhere)], "").await;
            let told = (found.status().as_u16(), header(&found, "access-control-allow-origin"), header(&found, "location"));
            let expected = match path.strip_suffix("/mcp").unwrap_or(&path) {
                SERVER => (307, "*", "https://auth.example.com/.well-known/oauth-authorization-server/tenant"),
                OPENID => (307, "*", "https://auth.example.com/tenant/.well-known/openid-configuration"),
                _ => (200, "*", ""),
            };
            assert_eq!(told, expected, "{path}");
        }
    }
    let page = "https://mcp.example.com";
    let headers = [("content-type", "application/json"), ("origin", page), ("host", "mcp.example.com")];
    let refused = send(&protected, "POST", "/mcp", &headers, &initialize()).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "access-control-allow-origin")), (401, page));
    assert!(header(&refused, "access-control-expose-headers").contains("www-authenticate"));
}

#[tokio::test]
async fn https_is_for_good_where_clients_come_by_it() {
    let secure = start_with(|config| config.public_url = Some("https://mcp.example.com".parse().unwrap())).await;
    let plain = start_with(|config| config.public_url = Some("http://mcp.example.com".parse().unwrap())).await;
    for (method, path) in
        [("GET", "/health"), ("GET", "/"), ("GET", "/nowhere"), ("OPTIONS", "/mcp"), ("POST", "/mcp"), ("PUT", "/mcp")]
    {
        let response = send(&secure, method, path, &[], &initialize()).await;
        assert_eq!(header(&response, "strict-transport-security"), "max-age=31536000", "{method} {path}");
        let response = send(&plain, method, path, &[], &initialize()).await;
        assert!(!response.headers().contains_key(header::STRICT_TRANSPORT_SECURITY), "{method} {path}");
    }
}
