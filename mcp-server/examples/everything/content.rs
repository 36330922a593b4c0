//! Tools that answer at once, one for each kind of content, and what a schema can say.

use mcp_server::{
    Tool, ToolError,
    extract::Parameters,
    rmcp::model::{CallToolResult, ContentBlock, JsonObject, ResourceContents},
};
use serde_json::json;

use crate::{Everything, PICTURE, SILENCE};

pub(crate) fn tools() -> Vec<Tool<Everything>> {
    vec![
        Tool::new("test_simple_text", simple_text).describe("Answers with a text.").read_only(),
        Tool::new("test_image_content", image).describe("Answers with a picture.").read_only(),
        Tool::new("test_audio_content", audio).describe("Answers with a sound.").read_only(),
        Tool::new("test_embedded_resource", embedded_resource).describe("Answers with a resource.").read_only(),
        Tool::new("test_multiple_content_types", mixed).describe("Answers with a text, a picture and a resource.").read_only(),
        Tool::new("test_error_handling", fails).describe("Fails, in words the model can act on.").read_only(),
        Tool::new("json_schema_2020_12_tool", knows_schemas)
            .describe("Takes arguments that only JSON Schema 2020-12 can describe.")
            .read_only()
            .input_schema(schema_of_2020_12()),
        Tool::new("test_x_mcp_header", in_region)
            .describe("Takes an argument that a balancer can route by: it also comes as a header.")
            .read_only(),
    ]
}

async fn simple_text() -> &'static str {
    "This is a simple text response for testing."
}

async fn image() -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::image(PICTURE, "image/png")])
}

async fn audio() -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::audio(SILENCE, "audio/wav")])
}

async fn embedded_resource() -> CallToolResult {
    let text = "This is an embedded resource content.";
    CallToolResult::success(vec![ContentBlock::embedded_text("test://embedded-resource", text)])
}

async fn mixed() -> CallToolResult {
    let data = json!({ "test": "data", "value": 123 }).to_string();
    let resource = ResourceContents::text(data, "test://mixed-content-resource").with_mime_type("application/json");
    CallToolResult::success(vec![
        ContentBlock::text("Multiple content types test:"),
        ContentBlock::image(PICTURE, "image/png"),
        ContentBlock::resource(resource),
    ])
}

async fn fails() -> Result<&'static str, ToolError> {
    Err(ToolError::caller("This tool intentionally returns an error for testing"))
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Regional {
    /// Where to ask.
    #[schemars(extend("x-mcp-header" = "Region"))]
    region: String,
}

async fn in_region(Parameters(regional): Parameters<Regional>) -> String {
    format!("asked in {}", regional.region)
}

async fn knows_schemas(arguments: JsonObject) -> String {
    format!("got {} arguments", arguments.len())
}

/// A Rust type cannot say this much, so it is written out.
fn schema_of_2020_12() -> JsonObject {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": { "street": { "type": "string" }, "city": { "type": "string" } },
            },
        },
        "properties": {
            "name": { "type": "string" },
            "address": { "$ref": "#/$defs/address" },
            "contactMethod": { "type": "string", "enum": ["phone", "email"] },
            "phone": { "type": "string" },
            "email": { "type": "string" },
        },
        "allOf": [{ "anyOf": [{ "required": ["phone"] }, { "required": ["email"] }] }],
        "if": { "properties": { "contactMethod": { "const": "phone" } }, "required": ["contactMethod"] },
        "then": { "required": ["phone"] },
        "else": { "required": ["email"] },
        "additionalProperties": false,
    });
    let serde_json::Value::Object(schema) = schema else { unreachable!("it is written as an object") };
    schema
}
