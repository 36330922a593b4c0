//! Resources: a text, some bytes, a template, and one that changes and says so.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use mcp_server::{
    Tool, ToolError,
    extract::State,
    resource::{Read, Resource, ResourceTemplate},
    rmcp::model::ResourceContents,
};
use serde_json::json;

use crate::{Everything, PICTURE};

const WATCHED: &str = "test://watched-resource";

pub(crate) fn resources(everything: &Everything) -> Vec<Resource> {
    let watched = everything.watched.clone();
    vec![
        Resource::new("test://static-text", "Static text", |read| async {
            contents(ResourceContents::text("This is the content of the static text resource.", read.uri))
        })
        .described(|resource| resource.mime_type = Some("text/plain".to_owned())),
        Resource::new("test://static-binary", "Static bytes", |read| async {
            contents(ResourceContents::blob(PICTURE, read.uri).with_mime_type("image/png"))
        })
        .described(|resource| resource.mime_type = Some("image/png".to_owned())),
        Resource::new(WATCHED, "Watched", move |read| {
            let watched = watched.clone();
            async move { contents(ResourceContents::text(format!("changed {} times", count(&watched)), read.uri)) }
        })
        .described(|resource| resource.description = Some("Changes when test_update_watched_resource is called.".to_owned())),
    ]
}

pub(crate) fn template() -> ResourceTemplate {
    ResourceTemplate::new("test://template/{id}/data", "By number", |Read { uri, variables }| async move {
        let id = &variables["id"];
        let text = json!({ "id": id, "templateTest": true, "data": format!("Data for ID: {id}") }).to_string();
        contents(ResourceContents::text(text, uri).with_mime_type("application/json"))
    })
    .described(|template| template.mime_type = Some("application/json".to_owned()))
}

pub(crate) fn update_tool() -> Tool<Everything> {
    Tool::new("test_update_watched_resource", update).describe("Changes the watched resource.").additive()
}

async fn update(State(everything): State<Everything>) -> String {
    everything.watched.fetch_add(1, Ordering::Relaxed);
    everything.changes.updated(WATCHED);
    format!("changed {} times", count(&everything.watched))
}

fn count(watched: &Arc<AtomicU64>) -> u64 {
    watched.load(Ordering::Relaxed)
}

fn contents(contents: ResourceContents) -> Result<ResourceContents, ToolError> {
    Ok(contents)
}
