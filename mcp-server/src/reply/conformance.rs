//! Checks a value against an output schema: whether a client that validates would accept it.
//!
//! It knows the keywords that schemars writes for Rust types. A keyword that it does not know rejects nothing: a reply that is
//! withheld for a rule misread here would cost more than one that a client rejects.

use rmcp::model::JsonObject;
use serde_json::{Number, Value};

/// References may lead in a circle without consuming any of the value.
const MAX_DEPTH: usize = 64;

/// Whether the value conforms to a schema, as far as its keywords are known here.
pub(super) fn conforms(value: &Value, schema: &JsonObject) -> bool {
    Checker { root: schema }.object(value, schema, 0)
}

struct Checker<'a> {
    root: &'a JsonObject,
}

// === impl Checker ===

impl Checker<'_> {
    fn schema(&self, value: &Value, schema: &Value, depth: usize) -> bool {
        match schema {
            Value::Bool(accepts) => *accepts,
            Value::Object(schema) => self.object(value, schema, depth),
            _ => true,
        }
    }

    fn object(&self, value: &Value, schema: &JsonObject, depth: usize) -> bool {
        if depth > MAX_DEPTH {
            return true;
        }
        let conforms = |part: &Value| self.schema(value, part, depth + 1);
        schema.iter().all(|(keyword, rule)| match keyword.as_str() {
            "$ref" => self.reference(rule).is_none_or(conforms),
            "type" => match rule {
                Value::String(kind) => is_of_type(value, kind),
                Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).any(|kind| is_of_type(value, kind)),
                _ => true,
            },
            "const" => is_equal(value, rule),
            "enum" => rule.as_array().is_none_or(|values| values.iter().any(|one| is_equal(value, one))),
            "allOf" => rule.as_array().is_none_or(|parts| parts.iter().all(conforms)),
            "anyOf" => rule.as_array().is_none_or(|parts| parts.iter().any(conforms)),
            "oneOf" => rule.as_array().is_none_or(|parts| parts.iter().filter(|part| conforms(part)).count() == 1),
            "not" => !conforms(rule),
            _ => match value {
                Value::Object(members) => self.members(members, schema, keyword, rule, depth),
                Value::Array(items) => self.items(items, schema, keyword, rule, depth),
                Value::String(text) => is_within(text.chars().count(), keyword, rule, "minLength", "maxLength"),
                Value::Number(number) => is_in_range(number, keyword, rule),
                _ => true,
            },
        })
    }

    fn members(&self, members: &JsonObject, schema: &JsonObject, keyword: &str, rule: &Value, depth: usize) -> bool {
        let declared = schema.get("properties").and_then(Value::as_object);
        match keyword {
            "properties" => declared.into_iter().flatten().all(|(name, part)| {
                let value = members.get(name);
                value.is_none_or(|value| self.schema(value, part, depth + 1))
            }),
            "required" => {
                let mut names = rule.as_array().into_iter().flatten().filter_map(Value::as_str);
                names.all(|name| members.contains_key(name))
            }
            // Where patterns declare members as well, which ones are additional is not known here.
            "additionalProperties" if !schema.contains_key("patternProperties") => members.iter().all(|(name, value)| {
                let is_declared = declared.is_some_and(|declared| declared.contains_key(name));
                is_declared || self.schema(value, rule, depth + 1)
            }),
            _ => is_within(members.len(), keyword, rule, "minProperties", "maxProperties"),
        }
    }

    fn items(&self, items: &[Value], schema: &JsonObject, keyword: &str, rule: &Value, depth: usize) -> bool {
        let first = schema.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        match keyword {
            "prefixItems" => items.iter().zip(first).all(|(item, part)| self.schema(item, part, depth + 1)),
            "items" => items.iter().skip(first.len()).all(|item| self.schema(item, rule, depth + 1)),
            "uniqueItems" if rule == true => {
                items.iter().enumerate().all(|(at, item)| items[..at].iter().all(|other| !is_equal(other, item)))
            }
            _ => is_within(items.len(), keyword, rule, "minItems", "maxItems"),
        }
    }

    /// The part of the schema that a reference names; `None` for one that leads elsewhere.
    fn reference(&self, rule: &Value) -> Option<&Value> {
        let mut path = rule.as_str()?.strip_prefix("#/")?.split('/').map(|part| part.replace("~1", "/").replace("~0", "~"));
        let first = self.root.get(&path.next()?)?;
        path.try_fold(first, |part, name| part.get(&name))
    }
}

fn is_of_type(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        // 1.0 is an integer (JSON Schema, 6.1.1).
        "integer" => {
            value.is_i64()
                || value.is_u64()
                || value.as_f64().is_some_and(|number| number.rem_euclid(1.0).abs() < f64::MIN_POSITIVE)
        }
        _ => true,
    }
}

/// Numbers are compared by their value.
fn is_equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        _ => one == other,
    }
}

fn is_within(count: usize, keyword: &str, rule: &Value, least: &str, most: &str) -> bool {
    let Some(limit) = rule.as_f64() else { return true };
    let count = u32::try_from(count).map_or(f64::INFINITY, f64::from);
    (keyword != least || count >= limit) && (keyword != most || count <= limit)
}

fn is_in_range(number: &Number, keyword: &str, rule: &Value) -> bool {
    let (Some(number), Some(limit)) = (number.as_f64(), rule.as_f64()) else { return true };
    match keyword {
        "minimum" => number >= limit,
        "maximum" => number <= limit,
        "exclusiveMinimum" => number > limit,
        "exclusiveMaximum" => number < limit,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_held_against_every_keyword_that_schemars_writes() {
        let tree = json!({
            "$defs": { "Node": { "type": "object", "properties": { "next": { "$ref": "#/$defs/Node" } }, "required": ["n"] } },
            "type": "object", "properties": { "root": { "$ref": "#/$defs/Node" } },
        });
        let either = json!({ "oneOf": [{ "const": "a" }, { "type": "object", "required": ["b"] }] });
        for (schema, right, wrong) in [
            (json!({ "type": "string" }), json!("a"), json!(1)),
            (json!({ "type": ["string", "null"] }), json!(null), json!(1)),
            (json!({ "type": "integer", "minimum": 0, "maximum": 9 }), json!(9.0), json!(8.5)),
            (json!({ "type": "integer", "minimum": 0 }), json!(0), json!(-1)),
            (json!({ "exclusiveMaximum": 3 }), json!(2), json!(3)),
            (json!({ "type": "number" }), json!(1.5), json!("1.5")),
            (json!({ "enum": ["a", 1] }), json!(1.0), json!("b")),
            (json!({ "minLength": 2, "maxLength": 3 }), json!("äöü"), json!("ä")),
            (json!({ "required": ["a"] }), json!({ "a": null }), json!({})),
            (json!({ "properties": { "a": { "type": "string" } } }), json!({ "b": 1 }), json!({ "a": 1 })),
            (json!({ "additionalProperties": false }), json!({}), json!({ "a": 1 })),
            (json!({ "additionalProperties": { "type": "integer" } }), json!({ "a": 1 }), json!({ "a": "1" })),
            (json!({ "items": { "type": "integer" }, "maxItems": 2 }), json!([1, 2]), json!([1, 2, 3])),
            (json!({ "prefixItems": [{ "type": "string" }], "items": false }), json!(["a"]), json!(["a", 1])),
            (json!({ "uniqueItems": true }), json!([1, 2]), json!([1, 1.0])),
            (json!({ "allOf": [{ "required": ["a"] }, { "required": ["b"] }] }), json!({ "a": 1, "b": 1 }), json!({ "a": 1 })),
            (json!({ "anyOf": [{ "type": "null" }, { "type": "string" }] }), json!(null), json!(1)),
            (either.clone(), json!({ "b": 1 }), json!("b")),
            (either, json!("a"), json!({})),
            (tree, json!({ "root": { "n": 1, "next": { "n": 2 } } }), json!({ "root": { "n": 1, "next": {} } })),
        ] {
            let Value::Object(schema) = schema else { panic!("a schema is an object") };
            assert!(conforms(&right, &schema), "{schema:?} rejects {right}");
            assert!(!conforms(&wrong, &schema), "{schema:?} accepts {wrong}");
        }
    }

    #[test]
    fn what_is_not_known_rejects_nothing_and_a_circle_ends() {
        for schema in [json!({ "format": "uri", "x-new": 1 }), json!({ "$ref": "#" }), json!({ "$ref": "https://a.example/b" })] {
            let Value::Object(schema) = schema else { panic!("a schema is an object") };
            assert!(conforms(&json!({ "a": [1] }), &schema), "{schema:?}");
        }
        let circle = json!({ "$defs": { "A": { "$ref": "#/$defs/A" } }, "$ref": "#/$defs/A" });
        assert!(conforms(&json!(1), circle.as_object().unwrap()));
    }
}
