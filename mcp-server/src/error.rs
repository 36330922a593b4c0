//! What goes wrong, for two audiences. A caller's mistake is a tool result that the model can act on; our own failure is an
//! opaque, retryable error, and its detail is in the log, once.

use std::{borrow::Cow, error::Error, fmt};

use bg_runtime::database::DatabaseError;

/// Why a tool gives no result.
///
/// Give your own error type a `From` into this one; that `From` decides what the model may hear.
pub struct ToolError {
    kind: Kind,
}

enum Kind {
    Caller(Cow<'static, str>),
    Internal(Box<dyn Error + Send + Sync>),
}

impl ToolError {
    /// The caller's mistake, in words the model can act on. It is sent as a tool result with `isError`, never with
    /// `structuredContent`: clients validate that against the output schema even on errors.
    pub fn caller(message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: Kind::Caller(message.into()) }
    }

    /// Our failure. The client learns that calling again is worthwhile and nothing else.
    pub fn internal(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind: Kind::Internal(source.into()) }
    }

    pub(crate) fn split(self) -> Result<Cow<'static, str>, Box<dyn Error + Send + Sync>> {
        match self.kind {
            Kind::Caller(message) => Ok(message),
            Kind::Internal(source) => Err(source),
        }
    }
}

impl fmt::Debug for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Caller(message) => f.debug_tuple("Caller").field(message).finish(),
            Kind::Internal(source) => f.debug_tuple("Internal").field(&Chain(source.as_ref()).to_string()).finish(),
        }
    }
}

impl From<DatabaseError> for ToolError {
    fn from(error: DatabaseError) -> Self {
        Self::internal(error)
    }
}

/// An error with everything that led to it, in one line.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
