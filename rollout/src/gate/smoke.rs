//! The smoke test: what clients, probes and operators ask first, asked of every replica directly. All of it is asked before it
//! is judged, so that one run names everything that is wrong.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::{
    Context, Finding, either,
    mcp::{self, Client},
};
use crate::{driver::Replica, http::request};

const WITHIN: Duration = Duration::from_secs(10);
/// Chromium starts slowly on a busy machine.
const CHROMIUM_WITHIN: Duration = Duration::from_secs(60);

pub(super) async fn ask(context: &Context<'_>) -> Finding {
    either(smoke(context).await)
}

async fn smoke(context: &Context<'_>) -> Result<Finding, Finding> {
    let replicas = context.replicas().await?;
    let mut problems = Vec::new();
    let mut checks = Checks::default();
    for replica in &replicas {
        (context.progress)(&format!("{} is asked", replica.name));
        checks.of(context, replica).await;
    }
    checks.widgets_in_chromium(context, &replicas[0]).await;
    let count = checks.came.len();
    let mut finding = Finding::passed("");
    for (name, result) in checks.came {
        match result {
            Ok(words) => finding = finding.with(name, words),
            Err(words) => problems.push((name, words)),
        }
    }
    if let [(name, words), ..] = &problems[..] {
        let more = if problems.len() > 1 { format!(" (and {} more)", problems.len() - 1) } else { String::new() };
        let mut failed = Finding::failed(format!("{name}: {words}{more}"));
        failed.details = problems;
        return Err(failed);
    }
    finding.words = format!("{count} checks of {} passed", crate::count(replicas.len(), "replica"));
    Ok(finding)
}

/// What was asked, and what it came to.
#[derive(Default)]
struct Checks {
    came: Vec<(String, Result<String, String>)>,
    /// A call that does no harm, for the browser.
    probe: Option<(String, Value)>,
    /// Whether a widget has a script, and so speaks with its host.
    speaks: bool,
}

/// What was read of the widgets.
struct Widgets {
    read: usize,
    speaks: bool,
}

// === impl Checks ===

impl Checks {
    fn note(&mut self, replica: &Replica, what: &str, result: Result<String, String>) {
        self.came.push((format!("{}: {what}", replica.name), result));
    }

    async fn of(&mut self, context: &Context<'_>, replica: &Replica) {
        let client = Client { http: context.http, address: &replica.address };
        self.note(replica, "health", health(context, replica).await);
        self.note(replica, "database pool", pool(context, replica).await);
        self.note(replica, "malformed JSON is refused", malformed(context, replica).await);
        self.note(replica, "discovery of 2026-07-28", discover(&client).await);
        self.note(replica, "a session of 2025-11-25", session(&client).await);
        let tools = tools(&client).await;
        match &tools {
            Ok(tools) => self.note(replica, "tools", Ok(format!("{} tools", tools.len()))),
            Err(words) => self.note(replica, "tools", Err(words.clone())),
        }
        let probes = mcp::probes(&context.limits.probes, &tools.unwrap_or_default());
        for (tool, arguments) in &probes {
            let called = client.call(tool, arguments).await;
            self.note(replica, tool, called.and_then(|(result, took)| judge(&result, took, context.limits.latency)));
        }
        let widgets = widgets(&client).await;
        self.speaks = widgets.as_ref().is_ok_and(|widgets| widgets.speaks);
        self.note(replica, "widgets", widgets.map(|widgets| format!("{} read", widgets.read)));
        self.probe = probes.into_iter().next();
    }

    /// One replica's widgets in a real browser: they are the same bytes in all of them.
    async fn widgets_in_chromium(&mut self, context: &Context<'_>, replica: &Replica) {
        let page = format!("http://{}/widget-test", replica.address);
        let there = context.http.get(&page, WITHIN).await;
        if there.is_ok_and(|answer| answer.status == http::StatusCode::NOT_FOUND) {
            // A server without widgets has nothing to draw.
            if self.speaks {
                self.note(replica, "widget in Chromium", Ok("not asked: its WIDGET_TEST is off".to_owned()));
            }
            return;
        }
        let Some(chromium) = &context.limits.chromium else {
            self.note(replica, "widget in Chromium", Ok("not asked: there is no Chromium here".to_owned()));
            return;
        };
        (context.progress)("Chromium opens /widget-test");
        let result = chromium_draws(chromium, &page, self.probe.as_ref(), self.speaks).await;
        self.note(replica, "widget in Chromium", result);
    }
}

async fn health(context: &Context<'_>, replica: &Replica) -> Result<String, String> {
    let address = format!("http://{}/health", replica.address);
    let answer = context.http.get(&address, WITHIN).await.map_err(|failure| crate::chain(&failure))?;
    let said = answer.json();
    if !answer.status.is_success() || said["status"] != "healthy" {
        return Err(format!("/health is {} and says {}", answer.status.as_u16(), said["status"]));
    }
    if said.get("database").is_some_and(|database| database != "connected") {
        return Err(format!("the database is {}", said["database"]));
    }
    let color = answer.header("release-color").unwrap_or_default();
    if color != context.color.as_str() {
        return Err(format!("it answers as `{color}` and should be {}", context.color));
    }
    Ok(format!("healthy, {}", answer.header("release-build").unwrap_or("of no known build")))
}

async fn pool(context: &Context<'_>, replica: &Replica) -> Result<String, String> {
    let address = format!("http://{}/health/database", replica.address);
    let answer = context.http.get(&address, WITHIN).await.map_err(|failure| crate::chain(&failure))?;
    if answer.status == http::StatusCode::NOT_FOUND {
        return Ok("it has no database".to_owned());
    }
    let said = answer.json();
    let number = |name: &str| said[name].as_u64().ok_or_else(|| format!("/health/database says no {name}"));
    let (size, idle, waiting) = (number("poolSize")?, number("idleConnections")?, number("waitingClients")?);
    if !answer.status.is_success() || size == 0 || idle > size || waiting > 0 {
        return Err(format!("{} connections, {idle} idle, {waiting} waiting: {}", size, said["status"]));
    }
    Ok(format!("{size} connections, {idle} idle, nobody waits"))
}

async fn malformed(context: &Context<'_>, replica: &Replica) -> Result<String, String> {
    let address = format!("http://{}/mcp", replica.address);
    let mut request = request(Method::POST, &address, Some(&Value::Null)).map_err(|failure| failure.to_string())?;
    *request.body_mut() = http_body_util::Full::new(bytes::Bytes::from_static(b"{"));
    let answer = context.http.ask(request, WITHIN).await.map_err(|failure| crate::chain(&failure))?;
    match answer.json()["error"]["code"].as_i64() {
        Some(-32700) => Ok("-32700".to_owned()),
        _ => Err(format!("it is answered {}: {}", answer.status.as_u16(), answer.text())),
    }
}

async fn discover(client: &Client<'_>) -> Result<String, String> {
    let meta = json!({ "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { "name": "rollout", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": {},
    } });
    let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "server/discover")];
    let answer = client.send("server/discover", &meta, &headers).await.map_err(|failure| crate::chain(&failure))?;
    let result = mcp::result("server/discover", &answer)?;
    let versions = result["supportedVersions"].as_array().map_or(0, Vec::len);
    if versions == 0 { Err(format!("it supports no version: {result}")) } else { Ok(format!("{versions} versions")) }
}

async fn session(client: &Client<'_>) -> Result<String, String> {
    let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": { "name": "rollout", "version": "1" } });
    let answer = client.send("initialize", &params, &[]).await.map_err(|failure| crate::chain(&failure))?;
    let version = mcp::result("initialize", &answer)?["protocolVersion"].as_str().unwrap_or_default().to_owned();
    let Some(session) = answer.header("mcp-session-id") else { return Ok(format!("{version}, without sessions")) };
    let headers = [("mcp-session-id", session), ("mcp-protocol-version", &version)];
    let ping = client.send("ping", &json!({}), &headers).await.map_err(|failure| crate::chain(&failure))?;
    mcp::result("ping", &ping)?;
    // It was ours and nobody needs it.
    let mut request =
        request(Method::DELETE, &format!("http://{}/mcp", client.address), None).map_err(|failure| failure.to_string())?;
    request
        .headers_mut()
        .extend(answer.headers.get("mcp-session-id").map(|id| (http::HeaderName::from_static("mcp-session-id"), id.clone())));
    client.http.ask(request, WITHIN).await.map_err(|failure| crate::chain(&failure))?;
    Ok(version)
}

async fn tools(client: &Client<'_>) -> Result<Vec<Value>, String> {
    let tools = client.list("tools/list", "tools").await?;
    for tool in &tools {
        for field in ["name", "description", "inputSchema"] {
            if tool.get(field).is_none() {
                return Err(format!("a tool has no {field}: {}", tool["name"]));
            }
        }
    }
    if tools.is_empty() { Err("there is no tool".to_owned()) } else { Ok(tools) }
}

fn judge(result: &Value, took: Duration, limit: Duration) -> Result<String, String> {
    if !result["content"].is_array() {
        return Err(format!("the result has no content: {result}"));
    }
    if took > limit {
        return Err(format!("it took {took:.0?}, and {limit:?} is the limit"));
    }
    Ok(format!("{:.1} ms", took.as_secs_f64() * 1e3))
}

async fn widgets(client: &Client<'_>) -> Result<Widgets, String> {
    let mut widgets = Widgets { read: 0, speaks: false };
    for resource in client.list("resources/list", "resources").await? {
        let Some(address) = resource["uri"].as_str().filter(|address| address.starts_with("ui://")) else { continue };
        let result = client.ask("resources/read", &json!({ "uri": address })).await?;
        let text = result["contents"][0]["text"].as_str().unwrap_or_default();
        if !text.contains('<') {
            return Err(format!("{address} is no document"));
        }
        widgets.read += 1;
        widgets.speaks = widgets.speaks || text.contains("<script");
    }
    Ok(widgets)
}

/// Returns the option that runs Chromium without its sandbox, for root alone: as root it refuses to start with one. The page it opens
/// is that of the build under test, which may be anybody's, so everybody else keeps the sandbox.
fn without_sandbox(is_root: bool) -> Option<&'static str> {
    is_root.then_some("--no-sandbox")
}

/// The page that hosts widgets as ChatGPT does makes the call, and its widget says that it is drawn.
async fn chromium_draws(
    chromium: &std::path::Path,
    page: &str,
    probe: Option<&(String, Value)>,
    speaks: bool,
) -> Result<String, String> {
    let profile = std::env::temp_dir().join(format!("rollout-chromium-{}", uuid::Uuid::new_v4()));
    let mut command = tokio::process::Command::new(chromium);
    command.args(["--headless", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]);
    command.args(without_sandbox(rustix::process::geteuid().is_root()));
    // A frame in a process of its own has a clock of its own, and is not waited for.
    command.args(["--disable-site-isolation-trials", "--disable-features=IsolateSandboxedIframes"]);
    command.arg(format!("--user-data-dir={}", profile.display()));
    let (tool, arguments) = probe.map_or(("", String::new()), |(tool, arguments)| (tool.as_str(), arguments.to_string()));
    command.arg(format!("{page}?tool={tool}&arguments={}", crate::http::encoded(&arguments)));
    command.stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(CHROMIUM_WITHIN, command.output()).await;
    let _ = tokio::fs::remove_dir_all(&profile).await;
    let output = output.map_err(|_| "Chromium did not end in time".to_owned())?;
    let output = output.map_err(|failure| format!("{} does not start: {failure}", chromium.display()))?;
    let page = String::from_utf8_lossy(&output.stdout);
    let phase = page.split_once("data-phase=\"").and_then(|(_, rest)| rest.split_once('"')).map(|(phase, _)| phase);
    match phase {
        Some("ready") => Ok(format!("{tool} is drawn")),
        // It is shown, and says nothing to its host because it has no script.
        Some("loading") if !speaks && page.contains("<iframe") => Ok(format!("{tool} is shown")),
        // The tool has no widget; the page itself is there.
        Some("without" | "idle") => Ok("the page is drawn; the probe has no widget".to_owned()),
        Some(phase) => Err(format!("the widget of {tool} is `{phase}`: open /widget-test and see")),
        None => Err("the page is not drawn: open /widget-test and see".to_owned()),
    }
}
