//! The arguments of a call, read as models and clients write them.
//!
//! Models misspell names (`timezone`), fill what they leave out with `""`, and write integers as `30.0`; n8n adds members of its
//! own (`toolCallId`). What must stay true: arguments that are right cost one scan and no allocation more than reading them, and
//! an argument that the tool does not read is either refused or named in the result.

mod mistake;
mod shape;

use std::cell::RefCell;

use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) use self::shape::Shape;
use crate::extract::Rejection;

/// Arguments as a tool's type has them.
#[derive(Debug)]
pub(crate) struct Read<T> {
    pub(crate) parameters: T,
    /// The members that the type does not read, as paths, in the order in which they were found.
    pub(crate) ignored: Vec<String>,
}

/// A member that no tool has, which tells whether a type says what it ignores.
const PROBE: &str = "\u{1}no argument has this name";

/// Reads the arguments of a call.
pub(crate) fn read<T: DeserializeOwned>(arguments: &str, shape: &Shape) -> Result<Read<T>, Rejection> {
    if shape.is_plain(arguments)
        && let Ok(parameters) = serde_json::from_str(arguments)
    {
        return Ok(Read { parameters, ignored: Vec::new() });
    }
    read_with_care(arguments, shape)
}

/// Reads arguments that have something unusual about them: members that are not in the schema, empty texts, or whatever else
/// made reading them fail.
fn read_with_care<T: DeserializeOwned>(arguments: &str, shape: &Shape) -> Result<Read<T>, Rejection> {
    let Ok(mut value) = serde_json::from_str::<Value>(arguments) else {
        return Err(mistake::explain::<T>(arguments, shape));
    };
    let is_changed = shape.normalize(&mut value);
    let mut text = if is_changed { value.to_string() } else { arguments.to_owned() };
    let mut attempt = attempt::<T>(&text);
    // An explicit null is what a type with a default refuses. Where null means something the type has taken it.
    if attempt.parameters.is_err() && shape.drop_nulls(&mut value) {
        text = value.to_string();
        attempt = self::attempt::<T>(&text);
    }
    let unread = attempt.ignored.iter().map(|path| &path[..]);
    let mistaken = shape.near_misses(unread);
    if !mistaken.is_empty() {
        return Err(mistake::misspelled(&mistaken));
    }
    let parameters = attempt.parameters.map_err(|error| mistake::in_words(error, shape))?;
    let mut ignored: Vec<_> = attempt.ignored.iter().map(|path| mistake::path(path)).collect();
    let unsaid: Vec<_> = shape.undeclared(&value).filter(|name| !ignored.iter().any(|path| path == name)).collect();
    if !unsaid.is_empty() && !says_what_it_ignores::<T>(&value) {
        let mistaken = shape.near_misses(unsaid.iter().map(std::slice::from_ref));
        if !mistaken.is_empty() {
            return Err(mistake::misspelled(&mistaken));
        }
        ignored.extend(unsaid);
    }
    Ok(Read { parameters, ignored })
}

struct Attempt<T> {
    parameters: Result<T, serde_path_to_error::Error<serde_json::Error>>,
    ignored: Vec<Vec<String>>,
}

fn attempt<T: DeserializeOwned>(text: &str) -> Attempt<T> {
    let ignored = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut deserializer, &mut track);
    let parameters = serde_ignored::deserialize(tracked, |path| {
        ignored.borrow_mut().extend(shape::steps(&path));
    });
    let parameters = parameters.map_err(|error| serde_path_to_error::Error::new(track.path(), error));
    Attempt { parameters, ignored: ignored.into_inner() }
}

/// Whether serde tells of members that the type does not read. A member that it does not tell of is then read under a name that
/// is not in the schema (`#[serde(alias)]`). A type that is flattened into the arguments keeps that to itself.
fn says_what_it_ignores<T: DeserializeOwned>(value: &Value) -> bool {
    let mut value = value.clone();
    if let Value::Object(members) = &mut value {
        members.insert(PROBE.to_owned(), Value::Null);
    }
    attempt::<T>(&value.to_string()).ignored.iter().any(|path| path == &[PROBE])
}

/// The sentence that says which arguments a tool did not read.
pub(crate) fn note(ignored: &[String]) -> String {
    const MOST: usize = 10;
    let names: Vec<_> = ignored.iter().take(MOST).map(|name| mistake::quoted(name)).collect();
    let more = match ignored.len().saturating_sub(MOST) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("Ignored, because this tool has no such arguments: {}{more}.", names.join(", "))
}

#[cfg(test)]
mod tests;
