//! What can go wrong with the database, sorted by what a caller can do about it.
//!
//! What must stay true: nothing here, not even in the chain of sources, repeats a password, a parameter or a stored value.
//! PostgreSQL puts values into the details of an error and into the message of a data exception, so both are left behind.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use tokio_postgres::error::{DbError, SqlState};

use super::private::PrivateError;

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// There is no way to the database now: it is down, starting, full, or the connection broke. Worth a retry, with the
    /// usual doubt about a write whose answer was lost.
    #[error("the database cannot be reached")]
    Unavailable {
        /// What stood in the way.
        source: Cause,
    },
    /// The database answered and turned us away: wrong password, no such database, not permitted.
    #[error("the database turned the connection away (SQLSTATE {})", code.code())]
    Refused {
        /// PostgreSQL's code.
        code: SqlState,
        /// What PostgreSQL said.
        source: Cause,
    },
    /// Every connection of the pool was in use for all of the time we were ready to wait.
    #[error("no database connection became free within {waited:?}")]
    Busy {
        /// How long we waited.
        waited: Duration,
    },
    /// A statement ran longer than it may, and was canceled.
    #[error("a database statement took longer than it may")]
    Timeout,
    /// An earlier statement on this connection was given up before its answer came; take another connection.
    #[error("an earlier statement on this database connection was given up")]
    Abandoned,
    /// A statement of the transaction had failed, so its commit rolled it back.
    #[error("the transaction was rolled back because one of its statements had failed")]
    RolledBack,
    /// The pool was closed.
    #[error("the database pool is closed")]
    Closed,
    /// The database refused a statement.
    #[error("the database refused a statement (SQLSTATE {})", code.code())]
    Query {
        /// PostgreSQL's code.
        code: SqlState,
        /// The constraint that the statement would have broken.
        constraint: Option<String>,
        /// What PostgreSQL said.
        source: Cause,
    },
    /// A migration changed a table under a statement inside a transaction; the transaction succeeds when begun again.
    #[error("a table changed under a prepared statement")]
    Stale,
    /// A statement, its parameters and its rows do not fit together: a mistake in our code.
    #[error("a database statement does not fit its parameters or rows")]
    Mismatch {
        /// What does not fit.
        source: Cause,
    },
    /// Settings that cannot work.
    #[error("{0}")]
    Configuration(String),
    /// The PostgreSQL that we run ourselves could not be had.
    #[error("the private PostgreSQL server is not available")]
    Private(#[from] PrivateError),
}

/// What lies behind a [`DatabaseError`], in words that are safe to log.
#[derive(Clone, PartialEq, Eq)]
pub struct Cause(String);

// === impl DatabaseError ===

impl DatabaseError {
    /// Whether the same call may succeed a moment later. A write may have happened all the same when the answer was lost
    /// ([`Unavailable`](Self::Unavailable)): retry only what may run twice.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Busy { .. } | Self::Timeout | Self::Abandoned | Self::Stale => true,
            Self::Query { code, .. } => {
                [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::LOCK_NOT_AVAILABLE]
                    .contains(code)
            }
            _ => false,
        }
    }

    /// The constraint that a statement would have broken.
    #[must_use]
    pub fn constraint(&self) -> Option<&str> {
        match self {
            Self::Query { constraint, .. } => constraint.as_deref(),
            _ => None,
        }
    }

    /// PostgreSQL's code, where PostgreSQL gave one.
    #[must_use]
    pub fn sql_state(&self) -> Option<&SqlState> {
        match self {
            Self::Query { code, .. } | Self::Refused { code, .. } => Some(code),
            Self::Timeout => Some(&SqlState::QUERY_CANCELED),
            _ => None,
        }
    }

    pub(super) fn unavailable(reason: &str) -> Self {
        Self::Unavailable { source: Cause(reason.to_owned()) }
    }

    /// What the database holds or answered is not what was written or asked for.
    #[must_use]
    pub fn mismatch(reason: &str) -> Self {
        Self::Mismatch { source: Cause(reason.to_owned()) }
    }

    pub(super) fn from_connecting(error: &tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(refusal) if !is_outage(refusal.code()) => {
                Self::Refused { code: refusal.code().clone(), source: Cause::from_server(refusal) }
            }
            Some(refusal) => Self::Unavailable { source: Cause::from_server(refusal) },
            None => Self::Unavailable { source: Cause::from_chain(error) },
        }
    }

    pub(super) fn from_statement(error: &tokio_postgres::Error) -> Self {
        if let Some(refusal) = error.as_db_error() {
            let code = refusal.code();
            return if *code == SqlState::QUERY_CANCELED {
                Self::Timeout
            } else if is_stale_plan(error) {
                Self::Stale
            } else if is_outage(code) {
                Self::Unavailable { source: Cause::from_server(refusal) }
            } else {
                Self::Query {
                    code: code.clone(),
                    constraint: refusal.constraint().map(str::to_owned),
                    source: Cause::from_server(refusal),
                }
            };
        }
        let broken = error.is_closed() || error.source().is_some_and(|source| source.is::<io::Error>());
        let source = Cause::from_chain(error);
        if broken { Self::Unavailable { source } } else { Self::Mismatch { source } }
    }
}

/// Whether a code says that the server or the way to it is the problem: class 08 (connection), 53 (resources), and of class
/// 57 the shutdowns and "cannot connect now".
fn is_outage(code: &SqlState) -> bool {
    let code = code.code();
    code.starts_with("08") || code.starts_with("53") || code.starts_with("57P")
}

/// Whether a prepared statement no longer suits the server: a table under it changed, or the server forgot it.
pub(super) fn is_stale_plan(error: &tokio_postgres::Error) -> bool {
    let Some(error) = error.as_db_error() else { return false };
    // The message is translated by `lc_messages`, the name of the C function is not.
    *error.code() == SqlState::INVALID_SQL_STATEMENT_NAME
        || (*error.code() == SqlState::FEATURE_NOT_SUPPORTED && error.routine() == Some("RevalidateCachedQuery"))
}

// === impl Cause ===

impl Cause {
    fn from_server(error: &DbError) -> Self {
        // Class 22, data exceptions, quotes the offending value in the message itself.
        if error.code().code().starts_with("22") {
            return Self("a value does not suit its type".to_owned());
        }
        Self(error.message().to_owned())
    }

    fn from_chain(error: &tokio_postgres::Error) -> Self {
        let mut words = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            words.push_str(": ");
            words.push_str(&error.to_string());
            source = error.source();
        }
        Self(words)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Error for Cause {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outages_are_told_from_refusals() {
        for code in ["08006", "53300", "57P01", "57P03"] {
            assert!(is_outage(&SqlState::from_code(code)), "{code}");
        }
        for code in ["28P01", "3D000", "57014", "23505"] {
            assert!(!is_outage(&SqlState::from_code(code)), "{code}");
        }
    }

    #[test]
    fn what_may_pass_is_retryable_and_what_will_not_is_not() {
        assert!(DatabaseError::Busy { waited: Duration::from_secs(2) }.is_retryable());
        assert!(DatabaseError::unavailable("down").is_retryable());
        assert!(!DatabaseError::RolledBack.is_retryable());
        assert!(!DatabaseError::Configuration("no".to_owned()).is_retryable());
    }
}
