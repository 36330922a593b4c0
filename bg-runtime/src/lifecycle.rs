//! The life of a process: `Starting → Serving → Leaving → Draining → Stopped`.
//!
//! One enum, one function that moves it, one watch channel that carries the stage and what is in flight together, so that
//! "draining and empty" is one observation. Time goes one way: a process that left never serves again.

pub mod admission;
pub mod drain;
pub mod health;
pub mod role;
pub mod signal;

use std::{fmt, sync::Arc, time::Instant};

use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use admission::{Admission, Work};
pub use drain::{Drained, Hook, Timing};
pub use health::{Check, Checks};
pub use role::Role;

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Not ready yet: something it needs has not been reached.
    Starting,
    /// Ready.
    Serving,
    /// Told to go. Unready, and still accepting and answering everything while balancers learn of it.
    Leaving,
    /// No longer accepting. What is in flight is being finished.
    Draining,
    /// Nothing is answered any more.
    Stopped,
}

impl Stage {
    /// The word used in logs, health bodies and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Leaving => "leaving",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }

    /// Whether the life of a process may go from here to `next`.
    pub const fn leads_to(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Starting, Self::Serving | Self::Leaving)
                | (Self::Serving, Self::Leaving)
                | (Self::Leaving, Self::Draining)
                | (Self::Draining, Self::Stopped)
        )
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A move that the life of a process does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a process that is {from} does not become {to}")]
pub struct Refused {
    /// Where it is.
    pub from: Stage,
    /// Where it should have gone.
    pub to: Stage,
}

/// One observation of a process: where it is and what it still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Where it is in its life.
    pub stage: Stage,
    /// What the rollout last said of it. A hint; see [`Role`].
    pub role: Role,
    /// Requests admitted and not yet answered to their last byte.
    pub calls: usize,
    /// Long-lived streams that are open.
    pub streams: usize,
}

impl Status {
    /// Whether nothing is in flight.
    pub const fn is_idle(&self) -> bool {
        self.calls == 0 && self.streams == 0
    }

    /// Whether connections should be given up: the process is going, or its traffic is.
    pub fn sheds(&self) -> bool {
        self.stage >= Stage::Leaving || self.role == Role::Retiring
    }
}

/// The handle everything in a process shares. Cheap to clone.
#[derive(Clone)]
pub struct Lifecycle {
    inner: Arc<Inner>,
}

struct Inner {
    status: watch::Sender<Status>,
    cut: CancellationToken,
    born: Instant,
}

// === impl Lifecycle ===

impl Lifecycle {
    /// A process that is starting.
    pub fn new() -> Self {
        let status = Status { stage: Stage::Starting, role: Role::Active, calls: 0, streams: 0 };
        Self {
            inner: Arc::new(Inner { status: watch::Sender::new(status), cut: CancellationToken::new(), born: Instant::now() }),
        }
    }

    /// Where the process is now.
    pub fn status(&self) -> Status {
        *self.inner.status.borrow()
    }

    /// When the process was born.
    pub fn born(&self) -> Instant {
        self.inner.born
    }

    /// Moves on. `why` is for the log: one line per transition is the audit trail of a rollout.
    ///
    /// # Errors
    /// When the life of a process has no such move; nothing changes then.
    pub fn advance(&self, to: Stage, why: &str) -> Result<(), Refused> {
        let mut outcome = Ok(());
        self.inner.status.send_if_modified(|status| {
            let from = status.stage;
            if from.leads_to(to) {
                status.stage = to;
                tracing::info!(lifecycle.from = %from, lifecycle.to = %to, calls = status.calls, streams = status.streams, "{from} -> {to}: {why}");
                true
            } else {
                outcome = Err(Refused { from, to });
                false
            }
        });
        outcome
    }

    /// Takes the rollout's hint.
    pub fn set_role(&self, role: Role) {
        self.inner.status.send_if_modified(|status| {
            let from = std::mem::replace(&mut status.role, role);
            if from != role {
                tracing::info!(role.from = %from, role.to = %role, "role {from} -> {role}");
            }
            from != role
        });
    }

    /// Waits until `condition` holds of the status. Level-triggered: a state that came and stayed is never missed.
    pub async fn wait_for(&self, condition: impl FnMut(&Status) -> bool) -> Status {
        let mut status = self.inner.status.subscribe();
        *status.wait_for(condition).await.expect("the sender lives as long as this handle")
    }

    /// Every status from now on, for those who must react to each change.
    pub fn subscribe(&self) -> watch::Receiver<Status> {
        self.inner.status.subscribe()
    }

    /// Cancelled when waiting for what is in flight is over. Whoever still works then answers at once that it was cut.
    pub fn cut(&self) -> &CancellationToken {
        &self.inner.cut
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lifecycle").field(&self.status()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGES: [Stage; 5] = [Stage::Starting, Stage::Serving, Stage::Leaving, Stage::Draining, Stage::Stopped];

    #[test]
    fn time_goes_one_way() {
        for from in STAGES {
            for to in STAGES {
                if from >= to {
                    assert!(!from.leads_to(to), "{from} -> {to}");
                }
            }
        }
    }

    #[test]
    fn an_illegal_move_is_a_value_and_changes_nothing() {
        let lifecycle = Lifecycle::new();
        let refused = lifecycle.advance(Stage::Draining, "test").unwrap_err();
        assert_eq!(refused, Refused { from: Stage::Starting, to: Stage::Draining });
        assert_eq!(lifecycle.status().stage, Stage::Starting);
    }

    #[test]
    fn a_retiring_role_sheds_without_leaving() {
        let lifecycle = Lifecycle::new();
        lifecycle.advance(Stage::Serving, "test").unwrap();
        assert!(!lifecycle.status().sheds());
        lifecycle.set_role(Role::Retiring);
        assert!(lifecycle.status().sheds());
        assert_eq!(lifecycle.status().stage, Stage::Serving);
        lifecycle.set_role(Role::Active);
        assert!(!lifecycle.status().sheds());
    }
}
