//! Prompts: texts that a person picks in the client and the application fills in.

use std::{fmt, pin::Pin, sync::Arc};

use rmcp::{
    RoleServer,
    model::{GetPromptRequestParams, GetPromptResponse, GetPromptResult, PromptArgument, PromptMessage},
    service::RequestContext,
};

use crate::error::ToolError;

type Filling = Pin<Box<dyn Future<Output = Result<GetPromptResponse, ToolError>> + Send>>;
type Completer = Arc<dyn Fn(&str, &str) -> Vec<String> + Send + Sync>;

/// A prompt of an application.
#[derive(Clone)]
pub struct Prompt {
    pub(crate) description: rmcp::model::Prompt,
    pub(crate) fill: Arc<dyn Fn(PromptCall) -> Filling + Send + Sync>,
    pub(crate) complete: Option<Completer>,
}

/// One `prompts/get`.
#[derive(Clone, Debug)]
pub struct PromptCall {
    /// What the client asked for.
    pub request: GetPromptRequestParams,
    /// The client on the other side.
    pub context: RequestContext<RoleServer>,
}

impl PromptCall {
    /// The value of an argument, when it came as text.
    pub fn argument(&self, name: &str) -> Option<&str> {
        self.request.arguments.as_ref()?.get(name)?.as_str()
    }
}

impl Prompt {
    /// A prompt of this name, filled in by an async function.
    pub fn new<F, R, O>(name: impl Into<String>, fill: F) -> Self
    where
        F: Fn(PromptCall) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O, ToolError>> + Send + 'static,
        O: IntoPrompt,
    {
        let fill = move |call| -> Filling {
            let filling = fill(call);
            Box::pin(async move { filling.await.map(IntoPrompt::into_prompt) })
        };
        Self { description: rmcp::model::Prompt::new(name, None::<String>, None), fill: Arc::new(fill), complete: None }
    }

    /// What the prompt is for.
    #[must_use]
    pub fn describe(mut self, text: impl Into<String>) -> Self {
        self.description.description = Some(text.into());
        self
    }

    /// An argument a person fills in. A required one that is missing is refused before the prompt's function runs.
    #[must_use]
    pub fn argument(mut self, name: &str, description: &str, required: bool) -> Self {
        let argument = PromptArgument::new(name).with_description(description).with_required(required);
        self.description.arguments.get_or_insert_default().push(argument);
        self
    }

    /// Completes an argument while it is typed: a function of the argument's name and what has been typed so far.
    #[must_use]
    pub fn complete(mut self, complete: impl Fn(&str, &str) -> Vec<String> + Send + Sync + 'static) -> Self {
        self.complete = Some(Arc::new(complete));
        self
    }

    /// The first required argument that the call lacks.
    pub(crate) fn missing(&self, request: &GetPromptRequestParams) -> Option<&str> {
        let given = |name: &str| request.arguments.as_ref().is_some_and(|arguments| arguments.contains_key(name));
        let arguments = self.description.arguments.iter().flatten();
        arguments
            .filter(|argument| argument.required == Some(true))
            .map(|argument| argument.name.as_str())
            .find(|name| !given(name))
    }
}

/// What a prompt's function may return.
pub trait IntoPrompt {
    /// The protocol's answer.
    fn into_prompt(self) -> GetPromptResponse;
}

impl IntoPrompt for Vec<PromptMessage> {
    fn into_prompt(self) -> GetPromptResponse {
        GetPromptResult::new(self).into()
    }
}

impl IntoPrompt for GetPromptResult {
    fn into_prompt(self) -> GetPromptResponse {
        self.into()
    }
}

impl IntoPrompt for GetPromptResponse {
    fn into_prompt(self) -> GetPromptResponse {
        self
    }
}

impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Prompt").field(&self.description.name).finish()
    }
}
