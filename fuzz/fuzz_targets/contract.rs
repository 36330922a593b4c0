//! Two contracts: what is equal has not changed, what is new one way is gone the other way, and nothing takes long.
#![no_main]

use bg_runtime::contract::{Change, Contract, Effect};
use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::{Value, json};

/// What a document has that is a whole contract; any other is taken for a schema.
const PARTS: [&str; 8] =
    ["protocolVersions", "capabilities", "instructions", "tools", "widgets", "resources", "resourceTemplates", "prompts"];

fuzz_target!(|file: &[u8]| -> Corpus {
    let mut documents = serde_json::Deserializer::from_slice(file).into_iter::<Value>();
    let Some(Ok(one)) = documents.next() else { return Corpus::Reject };
    let other = documents.next().and_then(Result::ok).unwrap_or_else(|| one.clone());
    let (Some(held), Some(served)) = (contract(one), contract(other)) else { return Corpus::Reject };
    for same in [&held, &served].into_iter().filter(|contract| has_schemas(contract)) {
        let changes = same.compare(same, |_| true);
        assert!(changes.is_empty(), "what is the same has changed: {changes:?}");
    }
    let (there, back) = (held.compare(&served, |_| false), served.compare(&held, |_| false));
    for changes in [&there, &back] {
        assert!(changes.is_sorted_by_key(|change| (change.effect == Effect::Additive, &change.subject)), "{changes:?}");
    }
    is_reversed(&there, &back);
    is_reversed(&back, &there);
    let readable = held.compare(&served, |_| true);
    assert!(readable.iter().filter(|change| change.effect == Effect::Breaking).all(|change| there.contains(change)));
    Corpus::Keep
});

fn contract(document: Value) -> Option<Contract> {
    let is_whole = PARTS.iter().any(|part| document.get(part).is_some());
    let tool = json!({ "name": "a", "inputSchema": document, "outputSchema": document });
    let document = if is_whole { document } else { json!({ "tools": { "a": tool } }) };
    serde_json::from_value(document).ok()
}

/// Whether what stands for a schema is one: what is none is never the same.
fn has_schemas(contract: &Contract) -> bool {
    let is_schema = |schema: &Value| schema.is_object() || schema.is_boolean();
    contract.tools.values().all(|tool| is_schema(&tool["inputSchema"]) && tool.get("outputSchema").is_none_or(is_schema))
}

/// What came one way went the other way.
fn is_reversed(there: &[Change], back: &[Change]) {
    let breaks = |subject: &str, words: &str| {
        back.iter()
            .any(|change| change.effect == Effect::Breaking && change.subject == subject && change.words.starts_with(words))
    };
    for Change { effect, subject, words } in there {
        let gone = match words.as_str() {
            "is new" if subject.starts_with("widget ") => "cannot be read any more".to_owned(),
            "is new" => "is gone".to_owned(),
            words => match words.strip_suffix(", too").filter(|words| words.starts_with("speaks the revision ")) {
                Some(words) => format!("{words} no more"),
                None if subject == "server" && words.starts_with("offers ") && *effect == Effect::Additive => {
                    format!("{words} no more")
                }
                None => continue,
            },
        };
        assert_eq!(*effect, Effect::Additive, "{subject}: {words}");
        assert!(breaks(subject, &gone), "{subject}: {words}, and back it is not so that it {gone}: {back:?}");
    }
}
