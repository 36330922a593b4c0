//! The validator's verdict: a migration that is about to be read in its new shape must have been proven, and none may have
//! been found wrong. A migration that is not that far hinders nobody: the database keeps both shapes true.

use std::time::Duration;

use serde_json::Value;

use super::{
    Context, Finding, either,
    migrate::{last_line, status},
};

/// Half a million rows are compared in a second.
const VALIDATED_WITHIN: Duration = Duration::from_secs(3600);

pub(super) async fn ask(context: &Context<'_>) -> Finding {
    either(validate(context).await)
}

async fn validate(context: &Context<'_>) -> Result<Finding, Finding> {
    let status = status(context).await.map_err(Finding::failed)?;
    let mut finding = Finding::passed("");
    let mut words = Vec::new();
    for migration in status["status"]["migrations"].as_array().into_iter().flatten() {
        let (Some(name), Some(phase)) = (migration["name"].as_str(), migration["phase"].as_str()) else { continue };
        if phase == "validate" {
            (context.progress)(&format!("{name} is compared row by row"));
            let outcome = run(context, &["migrate", "validate", name, "--by", "rollout", "--json"]).await?;
            let verdict = &outcome["verdict"];
            if verdict["valid"] != true {
                return Err(wrong(name, verdict));
            }
            words.push(format!("{name} is valid, {} rows", verdict["rows"]));
        } else if migration["verdict"]["valid"] == false {
            return Err(wrong(name, &migration["verdict"]));
        } else {
            words.push(format!("{name} is in phase {phase}"));
        }
        finding = finding.with(name, phase);
    }
    finding.words = if words.is_empty() { "no migration is under way".to_owned() } else { words.join(", ") };
    Ok(finding)
}

fn wrong(name: &str, verdict: &Value) -> Finding {
    let failed = verdict["checks"].as_array().into_iter().flatten().filter(|check| check["passed"] != true);
    let mut finding = Finding::failed(format!("{name} is not valid: traffic would read rows that are wrong"));
    for check in failed {
        let samples: Vec<_> = check["samples"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let label = check["name"].as_str().unwrap_or_default();
        finding = finding.with(label, format!("{} wrong: {}", check["wrong"], samples.join(", ")));
    }
    finding
}

async fn run(context: &Context<'_>, arguments: &[&str]) -> Result<Value, Finding> {
    let Some(image) = context.image else { return Err(Finding::failed("nothing is known to run there")) };
    let command = arguments.join(" ");
    let ended = context
        .driver
        .task(image, arguments, VALIDATED_WITHIN, &|_| {})
        .await
        .map_err(|failure| Finding::failed(crate::chain(&failure)))?;
    ended.document().ok_or_else(|| Finding::failed(format!("`{command}` failed: {}", last_line(&ended.stderr))))
}
