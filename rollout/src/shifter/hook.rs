//! A gate of a deployment that ECS does by itself: may it go on. A hook of the type `AWS_LAMBDA` asks, and waits for the answer.

use std::time::Duration;

use bg_runtime::Color;
use serde_json::{Value, json};

use super::{ASKED_WITHIN, Limits, Shifter};
use crate::{
    driver::{Driver, DriverError, Ended, Image, Observation, Replica, Said, Slot},
    gate::{self, Gate},
    http::Http,
};

/// What ECS asks.
#[derive(Debug)]
pub(super) struct Hook {
    stage: String,
    revision: String,
    /// How often it has asked before.
    asked: u64,
}

/// What the gates say of a revision, in words for a person.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It may go on.
    Passed(String),
    /// It is to be asked again.
    NotYet(String),
    /// It must not.
    Failed(String),
}

/// What a revision's targets are, for the gates of a rollout.
#[derive(Debug)]
struct Revision {
    color: Color,
    replicas: Vec<Replica>,
}

/// Stages at which nothing of the new revision runs.
const BEFORE_IT_RUNS: [&str; 2] = ["RECONCILE_SERVICE", "PRE_SCALE_UP"];
/// So often ECS is told to ask again: with the pause, ten minutes.
const PATIENCE: u64 = 20;
/// In seconds.
const AGAIN: u64 = 30;

// === impl Hook ===

impl Hook {
    /// Reads it, if it is one.
    pub(super) fn read(event: &Value) -> Option<Self> {
        let details = event.get("executionDetails")?;
        Some(Self {
            stage: event["lifecycleStage"].as_str().unwrap_or_default().to_owned(),
            revision: details["targetServiceRevisionArn"].as_str().unwrap_or_default().to_owned(),
            asked: event["hookDetails"]["asked"].as_u64().unwrap_or_default(),
        })
    }

    /// Whether the deployment goes on, goes back, or asks again. Never an error: ECS would only see that there was one.
    pub(super) async fn answer(&self, shifter: &Shifter) -> Value {
        match verdict(&self.stage, &self.revision, shifter).await {
            Verdict::Passed(words) => said("SUCCEEDED", &words),
            Verdict::NotYet(words) => self.again(&words),
            Verdict::Failed(words) => said("FAILED", &words),
        }
    }

    fn again(&self, words: &str) -> Value {
        if self.asked >= PATIENCE {
            return said("FAILED", words);
        }
        let mut again = said("IN_PROGRESS", words);
        again["callBackDelay"] = json!(AGAIN);
        again["hookDetails"] = json!({ "asked": self.asked + 1 });
        again
    }
}

fn said(status: &str, words: &str) -> Value {
    tracing::info!("{status}: {words}");
    json!({ "hookStatus": status })
}

/// Whether a revision may go on from this stage.
pub(super) async fn verdict(stage: &str, revision: &str, shifter: &Shifter) -> Verdict {
    if BEFORE_IT_RUNS.contains(&stage) {
        return Verdict::Passed("nothing runs yet".to_owned());
    }
    let (health, replicas) = match shifter.driver.revision(revision).await {
        Ok(found) => found,
        Err(failure @ DriverError::Away(..)) => return Verdict::NotYet(crate::chain(&failure)),
        Err(failure) => return Verdict::Failed(crate::chain(&failure)),
    };
    if !shifter.limits.are_enough(health) {
        return Verdict::NotYet(format!("{}/{} targets are healthy", health.0, health.1));
    }
    match passed(replicas, &shifter.http, &shifter.limits).await {
        Ok(words) => Verdict::Passed(words),
        Err(words) => Verdict::Failed(words),
    }
}

/// The smoke test of the tasks, where they can be reached; else what clients are answered.
async fn passed(replicas: Vec<Replica>, http: &Http, limits: &Limits) -> Result<String, String> {
    let ready: Vec<_> = replicas.into_iter().filter(|replica| replica.ready && !replica.leaving).collect();
    if let Some(first) = ready.first() {
        let address = format!("http://{}/health", first.address);
        let answer = http.get(&address, ASKED_WITHIN).await.map_err(|failure| crate::chain(&failure))?;
        let color = answer.header("release-color").and_then(|color| color.parse().ok()).unwrap_or(Color::Blue);
        let revision = Revision { color, replicas: ready };
        let context = gate::Context {
            driver: &revision,
            http,
            journal: None,
            rollout: None,
            color,
            image: None,
            replicas: 1,
            live_rate: 0.0,
            limits: &gate::Limits::default(),
            progress: &|words| tracing::debug!("{words}"),
        };
        let finding = Gate::Smoke.ask(&context).await;
        return if finding.passed { Ok(finding.words) } else { Err(finding.words) };
    }
    let Some(entrance) = &limits.entrance else {
        return Err("no task says from here that it is ready: let this run inside their network, or set ENTRANCE".to_owned());
    };
    let address = format!("{}/health", entrance.trim_end_matches('/'));
    let answer = http.get(&address, ASKED_WITHIN).await.map_err(|failure| crate::chain(&failure))?;
    match answer.json()["status"].as_str() {
        Some("healthy") if answer.status.is_success() => Ok(format!("{address} is healthy")),
        said => Err(format!("{address} answers {} and says {}", answer.status.as_u16(), said.unwrap_or("nothing"))),
    }
}

// === impl Revision ===

#[async_trait::async_trait]
impl Driver for Revision {
    fn platform(&self) -> &'static str {
        "ecs"
    }

    fn entrance(&self) -> String {
        String::new()
    }

    fn missing(&self, _image: &Image) -> Option<String> {
        None
    }

    async fn observe(&self) -> Result<Observation, DriverError> {
        let (seen, nothing) = (Slot { replicas: self.replicas.clone(), ..Slot::default() }, Slot::default());
        let (blue, green) = if self.color == Color::Blue { (seen, nothing) } else { (nothing, seen) };
        Ok(Observation { green_percent: 0, epoch: 0, before: None, blue, green })
    }

    async fn fence(&self, _epoch: i64) -> Result<(), DriverError> {
        Err(only_seen())
    }

    async fn run(&self, _color: Color, _image: &Image, _replicas: u32, _epoch: i64) -> Result<(), DriverError> {
        Err(only_seen())
    }

    async fn stop(&self, _color: Color, _epoch: i64) -> Result<(), DriverError> {
        Err(only_seen())
    }

    async fn shift(&self, _green_percent: u8, _epoch: i64) -> Result<(), DriverError> {
        Err(only_seen())
    }

    async fn task(&self, _image: &Image, _arguments: &[&str], _within: Duration, _said: Said<'_>) -> Result<Ended, DriverError> {
        Err(only_seen())
    }
}

fn only_seen() -> DriverError {
    DriverError::Refused("a deployment of ECS moves by itself".to_owned())
}
