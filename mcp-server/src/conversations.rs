//! Conversations: their state, their widgets' states and a line for each call, written by two releases at the same time.
//!
//! A write is one statement and one round trip, whatever it carries. What must stay true: a write is based on the version
//! that was read, so that nobody overwrites what they have not seen, and either all of it happens or none.

pub(crate) mod calls;

use bg_runtime::{
    Database,
    database::{Json, Type},
    storage::{
        Control, StorageError, Table,
        dual_write::{Column, DualWrite, Key, Shape, Side, Statement, Tag},
        migration::Migration,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::error::ToolError;

/// The migrations of these tables: the first release's, and the second's.
pub const MIGRATIONS: [Migration; 2] = [
    Migration::new("0002_chat_sessions", include_str!("../migrations/0002_chat_sessions/expand.sql")),
    Migration::new("0003_conversation_state", include_str!("../migrations/0003_conversation_state/expand.sql"))
        .undo(include_str!("../migrations/0003_conversation_state/undo.sql"))
        .dual_write(&CHAT_SESSIONS),
];

/// The version of what tools of this release answer, in `mcp_tool_calls`.
pub const RESPONSE_SCHEMA: i16 = 2;

/// `chat_sessions`, from `state_data` to `conversation_state`.
pub static CHAT_SESSIONS: DualWrite = DualWrite {
    migration: "0003_conversation_state",
    table: "chat_sessions",
    key: Key { name: "session_id", kind: "text" },
    old: Shape { schema: 1, columns: &[Column { name: "state_data", kind: "jsonb", lens: "conversation_state" }] },
    new: Shape { schema: 2, columns: &[Column { name: "conversation_state", kind: "jsonb", lens: "state_data" }] },
    mark: "conv_version",
    tags: &[Tag {
        name: "a call with a tool_version and the response schema of the release before",
        table: "mcp_tool_calls",
        key: "id",
        never: "tool_version IS NOT NULL AND response_schema_version = 1",
    }],
};

/// All conversations.
#[derive(Clone, Debug)]
pub struct Conversations {
    table: Table,
    statements: &'static Statements,
}

#[derive(Debug)]
struct Statements {
    begin: Statement,
    save: Statement,
    load: Statement,
    touch: Statement,
}

/// A conversation as it was read.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    /// What a write has to be based on.
    pub row_version: i64,
    /// Its state.
    pub state: T,
    /// Its widgets, by type.
    pub widgets: Vec<Widget>,
}

/// The state of one widget of a conversation.
#[derive(Clone, Debug)]
pub struct Widget {
    /// The widget's type; a conversation has one state for each.
    pub kind: String,
    /// The state: any JSON.
    pub state: Box<RawValue>,
}

/// One write.
#[derive(Clone, Copy, Debug)]
pub struct Save<'a, T> {
    /// The conversation.
    pub session: &'a str,
    /// Whose it is. A conversation of somebody else is as good as none.
    pub principal: &'a str,
    /// The version the write is based on; 0 begins a conversation.
    pub base: i64,
    /// The state.
    pub state: &'a T,
    /// The widgets whose state changed.
    pub widgets: &'a [Widget],
    /// The call that made the change.
    pub call: Option<Call<'a>>,
}

/// A call, as it is remembered.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The tool's name.
    pub tool: &'a str,
    /// The build that ran it.
    pub version: &'a str,
}

/// What follows the write of a conversation, and is not done without it. `$4` is the principal in all statements.
const BESIDES: &str = "\
widgets AS (\
 INSERT INTO widget_metadata (session_id, widget_type, widget_state, row_version) \
 SELECT $1, widget.kind, widget.state, written.row_version FROM written, unnest($5::text[], $6::jsonb[]) AS widget (kind, state) \
 ON CONFLICT (session_id, widget_type) DO UPDATE \
 SET widget_state = excluded.widget_state, row_version = excluded.row_version, updated_at = now() \
 WHERE widget_metadata.row_version < excluded.row_version), \
call AS (\
 INSERT INTO mcp_tool_calls (session_id, tool_name, tool_version, response_schema_version) \
 SELECT $1, $7::text, $8::text, $9::smallint FROM written WHERE $7::text IS NOT NULL) \
SELECT written.row_version, mcp_control.epoch FROM written, mcp_control";

// === impl Statements ===

impl Statements {
    fn get() -> &'static Self {
        static ONCE: std::sync::OnceLock<Statements> = std::sync::OnceLock::new();
        ONCE.get_or_init(|| Self {
            begin: Statement::new(
                &CHAT_SESSIONS,
                &format!(
                    "WITH written AS (INSERT INTO chat_sessions (session_id, principal, {{columns}}) \
                     SELECT $1, $4, {{values:3}} WHERE $2::bigint = 0 ON CONFLICT DO NOTHING RETURNING row_version), {BESIDES}"
                ),
            ),
            save: Statement::new(
                &CHAT_SESSIONS,
                &format!(
                    "WITH written AS (UPDATE chat_sessions SET {{set:3}}, updated_at = now() \
                     WHERE session_id = $1 AND row_version = $2 AND principal = $4 RETURNING row_version), {BESIDES}"
                ),
            ),
            load: Statement::new(
                &CHAT_SESSIONS,
                "SELECT {read}, row_version, \
                 ARRAY(SELECT widget_type FROM widget_metadata w WHERE w.session_id = $1 ORDER BY 1), \
                 ARRAY(SELECT widget_state FROM widget_metadata w WHERE w.session_id = $1 ORDER BY widget_type) \
                 , updated_at < now() - interval '1 day' \
                 FROM chat_sessions WHERE session_id = $1 AND principal = $2 AND (expires_at IS NULL OR expires_at > now())",
            ),
            touch: Statement::new(
                &CHAT_SESSIONS,
                "UPDATE chat_sessions SET updated_at = now() WHERE session_id = $1 AND principal = $2",
            ),
        })
    }
}

// === impl Conversations ===

impl Conversations {
    /// The conversations in this database. `control` is the process's view of the phases.
    #[must_use]
    pub fn new(database: Database, control: Control) -> Self {
        Self { table: Table::new(database, control, &CHAT_SESSIONS, Side::During), statements: Statements::get() }
    }

    /// Reads a conversation of this principal, if there is one. Right in every phase.
    ///
    /// # Errors
    ///
    /// [`StorageError::State`] for a state that `T` does not understand; otherwise see [`StorageError`].
    pub async fn load<T: DeserializeOwned>(&self, session: &str, principal: &str) -> Result<Option<Loaded<T>>, StorageError> {
        let parameters = [(&session as _, Type::TEXT), (&principal as _, Type::TEXT)];
        let rows = self.table.run_as(proven(principal), &self.statements.load, &parameters).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        // A conversation that is only read is in use all the same, and is not forgotten.
        if row.get(4)
            && let Err(failure) = self.table.run_as(proven(principal), &self.statements.touch, &parameters).await
        {
            tracing::debug!(error = %failure, "a conversation is not touched: {failure}");
        }
        let Json(state) = row.try_get(0).map_err(|_| StorageError::State)?;
        let kinds: Vec<String> = row.get(2);
        let states: Vec<Json<Box<RawValue>>> = row.get(3);
        let widgets = kinds.into_iter().zip(states).map(|(kind, Json(state))| Widget { kind, state }).collect();
        Ok(Some(Loaded { row_version: row.get(1), state, widgets }))
    }

    /// Writes a conversation, what changed of its widgets and the call that did it, in one round trip, and gives the version
    /// it has now. Of two widgets of one type the last one is written.
    ///
    /// Cancelled, or cut off from the database, it may have happened or not; the version tells: reading it again does.
    ///
    /// # Errors
    ///
    /// [`StorageError::Conflict`] when the conversation is not at the version the write is based on: nothing was written.
    /// Otherwise see [`StorageError`].
    pub async fn save<T: Serialize + Sync + std::fmt::Debug>(&self, save: &Save<'_, T>) -> Result<i64, StorageError> {
        let last = |(at, widget): &(usize, &Widget)| !save.widgets[at + 1..].iter().any(|later| later.kind == widget.kind);
        let (kinds, states): (Vec<&str>, Vec<Json<&RawValue>>) =
            save.widgets.iter().enumerate().filter(last).map(|(_, widget)| (widget.kind.as_str(), Json(&*widget.state))).unzip();
        let (tool, version) = (save.call.map(|call| call.tool), save.call.map(|call| call.version));
        let state = Json(save.state);
        let statement = if save.base == 0 { &self.statements.begin } else { &self.statements.save };
        let rows = self
            .table
            .run_as(
                proven(save.principal),
                statement,
                &[
                    (&save.session, Type::TEXT),
                    (&save.base, Type::INT8),
                    (&state, Type::JSONB),
                    (&save.principal, Type::TEXT),
                    (&kinds, Type::TEXT_ARRAY),
                    (&states, Type::JSONB_ARRAY),
                    (&tool, Type::TEXT),
                    (&version, Type::TEXT),
                    (&RESPONSE_SCHEMA, Type::INT2),
                ],
            )
            .await?;
        self.table.written(&rows).ok_or(StorageError::Conflict)
    }
}

/// Nobody has no name.
fn proven(principal: &str) -> Option<&str> {
    Some(principal).filter(|name| !name.is_empty())
}

impl From<StorageError> for ToolError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Conflict => Self::caller("this was changed by another call at the same time; try again"),
            StorageError::Nul => Self::caller(error.to_string()),
            error => Self::internal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generated_sql_is_the_one_that_was_reviewed() {
        let reviewed = include_str!("../migrations/0003_conversation_state/generated.sql");
        assert!(
            CHAT_SESSIONS.expand_sql("public").trim_end() == reviewed.trim_end(),
            "look at what changed: cargo run -- migrate plan 0003_conversation_state --sql \
             > mcp-server/migrations/0003_conversation_state/generated.sql"
        );
    }
}
