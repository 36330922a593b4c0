//! rmcp's handler: the same tools, resources and prompts for whatever the lean path does not answer.

use std::{borrow::Cow, sync::Arc, time::Instant};

use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CacheScope, CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams, CompleteResult,
        CompletionInfo, DiscoverResult, GetPromptRequestParams, GetPromptResponse, ListPromptsResult,
        ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams, ProtocolVersion,
        ReadResourceRequestParams, ReadResourceResponse, Reference, ServerConfig, SubscriptionFilter, Tool,
    },
    service::{RequestContext, SubscriptionContext},
};
use serde_json::value::to_raw_value;

use super::{Server, cache_ttl_ms, lean, server_meta};
use crate::{
    error::{Chain, ToolError},
    extract::{Call, PeerCall, Principal},
    reply::{Writer, Written},
    resource::Read,
};

/// The server, as rmcp calls it. One per request or per session; it holds nothing of its own.
#[derive(Clone)]
pub(crate) struct Protocol {
    pub(crate) server: Arc<Server>,
}

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
        let arguments = to_raw_value(&request.arguments.unwrap_or_default()).map_err(|error| internal(&name, &error))?;
        let meta = to_raw_value(&context.meta).map_err(|error| internal(&name, &error))?;
        let id = context.id.to_string();
        let headers = context.extensions.get::<http::request::Parts>().map(|parts| parts.headers.clone()).unwrap_or_default();
        let peer = PeerCall { context, input_responses: request.input_responses, request_state: request.request_state };
        let principal = Principal::anonymous();
        let call = Call {
            arguments: arguments.get(),
            meta: Some(&meta),
            principal: &principal,
            release: &server.release,
            peer: Some(peer),
        };
        let origin = lean::Origin { headers: &headers, id: &id };
        match lean::run(server, &origin, &name, route, &call, || Writer { out: Vec::new(), meta: b"" }, started).await {
            Ok(Written::Response(response)) => Ok(*response),
            Ok(Written::Open { mut out, .. }) => {
                out.push(b'}');
                let result: CallToolResult = serde_json::from_slice(&out).map_err(|error| internal(&name, &error))?;
                Ok(result.into())
            }
            Err(failure) => Err(ErrorData::new(
                rmcp::model::ErrorCode(failure.code),
                failure.message,
                serde_json::from_str(failure.data()).ok(),
            )),
        }
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        one_page(request)?;
        let mut result = ListResourcesResult::with_all_items(
            self.server.resources.iter().map(|resource| resource.description.clone()).collect(),
        );
        result.ttl_ms = Some(cache_ttl_ms());
        result.cache_scope = Some(CacheScope::Public);
        result.meta = Some(server_meta(&self.server.config.server_info));
        Ok(result)
    }

    async fn list_resource_templates(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        one_page(request)?;
        let templates = self.server.templates.iter().map(|template| template.description.clone()).collect();
        let mut result = ListResourceTemplatesResult::with_all_items(templates);
        result.ttl_ms = Some(cache_ttl_ms());
        result.cache_scope = Some(CacheScope::Public);
        result.meta = Some(server_meta(&self.server.config.server_info));
        Ok(result)
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let uri = request.uri;
        let fixed = self.server.resources.iter().find(|resource| resource.description.uri == uri);
        let reading = match fixed {
            Some(resource) => (resource.reader)(Read { uri: uri.clone(), variables: Default::default() }),
            None => {
                let found = self.server.templates.iter().find_map(|template| Some((template, template.variables(&uri)?)));
                let Some((template, variables)) = found else {
                    let data = serde_json::json!({ "uri": uri });
                    return Err(ErrorData::resource_not_found(format!("there is no resource at `{uri}`"), Some(data)));
                };
                (template.reader)(Read { uri: uri.clone(), variables })
            }
        };
        reading.await.map_err(|error| refusal(&uri, error))
    }

    async fn list_prompts(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        one_page(request)?;
        let mut result =
            ListPromptsResult::with_all_items(self.server.prompts.iter().map(|prompt| prompt.description.clone()).collect());
        result.ttl_ms = Some(cache_ttl_ms());
        result.cache_scope = Some(CacheScope::Public);
        result.meta = Some(server_meta(&self.server.config.server_info));
        Ok(result)
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
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
        (prompt.fill)(crate::prompt::PromptCall { request, context }).await.map_err(|error| refusal(&name, error))
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let Reference::Prompt(reference) = &request.r#ref else { return Ok(CompleteResult::default()) };
        let prompt = self.server.prompts.iter().find(|prompt| prompt.description.name == reference.name);
        let Some(complete) = prompt.and_then(|prompt| prompt.complete.as_ref()) else { return Ok(CompleteResult::default()) };
        let mut values = complete(&request.argument.name, &request.argument.value);
        values.truncate(CompletionInfo::MAX_VALUES);
        let completion = CompletionInfo::new(values).map_err(|error| ErrorData::internal_error(error, None))?;
        Ok(CompleteResult::new(completion))
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    /// Ends when connections are given up, with the protocol's own last word, so that the client listens again elsewhere.
    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        tokio::select! {
            () = context.cancelled() => {}
            _ = self.server.lifecycle.wait_for(bg_runtime::lifecycle::Status::sheds) => {}
        }
        Ok(())
    }

    #[expect(deprecated, reason = "clients up to 2025-11-25 still set it")]
    async fn set_level(
        &self,
        _request: rmcp::model::SetLevelRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        if self.server.config.capabilities.logging.is_none() {
            return Err(ErrorData::method_not_found::<rmcp::model::SetLevelRequestMethod>());
        }
        Ok(())
    }

    async fn subscribe(
        &self,
        _request: rmcp::model::SubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.subscribable().then_some(()).ok_or_else(ErrorData::method_not_found::<rmcp::model::SubscribeRequestMethod>)
    }

    async fn unsubscribe(
        &self,
        _request: rmcp::model::UnsubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.subscribable().then_some(()).ok_or_else(ErrorData::method_not_found::<rmcp::model::UnsubscribeRequestMethod>)
    }
}

impl Protocol {
    fn subscribable(&self) -> bool {
        self.server.config.capabilities.resources.as_ref().is_some_and(|resources| resources.subscribe == Some(true))
    }
}

/// Lists fit in one page, so no cursor was ever given out.
fn one_page(request: Option<PaginatedRequestParams>) -> Result<(), ErrorData> {
    match request.and_then(|request| request.cursor) {
        None => Ok(()),
        Some(cursor) => Err(ErrorData::invalid_params(format!("the cursor `{cursor}` was not given out here"), None)),
    }
}

fn refusal(what: &str, error: ToolError) -> ErrorData {
    match error.split() {
        Ok(words) => ErrorData::invalid_params(words, None),
        Err(source) => internal(what, source.as_ref()),
    }
}

fn internal(what: &str, error: &(dyn std::error::Error + 'static)) -> ErrorData {
    tracing::error!(error = %Chain(error), "{what} failed");
    ErrorData::internal_error("internal error; try again", Some(serde_json::json!({ "retryable": true })))
}
