//! An application with a tool of every kind that needs no database, and the runtime it lives in.

use std::{sync::OnceLock, time::Duration};

use axum::{Json, Router, routing::get};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bg_runtime::{Color, Release, lifecycle::Status};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use mcp_server::{
    App, HttpConfig, Reply, Tool, ToolError,
    authentication::{Authentication, OAuth},
    extract::{Inputs, Parameters, Peer},
    limits::{AddressLimits, LimitsConfig},
    prompt::{Prompt, PromptCall},
    resource::{Changes, Read, Resource, ResourceTemplate},
    rmcp::model::{
        CallToolResponse, CallToolResult, ContentBlock, InputRequests, InputRequiredResult, JsonObject, PromptMessage,
        ResourceContents, Role,
    },
    testing::{self, Server},
};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Runtime,
};

use crate::request::Asked;

/// An application that answers in this process.
pub struct House {
    runtime: Runtime,
    server: Server,
}

/// What came back.
#[derive(Debug)]
pub struct Answered {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, or what came of it until nothing more did.
    pub body: Bytes,
    /// Whether that was all.
    pub ended: bool,
}

#[derive(Deserialize, schemars::JsonSchema)]
struct Greeting {
    name: String,
    times: Option<u8>,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Sum {
    values: Vec<f64>,
    unit: Option<Unit>,
}

#[derive(Clone, Copy, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Unit {
    Meter,
    Second,
}

#[derive(Serialize, schemars::JsonSchema)]
struct Total {
    total: f64,
    unit: Option<Unit>,
}

/// Longer than any deadline within an answer, and no time at all while time is paused.
const PATIENCE: Duration = Duration::from_secs(300);
/// The most that is read of one answer, each frame of which is an event or the whole.
const MOST_FRAMES: usize = 100;
/// What either side of a connection sends before the other one reads.
const MOST_BYTES: usize = 64 * 1024;
/// The issuer of tokens, and what they are for. Nobody answers there: the address of its keys is known.
const ISSUER: &str = "http://localhost:9";
const RESOURCE: &str = "https://mcp.example.com/mcp";

// === impl House ===

impl House {
    /// One that lets everybody in.
    pub fn open() -> &'static Self {
        static HOUSE: OnceLock<House> = OnceLock::new();
        HOUSE.get_or_init(|| {
            let config = HttpConfig { limits: limits(), ..HttpConfig::default() };
            let house = Self::build(async { testing::start_with(app(), config).await.expect("the application starts") });
            house.pause();
            house
        })
    }

    /// One that lets in who brings a token, and the one that it takes.
    pub fn of_tokens() -> (&'static Self, &'static str) {
        static HOUSE: OnceLock<(House, String)> = OnceLock::new();
        let (house, token) = HOUSE.get_or_init(|| {
            let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed has 32 bytes");
            let (public, token) = (URL_SAFE_NO_PAD.encode(key.public_key()), token(&key));
            let house = Self::build(behind(public));
            let ping = Asked {
                method: http::Method::POST,
                uri: http::Uri::from_static("/mcp"),
                headers: HeaderMap::from_iter([(
                    http::header::AUTHORIZATION,
                    format!("Bearer {token}").try_into().expect("a token fits into a header"),
                )]),
                body: Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#),
            };
            // Its keys are fetched by the first that asks, over a connection, which takes time that passes.
            let answer = house.ask(&ping.to_a_host());
            assert_eq!(answer.status, StatusCode::OK, "the token is a good one: {answer:?}");
            house.pause();
            (house, token)
        });
        (house, token)
    }

    fn build(start: impl Future<Output = Server>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        let server = runtime.block_on(start);
        Self { runtime, server }
    }

    /// From here on deadlines cost nothing.
    fn pause(&self) {
        self.runtime.block_on(async { tokio::time::pause() });
    }

    /// Asks, and waits for the whole answer; or, of a stream, for as long as it has something to say.
    pub fn ask(&self, asked: &Asked) -> Answered {
        self.runtime.block_on(async {
            let answer = tokio::time::timeout(PATIENCE, self.server.handle(asked.request())).await;
            let (head, mut body) = answer.expect("every request is answered").into_parts();
            let mut read = Vec::new();
            let mut ended = false;
            let all = async {
                // While time is paused, a stream that keeps itself alive by the clock on the wall does so without a pause.
                for _ in 0..MOST_FRAMES {
                    let Some(Ok(frame)) = body.frame().await else {
                        ended = true;
                        return;
                    };
                    read.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                }
            };
            let _ = tokio::time::timeout(Duration::from_secs(1), all).await;
            Answered { status: head.status, headers: head.headers, body: read.into(), ended }
        })
    }

    /// Serves a connection whose client sends these bytes, reads what comes back while anything does, and goes. What it read.
    pub fn connection(&'static self, bytes: &[u8]) -> Vec<u8> {
        forgive_h2();
        self.runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(MOST_BYTES);
            let exchange = async {
                let (mut read, mut write) = tokio::io::split(&mut client);
                let mut answer = Vec::new();
                let all = async {
                    // A server that does not read what it does not want closes.
                    let (_, _) = tokio::join!(write.write_all(bytes), read.read_to_end(&mut answer));
                };
                let _ = tokio::time::timeout(Duration::from_millis(100), all).await;
                drop((read, write));
                drop(client);
                answer
            };
            let serving = tokio::spawn(self.server.serve(server));
            let answer = exchange.await;
            // Its panic is h2's, or there would be nobody to come here.
            let _ = tokio::time::timeout(PATIENCE, serving).await.expect("a connection ends with its client");
            // The tasks of its streams hear of it.
            for _ in 0..MOST_FRAMES {
                tokio::task::yield_now().await;
            }
            answer
        })
    }

    /// What is in flight.
    pub fn status(&self) -> Status {
        self.server.running().lifecycle().status()
    }

    /// Opens a session, and gives its name.
    pub fn session(&self) -> String {
        let initialize = Asked {
            method: http::Method::POST,
            uri: http::Uri::from_static("/mcp"),
            headers: HeaderMap::new(),
            body: Bytes::from_static(INITIALIZE.as_bytes()),
        };
        let answer = self.ask(&initialize.to_a_host());
        let session = answer.headers.get("mcp-session-id").and_then(|session| session.to_str().ok());
        session.expect("initialize opens a session").to_owned()
    }

    /// Ends a session, whether or not it has ended.
    pub fn end(&self, session: &str) {
        let end = Asked {
            method: http::Method::DELETE,
            uri: http::Uri::from_static("/mcp"),
            headers: HeaderMap::from_iter([(
                http::HeaderName::from_static("mcp-session-id"),
                http::HeaderValue::from_str(session).expect("a session's name fits into a header"),
            )]),
            body: Bytes::new(),
        };
        self.ask(&end.to_a_host());
    }
}

/// In builds with debug assertions h2 panics when a client goes away whose request it has not read to the end: it asserts, as
/// its last act, that it has counted every stream down. Nothing else comes of it, so it is no finding; every other panic is one.
fn forgive_h2() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let abort = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let is_of_counts = panic.location().is_some_and(|location| location.file().ends_with("proto/streams/counts.rs"));
            let message = panic.payload().downcast_ref::<&str>().copied().unwrap_or_default();
            if !(is_of_counts && message.contains("has_streams")) {
                abort(panic);
            }
        }));
    });
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"fuzz","version":"1"}}}"#;

fn app() -> App<()> {
    App::new(Release::new(Color::Blue, "1.0.0", "fuzz").expect("a release"), ())
        .name("fuzz")
        .instructions("Answers whatever is asked.")
        .logging()
        .subscriptions(Changes::new())
        .tool(Tool::new("greet", greet).describe("Greets somebody by name.").read_only())
        .tool(Tool::new("sum", sum).describe("Adds numbers.").read_only())
        .tool(Tool::new("any", any).describe("Takes anything.").read_only())
        .tool(Tool::new("tell", tell).describe("Says how far it is.").read_only())
        .tool(Tool::new("confirm", confirm).describe("Asks before it answers.").read_only())
        .tool(Tool::new("write", async || "written".to_owned()).describe("Writes.").additive().scopes(&["write"]))
        .prompt(Prompt::new("letter", letter).describe("A letter to somebody.").argument("to", "To whom it is", true).complete(
            |_, typed| ["ada", "adam"].iter().filter(|name| name.starts_with(typed)).map(|name| (*name).to_owned()).collect(),
        ))
        .resource(Resource::new("test://text", "Text", |read| async { contents(ResourceContents::text("here", read.uri)) }))
        .resource_template(ResourceTemplate::new("test://notes/{id}/{part}", "Notes", |Read { uri, variables }| async move {
            contents(ResourceContents::text(json!(variables).to_string(), uri))
        }))
}

/// As many requests as a fuzzer makes, of whatever address a proxy says they are.
fn limits() -> LimitsConfig {
    let proxies = "127.0.0.0/8, 10.0.0.0/8, fd00::/8".parse().expect("networks");
    let address = AddressLimits { rate: 1_000_000, burst: 1_000_000, sessions: 1_000_000 };
    LimitsConfig { address, proxies, response: 4 << 20, ..LimitsConfig::default() }
}

/// The same behind an authorization server, of which only the keys are there.
async fn behind(public: String) -> Server {
    let keys = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "one", "alg": "EdDSA", "use": "sig", "x": public }] });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it listens");
    let router = Router::new().route("/keys", get(move || std::future::ready(Json(keys.clone()))));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let oauth = OAuth {
        issuer: ISSUER.to_owned(),
        audiences: vec![RESOURCE.to_owned()],
        jwks_url: Some(format!("http://{address}/keys").into()),
        ..OAuth::default()
    };
    let config = HttpConfig { authentication: Authentication::OAuth(oauth), limits: limits(), ..HttpConfig::default() };
    testing::start_with(app(), config).await.expect("the application starts")
}

/// One that is good until the year 2100, and may read.
fn token(key: &Ed25519KeyPair) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(json!({ "alg": "EdDSA", "kid": "one", "typ": "at+jwt" }));
    let claims = part(json!({ "iss": ISSUER, "aud": RESOURCE, "sub": "ada", "exp": 4_102_444_800_u64, "scope": "read" }));
    let message = format!("{header}.{claims}");
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes())))
}

async fn greet(Parameters(greeting): Parameters<Greeting>) -> String {
    format!("Hello, {}! ", greeting.name).repeat(greeting.times.unwrap_or(1).into())
}

async fn sum(Parameters(sum): Parameters<Sum>) -> Reply<Total> {
    let total = sum.values.iter().sum();
    Reply::new(Total { total, unit: sum.unit }, format!("It is {total}."))
}

async fn any(arguments: JsonObject) -> String {
    Value::Object(arguments).to_string()
}

async fn tell(peer: Peer, Parameters(greeting): Parameters<Greeting>) -> String {
    peer.progress(1.0, 2.0, &greeting.name).await;
    peer.progress(2.0, 2.0, "done").await;
    greeting.name
}

async fn confirm(inputs: Inputs) -> Result<CallToolResponse, ToolError> {
    let before: Option<Value> = inputs.open()?;
    match inputs.responses.get("sure") {
        Some(answer) if before.is_some() => {
            Ok(CallToolResult::success(vec![ContentBlock::text(json!(answer).to_string())]).into())
        }
        _ => {
            let form = json!({ "type": "object", "properties": { "ok": { "type": "boolean" } } });
            let params = json!({ "mode": "form", "message": "Are you sure?", "requestedSchema": form });
            let question = json!({ "sure": { "method": "elicitation/create", "params": params } });
            let questions: InputRequests = serde_json::from_value(question).map_err(ToolError::internal)?;
            Ok(InputRequiredResult::new(Some(questions), Some(inputs.seal(&"asked")?)).into())
        }
    }
}

async fn letter(call: PromptCall) -> Result<Vec<PromptMessage>, ToolError> {
    let to = call.argument("to").unwrap_or_default();
    Ok(vec![PromptMessage::new(Role::User, ContentBlock::text(format!("Dear {to},")))])
}

fn contents(contents: ResourceContents) -> Result<ResourceContents, ToolError> {
    Ok(contents)
}
