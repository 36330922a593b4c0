//! What a tool gives back, and how it becomes the `result` of a `tools/call`.
//!
//! A reply is written straight from its type into the answer's buffer, once: no value tree in between. Both the lean path
//! and rmcp's get the same bytes.

mod conformance;

use std::borrow::Cow;

use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{error::ToolError, schema, tool::Description};

/// A typed result: `structuredContent` for programs and widgets, `content` for the model to read.
///
/// The type's schema is the tool's output schema. Keep it small: hosts have been seen to drop a widget whose structured
/// content passes about 4 KB. An `Option` is best left out when it is `None` (`skip_serializing_if = "Option::is_none"`): a
/// member that may be missing is described as never `null`, which more clients accept.
#[derive(Debug)]
pub struct Reply<T> {
    data: Data<T>,
    text: Cow<'static, str>,
    meta: Option<Box<RawValue>>,
}

/// Data, or how it was written the first time.
#[derive(Debug)]
enum Data<T> {
    Now(T),
    Before(Before),
}

/// Data as a build wrote it, this one or another.
#[derive(Debug)]
struct Before {
    data: Box<RawValue>,
    /// Builds up to 0.1.0 did not say which they are.
    build: Option<String>,
}

/// A reply as it is remembered. Builds up to 0.1.0 read it too, and pass over the members they do not know.
#[derive(Serialize, Deserialize)]
struct Remembered<'a> {
    /// Stands first, because `answers.rs` tells a mirror by how its text begins.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    mirror: bool,
    /// The build that gave the reply.
    #[serde(borrow, default)]
    build: Option<Cow<'a, str>>,
    #[serde(borrow)]
    text: Cow<'a, str>,
    #[serde(borrow)]
    data: Cow<'a, RawValue>,
    meta: Option<Box<RawValue>>,
}

impl<T: Serialize> Reply<T> {
    /// A result with the sentence that a client without structured content shows.
    pub fn new(data: T, text: impl Into<Cow<'static, str>>) -> Self {
        Self { data: Data::Now(data), text: text.into(), meta: None }
    }

    /// The reply as this build remembers it, so that it can be given again.
    pub(crate) fn to_remember(&self, build: &str, mirror: bool) -> String {
        let data = match &self.data {
            Data::Now(data) => serde_json::value::to_raw_value(data).map(Cow::Owned),
            Data::Before(before) => Ok(Cow::Borrowed(&*before.data)),
        };
        let data = data.expect("a reply serializes");
        let (build, text) = (Some(Cow::Borrowed(build)), Cow::Borrowed(&*self.text));
        let remembered = Remembered { mirror, build, text, data, meta: self.meta.clone() };
        serde_json::to_string(&remembered).expect("a reply serializes")
    }

    /// A reply that was remembered.
    pub(crate) fn remembered(text: &str) -> Option<Self> {
        let Remembered { build, text, data, meta, .. } = serde_json::from_str(text).ok()?;
        let before = Before { data: data.into_owned(), build: build.map(Cow::into_owned) };
        Some(Self { data: Data::Before(before), text: text.into_owned().into(), meta })
    }

    /// Whether the reply was remembered by a build that did not say which it is.
    pub(crate) fn is_of_unknown_build(&self) -> bool {
        matches!(&self.data, Data::Before(Before { build: None, .. }))
    }

    /// What only the widget sees: `_meta` of the result. It must be an object.
    ///
    /// # Panics
    /// When `meta` does not serialize to an object.
    #[must_use]
    pub fn meta(mut self, meta: &impl Serialize) -> Self {
        let meta = serde_json::value::to_raw_value(meta).expect("a result's _meta serializes");
        assert!(meta.get().starts_with('{'), "a result's _meta is an object");
        self.meta = Some(meta);
        self
    }
}

impl<T: Serialize + JsonSchema> Reply<T> {
    /// Translates a reply that another build remembered and that does not match this build's output schema. `translate` gets
    /// the structured content as that build wrote it, and returns `None` when it cannot be translated.
    ///
    /// Without this, such a reply becomes a tool result with `isError` that says that the call was done, and repeats its text:
    /// structured content that does not match the output schema would make a client reject the whole result.
    ///
    /// ```
    /// # use mcp_server::Reply;
    /// #[derive(serde::Serialize, schemars::JsonSchema)]
    /// struct Order { id: u32, city: String }
    ///
    /// # fn begun(reply: Reply<Order>) -> Reply<Order> {
    /// // In the arm of `Begun::Before(reply)`; version 1 had no city.
    /// reply.translate(|old| Some(Order { id: serde_json::from_value(old["id"].clone()).ok()?, city: String::new() }))
    /// # }
    /// ```
    #[must_use]
    pub fn translate(mut self, translate: impl FnOnce(serde_json::Value) -> Option<T>) -> Self {
        if let Data::Before(before) = &self.data
            && !before.matches_output::<T>()
            && let Some(data) = serde_json::from_str(before.data.get()).ok().and_then(translate)
        {
            self.data = Data::Now(data);
        }
        self
    }
}

// === impl Before ===

impl Before {
    /// Whether a client that validates against the output schema of `T` would accept the data.
    fn matches_output<T: JsonSchema>(&self) -> bool {
        let value = serde_json::from_str(self.data.get()).unwrap_or_default();
        conformance::conforms(&value, &schema::output::<T>())
    }

    /// What the model reads in place of data that does not match. It begins with what matters most: nothing is to be done.
    fn message(&self, text: &str) -> String {
        let by = self.build.as_deref().map_or_else(|| "another release".to_owned(), |build| format!("release {build}"));
        format!(
            "This call was already carried out, by {by}; it was not carried out again, and must not be repeated. The structured \
             result of that release does not match this one's output schema and is left out. The result in words: {text}"
        )
    }
}

/// What a tool function may return.
pub trait IntoReply: Sized {
    /// Tells the tool's description what this type means for it, such as its output schema.
    fn describe(_description: &mut Description) {}

    /// Writes the reply.
    ///
    /// # Errors
    /// What the tool itself said went wrong, or that its data cannot be serialized.
    fn write(self, writer: Writer) -> Result<Written, ToolError>;
}

/// The answer being written, up to where the tool's result begins.
#[derive(Debug)]
pub struct Writer {
    pub(crate) out: Vec<u8>,
    /// Members that this era of the protocol wants in every result's `_meta`, without braces.
    pub(crate) meta: &'static [u8],
    /// What the text says at its end, whatever the tool says.
    pub(crate) note: Option<String>,
}

/// A reply that has been written.
#[derive(Debug)]
pub enum Written {
    /// The result object, without its closing brace: the protocol may have something to add.
    Open {
        /// The buffer, from the beginning of the answer.
        out: Vec<u8>,
        /// Whether the tool said that it failed.
        is_error: bool,
    },
    /// A result in rmcp's own type: media, requests for input, tasks.
    Response(Box<CallToolResponse>),
}

/// Counts what is written, up to a bound.
struct Room(usize);

impl std::io::Write for Room {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::WriteZero)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Written {
    /// Whether the tool said that it failed.
    pub(crate) fn is_error(&self) -> bool {
        match self {
            Self::Open { is_error, .. } => *is_error,
            Self::Response(response) => {
                matches!(&**response, CallToolResponse::Complete(result) if result.is_error == Some(true))
            }
        }
    }

    /// Whether it asks the client a question, and the tool has not answered yet.
    pub(crate) fn is_question(&self) -> bool {
        matches!(self, Self::Response(response) if matches!(**response, CallToolResponse::InputRequired(_)))
    }

    /// Whether it has more bytes than that, as it goes to the client.
    pub(crate) fn is_larger_than(&self, most: usize) -> bool {
        match self {
            Self::Open { out, .. } => out.len() > most,
            Self::Response(response) => match &**response {
                CallToolResponse::Complete(result) => serde_json::to_writer(Room(most), result).is_err(),
                // A question or a task is the framework's own.
                _ => false,
            },
        }
    }
}

impl Writer {
    /// With a note at the end of the text.
    pub(crate) fn with_note(mut self, note: Option<String>) -> Self {
        self.note = note;
        self
    }

    fn reply<T: Serialize>(mut self, reply: &Reply<T>) -> Result<Written, ToolError> {
        self.text(&reply.text);
        self.out.extend_from_slice(b",\"structuredContent\":");
        match &reply.data {
            Data::Now(data) => sonic_rs::to_writer(&mut self.out, data).map_err(ToolError::internal)?,
            Data::Before(before) => self.out.extend_from_slice(before.data.get().as_bytes()),
        }
        Ok(self.finish(false, reply.meta.as_deref()))
    }

    pub(crate) fn plain(mut self, text: &str, is_error: bool) -> Written {
        self.text(text);
        self.finish(is_error, None)
    }

    fn text(&mut self, text: &str) {
        self.out.extend_from_slice(b"{\"content\":[{\"type\":\"text\",\"text\":");
        let with_note = self.note.as_ref().map(|note| format!("{text}\n\n{note}"));
        let text = with_note.as_deref().unwrap_or(text);
        sonic_rs::to_writer(&mut self.out, text).expect("text serializes into memory");
        self.out.extend_from_slice(b"}]");
    }

    fn finish(mut self, is_error: bool, meta: Option<&RawValue>) -> Written {
        self.out.extend_from_slice(if is_error { b",\"isError\":true" } else { b",\"isError\":false" });
        self.out.extend_from_slice(b",\"_meta\":{");
        self.out.extend_from_slice(self.meta);
        // The object's own members, between its braces.
        let members = meta.map_or("", |meta| meta.get()[1..meta.get().len() - 1].trim());
        if !members.is_empty() {
            if !self.meta.is_empty() {
                self.out.push(b',');
            }
            self.out.extend_from_slice(members.as_bytes());
        }
        self.out.push(b'}');
        Written::Open { out: self.out, is_error }
    }
}

impl<T: Serialize + JsonSchema> IntoReply for Reply<T> {
    fn describe(description: &mut Description) {
        description.output = Some(schema::output::<T>());
    }

    fn write(self, writer: Writer) -> Result<Written, ToolError> {
        match &self.data {
            Data::Before(before) if !before.matches_output::<T>() => Ok(writer.plain(&before.message(&self.text), true)),
            _ => writer.reply(&self),
        }
    }
}

impl IntoReply for String {
    fn write(self, writer: Writer) -> Result<Written, ToolError> {
        Ok(writer.plain(&self, false))
    }
}

impl IntoReply for &'static str {
    fn write(self, writer: Writer) -> Result<Written, ToolError> {
        Ok(writer.plain(self, false))
    }
}

impl IntoReply for CallToolResult {
    fn describe(description: &mut Description) {
        description.needs_peer = true;
    }

    fn write(self, writer: Writer) -> Result<Written, ToolError> {
        CallToolResponse::from(self).write(writer)
    }
}

impl IntoReply for CallToolResponse {
    fn describe(description: &mut Description) {
        description.needs_peer = true;
    }

    fn write(mut self, writer: Writer) -> Result<Written, ToolError> {
        if let (Self::Complete(result), Some(note)) = (&mut self, writer.note) {
            result.content.push(ContentBlock::text(note));
        }
        Ok(Written::Response(Box::new(self)))
    }
}

impl<R: IntoReply, E: Into<ToolError>> IntoReply for Result<R, E> {
    fn describe(description: &mut Description) {
        R::describe(description);
    }

    fn write(self, writer: Writer) -> Result<Written, ToolError> {
        self.map_err(Into::into)?.write(writer)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn written(reply: impl IntoReply, meta: &'static [u8]) -> Value {
        match reply.write(Writer { out: Vec::new(), meta, note: None }).unwrap() {
            Written::Open { mut out, .. } => {
                out.push(b'}');
                serde_json::from_slice(&out).unwrap()
            }
            Written::Response(response) => panic!("{response:?}"),
        }
    }

    #[test]
    fn a_reply_carries_text_data_and_meta() {
        let reply = || Reply::new(json!({"n": 1}), "one \"thing\"");
        let expected = |meta: Value| json!({"content": [{"type": "text", "text": "one \"thing\""}], "structuredContent": {"n": 1}, "isError": false, "_meta": meta});
        assert_eq!(written(reply(), b""), expected(json!({})));
        assert_eq!(written(reply(), b"\"s\":1"), expected(json!({"s": 1})));
        assert_eq!(written(reply().meta(&json!({"w": {"x": {}}})), b""), expected(json!({"w": {"x": {}}})));
        assert_eq!(written(reply().meta(&json!({"w": 2})), b"\"s\":1"), expected(json!({"s": 1, "w": 2})));
        assert_eq!(written(reply().meta(&json!({})), b"\"s\":1"), expected(json!({"s": 1})));
    }

    #[test]
    fn a_remembered_reply_is_the_same() {
        let reply = || Reply::new(json!({"n": 1.0, "s": "a\"b"}), "one \"thing\"").meta(&json!({"w": [1]}));
        let remembered = reply().to_remember("1.0.0+test", false);
        let again = Reply::<Value>::remembered(&remembered).unwrap();
        assert_eq!(again.to_remember("1.0.0+test", false), remembered);
        assert_eq!(written(again, b"\"s\":1"), written(reply(), b"\"s\":1"));
    }

    #[derive(Serialize, JsonSchema)]
    struct Order {
        id: u32,
        city: String,
    }

    /// As 21443b4 and every build before wrote it.
    const OLD: &str = r#"{"text":"Order 1.","data":{"id":1},"meta":null}"#;

    #[test]
    fn a_remembered_reply_that_the_output_schema_forbids_is_told_in_words() {
        let text = |value: &Value| value["content"][0]["text"].as_str().unwrap().to_owned();
        let known = r#"{"build":"1.0.0+a","text":"Order 1.","data":{"id":1,"city":7},"meta":null}"#;
        for (remembered, by) in [(OLD, "by another release"), (known, "by release 1.0.0+a")] {
            let reply = written(Reply::<Order>::remembered(remembered).unwrap(), b"");
            assert!(reply["isError"] == true && reply.get("structuredContent").is_none(), "{reply}");
            assert!(text(&reply).starts_with("This call was already carried out, ") && text(&reply).contains(by), "{reply}");
            assert!(text(&reply).ends_with("Order 1."), "{reply}");
        }
        // One that matches is given as it is, whoever wrote it, with members that this build does not know.
        let newer = r#"{"build":"3.0.0+c","text":"Order 1.","data":{"id":1,"city":"Bonn","zip":"53111"},"meta":null}"#;
        let reply = written(Reply::<Order>::remembered(newer).unwrap(), b"");
        assert_eq!(reply["structuredContent"], json!({"id": 1, "city": "Bonn", "zip": "53111"}));
        assert_eq!(reply["isError"], false);
    }

    #[test]
    fn an_application_can_translate_a_remembered_reply() {
        let city = |old: Value| Some(Order { id: serde_json::from_value(old["id"].clone()).ok()?, city: "unknown".to_owned() });
        let reply = written(Reply::<Order>::remembered(OLD).unwrap().translate(city), b"");
        assert_eq!((&reply["structuredContent"], &reply["isError"]), (&json!({"id": 1, "city": "unknown"}), &json!(false)));
        let reply = written(Reply::<Order>::remembered(OLD).unwrap().translate(|_| None), b"");
        assert_eq!(reply["isError"], true);
        let fits = r#"{"text":"Order 1.","data":{"id":1,"city":"Bonn"},"meta":null}"#;
        let reply = Reply::<Order>::remembered(fits).unwrap().translate(|_| panic!("there is nothing to translate"));
        assert_eq!(written(reply, b"")["structuredContent"]["city"], "Bonn");
    }

    #[test]
    fn a_note_is_said_at_the_end_of_whatever_the_tool_says() {
        let writer = || Writer { out: Vec::new(), meta: b"", note: Some("A \"note\".".to_owned()) };
        for written in
            [writer().reply(&Reply::new(json!({}), "one")).unwrap(), "one".write(writer()).unwrap(), writer().plain("one", true)]
        {
            let Written::Open { mut out, .. } = written else { panic!() };
            out.push(b'}');
            assert_eq!(serde_json::from_slice::<Value>(&out).unwrap()["content"][0]["text"], "one\n\nA \"note\".");
        }
        let Written::Response(response) = CallToolResult::default().write(writer()).unwrap() else { panic!() };
        let CallToolResponse::Complete(result) = *response else { panic!() };
        assert_eq!(json!(result)["content"][0]["text"], "A \"note\".");
        // What is remembered is what the tool said.
        let reply = Reply::new(json!({}), "one");
        writer().reply(&reply).unwrap();
        assert!(!reply.to_remember("1.0.0+test", false).contains("note"));
    }

    #[test]
    fn an_error_never_has_structured_content() {
        let Written::Open { mut out, is_error } = (Writer { out: Vec::new(), meta: b"", note: None }).plain("no", true) else {
            panic!()
        };
        out.push(b'}');
        assert!(is_error);
        assert_eq!(
            serde_json::from_slice::<Value>(&out).unwrap(),
            json!({"content": [{"type": "text", "text": "no"}], "isError": true, "_meta": {}})
        );
    }
}
