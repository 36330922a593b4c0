//! A tool: a free function shaped like an axum handler, and what clients are told of it.

use std::{any::type_name, fmt, panic::AssertUnwindSafe, pin::Pin, sync::Arc};

use futures_util::FutureExt;
use rmcp::model::{JsonObject, ToolAnnotations};

use crate::{
    conversation,
    error::ToolError,
    extract::{Call, FromCall, Rejection},
    reply::{IntoReply, Writer, Written},
    schema::Portable,
};

/// A tool of an application whose state is `S`.
///
/// ```
/// use mcp_server::{Tool, extract::Parameters};
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// struct Greeting {
///     /// Whom to greet.
///     name: String,
/// }
///
/// async fn greet(Parameters(greeting): Parameters<Greeting>) -> String {
///     format!("Hello, {}!", greeting.name)
/// }
///
/// let tool: Tool<()> = Tool::new("greet", greet).describe("Greets somebody by name.").read_only();
/// ```
pub struct Tool<S> {
    pub(crate) description: Description,
    pub(crate) run: Arc<dyn Run<S>>,
}

/// What clients are told of a tool.
#[derive(Clone, Debug)]
pub struct Description {
    pub(crate) name: String,
    pub(crate) title: Option<String>,
    pub(crate) text: Option<String>,
    pub(crate) input: JsonObject,
    pub(crate) output: Option<JsonObject>,
    pub(crate) annotations: ToolAnnotations,
    pub(crate) meta: JsonObject,
    /// Whether its calls go through rmcp, because an argument or the result needs what only rmcp has.
    pub(crate) needs_peer: bool,
    /// Whether the same call made again does nothing more; see [`Once`](crate::answers::Once).
    pub(crate) acts_once: bool,
    /// What a caller's token has to allow.
    pub(crate) scopes: Vec<&'static str>,
    /// The argument that says whose data is meant.
    pub(crate) whose: Option<&'static str>,
    /// When a conversation that it was called in may move to another build.
    pub(crate) pinning: Pinning,
    /// The boundary that a call of it reaches.
    pub(crate) reaches: Option<&'static str>,
    /// The address of the widget that draws what it answers.
    pub(crate) drawn_by: Option<String>,
    /// The function's path, so that a mistake found at start names the code.
    pub(crate) function: &'static str,
}

/// When a conversation may move to another build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Pinning {
    /// At any call.
    #[default]
    Auto,
    /// When nobody of its build lives, or at a boundary.
    Pinned(Option<&'static str>),
}

/// A tool function at work.
pub type Running = Pin<Box<dyn Future<Output = Result<Written, ToolError>> + Send>>;

/// A tool function with its arguments' types forgotten.
pub(crate) trait Run<S>: Send + Sync {
    fn run(&self, call: &Call<'_>, state: &S, writer: Writer) -> Result<Running, Rejection>;
}

/// A free async function whose arguments are extractors and whose result is a reply. Implemented for up to eight arguments.
pub trait Handler<S, Arguments>: Clone + Send + Sync + 'static {
    /// Starts the function on what the call brings; its reply goes to `writer`.
    ///
    /// # Errors
    /// When an argument is not there in the right form; the function did not start then.
    fn start(&self, call: &Call<'_>, state: &S, writer: Writer) -> Result<Running, Rejection>;

    /// Tells the description what arguments and result mean for it.
    fn describe(description: &mut Description);
}

macro_rules! handler {
    ($($argument:ident),*) => {
        impl<S, F, Fut, R, $($argument),*> Handler<S, ($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = R> + Send + 'static,
            R: IntoReply,
            $($argument: FromCall<S>,)*
        {
            fn start(&self, _call: &Call<'_>, _state: &S, writer: Writer) -> Result<Running, Rejection> {
                let running = self($($argument::from_call(_call, _state)?),*);
                let writer = writer.with_note(_call.note());
                Ok(Box::pin(async move { running.await.write(writer) }))
            }

            fn describe(description: &mut Description) {
                $($argument::describe(description);)*
                R::describe(description);
            }
        }
    };
}

handler!();
handler!(A);
handler!(A, B);
handler!(A, B, C);
handler!(A, B, C, D);
handler!(A, B, C, D, E);
handler!(A, B, C, D, E, G);
handler!(A, B, C, D, E, G, H);
handler!(A, B, C, D, E, G, H, I);

struct Function<F, Arguments> {
    function: F,
    arguments: std::marker::PhantomData<fn(Arguments)>,
}

impl<S, F, Arguments> Run<S> for Function<F, Arguments>
where
    F: Handler<S, Arguments>,
    Arguments: 'static,
{
    fn run(&self, call: &Call<'_>, state: &S, writer: Writer) -> Result<Running, Rejection> {
        self.function.start(call, state, writer)
    }
}

// === impl Tool ===

impl<S> Tool<S> {
    /// A tool of this name, which is what clients call it by.
    pub fn new<F, Arguments>(name: impl Into<String>, function: F) -> Self
    where
        F: Handler<S, Arguments>,
        Arguments: 'static,
    {
        let mut description = Description {
            name: name.into(),
            title: None,
            text: None,
            input: empty_object(),
            output: None,
            annotations: ToolAnnotations::default(),
            meta: JsonObject::new(),
            needs_peer: false,
            acts_once: false,
            scopes: Vec::new(),
            whose: None,
            pinning: Pinning::Auto,
            reaches: None,
            drawn_by: None,
            function: type_name::<F>(),
        };
        F::describe(&mut description);
        description.input.entry("properties").or_insert_with(|| JsonObject::new().into());
        Self { description, run: Arc::new(Function { function, arguments: std::marker::PhantomData }) }
    }

    /// The name people see.
    #[must_use]
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.description.title = Some(title.into());
        self
    }

    /// What the tool does and when to use it: the model chooses by this text.
    #[must_use]
    pub fn describe(mut self, text: impl Into<String>) -> Self {
        self.description.text = Some(text.into());
        self
    }

    /// The tool changes nothing.
    #[must_use]
    pub fn read_only(self) -> Self {
        self.hints(true, false, true)
    }

    /// The tool adds something and takes nothing away; calling it twice adds twice.
    #[must_use]
    pub fn additive(self) -> Self {
        self.hints(false, false, false)
    }

    /// The tool changes or takes away what is there; calling it twice with the same arguments changes nothing more.
    #[must_use]
    pub fn destructive(self) -> Self {
        self.hints(false, true, true)
    }

    /// The tool reaches beyond this application, such as the web. Otherwise its world is closed.
    #[must_use]
    pub fn open_world(mut self) -> Self {
        self.description.annotations.open_world_hint = Some(true);
        self
    }

    /// Keeps a conversation in which the tool was called on the build it was called on: later calls of that conversation, of
    /// this tool and of all others, are answered by that build for as long as one of its processes lives, whichever process
    /// takes them. For tools whose state another build could not go on with.
    ///
    /// A conversation that is silent for half an hour, or a day old, is let go.
    #[must_use]
    pub fn pinned(mut self) -> Self {
        self.description.pinning = Pinning::Pinned(None);
        self
    }

    /// As [`pinned`](Self::pinned), until a call [reaches](Self::reaches) this boundary.
    #[must_use]
    pub fn pinned_until(mut self, boundary: &'static str) -> Self {
        self.description.pinning = Pinning::Pinned(Some(boundary));
        self
    }

    /// When a call of the tool succeeds, the conversation has reached this boundary, and may move from the next call on.
    #[must_use]
    pub fn reaches(mut self, boundary: &'static str) -> Self {
        self.description.reaches = Some(boundary);
        self
    }

    /// What a caller's token has to allow (OAuth scopes): all of them. A caller who may do less is told what to ask the
    /// authorization server for, and the tool does not run. Where no tokens are asked for, nobody is held to it.
    #[must_use]
    pub fn scopes(mut self, scopes: &[&'static str]) -> Self {
        self.description.scopes = scopes.to_vec();
        self
    }

    /// The argument that says whose data is meant. Where callers prove who they are, it may be left out, and `tools/list` says
    /// so; the function learns from [`Principal`](crate::extract::Principal) who they are.
    #[must_use]
    pub fn whose(mut self, argument: &'static str) -> Self {
        self.description.whose = Some(argument);
        self
    }

    /// Replaces the input schema, for what a Rust type cannot say. It is rewritten for every
    /// client as that of a type is: without `null`, lists of types, and formats that only some know.
    #[must_use]
    pub fn input_schema(mut self, mut schema: JsonObject) -> Self {
        Portable::Input.rewrite(&mut schema);
        self.description.input = schema;
        self
    }

    /// Adds a member to the tool's `_meta`.
    #[must_use]
    pub fn meta(mut self, key: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        self.description.meta.insert(key.into(), value.into());
        self
    }

    /// All three hints are always sent: ChatGPT requires them, and their defaults are the dangerous ones.
    fn hints(mut self, read_only: bool, destructive: bool, idempotent: bool) -> Self {
        let hints = &mut self.description.annotations;
        hints.read_only_hint = Some(read_only);
        hints.destructive_hint = Some(destructive);
        hints.idempotent_hint = Some(idempotent);
        hints.open_world_hint.get_or_insert(false);
        self
    }
}

impl<S> fmt::Debug for Tool<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tool")
            .field("name", &self.description.name)
            .field("function", &self.description.function)
            .finish_non_exhaustive()
    }
}

// === impl Description ===

impl Description {
    /// The tool as `tools/list` shows it where tokens are asked for.
    pub(crate) fn to_protected_tool(&self) -> rmcp::model::Tool {
        let mut tool = self.to_tool();
        let meta = tool.meta.get_or_insert_default();
        meta.0.insert("securitySchemes".to_owned(), serde_json::json!([{ "type": "oauth2", "scopes": self.scopes }]));
        if let Some(whose) = self.whose {
            let mut input = self.input.clone();
            if let Some(required) = input.get_mut("required").and_then(|required| required.as_array_mut()) {
                required.retain(|name| name != whose);
            }
            tool.input_schema = Arc::new(input);
        }
        tool
    }

    /// The tool as `tools/list` shows it.
    pub(crate) fn to_tool(&self) -> rmcp::model::Tool {
        let mut tool =
            rmcp::model::Tool::new(self.name.clone(), self.text.clone().unwrap_or_default(), Arc::new(self.input.clone()))
                .with_annotations(self.annotations.clone());
        tool.title.clone_from(&self.title);
        tool.output_schema = self.output.clone().map(Arc::new);
        tool.meta = (!self.meta.is_empty()).then(|| rmcp::model::MetaObject(self.meta.clone()));
        tool
    }

    /// Whether calling it again with the same arguments does no harm, at any time.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.annotations.read_only_hint == Some(true) || self.annotations.idempotent_hint == Some(true)
    }

    /// Whether a conversation's handle is among its arguments.
    pub(crate) fn takes_handle(&self) -> bool {
        self.input.get("properties").is_some_and(|properties| properties.get(conversation::ARGUMENT).is_some())
    }

    /// Whether arguments must also come as headers, `x-mcp-header` in the schema (2026-07-28). rmcp compares the two.
    pub(crate) fn wants_headers(&self) -> bool {
        fn annotated(value: &serde_json::Value) -> bool {
            match value {
                serde_json::Value::Object(object) => object.contains_key("x-mcp-header") || object.values().any(annotated),
                serde_json::Value::Array(values) => values.iter().any(annotated),
                _ => false,
            }
        }
        self.input.values().any(annotated)
    }

    /// What is wrong with it, in words for the developer.
    pub(crate) fn problems(&self) -> impl Iterator<Item = String> {
        let name_is_valid = (1..=128).contains(&self.name.len())
            && self.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
        let mut problems = Vec::new();
        if !name_is_valid {
            problems.push("its name may hold 1 to 128 of A-Z a-z 0-9 _ - . (MCP, tool names)".to_owned());
        }
        if self.text.as_deref().is_none_or(str::is_empty) {
            problems.push("it has no description, and the model chooses by that: call .describe(…)".to_owned());
        }
        if self.annotations.read_only_hint.is_none() {
            problems.push("nobody said what it does to the world: call .read_only(), .additive() or .destructive()".to_owned());
        }
        if self.input.get("type").and_then(|kind| kind.as_str()) != Some("object") {
            problems.push("its parameters are not an object: use a struct".to_owned());
        }
        let is_scope =
            |scope: &&str| !scope.is_empty() && scope.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte));
        if !self.scopes.iter().all(is_scope) {
            problems.push("a scope is visible ASCII without spaces, quotes and backslashes (RFC 6749, 3.3)".to_owned());
        }
        let has = |whose| self.input.get("properties").is_some_and(|properties| properties.get(whose).is_some());
        if let Some(whose) = self.whose.filter(|whose| !has(*whose)) {
            problems.push(format!("it has no argument `{whose}`, which .whose(…) names"));
        }
        let (name, function) = (self.name.clone(), self.function);
        problems.into_iter().map(move |problem| format!("tool `{name}` ({function}): {problem}"))
    }
}

/// Runs a tool function so that a panic is a failure like any other: no panic reaches a client.
pub(crate) async fn guarded(running: Running) -> Result<Written, ToolError> {
    AssertUnwindSafe(running).catch_unwind().await.unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Err(ToolError::internal(format!("the tool panicked: {}", words.unwrap_or("without words"))))
    })
}

fn empty_object() -> JsonObject {
    let mut object = JsonObject::new();
    object.insert("type".to_owned(), "object".into());
    object
}
