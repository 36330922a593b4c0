//! Counts requests whose caller was rejected, by reason, and logs them: one line per reason and second at most.
//!
//! What must stay true: a reason is one of the words below and never anything that a caller sent, so that nobody outside can
//! create a series, and no token, subject or address is written.

use std::{sync::Arc, time::Instant};

use super::{Denied, token::Wrong};
use crate::telemetry::{metrics::Metrics, throttle::Throttle};

/// The counters and the throttled log lines of one process.
pub(crate) struct Rejections {
    metrics: Arc<Metrics>,
    created: Instant,
    throttles: [Throttle; REASONS.len()],
}

/// Why a caller was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The caller was not authenticated.
    Denied(Denied),
    /// The caller was authenticated, and the token does not have a scope that the tool requires.
    InsufficientScope,
}

/// Every reason, as the metric's label and the log field have it.
const REASONS: [&str; 14] = [
    "missing",
    "malformed",
    "issuer_unavailable",
    "not_a_jwt",
    "algorithm",
    "signature",
    "unknown_key",
    "expired",
    "not_yet_valid",
    "issuer",
    "audience",
    "bound_to_a_key",
    "claims",
    "insufficient_scope",
];

// === impl Reason ===

impl Reason {
    /// The place of the reason in [`REASONS`].
    const fn index(self) -> usize {
        match self {
            Self::Denied(Denied::Missing) => 0,
            Self::Denied(Denied::Malformed) => 1,
            Self::Denied(Denied::Unavailable) => 2,
            Self::Denied(Denied::Invalid(wrong)) => match wrong {
                Wrong::Form => 3,
                Wrong::Algorithm => 4,
                Wrong::Signature => 5,
                Wrong::UnknownKey => 6,
                Wrong::Expired => 7,
                Wrong::Early => 8,
                Wrong::Issuer => 9,
                Wrong::Audience => 10,
                Wrong::Bound => 11,
                Wrong::Claims => 12,
            },
            Self::InsufficientScope => 13,
        }
    }

    const fn as_str(self) -> &'static str {
        REASONS[self.index()]
    }
}

// === impl Rejections ===

impl Rejections {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, created: Instant::now(), throttles: Default::default() }
    }

    /// Counts a rejected request, and logs how many there were since the last line of this reason. `tool` is the name of the
    /// tool that requires a scope.
    pub(crate) fn count(&self, reason: Reason, tool: Option<&str>) {
        let word = reason.as_str();
        self.metrics.rejected(word);
        let Some(count) = self.throttles[reason.index()].count(self.created) else { return };
        match (reason, tool) {
            // Every client begins its sign-in with one of these.
            (Reason::Denied(Denied::Missing), _) => {
                tracing::info!(reason = word, count, "requests without an access token: {count}");
            }
            (Reason::Denied(Denied::Unavailable), _) => {
                tracing::warn!(reason = word, count, "requests whose token could not be checked, issuer unreachable: {count}");
            }
            (_, Some(tool)) => {
                tracing::warn!(reason = word, count, tool.name = tool, "calls rejected for {word}: {count}, the last of {tool}");
            }
            (_, None) => tracing::warn!(reason = word, count, "requests rejected, access token not valid ({word}): {count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Telemetry, tests::release};

    #[test]
    fn every_reason_has_a_series_of_its_own() {
        let telemetry = Telemetry::off(&release());
        let rejections = Rejections::new(Arc::new(Metrics::new(&telemetry.meter())));
        let wrong = [
            Wrong::Form,
            Wrong::Algorithm,
            Wrong::Signature,
            Wrong::UnknownKey,
            Wrong::Expired,
            Wrong::Early,
            Wrong::Issuer,
            Wrong::Audience,
            Wrong::Bound,
            Wrong::Claims,
        ];
        let denied = [Denied::Missing, Denied::Malformed, Denied::Unavailable].into_iter().chain(wrong.map(Denied::Invalid));
        for reason in denied.map(Reason::Denied).chain([Reason::InsufficientScope]) {
            rejections.count(reason, None);
        }
        let text = telemetry.prometheus();
        let series: Vec<_> = text.lines().filter(|line| line.starts_with("mcp_server_authentication_rejected_total{")).collect();
        assert_eq!(series.len(), REASONS.len(), "{text}");
        for reason in REASONS {
            let label = format!("reason=\"{reason}\"");
            assert!(series.iter().any(|line| line.contains(&label) && line.ends_with(" 1")), "{reason}: {text}");
        }
    }
}
