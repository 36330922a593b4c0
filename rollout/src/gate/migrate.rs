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
    let said = |line: &str| {
        if let Some(words) = told(line) {
            (context.progress)(&words);
        }
    };
    match context.driver.task(image, &["migrate", "expand", "--by", "rollout", "--json"], EXPANDED_WITHIN, &said).await {
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
    let ended = context.driver.task(image, &["migrate", "status", "--json"], STATUS_WITHIN, &|_| {}).await;
    let advice = "is it a server of this framework with a `migrate` command? --skip migrate --skip validate does without";
    let ended = ended.map_err(|failure| format!("{}: {advice}", crate::chain(&failure)))?;
    ended.document().ok_or_else(|| format!("`migrate status` says `{}`: {advice}", last_line(&ended.stderr)))
}

/// What a line of the log tells a person: one that is JSON has its words in `message`; without those it is the result.
fn told(line: &str) -> Option<String> {
    let words = match serde_json::from_str::<Value>(line) {
        Ok(line) => line["message"].as_str().or_else(|| line["fields"]["message"].as_str())?.to_owned(),
        Err(_) => line.to_owned(),
    };
    let words = crate::plain(words.trim());
    (!words.is_empty()).then_some(words)
}

/// What a command complained of in the end.
pub(super) fn last_line(text: &str) -> &str {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_reads_the_words_of_a_line_and_not_its_form() {
        for (line, words) in [
            (r#"{"timestamp":"x","level":"INFO","message":"0003 was applied"}"#, Some("0003 was applied")),
            (r#"{"timestamp":"x","fields":{"message":"0004 was applied"}}"#, Some("0004 was applied")),
            (r#"{"did":"expanded"}"#, None),
            ("INFO 0005 was applied\u{1b}[0m", Some("INFO 0005 was applied [0m")),
            ("  ", None),
        ] {
            assert_eq!(told(line).as_deref(), words, "{line}");
        }
    }
}
