//! Who may call, with a real authorization server: the official clients find it, come back with a token, and get what the token
//! allows and nothing else. What else is tried is in the tables of the folder; each row says what is tried and what comes back.

mod doors;
mod owners;
mod rejections;
mod scopes;
mod tokens;
mod wire;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{
    http::{Answer, Connection},
    issuer::Issuer,
    node,
    postgres::DataDir,
    server::{Server, binary},
};

/// The address that clients know in most of these tests, and what tokens are for.
const PUBLIC_URL: &str = "https://mcp.example.com";
const RESOURCE: &str = "https://mcp.example.com/mcp";
const LONG: Duration = Duration::from_secs(60);
const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

/// An example of the framework that lets in whom the issuer names.
async fn example(name: &str, issuer: &Issuer, more: &[(&str, &str)]) -> Server {
    let url = issuer.url();
    let mut environment = vec![("AUTHENTICATION", "oauth"), ("OAUTH_ISSUER", &*url), ("PUBLIC_URL", PUBLIC_URL)];
    environment.extend_from_slice(more);
    Server::example(name, &environment).await.ready().await
}

/// The appointments server that does, as a user of the database whom row-level security holds.
async fn appointments(data: &DataDir, issuer: &Issuer, more: &[(&str, &str)]) -> Server {
    let (url, database) = (issuer.url(), data.owned().await);
    let mut environment = vec![("AUTHENTICATION", "oauth"), ("OAUTH_ISSUER", &*url), ("DATABASE_URL", &*database)];
    environment.extend_from_slice(more);
    Server::start(binary("mcp-server"), &environment).await.ready().await
}

/// The header with a good token of this person, which allows this much.
async fn allowed(issuer: &Issuer, who: &str, scope: &str) -> String {
    bearer(&issuer.token("current", &json!({}), &json!({ "aud": RESOURCE, "sub": who, "scope": scope })).await)
}

/// The same, and it allows everything.
async fn of(issuer: &Issuer, who: &str) -> String {
    allowed(issuer, who, "appointments:read appointments:write").await
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

/// The answer to a message on a connection of its own. Headers are whole lines.
async fn send(server: &Server, body: &str, headers: &str) -> Answer {
    let mut connection = Connection::open(server.address()).await;
    connection.send_message(body, headers).await;
    connection.answer().await
}

/// The answer to a request without a body.
async fn bare(server: &Server, method: &str, headers: &str) -> Answer {
    let mut connection = Connection::open(server.address()).await;
    let head = format!("{method} /mcp HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n{headers}\r\n", server.address());
    connection.send(head.as_bytes()).await;
    connection.answer().await
}

/// The value of a header of an answer, or nothing.
fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let lines = answer.head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next().unwrap_or_default()
}

fn challenge(answer: &Answer) -> &str {
    header(answer, "www-authenticate")
}

/// What went over the wire in a step of a client, as `METHOD /path status`.
fn wire(step: &Value) -> Vec<String> {
    let all = step["wire"].as_array().unwrap_or_else(|| panic!("{step}"));
    all.iter().map(|one| format!("{} {}", one["what"].as_str().unwrap_or_default(), one["status"])).collect()
}

fn has(step: &Value, what: &str) -> bool {
    wire(step).iter().any(|one| one == what)
}

/// What every client is told and does, whichever revision it speaks and however it introduces itself.
fn is_the_story(told: &Value, server: &Server, issuer: &Issuer, who: &str) {
    assert!(told["failed"].is_null(), "{told:#}");
    let resource = format!("http://{}/mcp", server.address());
    let connect = &told["connect"];
    assert_eq!(wire(connect)[..2], ["POST /mcp 401", "GET /.well-known/oauth-protected-resource/mcp 200"], "{connect:#}");
    let metadata = format!("resource_metadata=\"http://{}/.well-known/oauth-protected-resource/mcp\"", server.address());
    let refused = connect["wire"][0]["challenge"].as_str().unwrap_or_default();
    assert_eq!(refused, format!("Bearer {metadata}, scope=\"appointments:read\""));
    assert_eq!(connect["asked"]["resource"], resource, "{connect:#}");
    assert_eq!(connect["asked"]["code_challenge_method"], "S256");
    assert_eq!((&connect["state"], &connect["iss"]), (&json!(true), &json!(issuer.url())), "{connect:#}");
    assert_eq!(connect["granted"], "appointments:read", "who came to read is let read and no more");

    let found = &told["search"]["result"]["structuredContent"]["data"];
    assert_eq!((&found["userId"], &found["count"]), (&json!(who), &json!(0)), "{told:#}");

    let book = &told["book"];
    let refused = book["wire"].as_array().into_iter().flatten().find(|one| one["status"] == 403);
    let words = refused.unwrap_or_else(|| panic!("{book:#}"))["challenge"].as_str().unwrap_or_default();
    for part in [&*metadata, "scope=\"appointments:read appointments:write\"", "error=\"insufficient_scope\""] {
        assert!(words.contains(part), "{part} is not in {words}");
    }
    assert_eq!(book["granted"], "appointments:read appointments:write", "{book:#}");
    assert_eq!(book["result"]["structuredContent"]["data"]["appointment"]["title"], "Dentist", "{book:#}");

    // What it might do before it still may.
    let both = &told["both"];
    assert!(both["asked"].is_null() && !has(both, "POST /mcp 403"), "it has to ask again: {both:#}");
    assert_eq!(both["result"]["structuredContent"]["data"]["count"], 1, "{both:#}");

    assert_eq!(told["expire"]["status"], 401, "{told:#}");
    let words = told["expire"]["challenge"].as_str().unwrap_or_default();
    assert!(words.contains("error=\"invalid_token\", error_description=\"the token has expired\""), "{words}");
    assert_eq!(told["refresh"]["result"]["structuredContent"]["data"]["count"], 1, "{told:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn official_clients_find_the_way_to_a_token_and_to_a_wider_and_a_newer_one() {
    let issuer = Issuer::start(&["--token-seconds", "8"]).await;
    let data = DataDir::new();
    let server = appointments(&data, &issuer, &[("OAUTH_LEEWAY_SECS", "1")]).await;
    let url = server.url();
    let booking = json!({ "title": "Dentist", "startsAt": "2031-05-05T10:00", "durationMinutes": 30 }).to_string();
    let tell = async |who: &str, more: &[&str]| {
        let options = [&["--url", &*url, "--as", who, "--booking", &*booking], more].concat();
        node::client("authorization.mjs", &options).await
    };
    let document = "https://client.example.com/oauth/client.json";
    let (by_document, by_revision) = (["--document", document], ["--revision", "2025-11-25"]);
    let (registered, documented, older) = tokio::join!(tell("ada", &[]), tell("bob", &by_document), tell("eve", &by_revision));
    for (told, who) in [(&registered, "ada"), (&documented, "bob"), (&older, "eve")] {
        is_the_story(told, &server, &issuer, who);
    }
    assert!(has(&registered["connect"], "POST /reg 201"), "{registered:#}");
    assert!(!has(&documented["connect"], "POST /reg 201"), "a document is instead of a registration: {documented:#}");
    assert_eq!(documented["connect"]["registered"], document);
    for told in [&registered, &documented] {
        let refresh = &told["refresh"];
        assert!(refresh["asked"].is_null(), "nobody is asked for a refresh: {refresh:#}");
        let grants: Vec<_> = refresh["wire"].as_array().into_iter().flatten().filter_map(|one| one["grant"].as_str()).collect();
        assert_eq!((grants, &refresh["rotated"]), (vec!["refresh_token"], &json!(true)), "{refresh:#}");
    }
}

/// A stream of a session, and one of a client that listens, each opened with a token that is good for three seconds more.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_token_that_opened_it_and_is_opened_again_with_another() {
    let issuer = Issuer::start(&[]).await;
    let server = example("everything", &issuer, &[("OAUTH_LEEWAY_SECS", "1")]).await;
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let claims = json!({ "aud": RESOURCE, "sub": "ada", "exp": seconds + 2.0 });
    let short = bearer(&issuer.token("current", &json!({}), &claims).await);
    let long = of(&issuer, "ada").await;
    let session = Connection::open(server.address()).await.open_session_with(&short).await;
    let in_session = format!("mcp-session-id: {session}\r\nmcp-protocol-version: 2025-11-25\r\n");
    let open = async |headers: &str| {
        let mut stream = Connection::open(server.address()).await;
        let head = format!("GET /mcp HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n{headers}\r\n", server.address());
        stream.send(head.as_bytes()).await;
        stream.read_until("\r\n\r\n").await;
        stream
    };
    let mut own = open(&format!("{short}{in_session}")).await;
    let mut kept = open(&format!("{long}{}", in_session.replace(&session, &of_another(&server, &long).await))).await;
    let listen = json!({ "jsonrpc": "2.0", "id": "mine", "method": "subscriptions/listen", "params": {
        "notifications": { "resourceSubscriptions": ["test://watched-resource"] },
        "_meta": { "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} },
    } });
    let stateless =
        "mcp-protocol-version: 2026-07-28\r\nmcp-method: subscriptions/listen\r\naccept: application/json, text/event-stream\r\n";
    let mut listening = Connection::open(server.address()).await;
    listening.send_message(&listen.to_string(), &format!("{short}{stateless}")).await;
    listening.read_until("notifications/subscriptions/acknowledged").await;

    // Cleanly: with the end of a chunked body, and a word on when to come back.
    let ended = tokio::time::timeout(LONG, own.read_until("\r\n0\r\n\r\n")).await.expect("the session's own stream ends");
    assert!(ended.contains("retry: "), "{ended}");
    let ended = tokio::time::timeout(LONG, listening.read_until("\r\n0\r\n\r\n")).await.expect("the listening ends");
    assert!(ended.contains(r#""id":"mine""#), "with the answer to its request: {ended}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
    assert!(now >= seconds + 3.0, "not before the token's end and what clocks may differ by: {}", now - seconds);

    let refused = bare(&server, "GET", &format!("{short}{in_session}")).await;
    assert_eq!(refused.status, 401, "{}", refused.body);
    assert!(challenge(&refused).contains("error_description=\"the token has expired\""), "{}", challenge(&refused));
    assert_eq!(header(&refused, "cache-control"), "no-store");
    // Its session is there as before, for whoever brings another token of hers.
    open(&format!("{long}{in_session}")).await;
    let kept_open = tokio::time::timeout(Duration::from_millis(300), kept.read_until("\r\n0\r\n\r\n")).await;
    assert!(kept_open.is_err(), "a stream whose token is good goes on");
}

async fn of_another(server: &Server, headers: &str) -> String {
    Connection::open(server.address()).await.open_session_with(headers).await
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_known_outlive_the_issuer_and_keys_that_are_not_are_waited_for() {
    let issuer = Issuer::start(&[]).await;
    let port = issuer.address().port().to_string();
    let (ada, bob) = (of(&issuer, "ada").await, of(&issuer, "bob").await);
    let knows = example("slow", &issuer, &[]).await;
    assert_eq!(send(&knows, PING, &ada).await.status, 200);
    let environment = [("AUTHENTICATION", "oauth"), ("OAUTH_ISSUER", &*issuer.url()), ("PUBLIC_URL", PUBLIC_URL)]
        .map(|(name, value)| (name, value.to_owned()));
    issuer.leave().await;

    assert_eq!(send(&knows, PING, &bob).await.status, 200, "a token that was never seen, by a key that was");
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, &**value)).collect();
    let waits = Server::example("slow", &environment).await.ready().await;
    let away = send(&waits, PING, &ada).await;
    assert_eq!((away.status, header(&away, "retry-after")), (503, "5"), "{away:?}");
    assert_eq!(challenge(&away), "", "another token would be no better");
    assert_eq!(send(&waits, PING, "").await.status, 401, "who brings none is told where to go all the same");

    let issuer = Issuer::start(&["--port", &port]).await;
    let (ada, begun) = (of(&issuer, "ada").await, Instant::now());
    while send(&waits, PING, &ada).await.status != 200 {
        assert!(begun.elapsed() < LONG, "it does not come back:\n{}", waits.stderr());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_to_the_other_color_with_its_token_and_to_nobody_else() {
    let issuer = Issuer::start(&[]).await;
    let data = DataDir::new();
    let database = data.owned().await;
    let start = async |color, version| {
        let environment = [
            ("DATABASE_URL", &*database),
            ("RELEASE_COLOR", color),
            ("RELEASE_VERSION", version),
            // A call is handed to its conversation's build with its token, so the replicas must prove themselves.
            ("FORWARD_KEY", "a key that both of these colors have"),
        ];
        example("lasting", &issuer, &environment).await
    };
    let (blue, green) = (start("blue", "1.0.0").await, start("green", "2.0.0").await);
    let (ada, bob) = (of(&issuer, "ada").await, of(&issuer, "bob").await);
    let session = Connection::open(blue.address()).await.open_session_with(&ada).await;
    let in_session = format!("mcp-session-id: {session}\r\nmcp-protocol-version: 2025-11-25\r\n");

    // A call of Ada's that is under way, and the event that it began with.
    let mut call = Connection::open(blue.address()).await;
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": { "name": "tell", "arguments": { "n": 1 }, "_meta": { "progressToken": 1 } } });
    call.send_message(&message.to_string(), &format!("{ada}{in_session}accept: application/json, text/event-stream\r\n")).await;
    let begun = call.read_until("\"begun\"").await;
    let event = begun.lines().find_map(|line| line.strip_prefix("id:")).expect("an event has an id").trim();
    let own = Connection::open(blue.address()).await.open_session_with(&bob).await;

    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }).to_string();
    let another = of(&issuer, "ada").await;
    for color in [&blue, &green] {
        // Another token of Ada's will do, and none of Bob's.
        assert_eq!(send(color, &list, &format!("{another}{in_session}")).await.status, 200);
        for (what, answer, status) in [
            ("bob calls in Ada's session", send(color, &list, &format!("{bob}{in_session}")).await, 404),
            ("bob listens in Ada's session", bare(color, "GET", &format!("{bob}{in_session}")).await, 404),
            ("bob ends Ada's session", bare(color, "DELETE", &format!("{bob}{in_session}")).await, 404),
            (
                "bob reads Ada's stream on in her session",
                bare(color, "GET", &format!("{bob}{in_session}last-event-id: {event}\r\n")).await,
                404,
            ),
            (
                "bob reads Ada's stream on in his session",
                bare(color, "GET", &format!("{bob}mcp-session-id: {own}\r\nlast-event-id: {event}\r\n")).await,
                400,
            ),
            ("nobody calls in Ada's session", send(color, &list, &in_session).await, 401),
        ] {
            assert_eq!(answer.status, status, "{what}: {}{}", answer.head, answer.body);
            assert!(!answer.body.contains("begun"), "{what}: {}", answer.body);
        }
    }
    a_pinned_conversation_is_its_principals(&blue, &green, &ada, &bob).await;
    blue.release_calls();
    tokio::time::timeout(LONG, call.read_until("told 1 by blue")).await.expect("and Ada's call is answered");
}

/// Green hands what is pinned to blue on to blue, with its token, which blue asks for again.
async fn a_pinned_conversation_is_its_principals(blue: &Server, green: &Server, ada: &str, bob: &str) {
    let call = async |server: &Server, tool: &str, arguments: Value, headers: &str| {
        let result = Connection::open(server.address()).await.call(tool, &arguments, headers).await;
        result["structuredContent"].clone()
    };
    let ordered = call(blue, "order", json!({ "thing": "milk" }), ada).await;
    let handle = &ordered["conversation"];
    assert!(handle.is_string(), "{ordered}");
    let handed = call(green, "add", json!({ "thing": "tea", "conversation": handle }), ada).await;
    assert_eq!((&handed["color"], &handed["things"]), (&json!("blue"), &json!(["milk", "tea"])), "{handed}");
    // Whoever knows the handle has a conversation of their own by it.
    let his = call(green, "add", json!({ "thing": "rum", "conversation": handle }), bob).await;
    assert_eq!((&his["color"], &his["things"]), (&json!("green"), &json!(["rum"])), "{his}");
    let params = json!({ "name": "add", "arguments": { "thing": "gin", "conversation": handle } });
    assert_eq!(Connection::open(green.address()).await.ask("tools/call", &params, "").await.status, 401);
}
