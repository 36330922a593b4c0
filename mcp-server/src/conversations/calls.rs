//! A line for each call of a conversation, in `mcp_tool_calls`: which tool, answered by which build.
//!
//! A call that writes the conversation leaves its line in the same statement. The others are written together, a moment
//! later, so that no call waits for it; a process that is killed loses those of that moment, one that leaves writes them.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bg_runtime::{
    Database, Release,
    database::{DatabaseError, Type},
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::RESPONSE_SCHEMA;

/// Calls on their way into the database.
#[derive(Debug)]
pub(crate) struct Calls {
    lines: mpsc::Sender<Line>,
    /// Taken by [`keep`](Self::keep).
    to_write: Mutex<Option<mpsc::Receiver<Line>>>,
    /// How many are not written yet.
    waiting: watch::Sender<usize>,
}

#[derive(Debug)]
struct Line {
    conversation: String,
    tool: String,
}

/// Lines that may wait. A database that is away for longer costs the newest ones, and is said.
const WAITING: usize = 10_000;
/// Lines of one statement, and how long the first of them waits for others.
const TOGETHER: usize = 500;
const GATHER: Duration = Duration::from_millis(200);
const AGAIN: Duration = Duration::from_millis(500);
/// How long lines and silent conversations are kept, and how often old ones are looked for.
const KEPT: &str = "30 days";
const REAP_EVERY: Duration = Duration::from_secs(60);
/// Rows of one statement that forgets, so that none takes long.
const FORGOTTEN_TOGETHER: u64 = 5000;

const WRITE: &str = "INSERT INTO mcp_tool_calls (session_id, tool_name, tool_version, response_schema_version) \
     SELECT conversation, tool, $3, $4 FROM unnest($1::text[], $2::text[]) AS line (conversation, tool)";
/// One process at a time. What was written while the row was waited for is not old any more, so each says twice what is.
const REAP: [&str; 3] = [
    "WITH mine AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtext('mcp_tool_calls reaper')) AS mine) \
     DELETE FROM mcp_tool_calls USING mine WHERE mine AND id IN \
     (SELECT id FROM mcp_tool_calls WHERE created_at < now() - $1::text::interval LIMIT 5000)",
    "WITH mine AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtext('mcp_tool_calls reaper')) AS mine) \
     DELETE FROM chat_sessions USING mine WHERE mine AND updated_at < now() - $1::text::interval AND session_id IN \
     (SELECT session_id FROM chat_sessions \
      WHERE created_at < now() - $1::text::interval AND updated_at < now() - $1::text::interval LIMIT 5000)",
    "WITH mine AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtext('mcp_tool_calls reaper')) AS mine) \
     DELETE FROM chat_sessions USING mine WHERE mine AND expires_at < now() AND $1::text IS NOT NULL AND session_id IN \
     (SELECT session_id FROM chat_sessions WHERE expires_at < now() LIMIT 5000)",
];

// === impl Calls ===

impl Calls {
    pub(crate) fn new() -> Self {
        let (lines, to_write) = mpsc::channel(WAITING);
        Self { lines, to_write: Mutex::new(Some(to_write)), waiting: watch::Sender::new(0) }
    }

    /// A call of a conversation was answered.
    pub(crate) fn answered(&self, conversation: &str, tool: &str) {
        let line = Line { conversation: conversation.to_owned(), tool: tool.to_owned() };
        self.waiting.send_modify(|waiting| *waiting += 1);
        if self.lines.try_send(line).is_err() {
            self.waiting.send_modify(|waiting| *waiting -= 1);
            tracing::debug!(tool.name = tool, "a call leaves no line: too many wait to be written");
        }
    }

    /// Waits until every line is written.
    pub(crate) async fn written(&self) {
        // The sender is in self.
        let _ = self.waiting.subscribe().wait_for(|waiting| *waiting == 0).await;
    }

    /// Writes lines, and forgets old ones, until it is dropped.
    pub(crate) async fn keep(&self, database: Database, release: Release) {
        let to_write = self.to_write.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut to_write) = to_write else { return };
        let build = release.build();
        let write = async {
            let mut lines = Vec::new();
            while to_write.recv_many(&mut lines, TOGETHER).await > 0 {
                if lines.len() < TOGETHER {
                    tokio::time::sleep(GATHER).await;
                    let room = TOGETHER - lines.len();
                    lines.extend(std::iter::from_fn(|| to_write.try_recv().ok()).take(room));
                }
                let mut said = false;
                while let Err(failure) = write(&database, &build, &lines).await {
                    if !failure.is_retryable() {
                        tracing::error!(error = %failure, "{} calls leave no line: {failure}", lines.len());
                        break;
                    }
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!(error = %failure, "lines of calls are written later: {failure}");
                    }
                    tokio::time::sleep(AGAIN).await;
                }
                self.waiting.send_modify(|waiting| *waiting -= lines.len());
                lines.clear();
            }
        };
        tokio::join!(write, forget(&database));
    }
}

async fn write(database: &Database, build: &str, lines: &[Line]) -> Result<(), DatabaseError> {
    let conversations: Vec<&str> = lines.iter().map(|line| &*line.conversation).collect();
    let tools: Vec<&str> = lines.iter().map(|line| &*line.tool).collect();
    let parameters = [
        (&conversations as _, Type::TEXT_ARRAY),
        (&tools as _, Type::TEXT_ARRAY),
        (&build as _, Type::TEXT),
        (&RESPONSE_SCHEMA as _, Type::INT2),
    ];
    database.get().await?.execute(WRITE, &parameters).await.map(drop)
}

async fn forget(database: &Database) {
    let mut reap = tokio::time::interval_at(Instant::now() + REAP_EVERY, REAP_EVERY);
    loop {
        reap.tick().await;
        for sql in REAP {
            let reap = async || database.get().await?.execute(sql, &[(&KEPT, Type::TEXT)]).await;
            loop {
                match reap().await {
                    Ok(count) if count >= FORGOTTEN_TOGETHER => {}
                    Ok(_) => break,
                    Err(failure) => {
                        tracing::warn!(error = %failure, "old conversations are forgotten later: {failure}");
                        break;
                    }
                }
            }
        }
    }
}
