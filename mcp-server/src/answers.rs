//! First answers: a call that acts, made again, gets the first answer again and acts no more.
//!
//! Clients make calls again: ChatGPT does when an answer is late, 2026-07-28 tells clients to when a stream broke, and a
//! model does when it is told that a process died. What must stay true: what a call did and the memory of its answer are
//! one transaction, so that no crash comes between the two, and the second of two calls at the same time waits for the
//! first.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use bg_runtime::{
    Database,
    database::{Connection, DatabaseError, Parameter, Transaction, Type},
    storage::migration::Migration,
};
use serde::Serialize;

use crate::{
    Reply, audit,
    extract::{self, Call, FromCall, Rejection},
    tool::Description,
};

/// The table of first answers.
pub const MIGRATION: Migration = Migration::new("0005_answers", include_str!("../migrations/0005_answers/expand.sql"));

/// The member of a request's `_meta` that names a call: the same key is the same call, for a day. 1 to 200 characters.
///
/// Without a key, a call with the same arguments, and the same responses to questions where it brings any, is the same call
/// within a minute: a client that makes a call again for itself names nothing.
pub const KEY: &str = "mcp-server/idempotencyKey";

/// How long the same arguments are the same call. Longer than a client waits and tries again, shorter than a person who
/// means it twice.
const SAME_ARGUMENTS: Duration = Duration::from_secs(60);
/// How long a key is remembered. A conversation that is taken up the next morning may still make its call again.
const SAME_KEY: Duration = Duration::from_secs(24 * 3600);
const LONGEST_KEY: usize = 200;
/// How a call that was made before ends, in the audit log.
const REPLAYED: &str = "replayed";
/// Tells a key that was given from one that was made.
const GIVEN: &str = "key ";
/// Stands before the digest of a call's arguments, for a call that brings no responses to questions.
const ARGUMENTS: &str = "arguments ";
/// Stands before the digest of a call's arguments together with the responses that it brings.
const ANSWERED: &str = "answered ";
const REAP_EVERY: Duration = Duration::from_secs(60);

/// Waits for a call of the same key that is at work: PostgreSQL lets the second insert wait for the first one's end. An
/// answer whose time is over counts as none, and so does a [mirror](Once::mirror), which is of another call.
const CLAIM: &str = "INSERT INTO mcp_answers (principal, tool, key, expires_at) \
     VALUES ($1, $2, $3, now() + make_interval(secs => $4)) \
     ON CONFLICT (principal, tool, key) DO UPDATE \
     SET answer = NULL, answered_at = now(), expires_at = excluded.expires_at \
     WHERE mcp_answers.expires_at < now() OR starts_with(mcp_answers.answer, '{\"mirror\":') \
     RETURNING 1";
const FIRST: &str = "SELECT answer FROM mcp_answers WHERE principal = $1 AND tool = $2 AND key = $3";
const ANSWER: &str = "UPDATE mcp_answers SET answer = $4, answered_at = now() WHERE principal = $1 AND tool = $2 AND key = $3";
/// A row that holds another answer stays as it is: it was not claimed.
const MIRROR: &str = "UPDATE mcp_answers SET answer = $4, answered_at = now() \
     WHERE principal = $1 AND tool = $2 AND key = $3 AND answer IS NULL";
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
#[derive(Clone, Debug)]
pub struct Once {
    principal: String,
    tool: String,
    /// None makes every call another one.
    key: Option<String>,
    /// The key under which builds up to 0.1.0 look for a call that brings responses to questions: they compare arguments
    /// alone. A build that remembers such a call writes it there too, so that the same call made again in the color before
    /// does not act again.
    mirror: Option<String>,
    lasts: Duration,
    build: String,
    audit: Option<Arc<audit::Record>>,
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
        let before = if transaction.query_opt(CLAIM, &claim).await?.is_none() {
            first(&transaction, &self.names()).await?
        } else if let Some(mirror) = &self.mirror {
            let [principal, tool, _] = self.names();
            let mirror = [principal, tool, (mirror as _, Type::TEXT), (&lasts as _, Type::FLOAT8)];
            match transaction.query_opt(CLAIM, &mirror).await? {
                Some(_) => None,
                // A build that knows of responses has answered another call: the one that brings none.
                None => first(&transaction, &mirror[..3]).await?.filter(Reply::is_of_unknown_build),
            }
        } else {
            None
        };
        let Some(before) = before else { return Ok(Begun::First(Act { transaction, once: self, answers: PhantomData })) };
        transaction.rollback().await?;
        if let Some(record) = &self.audit {
            record.end(REPLAYED);
        }
        Ok(Begun::Before(before))
    }

    fn names(&self) -> [Parameter<'_>; 3] {
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
            None => (format!("{ARGUMENTS}{}", call.digest()), SAME_ARGUMENTS),
        };
        let (key, mirror) = match answered(call).filter(|_| !key.starts_with(GIVEN)) {
            Some(answered) => (answered, Some(key)),
            None => (key, None),
        };
        let (principal, tool, build) = (call.caller(), call.tool.to_owned(), call.release.build());
        Ok(Self { principal, tool, key: Some(key), mirror, lasts, build, audit: call.audit.clone() })
    }

    fn describe(description: &mut Description) {
        description.acts_once = true;
    }
}

/// The answer that is remembered under this key, where there is one.
async fn first<T: Serialize>(transaction: &Transaction<'_>, names: &[Parameter<'_>]) -> Result<Option<Reply<T>>, DatabaseError> {
    let row = transaction.query_opt(FIRST, names).await?;
    let answer: Option<String> = row.and_then(|row| row.get(0));
    let reply = answer.and_then(|answer| Reply::remembered(&answer));
    reply.map(Some).ok_or_else(|| DatabaseError::mismatch("a first answer cannot be read"))
}

/// The key of a call that brings responses to questions: what they say, and what the state says that the question carried, is
/// as much of the call as its arguments are. `None` for a call that brings none.
fn answered(call: &Call<'_>) -> Option<String> {
    let peer = call.peer.as_ref()?;
    let responses = peer.input_responses.iter().flatten().map(|(name, response)| {
        let mut response = response.clone();
        if let Some(response) = response.as_object_mut() {
            // What a client notes for itself may differ each time it sends the same response.
            response.remove("_meta");
        }
        (name.clone(), response)
    });
    let responses: serde_json::Map<_, _> = responses.collect();
    if responses.is_empty() && peer.request_state.is_none() {
        return None;
    }
    let state = peer.request_state.as_deref().map(|sealed| {
        let said = call.request_states.seal_for(&call.caller(), call.tool, &call.digest()).peek(sealed);
        said.unwrap_or_else(|| sealed.into())
    });
    let arguments = serde_json::from_str(call.arguments).unwrap_or_else(|_| serde_json::Value::from(call.arguments));
    let whole = serde_json::json!([arguments, responses, state]).to_string();
    Some(format!("{ANSWERED}{}", extract::digest(&whole)))
}

// === impl Act ===

impl<T: Serialize> Act<'_, T> {
    /// Where everything is done that is to be done once.
    pub fn transaction(&self) -> &Transaction<'_> {
        &self.transaction
    }

    /// Says what the call changes, for the audit log: a kind and an id, such as `note 7`.
    pub fn concerns(&self, object: impl Into<String>) {
        if let Some(record) = &self.once.audit {
            record.concerns(object.into());
        }
    }

    /// Makes what was done, its answer and its row in the audit log durable together, and gives the answer.
    ///
    /// # Errors
    /// See [`DatabaseError`]. A connection that broke here leaves it open whether it was done; calling again tells.
    pub async fn answer(self, reply: Reply<T>) -> Result<Reply<T>, DatabaseError> {
        // Each leaves at its first poll, so that they cost one round trip.
        let (remembered, recorded) = tokio::join!(biased; self.remember(&reply), self.record());
        remembered?;
        recorded?;
        self.transaction.commit().await?;
        if let Some(record) = &self.once.audit {
            record.committed();
        }
        Ok(reply)
    }

    async fn remember(&self, reply: &Reply<T>) -> Result<(), DatabaseError> {
        let Once { key: Some(key), principal, tool, mirror, build, .. } = &self.once else { return Ok(()) };
        let write = async |sql, key: &String, answer: String| {
            let names =
                [(principal as _, Type::TEXT), (tool as _, Type::TEXT), (key as _, Type::TEXT), (&answer as _, Type::TEXT)];
            self.transaction.execute(sql, &names).await.map(drop)
        };
        let mirrored = async {
            let Some(mirror) = mirror else { return Ok(()) };
            write(MIRROR, mirror, reply.to_remember(build, true)).await
        };
        let (remembered, mirrored) = tokio::join!(biased; write(ANSWER, key, reply.to_remember(build, false)), mirrored);
        remembered.and(mirrored)
    }

    async fn record(&self) -> Result<(), DatabaseError> {
        match &self.once.audit {
            Some(record) => record.write(&self.transaction).await,
            None => Ok(()),
        }
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
