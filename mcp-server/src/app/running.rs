//! An application that runs, and its departure.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use bg_runtime::{
    Database, Lifecycle,
    lifecycle::{Drained, Hook, Stage, Timing},
    storage::Control,
};
use tokio::task::JoinHandle;

use crate::{
    audit,
    conversations::calls::Calls,
    drainage::Drainage,
    http::edge::Edge,
    mcp::door::Door,
    telemetry::{Telemetry, metrics::Metrics},
};

/// How long the other replicas are told that this one goes.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(2);
/// Telemetry's last word; a collector that is away must not hold up an exit.
const FLUSH_DEADLINE: Duration = Duration::from_secs(3);

/// An application that is running.
pub struct Running {
    pub(super) door: Arc<Door>,
    pub(super) edge: Arc<Edge>,
    pub(super) address: SocketAddr,
    pub(super) operations: SocketAddr,
    pub(super) lifecycle: Lifecycle,
    pub(super) timing: Timing,
    pub(super) hooks: Vec<Hook>,
    pub(super) listening: JoinHandle<()>,
    pub(super) helpers: Vec<JoinHandle<()>>,
    pub(super) telemetry: Telemetry,
    pub(super) metrics: Arc<Metrics>,
    pub(super) database: Option<Database>,
    pub(super) control: Option<Control>,
    pub(super) drainage: Option<Drainage>,
    pub(super) calls: Option<Arc<Calls>>,
    pub(super) audit: Option<Arc<audit::Log>>,
}

// === impl Running ===

impl Running {
    /// Where the public doors are.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the operations doors are.
    pub fn operations_address(&self) -> SocketAddr {
        self.operations
    }

    /// The life of this process.
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    pub(crate) fn door(&self) -> &Door {
        &self.door
    }

    pub(crate) fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    /// Waits until `/ready` says 200, or the process leaves before that.
    pub async fn ready(&self) {
        self.lifecycle.wait_for(|status| status.stage >= Stage::Serving).await;
    }

    /// Leaves: unready, then draining, then stopped. `now` cuts the waiting short.
    pub async fn depart(self, why: &str, now: impl Future<Output = &'static str>) -> Drained {
        let mut listening = self.listening;
        let closed = async {
            // A listener that panicked has no connection left either.
            let _ = (&mut listening).await;
        };
        let drained = self.lifecycle.depart(why, &self.timing, self.hooks, closed, now).await;
        listening.abort();
        let written = async {
            if let Some(calls) = self.calls {
                calls.written().await;
            }
            if let Some(audit) = self.audit {
                audit.written().await;
            }
        };
        // In vain when the database is away.
        let _ = tokio::time::timeout(GOODBYE_DEADLINE, written).await;
        for helper in &self.helpers {
            helper.abort();
        }
        self.metrics.cut(drained.cut as u64);
        if let Some(drainage) = self.drainage {
            let _ = tokio::time::timeout(GOODBYE_DEADLINE, drainage.leave()).await;
        }
        if let Some(control) = self.control {
            // In vain when the database is away: the others then notice by its silence.
            let _ = tokio::time::timeout(GOODBYE_DEADLINE, control.leave()).await;
        }
        if let Some(database) = self.database
            && let Err(failure) = database.close().await
        {
            tracing::warn!(error = %failure, "the database was not closed cleanly: {failure}");
        }
        self.telemetry.flush(FLUSH_DEADLINE).await;
        drained
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("address", &self.address).field("lifecycle", &self.lifecycle).finish_non_exhaustive()
    }
}
