//! Who calls. What is found out here is a [`Principal`], and everything that belongs to somebody is bound to it: sessions,
//! conversations, first answers.

use std::{fmt, str::FromStr};

use http::{HeaderMap, HeaderName};

use crate::extract::Principal;

/// How callers say who they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Authentication {
    /// They don't: everybody is anonymous.
    #[default]
    None,
    /// A header says so and is believed, which is for development alone: a server that believes it listens on loopback only.
    Header(HeaderName),
}

impl Authentication {
    /// Whose request this is.
    pub(crate) fn principal(&self, headers: &HeaderMap) -> Principal {
        match self {
            Self::None => Principal::anonymous(),
            Self::Header(name) => match headers.get(name).and_then(|value| value.to_str().ok()) {
                Some(value) if !value.is_empty() => Principal::named(value),
                _ => Principal::anonymous(),
            },
        }
    }
}

impl FromStr for Authentication {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word.split_once(':') {
            None if word == "none" => Ok(Self::None),
            Some(("header", name)) => name.parse().map(Self::Header).map_err(|_| format!("`{name}` is not the name of a header")),
            _ => Err("it may be `none`, or `header:NAME` for development".to_owned()),
        }
    }
}

impl fmt::Display for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Header(name) => write!(f, "header:{name}"),
        }
    }
}
