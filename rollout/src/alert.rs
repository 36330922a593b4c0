//! Telling people: a webhook in the form that Slack reads, and most others do. It is told beside the rollout and never in its
//! way: what must be undone is undone first, and a webhook that is away holds nothing up.

use std::time::Duration;

use bg_runtime::Secret;
use http::Method;
use serde_json::{Value, json};

use crate::http::Http;

/// Who is told. The address is a secret.
#[derive(Clone, Debug)]
pub struct Webhook {
    address: Secret,
    http: Http,
}

/// What people are told.
#[derive(Clone, Debug)]
pub struct Alert {
    /// In a few words: `rolled back to blue`.
    pub what: String,
    /// Whether somebody should get up.
    pub urgent: bool,
    /// Label and value, in order.
    pub fields: Vec<(&'static str, String)>,
}

const WITHIN: Duration = Duration::from_secs(5);
/// Before the second, third and fourth attempt.
const AGAIN: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];
/// Slack takes ten fields in a section.
const FIELDS: usize = 10;
/// And 2,000 characters in one.
const LONGEST: usize = 1_900;

// === impl Webhook ===

impl Webhook {
    /// Tells this address.
    #[must_use]
    pub fn new(address: Secret, http: Http) -> Self {
        Self { address, http }
    }

    /// Tells it, again when it does not hear. Whether it has heard.
    pub async fn tell(&self, alert: &Alert) -> bool {
        let body = alert.body();
        for pause in [Duration::ZERO].into_iter().chain(AGAIN) {
            tokio::time::sleep(pause).await;
            match self.http.send(Method::POST, self.address.expose(), Some(&body), WITHIN).await {
                Ok(answer) if answer.status.is_success() => return true,
                // It will not like it any better the next time.
                Ok(answer) if answer.status.is_client_error() && answer.status.as_u16() != 429 => {
                    tracing::error!("the alert webhook answers {}: {}", answer.status, answer.text());
                    return false;
                }
                Ok(answer) => tracing::warn!("the alert webhook answers {}", answer.status),
                Err(failure) => tracing::warn!("the alert webhook: {}", crate::chain(&failure)),
            }
        }
        tracing::error!("nobody was told at the alert webhook: {}", alert.what);
        false
    }
}

// === impl Alert ===

impl Alert {
    /// As Slack reads it: `text` for a notification, blocks for whoever looks.
    #[must_use]
    pub fn body(&self) -> Value {
        let mark = if self.urgent { ":rotating_light:" } else { ":large_green_circle:" };
        let fields: Vec<_> = self
            .fields
            .iter()
            .take(FIELDS)
            .map(|(label, value)| json!({ "type": "mrkdwn", "text": format!("*{label}*\n{}", escaped(value)) }))
            .collect();
        let plain: serde_json::Map<_, _> = self.fields.iter().map(|(label, value)| ((*label).to_owned(), json!(value))).collect();
        json!({
            "text": format!("{mark} {}", escaped(&self.what)),
            "blocks": [
                { "type": "header", "text": { "type": "plain_text", "text": shortened(&self.what, 150) } },
                { "type": "section", "fields": fields },
            ],
            // For receivers that are no Slack.
            "details": plain,
        })
    }
}

/// Slack's three (https://docs.slack.dev/messaging/formatting-message-text).
fn escaped(text: &str) -> String {
    shortened(text, LONGEST).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most { text.to_owned() } else { text.chars().take(most - 1).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_slack_would_take_for_its_own_is_escaped_and_what_is_too_long_is_cut() {
        let fields = vec![("Reason", format!("<!channel> {}", "x".repeat(5000)))];
        let body = Alert { what: "a & b".to_owned(), urgent: true, fields }.body();
        assert_eq!(body["text"], ":rotating_light: a &amp; b");
        let text = body["blocks"][1]["fields"][0]["text"].as_str().unwrap();
        assert!(text.starts_with("*Reason*\n&lt;!channel&gt;") && text.chars().count() < 2000, "{text}");
    }
}
