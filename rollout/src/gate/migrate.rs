//! `migrate expand`, run by the new build's own image: only it knows its migrations. Additive by their rules, so the live
//! build does not notice, and a rollout that goes back leaves it as it is.

use std::time::Duration;

use serde_json::Value;

use super::{Context, Finding};

/// A question, and a program that has to start for it.
const STATUS_WITHIN: Duration = Duration::from_secs(30);
/// An index on a large table is a matter of minutes.
const EXPANDED_WITHIN: Duration = Duration::from_secs(3600);

pub(super) async fn ask(context: &Context<'_>) -> Finding {
    let Some(image) = context.image else { return Finding::failed("nothing is known to run there") };
    // A program that knows no such command would serve for ever; one that does answers this at once.
    if let Err(words) = status(context).await {
        return Finding::failed(words);
    }
    (context.progress)("the image runs `migrate expand`");
    match context.driver.task(image, &["migrate", "expand", "--by", "rollout", "--json"], EXPANDED_WITHIN).await {
        Ok(ended) if ended.success => {
            let said = ended.document().unwrap_or_default();
            let did = said["did"].as_str().unwrap_or("done").lines().next().unwrap_or("done").to_owned();
            Finding::passed(did)
        }
        Ok(ended) => Finding::failed(format!("`migrate expand` failed: {}", last_line(&ended.stderr))),
        Err(failure) => Finding::failed(crate::chain(&failure)),
    }
}

/// What the image says of its migrations.
pub(super) async fn status(context: &Context<'_>) -> Result<Value, String> {
    let Some(image) = context.image else { return Err("nothing is known to run there".to_owned()) };
    let ended = context.driver.task(image, &["migrate", "status", "--json"], STATUS_WITHIN).await;
    let advice = "is it a server of this framework with a `migrate` command? --skip migrate --skip validate does without";
    let ended = ended.map_err(|failure| format!("{}: {advice}", crate::chain(&failure)))?;
    ended.document().ok_or_else(|| format!("`migrate status` says `{}`: {advice}", last_line(&ended.stderr)))
}

/// What a command complained of in the end.
pub(super) fn last_line(text: &str) -> &str {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing")
}
