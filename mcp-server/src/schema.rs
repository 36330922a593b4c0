//! The JSON Schema of a type, written so that every model provider and every client accepts it.
//!
//! Schemars writes correct JSON Schema (2020-12). Model providers accept less: Gemini refuses lists of types and a `null` among
//! alternatives, and validators warn of formats that they do not know. What must stay true: an input schema promises no more
//! than the type accepts, and what a type serializes is valid by its output schema.

use bg_runtime::contract::ANNOTATIONS;
use rmcp::model::JsonObject;
use schemars::{JsonSchema, Schema, generate::SchemaSettings, transform::Transform};
use serde_json::{Map, Value, json};

/// Rewrites a schema so that every client accepts it.
///
/// - No `format` but those of JSON Schema, and those on strings only: `uint32` and `double` are names of Rust and OpenAPI.
/// - One type, or `anyOf` with one type each, in place of a list of types.
/// - In an input, no `null`: an argument that may be left out has a plain type and is not required. An explicit `null` is
///   accepted all the same.
/// - In an output, no `null` in a member that may be missing: `skip_serializing_if = "Option::is_none"` leaves it out. A member
///   that is always there and may be `null` says so, as an alternative.
/// - Values of any type say that they are of any type, because `true` and `{}` are refused as schemas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Portable {
    /// What a tool takes.
    Input,
    /// What a tool answers with.
    Output,
}

type Object = Map<String, Value>;

/// The formats of JSON Schema (2020-12, validation, 7.3) that validators in use know.
const FORMATS: [&str; 15] = [
    "date-time",
    "date",
    "time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uri",
    "uri-reference",
    "uri-template",
    "uuid",
    "json-pointer",
    "relative-json-pointer",
    "regex",
];

/// Keywords whose value is a schema, a list of schemas, or schemas by name. `not` and `if` are left alone: what allows less
/// inside of them allows more outside.
const ONE: [&str; 9] = [
    "items",
    "contains",
    "propertyNames",
    "then",
    "else",
    "additionalProperties",
    "unevaluatedProperties",
    "unevaluatedItems",
    "contentSchema",
];
const SEVERAL: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
const BY_NAME: [&str; 5] = ["properties", "patternProperties", "dependentSchemas", "$defs", "definitions"];
/// Where a boolean is a switch, and no schema.
const SWITCHES: [&str; 3] = ["additionalProperties", "unevaluatedProperties", "unevaluatedItems"];

/// The schema of a tool's arguments: nothing in it refers to another place but what contains itself.
pub(crate) fn input<T: JsonSchema>() -> JsonObject {
    let mut settings = SchemaSettings::draft2020_12().for_deserialize();
    settings.inline_subschemas = true;
    of::<T>(settings, Portable::Input)
}

/// The schema of a tool's result.
pub(crate) fn output<T: JsonSchema>() -> JsonObject {
    of::<T>(SchemaSettings::draft2020_12().for_serialize(), Portable::Output)
}

/// The schema of a type, as MCP wants it: an object that stands alone, without the type's Rust name.
fn of<T: JsonSchema>(settings: SchemaSettings, portable: Portable) -> JsonObject {
    let mut schema = settings.with_transform(portable).into_generator().into_root_schema_for::<T>();
    schema.remove("title");
    // 2020-12 is what MCP assumes (2025-11-25, JSON Schema usage), and every model reads these texts.
    schema.remove("$schema");
    match Value::from(schema) {
        Value::Object(object) => object,
        _ => JsonObject::new(),
    }
}

// === impl Portable ===

impl Transform for Portable {
    fn transform(&mut self, schema: &mut Schema) {
        if let Some(object) = schema.as_object_mut() {
            self.rewrite(object);
        }
    }
}

impl Portable {
    /// Rewrites a whole schema in place.
    pub(crate) fn rewrite(self, schema: &mut Object) {
        for keyword in ONE {
            match schema.get_mut(keyword) {
                Some(Value::Bool(_)) if SWITCHES.contains(&keyword) => {}
                Some(inner) => self.rewrite_inner(inner),
                None => {}
            }
        }
        for keyword in SEVERAL {
            let inner = schema.get_mut(keyword).and_then(Value::as_array_mut);
            inner.into_iter().flatten().for_each(|inner| self.rewrite_inner(inner));
        }
        for keyword in BY_NAME {
            let inner = schema.get_mut(keyword).and_then(Value::as_object_mut);
            inner.into_iter().flatten().for_each(|(_, inner)| self.rewrite_inner(inner));
        }
        self.rewrite_members(schema);
        if self == Self::Input {
            drop_null(schema);
        }
        let is_text = schema.get("type").is_none_or(|kind| allows(kind, "string"));
        if schema.get("format").is_some_and(|format| !is_text || !FORMATS.iter().any(|known| format == known)) {
            schema.remove("format");
        }
        as_enum(schema);
        split_types(schema);
    }

    fn rewrite_inner(self, schema: &mut Value) {
        match schema {
            Value::Object(object) => {
                let says_nothing = object.keys().all(|keyword| ANNOTATIONS.contains(&&**keyword));
                if says_nothing {
                    object.extend(self.anything());
                }
                self.rewrite(object);
            }
            Value::Bool(true) => *schema = Value::Object(self.anything()),
            Value::Bool(false) => *schema = json!({ "not": {} }),
            _ => {}
        }
    }

    /// A member of an answer that may be missing is left out where it would be `null`.
    fn rewrite_members(self, schema: &mut Object) {
        let required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        let members = schema.get_mut("properties").and_then(Value::as_object_mut);
        let optional = members.into_iter().flatten().filter(|(name, _)| !required.iter().any(|one| one == *name));
        for member in optional.filter_map(|(_, member)| member.as_object_mut()) {
            if self == Self::Output {
                drop_null(member);
            }
        }
    }

    /// Any value at all, in words that are taken for a schema.
    fn anything(self) -> Object {
        let object = json!({ "type": "object", "additionalProperties": true });
        let mut kinds = vec![json!({ "type": "string" }), json!({ "type": "number" }), json!({ "type": "boolean" }), object];
        match self {
            // An array without a type for its items is refused as an argument.
            Self::Input => kinds.push(json!({ "type": "array", "items": { "anyOf": kinds } })),
            Self::Output => kinds.extend([json!({ "type": "array" }), json!({ "type": "null" })]),
        }
        Object::from_iter([("anyOf".to_owned(), Value::Array(kinds))])
    }
}

fn allows(kind: &Value, wanted: &str) -> bool {
    kind == wanted || kind.as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == wanted))
}

/// Takes `null` out of what a schema allows, unless it allows nothing else.
fn drop_null(schema: &mut Object) {
    if let Some(Value::Array(kinds)) = schema.get_mut("type")
        && kinds.iter().any(|kind| kind != "null")
    {
        kinds.retain(|kind| kind != "null");
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum")
        && values.iter().any(|value| !value.is_null())
    {
        values.retain(|value| !value.is_null());
    }
    for keyword in ["anyOf", "oneOf"] {
        if let Some(Value::Array(choices)) = schema.get_mut(keyword)
            && choices.iter().any(is_null)
            && !choices.iter().all(is_null)
        {
            choices.retain(|choice| !is_null(choice));
            unwrap_only(schema, keyword);
        }
    }
    schema.remove("nullable");
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    one_type(schema);
}

/// Whether a schema allows `null` and nothing else.
fn is_null(schema: &Value) -> bool {
    let only = |value: Option<&Value>| value.is_some_and(|values| *values == json!([null]));
    schema.get("type").is_some_and(|kind| kind == "null")
        || schema.as_object().is_some_and(|schema| schema.get("const") == Some(&Value::Null))
        || only(schema.get("enum"))
}

/// One alternative is none: it is merged into the schema, unless the two say the same thing differently.
fn unwrap_only(schema: &mut Object, keyword: &str) {
    let Some(Value::Array(choices)) = schema.get(keyword) else { return };
    let [Value::Object(only)] = &choices[..] else { return };
    let only = only.clone();
    if only.keys().any(|key| schema.contains_key(key) && !ANNOTATIONS.contains(&&**key)) {
        return;
    }
    schema.remove(keyword);
    for (key, value) in only {
        match (schema.get_mut(&key), value) {
            // What the argument is for, and then what its values mean.
            (Some(Value::String(own)), Value::String(meaning)) if key == "description" => own.extend(["\n", &meaning]),
            (Some(_), _) => {}
            (None, value) => drop(schema.insert(key, value)),
        }
    }
}

fn one_type(schema: &mut Object) {
    if let Some(Value::Array(kinds)) = schema.get("type")
        && let [only] = &kinds[..]
    {
        let only = only.clone();
        schema.insert("type".to_owned(), only);
    }
}

/// Alternatives that are one text each are an `enum`, with what they mean in the description: fewer providers read `const`.
fn as_enum(schema: &mut Object) {
    let Some(choices) = schema.get("oneOf").and_then(Value::as_array) else { return };
    let mut values = Vec::new();
    let mut meanings = Vec::new();
    for choice in choices {
        let Some(choice) = choice.as_object() else { return };
        let is_plain = choice.keys().all(|key| matches!(&**key, "type" | "const" | "enum" | "description" | "title"));
        let texts: Vec<_> = match (choice.get("const"), choice.get("enum")) {
            (Some(value), None) => vec![value.clone()],
            (None, Some(Value::Array(values))) => values.clone(),
            _ => return,
        };
        if !is_plain || choice.contains_key("title") || !texts.iter().all(Value::is_string) {
            return;
        }
        if let (Some(Value::String(meaning)), [Value::String(text)]) = (choice.get("description"), &texts[..]) {
            meanings.push(format!("`{text}`: {meaning}"));
        }
        values.extend(texts);
    }
    if schema.contains_key("enum") || schema.get("type").is_some_and(|kind| kind != "string") {
        return;
    }
    schema.remove("oneOf");
    schema.insert("type".to_owned(), "string".into());
    schema.insert("enum".to_owned(), Value::Array(values));
    let said = schema.get("description").and_then(Value::as_str).map(str::to_owned);
    let description: Vec<_> = said.into_iter().chain(meanings).collect();
    if !description.is_empty() {
        schema.insert("description".to_owned(), description.join("\n").into());
    }
}

/// A list of types becomes alternatives of one type each, with the keywords that are about that type.
fn split_types(schema: &mut Object) {
    one_type(schema);
    let Some(Value::Array(kinds)) = schema.get("type").cloned() else { return };
    schema.remove("type");
    let mut choices = Vec::with_capacity(kinds.len());
    for kind in &kinds {
        let mut choice = Object::from_iter([("type".to_owned(), kind.clone())]);
        let own = match kind.as_str().unwrap_or_default() {
            "string" => &["minLength", "maxLength", "pattern", "format", "contentEncoding", "contentMediaType"][..],
            "integer" | "number" => &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"],
            "array" => &["items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"],
            "object" => &[
                "properties",
                "required",
                "additionalProperties",
                "patternProperties",
                "propertyNames",
                "minProperties",
                "maxProperties",
            ],
            _ => &[],
        };
        for keyword in own {
            if let Some(rule) = schema.get(*keyword) {
                choice.insert((*keyword).to_owned(), rule.clone());
            }
        }
        choices.push(choice);
    }
    for keyword in choices.iter().flat_map(Object::keys) {
        schema.remove(keyword);
    }
    let choices = Value::Array(choices.into_iter().map(Value::Object).collect());
    if schema.contains_key("anyOf") {
        let all = schema.entry("allOf").or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(all) = all {
            all.push(json!({ "anyOf": choices }));
        }
    } else {
        schema.insert("anyOf".to_owned(), choices);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "lowercase")]
    enum Color {
        /// As the sky.
        #[default]
        Blue,
        Green,
    }

    #[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
    struct Inner {
        /// How much.
        weight: Option<f32>,
        ids: Vec<Option<u64>>,
        next: Option<Box<Inner>>,
    }

    #[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
    struct Everything {
        name: String,
        tiny: u8,
        #[schemars(range(max = 5))]
        count: Option<usize>,
        signed: Option<i64>,
        #[serde(default)]
        ratio: f64,
        address: Option<std::net::IpAddr>,
        four: Option<std::net::Ipv4Addr>,
        day: Option<jiff::civil::Date>,
        /// Which.
        color: Option<Color>,
        #[serde(default)]
        other_color: Color,
        inner: Option<Inner>,
        list: Option<Vec<Inner>>,
        by_name: HashMap<String, Option<u32>>,
        /// Anything.
        value: Value,
        values: Vec<Value>,
        free: Map<String, Value>,
        optional_value: Option<Value>,
        pair: Option<(u8, String)>,
        #[schemars(extend("nullable" = true))]
        double: Option<Option<bool>>,
        #[serde(default)]
        with_default: Option<u16>,
        #[schemars(extend("enum" = ["a", null]))]
        listed: Option<String>,
    }

    #[derive(Debug, Default, Serialize, JsonSchema)]
    struct Answer {
        always: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        sometimes: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        inner: Option<Inner>,
        maybe: Option<Color>,
        values: Vec<Option<u8>>,
        by_name: BTreeMap<String, Option<Inner>>,
        anything: Value,
    }

    /// Every place in a schema that is a schema.
    fn walk(schema: &Value, visit: &mut impl FnMut(&Value)) {
        visit(schema);
        let Some(object) = schema.as_object() else { return };
        for keyword in ONE {
            if let Some(inner) = object.get(keyword).filter(|inner| !(inner.is_boolean() && SWITCHES.contains(&keyword))) {
                walk(inner, visit);
            }
        }
        for keyword in SEVERAL {
            object.get(keyword).and_then(Value::as_array).into_iter().flatten().for_each(|inner| walk(inner, visit));
        }
        for keyword in BY_NAME {
            let inner = object.get(keyword).and_then(Value::as_object);
            inner.into_iter().flatten().for_each(|(_, inner)| walk(inner, visit));
        }
    }

    fn is_portable(schema: &Value, portable: Portable) {
        walk(schema, &mut |place| {
            assert!(place.is_object(), "{place} in {schema}");
            assert!(!place["type"].is_array(), "{place}");
            assert!(place["format"].is_null() || FORMATS.iter().any(|format| place["format"] == *format), "{place}");
            let says_nothing = place.as_object().unwrap().keys().all(|keyword| ANNOTATIONS.contains(&&**keyword));
            assert!(!says_nothing, "{place} in {schema}");
            if portable == Portable::Input {
                assert!(place["type"] != "null" && place.get("nullable").is_none(), "{place}");
                assert!(place.get("default").is_none_or(|default| !default.is_null()), "{place}");
                assert!(!place["enum"].as_array().is_some_and(|values| values.contains(&Value::Null)), "{place}");
            }
        });
    }

    #[test]
    fn an_input_is_what_every_provider_accepts() {
        let schema = Value::Object(input::<Everything>());
        is_portable(&schema, Portable::Input);
        let member = |name: &str| schema["properties"][name].clone();
        assert_eq!(schema["required"], json!(["name", "tiny", "by_name", "value", "values", "free"]));
        for (name, expected) in [
            ("tiny", json!({ "type": "integer", "minimum": 0, "maximum": 255 })),
            ("count", json!({ "type": "integer", "minimum": 0, "maximum": 5 })),
            ("signed", json!({ "type": "integer" })),
            ("ratio", json!({ "type": "number", "default": 0.0 })),
            ("address", json!({ "type": "string" })),
            ("four", json!({ "type": "string", "format": "ipv4" })),
            ("day", json!({ "type": "string", "format": "date" })),
            ("color", json!({ "type": "string", "enum": ["blue", "green"], "description": "Which." })),
            ("by_name", json!({ "type": "object", "additionalProperties": { "type": "integer", "minimum": 0 } })),
            ("free", json!({ "type": "object", "additionalProperties": true })),
            ("double", json!({ "type": "boolean" })),
            ("with_default", json!({ "type": "integer", "minimum": 0, "maximum": 65535 })),
            ("listed", json!({ "type": "string", "enum": ["a"] })),
        ] {
            let mut member = member(name);
            if name == "color" {
                let said = member["description"].as_str().unwrap().to_owned();
                assert_eq!(said, "Which.\n`blue`: As the sky.");
                member["description"] = json!("Which.");
                member["enum"].as_array_mut().unwrap().sort_by_key(Value::to_string);
            }
            assert_eq!(member, expected, "{name}");
        }
        assert!(member("optional_value")["anyOf"].as_array().unwrap().len() == 5);
        assert_eq!(member("value")["description"], "Anything.");
        // What contains itself is referred to, and everything else stands where it is used.
        let inner = schema["$defs"]["Inner"].clone();
        assert_eq!(inner["properties"]["ids"]["items"], json!({ "type": "integer", "minimum": 0 }));
        assert_eq!(inner["properties"]["weight"], json!({ "type": "number", "description": "How much." }));
        assert_eq!(schema["$defs"].as_object().unwrap().len(), 1, "{schema}");
    }

    #[test]
    fn an_explicit_null_is_accepted_all_the_same() {
        let given = json!({ "name": "a", "tiny": 1, "count": null, "color": null, "by_name": { "a": null }, "value": null,
            "inner": { "weight": null, "ids": [null, 1], "next": null },
            "values": [], "free": {}, "list": null, "double": null, "with_default": null, "listed": null });
        let read: Everything = serde_json::from_value(given).unwrap();
        assert!(read.count.is_none() && read.inner.unwrap().ids[0].is_none());
    }

    #[test]
    fn an_answer_is_valid_by_its_schema() {
        let schema = Value::Object(output::<Answer>());
        is_portable(&schema, Portable::Output);
        let member = |name: &str| schema["properties"][name].clone();
        let nothing = json!({ "type": "null" });
        assert_eq!(member("always"), json!({ "anyOf": [{ "type": "string" }, nothing] }));
        assert_eq!(member("sometimes"), json!({ "type": "integer", "minimum": 0 }));
        assert_eq!(member("inner"), json!({ "$ref": "#/$defs/Inner" }));
        assert_eq!(member("maybe"), json!({ "anyOf": [{ "$ref": "#/$defs/Color" }, nothing] }));
        let items = json!({ "anyOf": [{ "type": "integer", "minimum": 0, "maximum": 255 }, nothing] });
        assert_eq!(member("values"), json!({ "type": "array", "items": items }));
        assert_eq!(schema["$defs"]["Color"]["type"], "string");
        assert_eq!(schema["required"], json!(["always", "maybe", "values", "by_name", "anything"]));
        // Written with nothing in it, and compared by what the schema says of each member.
        let written = serde_json::to_value(Answer::default()).unwrap();
        for (name, value) in written.as_object().unwrap() {
            let schema = member(name);
            let may_be_null = schema["anyOf"].as_array().is_some_and(|choices| choices.contains(&nothing));
            assert!(!value.is_null() || may_be_null, "{name} is null by {schema}");
        }
    }

    #[test]
    fn what_a_person_wrote_is_rewritten_too() {
        for (portable, written, expected) in [
            (
                Portable::Input,
                json!({ "type": ["string", "integer", "null"], "maxLength": 3, "minimum": 1, "description": "d" }),
                json!({ "description": "d",
                    "anyOf": [{ "type": "string", "maxLength": 3 }, { "type": "integer", "minimum": 1 }] }),
            ),
            (
                Portable::Input,
                json!({ "oneOf": [{ "type": "null" }, { "type": "string", "format": "date" }] }),
                json!({ "type": "string", "format": "date" }),
            ),
            (
                Portable::Input,
                json!({ "anyOf": [{ "type": "string" }, { "const": null }, { "enum": [null] }, { "type": "integer", "format": "int32" }] }),
                json!({ "anyOf": [{ "type": "string" }, { "type": "integer" }] }),
            ),
            (Portable::Input, json!({ "type": "null" }), json!({ "type": "null" })),
            (Portable::Input, json!({ "enum": [null] }), json!({ "enum": [null] })),
            // What a value is compared with is no schema.
            (Portable::Input, json!({ "const": { "type": ["a", "null"] } }), json!({ "const": { "type": ["a", "null"] } })),
            (Portable::Input, json!({ "not": { "type": "null" } }), json!({ "not": { "type": "null" } })),
            (
                Portable::Output,
                json!({ "type": ["string", "null"], "format": "date", "enum": ["a", null] }),
                json!({ "enum": ["a", null], "anyOf": [{ "type": "string", "format": "date" }, { "type": "null" }] }),
            ),
            (
                Portable::Output,
                json!({ "properties": { "a": { "type": ["string", "null"] }, "b": { "type": ["string", "null"] } }, "required": ["b"] }),
                json!({ "properties": { "a": { "type": "string" }, "b": { "anyOf": [{ "type": "string" }, { "type": "null" }] } }, "required": ["b"] }),
            ),
        ] {
            let Value::Object(mut schema) = written.clone() else { panic!() };
            portable.rewrite(&mut schema);
            assert_eq!(Value::Object(schema), expected, "{written}");
        }
    }
}
