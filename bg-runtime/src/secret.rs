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

/// A URL of a configuration. It is shown without what may be a credential: a user before the host, a query, a fragment.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(Secret);

// === impl SecretUrl ===

impl SecretUrl {
    /// Keeps a URL, or a text that was meant to be one.
    #[must_use]
    pub fn new(url: String) -> Self {
        Self(Secret::new(url))
    }

    /// Returns the URL itself, for whoever asks there. It goes into no message.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// Returns whether it names a user, with or without a password.
    #[must_use]
    pub fn has_user(&self) -> bool {
        self.parts().1
    }

    /// Returns whether it has a query or a fragment.
    #[must_use]
    pub fn has_query(&self) -> bool {
        !self.parts().3.is_empty()
    }

    /// The scheme, whether a user is named, what may be shown, and what begins with a question mark or a hash. A password that is
    /// not encoded may hold any character, so everything before the last `@` belongs to the user.
    fn parts(&self) -> (&str, bool, &str, &str) {
        let url = self.expose();
        let (scheme, rest) = match url.split_once("://") {
            Some((scheme, _)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => url.split_at(scheme.len() + 3),
            _ => ("", url),
        };
        let (has_user, rest) = rest.rsplit_once('@').map_or((false, rest), |(_, rest)| (true, rest));
        let (shown, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
        (scheme, has_user, shown, query)
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, has_user, shown, query) = self.parts();
        f.write_str(scheme)?;
        if has_user {
            write!(f, "{HIDDEN}@")?;
        }
        f.write_str(shown)?;
        match query.get(..1) {
            Some(mark) => write!(f, "{mark}{HIDDEN}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<String> for SecretUrl {
    fn from(url: String) -> Self {
        Self::new(url)
    }
}

impl From<&str> for SecretUrl {
    fn from(url: &str) -> Self {
        Self::new(url.to_owned())
    }
}

impl FromStr for SecretUrl {
    type Err = Infallible;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        Ok(url.into())
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

    #[test]
    fn a_url_is_shown_without_its_user_its_query_and_its_fragment() {
        for (url, shown) in [
            ("https://auth.example.com/tenant", "https://auth.example.com/tenant"),
            ("https://ada:hunter2@auth.example.com:8443/keys", "https://(hidden)@auth.example.com:8443/keys"),
            ("https://hunter2@auth.example.com", "https://(hidden)@auth.example.com"),
            ("https://auth.example.com/keys?api_key=hunter2", "https://auth.example.com/keys?(hidden)"),
            ("https://auth.example.com/keys#hunter2", "https://auth.example.com/keys#(hidden)"),
            ("https://ada:hunter2@auth.example.com/?k=hunter2#hunter2", "https://(hidden)@auth.example.com/?(hidden)"),
            ("https://ada:hun?hunter2/hunter2#@auth.example.com", "https://(hidden)@auth.example.com"),
            ("ada:hunter2@auth.example.com", "(hidden)@auth.example.com"),
            ("ada:hunter2://x@auth.example.com", "(hidden)@auth.example.com"),
            ("no address?hunter2", "no address?(hidden)"),
            ("", ""),
        ] {
            let secret = SecretUrl::from(url);
            assert_eq!((format!("{secret}"), format!("{secret:?}"), secret.expose()), (shown.to_owned(), shown.to_owned(), url));
        }
    }
}
