//! Rows that are written after the answer, many in one statement.
//!
//! What must stay true: nobody waits for them; a graceful shutdown writes what is there, and a process that is killed loses
//! the rows of that moment.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bg_runtime::{Database, database::DatabaseError};
use tokio::sync::{mpsc, watch};

/// A row of a batch.
pub(crate) trait Line: Send + Sync + Sized + 'static {
    /// What the rows are, as the log names them.
    const NAME: &str;

    /// Writes the rows in one statement.
    fn write(database: &Database, lines: &[Self]) -> impl Future<Output = Result<(), DatabaseError>> + Send;
}

/// Rows on their way into the database.
#[derive(Debug)]
pub(crate) struct Batch<L> {
    lines: mpsc::Sender<L>,
    /// Taken by [`keep`](Self::keep).
    to_write: Mutex<Option<mpsc::Receiver<L>>>,
    /// How many are not written yet.
    waiting: watch::Sender<usize>,
}

/// Rows that may wait. A database that is away for longer costs the newest ones.
const MAX_WAITING: usize = 10_000;
/// Rows of one statement, and how long the first of them waits for others.
const MAX_ROWS: usize = 500;
const GATHER: Duration = Duration::from_millis(200);
const RETRY_DELAY: Duration = Duration::from_millis(500);

// === impl Batch ===

impl<L: Line> Batch<L> {
    pub(crate) fn new() -> Self {
        let (lines, to_write) = mpsc::channel(MAX_WAITING);
        Self { lines, to_write: Mutex::new(Some(to_write)), waiting: watch::Sender::new(0) }
    }

    /// Adds a row. Returns whether there was room for it.
    pub(crate) fn add(&self, line: L) -> bool {
        self.waiting.send_modify(|waiting| *waiting += 1);
        let is_added = self.lines.try_send(line).is_ok();
        if !is_added {
            self.waiting.send_modify(|waiting| *waiting -= 1);
        }
        is_added
    }

    /// Waits until every row is written.
    pub(crate) async fn written(&self) {
        // The sender is in self.
        let _ = self.waiting.subscribe().wait_for(|waiting| *waiting == 0).await;
    }

    /// Writes rows until it is dropped.
    pub(crate) async fn keep(&self, database: &Database) {
        let to_write = self.to_write.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut to_write) = to_write else { return };
        let mut lines = Vec::new();
        while to_write.recv_many(&mut lines, MAX_ROWS).await > 0 {
            if lines.len() < MAX_ROWS {
                tokio::time::sleep(GATHER).await;
                let room = MAX_ROWS - lines.len();
                lines.extend(std::iter::from_fn(|| to_write.try_recv().ok()).take(room));
            }
            let mut is_logged = false;
            while let Err(failure) = L::write(database, &lines).await {
                if !failure.is_retryable() {
                    tracing::error!(error = %failure, "{} {} are lost: {failure}", lines.len(), L::NAME);
                    break;
                }
                if !std::mem::replace(&mut is_logged, true) {
                    tracing::warn!(error = %failure, "{} {} are written later: {failure}", lines.len(), L::NAME);
                }
                tokio::time::sleep(RETRY_DELAY).await;
            }
            self.waiting.send_modify(|waiting| *waiting -= lines.len());
            lines.clear();
        }
    }
}
