//! The contract of this build, taken from what it would answer.

use std::collections::BTreeMap;

use bg_runtime::contract::Contract;
use rmcp::model::ProtocolVersion;
use serde::Serialize;
use serde_json::json;

use crate::{
    mcp::{self, Parts},
    published::Document,
};

/// What the lists of an application say.
pub(crate) fn of<S>(parts: &Parts<S>) -> Contract {
    let capabilities = json!(mcp::config(parts).capabilities);
    let widgets = parts.widgets.iter().flat_map(|widget| Document::of(widget)).map(|document| document.description());
    Contract {
        protocol_versions: ProtocolVersion::KNOWN_VERSIONS.iter().map(|version| version.as_str().to_owned()).collect(),
        capabilities,
        instructions: parts.instructions.clone(),
        tools: by(parts.tools.iter().map(|tool| tool.description.to_tool()), |tool| &tool.name),
        widgets: by(widgets, |widget| &widget.uri),
        resources: by(parts.resources.iter().map(|resource| &resource.description), |resource| &resource.uri),
        resource_templates: by(parts.templates.iter().map(|template| &template.description), |template| &template.uri_template),
        prompts: by(parts.prompts.iter().map(|prompt| &prompt.description), |prompt| &prompt.name),
    }
}

fn by<T: Serialize>(
    things: impl Iterator<Item = T>,
    name: impl for<'a> Fn(&'a T) -> &'a str,
) -> BTreeMap<String, serde_json::Value> {
    things.map(|thing| (name(&thing).to_owned(), json!(thing))).collect()
}
