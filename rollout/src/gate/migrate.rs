//! `migrate expand`, run by the new build's own image: only it knows its migrations. Additive by their rules, so the live
//! build does not notice, and a rollout that goes back leaves it as it is.

use super::{Context, Finding};

pub(super) async fn ask(context: &Context<'_>) -> Finding {
    let Some(image) = context.image else { return Finding::failed("nothing is known to run there") };
    (context.progress)("the image runs `migrate expand`");
    match context.driver.task(image, &["migrate", "expand", "--by", "rollout", "--json"]).await {
        Ok(ended) if ended.success => {
            let said: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap_or_default();
            let did = said["did"].as_str().unwrap_or("done").lines().next().unwrap_or("done").to_owned();
            Finding::passed(did)
        }
        Ok(ended) => Finding::failed(format!("`migrate expand` failed: {}", last_line(&ended.stderr))),
        Err(failure) => Finding::failed(crate::chain(&failure)),
    }
}

/// What a command complained of in the end.
pub(super) fn last_line(text: &str) -> &str {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing")
}
