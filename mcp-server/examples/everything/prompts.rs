//! Prompts: a plain one, one with arguments that are completed while they are typed, one for each kind of content, and one
//! that asks before it answers.

use mcp_server::{
    ToolError,
    prompt::{Prompt, PromptCall},
    rmcp::model::{ContentBlock, GetPromptResponse, GetPromptResult, PromptMessage, Role},
};
use serde_json::json;

use crate::{PICTURE, inputs};

pub(crate) fn prompts() -> Vec<Prompt> {
    vec![
        Prompt::new("test_simple_prompt", |_| async { user([ContentBlock::text("This is a simple prompt for testing.")]) })
            .describe("A text."),
        Prompt::new("test_prompt_with_arguments", with_arguments)
            .describe("A text with two arguments in it.")
            .argument("arg1", "First test argument", true)
            .argument("arg2", "Second test argument", true)
            .complete(complete),
        Prompt::new("test_prompt_with_embedded_resource", with_resource).describe("A text about a resource.").argument(
            "resourceUri",
            "URI of the resource to embed",
            true,
        ),
        Prompt::new("test_prompt_with_image", |_| async {
            user([ContentBlock::image(PICTURE, "image/png"), ContentBlock::text("Please analyze the image above.")])
        })
        .describe("A text about a picture."),
        Prompt::new("test_input_required_result_prompt", with_context)
            .describe("A text that asks for its context first (2026-07-28)."),
    ]
}

async fn with_arguments(call: PromptCall) -> Result<Vec<PromptMessage>, ToolError> {
    let argument = |name| call.argument(name).unwrap_or_default();
    user([ContentBlock::text(format!("Prompt with arguments: arg1='{}', arg2='{}'", argument("arg1"), argument("arg2")))])
}

async fn with_resource(call: PromptCall) -> Result<Vec<PromptMessage>, ToolError> {
    let uri = call.argument("resourceUri").unwrap_or_default();
    let resource = ContentBlock::embedded_text(uri, "Embedded resource content for testing.");
    user([resource, ContentBlock::text("Please process the embedded resource above.")])
}

async fn with_context(call: PromptCall) -> Result<GetPromptResponse, ToolError> {
    let answer = call.request.input_responses.as_ref().and_then(|responses| responses.get("user_context"));
    match answer.and_then(|answer| answer["content"]["context"].as_str()) {
        Some(context) => Ok(GetPromptResult::new(user([ContentBlock::text(format!("Use this context: {context}"))])?).into()),
        None => {
            let question = inputs::question("What context should the prompt use?", "context", "string");
            Ok(inputs::requests(json!({ "user_context": question }), None)?.into())
        }
    }
}

/// Of a few words, those that begin as typed.
fn complete(_argument: &str, typed: &str) -> Vec<String> {
    let words = ["paris", "park", "party"].into_iter();
    words.filter(|word| word.starts_with(typed)).map(str::to_owned).collect()
}

fn user<const N: usize>(content: [ContentBlock; N]) -> Result<Vec<PromptMessage>, ToolError> {
    Ok(content.map(|block| PromptMessage::new(Role::User, block)).into())
}
