//! What a tool function may ask for. Each argument takes its part out of the call, as in an axum handler; what an argument
//! means for the tool's description (its input schema, that it needs the client's peer) comes from its type.

use std::{
    borrow::Cow,
    ops::Deref,
    sync::{Arc, OnceLock},
    time::Instant,
};

use axum::extract::FromRef;
use rmcp::{
    ErrorData, RoleServer,
    model::{ClientCapabilities, InputResponses, JsonObject, ProgressNotificationParam},
    service::RequestContext,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{
    arguments::{self, Shape},
    audit,
    conversation::Named,
    error::ToolError,
    request_state::{RequestStates, Seal},
    schema,
    tool::Description,
};

pub use bg_runtime::Release;

/// ChatGPT's have a few dozen characters.
const LONGEST_SUBJECT: usize = 200;

/// Stands before the name of a [caller](Call::caller) who proved it. The policy of `mcp_answers` knows it, too.
pub(crate) const PROVEN: char = '=';

/// One `tools/call`, as extractors see it.
#[derive(Debug)]
pub struct Call<'a> {
    /// The name of the tool.
    pub(crate) tool: &'a str,
    /// The arguments as they came: a JSON object.
    pub(crate) arguments: &'a str,
    /// The request's `_meta`, as it came.
    pub(crate) meta: Option<&'a RawValue>,
    pub(crate) principal: &'a Principal,
    pub(crate) release: &'a Release,
    pub(crate) request_states: &'a RequestStates,
    /// The `mcp-session-id` of an older client, which has been found to be open and the caller's.
    pub(crate) session: Option<&'a str>,
    /// Whether the tool takes a conversation's handle among its arguments.
    pub(crate) takes_handle: bool,
    /// What the tool's input schema says of the arguments.
    pub(crate) shape: &'a Shape,
    /// Whether the tool does more than look something up.
    pub(crate) acts: bool,
    /// The arguments that the tool does not read, once they are read.
    pub(crate) ignored: OnceLock<Vec<String>>,
    /// What becomes of the call in the audit log; only of one that may change something.
    pub(crate) audit: Option<Arc<audit::Record>>,
    /// Looked for when somebody asks.
    pub(crate) named: OnceLock<Option<Arc<Named>>>,
    /// The conversation that the call begins, because it names none.
    pub(crate) begun: OnceLock<Arc<Named>>,
    /// Only on rmcp's path.
    pub(crate) peer: Option<PeerCall>,
}

/// What only rmcp's path has.
#[derive(Clone, Debug)]
pub(crate) struct PeerCall {
    pub(crate) context: RequestContext<RoleServer>,
    /// From which level on the client wants log lines.
    pub(crate) log_level: Option<LogLevel>,
    pub(crate) input_responses: Option<InputResponses>,
    pub(crate) request_state: Option<String>,
}

/// Why the arguments of a call could not be taken out of it. The model hears the words.
#[derive(Debug)]
pub struct Rejection(pub(crate) Cow<'static, str>);

impl Rejection {
    /// A rejection in words the model can act on.
    pub fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self(message.into())
    }
}

/// An argument of a tool function.
pub trait FromCall<S>: Sized {
    /// Takes this argument out of the call.
    ///
    /// # Errors
    /// When the call does not have it in the right form.
    fn from_call(call: &Call<'_>, state: &S) -> Result<Self, Rejection>;

    /// Tells the tool's description what this argument means for it.
    fn describe(_description: &mut Description) {}
}

/// A part of the application's state. A tool that asks for a part the application lacks does not compile.
#[derive(Clone, Copy, Debug)]
pub struct State<T>(pub T);

/// The arguments of the call. Their type's schema is the tool's input schema.
///
/// They are read as models and clients write them. An argument that may be left out may also be `null` or `""`, which is the
/// same (an `enum` that lists `""` keeps it); an integer may be written `30.0`. A name that is almost one of the schema's
/// (`timezone`, `start_date`) is refused, and the right one said; any other is ignored, and the result of a tool that acts
/// says so.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<T>(pub T);

/// Who calls. Until somebody proves otherwise, everybody is anonymous. Two of the same name are the same, whatever their tokens
/// allow them.
#[derive(Clone, Debug, Default)]
pub struct Principal {
    subject: Option<Arc<str>>,
    /// What a token allows, separated by spaces. Without one, nothing is limited.
    scopes: Option<Arc<str>>,
    /// When that token is none any more.
    until: Option<Instant>,
}

/// The client on the other side, for tools that talk back while they work: progress, logging, sampling, elicitation.
///
/// Asking for it moves the tool's calls to rmcp's service, which costs about 200,000 instructions a call.
#[derive(Clone, Debug)]
pub struct Peer {
    context: RequestContext<RoleServer>,
    log_level: Option<LogLevel>,
}

#[expect(deprecated, reason = "deprecated with 2026-07-28, and still spoken")]
type LogLevel = rmcp::model::LoggingLevel;

/// What the client answered to an earlier request for input, and the state that request carried (2026-07-28).
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The answers, by the key of their request.
    pub responses: InputResponses,
    /// The state that the request for input carried, as the client gave it back; [`open`](Self::open) reads it.
    pub state: Option<String>,
    seal: Seal,
}

// === impl Call ===

impl Call<'_> {
    /// The name of the tool.
    pub fn tool(&self) -> &str {
        self.tool
    }

    /// The arguments as they came: a JSON object.
    pub fn arguments(&self) -> &str {
        self.arguments
    }

    /// The request's `_meta`, as it came.
    pub fn meta(&self) -> Option<&RawValue> {
        self.meta
    }

    /// Who calls, as far as callers can be told apart. Who proved nothing is told apart by the subject that ChatGPT names, or
    /// by the session, which is better than nothing: a stranger's call is not this one, and its answer is nobody else's.
    pub(crate) fn caller(&self) -> String {
        #[derive(Default, Deserialize)]
        struct Meta<'a> {
            #[serde(borrow, default, rename = "openai/subject")]
            subject: Option<Cow<'a, str>>,
        }
        if let Some(name) = self.principal.subject() {
            return format!("{PROVEN}{name}");
        }
        let meta: Meta<'_> = self.meta.and_then(|meta| serde_json::from_str(meta.get()).ok()).unwrap_or_default();
        let subject = meta.subject.filter(|subject| subject.len() <= LONGEST_SUBJECT && !subject.contains('\0'));
        let subject = subject.map(|subject| format!("?{subject}"));
        subject.or_else(|| Some(format!("#{}", self.session?))).unwrap_or_default()
    }

    /// What the arguments say: the order of members and the spaces between them are not the caller's meaning.
    pub(crate) fn digest(&self) -> String {
        digest(self.arguments)
    }

    /// What the result says of the arguments that the tool did not read. Only that of a tool that acts does: n8n adds an
    /// argument to every call, and whoever looks something up sees what they got.
    pub(crate) fn note(&self) -> Option<String> {
        self.ignored.get().filter(|_| self.acts).map(|ignored| arguments::note(ignored))
    }

    /// The conversation that the call belongs to, or has begun.
    pub(crate) fn conversation(&self) -> Option<Arc<Named>> {
        let look = || {
            let arguments = self.takes_handle.then_some(self.arguments);
            Named::of(self.meta, arguments, self.session, self.principal).map(Arc::new)
        };
        self.named.get_or_init(look).as_ref().or_else(|| self.begun.get()).cloned()
    }

    /// The conversation that the call belongs to, or begins.
    pub(crate) fn conversation_or(&self, begin: impl FnOnce() -> Arc<Named>) -> Arc<Named> {
        self.conversation().unwrap_or_else(|| self.begun.get_or_init(begin).clone())
    }
}

/// A digest of JSON that is the same for any order of members and any spaces between them.
pub(crate) fn digest(arguments: &str) -> String {
    let canonical = serde_json::from_str::<serde_json::Value>(arguments).map(|value| value.to_string());
    let digest = Sha256::digest(canonical.as_deref().unwrap_or(arguments));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

// === impl Principal ===

impl Principal {
    /// Nobody in particular.
    pub const fn anonymous() -> Self {
        Self { subject: None, scopes: None, until: None }
    }

    /// Who proved to have this name.
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        Self { subject: Some(name.into()), scopes: None, until: None }
    }

    /// Who proved to have this name by a token that allows this much for so long.
    pub(crate) fn with_token(name: impl Into<Arc<str>>, scopes: impl Into<Arc<str>>, until: Instant) -> Self {
        Self { subject: Some(name.into()), scopes: Some(scopes.into()), until: Some(until) }
    }

    /// When the token is none any more that proved it, if there was one: what is open then ends.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// The name that was proved, where one was.
    pub(crate) fn proved(&self) -> Option<&Arc<str>> {
        self.subject.as_ref()
    }

    /// Whether the caller's token allows this scope. Where callers need no token, everybody is allowed everything.
    pub fn may(&self, scope: &str) -> bool {
        self.scopes.as_ref().is_none_or(|scopes| scopes.split_ascii_whitespace().any(|allowed| allowed == scope))
    }

    /// Whether a token says what the caller may do.
    pub(crate) fn is_limited(&self) -> bool {
        self.scopes.is_some()
    }

    /// As the database has it: nobody has no name.
    pub(crate) fn to_stored(&self) -> &str {
        self.subject.as_deref().unwrap_or_default()
    }

    pub(crate) fn stored(name: &str) -> Self {
        Self { subject: (!name.is_empty()).then(|| name.into()), scopes: None, until: None }
    }

    /// The name a proof gave, if there was one.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }
}

impl PartialEq for Principal {
    fn eq(&self, other: &Self) -> bool {
        self.subject == other.subject
    }
}

impl Eq for Principal {}

impl std::hash::Hash for Principal {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.subject.hash(state);
    }
}

// === impl Peer ===

impl Peer {
    /// Says how far the work is: `done` of `total`. Only clients that asked for it hear it.
    pub async fn progress(&self, done: f64, total: f64, message: impl Into<String>) {
        let Some(token) = self.context.meta.get_progress_token() else { return };
        let progress = ProgressNotificationParam::new(token, done).with_total(total).with_message(message);
        // A client that has gone meanwhile misses nothing it waits for.
        let _ = self.context.peer.notify_progress(progress).await;
    }

    /// Writes a line into the client's log, when the client wants lines of this level. It is for the person at the client;
    /// what the operator should know goes to `tracing`. 2026-07-28 keeps this for older clients only.
    #[expect(deprecated, reason = "deprecated with 2026-07-28, and still spoken")]
    pub async fn log(&self, level: LogLevel, data: impl Into<serde_json::Value>) {
        if self.log_level.is_some_and(|wanted| wanted as u8 <= level as u8) {
            let line = rmcp::model::LoggingMessageNotificationParam::new(level, data.into());
            let _ = self.context.peer.notify_logging_message(line).await;
        }
    }

    /// Refuses the call when the client lacks a capability: the protocol's own error, so that the client knows what to
    /// declare (2026-07-28).
    ///
    /// # Errors
    /// When the client did not declare it.
    pub fn requires(&self, required: ClientCapabilities) -> Result<(), ToolError> {
        let declared = self.context.client_capabilities().unwrap_or_default();
        let has = |needs: bool, has: bool| !needs || has;
        let enough = has(required.sampling.is_some(), declared.sampling.is_some())
            && has(required.elicitation.is_some(), declared.elicitation.is_some())
            && has(required.roots.is_some(), declared.roots.is_some());
        if enough { Ok(()) } else { Err(ErrorData::missing_required_client_capability(required).into()) }
    }
}

impl Deref for Peer {
    type Target = RequestContext<RoleServer>;

    fn deref(&self) -> &Self::Target {
        &self.context
    }
}

// === impl Inputs ===

impl Inputs {
    /// Makes of a state what the client is to carry until it answers: signed, for this caller, this tool and these arguments,
    /// for ten minutes. Any process of either color opens it. The client can read it, so no secret belongs into it, and can
    /// send it more than once: what must happen once needs [`Once`](crate::answers::Once), too.
    ///
    /// # Errors
    /// When the state does not serialize.
    pub fn seal(&self, state: &impl Serialize) -> Result<String, ToolError> {
        self.seal.seal(state)
    }

    /// The state that the client carried, if it carried one.
    ///
    /// # Errors
    /// An error of the protocol when it is not one that [`seal`](Self::seal) gave this caller for this tool, or is too old.
    pub fn open<T: DeserializeOwned>(&self) -> Result<Option<T>, ToolError> {
        self.state.as_deref().map(|state| self.seal.open(state)).transpose()
    }
}

// === impl FromCall ===

impl<S, T: FromRef<S>> FromCall<S> for State<T> {
    fn from_call(_call: &Call<'_>, state: &S) -> Result<Self, Rejection> {
        Ok(Self(T::from_ref(state)))
    }
}

impl<S, T: DeserializeOwned + JsonSchema> FromCall<S> for Parameters<T> {
    fn from_call(call: &Call<'_>, _state: &S) -> Result<Self, Rejection> {
        let arguments::Read { parameters, ignored } = arguments::read(call.arguments, call.shape)?;
        if !ignored.is_empty() {
            let _ = call.ignored.set(ignored);
        }
        Ok(Self(parameters))
    }

    fn describe(description: &mut Description) {
        description.input = schema::input::<T>();
    }
}

impl<S> FromCall<S> for JsonObject {
    fn from_call(call: &Call<'_>, _state: &S) -> Result<Self, Rejection> {
        arguments::read(call.arguments, &Shape::default()).map(|read| read.parameters)
    }
}

impl<S> FromCall<S> for Principal {
    fn from_call(call: &Call<'_>, _state: &S) -> Result<Self, Rejection> {
        Ok(call.principal.clone())
    }
}

impl<S> FromCall<S> for Release {
    fn from_call(call: &Call<'_>, _state: &S) -> Result<Self, Rejection> {
        Ok(call.release.clone())
    }
}

impl<S> FromCall<S> for Peer {
    fn from_call(call: &Call<'_>, _state: &S) -> Result<Self, Rejection> {
        let peer = call.peer.as_ref().expect("a tool that asks for its peer is called through rmcp");
        Ok(Self { context: peer.context.clone(), log_level: peer.log_level })
    }

    fn describe(description: &mut Description) {
        description.needs_peer = true;
    }
}

impl<S> FromCall<S> for Inputs {
    fn from_call(call: &Call<'_>, _state: &S) -> Result<Self, Rejection> {
        let peer = call.peer.as_ref().expect("a tool that asks for inputs is called through rmcp");
        Ok(Self {
            responses: peer.input_responses.clone().unwrap_or_default(),
            state: peer.request_state.clone(),
            seal: call.request_states.seal_for(&call.caller(), call.tool, &call.digest()),
        })
    }

    fn describe(description: &mut Description) {
        description.needs_peer = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_arguments_are_the_same_in_any_order() {
        assert_eq!(digest(r#"{"a":1,"b":[2]}"#), digest(r#"{ "b": [2], "a": 1 }"#));
        assert_ne!(digest(r#"{"a":1}"#), digest(r#"{"a":2}"#));
    }
}
