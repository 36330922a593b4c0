//! What is wrong with arguments, for the model that wrote them: in names, types and ranges of JSON. What must stay true: no word
//! of it is one of Rust's.

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use super::{
    Shape,
    shape::{NearMiss, Place},
};
use crate::extract::Rejection;

/// How much of what a caller wrote is repeated.
const MOST_CHARACTERS: usize = 100;

/// Reads arguments again, slowly, to say where they are wrong.
pub(super) fn explain<T: DeserializeOwned>(arguments: &str, shape: &Shape) -> Rejection {
    let mut deserializer = serde_json::Deserializer::from_str(arguments);
    match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Ok(_) => Rejection::new("the arguments are not valid"),
        Err(error) => in_words(error, shape),
    }
}

/// The names that were almost right.
pub(super) fn misspelled(mistaken: &[NearMiss]) -> Rejection {
    let each = mistaken.iter().map(|one| format!("there is no argument {}; did you mean `{}`?", quoted(&one.given), one.meant));
    let each: Vec<_> = each.collect();
    Rejection::new(each.join(" "))
}

/// Why arguments could not be read.
pub(super) fn in_words(error: serde_path_to_error::Error<serde_json::Error>, shape: &Shape) -> Rejection {
    let steps: Vec<_> = error.path().iter().filter_map(step).collect();
    let place = shape.find(steps.iter().map(String::as_str));
    let reason = error.inner().to_string();
    // serde_json ends its reason with a position in a text that the model never wrote.
    let reason = reason.rsplit_once(" at line ").map_or(&*reason, |(reason, _)| reason);
    let within = |name: &str| quoted(&path(&[&steps[..], &[name.to_owned()]].concat()));
    if let Some(name) = named(reason, "missing field ") {
        return Rejection::new(format!("the argument {} is missing", within(name)));
    }
    if let Some(name) = named(reason, "duplicate field ") {
        return Rejection::new(format!("the argument {} is given twice", within(name)));
    }
    if let Some(rest) = reason.strip_prefix("unknown field ") {
        let (name, known) = rest.split_once("`, ").unwrap_or((rest, ""));
        let name = name.trim_matches('`').to_owned();
        // The path may lead to the member, or to what it is in.
        let above = steps.strip_suffix(std::slice::from_ref(&name)).unwrap_or(&steps);
        let unknown = [above, &[name]].concat();
        let near = shape.near_misses(std::iter::once(&unknown[..]));
        if !near.is_empty() {
            return misspelled(&near);
        }
        let known = known.trim_start_matches("expected ").trim_start_matches("one of ").replace(" or ", ", ");
        let known = if known.contains('`') { format!("the arguments are {known}") } else { "there are none".to_owned() };
        return Rejection::new(format!("there is no argument {}; {known}", quoted(&path(&unknown))));
    }
    let reason = reworded(reason, place);
    Rejection::new(if steps.is_empty() {
        format!("the arguments are not valid: {reason}")
    } else {
        format!("the argument {} is not valid: {reason}", quoted(&path(&steps)))
    })
}

/// A path as people write it: `range.days`, `tags[2]`.
pub(super) fn path(steps: &[String]) -> String {
    let mut path = String::new();
    for step in steps {
        if !path.is_empty() && !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit()) {
            path.extend(["[", step, "]"]);
        } else {
            path.extend([if path.is_empty() { "" } else { "." }, step]);
        }
    }
    path
}

/// A name that a caller wrote, on one line and not too long.
pub(super) fn quoted(name: &str) -> String {
    format!("`{}`", excerpt(name))
}

fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(MOST_CHARACTERS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn step(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { variant } => Some(variant.clone()),
        Segment::Unknown => None,
    }
}

fn named<'a>(reason: &'a str, start: &str) -> Option<&'a str> {
    reason.strip_prefix(start)?.strip_prefix('`')?.strip_suffix('`')
}

/// serde's reason in the words of JSON. What a type says for itself stays as it is.
fn reworded(reason: &str, place: Option<&Place>) -> String {
    let of_the_schema = || place.and_then(Place::expected);
    for start in ["invalid type: ", "invalid value: "] {
        if let Some((given, wanted)) = reason.strip_prefix(start).and_then(|rest| rest.rsplit_once(", expected ")) {
            return format!("it is {}, expected {}", self::given(given), self::wanted(wanted, place));
        }
    }
    if let Some((length, wanted)) = reason.strip_prefix("invalid length ").and_then(|rest| rest.split_once(", expected ")) {
        let items = if length == "1" { "item" } else { "items" };
        return format!("it has {length} {items}, expected {}", self::wanted(wanted, place));
    }
    if let Some((value, known)) = reason.strip_prefix("unknown variant ").and_then(|rest| rest.split_once("`, ")) {
        return format!("{} is not one of its values, {known}", quoted(value.trim_start_matches('`')));
    }
    if reason.starts_with("data did not match any variant") || reason.starts_with("no variant of enum") {
        return "it has none of the forms that the schema lists".to_owned();
    }
    if reason == "expected value" {
        return of_the_schema().map_or_else(|| "it is of another type".to_owned(), |wanted| format!("expected {wanted}"));
    }
    if reason.starts_with("recursion limit") {
        return "nested too deep".to_owned();
    }
    reason.to_owned()
}

/// What was there.
fn given(serde: &str) -> String {
    if let Some(number) = serde.strip_prefix("floating point ") {
        return format!("the number {}", excerpt(number));
    }
    if let Some(number) = serde.strip_prefix("integer ") {
        return format!("the integer {number}");
    }
    if let Some(text) = serde.strip_prefix("string ").or_else(|| serde.strip_prefix("character ")) {
        return format!("the string {}", excerpt(text));
    }
    match serde {
        "map" | "newtype variant" | "struct variant" => "an object",
        "sequence" | "tuple variant" => "an array",
        "unit variant" | "byte array" => "a string",
        "unit value" | "Option value" | "null" => "null",
        "boolean `true`" => "`true`",
        "boolean `false`" => "`false`",
        other => return excerpt(other),
    }
    .to_owned()
}

/// What a type expects there. Its range is narrowed by the schema's.
fn wanted(serde: &str, place: Option<&Place>) -> String {
    let bare = serde.strip_prefix("a nonzero ").unwrap_or(serde);
    if let Some((least, most)) = range(bare) {
        let least = if bare.len() < serde.len() && least == 0 { 1 } else { least };
        let limit = |limit: Option<f64>| limit.filter(|limit| limit.abs() < 9e15);
        #[expect(clippy::cast_possible_truncation, reason = "a limit below 2^53")]
        let [minimum, maximum] = [place.and_then(|place| limit(place.minimum)), place.and_then(|place| limit(place.maximum))]
            .map(|limit| limit.map(|limit| limit.trunc() as i128));
        let (least, most) =
            (minimum.map_or(least, |minimum| minimum.max(least)), maximum.map_or(most, |maximum| maximum.min(most)));
        return format!("an integer from {least} to {most}");
    }
    let starts = |starts: &[&str]| starts.iter().any(|start| serde.starts_with(start));
    let count = || serde.rsplit(' ').find_map(|word| word.parse::<u64>().ok());
    if starts(&["enum ", "string or map", "unit variant"]) {
        return place.and_then(Place::expected).unwrap_or_else(|| "a string or an object".to_owned());
    }
    if starts(&["tuple ", "a tuple", "an array of length", "an empty array"]) {
        return count().map_or_else(|| "an array".to_owned(), |count| format!("an array of {count} items"));
    }
    if starts(&["struct ", "a map", "map", "internally tagged", "adjacently tagged", "newtype variant", "newtype struct"]) {
        return "an object".to_owned();
    }
    if starts(&["a sequence", "sequence", "byte array", "a byte array", "bytes"]) {
        return "an array".to_owned();
    }
    match serde {
        "f32" | "f64" => "a number",
        "bool" | "a boolean" => "true or false",
        "a string" | "a borrowed string" | "str" | "string" | "a formatted string" | "path string" | "field identifier"
        | "variant identifier" | "identifier" => "a string",
        "a character" | "char" => "a string of one character",
        "option" => "a value or null",
        "unit" | "null" => "null",
        _ if serde.starts_with("unit struct") => "null",
        other => return other.to_owned(),
    }
    .to_owned()
}

/// The integers of a Rust type.
fn range(name: &str) -> Option<(i128, i128)> {
    Some(match name {
        "u8" => (0, u8::MAX.into()),
        "u16" => (0, u16::MAX.into()),
        "u32" => (0, u32::MAX.into()),
        "u64" | "usize" | "u128" => (0, u64::MAX.into()),
        "i8" => (i8::MIN.into(), i8::MAX.into()),
        "i16" => (i16::MIN.into(), i16::MAX.into()),
        "i32" => (i32::MIN.into(), i32::MAX.into()),
        "i64" | "isize" | "i128" => (i64::MIN.into(), i64::MAX.into()),
        _ => return None,
    })
}
