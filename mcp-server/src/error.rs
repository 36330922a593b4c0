//! What goes wrong, for two audiences. A caller's mistake is a tool result that the model can act on; our own failure is an
//! opaque, retryable error, and its detail is in the log, once.

use std::{borrow::Cow, error::Error, fmt};

use bg_runtime::database::DatabaseError;
use rmcp::ErrorData;

/// Why a tool gives no result.
///
/// Give your own error type a `From` into this one; that `From` decides what the model may hear.
pub struct ToolError {
    kind: Kind,
}

/// Who is to hear what.
pub(crate) enum Kind {
    Caller(Cow<'static, str>),
    Protocol(Box<ErrorData>),
    Internal(Box<dyn Error + Send + Sync>),
}

impl ToolError {
    /// The caller's mistake, in words the model can act on. It is sent as a tool result with `isError`, never with
    /// `structuredContent`: clients validate that against the output schema even on errors.
    pub fn caller(message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: Kind::Caller(message.into()) }
    }

    /// An error of the protocol, for the client and not for the model: a capability it lacks, a request state that was
    /// tampered with. Everything else the model can do better with as a [`ToolError::caller`].
    pub fn protocol(error: ErrorData) -> Self {
        Self { kind: Kind::Protocol(Box::new(error)) }
    }

    /// Our failure. The client learns that calling again is worthwhile and nothing else.
    pub fn internal(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind: Kind::Internal(source.into()) }
    }

    pub(crate) fn into_kind(self) -> Kind {
        self.kind
    }
}

impl fmt::Debug for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Caller(message) => f.debug_tuple("Caller").field(message).finish(),
            Kind::Protocol(error) => f.debug_tuple("Protocol").field(error).finish(),
            Kind::Internal(source) => f.debug_tuple("Internal").field(&Chain(source.as_ref()).to_string()).finish(),
        }
    }
}

impl From<ErrorData> for ToolError {
    fn from(error: ErrorData) -> Self {
        Self::protocol(error)
    }
}

impl From<DatabaseError> for ToolError {
    fn from(error: DatabaseError) -> Self {
        Self::internal(error)
    }
}

/// An error with everything that led to it, in one line.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

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
