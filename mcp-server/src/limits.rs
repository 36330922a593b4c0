//! How much at once. Who asks for more is told so quickly, by which limit, and when to come again.
//!
//! What must stay true: a refusal is cheap and changes nothing, it never ends a session or a stream, and probes, operators and
//! whoever looks for the way to a token are refused nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::{
    http::body::{Payload, json},
    mcp::envelope,
    telemetry::metrics::Metrics,
};

/// How much there may be. 0 is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Requests to `/mcp` being answered at once, by the whole process.
    pub calls: usize,
}

/// What there can be too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Calls in the process.
    Calls,
}

/// The limits of a process, and what they counted.
pub(crate) struct Limits {
    config: LimitsConfig,
    /// Calls whose bodies are still on their way.
    arriving: AtomicUsize,
    /// What a call is told that is too much, made before there are many.
    full: Bytes,
    metrics: Arc<Metrics>,
    born: Instant,
    said: [Said; Limit::ALL.len()],
}

/// When a limit was last spoken of, in milliseconds of the process's life, and how often it refused since.
#[derive(Debug, Default)]
struct Said {
    at: AtomicU64,
    refused: AtomicU64,
}

/// A body that is on its way.
pub(crate) struct Arriving<'a>(&'a AtomicUsize);

/// Calls end within milliseconds, so a second later there is room.
const SHED_FOR: u64 = 1;
/// A flood of refusals is one line of the log so often.
const SAID_EVERY: Duration = Duration::from_secs(1);

// === impl Limit ===

impl Limit {
    const ALL: [Self; 1] = [Self::Calls];

    /// The word for metrics and the log.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Calls => "calls",
        }
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::Calls => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

// === impl Limits ===

impl Limits {
    pub(crate) fn new(config: LimitsConfig, metrics: Arc<Metrics>) -> Self {
        let full = refusal(&words(&config, Limit::Calls), SHED_FOR, None);
        Self { config, arriving: AtomicUsize::new(0), full, metrics, born: Instant::now(), said: Default::default() }
    }

    /// Whether a call is too much that is one of so many requests. One whose body is still on its way is no call yet: bodies
    /// that drip must not keep others out.
    pub(crate) fn is_full(&self, among: usize) -> bool {
        let most = self.config.calls;
        most > 0 && among > most && among > most + self.arriving.load(Ordering::Relaxed)
    }

    /// Notes that a body is waited for; nothing when as many are as there may be calls.
    pub(crate) fn arriving(&self) -> Option<Arriving<'_>> {
        let before = self.arriving.fetch_add(1, Ordering::Relaxed);
        let arriving = Arriving(&self.arriving);
        (self.config.calls == 0 || before < self.config.calls).then_some(arriving)
    }

    /// The answer to what is too much. It is worth trying again in so many seconds.
    pub(crate) fn refuse(&self, limit: Limit, after: u64, id: Option<&str>) -> Response<Payload> {
        self.note(limit);
        answer(limit, after, refusal(&words(&self.config, limit), after, id))
    }

    /// The answer to a call that is too much.
    pub(crate) fn shed(&self) -> Response<Payload> {
        self.note(Limit::Calls);
        answer(Limit::Calls, SHED_FOR, self.full.clone())
    }

    /// Counts a refusal, and says now and then that there are some.
    pub(crate) fn note(&self, limit: Limit) {
        self.metrics.refused(limit.as_str());
        let Said { at, refused } = &self.said[limit as usize];
        refused.fetch_add(1, Ordering::Relaxed);
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let last = at.load(Ordering::Relaxed);
        let is_due = last == 0 || now.saturating_sub(last) >= SAID_EVERY.as_millis() as u64;
        if is_due && at.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let refused = refused.swap(0, Ordering::Relaxed);
            tracing::warn!(limit = limit.as_str(), refused, "refused {refused}: {}", words(&self.config, limit));
        }
    }
}

/// What is too much, and what says so.
fn words(config: &LimitsConfig, limit: Limit) -> String {
    match limit {
        Limit::Calls => format!("this process answers {} calls at once and no more (CALLS_MAX)", config.calls),
    }
}

fn refusal(words: &str, after: u64, id: Option<&str>) -> Bytes {
    let words = format!("{words}; try again in {after} s");
    envelope::error(id, envelope::INTERNAL_ERROR, &words, Some(r#"{"retryable":true}"#))
}

fn answer(limit: Limit, after: u64, body: Bytes) -> Response<Payload> {
    let mut answer = json(limit.status(), body);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after));
    answer
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use bg_runtime::{Color, Release};

    use super::*;
    use crate::telemetry::Telemetry;

    fn limits(config: LimitsConfig) -> (Limits, Telemetry) {
        let telemetry = Telemetry::off(&Release::new(Color::Blue, "1.0.0", "test").unwrap());
        (Limits::new(config, Arc::new(Metrics::new(&telemetry.meter()))), telemetry)
    }

    #[test]
    fn a_body_that_drips_keeps_no_call_out_and_is_itself_bounded() {
        let (limits, _) = limits(LimitsConfig { calls: 2 });
        assert!(!limits.is_full(2) && limits.is_full(3));
        let first = limits.arriving();
        assert!(first.is_some() && !limits.is_full(3), "what arrives is no call yet");
        let second = limits.arriving();
        assert!(limits.arriving().is_none(), "as many as calls, and no more");
        assert!(limits.is_full(5) && !limits.is_full(4));
        drop((first, second));
        assert!(limits.is_full(3));
    }

    #[test]
    fn zero_is_no_limit() {
        let (limits, _) = limits(LimitsConfig::default());
        assert!(!limits.is_full(usize::MAX));
        let all: Vec<_> = (0..100).map(|_| limits.arriving()).collect();
        assert!(all.iter().all(Option::is_some));
    }

    #[test]
    fn a_refusal_says_which_limit_and_when_to_come_again_and_is_counted() {
        let (limits, telemetry) = limits(LimitsConfig { calls: 2 });
        let answer = limits.refuse(Limit::Calls, 1, Some("7"));
        assert_eq!((answer.status().as_u16(), &answer.headers()[header::RETRY_AFTER]), (503, &HeaderValue::from(1)));
        let Payload::Bytes(body) = answer.into_body() else { panic!("it is there whole") };
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["id"], &body["error"]["data"]["retryable"]), (&7.into(), &true.into()));
        let words = "this process answers 2 calls at once and no more (CALLS_MAX); try again in 1 s";
        assert_eq!(body["error"]["message"], words);
        let text = telemetry.prometheus();
        assert!(text.contains("mcp_server_admission_refused_total{") && text.contains(r#"reason="calls""#), "{text}");
    }

    #[test]
    fn the_order_of_limits_is_that_of_what_is_said_of_them() {
        for (number, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, number, "{}", limit.as_str());
        }
    }
}
