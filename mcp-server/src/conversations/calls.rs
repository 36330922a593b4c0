//! A line for each call of a conversation, in `mcp_tool_calls`: which tool, answered by which build.
//!
//! A call that writes the conversation leaves its line in the same statement. The others are written together, a moment
//! later, so that no call waits for it; a process that is killed loses those of that moment, one that leaves writes them.

use std::time::Duration;

use bg_runtime::{
    Database, Release,
    database::{DatabaseError, Type},
};
use tokio::time::Instant;

use super::RESPONSE_SCHEMA;
use crate::batch::{self, Batch};

/// Calls on their way into the database.
#[derive(Debug)]
pub(crate) struct Calls {
    build: String,
    lines: Batch<Line>,
}

#[derive(Debug)]
struct Line {
    conversation: String,
    tool: String,
    build: String,
}

/// How long lines and silent conversations are kept, and how often old ones are looked for.
const KEPT: &str = "30 days";
const REAP_EVERY: Duration = Duration::from_secs(60);
/// Rows of one statement that forgets, so that none takes long.
const FORGOTTEN_TOGETHER: u64 = 5000;

const WRITE: &str = "INSERT INTO mcp_tool_calls (session_id, tool_name, tool_version, response_schema_version) \
     SELECT conversation, tool, build, $4 FROM unnest($1::text[], $2::text[], $3::text[]) AS line (conversation, tool, build)";
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
    pub(crate) fn new(release: &Release) -> Self {
        Self { build: release.build(), lines: Batch::new() }
    }

    /// A call of a conversation was answered.
    pub(crate) fn answered(&self, conversation: &str, tool: &str) {
        let line = Line { conversation: conversation.to_owned(), tool: tool.to_owned(), build: self.build.clone() };
        if !self.lines.add(line) {
            tracing::debug!(tool.name = tool, "a call leaves no line: too many wait to be written");
        }
    }

    /// Waits until every line is written.
    pub(crate) async fn written(&self) {
        self.lines.written().await;
    }

    /// Writes lines, and forgets old ones, until it is dropped.
    pub(crate) async fn keep(&self, database: Database) {
        tokio::join!(self.lines.keep(&database), forget(&database));
    }
}

impl batch::Line for Line {
    const NAME: &str = "lines of calls";

    async fn write(database: &Database, lines: &[Self]) -> Result<(), DatabaseError> {
        let texts = |text: fn(&Self) -> &str| lines.iter().map(text).collect::<Vec<_>>();
        let (conversations, tools, builds) =
            (texts(|line| &line.conversation), texts(|line| &line.tool), texts(|line| &line.build));
        let parameters = [
            (&conversations as _, Type::TEXT_ARRAY),
            (&tools as _, Type::TEXT_ARRAY),
            (&builds as _, Type::TEXT_ARRAY),
            (&RESPONSE_SCHEMA as _, Type::INT2),
        ];
        database.get().await?.execute(WRITE, &parameters).await.map(drop)
    }
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
