//! rmcp's handler: the same tools, resources and prompts for whatever the lean path does not answer.

use std::{
    borrow::Cow,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::Instant,
};

use futures_util::FutureExt;
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CacheScope, CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestMethod, CompleteRequestParams,
        CompleteResult, CompletionInfo, ConstString, CustomRequest, CustomResult, DiscoverResult, ErrorCode, Extensions,
        GetPromptRequestMethod, GetPromptRequestParams, GetPromptResponse, ListPromptsRequestMethod, ListPromptsResult,
        ListResourceTemplatesRequestMethod, ListResourceTemplatesResult, ListResourcesRequestMethod, ListResourcesResult,
        ListToolsRequestMethod, ListToolsResult, PaginatedRequestParams, ProtocolVersion, ReadResourceRequestMethod,
        ReadResourceRequestParams, ReadResourceResponse, Reference, ResultType, ServerCapabilities, ServerConfig,
        SubscribeRequestMethod, SubscribeRequestParams, SubscriptionFilter, Tool, UnsubscribeRequestMethod,
        UnsubscribeRequestParams,
    },
    service::{NotificationContext, RequestContext, SubscriptionContext},
    transport::streamable_http_server::session::SessionRestoreMarker,
};
use serde_json::value::to_raw_value;

use super::{
    Server, cache_ttl_ms, envelope, lean, request_id, server_meta,
    subscriptions::{Subscriptions, tell_listener},
};
use crate::{
    error::{Chain, Kind, ToolError},
    extract::{Call, PeerCall, Principal},
    reply::{Writer, Written},
    resource::{Changes, Read, Resource},
    sessions::{Ask, LONGEST_ADDRESS},
};

/// The server, as rmcp calls it: one per request, or one per session.
#[derive(Clone)]
pub(crate) struct Protocol {
    server: Arc<Server>,
    session: Option<Arc<Session>>,
}

/// What this process does for a session. What the session asked for is in [`Sessions`](crate::sessions::Sessions).
#[derive(Default)]
struct Session {
    subscriptions: Subscriptions,
}

#[expect(deprecated, reason = "deprecated with 2026-07-28, and still spoken")]
type LogLevel = rmcp::model::LoggingLevel;
#[expect(deprecated, reason = "deprecated with 2026-07-28, and still spoken")]
const EVERYDAY: LogLevel = LogLevel::Info;

impl ServerHandler for Protocol {
    fn get_info(&self) -> ServerConfig {
        self.server.config.clone()
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Borrowed(ProtocolVersion::KNOWN_VERSIONS)
    }

    async fn discover(&self, _context: RequestContext<RoleServer>) -> Result<DiscoverResult, ErrorData> {
        let mut result = DiscoverResult::from_server_info(self.supported_protocol_versions().into_owned(), self.get_info());
        result.ttl_ms = cache_ttl_ms();
        result.cache_scope = CacheScope::Public;
        Ok(result)
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.server.tools.iter().find(|tool| tool.name == name).cloned()
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        self.offers::<ListToolsRequestMethod>(|capabilities| capabilities.tools.is_some())?;
        one_page(request)?;
        Ok(self.server.list_tools())
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let started = Instant::now();
        let server = &*self.server;
        let Some(route) = server.routes.get(&*request.name) else {
            return Err(ErrorData::invalid_params(format!("there is no tool named `{}`", request.name), None));
        };
        let name = request.name;
        let arguments =
            to_raw_value(&request.arguments.unwrap_or_default()).map_err(|error| internal(Asked::Tool(&name), &error))?;
        let meta = to_raw_value(&context.meta).map_err(|error| internal(Asked::Tool(&name), &error))?;
        let id = context.id.to_string();
        // What a tool reads, and a trace names, is the client's own.
        let (meta, id) = match self.session {
            Some(_) => (request_id::restore_meta(meta), request_id::client_id(&id).unwrap_or(&id)),
            None => (meta, &*id),
        };
        let is_stateless = is_stateless(&context);
        let headers = of(&context, |parts| Some(parts.headers.clone())).unwrap_or_default();
        let principal = of(&context, |parts| parts.extensions.get::<Principal>().cloned()).unwrap_or_default();
        let peer = PeerCall {
            log_level: self.log_level(&context),
            context,
            input_responses: request.input_responses,
            request_state: request.request_state,
        };
        let call = Call {
            tool: &name,
            arguments: arguments.get(),
            meta: Some(&meta),
            principal: &principal,
            release: &server.release,
            request_states: &server.request_states,
            session: lean::session_id(&headers).filter(|_| !is_stateless),
            takes_handle: route.takes_handle,
            shape: &route.shape,
            acts: route.acts,
            ignored: OnceLock::new(),
            audit: server.audit(route, &principal, &name),
            named: OnceLock::new(),
            begun: OnceLock::new(),
            peer: Some(peer),
        };
        let origin = lean::Origin { headers: &headers, id };
        match lean::run(server, &origin, &name, route, &call, || Writer { out: Vec::new(), meta: b"", note: None }, started).await
        {
            Ok(Written::Response(response)) => Ok(match *response {
                CallToolResponse::Complete(result) => self.completed(result, is_stateless),
                other => other,
            }),
            Ok(Written::Open { mut out, .. }) => {
                out.push(b'}');
                let result = serde_json::from_slice(&out).map_err(|error| internal(Asked::Tool(&name), &error))?;
                Ok(self.completed(result, is_stateless))
            }
            Err(failure) => Err(ErrorData::new(
                rmcp::model::ErrorCode(failure.code),
                failure.message,
                failure.data.and_then(|data| serde_json::from_str(&data).ok()),
            )),
        }
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        self.offers::<ListResourcesRequestMethod>(|capabilities| capabilities.resources.is_some())?;
        one_page(request)?;
        Ok(whole_list!(
            ListResourcesResult,
            self.server.resources.iter().map(|resource| resource.description.clone()).collect(),
            self.server
        ))
    }

    async fn list_resource_templates(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        self.offers::<ListResourceTemplatesRequestMethod>(|capabilities| capabilities.resources.is_some())?;
        one_page(request)?;
        let templates = self.server.templates.iter().map(|template| template.description.clone()).collect();
        Ok(whole_list!(ListResourceTemplatesResult, templates, self.server))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        self.offers::<ReadResourceRequestMethod>(|capabilities| capabilities.resources.is_some())?;
        let uri = request.uri;
        let (reader, variables) = match self.resource(&uri) {
            Some(resource) => (&resource.reader, Default::default()),
            None => match self.server.templates.iter().find_map(|template| Some((template, template.variables(&uri)?))) {
                Some((template, variables)) => (&template.reader, variables),
                None => {
                    let published = async { Ok(self.server.shared.published.read(&uri).await?) };
                    return self
                        .bounded(Asked::Resource(&uri), published)
                        .await?
                        .map(Into::into)
                        .ok_or_else(|| no_resource(&uri));
                }
            },
        };
        self.bounded(Asked::Resource(&uri), reader(Read { uri: uri.clone(), variables })).await
    }

    async fn list_prompts(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        self.offers::<ListPromptsRequestMethod>(|capabilities| capabilities.prompts.is_some())?;
        one_page(request)?;
        Ok(whole_list!(
            ListPromptsResult,
            self.server.prompts.iter().map(|prompt| prompt.description.clone()).collect(),
            self.server
        ))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        self.offers::<GetPromptRequestMethod>(|capabilities| capabilities.prompts.is_some())?;
        let Some(prompt) = self.server.prompts.iter().find(|prompt| prompt.description.name == request.name) else {
            return Err(ErrorData::invalid_params(format!("there is no prompt named `{}`", request.name), None));
        };
        if let Some(argument) = prompt.missing(&request) {
            return Err(ErrorData::invalid_params(
                format!("the prompt `{}` needs the argument `{argument}`", request.name),
                None,
            ));
        }
        let name = request.name.clone();
        self.bounded(Asked::Prompt(&name), (prompt.fill)(crate::prompt::PromptCall { request, context })).await
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        self.offers::<CompleteRequestMethod>(|capabilities| capabilities.completions.is_some())?;
        let reference = match &request.r#ref {
            Reference::Prompt(reference) => reference,
            Reference::Resource(reference) => {
                let is_ours = self.server.templates.iter().any(|template| template.description.uri_template == reference.uri)
                    || self.resource(&reference.uri).is_some();
                let unknown = || ErrorData::invalid_params(format!("there is no resource template `{}`", reference.uri), None);
                return is_ours.then(CompleteResult::default).ok_or_else(unknown);
            }
            // rmcp may come to know more kinds.
            _ => return Err(ErrorData::invalid_params("`ref` names neither a prompt nor a resource template", None)),
        };
        let Some(prompt) = self.server.prompts.iter().find(|prompt| prompt.description.name == reference.name) else {
            return Err(ErrorData::invalid_params(format!("there is no prompt named `{}`", reference.name), None));
        };
        let Some(complete) = &prompt.complete else { return Ok(CompleteResult::default()) };
        let mut values = complete(&request.argument.name, &request.argument.value);
        values.truncate(CompletionInfo::MAX_VALUES);
        let completion = CompletionInfo::new(values).map_err(|error| ErrorData::internal_error(error, None))?;
        Ok(CompleteResult::new(completion))
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    /// Ends when connections are given up, with the protocol's own last word, so that the client listens again elsewhere; and
    /// when its token is none any more, so that it comes back with another.
    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let until = of(context.request_context(), |parts| parts.extensions.get::<Principal>()?.until());
        tokio::select! {
            biased;
            () = over(until) => {}
            () = tell_listener(&context, self.server.changes.as_ref()) => {}
            _ = self.server.lifecycle.wait_for(bg_runtime::lifecycle::Status::sheds) => {}
        }
        Ok(())
    }

    #[expect(deprecated, reason = "clients up to 2025-11-25 still set it")]
    async fn set_level(
        &self,
        request: rmcp::model::SetLevelRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.offers::<rmcp::model::SetLevelRequestMethod>(|capabilities| capabilities.logging.is_some())?;
        // Without a session there is no stream that a later line could go to either.
        if let Some(session) = session_id(&context.extensions) {
            let level = serde_json::to_value(request.level).ok().and_then(|level| level.as_str().map(str::to_owned));
            self.server.sessions.ask(&session, Ask::LogLevel(level)).await;
        }
        Ok(())
    }

    async fn subscribe(&self, request: SubscribeRequestParams, context: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        let (changes, session) = self.subscribable::<SubscribeRequestMethod>()?;
        let is_ours = self.resource(&request.uri).is_some()
            || self.server.templates.iter().any(|template| template.variables(&request.uri).is_some());
        if !is_ours {
            return Err(no_resource(&request.uri));
        }
        if request.uri.len() > LONGEST_ADDRESS {
            let words = format!("an address that is subscribed to has at most {LONGEST_ADDRESS} bytes");
            return Err(ErrorData::invalid_params(words, None));
        }
        session.subscriptions.add(request.uri.clone(), changes, context.peer)?;
        if let Some(session) = session_id(&context.extensions) {
            self.server.sessions.ask(&session, Ask::Subscribe(request.uri)).await;
        }
        Ok(())
    }

    async fn unsubscribe(&self, request: UnsubscribeRequestParams, context: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        self.subscribable::<UnsubscribeRequestMethod>()?.1.subscriptions.remove(&request.uri);
        if let Some(session) = session_id(&context.extensions) {
            self.server.sessions.ask(&session, Ask::Unsubscribe(request.uri)).await;
        }
        Ok(())
    }

    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        Err(method_not_found(&request.method))
    }

    /// A session that comes from another process, or from idleness, hears again what it had subscribed to.
    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        let (Some(changes), Some(session)) = (&self.server.changes, &self.session) else { return };
        let Some(restored) = context.extensions.get::<SessionRestoreMarker>() else { return };
        for uri in self.server.sessions.asked(restored.id.as_ref()).subscriptions {
            // There were no more than there may be.
            let _ = session.subscriptions.add(uri, changes, context.peer.clone());
        }
    }
}

// === impl Protocol ===

impl Protocol {
    /// For one request that belongs to nothing.
    pub(crate) fn stateless(server: Arc<Server>) -> Self {
        Self { server, session: None }
    }

    /// For one session.
    pub(crate) fn of_session(server: Arc<Server>) -> Self {
        Self { server, session: Some(Arc::default()) }
    }

    /// Refuses the method when the capability it belongs to was not offered.
    fn offers<M: ConstString>(&self, offered: impl FnOnce(&ServerCapabilities) -> bool) -> Result<(), ErrorData> {
        offered(&self.server.config.capabilities).then_some(()).ok_or_else(|| method_not_found(M::VALUE))
    }

    fn subscribable<M: ConstString>(&self) -> Result<(&Changes, &Session), ErrorData> {
        self.offers::<M>(|capabilities| {
            capabilities.resources.as_ref().is_some_and(|resources| resources.subscribe == Some(true))
        })?;
        let changes = self.server.changes.as_ref().ok_or_else(|| method_not_found(M::VALUE))?;
        let session = self.session.as_deref().ok_or_else(|| {
            ErrorData::invalid_request("a subscription belongs to a session: send the mcp-session-id that initialize gave", None)
        })?;
        Ok((changes, session))
    }

    fn resource(&self, uri: &str) -> Option<&Resource> {
        self.server.resources.iter().find(|resource| resource.description.uri == uri)
    }

    /// From which level on the client wants to read log lines during this request; none when it wants none.
    fn log_level(&self, context: &RequestContext<RoleServer>) -> Option<LogLevel> {
        if is_stateless(context) {
            return context.meta.log_level();
        }
        let session = session_id(&context.extensions)?;
        let asked = self.server.sessions.asked(&session).log_level;
        Some(asked.and_then(|level| serde_json::from_value(level.into()).ok()).unwrap_or(EVERYDAY))
    }

    /// What 2026-07-28 wants in a result, and rmcp takes out again for older clients.
    fn completed(&self, mut result: CallToolResult, is_stateless: bool) -> CallToolResponse {
        result.result_type.get_or_insert(ResultType::COMPLETE);
        if is_stateless {
            result.meta.get_or_insert_default().0.extend(server_meta(&self.server.config.server_info).0);
        }
        result.into()
    }

    /// Runs what an application wrote for a prompt or a resource, within the deadline of a call. A panic stays here, where
    /// rmcp would leave the client without an answer.
    async fn bounded<T>(&self, asked: Asked<'_>, work: impl Future<Output = Result<T, ToolError>>) -> Result<T, ErrorData> {
        let deadline = self.server.call_timeout;
        let done = tokio::select! {
            done = tokio::time::timeout(deadline, AssertUnwindSafe(work).catch_unwind()) => done,
            () = self.server.lifecycle.cut().cancelled() => return Err(retryable("the server is going away; try again")),
        };
        match done {
            Ok(Ok(done)) => done.map_err(|error| refusal(asked, error)),
            Ok(Err(_)) => {
                let (kind, name) = asked.fields();
                tracing::error!(kind, name, "the code of a {kind} panicked");
                Err(retryable("internal error; try again"))
            }
            Err(_) => {
                let (kind, name) = asked.fields();
                tracing::error!(kind, name, "the code of a {kind} was stopped after {deadline:?}");
                Err(retryable("it took too long and was stopped; try again"))
            }
        }
    }
}

/// Something of the head of the HTTP request that a call came in.
fn of<T>(context: &RequestContext<RoleServer>, part: impl FnOnce(&http::request::Parts) -> Option<T>) -> Option<T> {
    context.extensions.get::<http::request::Parts>().and_then(part)
}

/// Waits for this moment, or for ever.
async fn over(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}

/// The session that a request names.
fn session_id(extensions: &Extensions) -> Option<String> {
    let parts = extensions.get::<http::request::Parts>()?;
    lean::session_id(&parts.headers).map(str::to_owned)
}

/// Refuses every cursor: lists fit in one page, so none was ever given out. An empty one means the first page, as clients
/// write it that fill optional arguments with `""`.
fn one_page(request: Option<PaginatedRequestParams>) -> Result<(), ErrorData> {
    match request.and_then(|request| request.cursor).filter(|cursor| !cursor.is_empty()) {
        None => Ok(()),
        Some(cursor) => Err(ErrorData::invalid_params(format!("the cursor `{cursor}` was not given out here"), None)),
    }
}

/// Whether the request says for itself who asks, as from 2026-07-28 on.
fn is_stateless(context: &RequestContext<RoleServer>) -> bool {
    context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28)
}

/// What a client asked for, for the log. Clients choose the name, so it is a field of its own and no part of a message.
#[derive(Clone, Copy)]
enum Asked<'a> {
    Tool(&'a str),
    Prompt(&'a str),
    Resource(&'a str),
}

impl<'a> Asked<'a> {
    fn fields(self) -> (&'static str, &'a str) {
        match self {
            Self::Tool(name) => ("tool", name),
            Self::Prompt(name) => ("prompt", name),
            Self::Resource(address) => ("resource", address),
        }
    }
}

fn refusal(asked: Asked<'_>, error: ToolError) -> ErrorData {
    match error.into_kind() {
        Kind::Caller(words) => ErrorData::invalid_params(words, None),
        Kind::Protocol(error) => *error,
        Kind::Internal(source) => internal(asked, source.as_ref()),
    }
}

fn internal(asked: Asked<'_>, error: &(dyn std::error::Error + 'static)) -> ErrorData {
    let (kind, name) = asked.fields();
    tracing::error!(kind, name, error = %Chain(error), "the code of a {kind} failed");
    retryable("internal error; try again")
}

fn retryable(words: &'static str) -> ErrorData {
    ErrorData::internal_error(words, Some(serde_json::json!({ "retryable": true })))
}

fn method_not_found(method: &str) -> ErrorData {
    ErrorData::new(ErrorCode::METHOD_NOT_FOUND, envelope::method_not_found(method), None)
}

fn no_resource(uri: &str) -> ErrorData {
    ErrorData::resource_not_found(format!("there is no resource at `{uri}`"), Some(serde_json::json!({ "uri": uri })))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bg_runtime::{Color, Release};
    use rmcp::model::{ContentBlock, PromptMessage, Role};
    use serde_json::{Value, json};

    use crate::{App, prompt::Prompt, testing};

    fn app() -> App<()> {
        App::new(Release::new(Color::Blue, "1.0.0", "test").unwrap(), ())
    }

    fn code(answer: &testing::Answer) -> Value {
        serde_json::from_str::<Value>(&answer.body).unwrap()["error"]["code"].clone()
    }

    #[tokio::test]
    async fn what_was_not_offered_is_not_there() {
        let server = testing::start(app()).await.unwrap();
        for method in [
            "tools/list",
            "resources/list",
            "resources/templates/list",
            "prompts/list",
            "logging/setLevel",
            "resources/subscribe",
            "resources/unsubscribe",
        ] {
            let params = json!({ "uri": "test://a", "level": "info" });
            let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
            assert_eq!(code(&server.post(&message).await), -32601, "{method}");
        }
    }

    #[tokio::test]
    async fn a_prompt_that_panics_is_answered() {
        let panics = Prompt::new("panics", |_| async { panic!("on purpose") as Result<Vec<PromptMessage>, _> });
        let server = testing::start(app().prompt(panics)).await.unwrap();
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "prompts/get", "params": { "name": "panics" } }).to_string();
        let answer = tokio::time::timeout(Duration::from_secs(10), server.post(&message)).await.expect("it is answered");
        assert_eq!(code(&answer), -32603);
        assert!(!answer.body.contains("on purpose"), "{}", answer.body);
    }

    /// rmcp 3.11 ends the session when two requests wake it up at once.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_first_requests_of_a_session_may_come_together() {
        let plain = Prompt::new("plain", |_| async { Ok(vec![PromptMessage::new(Role::User, ContentBlock::text("here"))]) });
        let server = testing::start(app().prompt(plain)).await.unwrap();
        let address = server.running().address();
        let ask = async |message: &str, header: &str| {
            let length = message.len();
            let head = format!("POST /mcp HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {length}{header}");
            testing::exchange(address, &head, message).await
        };
        let params =
            json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } });
        let initialize = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }).to_string();
        let get = |id| json!({ "jsonrpc": "2.0", "id": id, "method": "prompts/get", "params": { "name": "plain" } }).to_string();
        for _ in 0..20 {
            let opened = ask(&initialize, "").await;
            let session = opened.head.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap();
            let header = format!("\r\nmcp-session-id: {session}");
            let messages: Vec<_> = (0..8).map(get).collect();
            for answer in futures_util::future::join_all(messages.iter().map(|message| ask(message, &header))).await {
                assert!(answer.status == 200 && answer.body.contains("here"), "{}\n{}", answer.head, answer.body);
            }
        }
    }
}
