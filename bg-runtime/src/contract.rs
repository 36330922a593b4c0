//! The contract: what a build promises to clients that have read its lists.
//!
//! Clients keep what they have read for days (ChatGPT a frozen snapshot of it), whichever color answers them meanwhile. What
//! must stay true: a change that a client with the old lists would notice is called [`Effect::Breaking`], and a change that
//! cannot be judged is, too. A rollout compares both ways: what clients of the live build meet on the next one, and what
//! those who came in between meet when it is taken back.

mod schema;

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::schema::ANNOTATIONS;
use self::schema::{Gap, What, gaps};

/// What one build offers, as its lists say it. Kept in `mcp_contracts`, and as a file in the repository.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Contract {
    /// The revisions of the protocol that it speaks.
    pub protocol_versions: Vec<String>,
    /// What it offers beside tools, as `initialize` says it.
    pub capabilities: Value,
    /// What a model is told of the server as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// Its tools by name, each as `tools/list` shows it.
    pub tools: BTreeMap<String, Value>,
    /// Its widgets by address, each as `resources/list` shows it.
    pub widgets: BTreeMap<String, Value>,
    /// Its other resources by address.
    pub resources: BTreeMap<String, Value>,
    /// The forms of resources of which there are many.
    pub resource_templates: BTreeMap<String, Value>,
    /// Its prompts by name.
    pub prompts: BTreeMap<String, Value>,
}

/// What one contract has otherwise than another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What it means for a client that knows the contract before.
    pub effect: Effect,
    /// What has changed: ``tool `book_appointment` ``.
    pub subject: String,
    /// How, in a phrase.
    pub words: String,
}

/// What a change means for a client that knows the contract before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It goes on as before.
    Additive,
    /// Something that it does, or shows, works no more.
    Breaking,
}

// === impl Contract ===

impl Contract {
    /// What a client that holds this contract meets where `served` is answered. `is_readable` tells of a widget's address
    /// whether it can still be read there though it is not listed: whatever was published in the same database can.
    #[must_use]
    pub fn compare(&self, served: &Self, is_readable: impl Fn(&str) -> bool) -> Vec<Change> {
        let mut changes = Changes::default();
        changes.server(self, served);
        changes.tools(&self.tools, &served.tools);
        changes.widgets(&self.widgets, &served.widgets, is_readable);
        changes.named("resource", &self.resources, &served.resources, |_, _, _| {});
        changes.named("resource template", &self.resource_templates, &served.resource_templates, |_, _, _| {});
        changes.named("prompt", &self.prompts, &served.prompts, Changes::prompt_arguments);
        let mut changes = changes.0;
        // What breaks is what is read first.
        changes.sort_by(|a, b| b.effect.cmp(&a.effect).then_with(|| a.subject.cmp(&b.subject)));
        changes
    }
}

const SECURITY_SCHEMES: &str = "securitySchemes";

/// Whether any of these breaks what a client does.
#[must_use]
pub fn is_breaking(changes: &[Change]) -> bool {
    changes.iter().any(|change| change.effect == Effect::Breaking)
}

// === impl Change ===

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.effect, self.subject, self.words)
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Additive => "additive",
            Self::Breaking => "breaking",
        })
    }
}

/// Changes as they are found.
#[derive(Default)]
struct Changes(Vec<Change>);

// === impl Changes ===

impl Changes {
    fn say(&mut self, effect: Effect, subject: &str, words: impl Into<String>) {
        let change = Change { effect, subject: subject.to_owned(), words: words.into() };
        if !self.0.contains(&change) {
            self.0.push(change);
        }
    }

    fn breaks(&mut self, subject: &str, words: impl Into<String>) {
        self.say(Effect::Breaking, subject, words);
    }

    fn adds(&mut self, subject: &str, words: impl Into<String>) {
        self.say(Effect::Additive, subject, words);
    }

    fn server(&mut self, held: &Contract, served: &Contract) {
        let subject = "server";
        for version in held.protocol_versions.iter().filter(|version| !served.protocol_versions.contains(version)) {
            self.breaks(subject, format!("speaks the revision {version} no more"));
        }
        for version in served.protocol_versions.iter().filter(|version| !held.protocol_versions.contains(version)) {
            self.adds(subject, format!("speaks the revision {version}, too"));
        }
        let (before, now) = (offers(&held.capabilities), offers(&served.capabilities));
        for offer in before.iter().filter(|offer| !now.contains(offer)) {
            self.breaks(subject, format!("offers `{offer}` no more"));
        }
        for offer in now.iter().filter(|offer| !before.contains(offer)) {
            self.adds(subject, format!("offers `{offer}`"));
        }
        if held.instructions != served.instructions {
            self.adds(subject, "its instructions have other words");
        }
    }

    fn tools(&mut self, held: &BTreeMap<String, Value>, served: &BTreeMap<String, Value>) {
        for (name, before) in held {
            let subject = format!("tool `{name}`");
            match served.get(name) {
                Some(now) => self.tool(&subject, before, now),
                None => match renamed(before, held, served) {
                    Some(new) => self.breaks(&subject, format!("is gone; `{new}` looks like it under another name")),
                    None => self.breaks(&subject, "is gone"),
                },
            }
        }
        for name in served.keys().filter(|name| !held.contains_key(*name)) {
            self.adds(&format!("tool `{name}`"), "is new");
        }
    }

    fn tool(&mut self, subject: &str, held: &Value, served: &Value) {
        self.input(subject, &held["inputSchema"], &served["inputSchema"]);
        match (held.get("outputSchema"), served.get("outputSchema")) {
            (Some(held), Some(served)) => self.output(subject, held, served),
            (Some(_), None) => self.breaks(subject, "its output schema is gone: who knows it refuses answers without data"),
            (None, Some(_)) => self.adds(subject, "its output schema is new"),
            (None, None) => {}
        }
        self.annotations(subject, &held["annotations"], &served["annotations"]);
        self.tool_meta(subject, &held["_meta"], &served["_meta"]);
        self.security_schemes(subject, held, served);
        for part in ["title", "description"] {
            if held.get(part) != served.get(part) {
                self.adds(subject, format!("its {part} has other words, by which models choose"));
            }
        }
        let known =
            ["name", "title", "description", "inputSchema", "outputSchema", "annotations", "_meta", "icons", SECURITY_SCHEMES];
        for key in keys(held, served).filter(|key| !known.contains(key) && held.get(key) != served.get(key)) {
            self.breaks(subject, format!("`{key}` is not what it was"));
        }
    }

    /// What a client sends must still be taken.
    fn input(&mut self, subject: &str, held: &Value, served: &Value) {
        let refused = gaps(held, served);
        for Gap { path, what } in &refused {
            let words = match what {
                What::Missing(name) => format!("the argument `{}` is required now", within(path, name)),
                What::Unknown(_) => format!("the argument `{path}` is gone, and ignored"),
                What::Refused(_) => format!("the argument `{path}` is gone, and refused"),
                What::Undeclared => format!("arguments that were never declared are refused now{}", inside(path)),
                What::Kind(kind) => format!("{} may no longer be of type {kind}", argument(path)),
                What::Value(value) => format!("{} may no longer be {value}", argument(path)),
                What::AnyValue => format!("{} may only be one of a few values now", argument(path)),
                What::Limit { keyword, narrow, wide } => limit(&argument(path), keyword, narrow.as_ref(), Some(wide)),
                What::Unclear(keyword) => format!("{}: whether `{keyword}` allows as much as before is unclear", argument(path)),
            };
            self.breaks(subject, words);
        }
        for gap in gaps(served, held).iter().filter(|gap| !is_said(gap, &refused)) {
            let path = &gap.path;
            let words = match &gap.what {
                What::Missing(name) => format!("the argument `{}` may be left out now", within(path, name)),
                What::Unknown(_) | What::Refused(_) => format!("the argument `{path}` is new"),
                What::Undeclared => format!("arguments that were never declared are ignored now{}", inside(path)),
                What::Kind(kind) => format!("{} may be of type {kind}, too", argument(path)),
                What::Value(value) => format!("{} may be {value}, too", argument(path)),
                What::AnyValue => format!("{} may be any value now", argument(path)),
                What::Limit { keyword, narrow, wide } => limit(&argument(path), keyword, Some(wide), narrow.as_ref()),
                What::Unclear(_) => continue,
            };
            self.adds(subject, words);
        }
    }

    /// What a client is sent must be what it expects: clients validate answers against the schema that they have read, and
    /// widgets were written for it. A schema that became stricter breaks them, too: while both colors answer, one of them
    /// answers what the other's schema refuses.
    fn output(&mut self, subject: &str, held: &Value, served: &Value) {
        let looser = gaps(served, held);
        for Gap { path, what } in &looser {
            let answer = answer(path);
            let words = match what {
                What::Missing(name) => format!("`{}` may be missing in answers now", within(path, name)),
                // Nobody who does not know it looks for it.
                What::Unknown(_) => {
                    self.adds(subject, format!("`{path}` is new in answers"));
                    continue;
                }
                What::Refused(_) => format!("`{path}` is new in answers, and its readers refuse what they do not know"),
                What::Undeclared => format!("answers may hold what was never declared{}", inside(path)),
                What::Kind(kind) => format!("{answer} may be of type {kind}, which its readers refuse"),
                What::Value(value) => format!("{answer} may be {value}, which its readers refuse"),
                What::AnyValue => format!("{answer} may be any value, and its readers know a few"),
                What::Limit { keyword, narrow, wide } => limit(&answer, keyword, Some(wide), narrow.as_ref()),
                What::Unclear(keyword) => format!("{answer}: whether `{keyword}` promises as much as before is unclear"),
            };
            self.breaks(subject, words);
        }
        for gap in gaps(held, served).iter().filter(|gap| !is_said(gap, &looser)) {
            let path = &gap.path;
            let answer = answer(path);
            let words = match &gap.what {
                What::Missing(name) => {
                    self.adds(subject, format!("`{}` is always in answers now", within(path, name)));
                    continue;
                }
                What::Unknown(_) | What::Refused(_) => format!("`{path}` is no longer in answers"),
                What::Undeclared => format!("answers hold nothing undeclared any more{}", inside(path)),
                What::Kind(kind) => format!("{answer} is stricter: no longer of type {kind}"),
                What::Value(value) => format!("{answer} is stricter: no longer {value}"),
                What::AnyValue => format!("{answer} is stricter: one of a few values"),
                What::Limit { keyword, narrow, wide } => {
                    format!("{} (stricter)", limit(&answer, keyword, narrow.as_ref(), Some(wide)))
                }
                What::Unclear(_) => continue,
            };
            self.breaks(subject, words);
        }
    }

    /// Hosts decide by these whether to ask a person first, and take a tool whose hints changed for another tool.
    fn annotations(&mut self, subject: &str, held: &Value, served: &Value) {
        for key in keys(held, served).filter(|key| held.get(key) != served.get(key)) {
            let words = format!("its annotation `{key}` was {} and is {}", or_none(&held[key]), or_none(&served[key]));
            if key == "title" { self.adds(subject, words) } else { self.breaks(subject, words) }
        }
    }

    fn tool_meta(&mut self, subject: &str, held: &Value, served: &Value) {
        const WORDS: [&str; 2] = ["openai/toolInvocation/invoking", "openai/toolInvocation/invoked"];
        // Said by `ui`, or judged below and by the widgets themselves.
        const ELSEWHERE: [&str; 4] = ["ui/resourceUri", "openai/outputTemplate", "ui", SECURITY_SCHEMES];
        let widget = |meta: &Value| meta.pointer("/ui/resourceUri").or(meta.get("openai/outputTemplate")).cloned();
        match (widget(held), widget(served)) {
            (before, now) if before == now => {}
            (None, Some(now)) => self.adds(subject, format!("is drawn by the widget {now}")),
            (Some(_), None) => self.breaks(subject, "is no longer drawn by a widget"),
            // The one before stays readable, or its own line says that it does not.
            (_, now) => self.adds(subject, format!("is drawn by another document: {}", or_none(&now.unwrap_or_default()))),
        }
        // Each generation of hosts reads one spelling and no other.
        for spelling in ["ui/resourceUri", "openai/outputTemplate"] {
            match (held.get(spelling), served.get(spelling)) {
                (Some(_), None) if widget(served).is_some() => {
                    self.breaks(subject, format!("no longer says `{spelling}`, which some hosts read alone"));
                }
                (Some(before), Some(now)) if before != now && widget(held) == widget(served) => {
                    self.adds(subject, format!("is drawn by another document where hosts read `{spelling}`: {now}"));
                }
                _ => {}
            }
        }
        let seen_by = |meta: &Value| meta.pointer("/ui/visibility").and_then(Value::as_array).cloned();
        let everybody = || vec![Value::from("model"), Value::from("app")];
        let (before, now) = (seen_by(held).unwrap_or_else(everybody), seen_by(served).unwrap_or_else(everybody));
        for who in before.iter().filter(|who| !now.contains(who)) {
            self.breaks(subject, format!("is no longer visible to {who}"));
        }
        for who in now.iter().filter(|who| !before.contains(who)) {
            self.adds(subject, format!("is visible to {who}, too"));
        }
        for key in keys(held, served).filter(|key| held.get(key) != served.get(key) && !ELSEWHERE.contains(key)) {
            let words = format!("its `{key}` was {} and is {}", or_none(&held[key]), or_none(&served[key]));
            let opens = key == "openai/widgetAccessible" && served[key] == true;
            if WORDS.contains(&key) || opens || !key.contains(SECURITY_SCHEMES) && !key.starts_with("openai/") {
                self.adds(subject, words);
            } else {
                self.breaks(subject, words);
            }
        }
    }

    /// What a tool's caller must prove. Hosts read it in one of two places: beside the tool's name, or in `_meta`.
    fn security_schemes(&mut self, subject: &str, held: &Value, served: &Value) {
        let places = |tool: &Value| [tool.get(SECURITY_SCHEMES).cloned(), tool["_meta"].get(SECURITY_SCHEMES).cloned()];
        let (before, now) = (places(held), places(served));
        let first = |places: &[Option<Value>; 2]| places.iter().flatten().next().cloned().unwrap_or_default();
        if first(&before) != first(&now) {
            let words = format!("its `{SECURITY_SCHEMES}` was {} and is {}", or_none(&first(&before)), or_none(&first(&now)));
            return self.breaks(subject, words);
        }
        for (place, (before, now)) in ["beside its name", "in `_meta`"].into_iter().zip(before.iter().zip(&now)) {
            match (before, now) {
                (Some(_), None) => {
                    self.breaks(subject, format!("no longer says `{SECURITY_SCHEMES}` {place}, where some hosts read it alone"));
                }
                (None, Some(_)) => self.adds(subject, format!("says `{SECURITY_SCHEMES}` {place}, too")),
                (Some(before), Some(now)) if before != now => {
                    self.breaks(subject, format!("its `{SECURITY_SCHEMES}` {place} was {before} and is {now}"));
                }
                _ => {}
            }
        }
    }

    fn widgets(&mut self, held: &BTreeMap<String, Value>, served: &BTreeMap<String, Value>, is_readable: impl Fn(&str) -> bool) {
        for (address, before) in held {
            let subject = format!("widget `{address}`");
            match served.get(address) {
                Some(now) if before.get("mimeType") != now.get("mimeType") => {
                    self.breaks(&subject, format!("its type was {} and is {}", before["mimeType"], now["mimeType"]));
                }
                Some(now) if before != now => self.adds(&subject, "is described anew"),
                Some(_) => {}
                None if is_readable(address) => self.adds(&subject, "is no longer listed, and stays readable"),
                None => self.breaks(&subject, "cannot be read any more: conversations that show it show an error"),
            }
        }
        for address in served.keys().filter(|address| !held.contains_key(*address)) {
            self.adds(&format!("widget `{address}`"), "is new");
        }
    }

    /// What is found by its name: gone, new, or changed within.
    fn named(
        &mut self,
        kind: &str,
        held: &BTreeMap<String, Value>,
        served: &BTreeMap<String, Value>,
        within: impl Fn(&mut Self, &str, (&Value, &Value)),
    ) {
        for (name, before) in held {
            let subject = format!("{kind} `{name}`");
            match served.get(name) {
                None => self.breaks(&subject, "is gone"),
                Some(now) => {
                    within(self, &subject, (before, now));
                    if before.get("mimeType") != now.get("mimeType") {
                        let types = [before, now].map(|resource| or_none(&resource["mimeType"]));
                        self.breaks(&subject, format!("its type was {} and is {}", types[0], types[1]));
                    }
                    if before.get("description") != now.get("description") {
                        self.adds(&subject, "its description has other words");
                    }
                }
            }
        }
        for name in served.keys().filter(|name| !held.contains_key(*name)) {
            self.adds(&format!("{kind} `{name}`"), "is new");
        }
    }

    fn prompt_arguments(&mut self, subject: &str, (held, served): (&Value, &Value)) {
        let arguments = |prompt: &Value| -> BTreeMap<String, bool> {
            let arguments = prompt["arguments"].as_array().into_iter().flatten();
            arguments.map(|one| (one["name"].as_str().unwrap_or_default().to_owned(), one["required"] == true)).collect()
        };
        let (before, now) = (arguments(held), arguments(served));
        for (name, required) in &now {
            match (before.get(name), required) {
                (Some(false) | None, true) => self.breaks(subject, format!("the argument `{name}` is required now")),
                (Some(true), false) => self.adds(subject, format!("the argument `{name}` may be left out now")),
                (None, false) => self.adds(subject, format!("the argument `{name}` is new")),
                _ => {}
            }
        }
        for name in before.keys().filter(|name| !now.contains_key(*name)) {
            self.breaks(subject, format!("the argument `{name}` is gone"));
        }
    }
}

// === In words ===

fn within(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn inside(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" in `{path}`") }
}

fn argument(path: &str) -> String {
    if path.is_empty() { "the arguments".to_owned() } else { format!("the argument `{path}`") }
}

fn answer(path: &str) -> String {
    if path.is_empty() { "the answer".to_owned() } else { format!("`{path}` in answers") }
}

fn limit(what: &str, keyword: &str, before: Option<&Value>, now: Option<&Value>) -> String {
    let [before, now] = [before, now].map(|value| value.map_or_else(|| "none".to_owned(), or_none));
    format!("{what}: `{keyword}` was {before} and is {now}")
}

fn or_none(value: &Value) -> String {
    if value.is_null() { "none".to_owned() } else { value.to_string() }
}

/// Whether a change of this keyword or member was told as breaking already: a pattern that changed is one change and not two.
fn is_said(gap: &Gap, said: &[Gap]) -> bool {
    said.iter().any(|other| {
        other.path == gap.path
            && match (&other.what, &gap.what) {
                (What::Limit { keyword, .. }, What::Limit { keyword: other, .. }) => keyword == other,
                (What::Unclear(keyword), What::Unclear(other)) => keyword == other,
                _ => false,
            }
    })
}

/// The keys of two objects, each once.
fn keys<'a>(one: &'a Value, other: &'a Value) -> impl Iterator<Item = &'a str> {
    let own = |value: &'a Value| value.as_object().map(Map::keys);
    let first = own(one).into_iter().flatten();
    let second = own(other).into_iter().flatten().filter(|key| one.get(key.as_str()).is_none());
    first.chain(second).map(String::as_str)
}

/// What capabilities offer, as paths: `resources.subscribe`. What is `false` is not offered.
fn offers(capabilities: &Value) -> Vec<String> {
    fn walk(path: &str, value: &Value, found: &mut Vec<String>) {
        if value == &Value::Bool(false) || value.is_null() {
            return;
        }
        if !path.is_empty() {
            found.push(path.to_owned());
        }
        for (key, value) in value.as_object().into_iter().flatten() {
            walk(&within(path, key), value, found);
        }
    }
    let mut found = Vec::new();
    walk("", capabilities, &mut found);
    found
}

/// A new tool that takes the same arguments and says the same of itself.
fn renamed<'a>(gone: &Value, held: &BTreeMap<String, Value>, served: &'a BTreeMap<String, Value>) -> Option<&'a str> {
    let same = |part: &str, other: &Value| gone.get(part) == other.get(part);
    let mut new = served.iter().filter(|(name, _)| !held.contains_key(*name));
    new.find(|(_, tool)| same("inputSchema", tool) && same("description", tool)).map(|(name, _)| &**name)
}

#[cfg(test)]
mod tests;
