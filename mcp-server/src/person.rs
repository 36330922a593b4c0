//! What is stored for one person: exported on request, and erased on request.
//!
//! What must stay true: a table with rows of persons is declared, so that none is forgotten; an erasure is one transaction, and
//! every replica ends the person's sessions when it is committed; an erasure leaves a row in the audit log that does not say
//! whom it was about.
//!
//! The framework declares its own tables ([`FRAMEWORK`]), an application its own beside them:
//!
//! ```
//! use mcp_server::person::PersonalData;
//!
//! const NOTES: &[PersonalData] = &[PersonalData::new("notes", "owner = $1")];
//! ```
//!
//! A person is a subject: whom the access token names in `sub`. Callers who prove nothing cannot be told apart, and nothing of
//! theirs is found here but what an application itself stores under a name.

use std::time::Duration;

use bg_runtime::{
    Database, Release,
    database::{DatabaseError, Session, Type},
};
use serde_json::value::RawValue;

/// A table that holds rows of persons.
#[derive(Clone, Copy, Debug)]
pub struct PersonalData {
    table: &'static str,
    whose: &'static str,
    anonymize: Option<&'static str>,
    notify: Option<&'static str>,
}

/// What of one table is a person's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// The table's name.
    pub table: &'static str,
    /// How many rows.
    pub count: i64,
    /// Whether an erasure keeps the rows, without what tells whose they are.
    pub is_anonymized: bool,
}

/// The digest that the key of a conversation ends with, when the conversation is somebody's.
const CONVERSATION: &str = "right(session_id, 33) = '#' || left(encode(sha256(convert_to($1, 'UTF8')), 'hex'), 32)";
const PINNED: &str = "right(conversation, 33) = '#' || left(encode(sha256(convert_to($1, 'UTF8')), 'hex'), 32)";
const OF_SESSION: &str = "session_id IN (SELECT session_id FROM mcp_sessions WHERE principal = $1)";

/// The framework's tables, children before what they refer to.
pub const FRAMEWORK: &[PersonalData] = &[
    PersonalData::new(
        "mcp_stream_events",
        "stream IN (SELECT s.stream_id::text FROM mcp_streams s JOIN mcp_sessions USING (session_id) WHERE principal = $1 \
         UNION ALL SELECT session_id || ':common' FROM mcp_sessions WHERE principal = $1)",
    ),
    PersonalData::new("mcp_streams", OF_SESSION),
    PersonalData::new("widget_metadata", "session_id IN (SELECT session_id FROM chat_sessions WHERE principal = $1)"),
    PersonalData::new("mcp_tool_calls", CONVERSATION),
    PersonalData::new("mcp_pins", PINNED),
    PersonalData::new("chat_sessions", "principal = $1"),
    PersonalData::new("mcp_answers", "principal = '=' || $1"),
    // The row of a session stays for ten minutes as a tombstone, so that a late write does not bring the session back; and
    // every replica that has the session in memory is notified.
    PersonalData::new("mcp_sessions", "principal = $1")
        .notify("SELECT pg_notify('mcp_sessions', session_id::text) FROM mcp_sessions WHERE principal = $1")
        .anonymize(
            "principal = '', initialize = '', log_level = NULL, subscriptions = '{}', ended_at = coalesce(ended_at, now())",
        ),
    // That something was done, when and by which build stays: without it a log with gaps proves nothing.
    PersonalData::new("mcp_audit", "principal = $1").anonymize("principal = '', object = NULL"),
];

/// Longer than a call's statement: an operator waits, and a person may have many rows.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(120);

// === impl PersonalData ===

impl PersonalData {
    /// A table, and the condition of SQL that is true for the rows of the person `$1`. An export holds these rows whole, and an
    /// erasure deletes them.
    #[must_use]
    pub const fn new(table: &'static str, whose: &'static str) -> Self {
        Self { table, whose, anonymize: None, notify: None }
    }

    /// An erasure sets these columns (as after `SET`) and keeps the rows.
    #[must_use]
    pub const fn anonymize(mut self, set: &'static str) -> Self {
        self.anonymize = Some(set);
        self
    }

    /// A statement that an erasure runs first, in its transaction, such as one that notifies whoever has the rows in memory.
    /// `$1` is the person.
    #[must_use]
    pub const fn notify(mut self, sql: &'static str) -> Self {
        self.notify = Some(sql);
        self
    }

    /// The name of the table.
    #[must_use]
    pub const fn table(&self) -> &'static str {
        self.table
    }

    const fn rows(&self, count: i64) -> Rows {
        Rows { table: self.table, count, is_anonymized: self.anonymize.is_some() }
    }
}

/// Counts the rows of a person, table by table. A table that the database does not have is left out.
///
/// # Errors
/// See [`DatabaseError`].
pub async fn count(database: &Database, data: &[PersonalData], person: &str) -> Result<Vec<Rows>, DatabaseError> {
    let session = session(database).await?;
    let mut counted = Vec::new();
    for data in existing(&session, data).await? {
        let sql = format!("SELECT count(*) FROM {} WHERE {}", data.table, data.whose);
        counted.push(data.rows(number(&session, &sql, person).await?));
    }
    Ok(counted)
}

/// Reads every row of a person as JSON, all as of one moment, table by table, and leaves a row in the audit log.
///
/// # Errors
/// See [`DatabaseError`].
pub async fn export(
    database: &Database,
    data: &[PersonalData],
    person: &str,
    release: &Release,
) -> Result<Vec<(&'static str, Vec<Box<RawValue>>)>, DatabaseError> {
    let session = session(database).await?;
    let mut exported = Vec::new();
    session.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    for data in existing(&session, data).await? {
        let sql = format!("SELECT to_jsonb(t)::text FROM (SELECT * FROM {} WHERE {}) t", data.table, data.whose);
        let rows = session.query(&sql, &[(&person, Type::TEXT)]).await?;
        let rows = rows.iter().map(|row| RawValue::from_string(row.get(0)));
        let rows = rows.collect::<Result<Vec<_>, _>>().map_err(|_| DatabaseError::mismatch("a row is no JSON"))?;
        exported.push((data.table, rows));
    }
    let count: usize = exported.iter().map(|(_, rows)| rows.len()).sum();
    record(&session, person, "person export", count as u64, release).await?;
    session.batch_execute("COMMIT").await?;
    Ok(exported)
}

/// Erases what is stored for a person, in one transaction, and leaves a row in the audit log that does not say who it was.
///
/// What a call in flight writes meanwhile is not erased: withdraw the person's access first, or erase again.
///
/// # Errors
/// See [`DatabaseError`]; nothing was erased then.
pub async fn erase(
    database: &Database,
    data: &[PersonalData],
    person: &str,
    release: &Release,
) -> Result<Vec<Rows>, DatabaseError> {
    let session = session(database).await?;
    let mut erased = Vec::new();
    session.batch_execute("BEGIN").await?;
    for data in existing(&session, data).await? {
        if let Some(notify) = data.notify {
            session.query(notify, &[(&person, Type::TEXT)]).await?;
        }
        let change = match data.anonymize {
            Some(set) => format!("UPDATE {} SET {set} WHERE {}", data.table, data.whose),
            None => format!("DELETE FROM {} WHERE {}", data.table, data.whose),
        };
        let sql = format!("WITH erased AS ({change} RETURNING 1) SELECT count(*) FROM erased");
        erased.push(data.rows(number(&session, &sql, person).await?));
    }
    let count: i64 = erased.iter().map(|rows| rows.count).sum();
    record(&session, "", "person erase", count.unsigned_abs(), release).await?;
    session.batch_execute("COMMIT").await?;
    Ok(erased)
}

/// A session whose drop ends it, and with it a transaction that was not committed.
async fn session(database: &Database) -> Result<Session, DatabaseError> {
    let mut session = database.session().await?;
    session.set_patience(STATEMENT_TIMEOUT).await?;
    Ok(session)
}

async fn existing<'a>(session: &Session, data: &'a [PersonalData]) -> Result<Vec<&'a PersonalData>, DatabaseError> {
    let mut existing = Vec::new();
    for data in data {
        if has(session, data.table).await? {
            existing.push(data);
        }
    }
    Ok(existing)
}

async fn has(session: &Session, table: &str) -> Result<bool, DatabaseError> {
    let row = session.query_opt("SELECT to_regclass($1) IS NOT NULL", &[(&table, Type::TEXT)]).await?;
    Ok(row.is_some_and(|row| row.get(0)))
}

async fn number(session: &Session, sql: &str, person: &str) -> Result<i64, DatabaseError> {
    let row = session.query_opt(sql, &[(&person, Type::TEXT)]).await?;
    Ok(row.map_or(0, |row| row.get(0)))
}

async fn record(session: &Session, person: &str, what: &str, count: u64, release: &Release) -> Result<(), DatabaseError> {
    const WRITE: &str =
        "INSERT INTO mcp_audit (principal, tool, outcome, object, color, build) VALUES ($1, $2, 'ok', $3, $4, $5)";
    if !has(session, "mcp_audit").await? {
        return Ok(());
    }
    let (object, color, build) = (format!("rows {count}"), release.color.to_string(), release.build());
    let parameters = [
        (&person as _, Type::TEXT),
        (&what as _, Type::TEXT),
        (&object as _, Type::TEXT),
        (&color as _, Type::TEXT),
        (&build as _, Type::TEXT),
    ];
    session.query(WRITE, &parameters).await.map(drop)
}
