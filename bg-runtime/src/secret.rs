//! What is shown to nobody: passwords, keys, tokens, addresses that open a door by themselves.
//!
//! What must stay true: nothing that formats, logs or serializes a value that holds a secret shows it. It is read in one way,
//! [`Secret::expose`], which is easy to look for.

use std::{convert::Infallible, fmt, str::FromStr};

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A text that is shown as `(hidden)`, compared in constant time, and wiped from memory when it is dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

/// What is shown instead.
const HIDDEN: &str = "(hidden)";

// === impl Secret ===

impl Secret {
    /// Hides a text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself, for whoever has to have it. It goes into no message.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text.to_owned())
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_by_nothing_that_formats_it() {
        let secret = Secret::from("hunter2");
        let nested = Some(vec![("password", secret.clone())]);
        for text in [format!("{secret} {secret:?} {secret:#?}"), format!("{nested:?} {nested:#?}"), format!("{secret:>20}")] {
            assert!(!text.contains("hunter2") && text.contains(HIDDEN), "{text}");
        }
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn secrets_are_the_same_when_their_texts_are() {
        let secret = Secret::from("hunter2");
        assert_eq!(secret, "hunter2".parse().unwrap());
        for other in ["hunter3", "hunter", "hunter22", ""] {
            assert_ne!(secret, Secret::from(other));
        }
    }
}
