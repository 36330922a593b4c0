//! First answers: a call that acts, made again, gets the first answer again and acts no more.
//!
//! Clients make calls again: ChatGPT does when an answer is late, 2026-07-28 tells clients to when a stream broke, and a
//! model does when it is told that a process died. What must stay true: what a call did and the memory of its answer are
//! one transaction, so that no crash comes between the two, and the second of two calls at the same time waits for the
//! first.

use std::{marker::PhantomData, time::Duration};

use bg_runtime::{
    Database,
    database::{Connection, DatabaseError, Transaction, Type},
    storage::migration::Migration,
};
use serde::Serialize;

use crate::{
    Reply,
    extract::{self, Call, FromCall, Rejection},
    tool::Description,
};

/// The table of first answers.
pub const MIGRATION: Migration = Migration::new("0005_answers", include_str!("../migrations/0005_answers/expand.sql"));

/// The member of a request's `_meta` that names a call: the same key is the same call, for a day. 1 to 200 characters.
///
/// Without a key, a call with the same arguments within a minute is the same call: a client that makes a call again for
/// itself names nothing.
pub const KEY: &str = "mcp-server/idempotencyKey";

/// How long the same arguments are the same call. Longer than a client waits and tries again, shorter than a person who
/// means it twice.
const SAME_ARGUMENTS: Duration = Duration::from_secs(60);
/// How long a key is remembered. A conversation that is taken up the next morning may still make its call again.
const SAME_KEY: Duration = Duration::from_secs(24 * 3600);
const LONGEST_KEY: usize = 200;
/// Tells a key that was given from one that was made.
const GIVEN: &str = "key ";
const REAP_EVERY: Duration = Duration::from_secs(60);

/// Waits for a call of the same key that is at work: PostgreSQL lets the second insert wait for the first one's end. An
/// answer whose time is over counts as none.
const CLAIM: &str = "INSERT INTO mcp_answers (principal, tool, key, expires_at) \
     VALUES ($1, $2, $3, now() + make_interval(secs => $4)) \
     ON CONFLICT (principal, tool, key) DO UPDATE \
     SET answer = NULL, answered_at = now(), expires_at = excluded.expires_at WHERE mcp_answers.expires_at < now() \
     RETURNING 1";
const FIRST: &str = "SELECT answer FROM mcp_answers WHERE principal = $1 AND tool = $2 AND key = $3";
const ANSWER: &str = "UPDATE mcp_answers SET answer = $4, answered_at = now() WHERE principal = $1 AND tool = $2 AND key = $3";
const REAP: &str = "DELETE FROM mcp_answers WHERE expires_at < now()";

/// An argument of a tool that acts: what makes its calls act once.
///
/// ```no_run
/// # use bg_runtime::{Database, database::DatabaseError};
/// # use mcp_server::{Reply, answers::{Begun, Once}};
/// # #[derive(serde::Serialize, schemars::JsonSchema)] struct Note;
/// async fn add(database: Database, once: Once) -> Result<Reply<Note>, DatabaseError> {
///     let mut connection = database.get().await?;
///     let act = match once.begin(&mut connection).await? {
///         Begun::Before(reply) => return Ok(reply),
///         Begun::First(act) => act,
///     };
///     act.transaction().execute("INSERT INTO notes DEFAULT VALUES", &[]).await?;
///     act.answer(Reply::new(Note, "Added.")).await
/// }
/// ```
///
/// A tool that asks for it may be made again by the framework when the process that had its call died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    principal: String,
    tool: String,
    /// None makes every call another one.
    key: Option<String>,
    lasts: Duration,
}

/// What [`Once::begin`] finds.
#[derive(Debug)]
pub enum Begun<'a, T> {
    /// The call was made before; this was its answer.
    Before(Reply<T>),
    /// Nobody made it before.
    First(Act<'a, T>),
}

/// A call that acts. Dropped without an answer, it did nothing.
#[derive(Debug)]
pub struct Act<'a, T> {
    transaction: Transaction<'a>,
    once: Once,
    answers: PhantomData<fn(T)>,
}

// === impl Once ===

impl Once {
    /// Makes a call without a key another call, for a tool that sees for itself that it did this before. The same arguments
    /// need not be the same call: who books, cancels and books again means it.
    #[must_use]
    pub fn by_key(mut self) -> Self {
        self.key = self.key.filter(|key| key.starts_with(GIVEN));
        self
    }

    /// Begins to act, in the name of whoever proved to call (see [`row_security`](crate::row_security)), or gives the answer of
    /// the time before. Two calls of one key at the same time: the second waits for the first.
    ///
    /// # Errors
    /// See [`DatabaseError`]; a wait is bounded by the statement's timeout. Nothing was done then.
    pub async fn begin<T: Serialize>(self, connection: &mut Connection) -> Result<Begun<'_, T>, DatabaseError> {
        let transaction = connection.transaction().await?;
        if let Some(principal) = self.principal.strip_prefix(extract::PROVEN) {
            transaction.act_as(principal).await?;
        }
        if self.key.is_none() {
            return Ok(Begun::First(Act { transaction, once: self, answers: PhantomData }));
        }
        let lasts = self.lasts.as_secs_f64();
        let [principal, tool, key] = self.names();
        let claim = [principal, tool, key, (&lasts as _, Type::FLOAT8)];
        if transaction.query_opt(CLAIM, &claim).await?.is_some() {
            return Ok(Begun::First(Act { transaction, once: self, answers: PhantomData }));
        }
        let row = transaction.query_opt(FIRST, &self.names()).await?;
        let answer: Option<String> = row.and_then(|row| row.get(0));
        transaction.rollback().await?;
        let answer = answer.and_then(|answer| Reply::remembered(&answer));
        Ok(Begun::Before(answer.ok_or_else(|| DatabaseError::mismatch("a first answer cannot be read"))?))
    }

    fn names(&self) -> [bg_runtime::database::Parameter<'_>; 3] {
        [(&self.principal, Type::TEXT), (&self.tool, Type::TEXT), (&self.key, Type::TEXT)]
    }
}

impl<S> FromCall<S> for Once {
    fn from_call(call: &Call<'_>, _state: &S) -> Result<Self, Rejection> {
        let meta: serde_json::Map<_, _> = call.meta.and_then(|meta| serde_json::from_str(meta.get()).ok()).unwrap_or_default();
        let (key, lasts) = match meta.get(KEY) {
            Some(serde_json::Value::String(key)) if !key.is_empty() && key.len() <= LONGEST_KEY && !key.contains('\0') => {
                (format!("{GIVEN}{key}"), SAME_KEY)
            }
            Some(_) => return Err(Rejection::new(format!("`_meta[\"{KEY}\"]` is not a text of 1 to {LONGEST_KEY} characters"))),
            None => (format!("arguments {}", call.digest()), SAME_ARGUMENTS),
        };
        Ok(Self { principal: call.caller(), tool: call.tool.to_owned(), key: Some(key), lasts })
    }

    fn describe(description: &mut Description) {
        description.acts_once = true;
    }
}

// === impl Act ===

impl<T: Serialize> Act<'_, T> {
    /// Where everything is done that is to be done once.
    pub fn transaction(&self) -> &Transaction<'_> {
        &self.transaction
    }

    /// Makes what was done and its answer durable together, and gives the answer.
    ///
    /// # Errors
    /// See [`DatabaseError`]. A connection that broke here leaves it open whether it was done; calling again tells.
    pub async fn answer(self, reply: Reply<T>) -> Result<Reply<T>, DatabaseError> {
        if self.once.key.is_some() {
            let remembered = reply.to_remember();
            let [principal, tool, key] = self.once.names();
            self.transaction.execute(ANSWER, &[principal, tool, key, (&remembered, Type::TEXT)]).await?;
        }
        self.transaction.commit().await?;
        Ok(reply)
    }
}

/// Forgets answers whose time is over, for ever.
pub(crate) async fn look_after(database: Database) {
    loop {
        tokio::time::sleep(REAP_EVERY).await;
        let reaped = async { database.get().await?.execute(REAP, &[]).await };
        if let Err(failure) = reaped.await {
            tracing::debug!(error = %failure, "first answers are reaped later: {failure}");
        }
    }
}
