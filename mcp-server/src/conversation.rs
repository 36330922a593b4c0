//! A conversation, as a tool sees it: a state of the tool's own type that outlives calls, processes and colors.
//!
//! Whose conversation a call belongs to is said by, in this order: a handle that an earlier answer gave, as the argument or
//! the member of `_meta` named below; ChatGPT's `openai/session`; the session of an older client. What must stay true: a
//! conversation is its principal's alone, and what a newer build has written into a state is still there after an older
//! build has changed it.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::extract::FromRef;
use bg_runtime::storage::StorageError;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned, de::Error as _};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    ToolError,
    conversations::{self, Conversations, Save, Widget},
    extract::{Call, FromCall, Principal, Rejection},
};

/// The member of a request's `_meta` that names a conversation by its handle, for clients that know of it.
pub const META: &str = "mcp-server/conversation";
/// The argument that does, for models: give the parameters of a tool a field of this name and of the type [`Handle`].
pub const ARGUMENT: &str = "conversation";

/// A write that met another one is made again so often. Each time somebody's write was done.
const ATTEMPTS: usize = 8;
const LONGEST_NAME: usize = 200;

/// What a tool remembers of a conversation: an object of JSON.
///
/// Two builds read and write it at the same time, so change it like a table: add fields with a default, and give up a field
/// one release after its last reader. Fields that a build does not know it leaves as they are. What is more than that, a new
/// name for a field among them, needs another [`VERSION`](Self::VERSION), and tools that are [pinned](crate::Tool::pinned).
///
/// A conversation has one state, whichever tool asks for it: all tools of an application share one type.
pub trait ConversationState: Serialize + DeserializeOwned + Default + Send + Sync + 'static {
    /// Raised when a build of before could not read what this one writes. It then says so to whoever calls it.
    const VERSION: u32 = 1;

    /// Reads what an earlier version has written.
    ///
    /// # Errors
    /// When it cannot be read; the call fails then, and the state stays as it is.
    fn upgrade(version: u32, stored: Value) -> Result<Self, serde_json::Error> {
        let _ = version;
        serde_json::from_value(stored)
    }
}

/// A name for a conversation that we gave out, because nobody else gave it one. Who knows it may go on with the conversation,
/// if the conversation is nobody's or their own.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Handle(String);

/// An argument of a tool: the conversation that its call belongs to. `Option<Conversation<T>>` is for tools that can do
/// without; otherwise a call that belongs to none begins one, and its answer should give the [handle](Self::handle).
///
/// ```
/// use mcp_server::{ToolError, conversation::{Conversation, ConversationState}};
///
/// #[derive(Default, serde::Serialize, serde::Deserialize)]
/// struct Basket {
///     #[serde(default)]
///     things: Vec<String>,
/// }
///
/// impl ConversationState for Basket {}
///
/// async fn add(basket: Conversation<Basket>) -> Result<String, ToolError> {
///     let count = basket.update(|basket| { basket.things.push("milk".to_owned()); basket.things.len() }).await?;
///     Ok(format!("{count} things"))
/// }
/// ```
///
/// The application's state must have a [`Conversations`], by [`FromRef`].
pub struct Conversation<T> {
    conversations: Conversations,
    named: Arc<Named>,
    principal: Principal,
    tool: String,
    build: String,
    state: std::marker::PhantomData<fn() -> T>,
}

/// A conversation as it was read: the state, by [`Deref`], and the states of its widgets.
#[derive(Debug)]
pub struct Remembered<T> {
    state: T,
    widgets: BTreeMap<String, Box<RawValue>>,
    changed: Vec<Widget>,
}

/// Why a conversation was not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ConversationError {
    /// See [`StorageError`]; a [`StorageError::Conflict`] comes only after several attempts.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The state is of a version that only a newer build can read.
    #[error(
        "this conversation was continued by a newer release (its state has version {stored}, known is {known}); begin a new one"
    )]
    Newer {
        /// The version of what is stored.
        stored: u32,
        /// The version that this build writes.
        known: u32,
    },
    /// What is stored cannot be read.
    #[error("the state of a conversation cannot be read")]
    Unreadable(#[source] serde_json::Error),
}

/// The conversation that a call belongs to, by the key of its row.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) key: String,
    handle: Option<Handle>,
    /// Whether a write has left a line for this call already.
    pub(crate) is_told: AtomicBool,
}

/// A state as it is stored.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    version: u32,
    state: Value,
}

// === impl Handle ===

impl Handle {
    const PREFIX: &str = "c_";

    fn new() -> Self {
        Self(format!("{}{}", Self::PREFIX, Uuid::new_v4().simple()))
    }

    fn read(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(Self::PREFIX)?;
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (digits.len() == 32 && digits.bytes().all(is_digit)).then(|| Self(text.to_owned()))
    }

    /// The handle as clients write it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Handle {
    /// Who knows a handle may use it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle(…)")
    }
}

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::read(&text).ok_or_else(|| D::Error::custom("it is not a handle that an answer gave; leave it out to begin anew"))
    }
}

impl JsonSchema for Handle {
    fn schema_name() -> Cow<'static, str> {
        "Handle".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^c_[0-9a-f]{32}$",
            "description": "The conversation, as an earlier answer named it.",
        })
    }
}

// === impl Named ===

impl Named {
    /// The conversation that a call names, if it names one.
    pub(crate) fn of(
        meta: Option<&RawValue>,
        arguments: Option<&str>,
        session: Option<&str>,
        principal: &Principal,
    ) -> Option<Self> {
        #[derive(Default, Deserialize)]
        struct Meta<'a> {
            #[serde(borrow, default, rename = "mcp-server/conversation")]
            handle: Option<Cow<'a, str>>,
            #[serde(borrow, default, rename = "openai/session")]
            openai: Option<Cow<'a, str>>,
        }
        #[derive(Default, Deserialize)]
        struct Arguments<'a> {
            #[serde(borrow, default)]
            conversation: Option<Cow<'a, str>>,
        }
        let meta: Meta<'_> = meta.and_then(|meta| serde_json::from_str(meta.get()).ok()).unwrap_or_default();
        let argument = arguments.and_then(|arguments| serde_json::from_str::<Arguments<'_>>(arguments).ok()?.conversation);
        if let Some(handle) = argument.or(meta.handle).as_deref().and_then(Handle::read) {
            return Some(Self::by_handle(handle, principal));
        }
        let is_name = |name: &&str| !name.is_empty() && name.len() <= LONGEST_NAME && !name.contains(['\0', '#']);
        let openai = meta.openai.as_deref().filter(is_name).map(|name| key("openai", name, principal));
        let key = openai.or_else(|| session.filter(is_name).map(|name| key("session", name, principal)))?;
        Some(Self { key, handle: None, is_told: AtomicBool::new(false) })
    }

    fn by_handle(handle: Handle, principal: &Principal) -> Self {
        Self { key: key("handle", handle.as_str(), principal), handle: Some(handle), is_told: AtomicBool::new(false) }
    }
}

/// Whose it is is part of its name, so that nobody comes upon somebody else's conversation by naming it.
fn key(kind: &str, name: &str, principal: &Principal) -> String {
    match principal.subject() {
        None => format!("{kind}:{name}"),
        Some(subject) => {
            let digest = Sha256::digest(subject);
            let whose: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
            format!("{kind}:{name}#{whose}")
        }
    }
}

// === impl Conversation ===

impl<T: ConversationState> Conversation<T> {
    fn of(call: &Call<'_>, conversations: Conversations, named: Arc<Named>) -> Self {
        Self {
            conversations,
            named,
            principal: call.principal.clone(),
            tool: call.tool.to_owned(),
            build: call.release.build(),
            state: std::marker::PhantomData,
        }
    }

    /// The handle under which the client finds the conversation again: put it into the answer. `None` when the client has a
    /// name of its own for it (ChatGPT, and older clients with their sessions).
    pub fn handle(&self) -> Option<&Handle> {
        self.named.handle.as_ref()
    }

    /// What is remembered; nothing yet is the default.
    ///
    /// # Errors
    /// See [`ConversationError`].
    pub async fn read(&self) -> Result<Remembered<T>, ConversationError> {
        Ok(self.load().await?.1)
    }

    /// Changes what is remembered, and gives what `change` does. It may run several times, each time on what is remembered
    /// by then; what it returned last is what was written. What it leaves as it is is not written.
    ///
    /// Cancelled, or cut off from the database, the change may have been written or not.
    ///
    /// # Errors
    /// See [`ConversationError`].
    pub async fn update<R>(&self, mut change: impl FnMut(&mut Remembered<T>) -> R) -> Result<R, ConversationError> {
        for attempt in 1.. {
            let (base, mut remembered, stored) = self.load().await?;
            let before = to_value(&remembered.state)?;
            let result = change(&mut remembered);
            let after = to_value(&remembered.state)?;
            if before == after && remembered.changed.is_empty() {
                return Ok(result);
            }
            let state = Stored { version: T::VERSION, state: written(stored, &before, after) };
            let call = conversations::Call { tool: &self.tool, version: &self.build };
            let is_told = self.named.is_told.load(Ordering::Relaxed);
            let save = Save {
                session: &self.named.key,
                principal: self.principal.to_stored(),
                base,
                state: &state,
                widgets: &remembered.changed,
                call: (!is_told).then_some(call),
            };
            match self.conversations.save(&save).await {
                Err(StorageError::Conflict) if attempt < ATTEMPTS => {}
                saved => {
                    saved?;
                    self.named.is_told.store(true, Ordering::Relaxed);
                    return Ok(result);
                }
            }
        }
        unreachable!("the last attempt returns")
    }

    /// The version of the row, what it remembers, and its state as it is stored.
    async fn load(&self) -> Result<(i64, Remembered<T>, Value), ConversationError> {
        let loaded = self.conversations.load::<Stored>(&self.named.key, self.principal.to_stored()).await?;
        let Some(loaded) = loaded else {
            let remembered = Remembered { state: T::default(), widgets: BTreeMap::new(), changed: Vec::new() };
            return Ok((0, remembered, Value::Null));
        };
        let (state, stored) = loaded.state.read::<T>()?;
        let widgets = loaded.widgets.into_iter().map(|widget| (widget.kind, widget.state)).collect();
        Ok((loaded.row_version, Remembered { state, widgets, changed: Vec::new() }, stored))
    }
}

// === impl Stored ===

impl Stored {
    /// The state, and what is stored of it in this version's own terms. What an earlier version stored is in other terms, of
    /// which nothing must be left under this version's name.
    fn read<T: ConversationState>(self) -> Result<(T, Value), ConversationError> {
        let Self { version, state } = self;
        let read = match version.cmp(&T::VERSION) {
            std::cmp::Ordering::Greater => return Err(ConversationError::Newer { stored: version, known: T::VERSION }),
            std::cmp::Ordering::Equal => serde_json::from_value(state.clone()).map(|read| (read, state)),
            std::cmp::Ordering::Less => T::upgrade(version, state).map(|upgraded| (upgraded, Value::Null)),
        };
        read.map_err(ConversationError::Unreadable)
    }
}

fn to_value(state: &impl Serialize) -> Result<Value, ConversationError> {
    serde_json::to_value(state).map_err(ConversationError::Unreadable)
}

/// What is to be stored: the state as it is now, and whatever else was stored that this build knows nothing of.
fn written(stored: Value, before: &Value, after: Value) -> Value {
    match (stored, before, after) {
        (Value::Null, _, after) => after,
        // Unchanged, so whatever is in there beside what we know stays.
        (stored, before, after) if *before == after => stored,
        (Value::Object(mut stored), Value::Object(before), Value::Object(after)) => {
            stored.retain(|key, _| !before.contains_key(key) || after.contains_key(key));
            for (key, after) in after {
                let old = stored.remove(&key).unwrap_or_default();
                stored.insert(key.clone(), written(old, before.get(&key).unwrap_or(&Value::Null), after));
            }
            Value::Object(stored)
        }
        (Value::Array(stored), Value::Array(before), Value::Array(after)) if stored.len() == before.len() => {
            Value::Array(written_items(stored, before, after))
        }
        (_, _, after) => after,
    }
}

/// An item that is as it was keeps what belongs to it, wherever it stands now. One that changed in its place, in a list as
/// long as before, is taken for the one that stood there; any other is new.
fn written_items(stored: Vec<Value>, before: &[Value], after: Vec<Value>) -> Vec<Value> {
    let mut olds: Vec<Option<Value>> = stored.into_iter().map(Some).collect();
    let mut items: Vec<Option<Value>> = after
        .iter()
        .map(|item| {
            let at = before.iter().zip(&olds).position(|(before, old)| old.is_some() && before == item)?;
            olds[at].take()
        })
        .collect();
    let is_as_long = before.len() == after.len();
    for (at, item) in after.into_iter().enumerate() {
        if items[at].is_none() {
            let old = olds.get_mut(at).filter(|_| is_as_long).and_then(Option::take);
            items[at] = Some(match old {
                Some(old) => written(old, &before[at], item),
                None => item,
            });
        }
    }
    items.into_iter().flatten().collect()
}

impl<T> fmt::Debug for Conversation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversation").field("tool", &self.tool).finish_non_exhaustive()
    }
}

impl<S, T: ConversationState> FromCall<S> for Conversation<T>
where
    Conversations: FromRef<S>,
{
    fn from_call(call: &Call<'_>, state: &S) -> Result<Self, Rejection> {
        let begin = || Arc::new(Named::by_handle(Handle::new(), call.principal));
        Ok(Self::of(call, Conversations::from_ref(state), call.conversation_or(begin)))
    }
}

impl<S, T: ConversationState> FromCall<S> for Option<Conversation<T>>
where
    Conversations: FromRef<S>,
{
    fn from_call(call: &Call<'_>, state: &S) -> Result<Self, Rejection> {
        Ok(call.conversation().map(|named| Conversation::of(call, Conversations::from_ref(state), named)))
    }
}

// === impl Remembered ===

impl<T> Remembered<T> {
    /// The state of a widget, if it has one of this type.
    pub fn widget<W: DeserializeOwned>(&self, kind: &str) -> Option<W> {
        serde_json::from_str(self.widgets.get(kind)?.get()).ok()
    }

    /// Remembers the state of a widget, with the rest and in the same write.
    ///
    /// # Panics
    /// When the state does not serialize.
    pub fn set_widget(&mut self, kind: &str, state: &impl Serialize) {
        let state = to_raw_value(state).expect("the state of a widget serializes");
        self.widgets.insert(kind.to_owned(), state.clone());
        self.changed.push(Widget { kind: kind.to_owned(), state });
    }

    /// The state alone.
    pub fn into_inner(self) -> T {
        self.state
    }
}

impl<T> Deref for Remembered<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.state
    }
}

impl<T> DerefMut for Remembered<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.state
    }
}

// === impl ConversationError ===

impl From<ConversationError> for ToolError {
    fn from(error: ConversationError) -> Self {
        match error {
            ConversationError::Storage(error) => error.into(),
            newer @ ConversationError::Newer { .. } => Self::caller(newer.to_string()),
            error @ ConversationError::Unreadable(_) => Self::internal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_build_does_not_know_it_leaves_as_it_is() {
        let stored = json!({
            "things": [{ "name": "milk", "fat": 3 }], "coupon": "new", "place": { "city": "Bonn", "floor": 3 }, "gone": 1,
        });
        let before = json!({ "things": [{ "name": "milk" }], "place": { "city": "Bonn" }, "gone": 1, "count": 0 });
        let after = json!({ "things": [{ "name": "milk" }, { "name": "tea" }], "place": { "city": "Köln" }, "count": 0 });
        let expected = json!({
            "things": [{ "name": "milk", "fat": 3 }, { "name": "tea" }], "coupon": "new",
            "place": { "city": "Köln", "floor": 3 }, "count": 0,
        });
        assert_eq!(written(stored, &before, after), expected);
        assert_eq!(written(Value::Null, &json!({}), json!({ "a": 1 })), json!({ "a": 1 }));
        assert_eq!(written(json!({ "a": { "b": 1 } }), &json!({ "a": {} }), json!({ "a": 7 })), json!({ "a": 7 }));
    }

    #[test]
    fn what_belongs_to_an_item_goes_where_the_item_goes() {
        let stored = json!([{ "name": "milk", "fat": 3 }, { "name": "tea" }, { "name": "rum", "proof": 80 }]);
        let before = json!([{ "name": "milk" }, { "name": "tea" }, { "name": "rum" }]);
        for (after, expected) in [
            (json!([{ "name": "tea" }, { "name": "rum" }]), json!([{ "name": "tea" }, { "name": "rum", "proof": 80 }])),
            (
                json!([{ "name": "rum" }, { "name": "milk" }, { "name": "tea" }]),
                json!([{ "name": "rum", "proof": 80 }, { "name": "milk", "fat": 3 }, { "name": "tea" }]),
            ),
            (
                json!([{ "name": "oat milk" }, { "name": "tea" }, { "name": "rum" }]),
                json!([{ "name": "oat milk", "fat": 3 }, { "name": "tea" }, { "name": "rum", "proof": 80 }]),
            ),
            (
                json!([{ "name": "salt" }, { "name": "milk" }, { "name": "tea" }, { "name": "rum" }]),
                json!([{ "name": "salt" }, { "name": "milk", "fat": 3 }, { "name": "tea" }, { "name": "rum", "proof": 80 }]),
            ),
        ] {
            assert_eq!(written(stored.clone(), &before, after.clone()), expected, "{after}");
        }
    }

    #[test]
    fn nothing_of_an_earlier_version_is_left_under_the_name_of_this_one() {
        /// Version 1 had cents.
        #[derive(Default, Serialize, Deserialize)]
        struct Basket {
            price: f64,
            count: u32,
        }

        impl ConversationState for Basket {
            const VERSION: u32 = 2;

            fn upgrade(_: u32, stored: Value) -> Result<Self, serde_json::Error> {
                let old: Self = serde_json::from_value(stored)?;
                Ok(Self { price: old.price / 100.0, ..old })
            }
        }

        let of = |version, price: f64| Stored { version, state: json!({ "price": price, "count": 1, "coupon": 7 }) };
        for (stored, expected) in
            [(of(1, 500.0), json!({ "price": 5.0, "count": 2 })), (of(2, 5.0), json!({ "price": 5.0, "count": 2, "coupon": 7 }))]
        {
            let (mut basket, base) = stored.read::<Basket>().unwrap();
            let before = to_value(&basket).unwrap();
            basket.count += 1;
            assert_eq!(written(base, &before, to_value(&basket).unwrap()), expected);
        }
        assert!(matches!(of(3, 1.0).read::<Basket>(), Err(ConversationError::Newer { stored: 3, known: 2 })));
    }

    #[test]
    fn a_conversation_is_named_by_the_nearest_that_names_one() {
        let nobody = Principal::anonymous();
        let handle = Handle::new();
        let raw = |value: Value| to_raw_value(&value).unwrap();
        let of = |meta: &Value, arguments: &Value, session: Option<&str>| {
            let (meta, arguments) = (raw(meta.clone()), arguments.to_string());
            Named::of(Some(&meta), Some(&arguments), session, &nobody).map(|named| named.key)
        };
        let openai = json!({ "openai/session": "v1/abc" });
        assert_eq!(of(&openai, &json!({}), Some("s")).as_deref(), Some("openai:v1/abc"));
        assert_eq!(of(&json!({}), &json!({}), Some("s")).as_deref(), Some("session:s"));
        assert_eq!(of(&json!({}), &json!({}), None), None);
        let by_handle = Some(format!("handle:{}", handle.as_str()));
        assert_eq!(of(&openai, &json!({ "conversation": handle }), Some("s")), by_handle);
        assert_eq!(of(&json!({ META: handle }), &json!({}), Some("s")), by_handle);
        for odd in
            [json!({ "openai/session": "" }), json!({ "openai/session": "a#b" }), json!({ "openai/session": 7 }), json!([])]
        {
            assert_eq!(of(&odd, &json!({ "conversation": "c_guess" }), None), None, "{odd}");
        }
        let whose = |name| Named::of(Some(&raw(openai.clone())), None, None, &Principal::named(name)).unwrap().key;
        assert_ne!(whose("ada"), whose("eve"));
        assert_eq!(whose("ada"), whose("ada"));
    }

    #[test]
    fn a_handle_is_read_as_it_was_given_and_nothing_else_is() {
        let handle = Handle::new();
        assert_eq!(serde_json::from_value::<Handle>(json!(handle)).unwrap(), handle);
        for wrong in ["", "c_", "c_0123", &handle.as_str().to_uppercase(), &format!("{}0", handle.as_str())] {
            assert!(serde_json::from_value::<Handle>(json!(wrong)).is_err(), "{wrong}");
        }
        assert!(!format!("{handle:?}").contains(handle.as_str()));
    }
}
