//! Arguments as models and clients write them, and what becomes of each.

use std::{
    collections::HashMap,
    num::{NonZeroU8, NonZeroU32},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::*;
use crate::schema;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
struct Search {
    user_id: String,
    start_date: Option<String>,
    #[serde(alias = "tz", alias = "time_zone_name", alias = "timeZones")]
    time_zone: Option<String>,
    limit: Option<u32>,
    #[schemars(range(min = 1, max = 600))]
    minutes: Option<i64>,
    tags: Option<Vec<u8>>,
    range: Option<Range>,
    ranges: Option<Vec<Range>>,
    kind: Option<Kind>,
    by_name: Option<HashMap<String, i32>>,
    anything: Option<Value>,
    ratio: Option<f64>,
    cursor: Option<String>,
    page_size: u16,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
struct Range {
    days: u8,
    first_day: Option<String>,
    inner: Option<Box<Range>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Short,
    Long,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[expect(dead_code, reason = "only its shape is read")]
struct Strict {
    user: String,
    count: u32,
    once: NonZeroU8,
    is_it: bool,
    letter: char,
    pair: (u8, String),
    three: [i16; 3],
    shape: Form,
    tagged: Tagged,
    loose: Loose,
    #[schemars(with = "String", extend("format" = "uuid"))]
    id: uuid::Uuid,
    nested: Range,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[expect(dead_code, reason = "only its shape is read")]
enum Form {
    Circle { radius: u32 },
    Named(String),
    Dot,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
#[expect(dead_code, reason = "only its shape is read")]
enum Tagged {
    Days { days: u32 },
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its shape is read")]
enum Loose {
    Number(u32),
    Text(bool),
}

#[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
struct Flat {
    name: Option<String>,
    #[serde(flatten)]
    paging: Paging,
}

#[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
struct Paging {
    page_size: Option<u32>,
}

#[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
struct Open {
    name: Option<String>,
    #[serde(flatten)]
    others: HashMap<String, Value>,
}

fn shape<T: JsonSchema>() -> Shape {
    Shape::of(&schema::input::<T>(), None)
}

fn read<T: DeserializeOwned + JsonSchema>(arguments: &Value) -> Result<Read<T>, String> {
    read_text(&arguments.to_string())
}

fn read_text<T: DeserializeOwned + JsonSchema>(arguments: &str) -> Result<Read<T>, String> {
    super::read(arguments, &shape::<T>()).map_err(|rejection| rejection.0.into_owned())
}

#[test]
fn what_is_declared_is_not_looked_into() {
    let shape = shape::<Search>();
    for plain in [
        json!({}),
        json!({ "userId": "ada", "startDate": null, "limit": 5 }),
        json!({ "range": { "days": 1, "inner": { "days": 2 } }, "ranges": [{ "days": 1 }], "byName": { "whatever": 1 } }),
        json!({ "anything": { "whatever": [{ "else": 1 }] } }),
        json!({ "range": 5, "tags": ["a"] }),
    ] {
        assert!(shape.is_plain(&plain.to_string()), "{plain}");
    }
    for unusual in [
        json!({ "timezone": "Europe/Berlin" }),
        json!({ "cursor": "" }),
        json!({ "range": { "day": 1 } }),
        json!({ "range": { "inner": { "inner": { "x": 1 } } } }),
        json!({ "ranges": [{ "days": 1 }, { "x": 1 }] }),
    ] {
        assert!(!shape.is_plain(&unusual.to_string()), "{unusual}");
    }
    assert!(!shape.is_plain(r#"{"user\u0069d":"a"}"#));
    assert!(shape.is_plain(r#"{"user\u0049d":"a"}"#));
}

#[test]
fn a_name_that_is_almost_right_is_refused_and_the_right_one_said() {
    for (given, path, meant) in [
        (json!({ "timezone": "x" }), "timezone", "timeZone"),
        (json!({ "time_zone": "x" }), "time_zone", "timeZone"),
        (json!({ "time-zone": "x" }), "time-zone", "timeZone"),
        (json!({ "TIMEZONE": "x" }), "TIMEZONE", "timeZone"),
        (json!({ "TimeZone": "x" }), "TimeZone", "timeZone"),
        (json!({ "Time Zone": "x" }), "Time Zone", "timeZone"),
        (json!({ "timeZnoe": "x" }), "timeZnoe", "timeZone"),
        (json!({ "start_date": "x" }), "start_date", "startDate"),
        (json!({ "startDates": "x" }), "startDates", "startDate"),
        (json!({ "strtDate": "x" }), "strtDate", "startDate"),
        (json!({ "user_id": "x" }), "user_id", "userId"),
        (json!({ "userID": "x" }), "userID", "userId"),
        (json!({ "limits": 1 }), "limits", "limit"),
        (json!({ "limti": 1 }), "limti", "limit"),
        (json!({ "tag": [1] }), "tag", "tags"),
        (json!({ "minute": 1 }), "minute", "minutes"),
        (json!({ "curser": "x" }), "curser", "cursor"),
        // Refused though the right one is there, too, and though it is empty.
        (json!({ "timeZone": "a", "timezone": "b" }), "timezone", "timeZone"),
        (json!({ "timezone": "" }), "timezone", "timeZone"),
        (json!({ "timezone": null }), "timezone", "timeZone"),
        (json!({ "range": { "day": 1 } }), "range.day", "range.days"),
        (json!({ "range": { "inner": { "first_day": "x" } } }), "range.inner.first_day", "range.inner.firstDay"),
        (json!({ "ranges": [{}, { "Days": 1 }] }), "ranges[1].Days", "ranges[1].days"),
    ] {
        let words = read::<Search>(&given).unwrap_err();
        assert_eq!(words, format!("there is no argument `{path}`; did you mean `{meant}`?"), "{given}");
    }
    let two = read::<Search>(&json!({ "timezone": "x", "start_date": "y", "toolCallId": "z" })).unwrap_err();
    assert_eq!(
        two,
        "there is no argument `start_date`; did you mean `startDate`? there is no argument `timezone`; did you mean `timeZone`?"
    );
    // What is missing is missing because of the name.
    let words = read::<Strict>(&json!({ "User": "a" })).unwrap_err();
    assert_eq!(words, "there is no argument `User`; did you mean `user`?");
}

#[test]
fn any_other_name_is_ignored_and_named() {
    for (given, ignored) in [
        (json!({ "userId": "ada", "toolCallId": "1" }), vec!["toolCallId"]),
        (
            json!({ "sessionId": "1", "action": "sendMessage", "chatInput": "hi", "tool": "x", "id": 1 }),
            vec!["action", "chatInput", "id", "sessionId", "tool"],
        ),
        (json!({ "range": { "days": 1, "unit": "d" }, "x": {} }), vec!["range.unit", "x"]),
        (json!({ "ranges": [{ "unit": "d" }] }), vec!["ranges[0].unit"]),
        (json!({ "toolCallId": "" }), vec!["toolCallId"]),
        // A map has names of its own, and a value that may be anything, too.
        (json!({ "byName": { "timezone": 1 }, "anything": { "timezone": 1 } }), vec![]),
        // Names that serde knows and the schema does not.
        (json!({ "tz": "Europe/Berlin" }), vec![]),
        (json!({ "timeZones": "Europe/Berlin", "toolCallId": "1" }), vec!["toolCallId"]),
    ] {
        let read = read::<Search>(&given).unwrap_or_else(|words| panic!("{given}: {words}"));
        assert_eq!(read.ignored, ignored, "{given}");
    }
    let aliased = read::<Search>(&json!({ "tz": "Europe/Berlin" })).unwrap().parameters;
    assert_eq!(aliased.time_zone.as_deref(), Some("Europe/Berlin"));
}

#[test]
fn a_type_that_is_flattened_names_what_it_ignores_too() {
    let flat = |given: &Value| read::<Flat>(given).map(|read| (read.parameters.paging.page_size, read.ignored));
    assert_eq!(flat(&json!({ "pageSize": 5.0 })), Ok((Some(5), vec![])));
    assert_eq!(flat(&json!({ "pageSize": 5, "toolCallId": 1 })), Ok((Some(5), vec!["toolCallId".to_owned()])));
    assert_eq!(flat(&json!({ "page_size": 5 })).unwrap_err(), "there is no argument `page_size`; did you mean `pageSize`?");
    // Whoever takes every name ignores none.
    let open = read::<Open>(&json!({ "nmae": 1, "Name": 2 })).unwrap();
    assert_eq!((open.parameters.others.len(), open.ignored.len()), (2, 0));
}

#[test]
fn a_whole_number_is_an_integer_however_it_is_written() {
    for (given, expected) in [
        (r#"{"limit":30.0}"#, Search { limit: Some(30), ..Search::default() }),
        (r#"{"limit":3e1}"#, Search { limit: Some(30), ..Search::default() }),
        (r#"{"limit":3.0E+1}"#, Search { limit: Some(30), ..Search::default() }),
        (r#"{"limit":0.0}"#, Search { limit: Some(0), ..Search::default() }),
        (r#"{"limit":-0.0}"#, Search { limit: Some(0), ..Search::default() }),
        (r#"{"minutes":-5.0}"#, Search { minutes: Some(-5), ..Search::default() }),
        (r#"{"pageSize":65535.0}"#, Search { page_size: 65535, ..Search::default() }),
        (r#"{"tags":[1,2.0,255.0]}"#, Search { tags: Some(vec![1, 2, 255]), ..Search::default() }),
        (r#"{"byName":{"a":2.0}}"#, Search { by_name: Some(HashMap::from([("a".to_owned(), 2)])), ..Search::default() }),
        (
            r#"{"range":{"inner":{"days":2.0}}}"#,
            Search {
                range: Some(Range { inner: Some(Box::new(Range { days: 2, ..Range::default() })), ..Range::default() }),
                ..Search::default()
            },
        ),
        // Where any number is wanted, and where anything is, it stays what it is.
        (
            r#"{"ratio":2.0,"anything":2.0,"limit":1.0}"#,
            Search { ratio: Some(2.0), anything: Some(json!(2.0)), limit: Some(1), ..Search::default() },
        ),
    ] {
        let read = read_text::<Search>(given).unwrap_or_else(|words| panic!("{given}: {words}"));
        assert_eq!(read.parameters, expected, "{given}");
        assert!(read.ignored.is_empty());
    }
    for (given, words) in [
        (
            r#"{"limit":30.5}"#,
            "the argument `limit` is not valid: it is the number `30.5`, expected an integer from 0 to 4294967295",
        ),
        (
            r#"{"limit":-1.0}"#,
            "the argument `limit` is not valid: it is the integer `-1`, expected an integer from 0 to 4294967295",
        ),
        (
            r#"{"limit":4294967296.0}"#,
            "the argument `limit` is not valid: it is the integer `4294967296`, expected an integer from 0 to 4294967295",
        ),
        (r#"{"minutes":0.5}"#, "the argument `minutes` is not valid: it is the number `0.5`, expected an integer from 1 to 600"),
        (
            r#"{"tags":[1,256.0]}"#,
            "the argument `tags[1]` is not valid: it is the integer `256`, expected an integer from 0 to 255",
        ),
        (
            r#"{"limit":"30.0"}"#,
            "the argument `limit` is not valid: it is the string \"30.0\", expected an integer from 0 to 4294967295",
        ),
        // A double cannot tell an integer as large as this one from its neighbors.
        (
            r#"{"minutes":1e300}"#,
            "the argument `minutes` is not valid: it is the number `1e+300`, expected an integer from 1 to 600",
        ),
    ] {
        assert_eq!(read_text::<Search>(given).unwrap_err(), words, "{given}");
    }
}

#[test]
fn an_empty_text_or_null_is_not_given_where_it_may_be_left_out() {
    for given in [
        json!({ "startDate": "", "timeZone": "", "limit": "", "tags": "", "range": "", "kind": "", "cursor": "", "pageSize": "" }),
        json!({ "startDate": null, "timeZone": null, "limit": null, "tags": null, "range": null, "kind": null, "pageSize": null }),
        json!({ "pageSize": null, "userId": "" }),
    ] {
        let read = read::<Search>(&given).unwrap_or_else(|words| panic!("{given}: {words}"));
        assert_eq!((read.parameters, read.ignored.len()), (Search::default(), 0), "{given}");
    }
    let nested = read::<Search>(&json!({ "range": { "days": 3, "firstDay": "" } })).unwrap().parameters;
    assert_eq!(nested.range, Some(Range { days: 3, ..Range::default() }));
    // Required, an item of a list, and free text within more: these mean what they say.
    assert_eq!(super::read::<Value>(r#"{"user":""}"#, &shape::<Strict>()).unwrap().parameters["user"], "");
    let anything = read::<Search>(&json!({ "anything": ["", { "a": "" }] })).unwrap().parameters;
    assert_eq!(anything.anything, Some(json!(["", { "a": "" }])));
    // A space may be meant.
    let space = read::<Search>(&json!({ "cursor": " " })).unwrap().parameters;
    assert_eq!(space.cursor.as_deref(), Some(" "));
    // A schema may list it.
    let listed = json!({ "type": "object", "properties": { "cursor": { "type": "string", "enum": ["", "a"] } } });
    let shape = Shape::of(listed.as_object().unwrap(), None);
    assert_eq!(super::read::<Search>(r#"{"cursor":""}"#, &shape).unwrap().parameters.cursor.as_deref(), Some(""));
    // Whose data is meant may be left out where callers prove who they are.
    let required = json!({ "type": "object", "properties": { "userId": {}, "cursor": {} }, "required": ["userId", "cursor"] });
    let shape = Shape::of(required.as_object().unwrap(), Some("userId"));
    assert!(super::read::<Value>(r#"{"userId":"","cursor":""}"#, &shape).unwrap().parameters.get("userId").is_none());
}

/// The words for a model name what JSON has, and nothing that only Rust has.
#[test]
fn mistakes_are_said_in_words_of_json() {
    let whole = json!({ "user": "a", "count": 1, "once": 1, "is_it": true, "letter": "a", "pair": [1, "a"], "three": [1, 2, 3],
        "shape": "Dot", "tagged": { "type": "days", "days": 1 }, "loose": 1, "id": uuid::Uuid::nil(), "nested": {} });
    assert!(read::<Strict>(&whole).is_ok());
    let at = |pointer: &str, value: Value| {
        let mut changed = whole.clone();
        match (pointer.rsplit_once('/').unwrap(), value) {
            ((parent, name), Value::String(word)) if word == "(missing)" => {
                changed.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
            }
            ((parent, name), value) => {
                changed.pointer_mut(parent).unwrap()[name] = value;
            }
        }
        read::<Strict>(&changed).unwrap_err()
    };
    for (pointer, value, words) in [
        ("/user", json!("(missing)"), "the argument `user` is missing"),
        ("/tagged/days", json!("(missing)"), "the argument `tagged.days` is missing"),
        ("/user", json!(7), "the argument `user` is not valid: it is the integer `7`, expected a string"),
        ("/user", json!(null), "the argument `user` is not valid: it is null, expected a string"),
        ("/user", json!({}), "the argument `user` is not valid: it is an object, expected a string"),
        (
            "/count",
            json!("5"),
            "the argument `count` is not valid: it is the string \"5\", expected an integer from 0 to 4294967295",
        ),
        ("/count", json!([]), "the argument `count` is not valid: it is an array, expected an integer from 0 to 4294967295"),
        ("/count", json!(true), "the argument `count` is not valid: it is `true`, expected an integer from 0 to 4294967295"),
        ("/once", json!(0), "the argument `once` is not valid: it is the integer `0`, expected an integer from 1 to 255"),
        ("/once", json!(-1), "the argument `once` is not valid: it is the integer `-1`, expected an integer from 1 to 255"),
        ("/is_it", json!("yes"), "the argument `is_it` is not valid: it is the string \"yes\", expected true or false"),
        (
            "/letter",
            json!("ab"),
            "the argument `letter` is not valid: it is the string \"ab\", expected a string of one character",
        ),
        ("/pair", json!([1]), "the argument `pair` is not valid: it has 1 item, expected an array of 2 items"),
        (
            "/three",
            json!([1, 2, "x"]),
            "the argument `three[2]` is not valid: it is the string \"x\", expected an integer from -32768 to 32767",
        ),
        ("/three", json!({}), "the argument `three` is not valid: it is an object, expected an array of 3 items"),
        ("/loose", json!("x"), "the argument `loose` is not valid: it has none of the forms that the schema lists"),
        ("/nested", json!(1), "the argument `nested` is not valid: it is the integer `1`, expected an object"),
        (
            "/nested",
            json!({ "inner": { "days": 300 } }),
            "the argument `nested.inner.days` is not valid: it is the integer `300`, expected an integer from 0 to 255",
        ),
    ] {
        assert_eq!(at(pointer, value), words);
    }
    let rust = [
        "u32",
        "u8",
        "i16",
        "i64",
        "f64",
        "usize",
        "struct",
        "enum",
        "variant",
        "tuple",
        "sequence",
        "map",
        "unit",
        "field",
        "Strict",
        "Form",
        "Tagged",
        "Loose",
        "Range",
        "floating point",
        "newtype",
        "Option",
        "line ",
        "column",
    ];
    for pointer in whole.as_object().unwrap().keys().map(|name| format!("/{name}")) {
        for value in [
            json!(1.5),
            json!(-1),
            json!("x"),
            json!(null),
            json!(true),
            json!([]),
            json!([[]]),
            json!({}),
            json!({ "x": 1 }),
            json!({ "Circle": 1 }),
            json!({ "Circle": { "radius": "x" } }),
            json!({ "Dot": 1 }),
            json!("Circle"),
            json!({ "type": 1 }),
            json!({ "type": "weeks" }),
            json!({ "type": "days", "days": "x" }),
            json!(u64::MAX),
            json!(1e300),
        ] {
            let mut changed = whole.clone();
            changed[&pointer[1..]] = value.clone();
            let Err(words) = read::<Strict>(&changed) else { continue };
            let said = words.replace("`is_it`", "");
            let bad: Vec<_> = rust
                .iter()
                .filter(|word| {
                    said.split(|c: char| !c.is_alphanumeric() && c != ' ')
                        .any(|part| part.split(' ').any(|part| part == **word) || (word.contains(' ') && part.contains(**word)))
                })
                .collect();
            assert!(bad.is_empty(), "{pointer} as {value}: {words}: {bad:?}");
        }
    }
    let form = at("/shape", json!("Square"));
    assert!(form.contains("`Square`") && form.contains("`Circle`"), "{form}");
    let long = at("/count", json!("x".repeat(10_000)));
    assert!(long.len() < 400, "{long}");
}

#[test]
fn a_type_that_takes_no_other_names_says_which_it_takes() {
    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its shape is read")]
    struct Closed {
        name: Option<String>,
        count: Option<NonZeroU32>,
    }
    assert_eq!(read::<Closed>(&json!({ "x": 1 })).unwrap_err(), "there is no argument `x`; the arguments are `name`, `count`");
    assert_eq!(read::<Closed>(&json!({ "Counts": 1 })).unwrap_err(), "there is no argument `Counts`; did you mean `count`?");
}

#[test]
fn a_note_is_one_line_however_the_names_are_written() {
    let names: Vec<_> = (0..12).map(|n| format!("a\n{n}{}", "x".repeat(200))).collect();
    let note = note(&names);
    assert!(note.ends_with(" and 2 more.") && !note.contains('\n') && note.len() < 1_500, "{note}");
    assert_eq!(super::note(&["toolCallId".to_owned()]), "Ignored, because this tool has no such arguments: `toolCallId`.");
}
