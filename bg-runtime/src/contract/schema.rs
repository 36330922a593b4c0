//! What one JSON Schema (2020-12) allows and another does not.
//!
//! What must stay true: a gap that is there is told, so whatever cannot be compared is a gap, too ([`What::Unclear`]). The
//! other way round a gap may be told that no document falls into; a person then decides.
//!
//! Two things are no gap, because no client meets them. A `format` that is none of JSON Schema's (`uint32`) says nothing to a
//! validator. And for a member that neither schema requires, `null` is the same as leaving it out: the framework takes it for
//! that in arguments, and in answers such a member is left out where it would be `null`. Builds describe it either way.

use std::{collections::HashSet, fmt};

use serde_json::{Map, Value};

/// One way in which a document that the narrow schema allows is not one that the wide schema allows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Gap {
    /// Where: `range.days`, `tags[]`, or nothing for the document itself.
    pub(super) path: String,
    pub(super) what: What,
}

/// What the wide schema does not allow.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    /// This type.
    Kind(String),
    /// This value.
    Value(Value),
    /// Any value but a few.
    AnyValue,
    /// To leave this member out.
    Missing(String),
    /// This member, which the narrow one declares.
    Refused(String),
    /// It allows this member, which the narrow one declares, and says nothing of it.
    Unknown(String),
    /// Members that nobody declared.
    Undeclared,
    /// More (or less, or other) than this.
    Limit { keyword: &'static str, narrow: Option<Value>, wide: Value },
    /// This keyword cannot be compared.
    Unclear(String),
}

/// Schemas are written by people and generated from types; one that takes more steps than this is neither.
const MOST_STEPS: usize = 20_000;
const DEEPEST: usize = 64;
const MOST_ALTERNATIVES: usize = 1000;

/// The keywords of a JSON Schema that say something to people and nothing to a validator.
pub const ANNOTATIONS: [&str; 12] = [
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
];
/// Keywords that are compared below, one by one.
const COMPARED: [&str; 26] = [
    "type",
    "enum",
    "const",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
    "allOf",
    "anyOf",
    "oneOf",
    "$ref",
    "contentEncoding",
];
/// Limits from below, where more is narrower, and from above.
const LEAST: [&str; 5] = ["minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"];
const MOST: [&str; 5] = ["maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"];
/// Where another value is another rule.
const SAME: [&str; 4] = ["pattern", "format", "multipleOf", "contentEncoding"];
/// The formats of JSON Schema, 2020-12. On anything but a string they say nothing, either.
const FORMATS: [&str; 19] = [
    "date-time",
    "date",
    "time",
    "duration",
    "email",
    "idn-email",
    "hostname",
    "idn-hostname",
    "ipv4",
    "ipv6",
    "uri",
    "uri-reference",
    "iri",
    "iri-reference",
    "uuid",
    "uri-template",
    "json-pointer",
    "relative-json-pointer",
    "regex",
];
const KINDS: [&str; 6] = ["null", "boolean", "number", "string", "array", "object"];

/// In which ways what `narrow` allows goes beyond what `wide` allows.
pub(super) fn gaps(narrow: &Value, wide: &Value) -> Vec<Gap> {
    // Whatever in it cannot be compared, it is the same; what is no schema says nothing that could be.
    if narrow == wide && (narrow.is_object() || narrow.is_boolean()) {
        return Vec::new();
    }
    let mut comparison = Comparison { narrow, wide, steps: 0, met: HashSet::new(), gaps: Vec::new() };
    comparison.compare("", narrow, wide, 0, Null::Counts);
    let mut told = Vec::new();
    for gap in comparison.gaps {
        if !told.contains(&gap) {
            told.push(gap);
        }
    }
    told
}

struct Comparison<'a> {
    narrow: &'a Value,
    wide: &'a Value,
    steps: usize,
    /// References that are being compared already: a schema may contain itself.
    met: HashSet<(String, String)>,
    gaps: Vec<Gap>,
}

/// Whether `null` is a value of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Null {
    Counts,
    /// It is the same as no value.
    IsAbsence,
}

/// A schema without alternatives: what must all hold, merged into one object.
type Plain = Map<String, Value>;

// === impl Comparison ===

impl Comparison<'_> {
    fn compare(&mut self, path: &str, narrow: &Value, wide: &Value, depth: usize, null: Null) {
        self.steps += 1;
        if self.steps > MOST_STEPS || depth > DEEPEST {
            return self.note(path, What::Unclear("$ref".to_owned()));
        }
        if let (Some(narrow), Some(wide)) = (reference(narrow), reference(wide))
            && !self.met.insert((narrow.to_owned(), wide.to_owned()))
        {
            return;
        }
        self.compare_choice(path, narrow, wide, depth);
        let narrows = alternatives(self.narrow, narrow, &mut self.steps, depth);
        let wides = alternatives(self.wide, wide, &mut self.steps, depth);
        let (Some(narrows), Some(wides)) = (narrows, wides) else {
            return self.note(path, What::Unclear("$ref".to_owned()));
        };
        let is_absence = |narrow: &Plain| null == Null::IsAbsence && narrow.get("type").is_some_and(|kind| kind == "null");
        for narrow in narrows.iter().flat_map(|narrow| apart(narrow, &wides)).filter(|narrow| !is_absence(narrow)) {
            self.compare_plain(path, &narrow, &wides, depth);
        }
    }

    /// `oneOf` refuses what two of its schemas allow. Where these keep apart it is `anyOf`.
    fn compare_choice(&mut self, path: &str, narrow: &Value, wide: &Value, depth: usize) {
        let Some(choices) = wide.get("oneOf").and_then(Value::as_array) else { return };
        if narrow.get("oneOf") == wide.get("oneOf") && !self.has_other_definitions() {
            return;
        }
        let choices: Option<Vec<Vec<Plain>>> =
            choices.iter().map(|choice| alternatives(self.wide, choice, &mut self.steps, depth)).collect();
        let Some(choices) = choices else { return };
        let overlap = |at: usize, one: &Vec<Plain>| {
            choices[at + 1..].iter().flatten().any(|other| one.iter().any(|one| !keeps_apart(one, other)))
        };
        if choices.iter().enumerate().any(|(at, one)| overlap(at, one)) {
            self.note(path, What::Unclear("oneOf".to_owned()));
        }
    }

    /// Whether one reference may lead to two things.
    fn has_other_definitions(&self) -> bool {
        ["$defs", "definitions"].iter().any(|place| self.narrow.get(place) != self.wide.get(place))
    }

    /// One alternative of the narrow schema must be one of the wide schema's.
    fn compare_plain(&mut self, path: &str, narrow: &Plain, wides: &[Plain], depth: usize) {
        if wides.iter().any(Plain::is_empty) {
            return;
        }
        let kind = narrow.get("type").and_then(Value::as_str);
        let value = narrow.get("const");
        let mut candidates = wides.iter().filter(|wide| kind.is_none_or(|kind| allows_kind(wide, kind))).peekable();
        if candidates.peek().is_none() {
            // An integer is named where the wide schema allows numbers of another kind, or none.
            let kind = kind.unwrap_or_default().to_owned();
            return self.note(path, value.map_or(What::Kind(kind), |value| What::Value(value.clone())));
        }
        let mut best: Option<Vec<Gap>> = None;
        for wide in candidates {
            let mut attempt =
                Comparison { narrow: self.narrow, wide: self.wide, steps: self.steps, met: self.met.clone(), gaps: Vec::new() };
            attempt.compare_keywords(path, narrow, wide, depth);
            self.steps = attempt.steps;
            if attempt.gaps.is_empty() {
                return;
            }
            if best.as_ref().is_none_or(|best| attempt.gaps.len() < best.len()) {
                best = Some(attempt.gaps);
            }
        }
        // A value that none of several allows is refused as what it is, and not for what one of them would have had.
        match value {
            Some(value) if wides.len() > 1 => self.note(path, What::Value(value.clone())),
            _ => self.gaps.extend(best.unwrap_or_default()),
        }
    }

    fn compare_keywords(&mut self, path: &str, narrow: &Plain, wide: &Plain, depth: usize) {
        let value = narrow.get("const");
        if let Some(allowed) = wide.get("enum").and_then(Value::as_array) {
            match value {
                Some(value) if !allowed.contains(value) => self.note(path, What::Value(value.clone())),
                Some(_) => {}
                None => self.note(path, What::AnyValue),
            }
        }
        self.compare_limits(path, narrow, wide);
        self.compare_members(path, narrow, wide, depth);
        match (narrow.get("items"), wide.get("items")) {
            (Some(narrow), Some(wide)) => self.compare(&format!("{path}[]"), narrow, wide, depth + 1, Null::Counts),
            (None, Some(wide)) if may_be(narrow, "array") => {
                self.compare(&format!("{path}[]"), &Value::Bool(true), wide, depth + 1, Null::Counts);
            }
            _ => {}
        }
        for keyword in narrow.keys().chain(wide.keys()) {
            let is_known = COMPARED.contains(&&**keyword) || ANNOTATIONS.contains(&&**keyword);
            // Equal words with a reference in them may still say two things.
            let may_differ = || self.has_other_definitions() && narrow.get(keyword).is_some_and(has_reference);
            if !is_known && (narrow.get(keyword) != wide.get(keyword) || may_differ()) {
                self.note(path, What::Unclear(keyword.clone()));
            }
        }
    }

    fn compare_limits(&mut self, path: &str, narrow: &Plain, wide: &Plain) {
        let mut check = |keyword: &'static str, is_within: &dyn Fn(&Value) -> bool| {
            let Some(limit) = wide.get(keyword) else { return };
            if !is_within(limit) {
                self.note(path, What::Limit { keyword, narrow: narrow.get(keyword).cloned(), wide: limit.clone() });
            }
        };
        // What is one value is as large or as long as it is.
        let measure = |keyword: &str| match (narrow.get("const"), keyword) {
            (None, _) => narrow.get(keyword).map(number),
            (Some(Value::String(text)), "minLength" | "maxLength") => Some(text.chars().count() as f64),
            (Some(Value::Array(items)), "minItems" | "maxItems") => Some(items.len() as f64),
            (Some(Value::Object(members)), "minProperties" | "maxProperties") => Some(members.len() as f64),
            (Some(value @ Value::Number(_)), "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum") => {
                Some(number(value))
            }
            // Of another type, to which the limit says nothing.
            (Some(_), _) => None,
        };
        let is_one_value = narrow.contains_key("const");
        // A limit may be the other limit; a value may not be the limit that it must keep away from.
        let may_touch = |keyword: &str| !(is_one_value && keyword.starts_with("exclusive"));
        let is_within = |keyword: &str, own: f64, limit: f64, goes_on: bool| goes_on || (own == limit && may_touch(keyword));
        for keyword in LEAST {
            let own = |limit| move |own: f64| is_within(keyword, own, limit, own > limit);
            check(keyword, &|limit| measure(keyword).map_or(is_one_value, own(number(limit))));
        }
        for keyword in MOST {
            let own = |limit| move |own: f64| is_within(keyword, own, limit, own < limit);
            check(keyword, &|limit| measure(keyword).map_or(is_one_value, own(number(limit))));
        }
        for keyword in SAME {
            check(keyword, &|limit| narrow.get(keyword) == Some(limit));
        }
        check("uniqueItems", &|limit| limit == &Value::Bool(false) || narrow.get("uniqueItems") == Some(limit));
    }

    fn compare_members(&mut self, path: &str, narrow: &Plain, wide: &Plain, depth: usize) {
        if !may_be(narrow, "object") {
            return;
        }
        let empty = Map::new();
        let members = |schema: &Plain| schema.get("properties").and_then(Value::as_object).cloned();
        let (own, theirs) = (members(narrow), members(wide));
        let (own, theirs) = (own.as_ref().unwrap_or(&empty), theirs.as_ref().unwrap_or(&empty));
        let (required, needed) = (required(narrow), required(wide));
        for name in &needed {
            if !required.contains(name) {
                self.note(path, What::Missing((*name).to_owned()));
            }
        }
        let others = wide.get("additionalProperties");
        for (name, schema) in own {
            let path = join(path, name);
            let is_optional = !required.contains(&&**name) && !needed.contains(&&**name);
            let null = if is_optional { Null::IsAbsence } else { Null::Counts };
            match (theirs.get(name), others) {
                (Some(theirs), _) => self.compare(&path, schema, theirs, depth + 1, null),
                (None, Some(Value::Bool(false))) => self.note(&path, What::Refused(name.clone())),
                (None, Some(theirs @ Value::Object(theirs_object))) if !theirs_object.is_empty() => {
                    self.compare(&path, schema, theirs, depth + 1, Null::Counts);
                }
                (None, _) => self.note(&path, What::Unknown(name.clone())),
            }
        }
        // What the narrow side says of members that it does not name holds for those that only the wide side names.
        if let Some(unnamed @ Value::Object(rule)) = narrow.get("additionalProperties")
            && !rule.is_empty()
        {
            for (name, schema) in theirs.iter().filter(|(name, _)| !own.contains_key(*name)) {
                self.compare(&join(path, name), unnamed, schema, depth + 1, Null::Counts);
            }
        }
        match (narrow.get("additionalProperties").unwrap_or(&Value::Bool(true)), others) {
            (Value::Bool(false), _) | (_, None | Some(Value::Bool(true))) => {}
            (_, Some(Value::Bool(false))) => self.note(path, What::Undeclared),
            (own, Some(theirs)) => self.compare(&join(path, "*"), own, theirs, depth + 1, Null::Counts),
        }
    }

    fn note(&mut self, path: &str, what: What) {
        self.gaps.push(Gap { path: path.to_owned(), what });
    }
}

// === Schemas, taken apart ===

/// Where a schema leads that says nothing else.
fn reference(schema: &Value) -> Option<&str> {
    let is_alone = schema.as_object()?.keys().all(|keyword| keyword == "$ref" || ANNOTATIONS.contains(&&**keyword));
    schema.get("$ref").filter(|_| is_alone)?.as_str()
}

fn has_reference(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.contains_key("$ref") || members.values().any(has_reference),
        Value::Array(items) => items.iter().any(has_reference),
        _ => false,
    }
}

/// Whether no value is allowed by both: they are of two types, are other values, or demand other values of one member.
fn keeps_apart(one: &Plain, other: &Plain) -> bool {
    let kinds = |plain: &Plain| match plain.get("type") {
        Some(Value::String(kind)) => Some(vec![kind.clone()]),
        Some(Value::Array(kinds)) => Some(kinds.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
        _ => Some(plain.get("enum")?.as_array()?.iter().map(|value| kind_of(value).to_owned()).collect::<Vec<_>>()),
    };
    let values = |plain: &Plain| plain.get("enum").and_then(Value::as_array).cloned();
    if let (Some(one), Some(other)) = (values(one), values(other)) {
        return one.iter().all(|value| !other.contains(value));
    }
    if let (Some(one), Some(other)) = (kinds(one), kinds(other))
        && one.iter().all(|kind| {
            !other
                .iter()
                .any(|other| other == kind || [&**other, &**kind].iter().all(|kind| matches!(*kind, "integer" | "number")))
        })
    {
        return true;
    }
    let demanded = |plain: &Plain, name: &str| {
        let member = plain.get("properties")?.get(name)?;
        let value = member.get("const").cloned().map(|only| vec![only]).or_else(|| member.get("enum")?.as_array().cloned())?;
        required(plain).contains(&name).then_some(value)
    };
    required(one).into_iter().any(|name| match (demanded(one, name), demanded(other, name)) {
        (Some(one), Some(other)) => one.iter().all(|value| !other.contains(value)),
        _ => false,
    })
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn required(schema: &Plain) -> Vec<&str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn may_be(schema: &Plain, kind: &str) -> bool {
    schema.get("type").is_none_or(|own| own == kind)
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether a plain schema allows some value of this type.
fn allows_kind(schema: &Plain, kind: &str) -> bool {
    let allows = |own: &str| own == kind || (own == "number" && kind == "integer");
    match schema.get("type") {
        None => true,
        Some(Value::String(own)) => allows(own),
        Some(Value::Array(own)) => own.iter().filter_map(Value::as_str).any(allows),
        Some(_) => false,
    }
}

/// The plain schemas of which one must hold. `None` when a reference leads nowhere, or nowhere but to itself.
fn alternatives(root: &Value, schema: &Value, steps: &mut usize, depth: usize) -> Option<Vec<Plain>> {
    *steps += 1;
    if depth > DEEPEST || *steps > MOST_STEPS {
        return None;
    }
    let schema = match schema {
        Value::Bool(true) => return Some(vec![Plain::new()]),
        Value::Bool(false) => return Some(Vec::new()),
        Value::Object(schema) => schema,
        _ => return None,
    };
    let mut own = schema.clone();
    // Words are compared elsewhere, and would keep an empty schema from being recognized.
    own.retain(|keyword, _| !ANNOTATIONS.contains(&&**keyword));
    let is_text =
        own.get("type").is_none_or(|kind| kind.as_array().map_or(kind == "string", |kinds| kinds.contains(&"string".into())));
    if own.get("format").is_some_and(|format| !is_text || !FORMATS.iter().any(|known| format == known)) {
        own.remove("format");
    }
    if let Some(only) = own.get("const").cloned() {
        own.insert("enum".to_owned(), Value::Array(vec![only]));
        own.remove("const");
    }
    let (reference, all, any, one) = (own.remove("$ref"), own.remove("allOf"), own.remove("anyOf"), own.remove("oneOf"));
    let mut plain = vec![own];
    let mut also = |choices: Vec<Plain>| {
        // Asked before they are made: a thousand of each are a million.
        let are_few = plain.len().saturating_mul(choices.len()) <= MOST_ALTERNATIVES;
        if are_few {
            plain = plain.iter().flat_map(|plain| choices.iter().map(|choice| merge(plain, choice))).collect();
        }
        are_few
    };
    if let Some(reference) = reference {
        let pointer = reference.as_str()?.strip_prefix('#')?;
        also(alternatives(root, root.pointer(pointer)?, steps, depth + 1)?).then_some(())?;
    }
    for part in all.as_ref().and_then(Value::as_array).into_iter().flatten() {
        also(alternatives(root, part, steps, depth + 1)?).then_some(())?;
    }
    for choices in [any, one].into_iter().flatten() {
        let choices = choices.as_array()?.iter().map(|choice| alternatives(root, choice, steps, depth + 1));
        also(choices.collect::<Option<Vec<_>>>()?.concat()).then_some(())?;
    }
    Some(plain)
}

/// What holds when both hold. Where two rules of one keyword cannot be made one, both stand there, as no schema has it, so that
/// the keyword is told as unclear unless the other side has the same two.
fn merge(one: &Plain, other: &Plain) -> Plain {
    let mut merged = one.clone();
    for (keyword, rule) in other {
        let Some(own) = merged.get(keyword).filter(|own| *own != rule) else {
            merged.insert(keyword.clone(), rule.clone());
            continue;
        };
        let both = match (&**keyword, own, rule) {
            ("required", Value::Array(own), Value::Array(rule)) => {
                let more = rule.iter().filter(|name| !own.contains(name));
                Value::Array(own.iter().chain(more).cloned().collect())
            }
            ("enum", Value::Array(own), Value::Array(rule)) => {
                Value::Array(own.iter().filter(|value| rule.contains(value)).cloned().collect())
            }
            ("type", own, rule) => {
                let kinds = |value: &Value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
                let rule = kinds(rule);
                Value::Array(kinds(own).into_iter().filter(|kind| rule.contains(kind)).collect())
            }
            ("properties", Value::Object(own), Value::Object(rule)) => {
                let mut members = own.clone();
                for (name, schema) in rule {
                    let both = match members.get(name).filter(|own| *own != schema) {
                        Some(own) => serde_json::json!({ "allOf": [own, schema] }),
                        None => schema.clone(),
                    };
                    members.insert(name.clone(), both);
                }
                Value::Object(members)
            }
            ("items" | "additionalProperties", own, rule) => serde_json::json!({ "allOf": [own, rule] }),
            (least, own, rule) if LEAST.contains(&least) => {
                if number(own) >= number(rule) {
                    own.clone()
                } else {
                    rule.clone()
                }
            }
            (most, own, rule) if MOST.contains(&most) => {
                if number(own) <= number(rule) {
                    own.clone()
                } else {
                    rule.clone()
                }
            }
            (_, own, rule) => serde_json::json!({ "allOf": [own, rule] }),
        };
        merged.insert(keyword.clone(), both);
    }
    merged
}

/// A plain schema as one for each value, or for each type, as far as the other side tells them apart.
fn apart(schema: &Plain, others: &[Plain]) -> Vec<Plain> {
    let with = |keyword: &str, value: Value| {
        let mut one = schema.clone();
        one.insert(keyword.to_owned(), value);
        one
    };
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        let one = |value: &Value| {
            let mut one = with("const", value.clone());
            one.remove("enum");
            one.insert("type".to_owned(), kind_of(value).into());
            one
        };
        return values.iter().map(one).collect();
    }
    match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().map(|kind| with("type", kind.clone())).collect(),
        Some(_) => vec![schema.clone()],
        None if others.iter().all(|other| !other.contains_key("type")) => vec![schema.clone()],
        None => KINDS.into_iter().map(|kind| with("type", kind.into())).collect(),
    }
}

// === impl What ===

impl fmt::Display for Gap {
    /// For a test's eye.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", if self.path.is_empty() { "." } else { &self.path }, self.what)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(narrow: Value, wide: Value) -> Vec<String> {
        gaps(&narrow, &wide).iter().map(Gap::to_string).collect()
    }

    #[test]
    fn a_schema_that_allows_as_much_has_no_gap() {
        let named = json!({
            "$defs": { "Name": { "type": "string", "maxLength": 9 }, "Tree": {
                "type": "object", "properties": { "kids": { "type": "array", "items": { "$ref": "#/$defs/Tree" } } } } },
            "type": "object",
            "properties": { "name": { "$ref": "#/$defs/Name" }, "tree": { "$ref": "#/$defs/Tree" } },
            "required": ["name"],
        });
        for (narrow, wide) in [
            (json!({}), json!(true)),
            (json!(false), json!({ "type": "string" })),
            (json!({ "type": "integer" }), json!({ "type": "number" })),
            (json!({ "type": "string" }), json!({ "type": ["string", "null"] })),
            (json!({ "type": ["string", "null"] }), json!({ "anyOf": [{ "type": "string" }, { "type": "null" }] })),
            (json!({ "enum": ["a", null] }), json!({ "oneOf": [{ "const": "a", "title": "A" }, { "type": "null" }] })),
            (json!({ "type": "string", "maxLength": 5 }), json!({ "type": "string", "maxLength": 9, "description": "words" })),
            (json!({ "type": "integer", "minimum": 3 }), json!({ "allOf": [{ "type": "integer" }, { "minimum": 1 }] })),
            (
                json!({ "type": "object", "properties": { "a": { "type": "string" } }, "required": ["a"] }),
                json!({ "type": "object", "properties": { "a": {}, "b": { "type": "string" } } }),
            ),
            (json!({ "type": "object" }), json!({ "type": "object", "additionalProperties": true })),
            (named.clone(), named.clone()),
            // A format that says nothing, and null where a member may be left out.
            (json!({ "type": "integer" }), json!({ "type": "integer", "format": "uint32" })),
            (json!({ "type": ["number", "null"] }), json!({ "type": ["number", "null"], "format": "double" })),
            (json!({ "type": "number" }), json!({ "type": "number", "format": "date" })),
            (json!({ "type": "string" }), json!({ "type": "string", "format": "ip" })),
            (
                json!({ "type": "object", "properties": { "a": { "type": ["string", "null"] }, "b": { "anyOf": [{ "enum": ["x"] }, { "type": "null" }] },
                    "c": { "enum": ["x", null] } } }),
                json!({ "type": "object", "properties": { "a": { "type": "string" }, "b": { "enum": ["x"] }, "c": { "enum": ["x"] } } }),
            ),
            // What cannot be compared is what it is.
            (json!({ "$ref": "https://example.com/schema" }), json!({ "$ref": "https://example.com/schema" })),
            (
                json!({ "$ref": "#/$defs/Nowhere", "minimum": "no number" }),
                json!({ "$ref": "#/$defs/Nowhere", "minimum": "no number" }),
            ),
        ] {
            assert_eq!(told(narrow.clone(), wide.clone()), Vec::<String>::new(), "{narrow} in {wide}");
        }
    }

    #[test]
    fn every_gap_is_told_where_it_is() {
        let object =
            |properties: Value, required: Value| json!({ "type": "object", "properties": properties, "required": required });
        for (narrow, wide, gap) in [
            (json!({ "type": ["string", "null"] }), json!({ "type": "string" }), r#".: Kind("null")"#),
            // Where it must be there, where only one side needs it, and in a list, null is a value.
            (
                object(json!({ "a": { "type": ["string", "null"] } }), json!(["a"])),
                object(json!({ "a": { "type": "string" } }), json!(["a"])),
                r#"a: Kind("null")"#,
            ),
            (
                object(json!({ "a": { "type": ["string", "null"] } }), json!(["a"])),
                object(json!({ "a": { "type": "string" } }), json!([])),
                r#"a: Kind("null")"#,
            ),
            (
                object(json!({ "a": { "items": { "type": ["string", "null"] }, "type": "array" } }), json!([])),
                object(json!({ "a": { "items": { "type": "string" }, "type": "array" } }), json!([])),
                r#"a[]: Kind("null")"#,
            ),
            (
                object(json!({ "a": { "type": ["integer", "null"] } }), json!([])),
                object(json!({ "a": { "type": "string" } }), json!([])),
                r#"a: Kind("integer")"#,
            ),
            (json!({ "type": "number" }), json!({ "type": "integer" }), r#".: Kind("number")"#),
            (json!({ "enum": ["a", "b"] }), json!({ "type": "string", "enum": ["a"] }), r#".: Value(String("b"))"#),
            (json!({ "const": "b" }), json!({ "oneOf": [{ "const": "a" }, { "const": "c" }] }), r#".: Value(String("b"))"#),
            (json!({ "const": 1 }), json!({ "type": "string" }), ".: Value(Number(1))"),
            (json!({ "type": "string" }), json!({ "enum": ["a"] }), ".: AnyValue"),
            (object(json!({}), json!([])), object(json!({ "a": {} }), json!(["a"])), r#".: Missing("a")"#),
            (
                object(json!({ "a": { "type": "string" } }), json!([])),
                object(json!({ "a": { "type": "string", "minLength": 1 } }), json!([])),
                r#"a: Limit { keyword: "minLength", narrow: None, wide: Number(1) }"#,
            ),
            (
                json!({ "type": "array", "items": { "type": "integer", "maximum": 9 } }),
                json!({ "type": "array", "items": { "type": "integer", "maximum": 5 } }),
                r#"[]: Limit { keyword: "maximum", narrow: Some(Number(9)), wide: Number(5) }"#,
            ),
            (
                json!({ "type": "object", "properties": { "a": {} }, "additionalProperties": false }),
                json!({ "type": "object", "additionalProperties": false }),
                r#"a: Refused("a")"#,
            ),
            (object(json!({ "a": {} }), json!([])), json!({ "type": "object" }), r#"a: Unknown("a")"#),
            (json!({ "type": "object" }), json!({ "type": "object", "additionalProperties": false }), ".: Undeclared"),
            (json!({ "type": "string" }), json!({ "type": "string", "not": { "const": "x" } }), r#".: Unclear("not")"#),
            (json!({ "$ref": "#/$defs/Nowhere" }), json!({ "type": "string" }), r#".: Unclear("$ref")"#),
            (
                json!({ "type": "string", "format": "date" }),
                json!({ "type": "string", "format": "uuid" }),
                r#".: Limit { keyword: "format", narrow: Some(String("date")), wide: String("uuid") }"#,
            ),
        ] {
            assert_eq!(told(narrow.clone(), wide.clone()), [gap], "{narrow} in {wide}");
        }
    }

    #[test]
    fn a_schema_that_contains_itself_ends() {
        let tree = |kind: &str| {
            json!({ "$defs": { "Tree": { "type": "object", "properties": {
                "value": { "type": kind }, "kids": { "type": "array", "items": { "$ref": "#/$defs/Tree" } } } } },
                "$ref": "#/$defs/Tree" })
        };
        assert_eq!(told(tree("string"), tree("string")), Vec::<String>::new());
        assert_eq!(told(tree("string"), tree("integer")), [r#"value: Kind("string")"#]);
        let vicious = json!({ "$defs": { "A": { "$ref": "#/$defs/A" } }, "$ref": "#/$defs/A" });
        assert_eq!(told(vicious, json!({ "type": "string" })), [r#".: Unclear("$ref")"#]);
        // A thousand alternatives of each of three: told before they are multiplied.
        let thousand: Vec<_> = (0..1000).map(|n| json!({ "minimum": n })).collect();
        let wide = json!({ "allOf": [{ "anyOf": thousand }, { "anyOf": thousand }, { "anyOf": thousand }] });
        let begun = std::time::Instant::now();
        assert_eq!(told(json!({ "type": "integer" }), wide), [r#".: Unclear("$ref")"#]);
        assert!(begun.elapsed() < std::time::Duration::from_secs(2), "{:?}", begun.elapsed());
        // Doubles at each level: told as unclear before it takes long.
        let mut wide = json!({ "type": "string" });
        for _ in 0..40 {
            wide = json!({ "anyOf": [wide.clone(), { "type": "object", "properties": { "a": wide } }] });
            if wide.to_string().len() > 1 << 20 {
                break;
            }
        }
        assert!(!told(wide.clone(), json!({ "type": "integer" })).is_empty());
    }
}
