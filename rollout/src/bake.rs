//! The bake: traffic goes to the new color, and everything that could say that it is worse is asked until the time is over.
//! The comparison of both colors, people and systems that send an alert, and questions put to Prometheus.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::post,
};
use bg_runtime::Secret;
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    compare::{self, Comparison, Observed, Verdict},
    http::Http,
    operator_secret,
    record::Done,
};

/// What is asked in a bake.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Where an Alertmanager, or whoever has the token, may POST that something is wrong.
    pub alert_listen: Option<SocketAddr>,
    /// The token that an alert has to bring. Without one, every alert is refused.
    pub alert_token: Option<Secret>,
    /// A Prometheus, as `http://host:port`.
    pub prometheus: Option<String>,
    /// What it is asked: an answer with any sample whose value is not 0 is a reason to go back.
    pub queries: Vec<String>,
    /// What worse means.
    pub limits: compare::Limits,
}

/// Hears alerts for as long as it lives.
#[derive(Debug)]
pub struct Ear {
    heard: watch::Receiver<Option<String>>,
    task: tokio::task::JoinHandle<()>,
}

const PROMETHEUS_WITHIN: Duration = Duration::from_secs(5);

// === impl Ear ===

impl Ear {
    /// Listens. `POST /alerts` takes Alertmanager's form (`status` is `firing`), or any JSON with a `reason`, from whoever brings
    /// the token as `Authorization: Bearer TOKEN`: an alert takes a build back.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub async fn open(address: SocketAddr, token: Secret) -> std::io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let (tell, heard) = watch::channel(None);
        let for_token = axum::middleware::from_fn_with_state(Arc::new(token), with_token);
        let router = Router::new().route("/alerts", post(hear)).with_state(Arc::new(tell)).layer(for_token);
        let task = tokio::spawn(async move {
            let _ = axum::serve(socket, router).await;
        });
        Ok(Self { heard, task })
    }

    /// What was heard.
    #[must_use]
    pub fn heard(&self) -> Option<String> {
        self.heard.borrow().clone()
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Before the body is read.
async fn with_token(State(token): State<Arc<Secret>>, request: Request, next: Next) -> Response {
    if operator_secret::allows(request.headers(), &token) {
        return next.run(request).await;
    }
    tracing::warn!("an alert without the token was refused");
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")]).into_response()
}

async fn hear(State(tell): State<Arc<watch::Sender<Option<String>>>>, Json(said): Json<Value>) -> StatusCode {
    let reason = match said["status"].as_str() {
        // Alertmanager also tells that it is over.
        Some("resolved") => return StatusCode::NO_CONTENT,
        Some("firing") => {
            let alert = &said["alerts"][0];
            let summary = [&alert["annotations"]["summary"], &alert["labels"]["alertname"], &said["commonLabels"]["alertname"]];
            summary.into_iter().find_map(Value::as_str).unwrap_or("an alert").to_owned()
        }
        _ => match said["reason"].as_str() {
            Some(reason) => reason.to_owned(),
            None => return StatusCode::BAD_REQUEST,
        },
    };
    tell.send_replace(Some(crate::plain(&reason)));
    StatusCode::ACCEPTED
}

// === impl Watch ===

impl Watch {
    /// Whether the questions can be asked, before anything depends on them.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn reach_prometheus(&self, http: &Http) -> Result<(), String> {
        let Some(base) = &self.prometheus else { return Ok(()) };
        for query in &self.queries {
            answer(http, base, query).await?;
        }
        Ok(())
    }

    /// Compares what both colors did.
    #[must_use]
    pub fn compare(&self, baseline: &Done, candidate: &Done) -> Comparison {
        let observed = |done| -> Observed<'_> {
            let done: &Done = done;
            Observed { calls: &done.calls, panics: done.panics, cut: done.cut, waiting_samples: done.waiting }
        };
        compare::compare(&observed(baseline), &observed(candidate), &self.limits)
    }

    /// Asks Prometheus. What it says against the new color, if anything; that it cannot be asked is said, and is no verdict.
    pub async fn ask_prometheus(&self, http: &Http) -> Option<String> {
        let base = self.prometheus.as_ref()?;
        for query in &self.queries {
            match answer(http, base, query).await {
                Ok(said) => {
                    let results = said["data"]["result"].as_array();
                    let value = |sample: &Value| sample["value"][1].as_str().and_then(|value| value.parse::<f64>().ok());
                    let bad = results.into_iter().flatten().filter_map(value).find(|value| *value != 0.0 && !value.is_nan());
                    if let Some(value) = bad {
                        return Some(format!("Prometheus answers {value} to `{query}`"));
                    }
                }
                Err(words) => tracing::warn!("{words}"),
            }
        }
        None
    }
}

/// What Prometheus answers, or why it does not, in words.
async fn answer(http: &Http, base: &str, query: &str) -> Result<Value, String> {
    let address = format!("{}/api/v1/query?query={}", base.trim_end_matches('/'), crate::http::encoded(query));
    let answer = http.get(&address, PROMETHEUS_WITHIN).await;
    let answer = answer.map_err(|failure| format!("Prometheus cannot be asked: {}", crate::chain(&failure)))?;
    if answer.status.is_success() {
        return Ok(answer.json());
    }
    Err(format!("Prometheus answers {} to `{query}`: {}", answer.status, answer.text()))
}

/// How a bake goes.
#[derive(Clone, Debug)]
pub enum Going {
    /// Go on.
    Well(String),
    /// Go back, for its reasons.
    Badly(Comparison),
    /// The time is over.
    Over(Comparison),
}

/// Judges a bake at one moment: `begun` is its beginning, and it takes `lasts`.
#[must_use]
pub fn judge(comparison: Comparison, begun: Instant, lasts: Duration) -> Going {
    if comparison.verdict == Verdict::Worse {
        return Going::Badly(comparison);
    }
    let left = lasts.saturating_sub(begun.elapsed());
    if left.is_zero() {
        return Going::Over(comparison);
    }
    let words = match comparison.verdict {
        Verdict::TooFew => comparison.reasons.first().cloned().unwrap_or_default(),
        _ => "alike so far".to_owned(),
    };
    Going::Well(format!("{:.0} s left, {words}", left.as_secs_f64().ceil()))
}
