//! The comparer's verdicts, as a table: what one build offers, what the next one does, and what that means for a client that
//! knows the first.

use serde_json::{Value, json};

use super::*;

/// A tool with everything, to change one thing of.
fn book() -> Value {
    json!({
        "name": "book",
        "title": "Book",
        "description": "Books.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "user": { "type": "string", "minLength": 1, "maxLength": 200 },
                "kind": { "type": "string", "enum": ["short", "long"] },
                "minutes": { "type": ["integer", "null"], "minimum": 1, "maximum": 600 },
                "day": { "$ref": "#/$defs/Day" },
            },
            "required": ["user"],
            "$defs": { "Day": { "type": "object", "properties": { "date": { "type": "string", "format": "date" } }, "required": ["date"] } },
        },
        "outputSchema": {
            "type": "object",
            "properties": {
                "id": { "type": "string" },
                "status": { "type": "string", "enum": ["confirmed", "pending"] },
                "place": { "type": ["string", "null"] },
            },
            "required": ["id", "status"],
        },
        "annotations": { "readOnlyHint": false, "destructiveHint": false, "openWorldHint": false },
        "_meta": {
            "ui": { "resourceUri": "ui://widgets/a/1.html", "visibility": ["model", "app"] },
            "ui/resourceUri": "ui://widgets/a/1.html",
            "openai/outputTemplate": "ui://widgets/a/1.html",
            "openai/widgetAccessible": true,
            "openai/toolInvocation/invoking": "Booking…",
            "securitySchemes": [{ "type": "oauth2", "scopes": ["book"] }],
        },
    })
}

fn contract() -> Contract {
    Contract {
        protocol_versions: vec!["2025-11-25".to_owned(), "2026-07-28".to_owned()],
        capabilities: json!({ "tools": {}, "resources": { "subscribe": true } }),
        instructions: Some("Books.".to_owned()),
        tools: [("book".to_owned(), book())].into(),
        widgets: [("ui://widgets/a/1.html".to_owned(), json!({ "mimeType": "text/html;profile=mcp-app", "title": "A" }))].into(),
        resources: [("test://a".to_owned(), json!({ "mimeType": "text/plain", "description": "A." }))].into(),
        resource_templates: [("test://{id}".to_owned(), json!({ "description": "One." }))].into(),
        prompts: [("ask".to_owned(), json!({ "arguments": [{ "name": "of", "required": true }, { "name": "how" }] }))].into(),
    }
}

/// The contract with one place of its JSON replaced, or taken away (`null`).
fn with(place: &str, value: Value) -> Contract {
    let mut json = serde_json::to_value(contract()).unwrap();
    let (parent, key) = place.rsplit_once('/').unwrap();
    let key = key.replace("~1", "/");
    let parent = json.pointer_mut(parent).unwrap_or_else(|| panic!("there is no {parent}"));
    match (parent, value) {
        (Value::Object(parent), Value::Null) => drop(parent.remove(&key)),
        (Value::Object(parent), value) => drop(parent.insert(key, value)),
        (Value::Array(parent), value) => parent[key.parse::<usize>().unwrap()] = value,
        (other, _) => panic!("{other} has no members"),
    }
    serde_json::from_value(json).unwrap()
}

const INPUT: &str = "/tools/book/inputSchema/properties";
const OUTPUT: &str = "/tools/book/outputSchema/properties";

/// For each: where, what stands there now, what clients of the build before meet, and what they meet who come to know the
/// build after and are answered by the one before, as after a rollback.
fn cases() -> Vec<(String, Value, Vec<&'static str>, Vec<&'static str>)> {
    let at = |room: &str, place: &str| format!("{room}/{place}");
    vec![
        // === Tools
        ("/tools/book".into(), Value::Null, vec!["breaking: tool `book`: is gone"], vec!["additive: tool `book`: is new"]),
        (
            "/tools/search".into(),
            json!({ "name": "search", "inputSchema": { "type": "object" } }),
            vec!["additive: tool `search`: is new"],
            vec!["breaking: tool `search`: is gone"],
        ),
        (
            "/tools".into(),
            json!({ "reserve": book() }),
            vec![
                "breaking: tool `book`: is gone; `reserve` looks like it under another name",
                "additive: tool `reserve`: is new",
            ],
            vec!["breaking: tool `reserve`: is gone; `book` looks like it under another name", "additive: tool `book`: is new"],
        ),
        (
            "/tools/book/description".into(),
            json!("Books a slot."),
            vec!["additive: tool `book`: its description has other words, by which models choose"],
            vec!["additive: tool `book`: its description has other words, by which models choose"],
        ),
        (
            "/tools/book/execution".into(),
            json!({ "taskSupport": "required" }),
            vec!["breaking: tool `book`: `execution` is not what it was"],
            vec!["breaking: tool `book`: `execution` is not what it was"],
        ),
        (
            "/tools/book/_meta/openai~1outputTemplate".into(),
            Value::Null,
            vec!["breaking: tool `book`: no longer says `openai/outputTemplate`, which some hosts read alone"],
            vec![],
        ),
        (
            "/tools/book/_meta/openai~1outputTemplate".into(),
            json!("ui://widgets/a/2.html"),
            vec![
                "additive: tool `book`: is drawn by another document where hosts read `openai/outputTemplate`: \"ui://widgets/a/2.html\"",
            ],
            vec![
                "additive: tool `book`: is drawn by another document where hosts read `openai/outputTemplate`: \"ui://widgets/a/1.html\"",
            ],
        ),
        // === What it takes
        (
            "/tools/book/inputSchema/required".into(),
            json!(["user", "kind"]),
            vec!["breaking: tool `book`: the argument `kind` is required now"],
            vec!["additive: tool `book`: the argument `kind` may be left out now"],
        ),
        (
            at(INPUT, "note"),
            json!({ "type": "string" }),
            vec!["additive: tool `book`: the argument `note` is new"],
            vec!["breaking: tool `book`: the argument `note` is gone, and ignored"],
        ),
        (
            at(INPUT, "minutes"),
            Value::Null,
            vec!["breaking: tool `book`: the argument `minutes` is gone, and ignored"],
            vec!["additive: tool `book`: the argument `minutes` is new"],
        ),
        (
            "/tools/book/inputSchema/additionalProperties".into(),
            json!(false),
            vec!["breaking: tool `book`: arguments that were never declared are refused now"],
            vec!["additive: tool `book`: arguments that were never declared are ignored now"],
        ),
        (
            at(INPUT, "minutes/type"),
            json!("integer"),
            // It may be left out, and null means that.
            vec![],
            vec![],
        ),
        (at(INPUT, "minutes/format"), json!("uint32"), vec![], vec![]),
        (at(OUTPUT, "place/type"), json!("string"), vec![], vec![]),
        (
            at(INPUT, "minutes/type"),
            json!("string"),
            vec![
                "breaking: tool `book`: the argument `minutes` may no longer be of type integer",
                "additive: tool `book`: the argument `minutes` may be of type string, too",
            ],
            vec![
                "breaking: tool `book`: the argument `minutes` may no longer be of type string",
                "additive: tool `book`: the argument `minutes` may be of type integer, too",
            ],
        ),
        (
            at(INPUT, "user/type"),
            json!("integer"),
            vec![
                "breaking: tool `book`: the argument `user` may no longer be of type string",
                "additive: tool `book`: the argument `user` may be of type integer, too",
            ],
            vec![
                "breaking: tool `book`: the argument `user` may no longer be of type integer",
                "additive: tool `book`: the argument `user` may be of type string, too",
            ],
        ),
        (
            at(INPUT, "kind/enum"),
            json!(["short"]),
            vec!["breaking: tool `book`: the argument `kind` may no longer be \"long\""],
            vec!["additive: tool `book`: the argument `kind` may be \"long\", too"],
        ),
        (
            at(INPUT, "kind/enum"),
            Value::Null,
            vec!["additive: tool `book`: the argument `kind` may be any value now"],
            vec!["breaking: tool `book`: the argument `kind` may only be one of a few values now"],
        ),
        (
            at(INPUT, "user/maxLength"),
            json!(100),
            vec!["breaking: tool `book`: the argument `user`: `maxLength` was 200 and is 100"],
            vec!["additive: tool `book`: the argument `user`: `maxLength` was 100 and is 200"],
        ),
        (
            at(INPUT, "minutes/minimum"),
            Value::Null,
            vec!["additive: tool `book`: the argument `minutes`: `minimum` was 1 and is none"],
            vec!["breaking: tool `book`: the argument `minutes`: `minimum` was none and is 1"],
        ),
        (
            at(INPUT, "user/pattern"),
            json!("^[a-z]+$"),
            vec!["breaking: tool `book`: the argument `user`: `pattern` was none and is \"^[a-z]+$\""],
            vec!["additive: tool `book`: the argument `user`: `pattern` was \"^[a-z]+$\" and is none"],
        ),
        (
            "/tools/book/inputSchema/$defs/Day/properties/date/format".into(),
            json!("date-time"),
            vec!["breaking: tool `book`: the argument `day.date`: `format` was \"date\" and is \"date-time\""],
            vec!["breaking: tool `book`: the argument `day.date`: `format` was \"date-time\" and is \"date\""],
        ),
        (
            at(INPUT, "user/not"),
            json!({ "const": "root" }),
            vec!["breaking: tool `book`: the argument `user`: whether `not` allows as much as before is unclear"],
            vec!["breaking: tool `book`: the argument `user`: whether `not` allows as much as before is unclear"],
        ),
        (at(INPUT, "user/description"), json!("For whom."), vec![], vec![]),
        // === What it answers
        (
            "/tools/book/outputSchema".into(),
            Value::Null,
            vec!["breaking: tool `book`: its output schema is gone: who knows it refuses answers without data"],
            vec!["additive: tool `book`: its output schema is new"],
        ),
        (
            at(OUTPUT, "note"),
            json!({ "type": "string" }),
            vec!["additive: tool `book`: `note` is new in answers"],
            vec!["breaking: tool `book`: `note` is no longer in answers"],
        ),
        (
            "/tools/book/outputSchema/required".into(),
            json!(["id", "status", "place"]),
            vec!["additive: tool `book`: `place` is always in answers now"],
            vec!["breaking: tool `book`: `place` may be missing in answers now"],
        ),
        (
            at(OUTPUT, "place"),
            Value::Null,
            vec!["breaking: tool `book`: `place` is no longer in answers"],
            vec!["additive: tool `book`: `place` is new in answers"],
        ),
        (
            at(OUTPUT, "status/enum"),
            json!(["confirmed", "pending", "cancelled"]),
            vec!["breaking: tool `book`: `status` in answers may be \"cancelled\", which its readers refuse"],
            vec!["breaking: tool `book`: `status` in answers is stricter: no longer \"cancelled\""],
        ),
        (
            at(OUTPUT, "id/type"),
            json!(["string", "null"]),
            vec!["breaking: tool `book`: `id` in answers may be of type null, which its readers refuse"],
            vec!["breaking: tool `book`: `id` in answers is stricter: no longer of type null"],
        ),
        (
            at(OUTPUT, "id/maxLength"),
            json!(36),
            vec!["breaking: tool `book`: `id` in answers: `maxLength` was none and is 36 (stricter)"],
            vec!["breaking: tool `book`: `id` in answers: `maxLength` was 36 and is none"],
        ),
        (
            "/tools/book/outputSchema/additionalProperties".into(),
            json!(false),
            vec!["breaking: tool `book`: answers hold nothing undeclared any more"],
            vec!["breaking: tool `book`: answers may hold what was never declared"],
        ),
        // === What hosts are told of it
        (
            "/tools/book/annotations/readOnlyHint".into(),
            json!(true),
            vec!["breaking: tool `book`: its annotation `readOnlyHint` was false and is true"],
            vec!["breaking: tool `book`: its annotation `readOnlyHint` was true and is false"],
        ),
        (
            "/tools/book/_meta/ui/visibility".into(),
            json!(["app"]),
            vec!["breaking: tool `book`: is no longer visible to \"model\""],
            vec!["additive: tool `book`: is visible to \"model\", too"],
        ),
        (
            "/tools/book/_meta/openai~1widgetAccessible".into(),
            json!(false),
            vec!["breaking: tool `book`: its `openai/widgetAccessible` was true and is false"],
            vec!["additive: tool `book`: its `openai/widgetAccessible` was false and is true"],
        ),
        (
            "/tools/book/_meta/securitySchemes".into(),
            json!([{ "type": "oauth2", "scopes": ["book", "pay"] }]),
            vec![
                "breaking: tool `book`: its `securitySchemes` was [{\"scopes\":[\"book\"],\"type\":\"oauth2\"}] and is [{\"scopes\":[\"book\",\"pay\"],\"type\":\"oauth2\"}]",
            ],
            vec![
                "breaking: tool `book`: its `securitySchemes` was [{\"scopes\":[\"book\",\"pay\"],\"type\":\"oauth2\"}] and is [{\"scopes\":[\"book\"],\"type\":\"oauth2\"}]",
            ],
        ),
        // The same said in the other place, too, by a build that has learned of it.
        (
            "/tools/book/securitySchemes".into(),
            json!([{ "type": "oauth2", "scopes": ["book"] }]),
            vec!["additive: tool `book`: says `securitySchemes` beside its name, too"],
            vec!["breaking: tool `book`: no longer says `securitySchemes` beside its name, where some hosts read it alone"],
        ),
        (
            "/tools/book/_meta/openai~1toolInvocation~1invoking".into(),
            json!("Reserving…"),
            vec!["additive: tool `book`: its `openai/toolInvocation/invoking` was \"Booking…\" and is \"Reserving…\""],
            vec!["additive: tool `book`: its `openai/toolInvocation/invoking` was \"Reserving…\" and is \"Booking…\""],
        ),
        (
            "/tools/book/_meta/ui/resourceUri".into(),
            json!("ui://widgets/a/2.html"),
            vec!["additive: tool `book`: is drawn by another document: \"ui://widgets/a/2.html\""],
            vec!["additive: tool `book`: is drawn by another document: \"ui://widgets/a/1.html\""],
        ),
        (
            "/tools/book/_meta".into(),
            Value::Null,
            vec![
                "breaking: tool `book`: is no longer drawn by a widget",
                "breaking: tool `book`: its `openai/widgetAccessible` was true and is none",
                "breaking: tool `book`: its `securitySchemes` was [{\"scopes\":[\"book\"],\"type\":\"oauth2\"}] and is none",
                "additive: tool `book`: its `openai/toolInvocation/invoking` was \"Booking…\" and is none",
            ],
            vec![
                "breaking: tool `book`: its `securitySchemes` was none and is [{\"scopes\":[\"book\"],\"type\":\"oauth2\"}]",
                "additive: tool `book`: is drawn by the widget \"ui://widgets/a/1.html\"",
                "additive: tool `book`: its `openai/toolInvocation/invoking` was none and is \"Booking…\"",
                "additive: tool `book`: its `openai/widgetAccessible` was none and is true",
            ],
        ),
        // === Widgets
        (
            "/widgets".into(),
            json!({ "ui://widgets/a/2.html": {} }),
            vec![
                "breaking: widget `ui://widgets/a/1.html`: cannot be read any more: conversations that show it show an error",
                "additive: widget `ui://widgets/a/2.html`: is new",
            ],
            vec![
                "additive: widget `ui://widgets/a/1.html`: is new",
                // Published, as `compared` has it.
                "additive: widget `ui://widgets/a/2.html`: is no longer listed, and stays readable",
            ],
        ),
        (
            "/widgets/ui:~1~1widgets~1a~11.html/title".into(),
            json!("B"),
            vec!["additive: widget `ui://widgets/a/1.html`: is described anew"],
            vec!["additive: widget `ui://widgets/a/1.html`: is described anew"],
        ),
        (
            "/widgets/ui:~1~1widgets~1a~11.html/mimeType".into(),
            json!("text/html"),
            vec!["breaking: widget `ui://widgets/a/1.html`: its type was \"text/html;profile=mcp-app\" and is \"text/html\""],
            vec!["breaking: widget `ui://widgets/a/1.html`: its type was \"text/html\" and is \"text/html;profile=mcp-app\""],
        ),
        // === The rest
        (
            "/protocolVersions".into(),
            json!(["2026-07-28"]),
            vec!["breaking: server: speaks the revision 2025-11-25 no more"],
            vec!["additive: server: speaks the revision 2025-11-25, too"],
        ),
        (
            "/capabilities/resources/subscribe".into(),
            json!(false),
            vec!["breaking: server: offers `resources.subscribe` no more"],
            vec!["additive: server: offers `resources.subscribe`"],
        ),
        (
            "/instructions".into(),
            json!("Books slots."),
            vec!["additive: server: its instructions have other words"],
            vec!["additive: server: its instructions have other words"],
        ),
        (
            "/resources/test:~1~1a".into(),
            Value::Null,
            vec!["breaking: resource `test://a`: is gone"],
            vec!["additive: resource `test://a`: is new"],
        ),
        (
            "/resourceTemplates".into(),
            json!({}),
            vec!["breaking: resource template `test://{id}`: is gone"],
            vec!["additive: resource template `test://{id}`: is new"],
        ),
        (
            "/prompts/ask/arguments".into(),
            json!([{ "name": "of" }, { "name": "why", "required": true }]),
            vec![
                "breaking: prompt `ask`: the argument `why` is required now",
                "breaking: prompt `ask`: the argument `how` is gone",
                "additive: prompt `ask`: the argument `of` may be left out now",
            ],
            vec![
                "breaking: prompt `ask`: the argument `of` is required now",
                "breaking: prompt `ask`: the argument `why` is gone",
                "additive: prompt `ask`: the argument `how` is new",
            ],
        ),
    ]
}

/// Whether what the first schema allows goes beyond what the second one does. Each of these was once overlooked.
#[test]
fn a_schema_goes_beyond_another_one_also_in_its_corners() {
    let point = |more: Value| {
        let mut point = json!({ "type": "object", "properties": { "x": { "type": "number" } } });
        point.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        json!({ "type": "array", "prefixItems": [{ "$ref": "#/$defs/P" }], "$defs": { "P": point } })
    };
    let twice = |most: u32| {
        json!({ "type": "object", "$defs": { "N": { "type": "integer" } }, "properties": {
            "a": { "$ref": "#/$defs/N" }, "b": { "$ref": "#/$defs/N", "maximum": most },
        } })
    };
    let any = json!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "integer", "maximum": 9 }] });
    let one = json!({ "oneOf": [{ "type": "integer", "minimum": 0 }, { "type": "integer", "maximum": 9 }] });
    let kinds = json!({ "oneOf": [{ "type": "integer" }, { "type": "string" }] });
    let tagged = |keyword: &str| {
        let of = |kind: &str| json!({ "type": "object", "properties": { "kind": { "const": kind } }, "required": ["kind"] });
        json!({ keyword: [of("a"), of("b")] })
    };
    let map = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let named = |kind: &str| json!({ "type": "object", "properties": { "x": { "type": kind } } });
    for (narrow, wide, goes_beyond) in [
        (point(json!({})), point(json!({ "required": ["x"] })), true),
        (point(json!({})), point(json!({})), false),
        (twice(10), twice(5), true),
        (twice(5), twice(10), false),
        (json!({ "enum": [0, 5] }), json!({ "type": "number", "exclusiveMinimum": 0 }), true),
        (json!({ "enum": [1, 5] }), json!({ "type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 6 }), false),
        (json!({ "type": "integer", "exclusiveMinimum": 0 }), json!({ "type": "integer", "exclusiveMinimum": 0 }), false),
        (any.clone(), one.clone(), true),
        (one.clone(), one, false),
        (json!({ "type": ["integer", "string"] }), kinds, false),
        (tagged("anyOf"), tagged("oneOf"), false),
        (map.clone(), named("integer"), true),
        (map, named("string"), false),
    ] {
        let gaps = schema::gaps(&narrow, &wide);
        assert_eq!(!gaps.is_empty(), goes_beyond, "{narrow} beyond {wide}: {gaps:?}");
    }
}

fn compared(held: &Contract, served: &Contract) -> Vec<String> {
    let is_readable = |address: &str| address == "ui://widgets/a/2.html";
    held.compare(served, is_readable).iter().map(Change::to_string).collect()
}

#[test]
fn each_change_is_called_what_it_means_for_a_connected_client() {
    for (place, value, forward, back) in cases() {
        let (before, after) = (contract(), with(&place, value.clone()));
        assert_eq!(compared(&before, &after), forward, "{place} = {value}");
        assert_eq!(compared(&after, &before), back, "{place} = {value}, taken back");
    }
    let same = contract().compare(&contract(), |_| false);
    assert!(same.is_empty() && !is_breaking(&same), "{same:?}");
}

#[test]
fn a_contract_of_another_build_may_know_less_and_more() {
    let older: Contract = serde_json::from_str(r#"{ "tools": {} }"#).unwrap();
    assert_eq!(older, Contract::default());
    let newer: Contract = serde_json::from_str(r#"{ "tools": {}, "skills": {} }"#).unwrap();
    assert!(older.compare(&newer, |_| false).is_empty());
    // What is no contract at all is compared, and found to promise nothing.
    let odd: Contract = serde_json::from_str(r#"{ "tools": { "a": 7, "b": { "inputSchema": 7, "annotations": [] } } }"#).unwrap();
    assert!(!odd.compare(&odd.clone(), |_| false).is_empty(), "a schema that is none is not taken for the same");
}
