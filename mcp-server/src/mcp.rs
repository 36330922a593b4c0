//! The protocol. One [`Server`] knows the application; two paths speak for it: [`lean`] answers the stateless JSON case
//! straight from the bytes, and [`protocol`] is rmcp's handler for everything else. rmcp is the authority: whatever the lean
//! path does not fully recognize goes there, errors included, so the two cannot disagree about the rules.

/// A list that fits in one page, with what 2026-07-28 wants clients told of it. rmcp's list types share these fields and no
/// trait.
macro_rules! whole_list {
    ($kind:ident, $items:expr, $server:expr) => {{
        let mut result = $kind::with_all_items($items);
        result.ttl_ms = Some($crate::mcp::cache_ttl_ms());
        result.cache_scope = Some(rmcp::model::CacheScope::Public);
        result.meta = Some($crate::mcp::server_meta(&$server.config.server_info));
        result
    }};
}

pub(crate) mod door;
pub(crate) mod envelope;
pub(crate) mod forward;
mod in_flight;
pub(crate) mod lean;
mod misread;
pub(crate) mod networks;
pub(crate) mod protocol;
mod questions;
mod refusal;
pub(crate) mod replica;
pub(crate) mod request_id;
mod response_stream;
pub(crate) mod served;
mod subscriptions;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bg_runtime::{Lifecycle, Release, storage::Control};
use bytes::Bytes;
use rmcp::model::{
    Implementation, JsonObject, ListToolsResult, ProtocolVersion, ServerCapabilities, ServerConfig, ToolsCapability,
};
use serde_json::{Value, json};
use widgets::Widget;

use self::in_flight::InFlight;
use crate::{
    arguments::Shape,
    audit,
    authentication::rejections::Rejections,
    conversations::calls::Calls,
    extract::{Call, Principal, Rejection},
    pins::Pins,
    prompt::Prompt,
    published::Published,
    reply::Writer,
    request_state::RequestStates,
    resource::{Changes, Resource, ResourceTemplate},
    sessions::Sessions,
    telemetry::metrics::{Metrics, Operation},
    tool::{Description, Pinning, Running, Tool},
};

/// How long a client may go by what it was told of tools and resources. Short against the hours that hosts cache anyway,
/// long against the minutes of a switch.
const CACHE_TTL: Duration = Duration::from_secs(300);

/// The `_meta` key under which 2026-07-28 wants the server named in every result.
const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";

/// Everything that answering needs, put together once at start.
pub(crate) struct Server {
    pub(crate) release: Release,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) call_timeout: Duration,
    /// The largest result of a tool, in bytes; 0 is no limit.
    pub(crate) response_limit: usize,
    pub(crate) sessions: Arc<Sessions>,
    /// What a client of a session can cancel.
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) config: ServerConfig,
    pub(crate) routes: HashMap<String, Route>,
    /// In the order of their names, so that `tools/list` never changes without a change.
    pub(crate) tools: Vec<rmcp::model::Tool>,
    pub(crate) resources: Vec<Resource>,
    pub(crate) templates: Vec<ResourceTemplate>,
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) changes: Option<Changes>,
    pub(crate) encoded: Encoded,
    pub(crate) operations: Operations,
    /// Flags, where there is a database that holds some.
    pub(crate) control: Option<Control>,
    pub(crate) shared: Shared,
    pub(crate) request_states: RequestStates,
    pub(crate) rejections: Rejections,
}

/// What other processes share, where there is a database for it.
#[derive(Default)]
pub(crate) struct Shared {
    /// Widgets, of this build and of others.
    pub(crate) published: Published,
    /// A line for each call of a conversation.
    pub(crate) calls: Option<Arc<Calls>>,
    /// Conversations that stay on a build, when a tool asks for that.
    pub(crate) pins: Option<Pins>,
    /// A row for each call that may change something.
    pub(crate) audit: Option<Arc<audit::Log>>,
}

/// A tool's function with the application's state in it.
type Runner = Box<dyn Fn(&Call<'_>, Writer) -> Result<Running, Rejection> + Send + Sync>;

/// One tool, ready to be called.
pub(crate) struct Route {
    /// The flag that switches the tool off.
    pub(crate) flag: String,
    pub(crate) needs_peer: bool,
    /// Whether calling it again with the same arguments does no harm.
    pub(crate) is_repeatable: bool,
    /// Whether it does no harm for a call with a key.
    pub(crate) acts_once: bool,
    pub(crate) takes_handle: bool,
    /// What its input schema says of its arguments.
    pub(crate) shape: Shape,
    /// Whether it does more than look something up.
    pub(crate) acts: bool,
    /// What a caller's token has to allow.
    pub(crate) scopes: Vec<String>,
    pub(crate) pinning: Pinning,
    pub(crate) reaches: Option<&'static str>,
    pub(crate) run: Runner,
    pub(crate) operation: Operation,
}

/// The methods the lean path measures without a look-up.
pub(crate) struct Operations {
    pub(crate) initialize: Operation,
    pub(crate) discover: Operation,
    pub(crate) list: Operation,
    pub(crate) ping: Operation,
    pub(crate) other: Operation,
}

/// Answers that never change, encoded once: the `result` as JSON, for the older revisions and for 2026-07-28.
pub(crate) struct Encoded {
    pub(crate) tools: Bytes,
    pub(crate) tools_2026: Bytes,
    pub(crate) discover: Bytes,
    /// Without its opening brace and protocol version.
    pub(crate) initialize: String,
    /// Members of `_meta` that 2026-07-28 wants in every result.
    pub(crate) meta_2026: &'static [u8],
}

/// What an application brought, before it is put together.
pub(crate) struct Parts<S> {
    pub(crate) name: String,
    pub(crate) title: Option<String>,
    pub(crate) instructions: Option<String>,
    pub(crate) release: Release,
    pub(crate) state: S,
    pub(crate) tools: Vec<Tool<S>>,
    pub(crate) resources: Vec<Resource>,
    pub(crate) templates: Vec<ResourceTemplate>,
    pub(crate) widgets: Vec<&'static Widget>,
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) logging: bool,
    pub(crate) changes: Option<Changes>,
    pub(crate) control: Option<Control>,
    /// Whether callers need a token.
    pub(crate) is_protected: bool,
}

impl Route {
    /// What a caller is told whose token does not allow what the tool needs.
    pub(crate) fn beyond(&self, principal: &Principal) -> Option<String> {
        let missing = self.scopes.iter().find(|scope| !principal.may(scope))?;
        Some(format!("this needs the scope {missing}, which the access token does not have"))
    }
}

impl Server {
    pub(crate) fn new<S: Clone + Send + Sync + 'static>(
        parts: Parts<S>,
        lifecycle: Lifecycle,
        sessions: Arc<Sessions>,
        (call_timeout, response_limit): (Duration, usize),
        metrics: &Arc<Metrics>,
        shared: Shared,
    ) -> Self {
        let config = config(&parts);
        let mut descriptions: Vec<&Description> = parts.tools.iter().map(|tool| &tool.description).collect();
        descriptions.sort_by(|a, b| a.name.cmp(&b.name));
        let describe = if parts.is_protected { Description::to_protected_tool } else { Description::to_tool };
        let tools: Vec<_> = descriptions.into_iter().map(describe).collect();
        let encoded = Encoded::new(&config, &tools);
        let operations = Operations {
            initialize: metrics.operation("initialize", None),
            discover: metrics.operation("server/discover", None),
            list: metrics.operation("tools/list", None),
            ping: metrics.operation("ping", None),
            other: metrics.operation("_other", None),
        };
        let state = parts.state;
        let mut resources = parts.resources;
        resources.extend(shared.published.resources());
        let routes = parts
            .tools
            .into_iter()
            .map(|tool| {
                let (state, run) = (state.clone(), tool.run);
                let route = Route {
                    flag: tool_flag(&tool.description.name),
                    needs_peer: tool.description.needs_peer || tool.description.wants_headers(),
                    is_repeatable: tool.description.is_repeatable(),
                    acts_once: tool.description.acts_once,
                    takes_handle: tool.description.takes_handle(),
                    shape: Shape::of(&tool.description.input, tool.description.whose),
                    acts: tool.description.annotations.read_only_hint != Some(true),
                    scopes: tool.description.scopes.iter().map(|scope| (*scope).to_owned()).collect(),
                    pinning: tool.description.pinning,
                    reaches: tool.description.reaches,
                    run: Box::new(move |call, writer| run.run(call, &state, writer)),
                    operation: metrics.operation("tools/call", Some(&tool.description.name)),
                };
                (tool.description.name, route)
            })
            .collect();
        Self {
            release: parts.release,
            lifecycle,
            call_timeout,
            response_limit,
            sessions,
            in_flight: Arc::default(),
            config,
            routes,
            tools,
            resources,
            templates: parts.templates,
            prompts: parts.prompts,
            changes: parts.changes,
            encoded,
            operations,
            control: parts.control,
            shared,
            request_states: RequestStates::default(),
            rejections: Rejections::new(metrics.clone()),
        }
    }

    /// What becomes the row of a call in the audit log; nothing for one that only reads, or where no log is kept.
    pub(crate) fn audit(&self, route: &Route, principal: &Principal, tool: &str) -> Option<Arc<audit::Record>> {
        let log = self.shared.audit.as_ref().filter(|_| route.acts)?;
        Some(Arc::new(audit::Record::new(log, principal, tool)))
    }

    /// Whether a flag keeps this caller from a tool. Until callers prove who they are, a share is drawn from the subject that
    /// ChatGPT names, which is the same in all of a person's conversations; who names none is everybody.
    pub(crate) fn is_switched_off(&self, route: &Route, call: &Call<'_>) -> bool {
        let Some(control) = &self.control else { return false };
        match control.flag(&route.flag) {
            None | Some(100..) => false,
            Some(0) => true,
            Some(_) => {
                let named = call.principal.subject().map(str::to_owned).or_else(|| {
                    let meta: serde_json::Map<_, _> = serde_json::from_str(call.meta?.get()).ok()?;
                    Some(meta.get("openai/subject")?.as_str()?.to_owned())
                });
                !control.allows(&route.flag, named.as_deref().unwrap_or("anonymous"))
            }
        }
    }

    /// What `tools/list` answers, as rmcp's type.
    pub(crate) fn list_tools(&self) -> ListToolsResult {
        whole_list!(ListToolsResult, self.tools.clone(), self)
    }
}

/// The name of the flag that switches a tool off.
pub(crate) fn tool_flag(tool: &str) -> String {
    format!("tool.{tool}")
}

pub(crate) fn config<S>(parts: &Parts<S>) -> ServerConfig {
    let mut info = Implementation::new(parts.name.clone(), &*parts.release.version);
    info.title.clone_from(&parts.title);
    let mut capabilities = ServerCapabilities::default();
    capabilities.tools = (!parts.tools.is_empty()).then(ToolsCapability::default);
    if !parts.resources.is_empty() || !parts.templates.is_empty() || !parts.widgets.is_empty() {
        let resources = capabilities.resources.get_or_insert_default();
        resources.subscribe = parts.changes.is_some().then_some(true);
    }
    capabilities.prompts = (!parts.prompts.is_empty()).then(Default::default);
    capabilities.completions = parts.prompts.iter().any(|prompt| prompt.complete.is_some()).then(JsonObject::new);
    capabilities.logging = parts.logging.then(JsonObject::new);
    // MCP Apps (SEP-1865). rmcp has no type for it.
    let apps =
        || [("io.modelcontextprotocol/ui".to_owned(), rmcp::model::object(json!({ "mimeTypes": [widgets::MCP_APP] })))].into();
    capabilities.extensions = (!parts.widgets.is_empty()).then(apps);
    let mut config = ServerConfig::new(capabilities).with_server_info(info);
    config.protocol_version = ProtocolVersion::LATEST_WITH_INITIALIZE;
    config.instructions.clone_from(&parts.instructions);
    config
}

impl Encoded {
    fn new(config: &ServerConfig, tools: &[rmcp::model::Tool]) -> Self {
        let tools: Vec<_> = tools.iter().map(listed).collect();
        let info = json!(config.server_info);
        let meta = json!({ SERVER_INFO: info });
        let text = |value: Value| Bytes::from(value.to_string());
        let mut discover = json!({
            "resultType": "complete",
            "supportedVersions": ProtocolVersion::KNOWN_VERSIONS,
            "capabilities": config.capabilities,
            "ttlMs": cache_ttl_ms(),
            "cacheScope": "public",
            "_meta": meta,
        });
        let mut initialize = json!({ "capabilities": config.capabilities, "serverInfo": config.server_info });
        if let Some(instructions) = &config.instructions {
            discover["instructions"] = instructions.as_str().into();
            initialize["instructions"] = instructions.as_str().into();
        }
        let inner = |value: &Value| {
            let text = value.to_string();
            text[1..text.len() - 1].to_owned()
        };
        Self {
            tools: text(json!({ "tools": tools })),
            tools_2026: text(json!({
                "resultType": "complete", "tools": tools, "ttlMs": cache_ttl_ms(), "cacheScope": "public", "_meta": meta,
            })),
            discover: text(discover),
            initialize: inner(&initialize),
            // Once per application, and an application lives as long as its process.
            meta_2026: Box::leak(inner(&meta).into_bytes().into_boxed_slice()),
        }
    }
}

/// Returns a tool as `tools/list` shows it. ChatGPT reads `securitySchemes` beside the name, where rmcp has no member for it, or
/// in `_meta`.
pub(crate) fn listed(tool: &rmcp::model::Tool) -> Value {
    let mut listed = json!(tool);
    if let Some(schemes) = listed["_meta"].get("securitySchemes").cloned() {
        listed["securitySchemes"] = schemes;
    }
    listed
}

pub(crate) fn cache_ttl_ms() -> u64 {
    CACHE_TTL.as_secs() * 1000
}

pub(crate) fn server_meta(info: &Implementation) -> rmcp::model::MetaObject {
    let mut meta = JsonObject::new();
    meta.insert(SERVER_INFO.to_owned(), json!(info));
    rmcp::model::MetaObject(meta)
}
