//! What the rollout says a process is to traffic. A hint, never a permission: it changes how eagerly connections are given
//! up and what telemetry says, and never what is written or answered.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The place of a process in a rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Being proved; no public traffic yet.
    Preview,
    /// Where public traffic goes. What a process assumes when nobody told it.
    #[default]
    Active,
    /// Public traffic has moved away. TCP connections outlive that move, so they are shed.
    Retiring,
}

impl Role {
    /// The word used in logs, health bodies and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preview => "preview",
            Self::Active => "active",
            Self::Retiring => "retiring",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no role.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no role: say preview, active or retiring")]
pub struct UnknownRole(String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        [Self::Preview, Self::Active, Self::Retiring]
            .into_iter()
            .find(|role| role.as_str() == word)
            .ok_or_else(|| UnknownRole(word.to_owned()))
    }
}
